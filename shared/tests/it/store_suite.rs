//! Tests of what every implementation of the state promises. Each case takes a fresh, empty store; [`store_suite!`]
//! runs all cases on one implementation.

use std::{future::Future, io::Read, sync::Arc};

use azul_vt::{
    minute::Minute,
    store::{
        Counts, GapKind, Grant, Lease, LedgerRow, LedgerTotals, MinuteState, Reservation,
        ReservationStage, Store, StoreError,
        budget::{Permit, Window},
        rejects::{Reject, RejectStage, Rejects},
    },
};
use jiff::{SignedDuration, Timestamp, civil::date};
use tokio::task::JoinSet;

/// Makes a test of each case. `$fresh` is a function that returns a future of a store and of something to keep alive
/// while it is used; `None` if this machine cannot run the implementation.
macro_rules! store_suite {
    ($fresh:path) => {
        $crate::store_suite::store_suite!($fresh:
            a_file_that_is_put_keeps_its_content_for_good
            of_many_who_put_a_file_one_wins
            a_large_file_comes_back_whole_and_is_never_overwritten
            small_content_replaces_what_was_there
            listing_is_by_prefix_and_in_order
            removing_leaves_nothing_and_hinders_nobody
            keys_that_lead_elsewhere_are_refused
            rejects_are_kept_by_batch_and_a_repeat_replaces_them
            rejects_reach_no_other_objects
            a_quota_grants_its_limit_once_an_id_to_sixteen_clients_that_ask_twice
        );
        $crate::store_suite::store_suite!(@table $fresh);
    };
    // The cases of a table, without the longest one.
    (@table $fresh:path) => {
        $crate::store_suite::store_suite!($fresh:
            a_cursor_moves_only_from_where_it_is_expected_and_only_forward
            eight_tasks_move_a_cursor_without_losing_a_step
            a_lease_excludes_until_it_is_given_back_and_its_fence_grows
            of_many_who_ask_for_a_lease_one_gets_it
            leases_of_other_names_do_not_hinder
            a_lease_that_was_taken_over_can_neither_write_nor_be_renewed
            a_lease_whose_owner_is_silent_for_a_minute_is_taken_and_the_owner_writes_no_more
            the_ledger_gives_back_every_state_as_it_was_put
            the_ledger_lists_ranges_gaps_and_totals
            pruning_the_ledger_forgets_nothing_that_is_open_or_new
            totals_follow_rows_that_are_written_again
            workers_under_leases_of_their_own_write_one_ledger
            many_rows_at_once_are_all_written
            memory_lasts_for_its_time_and_no_longer
            memory_of_many_ids_answers_for_each
            one_of_many_who_remember_the_same_is_first
            a_quota_knows_its_ids_and_its_places_come_back
            the_same_id_from_many_tasks_takes_one_place
            stages_only_go_forward
            a_budget_grants_no_more_than_its_limit_in_any_window
            a_budget_of_several_windows_keeps_all_of_them
            eight_askers_never_exceed_a_budget
            what_a_clock_wrote_that_was_ahead_does_not_count
        );
    };
    ($fresh:path: $($case:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                let Some((store, _alive)) = $fresh().await else { return };
                $crate::store_suite::$case(&store).await;
            }
        )+
    };
}
pub(crate) use store_suite;

/// Returns the time `seconds` after 2026-11-24T08:57:00.123456789Z.
pub(crate) fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-11-24T08:57:00.123456789Z".parse().unwrap();
    start + SignedDuration::from_secs(seconds)
}

pub(crate) async fn acquire(store: &Store, name: &str) -> Lease {
    match store.leases.acquire(name, "test", at(0)).await.unwrap() {
        Grant::Acquired(lease) => lease,
        held @ Grant::Held { .. } => panic!("{held:?}"),
    }
}

/// Runs `work` in `n` tasks at once and returns their results.
pub(crate) async fn at_once<T, F>(n: usize, work: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks: JoinSet<T> = (0..n).map(work).collect();
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.unwrap());
    }
    results
}

pub(crate) async fn a_cursor_moves_only_from_where_it_is_expected_and_only_forward(store: &Store) {
    let cursors = &store.cursors;
    assert_eq!(cursors.read("load").await.unwrap(), None);
    assert!(!cursors.advance("load", Some(0), 60).await.unwrap(), "there is none yet");
    assert!(cursors.advance("load", None, 60).await.unwrap());
    assert!(!cursors.advance("load", None, 120).await.unwrap(), "there is one already");
    assert!(!cursors.advance("load", Some(0), 120).await.unwrap());
    assert!(!cursors.advance("load", Some(60), 60).await.unwrap());
    assert!(!cursors.advance("load", Some(60), 0).await.unwrap());
    assert_eq!(cursors.read("load").await.unwrap(), Some(60));
    assert!(cursors.advance("load", Some(60), 120).await.unwrap());
    assert_eq!(cursors.read("load").await.unwrap(), Some(120));
    assert_eq!(cursors.read("hunt").await.unwrap(), None);
}

pub(crate) async fn eight_tasks_move_a_cursor_without_losing_a_step(store: &Store) {
    let moved = at_once(8, |_| step_a_cursor(store.clone(), 25)).await;
    assert!(moved.iter().all(|m| *m == 25));
    assert_eq!(store.cursors.read("steps").await.unwrap(), Some(8 * 25));
}

/// Moves the cursor `steps` on by one, until this succeeded `times` times. Returns how often it succeeded.
pub(crate) async fn step_a_cursor(store: Store, times: u64) -> u64 {
    let mut moved = 0;
    while moved < times {
        let position = store.cursors.read("steps").await.unwrap();
        let next = position.unwrap_or(0) + 1;
        if store.cursors.advance("steps", position, next).await.unwrap() {
            moved += 1;
        }
        assert!(store.cursors.read("steps").await.unwrap() >= Some(next), "it went backwards");
    }
    moved
}

