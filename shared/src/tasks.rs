//! Base of the functions that work events of the dispatcher. Events come by webhook, by polling or by a queue, wait in
//! the inbox, and are worked from there.
//!
//! This module depends on neither Lambda (except for the form of its events) nor the command line.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::{
    sync::{OnceCell, SetOnce},
    time::{Instant, sleep_until},
};

use crate::{
    azul::{
        dispatcher::{Dispatcher, Model},
        event::{Author, FeatureDescriptor},
        incoming::{self, Incoming},
        poll::{EventText, Poll, PollError, Polled},
    },
    errors::chain,
    http_client::{self, HttpSetupError},
    lambda::{self, Function, UnknownEvent},
    metrics,
    peers::Peer,
    pipeline::{
        RunLimits, assemble,
        publish::{
            Delivery as Published, PublishError, Publisher, PublisherOptions, StopReason,
            register_event,
        },
    },
    settings::Settings,
    store::{
        BUDGET, Clock, Store, StoreError,
        inbox::{Delivery, Item, ItemOutage, NewItem, Queue, Retry},
        rejects::RejectStage,
    },
    virustotal::{VirusTotalError, outage::Outages, request_budget},
    webhook::{
        BadSecret,
        receive::{Accepted, Decide, Receiver},
    },
    worker::{self, Delivered, Disposition, Drained, Work, Workers},
};

mod handed_out;
mod wait_log;

use handed_out::HandedOut;
use wait_log::WaitLog;

/// Longest time for which the dispatcher gathers events for one poll. A poll in progress is waited for when the process
/// is asked to end, because the dispatcher hands out each event once.
const POLL_TIME: Duration = Duration::from_secs(2);
/// Longest wait for a poll in addition to its own time, when the process is asked to end. A busy dispatcher answers late,
/// and events of an answer that nobody reads are lost; a dispatcher that hangs hands out nothing. Supervisors kill a
/// process after 30 seconds (Kubernetes) or 90 (systemd).
const POLL_GRACE: Duration = Duration::from_secs(10);
/// Wait between two polls if the dispatcher is paused or fails, or if no more events are wanted.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// Longest wait of an event's messages for the registration at Azul. The invocation that handed them over pays for that
/// time.
const REGISTER_TIME: Duration = Duration::from_secs(20);

/// Interval between two searches for stored data that is too old.
const TIDY: Duration = Duration::from_hours(1);
/// Wait of an item if the dispatcher does not take its event, or if the state cannot be written.
const WAIT: SignedDuration = SignedDuration::from_secs(5);
/// First wait of an item after a failure. Each further wait is twice as long, up to [`LONGEST_WAIT`].
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(5);
/// Longest wait of an item after a failure, or for a peer that is out.
pub const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(10);
/// Longest wait of an item while another item finds out whether VirusTotal is back. It is short, so that an item that
/// is held up once more just after the end of an outage is still worked within ten minutes.
const LONGEST_HOLD_UP: SignedDuration = SignedDuration::from_mins(4);
/// Longest time between two failures of an item that belong to the same outage.
const SAME_OUTAGE: SignedDuration = SignedDuration::from_hours(3);

/// Reasons why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// The state cannot be read or written.
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
    /// An event of Lambda has the form of a request but cannot be read as one.
    #[error("the event is no request of a function URL")]
    Request(#[source] serde_json::Error),
    /// The event is of a kind that the function does not take.
    #[error(transparent)]
    Unknown(#[from] UnknownEvent),
}

impl TasksError {
    /// Whether a later try may succeed without an operator.
    fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Poll(error) => error.is_transient(),
            Self::Register(error) => !matches!(error, PublishError::Stop { .. }),
            Self::Stopped(_) | Self::Request(_) | Self::Unknown(_) => false,
        }
    }
}

/// The description of a function: its name, and the events that are its work.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    /// Queue of the inbox that the function works.
    pub queue: Queue,
    /// Author in whose name the function polls, registers and answers.
    pub author: Author,
    /// Description of the function for Azul's users, one sentence.
    pub description: &'static str,
    /// Features that the function may emit.
    pub features: Vec<FeatureDescriptor>,
    /// Model of the events that the function polls.
    pub model: Model,
    /// Sources of the events that the function polls; empty: all.
    pub sources: BTreeSet<String>,
    /// Actions of the events that the function polls, if the dispatcher can filter by them; empty: all.
    pub actions: &'static [&'static str],
    /// Number of waiting events above which no more are polled.
    pub most_waiting: u64,
}

