//! Takes the leases of minutes. A tick, a replay or a worker loads a minute only while it holds the minute's lease.

use azul_vt::{
    minute::Minute,
    pipeline::RunLimits,
    store::{Claim, StoreError},
};

use tracing::Instrument as _;

use super::{Load, LoadError, NAME, Replay, Report};

/// The outcome of loading a minute.
pub(crate) enum MinuteEnd {
    Loaded,
    /// There was nothing to do, because the minute was loaded or given up before.
    AlreadySettled,
    Missing,
    Failed,
    NotYet,
    Paused,
    /// VirusTotal asks for a pause that is longer than a run may hold its leases.
    FeedPaused,
    /// As many bundles are loaded or being loaded as `PACKAGE_LIMIT` allows.
    PackageLimitReached,
    /// Another owner holds the lease of the minute.
    Held(String),
}

/// Returns the name of a minute's lease.
pub(crate) fn lease_name(minute: Minute) -> String {
    format!("{NAME}-{minute}")
}

impl Load {
    /// Takes a lease. The inner `Err` says who holds it, and since when.
    pub(crate) async fn take(
        &self,
        name: &str,
        limits: &RunLimits,
    ) -> Result<Result<Claim, String>, LoadError> {
        Ok(Claim::take(&self.store.leases, &self.clock, name, limits).await?)
    }

    /// Takes the lease of a minute.
    pub(crate) async fn claim(
        &self,
        minute: Minute,
        limits: &RunLimits,
    ) -> Result<Result<Claim, String>, LoadError> {
        self.take(&lease_name(minute), limits).await
    }

    /// Loads a minute under its lease. A replay also loads a minute that was loaded before, and ignores
    /// `PACKAGE_LIMIT`.
    pub(crate) async fn load_under_lease(
        &self,
        minute: Minute,
        replay: Option<Replay<'_>>,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        let most = if replay.is_some() { None } else { self.settings.package_limit };
        let Some(begun) = limits.begin_bundle(most) else {
            return Ok(MinuteEnd::PackageLimitReached);
        };
        let claim = match self.claim(minute, limits).await? {
            Ok(claim) => claim,
            Err(owner) => return Ok(MinuteEnd::Held(owner)),
        };
        (self.observer)(super::Step::Minute(minute));
        let span = tracing::error_span!("minute", %minute);
        let loading = self.load_minute(minute, &claim, replay, report).instrument(span);
        let outcome = loading.await;
        claim.give_back().await?;
        match outcome {
            Ok(MinuteEnd::Loaded) => {
                begun.loaded();
                Ok(MinuteEnd::Loaded)
            }
            // The minute paused although nobody asked it to stop, so its lease was lost.
            Ok(MinuteEnd::Paused) if !limits.reached() => Ok(taken_over()),
            Err(LoadError::Store(StoreError::LeaseLost { name })) if name == lease_name(minute) => {
                Ok(taken_over())
            }
            outcome => outcome,
        }
    }
}

fn taken_over() -> MinuteEnd {
    MinuteEnd::Held("somebody who took it over".into())
}
