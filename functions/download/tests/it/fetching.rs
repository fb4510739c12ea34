//! Tests the ways of fetching a sample, and their faults.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;
use sim::{Behaviour, Fault};

use azul_vt::{
    pipeline::RunLimits,
    tasks::{EventFunction as _, TasksError},
};

use crate::world::{Moved, World, drain, put};

const NOW: &str = "2026-11-24T09:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_link_costs_no_request_and_the_key_stays_behind() {
    let world = World::new().await;
    let request = world.with_link("%PDF-1.7 sample");
    let sha256 = request["entity"]["hash"].as_str().unwrap().to_owned();
    let download = world.download(&[("VT_REQUESTS_PER_DAY", "1")]);
    put(&download, [request]).await;
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(world.virustotal.links_asked(), std::slice::from_ref(&sha256));
    assert_eq!(world.virustotal.downloads_asked(), Vec::<String>::new());
    let stored = world.dispatcher.stream("virustotal", "content", &sha256).unwrap();
    assert_eq!(&*stored, b"%PDF-1.7 sample");
    let now = download.common().clock.now();
    let common = download.common();
    let used = common.store.budget.usage("virustotal", &common.settings.lookup.windows, now).await;
    assert_eq!(used.unwrap()[0].used, 0);
    assert_eq!(world.totals(now).await.api_charged, 0);
    world.is_sound();

    // The sample's event: its own features, streams and path, the request's source.
    let arrived = world.dispatcher.arrived();
    let sourced = arrived.of(sim::Model::Binary).next().unwrap();
    let event = &sourced.event;
    assert_eq!(sourced.action, "sourced");
    assert_eq!(event["source"]["references"], json!({"submitter_country": "AU"}));
    let path = event["source"]["path"].as_array().unwrap();
    assert_eq!(path.len(), 1);
    assert_eq!(path[0]["action"], "sourced");
    assert_eq!(path[0]["author"]["name"], "VirustotalDownload");
    assert_eq!(path[0]["file_format"], "document/pdf");
    let features = event["entity"]["features"].as_array().unwrap();
    let features: Vec<_> = features
        .iter()
        .map(|f| (f["name"].as_str().unwrap(), f["value"].as_str().unwrap()))
        .collect();
    assert_eq!(
        features,
        [
            ("file_format", "document/pdf"),
            ("file_extension", "pdf"),
            ("magic", "PDF document"),
            ("mime", "application/pdf"),
        ]
    );
    assert_eq!(event["entity"]["datastreams"][0]["label"], "content");
    assert_eq!(event["entity"]["size"], 15);
    assert_eq!(arrived.registrations().len(), 0, "that is what run does");
}

