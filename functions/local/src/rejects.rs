//! `vt rejects`: lists what was refused for good, shows the reasons, and tries it again.

use std::{io::Cursor, sync::Arc};

use anyhow::anyhow;
use azul_vt::{
    azul::{avro, dispatcher::Model, event::DownloadEvent, incoming},
    errors::chain,
    mapping::Mapper,
    pipeline::{
        DeliverInput, Ended, Pipeline, REQUESTS, RunLimits, assemble,
        posted::Posted,
        publish::{Delivery, PublishError},
    },
    settings::Settings,
    store::{
        self, BundleInfo, Store, StoreError, SystemClock,
        inbox::{NewItem, Queue},
        rejects::{Reject, RejectStage, Rejects},
    },
    tasks::EventFunction,
    telemetry::{self, Format},
};
use download::Download;
use hunt::{Hunt, Report};
use jiff::Timestamp;
use query::Query;

use crate::{
    cli::RejectsCommand,
    failure::{Failure, say},
    load::{runtime, stop_on_signal},
    output::Output,
    settings, state,
};

/// Lists, shows or retries rejects.
pub(crate) fn run(command: &RejectsCommand) -> Result<(), Failure> {
    let settings = settings::read()?;
    match command {
        RejectsCommand::List => {
            let Some(store) = state::existing(&settings)? else {
                say(&state::none_yet(&settings));
                return Ok(());
            };
            state::block_on(list(&store))
        }
        RejectsCommand::Show { key } => {
            let store = state::existing(&settings)?;
            state::block_on(show(store.as_ref(), key))
        }
        RejectsCommand::Retry { keys } => {
            telemetry::init(&settings.log, Format::Text).map_err(Failure::usage)?;
            runtime()?.block_on(retry(&settings, keys))
        }
    }
}

fn rejects(store: &Store) -> Rejects {
    Rejects::new(Arc::clone(&store.bundles))
}

/// Reads the rejects of a key.
async fn read(store: &Store, key: &str) -> Result<Vec<Reject>, Failure> {
    match rejects(store).read(key).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) | Err(StoreError::BadName { .. }) => Err(unknown(key)),
        Err(error) => Err(Failure::job(error)),
    }
}

fn unknown(key: &str) -> Failure {
    Failure::Usage(anyhow!(
        "there are no rejects under the key {key}; `vt rejects list` prints the keys"
    ))
}

async fn list(store: &Store) -> Result<(), Failure> {
    let objects = rejects(store).list().await.map_err(Failure::job)?;
    if objects.is_empty() {
        // Standard output stays empty: keys are read from it.
        say("nothing was rejected");
    }
    let mut output = Output::open();
    let row = |object: &BundleInfo| {
        [object.key.clone(), object.size.to_string(), format!("{:.0}", object.modified)]
    };
    output.table(&objects.iter().map(row).collect::<Vec<_>>())?;
    output.finish()
}

async fn show(store: Option<&Store>, key: &str) -> Result<(), Failure> {
    let Some(store) = store else { return Err(unknown(key)) };
    let mut output = Output::open();
    for reject in read(store, key).await? {
        output.json(&reject)?;
    }
    output.finish()
}

async fn retry(settings: &Settings, keys: &[String]) -> Result<(), Failure> {
    let store = store::open(&settings.state_options()).await.map_err(Failure::job)?;
    let mut all = Vec::new();
    // All keys are looked at before anything is sent.
    for key in keys {
        all.push((key, read(&store, key).await?));
    }
    let pipeline = Pipeline::from_settings(settings, store).await.map_err(Failure::usage)?;
    let ageless = assemble::mapper(settings, true).map_err(Failure::usage)?;
    let hunt = Hunt::without_key(settings.clone(), pipeline.store.clone(), Arc::new(SystemClock));
    let hunt = hunt.map_err(Failure::usage)?;
    let again = RetryOutcome {
        settings: settings.clone(),
        pipeline,
        ageless: Arc::new(ageless),
        hunt,
        limits: RunLimits::default(),
    };
    stop_on_signal(&again.limits);
    match again.pipeline.register(Timestamp::now(), &again.limits).await {
        Err(PublishError::Interrupted { .. }) => return Err(stopped()),
        registered => registered.map_err(Failure::job)?,
    }
    let mut output = Output::open();
    for (key, found) in all {
        let sentence = again.one(key, found).await?;
        output.line(&format!("{key}: {sentence}"))?;
    }
    output.finish()
}

