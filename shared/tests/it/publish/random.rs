//! Random sets of culprits over HTTP; the same with thousands of sets, without HTTP, is beside the code.

use azul_vt::pipeline::publish::Delivery;
use proptest::{collection::vec, prelude::*};

use super::{SMALL, World, good, invalid, too_large, undecodable};

/// Makes the event of a number.
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
