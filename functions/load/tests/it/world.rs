//! Stand-ins of both sides, a state directory, and a `Load` between them.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use azul_vt::{
    azul::{
        dispatcher::{Dispatcher, DispatcherOptions},
        event::ModelVersion,
    },
    http_client::{self, Backoff},
    minute::Minute,
    pipeline::publish::{Publisher, PublisherOptions},
    settings::Settings,
    store::{Clock, GapKind, LedgerRow, MinuteState, local, rejects::Reject, rejects::Rejects},
    virustotal::{VirusTotal, VirusTotalOptions},
};
use jiff::Timestamp;
use load::{Load, NAME};
use sim::{Date, Unknown, feed::Style};

pub(crate) const NOW: &str = "2026-11-24T10:05:30Z";
pub(crate) const SEED: u64 = 7;
/// Number of records of a minute. It is more than one post takes.
pub(crate) const RECORDS: u64 = 60;

struct Fixed(Timestamp);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        self.0
    }
}

pub(crate) struct World {
    pub(crate) virustotal: sim::VirusTotal,
    pub(crate) dispatcher: sim::Dispatcher,
    pub(crate) state: tempfile::TempDir,
}

impl World {
    /// Minutes 0900 to 0905 are due, and served.
    pub(crate) async fn new() -> Self {
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

    pub(crate) fn minutes() -> Vec<String> {
        (0..6).map(|m| format!("2026112409{m:02}")).collect()
    }

    /// Makes a `Load` whose clock agrees with the peers' clocks.
    pub(crate) async fn load_at(&self, now: &str, more: &[(&str, &str)]) -> Load {
        self.tell(Date::At(now.parse().unwrap()));
        self.load_by(now, more).await
    }

    /// Sets the time that both peers report.
    pub(crate) fn tell(&self, date: Date) {
        self.virustotal.set_date(date);
        self.dispatcher.set_date(date);
    }

    /// Makes a `Load` whose clock shows `now`, whatever the peers report.
    pub(crate) async fn load_by(&self, now: &str, more: &[(&str, &str)]) -> Load {
        let settings = self.settings(more);
        let store = local::open(Path::new(&settings.state_dir)).unwrap();
        // The first run starts at 0900.
        let start: Minute = "202611240859".parse().unwrap();
        let _ = store.cursors.advance(NAME, None, start.unix_seconds()).await.unwrap();
        let clock = Arc::new(Fixed(now.parse().unwrap()));
        Load::from_settings(settings, store, clock).await.unwrap()
    }

    pub(crate) fn settings(&self, more: &[(&str, &str)]) -> Settings {
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
        Settings::read(&lookup).unwrap()
    }

    pub(crate) async fn load(&self) -> Load {
        self.load_at(NOW, &[]).await
    }

    /// Makes a `Load` whose only due minute is 0900, and whose timeouts and waits are very short.
    pub(crate) async fn impatient(&self, more: &[(&str, &str)]) -> Load {
        let one = [("FEED_LAG_MINUTES", "65")];
        let mut load = self.load_at(NOW, &[&one, more].concat()).await;
        let (moment, instant) = (Duration::from_millis(500), Duration::from_millis(1));
        let settings = &load.settings;
        let client = http_client::build(&settings.http).unwrap();
        let options = VirusTotalOptions {
            headers_timeout: moment,
            idle_timeout: moment,
            ..settings.virustotal_options()
        };
        let virustotal = VirusTotal::new(client.clone(), options, &settings.peers);
        let options = DispatcherOptions { post_timeout: moment, ping_timeout: moment };
        let dispatcher = Dispatcher::new(client, settings.events_url.clone(), options)
            .with_peers(&settings.peers);
        let options = PublisherOptions {
            min_backoff: instant,
            max_backoff: instant,
            ..PublisherOptions::new(ModelVersion::V6, settings.max_event_bytes)
        };
        load.virustotal = Some(virustotal);
        load.backoff = Backoff::new(instant, instant);
        load.pipeline.publisher = Publisher::new(dispatcher, options);
        load
    }

    /// The files that must have arrived for these minutes.
    pub(crate) fn expected(minutes: &[String]) -> BTreeSet<String> {
        let files = |minute: &String| {
            let minute = minute.clone();
            (0..RECORDS).map(move |index| sim::feed::sha256(SEED, &minute, index))
        };
        minutes.iter().flat_map(files).collect()
    }

    pub(crate) fn arrived(&self) -> BTreeSet<String> {
        self.dispatcher.arrived().sha256s()
    }
}

/// The last minute done.
pub(crate) async fn cursor(load: &Load) -> String {
    let seconds = load.store.cursors.read(NAME).await.unwrap().unwrap();
    Minute::from_unix_seconds(seconds).to_string()
}

/// Returns the ledger row of a minute.
pub(crate) async fn row(load: &Load, minute: &str) -> Option<LedgerRow> {
    load.store.ledger.get(minute.parse().unwrap()).await.unwrap()
}

/// The kind and the reason of a minute's gap.
pub(crate) async fn gap(load: &Load, minute: &str) -> (GapKind, String) {
    match row(load, minute).await.unwrap().state {
        MinuteState::Gap { kind, reason, .. } => (kind, reason),
        state => panic!("{minute} is {state:?}"),
    }
}

/// Every line kept under `rejects/`.
pub(crate) async fn rejects(load: &Load) -> Vec<Reject> {
    let kept = Rejects::new(Arc::clone(&load.store.bundles));
    let mut all = Vec::new();
    for object in kept.list().await.unwrap() {
        all.extend(kept.read(&object.key).await.unwrap().unwrap());
    }
    all
}
