//! `vt hunt`, killed again and again, over notifications of three days.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use sim::{Behaviour, Hit, Model};

use crate::{
    running::{Running, output, text},
    served::Stage,
};

const HITS: usize = 1000;
const KILLS: usize = 10;

impl Stage {
    fn hunt(&self, args: &[&str]) -> Command {
        let mut command = self.vt(&[&["hunt"], args].concat());
        command.env("HUNT_BACKLOG_HOURS", "72").env("HUNT_SOURCE", "hunting");
        command
    }
}

/// Seconds between two notifications, in the mean.
fn apart() -> i64 {
    (3 * 24 * 3600 - 3600) / i64::try_from(HITS).unwrap()
}

/// Makes a thousand notifications of the last three days: four in the same second, and each tenth of an object that is
/// not a file. Returns category and hash of the downloads that should be requested.
fn notify(stage: &Stage, now: i64) -> BTreeSet<(String, String)> {
    let apart = apart();
    let mut wanted = BTreeSet::new();
    for n in 0..HITS {
        // Four notifications have the same second.
        let date = now - i64::try_from(HITS - n / 4 * 4).unwrap() * apart;
        let rule = format!("rule_{}", n % 7);
        let mut hit = Hit::file(n, date, &rule);
        if n % 10 == 9 {
            hit.object_type = "url".into();
        } else {
            wanted.insert((format!("hunting/{rule}"), hit.id.clone()));
        }
        stage.virustotal.hit(hit);
    }
    wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_notifications_arrive_whoever_is_killed_and_a_second_run_sends_nothing() {
    let stage = Stage::new().await;
    stage.dispatcher.register_source("hunting");
    let now = Timestamp::now().as_second();
    let mut wanted = notify(&stage, now);
    stage.virustotal.behave_hunting(&Behaviour::Transient(None), 2);
    for life in 0..KILLS {
        let running = Running::start(stage.hunt(&[]));
        tokio::time::sleep(Duration::from_millis(60 + u64::try_from(life).unwrap() * 37 % 200))
            .await;
        drop(running); // kills it
    }
    let (status, said) = Running::start(stage.hunt(&[])).end().await;
    assert!(status.success(), "{said}");
    // The notification comes late, but within the overlap of the runs.
    let position = now - 4 * apart();
    let late = Hit::file(HITS, position - 300, "late");
    wanted.insert(("hunting/late".into(), late.id.clone()));
    stage.virustotal.hit(late);
    let (status, said) = Running::start(stage.hunt(&[])).end().await;
    assert!(status.success() && said.contains("1 hits delivered"), "{said}");

    let arrived = stage.dispatcher.arrived();
    let mapped: BTreeSet<String> = arrived
        .of(Model::Binary)
        .map(|e| e.event["entity"]["sha256"].as_str().unwrap().to_owned())
        .collect();
    let files: BTreeSet<String> = wanted.iter().map(|(_, hash)| hash.clone()).collect();
    assert_eq!(mapped, files);
    let downloads = arrived.downloads();
    let asked: BTreeSet<(String, String)> =
        downloads.iter().map(|d| (d.category.clone(), d.hash.clone())).collect();
    assert_eq!(asked, wanted);
    // A kill may repeat the requests of a page that is in flight.
    assert!(downloads.len() <= wanted.len() + KILLS * 40, "{} requests", downloads.len());

    let posts = stage.dispatcher.posts().len();
    let (status, said) = Running::start(stage.hunt(&[])).end().await;
    assert!(status.success() && said.contains("0 hits delivered"), "{said}");
    // It registers, and that is all.
    assert_eq!(stage.dispatcher.posts().len(), posts + 1);
    let shown = output(stage.vt(&["status", "--json"])).await;
    let status: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(status["hunted_until"].is_string(), "{status}");
    assert_eq!(stage.dispatcher.problems(), Vec::<String>::new());
    assert_eq!(stage.virustotal.key_leaked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_hits_are_listed_shown_and_tried_again() {
    let stage = Stage::new().await;
    stage.dispatcher.register_source("hunting");
    let now = Timestamp::now().as_second();
    let (refused, unnamed) = (Hit::file(1, now - 60, "rule"), Hit::file(2, now - 50, "rule"));
    let sha256 = refused.id.clone();
    let mut unnamed = unnamed.to_json();
    unnamed["context_attributes"]["notification_id"] = Value::Null;
    stage.virustotal.hit(refused);
    stage.virustotal.malformed_hit(unnamed, now - 50);
    let mended = Arc::new(AtomicBool::new(false));
    let (flag, of_hit) = (Arc::clone(&mended), sha256.clone());
    stage
        .dispatcher
        .refuse(move |event| !flag.load(Ordering::Relaxed) && event["entity"]["sha256"] == of_hit);
    let (status, said) = Running::start(stage.hunt(&[])).end().await;
    assert!(status.success() && said.contains("2 rejected and kept"), "{said}");
    let listed = output(stage.vt(&["rejects", "list"])).await;
    let listed = text(&listed.stdout);
    let key = listed.split_whitespace().next().unwrap().to_owned();
    assert!(key.starts_with("rejects/hunt/"), "{listed}");
    let shown = output(stage.vt(&["rejects", "show", &key])).await;
    let reasons: Vec<Value> =
        text(&shown.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.iter().all(|reject| reject["stage"] == "hit"), "{reasons:?}");
    mended.store(true, Ordering::Relaxed);
    let mut retry = stage.vt(&["rejects", "retry", &key]);
    retry.env("HUNT_SOURCE", "hunting").env_remove("VIRUSTOTAL_APIKEY");
    let retried = output(retry).await;
    let said = text(&retried.stdout);
    assert!(
        said.contains("1 events delivered, 1 downloads requested, 1 refused again"),
        "{said} {}",
        text(&retried.stderr)
    );
    let arrived = stage.dispatcher.arrived();
    let mapped = arrived.of(Model::Binary).next().unwrap();
    assert_eq!(mapped.event["entity"]["sha256"], *sha256);
    assert_eq!(arrived.downloads().len(), 1);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_called_azul_vthuntfeed_hunts_and_status_tells_of_limits() {
    let stage = Stage::new().await;
    stage.dispatcher.register_source("vtlivehunt");
    stage.virustotal.ruleset("1", "loud", true);
    let link = stage.state.path().join("azul-vthuntfeed");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vt"), &link).unwrap();
    let mut command = Command::new(&link);
    command.env_clear();
    for (name, value) in stage.vt(&[]).get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let found = output(command).await;
    let said = text(&found.stderr);
    assert!(found.status.success() && said.contains("rulesets over their limit: loud"), "{said}");
    let shown = output(stage.vt(&["status"])).await;
    assert!(text(&shown.stdout).contains("loud is over its limit"), "{shown:?}");
}
