//! Finds the minutes that are due, for a plan or to send them to workers.

use std::collections::BTreeSet;

use azul_vt::{
    minute::Minute,
    peers::latest_written,
    pipeline::RunLimits,
    settings::Settings,
    store::{
        Counts, Lease, LedgerRow, MinuteState, Store, StoreError,
        inbox::{NewItem, Queue},
    },
};
use jiff::{SignedDuration, Timestamp};

use super::{
    Load, LoadError, NAME, Report, Step, first_position, newest, tick::WINDOW, worker::MinuteItem,
};

/// Most minutes that wait for workers or are being worked. They last for a minute in which nobody can tick, even with
/// many workers.
const OUTSTANDING: usize = 480;
/// Number of minutes that are noted and then sent together. If a tick dies in between, at most this number of minutes
/// has no message.
const TOGETHER: usize = 40;
/// Time without progress after which a minute is sent again, if messages were lost.
const RESEND: SignedDuration = SignedDuration::from_mins(2);
/// Time without progress after which a gap that was sent to workers is sent again.
const RESEND_GAP: SignedDuration = SignedDuration::from_mins(15);

/// The work that a run would do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// The last minute done; `None` before the first run.
    pub cursor: Option<Minute>,
    /// The first minute to load.
    pub from: Minute,
    /// The newest minute that is due.
    pub to: Minute,
    /// Gaps and unfinished minutes that are tried first.
    pub unfinished: Vec<LedgerRow>,
}

impl Load {
    /// Returns the work that a tick would do at `now`; without a `store`, the work of the first tick. Sends no request
    /// and changes nothing.
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

    /// Notes the next minutes as planned, then sends them to workers. It also sends gaps that are due and minutes whose
    /// messages were lost. A crash in between leaves planned rows, which are sent again after [`RESEND`].
    pub(crate) async fn send_to_workers(
        &self,
        cursor: Minute,
        lease: &Lease,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        let now = self.clock.now();
        let open = self.store.ledger.unfinished(now, 2 * OUTSTANDING).await?;
        let (gaps, begun): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|row| matches!(row.state, MinuteState::Gap { .. }));
        let mut room = OUTSTANDING.saturating_sub(begun.len());
        let mut old = Vec::new();
        for minute in self.lost(&begun, now).await? {
            if !limits.reached() && self.renew(minute, limits, report).await? {
                old.push(minute);
            }
        }
        for row in gaps {
            if room > 0 && !limits.reached() && self.renew(row.minute, limits, report).await? {
                old.push(row.minute);
                room -= 1;
            }
        }
        self.put(&old).await?;
        report.planned = old.len() as u64;
        let (new, at) = self.next_minutes(cursor, room).await?;
        for some in new.chunks(TOGETHER) {
            if limits.reached() {
                break;
            }
            let planned = |minute: &Minute| LedgerRow {
                minute: *minute,
                state: MinuteState::Planned,
                counts: Counts::default(),
                updated: now,
            };
            let rows: Vec<LedgerRow> = some.iter().map(planned).collect();
            self.store.ledger.put_all(&rows, lease).await?;
            self.put(some).await?;
            report.planned += some.len() as u64;
        }
        let later = u64::try_from(self.newest().since(at)).unwrap_or(0);
        report.left = (begun.len() + new.len()) as u64 + later;
        report.paused = limits.reached();
        if report.left == 0 {
            // Workers have ended the last minutes meanwhile.
            self.settle(cursor, report).await?;
        }
        (self.observer)(Step::Due(report.left));
        if report.planned > 0 {
            let planned = report.planned;
            tracing::info!(%cursor, planned, left = report.left, "minutes are sent to workers");
        }
        Ok(())
    }

    async fn put(&self, minutes: &[Minute]) -> Result<(), LoadError> {
        let items: Vec<NewItem> =
            minutes.iter().map(|minute| MinuteItem::new(*minute).item()).collect();
        let put = self.store.inbox.put(Queue::Minutes, &items, self.clock.now()).await;
        Ok(put.map_err(StoreError::from)?)
    }

    /// Returns minutes that were sent and whose messages must be lost. These rows had no progress for [`RESEND`], and
    /// the queue has fewer items than there are begun minutes.
    async fn lost(&self, begun: &[LedgerRow], now: Timestamp) -> Result<Vec<Minute>, LoadError> {
        let latest = latest_written(now);
        let is_old =
            |row: &&LedgerRow| row.updated > latest || now.duration_since(row.updated) >= RESEND;
        let old: Vec<Minute> = begun.iter().filter(is_old).map(|row| row.minute).collect();
        if old.is_empty() {
            return Ok(old);
        }
        let counts = self.store.inbox.counts(Queue::Minutes, now).await?;
        let all_wait = counts.waiting + counts.in_work >= begun.len() as u64;
        Ok(if all_wait { Vec::new() } else { old })
    }

    /// Notes, under the lease of a minute, that the minute is sent again now. Returns false if it is not to be sent,
    /// because it is being loaded, was loaded or tried meanwhile, or is given up.
    async fn renew(
        &self,
        minute: Minute,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<bool, LoadError> {
        let Ok(claim) = self.claim(minute, limits).await? else { return Ok(false) };
        let renewed = async {
            let now = self.clock.now();
            let Some(mut row) = self.store.ledger.get(minute).await? else { return Ok(false) };
            match &mut row.state {
                MinuteState::Loaded | MinuteState::Buried { .. } => return Ok(false),
                MinuteState::Gap { .. } if self.is_too_old(minute) => {
                    self.bury_gap(minute, &claim, report).await?;
                    return Ok(false);
                }
                MinuteState::Gap { next_try, .. }
                    if *next_try > now && row.updated <= latest_written(now) =>
                {
                    return Ok(false);
                }
                MinuteState::Gap { next_try, .. } => {
                    *next_try = now.saturating_add(RESEND_GAP).unwrap_or(now);
                }
                MinuteState::Planned | MinuteState::Loading { .. } => {}
            }
            row.updated = now;
            self.store.ledger.put(&row, &claim.lease).await?;
            Ok(true)
        };
        let renewed = renewed.await;
        claim.give_back().await?;
        renewed
    }

    /// Returns the first minutes after the cursor that have no ledger row, at most `most`, and the last minute that was
    /// checked.
    async fn next_minutes(
        &self,
        cursor: Minute,
        most: usize,
    ) -> Result<(Vec<Minute>, Minute), LoadError> {
        let (mut found, mut at) = (Vec::new(), cursor);
        let newest = self.newest();
        while at < newest && found.len() < most {
            let last = at.plus(WINDOW).min(newest);
            let known = self.store.ledger.range(at.next(), last.next()).await?;
            let known: BTreeSet<Minute> = known.into_iter().map(|row| row.minute).collect();
            while at < last && found.len() < most {
                at = at.next();
                if !known.contains(&at) {
                    found.push(at);
                }
            }
        }
        Ok((found, at))
    }
}
