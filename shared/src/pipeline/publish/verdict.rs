//! Decides what an answer means for each event of a post, and which posts follow from it. The functions are pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::azul::{
    answer::{Accepted, Answer},
    avro,
    dispatcher::{Model, PostError},
    event::ModelVersion,
};

use super::{Delivery, Failure};

/// Decision about the result of a post.
#[derive(Debug)]
pub(super) enum Judgement {
    /// The answer gives a verdict on the events.
    Settled(Verdict),
    /// An operator must add a source to Azul.
    UnregisteredSource { name: Option<String>, detail: String },
    /// The request was refused, so an operator must check the connection to the dispatcher.
    Refused { status: u16, advice: &'static str, detail: String },
    /// The same post is to be sent again.
    Again { failure: Failure, retry_after: Option<Duration> },
}

/// Meaning of an answer for the events of its post.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All events are delivered.
    Delivered,
    /// The first `delivered` events are delivered and the next one is refused. The dispatcher did not look at the
    /// events behind it.
    RefusedAt { delivered: usize, reason: String },
    /// No event is published. The first event is invalid, or all are.
    Invalid { reason: String },
    /// No event is published, and at least one is at fault.
    NoneTaken { reason: String },
    /// Some events may be published, and at least one is at fault.
    SomeTaken { reason: String },
    /// No event is published. The first event, and all others before the first invalid one, are not wanted. At least
    /// one of them is older than its source keeps events.
    AgedOff { reason: String },
    /// No event is published. The first `dropped` events are not wanted; `None` if the answer does not count them.
    Filtered { reason: String, dropped: Option<usize> },
}

/// Judges the result of a post of `sent` events.
pub(super) fn judge(result: Result<Answer, PostError>, sent: usize) -> Judgement {
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => return Judgement::Again { failure: error.into(), retry_after: None },
    };
    Judgement::Settled(match answer {
        Answer::Accepted(accepted) => match accepted_of(accepted, sent) {
            Ok(verdict) => verdict,
            Err(lie) => {
                let failure = PostError::Nonsense(lie).into();
                return Judgement::Again { failure, retry_after: None };
            }
        },
        Answer::Undecodable(detail) => {
            Verdict::NoneTaken { reason: format!("it cannot be decoded (422): {detail}") }
        }
        Answer::BodyTooLarge(detail) => Verdict::NoneTaken {
            reason: format!("a gateway before the dispatcher finds it too large (413): {detail}"),
        },
        Answer::Invalid(detail) => Verdict::Invalid { reason: format!("invalid (425): {detail}") },
        Answer::AgedOff(detail) => Verdict::AgedOff { reason: format!("aged off (425): {detail}") },
        Answer::Filtered(filtered) => Verdict::Filtered {
            reason: format!("filtered by the dispatcher (425): {}", filtered.filters),
            dropped: filtered.dropped.and_then(|dropped| usize::try_from(dropped).ok()),
        },
        Answer::TooLarge(detail) => {
            Verdict::SomeTaken { reason: format!("too large (500): {detail}") }
        }
        Answer::UnregisteredTopic { source, detail } => {
            return Judgement::UnregisteredSource { name: source, detail };
        }
        Answer::BadRequest(detail) => return refused(400, detail),
        Answer::Other { status, detail, .. }
            if matches!(status, 301..=399 | 401 | 403 | 404 | 405 | 407) =>
        {
            return refused(status, detail);
        }
        Answer::Other { status, detail, retry_after } => {
            return Judgement::Again { failure: Failure::Answered { status, detail }, retry_after };
        }
    })
}

fn refused(status: u16, detail: String) -> Judgement {
    let advice = match status {
        300..=399 => "PLUGIN_EVENTS_URL leads elsewhere, so set it to the address where that ends",
        401 | 403 => {
            "posting events is not allowed, so look at what guards the way to PLUGIN_EVENTS_URL"
        }
        404 | 405 => {
            "PLUGIN_EVENTS_URL is not the base of a dispatcher (it knows POST /api/v2/event)"
        }
        407 => "the proxy wants other credentials, so look at HTTPS_PROXY and HTTP_PROXY",
        _ => "it takes no such request, so look at its version and at AZUL_MODEL_VERSION",
    };
    Judgement::Refused { status, advice, detail }
}