fn stopped() -> Failure {
    Failure::Job(anyhow!("stopped before the end; what was not delivered keeps its key"))
}

/// The inbox that a reject's origin, `inbox/<queue>/…`, names.
fn queue_of(reject: &Reject) -> Option<Queue> {
    reject.origin.strip_prefix("inbox/")?.split('/').next().and_then(Queue::named)
}

/// The parts that a retry of rejects needs.
struct RetryOutcome {
    settings: Settings,
    pipeline: Pipeline,
    /// Mapper without an age limit: rejects are soon older than the limit.
    ageless: Arc<Mapper>,
    /// Delivers rejected hits.
    hunt: Hunt,
    limits: RunLimits,
}

impl RetryOutcome {
    /// Tries the rejects of `key` again. Rejects that are delivered leave the key, and so do those that are refused
    /// again, which are kept under a new key.
    async fn one(&self, key: &str, found: Vec<Reject>) -> Result<String, Failure> {
        let (mut lines, mut requests, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let (mut hits, mut items, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        for mut reject in found {
            let bytes = reject.bytes().filter(|_| !reject.cut);
            match (reject.stage, bytes) {
                (RejectStage::Record | RejectStage::Event, Some(record)) => {
                    lines.extend_from_slice(&record);
                    lines.push(b'\n');
                }
                (RejectStage::Request, Some(request)) => {
                    match serde_json::from_slice::<DownloadEvent>(&request) {
                        Ok(request) => requests.push((reject, request)),
                        Err(_) => left.push(reject),
                    }
                }
                (RejectStage::Hit, Some(_)) => hits.push(reject),
                (RejectStage::Item, Some(body)) => items.push((reject, body)),
                (RejectStage::Polled, Some(text)) => match self.item_of(&reject, &text) {
                    Ok(body) => items.push((reject, body)),
                    Err(reason) => {
                        reject.reason = reason;
                        unread.push(reject);
                    }
                },
                _ => left.push(reject),
            }
        }
        let unusable = left.len();
        left.append(&mut unread);
        let records = self.records(key, lines).await?;
        let requested = self.requests(requests, &mut left).await?;
        let mut hunted = Report::default();
        left.extend(self.hits(hits, &mut hunted).await?);
        let put = self.items(items, &mut left).await?;
        self.keep(key, &left).await?;
        let mut counts = records.counts;
        counts.delivered += hunted.delivered;
        counts.requests += hunted.requests;
        counts.filtered += hunted.unwanted;
        let mut sentence = format!(
            "{} events delivered, {} downloads requested, {} refused again",
            counts.delivered,
            counts.requests + requested,
            counts.rejected + (left.len() - unusable) as u64
        );
        if counts.filtered > 0 {
            sentence = format!("{sentence}, {} filtered", counts.filtered);
        }
        if put > 0 {
            sentence = format!("{sentence}, {put} put into the inbox");
        }
        if unusable > 0 {
            sentence = format!(
                "{sentence}, {unusable} kept that are cut, whole bundles, or the number of those that were not kept (`vt retry` loads a minute again)"
            );
        }
        Ok(sentence)
    }

    async fn records(&self, key: &str, lines: Vec<u8>) -> Result<Posted, Failure> {
        let mut posted = Posted::default();
        if lines.is_empty() {
            return Ok(posted);
        }
        // The origin differs from the key, so a record that is refused again never replaces the one that is tried here.
        let origin = key.strip_prefix("rejects/").unwrap_or(key);
        let origin = origin.strip_suffix(".jsonl").unwrap_or(origin);
        let input = DeliverInput {
            reader: Box::new(Cursor::new(lines)),
            origin: format!("retried/{origin}"),
            lines_done: 0,
            now: Timestamp::now(),
        };
        let ended = self.pipeline.deliver_with(&self.ageless, input, &self.limits, &mut posted);
        match ended.await.map_err(Failure::job)? {
            Ended::Complete => Ok(posted),
            Ended::Paused => Err(stopped()),
        }
    }

    /// Delivers rejected hits once more and returns those that are refused again.
    async fn hits(&self, hits: Vec<Reject>, report: &mut Report) -> Result<Vec<Reject>, Failure> {
        if hits.is_empty() {
            return Ok(hits);
        }
        self.hunt.retry(hits, &self.limits, report).await.map_err(Failure::job)
    }

    /// Reads a rejected event again, in the way of the function that polled it: a later version may know its form.
    fn item_of(&self, reject: &Reject, text: &[u8]) -> Result<Vec<u8>, String> {
        fn decided<T: EventFunction>(tasks: &T, text: &[u8]) -> Result<Vec<u8>, String> {
            incoming::from_text(text).and_then(&*tasks.decide()).map(String::into_bytes)
        }
        let (settings, store) = (self.settings.clone(), self.pipeline.store.clone());
        let clock = Arc::new(SystemClock);
        match queue_of(reject) {
            Some(Queue::Query) => {
                let query = Query::from_settings(settings, store, clock);
                decided(&query.map_err(|error| chain(&error))?, text)
            }
            Some(Queue::Download) => {
                let download = Download::from_settings(settings, store, clock);
                decided(&download.map_err(|error| chain(&error))?, text)
            }
            _ => Err("its origin names no inbox of events".to_owned()),
        }
    }

    /// Puts items into their inboxes and returns how many; those that are refused go to `left`.
    async fn items(
        &self,
        items: Vec<(Reject, Vec<u8>)>,
        left: &mut Vec<Reject>,
    ) -> Result<u64, Failure> {
        let mut put = 0;
        for (mut reject, body) in items {
            // The id comes from the item's origin, so an item that is put twice waits once.
            let id = format!("retried/{}", reject.origin.rsplit('/').next().unwrap_or_default());
            let queue = queue_of(&reject);
            let (Some(queue), Ok(body)) = (queue, String::from_utf8(body)) else {
                left.push(reject);
                continue;
            };
            let inbox = &self.pipeline.store.inbox;
            match inbox.put(queue, &[NewItem { id, body }], Timestamp::now()).await {
                Ok(()) => put += 1,
                Err(error) if error.waiting.is_empty() => {
                    reject.reason = chain(&error);
                    left.push(reject);
                }
                Err(error) => return Err(Failure::job(error)),
            }
        }
        Ok(put)
    }

    /// Posts download requests; those that are refused go to `left`.
    async fn requests(
        &self,
        requests: Vec<(Reject, DownloadEvent)>,
        left: &mut Vec<Reject>,
    ) -> Result<u64, Failure> {
        if requests.is_empty() {
            return Ok(0);
        }
        let encode = |(_, request): &(Reject, DownloadEvent)| {
            let mut bytes = Vec::new();
            avro::encode_download(request, self.pipeline.model_version, &mut bytes);
            bytes
        };
        let events: Vec<Vec<u8>> = requests.iter().map(encode).collect();
        let posted: Result<_, PublishError> =
            self.pipeline.publisher.publish(Model::Download, &events, &self.limits).await;
        let (mut requested, now) = (0, Timestamp::now());
        for ((mut reject, request), delivery) in
            requests.into_iter().zip(posted.map_err(Failure::job)?)
        {
            if let Delivery::Rejected(reason) = delivery {
                reject.reason = reason;
                left.push(reject);
                continue;
            }
            requested += 1;
            let id = format!("{} {}", request.entity.category, request.entity.hash);
            let memory = &self.pipeline.store.memory;
            let ttl = self.pipeline.request_memory;
            memory.remember(REQUESTS, &id, ttl, now).await.map_err(Failure::job)?;
        }
        Ok(requested)
    }

    async fn keep(&self, key: &str, left: &[Reject]) -> Result<(), Failure> {
        let store = &self.pipeline.store;
        if left.is_empty() {
            return rejects(store).remove(key).await.map_err(Failure::job);
        }
        let mut lines = Vec::new();
        for reject in left {
            serde_json::to_writer(&mut lines, reject).map_err(Failure::job)?;
            lines.push(b'\n');
        }
        store.bundles.put(key, &lines).await.map_err(Failure::job)
    }
}