/// Returns faults of a direct link, each with a name.
fn broken_links() -> Vec<(&'static str, Behaviour)> {
    let to = |url: &str| Behaviour::RedirectTo(url.to_owned());
    vec![
        ("403", Behaviour::Forbidden),
        ("404", Behaviour::Missing),
        ("503", Behaviour::Transient(None)),
        ("wrong content", Behaviour::Bundle("something else".into())),
        ("a private address", to("https://10.0.0.1/x")),
        ("http", to("http://storage.googleapis.com/x")),
        ("a host that is not listed", to("https://files.example.com/x")),
        ("endless redirects", Behaviour::RedirectLoop),
        ("a redirect to nowhere", Behaviour::RedirectNowhere),
        ("empty", Behaviour::Content(Fault::EmptyBody)),
        ("cut off", Behaviour::Content(Fault::TruncateBody)),
        ("reset", Behaviour::Content(Fault::ResetInBody)),
        ("a flipped byte", Behaviour::Content(Fault::FlipByte)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_link_the_hash_is_asked_for() {
    for (what, behaviour) in broken_links() {
        let world = World::new().await;
        let request = world.with_link("MZ a sample");
        let sha256 = request["entity"]["hash"].as_str().unwrap().to_owned();
        world.virustotal.behave_link(&sha256, &behaviour, usize::MAX);
        let download = world.download(&[]);
        put(&download, [request]).await;
        assert_eq!(drain(&download).await.done, 1, "{what}");
        assert_eq!(world.told(), [("success".to_owned(), String::new())], "{what}");
        let asked = if what == "endless redirects" { 6 } else { 1 };
        assert_eq!(world.virustotal.links_asked().len(), asked, "{what}");
        assert_eq!(world.virustotal.downloads_asked(), std::slice::from_ref(&sha256), "{what}");
        assert_eq!(world.sourced(), std::slice::from_ref(&sha256), "{what}");
        let stored = world.dispatcher.stream("virustotal", "content", &sha256).unwrap();
        assert_eq!(&*stored, b"MZ a sample", "{what}");
        assert_eq!(world.dispatcher.streams().len(), 1, "{what}: nothing else is kept");
        let now = download.common().clock.now();
        assert_eq!(world.totals(now).await.api_charged, 1, "{what}");
        world.is_sound();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_direct_only_the_hash_is_never_asked_for() {
    for (what, behaviour) in broken_links() {
        let world = World::new().await;
        let clock = Moved::at(NOW);
        let request = world.with_link("MZ a sample");
        let sha256 = request["entity"]["hash"].as_str().unwrap().to_owned();
        world.virustotal.behave_link(&sha256, &behaviour, usize::MAX);
        let settings = [("DIRECT_ONLY", "1"), ("VT_MAX_ATTEMPTS", "2"), ("VT_GIVE_UP_HOURS", "1")];
        let download = world.download_on(&clock, &settings);
        put(&download, [request]).await;
        for _ in 0..16 {
            drain(&download).await;
            clock.on(SignedDuration::from_mins(5));
        }
        let told = world.told();
        let [(action, reason)] = told.as_slice() else { panic!("{what}: {told:?}") };
        assert_eq!(action, "failed", "{what}");
        assert!(reason.contains("DIRECT_ONLY"), "{what}: {reason}");
        assert_eq!(world.virustotal.downloads_asked(), Vec::<String>::new(), "{what}");
        assert_eq!(world.dispatcher.streams().len(), 0, "{what}");
        assert_eq!(world.totals(clock_now(&download)).await.total, 0, "{what}: its place is free");
    }
}

fn clock_now(download: &download::Download) -> jiff::Timestamp {
    download.common().clock.now()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_link_is_not_asked() {
    let world = World::new().await;
    let download = world.download_at(Moved::at(NOW), &[]);
    let mut expired = world.with_link("expired");
    expired["entity"]["direct_expiry"] = json!("2026-11-24T08:59:59Z");
    let mut lasting = world.with_link("lasting");
    lasting["entity"]["direct_expiry"] = json!("2026-11-24T09:00:01Z");
    let mut elsewhere = world.with_link("elsewhere");
    elsewhere["entity"]["direct_url"] = json!("https://169.254.169.254/latest/meta-data");
    // VirusTotal's own origin, and no link of the feed: nobody may choose what is asked for with the key.
    let mut api = world.with_link("api");
    let path = format!("/api/v3/files/{}/download", api["entity"]["hash"].as_str().unwrap());
    api["entity"]["direct_url"] = json!(format!("{}{path}", world.virustotal.url()));
    put(&download, [expired.clone(), lasting.clone(), elsewhere.clone(), api.clone()]).await;
    drain(&download).await;
    assert_eq!(world.actions(), ["success"; 4]);
    assert_eq!(world.totals(clock_now(&download)).await.api_charged, 3);
    assert_eq!(world.virustotal.links_asked(), [lasting["entity"]["hash"].as_str().unwrap()]);
    let mut by_hash = world.virustotal.downloads_asked();
    by_hash.sort();
    let mut wanted = [&expired, &elsewhere, &api].map(|e| e["entity"]["hash"].as_str().unwrap());
    wanted.sort_unstable();
    assert_eq!(by_hash, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_virustotal_does_not_have_or_give_fails_with_the_reason() {
    for (behaviour, version, action, word) in [
        (Behaviour::Missing, "6", "failed-not-found", "404"),
        (Behaviour::Missing, "5", "failed", "404"),
        (Behaviour::Forbidden, "6", "failed", "403"),
        (Behaviour::RedirectTo("https://10.0.0.1/x".into()), "6", "failed", "10.0.0.1"),
        (Behaviour::RedirectLoop, "6", "failed", "redirects more than 5 times"),
    ] {
        let world = World::new().await;
        let download = world.download(&[("AZUL_MODEL_VERSION", version)]);
        let request = world.by_hash("sample");
        let sha256 = request["entity"]["hash"].as_str().unwrap();
        world.virustotal.behave_download(sha256, &behaviour, usize::MAX);
        put(&download, [request]).await;
        assert_eq!(drain(&download).await.done, 1, "{behaviour:?}");
        let told = world.told();
        let [(told, reason)] = told.as_slice() else { panic!("{behaviour:?}: {told:?}") };
        assert_eq!(told, action, "{behaviour:?}");
        assert!(reason.contains(word), "{behaviour:?}: {reason}");
        assert_eq!(world.dispatcher.streams().len(), 0, "{behaviour:?}");
        assert_eq!(world.sourced(), Vec::<String>::new());
        assert_eq!(world.totals(clock_now(&download)).await.total, 0, "its place is free");
        world.is_sound();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_no_attempt_and_in_the_end_the_request_is_given_up() {
    for behaviour in
        [Behaviour::Transient(None), Behaviour::ServerError, Behaviour::Api(Fault::Reset)]
    {
        let world = World::new().await;
        let clock = Moved::at(NOW);
        let settings = [("VT_MAX_ATTEMPTS", "1"), ("VT_GIVE_UP_HOURS", "2")];
        let download = world.download_on(&clock, &settings);
        let passes = world.by_hash("passes");
        put(&download, [passes.clone()]).await;
        world.virustotal.behave_any_download(&behaviour, usize::MAX);
        for _ in 0..22 {
            drain(&download).await;
            clock.on(SignedDuration::from_mins(5));
        }
        assert_eq!(world.told(), [], "{behaviour:?}");
        world.virustotal.clear_for_content();
        clock.on(SignedDuration::from_mins(10));
        drain(&download).await;
        assert_eq!(world.actions(), ["success"], "{behaviour:?}");

        let stays = world.by_hash("stays");
        put(&download, [stays]).await;
        world.virustotal.behave_any_download(&behaviour, usize::MAX);
        for _ in 0..30 {
            drain(&download).await;
            clock.on(SignedDuration::from_mins(5));
        }
        assert_eq!(world.actions(), ["success", "failed"], "{behaviour:?}");
        assert_eq!(world.totals(clock_now(&download)).await.total, 1, "its place is free");
        let failures = azul_vt::store::failures::last(&world.store(), 10).await.unwrap();
        let [failure] = failures.as_slice() else { panic!("{failures:?}") };
        assert_eq!(failure.subject.category, "rules/one");
        assert!(failure.reason.contains("VirusTotal"), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_of_two_peers_are_not_one_outage() {
    let world = World::new().await;
    let clock = Moved::at(NOW);
    let download = world.download_on(&clock, &[("VT_GIVE_UP_HOURS", "2")]);
    put(&download, [world.by_hash("sample")]).await;
    world.virustotal.behave_any_download(&Behaviour::ServerError, usize::MAX);
    for _ in 0..20 {
        drain(&download).await;
        clock.on(SignedDuration::from_mins(5));
    }
    world.virustotal.clear_for_content();
    world.dispatcher.fail_uploads(&Fault::answer(503, ""), 1000);
    for _ in 0..15 {
        drain(&download).await;
        clock.on(SignedDuration::from_mins(5));
    }
    assert_eq!(world.told(), []);
    world.dispatcher.clear_faults();
    clock.on(SignedDuration::from_hours(1));
    drain(&download).await;
    assert_eq!(world.actions(), ["success"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_breaks_off_is_asked_for_again_and_in_the_end_reported() {
    for behaviour in [
        Behaviour::Content(Fault::TruncateBody),
        // The other cases are a proxy's login page, an empty body, and a gateway's own 404.
        Behaviour::Bundle("<html>Please log in</html>".into()),
        Behaviour::Content(Fault::EmptyBody),
        Behaviour::Api(Fault::answer(404, "<html>no such page</html>")),
    ] {
        let world = World::new().await;
        let clock = Moved::at(NOW);
        let download = world.download_on(&clock, &[("VT_MAX_ATTEMPTS", "3")]);
        let passes = world.by_hash("passes");
        let stays = world.by_hash("stays");
        for (request, times) in [(&passes, 2), (&stays, usize::MAX)] {
            let sha256 = request["entity"]["hash"].as_str().unwrap();
            world.virustotal.behave_download(sha256, &behaviour, times);
        }
        put(&download, [passes.clone(), stays]).await;
        for tried in 1..=3 {
            drain(&download).await;
            assert_eq!(world.told().len(), if tried < 3 { 0 } else { 2 }, "{behaviour:?}");
            clock.on(SignedDuration::from_mins(1));
        }
        let mut actions = world.actions();
        actions.sort();
        assert_eq!(actions, ["failed", "success"], "{behaviour:?}");
        assert_eq!(world.sourced(), [passes["entity"]["hash"].as_str().unwrap()]);
        assert_eq!(world.virustotal.downloads_asked().len(), 6, "{behaviour:?}");
        assert_eq!(world.totals(clock_now(&download)).await.total, 1, "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_answers_for_content_is_an_outage_and_no_attempt() {
    for behaviour in [
        Behaviour::Api(Fault::answer(200, "<html>Please log in</html>")),
        Behaviour::Api(Fault::answer(200, "")),
        Behaviour::Api(Fault::answer(404, "<html>no such page</html>")),
    ] {
        let world = World::new().await;
        let clock = Moved::at(NOW);
        let download = world.download_on(&clock, &[("VT_MAX_ATTEMPTS", "3")]);
        let requests = ["a", "b", "c", "d", "e", "f"].map(|content| world.by_hash(content));
        world.virustotal.behave_any_download(&behaviour, usize::MAX);
        put(&download, requests).await;
        for _ in 0..60 {
            drain(&download).await;
            clock.on(SignedDuration::from_mins(1));
        }
        assert_eq!(world.told(), [], "{behaviour:?}");
        world.virustotal.clear_for_content();
        for _ in 0..13 {
            drain(&download).await;
            clock.on(SignedDuration::from_mins(1));
        }
        assert_eq!(world.actions(), ["success"; 6], "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_of_virustotal_holds_what_needs_it_and_burns_nothing() {
    let world = World::new().await;
    let clock = Moved::at(NOW);
    let download = world.download_on(&clock, &[("VT_MAX_ATTEMPTS", "1"), ("WORKERS", "1")]);
    world.virustotal.behave_any_download(&Behaviour::TooManyRequests(Some(600)), usize::MAX);
    put(&download, [world.by_hash("one"), world.by_hash("two"), world.with_link("three")]).await;
    for _ in 0..5 {
        drain(&download).await;
        clock.on(SignedDuration::from_mins(1));
    }
    assert_eq!(world.actions(), ["success"], "the link needs none");
    assert_eq!(world.virustotal.downloads_asked().len(), 1, "nobody asked again");
    assert_eq!(world.waiting(&*clock).await.waiting, 2);
    world.virustotal.clear_for_content();
    clock.on(SignedDuration::from_mins(10));
    drain(&download).await;
    assert_eq!(world.actions(), ["success"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_count_stops_the_work_and_loses_nothing() {
    let world = World::new().await;
    let download = world.download(&[]);
    world.virustotal.behave_any_download(&Behaviour::Unauthorized, usize::MAX);
    put(&download, [world.by_hash("one"), world.by_hash("two")]).await;
    let error = download.drain(false, &RunLimits::default()).await.unwrap_err();
    assert!(matches!(&error, TasksError::Stopped(why) if why.contains("VIRUSTOTAL_APIKEY")));
    world.virustotal.clear_for_content();
    drain(&download).await;
    assert_eq!(world.actions(), ["success"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_drip_arrives_and_what_stands_still_is_left_at_the_deadline() {
    let world = World::new().await;
    let request = world.by_hash(&"drip ".repeat(1000));
    let sha256 = request["entity"]["hash"].as_str().unwrap().to_owned();
    let drip = Behaviour::Content(Fault::Trickle { ms: 50 });
    world.virustotal.behave_download(&sha256, &Behaviour::Content(Fault::HangInBody), 1);
    world.virustotal.behave_download(&sha256, &drip, 1);
    let download = world.download(&[]);
    put(&download, [request]).await;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(300);
    let drained = download.drain(false, &RunLimits::until(deadline)).await.unwrap();
    assert_eq!((drained.done, drained.again), (0, 1));
    assert_eq!(world.told(), []);
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    let stored = world.dispatcher.stream("virustotal", "content", &sha256).unwrap();
    assert_eq!(stored.len(), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_is_too_large_is_not_taken_whatever_it_says_of_its_size() {
    let world = World::new().await;
    let download = world.download(&[("MAX_DOWNLOAD_SIZE_MB", "1")]);
    let content = "x".repeat(1024 * 1024 + 1);
    let (linked, by_hash) = (world.with_link(&content), world.by_hash(&format!("y{content}")));
    // The content comes in pieces, and its length is not announced.
    let silent = Behaviour::Content(Fault::Trickle { ms: 1 });
    world.virustotal.behave_link(linked["entity"]["hash"].as_str().unwrap(), &silent, 1);
    let fits = world.by_hash(&"z".repeat(1024 * 1024));
    put(&download, [linked, by_hash, fits]).await;
    drain(&download).await;
    let mut told = world.told();
    told.sort();
    let [(a, why), (b, same), (c, _)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!([a, b, c], ["failed", "failed", "success"]);
    assert!(why.contains("MAX_DOWNLOAD_SIZE_MB") && same == why, "{told:?}");
    assert_eq!(world.dispatcher.streams().len(), 1);
}
