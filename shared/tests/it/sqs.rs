//! Tests of the inbox in SQS: the suite, and cases that need a queue of messages.

use std::{collections::BTreeMap, future::pending, time::Duration};

use async_trait::async_trait;
use aws_sdk_sqs::{Client, types::Message};
use azul_vt::{
    pipeline::RunLimits,
    settings::Settings,
    store::{
        AwsState, Store, StoreError, SystemClock, aws,
        inbox::{Delivery, DeliveryAttributes, Item, NewItem, Queue},
    },
    worker::{Delivered, Disposition, Work, Workers},
};
use jiff::{SignedDuration, Timestamp};
use sim::Shared;
use tempfile::TempDir;

use crate::{
    inbox_suite::{Time, inbox_suite},
    store_aws::config,
};

struct Place {
    client: Client,
    settings: Settings,
    inbox: String,
    dead: String,
    _dir: TempDir,
    aws: Shared,
}

/// Creates new queues and a new bucket.
async fn fresh() -> Option<(Store, Place)> {
    let emulator = sim::Aws::shared().unwrap()?;
    let config = config(&emulator.endpoint()).await;
    let state = AwsState { table: "not-used".into(), bucket: emulator.name("bucket") };
    aws::init::bucket(&config, &state.bucket).await.unwrap();
    Box::pin(place(emulator, state)).await
}

/// Creates new queues beside a state, which need not exist.
async fn place(emulator: Shared, state: AwsState) -> Option<(Store, Place)> {
    let config = config(&emulator.endpoint()).await;
    let (inbox, minutes) = (emulator.name("inbox"), emulator.name("minutes"));
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().display().to_string();
    let mut settings =
        Settings::read(&|name| (name == "STATEDIR").then(|| state_dir.clone())).unwrap();
    let client = Client::new(&config);
    let url = aws::init::queue(&config, &inbox).await.unwrap();
    settings.inbox_queue = Some(url.parse().unwrap());
    settings.minutes_queue =
        Some(aws::init::queue(&config, &minutes).await.unwrap().parse().unwrap());
    let store = aws::store(&settings.state_options(), &config, &state).unwrap();
    let dead = format!("{url}-dead");
    Some((store, Place { client, settings, inbox: url, dead, _dir: dir, aws: emulator }))
}

inbox_suite!(fresh, Time::real());

const LONG: SignedDuration = SignedDuration::from_mins(5);

impl Place {
    async fn send(&self, text: &str) {
        self.client.send_message().queue_url(&self.inbox).message_body(text).send().await.unwrap();
    }

