//! Functions with the permissions that infra/permissions.json gives them, and no others, on an emulator
//! that asks for them.

use std::{collections::BTreeMap, process::Command};

use azul_vt::minute::Minute;
use jiff::Timestamp;
use serde_json::{Value, json};
use sim::{Aws, Behaviour, Fault, Hit, Model, Unknown, feed::Style, lookup};

use crate::{
    aws::exported,
    commands::vt,
    running::{Running, output, text},
};

/// Permissions by function, then by the resource that they are for.
type Permissions = BTreeMap<String, BTreeMap<String, Vec<String>>>;

fn permissions() -> Permissions {
    serde_json::from_str(include_str!("../../../../infra/permissions.json")).unwrap()
}

/// The policy of a function.
fn policy(function: &str, table: &str, bucket: &str) -> String {
    sim::policy(&permissions()[function], |what| match what {
        "STATE_TABLE" => format!("arn:aws:dynamodb:us-east-1:000000000000:table/{table}"),
        "BUNDLE_BUCKET" => format!("arn:aws:s3:::{bucket}"),
        "BUNDLE_BUCKET/*" => format!("arn:aws:s3:::{bucket}/*"),
        "INBOX_QUEUE_URL" => format!("arn:aws:sqs:us-east-1:000000000000:{table}-inbox"),
        "dead-letter queue of INBOX_QUEUE_URL" => {
            format!("arn:aws:sqs:us-east-1:000000000000:{table}-inbox-dead")
        }
        "DOWNLOAD_QUEUE_URL" => format!("arn:aws:sqs:us-east-1:000000000000:{table}-downloads"),
        "dead-letter queue of DOWNLOAD_QUEUE_URL" => {
            format!("arn:aws:sqs:us-east-1:000000000000:{table}-downloads-dead")
        }
        "MINUTES_QUEUE_URL" => format!("arn:aws:sqs:us-east-1:000000000000:{table}-minutes"),
        "dead-letter queue of MINUTES_QUEUE_URL" => {
            format!("arn:aws:sqs:us-east-1:000000000000:{table}-minutes-dead")
        }
        "RULES_ROOT" => format!("arn:aws:s3:::{RULES}"),
        "RULES_ROOT/*" => format!("arn:aws:s3:::{RULES}/*"),
        // An entry's ARN ends with six characters that AWS chooses.
        entry if entry.ends_with("_SECRET") => {
            format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{entry}-??????")
        }
        other => panic!("{other} is nothing"),
    })
}

/// The bucket of the rules.
const RULES: &str = "azul-vt-rules";
const TOKEN: &str = "token-of-the-tests";
const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

struct Stage {
    aws: Aws,
    virustotal: sim::VirusTotal,
    dispatcher: sim::Dispatcher,
    settings: Vec<(String, String)>,
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Option<Self> {
        let aws = Aws::start_guarded().unwrap()?;
        let mut init = vt(&["aws", "init"]);
        init.envs(aws.environment());
        let mut settings = exported(&output(init).await);
        let (virustotal, dispatcher) =
            (sim::VirusTotal::start().await.unwrap(), sim::Dispatcher::start().await.unwrap());
        virustotal.set_unknown(Unknown::Missing);
        aws.secret("VIRUSTOTAL_APIKEY_SECRET", &virustotal.key()).unwrap();
        aws.secret("INGEST_TOKENS_SECRET", TOKEN).unwrap();
        aws.secret("WEBHOOK_SECRETS_SECRET", WEBHOOK_SECRET).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let rule =
            "- any: {syntax: gjson, rule: attributes.size, reference: all, daily_quota: 9}\n";
        std::fs::create_dir(dir.path().join("rules")).unwrap();
        std::fs::write(dir.path().join("rules/rules.yaml"), rule).unwrap();
        aws.objects(RULES, "vt/", &dir.path().join("rules")).unwrap();
        for (name, value) in [
            ("VIRUSTOTAL", virustotal.url()),
            ("VIRUSTOTAL_APIKEY_SECRET", "VIRUSTOTAL_APIKEY_SECRET".into()),
            ("INGEST_TOKENS_SECRET", "INGEST_TOKENS_SECRET".into()),
            ("PLUGIN_EVENTS_URL", dispatcher.url()),
            ("FEED_BACKLOG_HOURS", "1".into()),
            ("FEED_LAG_MINUTES", "54".into()),
            ("RULES_ROOT", format!("s3://{RULES}/vt/")),
            ("STATEDIR", dir.path().join("state").display().to_string()),
            ("INGEST_LISTEN", "127.0.0.1:0".into()),
            ("WEBHOOK_SECRETS_SECRET", "WEBHOOK_SECRETS_SECRET".into()),
            ("WEBHOOK_LISTEN", "127.0.0.1:0".into()),
            ("LOOKUP_SOURCES", "incidents".into()),
            ("VT_REQUESTS_PER_MINUTE", "100".into()),
            ("VT_MAX_ATTEMPTS", "1".into()),
        ] {
            settings.push((name.to_owned(), value));
        }
        Some(Self { aws, virustotal, dispatcher, settings, _dir: dir })
    }

