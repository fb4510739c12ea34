//! Turns a bundle's lines into events at the dispatcher. Every line is accounted for.
//!
//! Lines are decoded, mapped and selected on several threads in order ([`map_lines`], [`prepare`]) and grouped into
//! batches. The batches are published with a few posts in flight ([`publish`], `requests`), and settled one after the
//! other: first their rejects, then the progress. Progress covers only lines before which everything was acknowledged.
//! So a crash at any point repeats at most what was in flight.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    runtime::Handle,
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc},
};
use tracing::Instrument as _;

use crate::{
    azul::{dispatcher::Model, event::ModelVersion},
    bundle::{self, BundleError, Caps, Line, OrderedError, map_checked_lines, map_lines},
    mapping::Mapper,
    selection::Selector,
    store::{
        BundleReader, Counts, Store, StoreError,
        rejects::{Reject, RejectStage, Rejects},
    },
};

pub mod assemble;
mod first_record;
pub mod posted;
pub mod prepare;
pub mod publish;
mod refused;
mod requests;

use first_record::{FirstRecordGate, Stop};
pub use first_record::{NAMED_LINES, NoRecords, reasons};
pub use net::limits::RunLimits;
use prepare::{Batch, Batcher, Outcome, Prepared, Preparer};
use publish::{Delivery, PublishError, Publisher};
use refused::Refused;
pub use requests::REQUESTS;
use requests::{InFlightRequests, Requested};

/// Most posts in flight for one bundle.
const IN_FLIGHT: usize = 8;
/// Most prepared batches that wait for a post.
const WAITING: usize = 2;
/// Most memory of all batches between their preparation and their settling, in KiB. A single larger batch is allowed.
const BATCHES_KIB: u32 = 16 << 10;

