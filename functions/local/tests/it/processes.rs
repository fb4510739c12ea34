//! Processes of `vt load` beside each other, asked to end, limited, and with hostile input.

use std::process::Command;

use azul_vt::{
    minute::Minute,
    store::{Store, local},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use sim::{Behaviour, Fault, Unknown, feed::Style};

use crate::{
    running::{Running, output, text},
    served::Stage,
};

const SEED: u64 = 5;
const RECORDS: u64 = 60;

/// A feed with a number of due minutes, which begin with the first minute to load. Later minutes are not available yet.
struct Feed {
    stage: Stage,
    first: Minute,
}

impl Feed {
    async fn new(minutes: i64) -> Self {
        let stage = Stage::new().await;
        stage.virustotal.set_unknown(Unknown::NotAvailableYet);
        let first = Minute::of(Timestamp::now()).plus(-61 - minutes);
        for n in 0..minutes {
            let minute = first.plus(n).to_string();
            let bundle = sim::feed::bundle(SEED, &minute, RECORDS, Style::Small);
            stage.virustotal.serve(&minute, bundle);
        }
        let before = first.plus(-1).unix_seconds().to_string();
        std::fs::write(stage.state.path().join("v3_files"), before).unwrap();
        Self { stage, first }
    }

    fn minute(&self, n: i64) -> String {
        self.first.plus(n).to_string()
    }

    fn load(&self, more: &[&str]) -> Running {
        Running::start(self.command(more))
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.stage.vt(&[&["load"], more].concat());
        command.env("DISPATCHER_MAX_AGE_HOURS", "-1");
        command
    }

    fn store(&self) -> Store {
        local::open(self.stage.state.path()).unwrap()
    }

    async fn cursor(&self) -> Option<Minute> {
        let cursor = self.store().cursors.read(load::NAME).await.unwrap();
        cursor.map(Minute::from_unix_seconds)
    }

    fn arrived(&self) -> usize {
        self.stage.dispatcher.arrived().sha256s().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_started_together_one_works_and_the_other_says_who_and_exits_with_0() {
    let feed = Feed::new(3).await;
    // The dispatcher is down, so the process at work cannot be done before the other one looks.
    feed.stage.dispatcher.down().await;
    let (one, other) = (feed.load(&[]), feed.load(&[]));
    let pids = [one.child.id(), other.child.id()];
    let (mut one, mut other) = (tokio::spawn(one.end()), tokio::spawn(other.end()));
    let (first, second, worker) = tokio::select! {
        ended = &mut one => (ended.unwrap(), other, pids[1]),
        ended = &mut other => (ended.unwrap(), one, pids[0]),
    };
    let (status, said) = first;
    assert!(status.success(), "{said}");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let who = format!("another run is at work (process {worker} on {}, since 20", host.trim());
    assert!(said.contains(&who), "{said}");
    assert_eq!(feed.arrived(), 0);
    feed.stage.dispatcher.up().await;
    let (status, said) = second.await.unwrap();
    assert!(status.success() && said.contains("loaded 3 minutes"), "{said}");
    assert_eq!(feed.arrived() as u64, 3 * RECORDS);
    assert_eq!(feed.stage.dispatcher.arrived().repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_load_that_waits_for_a_dispatcher_that_is_down() {
    let feed = Feed::new(2).await;
    feed.stage.dispatcher.down().await;
    let load = feed.load(&[]).until("tried again");
    load.terminate();
    let (status, said) = load.end().await;
    assert!(status.success() && said.contains("stopped before the end"), "{said}");
    feed.stage.dispatcher.up().await;

    // The dispatcher is down in the middle of the work, or never answers.
    for down in [true, false] {
        let dispatcher = &feed.stage.dispatcher;
        // The dispatcher takes the registration and answers nothing after it.
        dispatcher.fail(&Fault::Delay { ms: 0 }, 1);
        dispatcher.fail(&Fault::Hang, 100);
        let posts = dispatcher.posts().len();
        let mut load = feed.load(&["--watch"]);
        dispatcher.wait_until(|_, now| now.len() > posts + 1).await;
        if down {
            dispatcher.down().await;
            load = load.until("tried again");
        }
        load.terminate();
        let (status, said) = load.end().await;
        assert!(status.success() && said.contains("stopped before the end"), "{said}");
        dispatcher.up().await;
        dispatcher.clear_faults();
    }
    let (status, said) = feed.load(&[]).end().await;
    assert!(status.success(), "{said}");
    assert_eq!(feed.arrived() as u64, 2 * RECORDS);
    assert_eq!(feed.cursor().await, Some(feed.first.plus(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_load_that_waits_for_virustotal() {
    for fault in [
        Behaviour::Api(Fault::Hang),
        Behaviour::Content(Fault::HangInBody),
        Behaviour::TooManyRequests(Some(3600)),
    ] {
        let feed = Feed::new(1).await;
        feed.stage.virustotal.behave(&feed.minute(0), &fault, 100);
        let load = feed.load(&[]);
        feed.stage.virustotal.wait_until(|requests| !requests.is_empty()).await;
        load.terminate();
        let (status, said) = load.end().await;
        assert!(status.success() && said.contains("stopped before the end"), "{fault:?}: {said}");
        assert_eq!(feed.cursor().await, Some(feed.first.plus(-1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watching_load_ends_when_it_has_loaded_as_many_bundles_as_package_limit_says() {
    let feed = Feed::new(5).await;
    // A 404 is no bundle.
    feed.stage.virustotal.behave(&feed.minute(0), &Behaviour::Missing, usize::MAX);
    let mut command = feed.command(&["--watch"]);
    command.env("PACKAGE_LIMIT", "2");
    let (status, said) = Running::start(command).end().await;
    assert!(status.success() && said.contains("loaded 2 minutes"), "{said}");
    assert_eq!(feed.cursor().await, Some(feed.first.plus(2)));
    assert_eq!(feed.arrived() as u64, 2 * RECORDS);
}

/// The most memory that a process ever had, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_a_gigabyte_of_zeros_costs_its_line_and_little_memory() {
    let feed = Feed::new(1).await;
    let minute = feed.minute(0);
    // The bundle has 1 GiB of zeros as one line, compressed as streams one after the other, and then records.
    let mut bundle = sim::feed::compress(&vec![0; 16 << 20]).repeat(64);
    bundle.extend(sim::feed::compress(b"\n"));
    bundle.extend(sim::feed::bundle(SEED, &minute, RECORDS, Style::Small));
    assert!(bundle.len() < 1 << 20, "{}", bundle.len());
    feed.stage.virustotal.serve(&minute, bundle);
    // The load watches, so it still runs when its memory is read.
    let load = feed.load(&["--watch"]).until("loaded 1 minutes");
    let peak = peak_memory(load.child.id());
    load.terminate();
    let (status, said) = load.end().await;
    assert!(status.success(), "{said}");
    assert!(said.contains(&format!("{} records, {RECORDS} delivered", RECORDS + 1)), "{said}");
    assert!(said.contains("1 rejected"), "{said}");
    assert_eq!(feed.arrived() as u64, RECORDS);
    assert!(peak < 150 << 20, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_with_workers_share_a_backlog_and_each_minute_is_loaded_once() {
    let feed = Feed::new(40).await;
    let (one, other) = (feed.load(&["--workers", "3"]), feed.load(&["--workers", "2"]));
    let (one, other) = tokio::join!(one.end(), other.end());
    for (status, said) in [&one, &other] {
        assert!(status.success(), "{said}");
    }
    // A process that found nothing to do ended at once; both together did all the work.
    let last = feed.load(&["--workers", "2"]).end().await;
    assert!(last.0.success(), "{}", last.1);
    assert_eq!(feed.cursor().await, Some(feed.first.plus(39)));
    assert_eq!(feed.arrived() as u64, 40 * RECORDS);
    assert_eq!(feed.stage.dispatcher.arrived().repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_is_load_of_a_range_and_fetches_only_what_is_not_staged() {
    let feed = Feed::new(3).await;
    let (status, said) = feed.load(&[]).end().await;
    assert!(status.success(), "{said}");
    let asked = feed.stage.virustotal.minutes_asked().len();
    let (from, to) = (feed.minute(0), feed.minute(1));
    let store = feed.store();
    let second = feed.first.next().storage_path();
    let staged = store.bundles.list(&format!("staged/feed/files/{second}")).await.unwrap();
    store.bundles.remove(&staged[0].key).await.unwrap();
    let dry = output(feed.stage.vt(&["load", "--from", &from, "--to", &to, "--dry-run"])).await;
    let dry: Vec<Value> =
        text(&dry.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, second] = dry.as_slice() else { panic!("{dry:?}") };
    assert_eq!((&first["minute"], &second["minute"]), (&json!(from), &json!(to)));
    assert!(first["staged"].as_str().unwrap().starts_with("staged/feed/"), "{first}");
    assert_eq!(second["staged"], Value::Null);
    assert_eq!(first["state"], json!({"state": "loaded"}));
    assert_eq!(first["counts"]["delivered"], json!(RECORDS));
    assert_eq!(feed.stage.virustotal.minutes_asked().len(), asked);
    for command in ["replay", "load"] {
        let mut command = feed.stage.vt(&[command, "--from", &from, "--to", &to]);
        command.env("DISPATCHER_MAX_AGE_HOURS", "-1");
        let (status, said) = Running::start(command).end().await;
        assert!(status.success() && said.contains("loaded 2 minutes"), "{said}");
    }
    assert_eq!(feed.stage.virustotal.minutes_asked()[asked..], [to]);
    assert_eq!(feed.stage.dispatcher.arrived().repeats as u64, 4 * RECORDS);
}
