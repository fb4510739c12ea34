//! The job of `load`: the minutes of VirusTotal's file feed, each as events at the dispatcher.
//!
//! A [`Load`] knows no Lambda and no command line. It derives what to do from the state alone, so a tick
//! may be repeated, killed or run twice at any point.

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

/// Name of the cursor, and of the lease of whoever moves it. A minute's lease is `load-<minute>`.
pub const NAME: &str = "load";
/// Longest first wait after an answer that was none …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// … and the longest of all.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no key to ask VirusTotal with.
    #[error(
        "VIRUSTOTAL_APIKEY is not set: set it to the API key of an account with the file feed licence"
    )]
    NoKey,
    /// VirusTotal refuses: an operator must act.
    #[error("VirusTotal refused minute {minute}")]
    Refused {
        /// The minute asked for.
        minute: Minute,
        /// What it said, and what to do.
        #[source]
        source: VirusTotalError,
    },
    /// A minute was not delivered; the cursor stays before it.
    #[error("minute {minute} was not delivered; the next run goes on there")]
    Minute {
        /// The minute.
        minute: Minute,
        /// Why.
        #[source]
        source: DeliverError,
    },
    /// The dispatcher does not take the plugin's registration, or cannot be reached.
    #[error("the plugin could not be registered at the dispatcher; nothing was done")]
    Register(#[source] PublishError),
    /// A posted body was not delivered; it stays staged.
    #[error("a posted body was not delivered; it stays staged for the next run")]
    Posted(#[source] DeliverError),
    /// An object was not delivered to its end in the time of an invocation.
    #[error("the object {key} was not delivered in time; the next try begins at its first line")]
    Object {
        /// Its key.
        key: String,
    },
    /// The state could not be kept.
    #[error("the state could not be kept")]
    Store(#[from] StoreError),
    /// The range to load is not one.
    #[error("{0}")]
    Range(String),
    /// A range was written wrongly.
    #[error(transparent)]
    NotAMinute(#[from] NotAMinute),
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Who else was at work, and since when: then nothing was done here.
    pub held_by: Option<String>,
    /// Bundles loaded to their end.
    pub loaded: u64,
    /// Minutes that VirusTotal had no bundle for.
    pub missing: u64,
    /// Minutes whose bundle could not be decoded.
    pub failed: u64,
    /// Minutes given up because they left VirusTotal's seven days.
    pub buried: u64,
    /// Posted bodies delivered that an earlier process had left.
    pub swept: u64,
    /// Counted in this run.
    pub counts: Counts,
    /// The last minute done.
    pub cursor: Option<Minute>,
    /// It stopped before everything due was loaded: deadline, limit, or asked to end.
    pub paused: bool,
    /// Minutes put into the queue for workers.
    pub planned: u64,
    /// Minutes that are due and were left to others: to workers, or to whoever is at them.
    pub left: u64,
}

impl Report {
    /// Whether it was nothing.
    pub fn is_idle(&self) -> bool {
        self.loaded + self.missing + self.failed + self.buried + self.swept == 0
    }

    /// Adds what came after; who is at work and what is left is as it was then.
    fn add(&mut self, later: Self) {
        self.add_work(&later);
        (self.held_by, self.paused, self.left) = (later.held_by, later.paused, later.left);
    }

    /// Adds what was done beside.
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

/// What to tell while it runs.
#[derive(Clone, Debug)]
pub enum Step {
    /// So many minutes are due, those that are being loaded among them.
    Due(u64),
    /// A minute is begun.
    Minute(Minute),
    /// A minute is over.
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
    /// Lines to events.
    pub pipeline: Pipeline,
    /// The mapper for replays: without an age limit.
    pub ageless: Arc<Mapper>,
    /// Whether minutes go to workers where the feed is far behind.
    pub fan_out: bool,
    /// Whether a tick delivers posted bodies that were left: not where `ingest` runs in the same process and knows
    /// which of them are being delivered.
    pub sweeps: bool,
    /// Waits between attempts at a minute, unless VirusTotal asks for more.
    pub backoff: Backoff,
    /// Is told of each minute.
    pub observer: Box<dyn Fn(Step) + Send + Sync>,
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No pipeline.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// VirusTotal's client cannot be set up.
    #[error(transparent)]
    VirusTotal(#[from] VirusTotalError),
}

impl Load {
    /// What the settings describe. Reads the rules.
    ///
    /// # Errors
    /// A setting or a rule that cannot be used.
    pub async fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let virustotal = match &settings.virustotal_apikey {
            Some(_) => Some(VirusTotal::from_settings(&settings)?),
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

    /// As [`Load::run`], for whoever knows of an invocation only that it failed or not.
    async fn invoked(&self, trigger: &Trigger, limits: &RunLimits) -> Result<Report, LoadError> {
        match (trigger, self.run(trigger, limits).await) {
            // Nobody else comes back to an object.
            (Trigger::Object { key }, Ok(Report { paused: true, .. })) => {
                Err(LoadError::Object { key: key.clone() })
            }
            // Without a key there are posts at most, and no feed to fail at.
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

    /// Delivers an object that somebody put under `incoming/`.
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

    /// Tells Azul of this plugin, once a process. False where it was asked to stop meanwhile.
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

    /// The newest minute that VirusTotal should have by now.
    pub fn newest(&self) -> Minute {
        newest(&self.settings, self.now())
    }

    /// The oldest minute that VirusTotal still has.
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
    // For ending at the border of a batch.
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

/// Where the first run starts: behind the Go plugin's last minute, else the backlog.
fn first_position(settings: &Settings, now: Timestamp) -> Result<Minute, LoadError> {
    if let Some(minute) = local::go_plugin_position(&settings.state_dir)? {
        tracing::info!(%minute, "going on behind the last minute of the Go plugin (v3_files)");
        return Ok(minute);
    }
    let backlog = Minute::of(now).plus(-settings.feed_backlog_hours * 60);
    Ok(backlog.min(newest(settings, now)).plus(-1))
}

/// How long to wait before a gap is tried again: a bundle that is late by minutes, hours, then days.
fn gap_delay(attempts: u32) -> SignedDuration {
    match attempts {
        0 | 1 => SignedDuration::from_mins(10),
        2 => SignedDuration::from_hours(1),
        3 => SignedDuration::from_hours(6),
        _ => SignedDuration::from_hours(24),
    }
}