/// Reason why a bundle was not delivered to its end.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The bundle cannot be decoded further; all lines before were delivered.
    #[error("the bundle cannot be read")]
    Bundle(#[from] BundleError),
    /// No line of the bundle is a record of a file, and none was settled.
    #[error("there is no record in the bundle")]
    NoRecords(#[from] NoRecords),
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

/// End of a delivery without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All lines are accounted for.
    Complete,
    /// The delivery was told to stop, and stopped between two batches.
    Paused,
}

/// Outcome of a batch.
#[derive(Debug, Default)]
pub struct BatchReport {
    /// All lines up to this number are accounted for.
    pub lines_done: u64,
    /// Counts of this batch alone.
    pub counts: Counts,
    /// Refused lines of this batch: number and reason.
    pub rejected: Vec<(u64, String)>,
}

/// Receives the outcome of each batch, in order, after everything in the batch was acknowledged.
#[async_trait]
pub trait Progress: Send {
    /// Saves the progress. An error stops the delivery.
    async fn done(&mut self, account: BatchReport) -> Result<(), StoreError>;
}

/// A bundle to deliver.
pub struct DeliverInput {
    /// Bytes of the bundle, compressed or not.
    pub reader: BundleReader,
    /// Origin of the bundle, under which its rejects are kept: `feed/<minute>`, `posted/<sha256>`.
    pub origin: String,
    /// Number of lines that are accounted for already.
    pub lines_done: u64,
    /// Timestamp of the bundle's events.
    pub now: Timestamp,
}

/// The parts and settings that are the same for all bundles.
pub struct Pipeline {
    /// Maps records to events.
    pub mapper: Arc<Mapper>,
    /// Publishes events at the dispatcher.
    pub publisher: Publisher,
    /// The state.
    pub store: Store,
    /// Model version of the events.
    pub model_version: ModelVersion,
    /// Largest event in bytes. Larger events lose features.
    pub max_event_bytes: usize,
    /// Size limits of bundles and lines.
    pub caps: Caps,
    /// Most bytes of rejects that are kept of one bundle. Further rejects are only counted.
    pub max_reject_bytes: u64,
    /// Time for which a download is not requested again.
    pub request_memory: SignedDuration,
    /// Number of threads that prepare lines.
    pub threads: usize,
    contact: String,
    registered: OnceCell<()>,
    selector: RwLock<Arc<Selector>>,
    requesting: InFlightRequests,
    follower: Option<tokio::sync::Mutex<assemble::RuleFollower>>,
}

/// Conditions on the lines of a bundle that are taken.
#[derive(Clone, Copy, Debug)]
struct Taking {
    /// Whether only lines with a verified checksum are taken.
    is_checked: bool,
    /// Whether no line is taken before the first record of a file.
    needs_record: bool,
}

/// The outcome of the lines of a bundle, without an error.
enum Lines {
    Ended(Ended),
    /// Some lines may lack a verified checksum.
    InDoubt,
    /// The first record came after more lines than can be held back.
    Late,
}

/// A batch that waits for its post, and its share of [`BATCHES_KIB`].
struct Waiting {
    batch: Batch,
    room: OwnedSemaphorePermit,
}

/// A batch whose events and requests have their outcome.
struct Published {
    batch: Batch,
    deliveries: Vec<Delivery>,
    requested: Vec<Requested>,
    /// Held until the batch is settled.
    _room: OwnedSemaphorePermit,
}

/// Sends prepared batches to the publisher, from a thread that may block.
struct BatchSender {
    send: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    runtime: Handle,
}

impl BatchSender {
    fn new(send: mpsc::Sender<Waiting>) -> Self {
        let room = Arc::new(Semaphore::new(BATCHES_KIB as usize));
        Self { send, room, runtime: Handle::current() }
    }

    /// Waits for room, first in memory and then in the channel, and sends a batch. An error means that the receiver is
    /// gone.
    fn put(&self, batch: Batch) -> Result<(), ()> {
        let kib = u32::try_from(batch.bytes() >> 10).map_or(BATCHES_KIB, |k| k.min(BATCHES_KIB));
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        let room = self.runtime.block_on(room).map_err(|_| ())?;
        self.send.blocking_send(Waiting { batch, room }).map_err(|_| ())
    }
}

impl Pipeline {
    /// Makes a pipeline of its parts.
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
            max_reject_bytes: settings.max_reject_bytes,
            request_memory: settings.request_memory,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            contact: settings.contact.clone(),
            registered: OnceCell::new(),
            selector: RwLock::new(Arc::new(selector)),
            requesting: InFlightRequests::default(),
            follower: None,
        }
    }

    /// Returns the selector with the current rules.
    pub fn selector(&self) -> Arc<Selector> {
        Arc::clone(&self.selector.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies changed rules from the next bundle on. Looks for changes at most once a minute.
    async fn follow_rules(&self) {
        let Some(follower) = &self.follower else { return };
        // Another bundle may be checking the rules right now; this one does not wait for it.
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
        input: DeliverInput,
        limits: &RunLimits,
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
        input: DeliverInput,
        limits: &RunLimits,
        progress: &mut dyn Progress,
    ) -> Result<Ended, DeliverError> {
        let taking = Taking { is_checked: false, needs_record: false };
        match self.deliver_lines(mapper, input, taking, limits, progress).await? {
            Lines::Ended(ended) => Ok(ended),
            // This mode takes all lines, so none is in doubt or late.
            Lines::InDoubt | Lines::Late => Ok(Ended::Complete),
        }
    }

    /// Delivers the staged bundle `key`, which `input` reads. No line is sent before its checksum is verified: lines in
    /// bzip2 are verified as they are decoded, others after the whole bundle is read. If `input` begins at the first
    /// line, nothing is settled before a record of a file is found.
    ///
    /// # Errors
    /// See [`DeliverError`]. `progress` was told of all batches before.
    pub async fn deliver_staged(
        &self,
        mapper: &Arc<Mapper>,
        key: &str,
        input: DeliverInput,
        limits: &RunLimits,
        progress: &mut dyn Progress,
    ) -> Result<Ended, DeliverError> {
        let (origin, now) = (input.origin.clone(), input.now);
        let mut followed = TrackedProgress { lines_done: input.lines_done, progress };
        let mut taking = Taking { is_checked: true, needs_record: input.lines_done == 0 };
        let mut input = input;
        loop {
            match self.deliver_lines(mapper, input, taking, limits, &mut followed).await? {
                Lines::Ended(ended) => return Ok(ended),
                Lines::InDoubt if limits.reached() => return Ok(Ended::Paused),
                Lines::InDoubt => match self.verify(key, limits).await? {
                    Ended::Complete => taking.is_checked = false,
                    Ended::Paused => return Ok(Ended::Paused),
                },
                Lines::Late => taking.needs_record = false,
            }
            let lines_done = followed.lines_done;
            taking.needs_record &= lines_done == 0;
            // The staged bundle is gone; the next run will notice as well, so pausing loses nothing.
            let Some(reader) = self.store.bundles.open(key).await? else {
                return Ok(Ended::Paused);
            };
            input = DeliverInput { reader, origin: origin.clone(), lines_done, now };
        }
    }

    async fn deliver_lines(
        &self,
        mapper: &Arc<Mapper>,
        input: DeliverInput,
        taking: Taking,
        limits: &RunLimits,
        progress: &mut dyn Progress,
    ) -> Result<Lines, DeliverError> {
        let origin = input.origin.clone();
        let rejects = Rejects::new(Arc::clone(&self.store.bundles));
        let is_resumed = input.lines_done > 0;
        let mut refused =
            Refused::new(rejects, &origin, self.max_reject_bytes, is_resumed, input.now);
        let ended = self.settle_lines(mapper, input, taking, &mut refused, limits, progress).await;
        // The count of rejects is written even after an error, because settled batches stay settled.
        let noted = refused.finish().await;
        match ended {
            Err(DeliverError::Publish(PublishError::Interrupted { .. })) => {
                noted?;
                Ok(Lines::Ended(Ended::Paused))
            }
            Err(error) => Err(error),
            Ok(lines) => Ok(noted.map(|()| lines)?),
        }
    }

    async fn settle_lines(
        &self,
        mapper: &Arc<Mapper>,
        mut input: DeliverInput,
        taking: Taking,
        refused: &mut Refused<'_>,
        limits: &RunLimits,
        progress: &mut dyn Progress,
    ) -> Result<Lines, DeliverError> {
        self.follow_rules().await;
        let (origin, now) = (input.origin.clone(), input.now);
        // Lines that were settled before make no batch that could be refused, however long they take to decode.
        input.reader = limits.reader(input.reader);
        let (send, receive) = mpsc::channel(WAITING);
        let preparing = self.prepare(mapper, input, taking, BatchSender::new(send));
        let batches =
            stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
        let mut published =
            Box::pin(batches.map(|batch| self.publish(batch, now, limits)).buffered(IN_FLIGHT));
        let mut is_over = false;
        while let Some(batch) = published.next().await {
            let account = match batch {
                Ok(batch) => self.settle(batch, &origin, now, refused).await?,
                // The batches end in their order. If the next one fails after a limit was reached, all before it are
                // settled, so the delivery only pauses.
                Err(_) if is_over => return Ok(Lines::Ended(Ended::Paused)),
                Err(error) => return Err(error),
            };
            progress.done(account).await?;
            is_over = limits.reached();
        }
        drop(published);
        match preparing.await {
            Ok(Ok(true)) => Ok(Lines::Ended(Ended::Complete)),
            Ok(Ok(false)) => Ok(Lines::InDoubt),
            Ok(Err(OrderedError::Bundle(error))) => {
                if is_stopped(&error, limits) {
                    Ok(Lines::Ended(Ended::Paused))
                } else {
                    Err(error.into())
                }
            }
            Ok(Err(OrderedError::Taker(Stop::Closed))) => Ok(Lines::Ended(Ended::Paused)),
            Ok(Err(OrderedError::Taker(Stop::Late))) => Ok(Lines::Late),
            Ok(Err(OrderedError::Taker(Stop::NoRecords(error)))) => Err(error.into()),
            Err(_) => Err(DeliverError::Panicked),
        }
    }

    /// Decodes a whole staged bundle, so that all its checksums are verified before a line is sent. A bundle that is
    /// not there any more is no error. [`Ended::Paused`] means that `limits` ended the work, so nothing is known of the
    /// bundle.
    async fn verify(&self, key: &str, limits: &RunLimits) -> Result<Ended, DeliverError> {
        let Some(reader) = self.store.bundles.open(key).await? else { return Ok(Ended::Complete) };
        let reader = limits.reader(reader);
        let (caps, threads) = (self.caps, self.threads);
        let verified = tokio::task::spawn_blocking(move || bundle::verify(reader, caps, threads));
        match verified.await.map_err(|_| DeliverError::Panicked)? {
            Ok(_) => Ok(Ended::Complete),
            Err(error) if is_stopped(&error, limits) => Ok(Ended::Paused),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a staged bundle that can never be decoded under `rejects/`, as `name` among what `origin` left there.
    ///
    /// # Errors
    /// The state could not be written. The bundle then stays.
    pub async fn bury(
        &self,
        key: &str,
        origin: &str,
        name: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let bundles = &self.store.bundles;
        let Some(mut reader) = bundles.open(key).await? else { return Ok(()) };
        // The name comes from the bundle's key, because only one task of a process works on a bundle at a time.
        let copy = key.replace('/', "-");
        let copy = bundles.scratch().join(format!("bury-{}-{copy}", std::process::id()));
        let to = copy.clone();
        let copied = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&to)?;
            std::io::copy(&mut reader, &mut file)?;
            file.sync_all()
        });
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| {
            StoreError::Unavailable { action: format!("moving {key} to rejects/"), source }
        };
        copied.await.map_err(|e| unavailable(e.into()))?.map_err(|e| unavailable(e.into()))?;
        Rejects::new(Arc::clone(bundles)).keep_bundle(origin, name, &copy, reason, now).await?;
        bundles.remove(key).await
    }

    /// Prepares all lines on other threads. Ends early if the receiver of batches is gone. Returns false if lines are
    /// in doubt.
    fn prepare(
        &self,
        mapper: &Arc<Mapper>,
        input: DeliverInput,
        taking: Taking,
        outlet: BatchSender,
    ) -> tokio::task::JoinHandle<Result<bool, OrderedError<Stop>>> {
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
            let mut gate = if taking.needs_record {
                FirstRecordGate::default()
            } else {
                FirstRecordGate::open()
            };
            let work = |line: &Line, bytes: &[u8]| {
                (line.number() > input.lines_done).then(|| preparer.prepare(line, bytes))
            };
            let take = |prepared: Option<Prepared>| match prepared.and_then(|p| batcher.add(p)) {
                Some(batch) => gate.put(batch, &outlet),
                None => Ok(()),
            };
            let ended = if taking.is_checked {
                map_checked_lines(input.reader, caps, threads, work, take)
                    .map_err(OrderedError::Taker)
            } else {
                map_lines(input.reader, caps, threads, work, take).map(|_| true)
            };
            // Lines before a fault are delivered too.
            if !matches!(ended, Err(OrderedError::Taker(_)))
                && let Some(batch) = batcher.finish()
            {
                gate.put(batch, &outlet).map_err(OrderedError::Taker)?;
            }
            if matches!(ended, Ok(true)) {
                gate.finish().map_err(OrderedError::Taker)?;
            }
            ended
        })
    }

    /// Posts a batch's events, and then the download requests for those that were taken.
    async fn publish(
        &self,
        Waiting { mut batch, room }: Waiting,
        now: Timestamp,
        limits: &RunLimits,
    ) -> Result<Published, DeliverError> {
        if limits.reached() {
            return Err(PublishError::Interrupted { outcomes: Vec::new() }.into());
        }
        let events: Vec<Vec<u8>> = batch
            .lines
            .iter_mut()
            .filter_map(|line| match &mut line.outcome {
                Outcome::Event { event, .. } => Some(std::mem::take(event)),
                _ => None,
            })
            .collect();
        let (first, last) = batch.span();
        let span = tracing::error_span!("batch", lines = format!("{first}-{last}"));
        async {
            let deliveries = match &events[..] {
                [] => Vec::new(),
                events => self.publisher.publish(Model::Binary, events, limits).await?,
            };
            let mut outcomes = deliveries.iter();
            let mut wanted = Vec::new();
            for Prepared { line, outcome, .. } in &mut batch.lines {
                if let Outcome::Event { requests, .. } = outcome
                    // If Azul does not want the binary, no quota is spent on its content.
                    && matches!(outcomes.next(), Some(Delivery::Delivered))
                {
                    wanted.extend(std::mem::take(requests).into_iter().map(|of| (*line, of)));
                }
            }
            let requested = self.request(wanted, now, limits).await?;
            Ok(Published { batch, deliveries, requested, _room: room })
        }
        .instrument(span)
        .await
    }

    /// Counts a batch's outcome and keeps its rejects, before its progress is reported.
    async fn settle(
        &self,
        published: Published,
        origin: &str,
        now: Timestamp,
        refused: &mut Refused<'_>,
    ) -> Result<BatchReport, DeliverError> {
        let (first, last) = published.batch.span();
        let mut account = BatchReport { lines_done: last, ..BatchReport::default() };
        let (mut rejects, mut others) = (Vec::new(), 0);
        let is_full = refused.is_full();
        let mut reject = |line, stage, reason: String, sha256: Option<String>, record: &[u8]| {
            account.counts.rejected += 1;
            if is_full {
                others += 1;
            } else {
                let mut reject = Reject::new(origin, line, stage, reason.clone(), record, now);
                reject.sha256 = sha256;
                rejects.push(reject);
            }
            account.rejected.push((line, reason));
        };
        let mut counts = Counts::default();
        let mut deliveries = published.deliveries.into_iter();
        for Prepared { line, outcome, record, bad_values, replaced_utf8 } in published.batch.lines {
            counts.records += 1;
            counts.bad_values += bad_values;
            counts.replaced_utf8 += replaced_utf8;
            match outcome {
                Outcome::Filtered(_) => counts.filtered += 1,
                Outcome::Rejected(reason) | Outcome::NoRecord(reason) => {
                    reject(line, RejectStage::Record, reason, None, &record);
                }
                Outcome::Event { sha256, .. } => match deliveries.next() {
                    Some(Delivery::Delivered) => counts.delivered += 1,
                    Some(Delivery::Filtered(_)) => counts.filtered += 1,
                    Some(Delivery::Rejected(reason)) => {
                        reject(line, RejectStage::Event, reason, Some(sha256), &record);
                    }
                    None => return Err(DeliverError::Panicked),
                },
            }
        }
        for Requested { line, request, delivery } in published.requested {
            match delivery {
                Delivery::Delivered => counts.requests += 1,
                Delivery::Filtered(_) => counts.filtered += 1,
                Delivery::Rejected(reason) => {
                    let text = serde_json::to_vec(&request).unwrap_or_default();
                    let sha256 = Some(request.entity.hash);
                    reject(line, RejectStage::Request, reason, sha256, &text);
                }
            }
        }
        account.counts.add(counts);
        refused.add(first, &rejects, others).await?;
        Ok(account)
    }
}

/// Whether a bundle was not read further because it was time to stop. A reader that fails by itself at that time is tried
/// again by the next run as well.
fn is_stopped(error: &BundleError, limits: &RunLimits) -> bool {
    error.is_transient() && limits.reached()
}

/// Passes progress on and remembers the last line of it.
struct TrackedProgress<'a> {
    lines_done: u64,
    progress: &'a mut dyn Progress,
}

#[async_trait]
impl Progress for TrackedProgress<'_> {
    async fn done(&mut self, account: BatchReport) -> Result<(), StoreError> {
        let lines_done = account.lines_done;
        self.progress.done(account).await?;
        self.lines_done = lines_done;
        Ok(())
    }
}
