//! Metrics at a Pushgateway.

use jiff::Timestamp;
use sim::feed::Style;

use crate::{
    commands::MINUTE,
    running::Running,
    served::{Stage, output, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_load_pushes_what_it_did_and_how_far_it_is() {
    let (stage, gateway) = (Stage::new().await, sim::Gateway::start().await.unwrap());
    stage.generate(7);
    let load = |gateway: &str| {
        let mut command = stage.vt(&["load"]);
        command
            .env("PLUGIN_PROMETHEUS_PUSH_GATEWAY", gateway)
            .env("FEED_BACKLOG_HOURS", "1")
            .env("PACKAGE_LIMIT", "1");
        command
    };
    let ran = output(load(&gateway.url())).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let groups = gateway.pushed();
    let pushed = &groups["job/virustotal_plugin/function/load"];
    for (sample, value) in [
        ("virustotal_plugin_bundles_total{outcome=\"loaded\"}", 1),
        ("virustotal_plugin_records_total", 7),
        ("virustotal_plugin_events_total{outcome=\"delivered\"}", 7),
        ("virustotal_plugin_events_total{outcome=\"rejected\"}", 0),
        ("virustotal_plugin_download_requests_total", 0),
        ("virustotal_plugin_gaps", 0),
    ] {
        assert_eq!(pushed.samples.get(sample), Some(&value), "{sample} {pushed:?}");
    }
    let loaded = pushed.samples["virustotal_plugin_last_loaded_minute_timestamp_seconds"];
    let lag = pushed.samples["virustotal_plugin_lag_seconds"];
    let now = Timestamp::now().as_second();
    assert!(loaded + lag <= now && loaded + lag > now - 600, "{pushed:?}");
    assert!((3600..7200).contains(&lag), "{pushed:?}");
    assert_eq!(pushed.types["virustotal_plugin_records_total"], "counter");
    stands_in_readme(pushed);
    let pushed_last = pushed.samples["virustotal_plugin_last_ingested_timestamp"];
    assert!(pushed_last > 1_700_000_000_000, "{pushed:?}");

    // A run with nothing to do takes nothing back.
    stage.virustotal.set_unknown(sim::Unknown::NotAvailableYet);
    let ran = output(load(&gateway.url())).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let groups = gateway.pushed();
    let after = &groups["job/virustotal_plugin/function/load"];
    let last = "virustotal_plugin_last_ingested_timestamp";
    assert_eq!(after.samples[last], pushed_last, "{after:?}");
    assert_eq!(after.samples["virustotal_plugin_records_total"], 0, "{after:?}");

    // Nobody there: a word, no failure, and no password in it.
    gateway.down().await;
    let ran = output(load(&gateway.url().replace("//", "//me:canary@"))).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let said = text(&ran.stderr);
    assert!(said.contains("WARN") && said.contains("PLUGIN_PROMETHEUS_PUSH_GATEWAY"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_pushes_at_its_end() {
    let (stage, gateway) = (Stage::new().await, sim::Gateway::start().await.unwrap());
    let mut command = stage.vt(&["ingest"]);
    command
        .env("PLUGIN_PROMETHEUS_PUSH_GATEWAY", gateway.url())
        .env("INGEST_LISTEN", "127.0.0.1:0")
        .env("DISPATCHER_MAX_AGE_HOURS", "-1");
    let (running, url) = Running::serve(command);
    let answer = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/json")
        .body(sim::feed::lines(1, MINUTE, 9, Style::Small))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    running.terminate();
    let (ended, said) = running.end().await;
    assert!(ended.success(), "{said}");
    let groups = gateway.pushed();
    let pushed = &groups["job/virustotal_plugin/function/ingest"];
    stands_in_readme(pushed);
    assert_eq!(pushed.samples["virustotal_plugin_records_total"], 9, "{pushed:?}");
    assert_eq!(pushed.samples["virustotal_plugin_answers_total{status=\"200\"}"], 1);
}

fn stands_in_readme(pushed: &sim::Pushed) {
    let readme = crate::commands::readme();
    for name in pushed.types.keys() {
        let row = |end| readme.contains(&format!("\n| `{name}{end}"));
        assert!(row("`") || row("{"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_pushes_and_shows_what_waits_and_the_budget() {
    let (stage, gateway) = (Stage::new().await, sim::Gateway::start().await.unwrap());
    stage.dispatcher.register_source("incidents");
    let mut command = stage.vt(&["query", "--listen"]);
    command
        .env("PLUGIN_PROMETHEUS_PUSH_GATEWAY", gateway.url())
        .env("LOOKUP_SOURCES", "incidents")
        .env("VT_REQUESTS_PER_DAY", "1")
        .env("WEBHOOK_LISTEN", "127.0.0.1:0");
    let (running, url) = Running::serve(command);
    let client = reqwest::Client::new();
    let events = serde_json::json!([sim::lookup::event(1), sim::lookup::event(2)]);
    assert_eq!(client.post(&url).json(&events).send().await.unwrap().status(), 202);
    let statuses = |arrived: &sim::Arrived| arrived.of(sim::Model::Status).count();
    stage.dispatcher.wait_until(|arrived, _| statuses(arrived) == 1).await;
    // The other one waits for tomorrow.
    let samples = [
        ("virustotal_plugin_inbox_items{state=\"waiting\"}", 1),
        ("virustotal_plugin_requests_used{window=\"day\"}", 1),
        ("virustotal_plugin_requests_allowed{window=\"day\"}", 1),
    ];
    let shown = async || {
        let shown = client.get(format!("{url}/metrics")).send().await.unwrap();
        assert_eq!(shown.status(), 200);
        shown.text().await.unwrap()
    };
    let line = |(sample, value): (&str, i64)| format!("{sample} {value}");
    while !shown().await.lines().any(|shown| shown == line(samples[0])) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let shown = shown().await;
    for sample in samples {
        assert!(shown.lines().any(|shown| shown == line(sample)), "{sample:?}: {shown}");
    }
    running.terminate();
    assert!(running.end().await.0.success());
    let groups = gateway.pushed();
    let pushed = &groups["job/virustotal_plugin/function/query"];
    for (sample, value) in samples {
        assert_eq!(pushed.samples.get(sample), Some(&value), "{sample} {pushed:?}");
    }
    stands_in_readme(pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hunt_pushes_what_it_did_and_what_is_lost() {
    let (stage, gateway) = (Stage::new().await, sim::Gateway::start().await.unwrap());
    let now = Timestamp::now().as_second();
    stage.virustotal.hit(sim::Hit::file(1, now - 60, "rule"));
    stage.virustotal.ruleset("1", "loud", true);
    let mut command = stage.vt(&["hunt"]);
    command.env("PLUGIN_PROMETHEUS_PUSH_GATEWAY", gateway.url());
    let ran = output(command).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let groups = gateway.pushed();
    let pushed = &groups["job/virustotal_plugin/function/hunt"];
    for (sample, value) in [
        ("virustotal_plugin_hits_total{outcome=\"delivered\"}", 1),
        ("virustotal_plugin_hits_total{outcome=\"requested\"}", 1),
        ("virustotal_plugin_hunt_rate_limited_rulesets", 1),
        ("virustotal_plugin_hunt_lost_hours", 0),
        ("virustotal_plugin_hunt_position_timestamp_seconds", now - 60),
    ] {
        assert_eq!(pushed.samples.get(sample), Some(&value), "{sample} {pushed:?}");
    }
    stands_in_readme(pushed);
}
