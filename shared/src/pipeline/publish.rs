//! Events go to the dispatcher, and each comes back with its outcome.
//!
//! Promise: an event is *delivered* only where the dispatcher acknowledged it, *rejected* only where the
//! dispatcher refused this very event, and whatever is not certain ends in an error that leaves every
//! position where it is. SEMANTICS.md lists the outcome of each answer; the module `verdict` decides it.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use super::RunLimits;
use crate::{
    azul::{
        avro,
        dispatcher::{BodyFormat, Dispatcher, Model, PostError},
        event::{Author, FeatureDescriptor, ModelVersion, PluginEntity, PluginEvent, StringMap},
    },
    errors::chain,
    http_client::Backoff,
};
use verdict::{Judgement, Queue, Verdict};

mod verdict;

/// How the publisher works.
#[derive(Clone, Copy, Debug)]
pub struct PublisherOptions {
    /// The model version that the events are encoded in.
    pub model_version: ModelVersion,
    /// A larger event is rejected and never sent (`MAX_EVENT_BYTES`).
    pub max_event_bytes: usize,
    /// Longest wait before the second attempt; doubles with each.
    pub min_backoff: Duration,
    /// Where the doubling ends.
    pub max_backoff: Duration,
}

impl PublisherOptions {
    /// The usual limits: half a second to half a minute between attempts.
    pub fn new(model_version: ModelVersion, max_event_bytes: usize) -> Self {
        Self {
            model_version,
            max_event_bytes,
            min_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
        }
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The dispatcher acknowledged it. An aged-off or filtered event that stood among wanted ones is
    /// counted here too: the dispatcher counts it as taken and names it nowhere.
    Delivered,
    /// The dispatcher does not want it, with its reason: aged off, or dropped by a filter.
    Filtered(String),
    /// The dispatcher will never take it, with its reason.
    Rejected(String),
}

/// Why the last attempt did not settle a post.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No usable answer.
    #[error(transparent)]
    NoAnswer(#[from] PostError),
    /// An answer that says nothing of the events.
    #[error("the dispatcher answered {status}: {detail}")]
    Answered {
        /// HTTP status.
        status: u16,
        /// The answer's words.
        detail: String,
    },
    /// The deadline passed before any answer.
    #[error("the time was up before the dispatcher answered")]
    OutOfTime,
}

/// Why no event can be published until an operator has done something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// Azul's source configuration lacks a source.
    #[error(
        "Azul does not know the source of these events: add the source {} to Azul's source configuration (names are case-sensitive). The dispatcher said: {detail}",
        one_of(names)
    )]
    UnregisteredSource {
        /// The source that the dispatcher named, else all that were in the post.
        names: Vec<String>,
        /// The dispatcher's words.
        detail: String,
    },
    /// The request itself is refused, whatever the events are.
    #[error("the dispatcher answered {status}: {advice}. It said: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What to look at.
        advice: &'static str,
        /// The answer's words.
        detail: String,
    },
    /// The plugin's registration is not taken.
    #[error("the dispatcher does not take the registration of this plugin: {reason}")]
    Unregistrable {
        /// The dispatcher's reason.
        reason: String,
    },
}

/// Publishing ended before every event had its outcome. No position may move past these events.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Trying again is useless until an operator has done something.
    #[error("{reason}")]
    Stop {
        /// What to do.
        reason: StopReason,
        /// What is known of each event; `None`: it may have been published or not.
        outcomes: Vec<Option<Delivery>>,
    },
    /// The process was asked to end before every event had its outcome.
    #[error("asked to stop before the dispatcher had acknowledged everything")]
    Interrupted {
        /// What is known of each event; `None`: it may have been published or not.
        outcomes: Vec<Option<Delivery>>,
    },
    /// The deadline came first: try again later.
    #[error("publishing was not finished in time ({attempts} attempts at the last post)")]
    Failed {
        /// Attempts at the post that could not be settled; 0 where the deadline had passed before.
        attempts: u32,
        /// What the last of them came to.
        #[source]
        last: Failure,
        /// What is known of each event; `None`: it may have been published or not.
        outcomes: Vec<Option<Delivery>>,
    },
}

