//! The inbox in SQS: a message for each item.
//!
//! A message is a [`Message`] in JSON. A long body is an object under `inbox/`, and its message points to it.
//!
//! SQS limits the delay of a message. An item that waits longer is received before it is due and sent again. When a
//! message is sent again, the old one is deleted only afterwards, so a crash in between makes two of one, never none.
//! The new message starts with a receive count of zero, so the count tells of crashes, and of functions that could not
//! start. SQS itself moves messages that were received too often to the dead-letter queue.
//!
//! Items that are given up are sent to the queue's dead-letter queue too, with the attribute `reason`.

use std::{io::Read as _, sync::Arc};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::change_message_visibility::ChangeMessageVisibilityError as HoldError,
    types::{
        MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
        SendMessageBatchRequestEntry,
    },
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use url::Url;

use super::error::{failed, unavailable};
use crate::Queues;
use crate::{
    Bundles, StoreError,
    inbox::{
        Body, Delivery, DeliveryAttributes, Inbox, InboxCounts, Item, Message, NewItem, PutError,
        PutFailures, Queue, Retry,
    },
    keys::bad_name,
};
use base::errors::chain;

/// Size of a message in bytes above which its body is put into an object.
const LONG: usize = 200 * 1024;
/// Largest size in bytes of a message, and of all messages of a call, that SQS allows.
const MAX_BYTES: usize = 1024 * 1024;
/// Most messages in a call that SQS allows.
const MAX_MESSAGES: usize = 10;
/// Longest delay of a message that SQS allows.
const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(15);
/// Longest time that SQS lets a receiver keep a message.
const LONGEST_HOLD: SignedDuration = SignedDuration::from_hours(12);
/// Difference between the clocks of senders and receivers that is tolerated. A message that is due within this time is
/// worked at once.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);
/// Wait of an item whose body cannot be read now.
const UNREADABLE: SignedDuration = SignedDuration::from_mins(1);
/// Wait for a message in a receive call, in seconds. With a wait SQS looks into all of its servers.
const POLL_INTERVAL: i32 = 1;
/// Attribute that holds how often a message was received.
const RECEIVED: MessageSystemAttributeName = MessageSystemAttributeName::ApproximateReceiveCount;
/// Most characters of a reason that are kept.
const LONGEST_REASON: usize = 1000;
/// Attribute of a message in the dead-letter queue that holds the reason.
const REASON: &str = "reason";

const PUTTING: &str = "putting work into a queue";
/// Error codes of a call which say that SQS does not take a message in it.
const NOT_TAKEN: [&str; 4] = [
    "AWS.SimpleQueueService.BatchRequestTooLong",
    "BatchRequestTooLong",
    "InvalidMessageContents",
    "InvalidParameterValue",
];

/// Reason why messages were not sent.
enum Unsent {
    /// SQS does not take one of the messages.
    Message,
    /// The call failed for a reason that does not depend on the messages.
    Error(StoreError),
}

impl Unsent {
    fn of<E, R>(place: &Place, error: SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
        let is_message = code.is_some_and(|code| NOT_TAKEN.contains(&code));
        let error = failed(PUTTING, place.setting, error);
        if is_message { Self::Message } else { Self::Error(error) }
    }
}

/// The inbox in SQS.
pub struct SqsInbox {
    client: Client,
    bundles: Arc<dyn Bundles>,
    /// The queue of the function.
    inbox: Option<Place>,
    /// The queue of downloads, where it is another one.
    downloads: Option<Place>,
    /// The queue of minutes.
    minutes: Option<Place>,
}

struct Place {
    setting: &'static str,
    url: String,
    /// URL of its dead-letter queue, once it was asked for.
    dead: OnceCell<String>,
}

/// The result of reading a message.
enum Opened {
    /// An item.
    Item(Item),
    /// Nothing to work now: it is not due, is done, or was given up.
    Nothing,
    /// Nothing to work now, because the body cannot be read. The item comes back later.
    Unreadable,
}

/// Content of an item's receipt.
#[derive(Serialize, Deserialize)]
struct Receipt {
    handle: String,
    object: Option<String>,
}

