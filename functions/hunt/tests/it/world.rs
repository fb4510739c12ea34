//! Servers, a state, and hits for all tests.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azul_vt::{
    http_client::Backoff,
    pipeline::RunLimits,
    settings::Settings,
    store::{Clock, Store, local},
};
use hunt::{Hunt, NAME, Report, Trigger};
use jiff::{SignedDuration, Timestamp};
use sim::{Date, Hit, Model};

/// The time of the tests, seconds since 1970: 2026-11-24T09:00:00Z.
pub(crate) const NOW: i64 = 1_795_510_800;

/// A clock that a test moves.
pub(crate) struct Moved(Mutex<Timestamp>);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moved {
    pub(crate) fn on(&self, by: SignedDuration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

pub(crate) struct World {
    pub(crate) virustotal: sim::VirusTotal,
    pub(crate) dispatcher: sim::Dispatcher,
    pub(crate) state: tempfile::TempDir,
    pub(crate) clock: Arc<Moved>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let world = Self {
            virustotal: sim::VirusTotal::start().await.unwrap(),
            dispatcher: sim::Dispatcher::start().await.unwrap(),
            state: tempfile::tempdir().unwrap(),
            clock: Arc::new(Moved(Mutex::new(Timestamp::from_second(NOW).unwrap()))),
        };
        // The stand-ins send no `Date`, because the clock of the tests differs from the real time.
        world.virustotal.set_date(Date::Untold);
        world.dispatcher.set_date(Date::Untold);
        world.dispatcher.register_source("vtlivehunt");
        world.dispatcher.register_source("vtretrohunt");
        world
    }

    pub(crate) fn store(&self) -> Store {
        local::open(self.state.path()).unwrap()
    }

    pub(crate) fn hunt(&self, more: &[(&str, &str)]) -> Hunt {
        let mut pairs = vec![
            ("VIRUSTOTAL", self.virustotal.url()),
            ("VIRUSTOTAL_APIKEY", self.virustotal.key()),
            ("PLUGIN_EVENTS_URL", self.dispatcher.url()),
            ("STATEDIR", self.state.path().display().to_string()),
        ];
        pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lookup = |name: &str| {
            pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        };
        let settings = Settings::read(&lookup).unwrap();
        let clock: Arc<dyn Clock> = Arc::<Moved>::clone(&self.clock);
        let mut hunt = Hunt::from_settings(settings, self.store(), clock).unwrap();
        hunt.backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(5));
        hunt
    }

    /// Adds `count` hits that are `apart` seconds apart; the last one is a minute old.
    pub(crate) fn hits(&self, count: usize, apart: i64) {
        for n in 0..count {
            let back = i64::try_from(count - n).unwrap() * apart;
            self.virustotal.hit(Hit::file(n, NOW - back, "rule"));
        }
    }

    pub(crate) async fn position(&self) -> Option<i64> {
        self.store().cursors.read(NAME).await.unwrap()
    }

    /// SHA-256 of the files whose events arrived.
    pub(crate) fn mapped(&self) -> BTreeSet<String> {
        let arrived = self.dispatcher.arrived();
        let mapped = arrived.of(Model::Binary);
        mapped.map(|e| e.event["entity"]["sha256"].as_str().unwrap().to_owned()).collect()
    }

    /// Category and hash of the downloads that were asked for, in order.
    pub(crate) fn requested(&self) -> Vec<(String, String)> {
        let downloads = self.dispatcher.arrived().downloads();
        downloads.into_iter().map(|download| (download.category, download.hash)).collect()
    }

    /// Asserts that the dispatcher found no problems and that the key did not leak.
    pub(crate) fn is_sound(&self) {
        assert_eq!(self.dispatcher.problems(), Vec::<String>::new());
        assert_eq!(self.virustotal.key_leaked(), Vec::<String>::new());
    }
}

/// Runs a tick, which must succeed.
pub(crate) async fn run(hunt: &Hunt) -> Report {
    hunt.run(&Trigger::Tick, &RunLimits::default()).await.unwrap()
}
