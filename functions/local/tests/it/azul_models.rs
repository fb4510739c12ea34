//! Checks the events of every function with Azul's own models.

use jiff::Timestamp;
use serde_json::json;
use sim::{Azul, Hit, Model, feed::Style, lookup};

use crate::{
    running::{Running, output, text},
    served::Stage,
};

fn requests(arrived: &sim::Arrived) -> usize {
    arrived.of(Model::Download).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn azuls_own_models_accept_every_event_of_every_function() {
    let Some(azul) = Azul::installed().unwrap() else { return };
    let stage = Stage::new().await;
    stage.dispatcher.register_source("incidents");
    let rules = tempfile::tempdir().unwrap();
    let rule = r#"- malicious: {syntax: gjson, rule: "attributes.last_analysis_stats.malicious|@gt:0", daily_quota: 10, collect_pcap: true}"#;
    std::fs::write(rules.path().join("some.yaml"), rule).unwrap();
    let vt = |args: &[&str]| {
        let mut command = stage.vt(args);
        command
            .env("HANDLERS", "all")
            .env("DISPATCHER_MAX_AGE_HOURS", "-1")
            .env("LOOKUP_SOURCES", "incidents")
            .env("PLUGIN_DATA_URL", stage.dispatcher.url())
            .env("CONTENT_HOSTS", stage.virustotal.content_url())
            .env("WEBHOOK_LISTEN", "127.0.0.1:0")
            .env("INGEST_LISTEN", "127.0.0.1:0")
            .env("RULES_ROOT", rules.path());
        command
    };
    let client = reqwest::Client::new();

    stage.generate(60);
    let loaded = output(vt(&["load", "--from", "202611240900", "--to", "202611240901"])).await;
    assert!(loaded.status.success(), "{}", text(&loaded.stderr));

    let (running, url) = Running::serve(vt(&["ingest"]));
    let lines = (0..10).map(|n| sim::feed::record(9, "202611240902", n, Style::Real) + "\n");
    let posted = client.post(&url).header("Content-Type", "application/x-ndjson");
    let answer = posted.body(lines.collect::<String>()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    running.terminate();
    running.end().await;

    stage.virustotal.report(&lookup::sha256(1), lookup::report(1));
    let (running, url) = Running::serve(vt(&["query", "--listen"]));
    let events = json!([lookup::event(1), lookup::event(2)]);
    assert_eq!(client.post(&url).json(&events).send().await.unwrap().status(), 202);
    let statuses = |arrived: &sim::Arrived| arrived.of(Model::Status).count();
    stage.dispatcher.wait_until(|arrived, _| statuses(arrived) == 2).await;
    // Without a kill the process would go on waiting for events of the dispatcher.
    drop(running);

    stage.virustotal.hit(Hit::file(1, Timestamp::now().as_second() - 60, "rule"));
    let hunted = output(vt(&["hunt"])).await;
    assert!(hunted.status.success(), "{}", text(&hunted.stderr));

    let mut there = lookup::download_event(&stage.virustotal.sample("MZ"), "rules/a", 1);
    there["entity"]["pcap"] = json!(true);
    let sha256 = there["entity"]["hash"].as_str().unwrap();
    let capture = [&[0xd4, 0xc3, 0xb2, 0xa1][..], &[7; 40]].concat();
    stage.virustotal.behaviour(sha256, "Box", 1, Some(capture.into()));
    let missing = lookup::download_event(&lookup::sha256(9), "rules/a", 9);
    let requested = requests(&stage.dispatcher.arrived());
    let (running, url) = Running::serve(vt(&["download", "--listen"]));
    let events = json!([there, missing]);
    assert_eq!(client.post(&url).json(&events).send().await.unwrap().status(), 202);
    stage.dispatcher.wait_until(|arrived, _| requests(arrived) == requested + 2).await;
    drop(running);

    let arrived = stage.dispatcher.arrived();
    let counts = [Model::Binary, Model::Download, Model::Plugin, Model::Status]
        .map(|model| arrived.of(model).count());
    // The binary events come from the feed, a post, a lookup, a hunt and a download. Each function registers its
    // plugin.
    assert_eq!((counts[0], counts[2], counts[3]), (60 * 2 + 10 + 1 + 1 + 1, 5, 2));
    assert!(requested > 0, "the rules select something");
    let events = arrived.events.iter().map(|event| &**event);
    let complaints = tokio::task::block_in_place(|| azul.complaints(events)).unwrap();
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn azuls_own_models_complain_of_what_is_none() {
    let Some(azul) = Azul::installed().unwrap() else { return };
    let event = sim::Published {
        model: Model::Binary,
        action: String::new(),
        source: String::new(),
        key: String::new(),
        event: json!({"model_version": "six"}),
    };
    let complaints = azul.complaints([&event]).unwrap();
    assert!(
        complaints.iter().any(|c| c.starts_with("binary 0: model_version: ")),
        "{complaints:?}"
    );
}
