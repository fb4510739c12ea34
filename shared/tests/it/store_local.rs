//! Tests of the local state: the suite, and cases that need files and processes.
//!
//! Other processes are this test program itself, told by the environment to be a [`child`].

use std::{
    fs,
    future::{Ready, ready},
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use azul_vt::minute::Minute;
use azul_vt::store::{
    Counts, Grant, LedgerRow, MinuteState, Reservation, ReservationStage, Store, StoreError,
    failures::{self, Subject},
    inbox::{Item, NewItem, Queue, Retry},
    local::{go_plugin_position, open, open_read_only},
};
use jiff::{SignedDuration, Timestamp, civil::date};
use tempfile::TempDir;

use crate::{
    inbox_suite::{Time, inbox_suite},
    store_suite::{acquire, at, step_a_cursor, store_suite},
};

fn fresh() -> Ready<Option<(Store, TempDir)>> {
    let dir = tempfile::tempdir().unwrap();
    ready(Some((open(&dir.path().join("state")).unwrap(), dir)))
}

store_suite!(fresh);
inbox_suite!(fresh, Time::given());

/// Returns a store in which one item waits in the queue of `query`.
async fn with_an_item() -> (Store, TempDir) {
    let (store, dir) = fresh().await.unwrap();
    let item = NewItem { id: "a".into(), body: "{}".into() };
    store.inbox.put(Queue::Query, &[item], at(0)).await.unwrap();
    (store, dir)
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

async fn take(store: &Store, now: Timestamp) -> Option<Item> {
    store.inbox.take(Queue::Query, 1, MINUTE, now).await.unwrap().pop()
}

#[tokio::test]
async fn an_item_that_a_clock_put_back_that_was_ahead_is_due_now() {
    let (store, _dir) = with_an_item().await;
    let ahead = at(400 * 86_400);
    let item = take(&store, ahead).await.unwrap();
    let again = Retry { after: MINUTE, is_attempt: false, ..Retry::default() };
    assert!(store.inbox.requeue(Queue::Query, &item, again.clone(), ahead).await.unwrap());
    let item = take(&store, at(0)).await.unwrap();
    // A taken item stays with its taker, and an item that a correct clock put back waits.
    assert_eq!(take(&store, at(1)).await, None);
    assert!(store.inbox.requeue(Queue::Query, &item, again, at(1)).await.unwrap());
    assert_eq!(take(&store, at(2)).await, None);
    assert!(take(&store, at(62)).await.is_some());
}

#[tokio::test]
async fn looking_at_the_state_makes_nothing_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    assert!(open_read_only(&state).unwrap().is_none());
    assert!(!state.exists());
    let all = || {
        let mut names: Vec<_> = walk(&state);
        names.sort();
        names
    };
    let store = open(&state).unwrap();
    let lease = acquire(&store, "load").await;
    assert!(store.cursors.advance("steps", None, 60).await.unwrap());
    let before = all();
    let looked = open_read_only(&state).unwrap().unwrap();
    assert!(looked.cursors.read("steps").await.unwrap().is_some());
    let holder = looked.leases.holder("load", at(1)).await.unwrap();
    assert_eq!(holder.map(|(owner, _)| owner).as_deref(), Some("test"));
    assert!(looked.bundles.list("").await.unwrap().is_empty());
    assert!(looked.bundles.put("a/b", b"c").await.is_err());
    assert!(looked.cursors.advance("other", None, 1).await.is_err());
    drop(looked);
    assert_eq!(all(), before, "while it is open elsewhere");
    store.leases.release(lease).await.unwrap();
    drop(store);
    let before = all();
    let looked = open_read_only(&state).unwrap().unwrap();
    assert!(looked.cursors.read("steps").await.unwrap().is_some());
    assert!(looked.leases.holder("load", at(1)).await.unwrap().is_none());
    drop(looked);
    assert_eq!(all(), before);
}

/// Returns all paths under a directory, with folders and hidden files.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

#[tokio::test]
async fn counts_beyond_64_bits_are_held_at_the_greatest_number() {
    let (store, _dir) = fresh().await.unwrap();
    let lease = acquire(&store, "load").await;
    let counts = Counts { records: u64::MAX, ..Counts::default() };
    for minute in ["202611240900", "202611240901"] {
        let minute: Minute = minute.parse().unwrap();
        let row = LedgerRow { minute, state: MinuteState::Loaded, counts, updated: at(0) };
        store.ledger.put(&row, &lease).await.unwrap();
    }
    let totals = store.ledger.totals().await.unwrap();
    assert_eq!((totals.loaded, totals.counts.records), (2, i64::MAX.unsigned_abs()));
}

#[tokio::test]
async fn scratch_of_another_user_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path().join("bundles/.scratch");
    fs::create_dir_all(scratch.join("0")).unwrap();
    // This user may neither open nor remove the file; root may.
    fs::write(scratch.join("0.lock"), "").unwrap();
    fs::write(scratch.join("0/left"), "").unwrap();
    fs::set_permissions(scratch.join("0.lock"), fs::Permissions::from_mode(0o000)).unwrap();
    let store = open(dir.path()).unwrap();
    store.bundles.put("a", b"b").await.unwrap();
    assert_eq!(store.bundles.read("a").await.unwrap().unwrap(), b"b");
}

