//! One request to VirusTotal: headers, redirects, timeouts, and the meaning of each answer.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{
    Method, Request, Response, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue, LOCATION},
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::{
    allowed_hosts::{self, ContentHosts},
    error::{Answer, VirusTotalError},
};
use base::{errors::chain, peer_text};
use net::{
    http_client,
    peers::{Peer, Peers},
    secrets::Secret,
};
use telemetry::metrics;

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// Most bytes that are read of an error's body.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Name of this product in requests. VirusTotal wants it as `organisation.product.major.minor`.
const X_TOOL: &str =
    concat!("azul.azul-vt.", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

const X_APIKEY: HeaderName = HeaderName::from_static("x-apikey");
const X_TOOL_NAME: HeaderName = HeaderName::from_static("x-tool");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest time until an answer's headers have arrived, and longest time between two pieces of a body, where
/// [`VirusTotalOptions::new`] sets them.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Origin, key and limits of a client.
#[derive(Clone, Debug)]
pub struct VirusTotalOptions {
    /// VirusTotal's origin, without a path.
    pub origin: Url,
    /// The API key; `None`: every request fails with [`VirusTotalError::NoKey`].
    pub key: Option<Secret>,
    /// Longest time until the answer's headers have arrived, connecting included.
    pub headers_timeout: Duration,
    /// Longest time between two pieces of a body.
    pub idle_timeout: Duration,
    /// Largest bundle in bytes, as received.
    pub max_body_bytes: u64,
}

impl VirusTotalOptions {
    /// Returns options with the default timeouts of 30 seconds.
    pub fn new(origin: Url, key: Option<Secret>, max_body_bytes: u64) -> Self {
        Self { origin, key, headers_timeout: TIMEOUT, idle_timeout: TIMEOUT, max_body_bytes }
    }
}

/// Client of VirusTotal's API at the configured origin. It is cheap to clone.
#[derive(Clone)]
pub struct VirusTotal {
    client: reqwest::Client,
    options: VirusTotalOptions,
    peers: Peers,
}

impl std::fmt::Debug for VirusTotal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirusTotal")
            .field("origin", &self.options.origin.as_str())
            .finish_non_exhaustive()
    }
}

/// Rule that says which redirects are followed.
#[derive(Clone, Copy)]
pub(super) enum Follow<'a> {
    /// No redirect is followed; it is returned as the answer.
    Never,
    /// Redirects to public hosts are followed ([`allowed_hosts::check`]).
    Public,
    /// Redirects to listed hosts are followed.
    Listed(&'a ContentHosts),
}

/// A request that was sent, as errors and the log name it.
pub(super) struct Asked {
    what: String,
    request_id: String,
}

/// A successful answer, or a redirect if the request does not follow them.
pub(super) struct Reply {
    pub(super) response: Response,
    pub(super) asked: Asked,
    /// Whether it comes from VirusTotal's own origin.
    pub(super) own: bool,
}

impl VirusTotal {
    /// Makes a client of VirusTotal's API that uses `client`, which must not follow redirects
    /// ([`http_client::builder`]). It reports to `peers` whether VirusTotal answers.
    pub fn new(client: reqwest::Client, options: VirusTotalOptions, peers: &Peers) -> Self {
        peers.uses_virustotal();
        Self { client, options, peers: peers.clone() }
    }

    /// Sends a GET request for `path` at VirusTotal's origin.
    pub(super) async fn get(
        &self,
        what: &str,
        path: &str,
        follow: Follow<'_>,
    ) -> Result<Reply, VirusTotalError> {
        let mut url = self.options.origin.clone();
        url.set_path(path);
        self.get_url(what, url, follow).await
    }

