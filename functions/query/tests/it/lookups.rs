//! Tests the answers of look-ups, and faults of VirusTotal, the dispatcher and the process.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use azul_vt::{
    pipeline::RunLimits,
    store::{
        Clock as _, SystemClock,
        inbox::{InboxCounts, Queue},
    },
    tasks::{EventFunction as _, TasksError},
    worker::{Disposition, Work as _},
};
use jiff::SignedDuration;
use serde_json::json;
use sim::{Behaviour, Fault};
use tokio::time::Instant;

use sim::lookup::{event, report, sha256};

use crate::world::{Moved, World, example, no_limits, put};

#[tokio::test(flavor = "multi_thread")]
async fn known_files_are_completed_and_unknown_ones_opt_out() {
    let world = World::new().await;
    world.knows(1);
    let query = world.query();
    put(&query, [event(1), event(2)]).await;
    let drained = query.drain(false, &no_limits()).await.unwrap();
    assert_eq!(drained.done, 2);
    let expected = [(sha256(1), "completed".to_owned(), 1), (sha256(2), "opt-out".to_owned(), 0)];
    assert_eq!(world.statuses(), expected);
    assert_eq!(world.dispatcher.problems(), Vec::<String>::new());
    assert_eq!(world.virustotal.key_leaked(), Vec::<String>::new());
    // The result continues the input's path.
    let arrived = world.dispatcher.arrived();
    let mapped = arrived.of(sim::Model::Binary).find(|e| e.action == "mapped").unwrap();
    let path = mapped.event["source"]["path"].as_array().unwrap();
    let steps: Vec<_> =
        path.iter().map(|n| (n["author"]["name"].as_str(), n["action"].as_str())).collect();
    let ours = (Some("VirustotalFileLookup"), Some("mapped"));
    assert_eq!(steps, [(Some("someone"), Some("sourced")), ours]);
    assert_eq!(mapped.source, "incidents");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_hash_from_ten_sources_costs_one_request() {
    let world = World::new().await;
    world.knows(1);
    let query = world.query();
    let same = (0..10).map(|n| {
        let mut event = event(1);
        event["kafka_key"] = json!(format!("key-{n}"));
        event["source"]["references"] = json!({"incident": n.to_string()});
        event
    });
    put(&query, same.chain([event(2), event(2)])).await;
    let clock = &*query.common().clock;
    while world.waiting(clock).await.waiting > 0 {
        query.drain(false, &no_limits()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let asked = world.virustotal.reports_asked();
    let distinct: BTreeSet<_> = asked.iter().collect();
    assert_eq!((asked.len(), distinct.len()), (2, 2), "{asked:?}");
    assert_eq!(world.statuses().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_is_asked_for_again_when_its_time_is_over() {
    let world = World::new().await;
    let clock = Moved::new();
    let more = [("REPORT_CACHE_HOURS", "2"), ("UNKNOWN_CACHE_HOURS", "1")];
    let query = world.query_at(Arc::<Moved>::clone(&clock), &more);
    world.knows(1);
    let mut asked = Vec::new();
    for _ in 0..4 {
        put(&query, [event(1), event(2)]).await;
        query.drain(false, &no_limits()).await.unwrap();
        asked.push(world.virustotal.reports_asked().len());
        clock.on(SignedDuration::from_mins(50));
    }
    // VirusTotal is asked for both files at first, for none after 50 minutes, for the unknown file after 100 minutes,
    // and for the known file after 150 minutes.
    assert_eq!(asked, [2, 2, 3, 4]);
    assert_eq!(world.statuses().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_holds_everything_and_burns_nothing_until_it_is_over() {
    let world = World::new().await;
    let clock = Moved::new();
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[("WORKERS", "2")]);
    for n in 0..20 {
        world.knows(n);
    }
    put(&query, (0..20).map(event)).await;
    world.virustotal.behave_for_files(&Behaviour::TooManyRequests(Some(600)), usize::MAX);
    for _ in 0..60 {
        query.drain(false, &no_limits()).await.unwrap();
        let counts = world.waiting(&*clock).await;
        assert_eq!((counts.waiting, counts.in_work, counts.buried), (20, 0, 0));
        clock.on(SignedDuration::from_mins(1));
    }
    assert_eq!(world.statuses(), []);
    // Six waits of ten minutes, and at most two workers found each one out.
    let asked = world.virustotal.reports_asked().len();
    assert!((6..=14).contains(&asked), "{asked}");
    world.virustotal.clear_for_files();
    clock.on(SignedDuration::from_mins(11));
    while world.waiting(&*clock).await.waiting > 0 {
        query.drain(false, &no_limits()).await.unwrap();
        clock.on(SignedDuration::from_secs(1));
    }
    assert_eq!(world.statuses().len(), 20);
    assert!(world.statuses().iter().all(|(_, status, _)| status == "completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_asked_for_again_and_in_the_end_reported() {
    let world = World::new().await;
    let clock = Moved::new();
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[("VT_MAX_ATTEMPTS", "3")]);
    world.knows(1);
    world.knows(2);
    let breaks_off = Behaviour::Api(Fault::TruncateBody);
    world.virustotal.behave(&sha256(1), &breaks_off, 2);
    world.virustotal.behave(&sha256(2), &breaks_off, 3);
    put(&query, [event(1), event(2)]).await;
    let mut rounds = 0;
    while world.waiting(&*clock).await.waiting > 0 {
        query.drain(false, &no_limits()).await.unwrap();
        clock.on(SignedDuration::from_mins(1));
        rounds += 1;
        assert!(rounds < 10);
    }
    let expected =
        [(sha256(1), "completed".to_owned(), 1), (sha256(2), "error-network".to_owned(), 0)];
    assert_eq!(world.statuses(), expected);
    assert_eq!(world.waiting(&*clock).await.buried, 1);
    assert_eq!(world.virustotal.reports_asked().len(), 6);
    let failures = azul_vt::store::failures::last(&world.store(), 10).await.unwrap();
    let [failure] = failures.as_slice() else { panic!("{failures:?}") };
    assert_eq!((failure.queue.as_str(), &failure.subject.sha256), ("query", &sha256(2)));
    assert!(failure.reason.contains("TruncatedBody"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_virustotal_is_no_attempt_and_costs_few_requests() {
    // Any answer ends the outage, also one that says that the file is not known.
    for (behaviour, known, status) in [
        (Behaviour::Transient(None), 20, "completed"),
        (Behaviour::Api(Fault::Reset), 0, "opt-out"),
    ] {
        let world = World::new().await;
        let clock = Moved::new();
        let settings = [("VT_MAX_ATTEMPTS", "1"), ("WORKERS", "2")];
        let query = world.query_at(Arc::<Moved>::clone(&clock), &settings);
        for n in 0..known {
            world.knows(n);
        }
        world.virustotal.behave_for_files(&behaviour, usize::MAX);
        put(&query, (0..20).map(event)).await;
        // One hour passes, minute by minute.
        for _ in 0..60 {
            query.drain(false, &no_limits()).await.unwrap();
            clock.on(SignedDuration::from_mins(1));
        }
        assert_eq!(world.waiting(&*clock).await.waiting, 20);
        assert_eq!(world.statuses(), []);
        // Once VirusTotal is known to be out, one request a minute finds out whether it is back.
        let asked = world.virustotal.reports_asked().len();
        assert!((12..=70).contains(&asked), "{asked}");
        world.virustotal.clear_for_files();
        for _ in 0..13 {
            query.drain(false, &no_limits()).await.unwrap();
            clock.on(SignedDuration::from_mins(1));
        }
        assert_eq!(world.statuses().len(), 20, "all are answered soon after its end");
        assert!(world.statuses().iter().all(|(_, told, _)| told == status));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_given_up_when_virustotal_was_out_for_as_long_as_the_setting_says() {
    let world = World::new().await;
    let clock = Moved::new();
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[("VT_GIVE_UP_HOURS", "2")]);
    put(&query, [event(1), event(2)]).await;
    // The time before the first failure does not count as waiting for VirusTotal.
    clock.on(SignedDuration::from_hours(24));
    world.virustotal.behave_for_files(&Behaviour::ServerError, usize::MAX);
    for _ in 0..23 {
        query.drain(false, &no_limits()).await.unwrap();
        clock.on(SignedDuration::from_mins(5));
    }
    assert_eq!(world.waiting(&*clock).await.waiting, 2);
    for _ in 0..6 {
        query.drain(false, &no_limits()).await.unwrap();
        clock.on(SignedDuration::from_mins(5));
    }
    let counts = world.waiting(&*clock).await;
    assert_eq!((counts.waiting, counts.buried), (0, 2));
    let statuses: Vec<_> = world.statuses().into_iter().map(|(_, status, _)| status).collect();
    assert_eq!(statuses, ["error-network"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_queue_that_cannot_be_begun_loses_no_life() {
    let world = World::new().await;
    world.knows(5);
    let clock = Moved::new();
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[]);
    let mut event = example("inbox-queue");
    event["Records"].as_array_mut().unwrap().truncate(1);
    world.dispatcher.down().await;
    let receiver = query.common().receiver().unwrap();
    for _ in 0..7 {
        let limits = RunLimits::until(Instant::now() + Duration::from_millis(50));
        let answer = query.handle(&receiver, &event, &limits).await.unwrap();
        assert_eq!(answer, json!({"batchItemFailures": []}));
        clock.on(SignedDuration::from_mins(1));
    }
    assert_eq!(world.waiting(&*clock).await.waiting, 1);
    world.dispatcher.up().await;
    let hold = SignedDuration::from_secs(1);
    let taken = query.common().store.inbox.take(Queue::Query, 1, hold, clock.now()).await.unwrap();
    assert_eq!((taken[0].attempts, taken[0].lost), (0, 0));
    clock.on(hold);
    assert_eq!(query.drain(false, &no_limits()).await.unwrap().done, 1);
    assert_eq!(world.statuses(), [(sha256(5), "completed".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_report_on_that_file_counts_and_anything_else_is_asked_for_again() {
    let half = report(1).split_at(80).0.to_owned();
    for body in [
        "<html>Please log in</html>",
        r#"{"error":{"code":"TransientError","message":"try later"}}"#,
        "[]",
        "",
        "{}",
        &half,
        &report(2),
        r#"{"data":{"type":"url","id":"x"}}"#,
    ] {
        let world = World::new().await;
        let clock = Moved::new();
        let query = world.query_at(Arc::<Moved>::clone(&clock), &[]);
        world.knows(1);
        world.virustotal.behave(&sha256(1), &Behaviour::Api(Fault::answer(200, body)), 1);
        put(&query, [event(1)]).await;
        assert_eq!(query.drain(false, &no_limits()).await.unwrap().again, 1, "{body}");
        assert_eq!(world.statuses(), [], "{body}");
        let kept = world.store().bundles.list("reports/").await.unwrap();
        assert!(kept.is_empty(), "{body}: {kept:?}");
        clock.on(SignedDuration::from_mins(1));
        assert_eq!(query.drain(false, &no_limits()).await.unwrap().done, 1, "{body}");
        assert_eq!(world.statuses(), [(sha256(1), "completed".to_owned(), 1)], "{body}");
        assert_eq!(world.virustotal.reports_asked().len(), 2, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_and_is_no_report_is_asked_for_again() {
    let world = World::new().await;
    let query = world.query();
    world.knows(1);
    put(&query, [event(1)]).await;
    query.drain(false, &no_limits()).await.unwrap();
    let page = b"<html>Please log in</html>";
    world.store().bundles.put(&format!("reports/{}", sha256(1)), page).await.unwrap();
    let mut again = event(1);
    again["kafka_key"] = json!("another");
    put(&query, [again]).await;
    query.drain(false, &no_limits()).await.unwrap();
    let completed = (sha256(1), "completed".to_owned());
    let statuses: Vec<_> =
        world.statuses().into_iter().map(|(hash, status, _)| (hash, status)).collect();
    assert_eq!(statuses, [completed.clone(), completed]);
    assert_eq!(world.virustotal.reports_asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_404_does_not_say_that_virustotal_does_not_know_the_file() {
    let world = World::new().await;
    let clock = Moved::new();
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[]);
    world.knows(1);
    let page = Behaviour::Api(Fault::answer(404, "<html>no such page</html>"));
    world.virustotal.behave(&sha256(1), &page, 1);
    put(&query, [event(1)]).await;
    assert_eq!(query.drain(false, &no_limits()).await.unwrap().again, 1);
    clock.on(SignedDuration::from_mins(1));
    query.drain(false, &no_limits()).await.unwrap();
    assert_eq!(world.statuses(), [(sha256(1), "completed".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_answers_for_virustotal_is_an_outage_and_no_attempt() {
    for status in [200, 404] {
        let world = World::new().await;
        let clock = Moved::new();
        let query = world.query_at(Arc::<Moved>::clone(&clock), &[("WORKERS", "4")]);
        (0..20).for_each(|n| world.knows(n));
        let page = Behaviour::Api(Fault::answer(status, "<html>Please log in</html>"));
        world.virustotal.behave_for_files(&page, usize::MAX);
        put(&query, (0..20).map(event)).await;
        for _ in 0..60 {
            query.drain(false, &no_limits()).await.unwrap();
            clock.on(SignedDuration::from_secs(30));
        }
        assert_eq!(world.waiting(&*clock).await.waiting, 20, "{status}");
        // One request a minute finds out whether VirusTotal answers again.
        let asked = world.virustotal.reports_asked().len();
        assert!((6..=40).contains(&asked), "{status}: {asked}");
        world.virustotal.clear_for_files();
        for _ in 0..13 {
            query.drain(false, &no_limits()).await.unwrap();
            clock.on(SignedDuration::from_mins(1));
        }
        assert_eq!(world.statuses().len(), 20, "{status}");
        assert!(world.statuses().iter().all(|(_, told, _)| told == "completed"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_alone_has_no_report_ends_by_its_attempts() {
    let world = World::new().await;
    let clock = Moved::new();
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[("VT_MAX_ATTEMPTS", "6")]);
    let page = Behaviour::Api(Fault::answer(200, "{}"));
    world.virustotal.behave(&sha256(1), &page, usize::MAX);
    put(&query, [event(1)]).await;
    for _ in 0..20 {
        query.drain(false, &no_limits()).await.unwrap();
        clock.on(SignedDuration::from_mins(1));
    }
    assert_eq!(world.statuses(), [(sha256(1), "error-network".to_owned(), 0)]);
    assert_eq!(world.virustotal.reports_asked().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_stops_everything_and_loses_nothing() {
    for behaviour in [Behaviour::Unauthorized, Behaviour::Forbidden] {
        let world = World::new().await;
        let query = world.query();
        put(&query, (0..5).map(event)).await;
        world.virustotal.behave_for_files(&behaviour, 4);
        let error = query.drain(false, &no_limits()).await.unwrap_err();
        assert!(
            matches!(&error, TasksError::Stopped(why) if why.contains("VirusTotal")),
            "{error}"
        );
        assert_eq!(world.waiting(&SystemClock).await.waiting, 5);
        world.virustotal.clear_for_files();
        query.drain(false, &no_limits()).await.unwrap();
        assert_eq!(world.statuses().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_a_dispatcher_that_is_down() {
    let world = World::new().await;
    let clock = Moved::new();
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[]);
    world.knows(1);
    put(&query, [event(1)]).await;
    world.dispatcher.down().await;
    let deadline = Instant::now() + Duration::from_millis(300);
    query.drain(false, &RunLimits::until(deadline)).await.unwrap();
    assert_eq!(world.waiting(&*clock).await.waiting, 1);
    world.dispatcher.up().await;
    clock.on(SignedDuration::from_mins(1));
    query.drain(false, &no_limits()).await.unwrap();
    assert_eq!(world.statuses().len(), 1);
    assert_eq!(world.virustotal.reports_asked().len(), 1, "the report was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_polled_is_answered_after_a_crash() {
    let world = World::new().await;
    world.knows(1);
    let query = world.query();
    // The group begins where it is first polled.
    assert!(query.poll(Duration::from_secs(1), &no_limits()).await.unwrap().is_some());
    let client = azul_vt::pipeline::assemble::dispatcher(&query.common().settings).unwrap();
    let events = json!([event(1), event(2)]).to_string().into();
    let format = azul_vt::azul::dispatcher::BodyFormat::Json;
    client.post(azul_vt::azul::dispatcher::Model::Binary, events, format).await.unwrap();
    let polled = query.poll(Duration::from_secs(1), &no_limits()).await.unwrap().unwrap();
    assert_eq!((polled.accepted, polled.ignored, polled.rejected), (2, 0, 0));
    // Here the process dies in the middle of a look-up.
    let hold = SignedDuration::from_mins(5);
    let taken = query
        .common()
        .store
        .inbox
        .take(Queue::Query, 1, hold, query.common().clock.now())
        .await
        .unwrap();
    assert_eq!(taken.len(), 1);
    drop(query);
    let query = world.query();
    query.common().store.inbox.reclaim(Queue::Query, query.common().clock.now()).await.unwrap();
    query.drain(false, &no_limits()).await.unwrap();
    let statuses: Vec<_> = world.statuses().into_iter().map(|(_, status, _)| status).collect();
    assert_eq!(statuses, ["completed", "opt-out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_when_it_was_time_to_end_is_there_at_once_for_the_next_process() {
    let world = World::new().await;
    let (query, clock) = (world.query(), SystemClock);
    put(&query, [event(1)]).await;
    let inbox = &query.common().store.inbox;
    let hold = SignedDuration::from_mins(5);
    let taken = inbox.take(Queue::Query, 1, hold, clock.now()).await.unwrap();
    let asked_to_end = no_limits();
    asked_to_end.stop.cancel();
    assert_eq!(
        query.work(&taken[0], &asked_to_end).await,
        Disposition::later(SignedDuration::ZERO)
    );
    // The item waits, because the queue would start the next invocation with it at once.
    let over = RunLimits::until(Instant::now());
    assert_eq!(
        query.work(&taken[0], &over).await,
        Disposition::later(SignedDuration::from_mins(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_hangs_is_put_back_when_it_is_time_to_end() {
    let world = World::new().await;
    world.knows(1);
    let (query, clock) = (world.query(), SystemClock);
    put(&query, [event(1)]).await;
    world.virustotal.behave_for_files(&Behaviour::Api(Fault::Hang), 1);
    let hold = SignedDuration::from_mins(5);
    let taken = query.common().store.inbox.take(Queue::Query, 1, hold, clock.now()).await.unwrap();
    let limits = no_limits();
    let asked_to_end = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        limits.stop.cancel();
    };
    let (after, ()) = tokio::join!(query.work(&taken[0], &limits), asked_to_end);
    assert_eq!(after, Disposition::later(SignedDuration::ZERO));
    // The next one asks at once: nothing says that it is being looked up.
    assert_eq!(query.work(&taken[0], &no_limits()).await, Disposition::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_hangs_is_left_when_it_is_time_to_end() {
    let world = World::new().await;
    let query = world.query();
    world.dispatcher.fail_polls(&Fault::Hang, 1);
    let (limits, begun) = (no_limits(), Instant::now());
    limits.stop.cancel();
    assert!(query.poll(Duration::from_mins(1), &limits).await.unwrap().is_none());
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(11) && took < Duration::from_secs(30), "{took:?}");
    // One that is answered in time is kept.
    assert!(query.poll(Duration::from_mins(1), &limits).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_no_task_gets_its_result_and_no_status() {
    let world = World::new().await;
    world.knows(1);
    let query = world.query();
    let by_hand = |n| {
        let mut event = event(n);
        event.as_object_mut().unwrap().remove("dequeued");
        event
    };
    put(&query, [by_hand(1), by_hand(2)]).await;
    assert_eq!(query.drain(false, &no_limits()).await.unwrap().done, 2);
    let arrived = world.dispatcher.arrived();
    assert_eq!(arrived.of(sim::Model::Status).count(), 0);
    assert_eq!(arrived.count(sim::Model::Binary, "mapped"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_queue_is_answered_with_the_messages_that_failed() {
    let world = World::new().await;
    world.knows(5);
    let query = world.query();
    // The first message asks for a look-up; the second one's body is nowhere that can be read.
    let event = example("inbox-queue");
    let answer =
        query.handle(&query.common().receiver().unwrap(), &event, &no_limits()).await.unwrap();
    let failed = &event["Records"][1]["messageId"];
    assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": failed}]}));
    assert_eq!(world.statuses(), [(sha256(5), "completed".to_owned(), 1)]);
    assert_eq!(world.waiting(&SystemClock).await, InboxCounts::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_queue_comes_back_where_the_key_is_refused() {
    let world = World::new().await;
    world.knows(5);
    let clock = Moved::new();
    // The items are worked one after the other, so the items after the refusal are not requested.
    let query = world.query_at(Arc::<Moved>::clone(&clock), &[("WORKERS", "1")]);
    let mut event = example("inbox-queue");
    event["Records"][1] = event["Records"][0].clone();
    let another = event["Records"][1]["body"].as_str().unwrap().replace("lookup-5", "lookup-6");
    event["Records"][1]["body"] = json!(another);
    world.virustotal.behave_for_files(&Behaviour::Unauthorized, 4);
    let limits = RunLimits::until(Instant::now() + Duration::from_mins(1));
    let error =
        query.handle(&query.common().receiver().unwrap(), &event, &limits).await.unwrap_err();
    assert!(matches!(error, TasksError::Stopped(_)), "{error}");
    assert_eq!(world.virustotal.reports_asked().len(), 1);
    assert_eq!(world.waiting(&*clock).await.waiting, 2);
    assert_eq!(query.drain(false, &no_limits()).await.unwrap().done, 0, "not at once");
    world.virustotal.clear_for_files();
    clock.on(SignedDuration::from_mins(1));
    assert_eq!(query.drain(false, &no_limits()).await.unwrap().done, 2);
    assert_eq!(world.statuses().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn azuls_own_dispatcher_is_polled_and_its_events_are_kept() {
    let Some(azul) = sim::Azul::installed().unwrap() else { return };
    let dispatcher = tokio::task::block_in_place(|| azul.dispatcher()).unwrap();
    let world = World::new().await;
    let query = world.query_at(Arc::new(SystemClock), &[("PLUGIN_EVENTS_URL", dispatcher.url())]);
    dispatcher.answers(200, &json!({"events": [event(1), event(2)]}).to_string()).await.unwrap();
    let polled = query.poll(Duration::from_secs(1), &no_limits()).await.unwrap().unwrap();
    assert_eq!((polled.accepted, polled.ignored, polled.rejected), (2, 0, 0));
    assert_eq!(world.waiting(&SystemClock).await.waiting, 2);
    let asked = dispatcher.last_request().await.unwrap();
    assert!(asked.contains("/api/v2/event/binary/active?"), "{asked}");
    for parameter in ["r-live=true", "is-task=true", "d-self=true", "r-source=incidents"] {
        assert!(asked.contains(parameter), "{parameter}: {asked}");
    }
    // An outage of the dispatcher is reported as a transient error.
    dispatcher.answers(500, "{}").await.unwrap();
    let error = query.poll(Duration::from_secs(1), &no_limits()).await.unwrap_err();
    assert!(matches!(&error, TasksError::Poll(e) if e.is_transient()), "{error:?}");
}