    /// Returns the command `vt` with the credentials of a user who has the permissions of a function.
    fn vt(&self, function: &str, args: &[&str]) -> Command {
        let policy = policy(function, "azul-vt", "azul-vt-bundles");
        let mut command = vt(args);
        command.envs(self.aws.user(&policy).unwrap()).envs(self.settings.clone());
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_needs_no_permission_that_is_not_in_its_list() {
    let Some(stage) = Stage::new().await else { return };
    let now = Minute::of(Timestamp::now());
    let served: Vec<_> = [-57, -56].map(|n| now.plus(n).to_string()).to_vec();
    for minute in &served {
        let bundle = sim::feed::bundle(5, minute, 70, Style::Small);
        stage.virustotal.serve(minute, bundle);
    }
    // This bundle cannot be decoded.
    let bad = now.plus(-55).to_string();
    stage.virustotal.serve(&bad, b"BZh9 is how they begin".to_vec());
    // With `FAN_OUT_MINUTES=1` the minutes go by way of the queue.
    let mut command = stage.vt("load", &["load"]);
    command.env("FAN_OUT_MINUTES", "1");
    let loaded = output(command).await;
    assert!(loaded.status.success(), "{}", text(&loaded.stderr));
    assert!(
        text(&loaded.stderr).contains("minutes are sent to workers"),
        "{}",
        text(&loaded.stderr)
    );
    assert!(text(&loaded.stderr).contains("loaded 2 minutes"), "{}", text(&loaded.stderr));
    assert!(text(&loaded.stderr).contains("1 minutes failed"), "{}", text(&loaded.stderr));
    let requested = || stage.dispatcher.arrived().of(Model::Download).count();
    let first = requested();
    assert!(first > 0);
    let replayed =
        output(stage.vt("load", &["load", "--from", &served[0], "--to", &served[1]])).await;
    assert!(replayed.status.success(), "{}", text(&replayed.stderr));
    let shown = output(stage.vt("load", &["status", "--json"])).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["totals"]["counts"]["delivered"], 140);
    assert_eq!(stage.dispatcher.arrived().repeats, 140);
    assert_eq!(requested(), first, "the replay knew what was asked for already");
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_needs_no_permission_that_is_not_in_its_list() {
    let Some(stage) = Stage::new().await else { return };
    let (_serving, url) = Running::serve(stage.vt("ingest", &["ingest"]));
    let now = Minute::of(Timestamp::now()).to_string();
    let mut body = sim::feed::lines(5, &now, 70, Style::Small);
    body.extend(b"{}\n");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let requested = || stage.dispatcher.arrived().of(Model::Download).count();
    for (body, status) in [(body.clone(), 200), (body, 200), (b"BZh9 it is not".to_vec(), 400)] {
        let before = requested();
        let post = client.post(&url).header("content-type", "application/json");
        let post = post.bearer_auth(TOKEN).body(body);
        let answer = post.send().await.unwrap();
        let (code, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!(code, status, "{text}");
        assert!(before == 0 || requested() == before, "asked for twice");
    }
    assert_eq!(stage.dispatcher.arrived().of(Model::Binary).count(), 2 * 70);
    assert!(requested() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_needs_no_permission_that_is_not_in_its_list() {
    let Some(stage) = Stage::new().await else { return };
    stage.dispatcher.register_source("incidents");
    for known in [1, 3] {
        stage.virustotal.report(&lookup::sha256(known), lookup::report(known));
    }
    let (running, url) = Running::serve(stage.vt("query", &["query", "--listen"]));
    let mut large = lookup::event(4);
    large["source"]["references"] = json!({ "case": "x".repeat(250_000) });
    // The binaries are: known; known, a second time; unknown; too large for a message; and one for which VirusTotal
    // first fails and then answers nonsense.
    let mut sent = 0;
    for event in [lookup::event(1), lookup::event(1), lookup::event(2), large, lookup::event(3)] {
        if event == lookup::event(3) {
            stage.virustotal.behave_for_files(&Behaviour::ServerError, 1);
            let page = Behaviour::Api(Fault::answer(200, "<html>"));
            stage.virustotal.behave_for_files(&page, 100);
        }
        sent += 1;
        let (id, now) = (format!("msg-{sent}"), Timestamp::now());
        let body = json!([event]).to_string();
        let signed = azul_vt::webhook::sign(WEBHOOK_SECRET, &id, now, body.as_bytes()).unwrap();
        let post = reqwest::Client::new().post(&url).header("content-type", "application/json");
        let post = post.header("webhook-id", id).header("webhook-signature", signed);
        let post = post.header("webhook-timestamp", now.as_second().to_string());
        let answer = post.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let all =
            |arrived: &sim::Arrived, _: &[sim::Posted]| arrived.of(Model::Status).count() == sent;
        stage.dispatcher.wait_until(all).await;
    }
    let counts = |status: &str| stage.dispatcher.arrived().count(Model::Status, status);
    assert_eq!((counts("completed"), counts("opt-out"), counts("error-network")), (2, 2, 1));
    running.terminate();
    let (status, said) = running.end().await;
    // The one error in the log is that of the item that is given up.
    assert!(status.success() && said.matches("ERROR").count() == 1, "{said}");
    assert!(said.contains("4 events done; 1 put back, 1 given up"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn download_needs_no_permission_that_is_not_in_its_list() {
    let Some(stage) = Stage::new().await else { return };
    let mut command = stage.vt("download", &["download", "--listen"]);
    command
        .env("PLUGIN_DATA_URL", stage.dispatcher.url())
        .env("CONTENT_HOSTS", stage.virustotal.content_url())
        .env("QUOTA_REJECT_EVENTS", "1");
    let (running, url) = Running::serve(command);
    let sample = |n: usize| stage.virustotal.sample(lookup::sample(n));
    let request = |sha256: &str| lookup::download_event(sha256, "rules/one", 1);
    // The first file is missing, so its place in the quota is given back. The second is there, with a capture and more
    // text than a message holds. For the third the quota is used up.
    let mut captured = request(&sample(1));
    captured["entity"]["pcap"] = json!(true);
    captured["source"]["references"] = json!({ "case": "x".repeat(250_000) });
    let sha256 = sample(1);
    let capture = [&[0xd4, 0xc3, 0xb2, 0xa1][..], &[7; 40]].concat();
    stage.virustotal.behaviour(&sha256, "Box", 1, Some(capture.into()));
    let mut others = request(&sample(3));
    others["action"] = json!("success");
    let events = [request(&lookup::sha256(9)), captured, request(&sample(2)), others];
    for (n, event) in events.into_iter().enumerate() {
        let (id, now) = (format!("msg-{n}"), Timestamp::now());
        let body = json!([event]).to_string();
        let signed = azul_vt::webhook::sign(WEBHOOK_SECRET, &id, now, body.as_bytes()).unwrap();
        let post = reqwest::Client::new().post(&url).header("content-type", "application/json");
        let post = post.header("webhook-id", id).header("webhook-signature", signed);
        let post = post.header("webhook-timestamp", now.as_second().to_string());
        assert_eq!(post.body(body).send().await.unwrap().status(), 202);
        let told = |arrived: &sim::Arrived, _: &[sim::Posted]| {
            arrived.of(Model::Download).count() == (n + 1).min(3)
        };
        stage.dispatcher.wait_until(told).await;
    }
    let arrived = stage.dispatcher.arrived();
    let told: Vec<_> = arrived.of(Model::Download).map(|e| e.action.as_str()).collect();
    assert_eq!(told, ["failed-not-found", "success", "failed"]);
    let labels: Vec<_> =
        stage.dispatcher.streams().into_iter().map(|(_, label, _)| label).collect();
    assert_eq!(labels, ["content", "pcap"]);
    running.terminate();
    let (status, said) = running.end().await;
    assert!(status.success() && !said.contains("ERROR"), "{said}");
    assert!(said.contains("0 put back, 0 given up"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hunt_needs_no_permission_that_is_not_in_its_list() {
    let Some(stage) = Stage::new().await else { return };
    stage.virustotal.ruleset("1", "loud", true);
    for n in 0..50 {
        stage.virustotal.hit(Hit::file(n, Timestamp::now().as_second() - 60, "rule"));
    }
    for delivered in [50, 0] {
        let hunted = output(stage.vt("hunt", &["hunt"])).await;
        let said = text(&hunted.stderr);
        assert!(hunted.status.success() && !said.contains("ERROR"), "{said}");
        assert!(said.contains(&format!("{delivered} hits delivered")), "{said}");
    }
    assert_eq!(stage.dispatcher.arrived().downloads().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_one_of_them_load_is_refused_and_says_why() {
    let Some(stage) = Stage::new().await else { return };
    let minute = Minute::of(Timestamp::now()).plus(-57).to_string();
    stage.virustotal.serve(&minute, sim::feed::bundle(5, &minute, 7, Style::Small));
    let all = policy("load", "azul-vt", "azul-vt-bundles");
    for action in &permissions()["load"]["STATE_TABLE"] {
        let mut command = vt(&["load"]);
        let less = all.replace(action, "dynamodb:ListTables");
        command.envs(stage.aws.user(&less).unwrap()).envs(stage.settings.clone());
        let refused = output(command).await;
        assert_eq!(refused.status.code(), Some(1), "{action}");
        let said = text(&refused.stderr);
        assert!(said.contains("what they may do with STATE_TABLE"), "{action}: {said}");
        assert!(said.contains(action), "{action}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_may_not_be_read_end_the_start_and_say_why() {
    let Some(stage) = Stage::new().await else { return };
    let all = policy("load", "azul-vt", "azul-vt-bundles");
    let rules = format!("arn:aws:s3:::{RULES}");
    for (less, action) in [
        (all.replace(&format!("\"{rules}\""), "\"arn:aws:s3:::others\""), "s3:ListBucket"),
        (all.replace(&format!("\"{rules}/*\""), "\"arn:aws:s3:::others/*\""), "s3:GetObject"),
    ] {
        assert_ne!(less, all);
        let mut command = vt(&["load"]);
        command.envs(stage.aws.user(&less).unwrap()).envs(stage.settings.clone());
        let refused = output(command).await;
        assert_eq!(refused.status.code(), Some(2), "{action}");
        let said = text(&refused.stderr);
        assert!(said.contains("what they may do with RULES_ROOT"), "{action}: {said}");
        assert!(said.contains(action), "{action}: {said}");
    }
}
