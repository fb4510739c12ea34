//! Works a request, from its quota to its outcome. Each step is noted before the next one begins, so that the work
//! continues there after a crash.

use azul_vt::{
    azul::{
        avro,
        dispatcher::Model,
        event::{DownloadEvent, download_action},
        streams::ContentAddress,
    },
    errors::chain,
    metrics,
    pipeline::RunLimits,
    store::{
        Claim, Reservation, ReservationStage, StoreError,
        failures::{self, Subject},
        inbox::Item,
        totals::{Totals, UNLIMITED, utc_day},
    },
    tasks::{TaskContext, Unposted, state_unavailable},
    worker::Disposition,
};
use jiff::{SignedDuration, ToSpan as _, civil::Date};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Download, NAME,
    events::{self, Outcome},
    fetch::{Ended, LABEL, age_backoff},
    wanted,
};

/// Folder of stored outcomes.
pub(crate) const FOLDER: &str = "outcomes/";
/// Shortest wait of a request whose sample another request is working, or that waits for the dispatcher.
const HELD: SignedDuration = SignedDuration::from_secs(3);
/// Longest wait of a request whose sample another request is working, or that waits for the dispatcher.
const LONGEST_HELD: SignedDuration = SignedDuration::from_mins(1);
/// Shortest wait of a request whose quota has no place while other requests of it are being worked.
const FULL: SignedDuration = SignedDuration::from_secs(10);
/// Longest wait of a request whose quota has no place while other requests of it are being worked.
const LONGEST_FULL: SignedDuration = SignedDuration::from_mins(10);
/// Kind under which [`azul_vt::store::Memory`] remembers a sample that goes into the store and has no event yet.
const UNSOURCED: &str = "unsourced";
/// Time for which such a sample ([`UNSOURCED`]) is remembered. It is longer than any work on a sample takes.
const UNSOURCED_FOR: SignedDuration = SignedDuration::from_hours(8 * 24);

/// The outcome of a request with its event. It is stored before the event is posted, so that every repetition posts the
/// same event.
#[derive(Debug, Serialize, Deserialize)]
struct StoredOutcome {
    event: DownloadEvent,
    /// Day of the reservation that the outcome ends; `None` if there is no reservation.
    day: Option<Date>,
    outcome: Outcome,
}

/// Reasons why a quota has no place.
enum Full {
    /// Places are taken by downloads that may still fail.
    Now,
    /// This number of samples arrived today, which uses up the quota.
    ForGood(u64),
}

impl Download {
    pub(crate) async fn event(&self, item: &Item, limits: &RunLimits) -> Result<(), Disposition> {
        if limits.reached() {
            return Err(Disposition::unbegun(limits));
        }
        let event: DownloadEvent = serde_json::from_str(&item.body)
            .map_err(|error| Disposition::Bury(format!("the item cannot be read: {error}")))?;
        if event.action == download_action::SUCCESS {
            return self.count(&event, item).await.map_err(|e| state_unavailable(&e));
        }
        if let Some(told) = self.read_told(item).await.map_err(|e| state_unavailable(&e))? {
            return self.tell(item, told, limits).await;
        }
        let hash = &event.entity.hash;
        if !wanted::is_sha256(hash) {
            let why = Outcome::Failed("its hash is not a SHA-256".into());
            return self.end(item, &event, None, &why, limits).await;
        }
        let (store, clock) = (&self.common.store, &self.common.clock);
        let name = format!("download-{hash}");
        let claim = Claim::take(&store.leases, clock, &name, limits).await;
        let Ok(claim) = claim.map_err(|e| state_unavailable(&e))? else {
            let age = clock.now().duration_since(item.since);
            return Err(Disposition::later(age_backoff(age, HELD, LONGEST_HELD)));
        };
        let outcome = self.request(item, &event, &claim.limits).await;
        if let Err(error) = claim.give_back().await {
            tracing::warn!(hash, error = chain(&error), "others wait until the lease ends");
        }
        outcome
    }

    /// Gives up an item after several workers in a row died on it. Its outcome is posted, and a failure frees its place
    /// in the quota.
    pub(crate) async fn give_up(&self, item: &Item, why: String) -> Result<(), Disposition> {
        let limits = RunLimits::default();
        let event: DownloadEvent = serde_json::from_str(&item.body)
            .map_err(|error| Disposition::Bury(format!("the item cannot be read: {error}")))?;
        if event.action != download_action::SUCCESS {
            if let Some(told) = self.read_told(item).await.map_err(|e| state_unavailable(&e))? {
                self.tell(item, told, &limits).await?;
            } else {
                let reserved =
                    self.reserved(item, &event).await.map_err(|e| state_unavailable(&e))?;
                let outcome = match reserved {
                    Some((_, ReservationStage::Sourced | ReservationStage::Reported)) => {
                        Outcome::Success
                    }
                    _ => Outcome::Failed(why.clone()),
                };
                let day = reserved.map(|(day, _)| day);
                self.end(item, &event, day, &outcome, &limits).await?;
            }
        }
        Err(Disposition::Bury(why))
    }

