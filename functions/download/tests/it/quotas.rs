//! Daily quotas of categories.

use azul_vt::{
    store::{QuotaUsage, totals::utc_day},
    tasks::EventFunction as _,
};
use jiff::{SignedDuration, civil::date};
use serde_json::{Value, json};
use sim::Behaviour;

use crate::world::{Moved, World, drain, put};

const NOW: &str = "2026-11-24T23:59:00Z";

fn with_quota(mut request: Value, category: &str, quota: i64) -> Value {
    request["entity"]["category"] = json!(category);
    request["entity"]["category_quota"] = json!(quota);
    request
}

fn used(category: &str, used: u64) -> QuotaUsage {
    QuotaUsage { category: category.to_owned(), used }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_skips_silently_or_says_so() {
    for (says, expected) in [("0", vec![]), ("1", vec!["failed"])] {
        let world = World::new().await;
        let download = world.download(&[("QUOTA_REJECT_EVENTS", says), ("WORKERS", "1")]);
        put(&download, [with_quota(world.by_hash("one"), "rules/a", 1)]).await;
        drain(&download).await;
        put(&download, [with_quota(world.by_hash("two"), "rules/a", 1)]).await;
        assert_eq!(drain(&download).await.done, 1);
        put(&download, [with_quota(world.by_hash("three"), "rules/b", 1)]).await;
        drain(&download).await;
        let mut actions = world.actions();
        actions.sort();
        assert_eq!(actions, [expected, vec!["success"; 2]].concat());
        for (action, reason) in world.told() {
            assert!(action == "success" || reason.contains("1 of 1 today"), "{reason}");
        }
        assert_eq!(world.virustotal.downloads_asked().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_category_or_a_quota_there_is_no_limit() {
    let world = World::new().await;
    let download = world.download(&[]);
    let requests = (0..6).map(|n| {
        let (category, quota) = [("", 1), ("rules/a", 0), ("rules/a", -1)][n % 3];
        with_quota(world.by_hash(&format!("sample {n}")), category, quota)
    });
    put(&download, requests).await;
    drain(&download).await;
    assert_eq!(world.actions(), ["success"; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_download_gives_its_place_to_the_next() {
    let world = World::new().await;
    let download = world.download(&[("WORKERS", "1")]);
    let missing = with_quota(world.by_hash("missing"), "rules/a", 1);
    let sha256 = missing["entity"]["hash"].as_str().unwrap();
    world.virustotal.behave_download(sha256, &Behaviour::Missing, 1);
    put(&download, [missing]).await;
    drain(&download).await;
    put(&download, [with_quota(world.by_hash("there"), "rules/a", 1)]).await;
    drain(&download).await;
    assert_eq!(world.actions(), ["failed-not-found", "success"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_place_that_may_be_given_back() {
    let world = World::new().await;
    let clock = Moved::at(NOW);
    let download = world.download_on(&clock, &[("WORKERS", "1"), ("VT_MAX_ATTEMPTS", "2")]);
    let fails = with_quota(world.by_hash("fails"), "rules/a", 1);
    let sha256 = fails["entity"]["hash"].as_str().unwrap();
    world.virustotal.behave_download(sha256, &Behaviour::Transient(None), 1);
    world.virustotal.behave_download(sha256, &Behaviour::Missing, 1);
    put(&download, [fails]).await;
    drain(&download).await;
    put(&download, [with_quota(world.by_hash("waits"), "rules/a", 1)]).await;
    drain(&download).await;
    assert_eq!(world.waiting(&*clock).await.waiting, 2);
    clock.on(SignedDuration::from_secs(20));
    while world.waiting(&*clock).await.waiting > 0 {
        drain(&download).await;
        clock.on(SignedDuration::from_secs(20));
    }
    assert_eq!(world.actions(), ["failed-not-found", "success"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_others_count_once_on_their_own_day() {
    let world = World::new().await;
    let clock = Moved::at(NOW);
    let download = world.download_on(&clock, &[]);
    let success = |key: &str, time: &str| {
        let mut event = with_quota(world.by_hash("elsewhere"), "rules/a", 2);
        event["action"] = json!("success");
        event["author"]["name"] = json!("SomebodyElse");
        event["kafka_key"] = json!(key);
        event["timestamp"] = json!(time);
        event
    };
    let today = success("key-1", "2026-11-24T10:00:00Z");
    let yesterday = success("key-2", "2026-11-23T23:59:59.999Z");
    put(&download, [today.clone(), yesterday]).await;
    drain(&download).await;
    // The same event is handed out or posted again.
    put(&download, [today]).await;
    drain(&download).await;
    assert_eq!(world.totals(NOW.parse().unwrap()).await.categories, [used("rules/a", 1)]);
    let before = world.store().quotas.usage(date(2026, 11, 23)).await.unwrap();
    assert_eq!(before, [used("rules/a", 1)]);
    let requests = ["one", "two"].map(|name| with_quota(world.by_hash(name), "rules/a", 2));
    put(&download, requests).await;
    drain(&download).await;
    assert_eq!(world.actions(), ["success"], "one place was left");

    // The day turns: all places are free, and the old day's late success is the old day's.
    clock.on(SignedDuration::from_mins(2));
    let requests =
        ["three", "four", "five"].map(|name| with_quota(world.by_hash(name), "rules/a", 2));
    put(&download, requests).await;
    put(&download, [success("key-3", "2026-11-24T23:59:59Z")]).await;
    drain(&download).await;
    assert_eq!(world.actions(), ["success"; 3]);
    assert_eq!(utc_day(clock_now(&download)), date(2026, 11, 25));
    assert_eq!(world.totals(clock_now(&download)).await.categories, [used("rules/a", 2)]);
    assert_eq!(world.totals(NOW.parse().unwrap()).await.categories, [used("rules/a", 3)]);
}

fn clock_now(download: &download::Download) -> jiff::Timestamp {
    download.common().clock.now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_stays_of_its_day_over_midnight() {
    let world = World::new().await;
    let clock = Moved::at(NOW);
    let download = world.download_on(&clock, &[]);
    let request = with_quota(world.by_hash("sample"), "rules/a", 1);
    let sha256 = request["entity"]["hash"].as_str().unwrap().to_owned();
    world.virustotal.behave_download(&sha256, &Behaviour::Transient(None), 1);
    put(&download, [request]).await;
    drain(&download).await;
    clock.on(SignedDuration::from_mins(2));
    drain(&download).await;
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(world.totals(clock_now(&download)).await.total, 0);
    assert_eq!(world.totals(NOW.parse().unwrap()).await.categories, [used("rules/a", 1)]);
}