#[tokio::test]
async fn who_was_too_slow_ends_nothing() {
    let (store, _dir) = with_an_item().await;
    let take = async |seconds| take(&store, at(seconds)).await;
    let first = take(0).await.unwrap();
    let second = take(61).await.unwrap();
    assert!(!store.inbox.done(Queue::Query, &first).await.unwrap());
    assert!(!store.inbox.hold(Queue::Query, &first, MINUTE, at(62)).await.unwrap());
    assert!(store.inbox.done(Queue::Query, &second).await.unwrap());
    assert!(take(999).await.is_none());
}

#[tokio::test]
async fn what_a_dead_owner_had_comes_back_at_once_and_what_one_after_the_other_had_waits() {
    let (store, _dir) = with_an_item().await;
    let take = async |seconds| take(&store, at(seconds)).await;
    let reclaim = async |seconds| store.inbox.reclaim(Queue::Query, at(seconds)).await.unwrap();
    let first = take(0).await.unwrap();
    assert_eq!(reclaim(1).await, 1);
    let second = take(1).await.unwrap();
    assert!(!store.inbox.done(Queue::Query, &first).await.unwrap());
    assert_eq!(reclaim(2).await, 1);
    assert!(take(6).await.is_none());
    let third = take(12).await.unwrap();
    assert_eq!(third.lost, 2);
    assert_eq!(reclaim(13).await, 1);
    assert!(take(22).await.is_none());
    let fourth = take(33).await.unwrap();
    assert!(!store.inbox.done(Queue::Query, &second).await.unwrap());
    // After a worker has put the item back, the count starts at zero.
    let again = Retry { after: SignedDuration::ZERO, is_attempt: false, ..Retry::default() };
    assert!(store.inbox.requeue(Queue::Query, &fourth, again, at(34)).await.unwrap());
    assert_eq!(take(34).await.unwrap().lost, 0);
    assert_eq!(reclaim(35).await, 1);
    assert!(take(35).await.is_some());
}

#[tokio::test]
async fn pruning_removes_loaded_and_buried_minutes() {
    let (store, _dir) = fresh().await.unwrap();
    let lease = acquire(&store, "load").await;
    let minute: Minute = "202611240857".parse().unwrap();
    let buried = MinuteState::Buried { reason: String::new() };
    for (n, state) in (0..).zip([MinuteState::Loaded, buried, MinuteState::Planned]) {
        let counts = Counts::default();
        let row = LedgerRow { minute: minute.plus(n), state, counts, updated: at(0) };
        store.ledger.put(&row, &lease).await.unwrap();
    }
    assert_eq!(store.ledger.prune(minute.next()).await.unwrap(), 1);
    assert_eq!(store.ledger.prune(minute.plus(99)).await.unwrap(), 1);
    let left = store.ledger.range(minute, minute.plus(99)).await.unwrap();
    assert_eq!(left.iter().map(|row| row.minute).collect::<Vec<_>>(), [minute.plus(2)]);
}

