//! Publishing over HTTP: what becomes of each event, for every answer of the dispatcher.

use std::{collections::BTreeSet, time::Duration};

use azul_vt::{
    azul::{
        avro,
        dispatcher::{Dispatcher, DispatcherOptions, Model},
        event::{BinaryEvent, DownloadEvent, Feature, ModelVersion, feature_type},
    },
    pipeline::{
        RunLimits,
        publish::{Delivery, PublishError, Publisher, PublisherOptions},
    },
};
use jiff::{SignedDuration, Timestamp};

use testkit::samples;

mod faults;
mod random;

/// Largest event that the stand-in takes in these tests, in bytes.
const SMALL: usize = 4000;

struct World {
    sim: sim::Dispatcher,
    options: PublisherOptions,
}

impl World {
    async fn new() -> Self {
        let options = PublisherOptions {
            min_backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(5),
            // With a lower limit the dispatcher would never get a large event.
            ..PublisherOptions::new(ModelVersion::V6, usize::MAX)
        };
        Self { sim: sim::Dispatcher::start().await.unwrap(), options }
    }

    fn publisher(&self) -> Publisher {
        Publisher::new(dispatcher(&self.sim.url(), DispatcherOptions::default()), self.options)
    }

    async fn publish(&self, events: &[Vec<u8>]) -> Vec<Delivery> {
        self.try_publish(events).await.unwrap()
    }

    async fn try_publish(&self, events: &[Vec<u8>]) -> Result<Vec<Delivery>, PublishError> {
        self.publisher().publish(Model::Binary, events, &RunLimits::default()).await
    }

    /// Returns how often each event's binary arrived, by the number of the event.
    fn arrived(&self, count: usize) -> Vec<usize> {
        let arrived = self.sim.arrived();
        assert!(arrived.problems.is_empty(), "{:?}", arrived.problems);
        let hashes: Vec<String> = arrived
            .of(sim::Model::Binary)
            .map(|e| e.event["entity"]["sha256"].as_str().unwrap().to_owned())
            .chain(arrived.downloads().into_iter().map(|download| download.hash))
            .collect();
        (0..count).map(|n| hashes.iter().filter(|hash| **hash == sha256(n)).count()).collect()
    }

    fn posts(&self) -> usize {
        self.sim.posts().len()
    }
}

fn dispatcher(url: &str, options: DispatcherOptions) -> Dispatcher {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Dispatcher::new(client, url.parse().unwrap(), options)
}

fn sha256(n: usize) -> String {
    format!("{n:064x}")
}

/// Returns the event with number `n`, with today's time.
fn event(n: usize, version: ModelVersion) -> BinaryEvent {
    let mut event = samples::mapped(version);
    event.entity.sha256 = sha256(n);
    event.source.path[0].sha256 = sha256(n);
    event.source.timestamp = samples::NOW;
    event
}

fn encoded(event: &BinaryEvent) -> Vec<u8> {
    let mut bytes = Vec::new();
    avro::encode_binary(event, ModelVersion::V6, &mut bytes);
    bytes
}

fn good(n: usize) -> Vec<u8> {
    encoded(&event(n, ModelVersion::V6))
}

fn invalid(n: usize) -> Vec<u8> {
    let mut event = event(n, ModelVersion::V6);
    event.author.name.clear();
    encoded(&event)
}

fn too_large(n: usize) -> Vec<u8> {
    let mut event = event(n, ModelVersion::V6);
    event.entity.features.push(Feature::new("tags", "x".repeat(SMALL), feature_type::STRING));
    encoded(&event)
}

/// Returns bytes that no schema can decode: an overlong number.
fn undecodable() -> Vec<u8> {
    vec![0xff; 40]
}

fn old(n: usize) -> Vec<u8> {
    let mut event = event(n, ModelVersion::V6);
    event.source.timestamp = Timestamp::UNIX_EPOCH;
    encoded(&event)
}

fn of_source(n: usize, source: &str) -> Vec<u8> {
    let mut event = event(n, ModelVersion::V6);
    source.clone_into(&mut event.source.name);
    encoded(&event)
}

fn request(n: usize) -> DownloadEvent {
    let mut event = samples::download(ModelVersion::V6);
    event.entity.hash = sha256(n);
    event
}

