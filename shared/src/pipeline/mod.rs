//! A bundle's lines become events at the dispatcher, each line accounted for.
//!
//! Lines are decoded, mapped and selected on several threads in order ([`map_lines`], [`prepare`]), grouped
//! into batches, published with a few posts in flight ([`publish`]), and settled one batch after the
//! other: download requests, rejects, progress. Progress is told only of lines before which everything
//! was acknowledged, so a crash at any point repeats at most what was in flight.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    runtime::Handle,
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc},
};
use tracing::Instrument as _;

use crate::{
    azul::{
        avro,
        dispatcher::Model,
        event::{DownloadEvent, ModelVersion},
    },
    bundle::{BundleError, Caps, OrderedError, map_lines},
    mapping::Mapper,
    selection::Selector,
    store::{
        BundleReader, Counts, Memory, Store, StoreError,
        rejects::{Reject, RejectStage, Rejects},
    },
};

pub mod assemble;
mod limits;
pub mod posted;
pub mod prepare;
pub mod publish;

pub use limits::Limits;
use prepare::{Batch, Batcher, Outcome, Prepared, Preparer};
use publish::{Delivery, PublishError, Publisher};

/// Posts in flight for one bundle.
const IN_FLIGHT: usize = 4;
/// Prepared batches that wait for a post.
const WAITING: usize = 2;
/// Kibibytes of all batches from their preparation to the end of their settling, unless one alone has more.
const BATCHES_KIB: u32 = 16 << 10;
/// What [`Memory`] calls download requests.
pub const REQUESTS: &str = "request";