/// The dependencies of a function that works events.
pub struct TaskContext {
    /// Settings of the process.
    pub settings: Settings,
    /// Store of the state.
    pub store: Store,
    /// Clock of the function.
    pub clock: Arc<dyn Clock>,
    /// Description of the function.
    pub about: TaskSpec,
    dispatcher: Dispatcher,
    publisher: Publisher,
    registered: OnceCell<()>,
    /// Set once the dispatcher has answered a poll of this process.
    polled: SetOnce<()>,
    handed_out: HandedOut,
    outages: Outages,
    waits: WaitLog,
}

impl TaskContext {
    /// Builds the context from the settings. Sends no request.
    ///
    /// # Errors
    /// Fails if the HTTP client cannot be set up.
    pub fn new(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
        about: TaskSpec,
    ) -> Result<Self, HttpSetupError> {
        let dispatcher = assemble::dispatcher(&settings)?;
        let options = PublisherOptions::new(settings.model_version, settings.max_event_bytes);
        let publisher = Publisher::new(dispatcher.clone(), options);
        Ok(Self {
            settings,
            store,
            clock,
            about,
            dispatcher,
            publisher,
            registered: OnceCell::new(),
            polled: SetOnce::new(),
            handed_out: HandedOut::new(),
            outages: Outages::default(),
            waits: WaitLog::default(),
        })
    }

    /// Returns the receiver of the function's webhooks, which checks them with `WEBHOOK_SECRETS`.
    ///
    /// # Errors
    /// [`BadSecret`] if a configured secret is not a valid `whsec_` key.
    pub fn receiver(&self) -> Result<Receiver, BadSecret> {
        let secrets = self.settings.lookup.webhook_secrets.as_ref();
        let secrets = self.settings.secret("WEBHOOK_SECRETS", secrets);
        Receiver::new(secrets, self.about.queue, self.store.clone(), Arc::clone(&self.clock))
    }

    /// Waits until the dispatcher has answered a poll of this process, and was neither paused nor without a place for
    /// the function's consumer group. From then on it keeps each new event for the group. A group that has never polled
    /// begins at the latest event, so earlier events never reach it.
    pub async fn first_poll(&self) {
        self.polled.wait().await;
    }

    fn note_polled(&self) {
        // An error means that it was noted before.
        let _ = self.polled.set(());
    }