#[tokio::test]
async fn leases_leave_no_files_and_old_ones_that_nobody_holds_are_forgotten() {
    let (store, dir) = fresh().await.unwrap();
    let locks = || {
        let files = fs::read_dir(dir.path().join("state/locks")).unwrap();
        let mut names: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("lease-"));
        names.sort();
        names
    };
    store.leases.release(acquire(&store, "load-1").await).await.unwrap();
    assert_eq!(locks(), Vec::<String>::new());
    // The leases are one whose owner died, one that is held, and one that was renewed since.
    drop(acquire(&store, "load-2").await);
    let held = acquire(&store, "load-3").await;
    let renewed = acquire(&store, "load-4").await;
    store.leases.renew(&renewed, at(20)).await.unwrap();
    drop(renewed);
    assert_eq!(locks(), ["lease-load-2", "lease-load-3", "lease-load-4"]);
    assert_eq!(store.leases.prune(at(10)).await.unwrap(), 2);
    assert_eq!(locks(), ["lease-load-3", "lease-load-4"]);
    // The held lease still belongs to its owner. The fencing numbers of a forgotten lease start again.
    store.leases.renew(&held, at(11)).await.unwrap();
    assert_eq!(acquire(&store, "load-1").await.fence, 1);
    assert_eq!(acquire(&store, "load-4").await.fence, 2);
}

const ROLE: &str = "AZUL_VT_TEST_CHILD";
const STATE: &str = "AZUL_VT_TEST_STATE";

/// Main function of the other processes that the tests start. It does nothing unless the environment asks for it.
#[test]
fn child() {
    let (Ok(role), Ok(state)) = (std::env::var(ROLE), std::env::var(STATE)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&state)).unwrap();
        match role.as_str() {
            "step" => {
                let moved = step_a_cursor(store, 100).await;
                say(&format!("moved {moved}"));
            }
            "hold" => {
                let lease = acquire(&store, "load").await;
                say(&format!("holds {}", lease.fence));
                // The process holds the lease until it is killed.
                std::future::pending::<()>().await;
            }
            "write" => write_until_killed(&store).await,
            "reserve" => {
                let mut granted = 0;
                for n in 0..200 {
                    let id = format!("{}/{n}", std::process::id());
                    let answer = store.quotas.reserve("c", DAY, 150, &id).await.unwrap();
                    granted += u64::from(answer == Reservation::Granted);
                }
                say(&format!("granted {granted}"));
            }
            other => panic!("no such role: {other}"),
        }
    });
}

const DAY: jiff::civil::Date = date(2026, 11, 24);

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The mark sets our lines apart from those of the test harness.
    writeln!(out, "\n> {line}").unwrap();
    out.flush().unwrap();
}

/// Makes every kind of write in turn, and prints each once it is acknowledged.
async fn write_until_killed(store: &Store) {
    let lease = acquire(store, "load").await;
    for n in 1..i64::MAX {
        let before = (n > 1).then(|| n - 1);
        assert!(store.cursors.advance("load", before, n).await.unwrap());
        say(&format!("cursor {n}"));
        store.ledger.put(&ledger_row(n), &lease).await.unwrap();
        say(&format!("ledger {n}"));
        let hour = SignedDuration::from_hours(1);
        store.memory.remember("request", &n.to_string(), hour, at(0)).await.unwrap();
        say(&format!("memory {n}"));
        store.quotas.reserve("c", DAY, u64::MAX, &n.to_string()).await.unwrap();
        say(&format!("quota {n}"));
        store.bundles.put(&format!("put/{n}"), n.to_string().as_bytes()).await.unwrap();
        say(&format!("put {n}"));
        let from = store.bundles.scratch().join("from");
        fs::write(&from, n.to_string()).unwrap();
        assert!(store.bundles.put_file(&format!("file/{n}"), &from).await.unwrap());
        say(&format!("file {n}"));
    }
}

