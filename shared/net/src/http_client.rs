//! Builds the HTTP client that every part of this library uses, and computes the waits between attempts.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::{
    fmt, fs,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{
    Certificate, ClientBuilder, NoProxy, Proxy,
    header::{DATE, HeaderMap, RETRY_AFTER},
    redirect,
};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::Url;

/// Longest time to open a connection, including the TLS handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `User-Agent` header of every request.
pub const USER_AGENT: &str = concat!("azul-vt/", env!("CARGO_PKG_VERSION"));

/// Reasons why the HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum HttpSetupError {
    /// `CA_BUNDLE` cannot be read.
    #[error("CA_BUNDLE={path}: the file cannot be read")]
    CaBundleUnreadable {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// `CA_BUNDLE` holds no usable certificates.
    #[error("CA_BUNDLE={path}: write a PEM file of one or more certificates")]
    CaBundleInvalid {
        /// The file.
        path: PathBuf,
        /// Error of the HTTP library; `None` if the file holds no certificates at all.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// A proxy cannot be used.
    #[error("{name}: this proxy's URL cannot be used: write one such as http://proxy:3128")]
    Proxy {
        /// The setting.
        name: &'static str,
    },
    /// The system has no certificate authorities that could be trusted.
    #[error("TLS cannot be set up with the system's certificate authorities")]
    Tls(#[source] rustls::Error),
    /// The client as a whole cannot be built.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// Proxies and certificate authorities of an HTTP client. The default is none of them.
#[derive(Clone, Default)]
pub struct HttpOptions {
    /// `HTTPS_PROXY`: proxy of requests by https.
    pub https_proxy: Option<Url>,
    /// `HTTP_PROXY`: proxy of requests by plain http, for a dispatcher or a stand-in of VirusTotal.
    pub http_proxy: Option<Url>,
    /// `NO_PROXY`: hosts that are reached without a proxy, separated by commas.
    pub no_proxy: String,
    /// `CA_BUNDLE`: a PEM file of certificate authorities that are trusted in addition to the system's own.
    pub ca_bundle: Option<PathBuf>,
}

impl fmt::Debug for HttpOptions {
    /// Shows the hosts of the proxies, because their URLs may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |url: &Option<Url>| url.as_ref().and_then(Url::host_str).map(str::to_owned);
        f.debug_struct("HttpOptions")
            .field("https_proxy", &host(&self.https_proxy))
            .field("http_proxy", &host(&self.http_proxy))
            .field("no_proxy", &self.no_proxy)
            .field("ca_bundle", &self.ca_bundle)
            .finish()
    }
}

/// Returns a client builder with the proxies and certificates of `options` and a connect timeout of
/// [`CONNECT_TIMEOUT`]. The caller sets all further timeouts.
///
/// The client follows no redirects. The callers follow them, because a secret may not be sent to every host on the
/// way. The certificates of `CA_BUNDLE` are trusted in addition to the system's own.
///
/// # Errors
/// Fails if `CA_BUNDLE` or a proxy cannot be used.
pub fn builder(options: &HttpOptions) -> Result<ClientBuilder, HttpSetupError> {
    let mut builder = reqwest::Client::builder()
        // The settings are the only reader of the environment.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(USER_AGENT);
    for (name, url, proxy) in [
        ("HTTPS_PROXY", &options.https_proxy, Proxy::https as fn(Url) -> reqwest::Result<Proxy>),
        ("HTTP_PROXY", &options.http_proxy, Proxy::http),
    ] {
        if let Some(url) = url {
            // The error is left out: it may show the URL and with it a password.
            let proxy = proxy(url.clone()).map_err(|_| HttpSetupError::Proxy { name })?;
            builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&options.no_proxy)));
        }
    }
    Ok(match ca_bundle(options)? {
        Some(certificates) => builder.tls_certs_merge(certificates),
        None => builder.tls_backend_preconfigured(system_tls().map_err(HttpSetupError::Tls)?),
    })
}

