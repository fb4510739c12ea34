//! Tests random histories of `load` against a model. A history has ticks, workers, crashes at any await, several
//! runners, missing minutes, faults of both sides, clocks that jump, and peers that report a wrong time. After each
//! step, and at the end, nothing is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::Path,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use azul_vt::{
    minute::Minute,
    pipeline::RunLimits,
    settings::Settings,
    store::{Clock, MinuteState, Store, local},
};
use jiff::{SignedDuration, Timestamp};
use load::{Load, LoadError, NAME, Report, Trigger};
use proptest::{prelude::*, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::Value;
use sim::{Behaviour, Date, Fault, Unknown, feed::Style};
use tokio::{runtime::Runtime, time::Instant};

const SEED: u64 = 23;
/// Minutes that VirusTotal will ever have.
const MINUTES: i64 = 24;
/// Number of records of a minute. It is more than a batch, so that a crash leaves a minute half done.
const RECORDS: u64 = 70;
/// The first minute that VirusTotal has.
const FIRST: &str = "202611240900";
/// The time at the start, at which three minutes are due.
const START: &str = "2026-11-24T10:02:30Z";
/// Furthest that the true time moves, in hours. It is less than the seven days that VirusTotal keeps a minute; another
/// test covers minutes that are given up.
const FURTHEST_HOURS: i64 = 72;
const DAY: i64 = 86_400;
/// Body of an answer with status 200 that is an error instead of a bundle.
const ERROR: &[u8] = br#"{"error":{"code":"TransientError","message":"Try again later"}}"#;

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// A run with this many milliseconds until its deadline.
    Tick(u64),
    /// A run that dies at its n-th wait.
    Crash(usize),
    /// Two runs at once.
    Two,
    /// A tick that sends minutes to workers if more than two are due.
    Send,
    /// A tick as `Send` that dies at its n-th wait.
    SendCrash(usize),
    /// A number of workers for a number of milliseconds, while ticks run.
    Work(usize, u64),
    /// A number of workers that die at their n-th wait.
    WorkCrash(usize, usize),
    /// Workers of two processes, and a replay of the n-th minute.
    WorkTwo(i64),
    /// The true time moves forward or back by this many seconds, and all clocks move with it.
    Clock(i64),
    /// The local clock is this many seconds ahead of the true time; a negative number is behind it.
    Wrong(i64),
    /// The peers report this time.
    Tell(Told),
    /// VirusTotal does not have the n-th minute for this number of requests.
    Missing(i64, usize),
    /// VirusTotal answers the next requests for the n-th minute like this.
    VirusTotal(i64, Behaviour, usize),
    /// The dispatcher answers the next posts like this.
    Dispatcher(Fault, usize),
}

/// The time that the peers report. Each variant but `Truth` lets a peer lie or stay silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Truth,
    VirusTotalLies(i64),
    DispatcherLies(i64),
    NotByVirusTotal,
    NotByTheDispatcher,
    /// The dispatcher shares the local clock, and VirusTotal says nothing.
    OnlyByOurOwnHost,
    Nothing,
}

/// The model knows only how far the clock is from its start, to keep it in bounds.
struct Histories;

impl ReferenceStateMachine for Histories {
    type State = i64;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<i64> {
        Just(0).boxed()
    }

    fn transitions(_: &i64) -> BoxedStrategy<Step> {
        let minute = || 0..MINUTES;
        let apart =
            || prop_oneof![Just(20 * DAY), Just(-20 * DAY), Just(400 * DAY), Just(-400 * DAY)];
        let virustotal = prop_oneof![
            Just(Behaviour::NotAvailableYet),
            Just(Behaviour::TooManyRequests(None)),
            Just(Behaviour::ServerError),
            Just(Behaviour::Unauthorized),
            Just(Behaviour::Api(Fault::Reset)),
            Just(Behaviour::Content(Fault::TruncateBody)),
            Just(Behaviour::Content(Fault::FlipByte)),
            Just(Behaviour::Content(Fault::ResetInBody)),
            Just(Behaviour::Bundle(ERROR.into())),
        ];
        let dispatcher = prop_oneof![
            Just(Fault::answer(500, "broker failure")),
            Just(Fault::answer(503, "")),
            Just(Fault::Reset),
            Just(Fault::ResetInBody),
        ];
        prop_oneof![
            4 => prop_oneof![Just(50_u64), Just(300), Just(20_000)].prop_map(Step::Tick),
            6 => (1_usize..400).prop_map(Step::Crash),
            1 => Just(Step::Two),
            2 => Just(Step::Send),
            1 => (1_usize..40).prop_map(Step::SendCrash),
            2 => (1_usize..4, prop_oneof![Just(200_u64), Just(1000)])
                .prop_map(|(workers, time)| Step::Work(workers, time)),
            4 => (1_usize..4, 1_usize..400).prop_map(|(workers, n)| Step::WorkCrash(workers, n)),
            1 => minute().prop_map(Step::WorkTwo),
            3 => prop_oneof![30_i64..600, -3600_i64..3600, Just(DAY), Just(-DAY)]
                .prop_map(Step::Clock),
            2 => prop_oneof![Just(0), -3600_i64..3600, apart()].prop_map(Step::Wrong),
            2 => prop_oneof![
                Just(Told::Truth),
                apart().prop_map(Told::VirusTotalLies),
                apart().prop_map(Told::DispatcherLies),
                Just(Told::NotByVirusTotal),
                Just(Told::NotByTheDispatcher),
                Just(Told::OnlyByOurOwnHost),
                Just(Told::Nothing),
            ]
            .prop_map(Step::Tell),
            2 => (minute(), 1_usize..4).prop_map(|(n, times)| Step::Missing(n, times)),
            2 => (minute(), virustotal, 1_usize..4)
                .prop_map(|(n, behaviour, times)| Step::VirusTotal(n, behaviour, times)),
            2 => (dispatcher, 1_usize..4).prop_map(|(fault, times)| Step::Dispatcher(fault, times)),
        ]
        .boxed()
    }