impl SqsInbox {
    /// Uses these `queues`; long bodies are in `bundles`.
    pub fn new(config: &SdkConfig, queues: &Queues, bundles: Arc<dyn Bundles>) -> Self {
        let place = |setting, url: &Option<Url>| {
            let url = url.as_ref()?.to_string();
            Some(Place { setting, url, dead: OnceCell::new() })
        };
        Self {
            client: Client::new(config),
            bundles,
            inbox: place("INBOX_QUEUE_URL", &queues.inbox),
            downloads: place("DOWNLOAD_QUEUE_URL", &queues.downloads),
            minutes: place("MINUTES_QUEUE_URL", &queues.minutes),
        }
    }

    fn place(&self, queue: Queue) -> Result<&Place, StoreError> {
        let (setting, place) = match queue {
            Queue::Download if self.downloads.is_some() => ("DOWNLOAD_QUEUE_URL", &self.downloads),
            Queue::Query | Queue::Download => ("INBOX_QUEUE_URL", &self.inbox),
            Queue::Minutes => ("MINUTES_QUEUE_URL", &self.minutes),
        };
        place.as_ref().ok_or_else(|| StoreError::Refused {
            action: format!("using the queue of {}", queue.name()),
            advice: format!("set {setting}: where the state is on AWS, work waits in SQS"),
            source: "there is no queue".into(),
        })
    }

    /// Returns the text of an item's message. If it is longer than `most` bytes, the body is put into an object, whose
    /// key is returned as well.
    async fn write(
        &self,
        queue: Queue,
        mut message: Message,
        most: usize,
    ) -> Result<(String, Option<String>), StoreError> {
        let mut text = encode(&message)?;
        let mut object = None;
        if text.len() > most
            && let Body::Body(body) = &message.body
        {
            let key = object_key(queue, &message.id, body);
            self.bundles.put(&key, body.as_bytes()).await?;
            message.body = Body::Object(key.clone());
            object = Some(key);
            text = encode(&message)?;
        }
        if text.len() > MAX_BYTES {
            return Err(bad_name(&message.id, "no message of SQS can hold so long a name"));
        }
        Ok((text, object))
    }

    async fn send(
        &self,
        place: &Place,
        text: &str,
        delay: SignedDuration,
    ) -> Result<(), StoreError> {
        let request = self.client.send_message().queue_url(&place.url).message_body(text);
        let sent = request.delay_seconds(seconds(delay, LONGEST_DELAY)).send().await;
        sent.map(drop).map_err(|e| failed(PUTTING, place.setting, e))
    }

    /// Sends messages in one call, and returns the item numbers of those that SQS did not take. An error means that SQS
    /// took none.
    async fn send_together(
        &self,
        place: &Place,
        texts: &[(usize, String)],
    ) -> Result<Vec<usize>, Unsent> {
        let entry = |(n, (_, text)): (usize, &(usize, String))| {
            let entry = SendMessageBatchRequestEntry::builder().message_body(text);
            entry.id(n.to_string()).build()
        };
        let entries: Result<Vec<_>, _> = texts.iter().enumerate().map(entry).collect();
        let entries = entries.map_err(|e| Unsent::Error(unavailable(PUTTING, e)))?;
        let request = self.client.send_message_batch().queue_url(&place.url);
        let failed = match request.set_entries(Some(entries)).send().await {
            Ok(sent) => sent.failed,
            Err(error) => return Err(Unsent::of(place, error)),
        };
        let place_of = |n: &str| texts.get(n.parse::<usize>().ok()?).map(|(place, _)| *place);
        Ok(failed.iter().filter_map(|entry| place_of(&entry.id)).collect())
    }

    /// Puts an item in a message of its own. If SQS does not take the body, the body is put into an object.
    async fn put_alone(
        &self,
        queue: Queue,
        place: &Place,
        item: &NewItem,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut longest = LONG;
        loop {
            let message = Message::new(queue, &item.id, &item.body, 0, now);
            let (text, object) = self.write(queue, message, longest).await?;
            let request = self.client.send_message().queue_url(&place.url).message_body(text);
            match request.send().await.map_err(|error| Unsent::of(place, error)) {
                Ok(_) => return Ok(()),
                Err(Unsent::Error(error)) => return Err(error),
                Err(Unsent::Message) if object.is_none() => longest = 0,
                Err(Unsent::Message) => {
                    return Err(bad_name(&item.id, "SQS does not take a message of this name"));
                }
            }
        }
    }

