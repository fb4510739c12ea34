//! Polling a dispatcher over HTTP.

use std::{collections::BTreeSet, time::Duration};

use azul_vt::azul::{
    dispatcher::{BodyFormat, Dispatcher, DispatcherOptions, Model},
    event::BinaryEvent,
    incoming,
    poll::{Poll, PollError},
};
use serde_json::{Value, json};
use sim::Fault;

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
    assert!(client.poll(&poll(&sources, 1)).await.unwrap().events.is_empty());
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
    let polled = client.poll(&poll(&sources, 1)).await.unwrap();
    assert!(!polled.paused);
    let events: Vec<BinaryEvent> =
        polled.events.into_iter().map(|e| incoming::from_value(e).unwrap()).collect();
    let hashes: Vec<&str> = events.iter().map(|e| e.entity.sha256.as_str()).collect();
    assert_eq!(hashes, [format!("{:064x}", 1), format!("{:064x}", 4)]);
    assert!(events.iter().all(|e| e.dequeued.contains(NAME)));
    assert!(client.poll(&poll(&sources, 1)).await.unwrap().events.is_empty());
}

#[tokio::test]
async fn a_deadline_of_nothing_is_a_second_because_zero_would_never_be_answered() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    let sources = BTreeSet::new();
    assert!(client(&dispatcher).poll(&poll(&sources, 0)).await.unwrap().events.is_empty());
}

#[tokio::test]
async fn a_paused_azul_says_so() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    dispatcher.set_paused(true);
    let sources = BTreeSet::new();
    assert!(client(&dispatcher).poll(&poll(&sources, 1)).await.unwrap().paused);
}

#[tokio::test]
async fn errors_and_nonsense_are_errors() {
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    let client = client(&dispatcher);
    let sources = BTreeSet::new();
    dispatcher.fail_polls(&Fault::answer(500, "kafka is away"), 1);
    let error = client.poll(&poll(&sources, 1)).await.unwrap_err();
    assert!(matches!(error, PollError::Refused { status: 500, .. }), "{error}");
    assert!(error.is_transient());
    for nonsense in ["", "no form", "--x\r\n\r\n"] {
        dispatcher.fail_polls(&Fault::answer(200, nonsense), 1);
        let error = client.poll(&poll(&sources, 1)).await.unwrap_err();
        assert!(matches!(error, PollError::NoAnswer { .. }), "{nonsense} {error}");
    }
    dispatcher.fail_polls(&Fault::TruncateBody, 1);
    assert!(client.poll(&poll(&sources, 1)).await.unwrap_err().is_transient());
    // Actions are refused by the dispatcher for other models; they are not sent.
    let downloads = Poll { model: Model::Download, ..poll(&sources, 1) };
    assert!(client.poll(&downloads).await.unwrap().events.is_empty());
}