pub(crate) async fn a_lease_excludes_until_it_is_given_back_and_its_fence_grows(store: &Store) {
    let leases = &store.leases;
    assert_eq!(leases.holder("load", at(8)).await.unwrap(), None);
    let Grant::Acquired(first) = leases.acquire("load", "first", at(0)).await.unwrap() else {
        panic!("it is free");
    };
    assert_eq!((first.name.as_str(), first.owner.as_str()), ("load", "first"));
    assert_eq!(leases.holder("load", at(8)).await.unwrap(), Some(("first".into(), at(0))));
    match leases.acquire("load", "second", at(5)).await.unwrap() {
        Grant::Held { owner, since } => assert_eq!((owner.as_str(), since), ("first", at(0))),
        Grant::Acquired(lease) => panic!("{lease:?}"),
    }
    leases.renew(&first, at(6)).await.unwrap();
    let fence = first.fence;
    leases.release(first).await.unwrap();
    assert_eq!(leases.holder("load", at(8)).await.unwrap(), None);
    let Grant::Acquired(second) = leases.acquire("load", "second", at(7)).await.unwrap() else {
        panic!("it was given back");
    };
    assert!(second.fence > fence);
    assert_eq!(leases.holder("load", at(8)).await.unwrap(), Some(("second".into(), at(7))));
}

pub(crate) async fn of_many_who_ask_for_a_lease_one_gets_it(store: &Store) {
    let grants = at_once(16, |n| {
        let store = store.clone();
        async move { store.leases.acquire("load", &format!("task {n}"), at(0)).await.unwrap() }
    })
    .await;
    let winners: Vec<_> = grants
        .iter()
        .filter_map(|g| if let Grant::Acquired(lease) = g { Some(&lease.owner) } else { None })
        .collect();
    assert_eq!(winners.len(), 1, "{grants:?}");
    for grant in &grants {
        if let Grant::Held { owner, .. } = grant {
            assert_eq!(owner, winners[0]);
        }
    }
}

pub(crate) async fn leases_of_other_names_do_not_hinder(store: &Store) {
    let _load = acquire(store, "load").await;
    let _hunt = acquire(store, "hunt").await;
    let bad = store.leases.acquire("../load", "test", at(0)).await;
    assert!(matches!(bad, Err(StoreError::BadName { .. })), "{bad:?}");
}

pub(crate) async fn a_lease_that_was_taken_over_can_neither_write_nor_be_renewed(store: &Store) {
    let mut old = acquire(store, "load").await;
    let minute: Minute = "202611240857".parse().unwrap();
    let mut row = LedgerRow {
        minute,
        state: MinuteState::Planned,
        counts: Counts::default(),
        updated: at(0),
    };
    store.ledger.put(&row, &old).await.unwrap();
    // A lease of an owner that was thought dead: it has the number, but no right any more.
    let stale = Lease {
        name: old.name.clone(),
        owner: old.owner.clone(),
        fence: old.fence,
        guard: old.guard.take(),
    };
    store.leases.release(stale).await.unwrap();
    let new = acquire(store, "load").await;
    row.state = MinuteState::Loaded;
    let lost = store.ledger.put(&row, &old).await;
    assert!(matches!(&lost, Err(StoreError::LeaseLost { name }) if name == "load"), "{lost:?}");
    let lost = store.leases.renew(&old, at(1)).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })), "{lost:?}");
    assert_eq!(store.ledger.get(minute).await.unwrap().unwrap().state, MinuteState::Planned);
    // Giving back a lost lease does not take it from the new owner.
    store.leases.release(old).await.unwrap();
    assert!(matches!(
        store.leases.acquire("load", "third", at(2)).await.unwrap(),
        Grant::Held { .. }
    ));
    store.ledger.put(&row, &new).await.unwrap();
    assert_eq!(store.ledger.get(minute).await.unwrap(), Some(row));
}

pub(crate) async fn a_lease_whose_owner_is_silent_for_a_minute_is_taken_and_the_owner_writes_no_more(
    store: &Store,
) {
    let mut silent = acquire(store, "load").await;
    store.leases.renew(&silent, at(19)).await.unwrap();
    let early = store.leases.acquire("load", "second", at(78)).await.unwrap();
    assert!(matches!(early, Grant::Held { .. }), "{early:?}");
    // If the system reports an owner's death, no time needs to pass.
    silent.guard = None;
    let taken = store.leases.acquire("load", "second", at(79)).await.unwrap();
    let Grant::Acquired(second) = taken else { panic!("{taken:?}") };
    assert!(second.fence > silent.fence);
    let minute: Minute = "202611240857".parse().unwrap();
    let row = LedgerRow {
        minute,
        state: MinuteState::Loaded,
        counts: Counts::default(),
        updated: at(80),
    };
    let lost = store.ledger.put(&row, &silent).await;
    assert!(matches!(&lost, Err(StoreError::LeaseLost { name }) if name == "load"), "{lost:?}");
    let lost = store.ledger.put_all(std::slice::from_ref(&row), &silent).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })), "{lost:?}");
    let lost = store.leases.renew(&silent, at(81)).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })), "{lost:?}");
    assert_eq!(store.ledger.get(minute).await.unwrap(), None);
    store.ledger.put(&row, &second).await.unwrap();
    assert_eq!(store.leases.holder("load", at(82)).await.unwrap(), Some(("second".into(), at(79))));
}

fn states() -> Vec<MinuteState> {
    let gap = |kind, next: i64| MinuteState::Gap {
        kind,
        reason: "404 \u{1f4a5} 'quoted'".into(),
        attempts: 3,
        next_try: at(next),
    };
    vec![
        MinuteState::Planned,
        MinuteState::Loading { bundle: "feed/2026/11/24/0858-0.bz2".into(), lines_done: 1234 },
        MinuteState::Loaded,
        gap(GapKind::Missing, 600),
        gap(GapKind::Failed, 60),
        gap(GapKind::Missing, 3600),
        MinuteState::Buried { reason: "too old".into() },
    ]
}

