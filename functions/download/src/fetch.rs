//! Fetches a sample from VirusTotal into the dispatcher's store, by its direct link or otherwise by its hash.

use azul_vt::{
    azul::{
        dispatcher::PostError,
        event::{Datastream, DownloadEvent},
        streams::StreamError,
    },
    errors::chain,
    peers::Peer,
    pipeline::RunLimits,
    store::{
        inbox::{Item, Retry},
        totals::{Totals, utc_day},
    },
    tasks::{LONGEST_WAIT, state_unavailable},
    virustotal::VirusTotalError,
    worker::Disposition,
};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};
use url::Url;

use crate::{
    Download,
    events::Outcome,
    transfer::{Transfer, TransferError},
    work::place,
};

/// The label of samples at the dispatcher.
pub(crate) const LABEL: &str = "content";
/// Kind under which [`azul_vt::store::Memory`] remembers that a service gets no requests for a while.
const PAUSED: &str = "pause";
/// Id under which the pause of the dispatcher's content store is remembered.
const STORE: &str = "content store";
/// Shortest pause after the dispatcher's content store did not take a sample.
const STORE_PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// Longest wait of an item for the dispatcher's content store. It is long, because each new try costs a download.
const LONGEST_STORE_WAIT: SignedDuration = SignedDuration::from_hours(1);
/// Time after which a transfer that an invocation's deadline breaks off counts as a try. A transfer that had more time
/// than this may never fit into an invocation.
const LONG: Duration = Duration::from_mins(1);

/// The way in which a request ends without a sample.
pub(crate) enum Ended {
    /// There will be no sample.
    Outcome(Outcome),
    /// There is no sample now; the item is tried again or given up.
    Disposition(Disposition),
}

impl From<Disposition> for Ended {
    fn from(after: Disposition) -> Self {
        Self::Disposition(after)
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Ended {
    Ended::Outcome(Outcome::Failed(chain(error)))
}

/// Returns a request's direct link, or the reason why it cannot be used; `None` if the request has no link.
pub(crate) fn link(request: &DownloadEvent, now: Timestamp) -> Option<Result<Url, &'static str>> {
    let entity = &request.entity;
    if entity.direct_url.is_empty() {
        return None;
    }
    if entity.direct_expiry.is_some_and(|expiry| expiry <= now) {
        return Some(Err("its direct link has expired"));
    }
    Some(entity.direct_url.parse().map_err(|_| "its direct link is no URL"))
}

impl Download {
    /// Fetches the content of a request into the store, within `limits`.
    pub(crate) async fn fetch(
        &self,
        request: &DownloadEvent,
        item: &Item,
        limits: &RunLimits,
    ) -> Result<Datastream, Ended> {
        let begun = Instant::now();
        if let Some(fetched) = limits.run_until(self.fetch_content(request, item)).await {
            return fetched;
        }
        let is_over = limits.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let is_attempt = is_over && begun.elapsed() >= LONG;
        let again = Retry { after: SignedDuration::ZERO, is_attempt, ..Retry::default() };
        if is_attempt && item.attempts.saturating_add(1) >= self.common.settings.lookup.max_attempts
        {
            let why = "the time of an invocation was too short for it, again and again";
            return Err(Ended::Outcome(Outcome::Failed(why.into())));
        }
        Err(Disposition::Retry(again).into())
    }

    async fn fetch_content(
        &self,
        request: &DownloadEvent,
        item: &Item,
    ) -> Result<Datastream, Ended> {
        let sha256 = &request.entity.hash;
        let (why, again) = match link(request, self.common.clock.now()) {
            None => ("it has no direct link".to_owned(), None),
            Some(Err(why)) => (why.to_owned(), None),
            Some(Ok(link)) => match self.by_link(request, link).await {
                Ok(stored) => return Ok(stored),
                Err(TransferError::Store(error)) => {
                    return Err(self.refused_by_store(&error, item).await);
                }
                Err(error @ TransferError::TooLarge(_)) => return Err(failed(&error)),
                Err(error) => {
                    let again =
                        match &error {
                            TransferError::Source(error) if error.is_outage() => self
                                .common
                                .outage(item, Peer::VirusTotal, error.retry_after(), LONGEST_WAIT),
                            TransferError::Source(error) if error.is_transient() => {
                                self.common.requeue(item)
                            }
                            TransferError::Slow => self.common.requeue(item),
                            _ => None,
                        };
                    (chain(&error), again)
                }
            },
        };
        if self.common.settings.download.direct_only {
            if let Some(again) = again {
                tracing::warn!(sha256, why, "asking again");
                return Err(again.into());
            }
            let why = format!("{why}; by its hash it is not asked for (DIRECT_ONLY)");
            return Err(Ended::Outcome(Outcome::Failed(why)));
        }
        tracing::info!(sha256, why, "asking by the hash");
        self.common.grant_for(item).await?;
        match self.by_hash(request, item).await {
            Ok(stored) => {
                self.common.note_answer().await;
                Ok(stored)
            }
            Err(TransferError::Store(error)) => Err(self.refused_by_store(&error, item).await),
            Err(TransferError::Source(error)) => Err(self.refused(error, item).await),
            Err(error @ TransferError::Slow) => match self.common.requeue(item) {
                Some(again) => Err(again.into()),
                None => Err(failed(&error)),
            },
            Err(error) => Err(failed(&error)),
        }
    }

