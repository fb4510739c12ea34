//! The job of `download`: samples that were asked for are fetched from VirusTotal into Azul, within the daily
//! quotas of their categories.
//!
//! Requests come by webhook, by polling the dispatcher or by a queue, and wait in the inbox. A [`Download`]
//! knows no Lambda and no command line.

use std::sync::Arc;

use async_trait::async_trait;
use azul_vt::{
    azul::{
        dispatcher::{Dispatcher, Model},
        event::DownloadEvent,
    },
    http_client::HttpSetupError,
    metrics::Outcome as Label,
    pipeline::{Limits, assemble},
    settings::Settings,
    store::{
        Clock, Store, StoreError,
        inbox::{Item, Queue},
        totals::{Totals, utc_day},
    },
    tasks::{About, Common, Tasks},
    virustotal::VirusTotal,
    webhook::receive::Decide,
    worker::{After, Work},
};
use jiff::SignedDuration;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

mod capture;
pub mod events;
mod fetch;
mod transfer;
pub mod wanted;
mod work;

/// Requests that may wait: nothing is lost that waits longer, so it is much.
const MOST_WAITING: u64 = 5_000;
/// Outcomes that were never told, and leases of samples, are forgotten after so many days.
const KEPT_DAYS: i64 = 8;

/// Why there is no `download` to run.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// There is no key.
    #[error("VIRUSTOTAL_APIKEY is not set: set it to the API key that files are downloaded with")]
    NoKey,
}

/// Everything that downloading needs.
pub struct Download {
    common: Common,
    virustotal: VirusTotal,
    /// The dispatcher's store of content.
    content: Dispatcher,
    outcomes: Outcomes,
}

/// What became of requests since the process began.
#[derive(Default)]
struct Outcomes(Family<Label, Counter>);

impl Outcomes {
    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&Label { outcome }).inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Category {
    category: String,
}

impl Download {
    /// What the settings describe. Asks nobody.
    ///
    /// # Errors
    /// A setting that is missing or cannot be used.
    pub fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        if settings.virustotal_apikey.is_none() {
            return Err(SetupError::NoKey);
        }
        let about = About {
            queue: Queue::Download,
            author: events::author(),
            description: "Fetches binaries from VirusTotal that were asked for.",
            features: events::descriptors(),
            model: Model::Download,
            sources: <_>::default(),
            actions: &[],
            most_waiting: MOST_WAITING,
        };
        Ok(Self {
            virustotal: VirusTotal::from_settings(&settings)?,
            content: assemble::content_store(&settings)?,
            outcomes: Outcomes::default(),
            common: Common::new(settings, store, clock, about)?,
        })
    }
}

#[async_trait]
impl Tasks for Download {
    type Event = DownloadEvent;

    fn common(&self) -> &Common {
        &self.common
    }

    fn decide(&self) -> Box<Decide<DownloadEvent>> {
        Box::new(wanted::item)
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        let (store, now) = (&self.common.store, self.common.clock.now());
        let hour = SignedDuration::from_hours(1);
        if !store.memory.remember("housekeeping", work::FOLDER, hour, now).await? {
            return Ok(());
        }
        let kept = SignedDuration::from_hours(KEPT_DAYS * 24);
        store.bundles.remove_older(work::FOLDER, kept, now).await?;
        store.leases.prune(now.saturating_sub(kept).unwrap_or(now)).await.map(drop)
    }

    async fn measure(&self, registry: &mut Registry) -> Result<(), StoreError> {
        let today = utc_day(self.common.clock.now());
        let totals = Totals::of(&*self.common.store.quotas, today).await?;
        registry.register(
            "virustotal_plugin_downloads",
            "Requests by what became of them",
            self.outcomes.0.clone(),
        );
        let categories = Family::<Category, Gauge>::default();
        for usage in totals.categories {
            let gauge = categories.get_or_create_owned(&Category { category: usage.category });
            gauge.set(i64::try_from(usage.used).unwrap_or(i64::MAX));
        }
        registry.register(
            "virustotal_plugin_downloads_today",
            "Downloads of this UTC day by category",
            categories,
        );
        for (name, help, value) in [
            ("total", "Downloads of this UTC day", totals.total),
            ("api_charged", "Downloads of this UTC day that cost quota", totals.api_charged),
            ("pcaps", "Network captures of this UTC day", totals.pcaps),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(format!("virustotal_plugin_downloads_today_{name}"), help, gauge);
        }
        Ok(())
    }
}

#[async_trait]
impl Work for Download {
    async fn work(&self, item: &Item, limits: &Limits) -> After {
        match self.event(item, limits).await {
            Ok(()) => After::Done,
            Err(after) => after,
        }
    }

    async fn lost(&self, item: &Item, reason: String) -> After {
        match self.give_up(item, reason).await {
            Ok(()) => After::Done,
            Err(after) => after,
        }
    }
}