    /// Sends a GET request for a URL that was already checked. The key is sent to VirusTotal's origin alone.
    pub(super) async fn get_url(
        &self,
        what: &str,
        mut url: Url,
        follow: Follow<'_>,
    ) -> Result<Reply, VirusTotalError> {
        let secret = self.options.key.as_ref().ok_or(VirusTotalError::NoKey)?.get().await?;
        let mut key = HeaderValue::from_str(secret.expose_secret())
            .map_err(|_| VirusTotalError::KeyUnusable)?;
        key.set_sensitive(true);
        let request_id = http_client::request_id();
        let mut asked = Asked { what: what.to_owned(), request_id };
        // After an answer from another host, the key is not sent any more, even if that host redirects back to
        // VirusTotal.
        let mut own = true;
        for _ in 0..=MAX_REDIRECTS {
            own = own && allowed_hosts::is_same_origin(&url, &self.options.origin);
            let mut request = Request::new(Method::GET, url.clone());
            if own {
                let headers = request.headers_mut();
                headers.insert(X_APIKEY, key.clone());
                headers.insert(X_TOOL_NAME, HeaderValue::from_static(X_TOOL));
                if let Ok(id) = HeaderValue::from_str(&asked.request_id) {
                    headers.insert(X_REQUEST_ID, id);
                }
            }
            let sent = self.send(&asked, request).await.map_err(|error| error.of(own));
            if own {
                self.tell_peers(&sent);
            }
            let response = sent?;
            if own {
                asked.take_id(response.headers());
            }
            let status = response.status();
            tracing::debug!(
                asked = asked.what,
                host = url.host_str(),
                status = status.as_u16(),
                request_id = asked.request_id,
                "VirusTotal answered"
            );
            if is_redirect(status) && !matches!(follow, Follow::Never) {
                url = self.target(&asked, &url, &response, follow)?;
                continue;
            }
            let reply = Reply { response, asked, own };
            let fine = status == StatusCode::OK || is_redirect(status);
            return if fine { Ok(reply) } else { Err(self.refused(reply).await) };
        }
        let message = format!("it redirects more than {MAX_REDIRECTS} times");
        let answer = asked.answer(None, "TooManyRedirects", message);
        Err(VirusTotalError::Redirect { answer, source: None })
    }

    /// Reports to `peers` the outcome of a request to VirusTotal's own origin.
    fn tell_peers(&self, sent: &Result<Response, VirusTotalError>) {
        match sent {
            Ok(response) if response.status().is_server_error() => {
                self.peers.dated(Peer::VirusTotal, response.headers());
                self.peers.failed(Peer::VirusTotal, &format!("it answers {}", response.status()));
            }
            Ok(response) => self.peers.answered(Peer::VirusTotal, response.headers()),
            Err(error) => self.peers.failed(Peer::VirusTotal, &chain(error)),
        }
    }

    async fn send(&self, asked: &Asked, request: Request) -> Result<Response, VirusTotalError> {
        match timeout(self.options.headers_timeout, self.client.execute(request)).await {
            Ok(Ok(response)) => {
                let class = class(response.status());
                metrics::VIRUSTOTAL_ANSWERS.add([class], 1);
                Ok(response)
            }
            Ok(Err(error)) => {
                metrics::VIRUSTOTAL_ANSWERS.add(["no_answer"], 1);
                Err(asked.broken("NoAnswer", "there is no answer".into(), Some(error)))
            }
            Err(_) => {
                metrics::VIRUSTOTAL_ANSWERS.add(["no_answer"], 1);
                let seconds = self.options.headers_timeout.as_secs_f32();
                Err(asked.broken("Timeout", format!("no answer within {seconds} s"), None))
            }
        }
    }

    /// Returns the URL that `response` to a request for `from` redirects to.
    fn target(
        &self,
        asked: &Asked,
        from: &Url,
        response: &Response,
        follow: Follow<'_>,
    ) -> Result<Url, VirusTotalError> {
        let refuse = |message: &str, source| {
            let status = Some(response.status().as_u16());
            let answer = asked.answer(status, "RefusedRedirect", message.into());
            VirusTotalError::Redirect { answer, source }
        };
        let target = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .ok_or_else(|| refuse("it redirects without a URL to go to", None))?;
        let trusted = match follow {
            Follow::Never | Follow::Public => allowed_hosts::check(&target, &self.options.origin),
            Follow::Listed(hosts) => hosts.check(&target, &self.options.origin),
        };
        trusted.map_err(|source| {
            let host = target.host_str().unwrap_or("nowhere");
            refuse(&format!("it redirects to {host}, which is not followed"), Some(source))
        })?;
        Ok(target)
    }

    /// Reads the next piece of a body; `None` at its end. `received` is the number of bytes before it.
    pub(super) async fn piece(
        &self,
        reply: &mut Reply,
        received: u64,
    ) -> Result<Option<bytes::Bytes>, VirusTotalError> {
        match timeout(self.options.idle_timeout, reply.response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => {
                let message = format!("the body broke off after {received} bytes");
                Err(reply.asked.broken("TruncatedBody", message, Some(error)))
            }
            Err(_) => {
                let seconds = self.options.idle_timeout.as_secs_f32();
                let message =
                    format!("the body stood still for {seconds} s after {received} bytes");
                Err(reply.asked.broken("StalledBody", message, None))
            }
        }
    }

    /// Returns the configured VIRUSTOTAL.
    pub(super) fn origin(&self) -> &Url {
        &self.options.origin
    }

    pub(super) fn max_body_bytes(&self) -> u64 {
        self.options.max_body_bytes
    }