    /// Deletes a message from its queue. Returns false if its receipt is not valid any more.
    async fn end(&self, place: &Place, handle: &str) -> Result<bool, StoreError> {
        let request = self.client.delete_message().queue_url(&place.url).receipt_handle(handle);
        match request.send().await {
            Ok(_) => Ok(true),
            // The message came back into the queue for another receiver.
            Err(e)
                if e.as_service_error().is_some_and(|e| {
                    e.is_receipt_handle_is_invalid()
                        || e.meta().code() == Some("InvalidParameterValue")
                }) =>
            {
                Ok(false)
            }
            Err(e) => Err(failed("ending work of a queue", place.setting, e)),
        }
    }

    /// Moves a message to the dead-letter queue.
    async fn give_up(
        &self,
        place: &Place,
        text: &str,
        handle: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        let action = "giving up work of a queue";
        let is_refused = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
        let printable = |c: char| if is_refused(c) { ' ' } else { c };
        let mut reason: String = reason.chars().map(printable).take(LONGEST_REASON).collect();
        if reason.is_empty() {
            // SQS takes no attribute without a value.
            reason.push('-');
        }
        let attribute = MessageAttributeValue::builder().data_type("String").string_value(reason);
        let attribute = attribute.build().map_err(|e| unavailable(action, e))?;
        let dead = self.dead(place).await?;
        let request = self.client.send_message().queue_url(dead).message_body(text);
        let sent = request.message_attributes(REASON, attribute).send().await;
        sent.map_err(|e| failed(action, place.setting, e))?;
        self.end(place, handle).await.map(drop)
    }

    /// Returns the URL of the dead-letter queue that the queue's redrive policy names.
    async fn dead<'a>(&self, place: &'a Place) -> Result<&'a str, StoreError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Policy {
            dead_letter_target_arn: String,
        }
        let action = "looking for a dead-letter queue";
        let none = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Refused {
            action: action.into(),
            advice: format!("give the queue of {} a dead-letter queue", place.setting),
            source,
        };
        let ask = async || {
            let asked = self.client.get_queue_attributes().queue_url(&place.url);
            let asked = asked.attribute_names(QueueAttributeName::RedrivePolicy).send().await;
            let attributes = asked.map_err(|e| failed(action, place.setting, e))?.attributes;
            let policy = attributes.and_then(|mut a| a.remove(&QueueAttributeName::RedrivePolicy));
            let policy = policy.ok_or_else(|| none("it has no redrive policy".into()))?;
            let policy: Policy = serde_json::from_str(&policy).map_err(|e| none(e.into()))?;
            // arn:aws:sqs:<region>:<account>:<name>
            let mut parts = policy.dead_letter_target_arn.rsplit(':');
            let (name, account) = (parts.next().unwrap_or_default(), parts.next());
            let asked = self.client.get_queue_url().queue_name(name);
            let asked = asked.set_queue_owner_aws_account_id(account.map(str::to_owned));
            let found = asked.send().await.map_err(|e| failed(action, place.setting, e))?;
            found.queue_url.ok_or_else(|| none("SQS told no URL".into()))
        };
        place.dead.get_or_try_init(ask).await.map(String::as_str)
    }

    /// Returns the text of an object; `None` if there is no such object.
    async fn read(&self, key: &str) -> Result<Option<String>, StoreError> {
        let Some(mut reader) = self.bundles.open(key).await? else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        let action = format!("reading {key}");
        let text = read.await.map_err(|e| unavailable(&action, e))?;
        text.map(Some).map_err(|e| unavailable(&action, e))
    }

    /// Returns an item's receipt; `None` if it was not written by this implementation.
    fn receipt(item: &Item) -> Option<Receipt> {
        serde_json::from_str(&item.receipt).ok()
    }

    async fn count(&self, place: &Place, url: &str) -> Result<[u64; 3], StoreError> {
        const COUNTS: [QueueAttributeName; 3] = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let asked = self.client.get_queue_attributes().queue_url(url);
        let asked = asked.set_attribute_names(Some(COUNTS.to_vec())).send().await;
        let asked = asked.map_err(|e| failed("counting work of a queue", place.setting, e))?;
        let attributes = asked.attributes.unwrap_or_default();
        Ok(COUNTS.map(|name| attributes.get(&name).and_then(|n| n.parse().ok()).unwrap_or(0)))
    }
}