/// Why a bundle was not delivered to its end.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The bundle cannot be decoded further; all before was delivered.
    #[error("the bundle cannot be read")]
    Bundle(#[from] BundleError),
    /// The dispatcher did not take a batch.
    #[error("the dispatcher did not take the events")]
    Publish(#[from] PublishError),
    /// The state could not be kept.
    #[error("the state could not be kept")]
    Store(#[from] StoreError),
    /// A defect: work on the bundle panicked.
    #[error("preparing the bundle's lines panicked: this is a defect, please report it")]
    Panicked,
}

/// How far a delivery came without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All lines are accounted for.
    Complete,
    /// It was told to stop, and did at the border of a batch.
    Paused,
}

/// What happened to a batch.
#[derive(Debug, Default)]
pub struct Account {
    /// All lines up to this number are accounted for.
    pub lines_done: u64,
    /// Counted in this batch alone.
    pub counts: Counts,
    /// Refused lines of this batch: number and reason.
    pub rejected: Vec<(u64, String)>,
}

/// Is told of each batch, in order, after everything in it was acknowledged.
#[async_trait]
pub trait Progress: Send {
    /// Keeps what must survive. An error stops the delivery.
    async fn done(&mut self, account: Account) -> Result<(), StoreError>;
}

/// A bundle to deliver.
pub struct Input {
    /// Its bytes, compressed or not.
    pub reader: BundleReader,
    /// What rejects are filed under: `feed/<minute>`, `posted/<sha256>`.
    pub origin: String,
    /// Lines that are accounted for already.
    pub lines_done: u64,
    /// The time that its events carry.
    pub now: Timestamp,
}

/// What is fixed for all bundles.
pub struct Pipeline {
    /// Record → event.
    pub mapper: Arc<Mapper>,
    /// Events → dispatcher.
    pub publisher: Publisher,
    /// State.
    pub store: Store,
    /// Of the events.
    pub model_version: ModelVersion,
    /// Larger events lose features.
    pub max_event_bytes: usize,
    /// Of bundles and lines.
    pub caps: Caps,
    /// For how long a download is not asked for again.
    pub request_memory: SignedDuration,
    /// Threads that prepare lines.
    pub threads: usize,
    contact: String,
    registered: OnceCell<()>,
    selector: RwLock<Arc<Selector>>,
    follower: Option<tokio::sync::Mutex<assemble::RuleFollower>>,
}

/// A batch on its way, and its share of [`BATCHES_KIB`].
struct Waiting {
    batch: Batch,
    room: OwnedSemaphorePermit,
}

/// A batch whose events have their outcome.
struct Published {
    batch: Batch,
    deliveries: Vec<Delivery>,
    /// Held until the batch is settled.
    _room: OwnedSemaphorePermit,
}

/// Where prepared batches go, from a thread that may block.
struct Outlet {
    send: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    runtime: Handle,
}

impl Outlet {
    fn new(send: mpsc::Sender<Waiting>) -> Self {
        let room = Arc::new(Semaphore::new(BATCHES_KIB as usize));
        Self { send, room, runtime: Handle::current() }
    }

    /// Waits for room, first in memory and then among the batches that wait. An error where nobody takes
    /// batches any more.
    fn put(&self, batch: Batch) -> Result<(), ()> {
        let kib = u32::try_from(batch.bytes() >> 10).map_or(BATCHES_KIB, |k| k.min(BATCHES_KIB));
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        let room = self.runtime.block_on(room).map_err(|_| ())?;
        self.send.blocking_send(Waiting { batch, room }).map_err(|_| ())
    }
}

impl Pipeline {
    /// Puts the parts together.
    pub fn new(
        settings: &crate::settings::Settings,
        store: Store,
        mapper: Mapper,
        publisher: Publisher,
        selector: Selector,
    ) -> Self {
        Self {
            mapper: Arc::new(mapper),
            publisher,
            store,
            model_version: settings.model_version,
            max_event_bytes: settings.max_event_bytes,
            caps: Caps {
                max_bundle_bytes: settings.max_bundle_bytes,
                max_line_bytes: settings.max_line_bytes,
            },
            request_memory: settings.request_memory,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            contact: settings.contact.clone(),
            registered: OnceCell::new(),
            selector: RwLock::new(Arc::new(selector)),
            follower: None,
        }
    }

    /// The rules in force.
    pub fn selector(&self) -> Arc<Selector> {
        Arc::clone(&self.selector.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts changed rules in force, from the next bundle on. Looks at most once a minute.
    async fn follow_rules(&self) {
        let Some(follower) = &self.follower else { return };
        // Where another bundle is at it, this one does not wait for it.
        let Ok(mut follower) = follower.try_lock() else { return };
        if let Some(selector) = follower.refresh().await {
            *self.selector.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(selector);
        }
    }

    /// Delivers a bundle with this pipeline's own mapper.
    ///
    /// # Errors
    /// See [`DeliverError`]. `progress` was told of all batches before.
    pub async fn deliver(
        &self,
        input: Input,
        limits: &Limits,
        progress: &mut dyn Progress,
    ) -> Result<Ended, DeliverError> {
        self.deliver_with(&self.mapper, input, limits, progress).await
    }

    /// Delivers a bundle with another mapper, such as one without an age limit.
    ///
    /// # Errors
    /// See [`DeliverError`]. `progress` was told of all batches before.
    pub async fn deliver_with(
        &self,
        mapper: &Arc<Mapper>,
        input: Input,
        limits: &Limits,
        progress: &mut dyn Progress,
    ) -> Result<Ended, DeliverError> {
        match self.deliver_lines(mapper, input, limits, progress).await {
            Err(DeliverError::Publish(PublishError::Interrupted { .. })) => Ok(Ended::Paused),
            ended => ended,
        }
    }

    async fn deliver_lines(
        &self,
        mapper: &Arc<Mapper>,
        input: Input,
        limits: &Limits,
        progress: &mut dyn Progress,
    ) -> Result<Ended, DeliverError> {
        self.follow_rules().await;
        let (origin, now) = (input.origin.clone(), input.now);
        let (send, receive) = mpsc::channel(WAITING);
        let preparing = self.prepare(mapper, input, Outlet::new(send));
        let batches =
            stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
        let mut published =
            Box::pin(batches.map(|batch| self.publish(batch, limits)).buffered(IN_FLIGHT));
        while let Some(batch) = published.next().await {
            let account = self.settle(batch?, &origin, now, limits).await?;
            progress.done(account).await?;
            if limits.reached() {
                return Ok(Ended::Paused);
            }
        }
        drop(published);
        match preparing.await {
            Ok(Ok(())) => Ok(Ended::Complete),
            Ok(Err(OrderedError::Bundle(error))) => Err(error.into()),
            Ok(Err(OrderedError::Taker(()))) => Ok(Ended::Paused),
            Err(_) => Err(DeliverError::Panicked),
        }
    }

    /// Prepares all lines on other threads; ends early where nobody takes the batches any more.
    fn prepare(
        &self,
        mapper: &Arc<Mapper>,
        input: Input,
        outlet: Outlet,
    ) -> tokio::task::JoinHandle<Result<(), OrderedError<()>>> {
        let (mapper, selector) = (Arc::clone(mapper), self.selector());
        let (model_version, max_event_bytes) = (self.model_version, self.max_event_bytes);
        let (caps, threads) = (self.caps, self.threads);
        tokio::task::spawn_blocking(move || {
            let preparer = Preparer {
                mapper: &mapper,
                selector: &selector,
                model_version,
                max_event_bytes,
                now: input.now,
            };
            let mut batcher = Batcher::default();
            map_lines(
                input.reader,
                caps,
                threads,
                |line, bytes| {
                    (line.number() > input.lines_done).then(|| preparer.prepare(line, bytes))
                },
                |prepared: Option<Prepared>| match prepared.and_then(|p| batcher.add(p)) {
                    Some(batch) => outlet.put(batch),
                    None => Ok(()),
                },
            )
            .map(|_| ())
            // Lines before a fault are delivered too.
            .and_then_even_if_broken(|| match batcher.finish() {
                Some(batch) => outlet.put(batch).map_err(OrderedError::Taker),
                None => Ok(()),
            })
        })
    }

    async fn publish(
        &self,
        Waiting { mut batch, room }: Waiting,
        limits: &Limits,
    ) -> Result<Published, PublishError> {
        let events: Vec<Vec<u8>> = batch
            .lines
            .iter_mut()
            .filter_map(|line| match &mut line.outcome {
                Outcome::Event { event, .. } => Some(std::mem::take(event)),
                _ => None,
            })
            .collect();
        let deliveries = if events.is_empty() {
            Vec::new()
        } else {
            let (first, last) = batch.span();
            let span = tracing::error_span!("batch", lines = format!("{first}-{last}"));
            self.publisher.publish(Model::Binary, &events, limits).instrument(span).await?
        };
        Ok(Published { batch, deliveries, _room: room })
    }

    /// Everything that follows from a batch's outcome, before progress is told of it.
    async fn settle(
        &self,
        published: Published,
        origin: &str,
        now: Timestamp,
        limits: &Limits,
    ) -> Result<Account, DeliverError> {
        let (first, last) = published.batch.span();
        let mut account = Account { lines_done: last, ..Account::default() };
        let mut rejects = Vec::new();
        let mut requests = Vec::new();
        let mut deliveries = published.deliveries.into_iter();
        for line in published.batch.lines {
            let counts = &mut account.counts;
            counts.records += 1;
            counts.bad_values += line.bad_values;
            counts.replaced_utf8 += line.replaced_utf8;
            let mut reject = |stage, reason: String, sha256: Option<String>| {
                account.rejected.push((line.line, reason.clone()));
                let mut reject = Reject::new(origin, line.line, stage, reason, &line.record, now);
                reject.sha256 = sha256;
                rejects.push(reject);
            };
            match line.outcome {
                Outcome::Filtered(_) => counts.filtered += 1,
                Outcome::Rejected(reason) => {
                    counts.rejected += 1;
                    reject(RejectStage::Record, reason, None);
                }
                Outcome::Event { sha256, requests: wanted, .. } => {
                    match deliveries.next() {
                        Some(Delivery::Delivered) => counts.delivered += 1,
                        // Azul does not want the binary, so no quota is spent on its content.
                        Some(Delivery::Filtered(_)) => {
                            counts.filtered += 1;
                            continue;
                        }
                        Some(Delivery::Rejected(reason)) => {
                            counts.rejected += 1;
                            reject(RejectStage::Event, reason, Some(sha256));
                        }
                        None => return Err(DeliverError::Panicked),
                    }
                    requests.extend(wanted.into_iter().map(|request| (line.line, request)));
                }
            }
        }
        self.request(requests, origin, now, limits, &mut account, &mut rejects).await?;
        Rejects::new(Arc::clone(&self.store.bundles)).write(origin, first, &rejects).await?;
        Ok(account)
    }

    /// Posts the download requests that were not posted lately: look, post, remember.
    async fn request(
        &self,
        wanted: Vec<(u64, DownloadEvent)>,
        origin: &str,
        now: Timestamp,
        limits: &Limits,
        account: &mut Account,
        rejects: &mut Vec<Reject>,
    ) -> Result<(), DeliverError> {
        let (mut seen, mut new) = (BTreeSet::new(), Vec::new());
        for (line, request) in wanted {
            let id = format!("{} {}", request.entity.category, request.entity.hash);
            if seen.insert(id.clone()) && !self.store.memory.knows(REQUESTS, &id, now).await? {
                new.push((line, id, request));
            }
        }
        for post in new.chunks(prepare::BATCH_EVENTS) {
            let events: Vec<Vec<u8>> = post
                .iter()
                .map(|(_, _, request)| {
                    let mut bytes = Vec::new();
                    avro::encode_download(request, self.model_version, &mut bytes);
                    bytes
                })
                .collect();
            let deliveries = self.publisher.publish(Model::Download, &events, limits).await?;
            let mut remember = Vec::new();
            for ((line, id, request), delivery) in post.iter().zip(deliveries) {
                match delivery {
                    Delivery::Delivered => account.counts.requests += 1,
                    Delivery::Filtered(_) => account.counts.filtered += 1,
                    Delivery::Rejected(reason) => {
                        account.counts.rejected += 1;
                        account.rejected.push((*line, reason.clone()));
                        let text = serde_json::to_vec(request).unwrap_or_default();
                        let mut reject =
                            Reject::new(origin, *line, RejectStage::Request, reason, &text, now);
                        reject.sha256 = Some(request.entity.hash.clone());
                        rejects.push(reject);
                        continue;
                    }
                }
                remember.push(id.clone());
            }
            self.remember(&*self.store.memory, &remember, now).await?;
        }
        Ok(())
    }

    async fn remember(
        &self,
        memory: &dyn Memory,
        ids: &[String],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        memory.remember_all(REQUESTS, ids, self.request_memory, now).await.map(|_| ())
    }
}

/// Runs a last step after a broken input too: what was read before the fault counts.
trait EvenIfBroken: Sized {
    fn and_then_even_if_broken(self, last: impl FnOnce() -> Self) -> Self;
}

impl EvenIfBroken for Result<(), OrderedError<()>> {
    fn and_then_even_if_broken(self, last: impl FnOnce() -> Self) -> Self {
        match self {
            Err(OrderedError::Taker(())) => self,
            Ok(()) | Err(OrderedError::Bundle(_)) => last().and(self),
        }
    }
}
