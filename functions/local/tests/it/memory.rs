//! Measures the peak memory of the built `vt` while each of its entry points is attacked. SECURITY.md has the figures.

use std::{process::Command, time::Duration};

use jiff::Timestamp;
use sim::feed::Style;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    commands::{MINUTE, vt},
    running::Running,
    served::Stage,
};

pub(crate) const SECRET: &str = "whsec_bWVtb3J5LW9mLWVhY2gtZG9vcg==";
/// Most memory that `ingest`, the webhook and `hunt` may take, in MB.
const MAX_MB: u64 = 256;
/// Most memory that `load` may take, in MB.
const MAX_LOADING_MB: u64 = 150;

/// Returns the peak memory of a process so far, in MB; `None` if it has ended.
fn peak_mb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

/// Returns bodies of at most 6 MB of JSON that would take gigabytes as a tree of values.
fn hostile_bodies() -> Vec<Vec<u8>> {
    let list =
        |item: &str| format!("[{item}{}]", format!(",{item}").repeat(6_000_000 / (item.len() + 1)));
    let event = format!("{{\"entity\":{{\"datastreams\":{}}}}}", list("{}"));
    let event = event.get(..event.len() - 200).unwrap_or_default();
    [
        &list("0"),
        &list("[]"),
        &list("{}"),
        &list("{\"entity\":1}"),
        &"[".repeat(3_000_000),
        &"{\"a\":".repeat(1_000_000),
        event,
    ]
    .into_iter()
    .map(|body| body.as_bytes().to_vec())
    .collect()
}

/// Posts a signed body. Returns the status of the answer, or 0 if there is none.
pub(crate) async fn post(url: &str, id: &str, body: Vec<u8>) -> u16 {
    let now = Timestamp::now();
    let signature = azul_vt::webhook::sign(SECRET, id, now, &body).unwrap();
    let request = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", now.as_second().to_string())
        .header("webhook-signature", signature);
    request.body(body).send().await.map_or(0, |answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_come_in_at_once_take_little_memory_together() {
    let stage = Stage::new().await;
    let mut command = stage.vt(&["query", "--listen"]);
    command.env("LOOKUP_SOURCES", "incidents").env("WEBHOOK_SECRETS", SECRET);
    command.env("WEBHOOK_LISTEN", "127.0.0.1:0").env("SERVE_LISTEN", "127.0.0.1:0");
    let (running, url) = Running::serve(command);
    let mut posts = tokio::task::JoinSet::new();
    for (n, body) in hostile_bodies().into_iter().cycle().take(14).enumerate() {
        let url = url.clone();
        posts.spawn(async move { post(&url, &format!("hostile-{n}"), body).await });
    }
    for status in posts.join_all().await {
        // A connection may be closed before the whole body was sent.
        assert!([0, 400, 413, 503].contains(&status), "{status}");
    }
    assert_eq!(post(&url, "good", b"[]".to_vec()).await, 202);
    let peak = peak_mb(running.child.id()).unwrap();
    assert!(peak <= MAX_MB, "{peak} MB");
    println!("webhook: {peak} MB");
    running.terminate();
    assert!(running.end().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_body_of_many_values_takes_little_memory() {
    let stage = Stage::new().await;
    let mut command = stage.vt(&["ingest"]);
    command.env("INGEST_LISTEN", "127.0.0.1:0").env("SERVE_LISTEN", "127.0.0.1:0");
    command.env("DISPATCHER_MAX_AGE_HOURS", "-1");
    let (running, url) = Running::serve(command);
    for body in hostile_bodies() {
        let body = [body.as_slice(), b"\n"].concat().repeat(2);
        let post = reqwest::Client::new().post(&url).header("content-type", "application/json");
        let answer = post.body(body).send().await.unwrap();
        assert!(answer.status().is_success() || answer.status().is_client_error());
    }
    let peak = peak_mb(running.child.id()).unwrap();
    assert!(peak <= MAX_MB, "{peak} MB");
    println!("ingest: {peak} MB");
    running.terminate();
    assert!(running.end().await.0.success());
}

/// Runs a command to its end. Returns its peak memory in MB, whether it succeeded, and its log.
async fn peak_until_its_end(command: Command) -> (u64, bool, String) {
    let running = Running::start(command);
    let pid = running.child.id();
    let ended = tokio::spawn(running.end());
    let mut peak = 0;
    while !ended.is_finished() {
        peak = peak_mb(pid).unwrap_or_default().max(peak);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, said) = ended.await.unwrap();
    (peak, status.success(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_hostile_records_takes_little_memory() {
    let stage = Stage::new().await;
    let good = sim::feed::lines(5, MINUTE, 3, Style::Small);
    let blank = b"\n".repeat(5_000_000);
    let hostile = hostile_bodies().join(&b'\n');
    let minute = [&good, &hostile, b"\n".as_slice(), &b"1\n".repeat(200_000), &blank].concat();
    stage.virustotal.serve(MINUTE, minute);
    let mut command = stage.vt(&["load", "--from", MINUTE, "--to", MINUTE]);
    command.env("DISPATCHER_MAX_AGE_HOURS", "-1");
    let (peak, _, said) = peak_until_its_end(command).await;
    assert_eq!(stage.dispatcher.arrived().sha256s().len(), 3, "{said}");
    assert!(peak <= MAX_LOADING_MB, "{peak} MB");
    println!("load: {peak} MB");
}

/// Starts a server that answers each request with the JSON `body`.
async fn always(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            let length = body.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(&body).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_hits_of_120_megabytes_takes_little_memory_and_few_lines() {
    let page = [b"{\"data\":[", b"1,".repeat(60 << 20).as_slice(), b"1]}"].concat();
    let stage = Stage::new().await;
    let mut command: Command = vt(&["hunt"]);
    command
        .env("VIRUSTOTAL", always(page).await)
        .env("VIRUSTOTAL_APIKEY", "a-key-of-this-test")
        .env("PLUGIN_EVENTS_URL", stage.dispatcher.url())
        .env("STATEDIR", stage.state.path());
    let (peak, succeeded, said) = peak_until_its_end(command).await;
    assert!(!succeeded);
    assert!(said.len() < 65_536, "{} bytes of log", said.len());
    assert!(peak <= MAX_MB, "{peak} MB");
    println!("hunt: {peak} MB");
}