/// Returns the verdict of an answer with status 200. An error means that its counts are impossible.
fn accepted_of(accepted: Accepted, sent: usize) -> Result<Verdict, String> {
    let Accepted { total_ok, total_failures, failures } = accepted;
    let count = u64::try_from(sent).unwrap_or(u64::MAX);
    if total_ok.checked_add(total_failures).is_none_or(|all| all > count) {
        return Err(format!("{total_ok} taken and {total_failures} refused of {sent} sent"));
    }
    if total_ok == count {
        return Ok(Verdict::Delivered);
    }
    let reason = match failures.into_iter().next() {
        Some(failure) if !failure.is_empty() => failure,
        _ => "dropped without a reason".to_owned(),
    };
    Ok(match usize::try_from(total_ok) {
        // No known dispatcher counts failures of Avro. One that did would continue behind an invalid event, so any of
        // the events may be the refused one.
        Ok(delivered) if total_failures == 0 => Verdict::RefusedAt { delivered, reason },
        _ => Verdict::SomeTaken { reason },
    })
}

/// Indices of events that are to be posted together.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) events: Vec<usize>,
    /// Whether the newest event was taken out of this post and posted alone before.
    without_newest: bool,
}

/// The remaining posts, and the outcomes so far.
#[derive(Debug)]
pub(super) struct Queue<'a> {
    model: Model,
    version: ModelVersion,
    events: &'a [Vec<u8>],
    /// Source and source time of each event that has them; read when something is aged off.
    ages: Option<Vec<Option<(String, Timestamp)>>>,
    /// For each source, the time of the newest event that was aged off alone, and the dispatcher's message.
    aged_off: BTreeMap<String, (Timestamp, String)>,
    /// Remaining posts; the next one is at the end.
    posts: Vec<Post>,
    pub(super) outcomes: Vec<Option<Delivery>>,
}

