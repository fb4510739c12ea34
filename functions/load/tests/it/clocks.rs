//! Tests with a wrong clock, either the local one or that of a peer.

use azul_vt::{
    pipeline::RunLimits,
    store::{GapKind, MinuteState},
};
use jiff::{SignedDuration, Timestamp};
use load::{Load, NAME, Report, Trigger};
use sim::{Behaviour, Date, Unknown};

use crate::world::{NOW, World, cursor, gap, row};

/// The time of a clock that is twenty days ahead of [`NOW`].
const AHEAD: &str = "2026-12-14T10:05:30Z";
/// The time of a clock that is four hundred days behind [`NOW`].
const BEHIND: &str = "2025-10-20T10:05:30Z";
const FIRST: &str = "202611240900";
const LAST: &str = "202611240905";

fn right() -> Date {
    Date::At(NOW.parse().unwrap())
}

async fn tick(load: &Load) -> Report {
    load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_and_a_missing_minute_bury_nothing_and_pass_nothing() {
    let wrong = Date::At(AHEAD.parse().unwrap());
    for (virustotal, dispatcher) in [
        (right(), right()),
        // In these cases one peer agrees with the wrong clock, or sends no date.
        (right(), wrong),
        (right(), Date::Untold),
        (wrong, right()),
        (Date::Untold, right()),
    ] {
        let case = format!("VirusTotal {virustotal:?}, dispatcher {dispatcher:?}");
        let world = World::new().await;
        world.virustotal.behave(FIRST, &Behaviour::Missing, 1);
        world.virustotal.set_date(virustotal);
        world.dispatcher.set_date(dispatcher);
        let load = world.load_by(AHEAD, &[]).await;
        let report = tick(&load).await;
        // VirusTotal answers 404 for every minute after the last one, too.
        assert_eq!((report.loaded, report.missing, report.buried), (5, 1, 0), "{case}: {report:?}");
        assert_eq!(cursor(&load).await, LAST, "{case}");
        assert_eq!(gap(&load, FIRST).await.0, GapKind::Missing, "{case}");
        // By a clock that is right the gap is due at once, although its next try is in twenty days.
        let report = tick(&world.load_at(NOW, &[]).await).await;
        assert_eq!((report.loaded, report.buried), (1, 0), "{case}: {report:?}");
        let loaded = row(&load, FIRST).await.unwrap().state;
        assert_eq!(loaded, MinuteState::Loaded, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_date_the_feed_is_loaded_and_nothing_is_buried() {
    let world = World::new().await;
    world.virustotal.set_unknown(Unknown::NotAvailableYet);
    world.virustotal.behave(FIRST, &Behaviour::Missing, 1);
    world.tell(Date::Untold);
    let load = world.load_by(AHEAD, &[]).await;
    let report = tick(&load).await;
    assert_eq!((report.loaded, report.missing, report.buried), (5, 1, 0), "{report:?}");
    assert_eq!(cursor(&load).await, LAST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_waits_and_loses_nothing() {
    let world = World::new().await;
    world.tell(right());
    let load = world.load_by(BEHIND, &[]).await;
    let report = tick(&load).await;
    assert_eq!((report.loaded, report.missing, report.buried), (0, 0, 0), "{report:?}");
    assert_eq!(tick(&world.load_at(NOW, &[]).await).await.loaded, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_before_a_peer_confirms_the_clock() {
    const KEY: &str = "staged/feed/files/2026/01/01/0000-000000000000.bz2";
    let ahead = Timestamp::now() + SignedDuration::from_hours(20 * 24);
    let shared = Date::At(ahead);
    for (virustotal, dispatcher, is_kept) in [
        (Date::Now, Date::Now, true),
        (Date::Untold, Date::Untold, true),
        // The dispatcher runs on the same machine, and VirusTotal cannot be asked.
        (Date::Untold, shared, true),
        (shared, shared, false),
    ] {
        let world = World::new().await;
        world.virustotal.set_unknown(Unknown::NotAvailableYet);
        world.virustotal.set_date(virustotal);
        world.dispatcher.set_date(dispatcher);
        let load = world.load_by(&ahead.to_string(), &[]).await;
        load.store.bundles.put(KEY, b"bundle").await.unwrap();
        tick(&load).await;
        let is_there = load.store.bundles.read(KEY).await.unwrap().is_some();
        assert_eq!(is_there, is_kept, "VirusTotal {virustotal:?}, dispatcher {dispatcher:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_in_the_future_is_an_error_and_no_silence() {
    let world = World::new().await;
    let load = world.load_at(NOW, &[]).await;
    let ahead: Timestamp = AHEAD.parse().unwrap();
    let before = load.store.cursors.read(NAME).await.unwrap();
    assert!(load.store.cursors.advance(NAME, before, ahead.as_second()).await.unwrap());
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(azul_vt::errors::chain(&error).contains("202612141005"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_beyond_the_calendar_is_an_error_whatever_time_it_is() {
    let world = World::new().await;
    world.tell(Date::Untold);
    let load = world.load_by(NOW, &[]).await;
    let before = load.store.cursors.read(NAME).await.unwrap();
    assert!(load.store.cursors.advance(NAME, before, i64::MAX).await.unwrap());
    let error = load.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(azul_vt::errors::chain(&error).contains("which no feed has"), "{error}");
}
