//! `vt query` and `vt quota`.

use std::process::Command;

use azul_vt::store::{
    failures::{self, Subject},
    inbox::{NewItem, Queue},
};
use serde_json::{Value, json};
use sim::lookup;

use crate::{
    running::{Running, output, text},
    served::Stage,
};

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.dispatcher.register_source("incidents");
    stage.virustotal.report(&lookup::sha256(1), lookup::report(1));
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_event_is_looked_up_and_answered_and_the_plugin_is_registered_once() {
    let stage = stage().await;
    let mut command = stage.vt(&["query", "--listen"]);
    command.env("LOOKUP_SOURCES", "incidents").env("WEBHOOK_LISTEN", "127.0.0.1:0");
    let (running, url) = Running::serve(command);
    for _ in 0..2 {
        let response = reqwest::Client::new()
            .post(&url)
            .json(&json!({"events": [lookup::event(1), lookup::event(2)]}))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 202);
    }
    let statuses = |arrived: &sim::Arrived| arrived.of(sim::Model::Status).count();
    stage.dispatcher.wait_until(|arrived, _| statuses(arrived) == 2).await;

    let second = output({
        let mut second = stage.vt(&["query"]);
        second.env("LOOKUP_SOURCES", "incidents");
        second
    });
    let second = second.await;
    assert_eq!(second.status.code(), Some(0));
    assert!(text(&second.stderr).contains("another `vt query` is at work (process "));

    running.terminate();
    let (status, said) = running.end().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("2 events done"), "{said}");
    let arrived = stage.dispatcher.arrived();
    assert_eq!(arrived.registrations().len(), 1);
    let mut asked = stage.virustotal.reports_asked();
    asked.sort();
    assert_eq!(asked, [lookup::sha256(1), lookup::sha256(2)]);
    assert_eq!(stage.virustotal.key_leaked(), Vec::<String>::new());
    assert_eq!(stage.dispatcher.problems(), Vec::<String>::new());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_called_azul_vtquery_looks_up_every_source_but_virustotals_and_says_so() {
    let stage = stage().await;
    let link = stage.state.path().join("azul-vtquery");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vt"), &link).unwrap();
    let mut command = Command::new(&link);
    for (name, value) in stage.vt(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.arg("--listen").env("WEBHOOK_LISTEN", "127.0.0.1:0").env_remove("LOOKUP_SOURCES");
    let (running, url) = Running::serve(command);
    let of = |n, source: &str| {
        let mut event = lookup::event(n);
        event["source"]["name"] = json!(source);
        event
    };
    let events = json!([of(1, "incidents"), of(2, "virustotal")]);
    let response = reqwest::Client::new().post(&url).json(&events).send().await.unwrap();
    let outcomes: Value = response.json().await.unwrap();
    assert_eq!((&outcomes["accepted"], &outcomes["ignored"]), (&json!(1), &json!(1)));
    let is_answered = |arrived: &sim::Arrived| arrived.of(sim::Model::Status).count() == 1;
    stage.dispatcher.wait_until(|arrived, _| is_answered(arrived)).await;
    running.terminate();
    let (status, said) = running.end().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(said.matches("LOOKUP_SOURCES is not set").count(), 1, "{said}");

    // Called as `vt query`, the program requires the setting.
    let mut command = stage.vt(&["query"]);
    command.env_remove("LOOKUP_SOURCES");
    let found = output(command).await;
    assert_eq!(found.status.code(), Some(2));
    assert!(text(&found.stderr).contains("LOOKUP_SOURCES is not set"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_what_waits_and_what_failed_last() {
    let stage = stage().await;
    let store = azul_vt::store::local::open(stage.state.path()).unwrap();
    let (queue, now) = (Queue::Download, jiff::Timestamp::now());
    let item = |n: u8| NewItem { id: format!("item-{n}"), body: "{}".into() };
    let hour = jiff::SignedDuration::from_hours(1);
    store.inbox.put(queue, &[item(1), item(2), item(3)], now - hour).await.unwrap();
    let items = store.inbox.take(queue, 2, hour, now).await.unwrap();
    assert!(store.inbox.bury(queue, &items[0], "it never works", now).await.unwrap());
    for (item, reason) in items.iter().zip(["it never works", "403 Forbidden"]) {
        let sha256 = lookup::sha256(7);
        let (source, category) = ("incidents".to_owned(), "rules/one".to_owned());
        let subject = Subject { sha256, source, category };
        failures::note(&store, queue, item, subject, reason, now).await;
    }

    let found = output(stage.vt(&["status", "--json"])).await;
    let told: Value = serde_json::from_slice(&found.stdout).unwrap();
    let inbox = &told["inbox"][1];
    assert_eq!(inbox["queue"], "download", "{told}");
    let counts = ["waiting", "due", "in_work", "buried"].map(|name| inbox[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1, 1]);
    assert!(inbox["oldest_seconds"].as_u64().unwrap() >= 3600, "{inbox}");
    assert_eq!(told["failures"].as_array().unwrap().len(), 2);
    assert_eq!(told["failures"][0]["category"], "rules/one");

    let found = output(stage.vt(&["status"])).await;
    let said = text(&found.stdout);
    for words in ["1 waiting (1 due, the oldest for 36", "403 Forbidden", &lookup::sha256(7)] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_of_both_sides_is_told() {
    let stage = stage().await;
    // The state that the command shows is prepared here.
    let store = azul_vt::store::local::open(stage.state.path()).unwrap();
    let limited = || {
        let mut command = stage.vt(&["quota", "--json"]);
        command.env("VT_REQUESTS_PER_MINUTE", "public");
        command
    };
    let window = azul_vt::store::budget::Window {
        name: "minute",
        length: jiff::SignedDuration::from_mins(1),
        limit: 4,
    };
    let now = jiff::Timestamp::now();
    store.budget.ask(azul_vt::store::BUDGET, &[window], now).await.unwrap();
    let found = output(limited()).await;
    assert_eq!(found.status.code(), Some(0), "{found:?}");
    let told: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(told["requests"][0]["used"], 1);
    assert_eq!(told["requests"][0]["window"]["limit"], 4);
    let daily =
        json!({"name": "api_requests_daily", "of": "user", "allowed": 1_000_000, "used": 345});
    assert!(told["virustotal"].as_array().unwrap().contains(&daily), "{told}");
    assert_eq!(stage.virustotal.key_leaked(), Vec::<String>::new());

    let mut command = stage.vt(&["quota"]);
    command.env("VT_REQUESTS_PER_MINUTE", "public");
    let found = output(command).await;
    assert!(text(&found.stdout).contains("requests in the last minute"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_inbox_took_is_put_into_it_when_it_is_tried_again() {
    let stage = stage().await;
    let store = azul_vt::store::local::open(stage.state.path()).unwrap();
    let key = "rejects/inbox/query/0a1b/000000000001.jsonl";
    let reject = json!({
        "origin": "inbox/query/0a1b", "line": 1, "stage": "item", "reason": "no",
        "now": "2026-11-24T09:00:00Z", "encoding": "text", "record": "{\"a\":1}",
    });
    store.bundles.put(key, format!("{reject}\n").as_bytes()).await.unwrap();
    // One polled event could not be read by an earlier version; the other one still cannot be used.
    let polled = "rejects/inbox/query/0c2d/000000000001.jsonl";
    let mut lines = String::new();
    for event in [lookup::event(1), json!({"a": 1})] {
        let mut line = reject.clone();
        line["origin"] = json!("inbox/query/0c2d");
        (line["stage"], line["record"]) = (json!("polled"), json!(event.to_string()));
        lines = format!("{lines}{line}\n");
    }
    store.bundles.put(polled, lines.as_bytes()).await.unwrap();
    let mut command = stage.vt(&["rejects", "retry", key, polled]);
    command.env("LOOKUP_SOURCES", "incidents");
    let found = output(command).await;
    let said = text(&found.stdout);
    assert!(said.contains("0 refused again, 1 put into the inbox"), "{found:?}");
    assert!(said.contains("1 refused again, 1 put into the inbox"), "{found:?}");
    let (now, minute) = (jiff::Timestamp::now(), jiff::SignedDuration::from_mins(1));
    let items = store.inbox.take(Queue::Query, 2, minute, now).await.unwrap();
    let [item, event] = items.as_slice() else { panic!("{items:?}") };
    assert_eq!((item.id.as_str(), item.body.as_str()), ("retried/0a1b", "{\"a\":1}"));
    assert!(event.id == "retried/0c2d" && event.body.contains(&lookup::sha256(1)), "{event:?}");
    let left = store.bundles.list("rejects/").await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].key == polled);
}
