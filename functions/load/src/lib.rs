//! The job of `load`: delivers the minutes of VirusTotal's file feed as events to the dispatcher.
//!
//! [`Load`] depends on neither Lambda nor the command line. It derives its work from the state alone, so a tick may be
//! repeated, killed or run twice at any point.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use azul_vt::{
    errors::chain,
    http_client::{Backoff, HttpSetupError},
    lambda::{self, Function},
    mapping::Mapper,
    metrics,
    minute::{Minute, NotAMinute},
    peers::Peer,
    pipeline::{
        DeliverError, Pipeline, RunLimits,
        assemble::{self, AssembleError},
        posted,
        publish::PublishError,
    },
    settings::{FEED_RETENTION_HOURS, Settings},
    store::{Clock, Counts, Store, StoreError, inbox::Delivery, local},
    virustotal::{VirusTotal, VirusTotalError},
    worker::Delivered,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

mod claim;
mod housekeeping;
mod minutes;
mod plan;
mod replay;
mod tick;
mod trigger;
mod worker;

use claim::MinuteEnd;
pub use plan::Plan;
pub use replay::Planned;
use replay::Replay;
pub use trigger::{NotATrigger, Trigger};

/// Name of the cursor, and of the lease that is needed to move it. A minute's lease is `load-<minute>`.
pub const NAME: &str = "load";
/// Longest first wait before a failed request to VirusTotal is tried again.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait between two tries of a request to VirusTotal, unless VirusTotal asks for more.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Reasons why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no key to ask VirusTotal with.
    #[error(
        "VIRUSTOTAL_APIKEY is not set: set it to the API key of an account with the file feed licence"
    )]
    NoKey,
    /// VirusTotal refuses the request for a minute, so an operator must act.
    #[error("VirusTotal refused minute {minute}")]
    Refused {
        /// The minute asked for.
        minute: Minute,
        /// VirusTotal's answer, and what an operator can do.
        #[source]
        source: VirusTotalError,
    },
    /// A minute was not delivered; the cursor stays before it.
    #[error("minute {minute} was not delivered; the next run goes on there")]
    Minute {
        /// The minute that was not delivered.
        minute: Minute,
        /// Reason of the failure.
        #[source]
        source: DeliverError,
    },
    /// The dispatcher does not take the plugin's registration, or cannot be reached.
    #[error("the plugin could not be registered at the dispatcher; nothing was done")]
    Register(#[source] PublishError),
    /// A posted body was not delivered; it stays staged.
    #[error("a posted body was not delivered; it stays staged for the next run")]
    Posted(#[source] DeliverError),
    /// An object was not delivered completely in the time of an invocation.
    #[error("the object {key} was not delivered in time; the next try begins at its first line")]
    Object {
        /// Key of the object.
        key: String,
    },
    /// The state cannot be read or written.
    #[error("the state could not be kept")]
    Store(#[from] StoreError),
    /// The range of minutes cannot be loaded.
    #[error("{0}")]
    Range(String),
    /// A minute of a range is written wrongly.
    #[error(transparent)]
    NotAMinute(#[from] NotAMinute),
}

/// Report of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Owner that holds the lease, and since when; this run then did nothing. `None`: no other owner held it.
    pub held_by: Option<String>,
    /// Number of bundles that were loaded completely.
    pub loaded: u64,
    /// Number of minutes for which VirusTotal had no bundle.
    pub missing: u64,
    /// Number of minutes whose bundle could not be decoded.
    pub failed: u64,
    /// Number of minutes that were given up, for example because VirusTotal no longer has them.
    pub buried: u64,
    /// Number of posted bodies that an earlier process had left and that were delivered.
    pub swept: u64,
    /// Counts of the records of this run.
    pub counts: Counts,
    /// The last minute that is done.
    pub cursor: Option<Minute>,
    /// Whether the run stopped before every due minute was loaded, because of a deadline, a limit, or a request to
    /// stop.
    pub paused: bool,
    /// Number of minutes that were put into the queue for workers.
    pub planned: u64,
    /// Number of due minutes that were left to workers, or to the owners that are loading them.
    pub left: u64,
}

impl Report {
    /// Whether the run did no work.
    pub fn is_idle(&self) -> bool {
        self.loaded + self.missing + self.failed + self.buried + self.swept == 0
    }

    /// Adds a later report. The owner of the lease, the pause and the minutes that are left are taken from it.
    fn add(&mut self, later: Self) {
        self.add_work(&later);
        (self.held_by, self.paused, self.left) = (later.held_by, later.paused, later.left);
    }

    /// Adds the work of another report.
    fn add_work(&mut self, other: &Self) {
        self.loaded += other.loaded;
        self.missing += other.missing;
        self.failed += other.failed;
        self.buried += other.buried;
        self.swept += other.swept;
        self.counts.add(other.counts);
        self.cursor = other.cursor.or(self.cursor);
        self.planned += other.planned;
    }
}

/// A step of a run that the observer is told.
#[derive(Clone, Debug)]
pub enum Step {
    /// This number of minutes is due, including those that are being loaded.
    Due(u64),
    /// This minute is begun.
    Minute(Minute),
    /// This minute has ended.
    Done(Minute),
}

/// Everything that loading needs.
pub struct Load {
    /// Settings.
    pub settings: Settings,
    /// State.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The feed; `None` without a key.
    pub virustotal: Option<VirusTotal>,
    /// Pipeline that turns lines into events and delivers them.
    pub pipeline: Pipeline,
    /// Mapper without an age limit, for replays.
    pub ageless: Arc<Mapper>,
    /// Whether minutes are sent to workers if the cursor is far behind.
    pub fan_out: bool,
    /// Whether a tick delivers posted bodies that were left. It is false if `ingest` runs in the same process, because
    /// `ingest` knows which bodies are being delivered.
    pub sweeps: bool,
    /// Waits between attempts at a minute, unless VirusTotal asks for more.
    pub backoff: Backoff,
    /// Observer that is told the steps of a run.
    pub observer: Box<dyn Fn(Step) + Send + Sync>,
}

/// Reasons why `load` cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The pipeline cannot be assembled.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// VirusTotal's client cannot be set up.
    #[error(transparent)]
    VirusTotal(#[from] VirusTotalError),
}

impl Load {
    /// Builds `load` from the settings, and reads the rules.
    ///
    /// # Errors
    /// [`SetupError`] if a setting or a rule cannot be used.
    pub async fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let virustotal = match &settings.virustotal_apikey {
            Some(_) => Some(assemble::virustotal(&settings)?),
            None => None,
        };
        Ok(Self {
            pipeline: Pipeline::from_settings(&settings, store.clone()).await?,
            ageless: Arc::new(assemble::mapper(&settings, true).map_err(AssembleError::from)?),
            virustotal,
            fan_out: settings.minutes_queue.is_some(),
            sweeps: true,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            settings,
            store,
            clock,
            observer: Box::new(|_| ()),
        })
    }

    /// Does what a trigger asks for.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn run(&self, trigger: &Trigger, limits: &RunLimits) -> Result<Report, LoadError> {
        match trigger {
            Trigger::Tick => self.tick(limits).await,
            Trigger::Range { from, to } => self.replay(*from, *to, false, limits).await,
            Trigger::Object { key } => self.object(key, limits).await,
        }
    }

    /// Runs as [`Load::run`] does, for callers of an invocation that only see whether it failed.
    async fn invoked(&self, trigger: &Trigger, limits: &RunLimits) -> Result<Report, LoadError> {
        match (trigger, self.run(trigger, limits).await) {
            // The invocation must fail, because no later run comes back to an object.
            (Trigger::Object { key }, Ok(Report { paused: true, .. })) => {
                Err(LoadError::Object { key: key.clone() })
            }
            // A deployment without a key loads only posted bodies, so the missing feed is not an error.
            (Trigger::Tick, Err(LoadError::NoKey)) => Ok(Report::default()),
            (_, outcome) => outcome,
        }
    }

    /// Works the messages that a queue handed over: minutes, and S3's notifications of new objects.
    async fn deliver_all(
        &self,
        deliveries: &[Delivery],
        limits: &RunLimits,
    ) -> Result<Delivered, lambda::Error> {
        let (mut minutes, mut failed) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            let Some(triggers) = Trigger::of_message(&delivery.body) else {
                minutes.push(delivery.clone());
                continue;
            };
            if let Err(error) = self.news(triggers, limits).await {
                let id = &delivery.message_id;
                tracing::error!(
                    id,
                    error = chain(&*error),
                    "an object is not loaded; its message stays"
                );
                failed.push(delivery.message_id.clone());
            }
        }
        if minutes.is_empty() {
            return Ok(Delivered { failed, stopped: None });
        }
        let mut delivered = self.deliver(&minutes, limits).await?;
        delivered.failed.append(&mut failed);
        Ok(delivered)
    }

    async fn news(
        &self,
        triggers: Result<Vec<Trigger>, NotATrigger>,
        limits: &RunLimits,
    ) -> Result<(), lambda::Error> {
        for trigger in triggers? {
            self.invoked(&trigger, limits).await?;
        }
        Ok(())
    }

    /// Delivers an object that was put under `incoming/`.
    async fn object(&self, key: &str, limits: &RunLimits) -> Result<Report, LoadError> {
        let mut report = Report::default();
        if !self.register(limits, &mut report).await? {
            return Ok(report);
        }
        let posted = posted::deliver(&self.pipeline, key, self.clock.now(), limits).await;
        match posted.map_err(LoadError::Posted)? {
            Some(posted) => {
                report.swept = 1;
                report.counts = posted.counts;
                metrics::count(NAME, &posted.counts, self.clock.now());
            }
            None => report.paused = limits.reached(),
        }
        Ok(report)
    }

    /// Whether as many bundles were loaded under these limits as `PACKAGE_LIMIT` allows.
    pub fn is_sated(&self, limits: &RunLimits) -> bool {
        self.settings.package_limit.is_some_and(|most| limits.bundles() >= most)
    }

    /// Registers this plugin at Azul, once for each process. Returns false if the run was asked to stop meanwhile.
    async fn register(&self, limits: &RunLimits, report: &mut Report) -> Result<bool, LoadError> {
        match self.pipeline.register(self.clock.now(), limits).await {
            Ok(()) => Ok(true),
            Err(PublishError::Interrupted { .. }) => {
                report.paused = true;
                Ok(false)
            }
            Err(error) => Err(LoadError::Register(error)),
        }
    }

    /// Returns the newest minute that VirusTotal should have by now.
    pub fn newest(&self) -> Minute {
        newest(&self.settings, self.now())
    }

    /// Returns the oldest minute that VirusTotal still has.
    fn horizon(&self) -> Minute {
        Minute::of(self.now()).plus(-FEED_RETENTION_HOURS * 60)
    }

    /// Returns the local time, or the earliest time of a peer if the local clock is ahead of it.
    fn now(&self) -> Timestamp {
        self.settings.peers.earliest(self.clock.now())
    }

    /// Whether a minute is older than VirusTotal keeps. Always false unless VirusTotal confirms the local clock.
    fn is_too_old(&self, minute: Minute) -> bool {
        let peers = &self.settings.peers;
        minute < self.horizon() && peers.confirms(Peer::VirusTotal, self.clock.now())
    }
}

