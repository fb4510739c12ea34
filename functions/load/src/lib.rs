//! The job of `load`: the minutes of VirusTotal's file feed, each as events at the dispatcher.
//!
//! A [`Load`] knows no Lambda and no command line. It derives what to do from the state alone, so a tick
//! may be repeated, killed or run twice at any point.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    bundle::BundleError,
    http_client::{Backoff, HttpSetupError},
    mapping::Mapper,
    minute::{Minute, NotAMinute},
    pipeline::{
        DeliverError, Limits, Pipeline,
        assemble::{self, AssembleError},
        posted,
        publish::PublishError,
    },
    settings::{FEED_RETENTION_HOURS, Settings},
    store::{
        Clock, Counts, GapKind, Grant, Keeper, Lease, LedgerRow, MinuteState, Store, StoreError,
        local,
    },
    virustotal::{VirusTotal, VirusTotalError},
};
use jiff::{SignedDuration, Timestamp};

mod minutes;
mod trigger;

pub use trigger::{NotATrigger, Trigger};

/// Name of the cursor and of the lease.
pub const NAME: &str = "load";
/// A cursor further behind than this many days lists no more minutes as buried: a wrong start, not an outage.
const MOST_BURIED_DAYS: i64 = 60;
/// Longest first wait after an answer that was none …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// … and the longest of all.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How long staged bundles are kept for a replay.
const STAGED_DAYS: i64 = 8;
/// How long is kept what was refused for good.
const REJECTS_DAYS: i64 = 30;
/// How long minutes that are loaded or given up are kept in the ledger.
const LEDGER_DAYS: i64 = 35;

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
}

/// What a run would do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// The last minute done; `None` before the first run.
    pub cursor: Option<Minute>,
    /// The first minute to load.
    pub from: Minute,
    /// The newest minute that is due.
    pub to: Minute,
    /// Gaps and unfinished minutes to try before.
    pub unfinished: Vec<LedgerRow>,
}

/// What to tell while it runs.
#[derive(Clone, Debug)]
pub enum Step {
    /// A minute is begun; so many more are due.
    Minute(Minute, u64),
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
    /// Waits between attempts at a minute, unless VirusTotal asks for more.
    pub backoff: Backoff,
    /// Is told of each minute.
    pub observer: Box<dyn Fn(Step) + Send + Sync>,
}

/// How a minute ended.
enum MinuteEnd {
    Loaded,
    Before,
    Missing,
    Failed,
    NotYet,
    Paused,
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
    pub async fn run(&self, trigger: &Trigger, limits: &Limits) -> Result<Report, LoadError> {
        match trigger {
            Trigger::Tick => self.tick(limits).await,
            Trigger::Range { from, to } => self.replay(*from, *to, limits).await,
            Trigger::Object { key } => self.object(key, limits).await,
        }
    }

    /// What a tick would do at `now`; without a `store`, the first one. Asks nobody and changes nothing.
    ///
    /// # Errors
    /// [`LoadError::Store`].
    pub async fn plan(
        settings: &Settings,
        store: Option<&Store>,
        now: Timestamp,
    ) -> Result<Plan, LoadError> {
        let (cursor, unfinished) = match store {
            Some(store) => {
                let cursor = store.cursors.read(NAME).await?.map(Minute::from_unix_seconds);
                (cursor, store.ledger.unfinished(now, 1000).await?)
            }
            None => (None, Vec::new()),
        };
        let start = match cursor {
            Some(cursor) => cursor,
            None => first_position(settings, now)?,
        };
        Ok(Plan { cursor, from: start.next(), to: newest(settings, now), unfinished })
    }