/// Publishes events at one dispatcher.
#[derive(Clone, Debug)]
pub struct Publisher {
    dispatcher: Dispatcher,
    options: PublisherOptions,
}

/// How the attempts at one post ended, short of a verdict.
enum Ended {
    Stop(StopReason),
    Interrupted,
    Failed { attempts: u32, last: Failure },
}

impl Publisher {
    /// A publisher at this dispatcher.
    pub fn new(dispatcher: Dispatcher, options: PublisherOptions) -> Self {
        Self { dispatcher, options }
    }

    /// Publishes events of one model, each given as its own Avro bytes without framing, in as few posts
    /// as the answers allow: one where all goes well, and never more than 2·n·log₂(n)+n that the
    /// dispatcher answers. Gives an outcome an event, in their order. Tries until the deadline or
    /// until it is asked to stop, else for ever.
    ///
    /// Repeats: a binary event that was published before overwrites itself. A download event is a new
    /// request each time, so it is sent again only where nothing says whether it arrived (no answer, a
    /// broker's failure, one too large among the posted).
    ///
    /// # Errors
    /// [`PublishError`]; nothing is rejected by it.
    pub async fn publish(
        &self,
        model: Model,
        events: &[Vec<u8>],
        limits: &RunLimits,
    ) -> Result<Vec<Delivery>, PublishError> {
        let PublisherOptions { model_version, max_event_bytes, .. } = self.options;
        let mut queue = Queue::new(model, model_version, events, max_event_bytes);
        while let Some(post) = queue.next() {
            let sent: Vec<&[u8]> =
                post.events.iter().filter_map(|&at| events.get(at)).map(Vec::as_slice).collect();
            match self.settle(model, &sent, limits).await {
                Ok(verdict) => queue.apply(post, verdict),
                Err(Ended::Stop(reason)) => {
                    return Err(PublishError::Stop { reason, outcomes: queue.outcomes });
                }
                Err(Ended::Interrupted) => {
                    return Err(PublishError::Interrupted { outcomes: queue.outcomes });
                }
                Err(Ended::Failed { attempts, last }) => {
                    return Err(PublishError::Failed { attempts, last, outcomes: queue.outcomes });
                }
            }
        }
        // The queue is empty only once each event has its outcome.
        Ok(queue.outcomes.into_iter().flatten().collect())
    }

    /// Tells Azul of this plugin (see [`register_event`]); needed once a process start. Tries again as
    /// [`Self::publish`] does.
    ///
    /// # Errors
    /// [`PublishError`]; a refused registration is [`StopReason::Unregistrable`].
    pub async fn register(
        &self,
        plugin: &PluginEvent,
        limits: &RunLimits,
    ) -> Result<(), PublishError> {
        let mut event = Vec::new();
        avro::encode_plugin(plugin, self.options.model_version, &mut event);
        let outcomes = self.publish(Model::Plugin, &[event], limits).await?;
        match outcomes.into_iter().next() {
            Some(Delivery::Rejected(reason)) => Err(PublishError::Stop {
                reason: StopReason::Unregistrable { reason },
                outcomes: Vec::new(),
            }),
            // Azul does without it, and its operators filtered it for a reason.
            Some(Delivery::Filtered(reason)) => {
                tracing::warn!(reason, "the dispatcher filtered the plugin's registration");
                Ok(())
            }
            Some(Delivery::Delivered) | None => Ok(()),
        }
    }

