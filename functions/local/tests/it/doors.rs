//! Callers that begin requests and never end them.

use std::{process::Command, time::Duration};

use sim::feed::Style;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    commands::MINUTE,
    memory::{SECRET, post},
    running::{Running, text},
    served::Stage,
};

/// Returns `command` with a limit of `files` open files.
fn limited(command: &Command, files: u32) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args()).env_clear();
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// Sends `count` requests whose head never ends.
async fn half_sent(address: &str, count: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let _ = socket.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nX-a: ").await;
        sockets.push(socket);
    }
    sockets
}

/// Sends a GET and returns the first line of the answer.
async fn status(address: &str, path: &str) -> String {
    let asking = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said).await;
        text(&said).lines().next().unwrap_or_default().to_owned()
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap_or_default()
}

/// Returns the address that follows `words` in the log.
fn address(said: &str, words: &str) -> String {
    let (_, url) = said.split_once(words).unwrap();
    url.split_whitespace().next().unwrap().trim_start_matches("http://").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_stop_no_server() {
    for (command, first, second) in [
        (&["ingest"][..], "listening on ", "operators at "),
        (&["query", "--listen"], "listening on ", "operators at "),
        (&["serve", "--functions", "ingest,download"], "webhooks at ", "listening on "),
    ] {
        let stage = Stage::new().await;
        let mut vt = stage.vt(command);
        vt.env("MAX_CONNECTIONS", "40").env("LOOKUP_SOURCES", "incidents");
        for listen in ["INGEST_LISTEN", "WEBHOOK_LISTEN", "SERVE_LISTEN"] {
            vt.env(listen, "127.0.0.1:0");
        }
        let running = Running::start(limited(&vt, 200)).until("listening on ");
        let running = if running.said.contains(second) && running.said.contains(first) {
            running
        } else {
            let next = if running.said.contains(first) { second } else { first };
            running.until(next)
        };
        let (posts, operators) = (address(&running.said, first), address(&running.said, second));
        let mut held = half_sent(&posts, 300).await;
        let answers = if command[0] == "serve" { " 404 " } else { " 200 " };
        assert!(status(&posts, "/health").await.contains(answers), "{command:?}");
        assert!(status(&operators, "/health").await.contains(" 200 "), "{command:?}");
        held.extend(half_sent(&operators, 300).await);
        for path in ["/health", "/metrics"] {
            assert!(status(&operators, path).await.contains(" 200 "), "{command:?} {path}");
        }
        running.terminate();
        assert!(running.end().await.0.success(), "{command:?}");
    }
}

/// Begins posts whose signatures are well-formed and wrong: each announces `announced` bytes and sends only `sent`.
async fn forged(url: &str, count: usize, announced: usize, sent: usize) -> Vec<TcpStream> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let now = jiff::Timestamp::now().as_second();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {announced}\r\n\
         webhook-id: forged\r\nwebhook-timestamp: {now}\r\nwebhook-signature: v1,{}=\r\n\r\n",
        "A".repeat(43)
    );
    let begun = vec![b' '; sent];
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // The server may close the connection before all bytes are sent.
        let sending = async {
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(&begun).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), sending).await;
        sockets.push(socket);
    }
    sockets
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_without_a_body_keep_no_signed_post_out() {
    let stage = Stage::new().await;
    let mut vt = stage.vt(&["ingest"]);
    vt.env("INGEST_LISTEN", "127.0.0.1:0").env("SERVE_LISTEN", "127.0.0.1:0");
    vt.env("INGEST_SECRETS", SECRET).env("DISPATCHER_MAX_AGE_HOURS", "-1");
    vt.env("MAX_CONNECTIONS", "16");
    let (running, url) = Running::serve(vt);
    let mut held = Vec::new();
    for n in 0..3 {
        held.extend(forged(&url, 40, 100_000, 0).await);
        let body = sim::feed::lines(n, MINUTE, 1, Style::Small);
        assert_eq!(post(&url, &format!("honest-{n}"), body).await, 200);
    }
    assert_eq!(stage.dispatcher.arrived().sha256s().len(), 3);
    running.terminate();
    assert!(running.end().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_bodies_that_stand_still_keep_no_signed_webhook_out() {
    let stage = Stage::new().await;
    let mut vt = stage.vt(&["query", "--listen"]);
    vt.env("WEBHOOK_LISTEN", "127.0.0.1:0").env("SERVE_LISTEN", "127.0.0.1:0");
    vt.env("WEBHOOK_SECRETS", SECRET).env("LOOKUP_SOURCES", "incidents");
    let (running, url) = Running::serve(vt);
    // Together the posts are larger than all bodies that may be arriving at once.
    let _held = forged(&url, 8, 6 << 20, 5 << 20).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 0..3 {
        let body = [b"[".as_slice(), &b" ".repeat(5 << 20), b"]"].concat();
        assert_eq!(post(&url, &format!("honest-{n}"), body).await, 202);
    }
    running.terminate();
    assert!(running.end().await.0.success());
}