    /// Counts a download that another author reported in its category's quota, once, on the day of the download.
    async fn count(&self, event: &DownloadEvent, item: &Item) -> Result<(), StoreError> {
        let quotas = &self.common.store.quotas;
        let id = if event.kafka_key.is_empty() { &item.id } else { &event.kafka_key };
        let (category, id) = (&event.entity.category, format!("event {id}"));
        let day = utc_day(event.timestamp);
        quotas.reserve(category, day, UNLIMITED, &id).await?;
        quotas.set_stage(category, day, &id, ReservationStage::Reported).await.map(drop)
    }

    /// Works a request while its sample's lease is held.
    async fn request(
        &self,
        item: &Item,
        request: &DownloadEvent,
        limits: &RunLimits,
    ) -> Result<(), Disposition> {
        let reserved = self.reserved(item, request).await.map_err(|e| state_unavailable(&e))?;
        let is_present = match reserved {
            Some((_, ReservationStage::Sourced | ReservationStage::Reported)) => true,
            _ => match limits.run_until(self.content.has_stream(place(request))).await {
                None => return Err(Disposition::later(SignedDuration::ZERO)),
                Some(Ok(is_present)) => is_present,
                Some(Err(error)) if error.is_transient() => {
                    tracing::warn!(error = chain(&error), "the request waits for the dispatcher");
                    let age = self.common.clock.now().duration_since(item.since);
                    return Err(Disposition::later(age_backoff(age, HELD, LONGEST_HELD)));
                }
                Some(Err(error)) => {
                    let outcome = Outcome::Failed(chain(&error));
                    let day = reserved.map(|(day, _)| day);
                    return self.end(item, request, day, &outcome, limits).await;
                }
            },
        };
        let (day, stage) = match reserved {
            Some(reserved) => reserved,
            // A sample in the store without an event may belong to a request of another category that is between the
            // two steps. Its event may never come, so it does not count as present.
            None if is_present && !self.is_unsourced(request).await? => {
                return self.end(item, request, None, &Outcome::AlreadyPresent, limits).await;
            }
            None => match self.reserve(request).await.map_err(|e| state_unavailable(&e))? {
                Ok(reserved) => reserved,
                // The request waits, because another request may give its place back.
                Err(Full::Now) => {
                    let age = self.common.clock.now().duration_since(item.since);
                    let wait = age_backoff(age, FULL, LONGEST_FULL);
                    self.common.note_wait("the quota of a category has no place now", wait);
                    return Err(Disposition::later(wait));
                }
                Err(Full::ForGood(used)) => return self.full(item, request, used, limits).await,
            },
        };
        match self.publish(item, request, (day, stage), is_present, limits).await {
            Ok(()) => self.end(item, request, Some(day), &Outcome::Success, limits).await,
            Err(ended) => self.ended(item, request, Some(day), ended, limits).await,
        }
    }

    /// Brings a reserved sample and its event to the dispatcher.
    async fn publish(
        &self,
        item: &Item,
        request: &DownloadEvent,
        (day, stage): (Date, ReservationStage),
        is_present: bool,
        limits: &RunLimits,
    ) -> Result<(), Ended> {
        if stage >= ReservationStage::Sourced {
            return Ok(());
        }
        if self.store_is_paused().await? {
            let age = self.common.clock.now().duration_since(item.since);
            return Err(Ended::Disposition(Disposition::later(age_backoff(
                age,
                HELD,
                LONGEST_HELD,
            ))));
        }
        let memory = &self.common.store.memory;
        let (id, now) = (place_id(request), self.common.clock.now());
        let noted = memory.remember(UNSOURCED, &id, UNSOURCED_FOR, now).await;
        noted.map_err(|error| state_unavailable(&error))?;
        let stored = if is_present {
            let storing = limits.run_until(self.stored(request, item)).await;
            storing.unwrap_or(Err(Ended::Disposition(Disposition::later(SignedDuration::ZERO))))?
        } else {
            None
        };
        let content = match stored {
            Some(content) => content,
            None => self.fetch(request, item, limits).await?,
        };
        self.set_stage(request, day, ReservationStage::Stored).await?;
        if limits.reached() {
            return Err(Ended::Disposition(Disposition::later(SignedDuration::ZERO)));
        }
        let source = &request.source.name;
        let captures = if request.entity.pcap {
            self.captures(source, &request.entity.hash, limits).await
        } else {
            Vec::new()
        };
        let settings = &self.common.settings;
        let (version, now) = (settings.model_version, self.common.clock.now());
        for capture in &captures {
            let id = format!("{} {}", request.entity.hash, capture.sha256);
            if let Err(error) = Totals::capture(&*self.common.store.quotas, day, &id).await {
                tracing::warn!(error = chain(&error), "a network capture is not counted");
            }
        }
        let event = events::sourced(request, content, captures, version, now);
        let mut bytes = Vec::new();
        avro::encode_binary(&event, version, &mut bytes);
        if let Err(unposted) = self.common.post(Model::Binary, bytes, limits).await {
            return Err(match unposted {
                Unposted::Disposition(after) => Ended::Disposition(after),
                Unposted::Refused(why) | Unposted::Unwanted(why) => {
                    Ended::Outcome(Outcome::Failed(why))
                }
                // Only this sample fails; samples of other sources are worked on.
                Unposted::UnknownSource(why) => {
                    tracing::error!(source, why, "a sample has no event");
                    Ended::Outcome(Outcome::Failed(why))
                }
            });
        }
        self.set_stage(request, day, ReservationStage::Sourced).await?;
        let forgotten = memory.forget(UNSOURCED, &id).await;
        forgotten.map_err(|error| Ended::Disposition(state_unavailable(&error)))
    }

