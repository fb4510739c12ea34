//! Polling a dispatcher over HTTP.

use std::{collections::BTreeSet, time::Duration};

use azul_vt::azul::{
    dispatcher::{BodyFormat, Dispatcher, DispatcherOptions, Model},
    event::BinaryEvent,
    incoming,
    poll::{EventText, Poll, PollError, Polled},
};
use serde_json::{Value, json};
use sim::Fault;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const NAME: &str = "VirustotalFileLookup";

fn client(dispatcher: &sim::Dispatcher) -> Dispatcher {
    let url = dispatcher.url().parse().unwrap();
    Dispatcher::new(reqwest::Client::new(), url, DispatcherOptions::default())
}

fn event(n: usize, source: &str, author: &str, action: &str) -> Value {
    let sha256 = format!("{n:064x}");
    let author = json!({"name": author, "category": "plugin"});
    json!({
        "model_version": 6, "kafka_key": "", "timestamp": "2026-11-24T08:00:00Z",
        "author": author, "action": action,
        "source": {
            "name": source, "timestamp": "2026-11-24T08:00:00Z",
            "path": [{"author": author, "action": action, "sha256": sha256,
                      "timestamp": "2026-11-24T08:00:00Z"}],
        },
        "entity": {
            "sha256": sha256,
            "datastreams": [{"label": "content", "sha256": sha256, "size": 5}],
        },
    })
}

async fn post(client: &Dispatcher, events: &[Value]) {
    let body = serde_json::to_vec(events).unwrap().into();
    client.post(Model::Binary, body, BodyFormat::Json).await.unwrap();
}

/// Polls once. Returns the outcome and the events.
async fn ask(client: &Dispatcher, poll: &Poll<'_>) -> (Result<Polled, PollError>, Vec<Value>) {
    let mut events = Vec::new();
    let mut take =
        |text: EventText<'_>| events.push(serde_json::from_slice(text.unwrap()).unwrap());
    let polled = client.poll(poll, &mut take).await;
    (polled, events)
}

/// Polls once and returns the events.
async fn events(client: &Dispatcher, poll: &Poll<'_>) -> Vec<Value> {
    let (polled, events) = ask(client, poll).await;
    assert_eq!(polled.unwrap().events, events.len());
    events
}

fn poll(sources: &BTreeSet<String>, seconds: u64) -> Poll<'_> {
    Poll {
        model: Model::Binary,
        name: NAME,
        sources,
        actions: &["sourced", "extracted"],
        count: 100,
        deadline: Duration::from_secs(seconds),
    }
}

#[tokio::test]
async fn a_poll_gives_what_was_posted_since_the_group_began_each_event_once() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    dispatcher.register_source("incidents");
    dispatcher.register_source("other");
    let client = client(&dispatcher);
    let sources = BTreeSet::from(["incidents".to_owned()]);
    assert!(events(&client, &poll(&sources, 1)).await.is_empty());
    post(
        &client,
        &[
            event(1, "incidents", "someone", "sourced"),
            event(2, "incidents", NAME, "sourced"),
            event(3, "other", "someone", "sourced"),
            event(4, "incidents", "someone", "extracted"),
        ],
    )
    .await;
    let (polled, given) = ask(&client, &poll(&sources, 1)).await;
    assert!(!polled.unwrap().paused);
    let given: Vec<BinaryEvent> =
        given.into_iter().map(|e| incoming::from_value(e).unwrap()).collect();
    let hashes: Vec<&str> = given.iter().map(|e| e.entity.sha256.as_str()).collect();
    assert_eq!(hashes, [format!("{:064x}", 1), format!("{:064x}", 4)]);
    assert!(given.iter().all(|e| e.dequeued.contains(NAME)));
    assert!(events(&client, &poll(&sources, 1)).await.is_empty());
}

#[tokio::test]
async fn a_deadline_of_nothing_is_a_second_because_zero_would_never_be_answered() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    let sources = BTreeSet::new();
    assert!(events(&client(&dispatcher), &poll(&sources, 0)).await.is_empty());
}

#[tokio::test]
async fn a_paused_azul_says_so() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    dispatcher.set_paused(true);
    let sources = BTreeSet::new();
    assert!(ask(&client(&dispatcher), &poll(&sources, 1)).await.0.unwrap().paused);
}

