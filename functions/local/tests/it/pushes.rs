//! Metrics at a Pushgateway.

use jiff::Timestamp;
use sim::feed::Style;

use crate::{
    commands::MINUTE,
    running::{Running, output, text},
    served::Stage,
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
        ("virustotal_plugin_bundles_total{function=\"load\",outcome=\"loaded\"}", 1),
        ("virustotal_plugin_records_total{function=\"load\"}", 7),
        ("virustotal_plugin_events_total{function=\"load\",outcome=\"delivered\"}", 7),
        ("virustotal_plugin_events_total{function=\"load\",outcome=\"rejected\"}", 0),
        ("virustotal_plugin_download_requests_total{function=\"load\"}", 0),
        ("virustotal_plugin_gaps{function=\"load\"}", 0),
    ] {
        assert_eq!(pushed.samples.get(sample), Some(&value), "{sample} {pushed:?}");
    }
    let loaded =
        pushed.samples["virustotal_plugin_last_loaded_minute_timestamp_seconds{function=\"load\"}"];
    let lag = pushed.samples["virustotal_plugin_lag_seconds{function=\"load\"}"];
    let now = Timestamp::now().as_second();
    assert!(loaded + lag <= now && loaded + lag > now - 600, "{pushed:?}");
    assert!((3600..7200).contains(&lag), "{pushed:?}");
    assert_eq!(pushed.types["virustotal_plugin_records_total"], "counter");
    is_documented(pushed);
    let pushed_last =
        pushed.samples["virustotal_plugin_last_ingested_timestamp{function=\"load\"}"];
    assert!(pushed_last > 1_700_000_000_000, "{pushed:?}");

    // A run with nothing to do keeps the earlier timestamp.
    stage.virustotal.set_unknown(sim::Unknown::NotAvailableYet);
    let ran = output(load(&gateway.url())).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let groups = gateway.pushed();
    let after = &groups["job/virustotal_plugin/function/load"];
    let last = "virustotal_plugin_last_ingested_timestamp{function=\"load\"}";
    assert_eq!(after.samples[last], pushed_last, "{after:?}");
    assert_eq!(after.samples["virustotal_plugin_records_total{function=\"load\"}"], 0, "{after:?}");

    // If the gateway is down, the run succeeds with a warning, and the warning has no password in it.
    gateway.down().await;
    let ran = output(load(&gateway.url().replace("//", "//me:canary@"))).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let said = text(&ran.stderr);
    assert!(said.contains("WARN") && said.contains("PLUGIN_PROMETHEUS_PUSH_GATEWAY"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

/// `vt ingest` that pushes, and its address.
fn ingest(stage: &Stage, gateway: &sim::Gateway) -> (Running, String) {
    let mut command = stage.vt(&["ingest"]);
    command
        .env("PLUGIN_PROMETHEUS_PUSH_GATEWAY", gateway.url())
        .env("INGEST_LISTEN", "127.0.0.1:0")
        .env("DISPATCHER_MAX_AGE_HOURS", "-1");
    Running::serve(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_pushes_at_its_end() {
    let (stage, gateway) = (Stage::new().await, sim::Gateway::start().await.unwrap());
    let (running, url) = ingest(&stage, &gateway);
    let answer = reqwest::Client::new()
        .post(&url)
        .header("content-type", "application/json")
        .body(sim::feed::lines(1, MINUTE, 9, Style::Small))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let shown = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    assert!(shown.contains("virustotal_plugin_records_total{function=\"ingest\"} 9\n"), "{shown}");
    running.terminate();
    let (ended, said) = running.end().await;
    assert!(ended.success(), "{said}");
    let groups = gateway.pushed();
    let pushed = &groups["job/virustotal_plugin/function/ingest"];
    is_documented(pushed);
    assert_eq!(
        pushed.samples["virustotal_plugin_records_total{function=\"ingest\"}"], 9,
        "{pushed:?}"
    );
    assert_eq!(
        pushed.samples["virustotal_plugin_answers_total{function=\"ingest\",status=\"200\"}"], 2,
        "the post, and the scrape"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_at_the_signal_is_pushed_too() {
    let (stage, gateway) = (Stage::new().await, sim::Gateway::start().await.unwrap());
    let (running, url) = ingest(&stage, &gateway);
    let post = |seed| {
        let post = reqwest::Client::new().post(&url).header("content-type", "application/json");
        post.body(sim::feed::lines(seed, MINUTE, 3, Style::Small)).send()
    };
    assert_eq!(post(1).await.unwrap().status(), 200);
    stage.dispatcher.fail(&sim::Fault::Delay { ms: 700 }, 1);
    let asked_to_end = async {
        while stage.dispatcher.faults_left() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        running.terminate();
    };
    let (answer, ()) = tokio::join!(post(2), asked_to_end);
    // The delivery may have ended at the signal. The post is answered in any case, and the answer is counted.
    let status = answer.unwrap().status();
    let (ended, said) = running.end().await;
    assert!(ended.success(), "{said}");
    let groups = gateway.pushed();
    let pushed = &groups["job/virustotal_plugin/function/ingest"];
    let answers = |status| {
        let sample =
            format!("virustotal_plugin_answers_total{{function=\"ingest\",status=\"{status}\"}}");
        pushed.samples.get(&sample).copied().unwrap_or_default()
    };
    assert_eq!(answers(200) + answers(202), 2, "{status} {pushed:?}");
}

/// Asserts that every metric of a process is one of `azul_vt::metrics::all`, which docs/operations.md lists too.
fn is_documented(pushed: &sim::Pushed) {
    let known: Vec<_> = azul_vt::metrics::all().into_iter().map(|metric| metric.name).collect();
    for name in pushed.types.keys() {
        assert!(known.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn the_table_of_metrics_in_operations_md_is_that_of_the_code() {
    let names = |names: &[&str]| {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let row = |metric: &&azul_vt::metrics::Metric| {
        let labels = match metric.labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        format!("| `{}{labels}` | {} | {} |\n", metric.name, names(metric.of), metric.meaning)
    };
    let all = azul_vt::metrics::all();
    let rows: String = all.iter().map(row).collect();
    let text = crate::commands::document("docs/operations.md");
    assert!(text.contains(&format!("|---|---|---|\n{rows}\n")), "{rows}");
    let mut seen = std::collections::BTreeSet::new();
    for metric in all {
        assert!(seen.insert(metric.name), "{} is there twice", metric.name);
        let of_one = metric.of.len() > 1;
        let is_told_apart = metric.labels.first() == Some(&"function");
        let is_of_all = matches!(metric.labels, [] | ["window" | "class" | "category"]);
        assert!(is_told_apart || is_of_all, "{}: {of_one}", metric.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_shows_its_outcomes_and_quotas() {
    let stage = Stage::new().await;
    let mut command = stage.vt(&["download", "--listen"]);
    command
        .env("PLUGIN_DATA_URL", stage.dispatcher.url())
        .env("CONTENT_HOSTS", stage.virustotal.content_url())
        .env("WEBHOOK_LISTEN", "127.0.0.1:0");
    let (running, url) = Running::serve(command);
    let client = reqwest::Client::new();
    let sample = |n| stage.virustotal.sample(sim::lookup::sample(n));
    let request = |n, category, quota| sim::lookup::download_event(&sample(n), category, quota);
    for (n, event) in [request(1, "rules/a", 2), request(2, "rules/b", 1), request(3, "rules/b", 1)]
        .iter()
        .enumerate()
    {
        assert_eq!(client.post(&url).json(event).send().await.unwrap().status(), 202);
        let told = move |arrived: &sim::Arrived, _: &[sim::Posted]| {
            arrived.of(sim::Model::Download).count() == (n + 1).min(2)
        };
        stage.dispatcher.wait_until(told).await;
    }
    let expected = [
        "virustotal_plugin_downloads_total{function=\"download\",outcome=\"success\"} 2",
        "virustotal_plugin_downloads_total{function=\"download\",outcome=\"skipped\"} 1",
        "virustotal_plugin_downloads_today{category=\"rules/a\"} 1",
        "virustotal_plugin_downloads_today_total{function=\"download\"} 2",
        "virustotal_plugin_downloads_today_api_charged{function=\"download\"} 2",
        "virustotal_plugin_fullest_quota_percent{function=\"download\"} 100",
        "virustotal_plugin_answers_total{function=\"download\",status=\"202\"} 3",
    ];
    let mut shown = String::new();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !expected.iter().all(|line| shown.lines().any(|shown| shown == *line)) {
        assert!(std::time::Instant::now() < until, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let answer = client.get(format!("{url}/metrics")).send().await.unwrap();
        shown = answer.text().await.unwrap();
    }
    for class in ["class=\"ok\"", "virustotal_plugin_dispatcher_seconds_bucket{le=\"60\"}"] {
        assert!(shown.contains(class), "{class}: {shown}");
    }
    running.terminate();
    assert!(running.end().await.0.success());
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
    // The second binary waits for the quota of the next day.
    let samples = [
        ("virustotal_plugin_inbox_items{function=\"query\",state=\"waiting\"}", 1),
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
    is_documented(pushed);
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
        ("virustotal_plugin_hits_total{function=\"hunt\",outcome=\"delivered\"}", 1),
        ("virustotal_plugin_hits_total{function=\"hunt\",outcome=\"requested\"}", 1),
        ("virustotal_plugin_hunt_rate_limited_rulesets{function=\"hunt\"}", 1),
        ("virustotal_plugin_hunt_lost_hours{function=\"hunt\"}", 0),
        ("virustotal_plugin_hunt_position_timestamp_seconds{function=\"hunt\"}", now - 60),
    ] {
        assert_eq!(pushed.samples.get(sample), Some(&value), "{sample} {pushed:?}");
    }
    is_documented(pushed);
}
