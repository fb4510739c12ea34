mod hand_out;

use apache_avro::{reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use serde_json::{Value, json};

use super::*;

fn sha(n: u64) -> String {
    format!("{n:064x}")
}

fn mapped(n: u64) -> Value {
    json!({
        "model_version": 6, "kafka_key": "", "timestamp": "2026-01-01T00:00:00Z",
        "author": {"name": "VirustotalFileFeed", "version": "1", "category": "plugin"},
        "source": {
            "name": "virustotal", "references": {"submitter_id": "abc"},
            "timestamp": "2025-12-31T23:00:00Z",
            "path": [{
                "author": {"name": "VirustotalFileFeed"}, "action": "mapped", "sha256": sha(n),
                "timestamp": "2025-12-31T23:00:00Z", "size": 10,
            }],
        },
        "entity": {
            "sha256": sha(n), "size": 10, "info": {},
            "features": [{"name": "tag", "value": "pe", "type": "string"}],
        },
        "action": "mapped",
    })
}

fn requested(n: u64) -> Value {
    let mut event = mapped(n);
    event["action"] = json!("requested");
    event["entity"] = json!({"hash": sha(n), "category": "rules/one", "category_quota": 5});
    event
}

/// An event that the dispatcher refuses.
fn invalid(n: u64) -> Value {
    let mut event = mapped(n);
    event["author"]["name"] = json!("");
    event
}

async fn send(dispatcher: &Dispatcher, query: &str, body: Vec<u8>) -> (u16, Value) {
    let url = format!("{}/api/v2/event?{query}", dispatcher.url());
    let response = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

async fn send_avro(dispatcher: &Dispatcher, model: Model, events: &[Value]) -> (u16, Value) {
    let query = format!("model={}&avro-format=true&sync=true", model.name());
    send(dispatcher, &query, encode::bulk(model, events)).await
}

async fn send_json(dispatcher: &Dispatcher, events: &Value) -> (u16, Value) {
    send(dispatcher, "model=binary&avro-format=false", events.to_string().into_bytes()).await
}

#[tokio::test]
async fn avro_arrives_as_sent_and_a_repeat_overwrites() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let (status, answer) =
        send_avro(&dispatcher, Model::Binary, &[mapped(1), mapped(2), mapped(1)]).await;
    assert_eq!((status, &answer["total_ok"]), (200, &json!(3)));
    assert_eq!(answer["failures"], Value::Null);
    let arrived = dispatcher.arrived();
    assert_eq!((arrived.events.len(), arrived.keys().len(), arrived.repeats), (3, 2, 1));
    assert_eq!(arrived.count(Model::Binary, "mapped"), 3);
    assert_eq!(arrived.sha256s(), [sha(1), sha(2)].into());
    assert_eq!(arrived.problems, Vec::<String>::new());
    let mut first = arrived.events[0].event.clone();
    first["kafka_key"] = json!("");
    assert_eq!(first, mapped(1));
    assert!(dispatcher.posts()[0].sync);
}

#[tokio::test]
async fn the_rest_of_an_avro_batch_after_an_invalid_event_is_dropped_with_200() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let events = [mapped(1), mapped(2), invalid(3), mapped(4)];
    let (status, answer) = send_avro(&dispatcher, Model::Binary, &events).await;
    assert_eq!(
        (status, &answer["total_ok"], &answer["total_failures"]),
        (200, &json!(2), &json!(0))
    );
    assert_eq!(dispatcher.arrived().sha256s(), [sha(1), sha(2)].into());
    assert_eq!(dispatcher.posts()[0].events, 4);
}

#[tokio::test]
async fn a_json_batch_lists_its_invalid_events_and_takes_the_others() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let (status, answer) = send_json(&dispatcher, &json!([mapped(1), invalid(2), mapped(3)])).await;
    assert_eq!(
        (status, &answer["total_ok"], &answer["total_failures"]),
        (200, &json!(2), &json!(1))
    );
    assert_eq!(answer["failures"][0]["error"], json!("author.name is empty"));
    let (status, _) = send_json(&dispatcher, &mapped(4)).await;
    assert_eq!((status, dispatcher.keys().len()), (200, 3));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_as_a_whole() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let version = |v: i64| {
        let mut event = mapped(1);
        event["model_version"] = json!(v);
        event
    };
    let time = |t: &str| {
        let mut event = mapped(1);
        event["timestamp"] = json!(t);
        event
    };
    assert_eq!(send_json(&dispatcher, &json!([mapped(1), version(5)])).await.0, 422);
    assert_eq!(send_json(&dispatcher, &version(7)).await.0, 500);
    for bad in ["", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "yesterday"] {
        assert_eq!(send_json(&dispatcher, &json!([mapped(1), time(bad)])).await.0, 422, "{bad}");
    }
    assert_eq!(send_json(&dispatcher, &json!({"events": [mapped(1)]})).await.0, 422);
    assert_eq!(send_json(&dispatcher, &json!("text")).await.0, 422);
    assert_eq!(send(&dispatcher, "model=binary", Vec::new()).await.0, 400);
    assert_eq!(send(&dispatcher, "model=nothing", b"{}".to_vec()).await.0, 400);
    for body in [&b"\x1f\x8b\x08\x00\x00"[..], b"{}", b"\x0c\x02"] {
        let (status, answer) =
            send(&dispatcher, "model=binary&avro-format=true", body.to_vec()).await;
        assert_eq!((status, &answer["status"]), (422, &json!("422")));
        assert!(answer["detail"].is_string() && answer["title"].is_string());
    }
    assert!(dispatcher.arrived().events.is_empty());
}