    async fn is_unsourced(&self, request: &DownloadEvent) -> Result<bool, Disposition> {
        let now = self.common.clock.now();
        let known = self.common.store.memory.knows(UNSOURCED, &place_id(request), now).await;
        known.map_err(|error| state_unavailable(&error))
    }

    async fn set_stage(
        &self,
        request: &DownloadEvent,
        day: Date,
        stage: ReservationStage,
    ) -> Result<(), Ended> {
        let entity = &request.entity;
        let quotas = &self.common.store.quotas;
        let noted = quotas.set_stage(&entity.category, day, &place_id(request), stage).await;
        noted.map(drop).map_err(|error| Ended::Disposition(state_unavailable(&error)))
    }

    /// Returns the reservation that a request already has, of today or of a day since it came in.
    async fn reserved(
        &self,
        item: &Item,
        request: &DownloadEvent,
    ) -> Result<Option<(Date, ReservationStage)>, StoreError> {
        let (entity, id) = (&request.entity, place_id(request));
        let mut day = utc_day(self.common.clock.now());
        // The same sample may have been asked for before midnight.
        let first = utc_day(item.since).min(day).saturating_sub(1.day());
        while day >= first {
            // A limit of 0 reserves nothing; it only finds an existing reservation.
            let asked = self.common.store.quotas.reserve(&entity.category, day, 0, &id);
            if let Reservation::Already(stage) = asked.await? {
                return Ok(Some((day, stage)));
            }
            day = day.saturating_sub(1.day());
        }
        Ok(None)
    }

    /// Takes a place in today's quota. The inner `Err` says whether there is no place only now or for the rest of the
    /// day.
    async fn reserve(
        &self,
        request: &DownloadEvent,
    ) -> Result<Result<(Date, ReservationStage), Full>, StoreError> {
        let (entity, today) = (&request.entity, utc_day(self.common.clock.now()));
        let limit = match u64::try_from(entity.category_quota) {
            Ok(limit @ 1..) if !entity.category.is_empty() => limit,
            _ => UNLIMITED,
        };
        if limit != UNLIMITED {
            self.known().limits.insert(entity.category.clone(), limit);
        }
        let quotas = &self.common.store.quotas;
        Ok(match quotas.reserve(&entity.category, today, limit, &place_id(request)).await? {
            Reservation::Granted => Ok((today, ReservationStage::Reserved)),
            Reservation::Already(stage) => Ok((today, stage)),
            Reservation::Full { .. } => {
                let used = quotas.settled(&entity.category, today).await?;
                Err(if used >= limit { Full::ForGood(used) } else { Full::Now })
            }
        })
    }

    /// Skips a request for which its quota has no place today.
    async fn full(
        &self,
        item: &Item,
        request: &DownloadEvent,
        used: u64,
        limits: &RunLimits,
    ) -> Result<(), Disposition> {
        let entity = &request.entity;
        let why = format!(
            "the quota of {} is used up: {used} of {} today (UTC)",
            entity.category, entity.category_quota
        );
        let subject = subject(request);
        let Subject { sha256, source, category } = &subject;
        tracing::info!(sha256, source, category, why, "skipped");
        metrics::DOWNLOADS.add([NAME, "skipped"], 1);
        self.note_failure(item, subject, &why).await;
        if !self.common.settings.download.quota_reject_events {
            return Ok(());
        }
        self.end(item, request, None, &Outcome::Failed(why), limits).await
    }

