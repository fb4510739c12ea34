//! `vt load`, killed again and again.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use azul_vt::{minute::Minute, store::local};
use jiff::Timestamp;
use sim::feed::Style;

use crate::commands::vt;

const SEED: u64 = 11;
const RECORDS: u64 = 120;
const KILLS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn after_twenty_kills_everything_arrived_and_the_cursor_passed_nothing() {
    let (virustotal, dispatcher) =
        (sim::VirusTotal::start().await.unwrap(), sim::Dispatcher::start().await.unwrap());
    virustotal.set_unknown(sim::Unknown::Missing);
    let first = Minute::of(Timestamp::now()).plus(-60);
    // More than are due: the clock goes on while the test runs.
    for n in 0..30 {
        let minute = first.plus(n).to_string();
        virustotal.serve(&minute, sim::feed::bundle(SEED, &minute, RECORDS, Style::Small));
    }
    let state = tempfile::tempdir().unwrap();
    // Where the Go plugin stopped: so that the start does not depend on the clock.
    std::fs::write(state.path().join("v3_files"), first.plus(-1).unix_seconds().to_string())
        .unwrap();
    let load = || {
        let mut command = vt(&["load"]);
        command
            .env("VIRUSTOTAL", virustotal.url())
            .env("VIRUSTOTAL_APIKEY", virustotal.key())
            .env("PLUGIN_EVENTS_URL", dispatcher.url())
            .env("STATEDIR", state.path())
            .env("RULES_ROOT", "/nowhere/at/all")
            .env("FEED_LAG_MINUTES", "50")
            .env("DISPATCHER_MAX_AGE_HOURS", "-1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    };
    let (mut killed, mut arrived_between) = (0, BTreeSet::new());
    for n in 0..KILLS {
        let mut child = load().spawn().unwrap();
        // Moments spread over what a run takes; a run that is over by then was not killed.
        tokio::time::sleep(Duration::from_millis(40 + (n * 67) % 400)).await;
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        arrived_between.insert(dispatcher.arrived().sha256s().len());
    }
    let last = load().output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    let store = local::open(state.path()).unwrap();
    let cursor = store.cursors.read(load::NAME).await.unwrap().unwrap();
    let cursor = Minute::from_unix_seconds(cursor);
    assert!(cursor.since(first) >= 9, "{cursor}");
    let expected: BTreeSet<String> = (0..=cursor.since(first))
        .flat_map(|n| {
            let minute = first.plus(n).to_string();
            (0..RECORDS).map(move |index| sim::feed::sha256(SEED, &minute, index))
        })
        .collect();
    assert_eq!(dispatcher.arrived().sha256s(), expected);
    let totals = store.ledger.totals().await.unwrap();
    assert_eq!(totals.loaded, u64::try_from(cursor.since(first) + 1).unwrap());
    assert_eq!((totals.loading, totals.gaps, totals.buried), (0, 0, 0));
    assert_eq!(virustotal.key_leaked(), Vec::<String>::new());
    // The kills fell into the work, not all before or after it.
    assert!(killed > 3 && arrived_between.len() > 2, "{killed} {arrived_between:?}");
}