#[tokio::test]
async fn the_425_of_invalid_events_names_no_filter() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let (status, answer) = send_avro(&dispatcher, Model::Binary, &[invalid(1), mapped(2)]).await;
    let detail = answer["detail"].as_str().unwrap();
    assert_eq!((status, &answer["status"]), (425, &json!("425")));
    assert!(detail.contains("filters []") && detail.contains("0 response failures"), "{detail}");
    let (status, answer) = send_json(&dispatcher, &invalid(1)).await;
    assert_eq!(status, 425);
    assert!(answer["detail"].as_str().unwrap().contains("author.name is empty"));
    assert!(dispatcher.arrived().events.is_empty());
}

#[tokio::test]
async fn the_425_of_aged_off_events_is_given_only_if_none_is_left() {
    let dispatcher = Dispatcher::start().await.unwrap();
    dispatcher.set_now("2026-01-08T00:00:00Z".parse().unwrap());
    dispatcher.expire("virustotal", SignedDuration::from_hours(24));
    let (status, answer) = send_avro(&dispatcher, Model::Binary, &[mapped(1)]).await;
    assert_eq!(
        (status, &answer["error_enum"]),
        (425, &json!("ErrorStringEnumAllEventsAgedOffImmediately"))
    );
    let mut young = mapped(2);
    young["source"]["timestamp"] = json!("2026-01-07T23:00:00Z");
    let (status, answer) = send_avro(&dispatcher, Model::Binary, &[mapped(1), young]).await;
    assert_eq!((status, &answer["total_ok"]), (200, &json!(2)), "aged-off ones count as ok");
    assert_eq!(dispatcher.arrived().sha256s(), [sha(2)].into());
}

#[tokio::test]
async fn the_425_of_filtered_events_names_the_filter() {
    let dispatcher = Dispatcher::start().await.unwrap();
    dispatcher.filter("previously-deleted", |event| event["entity"]["sha256"] == json!(sha(1)));
    let (status, answer) = send_avro(&dispatcher, Model::Binary, &[mapped(1)]).await;
    assert_eq!(status, 425);
    assert!(answer["detail"].as_str().unwrap().contains("filters [previously-deleted:1]"));
    assert_eq!(send_avro(&dispatcher, Model::Binary, &[mapped(1), mapped(2)]).await.0, 200);
    assert_eq!(dispatcher.arrived().sha256s(), [sha(2)].into());
}

#[tokio::test]
async fn an_unregistered_source_and_a_large_event_are_500s_that_publish_the_rest() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let mut stranger = mapped(2);
    stranger["source"]["name"] = json!("Virustotal");
    let (status, answer) =
        send_avro(&dispatcher, Model::Binary, &[mapped(1), stranger.clone()]).await;
    assert_eq!(status, 500);
    assert!(answer["detail"].as_str().unwrap().contains("unregistered topic"));
    let mut request = requested(2);
    request["source"]["name"] = json!("Virustotal");
    assert_eq!(send_avro(&dispatcher, Model::Download, &[request]).await.0, 200);

    let mut large = mapped(3);
    large["entity"]["magic"] = json!("m".repeat(3_145_728));
    let (status, answer) =
        send_avro(&dispatcher, Model::Binary, &[mapped(4), large, mapped(5)]).await;
    let detail = answer["detail"].as_str().unwrap();
    assert_eq!(status, 500);
    assert!(detail.contains("message too large for kafka"), "{detail}");
    assert!(detail.starts_with("successfully submitted 2/3"), "{detail}");
    assert_eq!(dispatcher.arrived().sha256s(), [sha(1), sha(4), sha(5)].into());

    dispatcher.register_source("Virustotal");
    assert_eq!(send_avro(&dispatcher, Model::Binary, &[stranger]).await.0, 200);
}

