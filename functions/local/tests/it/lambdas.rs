//! The Lambdas as they are built, each invoked with every file in testdata/events through Lambda's Runtime API.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use azul_vt::lambda::Function as _;
use serde_json::{Value, json};
use sim::{Outcome, RuntimeApi};

use crate::{running::tells_no_secret, served::Stage};

/// A function's process, its Runtime API, and its log.
struct Lambda {
    api: RuntimeApi,
    child: Child,
    log: PathBuf,
}

impl Lambda {
    async fn start(stage: &Stage, function: &str, more: &[(&str, &str)]) -> Self {
        let api = RuntimeApi::start().await.unwrap();
        let log = stage.state.path().join(format!("{}.log", function.replace('/', "-")));
        let file = fs::File::create(&log).unwrap();
        let mut command = Command::new(binary(function));
        command
            .env_clear()
            .envs(api.environment(function))
            .env("VIRUSTOTAL", stage.virustotal.url())
            .env("VIRUSTOTAL_APIKEY", stage.virustotal.key())
            .env("PLUGIN_EVENTS_URL", stage.dispatcher.url())
            .env("PLUGIN_DATA_URL", stage.dispatcher.url())
            .env("STATEDIR", stage.state.path().join(function))
            .env("LOOKUP_SOURCES", "incidents")
            .env("FEED_BACKLOG_HOURS", "1")
            .env("FEED_LAG_MINUTES", "59")
            .env("DISPATCHER_MAX_AGE_HOURS", "-1")
            .envs(more.iter().copied())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null());
        Self { api, child: command.spawn().unwrap(), log }
    }

    async fn invoke(&self, event: &Value, time: Duration) -> Outcome {
        let outcome = self.api.invoke(event, time).await;
        outcome.unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap();
        tells_no_secret(&log);
        log
    }

    /// Returns the lines of the log, all of which are JSON.
    fn lines(&self) -> Vec<Value> {
        let log = self.log();
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

impl Drop for Lambda {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the path of a program of the workspace. `AZUL_VT_BIN` names the folder of a release's programs.
fn binary(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_vt")).parent().unwrap();
    std::env::var_os("AZUL_VT_BIN").map_or(built.to_owned(), PathBuf::from).join(name)
}

fn events() -> BTreeMap<String, Value> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/events");
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&fs::read(&path).unwrap()).unwrap())
        })
        .collect()
}

/// Returns the kind of a function's outcome, in a word or two.
fn shape(outcome: &Outcome) -> String {
    let answer = match outcome {
        Err(error) => {
            let said = error["errorMessage"].as_str().unwrap();
            return format!("error: {}", said.split(',').next().unwrap());
        }
        Ok(answer) => answer,
    };
    if let Some(status) = answer["statusCode"].as_u64() {
        return status.to_string();
    }
    if let Some(failures) = answer["batchItemFailures"].as_array() {
        return format!("{} of the messages failed", failures.len());
    }
    if let Some(reports) = answer.as_array() {
        return format!("{} reports", reports.len());
    }
    let what = ["done", "read"].into_iter().find(|what| answer[what].is_u64());
    what.map_or_else(|| answer.to_string(), |what| format!("report of what was {what}"))
}

/// Returns the expected kind of outcome of each function for each file.
fn expected(function: &str, event: &str) -> &'static str {
    let is_url = event.starts_with("function-url") || event.starts_with("webhook");
    let is_tick = matches!(event, "empty" | "null" | "schedule" | "scheduler");
    match (function, event) {
        ("hunt", _) if is_tick => "report of what was read",
        ("ingest", "function-url-post-iam") => "200",
        // The body is signed and has no records.
        ("ingest", "webhook_binary" | "webhook_download") => "422",
        ("ingest", _) if !is_url => "error: the event is no request of a function URL",
        ("hunt", _) => UNKNOWN,
        // Readable messages are worked, or buried if they belong to another function.
        (_, "minutes-queue") => "0 of the messages failed",
        // The second message of each file cannot be read.
        (_, "inbox-queue" | "downloads-queue") => "1 of the messages failed",
        ("load", "range" | "object-created" | "object-created-eventbridge") => "1 reports",
        ("load", _) if is_tick => "1 reports",
        ("load", _) => UNKNOWN,
        (_, "function-url-health") => "200",
        ("query" | "download", "function-url-post-iam") => "400",
        ("query" | "download", "webhook_binary" | "webhook_download") => "202",
        ("query" | "download", "function-url-post-text") => "404",
        (_, _) if is_url => "401",
        (_, _) if is_tick => "report of what was done",
        (_, _) => UNKNOWN,
    }
}

/// Start of the error for an event of an unknown kind. Without an error the request in it would be lost unnoticed.
const UNKNOWN: &str = "error: the event is none that this function takes";

