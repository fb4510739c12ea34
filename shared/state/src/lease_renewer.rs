//! Keeps a lease for as long as the work under it takes.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Clock, Lease, Leases, StoreError};
use base::errors::chain;

/// Interval between two renewals of a lease. On AWS a lease expires after 60 seconds, so two renewals in a row may
/// fail.
const EVERY: Duration = Duration::from_secs(20);

/// Renews a lease every 20 seconds until it is dropped.
#[derive(Debug)]
pub(super) struct LeaseRenewer {
    task: JoinHandle<()>,
}

impl LeaseRenewer {
    /// Starts to renew a lease. If the lease is lost, `stop` is cancelled, so that the work under it ends. A renewal
    /// that merely fails is logged and tried again at the next interval, because each write checks by itself whether
    /// the lease is still held.
    ///
    /// Must be called inside of a tokio runtime.
    pub(super) fn start(
        leases: &Arc<dyn Leases>,
        clock: &Arc<dyn Clock>,
        lease: &Lease,
        stop: &CancellationToken,
    ) -> Self {
        Self::every(EVERY, leases, clock, lease, stop)
    }

    fn every(
        period: Duration,
        leases: &Arc<dyn Leases>,
        clock: &Arc<dyn Clock>,
        lease: &Lease,
        stop: &CancellationToken,
    ) -> Self {
        let (leases, clock, stop) = (Arc::clone(leases), Arc::clone(clock), stop.clone());
        // A renewal needs no guard; the lease itself stays with its owner.
        let (name, owner, fence) = (lease.name.clone(), lease.owner.clone(), lease.fence);
        let lease = Lease { name, owner, fence, guard: None };
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once. It is skipped, because the lease was just taken.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                match leases.renew(&lease, clock.now()).await {
                    Ok(()) => {}
                    Err(error @ StoreError::LeaseLost { .. }) => {
                        tracing::warn!(error = chain(&error), "the work under it ends");
                        return stop.cancel();
                    }
                    Err(error) => {
                        tracing::warn!(lease = lease.name, error = chain(&error), "not renewed");
                    }
                }
            }
        });
        Self { task }
    }
}

impl Drop for LeaseRenewer {
    fn drop(&mut self) {
        // A renewal that was already sent may still arrive. After the lease was given back it has no effect.
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use jiff::Timestamp;

    use super::*;
    use crate::{Grant, SystemClock};

    /// Leases that are lost at the renewal after `lost_after` renewals. Each second renewal fails.
    struct Lasting {
        renewals: AtomicU32,
        lost_after: u32,
    }

    #[async_trait]
    impl Leases for Lasting {
        async fn acquire(&self, _: &str, _: &str, _: Timestamp) -> Result<Grant, StoreError> {
            unreachable!("a keeper keeps what is there")
        }

        async fn renew(&self, lease: &Lease, _: Timestamp) -> Result<(), StoreError> {
            assert_eq!((lease.name.as_str(), lease.fence), ("load", 7));
            match self.renewals.fetch_add(1, Ordering::Relaxed) + 1 {
                n if n > self.lost_after => Err(StoreError::LeaseLost { name: "load".into() }),
                n if n % 2 == 0 => Err(StoreError::Unavailable {
                    action: "renewing".into(),
                    source: "no answer".into(),
                }),
                _ => Ok(()),
            }
        }

        async fn release(&self, _: Lease) -> Result<(), StoreError> {
            unreachable!("its owner does that")
        }

        async fn holder(
            &self,
            _: &str,
            _: Timestamp,
        ) -> Result<Option<(String, Timestamp)>, StoreError> {
            Ok(None)
        }
    }

    fn keep(lost_after: u32) -> (Arc<Lasting>, LeaseRenewer, CancellationToken) {
        let lasting = Arc::new(Lasting { renewals: AtomicU32::new(0), lost_after });
        let leases: Arc<dyn Leases> = Arc::clone(&lasting) as Arc<dyn Leases>;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let lease = Lease { name: "load".into(), owner: "test".into(), fence: 7, guard: None };
        let stop = CancellationToken::new();
        let keeper = LeaseRenewer::every(Duration::from_millis(1), &leases, &clock, &lease, &stop);
        (lasting, keeper, stop)
    }

    #[tokio::test]
    async fn a_lease_that_is_lost_stops_the_work_and_one_that_is_not_renewed_does_not() {
        let (lasting, _keeper, stop) = keep(5);
        stop.cancelled().await;
        assert_eq!(lasting.renewals.load(Ordering::Relaxed), 6);
    }

    #[tokio::test]
    async fn nothing_is_renewed_once_the_keeper_is_gone() {
        let (lasting, keeper, stop) = keep(u32::MAX);
        while lasting.renewals.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        drop(keeper);
        // The renewer's task drops its reference when it has ended.
        while Arc::strong_count(&lasting) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(!stop.is_cancelled());
    }
}
