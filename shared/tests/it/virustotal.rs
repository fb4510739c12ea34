//! Tests of VirusTotal's feed over HTTP: every answer, every fault, and which hosts get the key.

use std::{error::Error as _, fmt::Write as _, path::PathBuf, time::Duration};

use azul_vt::{
    http_client,
    minute::Minute,
    pipeline::assemble,
    settings::Settings,
    virustotal::{Fetched, VirusTotal, VirusTotalError, VirusTotalOptions},
};
use sha2::{Digest as _, Sha256};
use sim::{Behaviour, Fault, TEST_KEY};
use tempfile::TempDir;

const MINUTE: &str = "202611240857";

struct World {
    sim: sim::VirusTotal,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        Self { sim: sim::VirusTotal::start().await.unwrap(), dir: TempDir::new().unwrap() }
    }

    fn settings(&self, more: &[(&str, &str)]) -> Settings {
        let url = self.sim.url();
        let mut pairs = vec![("VIRUSTOTAL", url.as_str()), ("VIRUSTOTAL_APIKEY", TEST_KEY)];
        pairs.splice(0..0, more.iter().copied());
        Settings::read(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
            .unwrap()
    }

    fn client(&self) -> VirusTotal {
        assemble::virustotal(&self.settings(&[])).unwrap()
    }

    /// Returns a client with short timeouts, for answers that never come.
    fn impatient(&self) -> VirusTotal {
        let settings = self.settings(&[]);
        let moment = Duration::from_millis(200);
        let options = VirusTotalOptions {
            headers_timeout: moment,
            idle_timeout: moment,
            ..settings.virustotal_options()
        };
        VirusTotal::new(http_client::build(&settings.http).unwrap(), options, &settings.peers)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    async fn fetch(&self) -> Result<Fetched, VirusTotalError> {
        self.client().fetch_minute(minute(), &self.path()).await
    }

    /// Returns the error of one request with this behaviour of the server. Checks that its texts, and those of its
    /// causes, do not hold the key.
    async fn error(&self, behaviour: Behaviour) -> VirusTotalError {
        self.error_of(&self.client(), behaviour).await
    }

    async fn error_of(&self, client: &VirusTotal, behaviour: Behaviour) -> VirusTotalError {
        drop(std::fs::remove_file(self.path()));
        self.sim.clear(MINUTE);
        self.sim.serve(MINUTE, "{}\n".repeat(1000));
        self.sim.behave(MINUTE, &behaviour, 1);
        let error = client.fetch_minute(minute(), &self.path()).await.unwrap_err();
        assert!(!self.path().exists(), "{behaviour:?} left a file");
        let mut text = format!("{error} {error:?}");
        let mut source = error.source();
        while let Some(cause) = source {
            write!(text, " {cause} {cause:?}").unwrap();
            source = cause.source();
        }
        assert!(!text.contains(TEST_KEY) && !text.contains("Signature"), "{text}");
        assert!(error.request_id().is_some_and(|id| !id.is_empty()), "{error}");
        error
    }
}

fn minute() -> Minute {
    MINUTE.parse().unwrap()
}

fn redirect(status: u16, location: &str) -> Fault {
    let headers = vec![("location".to_owned(), location.to_owned())];
    Fault::Answer { status, headers, body: String::new() }
}

fn is_transient(error: &VirusTotalError, status: Option<u16>, code: &str) -> bool {
    let answer = error.answer().unwrap();
    error.is_transient()
        && matches!(error, VirusTotalError::Transient { .. })
        && (answer.status, answer.code.as_str()) == (status, code)
}

#[tokio::test]
async fn a_minute_is_fetched_through_the_redirect_and_the_key_stays_behind() {
    let world = World::new().await;
    let bundle = "{\"id\":\"a\"}\n".repeat(100_000);
    world.sim.serve(MINUTE, bundle.clone());
    let fetched = world.fetch().await.unwrap();
    assert_eq!(fetched.bytes, bundle.len() as u64);
    assert_eq!(fetched.sha256_hex, hex::encode(Sha256::digest(&bundle)));
    assert_eq!(std::fs::read(world.path()).unwrap(), bundle.as_bytes());
    assert!(world.sim.key_leaked().is_empty(), "{:?}", world.sim.key_leaked());
    let requests = world.sim.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].user_agent.starts_with("azul-vt/"));
}

