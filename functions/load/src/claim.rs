//! Who loads a minute holds its lease: a tick, a replay or a worker.

use std::sync::Arc;

use azul_vt::{
    mapping::Mapper,
    minute::Minute,
    pipeline::Limits,
    store::{Grant, Keeper, Lease, StoreError},
};

use super::{Load, LoadError, NAME, Report};

/// How a minute ended.
pub(crate) enum MinuteEnd {
    Loaded,
    /// There was nothing to do: it was loaded or given up before.
    Before,
    Missing,
    Failed,
    NotYet,
    Paused,
    /// As many bundles are loaded or being loaded as `PACKAGE_LIMIT` allows.
    Sated,
    /// Somebody else is at it: who.
    Held(String),
}

/// A lease that is kept, and limits for the work under it, reached also where it is lost.
pub(crate) struct Claim {
    pub(crate) lease: Lease,
    pub(crate) limits: Limits,
    keeper: Keeper,
}

/// Name of a minute's lease.
pub(crate) fn lease_name(minute: Minute) -> String {
    format!("{NAME}-{minute}")
}

impl Load {
    /// Takes a lease; `Err`: who holds it, and since when.
    pub(crate) async fn take(
        &self,
        name: &str,
        limits: &Limits,
    ) -> Result<Result<Claim, String>, LoadError> {
        match self.store.leases.acquire(name, &owner(), self.clock.now()).await? {
            Grant::Acquired(lease) => {
                let limits = limits.child();
                let keeper = Keeper::start(&self.store.leases, &self.clock, &lease, &limits.stop);
                Ok(Ok(Claim { lease, limits, keeper }))
            }
            Grant::Held { owner, since } => Ok(Err(format!("{owner}, since {since:.0}"))),
        }
    }

    /// Takes the lease of a minute.
    pub(crate) async fn claim(
        &self,
        minute: Minute,
        limits: &Limits,
    ) -> Result<Result<Claim, String>, LoadError> {
        self.take(&lease_name(minute), limits).await
    }

    /// Gives a lease back.
    pub(crate) async fn give_back(&self, claim: Claim) -> Result<(), LoadError> {
        drop(claim.keeper);
        Ok(self.store.leases.release(claim.lease).await?)
    }

    /// Loads a minute under its lease. With `ageless`, as a replay: also where it was loaded before, and
    /// whatever `PACKAGE_LIMIT` says.
    pub(crate) async fn load_alone(
        &self,
        minute: Minute,
        ageless: Option<&Arc<Mapper>>,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        let most = if ageless.is_some() { None } else { self.settings.package_limit };
        let Some(begun) = limits.begin_bundle(most) else { return Ok(MinuteEnd::Sated) };
        let claim = match self.claim(minute, limits).await? {
            Ok(claim) => claim,
            Err(owner) => return Ok(MinuteEnd::Held(owner)),
        };
        (self.observer)(super::Step::Minute(minute));
        let outcome = self.load_minute(minute, &claim, ageless, report).await;
        self.give_back(claim).await?;
        match outcome {
            Ok(MinuteEnd::Loaded) => {
                begun.loaded();
                Ok(MinuteEnd::Loaded)
            }
            // Nobody asked it to stop: its lease was lost.
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

/// Who we are, so that an operator finds the process.
pub fn owner() -> String {
    if let Some(instance) = azul_vt::lambda::instance() {
        return instance;
    }
    let process = format!("process {}", std::process::id());
    // Linux; elsewhere the process alone must do.
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
    }
}
