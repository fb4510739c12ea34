//! A lease that is held while something is worked.

use std::sync::Arc;

use super::{Clock, Grant, Lease, Leases, StoreError, lease_renewer::LeaseRenewer};
use crate::{lambda, pipeline::RunLimits};

/// A lease that is kept, and limits for the work under it, reached also where it is lost.
pub struct Claim {
    /// The lease.
    pub lease: Lease,
    /// Limits of the work.
    pub limits: RunLimits,
    keeper: LeaseRenewer,
    leases: Arc<dyn Leases>,
}

impl Claim {
    /// Takes a lease; the inner `Err` says who holds it, and since when. Must be called inside of a tokio
    /// runtime.
    ///
    /// # Errors
    /// What [`Leases`] gives.
    pub async fn take(
        leases: &Arc<dyn Leases>,
        clock: &Arc<dyn Clock>,
        name: &str,
        limits: &RunLimits,
    ) -> Result<Result<Self, String>, StoreError> {
        match leases.acquire(name, &owner(), clock.now()).await? {
            Grant::Acquired(lease) => {
                let limits = limits.child();
                let keeper = LeaseRenewer::start(leases, clock, &lease, &limits.stop);
                Ok(Ok(Self { lease, limits, keeper, leases: Arc::clone(leases) }))
            }
            Grant::Held { owner, since } => Ok(Err(format!("{owner}, since {since:.0}"))),
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// What [`Leases`] gives.
    pub async fn give_back(self) -> Result<(), StoreError> {
        drop(self.keeper);
        self.leases.release(self.lease).await
    }
}

/// Who we are, so that an operator finds the process.
fn owner() -> String {
    if let Some(instance) = lambda::instance() {
        return instance;
    }
    let process = format!("process {}", std::process::id());
    // Linux; elsewhere the process alone must do.
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
    }
}
