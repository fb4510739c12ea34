//! The job of `query`: binaries that Azul got elsewhere are looked up in VirusTotal, and what is known there
//! goes back to Azul.
//!
//! Events come by webhook or by polling the dispatcher; what is wanted of them waits in the inbox until a
//! worker has looked it up and the dispatcher has taken the answer. A [`Query`] knows no Lambda and no
//! command line.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use azul_vt::{
    azul::{
        dispatcher::{Dispatcher, Model},
        event::{BinaryEvent, binary_action},
        incoming,
        poll::{Poll, PollError},
    },
    errors::chain,
    http_client::HttpSetupError,
    mapping::{self, HandlerSet, Mapper, MapperOptions, UnknownHandler},
    pipeline::{
        Limits, assemble,
        publish::{PublishError, Publisher, PublisherOptions, register_event},
    },
    settings::Settings,
    store::{
        Clock, Store, StoreError,
        inbox::{Delivery, Item, Queue},
    },
    virustotal::VirusTotal,
    webhook::receive::{self, Accepted, Decide},
    worker::{After, Delivered, Drained, Work, Workers},
};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::{sync::OnceCell, time::Instant};

pub mod answer;
mod look_up;
pub mod wanted;

use answer::{Answers, Found, Reply};
use look_up::Looked;
use wanted::{AUTHOR, Sources, Wanted};

/// Events that one poll asks for.
const POLL_EVENTS: usize = 50;
/// How long the dispatcher gathers for one poll.
const POLL_SECONDS: u64 = 10;
/// The dispatcher calls a task lost after half an hour, so no more is taken than is done in half of that.
const TASK_TIME: SignedDuration = SignedDuration::from_mins(15);
/// How much of an unlimited budget is taken in [`TASK_TIME`].
const MOST_WAITING: u64 = 5_000;

