//! Tests random sets of culprits over HTTP. The module `verdict` has the same test with thousands of sets, without
//! HTTP.

use azul_vt::{azul::event::ModelVersion, pipeline::publish::Delivery};
use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*};

use super::{SMALL, World, encoded, event, good, invalid, old, samples, too_large, undecodable};

/// A function that makes the event with a number.
type Make = fn(usize) -> Vec<u8>;

fn kinds() -> impl Strategy<Value = Make> {
    prop_oneof![
        6 => Just(good as Make),
        1 => Just(invalid as Make),
        1 => Just(too_large as Make),
        1 => Just((|_| undecodable()) as Make),
    ]
}

#[test]
fn outcomes_are_exact_for_any_culprits() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    world.sim.set_max_event_bytes(SMALL);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) };
    proptest!(config, |(kinds in vec(kinds(), 1..40))| {
        world.sim.forget();
        let events: Vec<Vec<u8>> = kinds.iter().enumerate().map(|(n, make)| make(n)).collect();
        let outcomes = runtime.block_on(world.publish(&events));
        let arrived = world.arrived(events.len());
        prop_assert_eq!(outcomes.len(), events.len());
        for (n, outcome) in outcomes.iter().enumerate() {
            let is_good = events[n] == good(n);
            prop_assert_eq!(*outcome == Delivery::Delivered, is_good, "{}", n);
            prop_assert_eq!(matches!(outcome, Delivery::Rejected(_)), !is_good, "{}", n);
            prop_assert_eq!(arrived[n] > 0, is_good, "{}", n);
        }
    });
}

/// Returns an event that a filter of Azul drops.
fn unwanted(n: usize) -> Vec<u8> {
    let mut event = event(n, ModelVersion::V6);
    event.entity.magic = "unwanted".into();
    encoded(&event)
}

#[tokio::test]
async fn outcomes_are_exact_for_every_small_batch_over_http() {
    let world = World::new().await;
    world.sim.set_now(samples::NOW);
    world.sim.expire("virustotal", SignedDuration::from_hours(24));
    world.sim.filter("opted_out", |event| event["entity"]["magic"] == "unwanted");
    let kinds = [good as Make, invalid, old, unwanted];
    for size in 1..=4_u32 {
        for number in 0..kinds.len().pow(size) {
            world.sim.forget();
            let places = (0..size).map(|place| number / kinds.len().pow(place) % kinds.len());
            let places: Vec<usize> = places.collect();
            let events: Vec<Vec<u8>> =
                places.iter().enumerate().map(|(n, kind)| kinds[*kind](n)).collect();
            let outcomes = world.publish(&events).await;
            let arrived = world.arrived(events.len());
            for (n, (kind, outcome)) in places.iter().zip(&outcomes).enumerate() {
                let fits = match kind {
                    0 => *outcome == Delivery::Delivered,
                    1 => matches!(outcome, Delivery::Rejected(_)),
                    // Among good ones the dispatcher counts it as taken.
                    _ if places.contains(&0) => !matches!(outcome, Delivery::Rejected(_)),
                    _ => matches!(outcome, Delivery::Filtered(_)),
                };
                assert!(fits, "event {n} of {places:?} is {outcome:?}");
                assert_eq!(arrived[n] > 0, *kind == 0, "event {n} of {places:?}");
            }
        }
    }
}
