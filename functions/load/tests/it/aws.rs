//! A run whose state is on AWS, where a lease can be lost while its owner lives.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::config::Credentials;
use azul_vt::{
    minute::Minute,
    pipeline::RunLimits,
    settings::Settings,
    store::AwsState,
    store::{Clock, Grant, Lease, MinuteState, Store, aws, inbox::Queue},
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

/// Takes a lease from its owner, as after a minute in which the owner did not renew it.
async fn steal(store: &Store, name: &str) -> Lease {
    let later = NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(60);
    match store.leases.acquire(name, "another", later).await.unwrap() {
        Grant::Acquired(lease) => lease,
        held @ Grant::Held { .. } => panic!("{held:?}"),
    }
}

/// The stand-ins, with their own state and queue on the AWS emulator.
struct OnAws {
    virustotal: sim::VirusTotal,
    dispatcher: sim::Dispatcher,
    settings: Settings,
    store: Store,
    _dir: tempfile::TempDir,
    _emulator: sim::Shared,
}

impl OnAws {
    /// Starts the stand-ins, with three minutes that are due; `None` if there is no emulator.
    async fn new() -> Option<Self> {
        let emulator = sim::Aws::shared().unwrap()?;
        let credentials = Credentials::new("test", "test", None, None, "these tests");
        let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .endpoint_url(emulator.endpoint())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(credentials)
            .http_client(aws::http_client(&<_>::default(), &<_>::default()).unwrap())
            .load()
            .await;
        let state = AwsState { table: emulator.name("table"), bucket: emulator.name("bucket") };
        aws::init::table(&config, &state.table).await.unwrap();
        aws::init::bucket(&config, &state.bucket).await.unwrap();
        let queue = aws::init::queue(&config, &emulator.name("minutes")).await.unwrap();

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
            "FAN_OUT_MINUTES" => Some("2".into()),
            _ => None,
        };
        let mut settings = Settings::read(&lookup).unwrap();
        settings.minutes_queue = Some(queue.parse().unwrap());
        let store = aws::store(&settings.state_options(), &config, &state).unwrap();
        let before = MINUTES[0].parse::<Minute>().unwrap().plus(-1).unix_seconds();
        assert!(store.cursors.advance(NAME, None, before).await.unwrap());
        Some(Self { virustotal, dispatcher, settings, store, _dir: dir, _emulator: emulator })
    }

    async fn load(&self) -> Load {
        let clock = Arc::new(Fixed(NOW.parse().unwrap()));
        Load::from_settings(self.settings.clone(), self.store.clone(), clock).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_far_behind_sends_minutes_that_workers_load_and_the_next_tick_moves_the_cursor() {
    let Some(world) = OnAws::new().await else { return };
    let load = world.load().await;
    let limits = RunLimits::default();
    let report = load.tick(&limits).await.unwrap();
    assert_eq!((report.planned, report.left, report.loaded), (3, 3, 0));
    let queue = world.store.inbox.counts(Queue::Minutes, load.clock.now()).await.unwrap();
    assert_eq!(queue.waiting, 3);
    let report = load.catch_up_with(2, true, &limits).await.unwrap();
    assert_eq!((report.loaded, report.left, report.paused), (3, 0, false));
    assert_eq!(report.cursor, Some(MINUTES[2].parse().unwrap()));
    assert_eq!(world.dispatcher.arrived().sha256s().len(), 60);
    assert_eq!(world.dispatcher.arrived().repeats, 0);
    assert_eq!(world.virustotal.minutes_asked().len(), 3);
    let queue = world.store.inbox.counts(Queue::Minutes, load.clock.now()).await.unwrap();
    assert_eq!((queue.waiting, queue.in_work, queue.buried), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_whose_lease_is_taken_is_left_to_who_took_it() {
    let Some(world) = OnAws::new().await else { return };
    let (store, dispatcher) = (&world.store, &world.dispatcher);
    let [first, second, third] = MINUTES.map(|minute| minute.parse::<Minute>().unwrap());
    let mut load = world.load().await;
    load.fan_out = false;
    // The lease is stolen when the second minute begins.
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
    let report = load.tick(&RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.left), (2, 1));
    let state_of = async |minute| store.ledger.get(minute).await.unwrap().map(|row| row.state);
    assert_eq!(state_of(first).await, Some(MinuteState::Loaded));
    assert_eq!(state_of(second).await, None);
    assert_eq!(state_of(third).await, Some(MinuteState::Loaded));
    // The cursor waits for the second.
    assert_eq!(store.cursors.read(NAME).await.unwrap(), Some(first.unix_seconds()));
    // The loser sent no batch that it could not note in the ledger.
    assert_eq!(dispatcher.arrived().sha256s().len(), 40);
    // The new owner still has the lease, because the loser gave nothing back.
    let name = format!("{NAME}-{second}");
    let held = store.leases.acquire(&name, "third", NOW.parse().unwrap()).await.unwrap();
    assert!(matches!(&held, Grant::Held { owner, .. } if owner == "another"), "{held:?}");
    // The new owner is done with the minute. Then the cursor moves over the minutes that were loaded meanwhile.
    let later = NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_mins(3);
    load.clock = Arc::new(Fixed(later));
    load.observer = Box::new(|_| ());
    let report = load.tick(&RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.left), (1, 0));
    assert_eq!(dispatcher.arrived().sha256s().len(), 60);
    assert_eq!(dispatcher.arrived().repeats, 0);
}