    /// Waits for a message whose receive count is `times`, and keeps it for a second.
    async fn received(&self, times: u32) -> Delivery {
        loop {
            let asked = self.client.receive_message().queue_url(&self.inbox).visibility_timeout(1);
            let messages = asked.send().await.unwrap().messages.unwrap_or_default();
            if let Some(message) = messages.into_iter().next() {
                let attributes =
                    DeliveryAttributes { approximate_receive_count: times.to_string() };
                return Delivery {
                    message_id: message.message_id.unwrap(),
                    receipt_handle: message.receipt_handle.unwrap(),
                    body: message.body.unwrap(),
                    attributes,
                };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns the messages in the dead-letter queue.
    async fn dead(&self) -> Vec<Message> {
        let received = self.client.receive_message().queue_url(&self.dead).visibility_timeout(0);
        let received = received.max_number_of_messages(10).message_attribute_names("All");
        received.send().await.unwrap().messages.unwrap_or_default()
    }
}

fn message(id: &str, due: Timestamp) -> String {
    let since = Timestamp::now();
    serde_json::json!({"format": 1, "id": id, "since": since, "due": due, "body": "{}"}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_given_up_with_its_reason() {
    let Some((store, place)) = fresh().await else { return };
    let other = message("a", Timestamp::now()).replace("\"format\":1", "\"format\":2");
    for text in ["hello", "{}", &other] {
        place.send(text).await;
    }
    let taken = store.inbox.take(Queue::Query, 10, LONG, Timestamp::now()).await.unwrap();
    assert_eq!(taken, []);
    let dead = place.dead().await.into_iter().map(|message| {
        let reason = message.message_attributes.unwrap().remove("reason").unwrap();
        (message.body.unwrap(), reason.string_value.unwrap())
    });
    let dead: BTreeMap<String, String> = dead.collect();
    assert!(dead["hello"].contains("no message of this program"), "{dead:?}");
    assert!(dead["{}"].contains("no message of this program"), "{dead:?}");
    assert!(dead[&other].contains("format 2"), "{dead:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_longer_than_a_queue_lets_a_message_wait_goes_round() {
    let Some((store, place)) = fresh().await else { return };
    let (now, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
    place.send(&message("a", now + hour)).await;
    assert_eq!(store.inbox.take(Queue::Query, 1, LONG, now).await.unwrap(), []);
    let counts = store.inbox.counts(Queue::Query, now).await.unwrap();
    assert_eq!((counts.waiting, counts.in_work, counts.buried), (1, 0, 0));
    // The queue now delays the message for 15 minutes. A message that arrives after its time is worked.
    place.send(&message("b", now + hour)).await;
    let taken = store.inbox.take(Queue::Query, 1, LONG, now + hour).await.unwrap();
    assert_eq!(taken.first().map(|item| item.id.as_str()), Some("b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_nobody_ever_ends_is_put_aside() {
    let Some((store, place)) = fresh().await else { return };
    let now = Timestamp::now();
    let item = NewItem { id: "a".into(), body: "{}".into() };
    store.inbox.put(Queue::Query, &[item], now).await.unwrap();
    let mut takers = 0;
    // Each taker dies at once, even those that should have given the item up.
    while let [item] =
        store.inbox.take(Queue::Query, 1, SignedDuration::ZERO, now).await.unwrap().as_slice()
    {
        assert_eq!((item.id.as_str(), item.lost), ("a", takers));
        takers += 1;
    }
    assert_eq!(takers, 10);
    assert_eq!(place.dead().await.len(), 1);
    assert_eq!(store.inbox.counts(Queue::Query, now).await.unwrap().buried, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_cannot_be_held() {
    let Some((store, _place)) = fresh().await else { return };
    let now = Timestamp::now();
    let item = NewItem { id: "a".into(), body: "{}".into() };
    store.inbox.put(Queue::Query, &[item], now).await.unwrap();
    let item = store.inbox.take(Queue::Query, 1, LONG, now).await.unwrap().pop().unwrap();
    assert!(store.inbox.hold(Queue::Query, &item, LONG, now).await.unwrap());
    assert!(store.inbox.done(Queue::Query, &item).await.unwrap());
    assert!(!store.inbox.hold(Queue::Query, &item, LONG, now).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_not_set_is_named() {
    let Some(emulator) = sim::Aws::shared().unwrap() else { return };
    let config = config(&emulator.endpoint()).await;
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().display().to_string();
    let settings = Settings::read(&|name| (name == "STATEDIR").then(|| state_dir.clone())).unwrap();
    let state = AwsState { table: "not-used".into(), bucket: "not-used".into() };
    let store = aws::store(&settings.state_options(), &config, &state).unwrap();
    for (queue, setting) in
        [(Queue::Query, "INBOX_QUEUE_URL"), (Queue::Minutes, "MINUTES_QUEUE_URL")]
    {
        let error = store.inbox.put(queue, &[], Timestamp::now()).await.unwrap_err();
        let error = StoreError::from(error);
        assert!(matches!(&error, StoreError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(setting), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_another_function_is_refused_and_left_where_it_is() {
    let Some((store, place)) = fresh().await else { return };
    let now = Timestamp::now();
    let item = NewItem { id: "one".into(), body: "{}".into() };
    store.inbox.put(Queue::Query, &[item], now).await.unwrap();
    let hold = SignedDuration::from_secs(1);
    let error = store.inbox.take(Queue::Download, 1, hold, now).await.unwrap_err();
    let error = azul_vt::errors::chain(&error);
    assert!(error.contains("work of query") && error.contains("INBOX_QUEUE_URL"), "{error}");
    assert_eq!(place.dead().await, []);
    let mut taken = Vec::new();
    while taken.is_empty() {
        taken = store.inbox.take(Queue::Query, 1, hold, now).await.unwrap();
    }
    assert_eq!(taken[0].id, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_an_event_that_was_not_begun_is_as_it_was_before() {
    let Some((store, place)) = fresh().await else { return };
    let (now, since) = (Timestamp::now(), "2026-01-01T00:00:00Z");
    let outage = serde_json::json!({"since": since, "last": since});
    let text = serde_json::json!({
        "format": 1, "id": "a", "attempts": 2, "since": since, "outage": outage, "body": "{}",
    });
    place.send(&text.to_string()).await;
    // Three workers took the item and died.
    for _ in 0..3 {
        let taken = store.inbox.take(Queue::Query, 1, SignedDuration::ZERO, now).await.unwrap();
        assert_eq!(taken.len(), 1);
    }
    let asked = place.client.receive_message().queue_url(&place.inbox).visibility_timeout(60);
    let message = asked.send().await.unwrap().messages.unwrap().remove(0);
    let delivery = Delivery {
        message_id: message.message_id.unwrap(),
        receipt_handle: message.receipt_handle.unwrap(),
        body: message.body.unwrap(),
        attributes: DeliveryAttributes { approximate_receive_count: "4".into() },
    };
    let workers = Workers { store: &store, queue: Queue::Query, clock: &SystemClock, at_once: 1 };
    let put_back = workers.put_back(&[delivery], SignedDuration::ZERO).await;
    assert_eq!(put_back, Delivered::default());
    let mut taken = Vec::new();
    while taken.is_empty() {
        taken = store.inbox.take(Queue::Query, 1, LONG, Timestamp::now()).await.unwrap();
    }
    let item = &taken[0];
    assert_eq!((item.attempts, item.lost, item.since.to_string().as_str()), (2, 0, since));
    assert_eq!(item.outage.map(|outage| outage.since.to_string()).as_deref(), Some(since));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_no_queue_takes_does_not_hold_up_the_others() {
    let Some((store, _place)) = fresh().await else { return };
    let now = Timestamp::now();
    let item = |n: usize| NewItem { id: format!("item-{n}"), body: "{}".into() };
    let mut items: Vec<NewItem> = (0..50).map(item).collect();
    items[20].id = "x".repeat(2 * 1024 * 1024);
    let error = store.inbox.put(Queue::Query, &items, now).await.unwrap_err();
    assert_eq!(error.waiting, Vec::<usize>::new());
    let [(20, reason)] = error.refused.as_slice() else { panic!("{error:?}") };
    assert!(reason.contains("no message of SQS"), "{reason}");
    assert_eq!(store.inbox.counts(Queue::Query, now).await.unwrap().waiting, 49);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_read_now_holds_up_no_other_and_its_item_waits() {
    let Some((store, place)) = fresh().await else { return };
    let now = Timestamp::now();
    let item = |n: usize| NewItem { id: format!("item-{n}"), body: "{}".into() };
    let mut items: Vec<NewItem> = (0..6).map(item).collect();
    // This body becomes an object in the bucket.
    items[2].body = "x".repeat(300 * 1024);
    store.inbox.put(Queue::Query, &items, now).await.unwrap();
    // This inbox has the same queue, and a bucket that does not exist.
    let config = config(&place.aws.endpoint()).await;
    let state = AwsState { table: "not-used".into(), bucket: place.aws.name("gone") };
    let out = aws::store(&place.settings.state_options(), &config, &state).unwrap();
    let taken = out.inbox.take(Queue::Query, 10, LONG, now).await.unwrap();
    assert_eq!(taken.len(), 5, "{taken:?}");
    // The other item waits, and this receive does not count as a lost worker.
    let counts = out.inbox.counts(Queue::Query, now).await.unwrap();
    assert_eq!((counts.waiting, counts.in_work, counts.buried), (1, 5, 0));
}

/// Way in which a worker ends each of its items.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    End,
    PutBack,
    Die,
}

#[async_trait]
impl Work for Does {
    async fn work(&self, _item: &Item, _limits: &RunLimits) -> Disposition {
        match self {
            Self::End => Disposition::Done,
            Self::PutBack => Disposition::later(SignedDuration::ZERO),
            Self::Die => pending().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_no_worker_began_has_a_try_before_it_is_given_up() {
    let Some(emulator) = sim::Aws::shared().unwrap() else { return };
    let aws = config(&emulator.endpoint()).await;
    let state = AwsState { table: emulator.name("table"), bucket: emulator.name("bucket") };
    aws::init::table(&aws, &state.table).await.unwrap();
    aws::init::bucket(&aws, &state.bucket).await.unwrap();
    let (store, place) = Box::pin(place(emulator, state)).await.unwrap();
    let workers = Workers { store: &store, queue: Queue::Query, clock: &SystemClock, at_once: 1 };
    place.send(&message("a", Timestamp::now())).await;
    // Before each delivery the queue had given the message to functions that could not start. The first function that
    // starts works on the item. It does so again after the item was put back and more functions could not start.
    for does in [Does::PutBack, Does::PutBack, Does::Die] {
        let delivery = [place.received(7).await];
        let limits = RunLimits::default();
        let delivered = workers.deliver(&does, &delivery, &limits);
        let delivered = tokio::time::timeout(Duration::from_millis(500), delivered).await;
        assert_eq!(delivered.is_err(), does == Does::Die);
        let counts = store.inbox.counts(Queue::Query, Timestamp::now()).await.unwrap();
        assert_eq!(counts.buried, 0);
    }
    // A worker began the item and died, which was the item's last try.
    let delivery = [place.received(8).await];
    workers.deliver(&Does::End, &delivery, &RunLimits::default()).await;
    let dead = place.dead().await;
    let reason = dead[0].message_attributes.as_ref().unwrap()["reason"].string_value.as_ref();
    assert!(reason.unwrap().contains("7 workers in a row"), "{dead:?}");
}
