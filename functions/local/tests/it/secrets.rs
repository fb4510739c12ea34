//! Tests of peers whose answers quote the secrets of the request.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use crate::{commands::vt, running::text};

const KEY: &str = "CanaryKey-0a1b2c3d4e5f6071_8293a4b5c6d7e8f9";
const PASSWORD: &str = "canary-password_of-the-dispatcher";

/// Makes an answer from the secret of the request.
type Echo = fn(&str) -> String;

/// Starts a server that answers each request with `echo` and then closes the connection.
async fn start(echo: Echo) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                let (mut line, mut secret) = (String::new(), String::new());
                while socket.read_line(&mut line).await.unwrap_or(0) > 2 {
                    if let Some(key) = line.strip_prefix("x-apikey: ") {
                        key.trim().clone_into(&mut secret);
                    } else if let Some(basic) = line.strip_prefix("authorization: Basic ") {
                        secret = String::from_utf8(BASE64_STANDARD.decode(basic.trim()).unwrap())
                            .unwrap();
                    }
                    line.clear();
                }
                let _ = socket.write_all(echo(&secret).as_bytes()).await;
            });
        }
    });
    port
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

fn error(message: &str) -> String {
    serde_json::json!({"error": {"code": format!("Wrong {message}"), "message": message, "title": message, "detail": message}})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_quotes_a_secret_puts_it_into_no_line() {
    let echoes: [(&str, Echo); 10] = [
        ("as it is", |secret| answer(401, "", &error(secret))),
        ("as html", |secret| answer(403, "", &format!("<p>{secret}</p>"))),
        ("as the request's id", |secret| answer(503, &format!("x-request-id: {secret}\r\n"), "")),
        ("in a redirect", |secret| {
            let host = secret.replace(['_', ':'], "-");
            answer(302, &format!("Location: http://{host}.internal/{secret}\r\n"), "")
        }),
        ("percent-encoded", |secret| {
            let secret = secret.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>();
            answer(401, "", &error(&secret.concat()))
        }),
        ("as Base64", |secret| {
            answer(401, "", &error(&BASE64_STANDARD.encode(format!("x:{secret}"))))
        }),
        ("lower-case", |secret| answer(401, "", &error(&secret.to_lowercase()))),
        ("backwards", |secret| answer(401, "", &error(&secret.chars().rev().collect::<String>()))),
        ("over the limit", |secret| {
            answer(401, "", &error(&format!("{}{secret}", "y".repeat(285))))
        }),
        ("with 200", |secret| answer(200, "", &format!("{{\"data\":\"{secret}\"}}"))),
    ];
    let mut runs = tokio::task::JoinSet::new();
    for (name, echo) in echoes {
        runs.spawn(tells_nothing(name, echo));
    }
    runs.join_all().await;
}

async fn tells_nothing(name: &'static str, echo: Echo) {
    let (virustotal, dispatcher) = (start(echo).await, start(echo).await);
    let state = tempfile::tempdir().unwrap();
    for (command, ends) in [("doctor", true), ("load", false)] {
        let mut command = vt(&[command]);
        command
            .env("LOG", "trace")
            .env("VIRUSTOTAL", format!("http://127.0.0.1:{virustotal}"))
            .env("VIRUSTOTAL_APIKEY", KEY)
            .env("PLUGIN_EVENTS_URL", format!("http://me:{PASSWORD}@127.0.0.1:{dispatcher}"))
            .env("STATEDIR", state.path())
            .env("RULES_ROOT", "/nowhere/at/all")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        if !ends {
            // The command retries without end, so its log is taken after a while.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        }
        let said = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        let said = format!("{}{}", text(&said.stdout), text(&said.stderr)).to_lowercase();
        for secret in [KEY, PASSWORD] {
            let shown = secret.to_lowercase();
            let backwards: String = shown.chars().rev().collect();
            let base64 = BASE64_STANDARD.encode(format!("x:{secret}")).to_lowercase();
            for part in [&shown[..20], &shown[12..], &backwards[5..25], &base64[8..24]] {
                assert!(!said.contains(part), "{name}: {part} is in {said}");
            }
        }
    }
}