#[async_trait]
impl Inbox for SqsInbox {
    async fn put(&self, queue: Queue, items: &[NewItem], now: Timestamp) -> Result<(), PutError> {
        let mut failures = PutFailures::default();
        let place = match self.place(queue) {
            Ok(place) => place,
            Err(source) => {
                let waiting = (0..items.len()).collect();
                return Err(PutError { waiting, refused: Vec::new(), source });
            }
        };
        let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (n, NewItem { id, body }) in items.iter().enumerate() {
            let text = match self.write(queue, Message::new(queue, id, body, 0, now), LONG).await {
                Ok((text, _)) => text,
                Err(error) => {
                    failures.add(n, error);
                    continue;
                }
            };
            if batch.len() == MAX_MESSAGES || bytes + text.len() > MAX_BYTES {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += text.len();
            batch.push((n, text));
        }
        batches.push(batch);
        let mut batches = batches.into_iter().filter(|batch| !batch.is_empty());
        while let Some(batch) = batches.next() {
            let all = || batch.iter().map(|(n, _)| *n);
            // One bad message must not hold up the others, so refused messages are sent alone.
            let alone: Vec<usize> = match self.send_together(place, &batch).await {
                Ok(alone) => alone,
                Err(Unsent::Message) => all().collect(),
                // The others would meet the same outage, and each call takes its time, so they are skipped.
                Err(Unsent::Error(error)) => {
                    failures.add(all().next().unwrap_or_default(), error);
                    failures.skip(all().skip(1));
                    failures.skip(batches.flatten().map(|(n, _)| n));
                    break;
                }
            };
            for n in alone {
                let Some(item) = items.get(n) else { continue };
                if let Err(error) = self.put_alone(queue, place, item, now).await {
                    failures.add(n, error);
                }
            }
        }
        failures.finish()
    }

    async fn take(
        &self,
        queue: Queue,
        most: usize,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<Item>, StoreError> {
        let place = self.place(queue)?;
        let (mut items, mut unopened, mut goes_on) = (Vec::new(), None, true);
        while goes_on && items.len() < most {
            let few = most.saturating_sub(items.len()).min(MAX_MESSAGES);
            let request = self.client.receive_message().queue_url(&place.url);
            let received = request
                .max_number_of_messages(i32::try_from(few).unwrap_or(1))
                .visibility_timeout(seconds(hold, LONGEST_HOLD))
                .wait_time_seconds(if items.is_empty() { POLL_INTERVAL } else { 0 })
                .message_system_attribute_names(RECEIVED)
                .send()
                .await;
            let received = received.map_err(|e| failed("taking work", place.setting, e))?;
            let messages = received.messages.unwrap_or_default();
            if messages.is_empty() {
                break;
            }
            for message in messages {
                let received = message.attributes.and_then(|mut all| all.remove(&RECEIVED));
                let delivery = Delivery {
                    message_id: message.message_id.unwrap_or_default(),
                    receipt_handle: message.receipt_handle.unwrap_or_default(),
                    body: message.body.unwrap_or_default(),
                    attributes: DeliveryAttributes {
                        approximate_receive_count: received.unwrap_or_default(),
                    },
                };
                // Messages that were received before are kept although this one cannot be read. No more are received
                // after it, because they would meet the same error, and their time runs meanwhile.
                match self.open(queue, &delivery, now).await {
                    Ok(Opened::Item(item)) => items.push(item),
                    Ok(Opened::Nothing) => {}
                    Ok(Opened::Unreadable) => goes_on = false,
                    Err(error) => {
                        let (message_id, error_text) = (&delivery.message_id, chain(&error));
                        tracing::error!(
                            queue = queue.name(),
                            message_id,
                            error = error_text,
                            "a message comes back when its time is up"
                        );
                        unopened = Some(error);
                        goes_on = false;
                    }
                }
            }
        }
        match unopened {
            Some(error) if items.is_empty() => Err(error),
            _ => Ok(items),
        }
    }

    /// A queue starts a function with messages, and counts them as received although the function cannot start.
    fn counts_unbegun(&self) -> bool {
        true
    }

    /// Ignores `hold`, because the event's own visibility timeout applies.
    async fn accept(
        &self,
        queue: Queue,
        delivery: &Delivery,
        _hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Item>, StoreError> {
        Ok(match self.open(queue, delivery, now).await? {
            Opened::Item(item) => Some(item),
            Opened::Nothing | Opened::Unreadable => None,
        })
    }

    async fn hold(
        &self,
        queue: Queue,
        item: &Item,
        hold: SignedDuration,
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        let place = self.place(queue)?;
        let Some(receipt) = Self::receipt(item) else { return Ok(false) };
        let request = self.client.change_message_visibility().queue_url(&place.url);
        let request = request.receipt_handle(receipt.handle);
        match request.visibility_timeout(seconds(hold, LONGEST_HOLD)).send().await {
            Ok(_) => Ok(true),
            // The message came back into the queue or is gone.
            Err(e)
                if e.as_service_error().is_some_and(|e| {
                    HoldError::is_message_not_inflight(e)
                        || HoldError::is_receipt_handle_is_invalid(e)
                        || e.meta().code() == Some("InvalidParameterValue")
                }) =>
            {
                Ok(false)
            }
            Err(e) => Err(failed("keeping work of a queue", place.setting, e)),
        }
    }

    /// Ends an item. May return true even if another worker has it, because SQS does not always tell.
    async fn done(&self, queue: Queue, item: &Item) -> Result<bool, StoreError> {
        let place = self.place(queue)?;
        let Some(receipt) = Self::receipt(item) else { return Ok(false) };
        let ours = self.end(place, &receipt.handle).await?;
        if let Some(object) = receipt.object.filter(|_| ours) {
            self.bundles.remove(&object).await?;
        }
        Ok(ours)
    }

    async fn requeue(
        &self,
        queue: Queue,
        item: &Item,
        again: Retry,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let place = self.place(queue)?;
        let Some(receipt) = Self::receipt(item) else { return Ok(false) };
        let attempts = item.attempts.saturating_add(u32::from(again.is_attempt));
        let mut message = Message::new(queue, &item.id, &item.body, attempts, item.since);
        message.outage = again.outage.or(item.outage);
        message.due = Some(now.saturating_add(again.after).unwrap_or(Timestamp::MAX));
        message.written = Some(now);
        let (text, object) = self.write(queue, message, LONG).await?;
        self.send(place, &text, again.after).await?;
        let ours = self.end(place, &receipt.handle).await?;
        if let Some(old) = receipt.object.filter(|old| ours && Some(old) != object.as_ref()) {
            self.bundles.remove(&old).await?;
        }
        Ok(ours)
    }

    async fn bury(
        &self,
        queue: Queue,
        item: &Item,
        reason: &str,
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        let place = self.place(queue)?;
        let Some(receipt) = Self::receipt(item) else { return Ok(false) };
        let message = Message::new(queue, &item.id, &item.body, item.attempts, item.since);
        let (text, _) = self.write(queue, message, LONG).await?;
        self.give_up(place, &text, &receipt.handle, reason).await?;
        Ok(true)
    }

    async fn reclaim(&self, _queue: Queue, _now: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn counts(&self, queue: Queue, _now: Timestamp) -> Result<InboxCounts, StoreError> {
        let place = self.place(queue)?;
        let [visible, delayed, in_work] = self.count(place, &place.url).await?;
        let [buried, _, looked_at] = self.count(place, self.dead(place).await?).await?;
        Ok(InboxCounts {
            waiting: visible.saturating_add(delayed),
            due: visible,
            // SQS gives the age of the oldest message only to CloudWatch.
            oldest: None,
            in_work,
            buried: buried.saturating_add(looked_at),
        })
    }
}

impl SqsInbox {
    /// Reads a message and its body.
    async fn open(
        &self,
        queue: Queue,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<Opened, StoreError> {
        let place = self.place(queue)?;
        let Delivery { message_id, receipt_handle: handle, body: text, .. } = delivery;
        let message = match Message::parse(text) {
            Ok(message) => message,
            Err(reason) => {
                tracing::error!(queue = queue.name(), message_id, reason, "a message is given up");
                return self.give_up(place, text, handle, &reason).await.map(|()| Opened::Nothing);
            }
        };
        let wait = message.wait(now);
        if let Some(other) = message.queue.filter(|name| name != queue.name()) {
            return Err(StoreError::Refused {
                action: format!("taking work of {}", queue.name()),
                advice: format!(
                    "give each function a queue of its own: {} names one",
                    place.setting
                ),
                source: format!("it holds work of {other}").into(),
            });
        }
        if wait > TOLERANCE {
            return self.put_back(place, delivery, wait).await.map(|()| Opened::Nothing);
        }
        let (body, object) = match message.body {
            Body::Body(body) => (Some(body), None),
            Body::Object(key) => match self.read(&key).await {
                Ok(body) => (body, Some(key)),
                // No wait helps. The queue moves the message to its dead-letter queue after ten receives.
                Err(error @ StoreError::BadName { .. }) => return Err(error),
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(
                        queue = queue.name(),
                        message_id,
                        error,
                        "an item waits, because its body cannot be read"
                    );
                    // If the message were left in the queue, each receive would count like a worker that died at the
                    // item.
                    let put_back = self.put_back(place, delivery, UNREADABLE).await;
                    return put_back.map(|()| Opened::Unreadable);
                }
            },
        };
        let Some(body) = body else {
            // The object is removed when its item is done, so there were two messages of the item.
            tracing::info!(queue = queue.name(), message_id, "the item is done already");
            return self.end(place, handle).await.map(|_| Opened::Nothing);
        };
        let receipt = encode(&Receipt { handle: handle.clone(), object })?;
        let Message { id, attempts, since, outage, .. } = message;
        let lost = delivery.lost();
        Ok(Opened::Item(Item { id, body, attempts, lost, since, outage, receipt }))
    }

    /// Sends a message anew as it is, to come after `wait`, and ends the one that was received. The queue's count of
    /// receives begins anew with it.
    async fn put_back(
        &self,
        place: &Place,
        delivery: &Delivery,
        wait: SignedDuration,
    ) -> Result<(), StoreError> {
        self.send(place, &delivery.body, wait).await?;
        self.end(place, &delivery.receipt_handle).await.map(drop)
    }
}

/// Encodes a value as JSON without the characters that SQS refuses. Any JSON escapes control characters. Of the others,
/// SQS refuses only U+FFFE and U+FFFF, which can only be in strings here.
fn encode(value: &impl Serialize) -> Result<String, StoreError> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|e| unavailable("putting a message together", e))?;
    if !text.contains(['\u{fffe}', '\u{ffff}']) {
        return Ok(text);
    }
    Ok(text.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"))
}

/// Returns the key of the object for an item's body. Items with the same body have different objects, so that the first
/// one that is done removes only its own.
fn object_key(queue: Queue, id: &str, body: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(id);
    hash.update([0]);
    hash.update(body);
    format!("inbox/{}/{}.json", queue.name(), hex::encode(hash.finalize()))
}

/// Returns a time in whole seconds, rounded up and limited to `most`, which SQS allows.
fn seconds(time: SignedDuration, most: SignedDuration) -> i32 {
    let time = time.clamp(SignedDuration::ZERO, most);
    let up = i64::from(time.subsec_nanos() > 0);
    i32::try_from(time.as_secs().saturating_add(up)).unwrap_or(i32::MAX)
}
