//! Tests of what every inbox promises. The time of a queue is the real one, so each case lets time pass as its
//! implementation needs.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use azul_vt::peers::Peer;
use azul_vt::store::{
    Store,
    inbox::{Delivery, Item, ItemOutage, NewItem, Queue, Retry},
};
use jiff::{SignedDuration, Timestamp};

use crate::store_suite::{at, at_once};

/// Makes a test of each case. `$fresh` returns a future of an optional store, as in the suite for stores; `$time` is a
/// [`Time`].
macro_rules! inbox_suite {
    ($fresh:path, $time:expr) => {
        $crate::inbox_suite::inbox_suite!(@each $fresh, $time,
            work_is_kept_until_it_is_done_and_each_item_has_one_taker
            an_item_whose_taker_died_comes_back_when_its_time_is_up
            what_is_put_back_waits_and_only_failures_count_as_attempts
            buried_work_stays_and_is_not_taken
            queues_do_not_mix
            bodies_come_back_whole_however_long_and_whatever_is_in_them
            what_an_event_hands_over_is_worked_like_what_was_taken
        );
    };
    (@each $fresh:path, $time:expr, $($case:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                let Some((store, _alive)) = $fresh().await else { return };
                $crate::inbox_suite::$case(&store, &$time).await;
            }
        )+
    };
}
pub(crate) use inbox_suite;

/// A clock that the test sets, or the real one.
pub(crate) struct Time(Option<AtomicI64>);

impl Time {
    /// Makes a clock that only the test advances.
    pub(crate) fn given() -> Self {
        Self(Some(AtomicI64::new(0)))
    }

    /// Makes a clock of the real time.
    pub(crate) fn real() -> Self {
        Self(None)
    }

    pub(crate) fn now(&self) -> Timestamp {
        match &self.0 {
            Some(passed) => at(0) + SignedDuration::from_millis(passed.load(Ordering::Relaxed)),
            None => Timestamp::now(),
        }
    }

    async fn pass(&self, milliseconds: i64) {
        match &self.0 {
            Some(passed) => drop(passed.fetch_add(milliseconds, Ordering::Relaxed)),
            None => tokio::time::sleep(Duration::from_millis(milliseconds.unsigned_abs())).await,
        }
    }
}

const LONG: SignedDuration = SignedDuration::from_mins(5);

fn seconds(n: i64) -> SignedDuration {
    SignedDuration::from_secs(n)
}

fn new_item(n: usize) -> NewItem {
    NewItem { id: format!("item-{n:03}"), body: format!("{{\"n\":{n}}}") }
}

async fn put(store: &Store, n: usize, time: &Time) {
    let items: Vec<NewItem> = (0..n).map(new_item).collect();
    store.inbox.put(Queue::Query, &items, time.now()).await.unwrap();
}

async fn take(store: &Store, most: usize, hold: SignedDuration, time: &Time) -> Vec<Item> {
    store.inbox.take(Queue::Query, most, hold, time.now()).await.unwrap()
}

/// Waits for the next item and takes it.
async fn comes(store: &Store, hold: SignedDuration, time: &Time) -> Item {
    for _ in 0..600 {
        if let Some(item) = take(store, 1, hold, time).await.pop() {
            return item;
        }
        time.pass(100).await;
    }
    panic!("nothing came");
}

pub(crate) async fn work_is_kept_until_it_is_done_and_each_item_has_one_taker(
    store: &Store,
    time: &Time,
) {
    put(store, 100, time).await;
    let now = time.now();
    let ended = at_once(8, |_| {
        let store = store.clone();
        async move {
            let mut ended = Vec::new();
            loop {
                let items = store.inbox.take(Queue::Query, 3, LONG, now).await.unwrap();
                if items.is_empty() {
                    return ended;
                }
                for item in items {
                    assert_eq!(item.attempts, 0);
                    assert!(store.inbox.done(Queue::Query, &item).await.unwrap());
                    ended.push((item.id, item.body));
                }
            }
        }
    })
    .await;
    let all: Vec<_> = ended.into_iter().flatten().collect();
    let distinct: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!((all.len(), distinct.len()), (100, 100));
    assert!(distinct.contains(&("item-007".to_owned(), "{\"n\":7}".to_owned())));
}

pub(crate) async fn an_item_whose_taker_died_comes_back_when_its_time_is_up(
    store: &Store,
    time: &Time,
) {
    put(store, 1, time).await;
    let first = take(store, 10, seconds(2), time).await.pop().unwrap();
    assert!(take(store, 10, seconds(2), time).await.is_empty(), "somebody is at it");
    let held = time.now();
    assert!(store.inbox.hold(Queue::Query, &first, seconds(4), held).await.unwrap());
    let second = comes(store, LONG, time).await;
    let kept = time.now().duration_since(held);
    assert!(kept >= seconds(4), "kept for {kept}, longer than at first");
    assert_eq!((second.id.as_str(), second.attempts), ("item-000", 0));
    assert_eq!((first.lost, second.lost), (0, 1), "one taker left it unended");
    assert!(store.inbox.done(Queue::Query, &second).await.unwrap());
    assert!(take(store, 10, LONG, time).await.is_empty());
}

