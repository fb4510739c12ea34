//! `vt serve`: everything in one process, ended and begun again while all of it is at work.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use azul_vt::store::{inbox::Queue, local};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sim::{Date, Hit, Model, feed::Style};

use crate::{
    commands::MINUTE,
    disk::SmallDisk,
    running::{Running, output, text},
    served::Stage,
};

/// Of VirusTotal's minutes.
const RECORDS: u64 = 3;
/// Samples of hits are counted from here, seeds of posts from there.
const FIRST_HIT: usize = 1_000_000;
const FIRST_POST: u64 = 1000;
/// What stands between two looks whether something arrived.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The longest wait of a test for anything. An item can wait for ten minutes after an outage.
const MAX_WAIT: Duration = Duration::from_mins(12);
/// Length of one outage of VirusTotal in a long soak: longer than all tries of an item that count as attempts.
const LONG_OUTAGE: Duration = Duration::from_secs(100);
/// The shortest soak that has such an outage.
const LONG_SOAK: Duration = Duration::from_mins(5);
/// The longest that an end may take that was asked for.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A process of `vt serve`, and where it listens.
struct Serving {
    running: Running,
    url: String,
    ingest: String,
}

impl Serving {
    /// Starts a process that keeps its state in `folder`.
    fn start(stage: &Stage, folder: &Path) -> Self {
        let mut command = stage.vt(&["serve"]);
        command
            .env("STATEDIR", folder)
            .env("PLUGIN_DATA_URL", stage.dispatcher.url())
            .env("CONTENT_HOSTS", stage.virustotal.content_url())
            .env("LOOKUP_SOURCES", "incidents")
            .env("DISPATCHER_MAX_AGE_HOURS", "-1")
            .env("FEED_BACKLOG_HOURS", "2")
            // All hits are of one rule, whose quota is not what is tried here.
            .env("RESULT_LIMIT", "1000000")
            .env("LOG", "warn")
            .env("SERVE_LISTEN", "127.0.0.1:0")
            .env("INGEST_LISTEN", "127.0.0.1:0");
        let (running, url) = Running::serve(command);
        let running = running.until("listening on ");
        let (_, ingest) = running.said.rsplit_once("listening on ").unwrap();
        let ingest = ingest.split_whitespace().next().unwrap().to_owned();
        Self { running, url, ingest }
    }

    /// Asks it to end, which it does in time and well.
    async fn end(self) {
        let begun = Instant::now();
        self.running.terminate();
        let (status, said) = self.running.end().await;
        assert!(status.success(), "{said}");
        assert!(begun.elapsed() < ENDS_WITHIN, "{:?}: {said}", begun.elapsed());
    }

    async fn json(&self, path: &str) -> Value {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        answer.json().await.unwrap()
    }
}

/// What was handed in for good, by number.
#[derive(Default)]
struct Sent {
    events: usize,
    downloads: usize,
    hits: usize,
    posts: u64,
}

impl Sent {
    /// Hands in one more of each; whoever finds nobody there comes again.
    async fn one_more(&mut self, stage: &Stage, serving: &Serving, client: &reqwest::Client) {
        let n = self.events + 1;
        let post = async |path: &str, body: &Value| {
            let answer = client.post(format!("{}{path}", serving.url)).json(body).send().await;
            matches!(answer, Ok(answer) if answer.status() == 202)
        };
        stage.virustotal.report(&sim::lookup::sha256(n), sim::lookup::report(n));
        if post("/query", &sim::lookup::event(n)).await {
            self.events = n;
        }
        let sample = stage.virustotal.sample(sim::lookup::sample(self.downloads + 1));
        let request = sim::lookup::download_event(&sample, "rules/one", 0);
        if post("/download", &request).await {
            self.downloads += 1;
        }
        let answer = client
            .post(&serving.ingest)
            .header("content-type", "application/json")
            .body(sim::feed::lines(FIRST_POST + self.posts, MINUTE, RECORDS, Style::Small))
            .send()
            .await;
        if matches!(answer, Ok(answer) if answer.status() == 200 || answer.status() == 202) {
            self.posts += 1;
        }
        self.hits += 1;
        let (n, date) = (FIRST_HIT + self.hits, Timestamp::now().as_second() - 1);
        stage.virustotal.sample(sim::lookup::sample(n));
        stage.virustotal.hit(Hit::file(n, date, "rule"));
    }

