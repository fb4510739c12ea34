//! Bodies that somebody posted: staged under `posted/`, delivered, removed.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Account, DeliverError, Ended, Input, Limits, Pipeline, Progress};
use crate::{
    bundle::{self, BundleError, Verified},
    errors::chain,
    store::{BundleReader, Clock, Counts, StoreError, rejects::Rejects},
};

/// Folder of staged bodies; their names are their SHA-256.
pub const FOLDER: &str = "posted/";

/// What became of a posted body.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Posted {
    /// Counted over the whole body.
    pub counts: Counts,
    /// Refused lines, at most [`SHOWN_REJECTS`] of them: number and reason.
    pub rejected: Vec<(u64, String)>,
}

/// Refused lines that an account lists; all are kept under `rejects/`.
pub const SHOWN_REJECTS: usize = 1000;

#[async_trait]
impl Progress for Posted {
    async fn done(&mut self, account: Account) -> Result<(), StoreError> {
        self.counts.add(account.counts);
        let room = SHOWN_REJECTS.saturating_sub(self.rejected.len());
        self.rejected.extend(account.rejected.into_iter().take(room));
        Ok(())
    }
}

/// Delivers the staged body `key` (`posted/<sha256>`, or an object somebody put under `incoming/`), and
/// removes it once everything in it is accounted for. Ages count at `now`: when it came in. `None` where it
/// is not there any more, or `limits` ended the work: then it stays.
///
/// # Errors
/// See [`DeliverError`]; the body stays, except where it can never be decoded: then nothing of it is
/// delivered, and it goes to `rejects/`.
pub async fn deliver(
    pipeline: &Pipeline,
    key: &str,
    now: Timestamp,
    limits: &Limits,
) -> Result<Option<Posted>, DeliverError> {
    let bundles = &pipeline.store.bundles;
    let Some(reader) = bundles.open(key).await? else { return Ok(None) };
    match verify(pipeline, reader).await {
        // No bytes are no records.
        Ok(_) | Err(DeliverError::Bundle(BundleError::Empty)) => {}
        Err(DeliverError::Bundle(error)) if !error.is_transient() => {
            bury(pipeline, key, &chain(&error), now).await?;
            return Err(error.into());
        }
        Err(error) => return Err(error),
    }
    let Some(reader) = bundles.open(key).await? else { return Ok(None) };
    let mut posted = Posted::default();
    let input = Input { reader, origin: key.to_owned(), lines_done: 0, now };
    match pipeline.deliver(input, limits, &mut posted).await {
        Ok(Ended::Complete) | Err(DeliverError::Bundle(BundleError::Empty)) => {
            bundles.remove(key).await?;
            Ok(Some(posted))
        }
        Ok(Ended::Paused) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Decodes a whole body: a fault in it shows before a line of it leaves.
async fn verify(pipeline: &Pipeline, reader: BundleReader) -> Result<Verified, DeliverError> {
    let (caps, threads) = (pipeline.caps, pipeline.threads);
    let verified = tokio::task::spawn_blocking(move || bundle::verify(reader, caps, threads));
    Ok(verified.await.map_err(|_| DeliverError::Panicked)??)
}

/// Moves a body that can never be decoded under `rejects/`.
async fn bury(
    pipeline: &Pipeline,
    key: &str,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let bundles = &pipeline.store.bundles;
    let Some(mut reader) = bundles.open(key).await? else { return Ok(()) };
    // Named by the body, which only one task of a process works at a time.
    let name = key.replace('/', "-");
    let copy = bundles.scratch().join(format!("bury-{}-{name}", std::process::id()));
    let to = copy.clone();
    let copied = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&to)?;
        std::io::copy(&mut reader, &mut file)?;
        file.sync_all()
    });
    let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Unavailable {
        action: format!("moving {key} to rejects/"),
        source,
    };
    copied.await.map_err(|e| unavailable(e.into()))?.map_err(|e| unavailable(e.into()))?;
    Rejects::new(Arc::clone(bundles)).keep_bundle(key, "body", &copy, reason, now).await?;
    bundles.remove(key).await
}

/// Delivers everything that waits under `posted/` and that `claim` gives a guard for; tells `delivered` of
/// each body. One that fails is logged, stays for the next sweep and does not keep the others from being
/// delivered. Gives how many were delivered, and the first error.
pub async fn sweep<Guard: Send>(
    pipeline: &Pipeline,
    clock: &dyn Clock,
    limits: &Limits,
    claim: impl Fn(&str) -> Option<Guard> + Send,
    mut delivered: impl FnMut(&Posted) + Send,
) -> (u64, Option<DeliverError>) {
    let waiting = match pipeline.store.bundles.list(FOLDER).await {
        Ok(waiting) => waiting,
        Err(error) => return (0, Some(error.into())),
    };
    let (mut swept, mut first) = (0, None);
    for body in waiting {
        if limits.reached() {
            break;
        }
        let Some(_guard) = claim(&body.key) else { continue };
        // A record that was young enough when it was posted does not grow old while it waits.
        let posted = body.modified.min(clock.now());
        match deliver(pipeline, &body.key, posted, limits).await {
            Ok(Some(posted)) => {
                swept += 1;
                tracing::info!(
                    key = body.key,
                    records = posted.counts.records,
                    "a staged body was delivered"
                );
                delivered(&posted);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(
                    key = body.key,
                    error = chain(&error),
                    "a staged body was not delivered"
                );
                first.get_or_insert(error);
            }
        }
    }
    (swept, first)
}