    fn preconditions(offset: &i64, step: &Step) -> bool {
        match step {
            Step::Clock(by) => (0..=FURTHEST_HOURS * 3600).contains(&(offset + by)),
            _ => true,
        }
    }

    fn apply(offset: i64, step: &Step) -> i64 {
        match step {
            Step::Clock(by) => offset + by,
            _ => offset,
        }
    }
}

struct Adjustable(Mutex<Timestamp>);

impl Clock for Adjustable {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The system under test: `load` with stand-ins of both peers.
struct World {
    runtime: Runtime,
    virustotal: sim::VirusTotal,
    dispatcher: sim::Dispatcher,
    state: tempfile::TempDir,
    store: Store,
    clock: Arc<Adjustable>,
    time: Mutex<Time>,
    highest: Mutex<Option<i64>>,
}

/// The true time, the lead of the local clock, and the time that the peers report.
#[derive(Clone, Copy)]
struct Time {
    truth: Timestamp,
    ahead: i64,
    told: Told,
}

/// A future that is dropped at its n-th wait, as by a crash.
struct Mortal<F> {
    inner: Pin<Box<F>>,
    waits: usize,
}

impl<F: Future> Future for Mortal<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.inner.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.waits == 0 => Poll::Ready(None),
            Poll::Pending => {
                self.waits -= 1;
                Poll::Pending
            }
        }
    }
}

fn limits(milliseconds: u64) -> RunLimits {
    RunLimits::until(Instant::now() + Duration::from_millis(milliseconds))
}

fn first() -> Minute {
    FIRST.parse().unwrap()
}

