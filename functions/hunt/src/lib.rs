//! The job of `hunt`: turns files that matched Livehunt rules into events in Azul, and requests their samples.
//!
//! [`Hunt`] depends on neither Lambda nor the command line. Its position is the date of the last notification that was
//! delivered. Each run also reads notifications that are a little older, and leaves out those that it knows.

use std::sync::Arc;

use async_trait::async_trait;
use azul_vt::{
    errors::chain,
    http_client::{Backoff, HttpSetupError},
    lambda::{self, Function, UnknownEvent},
    mapping::{HandlerSet, Mapper, MapperOptions, UnknownHandler},
    metrics,
    peers::latest_written,
    pipeline::{
        RunLimits, assemble,
        publish::{PublishError, Publisher, PublisherOptions, register_event},
    },
    settings::{FEED_RETENTION_HOURS, Settings},
    store::{Claim, Clock, Store, StoreError, local},
    virustotal::{VirusTotal, VirusTotalError, request_budget},
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::OnceCell, time::Duration};

mod deliver;
pub mod events;
pub mod hit;
mod pages;
mod rulesets;

pub use rulesets::{RateLimited, rate_limited};

use events::Events;

/// Name of the lease and of the position.
pub const NAME: &str = "hunt";
/// Time before the position from which a run reads again. Notifications may become visible this much later than their
/// date.
const OVERLAP: SignedDuration = SignedDuration::from_mins(10);
/// The longest first wait after a failed request to VirusTotal, and the longest of all waits.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// Reasons why `hunt` cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// HANDLERS names a handler that does not exist.
    #[error("HANDLERS: {0}")]
    Handlers(#[from] UnknownHandler),
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// `VIRUSTOTAL_APIKEY` is not set.
    #[error("VIRUSTOTAL_APIKEY is not set: set it to the API key whose rules hunt")]
    NoKey,
}

/// Reasons why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum HuntError {
    /// The state cannot be read or written.
    #[error("the state could not be kept")]
    Store(#[from] StoreError),
    /// VirusTotal does not give notifications.
    #[error("VirusTotal gives no notifications")]
    VirusTotal(#[from] VirusTotalError),
    /// The dispatcher does not take events.
    #[error("the dispatcher takes no events of hits")]
    Publish(#[from] PublishError),
    /// A page names a next page that was read before.
    #[error(
        "VirusTotal names the same next page again, so what comes after it cannot be read; the position stays before it"
    )]
    RepeatedPage,
    /// VirusTotal gives more pages, or more empty pages in a row, than a run reads.
    #[error(
        "VirusTotal gives page after page ({pages}, the last {empty} of them empty), and no last one; the position stays before what was not read"
    )]
    EndlessPages {
        /// Number of pages that were read.
        pages: usize,
        /// Number of empty pages in a row before the run ended.
        empty: usize,
    },
}

/// Report of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Owner that holds the lease, and since when; this run then did nothing. `None`: no other owner held it.
    pub held_by: Option<String>,
    /// Objects that were read.
    pub read: u64,
    /// Hits whose events the dispatcher has.
    pub delivered: u64,
    /// Hits that were known from an earlier run.
    pub known: u64,
    /// Hits that the settings do not want.
    pub unwanted: u64,
    /// Objects that are no files.
    pub other_objects: u64,
    /// Hits that are older than the run asked for.
    pub older: u64,
    /// Objects that cannot be read, and events and requests that the dispatcher refused. They are kept under
    /// `rejects/`.
    pub rejected: u64,
    /// Number of values of hits that were left out, because their JSON type is not the expected one.
    pub bad_values: u64,
    /// Samples that were not requested, because they are larger than `MAX_DOWNLOAD_SIZE_MB`.
    pub too_large: u64,
    /// Downloads that were asked for.
    pub requests: u64,
    /// The date of the last notification that is done, seconds since 1970.
    pub position: Option<i64>,
    /// Number of hours of notifications that VirusTotal no longer keeps and that were never read.
    pub lost_hours: i64,
    /// Rulesets that match more than their daily limit, so that VirusTotal does not report all of their hits.
    pub rate_limited: Vec<String>,
    /// Whether the run stopped before the end, because of a deadline, a quota, or a request to stop.
    pub paused: bool,
}