    /// Reads a whole body of at most `most` bytes. Returns `None` if it is longer, takes longer than one idle timeout
    /// in total, or breaks off.
    pub(super) async fn small_body(&self, response: &mut Response, most: usize) -> Option<Vec<u8>> {
        let read = async {
            let mut body = Vec::new();
            while let Some(piece) = response.chunk().await.ok()? {
                if body.len().saturating_add(piece.len()) > most {
                    return None;
                }
                body.extend_from_slice(&piece);
            }
            Some(body)
        };
        timeout(self.options.idle_timeout, read).await.ok()?
    }

    /// Returns the error for an answer that is neither 200 nor a redirect.
    async fn refused(&self, mut reply: Reply) -> VirusTotalError {
        let status = reply.response.status();
        let headers = reply.response.headers();
        let now = http_client::date(headers).unwrap_or_else(Timestamp::now);
        let retry_after = http_client::retry_after(headers, now, http_client::MAX_PAUSE);
        let body = self.small_body(&mut reply.response, MAX_ERROR_BYTES).await.unwrap_or_default();
        let (code, message) = if reply.own { Asked::read_error(&body) } else { <_>::default() };
        let not_yet = code.as_deref() == Some("NotAvailableYet");
        let code =
            code.unwrap_or_else(|| status.canonical_reason().unwrap_or("?").replace(' ', ""));
        let message = if reply.own { message } else { "from the host it redirected to".into() };
        let mut answer = reply.asked.answer(Some(status.as_u16()), &code, message);
        answer.is_own = reply.own;
        match status.as_u16() {
            404 => VirusTotalError::Missing(answer),
            424 | 429 | 500..=599 => {
                VirusTotalError::Transient { answer, retry_after, source: None }
            }
            // A refusal by another host concerns the link that led there, so the next link may work.
            400..=499 if !reply.own => {
                VirusTotalError::Transient { answer, retry_after, source: None }
            }
            400 if not_yet => VirusTotalError::NotAvailableYet(answer),
            400 => VirusTotalError::BadRequest(answer),
            401 => VirusTotalError::Unauthorized(answer),
            403 => VirusTotalError::Forbidden(answer),
            // The server stopped waiting for the request, which is like no answer.
            408 => VirusTotalError::Transient { answer, retry_after, source: None },
            _ => VirusTotalError::Unexpected(answer),
        }
    }
}

impl Asked {
    #[expect(clippy::unnecessary_box_returns, reason = "every error holds it in a box")]
    #[expect(clippy::needless_pass_by_value, reason = "its callers write the message for it alone")]
    pub(super) fn answer(&self, status: Option<u16>, code: &str, message: String) -> Box<Answer> {
        Box::new(Answer::new(&self.what, status, code, &message, &self.request_id))
    }

    /// Reads code and message of `{"error":{"code","message"}}`. For any other body the message is its start.
    fn read_error(body: &[u8]) -> (Option<String>, String) {
        #[derive(Deserialize)]
        struct Body {
            error: Inner,
        }
        #[derive(Deserialize)]
        struct Inner {
            code: Option<String>,
            message: Option<String>,
        }
        match serde_json::from_slice::<Body>(body) {
            Ok(Body { error }) => (
                error.code.map(|code| peer_text::line(&code, 60)).filter(|code| !code.is_empty()),
                error.message.unwrap_or_default(),
            ),
            Err(_) => (None, peer_text::line(&String::from_utf8_lossy(body), 100)),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.request_id
    }

    /// Returns the error for a request without an answer, or whose answer broke off.
    pub(super) fn broken(
        &self,
        code: &str,
        message: String,
        source: Option<reqwest::Error>,
    ) -> VirusTotalError {
        VirusTotalError::Transient {
            answer: self.answer(None, code, message),
            retry_after: None,
            // The URL of a redirect is signed and gives access to the content, so it is removed.
            source: source.map(reqwest::Error::without_url),
        }
    }

    /// Takes over the server's own id of the request, because VirusTotal's operators can look that one up.
    fn take_id(&mut self, headers: &HeaderMap) {
        let given = ["x-request-id", "x-cloud-trace-context"]
            .into_iter()
            .find_map(|name| headers.get(name)?.to_str().ok())
            .filter(|id| !id.is_empty() && id.len() <= 100);
        if let Some(id) = given {
            self.request_id = peer_text::line(id, 100);
        }
    }
}

/// Returns the name of an answer's class in the metrics.
fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..=399 => "ok",
        404 => "not_found",
        401 | 403 => "refused",
        429 => "limited",
        _ => "failed",
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
