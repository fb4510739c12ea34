//! Servers, a state, and events for all tests.

use std::sync::{Arc, Mutex, PoisonError};

use azul_vt::tasks::EventFunction as _;
use azul_vt::{
    pipeline::RunLimits,
    settings::Settings,
    store::{
        Clock, Store, SystemClock,
        inbox::{InboxCounts, Queue},
        local,
    },
};
use jiff::{SignedDuration, Timestamp};
use query::Query;
use serde_json::{Value, json};
use sim::lookup;

/// A clock that a test moves.
pub(crate) struct Moved(Mutex<Timestamp>);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moved {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new("2026-11-24T09:00:00Z".parse().unwrap())))
    }

    pub(crate) fn on(&self, by: SignedDuration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

pub(crate) struct World {
    pub(crate) virustotal: sim::VirusTotal,
    pub(crate) dispatcher: sim::Dispatcher,
    pub(crate) state: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let world = Self {
            virustotal: sim::VirusTotal::start().await.unwrap(),
            dispatcher: sim::Dispatcher::start().await.unwrap(),
            state: tempfile::tempdir().unwrap(),
        };
        world.dispatcher.register_source("incidents");
        world
    }

    pub(crate) fn settings(&self, more: &[(&str, &str)]) -> Settings {
        let mut pairs = vec![
            ("VIRUSTOTAL", self.virustotal.url()),
            ("VIRUSTOTAL_APIKEY", self.virustotal.key()),
            ("PLUGIN_EVENTS_URL", self.dispatcher.url()),
            ("STATEDIR", self.state.path().display().to_string()),
            ("LOOKUP_SOURCES", "incidents".to_owned()),
        ];
        pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lookup = |name: &str| {
            pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        };
        Settings::read(&lookup).unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        local::open(self.state.path()).unwrap()
    }

    pub(crate) fn query_at(&self, clock: Arc<dyn Clock>, more: &[(&str, &str)]) -> Query {
        Query::from_settings(self.settings(more), self.store(), clock).unwrap()
    }

    /// Makes a `Query` with settings that no variable can give.
    pub(crate) fn query_with(&self, change: impl FnOnce(&mut Settings)) -> Query {
        let mut settings = self.settings(&[]);
        change(&mut settings);
        Query::from_settings(settings, self.store(), Arc::new(SystemClock)).unwrap()
    }

    pub(crate) fn query(&self) -> Query {
        self.query_at(Arc::new(SystemClock), &[])
    }

    /// Lets VirusTotal know the n-th file.
    pub(crate) fn knows(&self, n: usize) {
        self.virustotal.report(&lookup::sha256(n), lookup::report(n));
    }

    /// The statuses that arrived: hash, status, number of results; sorted.
    pub(crate) fn statuses(&self) -> Vec<(String, String, usize)> {
        let arrived = self.dispatcher.arrived();
        let mut statuses: Vec<_> = arrived
            .of(sim::Model::Status)
            .map(|published| {
                let entity = &published.event["entity"];
                let sha256 = entity["input"]["entity"]["sha256"].as_str().unwrap().to_owned();
                (sha256, published.action.clone(), 0)
            })
            .collect();
        for (sha256, _, results) in &mut statuses {
            let mapped = arrived.of(sim::Model::Binary).filter(|e| e.action == "mapped");
            *results = mapped.filter(|e| e.event["entity"]["sha256"] == json!(*sha256)).count();
        }
        statuses.sort();
        statuses
    }

    pub(crate) async fn waiting(&self, clock: &dyn Clock) -> InboxCounts {
        self.store().inbox.counts(Queue::Query, clock.now()).await.unwrap()
    }
}

/// Puts events in as a webhook would.
pub(crate) async fn put(query: &Query, events: impl IntoIterator<Item = Value>) {
    use azul_vt::{azul::incoming, webhook::receive};
    let events = events.into_iter().map(incoming::from_value).collect();
    let decide = query.decide();
    let (store, now) = (&query.common().store, query.common().clock.now());
    receive::accept(store, Queue::Query, "test", events, &*decide, now).await.unwrap();
}

/// An event of `testdata/events`.
pub(crate) fn example(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/events");
    serde_json::from_slice(&std::fs::read(format!("{folder}/{name}.json")).unwrap()).unwrap()
}

pub(crate) fn no_limits() -> RunLimits {
    RunLimits::default()
}
