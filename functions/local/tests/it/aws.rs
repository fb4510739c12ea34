//! The state on AWS, from the command line, on an emulator.

use std::process::{Command, Output};

use azul_vt::minute::Minute;
use jiff::Timestamp;
use serde_json::Value;
use sim::{Shared, Unknown, feed::Style};

use crate::{
    commands::vt,
    running::{output, text},
};

fn on_aws(args: &[&str], emulator: &Shared) -> Command {
    let mut command = vt(args);
    command.envs(emulator.environment());
    command
}

/// Returns the variables that `vt aws init` exports.
pub(crate) fn exported(init: &Output) -> Vec<(String, String)> {
    assert!(init.status.success(), "{}", text(&init.stderr));
    text(&init.stdout)
        .lines()
        .map(|line| line.strip_prefix("export ").unwrap().split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_init_makes_a_load_keeps_its_state_in() {
    let Some(emulator) = sim::Aws::shared().unwrap() else { return };
    let name = emulator.name("azul-vt");
    let settings = exported(&output(on_aws(&["aws", "init", "--name", &name], &emulator)).await);
    let names: Vec<_> = settings.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "STATE_TABLE",
            "BUNDLE_BUCKET",
            "INBOX_QUEUE_URL",
            "DOWNLOAD_QUEUE_URL",
            "MINUTES_QUEUE_URL"
        ]
    );
    let again = output(on_aws(&["aws", "init", "--name", &name], &emulator)).await;
    assert_eq!(exported(&again), settings);

    let virustotal = sim::VirusTotal::start().await.unwrap();
    virustotal.set_unknown(Unknown::Missing);
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let state = |args: &[&str]| {
        let mut command = on_aws(args, &emulator);
        command
            .envs(settings.clone())
            .env("VIRUSTOTAL", virustotal.url())
            .env("VIRUSTOTAL_APIKEY", virustotal.key())
            .env("PLUGIN_EVENTS_URL", dispatcher.url())
            .env("RULES_ROOT", "/nowhere/at/all")
            .env("FEED_BACKLOG_HOURS", "1")
            .env("FEED_LAG_MINUTES", "50")
            .env("STATEDIR", scratch.path());
        command
    };
    let before = output(state(&["status", "--json"])).await;
    let before: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!(before["cursor"], Value::Null);

    let minute = Minute::of(Timestamp::now()).plus(-55).to_string();
    virustotal.serve(&minute, sim::feed::bundle(5, &minute, 7, Style::Small));
    let loaded = output(state(&["load"])).await;
    assert!(loaded.status.success(), "{}", text(&loaded.stderr));
    assert!(text(&loaded.stderr).contains("loaded 1 minutes"), "{}", text(&loaded.stderr));
    // The 7 records and the plugin's registration arrived.
    assert_eq!(dispatcher.arrived().events.len(), 7 + 1);

    let after = output(state(&["status", "--json"])).await;
    let after: Value = serde_json::from_slice(&after.stdout).unwrap();
    assert!(after["cursor"].as_str().unwrap() > minute.as_str());
    assert_eq!(after["lease"], Value::Null);
    assert_eq!(after["totals"]["loaded"], 1);
    assert_eq!(after["totals"]["counts"]["delivered"], 7);
    assert!(after["totals"]["gaps"].as_u64().unwrap() >= 8);
    assert!(after["state"].as_str().unwrap().contains(&name));
    // No part of the state is on this machine.
    assert!(!scratch.path().join("state.sqlite").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_half_on_aws_is_a_usage_error() {
    let mut command = vt(&["status"]);
    command.env("STATE_TABLE", "azul-vt");
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("BUNDLE_BUCKET"), "{}", text(&refused.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_in_a_bucket_are_checked_selected_by_and_looked_at_by_the_doctor() {
    let Some(emulator) = sim::Aws::shared().unwrap() else { return };
    let bucket = emulator.name("rules");
    let dir = tempfile::tempdir().unwrap();
    let rule = "- any: {syntax: gjson, rule: attributes.size, reference: all, daily_quota: 9}\n";
    std::fs::write(dir.path().join("good.yaml"), rule).unwrap();
    emulator.objects(&bucket, "vt/", dir.path()).unwrap();
    std::fs::write(dir.path().join("good.yaml"), rule.replace('9', "-9")).unwrap();
    emulator.objects(&bucket, "bad/", dir.path()).unwrap();
    let root = format!("s3://{bucket}/vt/");

    let checked = output(on_aws(&["rules", "check", &root], &emulator)).await;
    assert!(text(&checked.stdout).contains("1 rule is good"), "{}", text(&checked.stderr));
    let bad = format!("s3://{bucket}/bad/");
    let refused = output(on_aws(&["rules", "check", &bad], &emulator)).await;
    assert_eq!(refused.status.code(), Some(2));
    let expected = format!("{bad}good.yaml, line 1: rule `any`: has daily_quota -9");
    assert!(text(&refused.stderr).contains(&expected), "{}", text(&refused.stderr));

    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/feed/records.jsonl");
    let selected = output(on_aws(&["select", "--rules", &root, sample], &emulator)).await;
    assert!(text(&selected.stdout).contains("good/any"), "{}", text(&selected.stderr));

    let doctor = async |places: &[(&str, &str)]| {
        let mut command = on_aws(&["doctor"], &emulator);
        command.env("RULES_ROOT", &root).envs(places.iter().copied());
        let found = output(command).await;
        text(&found.stdout).to_owned()
    };
    let said = doctor(&[("STATE_TABLE", "none"), ("BUNDLE_BUCKET", "none")]).await;
    assert!(said.contains(&format!("ok    rules: 1 in {root}")), "{said}");
    let said = doctor(&[]).await;
    assert!(said.contains("FAIL  settings: RULES_ROOT"), "{said}");
    assert!(said.contains("set STATE_TABLE and BUNDLE_BUCKET too"), "{said}");
}