async fn fill_ledger(store: &Store) -> Vec<LedgerRow> {
    let lease = acquire(store, "load").await;
    let first: Minute = "202611240857".parse().unwrap();
    let mut rows = Vec::new();
    for (n, state) in (0_u32..).zip(states()) {
        let counts = Counts {
            records: 10 + u64::from(n),
            delivered: 5,
            filtered: 3,
            rejected: 2,
            requests: 1,
            bad_values: u64::from(u32::MAX),
            replaced_utf8: 7 * u64::from(n),
        };
        let minute = first.plus(i64::from(n));
        rows.push(LedgerRow { minute, state, counts, updated: at(i64::from(n)) });
    }
    // The rows are not put in order of time, so the order that is read back is the ledger's own.
    for row in rows.iter().rev() {
        store.ledger.put(row, &lease).await.unwrap();
    }
    store.leases.release(lease).await.unwrap();
    rows
}

pub(crate) async fn the_ledger_gives_back_every_state_as_it_was_put(store: &Store) {
    let rows = fill_ledger(store).await;
    for row in &rows {
        assert_eq!(store.ledger.get(row.minute).await.unwrap().as_ref(), Some(row));
    }
    assert_eq!(store.ledger.get(rows[0].minute.plus(-1)).await.unwrap(), None);
    // All rows are written in one call, and none of them if the lease is lost.
    let old = acquire(store, "load").await;
    let stale =
        Lease { name: old.name.clone(), owner: String::new(), fence: old.fence, guard: None };
    store.ledger.put_all(&rows, &old).await.unwrap();
    assert_eq!(store.ledger.range(rows[0].minute, rows[6].minute.next()).await.unwrap(), rows);
    store.ledger.put_all(&[], &old).await.unwrap();
    store.leases.release(old).await.unwrap();
    store.leases.release(acquire(store, "load").await).await.unwrap();
    let lost = store.ledger.put_all(&rows, &stale).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })), "{lost:?}");
    // A later state leaves nothing of an earlier one.
    let lease = acquire(store, "load").await;
    for before in &rows {
        for state in states() {
            let after = LedgerRow { state, ..before.clone() };
            store.ledger.put(&after, &lease).await.unwrap();
            assert_eq!(store.ledger.get(before.minute).await.unwrap(), Some(after));
        }
    }
}

pub(crate) async fn the_ledger_lists_ranges_gaps_and_totals(store: &Store) {
    let ledger = &store.ledger;
    assert_eq!(ledger.totals().await.unwrap(), LedgerTotals::default());
    let rows = fill_ledger(store).await;
    let minute = |n: usize| rows[n].minute;

    let range = ledger.range(minute(1), minute(4)).await.unwrap();
    assert_eq!(range, rows[1..4], "from is in it, to is not");
    assert!(ledger.range(minute(4), minute(1)).await.unwrap().is_empty());
    assert_eq!(ledger.range(minute(0).plus(-9), minute(6).plus(9)).await.unwrap(), rows);

    assert_eq!(ledger.gaps(10).await.unwrap(), rows[3..6]);
    assert_eq!(ledger.gaps(2).await.unwrap(), rows[3..5]);
    assert!(ledger.gaps(0).await.unwrap().is_empty());

    let unfinished = async |seconds, limit| {
        let rows = ledger.unfinished(at(seconds), limit).await.unwrap();
        rows.iter().map(|row| row.minute.since(minute(0))).collect::<Vec<_>>()
    };
    assert_eq!(unfinished(59, 10).await, [0, 1], "planned and in mid load");
    assert_eq!(unfinished(60, 10).await, [0, 1, 4]);
    assert_eq!(unfinished(600, 10).await, [0, 1, 3, 4]);
    assert_eq!(unfinished(600, 3).await, [0, 1, 3]);
    assert_eq!(unfinished(9999, 10).await, [0, 1, 3, 4, 5]);
    assert_eq!(ledger.unfinished(at(60), 10).await.unwrap()[2], rows[4]);

    let mut counts = Counts::default();
    for row in &rows {
        counts.add(row.counts);
    }
    let expected = LedgerTotals { planned: 1, loading: 1, loaded: 1, gaps: 3, buried: 1, counts };
    assert_eq!(ledger.totals().await.unwrap(), expected);
}

pub(crate) async fn totals_follow_rows_that_are_written_again(store: &Store) {
    let lease = acquire(store, "load").await;
    let minute: Minute = "202611242359".parse().unwrap();
    let buried = MinuteState::Buried { reason: "too old".into() };
    for (n, state) in [
        MinuteState::Planned,
        MinuteState::Loaded,
        MinuteState::Loaded,
        MinuteState::Loading { bundle: "feed/a".into(), lines_done: 3 },
        MinuteState::Loaded,
        buried.clone(),
        MinuteState::Loaded,
    ]
    .into_iter()
    .enumerate()
    {
        // Another minute, on the next day, stays as it is.
        let other = LedgerRow {
            minute: minute.next(),
            state: buried.clone(),
            counts: Counts { filtered: 7, ..Counts::default() },
            updated: at(0),
        };
        let records = [5, 100, 90, 40, 80, 0, 70].get(n).copied().unwrap();
        let counts = Counts { records, delivered: records / 2, ..Counts::default() };
        let row = LedgerRow { minute, state, counts, updated: at(1) };
        store.ledger.put_all(&[row.clone(), other.clone()], &lease).await.unwrap();
        let mut expected = LedgerTotals { buried: 1, ..LedgerTotals::default() };
        match row.state {
            MinuteState::Planned => expected.planned += 1,
            MinuteState::Loading { .. } => expected.loading += 1,
            MinuteState::Loaded => expected.loaded += 1,
            MinuteState::Gap { .. } => expected.gaps += 1,
            MinuteState::Buried { .. } => expected.buried += 1,
        }
        expected.counts = counts;
        expected.counts.add(other.counts);
        assert_eq!(store.ledger.totals().await.unwrap(), expected, "{n}");
        let open = matches!(row.state, MinuteState::Planned | MinuteState::Loading { .. });
        let unfinished = store.ledger.unfinished(at(1), 10).await.unwrap();
        assert_eq!(unfinished, if open { vec![row.clone()] } else { vec![] });
        assert_eq!(store.ledger.range(minute, minute.plus(2)).await.unwrap(), [row, other]);
    }
}

