//! Tests requests whose sample is there already, requests that come twice, and requests after a crash.

use std::time::Duration;

use azul_vt::{
    pipeline::RunLimits,
    store::{ReservationStage, inbox::Queue, totals::utc_day},
    tasks::EventFunction as _,
};
use jiff::SignedDuration;
use serde_json::{Value, json};
use sim::{Behaviour, Fault};

use crate::world::{Moved, World, drain, put};

fn hash(request: &Value) -> String {
    request["entity"]["hash"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_azul_has_already_costs_nothing() {
    for (skips, version, action) in
        [("0", "6", "success"), ("1", "6", "skipped-already-present"), ("1", "5", "success")]
    {
        let world = World::new().await;
        let download =
            world.download(&[("SKIPPED_ACTION", skips), ("AZUL_MODEL_VERSION", version)]);
        let request = world.with_link("sample");
        world.dispatcher.put_stream("virustotal", "content", "sample");
        let mut upper = request.clone();
        upper["entity"]["hash"] = json!(hash(&request).to_uppercase());
        put(&download, [upper]).await;
        assert_eq!(drain(&download).await.done, 1);
        assert_eq!(world.actions(), [action]);
        assert_eq!(world.virustotal.requests().len(), 0);
        assert_eq!(world.totals(download.common().clock.now()).await.total, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_sample_asked_for_twice_at_once_is_fetched_once() {
    let world = World::new().await;
    let clock = Moved::at("2026-11-24T09:00:00Z");
    let download = world.download_on(&clock, &[("WORKERS", "4")]);
    let request = world.by_hash("sample");
    let slow = Behaviour::Content(Fault::Delay { ms: 300 });
    world.virustotal.behave_download(&hash(&request), &slow, 1);
    let mut other = request.clone();
    other["entity"]["category"] = json!("rules/other");
    put(&download, [request.clone(), other, request.clone(), request]).await;
    while world.told().len() < 4 {
        drain(&download).await;
        clock.on(SignedDuration::from_secs(5));
    }
    assert_eq!(world.actions(), ["success"; 4]);
    assert_eq!(world.virustotal.downloads_asked().len(), 1);
    assert_eq!(world.sourced().len(), 1);
    assert_eq!(world.totals(download.common().clock.now()).await.total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_is_none_fails_and_other_events_are_ignored() {
    let world = World::new().await;
    let download = world.download(&[]);
    let mut bad = world.by_hash("sample");
    bad["entity"]["hash"] = json!("d41d8cd98f00b204e9800998ecf8427e");
    put(&download, [bad]).await;
    drain(&download).await;
    let told = world.told();
    assert_eq!(told, [("failed".to_owned(), "its hash is not a SHA-256".to_owned())]);
    let decide = download.decide();
    let mut event = world.by_hash("sample");
    for (action, author, word) in [
        ("failed", "SomebodyElse", "action"),
        ("requested", "VirustotalDownload", "our own"),
        ("success", "VirustotalDownload", "our own"),
    ] {
        event["action"] = json!(action);
        event["author"]["name"] = json!(author);
        let why = decide(serde_json::from_value(event.clone()).unwrap()).unwrap_err();
        assert!(why.contains(word), "{why}");
    }
}

/// Makes a state as a process leaves it that died when its request had reached `stage`, and works the request again.
async fn after_a_crash(stage: ReservationStage, is_stored: bool) -> (World, Vec<String>) {
    let world = World::new().await;
    let download = world.download(&[]);
    let request = world.by_hash("sample");
    let (quotas, today) = (world.store().quotas, utc_day(download.common().clock.now()));
    let place = format!("virustotal {}", hash(&request));
    quotas.reserve("rules/one", today, 100, &place).await.unwrap();
    quotas.set_stage("rules/one", today, &place, stage).await.unwrap();
    if is_stored {
        world.dispatcher.put_stream("virustotal", "content", "sample");
    }
    put(&download, [request.clone()]).await;
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(world.totals(download.common().clock.now()).await.total, 1);
    world.is_sound();
    let asked = world.virustotal.downloads_asked();
    (world, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_stage_goes_on_where_it_was() {
    let none = Vec::<String>::new();
    // The place is reserved, and the sample may be stored. A stored sample is not fetched again.
    let (world, asked) = after_a_crash(ReservationStage::Reserved, false).await;
    assert_eq!((world.sourced().len(), asked.len()), (1, 1));
    let (world, asked) = after_a_crash(ReservationStage::Reserved, true).await;
    assert_eq!((world.sourced().len(), asked), (1, none.clone()));
    let (world, asked) = after_a_crash(ReservationStage::Stored, true).await;
    assert_eq!((world.sourced().len(), asked), (1, none.clone()));
    // The sample was removed from the store meanwhile.
    let (world, asked) = after_a_crash(ReservationStage::Stored, false).await;
    assert_eq!((world.sourced().len(), asked.len()), (1, 1));
    // Its event is there: only the outcome is told.
    for stage in [ReservationStage::Sourced, ReservationStage::Reported] {
        let (world, asked) = after_a_crash(stage, true).await;
        assert_eq!((world.sourced().len(), asked), (0, none.clone()), "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_page_in_the_stores_place_is_neither_the_sample_nor_its_presence() {
    let world = World::new().await;
    let clock = Moved::at("2026-11-24T09:00:00Z");
    let download = world.download_on(&clock, &[("VT_MAX_ATTEMPTS", "1")]);
    put(&download, [world.by_hash("sample")]).await;
    let headers = vec![("content-type".to_owned(), "text/html; charset=utf-8".to_owned())];
    let page = Fault::Answer { status: 200, headers, body: "<html>Please log in</html>".into() };
    world.dispatcher.fail_streams(&page, 1);
    assert_eq!(drain(&download).await.again, 1);
    assert_eq!((world.told().len(), world.virustotal.requests().len()), (0, 0));
    clock.on(SignedDuration::from_mins(15));
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(world.sourced().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_told_until_it_is_taken_and_always_the_same() {
    let world = World::new().await;
    let clock = Moved::at("2026-11-24T09:00:00Z");
    let download = world.download_on(&clock, &[]);
    let missing = world.by_hash("missing");
    world.virustotal.behave_download(&hash(&missing), &Behaviour::Missing, 1);
    put(&download, [missing]).await;
    // The dispatcher takes the event, and its answer is lost; then it is down.
    world.dispatcher.fail(&Fault::LostHang, 1);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    download.drain(false, &RunLimits::until(deadline)).await.unwrap();
    assert_eq!(world.waiting(&*clock).await.waiting, 1);
    clock.on(SignedDuration::from_mins(5));
    // By now VirusTotal would have the sample.
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.virustotal.downloads_asked().len(), 1, "what is known is not asked again");
    let arrived = world.dispatcher.arrived();
    let mut told: Vec<Value> =
        arrived.of(sim::Model::Download).map(|published| published.event.clone()).collect();
    for event in &mut told {
        event.as_object_mut().unwrap().remove("kafka_key");
    }
    assert_eq!(told.len(), 2);
    assert_eq!(told[0], told[1]);
    // The outcome is kept, so that an item that comes back although it was done posts the same outcome again.
    let kept = world.store().bundles.list("outcomes/").await.unwrap();
    assert_eq!(kept.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_waits_for_a_dispatcher_that_is_down_and_costs_nothing_meanwhile() {
    let world = World::new().await;
    let clock = Moved::at("2026-11-24T09:00:00Z");
    let download = world.download_on(&clock, &[("VT_MAX_ATTEMPTS", "1")]);
    put(&download, [world.by_hash("sample")]).await;
    world.dispatcher.down().await;
    for _ in 0..3 {
        assert_eq!(drain(&download).await.again, 1);
        clock.on(SignedDuration::from_mins(15));
    }
    assert_eq!(world.virustotal.requests().len(), 0);
    world.dispatcher.up().await;
    // The store breaks off: the sample is fetched again, and nothing is told before.
    world.dispatcher.fail_uploads(&Fault::answer(503, ""), 1);
    assert_eq!(drain(&download).await.again, 1);
    clock.on(SignedDuration::from_mins(30));
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(
        world.store().inbox.counts(Queue::Download, clock_now(&download)).await.unwrap().waiting,
        0
    );
}

fn clock_now(download: &download::Download) -> jiff::Timestamp {
    download.common().clock.now()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dispatcher_polls_out_is_worked() {
    let world = World::new().await;
    let download = world.download(&[]);
    assert!(download.poll(Duration::from_secs(1), &RunLimits::default()).await.unwrap().is_some());
    let common = download.common();
    let client = azul_vt::pipeline::assemble::dispatcher(&common.settings).unwrap();
    let mut failed = world.by_hash("two");
    failed["action"] = json!("failed");
    let events = json!([world.by_hash("one"), failed]).to_string().into();
    let format = azul_vt::azul::dispatcher::BodyFormat::Json;
    client.post(azul_vt::azul::dispatcher::Model::Download, events, format).await.unwrap();
    let polled =
        download.poll(Duration::from_secs(1), &RunLimits::default()).await.unwrap().unwrap();
    assert_eq!((polled.accepted, polled.ignored, polled.rejected), (1, 1, 0));
    drain(&download).await;
    assert_eq!(world.sourced().len(), 1);
    // The outcome that this function posted comes back, and is ignored.
    let polled =
        download.poll(Duration::from_secs(1), &RunLimits::default()).await.unwrap().unwrap();
    assert_eq!((polled.accepted, polled.ignored), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_azul_does_not_know_is_its_own_requests_matter() {
    let world = World::new().await;
    let download = world.download(&[("WORKERS", "1")]);
    let mut unknown = world.by_hash("one");
    unknown["source"]["name"] = json!("nobody");
    put(&download, [unknown, world.by_hash("two")]).await;
    assert_eq!(drain(&download).await.done, 2);
    let mut told = world.told();
    told.sort();
    let [(failed, why), (success, _)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((failed.as_str(), success.as_str()), ("failed", "success"));
    assert!(why.contains("nobody") && why.contains("source"), "{why}");
    assert_eq!(world.totals(clock_now(&download)).await.total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_of_another_source_is_another_sample() {
    let world = World::new().await;
    world.dispatcher.register_source("incidents");
    let download = world.download(&[("WORKERS", "1")]);
    let request = world.by_hash("sample");
    let mut other = request.clone();
    other["source"]["name"] = json!("incidents");
    put(&download, [request]).await;
    drain(&download).await;
    put(&download, [other]).await;
    drain(&download).await;
    assert_eq!(world.actions(), ["success"; 2]);
    let sources: Vec<_> =
        world.dispatcher.streams().into_iter().map(|(source, ..)| source).collect();
    assert_eq!(sources, ["incidents", "virustotal"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_and_has_no_event_yet_is_no_success_of_another_category() {
    let world = World::new().await;
    let clock = Moved::at("2026-11-24T09:00:00Z");
    let download = world.download_alone(&clock);
    let request = world.by_hash("sample");
    put(&download, [request.clone()]).await;
    // The sample is stored; then the dispatcher takes no events.
    world.dispatcher.fail(&Fault::Hang, 1);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    download.drain(false, &RunLimits::until(deadline)).await.unwrap();
    assert_eq!((world.dispatcher.streams().len(), world.told().len()), (1, 0));
    let mut other = request;
    other["entity"]["category"] = json!("rules/other");
    put(&download, [other]).await;
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(world.sourced().len(), 1, "its event is there, whatever becomes of the first");
    clock.on(SignedDuration::from_mins(5));
    drain(&download).await;
    assert_eq!(world.actions(), ["success"; 2]);
    assert_eq!(world.virustotal.downloads_asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_one_worker_after_the_other_dies_at_fails_and_frees_its_place() {
    let world = World::new().await;
    let clock = Moved::at("2026-11-24T09:00:00Z");
    let download = world.download_alone(&clock);
    let request = world.by_hash("sample");
    let place = format!("virustotal {}", hash(&request));
    let (store, today) = (world.store(), utc_day(clock_now(&download)));
    store.quotas.reserve("rules/one", today, 100, &place).await.unwrap();
    put(&download, [request]).await;
    for _ in 0..5 {
        let hold = SignedDuration::from_secs(60);
        let now = clock_now(&download);
        assert_eq!(store.inbox.take(Queue::Download, 1, hold, now).await.unwrap().len(), 1);
        clock.on(SignedDuration::from_mins(2));
    }
    assert_eq!(drain(&download).await.buried, 1);
    let told = world.told();
    let [(action, why)] = told.as_slice() else { panic!("{told:?}") };
    assert!(action == "failed" && why.contains("5 workers in a row"), "{told:?}");
    assert_eq!(world.totals(clock_now(&download)).await.total, 0);
}
