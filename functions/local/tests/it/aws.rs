//! The state on AWS, from the command line, on an emulator.

use std::process::{Command, Output};

use azul_vt::minute::Minute;
use jiff::Timestamp;
use serde_json::Value;
use sim::{Shared, Unknown, feed::Style};

use crate::commands::vt;

/// Runs a command off the threads that serve its questions.
pub(crate) async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn on_aws(args: &[&str], emulator: &Shared) -> Command {
    let mut command = vt(args);
    command.envs(emulator.environment());
    command
}

/// What `vt aws init` says, as variables.
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
    assert_eq!(names, ["STATE_TABLE", "BUNDLE_BUCKET", "INBOX_QUEUE_URL", "MINUTES_QUEUE_URL"]);
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
    // The records, and the plugin's registration.
    assert_eq!(dispatcher.arrived().events.len(), 7 + 1);

    let after = output(state(&["status", "--json"])).await;
    let after: Value = serde_json::from_slice(&after.stdout).unwrap();
    assert!(after["cursor"].as_str().unwrap() > minute.as_str());
    assert_eq!(after["lease"], Value::Null);
    assert_eq!(after["totals"]["loaded"], 1);
    assert_eq!(after["totals"]["counts"]["delivered"], 7);
    assert!(after["totals"]["gaps"].as_u64().unwrap() >= 8);
    assert!(after["state"].as_str().unwrap().contains(&name));
    // Nothing of it is on this machine.
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
