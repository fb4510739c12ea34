//! Gives up minutes that VirusTotal no longer has, and removes old state.

use azul_vt::{
    metrics,
    minute::Minute,
    store::{Claim, Counts, Lease, LedgerRow, MinuteState},
};
use jiff::SignedDuration;

use super::{Load, LoadError, NAME, Report};

/// Most days of minutes that are listed as buried. A cursor that is further behind is a wrong start, not an outage.
const MAX_BURIED_DAYS: i64 = 60;
/// Days for which staged bundles are kept for a replay.
const STAGED_DAYS: i64 = 8;
/// Days for which rejects are kept.
const REJECTS_DAYS: i64 = 30;
/// Days for which minutes that are loaded or given up are kept in the ledger.
const LEDGER_DAYS: i64 = 35;
/// Days for which the lease of a minute is kept. This is far longer than a minute is worked.
const LEASES_DAYS: i64 = 30;
/// Reason for giving up minutes that VirusTotal no longer has.
const TOO_OLD: &str = "it left the seven days that VirusTotal keeps before it could be loaded";

impl Load {
    /// Lists minutes as given up, except those that were loaded and those that are planned or being loaded. Returns the
    /// last minute that has no planned or loading minute before it.
    pub(crate) async fn bury(
        &self,
        from: Minute,
        to: Minute,
        lease: &Lease,
        report: &mut Report,
    ) -> Result<Minute, LoadError> {
        let first = from.max(to.plus(-MAX_BURIED_DAYS * 24 * 60));
        tracing::error!(%from, %to, "minutes are given up: {TOO_OLD}");
        let known = self.store.ledger.range(first, to.next()).await?;
        let mut known = known.iter().peekable();
        let (mut rows, mut done) = (Vec::new(), to);
        let mut minute = first;
        while minute <= to {
            match known.next_if(|row| row.minute == minute) {
                Some(row) if matches!(row.state, MinuteState::Loaded) => {}
                // The minute that was requested from VirusTotal has the row of a gap, which is settled.
                Some(row) if !is_settled(&row.state) => done = done.min(minute.plus(-1)),
                row => {
                    let counts = row.map(|row| row.counts).unwrap_or_default();
                    rows.push(self.buried(minute, TOO_OLD, counts));
                }
            }
            minute = minute.next();
        }
        report.buried += rows.len() as u64;
        metrics::BUNDLES.add([NAME, "buried"], rows.len() as u64);
        for rows in rows.chunks(1000) {
            self.store.ledger.put_all(rows, lease).await?;
        }
        Ok(done)
    }

    /// Gives up a gap that is older than what VirusTotal keeps.
    pub(crate) async fn bury_gap(
        &self,
        minute: Minute,
        claim: &Claim,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        let row = self.store.ledger.get(minute).await?;
        let Some(LedgerRow { state: MinuteState::Gap { .. }, .. }) = row else { return Ok(()) };
        tracing::error!(%minute, "a minute is given up: {TOO_OLD}");
        let row = self.buried(minute, TOO_OLD, Counts::default());
        self.store.ledger.put(&row, &claim.lease).await?;
        report.buried += 1;
        metrics::BUNDLES.add([NAME, "buried"], 1);
        Ok(())
    }

    /// Returns the ledger row of a minute that is given up.
    pub(crate) fn buried(&self, minute: Minute, reason: &str, counts: Counts) -> LedgerRow {
        let state = MinuteState::Buried { reason: reason.into() };
        LedgerRow { minute, state, counts, updated: self.clock.now() }
    }

    /// Removes old bundles, rejects, ledger rows and leases, at most once an hour. The peers have to allow it
    /// ([`may_delete`](azul_vt::peers::Peers::may_delete)), because the local clock decides what is old.
    pub(crate) async fn prune(&self) -> Result<(), LoadError> {
        let now = self.clock.now();
        if !self.settings.peers.may_delete(now) {
            return Ok(());
        }
        let hour = SignedDuration::from_hours(1);
        if !self.store.memory.remember("housekeeping", "everything old", hour, now).await? {
            return Ok(());
        }
        let days = |days: i64| SignedDuration::from_hours(days * 24);
        for (prefix, kept) in [("staged/feed/", STAGED_DAYS), ("rejects/", REJECTS_DAYS)] {
            self.store.bundles.remove_older(prefix, days(kept), now).await?;
        }
        let settled = self.store.ledger.prune(Minute::of(now).plus(-LEDGER_DAYS * 24 * 60)).await?;
        let before = now.checked_sub(days(LEASES_DAYS)).unwrap_or(now);
        let leases = self.store.leases.prune(before).await?;
        tracing::debug!(minutes = settled, leases, "forgot old minutes that were settled");
        Ok(())
    }
}

/// Whether the cursor may pass a minute of this state.
pub(crate) fn is_settled(state: &MinuteState) -> bool {
    match state {
        MinuteState::Loaded | MinuteState::Gap { .. } | MinuteState::Buried { .. } => true,
        MinuteState::Planned | MinuteState::Loading { .. } => false,
    }
}