pub(crate) async fn workers_under_leases_of_their_own_write_one_ledger(store: &Store) {
    let first: Minute = "202611240800".parse().unwrap();
    at_once(8, |worker| {
        let store = store.clone();
        async move {
            let lease = acquire(&store, &format!("load-{worker}")).await;
            for n in 0..5_u32 {
                let minute = first.plus(i64::from(n) * 8 + i64::try_from(worker).unwrap());
                let bundle = format!("feed/{minute}");
                for state in [
                    MinuteState::Planned,
                    MinuteState::Loading { bundle: bundle.clone(), lines_done: 1 },
                    MinuteState::Loading { bundle, lines_done: 2 },
                    MinuteState::Loaded,
                ] {
                    let counts =
                        Counts { records: 10, requests: u64::from(n), ..Counts::default() };
                    let row = LedgerRow { minute, state, counts, updated: at(0) };
                    store.ledger.put(&row, &lease).await.unwrap();
                }
            }
            store.leases.release(lease).await.unwrap();
        }
    })
    .await;
    let counts = Counts { records: 400, requests: 80, ..Counts::default() };
    let expected = LedgerTotals { loaded: 40, counts, ..LedgerTotals::default() };
    assert_eq!(store.ledger.totals().await.unwrap(), expected);
    let rows = store.ledger.range(first, first.plus(40)).await.unwrap();
    assert_eq!(rows.len(), 40);
    assert!(rows.iter().all(|row| row.state == MinuteState::Loaded));
    assert!(store.ledger.unfinished(at(0), 10).await.unwrap().is_empty());
}

pub(crate) async fn many_rows_at_once_are_all_written(store: &Store) {
    let lease = acquire(store, "load").await;
    // The rows cross the end of a month and of a year, and are more than a transaction takes.
    let first: Minute = "202612312300".parse().unwrap();
    let row = |n: i64| LedgerRow {
        minute: first.plus(n),
        state: MinuteState::Gap {
            kind: GapKind::Missing,
            reason: "404".into(),
            attempts: 1,
            next_try: at(n),
        },
        counts: Counts::default(),
        updated: at(0),
    };
    let rows: Vec<_> = (0..150).map(row).collect();
    store.ledger.put_all(&rows, &lease).await.unwrap();
    assert_eq!(store.ledger.range(first, first.plus(150)).await.unwrap(), rows);
    assert_eq!(store.ledger.gaps(1000).await.unwrap(), rows);
    assert_eq!(store.ledger.gaps(120).await.unwrap(), rows[..120]);
    assert_eq!(store.ledger.unfinished(at(110), 1000).await.unwrap(), rows[..111]);
    assert_eq!(store.ledger.unfinished(at(149), 2).await.unwrap(), rows[..2]);
    let buried = |row: &LedgerRow| LedgerRow {
        state: MinuteState::Buried { reason: "too old".into() },
        ..row.clone()
    };
    let after: Vec<_> = rows.iter().map(buried).collect();
    store.ledger.put_all(&after, &lease).await.unwrap();
    assert!(store.ledger.gaps(1).await.unwrap().is_empty());
    assert_eq!(store.ledger.totals().await.unwrap().buried, 150);
    assert_eq!(store.ledger.range(first, first.plus(150)).await.unwrap(), after);
}

pub(crate) async fn pruning_the_ledger_forgets_nothing_that_is_open_or_new(store: &Store) {
    let rows = fill_ledger(store).await;
    let settled =
        |row: &LedgerRow| matches!(row.state, MinuteState::Loaded | MinuteState::Buried { .. });
    let all = async || store.ledger.range(rows[0].minute, rows[6].minute.next()).await.unwrap();
    // The row of `before` itself, and what is open, stays.
    let before = rows.iter().position(settled).unwrap();
    store.ledger.prune(rows[before].minute).await.unwrap();
    assert_eq!(all().await, rows);
    store.ledger.prune(rows[6].minute.next()).await.unwrap();
    // Implementations whose rows expire by themselves forget nothing here.
    let open: Vec<_> = all().await.into_iter().filter(|row| !settled(row)).collect();
    let expected: Vec<_> = rows.iter().filter(|row| !settled(row)).cloned().collect();
    assert_eq!(open, expected);
}

pub(crate) async fn memory_lasts_for_its_time_and_no_longer(store: &Store) {
    let memory = &store.memory;
    let hour = SignedDuration::from_hours(1);
    assert!(!memory.knows("request", "a", at(0)).await.unwrap());
    assert!(memory.remember("request", "a", hour, at(0)).await.unwrap());
    assert!(!memory.remember("request", "a", hour, at(10)).await.unwrap());
    assert!(!memory.knows("webhook", "a", at(0)).await.unwrap(), "another kind");
    assert!(memory.knows("request", "a", at(3599)).await.unwrap());
    assert!(!memory.knows("request", "a", at(3600)).await.unwrap());
    assert!(memory.remember("request", "a", hour, at(3600)).await.unwrap());
    assert!(memory.knows("request", "a", at(7199)).await.unwrap());
    // Expired ids may be removed, others may not.
    for n in 0..300_i64 {
        assert!(memory.remember("request", &format!("b{n}"), hour, at(7200 + n)).await.unwrap());
    }
    assert!(!memory.knows("request", "a", at(7499)).await.unwrap());
    for n in 0..300 {
        assert!(memory.knows("request", &format!("b{n}"), at(7499)).await.unwrap());
    }
    let forever = SignedDuration::MAX;
    assert!(memory.remember("request", "c", forever, at(0)).await.unwrap());
    assert!(memory.knows("request", "c", at(1_000_000_000)).await.unwrap());
}