    /// Returns the workers of the function's inbox.
    pub fn workers(&self) -> Workers<'_> {
        Workers {
            store: &self.store,
            queue: self.about.queue,
            clock: &*self.clock,
            at_once: self.settings.lookup.workers,
        }
    }

    /// Puts polled events into the inbox: see [`HandedOut::keep`].
    async fn keep_handed_out(&self, limits: &RunLimits) -> bool {
        self.handed_out.keep(&self.store, self.about.queue, &*self.clock, limits).await
    }

    /// Registers the plugin at Azul, once for each process. Returns false if the process was asked to stop meanwhile.
    async fn register(&self, limits: &RunLimits) -> Result<bool, TasksError> {
        match self.registered.get_or_try_init(|| self.post_registration(limits)).await {
            Ok(()) => Ok(true),
            Err(PublishError::Interrupted { .. }) => Ok(false),
            Err(error) => Err(TasksError::Register(error)),
        }
    }

    async fn post_registration(&self, limits: &RunLimits) -> Result<(), PublishError> {
        let TaskSpec { author, description, features, .. } = &self.about;
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

    /// Takes a grant of the request budget for one request to VirusTotal now.
    ///
    /// # Errors
    /// [`Disposition`] says how the item waits if there is no grant now. The wait does not count as an attempt.
    pub async fn grant(&self) -> Result<(), Disposition> {
        let windows = &self.settings.lookup.windows;
        match request_budget::acquire(&self.store, windows, self.clock.now()).await {
            Ok(None) => Ok(()),
            Ok(Some(wait)) => {
                self.note_wait("the request budget is used up, or VirusTotal asks to wait", wait);
                Err(Disposition::later(wait))
            }
            Err(error) => Err(state_unavailable(&error)),
        }
    }

    /// Logs that an item waits, and why, at most once a minute for each reason.
    pub fn note_wait(&self, reason: &'static str, wait: SignedDuration) {
        self.waits.note(self.about.queue.name(), reason, wait);
    }

    /// Takes a grant for an item, as [`TaskContext::grant`] does. While VirusTotal is out, one item sends a request
    /// from time to time, and all others wait.
    ///
    /// # Errors
    /// [`Disposition`] says how the item waits if there is no grant now.
    pub async fn grant_for(&self, item: &Item) -> Result<(), Disposition> {
        // An item that has waited for too long gets a last try, whose error is the reason for giving it up.
        if let Some(after) = self.outage(item, Peer::VirusTotal, None, LONGEST_HOLD_UP) {
            let may_ask = self.outages.may_ask(&self.store, self.clock.now()).await;
            if !may_ask.map_err(|e| state_unavailable(&e))? {
                if let Disposition::Retry(Retry { after: wait, .. }) = &after {
                    self.note_wait("VirusTotal is out", *wait);
                }
                return Err(after);
            }
        }
        self.grant().await
    }

    /// Notes that VirusTotal gave an answer, so it is not out.
    pub async fn note_answer(&self) {
        if let Err(error) = self.outages.answered(&self.store, self.clock.now()).await {
            tracing::warn!(
                error = chain(&error),
                "the next request finds out whether VirusTotal is back"
            );
        }
    }

    /// Returns how an item waits that met a `peer` that is out: longer each time, and not shorter than the peer asked
    /// for (`asked`), but at most for `longest`. The wait does not count as an attempt. `None`: the item has waited for
    /// this peer for `VT_GIVE_UP_HOURS`.
    pub fn outage(
        &self,
        item: &Item,
        peer: Peer,
        asked: Option<Duration>,
        longest: SignedDuration,
    ) -> Option<Disposition> {
        let now = self.clock.now();
        // A failure long after the last one belongs to a new outage, and so does that of another peer.
        let same = item
            .outage
            .filter(|outage| outage.peer == peer && now.duration_since(outage.last) <= SAME_OUTAGE);
        let since = same.map_or(now, |outage| outage.since);
        let age = now.duration_since(since);
        let asked = asked.and_then(|wait| SignedDuration::try_from(wait).ok()).unwrap_or_default();
        (age < self.settings.lookup.give_up).then(|| {
            let after = (age / 2).max(asked).clamp(FIRST_WAIT, longest);
            let outage = Some(ItemOutage { since, last: now, peer });
            Disposition::Retry(Retry { after, is_attempt: false, outage })
        })
    }

    /// Whether VirusTotal has asked for a pause of all requests.
    ///
    /// # Errors
    /// [`Disposition`] says how the item waits if the state cannot be read.
    pub async fn is_paused(&self) -> Result<bool, Disposition> {
        request_budget::is_paused(&self.store, self.clock.now())
            .await
            .map_err(|e| state_unavailable(&e))
    }

    /// Decides what becomes of an item if VirusTotal did not give what it asked for. `None`: VirusTotal has nothing,
    /// all tries failed, or VirusTotal was out for too long.
    pub async fn refused(&self, error: &VirusTotalError, item: &Item) -> Option<Disposition> {
        if error.is_outage() {
            let (why, now) = (chain(error), self.clock.now());
            tracing::warn!(id = item.id, error = why, "VirusTotal gave no answer");
            // An outage of another host, or of the place that holds the key, does not stop all requests.
            if error.answer().is_some_and(|answer| answer.is_own)
                && let Err(error) = self.outages.failed(&self.store, &why, now).await
            {
                return Some(state_unavailable(&error));
            }
            return self.outage(item, Peer::VirusTotal, error.retry_after(), LONGEST_WAIT);
        }
        if error.is_foreign_answer() {
            let (why, now) = (chain(error), self.clock.now());
            tracing::warn!(id = item.id, error = why, "something else than VirusTotal answered");
            let noted = self.outages.note_foreign_answer(&self.store, &item.id, &why, now).await;
            return match noted {
                Ok(true) => self.outage(item, Peer::VirusTotal, None, LONGEST_WAIT),
                Ok(false) => self.requeue(item),
                Err(error) => Some(state_unavailable(&error)),
            };
        }
        self.note_answer().await;
        if error.needs_operator() {
            return Some(Disposition::Stop(chain(error)));
        }
        match request_budget::note_rate_limited(&self.store, error, self.clock.now()).await {
            Ok(None) => {}
            Ok(Some(wait)) => return Some(Disposition::later(wait)),
            Err(error) => return Some(state_unavailable(&error)),
        }
        if !error.is_transient() {
            return None;
        }
        let after = self.requeue(item)?;
        tracing::warn!(item.attempts, error = chain(error), "asking again");
        Some(after)
    }

    /// Returns the wait of an item after a failed attempt, which is longer each time; `None` if that was the last
    /// attempt.
    pub fn requeue(&self, item: &Item) -> Option<Disposition> {
        (item.attempts.saturating_add(1) < self.settings.lookup.max_attempts).then(|| {
            let doubled = FIRST_WAIT * (1 << item.attempts.min(10));
            let after = doubled.min(LONGEST_WAIT);
            Disposition::Retry(Retry { after, is_attempt: true, ..Retry::default() })
        })
    }

    /// Posts an event that is encoded in Avro.
    ///
    /// # Errors
    /// [`Unposted`] says why the dispatcher does not take the event, now or ever.
    pub async fn post(
        &self,
        model: Model,
        event: Vec<u8>,
        limits: &RunLimits,
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
                Err(Unposted::Disposition(Disposition::Stop(chain(&error))))
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), %model, "the event waits for the dispatcher");
                Err(Unposted::Disposition(Disposition::later(WAIT)))
            }
        }
    }
}