    /// Decides how an item ends whose request got no sample, now or for good.
    async fn ended(
        &self,
        item: &Item,
        request: &DownloadEvent,
        day: Option<Date>,
        ended: Ended,
        limits: &RunLimits,
    ) -> Result<(), Disposition> {
        match ended {
            Ended::Disposition(after) => Err(after),
            Ended::Outcome(outcome) => self.end(item, request, day, &outcome, limits).await,
        }
    }

    /// Posts the outcome of a request, and ends its reservation of `day`.
    async fn end(
        &self,
        item: &Item,
        request: &DownloadEvent,
        day: Option<Date>,
        outcome: &Outcome,
        limits: &RunLimits,
    ) -> Result<(), Disposition> {
        let settings = &self.common.settings;
        let (version, now) = (settings.model_version, self.common.clock.now());
        let skips = settings.download.skipped_action;
        let event = events::outcome(request, outcome, version, skips, now);
        let told = StoredOutcome { event, day, outcome: outcome.clone() };
        let text =
            serde_json::to_vec(&told).map_err(|error| Disposition::Bury(error.to_string()))?;
        let kept = self.common.store.bundles.put(&key(item), &text).await;
        kept.map_err(|e| state_unavailable(&e))?;
        self.tell(item, told, limits).await
    }

    async fn tell(
        &self,
        item: &Item,
        told: StoredOutcome,
        limits: &RunLimits,
    ) -> Result<(), Disposition> {
        let mut bytes = Vec::new();
        avro::encode_download(&told.event, self.common.settings.model_version, &mut bytes);
        let posted = match self.common.post(Model::Download, bytes, limits).await {
            Ok(()) | Err(Unposted::Unwanted(_)) => Ok(()),
            // An event that the dispatcher never takes counts as posted.
            Err(Unposted::Refused(why)) => Err(Disposition::Bury(why)),
            Err(Unposted::UnknownSource(why)) => return Err(Disposition::Stop(why)),
            Err(Unposted::Disposition(after)) => return Err(after),
        };
        self.close(&told).await.map_err(|e| state_unavailable(&e))?;
        metrics::DOWNLOADS.add([NAME, told.outcome.name()], 1);
        let subject = subject(&told.event);
        let Subject { sha256, source, category } = &subject;
        let outcome = told.outcome.name();
        match told.outcome.reason() {
            None => tracing::info!(sha256, source, category, outcome, "the download ended"),
            Some(reason) => {
                tracing::warn!(sha256, source, category, outcome, reason, "the download failed");
                self.note_failure(item, subject, reason).await;
            }
        }
        posted
    }

    async fn note_failure(&self, item: &Item, subject: Subject, reason: &str) {
        let TaskContext { store, clock, about, .. } = &self.common;
        failures::note(store, about.queue, item, subject, reason, clock.now()).await;
    }

    /// Ends the reservation of a request whose outcome was posted. A success keeps its place. The stored outcome is
    /// kept, so that an item that comes back although it was done only posts it again.
    async fn close(&self, told: &StoredOutcome) -> Result<(), StoreError> {
        let (store, entity) = (&self.common.store, &told.event.entity);
        let id = place_id(&told.event);
        if let Some(day) = told.day {
            if told.outcome == Outcome::Success {
                let reported = ReservationStage::Reported;
                store.quotas.set_stage(&entity.category, day, &id, reported).await?;
            } else {
                store.quotas.release(&entity.category, day, &id).await?;
            }
        }
        Ok(())
    }

    async fn read_told(&self, item: &Item) -> Result<Option<StoredOutcome>, StoreError> {
        // A stored outcome that cannot be read counts as missing, so the request is worked again.
        let text = self.common.store.bundles.read(&key(item)).await?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

/// Returns the file, source and category that a download request names.
pub(crate) fn subject(request: &DownloadEvent) -> Subject {
    let entity = &request.entity;
    let (sha256, category) = (entity.hash.clone(), entity.category.clone());
    Subject { sha256, source: request.source.name.clone(), category }
}

/// Returns the id of a request's reservation. The same file of another source is another sample.
fn place_id(request: &DownloadEvent) -> String {
    format!("{} {}", request.source.name, request.entity.hash)
}

/// Returns the place of a request's sample in the dispatcher's store.
pub(crate) fn place(request: &DownloadEvent) -> ContentAddress<'_> {
    ContentAddress { source: &request.source.name, label: LABEL, sha256: &request.entity.hash }
}

/// Returns the key of an item's stored outcome. It has a digest of the item's id, because the id may have any
/// characters.
fn key(item: &Item) -> String {
    format!("{FOLDER}{}.json", hex::encode(Sha256::digest(&item.id)))
}