#[tokio::test]
async fn every_kind_of_redirect_is_followed_up_to_five() {
    let world = World::new().await;
    let target = format!("{}/feeds/{MINUTE}", world.sim.content_url());
    world.sim.serve(MINUTE, "{}\n");
    for status in [301, 302, 303, 307, 308] {
        world.sim.behave(MINUTE, &Behaviour::Api(redirect(status, &target)), 1);
        assert_eq!(world.fetch().await.unwrap().bytes, 3);
    }
    let relative = format!("/api/v3/feeds/files/{MINUTE}?again");
    world.sim.behave(MINUTE, &Behaviour::Api(redirect(302, &relative)), 4);
    assert_eq!(world.fetch().await.unwrap().bytes, 3);
    let before = world.sim.requests().len();
    let error = world.error(Behaviour::RedirectNowhere).await;
    assert!(matches!(error, VirusTotalError::Redirect { source: None, .. }), "{error}");
    world.sim.behave(MINUTE, &Behaviour::RedirectLoop, 6);
    let error = world.fetch().await.unwrap_err();
    assert!(error.to_string().contains("TooManyRedirects"), "{error}");
    assert_eq!(world.sim.requests().len() - before, 1 + 6);
    assert!(world.sim.key_leaked().is_empty());
}

#[tokio::test]
async fn redirects_into_the_own_network_are_refused() {
    let world = World::new().await;
    for target in
        ["http://example.com/x", "https://10.0.0.1/x", "https://intranet/x", "file:///etc/passwd"]
    {
        let error = world.error(Behaviour::Api(redirect(302, target))).await;
        assert!(matches!(error, VirusTotalError::Redirect { source: Some(_), .. }), "{error}");
        assert!(!error.is_transient() && !error.needs_operator());
    }
    // Another host sends us back to VirusTotal: the key does not go with it.
    let back = format!("{}/api/v3/feeds/files/{MINUTE}", world.sim.url());
    let error = world.error(Behaviour::Content(redirect(302, &back))).await;
    assert!(is_transient(&error, Some(401), "Unauthorized"), "{error:?}");
}

