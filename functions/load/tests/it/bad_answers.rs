//! Answers with status 200 that are not a bundle. They load no minute, and the minute is fetched again.

use std::io::Write as _;

use azul_vt::{
    minute::Minute,
    pipeline::RunLimits,
    store::{Counts, GapKind, LedgerRow, MinuteState, rejects::RejectStage},
};
use jiff::Timestamp;
use load::{Load, Trigger};
use sim::{Behaviour, feed::Style};

use crate::world::{NOW, RECORDS, SEED, World, cursor, gap, rejects, row};

const MINUTE: &str = "202611240900";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compress(text: &str) -> Vec<u8> {
    sim::feed::compress(text.as_bytes())
}

/// Returns answers in place of a bundle: a name, the body, and words that the gap's reason must contain.
fn answers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let record = sim::feed::record(SEED, MINUTE, 0, Style::Small);
    let error = r#"{"error": {"code": "TooBusyError", "message": "come again"}}"#;
    let list = format!("[{},{}]", record.trim(), record.trim());
    let object: serde_json::Value = serde_json::from_str(&record).unwrap();
    let pretty = serde_json::to_string_pretty(&object).unwrap();
    let envelope = format!(r#"{{"data": [{}]}}"#, record.trim());
    vec![
        ("an error", error.into(), "neither attributes.sha256"),
        ("an error, compressed", compress(error), "neither attributes.sha256"),
        ("a list", compress(&list), "a list"),
        ("a record over many lines", compress(&pretty), "line 1"),
        ("an envelope", compress(&envelope), "neither attributes.sha256"),
        ("gzip around bzip2", gzip(&compress(&record)), "not JSON"),
        ("no lines", compress(""), "no lines"),
        ("blank lines", compress("\n\n\n"), "no lines"),
        ("gzip of nothing", gzip(b""), "no lines"),
        ("many lines of something else", compress(&"1\n".repeat(20_000)), "20000 lines"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_record_is_a_failed_gap_that_is_fetched_anew() {
    for (what, body, words) in answers() {
        let world = World::new().await;
        world.virustotal.behave(MINUTE, &Behaviour::Bundle(body.clone().into()), usize::MAX);
        let load = world.impatient(&[]).await;
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!((report.loaded, report.failed), (0, 1), "{what}");
        assert_eq!(report.counts, Counts::default(), "{what}: nothing of it counts");
        assert_eq!(cursor(&load).await, MINUTE, "{what}");
        let (kind, reason) = gap(&load, MINUTE).await;
        assert_eq!(kind, GapKind::Failed, "{what}");
        assert!(reason.contains(words) && reason.contains("fetched 3 times"), "{what}: {reason}");
        let kept = rejects(&load).await;
        assert_eq!((kept.len(), kept[0].stage), (1, RejectStage::Bundle), "{what}: {kept:?}");
        let bytes = kept[0].reason.rsplit(' ').next().unwrap();
        let bytes = load.store.bundles.read(bytes).await.unwrap().unwrap();
        assert!(bytes == body, "{what}: the answer is kept as it came");
        world.virustotal.clear(MINUTE);
        assert_eq!(reloaded(&world, 11).await, (RECORDS, 0), "{what}");
    }
}

/// Runs a tick `minutes` later. Returns how many records of the minute were delivered and rejected.
async fn reloaded(world: &World, minutes: i64) -> (u64, u64) {
    let now = now() + jiff::SignedDuration::from_mins(minutes);
    let lag = (65 + minutes).to_string();
    let load = world.load_at(&now.to_string(), &[("FEED_LAG_MINUTES", &lag)]).await;
    load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    let LedgerRow { state, counts, .. } = row(&load, MINUTE).await.unwrap();
    assert_eq!(state, MinuteState::Loaded);
    (counts.delivered, counts.rejected)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_gap_waits_longer_after_each_try() {
    let world = World::new().await;
    world.virustotal.behave(MINUTE, &Behaviour::Bundle("{}".into()), usize::MAX);
    let mut at = 0;
    for (attempt, wait) in [(1, 10), (2, 60), (3, 360)] {
        let now = now() + jiff::SignedDuration::from_mins(at);
        let lag = (65 + at).to_string();
        let load = world.load_at(&now.to_string(), &[("FEED_LAG_MINUTES", &lag)]).await;
        load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        let MinuteState::Gap { attempts, next_try, .. } = row(&load, MINUTE).await.unwrap().state
        else {
            panic!("attempt {attempt}")
        };
        let minutes = next_try.duration_since(now).as_mins();
        assert_eq!((attempts, minutes), (attempt, wait));
        at += wait + 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_with_a_record_anywhere_is_loaded_and_its_other_lines_are_rejected() {
    for before in [3_u64, 20_000] {
        let world = World::new().await;
        let mut lines = "1\n".repeat(usize::try_from(before).unwrap());
        lines.push_str(&sim::feed::record(SEED, MINUTE, 0, Style::Small));
        let bundle = compress(&lines);
        world.virustotal.behave(MINUTE, &Behaviour::Bundle(bundle.into()), usize::MAX);
        let load = world.impatient(&[]).await;
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!((report.loaded, report.failed), (1, 0), "{before}");
        assert_eq!((report.counts.delivered, report.counts.rejected), (1, before));
        assert_eq!(rejects(&load).await.len() as u64, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_filtered_or_refused_by_the_dispatcher_are_loaded() {
    for (settings, refuses, filtered, rejected) in
        [(&[("DISPATCHER_MAX_AGE_HOURS", "0")][..], false, RECORDS, 0), (&[][..], true, 0, RECORDS)]
    {
        let world = World::new().await;
        world.dispatcher.refuse(move |event| refuses && event["entity"]["sha256"].is_string());
        let load = world.impatient(settings).await;
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!((report.loaded, report.failed), (1, 0));
        assert_eq!((report.counts.filtered, report.counts.rejected), (filtered, rejected));
    }
}

/// Prepares a minute as an older version left it: it counts as loaded, and its staged bundle is an error.
async fn taken_for_loaded(load: &Load) {
    let minute: Minute = MINUTE.parse().unwrap();
    stage(load, b"{\"error\":{}}\n").await;
    let counts = Counts { records: 1, rejected: 1, ..Counts::default() };
    put(load, LedgerRow { minute, state: MinuteState::Loaded, counts, updated: now() }).await;
}

async fn stage(load: &Load, body: &[u8]) {
    let minute: Minute = MINUTE.parse().unwrap();
    let key = format!("staged/feed/files/{}-0123456789ab.bundle", minute.storage_path());
    load.store.bundles.put(&key, body).await.unwrap();
}

async fn put(load: &Load, row: LedgerRow) {
    let limits = RunLimits::default();
    let name = format!("load-{MINUTE}");
    let claim = azul_vt::store::Claim::take(&load.store.leases, &load.clock, &name, &limits);
    let claim = claim.await.unwrap().unwrap();
    load.store.ledger.put(&row, &claim.lease).await.unwrap();
    claim.give_back().await.unwrap();
}

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn range() -> (Minute, Minute) {
    (MINUTE.parse().unwrap(), MINUTE.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_fetches_a_minute_of_which_nothing_was_taken() {
    let world = World::new().await;
    let load = world.impatient(&[]).await;
    taken_for_loaded(&load).await;
    let (from, to) = range();
    let planned = Load::plan_replay(Some(&load.store), from, to, false).await.unwrap();
    assert_eq!(planned[0].staged, None);
    let report = load.replay(from, to, false, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.counts.delivered), (1, RECORDS));
    assert_eq!(world.virustotal.minutes_asked().len(), 1);
    // The newest staged bundle is now the good one.
    let planned = Load::plan_replay(Some(&load.store), from, to, false).await.unwrap();
    let staged = planned[0].staged.clone().unwrap();
    assert!(!staged.contains("0123456789ab"), "{staged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_which_nothing_was_taken_stays_as_it_is_where_virustotal_has_it_no_more() {
    let world = World::new().await;
    let load = world.impatient(&[]).await;
    // The staged records were refused by the dispatcher before and are taken now.
    taken_for_loaded(&load).await;
    stage(&load, &sim::feed::lines(SEED, MINUTE, 5, Style::Small)).await;
    world.virustotal.behave(MINUTE, &Behaviour::Missing, usize::MAX);
    let (from, to) = range();
    let report = load.replay(from, to, false, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.counts.delivered), (1, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_to_fetch_asks_virustotal_whatever_is_staged() {
    let world = World::new().await;
    let load = world.impatient(&[]).await;
    load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    let (from, to) = range();
    load.replay(from, to, false, &RunLimits::default()).await.unwrap();
    assert_eq!(world.virustotal.minutes_asked().len(), 1, "staged");
    load.replay(from, to, true, &RunLimits::default()).await.unwrap();
    assert_eq!(world.virustotal.minutes_asked().len(), 2);
    // An answer that is not a bundle leaves the minute loaded.
    world.virustotal.behave(MINUTE, &Behaviour::Bundle("{}".into()), usize::MAX);
    let report = load.replay(from, to, true, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.failed), (0, 1));
    let LedgerRow { state, counts, .. } = row(&load, MINUTE).await.unwrap();
    assert_eq!((state, counts.delivered), (MinuteState::Loaded, RECORDS));
}
