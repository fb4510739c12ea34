//! What functions share whose work is the dispatcher's events: these come in by webhook, by polling or by a
//! queue, wait in the inbox, and are worked.
//!
//! Knows no Lambda (but for the shape of its events) and no command line.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep_until},
};

use crate::{
    azul::{
        dispatcher::{Dispatcher, Model},
        event::{Author, FeatureDescriptor},
        incoming::{self, Incoming},
        poll::{Poll, PollError},
    },
    errors::chain,
    http_client::{self, HttpSetupError},
    lambda::{self, Function},
    metrics,
    pipeline::{
        Limits, assemble,
        publish::{
            Delivery as Published, PublishError, Publisher, PublisherOptions, StopReason,
            register_event,
        },
    },
    secrets::Secret,
    settings::Settings,
    store::{
        BUDGET, Clock, Store, StoreError,
        inbox::{Again, Delivery, Item, Queue},
    },
    virustotal::{VirusTotalError, asks},
    webhook::{
        BadSecret,
        receive::{self, Accepted, Decide, Receiver},
    },
    worker::{After, Delivered, Drained, Work, Workers},
};

/// Events that one poll asks for.
const POLL_EVENTS: usize = 50;
/// How long the dispatcher gathers for one poll. A poll is waited for when the process is asked to end: what it hands out
/// it hands out once …
const POLL_TIME: Duration = Duration::from_secs(2);
/// … but then for so much longer at most: a dispatcher that hangs hands out nothing.
const POLL_GRACE: Duration = Duration::from_secs(1);
/// Before the dispatcher is asked again that is paused, fails or has nothing to be asked for.
const PAUSE: Duration = Duration::from_secs(5);

/// How often what is too old is looked for.
const TIDY: Duration = Duration::from_hours(1);
/// How long an item waits where the dispatcher does not take its event, or the state cannot be kept.
const WAIT: SignedDuration = SignedDuration::from_secs(5);
/// The wait after a failure, doubling to …
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(5);
/// … this.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(10);

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
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
    #[error("the work stopped: {0}")]
    Stopped(String),
    /// An event of Lambda looks like a request and is none.
    #[error("the event is no request of a function URL")]
    Request(#[source] serde_json::Error),
}

/// What a function is called, and which events are its work.
#[derive(Clone, Debug)]
pub struct About {
    /// Whose inbox it works.
    pub queue: Queue,
    /// Who polls, registers and answers.
    pub author: Author,
    /// What it does, a sentence for Azul's users.
    pub description: &'static str,
    /// Features that it may emit.
    pub features: Vec<FeatureDescriptor>,
    /// The kind of events that it polls.
    pub model: Model,
    /// Sources of these; none: all.
    pub sources: BTreeSet<String>,
    /// Actions of these, where the dispatcher can tell them apart; none: all.
    pub actions: &'static [&'static str],
    /// Events that may wait before no more are polled.
    pub most_waiting: u64,
}

/// What such a function works with.
pub struct Common {
    /// Settings.
    pub settings: Settings,
    /// State.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What it is.
    pub about: About,
    dispatcher: Dispatcher,
    publisher: Publisher,
    registered: OnceCell<()>,
}

impl Common {
    /// What the settings describe. Asks nobody.
    ///
    /// # Errors
    /// No HTTP client.
    pub fn new(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
        about: About,
    ) -> Result<Self, HttpSetupError> {
        let dispatcher = assemble::dispatcher(&settings)?;
        let options = PublisherOptions::new(settings.model_version, settings.max_event_bytes);
        let publisher = Publisher::new(dispatcher.clone(), options);
        let registered = OnceCell::new();
        Ok(Self { settings, store, clock, about, dispatcher, publisher, registered })
    }

    /// Who takes the function's webhooks (`WEBHOOK_SECRETS`).
    ///
    /// # Errors
    /// A secret that is none.
    pub fn receiver(&self) -> Result<Receiver, BadSecret> {
        let secrets = self.settings.lookup.webhook_secrets.as_ref();
        let secrets = Secret::of("WEBHOOK_SECRETS", secrets, &self.settings);
        Receiver::new(secrets, self.about.queue, self.store.clone(), Arc::clone(&self.clock))
    }