    /// Posts until an answer says what became of these events.
    async fn settle(
        &self,
        model: Model,
        sent: &[&[u8]],
        limits: &RunLimits,
    ) -> Result<Verdict, Ended> {
        let mut body = Vec::new();
        avro::bulk(self.options.model_version, sent, &mut body);
        let body = Bytes::from(body);
        let (events, size_bytes) = (sent.len(), body.len());
        let mut backoff = Backoff::new(self.options.min_backoff, self.options.max_backoff);
        let mut last = None;
        let mut attempts = 0_u32;
        loop {
            let late = |last: Option<Failure>, attempts| Ended::Failed {
                attempts,
                last: last.unwrap_or(Failure::OutOfTime),
            };
            if limits.stop.is_cancelled() {
                return Err(Ended::Interrupted);
            }
            if limits.reached() {
                return Err(late(last, attempts));
            }
            attempts = attempts.saturating_add(1);
            let started = Instant::now();
            let post = self.dispatcher.post(model, body.clone(), BodyFormat::Avro);
            let Some(result) = limits.run_until(post).await else {
                let stopped = limits.stop.is_cancelled();
                return Err(if stopped { Ended::Interrupted } else { late(last, attempts) });
            };
            let duration_ms = millis(started.elapsed());
            match &result {
                Ok(answer) => {
                    let status = answer.status();
                    tracing::debug!(%model, events, size_bytes, status, duration_ms, "posted");
                }
                Err(error) => {
                    tracing::debug!(%model, events, size_bytes, %error, duration_ms, "posted");
                }
            }
            let (failure, retry_after) = match verdict::judge(result, sent.len()) {
                Judgement::Settled(verdict) => return Ok(verdict),
                Judgement::UnregisteredSource { name, detail } => {
                    let names = name.map_or_else(|| sources(model, &body), |name| vec![name]);
                    return Err(Ended::Stop(StopReason::UnregisteredSource { names, detail }));
                }
                Judgement::Refused { status, advice, detail } => {
                    return Err(Ended::Stop(StopReason::Refused { status, advice, detail }));
                }
                Judgement::Again { failure, retry_after } => (failure, retry_after),
            };
            let wait = backoff.next_wait(retry_after);
            let reason = chain(&failure);
            if limits.deadline.is_some_and(|deadline| deadline <= Instant::now() + wait) {
                tracing::warn!(%model, events, attempt = attempts, reason, "a post failed, and no time is left");
                return Err(late(Some(failure), attempts));
            }
            let wait_ms = millis(wait);
            tracing::warn!(%model, events, attempt = attempts, reason, wait_ms, "a post failed and is tried again");
            last = Some(failure);
            limits.sleep(wait).await;
        }
    }
}

/// The event by which a plugin tells Azul of itself: every feature that it can ever emit.
pub fn register_event(
    author: &Author,
    contact: &str,
    description: &str,
    descriptors: Vec<FeatureDescriptor>,
    now: Timestamp,
    version: ModelVersion,
) -> PluginEvent {
    PluginEvent {
        model_version: version.number(),
        kafka_key: String::new(),
        timestamp: now,
        author: author.clone(),
        entity: PluginEntity {
            name: author.name.clone(),
            version: author.version.clone(),
            category: author.category.clone(),
            contact: contact.to_owned(),
            description: description.to_owned(),
            features: descriptors,
            security: author.security.clone(),
            config: StringMap::new(),
        },
    }
}

/// The sources in a body of ours, in order of name.
fn sources(model: Model, body: &[u8]) -> Vec<String> {
    let names: Vec<String> = match model {
        Model::Binary => avro::decode_binary_bulk(body)
            .unwrap_or_default()
            .into_iter()
            .map(|event| event.source.name)
            .collect(),
        Model::Download => avro::decode_download_bulk(body)
            .unwrap_or_default()
            .into_iter()
            .map(|event| event.source.name)
            .collect(),
        // The dispatcher splits the results off and publishes them as binary events.
        Model::Status => avro::decode_status_bulk(body)
            .unwrap_or_default()
            .into_iter()
            .flat_map(|event| event.entity.results)
            .map(|event| event.source.name)
            .collect(),
        Model::Plugin => Vec::new(),
    };
    names.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn one_of(names: &[String]) -> String {
    if names.is_empty() {
        return "that it names".to_owned();
    }
    format!("`{}`", names.join("` or `"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