pub(crate) async fn memory_of_many_ids_answers_for_each(store: &Store) {
    let memory = &store.memory;
    let ids = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let hour = SignedDuration::from_hours(1);
    let new = memory.remember_all("request", &ids("a b a"), hour, at(0)).await.unwrap();
    assert_eq!(new, [true, true, false]);
    let new = memory.remember_all("request", &ids("c b d"), hour, at(1)).await.unwrap();
    assert_eq!(new, [true, false, true]);
    assert!(memory.remember_all("request", &[], hour, at(1)).await.unwrap().is_empty());
    // The ids are more than one write takes. Some are known, and one is long.
    let mut many: Vec<String> = (0..250).map(|n| format!("m{n}")).collect();
    many[7] = "é".repeat(2000);
    let known = [many[7].clone(), many[60].clone(), many[249].clone()];
    memory.remember_all("request", &known, hour, at(1)).await.unwrap();
    let new = memory.remember_all("request", &many, hour, at(2)).await.unwrap();
    let known = |n: &usize| [7, 60, 249].contains(n);
    assert_eq!(new, (0..250).map(|n| !known(&n)).collect::<Vec<_>>());
    assert!(memory.knows("request", &many[7], at(2)).await.unwrap());
    assert!(!memory.knows("request", &"é".repeat(2001), at(2)).await.unwrap());
}

pub(crate) async fn one_of_many_who_remember_the_same_is_first(store: &Store) {
    let firsts = at_once(16, |_| {
        let memory = Arc::clone(&store.memory);
        async move {
            memory.remember("webhook", "x", SignedDuration::from_hours(1), at(0)).await.unwrap()
        }
    })
    .await;
    assert_eq!(firsts.iter().filter(|first| **first).count(), 1);
}

const CATEGORY: &str = "rules.yaml/first";

pub(crate) async fn a_quota_grants_its_limit_once_an_id_to_sixteen_clients_that_ask_twice(
    store: &Store,
) {
    race_for_a_quota(store, 200, 1000).await;
}

/// Lets sixteen clients reserve places, each twice for each of its `ids` ids.
pub(crate) async fn race_for_a_quota(store: &Store, ids: usize, limit: u64) {
    let day = date(2026, 11, 24);
    let granted: Vec<u64> = at_once(16, |client: usize| {
        let quotas = Arc::clone(&store.quotas);
        async move {
            let mut granted = 0;
            for n in 0..ids {
                let id = format!("{client}/{n}");
                let first = quotas.reserve(CATEGORY, day, limit, &id).await.unwrap();
                let second = quotas.reserve(CATEGORY, day, limit, &id).await.unwrap();
                match first {
                    Reservation::Granted => {
                        granted += 1;
                        assert_eq!(second, Reservation::Already(ReservationStage::Reserved));
                    }
                    full @ Reservation::Full { used } => assert_eq!((used, second), (limit, full)),
                    already @ Reservation::Already(_) => panic!("{already:?}"),
                }
            }
            granted
        }
    })
    .await;
    assert_eq!(granted.iter().sum::<u64>(), limit);
    let usage = store.quotas.usage(day).await.unwrap();
    assert_eq!((usage.len(), usage[0].used), (1, limit));
}

pub(crate) async fn a_quota_knows_its_ids_and_its_places_come_back(store: &Store) {
    let quotas = &store.quotas;
    let (day, next) = (date(2026, 12, 31), date(2027, 1, 1));
    let reserve = |category, day, id| quotas.reserve(category, day, 2, id);
    assert_eq!(reserve(CATEGORY, day, "a").await.unwrap(), Reservation::Granted);
    assert_eq!(reserve(CATEGORY, day, "b").await.unwrap(), Reservation::Granted);
    assert_eq!(reserve(CATEGORY, day, "c").await.unwrap(), Reservation::Full { used: 2 });
    let again = reserve(CATEGORY, day, "a").await.unwrap();
    assert_eq!(again, Reservation::Already(ReservationStage::Reserved), "full or not");
    assert_eq!(reserve(CATEGORY, next, "a").await.unwrap(), Reservation::Granted);
    assert_eq!(reserve("other", day, "a").await.unwrap(), Reservation::Granted);
    let none = quotas.reserve("none", day, 0, "a").await.unwrap();
    assert_eq!(none, Reservation::Full { used: 0 });

    assert!(quotas.release(CATEGORY, day, "a").await.unwrap());
    assert!(!quotas.release(CATEGORY, day, "a").await.unwrap(), "once only");
    assert!(!quotas.release(CATEGORY, day, "z").await.unwrap());
    assert_eq!(reserve(CATEGORY, day, "c").await.unwrap(), Reservation::Granted);
    assert_eq!(reserve(CATEGORY, day, "a").await.unwrap(), Reservation::Full { used: 2 });

    let usage: Vec<_> =
        quotas.usage(day).await.unwrap().into_iter().map(|u| (u.category, u.used)).collect();
    assert_eq!(usage, [("other".to_owned(), 1), (CATEGORY.to_owned(), 2)]);
    assert!(quotas.usage(date(2026, 1, 1)).await.unwrap().is_empty());

    // These long names differ only at their ends.
    let long = |end: char| "é".repeat(1500) + &end.to_string();
    for end in ['b', 'a'] {
        for id in ["1", &long('1'), &long('2')] {
            let reserved = quotas.reserve(&long(end), next, 2, id).await.unwrap();
            let full = id == long('2');
            assert_eq!(full, reserved == Reservation::Full { used: 2 }, "{reserved:?}");
        }
    }
    let usage: Vec<_> = quotas.usage(next).await.unwrap().into_iter().map(|u| u.category).collect();
    assert_eq!(usage, [CATEGORY.to_owned(), long('a'), long('b')]);
}

pub(crate) async fn the_same_id_from_many_tasks_takes_one_place(store: &Store) {
    let day = date(2026, 11, 24);
    let answers = at_once(16, |_| {
        let quotas = Arc::clone(&store.quotas);
        async move { quotas.reserve(CATEGORY, day, 5, "a").await.unwrap() }
    })
    .await;
    assert_eq!(answers.iter().filter(|a| **a == Reservation::Granted).count(), 1);
    assert_eq!(store.quotas.usage(day).await.unwrap()[0].used, 1);
    let back = at_once(16, |_| {
        let quotas = Arc::clone(&store.quotas);
        async move { quotas.release(CATEGORY, day, "a").await.unwrap() }
    })
    .await;
    assert_eq!(back.iter().filter(|b| **b).count(), 1);
    assert!(store.quotas.usage(day).await.unwrap().is_empty());
}