/// Reasons why an event is not at the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unposted {
    /// The dispatcher will never take the event, for this reason.
    Refused(String),
    /// Azul does not want the event, because it is too old or a filter drops it.
    Unwanted(String),
    /// Azul does not know the event's source. No event of this source is taken until an operator has added it.
    UnknownSource(String),
    /// The event cannot be posted now. The item that it is about ends like this.
    Disposition(Disposition),
}

/// Logs an error of the state, and returns how an item waits for the state.
pub fn state_unavailable(error: &StoreError) -> Disposition {
    tracing::error!(error = chain(error), "the state could not be kept; the work waits");
    Disposition::later(WAIT)
}

/// A function with the receiver of its webhooks, to be served as a Lambda.
pub struct TaskLambda<T> {
    tasks: T,
    receiver: Receiver,
}

impl<T: EventFunction> TaskLambda<T> {
    /// Makes a Lambda of a function.
    ///
    /// # Errors
    /// Fails if a secret of `WEBHOOK_SECRETS` is not a valid `whsec_` key.
    pub fn new(tasks: T) -> Result<Self, lambda::Error> {
        let receiver = tasks.common().receiver()?;
        Ok(Self { tasks, receiver })
    }
}

#[async_trait]
impl<T: EventFunction + 'static> Function for TaskLambda<T> {
    const NAME: &'static str = T::NAME;
    // The dispatcher's answer to a poll may come half a minute late.
    const DEADLINE_MARGIN: Duration = Duration::from_secs(40);

    async fn handle(&self, event: &Value, limits: &RunLimits) -> Result<Value, lambda::Error> {
        Ok(self.tasks.handle(&self.receiver, event, limits).await?)
    }

    async fn measure(&self) -> Result<(), StoreError> {
        self.tasks.measure().await
    }
}

/// A function whose work is the dispatcher's events.
#[async_trait]
pub trait EventFunction: Work + Sized {
    /// The function's name.
    const NAME: &'static str;
    /// Type of the events that are the function's work.
    type Event: Incoming + Send;

    /// Returns the context of the function.
    fn common(&self) -> &TaskContext;

    /// Returns the function that decides about an event, for [`Receiver::handle`].
    fn decide(&self) -> Box<Decide<Self::Event>>;

