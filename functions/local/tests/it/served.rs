//! Commands that talk to VirusTotal and the dispatcher, or look at the state.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use azul_vt::store::{
    local,
    rejects::{Reject, RejectStage, Rejects},
};
use jiff::Timestamp;
use serde_json::Value;
use sim::feed::Style;

use crate::{
    commands::{MINUTE, vt},
    running::{Running, output, text},
};

pub(crate) struct Stage {
    pub(crate) virustotal: sim::VirusTotal,
    pub(crate) dispatcher: sim::Dispatcher,
    pub(crate) state: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self {
            virustotal: sim::VirusTotal::start().await.unwrap(),
            dispatcher: sim::Dispatcher::start().await.unwrap(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    /// Makes VirusTotal serve every minute with `records` small records.
    pub(crate) fn generate(&self, records: u64) {
        self.virustotal.set_unknown(sim::Unknown::Generate(Arc::new(move |minute| {
            sim::feed::bundle(5, minute, records, Style::Small).into()
        })));
    }

    pub(crate) fn vt(&self, args: &[&str]) -> Command {
        let mut command = vt(args);
        command
            .env("VIRUSTOTAL", self.virustotal.url())
            .env("VIRUSTOTAL_APIKEY", self.virustotal.key())
            .env("PLUGIN_EVENTS_URL", self.dispatcher.url())
            .env("STATEDIR", self.state.path())
            .env("RULES_ROOT", "/nowhere/at/all");
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_settings_that_other_commands_refuse() {
    let stage = Stage::new().await;
    for (name, value) in [("HANDLERS", "nobody"), ("INGEST_SECRETS", "x"), ("WEBHOOK_SECRETS", "x")]
    {
        let mut command = stage.vt(&["doctor"]);
        command.env(name, value);
        let found = output(command).await;
        let said = text(&found.stdout);
        assert_eq!(found.status.code(), Some(1), "{said}");
        assert!(
            said.lines().any(|line| line.contains("settings: ") && line.contains(name)),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_where_all_is_in_place() {
    let stage = Stage::new().await;
    let found = output(stage.vt(&["doctor"])).await;
    let said = text(&found.stdout);
    assert_eq!(found.status.code(), Some(0), "{said}");
    for check in ["settings", "VirusTotal key", "feed", "dispatcher", "rules", "clock", "state"] {
        assert!(said.contains(&format!("ok    {check}: ")), "{check}: {said}");
    }
    assert!(!said.contains(&stage.virustotal.key()));
    assert_eq!(stage.virustotal.key_leaked(), Vec::<String>::new());
    assert!(stage.dispatcher.posts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_goes_on_behind_a_failure_and_says_what_to_do() {
    let stage = Stage::new().await;
    let rules = tempfile::tempdir().unwrap();
    std::fs::write(rules.path().join("a.yaml"), "- x: {syntax: gjson, rule: id}\n").unwrap();
    let mut command = stage.vt(&["doctor"]);
    command
        .env("VIRUSTOTAL_APIKEY", "a-wrong-key")
        // This server answers, but is not a dispatcher.
        .env("PLUGIN_EVENTS_URL", stage.virustotal.url())
        .env("RULES_ROOT", rules.path())
        .env("STATEDIR", "/dev/null/state");
    let found = output(command).await;
    let said = text(&found.stdout);
    assert_eq!(found.status.code(), Some(1));
    assert!(found.stderr.is_empty());
    for (check, word) in [
        ("VirusTotal key", "VIRUSTOTAL_APIKEY"),
        ("feed", "401"),
        ("dispatcher", "PLUGIN_EVENTS_URL"),
        ("rules", "daily_quota"),
        ("state", "STATEDIR"),
    ] {
        let line = said.lines().find(|line| line.starts_with(&format!("FAIL  {check}: ")));
        assert!(line.is_some_and(|line| line.contains(word)), "{check}: {said}");
    }
    assert!(!said.contains("a-wrong-key"));
    let mut command = stage.vt(&["doctor"]);
    command.env("VIRUSTOTAL_APIKEY", "").env("LOG", "info");
    let found = output(command).await;
    assert_eq!(found.status.code(), Some(1));
    assert!(text(&found.stdout).contains("VIRUSTOTAL_APIKEY is not set"));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_makes_no_state_and_tells_what_a_load_left() {
    let stage = Stage::new().await;
    let before = output(stage.vt(&["status", "--json"])).await;
    assert_eq!(serde_json::from_slice::<Value>(&before.stdout).unwrap()["cursor"], Value::Null);
    let none = stage.state.path().join("none");
    let range = ["load", "--dry-run", "--from", MINUTE, "--to", MINUTE];
    for (command, said) in [
        (&["status", "--json"][..], ""),
        (&["load", "--dry-run"], "no state yet in "),
        (&range, "no state yet in "),
        (&["rejects", "list"], "no state yet in "),
    ] {
        let mut looking = stage.vt(command);
        looking.env("STATEDIR", &none);
        let found = output(looking).await;
        assert!(found.status.success() && text(&found.stderr).contains(said), "{command:?}");
    }
    assert!(!none.exists());
    assert_eq!(std::fs::read_dir(stage.state.path()).unwrap().count(), 0);
    let now = azul_vt::minute::Minute::of(Timestamp::now());
    let minute = now.plus(-70);
    stage
        .virustotal
        .serve(&minute.to_string(), sim::feed::bundle(5, &minute.to_string(), 7, Style::Small));
    let retried = output(stage.vt(&["retry", "--minute", &minute.to_string()])).await;
    assert!(retried.status.success(), "{}", text(&retried.stderr));
    let after = output(stage.vt(&["status", "--json"])).await;
    let status: Value = serde_json::from_slice(&after.stdout).unwrap();
    assert_eq!(status["totals"]["loaded"], 1);
    assert_eq!(status["totals"]["counts"]["delivered"], 7);
    let shown = output(stage.vt(&["status"])).await;
    assert!(text(&shown.stdout).contains("1 loaded"), "{}", text(&shown.stdout));
    assert_eq!(stage.dispatcher.arrived().sha256s().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rejected_is_listed_shown_and_tried_again_whatever_its_age() {
    let stage = Stage::new().await;
    let (good, bad) = (sim::feed::record(5, MINUTE, 0, Style::Small), "[]");
    let key = Rejects::key("feed/202601010000", 1);
    {
        let store = local::open(stage.state.path()).unwrap();
        let reject = |line, stage, record: &str| {
            Reject::new(
                "feed/202601010000",
                line,
                stage,
                "for a test",
                record.as_bytes(),
                Timestamp::now(),
            )
        };
        let rejects = [
            reject(1, RejectStage::Event, &good),
            reject(2, RejectStage::Record, bad),
            reject(0, RejectStage::Bundle, "BZh"),
        ];
        Rejects::new(store.bundles).write("feed/202601010000", 1, &rejects).await.unwrap();
    }
    let listed = output(stage.vt(&["rejects", "list"])).await;
    assert!(text(&listed.stdout).starts_with(&format!("{key}  ")));
    let shown = output(stage.vt(&["rejects", "show", &key])).await;
    assert_eq!(text(&shown.stdout).lines().count(), 3);
    for key in ["rejects/feed/202601010000/000000000009.jsonl", "../x", ""] {
        for command in ["show", "retry"] {
            let unknown = output(stage.vt(&["rejects", command, key])).await;
            assert_eq!(unknown.status.code(), Some(2), "{command} {key}");
        }
    }
    let retried = output(stage.vt(&["rejects", "retry", &key])).await;
    let said = text(&retried.stdout);
    assert!(retried.status.success(), "{}", text(&retried.stderr));
    assert!(
        said.contains("1 events delivered, 0 downloads requested, 1 refused again, 1 kept"),
        "{said}"
    );
    let sha256 = sim::feed::sha256(5, MINUTE, 0);
    assert!(stage.dispatcher.arrived().sha256s().contains(&sha256));
    let listed = output(stage.vt(&["rejects", "list"])).await;
    let keys: Vec<&str> =
        text(&listed.stdout).lines().filter_map(|line| line.split(' ').next()).collect();
    let again = "rejects/retried/feed/202601010000/000000000001/000000000001.jsonl";
    assert_eq!(keys, [&key, again]);
    let shown = output(stage.vt(&["rejects", "show", &key])).await;
    assert_eq!(text(&shown.stdout).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_without_a_key_says_so_even_where_no_dispatcher_is() {
    let stage = Stage::new().await;
    stage.dispatcher.down().await;
    let mut command = stage.vt(&["load"]);
    command.env("VIRUSTOTAL_APIKEY", "");
    let found = output(command).await;
    assert_eq!(found.status.code(), Some(2));
    let said = text(&found.stderr);
    assert!(said.contains("vt: VIRUSTOTAL_APIKEY is not set"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_without_a_key_delivers_what_was_posted() {
    let stage = Stage::new().await;
    {
        let store = local::open(stage.state.path()).unwrap();
        let body = sim::feed::lines(5, MINUTE, 4, Style::Small);
        store.bundles.put("posted/0123", &body).await.unwrap();
    }
    let mut command = stage.vt(&["load"]);
    command.env("VIRUSTOTAL_APIKEY", "").env("DISPATCHER_MAX_AGE_HOURS", "-1");
    let found = output(command).await;
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    assert!(text(&found.stderr).contains("1 posted bodies delivered"), "{}", text(&found.stderr));
    assert_eq!(stage.dispatcher.arrived().sha256s().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_7_megabytes_posted_to_vt_ingest_is_loaded() {
    let stage = Stage::new().await;
    let mut command = stage.vt(&["ingest"]);
    command.env("INGEST_LISTEN", "127.0.0.1:0").env("DISPATCHER_MAX_AGE_HOURS", "-1");
    let (running, url) = Running::serve(command);
    // The body is larger than a function URL takes.
    let body = sim::feed::lines(5, MINUTE, 300, Style::Real);
    assert!(body.len() > 7_000_000, "{}", body.len());
    let post = reqwest::Client::new().post(url).header("content-type", "application/json");
    let answer = post.body(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap().trim(), "read 300 records");
    assert_eq!(stage.dispatcher.arrived().sha256s().len(), 300);
    running.terminate();
    assert!(running.end().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_being_decoded_keeps_no_process_from_its_end() {
    let stage = Stage::new().await;
    let mut command = stage.vt(&["ingest"]);
    command.env("INGEST_LISTEN", "127.0.0.1:0").env("DISPATCHER_MAX_AGE_HOURS", "-1");
    let (running, url) = Running::serve(command);
    // The body has many streams one after the other: 600 MB of text, which take over a minute to decode.
    let body = sim::feed::compress(&sim::feed::lines(5, MINUTE, 100, Style::Real)).repeat(250);
    let post = reqwest::Client::new().post(url).header("content-type", "application/json");
    let posting = tokio::spawn(post.body(body).send());
    let posted = || std::fs::read_dir(stage.state.path().join("bundles/posted"));
    let staged = || posted().map_or(0, Iterator::count);
    let begun = Instant::now();
    while staged() == 0 {
        assert!(begun.elapsed() < Duration::from_mins(1), "it is not staged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    running.terminate();
    let (status, said) = running.end().await;
    assert!(status.success(), "{said}");
    // The end takes a few seconds; the limit allows for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: {said}", begun.elapsed());
    // The body stays staged, and the next process delivers it.
    assert_eq!(staged(), 1, "{said}");
    assert!(!said.contains("ERROR"), "{said}");
    // The poster got the answer that the body is kept, or no answer.
    if let Ok(answer) = posting.await.unwrap() {
        assert_eq!(answer.status(), 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_which_many_records_are_rejected_is_warned_of_with_the_first_reason() {
    let stage = Stage::new().await;
    let minute = azul_vt::minute::Minute::of(Timestamp::now()).plus(-70).to_string();
    let retry = async |rejected: usize| {
        let mut lines = sim::feed::lines(5, &minute, 20, Style::Small);
        lines.extend(b"{\"type\":\"url\",\"id\":\"u\"}\n".repeat(rejected));
        stage.virustotal.serve(&minute, lines);
        let mut command = stage.vt(&["retry", "--minute", &minute, "--fetch"]);
        command.env("LOG", "warn");
        let retried = output(command).await;
        assert!(retried.status.success(), "{}", text(&retried.stderr));
        text(&retried.stderr).to_owned()
    };
    let said = retry(12).await;
    assert!(said.contains("many records") && said.contains("url"), "{said}");
    let said = retry(9).await;
    assert!(!said.contains("many records"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_may_be_named_from_the_working_directory() {
    let stage = Stage::new().await;
    stage.generate(2);
    let mut command = stage.vt(&["load"]);
    command.current_dir(stage.state.path()).env("STATEDIR", ".loadstate").env("PACKAGE_LIMIT", "1");
    let loaded = output(command).await;
    assert!(loaded.status.success(), "{}", text(&loaded.stderr));
    assert!(stage.state.path().join(".loadstate/state.sqlite").exists());
}
