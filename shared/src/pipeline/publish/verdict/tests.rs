//! Tests the queue against a model of the dispatcher: every event gets the right outcome in a bounded number of posts,
//! whatever events are next to it.

use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;

use super::*;
use crate::azul::{answer::Filtered, event::BinaryEvent};

/// Treatment of an event by the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    AgedOff,
    Filtered,
    Invalid,
    /// Invalid, and as old as those that are aged off.
    InvalidOld,
    TooLarge,
    Undecodable,
}

use Kind::{AgedOff, Filtered as Dropped, Good, Invalid, InvalidOld, TooLarge, Undecodable};

/// Makes an event of a kind. Only its source time depends on the kind.
fn event(kind: Kind, at: usize) -> Vec<u8> {
    let day: Timestamp = match kind {
        Undecodable => return vec![0xff; 40],
        AgedOff | InvalidOld => "2020-01-01T00:00:00Z",
        Good | Dropped | Invalid | TooLarge => "2026-01-01T00:00:00Z",
    }
    .parse()
    .unwrap();
    // The times are neither in order nor all different.
    let time = day + SignedDuration::from_secs(i64::try_from(at * 7919 % 13).unwrap());
    let author = json!({"name": "a", "version": "1", "category": "plugin", "security": ""});
    let event: BinaryEvent = serde_json::from_value(json!({
        "model_version": 6, "author": author, "action": "mapped", "entity": {},
        "source": {"name": "virustotal", "timestamp": time, "path": []},
    }))
    .unwrap();
    let mut bytes = Vec::new();
    avro::encode_binary(&event, ModelVersion::V6, &mut bytes);
    bytes
}

/// A model of azul-dispatcher v12 for Avro, which counts the published events.
struct Model12 {
    kinds: Vec<Kind>,
    events: Vec<Vec<u8>>,
    published: Vec<u32>,
    /// Whether an answer of 200 counted the event as taken, published or dropped.
    taken: Vec<bool>,
    posts: usize,
    /// Whether the dispatcher's filters say how many events each of them dropped.
    counts: bool,
}

impl Model12 {
    fn new(kinds: &[Kind], counts: bool) -> Self {
        Self {
            kinds: kinds.to_vec(),
            events: kinds.iter().enumerate().map(|(at, kind)| event(*kind, at)).collect(),
            published: vec![0; kinds.len()],
            taken: vec![false; kinds.len()],
            posts: 0,
            counts,
        }
    }

    fn post(&mut self, events: &[usize]) -> Answer {
        self.posts += 1;
        let kinds: Vec<Kind> = events.iter().map(|&at| self.kinds[at]).collect();
        if kinds.contains(&Undecodable) {
            return Answer::Undecodable("no schema fits".into());
        }
        let invalid = |kind: &Kind| matches!(kind, Invalid | InvalidOld);
        let decoded = kinds.iter().position(invalid).unwrap_or(kinds.len());
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
        for &at in &events[..decoded] {
            self.taken[at] = true;
        }
        let total_ok = u64::try_from(decoded).unwrap();
        Answer::Accepted(Accepted { total_ok, ..Accepted::default() })
    }