pub(crate) async fn stages_only_go_forward(store: &Store) {
    let quotas = &store.quotas;
    let day = date(2026, 11, 24);
    assert!(!quotas.set_stage(CATEGORY, day, "a", ReservationStage::Stored).await.unwrap());
    quotas.reserve(CATEGORY, day, 1, "a").await.unwrap();
    for (set, then) in [
        (ReservationStage::Stored, ReservationStage::Stored),
        (ReservationStage::Reserved, ReservationStage::Stored),
        (ReservationStage::Reported, ReservationStage::Reported),
        (ReservationStage::Sourced, ReservationStage::Reported),
    ] {
        assert!(quotas.set_stage(CATEGORY, day, "a", set).await.unwrap());
        let now = quotas.reserve(CATEGORY, day, 1, "a").await.unwrap();
        assert_eq!(now, Reservation::Already(then));
        let settled = quotas.settled(CATEGORY, day).await.unwrap();
        assert_eq!(settled, u64::from(then >= ReservationStage::Sourced), "{then:?}");
    }
    assert_eq!(quotas.settled("other", day).await.unwrap(), 0);
    assert_eq!(quotas.settled(CATEGORY, date(2026, 11, 25)).await.unwrap(), 0);
}

async fn content(store: &Store, key: &str) -> Option<Vec<u8>> {
    let mut reader = store.bundles.open(key).await.unwrap()?;
    // Reading blocks, so it runs on another thread.
    let read = move || {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map(|_| content)
    };
    Some(tokio::task::spawn_blocking(read).await.unwrap().unwrap())
}

async fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store.bundles.list(prefix).await.unwrap().into_iter().map(|b| b.key).collect()
}

pub(crate) async fn a_file_that_is_put_keeps_its_content_for_good(store: &Store) {
    let bundles = &store.bundles;
    let key = "feed/2026/11/24/0857-0123456789ab.bz2";
    assert!(bundles.open(key).await.unwrap().is_none());
    let first = bundles.scratch().join("first");
    std::fs::write(&first, "first").unwrap();
    assert!(bundles.put_file(key, &first).await.unwrap());
    assert!(!first.exists());
    // The file comes from another directory, as a posted file may.
    let elsewhere = tempfile::tempdir().unwrap();
    let second = elsewhere.path().join("second");
    std::fs::write(&second, "second").unwrap();
    assert!(!bundles.put_file(key, &second).await.unwrap());
    assert!(!second.exists());
    assert_eq!(content(store, key).await.unwrap(), b"first");
    let gone = bundles.put_file("feed/other", &second).await;
    assert!(matches!(gone, Err(StoreError::Unavailable { .. })), "{gone:?}");
    assert!(bundles.open("feed/other").await.unwrap().is_none());
    let listed = bundles.list("").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].key.as_str(), listed[0].size), (key, 5));
}

pub(crate) async fn of_many_who_put_a_file_one_wins(store: &Store) {
    let answers = at_once(16, |n| {
        let bundles = Arc::clone(&store.bundles);
        async move {
            let from = bundles.scratch().join(format!("file {n}"));
            std::fs::write(&from, n.to_string()).unwrap();
            (bundles.put_file("posted/abc", &from).await.unwrap(), n)
        }
    })
    .await;
    let winners: Vec<_> = answers.iter().filter(|(won, _)| *won).map(|(_, n)| n).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(content(store, "posted/abc").await.unwrap(), winners[0].to_string().as_bytes());
}

/// Returns content as large as a minute of the feed, in which no two parts are alike.
pub(crate) fn large() -> Vec<u8> {
    (0..30 * 1024 * 1024 / 8).flat_map(|n: u64| (n * n).to_le_bytes()).collect()
}

pub(crate) async fn a_large_file_comes_back_whole_and_is_never_overwritten(store: &Store) {
    let (bundles, large) = (&store.bundles, large());
    let from = bundles.scratch().join("large");
    std::fs::write(&from, &large).unwrap();
    assert!(bundles.put_file("staged/large", &from).await.unwrap());
    assert!(!from.exists());
    std::fs::write(&from, &large[1..]).unwrap();
    assert!(!bundles.put_file("staged/large", &from).await.unwrap());
    assert!(!from.exists());
    assert!(content(store, "staged/large").await.unwrap() == large, "another content");
    assert_eq!(bundles.list("staged/").await.unwrap()[0].size, large.len() as u64);
    // A reader that stops after the start leaves nothing behind that hinders others.
    let mut reader = bundles.open("staged/large").await.unwrap().unwrap();
    let start = tokio::task::spawn_blocking(move || {
        let mut start = [0; 64];
        reader.read_exact(&mut start).map(|()| start)
    });
    assert_eq!(start.await.unwrap().unwrap(), large[..64]);
    bundles.remove("staged/large").await.unwrap();
    assert!(content(store, "staged/large").await.is_none());
}

pub(crate) async fn small_content_replaces_what_was_there(store: &Store) {
    store.bundles.put("rejects/a.jsonl", b"first and longer").await.unwrap();
    store.bundles.put("rejects/a.jsonl", b"second").await.unwrap();
    assert_eq!(content(store, "rejects/a.jsonl").await.unwrap(), b"second");
    store.bundles.put("empty", b"").await.unwrap();
    assert_eq!(content(store, "empty").await.unwrap(), b"");
    let contents: Vec<Vec<u8>> = (0..16_u8).map(|n| vec![n; 100_000]).collect();
    at_once(16, |n| {
        let (bundles, content) = (Arc::clone(&store.bundles), contents[n].clone());
        async move { bundles.put("raced", &content).await.unwrap() }
    })
    .await;
    let whole = content(store, "raced").await.unwrap();
    assert!(contents.contains(&whole), "a mixture of two");
}

