//! A plain forward proxy (absolute-form requests and CONNECT), and a TCP proxy that misbehaves.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::server::lock;

/// Bytes of a request head that are taken at most.
const MAX_HEAD: usize = 64 * 1024;

/// A running forward proxy. Dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    through: Arc<Mutex<Vec<Through>>>,
    stop: CancellationToken,
}

/// One request that went through a [`Proxy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// `GET`, `POST`, `CONNECT`, ….
    pub method: String,
    /// `host:port` asked for.
    pub host: String,
}

impl Proxy {
    /// Starts on a free port.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn start() -> Result<Self> {
        let through = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&through);
        let (address, stop) = listen(move |client| {
            let log = Arc::clone(&log);
            async move { forward(client, &log).await }
        })
        .await?;
        Ok(Self { address, through, stop })
    }

    /// Returns the URL for `HTTP_PROXY` and `HTTPS_PROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that went through, in order.
    pub fn through(&self) -> Vec<Through> {
        lock(&self.through).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves every connection to a free port in a task of its own, until the token is cancelled.
async fn listen<F>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Result<(SocketAddr, CancellationToken)>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening")?;
    let address = listener.local_addr().context("own address")?;
    let stop = CancellationToken::new();
    let until = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = until.cancelled() => return,
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    let work = serve(client);
                    let until = until.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = until.cancelled() => {}
                            // A client or an upstream that goes away is no business of ours.
                            _ = work => {}
                        }
                    });
                }
            }
        }
    });
    Ok((address, stop))
}

/// One request a connection: the forwarded one says `Connection: close`.
async fn forward(mut client: TcpStream, log: &Mutex<Vec<Through>>) -> Result<()> {
    let mut received = Vec::new();
    let end = loop {
        let mut chunk = [0; 4096];
        let n = client.read(&mut chunk).await?;
        received.extend(chunk.iter().take(n));
        if let Some(at) = received.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if n == 0 || received.len() > MAX_HEAD {
            return Ok(());
        }
    };
    let body = received.split_off(end);
    let head = String::from_utf8(received).context("a head that is not text")?;
    let (line, fields) = head.split_once("\r\n").ok_or_else(|| anyhow!("no request line"))?;
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    if method == "CONNECT" {
        lock(log).push(Through { method: method.to_owned(), host: target.to_owned() });
        let mut upstream = TcpStream::connect(target).await?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        upstream.write_all(&body).await?;
        copy_bidirectional(&mut client, &mut upstream).await?;
        return Ok(());
    }
    let Some(rest) = target.strip_prefix("http://") else {
        client
            .write_all(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .await?;
        return Ok(());
    };
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    lock(log).push(Through { method: method.to_owned(), host: host.clone() });
    let Ok(mut upstream) = TcpStream::connect(&host).await else {
        client
            .write_all(
                b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .await?;
        return Ok(());
    };
    let kept: Vec<&str> = fields
        .split("\r\n")
        .filter(|field| {
            let name = field.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !field.is_empty() && name != "connection" && name != "proxy-connection"
        })
        .collect();
    let forwarded =
        format!("{method} {path} HTTP/1.1\r\n{}\r\nconnection: close\r\n\r\n", kept.join("\r\n"));
    upstream.write_all(forwarded.as_bytes()).await?;
    upstream.write_all(&body).await?;
    copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}

/// A running TCP proxy before one upstream. Dropping it ends it, with all its connections.
#[derive(Debug)]
pub struct Chaos {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    connections: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// Behaviour of a [`Chaos`] on new connections. Open connections keep the mode that they began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: all bytes pass.
    Pass,
    /// Connections are reset at once.
    Refuse,
    /// The connection is reset when the client has sent that many bytes.
    CutRequestAfter(u64),
    /// The connection is reset when the upstream has sent that many bytes.
    CutResponseAfter(u64),
    /// Nothing passes until that time is over.
    Delay(Duration),
    /// The request passes, the answer never comes.
    SwallowResponse,
}

impl Chaos {
    /// Starts on a free port before `upstream` (`host:port` or `http://host:port`).
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn start(upstream: &str) -> Result<Self> {
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let mode = Arc::new(Mutex::new(Mode::Pass));
        let connections = Arc::new(AtomicU64::new(0));
        let (now, count) = (Arc::clone(&mode), Arc::clone(&connections));
        let (address, stop) = listen(move |client| {
            count.fetch_add(1, Ordering::Relaxed);
            let mode = *lock(&now);
            let upstream = upstream.clone();
            async move { disturb(client, &upstream, mode).await }
        })
        .await?;
        Ok(Self { address, mode, connections, stop })
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the mode of connections that are made from now on.
    pub fn set(&self, mode: Mode) {
        *lock(&self.mode) = mode;
    }

    /// Connections made so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn disturb(mut client: TcpStream, upstream: &str, mode: Mode) -> Result<()> {
    if mode == Mode::Refuse {
        client.set_zero_linger()?;
        return Ok(());
    }
    if let Mode::Delay(time) = mode {
        tokio::time::sleep(time).await;
    }
    let mut upstream = TcpStream::connect(upstream).await?;
    let (request_limit, response_limit) = match mode {
        Mode::CutRequestAfter(n) => (n, u64::MAX),
        Mode::CutResponseAfter(n) => (u64::MAX, n),
        _ => (u64::MAX, u64::MAX),
    };
    let cut = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_upstream, mut to_upstream) = upstream.split();
        let up = async {
            let mut limited = (&mut from_client).take(request_limit);
            tokio::io::copy(&mut limited, &mut to_upstream).await?;
            anyhow::Ok(limited.limit() == 0)
        };
        let down = async {
            if mode == Mode::SwallowResponse {
                tokio::io::copy(&mut from_upstream, &mut tokio::io::sink()).await?;
                return std::future::pending().await;
            }
            let mut limited = (&mut from_upstream).take(response_limit);
            tokio::io::copy(&mut limited, &mut to_client).await?;
            anyhow::Ok(limited.limit() == 0)
        };
        tokio::select! { cut = up => cut?, cut = down => cut? }
    };
    if cut {
        client.set_zero_linger()?;
        upstream.set_zero_linger()?;
    }
    Ok(())
}
