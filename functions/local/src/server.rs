//! Serves HTTP/1.1 on this machine to unknown callers.
//!
//! Each address has a limit of open connections. At the limit, a new connection replaces the one that has been silent for
//! the longest time. A connection is closed after 15 idle seconds: its request's head is incomplete (however its bytes
//! drip in), its answer is not taken, or no further request begins. A body has to arrive at a minimum rate ([`body`]).
//! Posts take at most half of the connections, so that requests such as `GET /health` are answered while many callers
//! are posting. Where all of those are taken, a new post replaces the one whose body has been awaited for the longest
//! time: most posts show only at the end of their body whether they may post, so a place alone must cost something.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use azul_vt::{errors::chain, pipeline::RunLimits, settings::Settings, webhook::PreAuthenticated};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::failure::{Failure, say};

mod body;
mod connections;

pub(crate) use body::PacedBody;
use connections::{Connections, Place};

/// A request whose body has to arrive at a minimum rate.
pub(crate) type Request = http::Request<PacedBody>;

/// Time that requests still get when the server ends, so that a slow client does not hold up the end.
const GRACE: Duration = Duration::from_secs(3);
/// Most bytes of a request's head. A longer head is answered with status 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most open connections at an address that only operators use.
const OPERATORS: usize = 64;
/// Pause after a connection could not be accepted, mostly because too many files are open.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Longest time until a request's head is complete, an answer is taken, or the next request begins.
    idle: Duration,
    /// Longest time between two pieces of a body.
    body_silence: Duration,
    /// Time that a body may take in addition to the time for its length at the minimum rate.
    body_grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(15),
            body_silence: Duration::from_secs(30),
            body_grace: Duration::from_secs(30),
        }
    }
}

/// A server that is bound to its address and does not serve yet.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    most_connections: usize,
    times: Times,
}

impl Server {
    /// Listens on the address that `setting` names, and reports it. `secrets` names the settings that would allow other
    /// addresses than loopback; `None` if one of them is set.
    pub(crate) async fn bind(
        setting: &str,
        address: SocketAddr,
        settings: &Settings,
        secrets: Option<&str>,
    ) -> Result<Self, Failure> {
        let server = Self::quietly(setting, address, settings.max_connections).await?;
        let note = secrets.map_or_else(String::new, |secrets| {
            format!(" (loopback only: set {secrets} to serve others)")
        });
        say(&format!("listening on http://{}{note}", server.address));
        Ok(server)
    }

    /// Listens at a further address. Its paths are also served at the first address, so a failure is only a warning.
    pub(crate) async fn bind_beside(
        setting: &str,
        address: SocketAddr,
        most_connections: usize,
        what: &str,
    ) -> Option<Self> {
        match Self::quietly(setting, address, most_connections).await {
            Ok(server) => {
                say(&format!("{what} at http://{}", server.address));
                Some(server)
            }
            Err(failure) => {
                let error = failure.line();
                tracing::warn!(error, "{what}: not at an address of their own");
                None
            }
        }
    }

    /// Listens at the operators' address (`SERVE_LISTEN`), for a command whose first address takes posts.
    pub(crate) async fn bind_for_operators(settings: &Settings) -> Option<Self> {
        let what = "/health and /metrics for operators";
        Self::bind_beside("SERVE_LISTEN", settings.serve_listen, OPERATORS, what).await
    }

