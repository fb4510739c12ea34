//! Publishes events at the dispatcher and returns an outcome for each.
//!
//! An event is *delivered* only if the dispatcher acknowledged it, and *rejected* only if the dispatcher refused this
//! very event. Everything uncertain ends in an error that leaves every position unchanged. docs/semantics.md lists the
//! outcome of each answer; the module `verdict` decides it.

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

/// Options of the publisher.
#[derive(Clone, Copy, Debug)]
pub struct PublisherOptions {
    /// The model version that the events are encoded in.
    pub model_version: ModelVersion,
    /// Largest event in bytes (`MAX_EVENT_BYTES`). A larger one is rejected and never sent.
    pub max_event_bytes: usize,
    /// Longest wait before the second attempt. It doubles with each further one.
    pub min_backoff: Duration,
    /// Upper bound of the doubling wait.
    pub max_backoff: Duration,
}

impl PublisherOptions {
    /// Returns the default options: waits from half a second to half a minute between attempts.
    pub fn new(model_version: ModelVersion, max_event_bytes: usize) -> Self {
        Self {
            model_version,
            max_event_bytes,
            min_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
        }
    }
}

/// Outcome of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The dispatcher acknowledged the event. An aged-off or filtered event among wanted ones counts here too, because
    /// the dispatcher counts it as taken and does not name it.
    Delivered,
    /// The dispatcher does not want the event: it is aged off, or a filter dropped it. Holds the dispatcher's reason.
    Filtered(String),
    /// The dispatcher will never take the event. Holds the dispatcher's reason.
    Rejected(String),
}

/// Reason why the last attempt did not settle a post.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There was no usable answer.
    #[error(transparent)]
    NoAnswer(#[from] PostError),
    /// The answer says nothing about the events.
    #[error("the dispatcher answered {status}: {detail}")]
    Answered {
        /// HTTP status.
        status: u16,
        /// The answer's message.
        detail: String,
    },
    /// The deadline passed before any answer.
    #[error("the time was up before the dispatcher answered")]
    OutOfTime,
}

/// Reason why no event can be published until an operator has done something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// Azul's source configuration lacks a source.
    #[error(
        "Azul does not know the source of these events: add the source {} to Azul's source configuration (names are case-sensitive). The dispatcher said: {detail}",
        one_of(names)
    )]
    UnregisteredSource {
        /// The source that the dispatcher named, else all sources in the post.
        names: Vec<String>,
        /// The dispatcher's message.
        detail: String,
    },
    /// The request itself is refused, whatever the events are.
    #[error("the dispatcher answered {status}: {advice}. It said: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Advice for the operator.
        advice: &'static str,
        /// The answer's message.
        detail: String,
    },
    /// The dispatcher does not accept the plugin's registration.
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
        /// Reason, with advice for the operator.
        reason: StopReason,
        /// Outcome of each event; `None` if it may have been published or not.
        outcomes: Vec<Option<Delivery>>,
    },
    /// The process was asked to end before every event had its outcome.
    #[error("asked to stop before the dispatcher had acknowledged everything")]
    Interrupted {
        /// Outcome of each event; `None` if it may have been published or not.
        outcomes: Vec<Option<Delivery>>,
    },
    /// The deadline passed before every event had its outcome; try again later.
    #[error("publishing was not finished in time ({attempts} attempts at the last post)")]
    Failed {
        /// Number of attempts at the post that was not settled; 0 if the deadline had passed before.
        attempts: u32,
        /// Failure of the last attempt.
        #[source]
        last: Failure,
        /// Outcome of each event; `None` if it may have been published or not.
        outcomes: Vec<Option<Delivery>>,
    },
}

/// Publishes events at one dispatcher.
#[derive(Clone, Debug)]
pub struct Publisher {
    dispatcher: Dispatcher,
    options: PublisherOptions,
}

/// End of the attempts at one post without a verdict.
enum Ended {
    Stop(StopReason),
    Interrupted,
    Failed { attempts: u32, last: Failure },
}

impl Publisher {
    /// Makes a publisher for this dispatcher.
    pub fn new(dispatcher: Dispatcher, options: PublisherOptions) -> Self {
        Self { dispatcher, options }
    }

    /// Publishes events of one model and returns an outcome for each, in their order. Each event is given as its own
    /// Avro bytes without framing. Usually this takes one post, and never more than 2·n·log₂(n)+n posts that the
    /// dispatcher answers. Retries until the deadline or until the process is asked to stop; without these limits, for
    /// ever.
    ///
    /// A binary event that is published twice overwrites itself. A download event is a new request each time, so it is
    /// sent again only if nothing shows whether it arrived: there was no answer, the broker failed, or an event in the
    /// post was too large.
    ///
    /// # Errors
    /// [`PublishError`]. An error never means that an event is rejected.
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

    /// Registers this plugin at Azul (see [`register_event`]), which is needed once in each process. Retries as
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
            // Azul works without the registration, and its operators had a reason to filter it.
            Some(Delivery::Filtered(reason)) => {
                tracing::warn!(reason, "the dispatcher filtered the plugin's registration");
                Ok(())
            }
            Some(Delivery::Delivered) | None => Ok(()),
        }
    }

    /// Posts events until an answer shows their outcome.
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

/// Returns the event by which a plugin registers at Azul. It lists every feature that the plugin can ever emit.
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

/// Returns the sources of the events in a posted body, in order of name.
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
