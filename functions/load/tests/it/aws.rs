//! A run whose state is on AWS, where a lease can be lost while its owner lives.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::config::Credentials;
use azul_vt::{
    minute::Minute,
    pipeline::Limits,
    settings::{AwsState, Settings},
    store::{Clock, Grant, Lease, MinuteState, Store, aws},
};
use jiff::{SignedDuration, Timestamp};
use load::{Load, NAME, Step};
use sim::feed::Style;

const NOW: &str = "2026-11-24T10:02:30Z";
const MINUTES: [&str; 3] = ["202611240900", "202611240901", "202611240902"];

struct Fixed(Timestamp);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Takes a lease as one does who has not heard of its owner for a minute.
async fn steal(store: &Store, name: &str) -> Lease {
    let later = NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(60);
    match store.leases.acquire(name, "another", later).await.unwrap() {
        Grant::Acquired(lease) => lease,
        held @ Grant::Held { .. } => panic!("{held:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_whose_lease_is_taken_is_left_to_who_took_it() {
    let Some(emulator) = sim::Aws::shared().unwrap() else { return };
    let credentials = Credentials::new("test", "test", None, None, "these tests");
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .endpoint_url(emulator.endpoint())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(credentials)
        .load()
        .await;
    let state = AwsState { table: emulator.name("table"), bucket: emulator.name("bucket") };
    aws::init::table(&config, &state.table).await.unwrap();
    aws::init::bucket(&config, &state.bucket).await.unwrap();

    let virustotal = sim::VirusTotal::start().await.unwrap();
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    for minute in MINUTES {
        virustotal.serve(minute, sim::feed::bundle(7, minute, 20, Style::Small));
    }
    let dir = tempfile::tempdir().unwrap();
    let lookup = |name: &str| match name {
        "VIRUSTOTAL" => Some(virustotal.url()),
        "VIRUSTOTAL_APIKEY" => Some(virustotal.key()),
        "PLUGIN_EVENTS_URL" => Some(dispatcher.url()),
        "STATEDIR" => Some(dir.path().display().to_string()),
        "RULES_ROOT" => Some("/nowhere/at/all".into()),
        _ => None,
    };
    let settings = Settings::read(&lookup).unwrap();
    let store = aws::store(&settings, &config, &state).unwrap();
    let [first, second, third] = MINUTES.map(|minute| minute.parse::<Minute>().unwrap());
    let before = first.plus(-1).unix_seconds();
    assert!(store.cursors.advance(NAME, None, before).await.unwrap());

    let clock = Arc::new(Fixed(NOW.parse().unwrap()));
    let mut load = Load::from_settings(settings, store.clone(), clock).await.unwrap();
    // Taken when the second minute begins.
    let (thief, taken) = (store.clone(), AtomicBool::new(false));
    let name = format!("{NAME}-{second}");
    load.observer = Box::new(move |step| {
        if matches!(step, Step::Minute(minute) if minute == second) {
            let steal = steal(&thief, &name);
            let lease =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(steal));
            assert_eq!((lease.fence, taken.swap(true, Ordering::Relaxed)), (2, false));
        }
    });
    let report = load.tick(&Limits::default()).await.unwrap();
    assert_eq!((report.loaded, report.left), (2, 1));
    let state_of = async |minute| store.ledger.get(minute).await.unwrap().map(|row| row.state);
    assert_eq!(state_of(first).await, Some(MinuteState::Loaded));
    assert_eq!(state_of(second).await, None);
    assert_eq!(state_of(third).await, Some(MinuteState::Loaded));
    // The cursor waits for the second.
    assert_eq!(store.cursors.read(NAME).await.unwrap(), Some(first.unix_seconds()));
    // What it could not note it did not send either.
    assert_eq!(dispatcher.arrived().sha256s().len(), 40);
    // The new owner has the lease still: the loser gave back nothing.
    let name = format!("{NAME}-{second}");
    let held = store.leases.acquire(&name, "third", NOW.parse().unwrap()).await.unwrap();
    assert!(matches!(&held, Grant::Held { owner, .. } if owner == "another"), "{held:?}");
    // It is done with the minute: then the cursor goes on behind what was loaded meanwhile.
    let later = NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_mins(3);
    load.clock = Arc::new(Fixed(later));
    load.observer = Box::new(|_| ());
    let report = load.tick(&Limits::default()).await.unwrap();
    assert_eq!((report.loaded, report.left), (1, 0));
    assert_eq!(dispatcher.arrived().sha256s().len(), 60);
    assert_eq!(dispatcher.arrived().repeats, 0);
}
