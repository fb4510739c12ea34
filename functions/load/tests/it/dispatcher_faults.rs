//! Tests every fault of the dispatcher, and the outcome of the minute and of each event.

use std::time::Duration;

use azul_vt::{
    pipeline::{DeliverError, RunLimits, publish::PublishError},
    store::{MinuteState, rejects::RejectStage},
};
use jiff::SignedDuration;
use load::{Load, LoadError, Report, Trigger};
use sim::{Fault, feed::Style};
use tokio::time::Instant;

use crate::world::{NOW, RECORDS, SEED, World, cursor, rejects, row};

const MINUTE: &str = "202611240900";

fn sha256(index: u64) -> String {
    sim::feed::sha256(SEED, MINUTE, index)
}

/// Returns a filter for the events of these records.
fn of(indexes: &[u64]) -> impl Fn(&serde_json::Value) -> bool + use<> {
    let files: Vec<String> = indexes.iter().map(|index| sha256(*index)).collect();
    move |event| files.iter().any(|file| event["entity"]["sha256"] == **file)
}

/// A run of the one minute, registered before the fault, so that the fault meets its events.
async fn registered(world: &World) -> Load {
    let load = world.impatient(&[]).await;
    load.pipeline.register(load.clock.now(), &RunLimits::default()).await.unwrap();
    load
}

async fn run(load: &Load) -> Report {
    load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap()
}