impl<'a> Queue<'a> {
    /// Begins with one post of all events, except those that are too large.
    pub(super) fn new(
        model: Model,
        version: ModelVersion,
        events: &'a [Vec<u8>],
        max_event_bytes: usize,
    ) -> Self {
        let outcomes: Vec<_> = events
            .iter()
            .map(|event| {
                (event.len() > max_event_bytes).then(|| {
                    Delivery::Rejected(format!(
                        "too large: {} bytes, and MAX_EVENT_BYTES is {max_event_bytes}",
                        event.len()
                    ))
                })
            })
            .collect();
        let open = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_none());
        let first = open.map(|(at, _)| at).collect();
        let (ages, aged_off) = (None, BTreeMap::new());
        let mut queue =
            Self { model, version, events, ages, aged_off, posts: Vec::new(), outcomes };
        queue.push(first);
        queue
    }

    /// Returns the next post, which holds at least one event.
    pub(super) fn next(&mut self) -> Option<Post> {
        while let Some(mut post) = self.posts.pop() {
            post.events.retain(|&at| match self.known_aged_off(at) {
                Some(reason) => {
                    self.set(&[at], &Delivery::Filtered(reason));
                    false
                }
                None => true,
            });
            if !post.events.is_empty() {
                return Some(post);
            }
        }
        None
    }

    /// Applies the verdict on a post. Each event of the post gets its outcome, or is in exactly one of the new posts.
    /// New posts are smaller, so the process ends.
    #[expect(clippy::match_same_arms, reason = "the order of the arms is the order of the rules")]
    pub(super) fn apply(&mut self, post: Post, verdict: Verdict) {
        let Post { mut events, without_newest } = post;
        let alone = events.len() <= 1;
        match verdict {
            Verdict::Delivered => self.set(&events, &Delivery::Delivered),
            Verdict::RefusedAt { reason, .. }
            | Verdict::Invalid { reason }
            | Verdict::NoneTaken { reason }
            | Verdict::SomeTaken { reason }
                if alone =>
            {
                self.set(&events, &Delivery::Rejected(reason));
            }
            Verdict::RefusedAt { delivered, .. } => {
                let mut rest = events.split_off(delivered.min(events.len()));
                self.set(&events, &Delivery::Delivered);
                let behind = rest.split_off(1.min(rest.len()));
                self.push(behind);
                // The refused event is posted alone to get its own reason.
                self.push(rest);
            }
            // Usually only the first event is at fault, because publishing ends there. If all are, posting halves takes
            // fewer bytes than posting one by one.
            Verdict::Invalid { .. } => {
                let mut behind = events.split_off(1);
                let last_half = behind.split_off(behind.len() / 2);
                self.push(last_half);
                self.push(behind);
                self.push(events);
            }
            // A download event is published again each time, so each one is posted only once more, alone.
            Verdict::SomeTaken { .. } if self.model != Model::Binary => {
                while let Some(event) = events.pop() {
                    self.push(vec![event]);
                }
            }
            Verdict::NoneTaken { .. } | Verdict::SomeTaken { .. } => self.push_halves(events),
            Verdict::AgedOff { reason } if alone => {
                if let Some((source, time)) = events.first().and_then(|&at| self.age(at)) {
                    self.aged_off.insert(source, (time, reason.clone()));
                }
                self.set(&events, &Delivery::Filtered(reason));
            }
            // The answer does not name an invalid event behind unwanted ones, nor does it say anything about the events
            // behind that. But events of a source expire by their source time. If the newest event alone is aged off,
            // no other event of its source can be delivered.
            Verdict::AgedOff { .. } => match self.newest(&events) {
                Some(newest) if !without_newest => {
                    events.retain(|&at| at != newest);
                    self.posts.push(Post { events, without_newest: true });
                    self.push(vec![newest]);
                }
                _ => self.push_halves(events),
            },
            Verdict::Filtered { reason, dropped } if alone || dropped == Some(events.len()) => {
                self.set(&events, &Delivery::Filtered(reason));
            }
            // The event behind the dropped ones is invalid.
            Verdict::Filtered { dropped: Some(dropped), .. } if dropped < events.len() => {
                let mut rest = events.split_off(dropped);
                let behind = rest.split_off(1);
                self.push(behind);
                self.push(rest);
                self.push(events);
            }
            Verdict::Filtered { .. } => self.push_halves(events),
        }
    }

    fn push(&mut self, events: Vec<usize>) {
        if !events.is_empty() {
            self.posts.push(Post { events, without_newest: false });
        }
    }

    fn push_halves(&mut self, mut events: Vec<usize>) {
        let last_half = events.split_off(events.len() / 2);
        self.push(last_half);
        self.push(events);
    }

    /// Returns source and source time of an event. Only events of model `binary` are known to age off by them.
    fn age(&mut self, at: usize) -> Option<(String, Timestamp)> {
        let (model, version, events) = (self.model, self.version, self.events);
        let ages = self.ages.get_or_insert_with(|| {
            let age = |event: &Vec<u8>| {
                let mut message = Vec::new();
                avro::bulk(version, &[event], &mut message);
                let source = avro::decode_binary_bulk(&message).ok()?.pop()?.source;
                Some((source.name, source.timestamp))
            };
            events
                .iter()
                .map(|event| if model == Model::Binary { age(event) } else { None })
                .collect()
        });
        ages.get(at)?.clone()
    }

    fn newest(&mut self, events: &[usize]) -> Option<usize> {
        let aged = events.iter().filter_map(|&at| Some((self.age(at)?.1, at)));
        aged.max().map(|(_, at)| at)
    }

    /// Returns the dispatcher's message if it aged off an event of the same source that is at least as new.
    fn known_aged_off(&mut self, at: usize) -> Option<String> {
        if self.aged_off.is_empty() {
            return None;
        }
        let (source, time) = self.age(at)?;
        let (newest, reason) = self.aged_off.get(&source)?;
        (time <= *newest).then(|| reason.clone())
    }

    fn set(&mut self, events: &[usize], delivery: &Delivery) {
        for &at in events {
            if let Some(outcome) = self.outcomes.get_mut(at) {
                *outcome = Some(delivery.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
