//! Streams on their way up to the dispatcher, and the requests that lead to them.

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Client, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sim::{Dispatcher, Fault, Model, lookup};

fn url(dispatcher: &Dispatcher) -> String {
    format!("{}/api/v3/stream/virustotal/content", dispatcher.url())
}

async fn put(dispatcher: &Dispatcher, body: impl Into<Body>) -> reqwest::Result<Response> {
    Client::new().post(url(dispatcher)).body(body).send().await
}

#[tokio::test]
async fn uploads_are_counted_as_begun_and_as_stored() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let sha256 = hex::encode(Sha256::digest("%PDF-1.7"));
    for _ in 0..2 {
        assert_eq!(put(&dispatcher, "%PDF-1.7").await.unwrap().status(), 200);
    }
    assert_eq!(put(&dispatcher, "").await.unwrap().status(), 400);
    let text = |text: &str| text.to_owned();
    let stored = (text("virustotal"), text("content"), sha256.clone(), 8);
    assert_eq!(dispatcher.stream_sizes(), [stored]);
    assert_eq!((dispatcher.upload_attempts(), dispatcher.uploads()), (3, 2));
    assert_eq!(dispatcher.stream("virustotal", "content", &sha256).unwrap(), "%PDF-1.7");
}

/// Sends what begins as an upload, and nothing more; waits until the dispatcher has closed.
fn break_off(dispatcher: &Dispatcher, framing: &str, body: &str) {
    let address = dispatcher.url().replace("http://", "");
    let mut connection = TcpStream::connect(&address).unwrap();
    let path = "/api/v3/stream/virustotal/content";
    let request = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n{framing}\r\n\r\n{body}");
    connection.write_all(request.as_bytes()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    // The dispatcher may close with an answer or with a reset.
    let _ = connection.read_to_end(&mut Vec::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_stores_nothing() {
    let dispatcher = Dispatcher::start().await.unwrap();
    dispatcher.fail_uploads(&Fault::answer(503, "busy"), 1);
    break_off(&dispatcher, "content-length: 1000", "half");
    break_off(&dispatcher, "transfer-encoding: chunked", "4\r\nhalf\r\n");
    let pieces = [Ok(Bytes::from_static(b"half")), Err("the client gives up")];
    assert!(put(&dispatcher, Body::wrap_stream(stream::iter(pieces))).await.is_err());
    assert_eq!(dispatcher.uploads(), 0);
    assert_eq!(dispatcher.streams(), Vec::new());
    assert!(dispatcher.upload_attempts() >= 2);
    assert_eq!(dispatcher.faults_left(), 1, "such an upload meets no fault");
}

#[tokio::test]
async fn a_large_upload_is_measured_and_hashed_but_not_kept() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let piece = Bytes::from(vec![b'M'; 1 << 20]);
    let mut hash = Sha256::new();
    for _ in 0..65 {
        hash.update(&piece);
    }
    let sha256 = hex::encode(hash.finalize());
    let pieces = std::iter::repeat_n(Ok::<_, Infallible>(piece), 65);
    let answer = put(&dispatcher, Body::wrap_stream(stream::iter(pieces))).await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(
        (&answer["data"]["sha256"], &answer["data"]["size"]),
        (&json!(sha256), &json!(65 << 20))
    );
    assert_eq!(dispatcher.stream_sizes()[0].3, 65 << 20);
    assert_eq!(dispatcher.stream("virustotal", "content", &sha256), None);
    let url = format!("{}/{sha256}", url(&dispatcher));
    let head = Client::new().head(&url).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &"68157440".parse().unwrap())
    );
    let get = reqwest::get(&url).await.unwrap();
    assert_eq!(get.status(), 500);
    assert!(get.text().await.unwrap().contains("keeps 67108864 bytes"));
}

#[tokio::test]
async fn uploads_fail_on_demand_before_streams_do_and_alone() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let sha256 = dispatcher.put_stream("virustotal", "content", "there");
    dispatcher.fail_streams(&Fault::answer(500, "disk"), 2);
    dispatcher.fail_uploads(&Fault::answer(503, "busy"), 1);
    dispatcher.fail_uploads(&Fault::Reset, 1);
    let get = || reqwest::get(format!("{}/{sha256}", url(&dispatcher)));
    assert_eq!(get().await.unwrap().status(), 500);
    assert_eq!(put(&dispatcher, "abc").await.unwrap().status(), 503);
    assert!(put(&dispatcher, "abc").await.is_err());
    assert_eq!(put(&dispatcher, "abc").await.unwrap().status(), 500);
    assert_eq!((dispatcher.upload_attempts(), dispatcher.uploads()), (3, 0));
    dispatcher.fail_uploads(&Fault::Lost, 1);
    assert_eq!(get().await.unwrap().status(), 200);
    assert!(put(&dispatcher, "abc").await.is_err());
    assert_eq!((dispatcher.uploads(), dispatcher.faults_left()), (1, 0));
}

#[tokio::test]
async fn requests_for_downloads_are_events_that_the_dispatcher_takes() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let event = lookup::download_event(&lookup::sha256(1), "rules/one", 5);
    assert_eq!(event, lookup::download_event(&lookup::sha256(1), "rules/one", 5));
    assert_ne!(
        event["kafka_key"],
        lookup::download_event(&lookup::sha256(1), "rules/two", 5)["kafka_key"]
    );
    let url = format!("{}/api/v2/event?model=download", dispatcher.url());
    let answer = Client::new().post(url).body(event.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let arrived = dispatcher.arrived();
    assert_eq!(arrived.problems, Vec::<String>::new());
    assert_eq!(arrived.count(Model::Download, "requested"), 1);
    assert_eq!(arrived.downloads()[0].category, "rules/one");
    assert_eq!(arrived.of(Model::Download).next().unwrap().event["entity"], event["entity"]);
}