/// Why there is no `query` to run.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// HANDLERS names one that does not exist.
    #[error("HANDLERS: {0}")]
    Handlers(#[from] UnknownHandler),
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// It is not said what to look up.
    #[error(
        "LOOKUP_SOURCES is not set: name the Azul sources whose binaries are looked up, separated by commas, or * for all"
    )]
    NoSources,
    /// There is no key.
    #[error("VIRUSTOTAL_APIKEY is not set: set it to the API key that files are looked up with")]
    NoKey,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The state could not be kept.
    #[error("the state could not be kept")]
    Store(#[from] StoreError),
    /// The dispatcher does not hand out events.
    #[error("the dispatcher hands out no events")]
    Poll(#[from] PollError),
    /// The dispatcher does not take the plugin's registration.
    #[error("the plugin is not registered")]
    Register(#[from] PublishError),
    /// An operator must act.
    #[error("look-ups stopped: {0}")]
    Stopped(String),
}

/// Everything that looking up needs.
pub struct Query {
    /// Settings.
    pub settings: Settings,
    /// State.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    virustotal: VirusTotal,
    dispatcher: Dispatcher,
    publisher: Publisher,
    answers: Answers,
    wanted: Arc<Wanted>,
    registered: OnceCell<()>,
}

impl Query {
    /// What the settings describe. Asks nobody.
    ///
    /// # Errors
    /// A setting that is missing or cannot be used.
    pub fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let lookup = &settings.lookup;
        let sources = if lookup.sources.contains("*") {
            Sources::All
        } else if lookup.sources.is_empty() {
            return Err(SetupError::NoSources);
        } else {
            Sources::Named(lookup.sources.clone())
        };
        if settings.virustotal_apikey.is_none() {
            return Err(SetupError::NoKey);
        }
        let wanted = Wanted { sources, formats: lookup.formats.clone(), max_size: lookup.max_size };
        let mapper = Mapper::new(MapperOptions {
            handlers: HandlerSet::parse(&settings.handlers)?,
            model_version: settings.model_version,
            author: answer::author(),
            source: settings.load_source.clone(),
            max_age: None,
        });
        let answers = Answers {
            mapper,
            model_version: settings.model_version,
            max_event_bytes: settings.max_event_bytes,
        };
        let dispatcher = assemble::dispatcher(&settings)?;
        let options = PublisherOptions::new(settings.model_version, settings.max_event_bytes);
        Ok(Self {
            virustotal: VirusTotal::from_settings(&settings)?,
            publisher: Publisher::new(dispatcher.clone(), options),
            dispatcher,
            answers,
            wanted: Arc::new(wanted),
            registered: OnceCell::new(),
            settings,
            store,
            clock,
        })
    }

    /// What to do with an event: for [`receive::Receiver::handle`].
    pub fn decide(&self) -> Box<Decide<BinaryEvent>> {
        let wanted = Arc::clone(&self.wanted);
        Box::new(move |event| {
            let sha256 = wanted.sha256(&event)?;
            let mut input = answer::cut_down(event);
            input.entity.sha256 = sha256;
            serde_json::to_string(&input).map_err(|error| error.to_string())
        })
    }

    /// Tells Azul of this plugin, once a process. False where it was asked to stop meanwhile.
    async fn register(&self, limits: &Limits) -> Result<bool, QueryError> {
        match self.registered.get_or_try_init(|| self.post_registration(limits)).await {
            Ok(()) => Ok(true),
            Err(PublishError::Interrupted { .. }) => Ok(false),
            Err(error) => Err(QueryError::Register(error)),
        }
    }

    async fn post_registration(&self, limits: &Limits) -> Result<(), PublishError> {
        let description = "Looks binaries up in VirusTotal that Azul got elsewhere.";
        let event = register_event(
            &answer::author(),
            &self.settings.contact,
            description,
            mapping::descriptors(),
            self.clock.now(),
            self.settings.model_version,
        );
        self.publisher.register(&event, limits).await
    }

    /// Asks the dispatcher once for events, and keeps what is wanted of them. `None`: it was not asked,
    /// because enough waits already or Azul is paused.
    ///
    /// # Errors
    /// [`QueryError::Poll`], [`QueryError::Store`].
    pub async fn poll(&self, wait: Duration) -> Result<Option<Accepted>, QueryError> {
        let now = self.clock.now();
        let waiting = self.store.inbox.counts(Queue::Query, now).await?;
        let room = self.capacity().saturating_sub(waiting.waiting + waiting.in_work);
        let count = usize::try_from(room).unwrap_or(POLL_EVENTS).min(POLL_EVENTS);
        if count == 0 {
            return Ok(None);
        }
        let sources = match &self.wanted.sources {
            Sources::All => <_>::default(),
            Sources::Named(names) => names.clone(),
        };
        let poll = Poll {
            model: Model::Binary,
            name: AUTHOR,
            sources: &sources,
            actions: &[binary_action::SOURCED, binary_action::EXTRACTED],
            count,
            deadline: wait.min(Duration::from_secs(POLL_SECONDS)),
        };
        let polled = self.dispatcher.poll(&poll).await?;
        if polled.paused {
            return Ok(None);
        }
        let name = format!("poll-{}", azul_vt::http_client::request_id());
        let events = polled.events.into_iter().map(incoming::from_value).collect();
        let decide = self.decide();
        let now = self.clock.now();
        // Handed out once and never again: kept at any price that this process can pay.
        Ok(Some(receive::accept(&self.store, Queue::Query, &name, events, &*decide, now).await?))
    }

    /// How many items the budget and the workers finish before the dispatcher calls them lost.
    fn capacity(&self) -> u64 {
        let windows = self.settings.lookup.windows.iter();
        let most = windows.map(|window| {
            let times = TASK_TIME.as_secs_f64() / window.length.as_secs_f64();
            // A window longer than that lets all of its requests go at once.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small positive number"
            )]
            let most = (f64::from(window.limit) * times.max(1.0)) as u64;
            most
        });
        most.min().unwrap_or(MOST_WAITING).clamp(1, MOST_WAITING)
    }

    /// Does what an event of Lambda asks for that is no webhook, and gives the answer to it: works what a
    /// queue hands over; any other JSON polls and works until the deadline.
    ///
    /// # Errors
    /// See [`QueryError`]. What was handed over comes back then.
    pub async fn handle(&self, event: &Value, limits: &Limits) -> Result<Value, QueryError> {
        match Delivery::all_of(event) {
            Some(deliveries) => Ok(self.deliver(&deliveries, limits).await?.answer()),
            None => Ok(json!(self.run(limits).await?)),
        }
    }

    async fn deliver(
        &self,
        deliveries: &[Delivery],
        limits: &Limits,
    ) -> Result<Delivered, QueryError> {
        if !self.register(limits).await? {
            let failed = deliveries.iter().map(|delivery| delivery.message_id.clone()).collect();
            return Ok(Delivered { failed, stopped: None });
        }
        let delivered = self.workers().deliver(self, deliveries, limits).await;
        match delivered.stopped {
            Some(why) => Err(QueryError::Stopped(why)),
            None => Ok(delivered),
        }
    }

    /// Polls and works until the deadline; without one until told to stop.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn run(&self, limits: &Limits) -> Result<Drained, QueryError> {
        if !self.register(limits).await? {
            return Ok(Drained::default());
        }
        self.tidy().await?;
        let mut polls = limits.clone();
        polls.stop = limits.stop.child_token();
        let polling = async {
            let outcome = self.keep_polling(&polls).await;
            polls.stop.cancel();
            outcome
        };
        let working = async {
            let outcome = self.drain(true, &polls).await;
            polls.stop.cancel();
            outcome
        };
        let (polled, drained) = tokio::join!(polling, working);
        let drained = drained?;
        polled?;
        Ok(drained)
    }

    async fn keep_polling(&self, limits: &Limits) -> Result<(), QueryError> {
        // An answer that takes longer than the time left would be lost: no poll is begun any more.
        let least = Duration::from_secs(1);
        while !limits.reached() {
            let left = limits.deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left < least) {
                return Ok(());
            }
            let wait = left.unwrap_or(Duration::MAX);
            match self.poll(wait).await {
                Ok(Some(_)) => {}
                Ok(None) => drop(limits.sleep(Duration::from_secs(5)).await),
                Err(QueryError::Poll(error)) if error.is_transient() => {
                    tracing::warn!(error = chain(&error), "polling again");
                    limits.sleep(Duration::from_secs(5)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Works what waits. With `waits`: also what comes in meanwhile, until `limits` are reached.
    ///
    /// # Errors
    /// [`QueryError::Store`], [`QueryError::Stopped`].
    pub async fn drain(&self, waits: bool, limits: &Limits) -> Result<Drained, QueryError> {
        let drained = self.workers().drain(self, waits, limits).await?;
        match &drained.stopped {
            Some(why) => Err(QueryError::Stopped(why.clone())),
            None => Ok(drained),
        }
    }

    /// The workers of this function's inbox.
    pub fn workers(&self) -> Workers<'_> {
        Workers {
            store: &self.store,
            queue: Queue::Query,
            clock: &*self.clock,
            at_once: self.settings.lookup.workers,
        }
    }

    /// Posts a reply. `Err`: what becomes of the item instead of being done.
    async fn post(&self, reply: Reply, limits: &Limits) -> Result<(), After> {
        let mut bytes = Vec::new();
        let version = self.settings.model_version;
        let model = match &reply {
            Reply::Nothing(_) => return Ok(()),
            Reply::Status(status) => {
                azul_vt::azul::avro::encode_status(status, version, &mut bytes);
                Model::Status
            }
            Reply::Mapped(event) => {
                azul_vt::azul::avro::encode_binary(event, version, &mut bytes);
                Model::Binary
            }
        };
        look_up::delivered(self.publisher.publish(model, &[bytes], limits).await)
    }
}

#[async_trait]
impl Work for Query {
    async fn work(&self, item: &Item, limits: &Limits) -> After {
        if limits.reached() {
            return After::later(SignedDuration::from_mins(1));
        }
        let begun = Instant::now();
        let input: BinaryEvent = match serde_json::from_str(&item.body) {
            Ok(input) => input,
            Err(error) => return After::Bury(format!("the item cannot be read: {error}")),
        };
        let looked = match self.look_up(&input.entity.sha256, item).await {
            Ok(looked) => looked,
            Err(after) => return after,
        };
        let (found, end) = match &looked {
            Looked::Report(report) => (Found::Report(report), After::Done),
            Looked::Unknown => (Found::Unknown, After::Done),
            Looked::Failed(why) => (Found::Failed(why), After::Bury(why.clone())),
        };
        let reply = self.answers.reply(&input, found, begun.elapsed(), self.clock.now());
        match self.post(reply, limits).await {
            Ok(()) => end,
            Err(after) => after,
        }
    }
}
