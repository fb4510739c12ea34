//! Tests every fault of VirusTotal and of a bundle, and the outcome of the minute.

use std::{collections::BTreeSet, io::Write as _, path::Path, sync::Arc, time::Duration};

use azul_vt::{
    pipeline::RunLimits,
    store::{
        GapKind, LedgerRow, MinuteState,
        rejects::{RejectStage, Rejects},
    },
};
use load::{LoadError, Trigger};
use sim::{Asked, Behaviour, Fault, feed::Style};
use tokio::time::Instant;

use crate::world::{RECORDS, SEED, World, cursor, gap, rejects, row};

const MINUTE: &str = "202611240900";

fn retry_after(status: u16, seconds: &str) -> Behaviour {
    let headers = vec![("Retry-After".to_owned(), seconds.to_owned())];
    Behaviour::Api(Fault::Answer { status, headers, body: String::new() })
}

/// Returns faults that pass by themselves.
fn passing() -> Vec<Behaviour> {
    let api = |fault| Behaviour::Api(fault);
    let content = |fault| Behaviour::Content(fault);
    vec![
        Behaviour::TooManyRequests(None),
        Behaviour::TooManyRequests(Some(0)),
        Behaviour::ServerError,
        Behaviour::Transient(None),
        Behaviour::Transient(Some(0)),
        Behaviour::DeadlineExceeded,
        api(Fault::answer(408, "")),
        api(Fault::answer(424, "")),
        api(Fault::answer(502, "<html>")),
        api(Fault::Reset),
        api(Fault::Hang),
        content(Fault::answer(403, "the link has expired")),
        content(Fault::answer(503, "")),
        content(Fault::Reset),
        content(Fault::Hang),
        content(Fault::ResetInBody),
        content(Fault::HangInBody),
        content(Fault::TruncateBody),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_at_virustotal_is_asked_again_until_it_has_passed() {
    for behaviour in passing() {
        let world = World::new().await;
        world.virustotal.behave(MINUTE, &behaviour, 3);
        let load = world.impatient(&[]).await;
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!((report.loaded, report.paused), (1, false), "{behaviour:?}");
        assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]), "{behaviour:?}");
        assert!(world.virustotal.minutes_asked().len() >= 4, "{behaviour:?}");
        assert!(load.store.ledger.gaps(10).await.unwrap().is_empty(), "{behaviour:?}");
        assert_eq!(world.virustotal.key_leaked(), Vec::<String>::new(), "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_in_time_leaves_the_cursor_and_makes_no_gap() {
    for behaviour in passing() {
        let world = World::new().await;
        world.virustotal.behave(MINUTE, &behaviour, usize::MAX);
        let load = world.impatient(&[]).await;
        let limits = RunLimits::default();
        let stop = async {
            world.virustotal.wait_until(|requests| requests.len() >= 6).await;
            limits.stop.cancel();
        };
        let (report, ()) = tokio::join!(load.run(&Trigger::Tick, &limits), stop);
        let report = report.unwrap();
        assert_eq!((report.loaded, report.paused), (0, true), "{behaviour:?}");
        assert_eq!(cursor(&load).await, "202611240859", "{behaviour:?}");
        assert!(row(&load, MINUTE).await.is_none(), "{behaviour:?}");
        world.virustotal.clear(MINUTE);
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!(report.loaded, 1, "{behaviour:?}");
        assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]), "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_again_before_the_time_that_it_names() {
    for behaviour in [
        Behaviour::TooManyRequests(Some(3600)),
        Behaviour::Transient(Some(3600)),
        retry_after(429, "Fri, 31 Dec 2100 23:59:59 GMT"),
        retry_after(503, "99999999999"),
        retry_after(503, "18446744073709551615"),
    ] {
        let world = World::new().await;
        world.virustotal.behave(MINUTE, &behaviour, usize::MAX);
        let load = world.impatient(&[]).await;
        // The run ends by itself, so that its leases are not held during the wait.
        for _ in 0..2 {
            let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
            assert!(report.paused && report.held_by.is_none(), "{behaviour:?}");
        }
        assert_eq!(world.virustotal.minutes_asked().len(), 1, "{behaviour:?}");
        assert_eq!(cursor(&load).await, "202611240859", "{behaviour:?}");
        world.virustotal.clear(MINUTE);
        let later = world.load_at("2026-11-24T10:11:30Z", &[("PACKAGE_LIMIT", "1")]).await;
        let report = later.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!(report.loaded, 1, "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_wait_that_is_asked_for_is_kept_by_the_same_run() {
    let world = World::new().await;
    world.virustotal.behave(MINUTE, &Behaviour::TooManyRequests(Some(300)), usize::MAX);
    let load = world.impatient(&[]).await;
    load.pipeline.register(load.clock.now(), &RunLimits::default()).await.unwrap();
    let limits = RunLimits::until(Instant::now() + Duration::from_secs(1));
    let report = load.run(&Trigger::Tick, &limits).await.unwrap();
    assert!(report.paused);
    assert_eq!(world.virustotal.minutes_asked().len(), 1);
    world.virustotal.clear(MINUTE);
    // Only the run that was asked to wait does so; the next run sends its request at once.
    assert_eq!(load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap().loaded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_virustotal_is_left_at_the_deadline() {
    let world = World::new().await;
    world.virustotal.behave(MINUTE, &Behaviour::Content(Fault::HangInBody), usize::MAX);
    // This client has the default timeouts of half a minute.
    let load = world.load().await;
    load.pipeline.register(load.clock.now(), &RunLimits::default()).await.unwrap();
    let limits = RunLimits::until(Instant::now() + Duration::from_secs(2));
    let report = tokio::time::timeout(Duration::from_secs(25), load.run(&Trigger::Tick, &limits));
    assert!(report.await.unwrap().unwrap().paused);
    assert_eq!(cursor(&load).await, "202611240859");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_operator_can_mend_ends_the_run_before_the_minute() {
    let location = |to: &str| {
        let headers = vec![("Location".to_owned(), to.to_owned())];
        Behaviour::Api(Fault::Answer { status: 302, headers, body: String::new() })
    };
    for (behaviour, words) in [
        (Behaviour::Unauthorized, "VIRUSTOTAL_APIKEY"),
        (Behaviour::Forbidden, "File feeds"),
        (Behaviour::Api(Fault::answer(400, "no")), "400"),
        (Behaviour::Api(Fault::answer(418, "")), "418"),
        (Behaviour::RedirectNowhere, "without a URL"),
        (Behaviour::RedirectLoop, "more than 5 times"),
        (location("http://example.com/x"), "example.com"),
        (location("https://10.0.0.1/x"), "10.0.0.1"),
    ] {
        let world = World::new().await;
        world.virustotal.behave(MINUTE, &behaviour, usize::MAX);
        let load = world.impatient(&[]).await;
        let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
        assert!(matches!(error, LoadError::Refused { .. }), "{behaviour:?}: {error}");
        let text = azul_vt::errors::chain(&error);
        assert!(text.contains(words) && text.contains(MINUTE), "{behaviour:?}: {text}");
        assert!(!text.contains(&world.virustotal.key()), "{text}");
        assert_eq!(cursor(&load).await, "202611240859", "{behaviour:?}");
        assert!(row(&load, MINUTE).await.is_none(), "{behaviour:?}");
        assert!(world.arrived().is_empty(), "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_over_the_limit_as_received_ends_the_run_before_the_minute() {
    let world = World::new().await;
    let load = world.impatient(&[("MAX_BUNDLE_BYTES", "5000")]).await;
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(azul_vt::errors::chain(&error).contains("more than 5000 bytes"), "{error}");
    assert_eq!(cursor(&load).await, "202611240859");
}

/// A fault, the bundle with it, words of what is said about it, and whether records come before it.
fn bad_bundles() -> Vec<(&'static str, Vec<u8>, &'static str, bool)> {
    let good = sim::feed::bundle(SEED, MINUTE, RECORDS, Style::Small);
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    let lines = sim::feed::lines(SEED, MINUTE, RECORDS, Style::Small);
    let gzipped = gzip(&lines);
    let mut gzip_flipped = gzipped.clone();
    let checksum = gzipped.len() - 6;
    gzip_flipped[checksum] ^= 0x40;
    let second_flipped = [&good[..], &flipped[..]].concat();
    let trailing = [&good[..], b"<html>"].concat();
    vec![
        ("cut off", good[..good.len() - 9].to_vec(), "cut off", false),
        ("a flipped byte", flipped, "damaged", false),
        ("a flipped byte in the second stream", second_flipped, "damaged", true),
        ("a flipped byte of gzip's checksum", gzip_flipped, "damaged", false),
        ("gzip cut off", gzipped[..checksum].to_vec(), "cut off", false),
        ("empty", Vec::new(), "no bytes", false),
        ("an error page", b"<html>sorry</html>\n".to_vec(), "neither compressed nor", false),
        ("more behind its end", trailing, "after", true),
    ]
}

fn gzip(lines: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(lines).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_bad_once_is_fetched_again_and_no_wrong_line_of_it_leaves() {
    for (fault, bundle, _, has_records) in bad_bundles() {
        let world = World::new().await;
        world.virustotal.behave(MINUTE, &Behaviour::Bundle(bundle.into()), 2);
        let load = world.impatient(&[]).await;
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!((report.loaded, report.failed), (1, 0), "{fault}");
        assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]), "{fault}");
        // What came before the fault comes again, as the same events.
        let repeats = world.dispatcher.arrived().repeats;
        assert_eq!(repeats, if has_records { 2 * RECORDS } else { 0 }, "{fault}");
        let LedgerRow { state, counts, .. } = row(&load, MINUTE).await.unwrap();
        assert!(matches!(state, MinuteState::Loaded), "{fault}");
        assert_eq!((counts.records, counts.rejected), (RECORDS, 0), "{fault}");
        let asked = |asked| world.virustotal.requests().iter().filter(|r| r.asked == asked).count();
        assert_eq!(asked(Asked::Bundle), 3, "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_stays_bad_is_a_failed_gap_and_kept() {
    for (fault, bundle, words, has_records) in bad_bundles() {
        let world = World::new().await;
        world.virustotal.behave(MINUTE, &Behaviour::Bundle(bundle.clone().into()), usize::MAX);
        let load = world.impatient(&[]).await;
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!((report.loaded, report.failed), (0, 1), "{fault}");
        let sound =
            if has_records { World::expected(&[MINUTE.into()]) } else { BTreeSet::default() };
        assert_eq!(world.arrived(), sound, "{fault}");
        let (kind, reason) = gap(&load, MINUTE).await;
        assert_eq!(kind, GapKind::Failed, "{fault}");
        assert!(reason.contains(words) && reason.contains("fetched 3 times"), "{fault}: {reason}");
        assert_eq!(cursor(&load).await, MINUTE, "{fault}");
        let kept = load.store.bundles.list("rejects/feed/").await.unwrap();
        let is_reject = |key: &str| Path::new(key).extension().is_some_and(|e| e == "jsonl");
        let (why, kept): (Vec<_>, Vec<_>) = kept.iter().partition(|o| is_reject(&o.key));
        assert_eq!((why.len(), kept.len()), (1, 1), "{fault}: the same bytes are kept once");
        assert_eq!(kept[0].size, bundle.len() as u64, "{fault}");
        assert!(load.store.bundles.list("staged/").await.unwrap().is_empty(), "{fault}");
        let rejects = Rejects::new(Arc::clone(&load.store.bundles));
        let reject = rejects.read(&why[0].key).await.unwrap().unwrap().remove(0);
        assert!(reject.stage == RejectStage::Bundle && reject.reason.contains(words), "{fault}");
        assert!(reject.reason.ends_with(&kept[0].key), "{fault}: {}", reject.reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_over_the_limit_decompressed_is_a_failed_gap() {
    let world = World::new().await;
    let zeros = sim::feed::compress(&vec![0; 2 << 20]);
    world.virustotal.behave(MINUTE, &Behaviour::Bundle(zeros.into()), usize::MAX);
    let load = world.impatient(&[("MAX_BUNDLE_BYTES", "1000000")]).await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.failed), (0, 1));
    assert!(gap(&load, MINUTE).await.1.contains("1000000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_33_megabytes_costs_itself_alone() {
    let world = World::new().await;
    let mut lines = sim::feed::lines(SEED, MINUTE, 3, Style::Small);
    lines.extend_from_slice(b"{\"id\":\"");
    lines.resize(lines.len() + (33 << 20), b'a');
    lines.extend_from_slice(b"\"}\n");
    lines.extend_from_slice(&sim::feed::record(SEED, MINUTE, 3, Style::Small).into_bytes());
    let bundle = sim::feed::compress(&lines);
    world.virustotal.behave(MINUTE, &Behaviour::Bundle(bundle.into()), usize::MAX);
    let load = world.impatient(&[]).await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.counts.records, report.counts.delivered), (5, 4));
    assert_eq!(report.counts.rejected, 1);
    let rejects = rejects(&load).await;
    assert_eq!(rejects.len(), 1);
    assert_eq!(rejects[0].line, 4);
    assert!(rejects[0].reason.contains("MAX_LINE_BYTES"), "{}", rejects[0].reason);
    assert_eq!(rejects[0].bytes().unwrap().len(), 4096);
    assert!(matches!(row(&load, MINUTE).await.unwrap().state, MinuteState::Loaded));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_no_records_cost_themselves_alone_and_bad_text_is_replaced() {
    let world = World::new().await;
    let sha256 = "ab".repeat(32);
    let text = format!(
        "{{\"id\":\"{sha256}\",\"attributes\":{{\"sha256\":\"{sha256}\",\
         \"last_analysis_date\":1795510800,\"magic\":\"?\"}}}}\n"
    );
    let (before, behind) = text.split_once('?').unwrap();
    let mut lines = Vec::new();
    for invalid in [&b"caf\xe9 \xff"[..], b"\\ud800"] {
        lines.extend_from_slice(before.as_bytes());
        lines.extend_from_slice(invalid);
        lines.extend_from_slice(behind.as_bytes());
    }
    for bad in ["not json", "[]", "17", "{}", "{\"id\":7}", "\"text\""] {
        lines.extend_from_slice(format!("\n{bad}\n").as_bytes());
    }
    lines.extend_from_slice(format!("{}1{}\n", "[".repeat(200), "]".repeat(200)).as_bytes());
    let bundle = sim::feed::compress(&lines);
    world.virustotal.behave(MINUTE, &Behaviour::Bundle(bundle.into()), usize::MAX);
    let load = world.impatient(&[]).await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.counts.records, report.counts.rejected), (9, 7));
    assert_eq!((report.counts.delivered, report.counts.replaced_utf8), (2, 3));
    let lines: Vec<u64> = rejects(&load).await.into_iter().map(|reject| reject.line).collect();
    assert_eq!(lines, [4, 6, 8, 10, 12, 14, 15]);
    let events = world.dispatcher.keys();
    let magic: Vec<_> = events.values().map(|e| e["entity"]["magic"].as_str().unwrap()).collect();
    assert_eq!(magic, ["\u{fffd}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_plain_lines_is_loaded() {
    let world = World::new().await;
    let plain = sim::feed::lines(SEED, MINUTE, RECORDS, Style::Small);
    world.virustotal.behave(MINUTE, &Behaviour::Bundle(plain.into()), usize::MAX);
    let load = world.impatient(&[]).await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.failed), (1, 0));
    assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]));
}
