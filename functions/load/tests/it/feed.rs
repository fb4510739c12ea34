//! Tests of feed minutes and their outcomes.

use std::collections::BTreeSet;

use azul_vt::{
    minute::Minute,
    pipeline::RunLimits,
    store::{Counts, GapKind, Grant, LedgerRow, MinuteState},
};
use jiff::{SignedDuration, Timestamp};
use load::{NAME, Trigger};
use sim::{Behaviour, Fault, feed::Style};

use crate::world::{NOW, RECORDS, SEED, World, cursor, gap, row};

#[tokio::test(flavor = "multi_thread")]
async fn every_record_of_every_due_minute_arrives() {
    let world = World::new().await;
    let load = world.load().await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.missing), (6, 0));
    assert_eq!(report.counts.records, 6 * RECORDS);
    assert_eq!(report.counts.delivered, 6 * RECORDS);
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
    assert_eq!(world.dispatcher.problems(), Vec::<String>::new());
    assert_eq!(world.virustotal.key_leaked(), Vec::<String>::new());
    // A second run finds nothing to do and sends nothing.
    let posts = world.dispatcher.posts().len();
    let again = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!(again.loaded, 0);
    assert_eq!(world.dispatcher.posts().len(), posts);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_minutes_are_gaps_that_do_not_stop_the_feed_and_are_tried_again() {
    let world = World::new().await;
    let late = &World::minutes()[1..6];
    for minute in late {
        world.virustotal.behave(minute, &Behaviour::Missing, 1);
    }
    let load = world.load().await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.missing), (1, 5));
    assert_eq!(report.cursor.unwrap().to_string(), "202611240905");
    assert_eq!(load.store.ledger.gaps(10).await.unwrap().len(), 5);
    drop(load);
    let later = world.load_at("2026-11-24T10:16:00Z", &[("FEED_LAG_MINUTES", "71")]).await;
    let report = later.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!(report.loaded, 5);
    assert!(later.store.ledger.gaps(10).await.unwrap().is_empty());
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_that_is_not_available_yet_ends_the_run_without_a_gap() {
    let world = World::new().await;
    world.virustotal.behave("202611240904", &Behaviour::NotAvailableYet, usize::MAX);
    let load = world.load().await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    // The next minute was begun at the same time; the cursor waits.
    assert_eq!((report.loaded, report.missing, report.failed), (5, 0, 0));
    assert!(load.store.ledger.gaps(10).await.unwrap().is_empty());
    assert_eq!(cursor(&load).await, "202611240903");
    world.virustotal.clear("202611240904");
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, cursor(&load).await.as_str()), (1, "202611240905"));
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_that_ends_the_run_lets_the_one_beside_it_end_first() {
    let world = World::new().await;
    let refused = Behaviour::Api(Fault::answer(401, "no"));
    world.virustotal.behave("202611240902", &refused, 1);
    let load = world.load().await;
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(azul_vt::errors::chain(&error).contains("202611240902"), "{error}");
    assert_eq!(cursor(&load).await, "202611240901");
    // No lease is left, and no minute that was begun is missed.
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.left, report.held_by), (0, None));
    assert_eq!(cursor(&load).await, "202611240905");
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
}

