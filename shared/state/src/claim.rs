//! A lease that is held while work is done under it.

use std::sync::{Arc, OnceLock};

use super::{Clock, Grant, Lease, Leases, StoreError, lease_renewer::LeaseRenewer};
use net::limits::RunLimits;

/// A lease that is renewed, and limits for the work under it. The limits are also reached when the lease is lost.
pub struct Claim {
    /// The lease.
    pub lease: Lease,
    /// Limits of the work.
    pub limits: RunLimits,
    keeper: LeaseRenewer,
    leases: Arc<dyn Leases>,
}

impl Claim {
    /// Takes a lease. The inner `Err` names the owner that holds it and the time since when. Must be called inside of a
    /// tokio runtime.
    ///
    /// # Errors
    /// Any error of [`Leases`].
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

    /// Gives the lease back.
    ///
    /// # Errors
    /// Any error of [`Leases`].
    pub async fn give_back(self) -> Result<(), StoreError> {
        drop(self.keeper);
        self.leases.release(self.lease).await
    }
}

/// The name of this process as an owner of leases, if it has a better one than its number.
static OWNER: OnceLock<String> = OnceLock::new();

/// Sets the name of this process as an owner of leases, by which an operator finds it. Only the first call counts.
pub fn set_owner(name: String) {
    // An error means that the process has a name.
    let _ = OWNER.set(name);
}

/// Returns the name of this process as an owner of leases, by which an operator finds it.
fn owner() -> String {
    if let Some(name) = OWNER.get() {
        return name.clone();
    }
    let process = format!("process {}", std::process::id());
    // Only Linux has this file. Elsewhere the name is the process number alone.
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
    }
}
