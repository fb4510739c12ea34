//! Tests the answers that VirusTotal and the dispatcher may give.

use std::time::Duration;

use azul_vt::pipeline::RunLimits;
use hunt::{HuntError, Trigger};
use jiff::Timestamp;
use serde_json::json;
use sim::{Behaviour, Date, Fault, Hit};
use tokio::time::Instant;

use crate::world::{NOW, World, run};

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_asked_for_again() {
    for behaviour in [
        Behaviour::Transient(None),
        Behaviour::ServerError,
        Behaviour::Api(Fault::Reset),
        Behaviour::Api(Fault::TruncateBody),
    ] {
        let world = World::new().await;
        world.hits(60, 2);
        world.virustotal.behave_hunting(&behaviour, 2);
        let report = run(&world.hunt(&[])).await;
        assert_eq!(report.delivered, 60, "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_hunt_ends_the_run_and_says_so() {
    for (behaviour, word) in [(Behaviour::Unauthorized, "401"), (Behaviour::Forbidden, "403")] {
        let world = World::new().await;
        world.hits(3, 2);
        world.virustotal.behave_hunting(&behaviour, usize::MAX);
        let error = world.hunt(&[]).run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
        assert!(matches!(error, HuntError::VirusTotal(_)));
        assert!(azul_vt::errors::chain(&error).contains(word), "{error:?}");
        assert_eq!(world.position().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_pauses_the_run_and_loses_nothing() {
    let world = World::new().await;
    world.hits(3, 2);
    world.virustotal.behave_hunting(&Behaviour::TooManyRequests(Some(600)), 1);
    let hunt = world.hunt(&[]);
    let limits = RunLimits::until(Instant::now() + Duration::from_millis(500));
    let report = hunt.run(&Trigger::Tick, &limits).await.unwrap();
    assert!(report.paused && report.delivered == 0, "{report:?}");
    let asked = world.virustotal.hunting_asked().len();
    world.clock.on(jiff::SignedDuration::from_mins(11));
    assert_eq!(run(&hunt).await.delivered, 3);
    assert_eq!(asked, 1, "nobody asked meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_long_ends_the_run_and_frees_its_lease() {
    for behaviour in [
        Behaviour::TooManyRequests(Some(99_999_999_999)),
        Behaviour::Transient(Some(99_999_999_999)),
        Behaviour::Transient(Some(u64::MAX)),
    ] {
        let world = World::new().await;
        world.hits(3, 2);
        world.virustotal.behave_hunting(&behaviour, 1);
        let hunt = world.hunt(&[]);
        for _ in 0..2 {
            let report = run(&hunt).await;
            assert!(report.paused && report.held_by.is_none(), "{report:?}");
            assert_eq!(report.delivered, 0, "{behaviour:?}");
        }
        assert_eq!(world.virustotal.hunting_asked().len(), 1, "{behaviour:?}");
        world.clock.on(jiff::SignedDuration::from_mins(6));
        assert_eq!(run(&hunt).await.delivered, 3, "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_repeats_ends_the_run() {
    let world = World::new().await;
    world.hits(60, 2);
    world.virustotal.repeat_cursor(true);
    let error = world.hunt(&[]).run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(matches!(error, HuntError::RepeatedPage), "{error:?}");
    assert_eq!((world.mapped().len(), world.position().await), (40, None));
    world.virustotal.repeat_cursor(false);
    assert_eq!(run(&world.hunt(&[])).await.delivered, 20);
}

/// Lets the next run read `pages` pages and then meet `behaviour`. The first request of a run is for the rulesets and
/// succeeds.
fn then(world: &World, pages: usize, behaviour: &Behaviour) {
    let normal = Behaviour::Api(Fault::Delay { ms: 1 });
    world.virustotal.behave_hunting(&normal, 1 + pages);
    world.virustotal.behave_hunting(behaviour, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_read_ends_the_run_and_the_position_stays_before_it() {
    for page in ["<html>login</html>", r#"{"data":{"id":1}}"#, r#"{"data":[]"#, "{}", "[]"] {
        for api in ["ioc_stream", "legacy"] {
            let world = World::new().await;
            world.hits(100, 60);
            then(&world, 1, &Behaviour::Bundle(page.into()));
            let hunt = world.hunt(&[("HUNT_API", api)]);
            let error = hunt.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
            let said = azul_vt::errors::chain(&error);
            assert!(said.contains("not a page of objects"), "{page} {said}");
            let position = world.position().await;
            assert!(position.is_none_or(|at| at <= NOW - 61 * 60), "{page} {api} {position:?}");
            assert_eq!(run(&hunt).await.delivered, 60, "{page} {api}");
            assert_eq!(world.position().await, Some(NOW - 60), "{page} {api}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_other_objects_is_not_the_end_of_the_legacy_interface() {
    for odd in [json!({"type": "url", "id": "u"}), json!(7)] {
        let world = World::new().await;
        for n in 0..15 {
            world.virustotal.hit(Hit::file(n, NOW - 9000 + i64::try_from(n).unwrap(), "rule"));
        }
        for n in 0..80 {
            world.virustotal.malformed_hit(odd.clone(), NOW - 5000 + n);
        }
        world.virustotal.hit(Hit::file(99, NOW - 60, "rule"));
        let report = run(&world.hunt(&[("HUNT_API", "legacy")])).await;
        assert_eq!(report.delivered, 16, "{odd} {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_waits_for_the_end_where_the_newest_come_first() {
    let world = World::new().await;
    world.hits(100, 600);
    world.virustotal.ignore_order(true);
    then(&world, 1, &Behaviour::Unauthorized);
    let hunt = world.hunt(&[]);
    hunt.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert_eq!((world.mapped().len(), world.position().await), (40, None));
    world.virustotal.ignore_order(false);
    assert_eq!(run(&hunt).await.delivered, 60);
    assert_eq!(world.position().await, Some(NOW - 600));
    // A server that never keeps the order loses no notification either.
    let world = World::new().await;
    world.hits(100, 600);
    world.virustotal.ignore_order(true);
    assert_eq!(run(&world.hunt(&[])).await.delivered, 100);
    assert_eq!(world.position().await, Some(NOW - 600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_the_future_is_an_error_and_no_silence() {
    let world = World::new().await;
    world.hits(3, 60);
    let cursors = world.store().cursors;
    assert!(cursors.advance("hunt", None, NOW + 20 * 86_400).await.unwrap());
    // While no peer confirms the local clock, it may be the local clock that is wrong.
    run(&world.hunt(&[])).await;
    world.dispatcher.set_date(Date::At(Timestamp::from_second(NOW).unwrap()));
    let error = world.hunt(&[]).run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(azul_vt::errors::chain(&error).contains("which is to come"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_without_an_end_end_the_run() {
    let world = World::new().await;
    let hunt = world.hunt(&[]);
    then(&world, 0, &Behaviour::Bundle(r#"{"data":[]}"#.into()));
    run(&hunt).await;
    for n in 0..25 {
        let page = format!(r#"{{"data":[],"meta":{{"cursor":"c{n}"}}}}"#);
        world.virustotal.behave_hunting(&Behaviour::Bundle(page.into()), 1);
    }
    let error = hunt.run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    assert!(matches!(error, HuntError::EndlessPages { empty: 20, .. }), "{error:?}");
    assert_eq!(world.position().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_stream_is_no_news() {
    let world = World::new().await;
    let report = run(&world.hunt(&[])).await;
    assert_eq!((report.read, report.position), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_legacy_interface_gives_the_same() {
    let world = World::new().await;
    world.hits(100, 60);
    // This hit is older than the run asks for.
    world.virustotal.hit(Hit::file(500, NOW - 30 * 3600, "rule"));
    let hunt = world.hunt(&[("HUNT_API", "legacy")]);
    let report = run(&hunt).await;
    assert_eq!((report.delivered, report.requests), (100, 100));
    assert_eq!(world.position().await, Some(NOW - 60));
    assert_eq!(run(&hunt).await.delivered, 0);
    world.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn rulesets_over_their_limit_are_told() {
    let world = World::new().await;
    world.virustotal.ruleset("1", "loud", true);
    world.virustotal.ruleset("2", "quiet", false);
    let hunt = world.hunt(&[]);
    assert_eq!(run(&hunt).await.rate_limited, ["loud"]);
    let known = hunt::rate_limited(&world.store()).await.unwrap().unwrap();
    assert_eq!(known.rulesets, ["loud"]);
    // All rulesets are checked, also those on later pages.
    for n in 100..190 {
        world.virustotal.ruleset(&n.to_string(), &format!("loud {n}"), n == 189);
    }
    world.clock.on(jiff::SignedDuration::from_hours(2));
    assert_eq!(run(&hunt).await.rate_limited, ["loud", "loud 189"]);
    world.clock.on(jiff::SignedDuration::from_hours(2));
    for n in 100..190 {
        world.virustotal.ruleset(&n.to_string(), "quiet", false);
    }
    assert_eq!(run(&hunt).await.rate_limited, ["loud"]);
    // The rulesets are not checked again within the hour.
    let asked = world.virustotal.hunting_asked().len();
    assert_eq!(run(&hunt).await.rate_limited, ["loud"], "as it was known");
    assert_eq!(world.virustotal.hunting_asked().len(), asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_azul_does_not_know_is_named() {
    let world = World::new().await;
    world.hits(3, 2);
    world.dispatcher.unregister_source("vtlivehunt");
    let error = world.hunt(&[]).run(&Trigger::Tick, &RunLimits::default()).await.unwrap_err();
    let said = azul_vt::errors::chain(&error);
    assert!(said.contains("vtlivehunt") && said.contains("source configuration"), "{said}");
    assert_eq!(world.position().await, None);
    world.dispatcher.register_source("vtlivehunt");
    assert_eq!(run(&world.hunt(&[])).await.delivered, 3);
}