    async fn by_link(
        &self,
        request: &DownloadEvent,
        link: Url,
    ) -> Result<Datastream, TransferError> {
        let hosts = &self.common.settings.download.content_hosts;
        let content = self.virustotal.open_link(&request.entity.hash, link, hosts).await?;
        self.transfer(request).run(Vec::new(), content).await
    }

    async fn by_hash(
        &self,
        request: &DownloadEvent,
        item: &Item,
    ) -> Result<Datastream, TransferError> {
        let sha256 = &request.entity.hash;
        let hosts = &self.common.settings.download.content_hosts;
        let content = self.virustotal.open_file(sha256, hosts).await?;
        let wrong_content_error = content.wrong_content_error();
        let today = utc_day(self.common.clock.now());
        let id = format!("{sha256} {} {}", item.id, item.attempts);
        if let Err(error) = Totals::charge(&*self.common.store.quotas, today, &id).await {
            tracing::warn!(error = chain(&error), "a charged download is not counted");
        }
        self.transfer(request).run(Vec::new(), content).await.map_err(|error| match error {
            // VirusTotal returns the file that belongs to the hash. Other content is a proxy's page or was cut by a
            // gateway.
            TransferError::Mismatch(_) | TransferError::Empty => {
                wrong_content_error(&chain(&error)).into()
            }
            error => error,
        })
    }

    /// Stores a sample once more that the store already has, because the dispatcher's answer describes the content.
    /// `None`: the store does not have the sample.
    pub(crate) async fn stored(
        &self,
        request: &DownloadEvent,
        item: &Item,
    ) -> Result<Option<Datastream>, Ended> {
        let content = match self.content.open_stream(place(request)).await {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.refused_by_store(&error, item).await),
        };
        match self.transfer(request).run(Vec::new(), content).await {
            Ok(stored) => Ok(Some(stored)),
            Err(TransferError::Store(error)) => Err(self.refused_by_store(&error, item).await),
            // The store returns the file that belongs to the hash. Other content comes from a proxy in front of the
            // store. Where the store is too slow it may be faster later, and the file is still there.
            Err(
                error @ (TransferError::Mismatch(_) | TransferError::Empty | TransferError::Slow),
            ) => {
                let error = StreamError::NoAnswer(PostError::Nonsense(chain(&error)));
                Err(self.refused_by_store(&error, item).await)
            }
            Err(error) => Err(failed(&error)),
        }
    }

    fn transfer<'a>(&'a self, request: &'a DownloadEvent) -> Transfer<'a> {
        Transfer {
            store: &self.content,
            source: &request.source.name,
            label: LABEL,
            sha256: Some(&request.entity.hash),
            most: self.common.settings.max_download_bytes,
        }
    }

    /// Decides how a request ends if VirusTotal does not return the file of its hash.
    async fn refused(&self, error: VirusTotalError, item: &Item) -> Ended {
        match error {
            VirusTotalError::Missing(answer) => {
                self.common.note_answer().await;
                Ended::Outcome(Outcome::NotFound(answer.to_string()))
            }
            // Other files may still be downloaded, so the error is logged and does not stop all work.
            error @ VirusTotalError::Forbidden(_) => {
                self.common.note_answer().await;
                tracing::error!(error = chain(&error), "the key may not download");
                failed(&error)
            }
            error => match self.common.refused(&error, item).await {
                Some(after) => Ended::Disposition(after),
                None => failed(&error),
            },
        }
    }

    /// Decides how a request ends if the dispatcher's store does not take its sample. All requests then wait for a
    /// while, because each new try costs a download.
    pub(crate) async fn refused_by_store(&self, error: &StreamError, item: &Item) -> Ended {
        let now = self.common.clock.now();
        let after = self.common.outage(
            item,
            Peer::Dispatcher,
            Some(STORE_PAUSE.unsigned_abs()),
            LONGEST_STORE_WAIT,
        );
        let Some(after) = after.filter(|_| error.is_transient()) else { return failed(error) };
        tracing::warn!(error = chain(error), "the sample waits for the dispatcher");
        let kept = self.common.store.memory.remember(PAUSED, STORE, STORE_PAUSE, now).await;
        if let Err(error) = kept {
            return Ended::Disposition(state_unavailable(&error));
        }
        Ended::Disposition(after)
    }

    /// Whether the dispatcher's store did not take something a moment ago.
    pub(crate) async fn store_is_paused(&self) -> Result<bool, Disposition> {
        let now = self.common.clock.now();
        self.common.store.memory.knows(PAUSED, STORE, now).await.map_err(|e| state_unavailable(&e))
    }
}

/// Returns the next wait of an item of this age: half of the age, within bounds. So old items are tried rarely.
pub(crate) fn age_backoff(
    age: SignedDuration,
    least: SignedDuration,
    most: SignedDuration,
) -> SignedDuration {
    (age / 2).clamp(least, most)
}