    /// Catches up: what was left posted, gaps that are due, then the minutes after the cursor.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn tick(&self, limits: &Limits) -> Result<Report, LoadError> {
        let mut report = Report::default();
        let Some(lease) = self.acquire(&mut report).await? else { return Ok(report) };
        let (limits, keeper) = self.keep(&lease, limits);
        let outcome = self.catch_up(&lease, &limits, &mut report).await;
        drop(keeper);
        self.store.leases.release(lease).await?;
        outcome.map(|()| report)
    }

    /// Loads a range of minutes anew, from staged bundles where they are kept; ignores the age limit.
    /// The cursor stays.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn replay(
        &self,
        from: Minute,
        to: Minute,
        limits: &Limits,
    ) -> Result<Report, LoadError> {
        if to < from {
            return Err(LoadError::Range(format!(
                "the range ends ({to}) before it begins ({from})"
            )));
        }
        let mut report = Report::default();
        let Some(lease) = self.acquire(&mut report).await? else { return Ok(report) };
        let (limits, keeper) = self.keep(&lease, limits);
        let outcome = self.load_range(from, to, &lease, &limits, &mut report).await;
        drop(keeper);
        self.store.leases.release(lease).await?;
        outcome.map(|()| report)
    }

    /// Delivers an object that somebody put under `incoming/`.
    async fn object(&self, key: &str, limits: &Limits) -> Result<Report, LoadError> {
        let mut report = Report::default();
        if !self.register(limits, &mut report).await? {
            return Ok(report);
        }
        let posted = posted::deliver(&self.pipeline, key, self.clock.now(), limits).await;
        match posted.map_err(LoadError::Posted)? {
            Some(posted) => {
                report.swept = 1;
                report.counts = posted.counts;
            }
            None => report.paused = limits.reached(),
        }
        Ok(report)
    }

    async fn acquire(&self, report: &mut Report) -> Result<Option<Lease>, LoadError> {
        match self.store.leases.acquire(NAME, &owner(), self.clock.now()).await? {
            Grant::Acquired(lease) => Ok(Some(lease)),
            Grant::Held { owner, since } => {
                report.held_by = Some(format!("{owner}, since {since:.0}"));
                Ok(None)
            }
        }
    }

    /// Limits for the work under a lease, reached also where it is lost, and what keeps it meanwhile.
    fn keep(&self, lease: &Lease, limits: &Limits) -> (Limits, Keeper) {
        let limits = limits.child();
        let keeper = Keeper::start(&self.store.leases, &self.clock, lease, &limits.stop);
        (limits, keeper)
    }

    /// Whether as many bundles were loaded under these limits as `PACKAGE_LIMIT` allows.
    pub fn is_sated(&self, limits: &Limits) -> bool {
        self.settings.package_limit.is_some_and(|most| limits.bundles() >= most)
    }

    /// Tells Azul of this plugin, once a process. False where it was asked to stop meanwhile.
    async fn register(&self, limits: &Limits, report: &mut Report) -> Result<bool, LoadError> {
        match self.pipeline.register(self.clock.now(), limits).await {
            Ok(()) => Ok(true),
            Err(PublishError::Interrupted { .. }) => {
                report.paused = true;
                Ok(false)
            }
            Err(error) => Err(LoadError::Register(error)),
        }
    }

    async fn catch_up(
        &self,
        lease: &Lease,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        // Said before the dispatcher is waited for, where there is nothing to do without the key.
        if self.virustotal.is_none() && self.store.bundles.list(posted::FOLDER).await?.is_empty() {
            return Err(LoadError::NoKey);
        }
        if !self.register(limits, report).await? {
            return Ok(());
        }
        let (swept, error) =
            posted::sweep(&self.pipeline, &*self.clock, limits, |_| Some(()), |_| ()).await;
        report.swept = swept;
        if self.virustotal.is_none() {
            // Sweeping needs no key: where there was something to sweep, the run did what it could.
            return match error {
                Some(error) => Err(LoadError::Posted(error)),
                None if swept == 0 && !limits.reached() => Err(LoadError::NoKey),
                None => {
                    tracing::warn!("VIRUSTOTAL_APIKEY is not set: posted bodies only, no feed");
                    Ok(())
                }
            };
        }
        // A body that failed was said and stays; it does not keep the feed from being loaded.
        self.prune().await?;
        let mut cursor = self.cursor().await?;
        report.cursor = Some(cursor);
        loop {
            if limits.reached() || self.is_sated(limits) {
                report.paused = true;
                return Ok(());
            }
            if let Some(row) = self.store.ledger.unfinished(self.clock.now(), 1).await?.pop() {
                match self.unfinished(row, lease, limits, report).await? {
                    MinuteEnd::Paused => return Ok(()),
                    _ => continue,
                }
            }
            let minute = cursor.next();
            if minute > self.newest() {
                return Ok(());
            }
            let due = u64::try_from(self.newest().since(cursor)).unwrap_or(0);
            (self.observer)(Step::Minute(minute, due));
            match self.load_minute(minute, lease, limits, None, report).await? {
                MinuteEnd::NotYet | MinuteEnd::Paused => return Ok(()),
                MinuteEnd::Missing if minute < self.horizon() => {
                    // Only VirusTotal's own word moves the cursor over days: a clock that jumps does not.
                    let to = self.horizon().plus(-1);
                    self.bury(minute, to, lease, report).await?;
                    cursor = self.advance(cursor, to, report).await?;
                }
                MinuteEnd::Loaded | MinuteEnd::Before | MinuteEnd::Missing | MinuteEnd::Failed => {
                    cursor = self.advance(cursor, minute, report).await?;
                }
            }
            (self.observer)(Step::Done(minute));
        }
    }

    /// Goes on with a gap or a minute in mid load.
    async fn unfinished(
        &self,
        row: LedgerRow,
        lease: &Lease,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        if row.minute < self.horizon() && matches!(row.state, MinuteState::Gap { .. }) {
            self.bury(row.minute, row.minute, lease, report).await?;
            return Ok(MinuteEnd::Before);
        }
        (self.observer)(Step::Minute(row.minute, 0));
        match self.load_minute(row.minute, lease, limits, None, report).await? {
            // Not published yet though the gap was due: the clock or the gap is wrong; look again later.
            MinuteEnd::NotYet => {
                let said = "VirusTotal says that the minute is not available yet".to_owned();
                self.gap(row.minute, GapKind::Missing, said, lease, report).await?;
                Ok(MinuteEnd::Missing)
            }
            end => Ok(end),
        }
    }

    async fn load_range(
        &self,
        from: Minute,
        to: Minute,
        lease: &Lease,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        if !self.register(limits, report).await? {
            return Ok(());
        }
        let mut minute = from;
        while minute <= to {
            if limits.reached() {
                report.paused = true;
                return Ok(());
            }
            (self.observer)(Step::Minute(minute, u64::try_from(to.since(minute)).unwrap_or(0)));
            let mapper = Some(&self.ageless);
            match self.load_minute(minute, lease, limits, mapper, report).await? {
                MinuteEnd::Paused => return Ok(()),
                MinuteEnd::NotYet => {
                    return Err(LoadError::Range(format!(
                        "VirusTotal has no minute {minute} yet: it gives minutes about an hour after they end"
                    )));
                }
                _ => {}
            }
            (self.observer)(Step::Done(minute));
            minute = minute.next();
        }
        Ok(())
    }

    /// The newest minute that VirusTotal should have by now.
    pub fn newest(&self) -> Minute {
        newest(&self.settings, self.clock.now())
    }

    /// The oldest minute that VirusTotal still has.
    fn horizon(&self) -> Minute {
        Minute::of(self.clock.now()).plus(-FEED_RETENTION_HOURS * 60)
    }

    /// Reads the cursor; sets it at the first run, so that a crash before the first minute is done does
    /// not move the start.
    async fn cursor(&self) -> Result<Minute, LoadError> {
        if let Some(seconds) = self.store.cursors.read(NAME).await? {
            return Ok(Minute::from_unix_seconds(seconds));
        }
        let start = first_position(&self.settings, self.clock.now())?;
        self.store.cursors.advance(NAME, None, start.unix_seconds()).await?;
        Ok(start)
    }

    async fn advance(
        &self,
        from: Minute,
        to: Minute,
        report: &mut Report,
    ) -> Result<Minute, LoadError> {
        let moved =
            self.store.cursors.advance(NAME, Some(from.unix_seconds()), to.unix_seconds()).await?;
        if !moved {
            return Err(StoreError::LeaseLost { name: NAME.into() }.into());
        }
        report.cursor = Some(to);
        Ok(to)
    }

    /// Lists minutes as given up, but for those that were loaded.
    async fn bury(
        &self,
        from: Minute,
        to: Minute,
        lease: &Lease,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        let first = from.max(to.plus(-MOST_BURIED_DAYS * 24 * 60));
        let reason = "it left the seven days that VirusTotal keeps before it could be loaded";
        tracing::error!(%from, %to, "minutes are given up: {reason}");
        let known = self.store.ledger.range(first, to.next()).await?;
        let mut rows = Vec::new();
        let mut minute = first;
        while minute <= to {
            let known = known.iter().find(|row| row.minute == minute);
            if !known.is_some_and(|row| matches!(row.state, MinuteState::Loaded)) {
                rows.push(LedgerRow {
                    minute,
                    state: MinuteState::Buried { reason: reason.into() },
                    counts: known.map(|row| row.counts).unwrap_or_default(),
                    updated: self.clock.now(),
                });
            }
            minute = minute.next();
        }
        report.buried += rows.len() as u64;
        for rows in rows.chunks(1000) {
            self.store.ledger.put_all(rows, lease).await?;
        }
        Ok(())
    }

    /// Removes what is too old to be of use, at most once an hour.
    async fn prune(&self) -> Result<(), LoadError> {
        let now = self.clock.now();
        let hour = SignedDuration::from_hours(1);
        if !self.store.memory.remember("housekeeping", "everything old", hour, now).await? {
            return Ok(());
        }
        for (prefix, days) in [("staged/feed/", STAGED_DAYS), ("rejects/", REJECTS_DAYS)] {
            for object in self.store.bundles.list(prefix).await? {
                if now.duration_since(object.modified) > SignedDuration::from_hours(days * 24) {
                    self.store.bundles.remove(&object.key).await?;
                }
            }
        }
        let settled = self.store.ledger.prune(Minute::of(now).plus(-LEDGER_DAYS * 24 * 60)).await?;
        tracing::debug!(minutes = settled, "forgot old minutes that were settled");
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

/// Who we are, so that an operator finds the process.
pub fn owner() -> String {
    if let Some(instance) = azul_vt::lambda::instance() {
        return instance;
    }
    let process = format!("process {}", std::process::id());
    // Linux; elsewhere the process alone must do.
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
    }
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

/// Whether a bundle is to be fetched anew rather than tried again as it is.
fn is_bad(error: &DeliverError) -> bool {
    matches!(error, DeliverError::Bundle(e) if !e.is_transient() && !matches!(e, BundleError::Ended))
}
