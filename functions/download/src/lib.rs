//! The job of `download`: fetches requested samples from VirusTotal into Azul, within the daily quotas of their
//! categories.
//!
//! Requests come by webhook, by polling the dispatcher or by a queue, and wait in the inbox. [`Download`] depends on
//! neither Lambda nor the command line.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use azul_vt::{
    azul::{
        dispatcher::{Dispatcher, Model},
        event::DownloadEvent,
    },
    http_client::HttpSetupError,
    metrics,
    pipeline::{RunLimits, assemble},
    settings::Settings,
    store::{
        Clock, QuotaUsage, Store, StoreError,
        failures::Subject,
        inbox::{Item, Queue},
        totals::{Totals, utc_day},
    },
    tasks::{EventFunction, TaskContext, TaskSpec},
    virustotal::VirusTotal,
    webhook::receive::Decide,
    worker::{Disposition, Work},
};
use jiff::SignedDuration;

mod capture;
pub mod events;
mod fetch;
mod transfer;
pub mod wanted;
mod work;

/// The function's name.
pub const NAME: &str = "download";
/// Number of waiting requests above which no more are polled. It is large, because a request that waits is not lost.
const MAX_WAITING: u64 = 5_000;
/// Days for which stored outcomes and leases of samples are kept.
const KEPT_DAYS: i64 = 8;

/// Reasons why `download` cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// `VIRUSTOTAL_APIKEY` is not set.
    #[error("VIRUSTOTAL_APIKEY is not set: set it to the API key that files are downloaded with")]
    NoKey,
}

/// Everything that downloading needs.
pub struct Download {
    common: TaskContext,
    virustotal: VirusTotal,
    /// The dispatcher's store of content.
    content: Dispatcher,
    known: Mutex<Known>,
}

/// Values that metrics need in addition to the state.
#[derive(Default)]
struct Known {
    /// The limits that requests named, by category.
    limits: BTreeMap<String, u64>,
    /// Categories whose gauges were set last.
    told: BTreeSet<String>,
}

impl Download {
    /// Builds `download` from the settings. Sends no request.
    ///
    /// # Errors
    /// [`SetupError`] if a setting is missing or cannot be used.
    pub fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        if settings.virustotal_apikey.is_none() {
            return Err(SetupError::NoKey);
        }
        let about = TaskSpec {
            queue: Queue::Download,
            author: events::author(),
            description: "Fetches binaries from VirusTotal that were asked for.",
            features: events::descriptors(),
            model: Model::Download,
            sources: <_>::default(),
            actions: &[],
            most_waiting: MAX_WAITING,
        };
        Ok(Self {
            virustotal: assemble::virustotal(&settings)?,
            content: assemble::content_store(&settings)?,
            known: Mutex::default(),
            common: TaskContext::new(settings, store, clock, about)?,
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventFunction for Download {
    const NAME: &'static str = NAME;
    type Event = DownloadEvent;

    fn common(&self) -> &TaskContext {
        &self.common
    }

    fn decide(&self) -> Box<Decide<DownloadEvent>> {
        Box::new(wanted::item)
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        let (store, now) = (&self.common.store, self.common.clock.now());
        let hour = SignedDuration::from_hours(1);
        if !self.common.settings.peers.may_delete(now)
            || !store.memory.remember("housekeeping", work::FOLDER, hour, now).await?
        {
            return Ok(());
        }
        let kept = SignedDuration::from_hours(KEPT_DAYS * 24);
        store.bundles.remove_older(work::FOLDER, kept, now).await?;
        store.leases.prune(now.saturating_sub(kept).unwrap_or(now)).await.map(drop)
    }

    async fn measure_own(&self) -> Result<(), StoreError> {
        let today = utc_day(self.common.clock.now());
        let totals = Totals::of(&*self.common.store.quotas, today).await?;
        let mut known = self.known();
        // A category without downloads today still has yesterday's value, so its gauge is set to 0.
        let mut stale = std::mem::take(&mut known.told);
        let mut fullest = 0;
        for QuotaUsage { category, used } in totals.categories {
            metrics::DOWNLOADS_TODAY.set([&category], used);
            if let Some(limit) = known.limits.get(&category) {
                fullest = fullest.max(used.saturating_mul(100) / limit.max(&1));
            }
            stale.remove(&category);
            known.told.insert(category);
        }
        for category in stale {
            metrics::DOWNLOADS_TODAY.set([&category], 0_u64);
        }
        metrics::FULLEST_QUOTA.set([NAME], fullest);
        metrics::DOWNLOADS_TODAY_TOTAL.set([NAME], totals.total);
        metrics::DOWNLOADS_TODAY_API_CHARGED.set([NAME], totals.api_charged);
        metrics::DOWNLOADS_TODAY_PCAPS.set([NAME], totals.pcaps);
        Ok(())
    }
}

#[async_trait]
impl Work for Download {
    async fn work(&self, item: &Item, limits: &RunLimits) -> Disposition {
        match self.event(item, limits).await {
            Ok(()) => Disposition::Done,
            Err(after) => after,
        }
    }

    fn subject(&self, item: &Item) -> Subject {
        serde_json::from_str(&item.body).map(|request| work::subject(&request)).unwrap_or_default()
    }

    async fn lost(&self, item: &Item, reason: String) -> Disposition {
        match self.give_up(item, reason).await {
            Ok(()) => Disposition::Done,
            Err(after) => after,
        }
    }
}