    /// Publishes all events and returns their outcomes.
    fn run(&mut self, model: Model) -> Vec<Delivery> {
        let events = self.events.clone();
        let mut queue = Queue::new(model, ModelVersion::V6, &events, usize::MAX);
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

/// Returns whether an event of a kind may have an outcome. `taken` means that an answer of 200 counted the event as
/// taken; no answer says more about unwanted events among wanted ones.
fn deserves(kind: Kind, outcome: &Delivery, taken: bool) -> bool {
    match kind {
        Good => *outcome == Delivery::Delivered,
        AgedOff | Dropped => match outcome {
            Delivery::Delivered => taken,
            Delivery::Filtered(_) => true,
            Delivery::Rejected(_) => false,
        },
        Invalid | TooLarge | Undecodable => matches!(outcome, Delivery::Rejected(_)),
        // The event is too old, whatever else is wrong with it.
        InvalidOld => *outcome != Delivery::Delivered,
    }
}

/// Returns the largest allowed number of posts: 2·n·log₂(n)+n, rounded down.
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

fn check(kinds: &[Kind], model: Model, counts: bool) -> usize {
    let mut dispatcher = Model12::new(kinds, counts);
    let outcomes = dispatcher.run(model);
    for (at, (kind, outcome)) in kinds.iter().zip(&outcomes).enumerate() {
        let deserved = deserves(*kind, outcome, dispatcher.taken[at]);
        assert!(deserved, "event {at} of {kinds:?} is {outcome:?}");
        assert_eq!(*kind == Good, dispatcher.published[at] > 0, "event {at} of {kinds:?}");
    }
    assert!(dispatcher.posts <= most_posts(kinds.len()).max(1), "{} posts", dispatcher.posts);
    dispatcher.posts
}

#[test]
fn one_culprit_costs_few_posts() {
    assert_eq!(check(&with_culprits(50, &[]), Model::Binary, true), 1);
    assert_eq!(check(&with_culprits(50, &[(17, Invalid)]), Model::Binary, true), 3);
    assert_eq!(check(&with_culprits(50, &[(0, Invalid)]), Model::Binary, true), 4);
    assert_eq!(check(&with_culprits(50, &[(49, Invalid)]), Model::Binary, true), 2);
    assert!(check(&with_culprits(50, &[(17, TooLarge)]), Model::Binary, true) <= 13);
    assert!(check(&with_culprits(50, &[(17, Undecodable)]), Model::Binary, true) <= 13);
    assert_eq!(check(&[AgedOff; 50], Model::Binary, true), 2);
    assert_eq!(check(&[Dropped; 50], Model::Binary, true), 1);
    assert_eq!(check(&[AgedOff], Model::Binary, true), 1);
}

#[test]
fn unwanted_events_do_not_hide_what_follows_an_invalid_one() {
    let mut kinds = vec![AgedOff, Dropped, Invalid];
    kinds.extend([Good; 10]);
    check(&kinds, Model::Binary, true);
    // Unwanted events between two invalid ones do not hide anything either.
    kinds.extend([Invalid, Dropped, AgedOff]);
    check(&kinds, Model::Binary, true);
}

#[test]
fn outcomes_are_exact_for_every_small_batch() {
    const KINDS: [Kind; 5] = [Good, AgedOff, Dropped, Invalid, InvalidOld];
    for size in 1..=6_u32 {
        for number in 0..KINDS.len().pow(size) {
            let digit = |place| KINDS[number / KINDS.len().pow(place) % KINDS.len()];
            let kinds: Vec<Kind> = (0..size).map(digit).collect();
            for counts in [true, false] {
                check(&kinds, Model::Binary, counts);
            }
        }
    }
}

#[test]
fn a_download_request_is_published_at_most_twice() {
    let kinds = with_culprits(50, &[(3, TooLarge), (17, TooLarge), (40, Invalid)]);
    let mut dispatcher = Model12::new(&kinds, true);
    dispatcher.run(Model::Download);
    assert!(dispatcher.published.iter().all(|n| *n <= 2));
    // Without an event that is too large, each event is published exactly once.
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
    let mut queue = Queue::new(Model::Download, ModelVersion::V6, &events, 10);
    assert_eq!(queue.next().unwrap().events, [0, 2]);
    assert!(queue.next().is_none());
    assert!(matches!(queue.outcomes[1], Some(Delivery::Rejected(_))));
    let mut queue = Queue::new(Model::Download, ModelVersion::V6, &events[1..2], 10);
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
        check(&kinds, Model::Binary, true);
        check(&kinds, Model::Download, true);
    }

    #[test]
    fn outcomes_are_exact_where_nearly_all_are_culprits(
        kinds in vec(select(vec![Good, Invalid, TooLarge, Undecodable]), 1..60),
    ) {
        check(&kinds, Model::Binary, true);
    }

    #[test]
    fn outcomes_are_exact_whatever_stands_side_by_side(
        kinds in vec(
            select(vec![Good, AgedOff, Dropped, Invalid, InvalidOld, TooLarge, Undecodable]), 1..60,
        ),
        counts in any::<bool>(),
    ) {
        check(&kinds, Model::Binary, counts);
    }

    #[test]
    fn outcomes_are_exact_where_nearly_all_are_unwanted(
        mut kinds in vec(select(vec![AgedOff, Dropped]), 3..60),
        others in vec((any::<prop::sample::Index>(), select(vec![Good, Invalid, InvalidOld])), 1..5),
        counts in any::<bool>(),
    ) {
        for (place, kind) in others {
            let at = place.index(kinds.len());
            kinds[at] = kind;
        }
        check(&kinds, Model::Binary, counts);
    }
}
