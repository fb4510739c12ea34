//! Workers of minutes. They load the minutes that a tick sent to the queue, each under its lease.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use azul_vt::{
    errors::chain,
    metrics,
    minute::Minute,
    peers::ClockCheck,
    pipeline::{DeliverError, RunLimits, publish::PublishError},
    store::{
        Claim, Counts, MinuteState, StoreError,
        inbox::{Delivery, Item, NewItem, Queue, Retry},
    },
    virustotal::VirusTotalError,
    worker::{Delivered, Disposition, Work, Workers},
};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Load, LoadError, MinuteEnd, NAME, Report, Step};

/// Number of tries after which a minute is given up. Tries that fail because of an outage do not count.
const TRIES: u32 = 5;
/// Wait of a minute that another owner holds: half of the time that a dead owner's lease lasts on AWS.
const HELD: SignedDuration = SignedDuration::from_secs(30);
/// Wait of a minute that cannot be loaded because of an outage.
const OUTAGE: SignedDuration = SignedDuration::from_mins(1);
/// Wait of a minute that VirusTotal does not have yet. It is long, because many minutes wait if the feed itself is
/// late.
const NOT_YET: SignedDuration = SignedDuration::from_mins(15);
/// Wait between two ticks while workers are at work. The next tick comes earlier if the workers have ended half of the
/// minutes that were left. It does not come more often, because on AWS a tick that dies keeps others from ticking for a
/// minute.
const TICKS: Duration = Duration::from_secs(5);
/// Interval at which it is checked whether `PACKAGE_LIMIT` allows one more bundle.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The body of an item of the queue.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MinuteItem {
    minute: Minute,
}

impl MinuteItem {
    pub(crate) fn new(minute: Minute) -> Self {
        Self { minute }
    }

    pub(crate) fn item(&self) -> NewItem {
        let minute = self.minute;
        NewItem {
            id: minute.to_string(),
            body: serde_json::json!({ "minute": minute }).to_string(),
        }
    }

    fn read(item: &Item) -> Result<Minute, Disposition> {
        serde_json::from_str(&item.body)
            .map(|Self { minute }| minute)
            .map_err(|error| Disposition::Bury(format!("the item cannot be read: {error}")))
    }
}

/// Loads minutes of the queue, and remembers their outcomes.
struct Worker<'a> {
    load: &'a Load,
    seen: Mutex<Seen>,
    /// Notified of each item that ended.
    news: Notify,
}

#[derive(Default)]
struct Seen {
    report: Report,
    /// Number of items that came to an end.
    ended: u64,
    /// Whether VirusTotal does not have some of the due minutes yet.
    not_yet: bool,
    /// Error that stops all work until an operator acts.
    stopped: Option<LoadError>,
}

impl<'a> Worker<'a> {
    fn new(load: &'a Load) -> Self {
        Self { load, seen: Mutex::default(), news: Notify::new() }
    }

    /// Waits until `items` items have ended since the start.
    async fn ended(&self, items: u64) {
        while self.seen().ended < items {
            self.news.notified().await;
        }
    }

