//! The binary, as a script uses it.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use sim::{Aws, TEST_KEY, feed, lookup};

fn sim() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sim"))
}

#[tokio::test]
async fn serve_prints_its_urls_and_ends_at_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = sim()
        .args([
            "serve",
            "--records",
            "3",
            "--small",
            "--missing",
            "202601020305",
            "--samples",
            "2",
            "--hits",
            "4",
        ])
        .arg("--record")
        .arg(dir.path().join("arrived.jsonl"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let urls: Value = serde_json::from_str(&first).unwrap();
    let dispatcher = urls["dispatcher"].as_str().unwrap();
    assert_eq!(reqwest::get(dispatcher).await.unwrap().text().await.unwrap(), "Azul Dispatcher");
    let summary = reqwest::get(format!("{dispatcher}/sim/summary")).await.unwrap();
    let summary: Value = serde_json::from_slice(&summary.bytes().await.unwrap()).unwrap();
    assert_eq!(summary["events"], 0);
    let status = |path: String| {
        let url = format!("{}/api/v3/{path}", urls["virustotal"].as_str().unwrap());
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        async move {
            client.get(url).header("x-apikey", TEST_KEY).send().await.unwrap().status().as_u16()
        }
    };
    assert_eq!(status("feeds/files/202601020304".to_owned()).await, 302);
    assert_eq!(status("feeds/files/202601020305".to_owned()).await, 404);
    assert_eq!(status("feeds/files/202601020305".to_owned()).await, 404);
    for (n, expected) in [(1, 302), (2, 302), (3, 404)] {
        let sha256 = hex::encode(Sha256::digest(lookup::sample(n)));
        assert_eq!(status(format!("files/{sha256}/download")).await, expected);
    }
    let stream = format!("{}/api/v3/ioc_stream", urls["virustotal"].as_str().unwrap());
    let stream = reqwest::Client::new().get(stream).header("x-apikey", TEST_KEY).send();
    let stream: Value =
        serde_json::from_slice(&stream.await.unwrap().bytes().await.unwrap()).unwrap();
    let hits = stream["data"].as_array().unwrap().iter().map(|hit| {
        let context = &hit["context_attributes"];
        let date = context["notification_date"].as_i64().unwrap();
        (hit["id"].clone(), date, context["hunting_info"]["rule_name"].clone())
    });
    let hits: Vec<_> = hits.collect();
    let newest = hits[0].1;
    let expected = [(4, 0, "rule_0"), (3, 60, "rule_2"), (2, 120, "rule_1"), (1, 180, "rule_0")];
    let expected = expected.map(|(n, ago, rule)| {
        let sha256 = hex::encode(Sha256::digest(lookup::sample(n)));
        (Value::from(sha256), newest - ago, Value::from(rule))
    });
    assert_eq!(hits, expected);
    let killed = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn aws_prints_how_it_is_found_and_ends_at_sigterm() {
    if Aws::shared().unwrap().is_none() {
        return;
    }
    let mut child = sim()
        .args(["aws", "--secret", "azul-vt/key=value"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said: Vec<String> = said.take(5).collect();
    let value = |name: &str| {
        let line = said.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches('\'').to_owned()
    };
    let address = value("export AWS_ENDPOINT_URL=http://");
    let home = value("emulator_home=");
    assert!(std::net::TcpStream::connect(&address).is_ok());
    assert!(std::path::Path::new(&home).join("log").exists());
    let killed = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert!(child.wait().unwrap().success());
    assert!(std::net::TcpStream::connect(&address).is_err());
    assert!(!std::path::Path::new(&home).exists());
}

#[test]
fn feed_writes_a_minute_and_expected_lists_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("minute.jsonl");
    let minute = "202601020304";
    let done = sim()
        .args(["feed", "--minute", minute, "--target-bytes", "100KB", "--seed", "9", "-o"])
        .arg(&file)
        .status()
        .unwrap();
    assert!(done.success());
    let lines = std::fs::read_to_string(&file).unwrap();
    let count = lines.lines().count();
    assert!(lines.len() >= 100_000);
    let listed = sim()
        .args(["expected", "--seed", "9", "--records", &count.to_string(), minute])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), count);
    assert!(listed.lines().any(|l| l == feed::sha256(9, minute, 0)));
    let refused = sim().args(["feed", "--minute", "today", "-o", "-"]).output().unwrap();
    assert!(!refused.status.success());
}
