//! Loads a range of minutes again.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    mapping::Mapper,
    minute::Minute,
    pipeline::RunLimits,
    store::{Counts, MinuteState, Store},
};

use super::{
    Load, LoadError, MinuteEnd, Report, Step,
    minutes::{is_suspect, staged},
};

/// Interval at which a replay tries to take the lease of a minute that another owner holds.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Options of a replay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replay<'a> {
    /// A mapper without an age limit.
    pub(crate) mapper: &'a Arc<Mapper>,
    /// Whether each minute is fetched from VirusTotal even if a bundle is staged.
    pub(crate) is_fetched: bool,
}

/// A minute of a range, with its state before a replay.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Planned {
    /// The minute.
    pub minute: Minute,
    /// Key of the staged bundle that would be loaded; `None`: the bundle would be fetched.
    pub staged: Option<String>,
    /// State of the minute in the ledger; `None`: it has none yet.
    pub state: Option<MinuteState>,
    /// Counts of the last time that the minute was loaded.
    pub counts: Option<Counts>,
}

impl Load {
    /// Lists what [`Load::replay`] would do with each minute of a range. Without a `store`, no minute was loaded yet.
    /// With `is_fetched`, staged bundles are ignored. Sends no request and changes nothing.
    ///
    /// # Errors
    /// [`LoadError::Range`], [`LoadError::Store`].
    pub async fn plan_replay(
        store: Option<&Store>,
        from: Minute,
        to: Minute,
        is_fetched: bool,
    ) -> Result<Vec<Planned>, LoadError> {
        is_range(from, to)?;
        let rows = match store {
            Some(store) => store.ledger.range(from, to.next()).await?,
            None => Vec::new(),
        };
        let mut rows = rows.into_iter().peekable();
        let (mut planned, mut minute) = (Vec::new(), from);
        while minute <= to {
            let row = rows.next_if(|row| row.minute == minute);
            let staged = match store {
                Some(store) if !is_fetched && !is_suspect(row.as_ref()) => {
                    staged(store, minute).await?
                }
                _ => None,
            };
            let (state, counts) = row.map(|row| (row.state, row.counts)).unzip();
            planned.push(Planned { minute, staged, state, counts });
            minute = minute.next();
        }
        Ok(planned)
    }

    /// Loads a range of minutes again and ignores the age limit. A minute is loaded from its staged bundle. It is
    /// fetched if no bundle is staged, if none of its records was taken before, or with `is_fetched`. The cursor stays.
    /// Waits for the lease of a minute that is held elsewhere.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn replay(
        &self,
        from: Minute,
        to: Minute,
        is_fetched: bool,
        limits: &RunLimits,
    ) -> Result<Report, LoadError> {
        is_range(from, to)?;
        let mut report = Report::default();
        if !self.register(limits, &mut report).await? {
            return Ok(report);
        }
        (self.observer)(Step::Due(u64::try_from(to.next().since(from)).unwrap_or(0)));
        let (mut minute, mut waits) = (from, false);
        while minute <= to {
            if limits.reached() {
                report.paused = true;
                break;
            }
            let replay = Replay { mapper: &self.ageless, is_fetched };
            match self.load_under_lease(minute, Some(replay), limits, &mut report).await? {
                MinuteEnd::Paused | MinuteEnd::FeedPaused | MinuteEnd::PackageLimitReached => {
                    report.paused = true;
                    break;
                }
                MinuteEnd::Held(owner) => {
                    if !waits {
                        tracing::info!(%minute, owner, "waiting for who is at the minute");
                    }
                    waits = true;
                    limits.sleep(POLL_INTERVAL).await;
                    continue;
                }
                MinuteEnd::NotYet => {
                    return Err(LoadError::Range(format!(
                        "VirusTotal has no minute {minute} yet: it gives minutes about an hour after they end"
                    )));
                }
                MinuteEnd::Loaded
                | MinuteEnd::AlreadySettled
                | MinuteEnd::Missing
                | MinuteEnd::Failed => {}
            }
            (self.observer)(Step::Done(minute));
            (minute, waits) = (minute.next(), false);
        }
        Ok(report)
    }
}

fn is_range(from: Minute, to: Minute) -> Result<(), LoadError> {
    if to < from {
        return Err(LoadError::Range(format!("the range ends ({to}) before it begins ({from})")));
    }
    Ok(())
}
