//! The queue against a model of the dispatcher: every event gets exactly the outcome it deserves, in a
//! bounded number of posts, whatever stands next to it.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::azul::answer::Filtered;

/// What an event is to the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    AgedOff,
    Filtered,
    Invalid,
    TooLarge,
    Undecodable,
}

use Kind::{AgedOff, Filtered as Dropped, Good, Invalid, TooLarge, Undecodable};

/// The dispatcher as azul-dispatcher v12 behaves for Avro. Counts what it published.
struct Model12 {
    kinds: Vec<Kind>,
    published: Vec<u32>,
    posts: usize,
    /// Whether its filters say how many events each of them dropped.
    counts: bool,
}

impl Model12 {
    fn new(kinds: &[Kind], counts: bool) -> Self {
        Self { kinds: kinds.to_vec(), published: vec![0; kinds.len()], posts: 0, counts }
    }

    fn post(&mut self, events: &[usize]) -> Answer {
        self.posts += 1;
        let kinds: Vec<Kind> = events.iter().map(|&at| self.kinds[at]).collect();
        if kinds.contains(&Undecodable) {
            return Answer::Undecodable("no schema fits".into());
        }
        let decoded = kinds.iter().position(|kind| *kind == Invalid).unwrap_or(kinds.len());
        let count = |kind| kinds[..decoded].iter().filter(|k| **k == kind).count();
        if count(Good) + count(TooLarge) == 0 {
            if count(AgedOff) > 0 {
                return Answer::AgedOff("all aged off".into());
            }
            let dropped = count(Dropped);
            if dropped > 0 {
                let dropped = self.counts.then(|| u64::try_from(dropped).unwrap());
                return Answer::Filtered(Filtered { filters: "some".into(), dropped });
            }
            return Answer::Invalid("filters []".into());
        }
        for &at in &events[..decoded] {
            if self.kinds[at] == Good {
                self.published[at] += 1;
            }
        }
        if count(TooLarge) > 0 {
            return Answer::TooLarge("message too large".into());
        }
        let total_ok = u64::try_from(decoded).unwrap();
        Answer::Accepted(Accepted { total_ok, ..Accepted::default() })
    }

    /// Publishes all, and gives the outcomes.
    fn run(&mut self, model: Model) -> Vec<Delivery> {
        let events = vec![Vec::new(); self.kinds.len()];
        let mut queue = Queue::new(model, &events, 0);
        while let Some(post) = queue.next() {
            let Judgement::Settled(verdict) = judge(Ok(self.post(&post.events)), post.events.len())
            else {
                panic!("the model never asks for a repeat")
            };
            queue.apply(post, verdict);
        }
        queue.outcomes.into_iter().map(Option::unwrap).collect()
    }
}

fn deserves(kind: Kind, outcome: &Delivery) -> bool {
    match outcome {
        Delivery::Delivered => kind == Good,
        Delivery::Filtered(_) => matches!(kind, AgedOff | Dropped),
        Delivery::Rejected(_) => matches!(kind, Invalid | TooLarge | Undecodable),
    }
}

/// 2·n·log₂(n)+n, rounded down.
fn most_posts(n: usize) -> usize {
    let n = f64::from(u32::try_from(n).unwrap());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
    let most = (2.0 * n * n.log2() + n) as usize;
    most
}

fn with_culprits(n: usize, culprits: &[(usize, Kind)]) -> Vec<Kind> {
    let mut kinds = vec![Good; n];
    for &(at, kind) in culprits {
        kinds[at] = kind;
    }
    kinds
}

fn check(kinds: &[Kind], model: Model) -> usize {
    let mut dispatcher = Model12::new(kinds, true);
    let outcomes = dispatcher.run(model);
    for (at, (kind, outcome)) in kinds.iter().zip(&outcomes).enumerate() {
        assert!(deserves(*kind, outcome), "event {at} of {kinds:?} is {outcome:?}");
        // Of aged-off events among good ones nobody is told; they count as delivered there.
    }
    assert!(dispatcher.posts <= most_posts(kinds.len()).max(1), "{} posts", dispatcher.posts);
    dispatcher.posts
}

#[test]
fn one_culprit_costs_few_posts() {
    assert_eq!(check(&with_culprits(50, &[]), Model::Binary), 1);
    assert_eq!(check(&with_culprits(50, &[(17, Invalid)]), Model::Binary), 3);
    assert_eq!(check(&with_culprits(50, &[(0, Invalid)]), Model::Binary), 4);
    assert_eq!(check(&with_culprits(50, &[(49, Invalid)]), Model::Binary), 2);
    assert!(check(&with_culprits(50, &[(17, TooLarge)]), Model::Binary) <= 13);
    assert!(check(&with_culprits(50, &[(17, Undecodable)]), Model::Binary) <= 13);
    assert_eq!(check(&[AgedOff; 50], Model::Binary), 2);
    assert_eq!(check(&[Dropped; 50], Model::Binary), 1);
    assert_eq!(check(&[AgedOff], Model::Binary), 1);
}