    /// What has not arrived.
    fn lacking(&self, stage: &Stage) -> Vec<String> {
        let arrived = stage.dispatcher.arrived();
        let there = arrived.sha256s();
        let mut lacking = Vec::new();
        let mut lacks = |what: &str, found: usize, wanted: usize| {
            if found < wanted {
                lacking.push(format!("{what}: {found} of {wanted}"));
            }
        };
        let statuses: BTreeSet<_> = arrived
            .of(Model::Status)
            .filter(|event| event.action == "completed")
            .filter_map(|event| event.event.pointer("/entity/input/entity/sha256").cloned())
            .map(|sha256| sha256.to_string())
            .collect();
        lacks("looked up", statuses.len(), self.events);
        let streams = stage.dispatcher.streams();
        let streams: BTreeSet<_> = streams.into_iter().map(|(_, _, sha256)| sha256).collect();
        let is_there = |n: &usize| streams.contains(&hash_of_sample(*n));
        let downloaded = (1..=self.downloads).filter(is_there).count();
        lacks("downloaded", downloaded, self.downloads);
        let of_hits = (1..=self.hits).map(|n| FIRST_HIT + n).filter(is_there).count();
        lacks("downloaded of hits", of_hits, self.hits);
        let posted = (0..self.posts).flat_map(|n| {
            (0..RECORDS).map(move |at| sim::feed::sha256(FIRST_POST + n, MINUTE, at))
        });
        let lost = posted.filter(|sha256| !there.contains(sha256)).count();
        lacks("posted records, but for", 0, lost);
        lacking
    }
}

fn hash_of_sample(n: usize) -> String {
    hex::encode(Sha256::digest(sim::lookup::sample(n)))
}

/// An outage that happens in one round of the soak.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// The dispatcher is down when the process starts.
    Dispatcher,
    /// No byte can be written to the state.
    Disk,
    /// VirusTotal refuses all connections.
    VirusTotal,
}

impl Outage {
    /// All outages; the rounds of the soak take them in turn.
    const ALL: [Self; 3] = [Self::Dispatcher, Self::Disk, Self::VirusTotal];

    async fn begin(self, stage: &Stage, disk: Option<&SmallDisk>) {
        match (self, disk) {
            (Self::Dispatcher, _) => stage.dispatcher.down().await,
            (Self::Disk, Some(disk)) => disk.fill(),
            (Self::Disk, None) => {}
            (Self::VirusTotal, _) => stage.virustotal.down().await,
        }
    }

