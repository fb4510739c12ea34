//! The job of `hunt`: what rules of Livehunt matched becomes events in Azul, and requests for the samples.
//!
//! A [`Hunt`] knows no Lambda and no command line. Where it was is a position, the date of the last
//! notification that was delivered; each run reads again what is little older, and leaves out what it knows.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use azul_vt::{
    azul::{
        avro,
        dispatcher::Model,
        event::{BinaryEvent, DownloadEvent},
    },
    errors::chain,
    http_client::{Backoff, HttpSetupError},
    lambda::{self, Function},
    mapping::{HandlerSet, Mapper, MapperOptions, UnknownHandler},
    metrics,
    pipeline::{
        Limits, assemble,
        publish::{Delivery, PublishError, Publisher, PublisherOptions, register_event},
    },
    settings::{FEED_RETENTION_HOURS, Settings},
    store::{BUDGET, Claim, Clock, Store, StoreError, local},
    virustotal::{Page, VirusTotal, VirusTotalError, asks},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{sync::OnceCell, time::Duration};

pub mod events;
pub mod hit;

use events::Events;
use hit::Hit;

/// Name of the lease and of the position.
pub const NAME: &str = "hunt";
/// Notifications may come to light so much later than they are dated.
const OVERLAP: SignedDuration = SignedDuration::from_mins(10);
/// What [`azul_vt::store::Memory`] calls notifications that were delivered, …
const DELIVERED: &str = "notification";
/// … for longer than VirusTotal keeps them, …
const DELIVERED_FOR: SignedDuration = SignedDuration::from_hours(8 * 24);
/// … and downloads that were asked for, by rule and file.
const REQUESTED: &str = "hunt request";
/// How often it is looked which rulesets match more than they may.
const LOOK_AT_RULESETS: SignedDuration = SignedDuration::from_hours(1);
/// Where that is kept for `vt status`.
const RULESETS: &str = "hunt/rulesets.json";
/// Pages that a run reads at most: four hundred thousand notifications.
const MOST_PAGES: usize = 10_000;
/// How long a run waits for the request budget.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// The first wait after VirusTotal failed, and the longest.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// Why there is no `hunt` to run.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// HANDLERS names one that does not exist.
    #[error("HANDLERS: {0}")]
    Handlers(#[from] UnknownHandler),
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// There is no key.
    #[error("VIRUSTOTAL_APIKEY is not set: set it to the API key whose rules hunt")]
    NoKey,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum HuntError {
    /// The state could not be kept.
    #[error("the state could not be kept")]
    Store(#[from] StoreError),
    /// VirusTotal does not give notifications.
    #[error("VirusTotal gives no notifications")]
    VirusTotal(#[from] VirusTotalError),
    /// The dispatcher does not take events.
    #[error("the dispatcher takes no events of hits")]
    Publish(#[from] PublishError),
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Who else was at work, and since when: then nothing was done here.
    pub held_by: Option<String>,
    /// Objects that were read.
    pub read: u64,
    /// Hits whose events the dispatcher has.
    pub delivered: u64,
    /// Hits that were known from an earlier run.
    pub known: u64,
    /// Hits that the settings do not want.
    pub unwanted: u64,
    /// Objects that are no files.
    pub other_objects: u64,
    /// Objects that cannot be read, and events that the dispatcher refuses.
    pub rejected: u64,
    /// Downloads that were asked for.
    pub requests: u64,
    /// The date of the last notification that is done, seconds since 1970.
    pub position: Option<i64>,
    /// Hours of notifications that VirusTotal keeps no more and that were never read.
    pub lost_hours: i64,
    /// Rulesets that match more than they may a day, so that VirusTotal tells not all.
    pub rate_limited: Vec<String>,
    /// It stopped before the end: deadline, quota, or asked to end.
    pub paused: bool,
}

impl Report {
    /// Tells the metrics.
    fn tell(&self) {
        for (outcome, count) in [
            ("delivered", self.delivered),
            ("known", self.known),
            ("unwanted", self.unwanted),
            ("other_object", self.other_objects),
            ("rejected", self.rejected),
            ("requested", self.requests),
        ] {
            metrics::HITS.add([NAME, outcome], count);
        }
        metrics::HUNT_LOST_HOURS.set([NAME], self.lost_hours);
        metrics::HUNT_RATE_LIMITED.set([NAME], self.rate_limited.len() as u64);
        if let Some(position) = self.position {
            metrics::HUNT_POSITION.set([NAME], position);
        }
    }
}

/// Which rulesets matched more than they may, and when that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RateLimited {
    /// When.
    pub looked_at: Timestamp,
    /// Their names.
    pub rulesets: Vec<String>,
}

/// What asks for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// What is new.
    Tick,
    /// The matches of a Retrohunt job.
    Retrohunt(String),
}

impl Trigger {
    /// The trigger of an event of Lambda: any JSON.
    pub fn of(event: &Value) -> Self {
        match event.get("retrohunt").and_then(Value::as_str) {
            Some(job) => Self::Retrohunt(job.to_owned()),
            None => Self::Tick,
        }
    }
}

/// Everything that hunting needs.
pub struct Hunt {
    /// Settings.
    pub settings: Settings,
    /// State.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Waits between attempts at a page.
    pub backoff: Backoff,
    virustotal: VirusTotal,
    publisher: Publisher,
    events: Events,
    registered: OnceCell<()>,
}

/// What becomes of a page's objects.
struct Wanted {
    hit: Hit,
    event: BinaryEvent,
}

impl Hunt {
    /// What the settings describe. Asks nobody.
    ///
    /// # Errors
    /// A setting that is missing or cannot be used.
    pub fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        if settings.virustotal_apikey.is_none() {
            return Err(SetupError::NoKey);
        }
        let version = settings.model_version;
        let mapper = Mapper::new(MapperOptions {
            handlers: HandlerSet::parse(&settings.handlers)?,
            model_version: version,
            author: events::author(),
            source: settings.hunt.source.clone(),
            max_age: None,
        });
        let max_event_bytes = settings.max_event_bytes;
        let options = PublisherOptions::new(version, max_event_bytes);
        let [first, longest] = WAITS;
        Ok(Self {
            virustotal: VirusTotal::from_settings(&settings)?,
            publisher: Publisher::new(assemble::dispatcher(&settings)?, options),
            events: Events { mapper, model_version: version, max_event_bytes },
            backoff: Backoff::new(first, longest),
            registered: OnceCell::new(),
            settings,
            store,
            clock,
        })
    }

    /// Does what a trigger asks for; where somebody else does, says who.
    ///
    /// # Errors
    /// See [`HuntError`]: what was delivered before stays delivered.
    pub async fn run(&self, trigger: &Trigger, limits: &Limits) -> Result<Report, HuntError> {
        let mut report = Report::default();
        if asks::is_paused(&self.store, self.clock.now()).await? {
            report.paused = true;
            return Ok(report);
        }
        let claim = match Claim::take(&self.store.leases, &self.clock, NAME, limits).await? {
            Ok(claim) => claim,
            Err(owner) => {
                report.held_by = Some(owner);
                return Ok(report);
            }
        };
        let outcome = self.hunt(trigger, &claim.limits, &mut report).await;
        report.tell();
        let is_over = claim.limits.reached();
        claim.give_back().await?;
        match outcome {
            // What was in flight is sent again by the next run.
            Err(HuntError::Publish(error)) if is_over => {
                tracing::info!(error = chain(&error), "stopped while events were sent");
                report.paused = true;
            }
            outcome => outcome?,
        }
        Ok(report)
    }

    async fn hunt(
        &self,
        trigger: &Trigger,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let register = self.registered.get_or_try_init(|| self.register(limits)).await;
        match register {
            Ok(()) => {}
            Err(PublishError::Interrupted { .. }) => {
                report.paused = true;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        match trigger {
            Trigger::Tick => {
                self.look_at_rulesets(limits, report).await?;
                if asks::is_paused(&self.store, self.clock.now()).await? {
                    report.paused = true;
                    return Ok(());
                }
                self.tick(limits, report).await
            }
            Trigger::Retrohunt(job) => self.pages(Some(job), None, limits, report).await,
        }
    }

    async fn register(&self, limits: &Limits) -> Result<(), PublishError> {
        let event = register_event(
            &events::author(),
            &self.settings.contact,
            "Brings what rules of VirusTotal's Livehunt matched.",
            events::descriptors(),
            self.clock.now(),
            self.settings.model_version,
        );
        self.publisher.register(&event, limits).await
    }

    async fn tick(&self, limits: &Limits, report: &mut Report) -> Result<(), HuntError> {
        let now = self.now().as_second();
        let oldest = now.saturating_sub(FEED_RETENTION_HOURS * 3600);
        let known = self.store.cursors.read(NAME).await?;
        let position = match known {
            Some(position) => position,
            None => self.first_position(now)?,
        };
        report.position = known;
        if position < oldest {
            report.lost_hours = oldest.saturating_sub(position) / 3600 + 1;
            let hours = report.lost_hours;
            tracing::error!(hours, "notifications of that long are lost: VirusTotal keeps 7 days");
        }
        let from = position.max(oldest).saturating_sub(OVERLAP.as_secs());
        self.pages(None, Some(from), limits, report).await
    }

    /// Our time, or the earliest of the peers' where ours is ahead of it.
    fn now(&self) -> Timestamp {
        self.settings.peers.earliest(self.clock.now())
    }

    /// Where the first run starts: behind the Go plugin's last notification, else the backlog.
    fn first_position(&self, now: i64) -> Result<i64, StoreError> {
        if let Some(position) = local::go_plugin_hunt(&self.settings.state_dir)? {
            tracing::info!(
                position,
                "going on behind the Go plugin's last notification (livehunt)"
            );
            return Ok(position);
        }
        Ok(now.saturating_sub(self.settings.hunt.backlog.as_secs()))
    }

    /// Reads pages to their end: notifications since `from`, or the matches of a job.
    async fn pages(
        &self,
        job: Option<&str>,
        from: Option<i64>,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let is_legacy = job.is_none() && self.settings.hunt.is_legacy;
        let (mut cursor, mut seen) = (None::<String>, BTreeSet::new());
        // The newest come first there: the position moves when all older ones are delivered.
        let mut newest = None;
        for _ in 0..MOST_PAGES {
            let Some(page) = self.page(job, from, cursor.as_deref(), limits).await? else {
                report.paused = true;
                return Ok(());
            };
            let (dates, is_over) = self.deliver(&page, job, from, limits, report).await?;
            newest = newest.max(dates);
            if !is_legacy {
                self.move_to(newest, report).await?;
            }
            cursor = page.cursor;
            match &cursor {
                None => break,
                Some(_) if is_over && is_legacy => break,
                Some(next) if !seen.insert(next.clone()) => {
                    tracing::error!("VirusTotal gives a page again and again; ending here");
                    break;
                }
                Some(_) => {}
            }
        }
        self.move_to(newest, report).await
    }

    /// Moves the position to the date of a notification that is done, unless it is there or the date is in the
    /// future.
    async fn move_to(&self, date: Option<i64>, report: &mut Report) -> Result<(), HuntError> {
        let Some(date) = date.map(|date| date.min(self.now().as_second())) else {
            return Ok(());
        };
        if report.position.is_none_or(|position| position < date)
            && self.store.cursors.advance(NAME, report.position, date).await?
        {
            report.position = Some(date);
        }
        Ok(())
    }

    /// One page; `None` where it was asked to stop, or the quota is used up.
    async fn page(
        &self,
        job: Option<&str>,
        from: Option<i64>,
        cursor: Option<&str>,
        limits: &Limits,
    ) -> Result<Option<Page>, HuntError> {
        let mut backoff = self.backoff.clone();
        loop {
            if limits.reached() {
                return Ok(None);
            }
            if !self.granted(limits).await? {
                return Ok(None);
            }
            let asking = async {
                match (job, from) {
                    (Some(job), _) => self.virustotal.retrohunt_matches(job, cursor).await,
                    (None, Some(from)) if !self.settings.hunt.is_legacy => {
                        self.virustotal.ioc_stream(from, cursor).await
                    }
                    _ => self.virustotal.hunting_notifications(cursor).await,
                }
            };
            let Some(asked) = limits.bound(asking).await else { return Ok(None) };
            let error = match asked {
                Ok(page) => return Ok(Some(page)),
                Err(error) => error,
            };
            let now = self.clock.now();
            if asks::ends_run(&self.store, BUDGET, &error, now).await? {
                return Ok(None);
            }
            if asks::used_up(&self.store, &error, now).await?.is_some() {
                continue;
            }
            if !error.is_transient() {
                return Err(error.into());
            }
            let wait = backoff.next_wait(error.retry_after());
            tracing::warn!(error = chain(&error), wait_s = wait.as_secs(), "asking again");
            if limits.sleep(wait).await {
                return Ok(None);
            }
        }
    }

    /// Waits for a grant of the request budget. False where it was asked to stop before, or there is none for
    /// long: the next run goes on then.
    async fn granted(&self, limits: &Limits) -> Result<bool, HuntError> {
        let windows = &self.settings.lookup.windows;
        let mut waited = SignedDuration::ZERO;
        while let Some(wait) = asks::grant(&self.store, windows, self.clock.now()).await? {
            waited = waited.saturating_add(wait);
            if waited > PATIENCE || limits.sleep(wait.unsigned_abs()).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Delivers a page's hits; gives the newest date in it, and whether all of it is older than `from`.
    async fn deliver(
        &self,
        page: &Page,
        job: Option<&str>,
        from: Option<i64>,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(Option<i64>, bool), HuntError> {
        let now = self.clock.now();
        let hunt = &self.settings.hunt;
        let source = if job.is_some() { &hunt.retrohunt_source } else { &hunt.source };
        let (mut newest, mut is_over) = (None, !page.objects.is_empty());
        let (mut wanted, mut done, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
        for object in &page.objects {
            report.read += 1;
            let hit = match hit::read(object.get(), job) {
                hit::Read::Hit(hit) => *hit,
                hit::Read::Other => {
                    report.other_objects += 1;
                    continue;
                }
                hit::Read::Malformed(why) => {
                    report.rejected += 1;
                    tracing::error!(why, "an object of Livehunt cannot be read");
                    continue;
                }
            };
            let date = hit.date.map(Timestamp::as_second);
            if date.zip(from).is_some_and(|(date, from)| date < from) {
                continue;
            }
            is_over = false;
            newest = newest.max(date);
            if !ids.insert(hit.id.clone())
                || self.store.memory.knows(DELIVERED, &hit.id, now).await?
            {
                report.known += 1;
                continue;
            }
            if let Err(setting) = events::wanted(&hit, hunt) {
                tracing::debug!(id = hit.id, rule = hit.rule, setting, "a hit is not wanted");
                report.unwanted += 1;
                done.push(hit.id);
                continue;
            }
            match self.events.mapped(object.get(), &hit, source, now) {
                Ok(event) => wanted.push(Wanted { hit, event }),
                Err(why) => {
                    report.rejected += 1;
                    tracing::error!(id = hit.id, sha256 = hit.sha256, why, "a hit is no event");
                    done.push(hit.id);
                }
            }
        }
        let requests = self.publish(wanted, &mut done, limits, report).await?;
        self.request(requests, now, limits, report).await?;
        self.store.memory.remember_all(DELIVERED, &done, DELIVERED_FOR, now).await?;
        Ok((newest, is_over))
    }

    /// Posts the events of hits; gives the requests that go with those that the dispatcher has.
    async fn publish(
        &self,
        wanted: Vec<Wanted>,
        done: &mut Vec<String>,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<Vec<(String, DownloadEvent)>, HuntError> {
        let encode = |wanted: &Wanted| {
            let mut bytes = Vec::new();
            avro::encode_binary(&wanted.event, self.settings.model_version, &mut bytes);
            bytes
        };
        let encoded: Vec<Vec<u8>> = wanted.iter().map(encode).collect();
        if encoded.is_empty() {
            return Ok(Vec::new());
        }
        let deliveries = self.publisher.publish(Model::Binary, &encoded, limits).await?;
        let hunt = &self.settings.hunt;
        let most = self.settings.max_download_bytes;
        let mut requests = Vec::new();
        for (Wanted { hit, event }, delivery) in wanted.into_iter().zip(deliveries) {
            done.push(hit.id.clone());
            match delivery {
                Delivery::Delivered => report.delivered += 1,
                Delivery::Filtered(_) => {
                    report.unwanted += 1;
                    continue;
                }
                Delivery::Rejected(why) => {
                    report.rejected += 1;
                    tracing::error!(id = hit.id, sha256 = hit.sha256, why, "a hit is refused");
                    continue;
                }
            }
            let fits = most.is_none_or(|most| hit.size.is_some_and(|size| size <= most));
            if hunt.download && fits {
                let id = format!("{} {}", hit.rule, hit.sha256);
                requests.push((id, self.events.request(&event, &hit, hunt)));
            }
        }
        Ok(requests)
    }

    /// Posts the requests that were not posted lately: look, post, remember.
    async fn request(
        &self,
        requests: Vec<(String, DownloadEvent)>,
        now: Timestamp,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let (mut seen, mut new) = (BTreeSet::new(), Vec::new());
        for (id, request) in requests {
            if seen.insert(id.clone()) && !self.store.memory.knows(REQUESTED, &id, now).await? {
                let mut bytes = Vec::new();
                avro::encode_download(&request, self.settings.model_version, &mut bytes);
                new.push((id, bytes));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let (ids, encoded): (Vec<String>, Vec<Vec<u8>>) = new.into_iter().unzip();
        let deliveries = self.publisher.publish(Model::Download, &encoded, limits).await?;
        for (id, delivery) in ids.iter().zip(&deliveries) {
            match delivery {
                Delivery::Delivered => report.requests += 1,
                Delivery::Filtered(why) | Delivery::Rejected(why) => {
                    tracing::error!(id, why, "a download cannot be asked for");
                }
            }
        }
        let kept = self.settings.request_memory;
        self.store.memory.remember_all(REQUESTED, &ids, kept, now).await?;
        Ok(())
    }

    /// Looks, at most once an hour, which rulesets match more than they may. What goes wrong is a line in the log.
    async fn look_at_rulesets(
        &self,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let (memory, now) = (&self.store.memory, self.clock.now());
        if !memory.remember("housekeeping", RULESETS, LOOK_AT_RULESETS, now).await? {
            let known = rate_limited(&self.store).await?;
            report.rate_limited = known.map(|known| known.rulesets).unwrap_or_default();
            return Ok(());
        }
        let windows = &self.settings.lookup.windows;
        if asks::grant(&self.store, windows, now).await?.is_some() {
            return Ok(());
        }
        let rulesets = match limits.bound(self.virustotal.rulesets()).await {
            None => return Ok(()),
            Some(Ok(rulesets)) => rulesets,
            Some(Err(error)) => {
                tracing::warn!(error = chain(&error), "which rulesets are limited is not known");
                if !asks::ends_run(&self.store, BUDGET, &error, now).await? {
                    asks::used_up(&self.store, &error, now).await?;
                }
                return Ok(());
            }
        };
        let limited = rulesets.into_iter().filter(|ruleset| ruleset.rate_limited);
        report.rate_limited = limited.map(|ruleset| ruleset.name).collect();
        for ruleset in &report.rate_limited {
            tracing::warn!(ruleset, "matches more than its limit a day: VirusTotal tells not all");
        }
        let kept = RateLimited { looked_at: now, rulesets: report.rate_limited.clone() };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        Ok(self.store.bundles.put(RULESETS, &text).await?)
    }
}

#[async_trait]
impl Function for Hunt {
    const NAME: &'static str = NAME;
    // For ending at the border of a page.
    const MARGIN: Duration = Duration::from_secs(10);

    async fn handle(&self, event: &Value, limits: &Limits) -> Result<Value, lambda::Error> {
        Ok(json!(self.run(&Trigger::of(event), limits).await?))
    }
}

/// Which rulesets matched more than they may, as far as a run found out; `None`: no run did.
///
/// # Errors
/// What the state gives.
pub async fn rate_limited(store: &Store) -> Result<Option<RateLimited>, StoreError> {
    // What cannot be read is found out anew.
    let text = store.bundles.read(RULESETS).await?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}