    /// Removes stored data that is too old to be used.
    async fn tidy(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Sets the function's own gauges, in addition to those of the inbox and of the request budget.
    ///
    /// # Errors
    /// Fails if the state cannot be read.
    async fn measure_own(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Sets the gauges of the inbox, of the request budget, and of the function itself.
    ///
    /// # Errors
    /// Fails if the state cannot be read.
    async fn measure(&self) -> Result<(), StoreError> {
        let TaskContext { settings, store, clock, about, .. } = self.common();
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

    /// Polls the dispatcher once, and keeps the events that are wanted.
    ///
    /// Returns `None` if there was no poll, because enough items wait already or earlier events are not kept yet.
    /// `None` also means that Azul is paused, or that the dispatcher did not answer before the process had to end.
    ///
    /// # Errors
    /// [`TasksError::Poll`], [`TasksError::Store`].
    async fn poll(
        &self,
        wait: Duration,
        limits: &RunLimits,
    ) -> Result<Option<Accepted>, TasksError> {
        let common = self.common();
        let TaskContext { store, clock, about, dispatcher, handed_out, .. } = common;
        if !handed_out.is_empty() && !common.keep_handed_out(limits).await {
            return Ok(None);
        }
        let waiting = store.inbox.counts(about.queue, clock.now()).await?;
        let waiting = waiting.waiting.saturating_add(waiting.in_work);
        let room = about.most_waiting.saturating_sub(waiting);
        let count = usize::try_from(room).unwrap_or(usize::MAX).min(handed_out.most());
        if count == 0 {
            // A function whose inbox is full has polled before.
            common.note_polled();
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
        // A poll asks for at least one second.
        let late = Instant::now() + poll.deadline.max(Duration::from_secs(1)) + POLL_GRACE;
        let given_up = async {
            limits.stop.cancelled().await;
            sleep_until(late).await;
        };
        let (name, decide) = (format!("poll-{}", http_client::request_id()), self.decide());
        let mut accepted = Accepted::default();
        let mut take = |text: EventText<'_>| {
            let place = accepted.events.len();
            let id = format!("{name}/{place}");
            let (text, event) = match text {
                Ok(text) => (text, incoming::from_text(text)),
                Err(long) => (long.start, Err(long.to_string())),
            };
            if let Err(reason) = &event {
                tracing::warn!(place, reason, "a polled event cannot be read");
                // The event is kept as a reject, because the dispatcher does not hand it out again.
                let (of, stage) = ((about.queue, id.as_str()), RejectStage::Polled);
                handed_out.reject(of, stage, reason, text, clock.now());
            }
            if let Some(body) = accepted.note(event, &*decide) {
                handed_out.push(NewItem { id, body });
            }
        };
        let polled = tokio::select! {
            biased;
            polled = dispatcher.poll(&poll, &mut take) => Some(polled),
            () = given_up => None,
        };
        // The dispatcher hands out an event only once, so the process takes the time that it needs to keep the events.
        common.keep_handed_out(limits).await;
        let Accepted { accepted: taken, ignored, rejected, .. } = &accepted;
        for (outcome, events) in [("accepted", taken), ("ignored", ignored), ("rejected", rejected)]
        {
            let events = u64::try_from(*events).unwrap_or(u64::MAX);
            metrics::POLLED_EVENTS.add([about.queue.name(), outcome], events);
        }
        match &polled {
            Some(Ok(polled)) if polled.events > 0 => {
                handed_out.measure(polled.largest);
                handed_out.came(count, true);
            }
            Some(Err(PollError::BrokenOff { read, largest, .. })) => {
                if *read > 0 {
                    handed_out.measure(*largest);
                }
                handed_out.came(count, false);
            }
            _ => {}
        }
        if let Some(Ok(Polled { paused: false, ready: true, .. })) = &polled {
            common.note_polled();
        }
        let Some(polled) = polled.transpose()? else {
            tracing::warn!("the dispatcher does not answer a poll, and it is time to end");
            return Ok(None);
        };
        Ok((!polled.paused).then_some(accepted))
    }

    /// Does the work that an event of Lambda asks for, and returns the answer. It takes a webhook, works the messages
    /// of a queue, or, on a tick ([`lambda::is_tick`]), polls and works until the deadline.
    ///
    /// # Errors
    /// See [`TasksError`]. In this case the queue hands the messages over again.
    async fn handle(
        &self,
        receiver: &Receiver,
        event: &Value,
        limits: &RunLimits,
    ) -> Result<Value, TasksError> {
        if let Some(request) = lambda::webhook(event).map_err(TasksError::Request)? {
            let response = receiver.handle(request, &*self.decide()).await;
            return Ok(lambda::answer(&response));
        }
        match Delivery::all_of(event) {
            Some(deliveries) => Ok(self.deliver(&deliveries, limits).await?.answer()),
            None if lambda::is_tick(event) => Ok(json!(self.run(limits).await?)),
            None => {
                Err(UnknownEvent { takes: "webhooks by its function URL and its queue's" }.into())
            }
        }
    }

    /// Works the messages that a queue handed over by an event.
    ///
    /// # Errors
    /// See [`TasksError`]. In this case the queue hands the messages over again.
    async fn deliver(
        &self,
        deliveries: &[Delivery],
        limits: &RunLimits,
    ) -> Result<Delivered, TasksError> {
        let workers = self.common().workers();
        // Work cannot be finished without the dispatcher, so none is begun.
        match self.common().register(&limits.within(REGISTER_TIME)).await {
            Ok(true) => {}
            Ok(false) => return Ok(workers.put_back(deliveries, worker::STOPPED).await),
            Err(error) => {
                let put_back = workers.put_back(deliveries, worker::STOPPED).await;
                if !error.is_transient() {
                    return Err(error);
                }
                let error = chain(&error);
                tracing::warn!(
                    error,
                    messages = deliveries.len(),
                    "the work waits for the dispatcher"
                );
                return Ok(put_back);
            }
        }
        let delivered = workers.deliver(self, deliveries, limits).await;
        match delivered.stopped {
            Some(why) => Err(TasksError::Stopped(why)),
            None => Ok(delivered),
        }
    }

    /// Polls and works until the deadline. Without a deadline it goes on until it is asked to stop.
    ///
    /// # Errors
    /// See [`TasksError`].
    async fn run(&self, limits: &RunLimits) -> Result<Drained, TasksError> {
        if !self.common().register(limits).await? {
            return Ok(Drained::default());
        }
        // If polling or working ends, the other one is stopped too.
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
        if !self.common().handed_out.is_empty() {
            if let Err(error) = &drained {
                tracing::error!(
                    error = chain(error),
                    "the work ended, and polled events are not kept yet"
                );
            }
            self.common().keep_handed_out(limits).await;
        }
        let drained = drained?;
        polled?;
        Ok(drained)
    }

    /// Polls until `limits` are reached.
    ///
    /// # Errors
    /// See [`TasksError`].
    async fn keep_polling(&self, limits: &RunLimits) -> Result<(), TasksError> {
        // An answer that takes longer than the time left would be lost, so no poll is begun any more.
        let least = Duration::from_secs(1);
        let mut tidied: Option<Instant> = None;
        while !limits.reached() {
            if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
                match self.tidy().await {
                    Err(error) if error.is_transient() => {
                        tracing::warn!(error = chain(&error), "what is too old is not removed");
                    }
                    tidied => tidied?,
                }
                tidied = Some(Instant::now());
            }
            let left = limits.deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left < least) {
                return Ok(());
            }
            match self.poll(left.unwrap_or(Duration::MAX), limits).await {
                Ok(Some(_)) => {}
                Ok(None) => drop(limits.sleep(RETRY_DELAY).await),
                Err(error) if error.is_transient() => {
                    tracing::warn!(error = chain(&error), "polling again");
                    limits.sleep(RETRY_DELAY).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Works the items that wait. With `waits`, it also works items that come in meanwhile, until `limits` are reached.
    ///
    /// # Errors
    /// [`TasksError::Store`], [`TasksError::Stopped`].
    async fn drain(&self, waits: bool, limits: &RunLimits) -> Result<Drained, TasksError> {
        let drained = self.common().workers().drain(self, waits, limits).await?;
        match &drained.stopped {
            Some(why) => Err(TasksError::Stopped(why.clone())),
            None => Ok(drained),
        }
    }
}