    async fn end(self, stage: &Stage, disk: Option<&SmallDisk>) {
        match (self, disk) {
            (Self::Dispatcher, _) => stage.dispatcher.up().await,
            (Self::Disk, Some(disk)) => disk.free(),
            (Self::Disk, None) => {}
            (Self::VirusTotal, _) => stage.virustotal.up().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_where_everything_is_served_ended_and_begun_again() {
    // As long as `make soak` says; else long enough to see all of it.
    let seconds = std::env::var("SERVE_SOAK_SECONDS").map_or(6, |text| text.parse().unwrap());
    let stage = Stage::new().await;
    stage.generate(RECORDS);
    stage.dispatcher.register_source("incidents");
    let mounted = SmallDisk::mount();
    let disk = mounted.as_ref();
    let folder = disk.map_or(stage.state.path(), SmallDisk::path);
    let client = reqwest::Client::new();
    let mut sent = Sent::default();
    let (begun, long) = (Instant::now(), Duration::from_secs(seconds));
    // The test has about thirteen rounds of at most ten seconds each, or fewer so that none is shorter than three
    // seconds: `load` and `hunt` begin after the first poll, which takes two. A process is asked to end and not killed:
    // a kill would lose the events that the dispatcher has just handed out, because it hands out each event once.
    let short = (long / 13).clamp(Duration::from_secs(3), Duration::from_secs(10));
    let mut ends = 0;
    for outage in Outage::ALL.iter().cycle() {
        // The first outage of VirusTotal.
        let is_long = ends == 2 && long >= LONG_SOAK;
        let round = if is_long { 2 * LONG_OUTAGE } else { short };
        // A process has to start without a dispatcher, but not without space on the disk.
        let at_start = matches!(outage, Outage::Dispatcher);
        if at_start {
            outage.begin(&stage, disk).await;
        }
        let serving = Serving::start(&stage, folder);
        let round_started = Instant::now();
        let suffering = async {
            if !at_start {
                tokio::time::sleep(round / 4).await;
                outage.begin(&stage, disk).await;
            }
            tokio::time::sleep(round / 2).await;
            outage.end(&stage, disk).await;
        };
        let sending = async {
            while round_started.elapsed() < round {
                sent.one_more(&stage, &serving, &client).await;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::join!(suffering, sending);
        serving.end().await;
        ends += 1;
        if begun.elapsed() >= long {
            break;
        }
    }
    // A process reads hits when it starts and again after a minute.
    let serving = Serving::start(&stage, folder);
    let (begun, mut minutes) = (Instant::now(), 0);
    loop {
        let mut lacking = sent.lacking(&stage);
        let status = serving.json("/status").await;
        let totals = &status["state"]["totals"];
        minutes = totals["loaded"].as_u64().unwrap_or(minutes);
        // The newest minute may become due meanwhile.
        if minutes < 60 || status["state"]["lag_minutes"].as_i64().unwrap_or(1000) > 62 {
            lacking.push(format!("feed: {totals}"));
        }
        if lacking.is_empty() {
            break;
        }
        assert!(
            begun.elapsed() < MAX_WAIT,
            "{lacking:?} {status} {:?}",
            stage.dispatcher.arrived().counts()
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let health = serving.json("/health").await;
    assert_eq!(health["ok"], true, "{health}");
    assert_eq!(health["functions"].as_object().unwrap().len(), 5, "{health}");
    let metrics = reqwest::get(format!("{}/metrics", serving.url)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for function in ["load", "query", "download", "hunt"] {
        assert!(metrics.contains(&format!("function=\"{function}\"")), "{function}: {metrics}");
    }
    serving.end().await;
    let inbox = local::open(folder).unwrap().inbox;
    for queue in [Queue::Query, Queue::Download] {
        let counts = inbox.counts(queue, Timestamp::now()).await.unwrap();
        assert_eq!(counts.buried, 0, "{queue:?}: an outage made it give up items");
    }
    // The figures that a reader of a soak's output looks for.
    println!(
        "{} s: {} look-ups, {} downloads, {} hits, {} posts, {minutes} minutes; ended {ends} times; nothing lost",
        long.as_secs(),
        sent.events,
        sent.downloads,
        sent.hits,
        sent.posts
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_hits_are_downloaded_although_the_first_poll_comes_late() {
    // The second poll comes five seconds after a failed one, and `hunt` requests downloads at once if nothing holds it.
    let paused = sim::Fault::Answer {
        status: 200,
        headers: vec![("content-type".into(), "multipart/form-data; boundary=b".into())],
        body: [
            "--b\r\nContent-Disposition: form-data; name=\"info\"\r\n\r\n{\"paused\":true}\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"events\"\r\n\r\n{\"events\":[]}\r\n--b--\r\n",
        ]
        .concat(),
    };
    let (late, refused) = (sim::Fault::answer(503, "not now"), sim::Fault::answer(400, "never"));
    for (failure, is_downloaded) in [(late, true), (paused, true), (refused, false)] {
        let stage = Stage::new().await;
        stage.dispatcher.fail_polls(&failure, 1);
        let date = Timestamp::now().as_second() - 1;
        stage.virustotal.sample(sim::lookup::sample(FIRST_HIT));
        stage.virustotal.hit(Hit::file(FIRST_HIT, date, "rule"));
        let mut command = stage.vt(&["serve", "--functions", "hunt,download"]);
        command
            .env("CONTENT_HOSTS", stage.virustotal.content_url())
            .env("PLUGIN_DATA_URL", stage.dispatcher.url())
            .env("SERVE_LISTEN", "127.0.0.1:0");
        let (running, _) = Running::serve(command);
        let wanted = hash_of_sample(FIRST_HIT);
        let begun = Instant::now();
        let arrived = || {
            if is_downloaded {
                return stage.dispatcher.streams().iter().any(|(_, _, sha256)| *sha256 == wanted);
            }
            // A dispatcher that refuses polls does not hold up what needs none.
            stage.dispatcher.arrived().of(Model::Download).count() == 1
        };
        while !arrived() {
            assert!(
                begun.elapsed() < Duration::from_mins(2),
                "{failure:?}: {:?}",
                stage.dispatcher.arrived().counts()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        running.terminate();
        let (status, said) = running.end().await;
        assert!(status.success(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_fails_is_told_of_and_the_others_go_on() {
    let stage = Stage::new().await;
    stage.generate(RECORDS);
    let mut command = stage.vt(&["serve", "--functions", "load,ingest"]);
    command
        .env("VIRUSTOTAL_APIKEY", "a".repeat(64))
        .env("SERVE_LISTEN", "127.0.0.1:0")
        .env("INGEST_LISTEN", "127.0.0.1:0");
    let (running, url) = Running::serve(command);
    let health = async || {
        let answer = reqwest::get(format!("{url}/health")).await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let begun = Instant::now();
    let (mut status, mut body) = health().await;
    while status != 503 {
        assert!(begun.elapsed() < MAX_WAIT, "{body}");
        tokio::time::sleep(POLL_INTERVAL).await;
        (status, body) = health().await;
    }
    let functions = &body["functions"];
    assert!(functions["load"]["error"].as_str().unwrap().contains("VIRUSTOTAL_APIKEY"), "{body}");
    assert_eq!(functions["ingest"]["state"], "running", "{body}");
    assert_eq!(functions["query"], json!(null), "{body}");
    for path in ["/query", "/nowhere"] {
        let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
    let running = running.until("listening on ");
    let (_, ingest) = running.said.rsplit_once("listening on ").unwrap();
    let ingest = ingest.split_whitespace().next().unwrap().to_owned();
    // Metrics of all functions are where only /health and /status are.
    for (path, status) in [("/health", 200), ("/metrics", 404)] {
        let answer = reqwest::get(format!("{ingest}{path}")).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    running.terminate();
    assert!(running.end().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_set_up_is_said_before_anything_begins() {
    let stage = Stage::new().await;
    let mut command = stage.vt(&["serve", "--functions", "query"]);
    command.env("SERVE_LISTEN", "127.0.0.1:0");
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("LOOKUP_SOURCES is not set"),
        "{}",
        text(&refused.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_does_not_keep_it_from_its_end() {
    let stage = Stage::new().await;
    stage.dispatcher.fail_polls(&sim::Fault::Hang, 1);
    // Takes connections, and never says a word.
    let gateway = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = stage.vt(&["serve", "--functions", "query,ingest"]);
    command
        .env("LOOKUP_SOURCES", "incidents")
        .env("PLUGIN_PROMETHEUS_PUSH_GATEWAY", format!("http://{}", gateway.local_addr().unwrap()))
        .env("SERVE_LISTEN", "127.0.0.1:0")
        .env("INGEST_LISTEN", "127.0.0.1:0");
    let running = Running::start(command).until("listening on ").until("listening on ");
    let (_, ingest) = running.said.rsplit_once("listening on http://").unwrap();
    let mut posting = TcpStream::connect(ingest.split_whitespace().next().unwrap()).unwrap();
    posting
        .write_all(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
        )
        .unwrap();
    let begun = Instant::now();
    while stage.dispatcher.faults_left() > 0 {
        assert!(begun.elapsed() < MAX_WAIT);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let begun = Instant::now();
    running.terminate();
    let (status, said) = running.end().await;
    assert!(status.success(), "{said}");
    // Twelve seconds for the poll, and what a busy machine adds.
    assert!(begun.elapsed() < ENDS_WITHIN, "{:?}: {said}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_that_the_state_cannot_be_written() {
    let Some(disk) = SmallDisk::mount() else { return };
    let stage = Stage::new().await;
    let mut command = stage.vt(&["serve", "--functions", "ingest"]);
    command
        .env("STATEDIR", disk.path())
        .env("SERVE_LISTEN", "127.0.0.1:0")
        .env("INGEST_LISTEN", "127.0.0.1:0");
    let (_running, url) = Running::serve(command);
    let health = async || {
        let answer = reqwest::get(format!("{url}/health")).await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, body) = health().await;
    assert_eq!((status, &body["state"]), (200, &Value::Null), "{body}");
    disk.fill();
    let (status, body) = health().await;
    assert_eq!(status, 503, "{body}");
    assert!(body["state"].as_str().unwrap().contains("No space left"), "{body}");
    disk.free();
    assert_eq!(health().await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_names_the_peer_that_is_out_and_clocks_that_are_apart() {
    let stage = Stage::new().await;
    stage.dispatcher.set_date(Date::At(Timestamp::now() - SignedDuration::from_hours(24)));
    let mut command = stage.vt(&["serve", "--functions", "download"]);
    command.env("PLUGIN_DATA_URL", stage.dispatcher.url()).env("SERVE_LISTEN", "127.0.0.1:0");
    let (_running, url) = Running::serve(command);
    let health = async || {
        let answer = reqwest::get(format!("{url}/health")).await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let until = async |is_so: fn(&Value) -> bool| {
        let begun = Instant::now();
        loop {
            let (status, body) = health().await;
            if is_so(&body) {
                return (status, body);
            }
            assert!(begun.elapsed() < MAX_WAIT, "{body}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let (status, body) = until(|body| body["clock"].is_string()).await;
    assert_eq!(status, 503, "{body}");
    assert!(body["clock"].as_str().unwrap().contains("ahead of that of the dispatcher"), "{body}");
    assert_eq!(body["outages"], json!({}), "{body}");
    stage.dispatcher.set_date(Date::Now);
    until(|body| body["clock"].is_null()).await;
    stage.dispatcher.down().await;
    let is_told = |body: &Value| {
        let error = body["outages"]["dispatcher"]["error"].as_str();
        error.is_some_and(|error| error.contains("cannot be reached"))
    };
    let (_, body) = until(is_told).await;
    assert!(body["outages"]["dispatcher"]["since"].is_string(), "{body}");
    stage.dispatcher.up().await;
    until(|body| body["outages"] == json!({})).await;
}
