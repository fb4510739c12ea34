//! `vt download`: killed again and again, and with a sample that is larger than its memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use azul_vt::store::{inbox::InboxCounts, inbox::Queue, local};
use jiff::Timestamp;
use serde_json::{Value, json};
use sim::{Behaviour, Fault, Model, lookup};

use crate::{processes::peak_memory, running::Running, served::Stage};

const CATEGORIES: [i64; 8] = [3, 6, 9, 12, 15, 18, 19, 30];
const REQUESTS: usize = 25;
/// Number of good requests of a category.
const GOOD: u64 = 19;
const KILLS: u64 = 15;

impl Stage {
    fn download(&self, args: &[&str]) -> Command {
        let mut command = self.vt(&[&["download"], args].concat());
        command
            .env("PLUGIN_DATA_URL", self.dispatcher.url())
            .env("CONTENT_HOSTS", self.virustotal.content_url())
            .env("WEBHOOK_LISTEN", "127.0.0.1:0")
            .env("WORKERS", "6");
        command
    }
}

struct Request {
    category: String,
    sha256: String,
    content: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Missing,
    Wrong,
}

/// Makes 200 requests in 8 categories. They come with or without a link, and some succeed only at the second try. For
/// some, VirusTotal has no file, or another file than the one of the hash.
fn requests(stage: &Stage) -> (Vec<Request>, Vec<Value>) {
    let (mut requests, mut events) = (Vec::new(), Vec::new());
    for (c, quota) in CATEGORIES.into_iter().enumerate() {
        for n in 0..REQUESTS {
            let content = format!("sample {n} of {c} ").repeat(200 + n).into_bytes();
            let kind = match n {
                0..=3 => Kind::Missing,
                4..=5 => Kind::Wrong,
                _ => Kind::Good,
            };
            let virustotal = &stage.virustotal;
            let sha256 = match kind {
                Kind::Good => virustotal.sample(content.clone()),
                Kind::Missing => lookup::sha256(1000 * c + n),
                Kind::Wrong => {
                    let sha256 = lookup::sha256(1000 * c + n);
                    virustotal.sample_as(&sha256, content.clone());
                    sha256
                }
            };
            let category = format!("rules/{c}");
            let mut event = lookup::download_event(&sha256, &category, quota);
            if n % 2 == 0 {
                event["entity"]["direct_url"] = json!(virustotal.link(&sha256));
            }
            if n % 5 == 0 {
                virustotal.behave_download(&sha256, &Behaviour::Transient(None), 1);
            }
            // The answer is slow, so that a kill falls into the middle of a download.
            let slow = Behaviour::Content(Fault::Trickle { ms: 10 });
            virustotal.behave_link(&sha256, &slow, usize::MAX);
            virustotal.behave_download(&sha256, &slow, usize::MAX);
            events.push(event);
            requests.push(Request { category, sha256, content, kind });
        }
    }
    (requests, events)
}

async fn post(url: &str, events: &Value) -> Result<(), reqwest::Error> {
    let answer = reqwest::Client::new().post(url).json(events).send().await?;
    assert_eq!(answer.status(), 202);
    Ok(())
}

