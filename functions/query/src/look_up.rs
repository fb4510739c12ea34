//! One look-up: from what is remembered, or from VirusTotal within the budget.

use std::io::Read as _;

use azul_vt::{
    errors::chain,
    pipeline::publish::{Delivery, PublishError},
    store::{
        BUDGET, StoreError,
        budget::Permit,
        inbox::{Again, Item},
    },
    virustotal::VirusTotalError,
    worker::After,
};
use bytes::Bytes;
use jiff::SignedDuration;

use crate::Query;

/// What [`azul_vt::store::Memory`] calls a report that is kept, …
const REPORT: &str = "report";
/// … a file that VirusTotal does not know, …
const UNKNOWN: &str = "unknown file";
/// … a look-up on its way, …
const ON_ITS_WAY: &str = "look-up";
/// … whose it is, …
const CLAIMED_BY: &str = "look-up by";
/// … and that VirusTotal wants to be left alone.
const PAUSED: &str = "pause";
/// Folder of reports.
const FOLDER: &str = "reports/";
/// Longer than a look-up takes; whoever dies at one holds the others up for no longer.
const CLAIM: SignedDuration = SignedDuration::from_mins(2);
/// When a look-up that somebody else is at is looked for again.
const SOON: SignedDuration = SignedDuration::from_secs(1);
/// How long VirusTotal is left alone where it says that a quota is used up and not for how long.
const QUOTA_WAIT: SignedDuration = SignedDuration::from_secs(60);
/// The wait after the first failure, doubling to …
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(5);
/// … this.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(10);

/// What a look-up came to.
pub(crate) enum Looked {
    Report(Bytes),
    Unknown,
    /// All tries failed; why.
    Failed(String),
}

fn failed(error: &StoreError) -> After {
    tracing::error!(error = chain(error), "the state could not be kept; the look-up waits");
    After::later(FIRST_WAIT)
}

/// What a reply's delivery makes of its item; `Ok`: it is there.
pub(crate) fn delivered(outcome: Result<Vec<Delivery>, PublishError>) -> Result<(), After> {
    match outcome {
        Ok(deliveries) => match deliveries.into_iter().next() {
            Some(Delivery::Rejected(reason)) => {
                Err(After::Bury(format!("the dispatcher refused the answer: {reason}")))
            }
            _ => Ok(()),
        },
        Err(error @ PublishError::Stop { .. }) => Err(After::Stop(chain(&error))),
        Err(error) => {
            tracing::warn!(error = chain(&error), "the answer waits for the dispatcher");
            Err(After::later(FIRST_WAIT))
        }
    }
}

impl Query {
    /// Looks a file up. `Err`: what becomes of the item instead.
    pub(crate) async fn look_up(&self, sha256: &str, item: &Item) -> Result<Looked, After> {
        if let Some(known) = self.remembered(sha256).await.map_err(|e| failed(&e))? {
            return Ok(known);
        }
        let now = self.clock.now();
        let memory = &self.store.memory;
        if memory.knows(PAUSED, BUDGET, now).await.map_err(|e| failed(&e))? {
            return Err(After::later(FIRST_WAIT));
        }
        // Of many who want the same file one asks; the others find what it got.
        let first = memory.remember(ON_ITS_WAY, sha256, CLAIM, now).await;
        let own = format!("{sha256} {}", item.id);
        if first.map_err(|e| failed(&e))? {
            let noted = memory.remember(CLAIMED_BY, &own, CLAIM, now).await;
            noted.map_err(|e| failed(&e))?;
        // Its own claim is left where its worker died at it.
        } else if !memory.knows(CLAIMED_BY, &own, now).await.map_err(|e| failed(&e))? {
            return Err(After::later(SOON));
        }
        // Whoever asked before may have come to its end between the first look and the claim.
        let looked = match self.remembered(sha256).await {
            Ok(Some(known)) => Ok(known),
            Ok(None) => self.ask(sha256, item.attempts).await,
            Err(error) => Err(failed(&error)),
        };
        if let Err(error) = memory.forget(ON_ITS_WAY, sha256).await {
            tracing::warn!(error = chain(&error), "the others wait until the claim ends");
        }
        looked
    }

