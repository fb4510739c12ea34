//! A feed that is far behind, sent to workers.

use std::time::Duration;

use azul_vt::{
    lambda::Function as _,
    minute::Minute,
    pipeline::RunLimits,
    store::{
        Counts, Grant, LedgerRow, MinuteState,
        inbox::{InboxCounts, Queue, Retry},
    },
};
use jiff::{SignedDuration, Timestamp};
use load::{Load, NAME};
use serde_json::{Value, json};
use sim::{Behaviour, Fault};
use tokio::time::Instant;

use crate::world::{NOW, SEED, World, cursor, row};

const FAR: [(&str, &str); 1] = [("FAN_OUT_MINUTES", "2")];

/// Makes a `Load` whose six due minutes are too many for a tick, so that they go to workers.
async fn far_behind(world: &World, now: &str, more: &[(&str, &str)]) -> Load {
    let mut load = world.load_at(now, &[&FAR, more].concat()).await;
    load.fan_out = true;
    load
}

/// Returns [`NOW`] plus this many minutes.
fn after(minutes: i64) -> String {
    (NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minutes)).to_string()
}

/// Makes a `Load` this many minutes later, for which the same six minutes are due.
async fn later(world: &World, minutes: i64) -> Load {
    let lag = (60 + minutes).to_string();
    far_behind(world, &after(minutes), &[("FEED_LAG_MINUTES", &lag)]).await
}

async fn waiting(load: &Load) -> InboxCounts {
    load.store.inbox.counts(Queue::Minutes, load.clock.now()).await.unwrap()
}

