//! `vt load`, killed again and again, against an undisturbed run of the same backlog.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use azul_vt::{
    minute::Minute,
    store::{GapKind, MinuteState, Store, local},
};
use jiff::Timestamp;
use serde_json::Value;
use sim::{Behaviour, Unknown, feed::Style};

use crate::commands::vt;

const SEED: u64 = 11;
/// Minutes of the backlog, two of which VirusTotal never had. The runs that are killed must not reach the end of the
/// backlog before their kill.
const MINUTES: i64 = 30;
const MISSING: [i64; 2] = [3, 9];
/// Records of a minute; they make several posts.
const RECORDS: u64 = 230;
const KILLS: usize = 20;

/// A feed that ends: later minutes are not available yet, however long the test takes.
struct Backlog {
    virustotal: sim::VirusTotal,
    first: Minute,
}

impl Backlog {
    async fn new() -> Self {
        let virustotal = sim::VirusTotal::start().await.unwrap();
        virustotal.set_unknown(Unknown::NotAvailableYet);
        let first = Minute::of(Timestamp::now()).plus(-61 - MINUTES);
        for n in 0..MINUTES {
            let minute = first.plus(n).to_string();
            if MISSING.contains(&n) {
                virustotal.behave(&minute, &Behaviour::Missing, usize::MAX);
            } else {
                let bundle = sim::feed::bundle(SEED, &minute, RECORDS, Style::Small);
                virustotal.serve(&minute, bundle);
            }
        }
        Self { virustotal, first }
    }

    fn last(&self) -> Minute {
        self.first.plus(MINUTES - 1)
    }