    /// Asks VirusTotal, if the budget allows it, and remembers what it says.
    async fn ask(&self, sha256: &str, attempts: u32) -> Result<Looked, After> {
        let windows = &self.settings.lookup.windows;
        let permit = self.store.budget.ask(BUDGET, windows, self.clock.now()).await;
        if let Permit::Wait(wait) = permit.map_err(|e| failed(&e))? {
            return Err(After::later(wait));
        }
        let settings = &self.settings.lookup;
        match self.virustotal.file_report(sha256).await {
            Ok(report) => {
                self.keep(sha256, &report).await.map_err(|e| failed(&e))?;
                Ok(Looked::Report(report))
            }
            Err(VirusTotalError::Missing(_)) => {
                let now = self.clock.now();
                let kept =
                    self.store.memory.remember(UNKNOWN, sha256, settings.unknown_cache, now).await;
                kept.map_err(|e| failed(&e))?;
                Ok(Looked::Unknown)
            }
            Err(error) if error.needs_operator() => Err(After::Stop(chain(&error))),
            Err(error) if error.answer().is_some_and(|a| a.status == Some(429)) => {
                let asked = error.retry_after().and_then(|d| SignedDuration::try_from(d).ok());
                let wait = asked.unwrap_or(QUOTA_WAIT);
                tracing::warn!(error = chain(&error), wait_s = wait.as_secs(), "quota used up");
                let now = self.clock.now();
                let kept = self.store.memory.remember(PAUSED, BUDGET, wait, now).await;
                kept.map_err(|e| failed(&e))?;
                Err(After::later(wait))
            }
            Err(error) if error.is_transient() && attempts + 1 < settings.max_attempts => {
                tracing::warn!(attempts, error = chain(&error), "looking up again");
                let doubled = FIRST_WAIT * (1 << attempts.min(10));
                let after = doubled.min(LONGEST_WAIT);
                Err(After::Again(Again { after, is_attempt: true }))
            }
            Err(error) => Ok(Looked::Failed(chain(&error))),
        }
    }

    async fn remembered(&self, sha256: &str) -> Result<Option<Looked>, StoreError> {
        let (memory, now) = (&self.store.memory, self.clock.now());
        if memory.knows(UNKNOWN, sha256, now).await? {
            return Ok(Some(Looked::Unknown));
        }
        if !memory.knows(REPORT, sha256, now).await? {
            return Ok(None);
        }
        let Some(mut reader) = self.store.bundles.open(&format!("{FOLDER}{sha256}")).await? else {
            return Ok(None);
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut report = Vec::new();
            reader.read_to_end(&mut report).map(|_| report)
        });
        // One that cannot be read is asked for again.
        Ok(read.await.ok().and_then(Result::ok).map(|report| Looked::Report(report.into())))
    }

    /// The report first, then that it is there.
    async fn keep(&self, sha256: &str, report: &[u8]) -> Result<(), StoreError> {
        let ttl = self.settings.lookup.report_cache;
        if ttl.is_zero() {
            return Ok(());
        }
        self.store.bundles.put(&format!("{FOLDER}{sha256}"), report).await?;
        self.store.memory.remember(REPORT, sha256, ttl, self.clock.now()).await?;
        Ok(())
    }

    /// Removes reports that are too old to be used, at most once an hour.
    pub(crate) async fn tidy(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let hour = SignedDuration::from_hours(1);
        if !self.store.memory.remember("housekeeping", "reports", hour, now).await? {
            return Ok(());
        }
        self.store.bundles.remove_older(FOLDER, self.settings.lookup.report_cache, now).await
    }
}
