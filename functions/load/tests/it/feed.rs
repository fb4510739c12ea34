//! What becomes of feed minutes.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use azul_vt::{
    minute::Minute,
    pipeline::Limits,
    settings::Settings,
    store::{Clock, Counts, Grant, LedgerRow, MinuteState, local},
};
use jiff::{SignedDuration, Timestamp};
use load::{Load, LoadError, NAME, Trigger};
use sim::{Behaviour, Unknown, feed::Style};

const NOW: &str = "2026-11-24T10:05:30Z";
const SEED: u64 = 7;
const RECORDS: u64 = 60;

struct Fixed(Timestamp);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        self.0
    }
}

struct World {
    virustotal: sim::VirusTotal,
    dispatcher: sim::Dispatcher,
    state: tempfile::TempDir,
}

impl World {
    /// Minutes 0900 to 0905 are due, and served.
    async fn new() -> Self {
        let virustotal = sim::VirusTotal::start().await.unwrap();
        let dispatcher = sim::Dispatcher::start().await.unwrap();
        virustotal.set_unknown(Unknown::Missing);
        let world = Self { virustotal, dispatcher, state: tempfile::tempdir().unwrap() };
        for minute in Self::minutes() {
            world
                .virustotal
                .serve(&minute, sim::feed::bundle(SEED, &minute, RECORDS, Style::Small));
        }
        world
    }

    fn minutes() -> Vec<String> {
        (0..6).map(|m| format!("2026112409{m:02}")).collect()
    }

    async fn load_at(&self, now: &str, more: &[(&str, &str)]) -> Load {
        let mut pairs = vec![
            ("VIRUSTOTAL", self.virustotal.url()),
            ("VIRUSTOTAL_APIKEY", self.virustotal.key()),
            ("PLUGIN_EVENTS_URL", self.dispatcher.url()),
            ("STATEDIR", self.state.path().display().to_string()),
            ("RULES_ROOT", "/nowhere/at/all".to_owned()),
        ];
        pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lookup = |name: &str| {
            pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        };
        let settings = Settings::read(&lookup).unwrap();
        let store = local::open(Path::new(&settings.state_dir)).unwrap();
        // The first run starts at 0900.
        let start: Minute = "202611240859".parse().unwrap();
        let _ = store.cursors.advance(NAME, None, start.unix_seconds()).await.unwrap();
        let clock = Arc::new(Fixed(now.parse().unwrap()));
        Load::from_settings(settings, store, clock).unwrap()
    }

    async fn load(&self) -> Load {
        self.load_at(NOW, &[]).await
    }

    /// The files that must have arrived for these minutes.
    fn expected(minutes: &[String]) -> BTreeSet<String> {
        let files = |minute: &String| {
            let minute = minute.clone();
            (0..RECORDS).map(move |index| sim::feed::sha256(SEED, &minute, index))
        };
        minutes.iter().flat_map(files).collect()
    }