fn waiting(stage: &Stage) -> impl Future<Output = InboxCounts> {
    let store = local::open(stage.state.path()).unwrap();
    async move { store.inbox.counts(Queue::Download, Timestamp::now()).await.unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_exceed_no_quota_lose_no_request_and_publish_no_wrong_byte() {
    let stage = Stage::new().await;
    let (requests, events) = requests(&stage);
    let events = json!(events);
    let mut posted = false;
    for life in 0..=KILLS {
        let mut command = stage.download(&["--listen"]);
        // Content that is another file is asked for once more, after five seconds.
        command.env("QUOTA_REJECT_EVENTS", "1").env("VT_MAX_ATTEMPTS", "2");
        let (running, url) = Running::serve(command);
        // A client without an answer posts again; a client with an answer may do so, too.
        if !posted || life % 4 == 0 {
            posted |= post(&url, &events).await.is_ok();
        }
        if life < KILLS {
            let moment = 40 + life * 7919 % 600;
            tokio::time::sleep(Duration::from_millis(moment)).await;
            drop(running); // kills it
        } else {
            while waiting(&stage).await.waiting + waiting(&stage).await.in_work > 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            running.terminate();
            let (status, said) = running.end().await;
            assert!(status.success(), "{said}");
        }
    }
    assert_eq!(waiting(&stage).await, InboxCounts::default(), "nothing is given up");

    let arrived = stage.dispatcher.arrived();
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut sourced = BTreeSet::new();
    for published in &arrived.events {
        let text = |pointer: &str| {
            let text = published.event.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        match published.model {
            Model::Binary => drop(sourced.insert(text("/entity/sha256"))),
            Model::Download => {
                let (hash, action) = (text("/entity/hash"), published.action.clone());
                let success = action == "success";
                assert!(!success || sourced.contains(&hash), "told before it was there");
                let quota = text("/entity/metadata/reason").contains("quota");
                told.entry(hash).or_default().insert(if quota { "quota".into() } else { action });
            }
            _ => {}
        }
    }
    let mut successes: BTreeMap<&str, u64> = BTreeMap::new();
    for Request { category, sha256, content, kind } in &requests {
        let told = told.get(sha256).unwrap_or_else(|| panic!("nothing was told of {sha256}"));
        let [action] = told.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
            panic!("{told:?}")
        };
        match (action, kind) {
            ("success", Kind::Good) => {
                *successes.entry(category).or_default() += 1;
                let stored = stage.dispatcher.stream("virustotal", "content", sha256).unwrap();
                assert_eq!(&*stored, content.as_slice());
            }
            ("failed-not-found", Kind::Missing) | ("failed", Kind::Wrong) | ("quota", _) => {}
            (action, _) => panic!("{action} of {category}"),
        }
    }
    for (c, quota) in CATEGORIES.into_iter().enumerate() {
        let count = successes.get(format!("rules/{c}").as_str()).copied().unwrap_or_default();
        assert_eq!(count, GOOD.min(u64::try_from(quota).unwrap()), "category {c}");
    }
    let all: u64 = successes.values().sum();
    assert_eq!(sourced.len() as u64, all, "what has an event has its place");
    let shown = crate::running::output(stage.vt(&["status", "--json"])).await;
    let status: Value = serde_json::from_slice(&shown.stdout).unwrap();
    // A test that runs over midnight (UTC) uses the quotas of two days.
    assert!(status["quotas"]["total"].as_u64().unwrap() <= all, "{status}");
    assert_eq!(stage.dispatcher.problems(), Vec::<String>::new());
    assert_eq!(stage.virustotal.key_leaked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_650_megabytes_is_polled_for_and_takes_little_memory() {
    let stage = Stage::new().await;
    let size = 650 << 20;
    let sha256 = tokio::task::block_in_place(|| stage.virustotal.large_sample(size, 7));
    let mut command = stage.download(&[]);
    command.env("MAX_DOWNLOAD_SIZE_MB", "0");
    let running = Running::start(command);
    // The dispatcher does not hand out an event that arrived before the first poll.
    let registered = |arrived: &sim::Arrived| !arrived.registrations().is_empty();
    stage.dispatcher.wait_until(|arrived, _| registered(arrived)).await;
    let event = lookup::download_event(&sha256, "rules/large", 1);
    let url = format!("{}/api/v2/event?model=download&sync=true", stage.dispatcher.url());
    let told = |arrived: &sim::Arrived| {
        let own = |e: &&std::sync::Arc<sim::Published>| e.action != "requested";
        arrived.events.iter().filter(own).any(|e| e.model == Model::Download)
    };
    for _ in 0..100 {
        let answer = reqwest::Client::new().post(&url).json(&json!([event])).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
        if waiting(&stage).await.in_work > 0 || told(&stage.dispatcher.arrived()) {
            break;
        }
    }
    stage.dispatcher.wait_until(|arrived, _| told(arrived)).await;
    let peak = peak_memory(running.child.id());
    let stored = stage.dispatcher.stream_sizes();
    assert_eq!(stored, [("virustotal".into(), "content".into(), sha256, size)]);
    assert!(peak <= 64 << 20, "{peak} bytes");
    println!("peak memory {} MB", peak >> 20);
    drop(running);
}
