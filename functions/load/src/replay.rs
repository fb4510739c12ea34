//! A range of minutes, loaded again.

use std::time::Duration;

use azul_vt::{minute::Minute, pipeline::Limits};

use super::{Load, LoadError, MinuteEnd, Report, Step};

/// How often it is looked whether a minute is free that somebody else is at.
const LOOK: Duration = Duration::from_secs(1);

impl Load {
    /// Loads a range of minutes anew, from staged bundles where they are kept; ignores the age limit.
    /// The cursor stays. Waits for who is at one of the minutes.
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
            match self.load_alone(minute, Some(&self.ageless), limits, &mut report).await? {
                MinuteEnd::Paused | MinuteEnd::Sated => {
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
