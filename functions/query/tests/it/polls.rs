//! The dispatcher hands an event out once, so polled events must outlive a state that fails for a while.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    azul::dispatcher::{BodyFormat, Model},
    pipeline::assemble,
    store::{
        SystemClock,
        rejects::{MAX_KEPT, RejectStage, Rejects},
    },
    tasks::{EventFunction as _, TasksError},
};
use query::Query;
use serde_json::{Value, json};
use sim::lookup::{event, sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::world::{Moved, World, no_limits};

/// Makes the state refuse items that mention a file, as a full disk would.
struct FullDisk(rusqlite::Connection);

impl FullDisk {
    fn of(world: &World, about: &str) -> Self {
        let state = rusqlite::Connection::open(world.state.path().join("state.sqlite")).unwrap();
        let trigger = format!(
            "CREATE TRIGGER full BEFORE INSERT ON inbox WHEN NEW.body LIKE '%{about}%'
             BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        );
        state.execute_batch(&trigger).unwrap();
        Self(state)
    }

    fn ends(self) {
        self.0.execute_batch("DROP TRIGGER full").unwrap();
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Lets the dispatcher hand out `events` events to the next poll.
async fn post(query: &Query, events: usize) {
    // A consumer group begins with its first poll.
    query.poll(SECOND, &no_limits()).await.unwrap();
    let client = assemble::dispatcher(&query.common().settings).unwrap();
    let events: Vec<Value> = (0..events).map(event).collect();
    let body = json!(events).to_string().into();
    client.post(Model::Binary, body, BodyFormat::Json).await.unwrap();
}

async fn waiting(world: &World) -> u64 {
    world.waiting(&SystemClock).await.waiting
}

async fn until_waiting(world: &World, events: u64) {
    for _ in 0..600 {
        if waiting(world).await == events {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} wait", waiting(world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_event_that_cannot_be_kept_yet_holds_up_no_other_and_is_kept_later() {
    let world = World::new().await;
    let query = Arc::new(world.query());
    post(&query, 20).await;
    let disk = FullDisk::of(&world, &sha256(7));
    let polling = {
        let query = Arc::clone(&query);
        tokio::spawn(async move { query.poll(SECOND, &no_limits()).await })
    };
    until_waiting(&world, 19).await;
    // The event is put again and again, and no more events are polled.
    tokio::time::sleep(SECOND).await;
    assert!(!polling.is_finished());
    disk.ends();
    let accepted = polling.await.unwrap().unwrap().unwrap();
    assert_eq!(accepted.accepted, 20);
    assert_eq!(waiting(&world).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn polled_events_outlive_a_run_that_could_not_keep_them() {
    let world = World::new().await;
    let query = Arc::new(world.query());
    post(&query, 5).await;
    let disk = FullDisk::of(&world, "");
    let limits = no_limits();
    let polling = {
        let (query, limits) = (Arc::clone(&query), limits.clone());
        tokio::spawn(async move { query.poll(SECOND, &limits).await })
    };
    tokio::time::sleep(2 * SECOND).await;
    assert!(!polling.is_finished());
    // The last try fails too. The next run of the process begins with these events.
    limits.stop.cancel();
    polling.await.unwrap().unwrap();
    assert_eq!(waiting(&world).await, 0);
    disk.ends();
    query.poll(SECOND, &no_limits()).await.unwrap();
    assert_eq!(waiting(&world).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_of_an_answer_that_breaks_off_is_kept() {
    let world = World::new().await;
    let query = world.query();
    post(&query, 20).await;
    world.dispatcher.fail_polls(&sim::Fault::ResetInBody, 1);
    let error = query.poll(SECOND, &no_limits()).await.unwrap_err();
    assert!(matches!(&error, TasksError::Poll(e) if e.is_transient()), "{error:?}");
    let kept = waiting(&world).await;
    assert!((1..20).contains(&kept), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_answer_that_broke_off_the_next_poll_asks_for_half_as_many() {
    let world = World::new().await;
    let query = world.query_with(|settings| settings.lookup.windows.clear());
    post(&query, 45).await;
    // The first poll asks for 21 events, because their sizes are not known yet.
    world.dispatcher.fail_polls(&sim::Fault::ResetInBody, 1);
    query.poll(SECOND, &no_limits()).await.unwrap_err();
    // A whole answer lets the polls grow again.
    for events in [10, 14] {
        let accepted = query.poll(SECOND, &no_limits()).await.unwrap().unwrap();
        assert_eq!(accepted.accepted, events);
    }
}

/// Starts a server that answers each poll with these events, whatever they are. Returns its URL.
async fn answers_polls(events: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let part =
        |name: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n\r\n\
         {}{{\"fetched\":{}}}\r\n{}{{\"events\":[{}]}}\r\n--b--\r\n",
        part("info"),
        events.len(),
        part("events"),
        events.join(",")
    );
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_event_that_cannot_be_read_is_kept_with_its_reason() {
    let world = World::new().await;
    let mut newer = event(1);
    newer["model_version"] = json!(9);
    let long = format!("\"{}\"", "x".repeat(17 * 1024 * 1024));
    let events = [event(0).to_string(), newer.to_string(), "{\"a\":1}".into(), long];
    let url = answers_polls(events.into()).await;
    // The clock stands still: what comes in the same second must not replace what came before.
    let query = world.query_at(Moved::new(), &[("PLUGIN_EVENTS_URL", &url)]);
    for _ in 0..2 {
        let accepted = query.poll(SECOND, &no_limits()).await.unwrap().unwrap();
        assert_eq!((accepted.accepted, accepted.rejected), (1, 3));
    }
    let rejects = Rejects::new(Arc::clone(&world.store().bundles));
    let mut kept = Vec::new();
    for object in rejects.list().await.unwrap() {
        assert!(object.key.starts_with("rejects/inbox/query/"), "{}", object.key);
        kept.extend(rejects.read(&object.key).await.unwrap().unwrap());
    }
    assert_eq!(kept.len(), 6);
    assert!(kept.iter().all(|reject| reject.stage == RejectStage::Polled));
    let of = |word: &str| {
        let found: Vec<_> = kept.iter().filter(|reject| reject.reason.contains(word)).collect();
        assert_eq!(found.len(), 2, "{word}");
        found[0].clone()
    };
    assert_eq!(of("model_version 9").record, newer.to_string());
    assert_eq!(of("missing field").record, "{\"a\":1}");
    let long = of("17825794 bytes");
    assert!(long.cut && long.record.len() <= MAX_KEPT && long.record.starts_with("\"xxx"));
}