    /// The workers of the function's inbox.
    pub fn workers(&self) -> Workers<'_> {
        Workers {
            store: &self.store,
            queue: self.about.queue,
            clock: &*self.clock,
            at_once: self.settings.lookup.workers,
        }
    }

    /// Tells Azul of the plugin, once a process. False where it was asked to stop meanwhile.
    async fn register(&self, limits: &Limits) -> Result<bool, TasksError> {
        match self.registered.get_or_try_init(|| self.post_registration(limits)).await {
            Ok(()) => Ok(true),
            Err(PublishError::Interrupted { .. }) => Ok(false),
            Err(error) => Err(TasksError::Register(error)),
        }
    }

    async fn post_registration(&self, limits: &Limits) -> Result<(), PublishError> {
        let About { author, description, features, .. } = &self.about;
        let event = register_event(
            author,
            &self.settings.contact,
            description,
            features.clone(),
            self.clock.now(),
            self.settings.model_version,
        );
        self.publisher.register(&event, limits).await
    }

    /// Takes a grant of the budget to ask VirusTotal once, now. `Err`: what becomes of the item that needs it:
    /// it waits, and that is no attempt.
    ///
    /// # Errors
    /// There is none now.
    pub async fn grant(&self) -> Result<(), After> {
        let windows = &self.settings.lookup.windows;
        match asks::grant(&self.store, windows, self.clock.now()).await {
            Ok(None) => Ok(()),
            Ok(Some(wait)) => Err(After::later(wait)),
            Err(error) => Err(unkept(&error)),
        }
    }

    /// Whether VirusTotal wants to be left alone.
    ///
    /// # Errors
    /// It is not known.
    pub async fn is_paused(&self) -> Result<bool, After> {
        asks::is_paused(&self.store, self.clock.now()).await.map_err(|e| unkept(&e))
    }

    /// What becomes of an item where VirusTotal did not give what it asked for. `None`: there is nothing to be
    /// had, or all tries failed.
    pub async fn refused(&self, error: &VirusTotalError, item: &Item) -> Option<After> {
        if error.needs_operator() {
            return Some(After::Stop(chain(error)));
        }
        match asks::used_up(&self.store, error, self.clock.now()).await {
            Ok(None) => {}
            Ok(Some(wait)) => return Some(After::later(wait)),
            Err(error) => return Some(unkept(&error)),
        }
        if !error.is_transient() {
            return None;
        }
        let after = self.again(item)?;
        tracing::warn!(item.attempts, error = chain(error), "asking again");
        Some(after)
    }

    /// An item that failed comes back, later each time; `None` where that was its last try.
    pub fn again(&self, item: &Item) -> Option<After> {
        (item.attempts + 1 < self.settings.lookup.max_attempts).then(|| {
            let doubled = FIRST_WAIT * (1 << item.attempts.min(10));
            After::Again(Again { after: doubled.min(LONGEST_WAIT), is_attempt: true })
        })
    }

    /// Posts an event, encoded in Avro. `Err`: what becomes of the item that it is about, instead of being
    /// done.
    ///
    /// # Errors
    /// The dispatcher does not take it, now or ever.
    pub async fn post(
        &self,
        model: Model,
        event: Vec<u8>,
        limits: &Limits,
    ) -> Result<(), Unposted> {
        match self.publisher.publish(model, &[event], limits).await {
            Ok(outcomes) => match outcomes.into_iter().next() {
                Some(Published::Rejected(reason)) => Err(Unposted::Refused(format!(
                    "the dispatcher refused the {model} event: {reason}"
                ))),
                Some(Published::Filtered(reason)) => Err(Unposted::Unwanted(format!(
                    "Azul does not want the {model} event: {reason}"
                ))),
                _ => Ok(()),
            },
            Err(PublishError::Stop {
                reason: reason @ StopReason::UnregisteredSource { .. },
                ..
            }) => Err(Unposted::UnknownSource(reason.to_string())),
            Err(error @ PublishError::Stop { .. }) => {
                Err(Unposted::After(After::Stop(chain(&error))))
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), %model, "the event waits for the dispatcher");
                Err(Unposted::After(After::later(WAIT)))
            }
        }
    }
}

