//! Bodies that clients posted: they are staged under `posted/`, delivered and removed.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    BatchReport, DeliverError, DeliverInput, Ended, Pipeline, Progress, RunLimits, reasons,
};
use crate::{
    bundle::{BundleError, Caps, JsonLinesReader, Layout, layout_of},
    errors::chain,
    store::{BundleReader, Clock, Counts, StoreError},
};

/// Folder of staged bodies; their names are their SHA-256.
pub const FOLDER: &str = "posted/";

/// Outcome of a posted body.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Posted {
    /// Counts of the whole body.
    pub counts: Counts,
    /// Refused lines, at most [`SHOWN_REJECTS`] of them: number and reason.
    pub rejected: Vec<(u64, String)>,
}

/// Most refused lines that [`Posted::rejected`] lists.
pub const SHOWN_REJECTS: usize = 1000;

impl Posted {
    /// Logs what became of a body: a line for each, louder if many of its records were rejected.
    fn tell(&self, key: &str) {
        let Counts { records, delivered, filtered, rejected, .. } = self.counts;
        let first = reasons(&self.rejected);
        if self.counts.is_all_rejected() {
            tracing::error!(key, records, rejected, first, "no record of a body was taken");
        } else if self.counts.is_much_rejected() {
            tracing::warn!(key, records, rejected, first, "many records of a body were rejected");
        } else {
            tracing::info!(
                key,
                records,
                delivered,
                filtered,
                rejected,
                first,
                "a body was delivered"
            );
        }
    }
}

/// Returns the body with one record a line. A body that was written as a list, or over several lines, is recognised by
/// its start.
fn as_lines(reader: BundleReader, caps: Caps) -> BundleReader {
    match layout_of(reader, caps) {
        (Layout::Lines, reader) => Box::new(reader),
        (Layout::Documents, reader) => Box::new(JsonLinesReader::new(reader, caps)),
    }
}

#[async_trait]
impl Progress for Posted {
    async fn done(&mut self, account: BatchReport) -> Result<(), StoreError> {
        self.counts.add(account.counts);
        let room = SHOWN_REJECTS.saturating_sub(self.rejected.len());
        self.rejected.extend(account.rejected.into_iter().take(room));
        Ok(())
    }
}

/// Delivers the staged body `key` (`posted/<sha256>`, or an object that another program put under `incoming/`), and
/// removes it once everything in it is accounted for. `now` is the time at which the body arrived; ages are counted at
/// that time. Returns `None` if the body is not there any more, or if `limits` ended the work, in which case it stays.
///
/// # Errors
/// See [`DeliverError`]. The body stays, unless it can never be decoded. In that case nothing of it is delivered, and
/// it is moved to `rejects/`.
pub async fn deliver(
    pipeline: &Pipeline,
    key: &str,
    now: Timestamp,
    limits: &RunLimits,
) -> Result<Option<Posted>, DeliverError> {
    let bundles = &pipeline.store.bundles;
    match pipeline.verify(key, limits).await {
        Ok(Ended::Paused) => return Ok(None),
        // An empty body has no records and is no error.
        Ok(Ended::Complete) | Err(DeliverError::Bundle(BundleError::Empty)) => {}
        Err(DeliverError::Bundle(error)) if !error.is_transient() => {
            pipeline.bury(key, key, "body", &chain(&error), now).await?;
            return Err(error.into());
        }
        Err(error) => return Err(error),
    }
    let Some(reader) = bundles.open(key).await? else { return Ok(None) };
    let (caps, reader) = (pipeline.caps, limits.reader(reader));
    let reader = tokio::task::spawn_blocking(move || as_lines(reader, caps));
    let reader = reader.await.map_err(|_| DeliverError::Panicked)?;
    let mut posted = Posted::default();
    let input = DeliverInput { reader, origin: key.to_owned(), lines_done: 0, now };
    match pipeline.deliver(input, limits, &mut posted).await {
        Ok(Ended::Complete) | Err(DeliverError::Bundle(BundleError::Empty)) => {
            bundles.remove(key).await?;
            posted.tell(key);
            Ok(Some(posted))
        }
        Ok(Ended::Paused) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Delivers all bodies under `posted/` for which `claim` returns a guard, and reports each to `delivered`. A body that
/// fails is logged, stays for the next sweep and does not stop the others. Returns how many were delivered, and the
/// first error.
pub async fn sweep<Guard: Send>(
    pipeline: &Pipeline,
    clock: &dyn Clock,
    limits: &RunLimits,
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