#[tokio::test]
async fn a_group_that_has_no_place_yet_is_not_ready() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    let (client, sources) = (client(&dispatcher), BTreeSet::new());
    let part = |name: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    for (info, ready) in [(r#"{"ready":false}"#, false), (r#"{"ready":true}"#, true), ("{}", true)]
    {
        let body = part("info", info) + &part("events", r#"{"events":[]}"#) + "--b--\r\n";
        let headers = vec![("content-type".into(), "multipart/form-data; boundary=b".into())];
        dispatcher.fail_polls(&Fault::Answer { status: 200, headers, body }, 1);
        assert_eq!(ask(&client, &poll(&sources, 1)).await.0.unwrap().ready, ready, "{info}");
    }
}

#[tokio::test]
async fn errors_and_nonsense_are_errors() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    let client = client(&dispatcher);
    let sources = BTreeSet::new();
    dispatcher.fail_polls(&Fault::answer(500, "kafka is away"), 1);
    let error = ask(&client, &poll(&sources, 1)).await.0.unwrap_err();
    assert!(matches!(error, PollError::Refused { status: 500, .. }), "{error}");
    assert!(error.is_transient());
    for nonsense in ["", "no form", "--x\r\n\r\n"] {
        dispatcher.fail_polls(&Fault::answer(200, nonsense), 1);
        let error = ask(&client, &poll(&sources, 1)).await.0.unwrap_err();
        assert!(matches!(error, PollError::NoAnswer { .. }), "{nonsense} {error}");
    }
    dispatcher.fail_polls(&Fault::TruncateBody, 1);
    assert!(ask(&client, &poll(&sources, 1)).await.0.unwrap_err().is_transient());
    // The dispatcher refuses actions for other models, so they are not sent.
    let downloads = Poll { model: Model::Download, ..poll(&sources, 1) };
    assert!(events(&client, &downloads).await.is_empty());
}

#[tokio::test]
async fn an_answer_that_breaks_off_gives_the_events_before_and_says_how_many_are_lost() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    dispatcher.register_source("incidents");
    let (client, sources) = (client(&dispatcher), BTreeSet::new());
    assert!(events(&client, &poll(&sources, 1)).await.is_empty());
    let posted: Vec<Value> = (0..10).map(|n| event(n, "incidents", "someone", "sourced")).collect();
    post(&client, &posted).await;
    dispatcher.fail_polls(&Fault::ResetInBody, 1);
    let (polled, given) = ask(&client, &poll(&sources, 1)).await;
    let error = polled.unwrap_err();
    let PollError::BrokenOff { read, announced: 10, .. } = error else { panic!("{error}") };
    assert_eq!(read, given.len());
    assert!((1..10).contains(&read), "{read}");
    assert!(error.is_transient());
}

/// Starts a server that answers a poll with `count` events of `length` bytes, made while they are sent.
async fn large_answer(count: usize, length: usize) -> Dispatcher {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        let part =
            |name: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: multipart/form-data; boundary=b\r\n\
             Connection: close\r\n\r\n{}{{\"fetched\":{count}}}\r\n{}{{\"events\":[",
            part("info"),
            part("events")
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let filler = "x".repeat(length);
        for n in 0..count {
            let comma = if n == 0 { "" } else { "," };
            let event = format!("{comma}{{\"n\":{n},\"filler\":\"{filler}\"}}");
            stream.write_all(event.as_bytes()).await.unwrap();
        }
        stream.write_all(b"]}\r\n--b--\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    Dispatcher::new(reqwest::Client::new(), url, DispatcherOptions::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_any_size_is_read_event_by_event() {
    // The answer has 300 MB, of which one event is in memory at a time.
    let client = large_answer(100, 3_000_000).await;
    let sources = BTreeSet::new();
    let mut seen = 0;
    let mut take = |text: EventText<'_>| {
        assert!(text.unwrap().starts_with(format!("{{\"n\":{seen},").as_bytes()));
        seen += 1;
    };
    let polled = client.poll(&poll(&sources, 30), &mut take).await.unwrap();
    assert_eq!((seen, polled.events), (100, 100));
    assert!((3_000_000..3_000_100).contains(&polled.largest), "{}", polled.largest);
}