    fn end_one(&self) {
        self.seen().ended += 1;
        self.news.notify_one();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn into_seen(self) -> Seen {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn minute(
        &self,
        minute: Minute,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        let load = self.load;
        if !load.register(limits, report).await? {
            return Ok(MinuteEnd::Paused);
        }
        loop {
            match load.load_under_lease(minute, None, limits, report).await? {
                MinuteEnd::PackageLimitReached if load.is_sated(limits) => {
                    limits.stop.cancel();
                    return Ok(MinuteEnd::Paused);
                }
                // A bundle that is being loaded may fail, and then this one may be loaded instead.
                MinuteEnd::PackageLimitReached => {
                    if limits.sleep(POLL_INTERVAL).await {
                        return Ok(MinuteEnd::Paused);
                    }
                }
                end => return Ok(end),
            }
        }
    }

    /// Decides how an item ends after an error.
    async fn failed(
        &self,
        minute: Minute,
        item: &Item,
        error: LoadError,
        limits: &RunLimits,
    ) -> Disposition {
        let reason = chain(&error);
        match kind(&error) {
            Kind::Outage => {
                tracing::warn!(%minute, error = reason, "the minute is put back");
                Disposition::later(OUTAGE)
            }
            Kind::Operator => {
                self.seen().stopped.get_or_insert(error);
                limits.stop.cancel();
                // The item does not come back at once, because on Lambda the queue would start the next worker with it.
                Disposition::later(OUTAGE)
            }
            Kind::Minute => {
                let tries = item.attempts.saturating_add(1);
                if tries >= TRIES {
                    return self.bury(minute, format!("tried {tries} times: {reason}")).await;
                }
                tracing::warn!(%minute, tries, error = reason, "the minute failed");
                // The waits are 1, 3 and 9 minutes, then SQS's longest delay.
                let after = SignedDuration::from_mins(3_i64.pow(item.attempts.min(3)).min(15));
                Disposition::Retry(Retry { after, is_attempt: true, ..Retry::default() })
            }
        }
    }

    /// Gives up a minute. The ledger is written before the item is buried.
    async fn bury(&self, minute: Minute, reason: String) -> Disposition {
        let clock = self.load.settings.peers.clock(self.load.clock.now());
        if matches!(clock, ClockCheck::Apart { .. }) {
            tracing::warn!(%minute, %clock, reason, "the minute is not given up by a wrong clock");
            return Disposition::later(OUTAGE);
        }
        let buried = async {
            let Ok(claim) = self.load.claim(minute, &RunLimits::default()).await? else {
                return Ok(Disposition::later(HELD));
            };
            let outcome = self.bury_claimed(minute, &reason, &claim).await;
            claim.give_back().await?;
            outcome
        };
        buried.await.unwrap_or_else(|error: LoadError| {
            tracing::warn!(%minute, error = chain(&error), "the minute could not be given up");
            Disposition::later(OUTAGE)
        })
    }

    async fn bury_claimed(
        &self,
        minute: Minute,
        reason: &str,
        claim: &Claim,
    ) -> Result<Disposition, LoadError> {
        let ledger = &self.load.store.ledger;
        let counts = match ledger.get(minute).await? {
            Some(row) if matches!(row.state, MinuteState::Loaded) => return Ok(Disposition::Done),
            Some(row) => row.counts,
            None => Counts::default(),
        };
        ledger.put(&self.load.buried(minute, reason, counts), &claim.lease).await?;
        self.seen().report.buried += 1;
        metrics::BUNDLES.add([NAME, "buried"], 1);
        self.end_one();
        Ok(Disposition::Bury(reason.to_owned()))
    }
}

#[async_trait]
impl Work for Worker<'_> {
    async fn work(&self, item: &Item, limits: &RunLimits) -> Disposition {
        let minute = match MinuteItem::read(item) {
            Ok(minute) => minute,
            Err(after) => return after,
        };
        if self.seen().stopped.is_some() {
            return Disposition::later(OUTAGE);
        }
        if limits.reached() {
            return Disposition::later(SignedDuration::ZERO);
        }
        let mut report = Report::default();
        let outcome = self.minute(minute, limits, &mut report).await;
        self.seen().report.add_work(&report);
        match outcome {
            Ok(MinuteEnd::Held(owner)) => {
                tracing::debug!(%minute, owner, "somebody is at the minute");
                Disposition::later(HELD)
            }
            Ok(MinuteEnd::Paused | MinuteEnd::PackageLimitReached) => {
                Disposition::later(SignedDuration::ZERO)
            }
            Ok(MinuteEnd::FeedPaused) => Disposition::later(OUTAGE),
            Ok(MinuteEnd::NotYet) => {
                self.seen().not_yet = true;
                Disposition::later(NOT_YET)
            }
            Ok(
                MinuteEnd::Loaded
                | MinuteEnd::AlreadySettled
                | MinuteEnd::Missing
                | MinuteEnd::Failed,
            ) => {
                (self.load.observer)(Step::Done(minute));
                self.end_one();
                Disposition::Done
            }
            Err(error) => self.failed(minute, item, error, limits).await,
        }
    }

    async fn lost(&self, item: &Item, reason: String) -> Disposition {
        match MinuteItem::read(item) {
            Ok(minute) => self.bury(minute, reason).await,
            Err(after) => after,
        }
    }
}

/// Classes of errors.
enum Kind {
    /// The error passes by itself.
    Outage,
    /// The error affects every minute until an operator acts.
    Operator,
    /// The error affects only this minute.
    Minute,
}

fn kind(error: &LoadError) -> Kind {
    let of_state = |error: &StoreError| match error {
        StoreError::Unavailable { .. } | StoreError::LeaseLost { .. } => Kind::Outage,
        StoreError::Damaged { .. } | StoreError::BadName { .. } => Kind::Minute,
        StoreError::Refused { .. }
        | StoreError::Http(_)
        | StoreError::StateDir { .. }
        | StoreError::Newer { .. } => Kind::Operator,
    };
    match error {
        LoadError::Store(error) => of_state(error),
        LoadError::NoKey | LoadError::Register(PublishError::Stop { .. }) => Kind::Operator,
        LoadError::Refused { source, .. } if source.needs_operator() => Kind::Operator,
        // The dispatcher does not answer, or the disk is full.
        LoadError::Register(_)
        | LoadError::Refused { source: VirusTotalError::Write { .. }, .. } => Kind::Outage,
        LoadError::Minute { source, .. } => match source {
            DeliverError::Store(error) => of_state(error),
            DeliverError::Publish(PublishError::Stop { .. }) => Kind::Operator,
            DeliverError::Publish(_) => Kind::Outage,
            DeliverError::Bundle(error) if error.is_transient() => Kind::Outage,
            DeliverError::Bundle(_) | DeliverError::NoRecords(_) | DeliverError::Panicked => {
                Kind::Minute
            }
        },
        LoadError::Refused { .. }
        | LoadError::Posted(_)
        | LoadError::Object { .. }
        | LoadError::Range(_)
        | LoadError::NotAMinute(_) => Kind::Minute,
    }
}

impl Load {
    fn workers(&self, at_once: usize) -> Workers<'_> {
        Workers { store: &self.store, queue: Queue::Minutes, clock: &*self.clock, at_once }
    }