#[tokio::test]
async fn validity_is_checked_as_the_real_one_does() {
    let change = |pointer: &str, value: Value| {
        let mut event = mapped(1);
        *event.pointer_mut(pointer).unwrap() = value;
        validate::invalid(Model::Binary, &event)
    };
    let content = json!([{"label": "content"}]);
    assert_eq!(validate::invalid(Model::Binary, &mapped(1)), None);
    assert!(change("/action", json!("matched")).is_some());
    assert!(change("/action", json!("sourced")).is_some());
    assert!(change("/source/path", json!([])).is_some());
    assert!(change("/source/path/0/action", json!("")).is_some());
    assert!(change("/source/path/0/sha256", json!("")).is_some());
    assert!(change("/source/path/0/author/name", json!("")).is_some());
    let mut with_content = mapped(1);
    with_content["entity"]["datastreams"] = content;
    assert!(validate::invalid(Model::Binary, &with_content).is_some());
    with_content["action"] = json!("sourced");
    assert_eq!(validate::invalid(Model::Binary, &with_content), None);
    with_content["action"] = json!("enriched");
    assert!(validate::invalid(Model::Binary, &with_content).is_some());
    let mut request = requested(1);
    request["source"]["path"][0]["action"] = json!("");
    assert!(validate::invalid(Model::Download, &request).is_some());
}

#[tokio::test]
async fn results_of_a_completed_status_become_binary_events() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let status = |status: &str, results: Value| {
        let mut input = mapped(1);
        input["dequeued"] = json!("k.VirustotalFileLookup.1.1700000000");
        input["kafka_key"] = json!("k");
        json!({
            "model_version": 6, "kafka_key": "", "timestamp": "2026-01-01T00:00:00Z",
            "author": {"name": "VirustotalFileLookup"},
            "entity": {"input": input, "status": status, "runtime": 0.5, "results": results},
        })
    };
    let done = status("completed", json!([mapped(7)]));
    assert_eq!(send_avro(&dispatcher, Model::Status, &[done]).await.0, 200);
    let out = status("opt-out", json!([mapped(8)]));
    assert_eq!(send_avro(&dispatcher, Model::Status, &[out]).await.0, 200);
    let bad = status("completed", json!([mapped(9), invalid(10)]));
    assert_eq!(send_avro(&dispatcher, Model::Status, &[bad]).await.0, 425);
    let arrived = dispatcher.arrived();
    assert_eq!(arrived.sha256s(), [sha(7)].into());
    assert_eq!(arrived.of(Model::Status).count(), 2);
}

#[tokio::test]
async fn a_registration_is_kept_and_its_faults_are_named() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let feature =
        |name: &str| json!({"name": name, "type": "string", "desc": "A name.", "tags": []});
    let mut event = json!({
        "model_version": 6, "kafka_key": "", "timestamp": "2026-01-01T00:00:00Z",
        "author": {"name": "VirustotalFileFeed"},
        "entity": {
            "name": "VirustotalFileFeed", "version": "1", "category": "plugin", "contact": "c",
            "description": "d", "features": [feature("a"), feature("b")],
        },
    });
    assert_eq!(send_avro(&dispatcher, Model::Plugin, &[event.clone()]).await.0, 200);
    assert_eq!(dispatcher.problems(), Vec::<String>::new());
    let names = dispatcher.arrived().registered_features("VirustotalFileFeed");
    assert_eq!(names, ["a".to_owned(), "b".to_owned()].into());
    event["entity"]["features"] =
        json!([feature("a"), {"name": "a", "type": "bool", "desc": "", "tags": ["x"]}]);
    assert_eq!(send_avro(&dispatcher, Model::Plugin, &[event]).await.0, 200);
    assert_eq!(dispatcher.problems().len(), 4, "{:?}", dispatcher.problems());
}

#[tokio::test]
async fn forced_faults_come_once_each_and_a_lost_answer_has_had_its_effect() {
    let dispatcher = Dispatcher::start().await.unwrap();
    dispatcher.fail(&Fault::answer(503, "busy"), 1);
    dispatcher.fail(&Fault::Reset, 1);
    dispatcher.fail(&Fault::Lost, 1);
    let post = || async {
        let url = format!("{}/api/v2/event?model=binary", dispatcher.url());
        let body = mapped(1).to_string();
        reqwest::Client::new().post(url).body(body).send().await.map(|r| r.status().as_u16())
    };
    assert_eq!(post().await.unwrap(), 503);
    assert!(post().await.is_err());
    assert!(dispatcher.arrived().events.is_empty());
    assert!(post().await.is_err());
    assert_eq!(dispatcher.arrived().events.len(), 1);
    assert_eq!(post().await.unwrap(), 200);
    let statuses: Vec<_> = dispatcher.posts().iter().map(|p| p.status).collect();
    assert_eq!(statuses, [None, None, Some(200), Some(200)]);
    assert_eq!(dispatcher.arrived().repeats, 1);
}