/// Why an event is not at the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unposted {
    /// It is never taken; why.
    Refused(String),
    /// Azul does not want it: aged off, or dropped by a filter.
    Unwanted(String),
    /// Azul does not know its source: until an operator has added it, no event of this source is taken.
    UnknownSource(String),
    /// Not now: what becomes of the item that it is about.
    After(After),
}

/// What becomes of an item where the state cannot be kept.
pub fn unkept(error: &StoreError) -> After {
    tracing::error!(error = chain(error), "the state could not be kept; the work waits");
    After::later(WAIT)
}

/// A function and who takes its webhooks: what is a Lambda.
pub struct Attended<T> {
    tasks: T,
    receiver: Receiver,
}

impl<T: Tasks> Attended<T> {
    /// # Errors
    /// A secret of `WEBHOOK_SECRETS` that is none.
    pub fn new(tasks: T) -> Result<Self, lambda::Error> {
        let receiver = tasks.common().receiver()?;
        Ok(Self { tasks, receiver })
    }
}

#[async_trait]
impl<T: Tasks + 'static> Function for Attended<T> {
    const NAME: &'static str = T::NAME;
    // The dispatcher's answer to a poll may come half a minute late.
    const MARGIN: Duration = Duration::from_secs(40);

    async fn handle(&self, event: &Value, limits: &Limits) -> Result<Value, lambda::Error> {
        Ok(self.tasks.handle(&self.receiver, event, limits).await?)
    }

    async fn measure(&self) -> Result<(), StoreError> {
        self.tasks.measure().await
    }
}

/// A function whose work is the dispatcher's events.
#[async_trait]
pub trait Tasks: Work + Sized {
    /// The function's name.
    const NAME: &'static str;
    /// The events.
    type Event: Incoming + Send;

    /// What it works with.
    fn common(&self) -> &Common;

    /// What to do with an event: for [`receive::Receiver::handle`].
    fn decide(&self) -> Box<Decide<Self::Event>>;

