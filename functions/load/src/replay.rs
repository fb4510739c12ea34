//! A range of minutes, loaded again.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    mapping::Mapper,
    minute::Minute,
    pipeline::Limits,
    store::{Counts, MinuteState, Store},
};

use super::{
    Load, LoadError, MinuteEnd, Report, Step,
    minutes::{is_suspect, staged},
};

/// How often it is looked whether a minute is free that somebody else is at.
const LOOK: Duration = Duration::from_secs(1);

/// How minutes are loaded again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replay<'a> {
    /// Without an age limit.
    pub(crate) mapper: &'a Arc<Mapper>,
    /// Each minute is asked of VirusTotal, whatever is staged.
    pub(crate) is_fetched: bool,
}

/// A minute of a range, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Planned {
    /// The minute.
    pub minute: Minute,
    /// The staged bundle that would be loaded; `None`: it would be fetched.
    pub staged: Option<String>,
    /// What became of it; `None`: nothing yet.
    pub state: Option<MinuteState>,
    /// Counted when it was loaded last.
    pub counts: Option<Counts>,
}

impl Load {
    /// What [`Load::replay`] would do, a minute after the other; without a `store`, the first time. With `is_fetched`
    /// nothing that is staged is taken. Asks nobody and changes nothing.
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

    /// Loads a range of minutes anew, from staged bundles where they are kept; ignores the age limit. Fetched are the
    /// others, those of which nothing was taken before and, with `is_fetched`, all.
    /// The cursor stays. Waits for who is at one of the minutes.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn replay(
        &self,
        from: Minute,
        to: Minute,
        is_fetched: bool,
        limits: &Limits,
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
            match self.load_alone(minute, Some(replay), limits, &mut report).await? {
                MinuteEnd::Paused | MinuteEnd::LeftAlone | MinuteEnd::Sated => {
                    report.paused = true;
                    break;
                }
                MinuteEnd::Held(owner) => {
                    if !waits {
                        tracing::info!(%minute, owner, "waiting for who is at the minute");
                    }
                    waits = true;
                    limits.sleep(LOOK).await;
                    continue;
                }
                MinuteEnd::NotYet => {
                    return Err(LoadError::Range(format!(
                        "VirusTotal has no minute {minute} yet: it gives minutes about an hour after they end"
                    )));
                }
                MinuteEnd::Loaded | MinuteEnd::Before | MinuteEnd::Missing | MinuteEnd::Failed => {}
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
