//! Tests that there are never more requests than the quota allows, however many workers there are and whichever die.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use azul_vt::{
    pipeline::RunLimits,
    store::{budget::Window, inbox::Queue},
    tasks::EventFunction as _,
};
use jiff::SignedDuration;

use sim::lookup::event;

use crate::world::{World, put};

const LIMIT: u32 = 4;
const WINDOW: Duration = Duration::from_secs(1);

/// Returns the number of files that are looked up. A run with `QUOTA_HASHES=500` takes two and a half minutes.
fn hashes() -> usize {
    std::env::var("QUOTA_HASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

#[tokio::test(flavor = "multi_thread")]
async fn four_workers_that_are_killed_and_restarted_keep_to_four_requests_a_window() {
    let world = Arc::new(World::new().await);
    let hashes = hashes();
    for n in 0..hashes {
        world.knows(n);
    }
    let window =
        Window { name: "second", length: SignedDuration::try_from(WINDOW).unwrap(), limit: LIMIT };
    let query = |world: &World| {
        Arc::new(world.query_with(|settings| settings.lookup.windows = vec![window]))
    };
    put(&query(&world), (0..hashes).map(event)).await;
    let mut life = 0;
    loop {
        // A life of the process; the first ones end in the middle of their work.
        life += 1;
        let query = query(&world);
        query.common().store.inbox.reclaim(Queue::Query, query.common().clock.now()).await.unwrap();
        let limits = RunLimits::default();
        let working = {
            let (query, limits) = (Arc::clone(&query), limits.clone());
            tokio::spawn(async move { query.drain(true, &limits).await })
        };
        if life <= 5 {
            tokio::time::sleep(Duration::from_millis(700 + 130 * life)).await;
            working.abort();
            assert!(working.await.is_err_and(|error| error.is_cancelled()));
        } else {
            // A killed worker's answer may have arrived, and comes again.
            let all = |arrived: &sim::Arrived, _: &[sim::Posted]| {
                let hash = |status: &sim::Published| {
                    status.event["entity"]["input"]["entity"]["sha256"].to_string()
                };
                arrived.of(sim::Model::Status).map(hash).collect::<BTreeSet<_>>().len() >= hashes
            };
            world.dispatcher.wait_until(all).await;
            limits.stop.cancel();
            working.await.unwrap().unwrap();
            break;
        }
    }
    let mut answered: Vec<_> = world.statuses().into_iter().map(|(hash, ..)| hash).collect();
    answered.dedup();
    assert_eq!(answered.len(), hashes);
    let mut times: Vec<Instant> =
        world.virustotal.requests().into_iter().map(|request| request.at).collect();
    times.sort();
    let limit = usize::try_from(LIMIT).unwrap();
    for (first, next) in times.iter().zip(times.iter().skip(limit)) {
        let apart = next.duration_since(*first);
        assert!(apart >= WINDOW, "{} requests within {apart:?}", limit + 1);
    }
    assert!(times.len() >= hashes);
}
