//! Looks a file up, from remembered results or from VirusTotal within the request budget.

use azul_vt::{
    errors::chain,
    pipeline::RunLimits,
    store::{StoreError, inbox::Item},
    tasks::state_unavailable,
    virustotal::{self, VirusTotalError},
    worker::Disposition,
};
use bytes::Bytes;
use jiff::SignedDuration;

use crate::Query;

/// Kind under which [`azul_vt::store::Memory`] remembers that a file's report is kept.
const REPORT: &str = "report";
/// Kind under which [`azul_vt::store::Memory`] remembers a file that VirusTotal does not know.
const UNKNOWN: &str = "unknown file";
/// Kind under which [`azul_vt::store::Memory`] remembers that a file is being looked up.
const ON_ITS_WAY: &str = "look-up";
/// Kind under which [`azul_vt::store::Memory`] remembers the item that is looking a file up.
const CLAIMED_BY: &str = "look-up by";
/// Folder of reports.
const FOLDER: &str = "reports/";
/// Time for which a look-up is claimed. It is longer than a look-up takes. If a worker dies, the others wait no longer
/// than this.
const CLAIM: SignedDuration = SignedDuration::from_mins(2);
/// Wait of an item whose file another item is looking up.
const SOON: SignedDuration = SignedDuration::from_secs(1);
/// The result of a look-up.
pub(crate) enum Looked {
    Report(Bytes),
    Unknown,
    /// All tries failed, for this reason.
    Failed(String),
}

impl Query {
    /// Looks a file up. `Err` says how the item ends if there is no result now.
    pub(crate) async fn look_up(
        &self,
        sha256: &str,
        item: &Item,
        limits: &RunLimits,
    ) -> Result<Looked, Disposition> {
        if let Some(known) = self.remembered(sha256).await.map_err(|e| state_unavailable(&e))? {
            return Ok(known);
        }
        let now = self.common.clock.now();
        let memory = &self.common.store.memory;
        // If many items want the same file, one sends the request and the others find its result.
        let first = memory.remember(ON_ITS_WAY, sha256, CLAIM, now).await;
        let own = format!("{sha256} {}", item.id);
        if first.map_err(|e| state_unavailable(&e))? {
            let noted = memory.remember(CLAIMED_BY, &own, CLAIM, now).await;
            noted.map_err(|e| state_unavailable(&e))?;
        // An item whose worker died finds its own claim and goes on.
        } else if !memory.knows(CLAIMED_BY, &own, now).await.map_err(|e| state_unavailable(&e))? {
            return Err(Disposition::later(SOON));
        }
        // An earlier look-up of the file may have ended between the first check and the claim.
        let looked = match self.remembered(sha256).await {
            Ok(Some(known)) => Ok(known),
            Ok(None) => self.ask(sha256, item, limits).await,
            Err(error) => Err(state_unavailable(&error)),
        };
        if let Err(error) = memory.forget(ON_ITS_WAY, sha256).await {
            tracing::warn!(error = chain(&error), "the others wait until the claim ends");
        }
        looked
    }

    /// Sends the request to VirusTotal, if the budget allows it, and remembers the answer.
    async fn ask(
        &self,
        sha256: &str,
        item: &Item,
        limits: &RunLimits,
    ) -> Result<Looked, Disposition> {
        self.common.grant_for(item).await?;
        let settings = &self.common.settings.lookup;
        // Only the request is broken off by the limits; the steps before and after it must be completed.
        let Some(asked) = limits.run_until(self.virustotal.file_report(sha256)).await else {
            return Err(Disposition::later(SignedDuration::ZERO));
        };
        match asked {
            Ok(report) => {
                self.common.note_answer().await;
                self.keep(sha256, &report).await.map_err(|e| state_unavailable(&e))?;
                Ok(Looked::Report(report))
            }
            Err(VirusTotalError::Missing(_)) => {
                self.common.note_answer().await;
                let (memory, now) = (&self.common.store.memory, self.common.clock.now());
                let kept = memory.remember(UNKNOWN, sha256, settings.unknown_cache, now).await;
                kept.map_err(|e| state_unavailable(&e))?;
                Ok(Looked::Unknown)
            }
            Err(error) => match self.common.refused(&error, item).await {
                Some(after) => Err(after),
                None => Ok(Looked::Failed(chain(&error))),
            },
        }
    }

    async fn remembered(&self, sha256: &str) -> Result<Option<Looked>, StoreError> {
        let (memory, now) = (&self.common.store.memory, self.common.clock.now());
        if memory.knows(UNKNOWN, sha256, now).await? {
            return Ok(Some(Looked::Unknown));
        }
        if !memory.knows(REPORT, sha256, now).await? {
            return Ok(None);
        }
        let report = self.common.store.bundles.read(&format!("{FOLDER}{sha256}")).await?;
        let Some(report) = report else { return Ok(None) };
        // Older versions kept any body that came with status 200.
        if let Err(why) = virustotal::check_report(&report, sha256) {
            tracing::warn!(sha256, why, "the report that is kept is not used; asking again");
            return Ok(None);
        }
        Ok(Some(Looked::Report(report.into())))
    }

    /// Stores a report, and then remembers that it is stored. In this order a crash leaves no entry without a report.
    async fn keep(&self, sha256: &str, report: &[u8]) -> Result<(), StoreError> {
        let ttl = self.common.settings.lookup.report_cache;
        if ttl.is_zero() {
            return Ok(());
        }
        self.common.store.bundles.put(&format!("{FOLDER}{sha256}"), report).await?;
        self.common.store.memory.remember(REPORT, sha256, ttl, self.common.clock.now()).await?;
        Ok(())
    }

    /// Removes reports that are too old to be used, at most once an hour, and only while a peer confirms the local
    /// clock.
    pub(crate) async fn remove_old_reports(&self) -> Result<(), StoreError> {
        let now = self.common.clock.now();
        let hour = SignedDuration::from_hours(1);
        if !self.common.settings.peers.may_delete(now)
            || !self.common.store.memory.remember("housekeeping", "reports", hour, now).await?
        {
            return Ok(());
        }
        self.common
            .store
            .bundles
            .remove_older(FOLDER, self.common.settings.lookup.report_cache, now)
            .await
    }
}