    async fn quietly(
        setting: &str,
        address: SocketAddr,
        most_connections: usize,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("{setting}: cannot listen on {address}"))
            .map_err(Failure::Job)?;
        let address = listener.local_addr().map_err(Failure::job)?;
        Ok(Self { listener, address, most_connections, times: Times::default() })
    }

    /// Answers requests until `limits` are reached; requests that came before get three more seconds. At a loopback
    /// address, which only this machine can reach, requests are marked with [`PreAuthenticated`]. Without secrets the
    /// settings allow no other address.
    pub(crate) async fn serve<Answer>(
        self,
        limits: &RunLimits,
        handle: impl Fn(Request) -> Answer + Clone + Send + Sync + 'static,
    ) where
        Answer: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let most_posts = (self.most_connections / 2).max(1);
        let connections = Connections::new(self.most_connections, most_posts);
        let door = Door {
            is_let_in: self.address.ip().is_loopback(),
            times: self.times,
            stop: limits.stop.clone(),
        };
        let (all_end, tasks) = (CancellationToken::new(), TaskTracker::new());
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = limits.stop.cancelled() => break,
            };
            match accepted {
                Ok((socket, _)) => match connections.admit(&all_end) {
                    Some(place) => {
                        tasks.spawn(door.clone().attend(socket, place, handle.clone()));
                    }
                    // All connections are at work on whole requests, so this one is closed, and the caller has to come again.
                    None => drop(socket),
                },
                Err(error) => {
                    if !is_callers_fault(&error) {
                        tracing::warn!(error = chain(&error), "a connection was not accepted");
                        connections.make_room();
                        tokio::time::sleep(RETRY_DELAY).await;
                    }
                }
            }
        }
        tasks.close();
        let _ = tokio::time::timeout(GRACE, tasks.wait()).await;
        all_end.cancel();
    }
}

/// State that all connections of an address share.
#[derive(Clone)]
struct Door {
    is_let_in: bool,
    times: Times,
    stop: CancellationToken,
}

impl Door {
    /// Serves one connection to its end.
    async fn attend<Answer>(
        self,
        socket: TcpStream,
        place: Place,
        handle: impl Fn(Request) -> Answer,
    ) where
        Answer: Future<Output = Response<Bytes>>,
    {
        // Answers are short, so they are sent without delay.
        let _ = socket.set_nodelay(true);
        let service = service_fn(|request: http::Request<Incoming>| {
            let at_work = place.begin();
            let is_question = matches!(*request.method(), Method::GET | Method::HEAD);
            let has_place = is_question || at_work.take_post_place();
            let mut request =
                request.map(|body| PacedBody::new(body, self.times, place.body_watch()));
            if self.is_let_in {
                request.extensions_mut().insert(PreAuthenticated);
            }
            let answer = has_place.then(|| handle(request));
            async move {
                let answer = match answer {
                    Some(answer) => answer.await,
                    None => too_many_posts(),
                };
                drop(at_work);
                Ok::<_, Infallible>(answer.map(Full::new))
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            // `Place::over` limits the time of the head and more.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(socket), service);
        let (mut connection, mut over) =
            (std::pin::pin!(connection), std::pin::pin!(place.over(self.times.idle)));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = over.as_mut() => return,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = over => {}
        }
    }
}

fn too_many_posts() -> Response<Bytes> {
    let body = "{\"error\":\"too many are posting at once: send it again later\"}\n";
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns whether accepting failed because the client went away.
fn is_callers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SHORT: Duration = Duration::from_millis(150);
    const LONG: Duration = Duration::from_hours(1);
    /// Time in which the server surely reads a few bytes.
    const LONG_ENOUGH: Duration = Duration::from_secs(1);
    const GET: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";

    /// A body on which the handler works until the server is told to end.
    const WORK: &[u8] = b"long work";

    /// Starts a server that answers with the number of bytes of a body, or the reason why it broke off.
    async fn start(most_connections: usize, times: Times) -> (SocketAddr, RunLimits) {
        let address = "127.0.0.1:0".parse().unwrap();
        let mut server = Server::quietly("TEST", address, most_connections).await.unwrap();
        server.times = times;
        let (address, limits) = (server.address, RunLimits::default());
        let until = limits.clone();
        tokio::spawn(async move {
            let end = until.clone();
            let answer = move |request: Request| {
                let end = end.clone();
                async move {
                    let body = match request.into_body().collect().await {
                        Ok(body) => body.to_bytes(),
                        Err(error) => return Response::new(error.to_string().into()),
                    };
                    if body == WORK {
                        end.stop.cancelled().await;
                    }
                    Response::new(format!("{} bytes", body.len()).into())
                }
            };
            server.serve(&until, answer).await;
        });
        (address, limits)
    }

    async fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket
    }

    /// Reads what a server sends until it closes the connection.
    async fn said(mut socket: TcpStream) -> String {
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said).await;
        String::from_utf8(said).unwrap()
    }