/// Returns a TLS configuration that trusts the system's certificate authorities, as reqwest would set it up. The
/// authorities are read once for each process, because a function has several clients and reading the authorities is
/// most of its cold start.
fn system_tls() -> Result<ClientConfig, rustls::Error> {
    static TLS: OnceLock<ClientConfig> = OnceLock::new();
    if let Some(tls) = TLS.get() {
        return Ok(tls.clone());
    }
    let mut tls = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TLS.get_or_init(|| tls).clone())
}

/// Reads the certificates of `CA_BUNDLE`; `None` if it is not set.
///
/// # Errors
/// Fails if the file cannot be read or holds anything but certificates.
fn ca_bundle(options: &HttpOptions) -> Result<Option<Vec<Certificate>>, HttpSetupError> {
    let Some(path) = &options.ca_bundle else { return Ok(None) };
    let pem = fs::read(path)
        .map_err(|source| HttpSetupError::CaBundleUnreadable { path: path.clone(), source })?;
    let invalid = |source| HttpSetupError::CaBundleInvalid { path: path.clone(), source };
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| invalid(Some(error)))?;
    if certificates.is_empty() {
        return Err(invalid(None));
    }
    // Only building a client reads the certificates themselves, and its error would not say CA_BUNDLE.
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(certificates.clone())
        .build()
        .map_err(|error| invalid(Some(error)))?;
    Ok(Some(certificates))
}

/// Builds the client that [`builder`] describes.
///
/// # Errors
/// Fails as [`builder`] does, or if TLS cannot be set up.
pub fn build(options: &HttpOptions) -> Result<reqwest::Client, HttpSetupError> {
    builder(options)?.build().map_err(HttpSetupError::Client)
}

/// Returns at most `cap` bytes of a body, from its start. The rest is not read.
///
/// # Errors
/// Fails if the body breaks off before `cap` bytes.
pub async fn start_of_body(
    mut response: reqwest::Response,
    cap: usize,
) -> Result<Bytes, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let room = cap.saturating_sub(body.len());
        body.extend_from_slice(piece.get(..room).unwrap_or(&piece));
        if body.len() >= cap {
            break;
        }
    }
    Ok(body.into())
}

/// Longest wait that a run grants a peer, because the run holds its leases meanwhile.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// Longest pause of all requests that a peer can ask for. It is limited, because a quota may be raised meanwhile.
pub const MAX_PAUSE: Duration = Duration::from_hours(1);

/// Returns the wait that an answer asks for, at most `cap`: `Retry-After` in seconds or as an HTTP date (RFC 9110,
/// 10.2.3). A date in the past is no wait. `None` if the header is missing or cannot be read.
pub fn retry_after(headers: &HeaderMap, now: Timestamp, cap: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large for the type is also beyond the cap.
        let seconds = text.parse::<u64>().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(cap));
    }
    let then = http_date(text)?;
    Some(Duration::try_from(then.duration_since(now)).unwrap_or_default().min(cap))
}

/// Returns the time of a server's clock, from the header `Date`.
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    http_date(headers.get(DATE)?.to_str().ok()?)
}

/// Returns the time that a date of RFC 2822 names, such as `Tue, 24 Nov 2026 08:57:00 GMT`; `None` for any other text.
pub fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

/// Exponential backoff with full jitter: each wait is drawn at random from zero to the current maximum. So clients that
/// failed at the same time do not try again at the same time.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// Creates a backoff. The first wait is at most `base`. The maximum doubles with each wait and is never over `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempts: 0 }
    }

    /// Returns the next wait. With `retry_after`, the wait is at least that (up to [`MAX_RETRY_AFTER`], even over the
    /// cap) and at most `base` longer. The caller compares the wait with its deadline.
    pub fn next_wait(&mut self, retry_after: Option<Duration>) -> Duration {
        let most = self.base.saturating_mul(2_u32.saturating_pow(self.attempts)).min(self.cap);
        self.attempts = self.attempts.saturating_add(1);
        match retry_after {
            Some(asked) => {
                asked.min(MAX_RETRY_AFTER).saturating_add(jitter(self.base.min(self.cap)))
            }
            None => jitter(most),
        }
    }

    /// Returns the number of waits since the start or the last [`Backoff::reset`].
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Makes the next wait a first one again. The caller resets after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Returns a random duration from zero to `most`, both included.
fn jitter(most: Duration) -> Duration {
    let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random().checked_rem(most.saturating_add(1)).unwrap_or_default())
}