fn expected(minute: Minute) -> BTreeSet<String> {
    (0..RECORDS).map(|index| sim::feed::sha256(SEED, &minute.to_string(), index)).collect()
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let (virustotal, dispatcher) = runtime.block_on(async {
            (sim::VirusTotal::start().await.unwrap(), sim::Dispatcher::start().await.unwrap())
        });
        virustotal.set_unknown(Unknown::NotAvailableYet);
        for n in 0..MINUTES {
            let minute = first().plus(n).to_string();
            virustotal.serve(&minute, sim::feed::bundle(SEED, &minute, RECORDS, Style::Small));
        }
        let state = tempfile::tempdir().unwrap();
        // The first run continues where the Go plugin stopped, whatever the clock says.
        let before = first().plus(-1).unix_seconds().to_string();
        std::fs::write(state.path().join("v3_files"), before).unwrap();
        let store = local::open(state.path()).unwrap();
        let clock = Arc::new(Adjustable(Mutex::new(START.parse().unwrap())));
        let time = Time { truth: START.parse().unwrap(), ahead: 0, told: Told::Truth };
        let (time, highest) = (Mutex::new(time), Mutex::default());
        let world = Self { runtime, virustotal, dispatcher, state, store, clock, time, highest };
        world.change(|_| ());
        world
    }

    /// Changes the time, and sets the clocks of this program and of both peers.
    fn change(&self, how: impl FnOnce(&mut Time)) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut time);
        let Time { truth, ahead, told } = *time;
        let by = |seconds| truth + SignedDuration::from_secs(seconds);
        *self.clock.0.lock().unwrap_or_else(PoisonError::into_inner) = by(ahead);
        let truth = Date::At(truth);
        let (virustotal, dispatcher) = match told {
            Told::Truth => (truth, truth),
            Told::VirusTotalLies(by_seconds) => (Date::At(by(by_seconds)), truth),
            Told::DispatcherLies(by_seconds) => (truth, Date::At(by(by_seconds))),
            Told::NotByVirusTotal => (Date::Untold, truth),
            Told::NotByTheDispatcher => (truth, Date::Untold),
            Told::OnlyByOurOwnHost => (Date::Untold, Date::At(by(ahead))),
            Told::Nothing => (Date::Untold, Date::Untold),
        };
        self.virustotal.set_date(virustotal);
        self.dispatcher.set_date(dispatcher);
    }

    /// Makes a `Load` that shares only the stored state with others, as a process of its own does.
    async fn load(&self) -> Load {
        let settings = [
            ("VIRUSTOTAL", self.virustotal.url()),
            ("VIRUSTOTAL_APIKEY", self.virustotal.key()),
            ("PLUGIN_EVENTS_URL", self.dispatcher.url()),
            ("STATEDIR", self.state.path().display().to_string()),
            ("RULES_ROOT", "/nowhere/at/all".to_owned()),
            ("DISPATCHER_MAX_AGE_HOURS", "-1".to_owned()),
            ("FAN_OUT_MINUTES", "2".to_owned()),
        ];
        let lookup =
            |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
        let settings = Settings::read(&lookup).unwrap();
        let store = local::open(Path::new(&settings.state_dir)).unwrap();
        let clock: Arc<dyn Clock> = Arc::<Adjustable>::clone(&self.clock);
        Load::from_settings(settings, store, clock).await.unwrap()
    }

    async fn tick(&self, milliseconds: u64) -> Result<Report, LoadError> {
        self.load().await.run(&Trigger::Tick, &limits(milliseconds)).await
    }

    /// Runs a tick that sends minutes to workers if the cursor is far behind.
    async fn send(&self) -> Result<Report, LoadError> {
        let mut load = self.load().await;
        load.fan_out = true;
        load.run(&Trigger::Tick, &limits(20_000)).await
    }

    /// Runs workers and ticks. Items that were put back come only when the clock moves on, so a run need not end by
    /// itself.
    async fn work(&self, workers: usize, milliseconds: u64) -> Result<Report, LoadError> {
        let mut load = self.load().await;
        load.fan_out = true;
        load.catch_up_with(workers, true, &limits(milliseconds)).await
    }

    async fn replay(&self, n: i64) -> Result<Report, LoadError> {
        let (from, to) = (first().plus(n), first().plus(n));
        self.load().await.run(&Trigger::Range { from, to }, &limits(1000)).await
    }

    /// Sets the true time, with which all clocks agree.
    fn set_clock(&self, now: Timestamp) {
        self.change(|time| *time = Time { truth: now, ahead: 0, told: Told::Truth });
    }

    async fn cursor(&self) -> Option<Minute> {
        self.store.cursors.read(NAME).await.unwrap().map(Minute::from_unix_seconds)
    }

    /// Checks the conditions that must hold at any time.
    async fn check(&self) {
        let Some(cursor) = self.cursor().await else { return };
        let highest = {
            let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
            highest.replace(cursor.unix_seconds())
        };
        assert!(
            highest.is_none_or(|highest| highest <= cursor.unix_seconds()),
            "the cursor went back"
        );
        assert!(cursor < first().plus(MINUTES), "the cursor is ahead of the feed");
        let arrived = self.dispatcher.arrived();
        let there = arrived.sha256s();
        let rows = self.store.ledger.range(first(), cursor.next()).await.unwrap();
        let rows: BTreeMap<Minute, MinuteState> =
            rows.into_iter().map(|row| (row.minute, row.state)).collect();
        let mut minute = first();
        while minute <= cursor {
            match rows.get(&minute) {
                Some(MinuteState::Loaded) => {
                    assert!(expected(minute).is_subset(&there), "{minute} is not all there");
                }
                // A gap that is being loaded at last, and was not finished.
                Some(MinuteState::Gap { .. } | MinuteState::Loading { .. }) => {}
                // Five workers in a row died at it: histories can be unlucky.
                Some(MinuteState::Buried { reason }) if reason.contains("in a row") => {}
                other => panic!("the cursor {cursor} passed {minute}, which is {other:?}"),
            }
            minute = minute.next();
        }
        // Repeats have the same key; under the same `now` they are the same to the byte.
        let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
        let mut contents: BTreeMap<(&str, &str), &Value> = BTreeMap::new();
        for published in arrived.events.iter().filter(|e| e.model == sim::Model::Binary) {
            let text = |path| published.event.pointer(path).and_then(Value::as_str).unwrap();
            let key = published.key.as_str();
            assert_eq!(*keys.entry(text("/entity/sha256")).or_insert(key), key);
            let first = *contents.entry((key, text("/timestamp"))).or_insert(&published.event);
            assert_eq!(first, &published.event);
        }
        assert_eq!(arrived.problems, Vec::<String>::new());
    }

    /// Removes all faults, and checks that everything arrives in the end.
    async fn settle(&self) {
        self.dispatcher.clear_faults();
        for n in 0..MINUTES {
            self.virustotal.clear(&first().plus(n).to_string());
        }
        let mut now: Timestamp = START.parse().unwrap();
        now += SignedDuration::from_hours(FURTHEST_HOURS);
        // The items of crashed workers come back. Then workers do what they can while the clock stands still.
        self.set_clock(now);
        self.work(2, 3000).await.unwrap();
        self.check().await;
        let mut rounds = 0;
        loop {
            self.set_clock(now);
            self.tick(60_000).await.unwrap();
            self.check().await;
            let gaps = self.store.ledger.gaps(1000).await.unwrap();
            let next = gaps.iter().filter_map(|row| match &row.state {
                MinuteState::Gap { next_try, .. } => Some(*next_try),
                _ => None,
            });
            match next.max() {
                Some(next) => now = now.max(next),
                None => break,
            }
            rounds += 1;
            assert!(rounds < 10, "gaps stay: {gaps:?}");
        }
        assert_eq!(self.cursor().await, Some(first().plus(MINUTES - 1)));
        let rows = self.store.ledger.range(first(), first().plus(MINUTES)).await.unwrap();
        let loaded = rows.iter().filter(|row| matches!(row.state, MinuteState::Loaded));
        let all: BTreeSet<String> = loaded.flat_map(|row| expected(row.minute)).collect();
        assert!(all.is_subset(&self.dispatcher.arrived().sha256s()));
        let totals = self.store.ledger.totals().await.unwrap();
        assert_eq!(totals.loaded + totals.buried, u64::try_from(MINUTES).unwrap());
        // Nothing that is left in the queue does anything twice.
        let binaries = || self.dispatcher.arrived().of(sim::Model::Binary).count();
        let before = binaries();
        self.set_clock(now + SignedDuration::from_hours(1));
        self.work(2, 1000).await.unwrap();
        assert_eq!(binaries(), before);
        assert_eq!(self.virustotal.key_leaked(), Vec::<String>::new());
    }
}