#[tokio::test]
async fn a_hang_lasts_until_the_client_gives_up_and_down_refuses_connections() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let client = reqwest::Client::new();
    let post = || client.post(format!("{}/api/v2/event", dispatcher.url())).body("x").send();
    dispatcher.fail(&Fault::Hang, 1);
    tokio::select! {
        _ = post() => panic!("answered"),
        () = dispatcher.wait_until(|_, posts| posts.len() == 1) => {}
    }
    dispatcher.down().await;
    assert!(post().await.unwrap_err().is_connect());
    dispatcher.up().await;
    assert_eq!(post().await.unwrap().status(), 400);
    let url = dispatcher.url();
    assert_eq!(reqwest::get(&url).await.unwrap().text().await.unwrap(), "Azul Dispatcher");
    dispatcher.stop().await;
    assert!(reqwest::get(&url).await.unwrap_err().is_connect());
}

#[tokio::test]
async fn arrivals_survive_a_restart_in_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("arrived.jsonl");
    let first = Dispatcher::start().await.unwrap();
    first.record_to(&file).unwrap();
    send_avro(&first, Model::Binary, &[mapped(1), mapped(2)]).await;
    send_avro(&first, Model::Download, &[requested(1)]).await;
    drop(first);
    let second = Dispatcher::start().await.unwrap();
    second.record_to(&file).unwrap();
    send_avro(&second, Model::Binary, &[mapped(2), mapped(3)]).await;
    let arrived = second.arrived();
    assert_eq!((arrived.keys().len(), arrived.repeats), (3, 1));
    assert_eq!(arrived.downloads().len(), 1);
    let summary: Value = serde_json::from_slice(
        &reqwest::get(format!("{}/sim/summary", second.url()))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap(),
    )
    .unwrap();
    assert_eq!((&summary["binary_keys"], &summary["repeats"]), (&json!(3), &json!(1)));
}

#[tokio::test]
async fn a_sink_counts_and_keeps_nothing() {
    let dispatcher = Dispatcher::start().await.unwrap();
    dispatcher.sink();
    for events in [&[mapped(1), mapped(2)][..], &[mapped(3)]] {
        let (status, answer) = send_avro(&dispatcher, Model::Binary, events).await;
        assert_eq!((status, &answer["total_ok"]), (200, &json!(events.len())));
    }
    send_avro(&dispatcher, Model::Download, &[requested(1)]).await;
    let summary = reqwest::get(format!("{}/sim/summary", dispatcher.url())).await.unwrap();
    let summary: Value = serde_json::from_slice(&summary.bytes().await.unwrap()).unwrap();
    assert_eq!((&summary["sunk"], &summary["events"]), (&json!(3), &json!(1)));
}

#[tokio::test]
async fn scripts_can_set_faults_over_http() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let url = format!("{}/sim/fault", dispatcher.url());
    let set = |body: &'static str| {
        let post = reqwest::Client::new().post(&url).body(body);
        async move { post.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(set(r#"{"kind":"answer","status":503,"body":"busy","times":2}"#).await, 200);
    assert_eq!(set(r#"{"kind":"delay","ms":1}"#).await, 200);
    assert_eq!(dispatcher.faults_left(), 3);
    assert_eq!(set(r#"{"kind":"dance"}"#).await, 400);
    assert_eq!(set(r#"{"clear":true}"#).await, 200);
    assert_eq!(dispatcher.faults_left(), 0);
}

#[test]
fn both_array_framings_decode_to_the_same() {
    let mut event = mapped(1);
    let features: Vec<Value> = (0..250)
        .map(|n| json!({"name": "n", "value": n.to_string(), "type": "integer", "label": "l"}))
        .collect();
    event["entity"]["features"] = json!(features);
    let blocks = encode::bulk(Model::Binary, &[event.clone(), mapped(2)]);
    let schema = Model::Binary.bulk_schema(6).unwrap();
    let value =
        GenericDatumReader::builder(schema).build().unwrap().read_value(&mut &blocks[..]).unwrap();
    let plain =
        GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap();
    assert_ne!(blocks, plain);
    let decoded = decode::avro(Model::Binary, &plain).unwrap();
    assert_eq!(decoded.events, decode::avro(Model::Binary, &blocks).unwrap().events);
    assert_eq!(decoded.events, [event, mapped(2)]);
    assert_eq!(decoded.trailing, 0);
}

#[test]
fn the_go_plugins_own_message_decodes() {
    let Some(message) = testkit::corpus::read("expected/feed.v5.avro") else { return };
    let bulk = decode::avro(Model::Binary, &message).unwrap();
    assert_eq!((bulk.version, bulk.events.len(), bulk.trailing), (5, 10, 0));
    for event in &bulk.events {
        assert_eq!(validate::invalid(Model::Binary, event), None);
        assert!(!validate::text(event, "/source/path/0/file_format_legacy").is_empty());
        assert!(!validate::list(event, "/entity/features").is_empty());
    }
}