pub(crate) async fn listing_is_by_prefix_and_in_order(store: &Store) {
    for key in ["b/2", "b/10", "b-1", "b/1/x", "a", "bb/1", "b/1.jsonl"] {
        store.bundles.put(key, key.as_bytes()).await.unwrap();
    }
    assert_eq!(keys(store, "").await, ["a", "b-1", "b/1.jsonl", "b/1/x", "b/10", "b/2", "bb/1"]);
    assert_eq!(keys(store, "b/").await, ["b/1.jsonl", "b/1/x", "b/10", "b/2"]);
    assert_eq!(keys(store, "b/1").await, ["b/1.jsonl", "b/1/x", "b/10"]);
    assert_eq!(keys(store, "b/1/").await, ["b/1/x"]);
    assert_eq!(keys(store, "b").await, ["b-1", "b/1.jsonl", "b/1/x", "b/10", "b/2", "bb/1"]);
    assert!(keys(store, "c").await.is_empty());
    assert!(keys(store, "a/").await.is_empty());
    assert!(keys(store, "b/1/x/y").await.is_empty());
}

pub(crate) async fn removing_leaves_nothing_and_hinders_nobody(store: &Store) {
    let bundles = &store.bundles;
    bundles.remove("never/was").await.unwrap();
    bundles.put("posted/abc/1", b"1").await.unwrap();
    bundles.remove("posted/abc").await.unwrap();
    bundles.remove("posted/abc/1/2").await.unwrap();
    assert_eq!(keys(store, "").await, ["posted/abc/1"], "a folder is no key");
    bundles.remove("posted/abc/1").await.unwrap();
    assert!(bundles.open("posted/abc/1").await.unwrap().is_none());
    assert!(keys(store, "").await.is_empty());
    // Putting an object is not disturbed by a concurrent removal.
    at_once(8, |n| {
        let bundles = Arc::clone(bundles);
        async move {
            for round in 0..25 {
                let key = format!("deep/folder/{n}");
                if round % 2 == 0 {
                    bundles.put(&key, b"x").await.unwrap();
                } else {
                    let from = bundles.scratch().join(format!("from {n}"));
                    std::fs::write(&from, "x").unwrap();
                    assert!(bundles.put_file(&key, &from).await.unwrap());
                }
                bundles.remove(&key).await.unwrap();
            }
        }
    })
    .await;
    assert!(keys(store, "").await.is_empty());
}

pub(crate) async fn keys_that_lead_elsewhere_are_refused(store: &Store) {
    let from = store.bundles.scratch().join("from");
    std::fs::write(&from, "x").unwrap();
    let (long, long_segment) = ("a/".repeat(600) + "a", "a".repeat(256));
    for key in [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../a",
        "a/../b",
        "a/..",
        ".",
        "a/./b",
        "a//b",
        "a/",
        "//",
        ".scratch/0/a",
        "a/.b",
        "a\0b",
        "a\nb",
        "a\\b",
        &long,
        &long_segment,
    ] {
        let refused = [
            store.bundles.put_file(key, &from).await.map(drop),
            store.bundles.put(key, b"x").await,
            store.bundles.open(key).await.map(drop),
            store.bundles.remove(key).await,
        ];
        for answer in refused {
            assert!(matches!(answer, Err(StoreError::BadName { .. })), "{key:?}: {answer:?}");
        }
    }
    for prefix in ["/", "..", "../", "a/../", "a//", "//", ".scratch/", "\0"] {
        let refused = store.bundles.list(prefix).await;
        assert!(matches!(refused, Err(StoreError::BadName { .. })), "{prefix:?}: {refused:?}");
    }
    assert!(from.exists());
    let fits = format!("{}/é ü+%2e~", "a".repeat(255));
    store.bundles.put(&fits, b"x").await.unwrap();
    assert_eq!(keys(store, "").await, [fits]);
}

pub(crate) async fn rejects_are_kept_by_batch_and_a_repeat_replaces_them(store: &Store) {
    let rejects = Rejects::new(Arc::clone(&store.bundles));
    let origin = "feed/202611240857";
    let reject = |line, record: &[u8]| {
        Reject::new(origin, line, RejectStage::Record, "no identity", record, at(0))
    };
    assert!(rejects.list().await.unwrap().is_empty());
    let first = [reject(3, b"{}"), reject(7, b"\xff\n\0")];
    rejects.write(origin, 1, &first).await.unwrap();
    rejects.write(origin, 1000, &[reject(1001, b"[]")]).await.unwrap();
    rejects.write("posted/00ff", 1, &[reject(1, b"1")]).await.unwrap();
    store.bundles.put("rejects/feed/202611240857/bundle.bz2", b"raw").await.unwrap();
    let listed: Vec<_> = rejects.list().await.unwrap().into_iter().map(|b| b.key).collect();
    let expected = [
        "rejects/feed/202611240857/000000000001.jsonl",
        "rejects/feed/202611240857/000000001000.jsonl",
        "rejects/posted/00ff/000000000001.jsonl",
    ];
    assert_eq!(listed, expected);
    let read = rejects.read(&listed[0]).await.unwrap().unwrap();
    assert_eq!(read, first);
    assert_eq!(read[1].bytes().unwrap(), b"\xff\n\0");

    rejects.write(origin, 1, &first[1..]).await.unwrap();
    assert_eq!(rejects.read(&listed[0]).await.unwrap().unwrap(), first[1..]);
    rejects.write(origin, 1, &[]).await.unwrap();
    assert_eq!(rejects.read(&listed[0]).await.unwrap(), None);
    rejects.remove(&listed[1]).await.unwrap();
    rejects.remove(&listed[1]).await.unwrap();
    assert_eq!(rejects.list().await.unwrap().len(), 1);
}