#[tokio::test]
async fn a_missing_minute_is_missing_with_and_without_json() {
    let world = World::new().await;
    let error = world.fetch().await.unwrap_err();
    assert!(matches!(error, VirusTotalError::Missing(_)), "{error}");
    assert_eq!(error.answer().unwrap().code, "NotFoundError");
    assert!(error.to_string().contains(MINUTE), "{error}");
    for body in ["", "<html>nothing here</html>", "[1,2]", "{\"error\":\"x\"}", "\u{fffd}\0"] {
        let error = world.error(Behaviour::Api(Fault::answer(404, body))).await;
        assert!(matches!(error, VirusTotalError::Missing(_)), "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_young_minute_is_not_available_yet_and_other_400s_are_for_ever() {
    let world = World::new().await;
    let error = world.error(Behaviour::NotAvailableYet).await;
    assert!(matches!(error, VirusTotalError::NotAvailableYet(_)), "{error}");
    assert!(error.is_transient());
    for body in ["{\"error\":{\"code\":\"BadRequestError\",\"message\":\"no\"}}", "no", ""] {
        let error = world.error(Behaviour::Api(Fault::answer(400, body))).await;
        assert!(matches!(error, VirusTotalError::BadRequest(_)), "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_refused_key_says_what_to_do() {
    let world = World::new().await;
    let error = world.error(Behaviour::Unauthorized).await;
    assert!(matches!(error, VirusTotalError::Unauthorized(_)), "{error}");
    assert!(error.needs_operator() && error.to_string().contains("VIRUSTOTAL_APIKEY"), "{error}");
    let error = world.error(Behaviour::Forbidden).await;
    assert!(matches!(error, VirusTotalError::Forbidden(_)), "{error}");
    assert!(error.needs_operator() && error.to_string().contains("File feeds"), "{error}");
}

#[tokio::test]
async fn an_error_that_quotes_the_key_is_told_without_it() {
    let world = World::new().await;
    let body = format!("{{\"error\":{{\"code\":\"X\",\"message\":\"wrong key\\n{TEST_KEY}\"}}}}");
    let error = world.error(Behaviour::Api(Fault::answer(401, body))).await;
    assert_eq!(error.answer().unwrap().message, "wrong key ***");
    let body = format!("oh {TEST_KEY}, {}", "x".repeat(1 << 20));
    let error = world.error(Behaviour::Api(Fault::answer(500, body))).await;
    assert!(error.to_string().len() < 400, "{error}");
}

#[tokio::test]
async fn without_a_usable_key_nothing_is_asked() {
    let world = World::new().await;
    for (key, names) in [(" ", "set VIRUSTOTAL_APIKEY"), ("a\nb", "VIRUSTOTAL_APIKEY")] {
        let client = assemble::virustotal(&world.settings(&[("VIRUSTOTAL_APIKEY", key)]));
        let error = client.unwrap().fetch_minute(minute(), &world.path()).await.unwrap_err();
        assert!(error.needs_operator() && error.to_string().contains(names), "{error}");
    }
    assert!(world.sim.requests().is_empty());
}

#[tokio::test]
async fn quotas_and_server_errors_are_transient_and_their_wait_is_told() {
    let world = World::new().await;
    for (behaviour, status, code, wait) in [
        (Behaviour::TooManyRequests(Some(7)), 429, "QuotaExceededError", Some(7)),
        (Behaviour::TooManyRequests(None), 429, "QuotaExceededError", None),
        (Behaviour::Transient(Some(9)), 503, "TransientError", Some(9)),
        (Behaviour::Transient(None), 503, "TransientError", None),
        (Behaviour::DeadlineExceeded, 504, "DeadlineExceededError", None),
        (Behaviour::ServerError, 500, "InternalServerError", None),
        (Behaviour::Api(Fault::answer(424, "")), 424, "FailedDependency", None),
        (Behaviour::Api(Fault::answer(502, "{")), 502, "BadGateway", None),
        (Behaviour::Content(Fault::answer(403, "expired")), 403, "Forbidden", None),
        (Behaviour::Content(Fault::answer(503, "")), 503, "ServiceUnavailable", None),
    ] {
        let error = world.error(behaviour).await;
        assert!(is_transient(&error, Some(status), code), "{error:?}");
        assert_eq!(error.retry_after(), wait.map(Duration::from_secs), "{error}");
    }
    let headers = vec![
        ("retry-after".into(), "Tue, 24 Nov 2026 08:58:00 GMT".into()),
        ("date".into(), "Tue, 24 Nov 2026 08:57:00 GMT".into()),
    ];
    let fault = Fault::Answer { status: 429, headers, body: String::new() };
    let error = world.error(Behaviour::Api(fault)).await;
    assert_eq!(error.retry_after(), Some(Duration::from_mins(1)), "{error}");
}

#[tokio::test]
async fn an_undocumented_status_is_unexpected() {
    let world = World::new().await;
    for status in [204, 206, 304, 409, 418] {
        let error = world.error(Behaviour::Api(Fault::answer(status, ""))).await;
        assert!(matches!(error, VirusTotalError::Unexpected(_)), "{error}");
        assert_eq!(error.answer().unwrap().status, Some(status));
    }
}

#[tokio::test]
async fn broken_connections_and_bodies_are_transient() {
    let world = World::new().await;
    for (behaviour, code) in [
        (Behaviour::Api(Fault::Reset), "NoAnswer"),
        (Behaviour::Content(Fault::Reset), "NoAnswer"),
        // A reset may overtake the headers.
        (Behaviour::Content(Fault::ResetInBody), "TruncatedBody or NoAnswer"),
        (Behaviour::Content(Fault::TruncateBody), "TruncatedBody or NoAnswer"),
    ] {
        let error = world.error(behaviour).await;
        let answer = error.answer().unwrap();
        assert!(matches!(error, VirusTotalError::Transient { .. }), "{error:?}");
        assert!(answer.status.is_none() && code.contains(&answer.code), "{error:?}");
        assert!(error.source().is_some(), "{error}");
    }
    world.sim.down().await;
    let error = world.fetch().await.unwrap_err();
    assert!(is_transient(&error, None, "NoAnswer"), "{error:?}");
    world.sim.up().await;
    assert!(world.fetch().await.is_ok());
}

#[tokio::test]
async fn what_never_comes_is_given_up() {
    let world = World::new().await;
    for behaviour in [
        Behaviour::Api(Fault::Hang),
        Behaviour::Content(Fault::Hang),
        Behaviour::Content(Fault::HangInBody),
    ] {
        let is_body = matches!(behaviour, Behaviour::Content(Fault::HangInBody));
        let error = world.error_of(&world.impatient(), behaviour).await;
        let code = if is_body { "StalledBody" } else { "Timeout" };
        assert!(is_transient(&error, None, code), "{error:?}");
        assert_eq!(error.is_outage(), !is_body, "{error:?}");
    }
}

#[tokio::test]
async fn a_bundle_over_the_limit_is_not_taken() {
    let world = World::new().await;
    let settings = world.settings(&[]);
    let options = VirusTotalOptions { max_body_bytes: 2999, ..settings.virustotal_options() };
    let client = http_client::build(&settings.http).unwrap();
    let client = VirusTotal::new(client, options, &settings.peers);
    let error = world.error_of(&client, Behaviour::Content(Fault::Delay { ms: 0 })).await;
    assert!(matches!(error, VirusTotalError::TooLarge { limit: 2999, .. }), "{error}");
    let error = world.error_of(&client, Behaviour::Content(Fault::Trickle { ms: 0 })).await;
    assert!(matches!(error, VirusTotalError::TooLarge { limit: 2999, .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_no_fault_of_virustotal() {
    let world = World::new().await;
    world.sim.serve(MINUTE, "{}\n");
    let nowhere = world.dir.path().join("no/such/directory");
    let error = world.client().fetch_minute(minute(), &nowhere).await.unwrap_err();
    assert!(matches!(error, VirusTotalError::Write { .. }), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn the_servers_id_of_a_request_is_in_its_error() {
    let world = World::new().await;
    let error = world.error(Behaviour::Forbidden).await;
    assert_eq!(error.request_id(), Some("5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e/1"));
    let error = world.error(Behaviour::Api(Fault::Reset)).await;
    assert_eq!(error.request_id().map(str::len), Some(12));
}

#[tokio::test]
async fn the_keys_user_is_told_without_the_key_in_the_url() {
    let world = World::new().await;
    world.sim.set_privilege("file-feed", false);
    let user = world.client().current_user().await.unwrap();
    assert!(!user.privileges["file-feed"].granted);
    assert!(user.privileges["download-file"].granted);
    assert!(world.sim.key_leaked().is_empty());
    world.sim.set_key("another");
    let error = world.client().current_user().await.unwrap_err();
    assert!(matches!(error, VirusTotalError::Unauthorized(_)), "{error}");
}

#[tokio::test]
async fn a_minute_is_probed_without_fetching_it() {
    let world = World::new().await;
    world.sim.serve(MINUTE, "{}\n");
    let probe = world.client().probe_minute(minute()).await.unwrap();
    assert!(probe.date.is_some());
    assert_eq!(world.sim.requests().len(), 1);
}

#[tokio::test]
async fn a_proxy_is_used_unless_the_host_is_exempt() {
    let world = World::new().await;
    world.sim.serve(MINUTE, "{}\n");
    let proxy = sim::Proxy::start().await.unwrap();
    let url = proxy.url();
    let settings = world.settings(&[("HTTP_PROXY", &url)]);
    let client = assemble::virustotal(&settings).unwrap();
    client.fetch_minute(minute(), &world.path()).await.unwrap();
    let hosts: Vec<_> = proxy.through().into_iter().map(|through| through.host).collect();
    let origins = [world.sim.url(), world.sim.content_url()];
    assert_eq!(hosts, origins.map(|url| url.replace("http://", "")));
    let settings = world.settings(&[("HTTP_PROXY", &url), ("NO_PROXY", "example.com,127.0.0.1")]);
    let client = assemble::virustotal(&settings).unwrap();
    client.fetch_minute(minute(), &world.path()).await.unwrap();
    assert_eq!(proxy.through().len(), 2);
    assert!(world.sim.key_leaked().is_empty());
}

#[tokio::test]
async fn https_goes_through_the_proxy_as_a_tunnel() {
    let world = World::new().await;
    let proxy = sim::Proxy::start().await.unwrap();
    let url = proxy.url();
    // The server there does not speak TLS, so the test checks only that the tunnel was requested.
    let https = world.sim.url().replace("http://", "https://");
    let settings = world.settings(&[("HTTPS_PROXY", &url), ("VIRUSTOTAL", &https)]);
    let client = assemble::virustotal(&settings).unwrap();
    let error = client.fetch_minute(minute(), &world.path()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(proxy.through()[0].method, "CONNECT");
    assert!(world.sim.requests().is_empty());
}

#[tokio::test]
async fn a_report_comes_as_it_is_and_an_unknown_file_is_missing() {
    let world = World::new().await;
    let (known, unknown) = ("a".repeat(64), "b".repeat(64));
    let report = format!(r#"{{"data":{{"type":"file","id":"{known}"}}}}"#);
    world.sim.report(&known, report.clone());
    assert_eq!(world.client().file_report(&known).await.unwrap(), report);
    let error = world.client().file_report(&unknown).await.unwrap_err();
    assert!(matches!(error, VirusTotalError::Missing(_)), "{error}");
    world.sim.behave(&known, &Behaviour::TooManyRequests(Some(7)), 1);
    let error = world.client().file_report(&known).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    world.sim.behave_for_files(&Behaviour::Forbidden, 1);
    let error = world.client().file_report(&known).await.unwrap_err();
    assert!(error.needs_operator(), "{error}");
    assert_eq!(world.sim.reports_asked(), [known.as_str(), &unknown, &known, &known]);
    assert_eq!(world.sim.key_leaked(), Vec::<String>::new());
}