#[async_trait]
impl Function for Load {
    const NAME: &'static str = NAME;
    // The margin lets a run end at the border of a batch.
    const DEADLINE_MARGIN: Duration = Duration::from_secs(10);

    async fn handle(&self, event: &Value, limits: &RunLimits) -> Result<Value, lambda::Error> {
        if let Some(deliveries) = Delivery::all_of(event) {
            return Ok(self.deliver_all(&deliveries, limits).await?.answer());
        }
        let mut reports = Vec::new();
        for trigger in Trigger::parse(event)? {
            reports.push(json!(self.invoked(&trigger, limits).await?));
        }
        Ok(Value::Array(reports))
    }

    async fn measure(&self) -> Result<(), StoreError> {
        let now = self.clock.now().as_second();
        metrics::GAPS.set([NAME], self.store.ledger.totals().await?.gaps);
        let gaps = self.store.ledger.gaps(1).await?;
        let oldest = gaps.first().map_or(0, |gap| now.saturating_sub(gap.minute.unix_seconds()));
        metrics::OLDEST_GAP.set([NAME], oldest);
        if let Some(cursor) = self.store.cursors.read(NAME).await? {
            metrics::LAST_LOADED.set([NAME], cursor);
            metrics::LAG.set([NAME], now.saturating_sub(cursor));
        }
        Ok(())
    }
}

/// The newest minute that VirusTotal should have at `now`.
fn newest(settings: &Settings, now: Timestamp) -> Minute {
    Minute::of(now).plus(-settings.feed_lag_minutes)
}

/// Returns the cursor of the first run: the Go plugin's last minute if there is one, otherwise the minute before the
/// backlog.
fn first_position(settings: &Settings, now: Timestamp) -> Result<Minute, LoadError> {
    if let Some(minute) = local::go_plugin_position(&settings.state_dir)? {
        tracing::info!(%minute, "going on behind the last minute of the Go plugin (v3_files)");
        return Ok(minute);
    }
    let backlog = Minute::of(now).plus(-settings.feed_backlog_hours * 60);
    Ok(backlog.min(newest(settings, now)).plus(-1))
}

/// Returns the wait before a gap is tried again. It grows with the attempts, because a bundle may be late by minutes,
/// hours or days.
fn gap_delay(attempts: u32) -> SignedDuration {
    match attempts {
        0 | 1 => SignedDuration::from_mins(10),
        2 => SignedDuration::from_hours(1),
        3 => SignedDuration::from_hours(6),
        _ => SignedDuration::from_hours(24),
    }
}