async fn answers_every_event(stage: &Stage, function: &str) {
    let margin = azul_vt::tasks::TaskLambda::<query::Query>::DEADLINE_MARGIN;
    let lambda = Lambda::start(stage, function, &[]).await;
    let mut unexpected = Vec::new();
    // The first invocation also waits for the start of the process; five processes start at once.
    let mut time = Duration::from_secs(30);
    for (name, event) in events() {
        let outcome = lambda.invoke(&event, margin + time).await;
        time = Duration::from_secs(2);
        let found = shape(&outcome);
        if found != expected(function, &name) {
            unexpected.push(format!("{name}: {found}: {outcome:?}"));
        }
    }
    assert_eq!(unexpected, Vec::<String>::new(), "{function}");
    let lines = lambda.lines();
    let is_in_span = |line: &Value| line["spans"][0]["request_id"].is_string();
    assert!(lines.iter().any(is_in_span), "{lines:?}");
    assert!(lines.iter().any(|line| line["_aws"].is_object()), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_function_answers_every_event_and_lives_on() {
    let stage = Stage::new().await;
    stage.generate(2);
    stage.dispatcher.register_source("incidents");
    // The functions run side by side, because two of them wait for the dispatcher's polls.
    tokio::join!(
        answers_every_event(&stage, "load"),
        answers_every_event(&stage, "ingest"),
        answers_every_event(&stage, "query"),
        answers_every_event(&stage, "download"),
        answers_every_event(&stage, "hunt"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_and_a_panic_are_errors_of_the_function_and_it_lives_on() {
    let stage = Stage::new().await;
    let lambda = Lambda::start(&stage, "examples/faulty", &[("LOG", "error")]).await;
    for (what, shown) in [("fail", "the disk is full"), ("panic", "index out of bounds")] {
        let time = Duration::from_secs(10);
        let error = lambda.invoke(&json!({ what: shown }), time).await.unwrap_err();
        assert!(error["errorMessage"].as_str().unwrap().contains(shown), "{error}");
        assert!(!error["errorType"].as_str().unwrap().is_empty(), "{error}");
        assert_eq!(lambda.invoke(&json!({"fine": 1}), time).await, Ok(json!({"fine": 1})));
    }
    let log = lambda.log();
    let line = log.lines().find(|line| line.contains("the disk is full")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["spans"][0]["function"], "faulty", "{line}");
    assert_eq!(line["spans"][0]["request_id"], "request-0", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_that_cannot_start_says_why_in_its_log() {
    let stage = Stage::new().await;
    for (function, name, value) in [
        ("query", "LOOKUP_SOURCES", ""),
        ("load", "HANDLERS", "nobody"),
        ("ingest", "MAX_EVENT_BYTES", "lots"),
        ("hunt", "VIRUSTOTAL_APIKEY", ""),
        ("download", "LOG", "loud"),
    ] {
        let mut lambda = Lambda::start(&stage, function, &[(name, value)]).await;
        assert!(!lambda.child.wait().unwrap().success());
        let lines = lambda.lines();
        let last = lines.last().unwrap();
        assert_eq!(last["level"], "ERROR", "{last}");
        assert_eq!(last["message"], format!("{function} cannot start"), "{last}");
        assert!(last["error"].as_str().unwrap().contains(name), "{last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_logged() {
    let stage = Stage::new().await;
    stage.generate(2);
    let canary = |name: &str| format!("canary{name}{}", "c".repeat(40));
    let whsec = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5";
    let (key, token) = (canary("key"), canary("token"));
    let dispatcher = stage.dispatcher.url().replace("//", "//me:canarypassword@");
    let secrets = [
        ("LOG", "trace"),
        // The stand-in does not accept this key: each answer is 401, and quotes the key.
        ("VIRUSTOTAL_APIKEY", &key),
        ("INGEST_TOKENS", &token),
        ("INGEST_SECRETS", whsec),
        ("WEBHOOK_SECRETS", whsec),
        ("PLUGIN_EVENTS_URL", &dispatcher),
        ("PLUGIN_DATA_URL", &dispatcher),
        ("HTTP_PROXY", "http://me:canarypassword@127.0.0.1:9"),
        ("NO_PROXY", "127.0.0.1"),
    ];
    for function in ["load", "ingest", "query", "download", "hunt"] {
        let lambda = Lambda::start(&stage, function, &secrets).await;
        let mut invoked = 0;
        for (name, mut event) in events() {
            if name == "range" || name == "null" {
                continue;
            }
            invoked += 1;
            if let Some(headers) = event["headers"].as_object_mut() {
                headers.insert("authorization".into(), json!(format!("Bearer {token}")));
            }
            // The time is a second longer than the largest margin of the functions, which is 40 seconds.
            lambda.invoke(&event, Duration::from_secs(41)).await.ok();
        }
        let log = lambda.log();
        let ends =
            lambda.lines().iter().filter(|line| line["message"] == "invocation ended").count();
        assert_eq!(ends, invoked, "{function}: {log}");
        for secret in [&key, &token, "canarypassword", whsec.strip_prefix("whsec_").unwrap()] {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{function}: {line:?}");
        }
    }
}