/// Returns a random number for jitter and ids. It is not suited for secrets. The standard library seeds each
/// `RandomState` differently.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Returns a short random id for a request: 12 hexadecimal digits.
pub fn request_id() -> String {
    format!("{:012x}", random() >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn asked(value: &'static str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        retry_after(&headers, "2026-11-24T08:57:00Z".parse().unwrap(), MAX_PAUSE)
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        assert_eq!(asked("120"), Some(Duration::from_mins(2)));
        assert_eq!(asked("Tue, 24 Nov 2026 08:57:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(asked("Tue, 24 Nov 2026 08:56:30 GMT"), Some(Duration::ZERO));
        for wrong in ["", "soon", "-1", "1.5"] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), Timestamp::UNIX_EPOCH, MAX_PAUSE), None);
    }

    #[test]
    fn no_wait_that_is_asked_for_is_longer_than_the_cap() {
        for long in [
            "3601",
            "99999999999",
            "18446744073709551615",
            "99999999999999999999",
            "Fri, 01 Jan 2100 00:00:00 GMT",
        ] {
            assert_eq!(asked(long), Some(MAX_PAUSE), "{long}");
        }
    }

    #[test]
    fn waits_grow_to_the_cap_and_start_again_after_a_success() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(10));
        let mut backoff = Backoff::new(base, cap);
        for most in [1, 2, 4, 8, 10, 10] {
            assert!(backoff.next_wait(None) <= Duration::from_secs(most));
        }
        for _ in 0..100 {
            assert!(backoff.next_wait(None) <= cap);
        }
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert!(backoff.next_wait(None) <= base);
    }

    #[test]
    fn waits_are_spread() {
        let waits: std::collections::BTreeSet<_> = (0..100)
            .map(|_| Backoff::new(Duration::from_secs(1), Duration::MAX).next_wait(None))
            .collect();
        assert!(waits.len() > 90);
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        let asked = Duration::from_mins(1);
        let wait = backoff.next_wait(Some(asked));
        assert!(wait >= asked && wait <= asked + Duration::from_secs(1));
        let longest = backoff.next_wait(Some(Duration::MAX));
        assert!(longest >= MAX_RETRY_AFTER && longest <= MAX_RETRY_AFTER + Duration::from_secs(1));
        assert_eq!(Backoff::new(Duration::ZERO, Duration::ZERO).next_wait(None), Duration::ZERO);
    }

    #[test]
    fn a_bad_ca_bundle_is_an_error_that_names_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let options = HttpOptions { ca_bundle: Some(path.clone()), ..HttpOptions::default() };
        let missing = builder(&options).unwrap_err();
        assert!(matches!(missing, HttpSetupError::CaBundleUnreadable { .. }), "{missing}");
        for content in [
            "",
            "not a certificate",
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            fs::write(&path, content).unwrap();
            let invalid = builder(&options).unwrap_err();
            assert!(matches!(invalid, HttpSetupError::CaBundleInvalid { .. }), "{content}");
            assert!(invalid.to_string().starts_with("CA_BUNDLE="), "{invalid}");
        }
    }

    #[test]
    fn the_systems_authorities_are_read_once() {
        let (one, other) = (system_tls().unwrap(), system_tls().unwrap());
        assert!(std::sync::Arc::ptr_eq(one.crypto_provider(), other.crypto_provider()));
    }

    #[test]
    fn proxies_with_passwords_are_taken() {
        let options = HttpOptions {
            https_proxy: Some("http://me:pass@proxy:3128".parse().unwrap()),
            http_proxy: Some("http://proxy:3128".parse().unwrap()),
            no_proxy: "localhost,10.0.0.0/8,.internal".into(),
            ca_bundle: None,
        };
        assert!(build(&options).is_ok());
        assert!(!format!("{options:?}").contains("pass"), "{options:?}");
    }

    #[test]
    fn request_ids_are_short_and_differ() {
        let (one, other) = (request_id(), request_id());
        assert_eq!(one.len(), 12);
        assert_ne!(one, other);
    }
}