#[test]
fn unwanted_events_do_not_hide_what_follows_an_invalid_one() {
    let mut kinds = vec![AgedOff, Dropped, Invalid];
    kinds.extend([Good; 10]);
    let mut dispatcher = Model12::new(&kinds, true);
    dispatcher.run(Model::Binary);
    assert_eq!(dispatcher.published[3..], [1; 10]);
}

#[test]
fn a_download_request_is_published_at_most_twice() {
    let kinds = with_culprits(50, &[(3, TooLarge), (17, TooLarge), (40, Invalid)]);
    let mut dispatcher = Model12::new(&kinds, true);
    dispatcher.run(Model::Download);
    assert!(dispatcher.published.iter().all(|n| *n <= 2));
    // Without a large one each is published exactly once.
    let kinds = with_culprits(50, &[(3, Undecodable), (17, Invalid), (40, Invalid)]);
    let mut dispatcher = Model12::new(&kinds, true);
    dispatcher.run(Model::Download);
    for (kind, published) in kinds.iter().zip(&dispatcher.published) {
        assert_eq!(*published, u32::from(*kind == Good));
    }
}

#[test]
fn an_event_over_the_limit_is_never_sent() {
    let events = [vec![0; 10], vec![0; 11], vec![0; 10]];
    let mut queue = Queue::new(Model::Download, &events, 10);
    assert_eq!(queue.next().unwrap().events, [0, 2]);
    assert!(queue.next().is_none());
    assert!(matches!(queue.outcomes[1], Some(Delivery::Rejected(_))));
    let mut queue = Queue::new(Model::Download, &events[1..2], 10);
    assert!(queue.next().is_none());
}

#[test]
fn an_account_that_cannot_be_true_is_no_answer() {
    for (total_ok, total_failures) in [(4, 0), (3, 1), (0, 4), (u64::MAX, 1)] {
        let accepted = Accepted { total_ok, total_failures, failures: Vec::new() };
        assert!(matches!(
            judge(Ok(Answer::Accepted(accepted)), 3),
            Judgement::Again { failure: Failure::NoAnswer(PostError::Nonsense(_)), .. }
        ));
    }
}

#[test]
fn counted_failures_are_searched_for() {
    let accepted =
        Accepted { total_ok: 2, total_failures: 1, failures: vec!["no author".to_owned()] };
    let Judgement::Settled(verdict) = judge(Ok(Answer::Accepted(accepted)), 3) else { panic!() };
    assert_eq!(verdict, Verdict::SomeTaken { reason: "no author".into() });
}

#[test]
fn only_an_answer_about_the_request_stops() {
    let other = |status| Answer::Other { status, detail: String::new(), retry_after: None };
    for status in [301, 308, 401, 403, 404, 405, 407] {
        assert!(matches!(judge(Ok(other(status)), 1), Judgement::Refused { .. }), "{status}");
    }
    assert!(matches!(judge(Ok(Answer::BadRequest(String::new())), 1), Judgement::Refused { .. }));
    for status in [201, 204, 408, 425, 429, 500, 502, 503, 504] {
        assert!(matches!(judge(Ok(other(status)), 1), Judgement::Again { .. }), "{status}");
    }
}

/// Kinds whose outcome never depends on their neighbours.
fn culprits() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Good),
        1 => select(vec![Invalid, TooLarge, Undecodable]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn outcomes_are_exact_for_any_culprits(kinds in vec(culprits(), 1..60)) {
        check(&kinds, Model::Binary);
        check(&kinds, Model::Download);
    }

    #[test]
    fn outcomes_are_exact_where_nearly_all_are_culprits(
        kinds in vec(select(vec![Good, Invalid, TooLarge, Undecodable]), 1..60),
    ) {
        check(&kinds, Model::Binary);
    }

    #[test]
    fn no_good_event_is_lost_among_unwanted_ones_and_an_invalid_one(
        mut kinds in vec(
            select(vec![Good, AgedOff, Dropped, TooLarge, Undecodable]), 1..60,
        ),
        invalid in any::<prop::sample::Index>(),
        counts in any::<bool>(),
    ) {
        let at = invalid.index(kinds.len());
        kinds[at] = Invalid;
        let mut dispatcher = Model12::new(&kinds, counts);
        let outcomes = dispatcher.run(Model::Binary);
        for ((kind, outcome), published) in kinds.iter().zip(&outcomes).zip(&dispatcher.published) {
            match kind {
                Good => prop_assert!(*outcome == Delivery::Delivered && *published > 0),
                TooLarge | Undecodable => {
                    prop_assert!(matches!(outcome, Delivery::Rejected(_)), "{outcome:?}");
                }
                // Among good ones the dispatcher counts them as taken.
                AgedOff | Dropped => {
                    prop_assert!(!matches!(outcome, Delivery::Rejected(_)), "{outcome:?}");
                }
                Invalid => prop_assert!(*outcome != Delivery::Delivered),
            }
        }
        prop_assert!(dispatcher.posts <= most_posts(kinds.len()).max(1));
    }
}
