//! Delivers the objects of a page as events and download requests. Objects that cannot be delivered are kept under
//! `rejects/`.

use std::{collections::BTreeSet, sync::Arc};

use azul_vt::{
    azul::{
        avro,
        dispatcher::Model,
        event::{BinaryEvent, DownloadEvent},
    },
    mapping::Record,
    pipeline::{REQUESTS, RunLimits, publish::Delivery},
    store::rejects::{Reject, RejectStage, Rejects},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{
    Hunt, HuntError, NAME, Report,
    events::{self, NoEvent},
    hit::{self, Hit},
};

/// Kind under which [`azul_vt::store::Memory`] remembers hits that were delivered, rejected or not wanted.
const DELIVERED: &str = "notification";
/// Time for which a hit that is done is remembered. It is longer than the seven days that VirusTotal keeps
/// notifications.
const DELIVERED_FOR: SignedDuration = SignedDuration::from_hours(8 * 24);
/// First part of the origin of rejected Retrohunt matches. The second part is the job's name.
const RETROHUNT: &str = "retrohunt";

/// The dates of a page's hits.
pub(crate) struct Dates {
    pub(crate) oldest: Option<i64>,
    pub(crate) newest: Option<i64>,
    /// Whether no hit of the page is older than the hit before it.
    pub(crate) is_ascending: bool,
    /// Whether the page has dated hits and all of them are older than the run asked for.
    pub(crate) is_all_older: bool,
}

impl Dates {
    fn new() -> Self {
        Self { oldest: None, newest: None, is_ascending: true, is_all_older: false }
    }

    fn add(&mut self, date: i64, is_older: bool) {
        self.is_ascending &= self.newest.is_none_or(|newest| newest <= date);
        self.is_all_older = is_older && (self.is_all_older || self.oldest.is_none());
        self.oldest = Some(self.oldest.map_or(date, |oldest| oldest.min(date)));
        self.newest = self.newest.max(Some(date));
    }
}

/// Hits that are delivered together.
struct Batch<'a> {
    /// The Retrohunt job whose matches these are; `None` for notifications of Livehunt.
    job: Option<&'a str>,
    now: Timestamp,
    wanted: Vec<Wanted>,
    /// Ids of the hits that are done. They are remembered after the batch was delivered.
    done: Vec<String>,
    rejects: Vec<Reject>,
}

/// A hit whose event is still to be posted.
struct Wanted {
    /// Position of the hit's object in its page, counted from 1.
    line: u64,
    hit: Hit,
    object: String,
    event: BinaryEvent,
}

/// A download request that is still to be posted.
struct Request {
    line: u64,
    id: String,
    event: DownloadEvent,
}

impl<'a> Batch<'a> {
    fn new(job: Option<&'a str>, now: Timestamp) -> Self {
        Self { job, now, wanted: Vec::new(), done: Vec::new(), rejects: Vec::new() }
    }

    fn origin(&self) -> String {
        // VirusTotal's job names have only these characters. Any other character is replaced, so that the name fits
        // into a key.
        let is_odd = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_');
        match self.job {
            None => NAME.to_owned(),
            Some(job) => format!("{RETROHUNT}/{}", job.replace(is_odd, "_")),
        }
    }

    fn reject(
        &mut self,
        line: u64,
        stage: RejectStage,
        reason: String,
        sha256: Option<&str>,
        record: &[u8],
    ) {
        let mut reject = Reject::new(self.origin(), line, stage, reason, record, self.now);
        reject.sha256 = sha256.map(str::to_owned);
        self.rejects.push(reject);
    }
}