/// A rule that selects every file.
fn all() -> tempfile::TempDir {
    let rules = tempfile::tempdir().unwrap();
    let rule = "- all:\n    syntax: gjson\n    rule: id\n    reference: All.\n    daily_quota: 5\n";
    std::fs::write(rules.path().join("rules.yaml"), rule).unwrap();
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_when_it_is_asked_to_end_is_accounted_for() {
    let (world, rules, minute) = (World::new().await, all(), "202611240900");
    world.virustotal.serve(minute, sim::feed::bundle(SEED, minute, 900, Style::Small));
    world.dispatcher.fail(&Fault::Delay { ms: 150 }, 1000);
    let settings = [("RULES_ROOT", rules.path().to_str().unwrap()), ("FEED_LAG_MINUTES", "65")];
    let load = world.load_at(NOW, &settings).await;
    let limits = RunLimits::default();
    let stop = async {
        world.dispatcher.wait_until(|arrived, _| !arrived.downloads().is_empty()).await;
        limits.stop.cancel();
    };
    let (report, ()) = tokio::join!(load.run(&Trigger::Tick, &limits), stop);
    assert!(report.unwrap().paused);
    let MinuteState::Loading { lines_done, .. } = row(&load, minute).await.unwrap().state else {
        panic!("it was not stopped in its middle")
    };
    let asked = world.dispatcher.arrived().downloads().len();
    assert!(lines_done > 0 && asked > 0);
    // A post that takes longer than the second after the signal is in doubt: it arrived, and is sent again.
    let counted = usize::try_from(row(&load, minute).await.unwrap().counts.requests).unwrap();
    assert!(counted <= asked, "{counted} {asked}");
    assert_eq!(load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap().loaded, 1);
    let downloads = world.dispatcher.arrived().downloads();
    let files: BTreeSet<_> = downloads.iter().map(|download| &download.hash).collect();
    let repeated = downloads.len() - files.len();
    assert!(repeated <= asked - counted, "only what was in doubt is asked for twice: {repeated}");
    let counts = row(&load, minute).await.unwrap().counts;
    assert_eq!((counts.records, counts.requests), (900, files.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_minutes_that_are_loaded_at_once_are_asked_for_once() {
    let rules = all();
    let minutes = World::minutes();
    let bundle = sim::feed::bundle(SEED, &minutes[0], RECORDS, Style::Small);
    let mut asked = Vec::new();
    for lag in ["65", "60"] {
        let world = World::new().await;
        for minute in &minutes {
            world.virustotal.serve(minute, bundle.clone());
        }
        world.dispatcher.fail(&Fault::Delay { ms: 30 }, 1000);
        let settings = [("RULES_ROOT", rules.path().to_str().unwrap()), ("FEED_LAG_MINUTES", lag)];
        let load = world.load_at(NOW, &settings).await;
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!(report.loaded, if lag == "65" { 1 } else { 6 });
        let mut downloads = world.dispatcher.arrived().downloads();
        assert_eq!(report.counts.requests, downloads.len() as u64);
        downloads.sort();
        asked.push(downloads);
    }
    assert!(asked[0].len() > 40, "{} files", asked[0].len());
    assert_eq!(asked[0], asked[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_one_works_and_the_other_says_who() {
    let world = World::new().await;
    let (one, other) = (world.load().await, world.load().await);
    let lease = match one.store.leases.acquire(NAME, "process 1", one.clock.now()).await.unwrap() {
        Grant::Acquired(lease) => lease,
        held @ Grant::Held { .. } => panic!("{held:?}"),
    };
    let report = other.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert!(report.held_by.unwrap().starts_with("process 1"));
    assert_eq!(world.arrived().len(), 0);
    one.store.leases.release(lease).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_goes_on_in_the_middle_of_its_bundle() {
    let world = World::new().await;
    let load = world.load().await;
    let limits = RunLimits::default();
    let stop = limits.stop.clone();
    let run = load.run(&Trigger::Tick, &limits);
    let watch = async {
        world.dispatcher.wait_until(|arrived, _| !arrived.sha256s().is_empty()).await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(run, watch);
    assert!(report.unwrap().paused);
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert!(!report.paused);
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
    let totals = load.store.ledger.totals().await.unwrap();
    assert_eq!((totals.loaded, totals.counts.records), (6, 6 * RECORDS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_replayed_from_what_is_staged() {
    let world = World::new().await;
    let load = world.load().await;
    load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    let asked = world.virustotal.minutes_asked().len();
    let (from, to) = ("202611240901".parse().unwrap(), "202611240903".parse().unwrap());
    let report = load.run(&Trigger::Range { from, to }, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.counts.delivered), (3, 3 * RECORDS));
    assert_eq!(world.virustotal.minutes_asked().len(), asked);
    assert!(world.dispatcher.arrived().repeats > 0);
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_it_says_what_to_set() {
    let world = World::new().await;
    let load = world.load_at(NOW, &[("VIRUSTOTAL_APIKEY", "")]).await;
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(error.to_string().contains("VIRUSTOTAL_APIKEY"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_to_be_of_use_is_removed() {
    let world = World::new().await;
    let load = world.load().await;
    let now: Timestamp = NOW.parse().unwrap();
    let days = |n: i64| now - SignedDuration::from_hours(24 * n);
    let (staged, rejects) = ("staged/feed/2026/x", "rejects/feed/202611010000/000000000001.jsonl");
    for (key, age) in [
        (format!("{staged}-old"), 9),
        (format!("{staged}-new"), 7),
        (rejects.to_owned(), 31),
        (rejects.replace("1.jsonl", "2.jsonl"), 29),
    ] {
        load.store.bundles.put(&key, b"").await.unwrap();
        let file = std::fs::File::open(world.state.path().join("bundles").join(&key)).unwrap();
        file.set_modified(std::time::SystemTime::try_from(days(age)).unwrap()).unwrap();
    }
    let Grant::Acquired(lease) = load.store.leases.acquire(NAME, "test", now).await.unwrap() else {
        panic!("held");
    };
    for age in [36, 34] {
        let minute = Minute::of(days(age));
        let (state, counts) = (MinuteState::Loaded, Counts::default());
        let row = LedgerRow { minute, state, counts, updated: days(age) };
        load.store.ledger.put(&row, &lease).await.unwrap();
    }
    load.store.leases.release(lease).await.unwrap();
    load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    let list = async |prefix: &str| {
        let found = load.store.bundles.list(prefix).await.unwrap();
        found.into_iter().map(|info| info.key).collect::<Vec<_>>()
    };
    assert_eq!(list(staged).await, [format!("{staged}-new")]);
    assert_eq!(list("rejects/feed/202611010000").await, [rejects.replace("1.jsonl", "2.jsonl")]);
    assert_eq!(load.store.ledger.get(Minute::of(days(36))).await.unwrap(), None);
    assert!(load.store.ledger.get(Minute::of(days(34))).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn package_limit_counts_the_bundles_of_all_runs_of_a_process() {
    let world = World::new().await;
    world.virustotal.behave("202611240900", &Behaviour::Missing, usize::MAX);
    world.virustotal.behave("202611240902", &Behaviour::NotAvailableYet, 1);
    let load = world.load_at(NOW, &[("PACKAGE_LIMIT", "3")]).await;
    // One `RunLimits` counts the bundles of a whole process or invocation.
    let limits = RunLimits::default();
    let report = load.run(&Trigger::Tick, &limits).await.unwrap();
    assert_eq!((report.loaded, report.missing, report.paused), (1, 1, false));
    let report = load.run(&Trigger::Tick, &limits).await.unwrap();
    assert_eq!((report.loaded, report.paused), (2, true));
    assert!(load.is_sated(&limits));
    assert_eq!(cursor(&load).await, "202611240903");
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.paused), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_wait_longer_each_time_and_are_buried_after_seven_days() {
    let world = World::new().await;
    world.virustotal.behave("202611240900", &Behaviour::Missing, usize::MAX);
    let asked = || world.virustotal.minutes_asked().len();
    let mut before = 0;
    // No minute but the first is ever due.
    let lag = |minutes: i64| (65 + minutes).to_string();
    for (minutes, tried) in [
        (0, true),
        (9, false),
        (11, true),
        (60, false),
        (72, true),
        (400, false),
        (433, true),
        (1800, false),
        (1900, true),
        (3400, true),
    ] {
        let now: Timestamp = NOW.parse().unwrap();
        let now = now + SignedDuration::from_mins(minutes);
        let lag = lag(minutes);
        let load = world.load_at(&now.to_string(), &[("FEED_LAG_MINUTES", &lag)]).await;
        load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!(asked() > before, tried, "after {minutes} minutes");
        assert_eq!(gap(&load, "202611240900").await.0, GapKind::Missing);
        before = asked();
    }
    let tries = || world.virustotal.minutes_asked().iter().filter(|m| *m == "202611240900").count();
    let before = tries();
    let load = world.load_at("2026-12-01T09:30:00Z", &[("FEED_LAG_MINUTES", "10080")]).await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    // The minute is tried once more, because VirusTotal confirms this process's clock only by its first answer.
    assert!(report.buried >= 1 && tries() == before + 1, "{report:?}");
    let state = row(&load, "202611240900").await.unwrap().state;
    assert!(matches!(state, MinuteState::Buried { .. }), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn minutes_that_left_the_seven_days_are_buried_on_virustotals_word() {
    let answer = |status| {
        Fault::answer(status, r#"{"error":{"code":"InvalidArgumentError","message":"?"}}"#)
    };
    let gone = [Behaviour::Missing, Behaviour::Api(answer(400)), Behaviour::Api(answer(410))];
    for gone in gone {
        buried_by(&gone).await;
    }
}

async fn buried_by(gone: &Behaviour) {
    let world = World::new().await;
    // Only the minutes 0900 to 0905 are served, nine days before; VirusTotal still knows the first of them.
    world.virustotal.behave("202611240901", gone, usize::MAX);
    let load = world.load_at("2026-12-03T09:30:00Z", &[]).await;
    let horizon: Minute = "202611260930".parse().unwrap();
    let limits = RunLimits::default();
    let stop = async {
        let later = horizon.to_string();
        world.virustotal.wait_until(|requests| requests.iter().any(|r| r.subject == later)).await;
        limits.stop.cancel();
    };
    let (report, ()) = tokio::join!(load.run(&Trigger::Tick, &limits), stop);
    let report = report.unwrap();
    assert_eq!(report.loaded, 1);
    let first: Minute = "202611240901".parse().unwrap();
    assert_eq!(i64::try_from(report.buried).unwrap(), horizon.since(first));
    for minute in [first, horizon.plus(-1)] {
        let state = row(&load, &minute.to_string()).await.unwrap().state;
        assert!(matches!(state, MinuteState::Buried { .. }), "{minute}: {state:?}");
    }
    assert!(cursor(&load).await >= horizon.plus(-1).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_finds_nothing_leaves_a_loaded_minute_loaded() {
    let world = World::new().await;
    let load = world.load().await;
    load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    let minute: Minute = "202611240902".parse().unwrap();
    for bundle in load.store.bundles.list("staged/feed/").await.unwrap() {
        load.store.bundles.remove(&bundle.key).await.unwrap();
    }
    world.virustotal.behave("202611240902", &Behaviour::Missing, usize::MAX);
    let range = Trigger::Range { from: minute, to: minute };
    let report = load.run(&range, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.missing), (0, 1));
    let state = row(&load, "202611240902").await.unwrap().state;
    assert!(matches!(state, MinuteState::Loaded), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_bundle_that_is_gone_or_damaged_is_fetched_anew() {
    for damage in [None, Some(&b"BZh9 no more"[..])] {
        let world = World::new().await;
        let load = world.impatient(&[]).await;
        let limits = RunLimits::default();
        let stop = async {
            world.dispatcher.wait_until(|arrived, _| !arrived.sha256s().is_empty()).await;
            limits.stop.cancel();
        };
        // Two posts: the second is not waited for.
        world.dispatcher.fail(&Fault::Delay { ms: 0 }, 2);
        world.dispatcher.fail(&Fault::Hang, 100);
        let (report, ()) = tokio::join!(load.run(&Trigger::Tick, &limits), stop);
        assert!(report.unwrap().paused);
        world.dispatcher.clear_faults();
        let MinuteState::Loading { bundle, .. } = row(&load, "202611240900").await.unwrap().state
        else {
            panic!("{damage:?}")
        };
        load.store.bundles.remove(&bundle).await.unwrap();
        if let Some(bytes) = damage {
            let path = load.store.bundles.scratch().join("damaged");
            std::fs::write(&path, bytes).unwrap();
            load.store.bundles.put_file(&bundle, &path).await.unwrap();
        }
        let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!(report.loaded, 1, "{damage:?}");
        assert_eq!(world.arrived(), World::expected(&["202611240900".into()]), "{damage:?}");
        assert_eq!(world.virustotal.minutes_asked().len(), 2, "{damage:?}");
        let counts = row(&load, "202611240900").await.unwrap().counts;
        assert_eq!(counts.records, RECORDS, "{damage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_written_ends_the_run_before_the_minute() {
    let world = World::new().await;
    let load = world.impatient(&[]).await;
    let scratch = load.store.bundles.scratch();
    std::fs::remove_dir_all(scratch).unwrap();
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(azul_vt::errors::chain(&error).contains("cannot be written"), "{error}");
    assert_eq!(cursor(&load).await, "202611240859");
    std::fs::create_dir(scratch).unwrap();
    assert_eq!(load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap().loaded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_larger_than_what_may_wait_in_memory_pass_one_after_the_other() {
    let world = World::new().await;
    let minute = &World::minutes()[0];
    let record = |index| sim::feed::record(SEED, minute, index, Style::Small).trim_end().to_owned();
    let mut lines = Vec::new();
    for index in 0..RECORDS {
        let mut line = record(index);
        if index % 20 == 0 {
            // Blanks are no values: the record is the same, and 20 MB.
            line.insert_str(1, &" ".repeat(20 << 20));
        }
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
    }
    world.virustotal.serve(minute, sim::feed::compress(&lines));
    let load = world.load_at("2026-11-24T10:00:30Z", &[]).await;
    let report = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.counts.delivered), (1, RECORDS));
    assert_eq!(world.arrived(), World::expected(std::slice::from_ref(minute)));
}