pub(crate) async fn rejects_reach_no_other_objects(store: &Store) {
    let rejects = Rejects::new(Arc::clone(&store.bundles));
    store.bundles.put("feed/a.jsonl", b"{}").await.unwrap();
    store.bundles.put("rejects/bad.jsonl", b"{}\n").await.unwrap();
    for key in ["feed/a.jsonl", "rejects/../feed/a.jsonl", "rejects/bad", ""] {
        let refused = rejects.read(key).await;
        assert!(matches!(refused, Err(StoreError::BadName { .. })), "{key}: {refused:?}");
        let refused = rejects.remove(key).await;
        assert!(matches!(refused, Err(StoreError::BadName { .. })), "{key}: {refused:?}");
    }
    let refused = rejects.write("../feed", 1, &[]).await;
    assert!(matches!(refused, Err(StoreError::BadName { .. })), "{refused:?}");
    let damaged = rejects.read("rejects/bad.jsonl").await;
    assert!(
        matches!(&damaged, Err(StoreError::Damaged { what, .. }) if what == "line 1 of rejects/bad.jsonl"),
        "{damaged:?}"
    );
    assert!(content(store, "feed/a.jsonl").await.is_some());
}

fn window(name: &'static str, seconds: i64, limit: u32) -> Window {
    Window { name, length: SignedDuration::from_secs(seconds), limit }
}

pub(crate) async fn a_budget_grants_no_more_than_its_limit_in_any_window(store: &Store) {
    let windows = [window("minute", 60, 4)];
    let ask = async |seconds| store.budget.ask("vt", &windows, at(seconds)).await.unwrap();
    for seconds in [0, 10, 20, 20] {
        assert_eq!(ask(seconds).await, Permit::Granted);
    }
    let Permit::Wait(wait) = ask(30).await else { panic!() };
    assert_eq!(wait, SignedDuration::from_millis(30_250));
    // A clock that goes back makes no room.
    assert!(matches!(ask(-100).await, Permit::Wait(_)));
    assert!(matches!(ask(60).await, Permit::Wait(_)), "the margin");
    assert_eq!(ask(61).await, Permit::Granted);
    assert!(matches!(ask(62).await, Permit::Wait(_)));
    let usage = store.budget.usage("vt", &windows, at(62)).await.unwrap();
    assert_eq!(usage.first().map(|usage| usage.used), Some(4));
    assert_eq!(store.budget.ask("other", &windows, at(62)).await.unwrap(), Permit::Granted);
    assert_eq!(store.budget.ask("vt", &[], at(62)).await.unwrap(), Permit::Granted);
    let never = [window("minute", 60, 0)];
    assert!(matches!(store.budget.ask("no", &never, at(0)).await.unwrap(), Permit::Wait(_)));
}

pub(crate) async fn a_budget_of_several_windows_keeps_all_of_them(store: &Store) {
    let windows = [window("minute", 60, 2), window("day", 86_400, 3)];
    let ask = async |seconds| store.budget.ask("vt", &windows, at(seconds)).await.unwrap();
    assert_eq!(ask(0).await, Permit::Granted);
    assert_eq!(ask(1).await, Permit::Granted);
    assert!(matches!(ask(2).await, Permit::Wait(wait) if wait < SignedDuration::from_secs(60)));
    assert_eq!(ask(70).await, Permit::Granted);
    assert!(matches!(ask(200).await, Permit::Wait(wait) if wait > SignedDuration::from_hours(23)));
    assert_eq!(ask(86_402).await, Permit::Granted);
}

pub(crate) async fn eight_askers_never_exceed_a_budget(store: &Store) {
    let ask = |second| {
        at_once(8, move |_| {
            let store = store.clone();
            async move {
                let windows = [window("minute", 10, 5)];
                let answer = store.budget.ask("vt", &windows, at(second)).await.unwrap();
                u64::from(answer == Permit::Granted)
            }
        })
    };
    let mut granted = Vec::new();
    for second in 0..24 {
        granted.push(ask(second).await.iter().sum::<u64>());
    }
    // All permitted requests are granted as soon as they may be: 10 seconds and the margin apart.
    let expected: Vec<u64> = (0..24).map(|n| if n % 11 == 0 { 5 } else { 0 }).collect();
    assert_eq!(granted, expected);
}

pub(crate) async fn what_a_clock_wrote_that_was_ahead_does_not_count(store: &Store) {
    let ahead = at(400 * 86_400);
    let hour = SignedDuration::from_hours(1);
    let memory = &store.memory;
    assert!(memory.remember("pause", "a", hour, ahead).await.unwrap());
    assert!(!memory.knows("pause", "a", at(0)).await.unwrap());
    assert!(memory.remember("pause", "a", hour, at(0)).await.unwrap());
    assert!(memory.knows("pause", "a", at(1)).await.unwrap());

    let windows = [window("minute", 60, 1)];
    assert_eq!(store.budget.ask("vt", &windows, ahead).await.unwrap(), Permit::Granted);
    assert_eq!(store.budget.ask("vt", &windows, at(0)).await.unwrap(), Permit::Granted);
    let Permit::Wait(wait) = store.budget.ask("vt", &windows, at(1)).await.unwrap() else {
        panic!("the grant of the right clock counts")
    };
    assert!(wait < SignedDuration::from_secs(61), "{wait:?}");
    let usage = store.budget.usage("vt", &windows, at(1)).await.unwrap();
    assert_eq!(usage.first().map(|usage| usage.used), Some(1));

    let lease = acquire(store, "load").await;
    let gap = |next_try| MinuteState::Gap {
        kind: GapKind::Missing,
        reason: "404".to_owned(),
        attempts: 1,
        next_try,
    };
    let put = async |minute: i64, state, updated| {
        let minute = Minute::of(at(0)).plus(minute);
        let row = LedgerRow { minute, state, counts: Counts::default(), updated };
        store.ledger.put(&row, &lease).await.unwrap();
        minute
    };
    let wrong = put(0, gap(ahead + hour), ahead).await;
    put(1, gap(at(600)), at(0)).await;
    let due = store.ledger.unfinished(at(1), 10).await.unwrap();
    assert_eq!(due.iter().map(|row| row.minute).collect::<Vec<_>>(), [wrong]);
}