impl Hunt {
    /// Delivers the hits of a page and returns their dates.
    pub(crate) async fn deliver(
        &self,
        objects: &[Box<RawValue>],
        job: Option<&str>,
        from: Option<i64>,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<Dates, HuntError> {
        let mut batch = Batch::new(job, self.clock.now());
        let (mut dates, mut ids) = (Dates::new(), BTreeSet::new());
        for (line, object) in (1..).zip(objects) {
            report.read += 1;
            let object = object.get();
            let read = Record::parse(object.as_bytes()).map_err(|error| error.to_string());
            let hit = read.and_then(|record| match hit::read(record.root(), job) {
                hit::Read::Hit(hit) => Ok(Some((*hit, record))),
                hit::Read::Other => Ok(None),
                hit::Read::Malformed(why) => Err(why),
            });
            let id = match &hit {
                Ok(None) => {
                    report.other_objects += 1;
                    continue;
                }
                Ok(Some((hit, _))) => {
                    if let Some(date) = hit.date.map(Timestamp::as_second) {
                        let is_older = from.is_some_and(|from| date < from);
                        dates.add(date, is_older);
                        if is_older {
                            report.older += 1;
                            continue;
                        }
                    }
                    hit.id.clone()
                }
                // A malformed object has no id, so its digest is remembered: the object comes again with each page that
                // it is on.
                Err(_) => format!("object {}", hex::encode(Sha256::digest(object))),
            };
            if !ids.insert(id.clone()) || self.store.memory.knows(DELIVERED, &id, batch.now).await?
            {
                report.known += 1;
                continue;
            }
            match hit {
                Ok(Some((hit, record))) => {
                    self.add(&mut batch, line, hit, &record, object, report);
                }
                Ok(None) => {}
                Err(why) => {
                    batch.reject(line, RejectStage::Hit, why, None, object.as_bytes());
                    batch.done.push(id);
                }
            }
        }
        self.send(&mut batch, limits, report).await?;
        self.keep(&batch, report).await?;
        let memory = &self.store.memory;
        memory.remember_all(DELIVERED, &batch.done, DELIVERED_FOR, batch.now).await?;
        Ok(dates)
    }

    /// Delivers rejected objects (stage [`RejectStage::Hit`]) once more. Returns the rejects that are refused again,
    /// with the new reason, and the download requests that are refused now.
    ///
    /// # Errors
    /// See [`HuntError`]. In this case the caller must keep the rejects.
    pub async fn retry(
        &self,
        rejects: Vec<Reject>,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<Vec<Reject>, HuntError> {
        let mut left = Vec::new();
        for reject in rejects {
            let job = reject.origin.strip_prefix(RETROHUNT).and_then(|rest| rest.strip_prefix('/'));
            let mut batch = Batch::new(job, self.clock.now());
            let bytes = reject.bytes().filter(|_| !reject.cut);
            let record = bytes
                .ok_or("it is not kept as a whole".to_owned())
                .and_then(|bytes| Record::parse(&bytes).map_err(|error| error.to_string()));
            let hit = record.and_then(|record| match hit::read(record.root(), job) {
                hit::Read::Hit(hit) => Ok((*hit, record)),
                hit::Read::Other => Err("it is no file".into()),
                hit::Read::Malformed(why) => Err(why),
            });
            match hit {
                Ok((hit, record)) => {
                    let object = record.text().to_owned();
                    self.add(&mut batch, reject.line, hit, &record, &object, report);
                    self.send(&mut batch, limits, report).await?;
                    left.append(&mut batch.rejects);
                    let memory = &self.store.memory;
                    memory.remember_all(DELIVERED, &batch.done, DELIVERED_FOR, batch.now).await?;
                }
                Err(reason) => left.push(Reject { reason, ..reject }),
            }
        }
        Ok(left)
    }

    /// Adds a hit to a batch, unless the settings exclude it.
    fn add(
        &self,
        batch: &mut Batch<'_>,
        line: u64,
        hit: Hit,
        record: &Record,
        object: &str,
        report: &mut Report,
    ) {
        let hunt = &self.settings.hunt;
        if let Err(setting) = events::wanted(&hit, hunt) {
            tracing::debug!(id = hit.id, rule = hit.rule, setting, "a hit is not wanted");
            report.unwanted += 1;
            batch.done.push(hit.id);
            return;
        }
        let source = if batch.job.is_some() { &hunt.retrohunt_source } else { &hunt.source };
        match self.events.mapped(record, &hit, source, batch.now) {
            Ok((event, bad_values)) => {
                report.bad_values += hit.bad_values + bad_values;
                batch.wanted.push(Wanted { line, hit, object: object.to_owned(), event });
            }
            Err(NoEvent::Unwanted(why)) => {
                tracing::debug!(id = hit.id, why, "a hit is not wanted");
                report.unwanted += 1;
                batch.done.push(hit.id);
            }
            Err(NoEvent::Impossible(why)) => {
                let stage = RejectStage::Hit;
                batch.reject(line, stage, why, Some(&hit.sha256), object.as_bytes());
                batch.done.push(hit.id);
            }
        }
    }

    /// Posts the events of a batch, then the download requests of the events that the dispatcher has.
    async fn send(
        &self,
        batch: &mut Batch<'_>,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let encode = |wanted: &Wanted| {
            let mut bytes = Vec::new();
            avro::encode_binary(&wanted.event, self.settings.model_version, &mut bytes);
            bytes
        };
        let encoded: Vec<Vec<u8>> = batch.wanted.iter().map(encode).collect();
        if encoded.is_empty() {
            return Ok(());
        }
        let deliveries = self.publisher.publish(Model::Binary, &encoded, limits).await?;
        let hunt = &self.settings.hunt;
        let most = self.settings.max_download_bytes;
        let mut requests = Vec::new();
        for (wanted, delivery) in std::mem::take(&mut batch.wanted).into_iter().zip(deliveries) {
            let Wanted { line, hit, object, event } = wanted;
            batch.done.push(hit.id.clone());
            match delivery {
                Delivery::Delivered => report.delivered += 1,
                Delivery::Filtered(_) => {
                    report.unwanted += 1;
                    continue;
                }
                Delivery::Rejected(why) => {
                    let stage = RejectStage::Hit;
                    batch.reject(line, stage, why, Some(&hit.sha256), object.as_bytes());
                    continue;
                }
            }
            // A sample of unknown size is requested: `download` checks the size while the content arrives.
            if hit.size.zip(most).is_some_and(|(size, most)| size > most) {
                report.too_large += 1;
            } else if hunt.download {
                let event = self.events.request(&event, &hit, hunt);
                let id = format!("{} {}", event.entity.category, event.entity.hash);
                requests.push(Request { line, id, event });
            }
        }
        self.request(requests, batch, limits, report).await
    }

    /// Posts the download requests that were not posted lately. An id is remembered after its post, so that a crash
    /// repeats a request instead of losing it.
    async fn request(
        &self,
        requests: Vec<Request>,
        batch: &mut Batch<'_>,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let (memory, now) = (&self.store.memory, batch.now);
        let (mut seen, mut new) = (BTreeSet::new(), Vec::new());
        for request in requests {
            if seen.insert(request.id.clone()) && !memory.knows(REQUESTS, &request.id, now).await? {
                new.push(request);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let encode = |request: &Request| {
            let mut bytes = Vec::new();
            avro::encode_download(&request.event, self.settings.model_version, &mut bytes);
            bytes
        };
        let encoded: Vec<Vec<u8>> = new.iter().map(encode).collect();
        let deliveries = self.publisher.publish(Model::Download, &encoded, limits).await?;
        let mut asked = Vec::new();
        for (Request { line, id, event }, delivery) in new.into_iter().zip(deliveries) {
            match delivery {
                Delivery::Delivered => report.requests += 1,
                Delivery::Filtered(_) => report.unwanted += 1,
                Delivery::Rejected(why) => {
                    let text = serde_json::to_vec(&event).unwrap_or_default();
                    let (stage, sha256) = (RejectStage::Request, Some(event.entity.hash.as_str()));
                    batch.reject(line, stage, why, sha256, &text);
                    continue;
                }
            }
            asked.push(id);
        }
        memory.remember_all(REQUESTS, &asked, self.settings.request_memory, now).await?;
        Ok(())
    }

    /// Keeps the rejects of a batch in one object. Its name is a digest of the rejects, so the same page replaces its
    /// object instead of adding another one.
    async fn keep(&self, batch: &Batch<'_>, report: &mut Report) -> Result<(), HuntError> {
        let Some(first) = batch.rejects.first() else { return Ok(()) };
        report.rejected += batch.rejects.len() as u64;
        let mut hash = Sha256::new();
        for reject in &batch.rejects {
            hash.update(format!("{:?} {}\n", reject.stage, reject.record.len()));
            hash.update(&reject.record);
        }
        let name: String = hex::encode(hash.finalize()).chars().take(16).collect();
        let origin = format!("{}/{name}", batch.origin());
        let (count, reason) = (batch.rejects.len(), &first.reason);
        tracing::error!(
            count,
            key = Rejects::key(&origin, first.line),
            reason,
            "hits or requests are refused and kept: `vt rejects` shows them and tries them again"
        );
        let rejects = Rejects::new(Arc::clone(&self.store.bundles));
        Ok(rejects.write(&origin, first.line, &batch.rejects).await?)
    }
}
