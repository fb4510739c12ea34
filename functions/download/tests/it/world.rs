//! Servers, a state, and requests for all tests.

use std::sync::{Arc, Mutex, PoisonError};

use azul_vt::{
    azul::incoming,
    pipeline::RunLimits,
    settings::Settings,
    store::{
        Clock, Store, SystemClock,
        inbox::{InboxCounts, Queue},
        local,
        totals::{Totals, utc_day},
    },
    tasks::EventFunction as _,
    webhook::receive,
    worker::Drained,
};
use download::Download;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A clock that a test moves.
pub(crate) struct Moved(Mutex<Timestamp>);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moved {
    pub(crate) fn at(time: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(time.parse().unwrap())))
    }

    pub(crate) fn on(&self, by: SignedDuration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

pub(crate) struct World {
    pub(crate) virustotal: sim::VirusTotal,
    pub(crate) dispatcher: sim::Dispatcher,
    state: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self {
            virustotal: sim::VirusTotal::start().await.unwrap(),
            dispatcher: sim::Dispatcher::start().await.unwrap(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn store(&self) -> Store {
        local::open(self.state.path()).unwrap()
    }

    pub(crate) fn download_at(&self, clock: Arc<dyn Clock>, more: &[(&str, &str)]) -> Download {
        let mut pairs = vec![
            ("VIRUSTOTAL", self.virustotal.url()),
            ("VIRUSTOTAL_APIKEY", self.virustotal.key()),
            ("PLUGIN_EVENTS_URL", self.dispatcher.url()),
            ("PLUGIN_DATA_URL", self.dispatcher.url()),
            ("STATEDIR", self.state.path().display().to_string()),
            ("CONTENT_HOSTS", self.virustotal.content_url()),
        ];
        pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lookup = |name: &str| {
            pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        };
        let settings = Settings::read(&lookup).unwrap();
        Download::from_settings(settings, self.store(), clock).unwrap()
    }

    pub(crate) fn download_on(&self, clock: &Arc<Moved>, more: &[(&str, &str)]) -> Download {
        self.download_at(Arc::<Moved>::clone(clock), more)
    }

    pub(crate) fn download_alone(&self, clock: &Arc<Moved>) -> Download {
        self.download_on(clock, &[("WORKERS", "1")])
    }

    pub(crate) fn download(&self, more: &[(&str, &str)]) -> Download {
        self.download_at(Arc::new(SystemClock), more)
    }

    /// Lets VirusTotal have this content. Returns the request for it, with a direct link.
    pub(crate) fn with_link(&self, content: &str) -> Value {
        let mut request = self.by_hash(content);
        let sha256 = request["entity"]["hash"].as_str().unwrap().to_owned();
        request["entity"]["direct_url"] = json!(self.virustotal.link(&sha256));
        request
    }

    /// Lets VirusTotal have this content. Returns the request for it, without a link.
    pub(crate) fn by_hash(&self, content: &str) -> Value {
        let sha256 = self.virustotal.sample(content.to_owned());
        sim::lookup::download_event(&sha256, "rules/one", 100)
    }

    /// Returns the action and the reason of each outcome that was posted, in order.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        let arrived = self.dispatcher.arrived();
        let told = arrived.of(sim::Model::Download).map(|published| {
            let reason = &published.event["entity"]["metadata"]["reason"];
            (published.action.clone(), reason.as_str().unwrap_or_default().to_owned())
        });
        told.collect()
    }

    /// The actions that were told, in order.
    pub(crate) fn actions(&self) -> Vec<String> {
        self.told().into_iter().map(|(action, _)| action).collect()
    }

    /// SHA-256 of the samples whose events arrived, sorted.
    pub(crate) fn sourced(&self) -> Vec<String> {
        let arrived = self.dispatcher.arrived();
        let sourced = arrived.of(sim::Model::Binary).filter(|e| e.action == "sourced");
        let mut sourced: Vec<String> =
            sourced.map(|e| e.event["entity"]["sha256"].as_str().unwrap().to_owned()).collect();
        sourced.sort();
        sourced
    }

    pub(crate) async fn totals(&self, at: Timestamp) -> Totals {
        Totals::of(&*self.store().quotas, utc_day(at)).await.unwrap()
    }

    pub(crate) async fn waiting(&self, clock: &dyn Clock) -> InboxCounts {
        self.store().inbox.counts(Queue::Download, clock.now()).await.unwrap()
    }

    /// Asserts that the dispatcher found no problems and that the key did not leak.
    pub(crate) fn is_sound(&self) {
        assert_eq!(self.dispatcher.problems(), Vec::<String>::new());
        assert_eq!(self.virustotal.key_leaked(), Vec::<String>::new());
    }
}

/// Puts events in as a webhook would.
pub(crate) async fn put(download: &Download, events: impl IntoIterator<Item = Value>) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("test-{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let events = events.into_iter().map(incoming::from_value).collect();
    let decide = download.decide();
    let common = download.common();
    let now = common.clock.now();
    let kept = receive::accept(&common.store, Queue::Download, &name, events, &*decide, now)
        .await
        .unwrap();
    assert_eq!((kept.ignored, kept.rejected), (0, 0), "{kept:?}");
}

/// Works the items that are due.
pub(crate) async fn drain(download: &Download) -> Drained {
    download.drain(false, &RunLimits::default()).await.unwrap()
}