    /// Returns the command `vt load` for the backlog.
    fn load(&self, dispatcher: &sim::Dispatcher, state: &Path) -> Command {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/select_rules/example");
        let mut command = vt(&["load"]);
        command
            .env("VIRUSTOTAL", self.virustotal.url())
            .env("VIRUSTOTAL_APIKEY", self.virustotal.key())
            .env("PLUGIN_EVENTS_URL", dispatcher.url())
            .env("STATEDIR", state)
            .env("RULES_ROOT", rules)
            .env("DISPATCHER_MAX_AGE_HOURS", "-1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Makes a state directory from which the load starts at the first minute of the backlog: the Go plugin's
    /// `v3_files` names the minute before.
    fn state(&self) -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        let before = self.first.plus(-1).unix_seconds().to_string();
        std::fs::write(state.path().join("v3_files"), before).unwrap();
        state
    }

    /// Returns every event by its key, without its time, which differs between runs.
    fn events(dispatcher: &sim::Dispatcher) -> BTreeMap<String, Value> {
        let mut events = dispatcher.keys();
        for event in events.values_mut() {
            assert!(event.as_object_mut().unwrap().remove("timestamp").is_some());
        }
        events
    }

    /// The minute of every file.
    fn minutes(&self) -> BTreeMap<String, Minute> {
        let files = |n| {
            let minute = self.first.plus(n);
            let sha256 = move |index| sim::feed::sha256(SEED, &minute.to_string(), index);
            (0..RECORDS).map(move |index| (sha256(index), minute))
        };
        (0..MINUTES).filter(|n| !MISSING.contains(n)).flat_map(files).collect()
    }

    /// Checks what must hold at any moment: every minute up to the cursor is a listed gap, or is loaded and all its
    /// events are at the dispatcher. Returns the cursor.
    async fn check(
        &self,
        store: &Store,
        there: &BTreeSet<String>,
        all: &Minutes,
    ) -> Option<Minute> {
        let cursor = store.cursors.read(load::NAME).await.unwrap();
        let cursor = Minute::from_unix_seconds(cursor?);
        assert!(cursor <= self.last(), "the cursor {cursor} is ahead of the feed");
        let mut minute = self.first;
        while minute <= cursor {
            let row = store.ledger.get(minute).await.unwrap();
            match row.map(|row| row.state) {
                Some(MinuteState::Loaded) => {
                    let missing = all[&minute].difference(there).count();
                    assert_eq!(missing, 0, "events of {minute}, cursor {cursor}");
                }
                Some(MinuteState::Gap { kind: GapKind::Missing, .. }) => {
                    assert!(!all.contains_key(&minute), "{minute} is not missing");
                }
                other => panic!("the cursor {cursor} passed {minute}, which is {other:?}"),
            }
            minute = minute.next();
        }
        Some(cursor)
    }
}

/// The keys of the events of each minute.
type Minutes = BTreeMap<Minute, BTreeSet<String>>;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    /// Returns a number from 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A process that ends with the test, also if the test fails.
struct Victim(std::process::Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_change_nothing_of_what_arrives_and_the_cursor_never_passes_a_lost_minute() {
    // `KILLS_SEED=…` repeats the moments of a run, as far as the timing of the machine allows.
    let seed = std::env::var("KILLS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Timestamp::now().as_millisecond().unsigned_abs());
    eprintln!("KILLS_SEED={seed}");
    let backlog = Backlog::new().await;

    // First comes an undisturbed run.
    let (quiet, state) = (sim::Dispatcher::start().await.unwrap(), backlog.state());
    let output = backlog.load(&quiet, state.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = Backlog::events(&quiet);
    let of_file = backlog.minutes();
    let mut all = Minutes::new();
    for (key, event) in &expected {
        let minute = of_file[event["entity"]["sha256"].as_str().unwrap()];
        all.entry(minute).or_default().insert(key.clone());
    }
    assert_eq!(expected.len(), of_file.len());
    assert!(!quiet.arrived().downloads().is_empty(), "the rules hit nothing");

    // Then come the runs that are killed: during the start, or after some posts and a random delay.
    let (dispatcher, state) = (sim::Dispatcher::start().await.unwrap(), backlog.state());
    let store = local::open(state.path()).unwrap();
    let mut random = Random(seed);
    let mut cursors = BTreeSet::new();
    for kill in 0..KILLS {
        let mut command = backlog.load(&dispatcher, state.path());
        let mut victim = Victim(command.stderr(Stdio::null()).spawn().unwrap());
        let posts = dispatcher.posts().len();
        let more = if random.below(4) == 0 { 0 } else { 1 + random.below(7) };
        let moment = Duration::from_millis(random.below(60));
        while dispatcher.posts().len() < posts + usize::try_from(more).unwrap() {
            let ended = victim.0.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?} before kill {kill}: the backlog is too small");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(moment).await;
        assert!(victim.0.try_wait().unwrap().is_none(), "kill {kill} comes too late");
        drop(victim);
        // The lease of a killed process is free at once.
        assert_eq!(store.leases.holder(load::NAME, Timestamp::now()).await.unwrap(), None);
        let there: BTreeSet<String> = dispatcher.keys().into_keys().collect();
        cursors.insert(backlog.check(&store, &there, &all).await);
    }
    assert!(cursors.len() > 3, "the kills fell all at one place: {cursors:?}");
    let last = backlog.load(&dispatcher, state.path()).output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));

    let there = dispatcher.keys().into_keys().collect();
    assert_eq!(backlog.check(&store, &there, &all).await, Some(backlog.last()));
    let arrived = Backlog::events(&dispatcher);
    assert!(arrived.keys().eq(expected.keys()), "not the same events");
    for (key, event) in &arrived {
        assert_eq!(event, &expected[key]);
    }
    let requests = |dispatcher: &sim::Dispatcher| -> BTreeSet<sim::Download> {
        dispatcher.arrived().downloads().into_iter().collect()
    };
    assert_eq!(requests(&dispatcher), requests(&quiet));
    let totals = store.ledger.totals().await.unwrap();
    let missing = MISSING.len() as u64;
    let loaded = u64::try_from(MINUTES).unwrap() - missing;
    assert_eq!(
        (totals.loaded, totals.gaps, totals.loading, totals.buried),
        (loaded, missing, 0, 0)
    );
    assert_eq!(totals.counts.delivered, loaded * RECORDS);
    assert_eq!(dispatcher.problems(), Vec::<String>::new());
    assert_eq!(backlog.virustotal.key_leaked(), Vec::<String>::new());
}