/// Returns faults that pass and say nothing about the events.
fn passing() -> Vec<Fault> {
    let later = Fault::Answer {
        status: 429,
        headers: vec![("Retry-After".to_owned(), "0".to_owned())],
        body: String::new(),
    };
    vec![
        Fault::answer(500, r#"{"status":"500","title":"t","detail":"broker is away"}"#),
        Fault::answer(500, "<html>"),
        Fault::answer(502, ""),
        Fault::answer(503, "over capacity"),
        Fault::answer(408, ""),
        // These answers come from a gateway, not from the dispatcher.
        Fault::answer(425, "Too Early"),
        Fault::answer(204, ""),
        later,
        Fault::answer(200, "<html>welcome</html>"),
        Fault::answer(200, r#"{"total_ok":51,"total_failures":0,"failures":null}"#),
        Fault::EmptyBody,
        Fault::Reset,
        Fault::Lost,
        Fault::Hang,
        Fault::LostHang,
        Fault::ResetInBody,
        Fault::TruncateBody,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_at_the_dispatcher_is_posted_again_and_nothing_is_rejected() {
    for fault in passing() {
        let world = World::new().await;
        let load = registered(&world).await;
        world.dispatcher.fail(&fault, 3);
        let report = run(&load).await;
        assert_eq!((report.loaded, report.counts.delivered), (1, RECORDS), "{fault:?}");
        assert_eq!((report.counts.rejected, report.counts.filtered), (0, 0), "{fault:?}");
        assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]), "{fault:?}");
        assert_eq!(world.dispatcher.faults_left(), 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_in_time_leaves_the_minute_where_it_is() {
    for fault in passing() {
        let world = World::new().await;
        let load = registered(&world).await;
        world.dispatcher.fail(&fault, 100_000);
        let limits = RunLimits::default();
        let stop = async {
            world.dispatcher.wait_until(|_, posts| posts.len() > 4).await;
            limits.stop.cancel();
        };
        let (report, ()) = tokio::join!(load.run(&Trigger::Tick, &limits), stop);
        let report = report.unwrap();
        assert!(report.paused && report.loaded == 0, "{fault:?}: {report:?}");
        assert_eq!(cursor(&load).await, "202611240859", "{fault:?}");
        let state = row(&load, MINUTE).await.unwrap().state;
        assert!(
            matches!(state, MinuteState::Loading { lines_done: 0, .. }),
            "{fault:?}: {state:?}"
        );
        assert!(rejects(&load).await.is_empty(), "{fault:?}");
        // The next run goes on from the staged bundle.
        world.dispatcher.clear_faults();
        let asked = world.virustotal.requests().len();
        assert_eq!(run(&load).await.loaded, 1, "{fault:?}");
        assert_eq!(world.virustotal.requests().len(), asked, "{fault:?}");
        assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_dispatcher_is_waited_for() {
    for fault in [Fault::Delay { ms: 200 }, Fault::Trickle { ms: 10 }] {
        let world = World::new().await;
        world.dispatcher.fail(&fault, 100);
        let report = world.load().await.run(&Trigger::Tick, &RunLimits::default()).await.unwrap();
        assert_eq!(report.loaded, 6, "{fault:?}");
        assert_eq!(world.arrived(), World::expected(&World::minutes()), "{fault:?}");
        assert_eq!(world.dispatcher.arrived().repeats, 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_is_down_until_the_deadline_costs_nothing() {
    let world = World::new().await;
    let load = registered(&world).await;
    world.dispatcher.down().await;
    let limits = RunLimits::until(Instant::now() + Duration::from_secs(1));
    let error = load.run(&Trigger::Tick, &limits).await.unwrap_err();
    assert!(
        matches!(
            &error,
            LoadError::Minute { source: DeliverError::Publish(PublishError::Failed { .. }), .. }
        ),
        "{error:?}"
    );
    // A new process does not get that far, because it cannot register.
    let another = world.impatient(&[]).await;
    let limits = RunLimits::until(Instant::now() + Duration::from_secs(1));
    let error = another.run(&Trigger::Tick, &limits).await.unwrap_err();
    assert!(matches!(error, LoadError::Register(PublishError::Failed { .. })), "{error:?}");
    assert_eq!(cursor(&load).await, "202611240859");
    assert!(rejects(&load).await.is_empty());
    world.dispatcher.up().await;
    assert_eq!(run(&another).await.loaded, 1);
    assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_comes_back_is_gone_on_with_by_the_same_run() {
    let world = World::new().await;
    let load = world.load().await;
    let limits = RunLimits::default();
    let outage = async {
        world.dispatcher.wait_until(|arrived, _| arrived.sha256s().len() > 60).await;
        world.dispatcher.down().await;
        // Long enough for several attempts, which nobody but the run sees.
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.dispatcher.up().await;
    };
    let (report, ()) = tokio::join!(load.run(&Trigger::Tick, &limits), outage);
    assert_eq!(report.unwrap().loaded, 6);
    assert_eq!(world.arrived(), World::expected(&World::minutes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_operator_can_mend_at_the_dispatcher_ends_the_run_before_the_minute() {
    for (status, words) in [
        (308, "PLUGIN_EVENTS_URL leads elsewhere"),
        (400, "AZUL_MODEL_VERSION"),
        (401, "not allowed"),
        (403, "not allowed"),
        (404, "not the base of a dispatcher"),
        (405, "not the base of a dispatcher"),
        (407, "HTTPS_PROXY"),
    ] {
        let world = World::new().await;
        let load = registered(&world).await;
        world.dispatcher.fail(&Fault::answer(status, "no"), 100);
        let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
        let text = azul_vt::errors::chain(&error);
        assert!(matches!(error, LoadError::Minute { .. }) && text.contains(words), "{text}");
        assert_eq!(cursor(&load).await, "202611240859", "{status}");
        assert!(rejects(&load).await.is_empty(), "{status}");
        world.dispatcher.clear_faults();
        assert_eq!(run(&load).await.counts.delivered, RECORDS, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_azul_lacks_is_named_and_nothing_is_lost() {
    let world = World::new().await;
    world.dispatcher.unregister_source("virustotal");
    let load = registered(&world).await;
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    let text = azul_vt::errors::chain(&error);
    assert!(text.contains("add the source `virustotal` to Azul's source configuration"), "{text}");
    assert_eq!(cursor(&load).await, "202611240859");
    assert!(rejects(&load).await.is_empty());
    world.dispatcher.register_source("virustotal");
    assert_eq!(run(&load).await.counts.delivered, RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_registration_ends_the_run_before_anything_is_sent() {
    let world = World::new().await;
    world.dispatcher.fail(&Fault::answer(422, "no schema fits"), 1);
    let load = world.impatient(&[]).await;
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    let text = azul_vt::errors::chain(&error);
    assert!(matches!(error, LoadError::Register(_)) && text.contains("no schema fits"), "{text}");
    assert_eq!(world.dispatcher.posts().len(), 1);
    // The next run of the process tries again, and only once.
    assert_eq!(run(&load).await.loaded, 1);
    run(&load).await;
    assert_eq!(world.dispatcher.arrived().registrations().len(), 1);
}

/// Rejects of these records, each kept whole with its reason.
async fn assert_rejected(load: &Load, indexes: &[u64], words: &str) {
    let mut found = rejects(load).await;
    found.sort_by_key(|reject| reject.line);
    let lines: Vec<u64> = found.iter().map(|reject| reject.line).collect();
    assert_eq!(lines, indexes.iter().map(|index| index + 1).collect::<Vec<_>>());
    for (reject, index) in found.iter().zip(indexes) {
        assert!(reject.stage == RejectStage::Event && reject.reason.contains(words), "{reject:?}");
        assert_eq!(reject.sha256.as_deref(), Some(sha256(*index).as_str()));
        let record = sim::feed::record(SEED, MINUTE, *index, Style::Small).into_bytes();
        assert_eq!(reject.bytes().unwrap(), record);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_events_cost_themselves_alone_wherever_they_stand() {
    // If a bad event is in the middle, the dispatcher takes the events before it (a partial `total_ok`). If it is at
    // the start, the dispatcher takes none (425).
    for invalid in [&[17][..], &[0], &[49], &[0, 1, 2, 3], &[0, 20, 21, 55, 59], &[5, 50]] {
        let world = World::new().await;
        let load = registered(&world).await;
        world.dispatcher.refuse(of(invalid));
        let report = run(&load).await;
        let refused = invalid.len() as u64;
        assert_eq!((report.loaded, report.counts.rejected), (1, refused), "{invalid:?}");
        assert_eq!(report.counts.delivered, RECORDS - refused, "{invalid:?}");
        assert_rejected(&load, invalid, "invalid (425)").await;
        let mut expected = World::expected(&[MINUTE.into()]);
        expected.retain(|file| !invalid.iter().any(|index| sha256(*index) == *file));
        assert_eq!(world.arrived(), expected, "{invalid:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_may_be_invalid() {
    let world = World::new().await;
    let load = registered(&world).await;
    world.dispatcher.refuse(|_| true);
    let report = run(&load).await;
    assert_eq!((report.loaded, report.counts.rejected), (1, RECORDS));
    assert_rejected(&load, &(0..RECORDS).collect::<Vec<_>>(), "invalid (425)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aged_off_events_are_counted_as_filtered_and_not_kept() {
    let world = World::new().await;
    let load = registered(&world).await;
    world.dispatcher.set_now(NOW.parse().unwrap());
    world.dispatcher.expire("virustotal", SignedDuration::from_secs(1));
    let report = run(&load).await;
    assert_eq!((report.loaded, report.counts.filtered), (1, RECORDS));
    assert_eq!((report.counts.delivered, report.counts.rejected), (0, 0));
    assert!(world.arrived().is_empty() && rejects(&load).await.is_empty());
    // The posts are the registration and, for each of two batches, the whole batch and its newest event.
    assert_eq!(world.dispatcher.posts().len(), 1 + 2 * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_events_are_counted_as_filtered_and_not_kept() {
    let world = World::new().await;
    let load = registered(&world).await;
    world.dispatcher.filter("opted_out", |event| event["entity"]["sha256"].is_string());
    let report = run(&load).await;
    assert_eq!((report.loaded, report.counts.filtered), (1, RECORDS));
    assert!(world.arrived().is_empty() && rejects(&load).await.is_empty());
    assert_eq!(world.dispatcher.posts().len(), 1 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_good_event_is_lost_between_invalid_and_unwanted_ones() {
    let world = World::new().await;
    let load = registered(&world).await;
    let (invalid, good) = (vec![1, 48], vec![2, 20, 47]);
    let unwanted: Vec<u64> =
        (0..RECORDS).filter(|index| !invalid.contains(index) && !good.contains(index)).collect();
    world.dispatcher.filter("opted_out", of(&unwanted));
    world.dispatcher.refuse(of(&invalid));
    let report = run(&load).await;
    assert_eq!(report.loaded, 1);
    assert_rejected(&load, &invalid, "invalid (425)").await;
    assert_eq!(world.arrived(), good.iter().map(|index| sha256(*index)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_too_large_for_the_broker_cost_themselves_alone() {
    let world = World::new().await;
    let load = registered(&world).await;
    let whole = run(&world.impatient(&[]).await).await.counts.delivered;
    assert_eq!(whole, RECORDS);
    let sizes = |world: &World| -> Vec<usize> {
        world.dispatcher.keys().values().map(|event| event.to_string().len()).collect()
    };
    let largest = sizes(&world).into_iter().max().unwrap();
    // The minute again, at a dispatcher that takes about half of its largest event.
    world.dispatcher.forget();
    world.dispatcher.set_max_event_bytes(largest / 2);
    let minute = MINUTE.parse().unwrap();
    let again = Trigger::Range { from: minute, to: minute };
    let report = load.run(&again, &RunLimits::default()).await.unwrap();
    let kept = rejects(&load).await;
    assert!(report.counts.rejected > 0 && report.counts.delivered > 0, "{report:?}");
    assert_eq!(report.counts.rejected, kept.len() as u64);
    assert!(kept.iter().all(|reject| reject.reason.contains("too large (500)")));
    assert_eq!(world.arrived().len() as u64, report.counts.delivered);
    assert_eq!(report.counts.rejected + report.counts.delivered, RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_refused_as_a_whole_is_sent_in_parts_and_only_a_lone_event_is_rejected() {
    for status in [413, 422] {
        let world = World::new().await;
        let load = registered(&world).await;
        world.dispatcher.fail(&Fault::answer(status, "not this"), 3);
        let report = run(&load).await;
        assert_eq!((report.counts.delivered, report.counts.rejected), (RECORDS, 0), "{status}");
        assert_eq!(world.arrived(), World::expected(&[MINUTE.into()]), "{status}");

        let world = World::new().await;
        world.virustotal.serve(MINUTE, sim::feed::bundle(SEED, MINUTE, 1, Style::Small));
        let load = registered(&world).await;
        world.dispatcher.fail(&Fault::answer(status, "not this"), 1);
        let report = run(&load).await;
        assert_eq!((report.loaded, report.counts.rejected), (1, 1), "{status}");
        assert_rejected(&load, &[0], "not this").await;
    }
}