fn ledger_row(n: i64) -> LedgerRow {
    LedgerRow {
        minute: Minute::from_unix_seconds(n * 60),
        state: MinuteState::Loading { bundle: format!("feed/{n}"), lines_done: n.unsigned_abs() },
        counts: Counts { records: n.unsigned_abs(), ..Counts::default() },
        updated: at(n),
    }
}

/// Another process, which is killed when this is dropped.
struct Other {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(role: &str, state: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store_local::child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(STATE, state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Returns the next line that the process prints; `None` when it has ended.
    fn hears(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|l| l.strip_prefix("> ").map(str::to_owned))
    }

    /// Kills the process with SIGKILL, and returns all that it printed until then.
    fn kill(&mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::iter::from_fn(|| self.hears()).collect()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_move_a_cursor_without_losing_a_step() {
    let (store, dir) = fresh().await.unwrap();
    let state = dir.path().join("state");
    let mut others = [Other::start("step", &state), Other::start("step", &state)];
    assert_eq!(step_a_cursor(store.clone(), 100).await, 100);
    for other in &mut others {
        assert_eq!(other.hears().unwrap(), "moved 100");
    }
    assert_eq!(store.cursors.read("steps").await.unwrap(), Some(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_a_quota_never_exceed_it() {
    let dir = tempfile::tempdir().unwrap();
    // All of them open the state at once, and one of them makes it.
    let state = dir.path().join("state");
    let mut others: Vec<_> = (0..4).map(|_| Other::start("reserve", &state)).collect();
    let mut granted = 0;
    for other in &mut others {
        let line = other.hears().unwrap();
        granted += line.strip_prefix("granted ").unwrap().parse::<u64>().unwrap();
    }
    assert_eq!(granted, 150);
    let usage = open(&state).unwrap().quotas.usage(DAY).await.unwrap();
    assert_eq!(usage[0].used, 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_free_at_once_when_its_owner_is_killed() {
    let (store, dir) = fresh().await.unwrap();
    let mut owner = Other::start("hold", &dir.path().join("state"));
    let fence: u64 = owner.hears().unwrap().strip_prefix("holds ").unwrap().parse().unwrap();
    assert_eq!(store.leases.holder("load", at(8)).await.unwrap(), Some(("test".to_owned(), at(0))));
    let grant = store.leases.acquire("load", "second", at(1)).await.unwrap();
    assert!(matches!(&grant, Grant::Held { owner, .. } if owner == "test"), "{grant:?}");
    owner.kill();
    assert_eq!(store.leases.holder("load", at(8)).await.unwrap(), None);
    assert!(acquire(&store, "load").await.fence > fence);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_lease_never_keeps_anybody_from_it() {
    let (store, _dir) = fresh().await.unwrap();
    drop(acquire(&store, "load").await);
    let looking = store.clone();
    let looks = tokio::spawn(async move {
        for _ in 0..200 {
            looking.leases.holder("load", at(8)).await.unwrap();
        }
    });
    while !looks.is_finished() {
        drop(acquire(&store, "load").await);
    }
    looks.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for (round, after) in [1, 6, 13, 60, 200].into_iter().enumerate() {
        let state = dir.path().join(round.to_string());
        let mut writer = Other::start("write", &state);
        let mut said: Vec<String> = (0..after).map(|_| writer.hears().unwrap()).collect();
        said.extend(writer.kill());

        let store = open(&state).unwrap();
        let cursor = store.cursors.read("load").await.unwrap().unwrap_or(0);
        // The kill may cut the last line, so an incomplete one is ignored.
        let complete = said.iter().filter_map(|line| line.split_once(' '));
        for (what, n) in complete.take(said.len().saturating_sub(1)) {
            let number: i64 = n.parse().unwrap();
            match what {
                "cursor" => assert!(cursor >= number),
                "ledger" => {
                    let row = ledger_row(number);
                    assert_eq!(store.ledger.get(row.minute).await.unwrap(), Some(row));
                }
                "memory" => assert!(store.memory.knows("request", n, at(1)).await.unwrap()),
                "quota" => assert_eq!(
                    store.quotas.reserve("c", DAY, 0, n).await.unwrap(),
                    Reservation::Already(ReservationStage::Reserved)
                ),
                "put" | "file" => {
                    let mut reader =
                        store.bundles.open(&format!("{what}/{n}")).await.unwrap().unwrap();
                    let mut text = String::new();
                    reader.read_to_string(&mut text).unwrap();
                    assert_eq!(text, n);
                }
                other => panic!("{other}"),
            }
        }
        drop(acquire(&store, "load").await);
        // Unfinished files of the process are gone, and nothing else.
        let scratch = store.bundles.scratch();
        assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
        assert_eq!(fs::read_dir(scratch.parent().unwrap()).unwrap().count(), 2);
    }
}

#[tokio::test]
async fn scratch_of_a_living_process_is_left_alone() {
    let (first, dir) = fresh().await.unwrap();
    let file = first.bundles.scratch().join("half");
    fs::write(&file, "x").unwrap();
    let second = open(&dir.path().join("state")).unwrap();
    assert!(file.exists());
    assert_ne!(first.bundles.scratch(), second.bundles.scratch());
    drop(first);
    let third = open(&dir.path().join("state")).unwrap();
    assert!(!file.exists());
    assert!(third.bundles.scratch().is_dir());
}

#[tokio::test]
async fn links_do_not_lead_out_of_the_directory() {
    let (store, dir) = fresh().await.unwrap();
    let bundles = dir.path().join("state/bundles");
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(&outside, bundles.join("folder")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), bundles.join("file")).unwrap();
    let from = store.bundles.scratch().join("from");

    for key in ["folder/secret", "file"] {
        assert!(store.bundles.open(key).await.unwrap().is_none(), "{key}");
        store.bundles.remove(key).await.unwrap();
        fs::write(&from, "x").unwrap();
        assert!(store.bundles.put_file(key, &from).await.is_err(), "{key}");
    }
    assert!(store.bundles.put("folder/new", b"x").await.is_err());
    for prefix in ["", "folder/", "f"] {
        assert!(store.bundles.list(prefix).await.unwrap().is_empty(), "{prefix}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    // The link itself is replaced, not what it points to.
    store.bundles.put("file", b"x").await.unwrap();
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    // A link in place of the file to put.
    fs::remove_file(&from).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), &from).unwrap();
    assert!(store.bundles.put_file("other", &from).await.is_err());
}

#[tokio::test]
async fn a_file_comes_in_from_another_file_system_too() {
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: there is no /dev/shm");
        return;
    };
    let (store, _dir) = fresh().await.unwrap();
    for (content, new) in [("first", true), ("second", false)] {
        let from = elsewhere.path().join("from");
        fs::write(&from, content).unwrap();
        assert_eq!(store.bundles.put_file("feed/1", &from).await.unwrap(), new);
        assert!(!from.exists());
        let mut text = String::new();
        store.bundles.open("feed/1").await.unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        assert_eq!(fs::read_dir(store.bundles.scratch()).unwrap().count(), 0);
    }
}

/// Closing a file drops every lock that the process holds on it, so the database must not be opened
/// beside SQLite: another process could then take the journal for abandoned.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_second_opening_in_one_process_keeps_the_locks_of_the_first() {
    use std::os::unix::fs::MetadataExt;

    let (first, dir) = fresh().await.unwrap();
    let state = dir.path().join("state");
    let database = format!(":{} ", fs::metadata(state.join("state.sqlite")).unwrap().ino());
    let process = format!(" {} ", std::process::id());
    let locked = || {
        // The list changes while it is read, so one look may miss a lock. A lock that was lost is missing in every
        // look.
        (0..100).any(|_| {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|lock| lock.contains(&database) && lock.contains(&process))
        })
    };
    assert!(locked(), "SQLite holds one for as long as it is open");
    let second = open(&state).unwrap();
    assert!(locked());
    drop(second);
    assert!(locked());
    first.cursors.advance("load", None, 1).await.unwrap();
}

#[tokio::test]
async fn nobody_else_can_read_the_state() {
    let (store, dir) = fresh().await.unwrap();
    let state = dir.path().join("state");
    store.cursors.advance("load", None, 1).await.unwrap();
    let _lease = acquire(&store, "load").await;
    store.bundles.put("rejects/feed/1.jsonl", b"x").await.unwrap();
    let from = dir.path().join("from");
    fs::write(&from, "x").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o644)).unwrap();
    store.bundles.put_file("feed/1.bz2", &from).await.unwrap();

    let mut seen = 0;
    let mut folders = vec![state];
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{}", entry.path().display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 6, "database, its two companions, locks, bundles: {seen}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for state in [file.join("below"), file.clone()] {
        let error = open(&state).unwrap_err();
        assert!(matches!(error, StoreError::StateDir { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("STATEDIR"), "{text}");
        assert!(text.contains(&state.display().to_string()), "{text}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_newer_schema_and_a_foreign_file_are_refused_and_left_alone() {
    let (store, dir) = fresh().await.unwrap();
    let state = dir.path().join("state");
    let database = state.join("state.sqlite");
    store.cursors.advance("load", None, 7).await.unwrap();
    drop(store);
    // The state opens again with its content.
    assert_eq!(open(&state).unwrap().cursors.read("load").await.unwrap(), Some(7));

    let raw = rusqlite::Connection::open(&database).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = open(&state).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("STATEDIR"), "{error}");
    let raw = rusqlite::Connection::open(&database).unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    raw.pragma_update(None, "application_id", 5).unwrap();
    drop(raw);
    let error = open(&state).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");

    fs::write(&database, "not a database, but long enough to be read as one: ".repeat(40)).unwrap();
    let error = open(&state).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert!(fs::read_to_string(&database).unwrap().starts_with("not a database"));
}

#[test]
fn the_position_of_the_go_plugin_is_read_and_nonsense_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v3_files");
    assert_eq!(go_plugin_position(&dir.path().join("none")).unwrap(), None);
    assert_eq!(go_plugin_position(dir.path()).unwrap(), None);
    for text in ["1795510620", "1795510620\n", " 1795510659\r\n"] {
        fs::write(&file, text).unwrap();
        let minute = go_plugin_position(dir.path()).unwrap().unwrap();
        assert_eq!(minute.to_string(), "202611240857", "{text:?}");
    }
    let long = "1".repeat(10_000);
    for text in ["", "x", "-5", "0", "1795510620000", "1795510620 1", "\u{0}", &long] {
        fs::write(&file, text).unwrap();
        let error = go_plugin_position(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    }
    fs::write(&file, b"\xff\xfe").unwrap();
    assert!(go_plugin_position(dir.path()).is_err());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(matches!(go_plugin_position(dir.path()), Err(StoreError::StateDir { .. })));
}

#[tokio::test]
async fn the_last_failures_are_the_last_ones_and_few_are_kept() {
    let (store, _dir) = fresh().await.unwrap();
    let mut item = Item {
        id: String::new(),
        body: "{}".into(),
        attempts: 0,
        lost: 0,
        since: at(0),
        outage: None,
        receipt: "1".into(),
    };
    let mut note = async |n: i64, id: String| {
        item.id = id;
        failures::note(&store, Queue::Query, &item, Subject::default(), "no", at(n)).await;
    };
    for n in 0..100 {
        note(n, format!("file-{n}")).await;
    }
    // An item that fails again is there once.
    note(100, "file-95".into()).await;
    let last = failures::last(&store, 10).await.unwrap();
    let ids: Vec<&str> = last.iter().map(|failure| failure.id.as_str()).collect();
    let expected = [95, 99, 98, 97, 96, 94, 93, 92, 91, 90].map(|n| format!("file-{n}"));
    assert_eq!(ids, expected);
    assert!(store.bundles.list("failures/").await.unwrap().len() <= 64);
}