fn encoded_request(event: &DownloadEvent) -> Vec<u8> {
    let mut bytes = Vec::new();
    avro::encode_download(event, ModelVersion::V6, &mut bytes);
    bytes
}

/// Returns fifty events, which are good except for the culprits.
fn fifty(culprits: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut events: Vec<Vec<u8>> = (0..50).map(good).collect();
    for (at, culprit) in culprits {
        events[*at].clone_from(culprit);
    }
    events
}

/// Asserts that exactly the events at `places` are rejected, for a reason that contains `words`, and that the others
/// arrived.
#[track_caller]
fn assert_rejected(world: &World, outcomes: &[Delivery], places: &[usize], words: &str) {
    let arrived = world.arrived(outcomes.len());
    for (at, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Delivery::Rejected(reason) => {
                assert!(places.contains(&at), "{at}: {reason}");
                assert!(reason.contains(words), "{at}: {reason}");
                assert_eq!(arrived[at], 0, "{at}");
            }
            Delivery::Delivered => {
                assert!(!places.contains(&at), "{at}");
                assert!(arrived[at] > 0, "{at}");
            }
            Delivery::Filtered(reason) => panic!("{at}: {reason}"),
        }
    }
}

#[track_caller]
fn assert_all_filtered(outcomes: &[Delivery], words: &str) {
    for outcome in outcomes {
        assert!(
            matches!(outcome, Delivery::Filtered(reason) if reason.contains(words)),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_good_batch_is_one_post_that_waits_for_the_broker() {
    let world = World::new().await;
    let outcomes = world.publish(&fifty(&[])).await;
    assert_rejected(&world, &outcomes, &[], "");
    let posts = world.sim.posts();
    assert_eq!(posts.len(), 1);
    assert!(posts[0].sync && posts[0].avro);
    assert_eq!((posts[0].model.as_str(), posts[0].events), ("binary", 50));
    // A repeat changes nothing.
    world.publish(&fifty(&[])).await;
    assert_eq!(world.sim.keys().len(), 50);
    assert!(world.publish(&[]).await.is_empty());
    assert_eq!(world.posts(), 2);
}

#[tokio::test]
async fn events_of_version_5_arrive() {
    let mut world = World::new().await;
    world.options.model_version = ModelVersion::V5;
    let mut bytes = Vec::new();
    avro::encode_binary(&event(0, ModelVersion::V5), ModelVersion::V5, &mut bytes);
    assert_eq!(world.publish(&[bytes]).await, [Delivery::Delivered]);
    assert_eq!(world.arrived(1), [1]);
}

#[tokio::test]
async fn what_the_dispatcher_drops_behind_an_invalid_event_is_sent_again() {
    let world = World::new().await;
    let outcomes = world.publish(&fifty(&[(17, invalid(17))])).await;
    assert_rejected(&world, &outcomes, &[17], "invalid (425)");
    assert_eq!(world.arrived(50).iter().max(), Some(&1));
    assert_eq!(world.posts(), 3);
}

#[tokio::test]
async fn three_invalid_events_cost_themselves_alone() {
    for places in [[3, 17, 40], [0, 1, 49]] {
        let world = World::new().await;
        let outcomes = world.publish(&fifty(&places.map(|at| (at, invalid(at))))).await;
        assert_rejected(&world, &outcomes, &places, "invalid (425)");
    }
}

#[tokio::test]
async fn a_batch_of_invalid_events_is_rejected_one_by_one() {
    let world = World::new().await;
    let events: Vec<Vec<u8>> = (0..20).map(invalid).collect();
    let outcomes = world.publish(&events).await;
    assert_rejected(&world, &outcomes, &(0..20).collect::<Vec<_>>(), "invalid (425)");
}

#[tokio::test]
async fn aged_off_events_are_filtered_and_hide_no_others() {
    let world = World::new().await;
    world.sim.set_now(samples::NOW);
    world.sim.expire("virustotal", SignedDuration::from_hours(24));
    let outcomes = world.publish(&(0..50).map(old).collect::<Vec<_>>()).await;
    assert_all_filtered(&outcomes, "aged off");
    assert_eq!(world.posts(), 2);
    assert_all_filtered(&world.publish(&[old(0)]).await, "aged off");
    assert_eq!(world.posts(), 3);
    // The dispatcher calls this batch aged off as well, although it never looked at the last two.
    let outcomes = world.publish(&[old(0), invalid(1), good(2), good(3)]).await;
    assert_all_filtered(&outcomes[..1], "aged off");
    assert!(matches!(outcomes[1], Delivery::Rejected(_)));
    assert_eq!(outcomes[2..], [Delivery::Delivered, Delivery::Delivered]);
    assert_eq!(world.arrived(4), [0, 0, 1, 1]);
}

#[tokio::test]
async fn events_that_a_filter_of_azul_drops_are_filtered_by_its_name() {
    let world = World::new().await;
    let number = |event: &serde_json::Value| {
        u64::from_str_radix(event["entity"]["sha256"].as_str().unwrap(), 16).unwrap()
    };
    world.sim.filter("opted_out", move |event| number(event) < 40);
    let outcomes = world.publish(&(0..40).map(good).collect::<Vec<_>>()).await;
    assert_all_filtered(&outcomes, "opted_out:40");
    assert_eq!(world.posts(), 1);
    let outcomes = world.publish(&[good(0), invalid(1), good(40)]).await;
    assert_all_filtered(&outcomes[..1], "opted_out:1");
    assert!(matches!(outcomes[1], Delivery::Rejected(_)));
    assert_eq!(outcomes[2], Delivery::Delivered);
}

#[tokio::test]
async fn an_undecodable_event_costs_itself_alone() {
    for places in [vec![30], vec![0, 30, 49]] {
        let world = World::new().await;
        let culprits: Vec<_> = places.iter().map(|at| (*at, undecodable())).collect();
        let outcomes = world.publish(&fifty(&culprits)).await;
        assert_rejected(&world, &outcomes, &places, "cannot be decoded (422)");
    }
}

#[tokio::test]
async fn a_too_large_event_costs_itself_alone() {
    for places in [vec![30], vec![0, 30, 49]] {
        let world = World::new().await;
        world.sim.set_max_event_bytes(SMALL);
        let culprits: Vec<_> = places.iter().map(|at| (*at, too_large(*at))).collect();
        let outcomes = world.publish(&fifty(&culprits)).await;
        assert_rejected(&world, &outcomes, &places, "too large (500)");
        assert_eq!(world.sim.keys().len(), 50 - places.len());
    }
}

#[tokio::test]
async fn an_event_over_the_limit_is_rejected_and_never_sent() {
    let mut world = World::new().await;
    world.options.max_event_bytes = SMALL;
    let outcomes = world.publish(&fifty(&[(30, too_large(30))])).await;
    assert_rejected(&world, &outcomes, &[30], "MAX_EVENT_BYTES is 4000");
    assert_eq!(world.posts(), 1);
}

#[tokio::test]
async fn a_download_request_arrives_once_and_never_more_than_twice() {
    let world = World::new().await;
    world.sim.set_max_event_bytes(SMALL);
    let publisher = world.publisher();
    let mut events: Vec<Vec<u8>> = (0..20).map(|n| encoded_request(&request(n))).collect();
    let mut culprit = request(7);
    culprit.author.name.clear();
    events[7] = encoded_request(&culprit);
    let outcomes =
        publisher.publish(Model::Download, &events, &RunLimits::default()).await.unwrap();
    assert_rejected(&world, &outcomes, &[7], "invalid (425)");
    assert_eq!(world.arrived(20).iter().sum::<usize>(), 19);

    world.sim.forget();
    let mut culprit = request(7);
    culprit.entity.direct_url = "x".repeat(SMALL);
    events[7] = encoded_request(&culprit);
    let outcomes =
        publisher.publish(Model::Download, &events, &RunLimits::default()).await.unwrap();
    assert_rejected(&world, &outcomes, &[7], "too large (500)");
    assert_eq!(world.arrived(20).iter().max(), Some(&2));
}

#[tokio::test]
async fn the_registration_arrives_in_both_versions() {
    for version in [ModelVersion::V5, ModelVersion::V6] {
        let mut world = World::new().await;
        world.options.model_version = version;
        world.sim.fail(&sim::Fault::answer(503, ""), 2);
        world.publisher().register(&samples::plugin(version), &RunLimits::default()).await.unwrap();
        let features = world.sim.arrived().registered_features("VirustotalFileFeed");
        assert_eq!(features, BTreeSet::from(["tags".to_owned()]));
    }
}
