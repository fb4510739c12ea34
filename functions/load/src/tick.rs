//! Runs a tick. A tick delivers posted bodies that were left, then loads the minutes after the cursor or sends them to
//! workers.

use std::collections::BTreeSet;

use azul_vt::{
    errors::chain,
    metrics,
    minute::Minute,
    peers::latest_written,
    pipeline::{
        RunLimits,
        posted::{self, Posted},
    },
    store::{Counts, Lease, LedgerRow, MinuteState, StoreError},
};
use futures_util::{StreamExt as _, stream::FuturesOrdered};

use super::{
    Load, LoadError, MinuteEnd, NAME, Report, Step, first_position, housekeeping::is_settled,
};

/// Number of minutes that are loaded at once. One minute is fetched and decoded while the posts of the minute before
/// wait for their answers.
const AT_ONCE: usize = 2;
/// Number of ledger rows that are read at once to find how far the cursor may move.
pub(crate) const WINDOW: i64 = 240;

/// Progress of a tick.
struct Due {
    cursor: Minute,
    /// The last fresh minute that was begun. All minutes from the cursor up to this one were begun.
    at: Minute,
    /// Minutes that are being loaded, by this tick or by another owner.
    busy: BTreeSet<Minute>,
    /// Number of minutes that another owner is loading.
    held: u64,
    ended: Result<(), LoadError>,
}

/// The next step of a tick.
enum Next {
    Open(LedgerRow),
    Fresh(Minute),
    /// The minutes that are due are sent to workers.
    Workers,
    Nothing,
}