    /// Removes what is too old to be used.
    async fn tidy(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Tells metrics of its own, beside those of its inbox and of the budget.
    ///
    /// # Errors
    /// The state cannot be read.
    async fn measure_own(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Tells the metrics what waits, and the budget that it waits for.
    ///
    /// # Errors
    /// The state cannot be read.
    async fn measure(&self) -> Result<(), StoreError> {
        let Common { settings, store, clock, about, .. } = self.common();
        let now = clock.now();
        let counts = store.inbox.counts(about.queue, now).await?;
        for (state, count) in
            [("waiting", counts.waiting), ("in_work", counts.in_work), ("buried", counts.buried)]
        {
            metrics::INBOX_ITEMS.set([about.queue.name(), state], count);
        }
        for usage in store.budget.usage(BUDGET, &settings.lookup.windows, now).await? {
            let window = usage.window.name;
            metrics::REQUESTS_USED.set([window], usage.used);
            metrics::REQUESTS_ALLOWED.set([window], u64::from(usage.window.limit));
        }
        self.measure_own().await
    }

    /// Asks the dispatcher once for events, and keeps what is wanted of them. `None`: it was not asked,
    /// because enough waits already or Azul is paused; or it did not answer, and the process is to end.
    ///
    /// # Errors
    /// [`TasksError::Poll`], [`TasksError::Store`].
    async fn poll(&self, wait: Duration, limits: &Limits) -> Result<Option<Accepted>, TasksError> {
        let Common { store, clock, about, dispatcher, .. } = self.common();
        let waiting = store.inbox.counts(about.queue, clock.now()).await?;
        let room = about.most_waiting.saturating_sub(waiting.waiting + waiting.in_work);
        let count = usize::try_from(room).unwrap_or(POLL_EVENTS).min(POLL_EVENTS);
        if count == 0 {
            return Ok(None);
        }
        let poll = Poll {
            model: about.model,
            name: &about.author.name,
            sources: &about.sources,
            actions: about.actions,
            count,
            deadline: wait.min(POLL_TIME),
        };
        // A second is the least that the dispatcher gathers for.
        let late = Instant::now() + poll.deadline.max(Duration::from_secs(1)) + POLL_GRACE;
        let given_up = async {
            limits.stop.cancelled().await;
            sleep_until(late).await;
        };
        let polled = tokio::select! {
            biased;
            polled = dispatcher.poll(&poll) => polled?,
            () = given_up => {
                tracing::warn!("the dispatcher does not answer a poll, and it is time to end");
                return Ok(None);
            }
        };
        if polled.paused {
            return Ok(None);
        }
        let name = format!("poll-{}", http_client::request_id());
        let events = polled.events.into_iter().map(incoming::from_value).collect();
        let decide = self.decide();
        // Handed out once and never again: kept at any price that this process can pay.
        let kept =
            receive::accept(store, about.queue, &name, events, &*decide, clock.now()).await?;
        Ok(Some(kept))
    }

    /// Does what an event of Lambda asks for, any JSON, and gives the answer to it: takes a webhook; works what
    /// a queue hands over; or else polls and works until the deadline.
    ///
    /// # Errors
    /// See [`TasksError`]. What was handed over comes back then.
    async fn handle(
        &self,
        receiver: &Receiver,
        event: &Value,
        limits: &Limits,
    ) -> Result<Value, TasksError> {
        if let Some(request) = lambda::webhook(event).map_err(TasksError::Request)? {
            let response = receiver.handle(request, &*self.decide()).await;
            return Ok(lambda::answer(&response));
        }
        match Delivery::all_of(event) {
            Some(deliveries) => Ok(self.deliver(&deliveries, limits).await?.answer()),
            None => Ok(json!(self.run(limits).await?)),
        }
    }

    /// Works what a queue handed over by an event.
    ///
    /// # Errors
    /// See [`TasksError`]. What was handed over comes back then.
    async fn deliver(
        &self,
        deliveries: &[Delivery],
        limits: &Limits,
    ) -> Result<Delivered, TasksError> {
        if !self.common().register(limits).await? {
            let failed = deliveries.iter().map(|delivery| delivery.message_id.clone()).collect();
            return Ok(Delivered { failed, stopped: None });
        }
        let delivered = self.common().workers().deliver(self, deliveries, limits).await;
        match delivered.stopped {
            Some(why) => Err(TasksError::Stopped(why)),
            None => Ok(delivered),
        }
    }

    /// Polls and works until the deadline; without one until told to stop.
    ///
    /// # Errors
    /// See [`TasksError`].
    async fn run(&self, limits: &Limits) -> Result<Drained, TasksError> {
        if !self.common().register(limits).await? {
            return Ok(Drained::default());
        }
        // Whichever ends first ends the other.
        let own = limits.child();
        let polling = async {
            let outcome = self.keep_polling(&own).await;
            own.stop.cancel();
            outcome
        };
        let working = async {
            let outcome = self.drain(true, &own).await;
            own.stop.cancel();
            outcome
        };
        let (polled, drained) = tokio::join!(polling, working);
        let drained = drained?;
        polled?;
        Ok(drained)
    }

    /// Polls until `limits` are reached.
    ///
    /// # Errors
    /// See [`TasksError`].
    async fn keep_polling(&self, limits: &Limits) -> Result<(), TasksError> {
        // An answer that takes longer than the time left would be lost: no poll is begun any more.
        let least = Duration::from_secs(1);
        let mut tidied: Option<Instant> = None;
        while !limits.reached() {
            if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
                self.tidy().await?;
                tidied = Some(Instant::now());
            }
            let left = limits.deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left < least) {
                return Ok(());
            }
            match self.poll(left.unwrap_or(Duration::MAX), limits).await {
                Ok(Some(_)) => {}
                Ok(None) => drop(limits.sleep(PAUSE).await),
                Err(TasksError::Poll(error)) if error.is_transient() => {
                    tracing::warn!(error = chain(&error), "polling again");
                    limits.sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Works what waits. With `waits`: also what comes in meanwhile, until `limits` are reached.
    ///
    /// # Errors
    /// [`TasksError::Store`], [`TasksError::Stopped`].
    async fn drain(&self, waits: bool, limits: &Limits) -> Result<Drained, TasksError> {
        let drained = self.common().workers().drain(self, waits, limits).await?;
        match &drained.stopped {
            Some(why) => Err(TasksError::Stopped(why.clone())),
            None => Ok(drained),
        }
    }
}
