//! A failure that says nothing about the events is retried until the deadline, and one that only an operator can fix
//! stops at once. Neither ever rejects an event.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use azul_vt::{
    azul::dispatcher::{DispatcherOptions, Model},
    pipeline::{
        RunLimits,
        publish::{Delivery, Failure, PublishError, Publisher, StopReason},
    },
};
use sim::Fault;
use tokio::time::Instant;

use super::{World, dispatcher, fifty, good, invalid, of_source, samples};

/// Short timeouts, for answers that never come.
const IMPATIENT: DispatcherOptions = DispatcherOptions {
    post_timeout: Duration::from_millis(400),
    ping_timeout: Duration::from_millis(400),
};

/// Returns limits that end after `time`.
fn within(time: Duration) -> RunLimits {
    RunLimits::until(Instant::now() + time)
}

fn soon() -> RunLimits {
    within(Duration::from_millis(500))
}

fn impatient(world: &World) -> Publisher {
    Publisher::new(dispatcher(&world.sim.url(), IMPATIENT), world.options)
}

#[track_caller]
fn stop(error: PublishError) -> (StopReason, String) {
    let text = error.to_string();
    match error {
        PublishError::Stop { reason, .. } => (reason, text),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn what_passes_is_tried_again_and_nothing_is_rejected() {
    let answer = |status, body: &str| Fault::answer(status, body);
    for fault in [
        answer(500, r#"{"status":"500","title":"t","detail":"broker is away"}"#),
        answer(500, "<html>"),
        answer(500, &"x".repeat(1 << 20)),
        answer(502, ""),
        answer(503, "over capacity"),
        answer(408, ""),
        answer(425, "Too Early"),
        answer(204, ""),
        Fault::Answer {
            status: 429,
            headers: vec![("Retry-After".to_owned(), "0".to_owned())],
            body: String::new(),
        },
        // Answers with impossible content.
        answer(200, ""),
        answer(200, "<html>welcome</html>"),
        answer(200, "{}"),
        answer(200, r#"{"total_ok":51,"total_failures":0,"failures":null}"#),
        answer(200, r#"{"total_ok":50,"total_failures":1,"failures":null}"#),
        Fault::EmptyBody,
        // Faults without an answer.
        Fault::Reset,
        Fault::Lost,
        Fault::Hang,
        Fault::LostHang,
        Fault::ResetInBody,
        Fault::HangInBody,
        Fault::TruncateBody,
    ] {
        let world = World::new().await;
        world.sim.fail(&fault, 2);
        let events = fifty(&[]);
        let outcomes =
            impatient(&world).publish(Model::Binary, &events, &RunLimits::default()).await.unwrap();
        assert_eq!(outcomes, vec![Delivery::Delivered; 50], "{fault:?}");
        assert_eq!(world.sim.keys().len(), 50, "{fault:?}");
        assert_eq!(world.sim.faults_left(), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_culprit_is_found_between_outages() {
    let world = World::new().await;
    for _ in 0..4 {
        world.sim.fail(&Fault::answer(503, ""), 1);
        world.sim.fail(&Fault::Delay { ms: 0 }, 1);
        world.sim.fail(&Fault::Lost, 1);
    }
    let outcomes = world.publish(&fifty(&[(17, invalid(17))])).await;
    super::assert_rejected(&world, &outcomes, &[17], "invalid (425)");
}

#[tokio::test]
async fn a_dispatcher_that_is_down_costs_nothing() {
    let world = World::new().await;
    world.sim.down().await;
    let publisher = world.publisher();
    let events = fifty(&[]);
    let error = publisher.publish(Model::Binary, &events, &soon()).await.unwrap_err();
    let PublishError::Failed { attempts, last, outcomes } = error else { panic!("{error:?}") };
    assert!(attempts > 0);
    assert!(matches!(last, Failure::NoAnswer(_)), "{last:?}");
    assert_eq!(outcomes, vec![None; 50]);
    world.sim.up().await;
    let outcomes = publisher.publish(Model::Binary, &events, &RunLimits::default()).await.unwrap();
    assert_eq!(outcomes, vec![Delivery::Delivered; 50]);
    assert_eq!(world.sim.keys().len(), 50);
}

#[tokio::test]
async fn many_refusals_in_a_row_are_outlasted() {
    let world = World::new().await;
    world.sim.fail(&Fault::answer(503, ""), 30);
    assert_eq!(world.publish(&[good(0)]).await, [Delivery::Delivered]);
    assert_eq!(world.posts(), 31);
}

#[tokio::test]
async fn the_deadline_ends_the_attempts_and_tells_what_is_known() {
    let world = World::new().await;
    world.sim.fail(&Fault::Delay { ms: 0 }, 1);
    world.sim.fail(&Fault::answer(503, "try later"), 100_000);
    let events = fifty(&[(17, invalid(17))]);
    // The deadline leaves enough time for the first post on a busy machine.
    let limits = within(Duration::from_secs(2));
    let error = world.publisher().publish(Model::Binary, &events, &limits).await.unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "the dispatcher answered 503: try later");
    let PublishError::Failed { attempts, outcomes, .. } = error else { panic!("{error:?}") };
    assert!(attempts > 1);
    assert_eq!(outcomes[..17], vec![Some(Delivery::Delivered); 17]);
    assert_eq!(outcomes[17..], vec![None; 33]);
}

#[tokio::test]
async fn a_hanging_post_is_cut_at_the_deadline() {
    let world = World::new().await;
    world.sim.fail(&Fault::Hang, 1);
    let error = world.publisher().publish(Model::Binary, &[good(0)], &soon()).await.unwrap_err();
    assert!(matches!(error, PublishError::Failed { attempts: 1, last: Failure::OutOfTime, .. }));
}

#[tokio::test]
async fn who_is_asked_to_end_waits_neither_for_the_next_attempt_nor_long_for_an_answer() {
    for fault in [Fault::Hang, Fault::answer(503, "")] {
        let mut world = World::new().await;
        world.options.min_backoff = Duration::from_mins(1);
        world.options.max_backoff = Duration::from_mins(1);
        world.sim.fail(&fault, 100);
        let (limits, events) = (RunLimits::default(), [good(0)]);
        let publisher = world.publisher();
        let asked = async {
            world.sim.wait_until(|_, posts| !posts.is_empty()).await;
            limits.stop.cancel();
        };
        let (outcome, ()) = tokio::join!(publisher.publish(Model::Binary, &events, &limits), asked);
        let error = outcome.unwrap_err();
        assert!(matches!(error, PublishError::Interrupted { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_soon_counts_although_it_was_asked_to_end() {
    let world = World::new().await;
    world.sim.fail(&Fault::Delay { ms: 50 }, 1);
    let (limits, events) = (RunLimits::default(), [good(0)]);
    let publisher = world.publisher();
    let asked = async {
        world.sim.wait_until(|_, posts| !posts.is_empty()).await;
        limits.stop.cancel();
    };
    let (outcome, ()) = tokio::join!(publisher.publish(Model::Binary, &events, &limits), asked);
    assert_eq!(outcome.unwrap(), [Delivery::Delivered]);
}

#[tokio::test]
async fn after_the_deadline_nothing_is_sent() {
    let world = World::new().await;
    let past = within(Duration::ZERO);
    let error = world.publisher().publish(Model::Binary, &[good(0)], &past).await.unwrap_err();
    assert!(matches!(error, PublishError::Failed { attempts: 0, last: Failure::OutOfTime, .. }));
    assert_eq!(world.posts(), 0);
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let world = World::new().await;
    let fault = Fault::Answer {
        status: 503,
        headers: vec![("Retry-After".to_owned(), "86400".to_owned())],
        body: String::new(),
    };
    world.sim.fail(&fault, 1);
    let limits = within(Duration::from_mins(1));
    let error = world.publisher().publish(Model::Binary, &[good(0)], &limits).await.unwrap_err();
    assert!(matches!(
        error,
        PublishError::Failed { attempts: 1, last: Failure::Answered { status: 503, .. }, .. }
    ));
}

#[tokio::test]
async fn a_source_that_azul_does_not_know_stops_and_is_named() {
    let world = World::new().await;
    let mut events = fifty(&[]);
    events[20] = of_source(20, "VirusTotal");
    let (reason, text) = stop(world.try_publish(&events).await.unwrap_err());
    let StopReason::UnregisteredSource { names, .. } = reason else { panic!("{reason:?}") };
    assert_eq!(names, ["VirusTotal"]);
    assert!(text.contains("add the source `VirusTotal` to Azul's source configuration"), "{text}");
    assert_eq!(world.posts(), 1);
    world.sim.register_source("VirusTotal");
    assert_eq!(world.publish(&events).await, vec![Delivery::Delivered; 50]);

    // If the answer names no source, the error names those of the posted events.
    world.sim.fail(&Fault::answer(500, r#"{"detail":"unregistered topic"}"#), 1);
    let (reason, _) = stop(world.try_publish(&events).await.unwrap_err());
    let StopReason::UnregisteredSource { names, .. } = reason else { panic!("{reason:?}") };
    assert_eq!(names, ["VirusTotal", "virustotal"]);
}

#[tokio::test]
async fn answers_that_refuse_the_request_stop_with_advice() {
    for (status, words) in [
        (308, "PLUGIN_EVENTS_URL leads elsewhere"),
        (400, "AZUL_MODEL_VERSION"),
        (401, "not allowed"),
        (403, "not allowed"),
        (404, "not the base of a dispatcher"),
        (405, "not the base of a dispatcher"),
        (407, "HTTPS_PROXY"),
    ] {
        let world = World::new().await;
        world.sim.fail(&Fault::answer(status, "no"), 1);
        let (reason, text) = stop(world.try_publish(&fifty(&[])).await.unwrap_err());
        assert!(matches!(reason, StopReason::Refused { status: s, .. } if s == status));
        assert!(text.contains(words), "{text}");
        assert_eq!(world.posts(), 1);
    }
}

#[tokio::test]
async fn a_body_that_a_gateway_finds_too_large_is_sent_in_parts() {
    let world = World::new().await;
    world.sim.fail(&Fault::answer(413, "<html>Request Entity Too Large</html>"), 3);
    assert_eq!(world.publish(&fifty(&[])).await, vec![Delivery::Delivered; 50]);
    assert_eq!(world.arrived(50), [1; 50]);
}

#[tokio::test]
async fn a_refused_registration_stops() {
    let world = World::new().await;
    let mut plugin = samples::plugin(super::ModelVersion::V6);
    plugin.author.name.clear();
    let (reason, text) =
        stop(world.publisher().register(&plugin, &RunLimits::default()).await.unwrap_err());
    assert!(matches!(reason, StopReason::Unregistrable { .. }), "{text}");
    world.sim.fail(&Fault::answer(503, ""), 100_000);
    let plugin = samples::plugin(super::ModelVersion::V6);
    let error = world.publisher().register(&plugin, &soon()).await.unwrap_err();
    assert!(matches!(error, PublishError::Failed { .. }));
}

#[tokio::test]
async fn no_error_shows_a_password_of_the_url() {
    let world = World::new().await;
    let url = world.sim.url().replace("http://", "http://azul:hunter2@");
    world.sim.down().await;
    let publisher = Publisher::new(dispatcher(&url, IMPATIENT), world.options);
    let error = publisher.publish(Model::Binary, &[good(0)], &soon()).await.unwrap_err();
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, " {error} {error:?}").unwrap();
        cause = error.source();
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_ping_tells_the_dispatcher_from_others_and_the_time_there() {
    let world = World::new().await;
    let pong = dispatcher(&world.sim.url(), IMPATIENT).ping().await.unwrap();
    assert!(pong.is_dispatcher && pong.status == 200, "{pong:?}");
    let skew = pong.date.unwrap().duration_since(jiff::Timestamp::now());
    assert!(skew.abs() < jiff::SignedDuration::from_mins(1), "{skew}");
    let other = sim::VirusTotal::start().await.unwrap();
    let pong = dispatcher(&other.url(), IMPATIENT).ping().await.unwrap();
    assert!(!pong.is_dispatcher, "{pong:?}");
    world.sim.down().await;
    assert!(dispatcher(&world.sim.url(), IMPATIENT).ping().await.is_err());
}