    /// Works minutes that the queue handed over by an event.
    ///
    /// # Errors
    /// Fails if nothing can be loaded until an operator acts. The minutes that were handed over come back.
    pub async fn deliver(
        &self,
        deliveries: &[Delivery],
        limits: &RunLimits,
    ) -> Result<Delivered, LoadError> {
        let (worker, limits) = (Worker::new(self), limits.child());
        let workers = self.workers(self.settings.lookup.workers);
        let delivered = workers.deliver(&worker, deliveries, &limits).await;
        match worker.into_seen().stopped {
            Some(error) => Err(error),
            None => Ok(delivered),
        }
    }

    /// Ticks, and works minutes of the queue with `workers` workers, until every due minute is loaded, listed as a gap
    /// or given up. If another process ticks, it helps until the queue is empty (`helps`), or ends at once.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn catch_up_with(
        &self,
        workers: usize,
        helps: bool,
        limits: &RunLimits,
    ) -> Result<Report, LoadError> {
        let worker = Worker::new(self);
        // If ticking or working ends, the other one is stopped too.
        let own = limits.child();
        let mut report = Report::default();
        let ticking = async {
            let outcome = self.keep_ticking(&worker, helps, &own, &mut report).await;
            own.stop.cancel();
            outcome
        };
        let working = async {
            let drained = self.workers(workers).drain(&worker, true, &own).await;
            own.stop.cancel();
            drained
        };
        let (ticked, drained) = tokio::join!(ticking, working);
        let seen = worker.into_seen();
        ticked?;
        if let Some(error) = seen.stopped {
            return Err(error);
        }
        drained?;
        report.paused = limits.reached() || self.is_sated(limits);
        report.add_work(&seen.report);
        Ok(report)
    }

    async fn keep_ticking(
        &self,
        worker: &Worker<'_>,
        helps: bool,
        limits: &RunLimits,
        all: &mut Report,
    ) -> Result<(), LoadError> {
        let mut was_idle = false;
        loop {
            let before = worker.seen().ended;
            let report = self.tick(limits).await?;
            let half = match report.held_by {
                None => before.saturating_add(report.left.div_ceil(2)),
                Some(_) => u64::MAX,
            };
            let mut is_done = report.paused;
            if report.left > 0 || (report.held_by.is_some() && helps) {
                let counts = self.store.inbox.counts(Queue::Minutes, self.clock.now()).await?;
                is_done |= report.left == 0 && counts.waiting + counts.in_work == 0;
                // Nothing is left but minutes that VirusTotal does not have yet.
                let is_idle = worker.seen().not_yet && counts.in_work + report.planned == 0;
                is_done |= is_idle && was_idle;
                was_idle = is_idle;
            } else {
                is_done = true;
            }
            all.add(report);
            if is_done {
                return Ok(());
            }
            tokio::select! {
                is_over = limits.sleep(TICKS) => if is_over { return Ok(()) },
                () = worker.ended(half) => {}
            }
        }
    }
}