    #[tokio::test]
    async fn half_sent_heads_make_room_for_others() {
        let times = Times { idle: LONG, ..Times::default() };
        let (address, _limits) = start(4, times).await;
        let mut half = Vec::new();
        for _ in 0..20 {
            half.push(open(address, b"POST / HTTP/1.1\r\nHost: x\r\nX-a: ").await);
            assert!(said(open(address, GET).await).await.ends_with("0 bytes"));
        }
        // The first connections were closed without an answer.
        assert_eq!(said(half.remove(0)).await, "");
    }

    #[tokio::test]
    async fn a_head_that_drips_in_is_given_up() {
        let times = Times { idle: SHORT, ..Times::default() };
        let (address, _limits) = start(4, times).await;
        let mut socket = open(address, b"GET / HTTP/1.1\r\nHost: x\r\nX-a: ").await;
        while socket.write_all(b"a").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
        // A connection that sends no further request is closed as well.
        let idle = open(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(said(idle).await.ends_with("0 bytes"));
    }

    #[tokio::test]
    async fn a_body_that_stops_or_drips_in_is_given_up() {
        let stops = Times { body_silence: SHORT, body_grace: LONG, idle: LONG };
        let drips = Times { body_silence: LONG, body_grace: SHORT, idle: LONG };
        // A fast start gives no leave to drip for long.
        for (times, drip, hurry) in [(stops, false, 0), (drips, true, 0), (drips, true, 900_000)] {
            let (address, _limits) = start(4, times).await;
            let (read, mut write) = open(address, POST).await.into_split();
            write.write_all(&vec![b'x'; hurry]).await.unwrap();
            let dripping = tokio::spawn(async move {
                while drip && write.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(SHORT / 10).await;
                }
                write
            });
            let begun = tokio::time::Instant::now();
            let mut read = tokio::io::BufReader::new(read);
            let mut said = String::new();
            while !said.contains("too slowly") {
                let read = tokio::io::AsyncBufReadExt::read_line(&mut read, &mut said).await;
                if read.unwrap_or(0) == 0 {
                    break;
                }
            }
            assert!(said.contains("it came too slowly"), "{said}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            drop(read);
            dripping.await.unwrap();
        }
    }

    /// Opens a post whose head was read and whose body is missing.
    async fn posting(address: SocketAddr) -> TcpStream {
        let head =
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
        let mut socket = open(address, head).await;
        let mut go_on = *b"HTTP/1.1 100 Continue\r\n\r\n";
        socket.read_exact(&mut go_on).await.unwrap();
        assert!(go_on.starts_with(b"HTTP/1.1 100"));
        socket
    }

    #[tokio::test]
    async fn questions_are_answered_while_posts_take_what_they_may() {
        let (address, limits) = start(4, Times::default()).await;
        let (mut one, mut other) = (posting(address).await, posting(address).await);
        for socket in [&mut one, &mut other] {
            socket.write_all(WORK).await.unwrap();
        }
        // The server does not say when it has read a body. Until then a post makes room for another.
        tokio::time::sleep(LONG_ENOUGH).await;
        for _ in 0..10 {
            // Posts beyond half of the connections are answered with 503.
            let third = said(open(address, POST).await).await;
            assert!(third.starts_with("HTTP/1.1 503 "), "{third}");
            assert!(third.contains("retry-after: 5\r\n"), "{third}");
            assert!(said(open(address, GET).await).await.ends_with("0 bytes"));
        }
        // A request that is whole is never closed for another one, and has a moment when the server ends.
        limits.stop.cancel();
        for worked in [one, other] {
            assert!(said(worked).await.ends_with("9 bytes"));
        }
    }

    #[tokio::test]
    async fn posts_that_send_no_body_make_room_for_another() {
        let (address, limits) = start(4, Times::default()).await;
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(posting(address).await);
            let post =
                b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
            assert!(said(open(address, post).await).await.ends_with("3 bytes"));
        }
        // The connections that were silent longest were closed without an answer.
        assert_eq!(said(silent.remove(0)).await, "");
        // A connection that awaits a body may do so for long, but the server waits for it only a moment when it ends.
        limits.stop.cancel();
        assert_eq!(said(silent.remove(18)).await, "");
    }
}