pub(crate) async fn what_is_put_back_waits_and_only_failures_count_as_attempts(
    store: &Store,
    time: &Time,
) {
    let since = time.now();
    put(store, 1, time).await;
    let mut item = comes(store, LONG, time).await;
    for (round, is_attempt) in [(1, false), (2, true)] {
        item.body = format!("{{\"round\":{round}}}");
        let (again, put) =
            (Retry { after: seconds(3), is_attempt, ..Retry::default() }, time.now());
        assert!(store.inbox.requeue(Queue::Query, &item, again, put).await.unwrap());
        assert!(take(store, 1, LONG, time).await.is_empty());
        item = comes(store, LONG, time).await;
        // A queue and its users allow a difference of 2 seconds between their clocks.
        assert!(time.now().duration_since(put) > seconds(2));
        assert_eq!(item.body, format!("{{\"round\":{round}}}"));
    }
    assert_eq!((item.attempts, item.lost, item.outage), (1, 0, None));
    let outage = Some(ItemOutage { since: at(0), last: at(7), peer: Peer::Dispatcher });
    for outage in [outage, None] {
        let again = Retry { outage, ..Retry::default() };
        assert!(store.inbox.requeue(Queue::Query, &item, again, time.now()).await.unwrap());
        item = comes(store, LONG, time).await;
    }
    assert_eq!(item.outage, outage, "it stays known");
    assert!(item.since.duration_since(since) < seconds(1), "it is as old as it was");
}

pub(crate) async fn buried_work_stays_and_is_not_taken(store: &Store, time: &Time) {
    put(store, 2, time).await;
    let item = comes(store, seconds(1), time).await;
    let buried = store.inbox.bury(Queue::Query, &item, "it never\nworks", time.now()).await;
    assert!(buried.unwrap());
    let other = comes(store, LONG, time).await;
    assert_ne!(other.id, item.id);
    time.pass(2000).await;
    assert!(take(store, 10, LONG, time).await.is_empty());
    let counts = store.inbox.counts(Queue::Query, time.now()).await.unwrap();
    assert_eq!((counts.waiting, counts.in_work, counts.buried), (0, 1, 1));
}

pub(crate) async fn queues_do_not_mix(store: &Store, time: &Time) {
    put(store, 1, time).await;
    let now = time.now();
    assert_eq!(store.inbox.take(Queue::Minutes, 9, LONG, now).await.unwrap(), []);
    store.inbox.put(Queue::Minutes, &[new_item(7)], now).await.unwrap();
    let minutes = store.inbox.take(Queue::Minutes, 9, LONG, now).await.unwrap();
    assert_eq!(minutes.first().map(|item| item.id.as_str()), Some("item-007"));
    assert_eq!(take(store, 9, LONG, time).await.len(), 1);
}

pub(crate) async fn bodies_come_back_whole_however_long_and_whatever_is_in_them(
    store: &Store,
    time: &Time,
) {
    let mut items: Vec<NewItem> = (0..12).map(new_item).collect();
    for (item, kilobytes) in items.iter_mut().zip([0, 1, 199, 190, 190, 190, 190, 190, 250, 3000]) {
        item.body = "\u{1}\"\\ü".repeat(kilobytes * 1024 / 5);
        // SQS refuses these characters if they are not escaped.
        item.body.push_str("\u{7f}\u{fffe}\u{ffff}\u{1fffe}\0");
        item.id = format!("{}/é \"{}\"", item.id, "x".repeat(200));
    }
    // These two items have the same body.
    items[10].body = items[9].body.clone();
    store.inbox.put(Queue::Query, &items, time.now()).await.unwrap();
    let mut came = BTreeSet::new();
    while came.len() < items.len() {
        let mut item = comes(store, LONG, time).await;
        let same = items.iter().find(|i| i.id == item.id).unwrap();
        assert!(item.body == same.body, "another body: {} bytes", item.body.len());
        if item.attempts == 0 {
            let again = Retry { after: SignedDuration::ZERO, is_attempt: true, ..Retry::default() };
            item.body.clone_from(&same.body);
            assert!(store.inbox.requeue(Queue::Query, &item, again, time.now()).await.unwrap());
        } else {
            assert!(store.inbox.done(Queue::Query, &item).await.unwrap());
            assert!(came.insert(item.id));
        }
    }
    assert!(store.bundles.list("inbox/").await.unwrap().is_empty(), "nothing is left behind");
}

/// Returns a delivery of a message that was put a day ago, as a queue hands it over.
fn delivery(body: &str) -> Delivery {
    let body = serde_json::Value::from(body);
    let event = serde_json::json!({"Records": [{
        "messageId": "m-1",
        "receiptHandle": "a handle of another time",
        "eventSource": "aws:sqs",
        "body": format!(
            "{{\"format\":1,\"id\":\"item-1\",\"attempts\":2,\"since\":\"2026-01-01T00:00:00Z\",\"body\":{body}}}"
        ),
    }]});
    Delivery::all_of(&event).unwrap().pop().unwrap()
}

pub(crate) async fn what_an_event_hands_over_is_worked_like_what_was_taken(
    store: &Store,
    time: &Time,
) {
    let accepted = store.inbox.accept(Queue::Query, &delivery("{}"), LONG, time.now()).await;
    let item = accepted.unwrap().unwrap();
    assert_eq!((item.id.as_str(), item.body.as_str(), item.attempts), ("item-1", "{}", 2));
    assert_eq!(item.since.to_string(), "2026-01-01T00:00:00Z");
}
