//! One HTTP server on 127.0.0.1 whose connections can be refused and reset: what all stand-ins stand on.

use std::{
    future::{pending, ready},
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    Extension, Router,
    http::{HeaderValue, header::DATE},
    middleware::map_response,
    response::Response,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// A running server. Dropping it ends it, with all its connections.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    commands: mpsc::UnboundedSender<Command>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    date: Arc<Mutex<Date>>,
}

/// The header `Date` of a server's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Date {
    /// The current time of the machine.
    #[default]
    Now,
    /// This time, always.
    At(Timestamp),
    /// No header `Date`.
    Untold,
}

impl Date {
    fn header(self) -> Option<HeaderValue> {
        let time = match self {
            Self::Now => Timestamp::now(),
            Self::At(time) => time,
            Self::Untold => return None,
        };
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
        HeaderValue::from_str(&text).ok()
    }
}

#[derive(Debug)]
enum Command {
    Down(oneshot::Sender<()>),
    Up(oneshot::Sender<()>),
}

impl Server {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    pub(crate) async fn start(port: u16, router: Router) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("listening on port {port}"))?;
        let address = listener.local_addr().context("own address")?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let date: Arc<Mutex<Date>> = Arc::default();
        let told = Arc::clone(&date);
        let router = router.layer(map_response(move |mut response: Response| {
            if let Some(date) = lock(&told).header() {
                response.headers_mut().entry(DATE).or_insert(date);
            }
            ready(response)
        }));
        let task = tokio::spawn(run(listener, router, receiver, stop.clone()));
        Ok(Self { address, commands, stop, task: Some(task), date })
    }

    /// Sets the header `Date` of each further answer.
    pub(crate) fn set_date(&self, date: Date) {
        *lock(&self.date) = date;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Resets all connections and refuses new ones until [`Self::up`]; the port stays ours.
    pub(crate) async fn down(&self) {
        self.command(Command::Down).await;
    }

    pub(crate) async fn up(&self) {
        self.command(Command::Up).await;
    }

    async fn command(&self, command: fn(oneshot::Sender<()>) -> Command) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(command(done)).is_ok() {
            // An error means that the server has ended: then it is down for good.
            let _ = is_done.await;
        }
    }

    /// Ends the server and waits for its port to be free.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(
    first: TcpListener,
    router: Router,
    mut commands: mpsc::UnboundedReceiver<Command>,
    stop: CancellationToken,
) {
    let address = first.local_addr();
    let mut listener = Some(first);
    // A bound socket that does not listen: connections are refused, and nobody else gets the port.
    let mut held: Option<TcpSocket> = None;
    let mut connections = stop.child_token();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            command = commands.recv() => match command {
                None => return,
                Some(Command::Down(done)) => {
                    if listener.take().is_some() {
                        connections.cancel();
                        held = address.as_ref().ok().and_then(|a| bind(*a).ok());
                    }
                    let _ = done.send(());
                }
                Some(Command::Up(done)) => {
                    if listener.is_none() {
                        connections = stop.child_token();
                        let socket = held.take().or_else(|| address.as_ref().ok().and_then(|a| bind(*a).ok()));
                        listener = socket.and_then(|socket| socket.listen(1024).ok());
                    }
                    let _ = done.send(());
                }
            },
            accepted = accept(listener.as_ref()) => {
                if let Ok(stream) = accepted {
                    tokio::spawn(serve(stream, router.clone(), connections.child_token()));
                }
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => pending().await,
    }
}

async fn serve(stream: TcpStream, router: Router, kill: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Killable { stream, kill: kill.clone() });
    let service = TowerToHyperService::new(router.layer(Extension(Conn(kill.clone()))));
    let connection = hyper::server::conn::http1::Builder::new()
        .auto_date_header(false)
        .serve_connection(io, service);
    tokio::select! {
        () = kill.cancelled() => {}
        // The client's doings; nobody to tell.
        _ = connection => {}
    }
}

/// The connection that a request came in on, for handlers that end it.
#[derive(Clone, Debug)]
pub(crate) struct Conn(CancellationToken);

impl Conn {
    /// Resets the connection (TCP RST). The caller's response is never sent.
    pub(crate) async fn reset(&self) -> Response {
        self.0.cancel();
        pending().await
    }

    pub(crate) fn kill(&self) {
        self.0.cancel();
    }
}

/// Closes with a reset when it was killed, politely otherwise.
struct Killable {
    stream: TcpStream,
    kill: CancellationToken,
}

impl Drop for Killable {
    fn drop(&mut self) {
        if self.kill.is_cancelled() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Killable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Killable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The longest that a test waits for something to arrive. Without a limit, a test that waits in vain would hold up all
/// others for ever.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Waits until `is_so`, which is asked again at each change. `seen` tells what there is, for the message.
///
/// # Panics
/// After [`LONGEST_WAIT`].
pub(crate) async fn wait_until(
    mut changes: watch::Receiver<u64>,
    mut is_so: impl FnMut() -> bool,
    seen: impl Fn() -> String,
) {
    let waiting = async {
        while !is_so() {
            // The sender lives as long as the stand-in.
            let _ = changes.changed().await;
        }
    };
    let waited = tokio::time::timeout(LONGEST_WAIT, waiting).await;
    assert!(waited.is_ok(), "what the test waits for did not come in {LONGEST_WAIT:?}: {}", seen());
}

/// A lock that a failed assertion elsewhere does not spoil.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
