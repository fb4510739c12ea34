//! A tick: what was left posted, then the minutes behind the cursor, loaded or sent to workers.

use std::collections::BTreeSet;

use azul_vt::{
    metrics,
    minute::Minute,
    pipeline::{
        Limits,
        posted::{self, Posted},
    },
    store::{Counts, Lease, LedgerRow, MinuteState, StoreError},
};

use super::{
    Load, LoadError, MinuteEnd, NAME, Report, Step, first_position, housekeeping::is_settled,
};

/// Rows that are read at once to see how far the cursor may go.
pub(crate) const WINDOW: i64 = 240;

impl Load {
    /// Catches up: what was left posted, gaps that are due, then the minutes after the cursor. Where the
    /// feed is far behind and there are workers, minutes are sent to them.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn tick(&self, limits: &Limits) -> Result<Report, LoadError> {
        let mut report = Report::default();
        let claim = match self.take(NAME, limits).await? {
            Ok(claim) => claim,
            Err(owner) => {
                report.held_by = Some(owner);
                return Ok(report);
            }
        };
        // Known from the start: what stays 0 is said too.
        metrics::count(NAME, &Counts::default(), self.clock.now());
        let outcome = self.catch_up(&claim.lease, &claim.limits, &mut report).await;
        claim.give_back().await?;
        outcome.map(|()| report)
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
        let delivered = |posted: &Posted| metrics::count(NAME, &posted.counts, self.clock.now());
        let claim = |_: &str| self.sweeps.then_some(());
        let (swept, error) =
            posted::sweep(&self.pipeline, &*self.clock, limits, claim, delivered).await;
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
        let cursor = self.cursor().await?;
        let cursor = self.settle(cursor, report).await?;
        report.cursor = Some(cursor);
        if self.is_far_behind(cursor) {
            return self.send_to_workers(cursor, lease, limits, report).await;
        }
        self.load_due(cursor, lease, limits, report).await
    }

    /// Whether minutes are to go to workers. Those that VirusTotal may not have any more do not: its word on
    /// the first of them settles all.
    fn is_far_behind(&self, cursor: Minute) -> bool {
        self.fan_out
            && self.newest().since(cursor) > self.settings.fan_out_minutes
            && cursor.next() >= self.horizon()
    }

    /// Loads what is due, one minute after the other, but for those that somebody else is at.
    async fn load_due(
        &self,
        mut cursor: Minute,
        lease: &Lease,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        (self.observer)(Step::Due(u64::try_from(self.newest().since(cursor)).unwrap_or(0)));
        // Behind the cursor and up to here everything was looked at.
        let mut at = cursor;
        let mut held = BTreeSet::new();
        loop {
            if limits.reached() || self.is_sated(limits) {
                report.paused = true;
                break;
            }
            let open = self.store.ledger.unfinished(self.clock.now(), held.len() + 1).await?;
            if let Some(row) = open.into_iter().find(|row| !held.contains(&row.minute)) {
                match self.unfinished(&row, limits, report).await? {
                    // One that was planned when the clock was ahead.
                    MinuteEnd::NotYet => break,
                    MinuteEnd::Paused | MinuteEnd::Sated => report.paused = true,
                    MinuteEnd::Held(owner) => {
                        tracing::debug!(minute = %row.minute, owner, "somebody is at the minute");
                        held.insert(row.minute);
                    }
                    _ => (self.observer)(Step::Done(row.minute)),
                }
                if report.paused {
                    break;
                }
                continue;
            }
            if self.is_far_behind(cursor) {
                // By now, or because VirusTotal's word moved the cursor.
                let cursor = self.settle(cursor, report).await?;
                return self.send_to_workers(cursor, lease, limits, report).await;
            }
            at = at.max(cursor).next();
            if at > self.newest() {
                break;
            }
            if !held.is_empty() && self.is_settled(at).await? {
                continue;
            }
            match self.load_alone(at, None, limits, report).await? {
                MinuteEnd::NotYet => break,
                MinuteEnd::Paused | MinuteEnd::Sated => {
                    report.paused = true;
                    break;
                }
                MinuteEnd::Held(_) => drop(held.insert(at)),
                MinuteEnd::Missing if at < self.horizon() => {
                    // Only VirusTotal's own word moves the cursor over days: a clock that jumps does not.
                    let to = self.horizon().plus(-1);
                    let settled = self.bury(at, to, lease, report).await?;
                    if cursor.next() == at && settled >= at {
                        cursor = self.advance(cursor, settled, report).await?;
                    }
                    (self.observer)(Step::Done(at));
                    at = to;
                }
                MinuteEnd::Loaded | MinuteEnd::Before | MinuteEnd::Missing | MinuteEnd::Failed => {
                    if cursor.next() == at {
                        cursor = self.advance(cursor, at, report).await?;
                    }
                    (self.observer)(Step::Done(at));
                }
            }
        }
        self.settle(cursor, report).await?;
        report.left = held.len() as u64;
        Ok(())
    }

    async fn is_settled(&self, minute: Minute) -> Result<bool, LoadError> {
        let row = self.store.ledger.get(minute).await?;
        Ok(row.is_some_and(|row| is_settled(&row.state)))
    }

    /// Goes on with a gap, a minute that was planned, or one in mid load.
    async fn unfinished(
        &self,
        row: &LedgerRow,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        let minute = row.minute;
        if minute < self.horizon() && matches!(row.state, MinuteState::Gap { .. }) {
            let claim = match self.claim(minute, limits).await? {
                Ok(claim) => claim,
                Err(owner) => return Ok(MinuteEnd::Held(owner)),
            };
            let outcome = self.bury_gap(minute, &claim, report).await;
            claim.give_back().await?;
            return outcome.map(|()| MinuteEnd::Before);
        }
        self.load_alone(minute, None, limits, report).await
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

    /// Moves the cursor over the minutes behind it that are loaded, gaps or buried: those that workers did.
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
        let moved =
            self.store.cursors.advance(NAME, Some(from.unix_seconds()), to.unix_seconds()).await?;
        if !moved {
            return Err(StoreError::LeaseLost { name: NAME.into() }.into());
        }
        report.cursor = Some(to);
        Ok(to)
    }
}