impl Load {
    /// Catches up with the feed. It delivers posted bodies that were left, then loads gaps that are due and the minutes
    /// after the cursor. If the cursor is far behind and there are workers, the minutes are sent to them.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn tick(&self, limits: &RunLimits) -> Result<Report, LoadError> {
        let mut report = Report::default();
        let claim = match self.take(NAME, limits).await? {
            Ok(claim) => claim,
            Err(owner) => {
                report.held_by = Some(owner);
                return Ok(report);
            }
        };
        // The counters are reported from the start, also those that stay 0.
        metrics::count(NAME, &Counts::default(), self.clock.now());
        let outcome = self.catch_up(&claim.lease, &claim.limits, &mut report).await;
        claim.give_back().await?;
        outcome.map(|()| report)
    }

    async fn catch_up(
        &self,
        lease: &Lease,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        // Without a key and without posted bodies there is nothing to do. The error comes before the wait for the
        // dispatcher.
        if self.virustotal.is_none() && self.store.bundles.list(posted::FOLDER).await?.is_empty() {
            return Err(LoadError::NoKey);
        }
        if !self.register(limits, report).await? {
            return Ok(());
        }
        let delivered = |posted: &Posted| metrics::count(NAME, &posted.counts, self.clock.now());
        let claim = |_: &str| self.sweeps.then_some(());
        let (swept, error) =
            posted::sweep(&self.pipeline, &*self.clock, limits, claim, delivered).await;
        report.swept = swept;
        if self.virustotal.is_none() {
            // Sweeping needs no key, so a run that swept bodies did all that it could.
            return match error {
                Some(error) => Err(LoadError::Posted(error)),
                None if swept == 0 && !limits.reached() => Err(LoadError::NoKey),
                None => {
                    tracing::warn!("VIRUSTOTAL_APIKEY is not set: posted bodies only, no feed");
                    Ok(())
                }
            };
        }
        // A posted body that failed was logged and stays staged. The feed is loaded anyway.
        let outcome = self.load_feed(lease, limits, report).await;
        // Pruning comes after the feed, because VirusTotal's answer confirms the clock. It also runs after an error,
        // because a full disk needs the space.
        match (outcome, self.prune().await) {
            (Err(error), Err(second)) => {
                tracing::error!(error = chain(&second), "what is too old is not removed");
                Err(error)
            }
            (outcome, pruned) => outcome.and(pruned),
        }
    }

    async fn load_feed(
        &self,
        lease: &Lease,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        let cursor = self.cursor().await?;
        self.require_past(cursor)?;
        let cursor = self.settle(cursor, report).await?;
        report.cursor = Some(cursor);
        if self.is_far_behind(cursor) {
            return self.send_to_workers(cursor, lease, limits, report).await;
        }
        self.load_due(cursor, lease, limits, report).await
    }

    /// Whether minutes are to be sent to workers. Minutes that VirusTotal may no longer have are not sent, because its
    /// answer to the first of them decides about all of them.
    fn is_far_behind(&self, cursor: Minute) -> bool {
        self.fan_out
            && self.newest().since(cursor) > self.settings.fan_out_minutes
            && cursor.next() >= self.horizon()
    }

    /// Loads the minutes that are due in order, a few at once, except those that another owner is loading.
    async fn load_due(
        &self,
        cursor: Minute,
        lease: &Lease,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        (self.observer)(Step::Due(u64::try_from(self.newest().since(cursor)).unwrap_or(0)));
        let limits = limits.child();
        let mut due = Due { cursor, at: cursor, busy: BTreeSet::new(), held: 0, ended: Ok(()) };
        let mut loading = FuturesOrdered::new();
        let mut is_over = false;
        loop {
            while !is_over && loading.len() < self.at_once(due.cursor) {
                report.paused = limits.reached() || self.is_sated(&limits);
                let next = if report.paused { Ok(Next::Nothing) } else { self.next(&due).await };
                let (minute, row) = match next {
                    Ok(Next::Open(row)) => (row.minute, Some(row)),
                    Ok(Next::Fresh(minute)) => {
                        due.at = minute;
                        (minute, None)
                    }
                    Ok(Next::Workers) if loading.is_empty() => {
                        // The cursor is far behind by now, or because VirusTotal's answer moved it.
                        let cursor = self.settle(due.cursor, report).await?;
                        return self.send_to_workers(cursor, lease, &limits, report).await;
                    }
                    Ok(Next::Nothing | Next::Workers) => break,
                    Err(error) => {
                        due.ended = Err(error);
                        is_over = true;
                        break;
                    }
                };
                due.busy.insert(minute);
                loading.push_back(self.one(minute, row, &limits));
            }
            let Some((minute, is_fresh, part, end)) = loading.next().await else { break };
            report.add_work(&part);
            let goes_on = match end {
                Ok(end) => self.one_ended(&mut due, (minute, is_fresh, end), lease, report).await,
                Err(error) => Err(error),
            };
            is_over |= !matches!(goes_on, Ok(true));
            if let Err(error) = goes_on
                && due.ended.is_ok()
            {
                due.ended = Err(error);
                // Minutes that were begun at the same time stop and give their leases back.
                limits.stop.cancel();
            }
        }
        due.ended?;
        self.settle(due.cursor, report).await?;
        report.left = due.held;
        Ok(())
    }

    /// Returns how many minutes are loaded at once. It is more than one only if there is no `PACKAGE_LIMIT` and
    /// VirusTotal still has all minutes that are due.
    fn at_once(&self, cursor: Minute) -> usize {
        let is_sure = self.settings.package_limit.is_none() && cursor.next() >= self.horizon();
        if is_sure { AT_ONCE } else { 1 }
    }

    /// Decides what is to be loaded next.
    async fn next(&self, due: &Due) -> Result<Next, LoadError> {
        let most = due.busy.len() + 1;
        let open = self.store.ledger.unfinished(self.clock.now(), most).await?;
        if let Some(row) = open.into_iter().find(|row| !due.busy.contains(&row.minute)) {
            return Ok(Next::Open(row));
        }
        if self.is_far_behind(due.cursor) {
            return Ok(Next::Workers);
        }
        let mut next = due.at.max(due.cursor).next();
        while next <= self.newest()
            && (due.busy.contains(&next) || (due.held > 0 && self.is_settled(next).await?))
        {
            next = next.next();
        }
        Ok(if next <= self.newest() { Next::Fresh(next) } else { Next::Nothing })
    }

    /// Loads one minute: a fresh one, or one that has an unfinished row (`open`).
    async fn one(
        &self,
        minute: Minute,
        open: Option<LedgerRow>,
        limits: &RunLimits,
    ) -> (Minute, bool, Report, Result<MinuteEnd, LoadError>) {
        let mut report = Report::default();
        let end = match &open {
            Some(row) => self.unfinished(row, limits, &mut report).await,
            None => self.load_under_lease(minute, None, limits, &mut report).await,
        };
        (minute, open.is_none(), report, end)
    }

    /// Handles the end of a minute before the end of the next one is handled. Returns false if no more minutes are to
    /// be begun.
    async fn one_ended(
        &self,
        due: &mut Due,
        (minute, is_fresh, end): (Minute, bool, MinuteEnd),
        lease: &Lease,
        report: &mut Report,
    ) -> Result<bool, LoadError> {
        match end {
            // A minute with an open row can be too young only if it was planned while the clock was ahead.
            MinuteEnd::NotYet => return Ok(false),
            MinuteEnd::Paused | MinuteEnd::FeedPaused | MinuteEnd::PackageLimitReached => {
                report.paused = true;
                return Ok(false);
            }
            // The minute stays in `busy`, so that this tick does not try it again.
            MinuteEnd::Held(owner) => {
                tracing::debug!(%minute, owner, "somebody is at the minute");
                due.held += 1;
                return Ok(true);
            }
            MinuteEnd::Missing if is_fresh && self.is_too_old(minute) => {
                // Only an answer of VirusTotal moves the cursor over days. A clock that jumps does not.
                let mut to = self.horizon().plus(-1);
                // Minutes that are being loaded at the same time get their own answer of VirusTotal.
                if let Some(other) = due.busy.range(minute.next()..).next() {
                    to = to.min(other.plus(-1));
                }
                let settled = self.bury(minute, to, lease, report).await?;
                if due.cursor.next() == minute && settled >= minute {
                    due.cursor = self.advance(due.cursor, settled, report).await?;
                }
                due.at = due.at.max(to);
            }
            MinuteEnd::Loaded
            | MinuteEnd::AlreadySettled
            | MinuteEnd::Missing
            | MinuteEnd::Failed => {
                if due.cursor.next() == minute {
                    due.cursor = if is_fresh {
                        self.advance(due.cursor, minute, report).await?
                    } else {
                        // The row of an open minute may still be open.
                        self.settle(due.cursor, report).await?
                    };
                }
            }
        }
        due.busy.remove(&minute);
        (self.observer)(Step::Done(minute));
        Ok(true)
    }

    async fn is_settled(&self, minute: Minute) -> Result<bool, LoadError> {
        let row = self.store.ledger.get(minute).await?;
        Ok(row.is_some_and(|row| is_settled(&row.state)))
    }

    /// Continues with a minute that is a gap, was planned, or was partly loaded.
    async fn unfinished(
        &self,
        row: &LedgerRow,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        let minute = row.minute;
        let is_gap = matches!(row.state, MinuteState::Gap { .. });
        if !(is_gap && self.is_too_old(minute)) {
            let end = self.load_under_lease(minute, None, limits, report).await?;
            // VirusTotal's answer carries the time, so the age of the minute can be judged now.
            let is_over = is_gap
                && matches!(end, MinuteEnd::Missing | MinuteEnd::Failed)
                && self.is_too_old(minute);
            if !is_over {
                return Ok(end);
            }
        }
        let claim = match self.claim(minute, limits).await? {
            Ok(claim) => claim,
            Err(owner) => return Ok(MinuteEnd::Held(owner)),
        };
        let outcome = self.bury_gap(minute, &claim, report).await;
        claim.give_back().await?;
        outcome.map(|()| MinuteEnd::AlreadySettled)
    }

    /// Refuses a cursor in the future. A clock that was ahead leaves such a cursor, and no minute would be loaded until
    /// its time comes.
    fn require_past(&self, cursor: Minute) -> Result<(), LoadError> {
        let now = self.clock.now();
        let is_past = cursor <= Minute::of(latest_written(now));
        // The range is from 2004, VirusTotal's first year, to the year 9999.
        let is_sane = (1_072_915_200..253_402_300_800).contains(&cursor.unix_seconds());
        if is_sane && (is_past || !self.settings.peers.confirm(now)) {
            return Ok(());
        }
        let what = format!("the cursor {NAME}");
        let is = if is_sane { "which is to come" } else { "which no feed has" };
        let reason = format!(
            "it names minute {cursor}, {is}: set its position to the last minute that was loaded"
        );
        Err(StoreError::Damaged { what, reason }.into())
    }

    /// Reads the cursor. The first run sets it, so that a crash before the first minute is done does not move the
    /// start.
    async fn cursor(&self) -> Result<Minute, LoadError> {
        if let Some(seconds) = self.store.cursors.read(NAME).await? {
            return Ok(Minute::from_unix_seconds(seconds));
        }
        let start = first_position(&self.settings, self.now())?;
        self.store.cursors.advance(NAME, None, start.unix_seconds()).await?;
        Ok(start)
    }

    /// Moves the cursor over the minutes after it that are loaded, listed as gaps or buried. Workers end minutes
    /// without moving the cursor.
    pub(crate) async fn settle(
        &self,
        from: Minute,
        report: &mut Report,
    ) -> Result<Minute, LoadError> {
        let mut to = from;
        loop {
            let end = to.plus(WINDOW + 1);
            let begin = to;
            for row in self.store.ledger.range(to.next(), end).await? {
                if row.minute != to.next() || !is_settled(&row.state) {
                    break;
                }
                to = row.minute;
            }
            if to.next() < end || to == begin {
                break;
            }
        }
        if to == from { Ok(from) } else { self.advance(from, to, report).await }
    }

    async fn advance(
        &self,
        from: Minute,
        to: Minute,
        report: &mut Report,
    ) -> Result<Minute, LoadError> {
        // The cursor never passes a minute that is in the future by a peer's clock, whatever the state or an answer
        // says.
        let to = to.min(Minute::of(self.now()));
        if to <= from {
            return Ok(from);
        }
        let moved =
            self.store.cursors.advance(NAME, Some(from.unix_seconds()), to.unix_seconds()).await?;
        if !moved {
            return Err(StoreError::LeaseLost { name: NAME.into() }.into());
        }
        report.cursor = Some(to);
        Ok(to)
    }
}