struct Loading;

impl StateMachineTest for Loading {
    type SystemUnderTest = World;
    type Reference = Histories;

    fn init_test(_: &i64) -> World {
        World::new()
    }

    fn apply(world: World, _: &i64, step: Step) -> World {
        world.runtime.block_on(async {
            match step {
                Step::Tick(milliseconds) => drop(world.tick(milliseconds).await),
                Step::Crash(waits) => {
                    let run = Box::pin(world.tick(20_000));
                    drop(Mortal { inner: run, waits }.await);
                }
                Step::Two => {
                    let (one, other) = (pin!(world.tick(20_000)), pin!(world.tick(20_000)));
                    let _ = tokio::join!(one, other);
                }
                Step::Send => drop(world.send().await),
                Step::SendCrash(waits) => {
                    drop(Mortal { inner: Box::pin(world.send()), waits }.await);
                }
                Step::Work(workers, milliseconds) => drop(world.work(workers, milliseconds).await),
                Step::WorkCrash(workers, waits) => {
                    let run = Box::pin(world.work(workers, 20_000));
                    drop(
                        tokio::time::timeout(Duration::from_secs(1), Mortal { inner: run, waits })
                            .await,
                    );
                }
                Step::WorkTwo(n) => {
                    let (one, other) = (pin!(world.work(2, 1000)), pin!(world.work(1, 1000)));
                    let replay = pin!(world.replay(n));
                    let _ = tokio::join!(one, other, replay);
                }
                Step::Clock(by) => {
                    world.change(|time| time.truth += SignedDuration::from_secs(by));
                }
                Step::Wrong(by) => world.change(|time| time.ahead = by),
                Step::Tell(told) => world.change(|time| time.told = told),
                Step::Missing(n, times) => {
                    world.virustotal.behave(
                        &first().plus(n).to_string(),
                        &Behaviour::Missing,
                        times,
                    );
                }
                Step::VirusTotal(n, behaviour, times) => {
                    world.virustotal.behave(&first().plus(n).to_string(), &behaviour, times);
                }
                Step::Dispatcher(fault, times) => world.dispatcher.fail(&fault, times),
            }
        });
        world
    }

    fn check_invariants(world: &World, _: &i64) {
        world.runtime.block_on(world.check());
    }

    fn teardown(world: World, _: i64) {
        world.runtime.block_on(world.settle());
    }
}

prop_state_machine! {
    #![proptest_config(Config {
        cases: std::env::var("MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6),
        // A case starts servers and loads minutes: shrinking one takes a while.
        max_shrink_iters: 50,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn no_history_loses_a_minute(sequential 1..30 => Loading);
}
