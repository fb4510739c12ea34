//! Tests the answers to callers, and the events that arrive at the dispatcher.

use std::{
    io::{self, Read},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use azul_vt::{
    pipeline::{DeliverInput, Ended, Pipeline, RunLimits, posted::Posted},
    settings::Settings,
    store::{
        SystemClock, local,
        rejects::{RejectStage, Rejects},
    },
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::Full;
use ingest::Ingest;
use sim::feed::Style;

const MINUTE: &str = "202611240900";

struct World {
    dispatcher: sim::Dispatcher,
    ingest: Arc<Ingest>,
    _state: tempfile::TempDir,
}

impl World {
    async fn new(more: &[(&str, &str)]) -> Self {
        let dispatcher = sim::Dispatcher::start().await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut pairs = vec![
            ("PLUGIN_EVENTS_URL", dispatcher.url()),
            ("STATEDIR", state.path().display().to_string()),
            ("RULES_ROOT", "/nowhere/at/all".to_owned()),
            ("DISPATCHER_MAX_AGE_HOURS", "-1".to_owned()),
        ];
        pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lookup = |name: &str| {
            pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        };
        let settings = Settings::read(&lookup).unwrap();
        let store = local::open(Path::new(&settings.state_dir)).unwrap();
        let pipeline = Pipeline::from_settings(&settings, store.clone()).await.unwrap();
        let mut ingest = Ingest::new(&settings, store, Arc::new(SystemClock), pipeline).unwrap();
        ingest.wait = Duration::from_secs(20);
        Self { dispatcher, ingest: Arc::new(ingest), _state: state }
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> (StatusCode, String) {
        request.extensions_mut().insert(azul_vt::webhook::PreAuthenticated);
        let response: Response<Bytes> = self.ingest.handle(request).await;
        let status = response.status();
        (status, String::from_utf8(response.into_body().to_vec()).unwrap())
    }

    async fn post(&self, headers: &[(&str, &str)], body: Vec<u8>) -> (StatusCode, String) {
        let mut request = Request::post("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::from(body)).unwrap()).await
    }

    async fn staged(&self) -> usize {
        self.ingest.store.bundles.list("posted/").await.unwrap().len()
    }
}

fn lines(n: u64) -> Vec<u8> {
    sim::feed::lines(1, MINUTE, n, Style::Small)
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn posted_records_arrive_whatever_their_type_and_encoding() {
    let world = World::new(&[]).await;
    for kind in ["application/json", "application/jsonlines", "application/x-ndjson; charset=utf-8"]
    {
        let answer = world.post(&[("content-type", kind)], lines(30)).await;
        assert_eq!(answer, (StatusCode::OK, "read 30 records\n".into()));
    }
    let bzip2 = sim::feed::compress(&lines(40));
    let answer = world.post(&[JSON, ("content-encoding", "bzip2")], bzip2).await;
    assert_eq!(answer, (StatusCode::OK, "read 40 records\n".into()));
    assert_eq!(world.dispatcher.arrived().sha256s().len(), 40);
    assert_eq!(world.staged().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_account_names_refused_lines() {
    let world = World::new(&[]).await;
    let mut body = lines(3);
    body.extend_from_slice(b"\n{}\nnot json\n");
    let (status, text) = world.post(&[JSON, ("accept", "application/json")], body).await;
    assert_eq!(status, StatusCode::OK);
    let account: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(account["records"], 5);
    assert_eq!(account["accepted"], 3);
    assert_eq!(account["rejected_count"], 2);
    let numbers: Vec<_> = account["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["line"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_taken_however_they_stand_in_the_body() {
    let all = lines(3);
    let records: Vec<serde_json::Value> =
        all.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(records.len(), 3);
    let pretty = records.iter().map(|record| format!("{record:#}\n")).collect::<Vec<_>>().concat();
    // `curl -d @file` removes the line breaks of a file.
    let one_line = records.iter().map(ToString::to_string).collect::<Vec<_>>().concat();
    let list = serde_json::to_vec(&records).unwrap();
    for body in [
        serde_json::to_vec_pretty(&records).unwrap(),
        sim::feed::compress(&list),
        list,
        pretty.into_bytes(),
        one_line.into_bytes(),
        [b"\xef\xbb\xbf\r\n", &all[..]].concat(),
    ] {
        let world = World::new(&[]).await;
        let answer = world.post(&[JSON], body).await;
        assert_eq!(answer, (StatusCode::OK, "read 3 records\n".into()));
        assert_eq!(world.dispatcher.arrived().sha256s().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_which_nothing_is_taken_is_answered_with_422_and_why() {
    let utf16 = String::from_utf8(lines(2)).unwrap();
    let utf16 = utf16.encode_utf16().flat_map(u16::to_le_bytes);
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(utf16).collect();
    for (body, words) in [
        (utf16, "UTF-16"),
        (br#"{"type":"url","id":"x"}"#.to_vec(), r#"line 1: it is an object of type "url""#),
        (b"[[1], {}]".to_vec(), "line 2: neither"),
        (br#"{"data":[{"id":"x"}]}"#.to_vec(), "neither attributes.sha256"),
        (b"a=b\n\n".to_vec(), "one a line"),
    ] {
        let world = World::new(&[]).await;
        let (status, text) = world.post(&[JSON], body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        assert!(text.contains(words) && text.contains("--data-binary"), "{text}");
        let (status, text) = world.post(&[JSON, ("accept", "application/json")], body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        let account: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&account["status"], &account["accepted"]), (&"rejected".into(), &0.into()));
        assert_eq!(account["rejected_count"], account["records"]);
        assert_eq!(world.staged().await, 0, "the lines are among the rejects");
        let rejects = Rejects::new(Arc::clone(&world.ingest.store.bundles));
        assert_eq!(rejects.list().await.unwrap().len(), 1);
    }
    // An empty body has no rejected records, and records that are too old are filtered, so neither is refused.
    let world = World::new(&[("DISPATCHER_MAX_AGE_HOURS", "0")]).await;
    for body in [Vec::new(), b"\n \n".to_vec(), lines(2)] {
        assert_eq!(world.post(&[JSON], body).await.0, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_of_a_body_are_kept_up_to_their_limit_and_then_counted() {
    let world = World::new(&[("REJECTS_MAX_MB", "1")]).await;
    let body = [&b"17\n".repeat(10_000)[..], &lines(1)].concat();
    let (status, text) = world.post(&[JSON, ("accept", "application/json")], body).await;
    assert_eq!(status, StatusCode::OK);
    let account: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&account["accepted"], &account["rejected_count"]), (&1.into(), &10_000.into()));
    let rejects = Rejects::new(Arc::clone(&world.ingest.store.bundles));
    let (mut bytes, mut kept, mut not_kept) = (0, 0, 0);
    for object in rejects.list().await.unwrap() {
        bytes += object.size;
        for reject in rejects.read(&object.key).await.unwrap().unwrap() {
            if reject.stage == RejectStage::NotKept {
                let count: u64 = reject.reason.split(' ').next().unwrap().parse().unwrap();
                assert!(reject.reason.contains("REJECTS_MAX_MB=1"), "{}", reject.reason);
                assert_eq!(reject.line, kept + 1, "the first of them");
                not_kept = count;
            } else {
                kept += 1;
            }
        }
    }
    assert!(bytes <= (1 << 20) + 1000 && kept > 1000, "{bytes} bytes, {kept} rejects");
    assert_eq!(kept + not_kept, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_is_down_costs_nothing() {
    let mut world = World::new(&[]).await;
    Arc::get_mut(&mut world.ingest).unwrap().wait = Duration::from_millis(200);
    world.dispatcher.down().await;
    let (status, text) = world.post(&[JSON], lines(20)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    assert_eq!(world.staged().await, 1);
    world.dispatcher.up().await;
    world.dispatcher.wait_until(|arrived, _| arrived.sha256s().len() == 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_answered_with_what_to_do() {
    let world = World::new(&[("MAX_BUNDLE_BYTES", "100000")]).await;
    let request = |method: &str, path: &str| {
        Request::builder().method(method).uri(path).body(Full::from(Bytes::new())).unwrap()
    };
    for (method, path, status) in [
        ("GET", "/", StatusCode::OK),
        ("GET", "/health", StatusCode::OK),
        // `/metrics` exists only in a process of `vt`. The metrics of this process go elsewhere.
        ("GET", "/metrics", StatusCode::NOT_FOUND),
        ("PUT", "/", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/virustotal", StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "/elsewhere", StatusCode::NOT_FOUND),
        ("POST", "/uploads", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(world.send(request(method, path)).await.0, status, "{method} {path}");
    }
    let post =
        async |headers: &[(&str, &str)], body: &[u8]| world.post(headers, body.to_vec()).await.0;
    assert_eq!(
        post(&[("content-type", "text/plain")], b"{}").await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    assert_eq!(
        post(&[JSON, ("content-encoding", "br")], b"{}").await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    assert_eq!(post(&[JSON, ("content-encoding", "gzip")], b"{}").await, StatusCode::BAD_REQUEST);
    assert_eq!(post(&[JSON], &vec![b'x'; 100_001]).await, StatusCode::PAYLOAD_TOO_LARGE);
    let cut = sim::feed::compress(&lines(5));
    assert_eq!(post(&[JSON], &cut[..cut.len() - 5]).await, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_callers_with_a_token_may_post() {
    let world = World::new(&[("INGEST_TOKENS", "token-one,token-two")]).await;
    for (value, status) in [
        ("Bearer token-two", StatusCode::OK),
        ("bearer token-one", StatusCode::OK),
        ("Bearer token", StatusCode::UNAUTHORIZED),
        ("Basic token-one", StatusCode::UNAUTHORIZED),
    ] {
        let answer = world.post(&[JSON, ("authorization", value)], lines(1)).await;
        assert_eq!(answer.0, status, "{value}");
    }
    assert_eq!(world.post(&[JSON], lines(1)).await.0, StatusCode::UNAUTHORIZED);
}

/// An event of a function URL from testdata/events, through the Lambda's own reader.
fn event(name: &str) -> Request<Full<Bytes>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/events");
    let text = std::fs::read_to_string(format!("{dir}/{name}.json")).unwrap();
    azul_vt::lambda::webhook(&serde_json::from_str(&text).unwrap()).unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_secrets_and_tokens_a_function_url_takes_only_what_iam_let_in() {
    let world = World::new(&[]).await;
    let status = async |event| world.ingest.handle(event).await.status();
    assert_eq!(status(event("function-url-post")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.dispatcher.arrived().sha256s().len(), 0);
    assert_eq!(status(event("function-url-post-iam")).await, StatusCode::OK);
    assert!(!world.dispatcher.arrived().sha256s().is_empty());
    assert_eq!(status(event("function-url-health")).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tokens_are_set_an_iam_identity_alone_does_not_suffice() {
    let world = World::new(&[("INGEST_TOKENS", "token-one")]).await;
    let answer = world.ingest.handle(event("function-url-post-iam")).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let mut with_token = event("function-url-post");
    with_token.headers_mut().insert("authorization", "Bearer token-one".parse().unwrap());
    assert_eq!(world.ingest.handle(with_token).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_registration_keeps_no_body_from_being_delivered_and_is_tried_again() {
    let world = World::new(&[]).await;
    // Nothing is asked of the dispatcher before there is something to deliver.
    assert!(world.dispatcher.posts().is_empty());
    world.dispatcher.fail(&sim::Fault::answer(422, "no schema fits"), 1);
    assert_eq!(world.post(&[JSON], lines(3)).await.0, StatusCode::OK);
    assert!(world.dispatcher.arrived().registrations().is_empty());
    for _ in 0..2 {
        assert_eq!(world.post(&[JSON], lines(4)).await.0, StatusCode::OK);
    }
    assert_eq!(world.dispatcher.arrived().registrations().len(), 1);
    assert_eq!(world.dispatcher.arrived().sha256s().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_a_damaged_body_leaves_and_it_is_kept_with_the_reason() {
    let world = World::new(&[]).await;
    let mut damaged = sim::feed::compress(&lines(20));
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let (status, said) = world.post(&[JSON], damaged.clone()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(said.contains("Nothing of it is delivered"), "{said}");
    assert!(world.dispatcher.arrived().sha256s().is_empty());
    assert_eq!(world.staged().await, 0);
    let rejects = Rejects::new(Arc::clone(&world.ingest.store.bundles));
    let [why] = &rejects.list().await.unwrap()[..] else { panic!("one body was refused") };
    let reject = rejects.read(&why.key).await.unwrap().unwrap().remove(0);
    assert_eq!((reject.stage, reject.line), (RejectStage::Bundle, 0));
    let bytes = reject.reason.rsplit(' ').next().unwrap();
    let kept = world.ingest.store.bundles.list(bytes).await.unwrap();
    assert_eq!(kept[0].size, damaged.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_decompressed_is_to_be_split() {
    let world = World::new(&[("MAX_BUNDLE_BYTES", "100000")]).await;
    let zeros = sim::feed::compress(&vec![b' '; 200_000]);
    assert_eq!(world.post(&[JSON], zeros).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_does_not_grow_too_old_while_it_waits() {
    let world = World::new(&[("DISPATCHER_MAX_AGE_HOURS", "1")]).await;
    let now = jiff::Timestamp::now();
    let analysed = now.as_second() - 3600 + 2;
    let attributes = format!("{{\"last_analysis_date\":{analysed}}}");
    let record = format!("{{\"id\":\"{}\",\"attributes\":{attributes}}}", "a".repeat(64));
    let store = &world.ingest.store;
    let file = store.bundles.scratch().join("body");
    std::fs::write(&file, record).unwrap();
    store.bundles.put_file("posted/body", &file).await.unwrap();
    // The sweep comes an hour later.
    let later = Later(now + jiff::SignedDuration::from_hours(1));
    let limits = RunLimits::default();
    let (swept, error) = azul_vt::pipeline::posted::sweep(
        &world.ingest.pipeline,
        &later,
        &limits,
        |_| Some(()),
        |_| (),
    )
    .await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((swept, world.dispatcher.arrived().sha256s().len()), (1, 1));
}

/// A clock that always shows the same time.
struct Later(jiff::Timestamp);

impl azul_vt::store::Clock for Later {
    fn now(&self) -> jiff::Timestamp {
        self.0
    }
}

/// A body that sends its beginning and then nothing.
struct Half(Option<Bytes>);

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

/// Sizes of the files in the scratch folder.
fn scratch(world: &World) -> Vec<u64> {
    let files = std::fs::read_dir(world.ingest.store.bundles.scratch()).unwrap();
    let posts = files
        .flatten()
        .filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with("post-")));
    posts.filter_map(|file| Some(file.metadata().ok()?.len())).collect()
}

/// Waits until something holds.
async fn until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(1), "it does not come to hold");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stand_still_take_little_disk_and_keep_no_other_out() {
    const SENT: usize = 900_000;
    let world = World::new(&[("MAX_BUNDLE_BYTES", "1000000")]).await;
    let mut halves = Vec::new();
    for n in 1..=10 {
        let mut request = Request::post("/").header("content-type", "application/json");
        request.extensions_mut().unwrap().insert(azul_vt::webhook::PreAuthenticated);
        let request = request.body(Half(Some(vec![b' '; SENT].into()))).unwrap();
        let ingest = Arc::clone(&world.ingest);
        halves.push(tokio::spawn(async move { ingest.handle(request).await.status() }));
        let is_written = |bytes: &u64| *bytes == SENT as u64;
        until(|| {
            let ended = halves.iter().filter(|half| half.is_finished()).count();
            ended + scratch(&world).iter().filter(|bytes| is_written(bytes)).count() >= n
        })
        .await;
        let bytes: u64 = scratch(&world).iter().sum();
        assert!(bytes <= 4_000_000, "{bytes} bytes of {n} bodies");
    }
    let answer = world.post(&[JSON], lines(100)).await;
    assert_eq!(answer, (StatusCode::OK, "read 100 records\n".into()));
    // The bodies that were silent for the longest time were broken off.
    assert_eq!(halves.remove(0).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!halves.remove(8).is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_connection_is_closed_leaves_no_file() {
    let world = World::new(&[]).await;
    let mut request = Request::post("/").header("content-type", "application/json");
    request.extensions_mut().unwrap().insert(azul_vt::webhook::PreAuthenticated);
    let request = request.body(Half(Some(Bytes::from_static(b"{")))).unwrap();
    let ingest = Arc::clone(&world.ingest);
    let half = tokio::spawn(async move { ingest.handle(request).await.status() });
    until(|| scratch(&world).len() == 1).await;
    half.abort();
    until(|| scratch(&world).is_empty()).await;
}

/// Gives a line every few milliseconds for half a minute.
struct Slow(Instant);

impl Read for Slow {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(5));
        let line: &[u8] = if self.0.elapsed() < Duration::from_secs(30) { b"{}\n" } else { b"" };
        out[..line.len()].copy_from_slice(line);
        Ok(line.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_were_settled_before_are_not_read_to_their_end_when_it_is_time_to_end() {
    let world = World::new(&[]).await;
    let reader = Box::new(Slow(Instant::now()));
    let (origin, now) = ("posted/x".to_owned(), jiff::Timestamp::now());
    let input = DeliverInput { reader, origin, lines_done: u64::MAX, now };
    let limits = RunLimits::default();
    let stop = limits.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.cancel();
    });
    let mut posted = Posted::default();
    let ended = world.ingest.pipeline.deliver(input, &limits, &mut posted).await;
    assert_eq!(ended.unwrap(), Ended::Paused);
}
