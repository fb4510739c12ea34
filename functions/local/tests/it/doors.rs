//! Callers that begin requests and never end them.

use std::{process::Command, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
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