async fn catch_up(load: &Load) -> load::Report {
    // The limit is far longer than needed, so that only a run that hangs fails.
    let limits = RunLimits::until(Instant::now() + Duration::from_mins(1));
    let report = load.catch_up_with(3, true, &limits).await.unwrap();
    assert!(!report.paused, "{report:?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_far_behind_is_loaded_by_workers_each_minute_once() {
    let world = World::new().await;
    world.virustotal.behave("202611240902", &Behaviour::Missing, usize::MAX);
    let load = far_behind(&world, NOW, &[]).await;
    // A tick alone sends and loads nothing; another one sends nothing twice.
    for (planned, left) in [(6, 6), (0, 6)] {
        let report = load.tick(&RunLimits::default()).await.unwrap();
        assert_eq!((report.loaded, report.planned, report.left), (0, planned, left));
        assert_eq!(waiting(&load).await.waiting, 6);
    }
    assert_eq!(cursor(&load).await, "202611240859");
    let report = catch_up(&load).await;
    assert_eq!((report.loaded, report.missing, report.left), (5, 1, 0));
    assert_eq!(report.cursor, Some("202611240905".parse().unwrap()));
    assert_eq!(cursor(&load).await, "202611240905");
    let mut there = World::minutes();
    there.remove(2);
    assert_eq!(world.arrived(), World::expected(&there));
    assert_eq!(world.dispatcher.arrived().repeats, 0);
    assert_eq!(world.virustotal.minutes_asked().len(), 6);
    assert_eq!(waiting(&load).await, InboxCounts::default());
    // No lock file of a minute is left behind.
    let locks = std::fs::read_dir(world.state.path().join("locks")).unwrap();
    let names: Vec<_> = locks.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["opening"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn near_the_head_a_tick_loads_by_itself() {
    let world = World::new().await;
    let load = far_behind(&world, NOW, &[("FAN_OUT_MINUTES", "6")]).await;
    let report = load.tick(&RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.planned, report.left), (6, 0, 0));
    assert_eq!(waiting(&load).await, InboxCounts::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planned_and_never_sent_is_sent_after_two_minutes() {
    let world = World::new().await;
    let load = far_behind(&world, NOW, &[]).await;
    // This is the state that a tick leaves if it dies between the ledger and the queue.
    let Grant::Acquired(lease) =
        load.store.leases.acquire(NAME, "dead", load.clock.now()).await.unwrap()
    else {
        panic!("held")
    };
    let minute: Minute = "202611240900".parse().unwrap();
    let (state, counts) = (MinuteState::Planned, Counts::default());
    let rows = (0..6).map(|n| LedgerRow {
        minute: minute.plus(n),
        state: state.clone(),
        counts,
        updated: load.clock.now(),
    });
    load.store.ledger.put_all(&rows.collect::<Vec<_>>(), &lease).await.unwrap();
    load.store.leases.release(lease).await.unwrap();
    for (minutes, planned) in [(0, 0), (1, 0), (2, 6), (5, 0)] {
        let load = later(&world, minutes).await;
        let report = load.tick(&RunLimits::default()).await.unwrap();
        // The last time all of them wait: nothing is lost.
        assert_eq!((report.planned, report.left), (planned, 6), "after {minutes} minutes");
    }
    let load = later(&world, 6).await;
    assert_eq!(catch_up(&load).await.loaded, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_that_are_due_go_to_workers_too_and_wait_longer_each_time() {
    let world = World::new().await;
    world.virustotal.behave("202611240900", &Behaviour::Missing, 2);
    assert_eq!(catch_up(&far_behind(&world, NOW, &[]).await).await.missing, 1);
    // More minutes are due by then, so that it is far behind again.
    for (minutes, tried) in [(9, 0), (13, 1), (60, 0), (90, 1)] {
        let load = far_behind(&world, &after(minutes), &[]).await;
        let before = world.virustotal.minutes_asked();
        let report = load.tick(&RunLimits::default()).await.unwrap();
        assert!(report.planned >= tried, "{report:?}");
        let limits = RunLimits::until(Instant::now() + Duration::from_mins(1));
        load.catch_up_with(2, true, &limits).await.unwrap();
        let asked = &world.virustotal.minutes_asked()[before.len()..];
        let tries = asked.iter().filter(|minute| *minute == "202611240900").count();
        assert_eq!(tries as u64, tried, "after {minutes} minutes");
    }
    let load = world.load().await;
    assert_eq!(row(&load, "202611240900").await.unwrap().state, MinuteState::Loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_that_somebody_is_at_is_left_to_them() {
    let world = World::new().await;
    let load = far_behind(&world, NOW, &[]).await;
    let held = format!("{NAME}-202611240901");
    let Grant::Acquired(lease) =
        load.store.leases.acquire(&held, "another", load.clock.now()).await.unwrap()
    else {
        panic!("held")
    };
    // The cursor waits, the others do not; near the head a tick does the same.
    let limits = RunLimits::default();
    load.tick(&limits).await.unwrap();
    let working = async {
        let wait = async {
            while world.virustotal.minutes_asked().len() < 5 || waiting(&load).await.in_work > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            limits.stop.cancel();
        };
        tokio::join!(load.catch_up_with(2, true, &limits), wait).0
    };
    let report = working.await.unwrap();
    assert_eq!((report.loaded, report.paused), (5, true));
    let alone = world.load().await;
    let report = alone.tick(&RunLimits::default()).await.unwrap();
    assert_eq!((report.loaded, report.left), (0, 1));
    assert_eq!(cursor(&load).await, "202611240900");
    load.store.leases.release(lease).await.unwrap();
    // The minute was put back, and this did not count as a failure.
    let load = later(&world, 1).await;
    let report = catch_up(&load).await;
    assert_eq!((report.loaded, report.cursor), (1, Some("202611240905".parse().unwrap())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_that_fails_five_times_is_given_up_with_the_reason_and_the_cursor_goes_on() {
    let world = World::new().await;
    let refused = Behaviour::Api(Fault::answer(418, "a teapot"));
    world.virustotal.behave("202611240901", &refused, usize::MAX);
    let mut minutes = 0;
    // It waits for 1, 3, 9 and 15 minutes.
    for (tries, wait) in (1..5).zip([0, 2, 4, 10]) {
        minutes += wait;
        let load = later(&world, minutes).await;
        let limits = RunLimits::default();
        let until_put_back = async {
            while world.virustotal.minutes_asked().len() < 5 + tries
                || waiting(&load).await.in_work > 0
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            limits.stop.cancel();
        };
        let (report, ()) = tokio::join!(load.catch_up_with(2, true, &limits), until_put_back);
        let report = report.unwrap();
        assert_eq!((report.loaded, report.buried), (if tries == 1 { 5 } else { 0 }, 0));
        assert!(cursor(&load).await.as_str() <= "202611240900");
    }
    minutes += 16;
    let report = catch_up(&later(&world, minutes).await).await;
    assert_eq!((report.loaded, report.buried), (0, 1));
    let load = later(&world, minutes).await;
    let MinuteState::Buried { reason } = row(&load, "202611240901").await.unwrap().state else {
        panic!("not buried")
    };
    assert!(reason.contains("tried 5 times") && reason.contains("418"), "{reason}");
    assert_eq!(cursor(&load).await, "202611240905");
    assert_eq!(waiting(&load).await.buried, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_that_one_worker_after_the_other_dies_at_is_given_up() {
    let world = World::new().await;
    far_behind(&world, NOW, &[]).await.tick(&RunLimits::default()).await.unwrap();
    let first = "202611240900";
    for deaths in 0..5 {
        let load = later(&world, 2 * deaths).await;
        let hold = SignedDuration::from_mins(1);
        let now = load.clock.now();
        // All are taken, in their order; the taker of the first alone does not end what it took.
        for item in load.store.inbox.take(Queue::Minutes, 10, hold, now).await.unwrap() {
            if item.id == first {
                assert_eq!(i64::from(item.lost), deaths);
            } else {
                let again =
                    Retry { after: SignedDuration::ZERO, is_attempt: false, ..Retry::default() };
                assert!(load.store.inbox.requeue(Queue::Minutes, &item, again, now).await.unwrap());
            }
        }
    }
    let load = later(&world, 10).await;
    let report = catch_up(&load).await;
    assert_eq!((report.loaded, report.buried), (5, 1));
    let MinuteState::Buried { reason } = row(&load, first).await.unwrap().state else {
        panic!("not buried")
    };
    assert!(reason.contains("5 workers in a row"), "{reason}");
    assert_eq!(cursor(&load).await, "202611240905");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_stops_workers_and_buries_nothing() {
    let world = World::new().await;
    for minute in World::minutes() {
        world.virustotal.behave(&minute, &Behaviour::Unauthorized, usize::MAX);
    }
    let load = far_behind(&world, NOW, &[]).await;
    let error = load.catch_up_with(2, true, &RunLimits::default()).await.unwrap_err();
    assert!(matches!(error, load::LoadError::Refused { .. }), "{error:?}");
    let counts = waiting(&load).await;
    assert_eq!((counts.waiting, counts.buried), (6, 0));
    assert_eq!(cursor(&load).await, "202611240859");
}

#[tokio::test(flavor = "multi_thread")]
async fn package_limit_counts_the_bundles_of_all_workers() {
    let world = World::new().await;
    let load = far_behind(&world, NOW, &[("PACKAGE_LIMIT", "3")]).await;
    let limits = RunLimits::default();
    let report = load.catch_up_with(3, true, &limits).await.unwrap();
    assert_eq!((report.loaded, report.paused), (3, true));
    assert!(load.is_sated(&limits));
    assert_eq!(world.dispatcher.arrived().sha256s().len() as u64, 3 * crate::world::RECORDS);
}

fn event(file: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/events/");
    serde_json::from_slice(&std::fs::read(format!("{path}{file}")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_queue_is_worked_and_answered_message_by_message() {
    let world = World::new().await;
    let minute = "202601020304";
    let bundle = sim::feed::bundle(SEED, minute, 20, sim::feed::Style::Small);
    world.virustotal.serve(minute, bundle);
    let load = world.load_at(NOW, &[("DISPATCHER_MAX_AGE_HOURS", "-1")]).await;
    let mut event = event("minutes-queue.json");
    // The second message was written by another program.
    let mut other = event["Records"][0].clone();
    other["messageId"] = "another".into();
    other["body"] = "hello".into();
    event["Records"].as_array_mut().unwrap().push(other);
    let answer = load.handle(&event, &RunLimits::default()).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "another"}]}));
    assert_eq!(row(&load, minute).await.unwrap().state, MinuteState::Loaded);
    assert_eq!(world.arrived().len(), 20);
    // Handed over again, as a queue may: nothing is done twice.
    event["Records"].as_array_mut().unwrap().pop();
    let answer = load.handle(&event, &RunLimits::default()).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    assert_eq!(world.dispatcher.arrived().repeats, 0);
    assert_eq!(world.virustotal.minutes_asked().len(), 1);
    // A tick's and a range's events are answered with reports.
    let answer = load.handle(&json!({"from": minute, "to": minute}), &RunLimits::default()).await;
    assert_eq!(answer.unwrap()[0]["loaded"], 1);
    assert_eq!(world.virustotal.minutes_asked().len(), 1, "it is staged");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_fails_where_an_object_waits_and_not_for_want_of_a_key() {
    let world = World::new().await;
    let load = world.load_at(NOW, &[("VIRUSTOTAL_APIKEY", "")]).await;
    let key = "incoming/2026/01/02/abc";
    let records = sim::feed::lines(SEED, "202601020304", 3, sim::feed::Style::Small);
    load.store.bundles.put(key, &records).await.unwrap();
    let event = json!({
        "source": "aws.s3", "detail-type": "Object Created",
        "detail": {"bucket": {"name": "bundles"}, "object": {"key": key}},
    });
    let over = RunLimits::default();
    over.stop.cancel();
    let error = load.handle(&event, &over).await.unwrap_err();
    assert!(error.to_string().contains(key), "{error}");
    let answer = load.handle(&event, &RunLimits::default()).await.unwrap();
    assert_eq!(answer[0]["counts"]["records"], 3);
    // Without a key there is nothing to do, and this is no error, because it would be reported each minute.
    let answer = load.handle(&json!({}), &RunLimits::default()).await.unwrap();
    assert_eq!(answer[0]["loaded"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_who_is_at_its_minute_and_goes_on_beside_a_tick() {
    let world = World::new().await;
    let load = world.load().await;
    load.tick(&RunLimits::default()).await.unwrap();
    let now = load.clock.now();
    let take = async |name: &str| {
        let Grant::Acquired(lease) = load.store.leases.acquire(name, "another", now).await.unwrap()
        else {
            panic!("held")
        };
        lease
    };
    // Another owner ticks and is loading the second minute.
    let _ticking = take(NAME).await;
    let lease = take(&format!("{NAME}-202611240901")).await;
    let posts = world.dispatcher.posts().len();
    let (from, to) = ("202611240900".parse().unwrap(), "202611240902".parse().unwrap());
    let limits = RunLimits::default();
    let give_back = async {
        // The registration was made; the first minute takes two posts.
        world.dispatcher.wait_until(|_, now| now.len() >= posts + 2).await;
        load.store.leases.release(lease).await.unwrap();
    };
    let (report, ()) = tokio::join!(load.replay(from, to, false, &limits), give_back);
    assert_eq!(report.unwrap().loaded, 3);
    // All bundles were staged.
    assert_eq!(world.virustotal.minutes_asked().len(), 6);
    assert_eq!(world.dispatcher.arrived().repeats, 3 * crate::world::RECORDS);
}
