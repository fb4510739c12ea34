//! Tests of webhooks: their authentication, and the outcome of their events.

use std::{collections::BTreeSet, sync::Arc};

use azul_vt::{
    azul::{
        avro,
        event::{BinaryEvent, ModelVersion},
    },
    store::Clock as _,
    tasks::EventFunction as _,
    webhook::{PreAuthenticated, receive::Receiver},
};
use base64::Engine as _;
use http::{Request, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use query::Query;
use serde_json::{Value, json};

use sim::lookup::{event, sha256};

use crate::world::{Moved, World, no_limits};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_SECRET: &str = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
const JSON: &str = "application/json";

struct Door {
    world: World,
    query: Query,
    receiver: Receiver,
    clock: Arc<Moved>,
}

impl Door {
    async fn new(secrets: &str) -> Self {
        let world = World::new().await;
        let clock = Moved::new();
        let query = world.query_at(Arc::<Moved>::clone(&clock), &[("WEBHOOK_SECRETS", secrets)]);
        let receiver = query.common().receiver().unwrap();
        Self { world, query, receiver, clock }
    }

    async fn send(&self, request: Request<Full<bytes::Bytes>>) -> (StatusCode, Value) {
        let response = self.receiver.handle(request, &*self.query.decide()).await;
        let status = response.status();
        (status, serde_json::from_slice(response.body()).unwrap())
    }

    async fn waiting(&self) -> u64 {
        self.world.waiting(&*self.clock).await.waiting
    }

    fn signed(&self, body: &Value) -> Request<Full<bytes::Bytes>> {
        signed(SECRET, "msg-1", self.clock.now(), JSON, body.to_string().as_bytes())
    }
}

fn signature(secret: &str, id: &str, time: Timestamp, body: &[u8]) -> String {
    azul_vt::webhook::sign(secret, id, time, body).unwrap()
}

fn signed(
    secret: &str,
    id: &str,
    time: Timestamp,
    content_type: &str,
    body: &[u8],
) -> Request<Full<bytes::Bytes>> {
    Request::post("/")
        .header("content-type", content_type)
        .header("webhook-id", id)
        .header("webhook-timestamp", time.as_second().to_string())
        .header("webhook-signature", signature(secret, id, time, body))
        .body(Full::from(body.to_vec()))
        .unwrap()
}

/// 100 events: 60 to look up (50 distinct hashes), and 40 of all kinds that are not.
fn hundred() -> (Vec<Value>, Vec<&'static str>) {
    let change = |n: usize, change: &dyn Fn(&mut Value)| {
        let mut event = event(n);
        change(&mut event);
        event
    };
    let mut events = Vec::new();
    for n in 0..100 {
        let (event, outcome) = match n % 10 {
            0..=4 => (event(n / 10 * 5 + n % 10), "accepted"),
            // The same file from somewhere else.
            5 => (
                change(n / 10 * 5, &|e| e["source"]["references"] = json!({"case": "7"})),
                "accepted",
            ),
            6 => (change(n, &|e| e["source"]["name"] = json!("virustotal")), "ignored"),
            7 => (change(n, &|e| e["action"] = json!("mapped")), "ignored"),
            8 => (change(n, &|e| e["author"]["name"] = json!("VirustotalFileLookup")), "ignored"),
            _ => (change(n, &|e| e["source"] = json!("broken")), "rejected"),
        };
        events.push((event, outcome));
    }
    events.into_iter().unzip()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_mixed_events_have_exact_outcomes_and_each_hash_is_asked_for_once() {
    let door = Door::new(SECRET).await;
    for n in (0..50).filter(|n| n % 2 == 0) {
        door.world.knows(n);
    }
    let (events, expected) = hundred();
    let (status, answer) = door.send(door.signed(&json!(events))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let outcomes: Vec<_> = answer["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, expected);
    assert_eq!((&answer["accepted"], &answer["ignored"]), (&json!(60), &json!(30)));
    assert_eq!(answer["rejected"], json!(10));
    assert!(answer["events"][6]["reason"].as_str().unwrap().contains("LOOKUP_SOURCES"));
    let clock = &door.clock;
    while door.waiting().await > 0 {
        door.query.drain(false, &no_limits()).await.unwrap();
        clock.on(jiff::SignedDuration::from_secs(2));
    }
    let asked = door.world.virustotal.reports_asked();
    assert_eq!(asked.len(), 50);
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 50);
    let mut statuses: Vec<(String, String)> =
        door.world.statuses().into_iter().map(|(hash, status, _)| (hash, status)).collect();
    statuses.sort();
    let mut wanted: Vec<(String, String)> = (0..50)
        .flat_map(|n| {
            let status = if n % 2 == 0 { "completed" } else { "opt-out" };
            let times = if n % 5 == 0 { 2 } else { 1 };
            vec![(sha256(n), status.to_owned()); times]
        })
        .collect();
    wanted.sort();
    assert_eq!(statuses, wanted);
    assert_eq!(door.world.dispatcher.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_id_queues_nothing() {
    let door = Door::new(SECRET).await;
    let request = || door.signed(&json!([event(1)]));
    assert_eq!(door.send(request()).await.0, StatusCode::ACCEPTED);
    let (status, answer) = door.send(request()).await;
    assert_eq!((status, answer), (StatusCode::ACCEPTED, json!({"duplicate": true})));
    door.query.drain(false, &no_limits()).await.unwrap();
    assert_eq!(door.send(request()).await.1, json!({"duplicate": true}));
    assert_eq!(door.waiting().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_queueing_and_answering_costs_nothing() {
    let door = Door::new(SECRET).await;
    assert_eq!(door.send(door.signed(&json!([event(1)]))).await.0, StatusCode::ACCEPTED);
    // As if the process had died before the id was remembered; the sender sends again.
    door.query.common().store.memory.forget("webhook", "query/msg-1").await.unwrap();
    assert_eq!(door.send(door.signed(&json!([event(1)]))).await.0, StatusCode::ACCEPTED);
    assert_eq!(door.waiting().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_and_queue_nothing() {
    let door = Door::new(SECRET).await;
    let body = json!([event(1)]).to_string();
    let now = door.clock.now();
    let at = |minutes: i64| now + jiff::SignedDuration::from_mins(minutes);
    let unsigned = Request::post("/").header("content-type", JSON).body(Full::from(body.clone()));
    let mut other_body = signed(SECRET, "msg", now, JSON, body.as_bytes());
    *other_body.body_mut() = Full::from(body.replacen('a', "b", 1));
    let mut twice = signed(SECRET, "msg", now, JSON, body.as_bytes());
    let more = twice.headers()["webhook-signature"].clone();
    twice.headers_mut().append("webhook-signature", more);
    let mut two_ids = signed(SECRET, "msg", now, JSON, body.as_bytes());
    two_ids.headers_mut().append("webhook-id", "other".parse().unwrap());
    let mut let_in =
        Request::post("/").header("content-type", JSON).body(Full::from(body.clone())).unwrap();
    let_in.extensions_mut().insert(PreAuthenticated);
    let strangers = [
        ("no signature", unsigned.unwrap()),
        ("a wrong secret", signed(OTHER_SECRET, "msg", now, JSON, body.as_bytes())),
        ("old", signed(SECRET, "msg", at(-6), JSON, body.as_bytes())),
        ("from the future", signed(SECRET, "msg", at(6), JSON, body.as_bytes())),
        ("a body changed by one byte", other_body),
        ("two signatures", twice),
        ("two ids", two_ids),
        ("let in without a signature, where there are secrets", let_in),
    ];
    let mut answers = BTreeSet::new();
    for (what, request) in strangers {
        let (status, answer) = door.send(request).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}");
        answers.insert(answer.to_string());
    }
    assert_eq!(answers.len(), 1, "one opaque answer");
    assert_eq!(door.waiting().await, 0);
    // Within the tolerance it is fine.
    let late = signed(SECRET, "msg", at(-4), JSON, body.as_bytes());
    assert_eq!(door.send(late).await.0, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_rotation_both_secrets_count() {
    let door = Door::new(&format!("{OTHER_SECRET},{SECRET}")).await;
    let body = json!([event(1)]).to_string();
    for (secret, id) in [(SECRET, "one"), (OTHER_SECRET, "two")] {
        let request = signed(secret, id, door.clock.now(), JSON, body.as_bytes());
        assert_eq!(door.send(request).await.0, StatusCode::ACCEPTED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_said_so() {
    let door = Door::new(SECRET).await;
    let now = door.clock.now();
    let big = vec![b' '; 7 * 1024 * 1024];
    for (what, request, expected) in [
        ("7 MB", signed(SECRET, "a", now, JSON, &big), StatusCode::PAYLOAD_TOO_LARGE),
        ("text", signed(SECRET, "b", now, "text/plain", b"[]"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("no JSON", signed(SECRET, "c", now, JSON, b"[{"), StatusCode::BAD_REQUEST),
        ("no events", signed(SECRET, "d", now, JSON, b"{}"), StatusCode::BAD_REQUEST),
        ("no Avro", signed(SECRET, "e", now, "application/avro", b"[]"), StatusCode::BAD_REQUEST),
        ("GET", Request::get("/").body(Full::default()).unwrap(), StatusCode::OK),
        ("PUT", Request::put("/").body(Full::default()).unwrap(), StatusCode::METHOD_NOT_ALLOWED),
        ("a path", Request::post("/x").body(Full::default()).unwrap(), StatusCode::NOT_FOUND),
    ] {
        let (status, answer) = door.send(request).await;
        assert_eq!(status, expected, "{what} {answer}");
    }
    assert_eq!(door.waiting().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_of_every_version_is_taken() {
    let door = Door::new(SECRET).await;
    let input: BinaryEvent = serde_json::from_value(event(1)).unwrap();
    for version in [4, 5, 6] {
        let (body, id) = (avro_of(version, &input), version.to_string());
        let request = signed(SECRET, &id, door.clock.now(), "application/avro", &body);
        let (status, answer) = door.send(request).await;
        assert_eq!((status, &answer["accepted"]), (StatusCode::ACCEPTED, &json!(1)), "{answer}");
    }
    assert_eq!(door.waiting().await, 3);
}

/// Returns a bulk Avro message of a model version. The message begins with the version, and so does each event. Version
/// 4 has the layout of version 5.
fn avro_of(version: i64, input: &BinaryEvent) -> Vec<u8> {
    let written = if version == 6 { ModelVersion::V6 } else { ModelVersion::V5 };
    let (mut one, mut body) = (Vec::new(), Vec::new());
    avro::encode_binary(input, written, &mut one);
    avro::bulk(written, &[&one], &mut body);
    if version == 4 {
        // Avro writes n as 2 n.
        assert_eq!((body[0], one[0]), (10, 10));
        body[0] = 8;
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_urls_base64_is_taken_off_before_the_signature_is_checked() {
    let door = Door::new(SECRET).await;
    let input: BinaryEvent = serde_json::from_value(event(1)).unwrap();
    let body = avro_of(6, &input);
    let request = signed(SECRET, "msg", door.clock.now(), "application/avro", &body);
    let mut posted = crate::world::example("webhook_binary");
    posted["requestContext"]["authorizer"] = Value::Null;
    for (name, value) in request.headers() {
        posted["headers"][name.as_str()] = json!(value.to_str().unwrap());
    }
    posted["body"] = json!(base64::engine::general_purpose::STANDARD.encode(&body));
    for (is_base64, expected) in [(true, StatusCode::ACCEPTED), (false, StatusCode::UNAUTHORIZED)] {
        posted["isBase64Encoded"] = json!(is_base64);
        let request = azul_vt::lambda::webhook(&posted).unwrap().unwrap();
        assert_eq!(door.send(request).await.0, expected);
    }
    assert_eq!(door.waiting().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_secrets_only_those_are_taken_who_were_let_in() {
    let door = Door::new("").await;
    let request = || {
        let body = json!({"events": [event(1)]}).to_string();
        Request::post("/").header("content-type", JSON).body(Full::from(body)).unwrap()
    };
    assert_eq!(door.send(request()).await.0, StatusCode::UNAUTHORIZED);
    let mut let_in = request();
    let_in.extensions_mut().insert(PreAuthenticated);
    assert_eq!(door.send(let_in).await.0, StatusCode::ACCEPTED);
    // The same body is the same request.
    let mut again = request();
    again.extensions_mut().insert(PreAuthenticated);
    assert_eq!(door.send(again).await.1, json!({"duplicate": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_a_webhook_is_taken_from_whom_iam_let_in() {
    let door = Door::new("").await;
    let request = azul_vt::lambda::webhook(&crate::world::example("webhook_binary")).unwrap();
    let (status, answer) = door.send(request.unwrap()).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let outcomes: Vec<_> =
        answer["events"].as_array().unwrap().iter().map(|e| e["outcome"].clone()).collect();
    assert_eq!(outcomes, ["accepted", "accepted", "ignored", "rejected"]);
    assert_eq!(door.waiting().await, 2);
}