impl Report {
    /// Adds the report to the metrics.
    fn tell(&self) {
        for (outcome, count) in [
            ("delivered", self.delivered),
            ("known", self.known),
            ("unwanted", self.unwanted),
            ("other_object", self.other_objects),
            ("rejected", self.rejected),
            ("requested", self.requests),
        ] {
            metrics::HITS.add([NAME, outcome], count);
        }
        metrics::HUNT_LOST_HOURS.set([NAME], self.lost_hours);
        metrics::HUNT_RATE_LIMITED.set([NAME], self.rate_limited.len() as u64);
        if let Some(position) = self.position {
            metrics::HUNT_POSITION.set([NAME], position);
        }
    }
}

/// The work that an event asks a run to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Read new notifications.
    Tick,
    /// Read the matches of this Retrohunt job.
    Retrohunt(String),
}

impl Trigger {
    /// Reads an event of Lambda: `{"retrohunt":"<job>"}` names a job, and a tick ([`lambda::is_tick`]) only starts the
    /// function.
    ///
    /// # Errors
    /// [`UnknownEvent`] for any other event.
    pub fn of(event: &Value) -> Result<Self, UnknownEvent> {
        match event.get("retrohunt").and_then(Value::as_str) {
            Some(job) if !job.is_empty() => Ok(Self::Retrohunt(job.to_owned())),
            None if lambda::is_tick(event) => Ok(Self::Tick),
            _ => Err(UnknownEvent { takes: r#"{"retrohunt":"<job>"}"# }),
        }
    }
}

/// Everything that hunting needs.
pub struct Hunt {
    /// Settings.
    pub settings: Settings,
    /// State.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Waits between attempts at a page.
    pub backoff: Backoff,
    virustotal: VirusTotal,
    publisher: Publisher,
    events: Events,
    registered: OnceCell<()>,
}

impl Hunt {
    /// Builds `hunt` from the settings. Sends no request.
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
        Self::without_key(settings, store, clock)
    }

    /// Builds `hunt` as [`Hunt::from_settings`] does, but without a VirusTotal key. [`Hunt::retry`] needs no key,
    /// because it sends no request to VirusTotal.
    ///
    /// # Errors
    /// [`SetupError`] if a setting cannot be used.
    pub fn without_key(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let version = settings.model_version;
        let mapper = Mapper::new(MapperOptions {
            handlers: HandlerSet::parse(&settings.handlers)?,
            model_version: version,
            author: events::author(),
            source: settings.hunt.source.clone(),
            max_age: None,
        });
        let max_event_bytes = settings.max_event_bytes;
        let options = PublisherOptions::new(version, max_event_bytes);
        let [first, longest] = WAITS;
        Ok(Self {
            virustotal: assemble::virustotal(&settings)?,
            publisher: Publisher::new(assemble::dispatcher(&settings)?, options),
            events: Events { mapper, model_version: version, max_event_bytes },
            backoff: Backoff::new(first, longest),
            registered: OnceCell::new(),
            settings,
            store,
            clock,
        })
    }

    /// Does the work that a trigger asks for. If another owner holds the lease, the report names it.
    ///
    /// # Errors
    /// See [`HuntError`]. Hits that were delivered before the error stay delivered.
    pub async fn run(&self, trigger: &Trigger, limits: &RunLimits) -> Result<Report, HuntError> {
        let mut report = Report::default();
        if request_budget::is_paused(&self.store, self.clock.now()).await? {
            report.paused = true;
            return Ok(report);
        }
        let claim = match Claim::take(&self.store.leases, &self.clock, NAME, limits).await? {
            Ok(claim) => claim,
            Err(owner) => {
                report.held_by = Some(owner);
                return Ok(report);
            }
        };
        let outcome = self.hunt(trigger, &claim.limits, &mut report).await;
        report.tell();
        let is_over = claim.limits.reached();
        claim.give_back().await?;
        match outcome {
            // The next run sends the events again that were in flight.
            Err(HuntError::Publish(error)) if is_over => {
                tracing::info!(error = chain(&error), "stopped while events were sent");
                report.paused = true;
            }
            outcome => outcome?,
        }
        Ok(report)
    }

    async fn hunt(
        &self,
        trigger: &Trigger,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let register = self.registered.get_or_try_init(|| self.register(limits)).await;
        match register {
            Ok(()) => {}
            Err(PublishError::Interrupted { .. }) => {
                report.paused = true;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        match trigger {
            Trigger::Tick => {
                self.look_at_rulesets(limits, report).await?;
                if request_budget::is_paused(&self.store, self.clock.now()).await? {
                    report.paused = true;
                    return Ok(());
                }
                self.tick(limits, report).await
            }
            Trigger::Retrohunt(job) => self.pages(Some(job), None, limits, report).await,
        }
    }

    async fn register(&self, limits: &RunLimits) -> Result<(), PublishError> {
        let event = register_event(
            &events::author(),
            &self.settings.contact,
            "Brings what rules of VirusTotal's Livehunt matched.",
            events::descriptors(),
            self.clock.now(),
            self.settings.model_version,
        );
        self.publisher.register(&event, limits).await
    }

    async fn tick(&self, limits: &RunLimits, report: &mut Report) -> Result<(), HuntError> {
        let now = self.now().as_second();
        let oldest = now.saturating_sub(FEED_RETENTION_HOURS * 3600);
        let known = self.store.cursors.read(NAME).await?;
        let position = match known {
            Some(position) => position,
            None => self.first_position(now)?,
        };
        report.position = known;
        self.require_past(position)?;
        if position < oldest {
            report.lost_hours = oldest.saturating_sub(position) / 3600 + 1;
            let hours = report.lost_hours;
            tracing::error!(hours, "notifications of that long are lost: VirusTotal keeps 7 days");
        }
        let from = position.max(oldest).saturating_sub(OVERLAP.as_secs());
        self.pages(None, Some(from), limits, report).await
    }

    /// Refuses a position in the future. A clock that was ahead leaves such a position, and no hit would be read until
    /// its time comes.
    fn require_past(&self, position: i64) -> Result<(), StoreError> {
        let now = self.clock.now();
        if position <= latest_written(now).as_second() || !self.settings.peers.confirm(now) {
            return Ok(());
        }
        let what = format!("the cursor {NAME}");
        let reason = format!(
            "it is second {position} of Unix time, which is to come: set its position to the date of the last hit that \
             was delivered"
        );
        Err(StoreError::Damaged { what, reason })
    }

    /// Returns the local time, or the earliest time of a peer if the local clock is ahead of it.
    fn now(&self) -> Timestamp {
        self.settings.peers.earliest(self.clock.now())
    }

    /// Returns the position of the first run: after the Go plugin's last notification if there is one, otherwise the
    /// start of the backlog.
    fn first_position(&self, now: i64) -> Result<i64, StoreError> {
        if let Some(position) = local::go_plugin_hunt(&self.settings.state_dir)? {
            tracing::info!(
                position,
                "going on behind the Go plugin's last notification (livehunt)"
            );
            return Ok(position);
        }
        Ok(now.saturating_sub(self.settings.hunt.backlog.as_secs()))
    }
}

#[async_trait]
impl Function for Hunt {
    const NAME: &'static str = NAME;
    // The margin lets a run end at the border of a page.
    const DEADLINE_MARGIN: Duration = Duration::from_secs(10);

    async fn handle(&self, event: &Value, limits: &RunLimits) -> Result<Value, lambda::Error> {
        Ok(json!(self.run(&Trigger::of(event)?, limits).await?))
    }
}