    fn arrived(&self) -> BTreeSet<String> {
        self.dispatcher.arrived().sha256s()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_of_every_due_minute_arrives() {
    let world = World::new().await;
    let load = world.load().await;
    let report = load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert_eq!((report.loaded, report.missing), (6, 0));
    assert_eq!(report.counts.records, 6 * RECORDS);
    assert_eq!(report.counts.delivered, 6 * RECORDS);
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
    assert_eq!(world.dispatcher.problems(), Vec::<String>::new());
    assert_eq!(world.virustotal.key_leaked(), Vec::<String>::new());
    // A second run finds nothing to do and sends nothing.
    let posts = world.dispatcher.posts().len();
    let again = load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert_eq!(again.loaded, 0);
    assert_eq!(world.dispatcher.posts().len(), posts);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_minutes_are_gaps_that_do_not_stop_the_feed_and_are_tried_again() {
    let world = World::new().await;
    let late = &World::minutes()[1..5];
    for minute in late {
        world.virustotal.behave(minute, &Behaviour::Missing, 1);
    }
    let load = world.load().await;
    let report = load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert_eq!((report.loaded, report.missing), (2, 4));
    assert_eq!(report.cursor.unwrap().to_string(), "202611240905");
    assert_eq!(load.store.ledger.gaps(10).await.unwrap().len(), 4);
    drop(load);
    let later = world.load_at("2026-11-24T10:16:00Z", &[("FEED_LAG_MINUTES", "71")]).await;
    let report = later.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert_eq!(report.loaded, 4);
    assert!(later.store.ledger.gaps(10).await.unwrap().is_empty());
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_stops_the_feed_before_the_minute() {
    for behaviour in [Behaviour::Unauthorized, Behaviour::Forbidden] {
        let world = World::new().await;
        world.virustotal.behave("202611240902", &behaviour, usize::MAX);
        let load = world.load().await;
        let error = load.run(&Trigger::Tick, &Limits::default()).await.unwrap_err();
        assert!(matches!(error, LoadError::Refused { .. }), "{error}");
        let cursor = load.store.cursors.read(NAME).await.unwrap().unwrap();
        assert_eq!(Minute::from_unix_seconds(cursor).to_string(), "202611240901");
        let text = azul_vt::errors::chain(&error);
        assert!(!text.contains(&world.virustotal.key()), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_bad_for_ever_is_a_gap_and_one_that_is_bad_once_is_not() {
    let world = World::new().await;
    let good = sim::feed::bundle(SEED, "202611240901", RECORDS, Style::Small);
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    let bundle = |bytes: &[u8]| Behaviour::Bundle(bytes.to_vec().into());
    world.virustotal.behave("202611240901", &bundle(&flipped), 1);
    world.virustotal.behave("202611240902", &bundle(&good[..good.len() - 9]), usize::MAX);
    world.virustotal.behave("202611240903", &bundle(b""), usize::MAX);
    let load = world.load().await;
    let report = load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert_eq!((report.loaded, report.failed), (4, 2));
    let gaps = load.store.ledger.gaps(10).await.unwrap();
    assert!(gaps.iter().all(|row| matches!(row.state, MinuteState::Gap { .. })));
    let mut minutes = World::minutes();
    minutes.drain(2..4);
    assert_eq!(world.arrived(), World::expected(&minutes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_that_is_not_available_yet_ends_the_run_without_a_gap() {
    let world = World::new().await;
    world.virustotal.behave("202611240904", &Behaviour::NotAvailableYet, usize::MAX);
    let load = world.load().await;
    let report = load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert_eq!((report.loaded, report.missing, report.failed), (4, 0, 0));
    assert!(load.store.ledger.gaps(10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_one_works_and_the_other_says_who() {
    let world = World::new().await;
    let (one, other) = (world.load().await, world.load().await);
    let lease = match one.store.leases.acquire(NAME, "process 1", one.clock.now()).await.unwrap() {
        Grant::Acquired(lease) => lease,
        held @ Grant::Held { .. } => panic!("{held:?}"),
    };
    let report = other.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert!(report.held_by.unwrap().starts_with("process 1"));
    assert_eq!(world.arrived().len(), 0);
    one.store.leases.release(lease).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_goes_on_in_the_middle_of_its_bundle() {
    let world = World::new().await;
    let load = world.load().await;
    let limits = Limits::default();
    let stop = limits.stop.clone();
    let run = load.run(&Trigger::Tick, &limits);
    let watch = async {
        world.dispatcher.wait_until(|arrived, _| !arrived.sha256s().is_empty()).await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(run, watch);
    assert!(report.unwrap().paused);
    let report = load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    assert!(!report.paused);
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
    let totals = load.store.ledger.totals().await.unwrap();
    assert_eq!((totals.loaded, totals.counts.records), (6, 6 * RECORDS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_replayed_from_what_is_staged() {
    let world = World::new().await;
    let load = world.load().await;
    load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    let asked = world.virustotal.minutes_asked().len();
    let (from, to) = ("202611240901".parse().unwrap(), "202611240903".parse().unwrap());
    let report = load.run(&Trigger::Range { from, to }, &Limits::default()).await.unwrap();
    assert_eq!((report.loaded, report.counts.delivered), (3, 3 * RECORDS));
    assert_eq!(world.virustotal.minutes_asked().len(), asked);
    assert!(world.dispatcher.arrived().repeats > 0);
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_it_says_what_to_set() {
    let world = World::new().await;
    let load = world.load_at(NOW, &[("VIRUSTOTAL_APIKEY", "")]).await;
    let error = load.run(&Trigger::Tick, &Limits::default()).await.unwrap_err();
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
    load.run(&Trigger::Tick, &Limits::default()).await.unwrap();
    let list = async |prefix: &str| {
        let found = load.store.bundles.list(prefix).await.unwrap();
        found.into_iter().map(|info| info.key).collect::<Vec<_>>()
    };
    assert_eq!(list(staged).await, [format!("{staged}-new")]);
    assert_eq!(list("rejects/feed/202611010000").await, [rejects.replace("1.jsonl", "2.jsonl")]);
    assert_eq!(load.store.ledger.get(Minute::of(days(36))).await.unwrap(), None);
    assert!(load.store.ledger.get(Minute::of(days(34))).await.unwrap().is_some());
}
