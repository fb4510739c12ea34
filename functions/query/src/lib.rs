//! The job of `query`: looks up binaries in VirusTotal that Azul got elsewhere, and posts the results to Azul.
//!
//! Events come by webhook or by polling the dispatcher. A wanted event waits in the inbox until a worker has looked it
//! up and the dispatcher has taken the answer. [`Query`] depends on neither Lambda nor the command line.

use std::sync::Arc;

use async_trait::async_trait;
use azul_vt::{
    azul::{
        dispatcher::Model,
        event::{BinaryEvent, binary_action},
    },
    http_client::HttpSetupError,
    mapping::{self, HandlerSet, Mapper, MapperOptions, UnknownHandler},
    pipeline::{RunLimits, assemble},
    settings::{LookupSettings, Settings},
    store::{
        Clock, Store, StoreError,
        failures::Subject,
        inbox::{Item, Queue},
    },
    tasks::{EventFunction, TaskContext, TaskSpec, Unposted},
    virustotal::VirusTotal,
    webhook::receive::Decide,
    worker::{Disposition, Work},
};
use jiff::SignedDuration;
use tokio::time::Instant;

pub mod answer;
mod look_up;
pub mod wanted;

use answer::{Answers, Found, Reply};
use look_up::Looked;
use wanted::{Sources, Wanted};

/// The function's name.
pub const NAME: &str = "query";
/// Time in which all tasks that are taken should be done. The dispatcher counts a task as lost after half an hour.
const TASK_TIME: SignedDuration = SignedDuration::from_mins(15);
/// Most items that wait in the inbox before no more events are polled, whatever the budget.
const MAX_WAITING: u64 = 5_000;

/// Reasons why `query` cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// HANDLERS names a handler that does not exist.
    #[error("HANDLERS: {0}")]
    Handlers(#[from] UnknownHandler),
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// `LOOKUP_SOURCES` is not set.
    #[error(
        "LOOKUP_SOURCES is not set: name the Azul sources whose binaries are looked up, separated by commas, or * for all"
    )]
    NoSources,
    /// `VIRUSTOTAL_APIKEY` is not set.
    #[error("VIRUSTOTAL_APIKEY is not set: set it to the API key that files are looked up with")]
    NoKey,
}

/// Everything that looking up needs.
pub struct Query {
    common: TaskContext,
    virustotal: VirusTotal,
    answers: Answers,
    wanted: Arc<Wanted>,
}

impl Query {
    /// Builds `query` from the settings. Sends no request.
    ///
    /// # Errors
    /// [`SetupError`] if a setting is missing or cannot be used.
    pub fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let lookup = &settings.lookup;
        let sources = if lookup.sources.contains("*") {
            Sources::All
        } else if lookup.sources.is_empty() {
            return Err(SetupError::NoSources);
        } else {
            Sources::Named(lookup.sources.clone())
        };
        if settings.virustotal_apikey.is_none() {
            return Err(SetupError::NoKey);
        }
        let mapper = Mapper::new(MapperOptions {
            handlers: HandlerSet::parse(&settings.handlers)?,
            model_version: settings.model_version,
            author: answer::author(),
            source: settings.load_source.clone(),
            max_age: None,
        });
        let answers = Answers {
            mapper,
            model_version: settings.model_version,
            max_event_bytes: settings.max_event_bytes,
        };
        let about = TaskSpec {
            queue: Queue::Query,
            author: answer::author(),
            description: "Looks binaries up in VirusTotal that Azul got elsewhere.",
            features: mapping::descriptors(),
            model: Model::Binary,
            sources: match &sources {
                Sources::All => <_>::default(),
                Sources::Named(names) => names.clone(),
            },
            actions: &[binary_action::SOURCED, binary_action::EXTRACTED],
            most_waiting: capacity(lookup),
        };
        let wanted = Wanted { sources, formats: lookup.formats.clone(), max_size: lookup.max_size };
        Ok(Self {
            virustotal: assemble::virustotal(&settings)?,
            answers,
            wanted: Arc::new(wanted),
            common: TaskContext::new(settings, store, clock, about)?,
        })
    }

    /// Posts a reply. `Err` says how the item ends if the reply is not posted.
    async fn post(&self, reply: Reply, limits: &RunLimits) -> Result<(), Disposition> {
        let mut bytes = Vec::new();
        let version = self.common.settings.model_version;
        let model = match &reply {
            Reply::Nothing(_) => return Ok(()),
            Reply::Status(status) => {
                azul_vt::azul::avro::encode_status(status, version, &mut bytes);
                Model::Status
            }
            Reply::Mapped(event) => {
                azul_vt::azul::avro::encode_binary(event, version, &mut bytes);
                Model::Binary
            }
        };
        self.common.post(model, bytes, limits).await.or_else(|unposted| match unposted {
            Unposted::Unwanted(_) => Ok(()),
            Unposted::Refused(reason) => Err(Disposition::Bury(reason)),
            // All look-ups of this source stop, because each would cost a request and its answer could not be posted.
            Unposted::UnknownSource(reason) => Err(Disposition::Stop(reason)),
            Unposted::Disposition(after) => Err(after),
        })
    }
}

/// Returns how many items the request budget lets through in [`TASK_TIME`].
fn capacity(lookup: &LookupSettings) -> u64 {
    let most = lookup.windows.iter().map(|window| {
        let times = TASK_TIME.as_secs_f64() / window.length.as_secs_f64();
        // A window that is longer than `TASK_TIME` allows all of its requests at once.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let most = (f64::from(window.limit) * times.max(1.0)) as u64;
        most
    });
    most.min().unwrap_or(MAX_WAITING).clamp(1, MAX_WAITING)
}

#[async_trait]
impl EventFunction for Query {
    const NAME: &'static str = NAME;
    type Event = BinaryEvent;

    fn common(&self) -> &TaskContext {
        &self.common
    }

    fn decide(&self) -> Box<Decide<BinaryEvent>> {
        let wanted = Arc::clone(&self.wanted);
        Box::new(move |event| {
            let sha256 = wanted.sha256(&event)?;
            let mut input = answer::cut_down(event);
            input.entity.sha256 = sha256;
            serde_json::to_string(&input).map_err(|error| error.to_string())
        })
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        self.remove_old_reports().await
    }
}

/// Returns the file and source that a look-up is about.
fn subject(input: &BinaryEvent) -> Subject {
    let (sha256, source) = (input.entity.sha256.clone(), input.source.name.clone());
    Subject { sha256, source, category: String::new() }
}

#[async_trait]
impl Work for Query {
    async fn work(&self, item: &Item, limits: &RunLimits) -> Disposition {
        if limits.reached() {
            return Disposition::unbegun(limits);
        }
        let begun = Instant::now();
        let input: BinaryEvent = match serde_json::from_str(&item.body) {
            Ok(input) => input,
            Err(error) => return Disposition::Bury(format!("the item cannot be read: {error}")),
        };
        let looked = match self.look_up(&input.entity.sha256, item, limits).await {
            Ok(looked) => looked,
            Err(after) => return after,
        };
        let (found, end) = match &looked {
            Looked::Report(report) => (Found::Report(report), Disposition::Done),
            Looked::Unknown => (Found::Unknown, Disposition::Done),
            Looked::Failed(why) => (Found::Failed(why), Disposition::Bury(why.clone())),
        };
        let reply = self.answers.reply(&input, found, begun.elapsed(), self.common.clock.now());
        if let Err(after) = self.post(reply, limits).await {
            return after;
        }
        let Subject { sha256, source, .. } = subject(&input);
        match &looked {
            Looked::Report(_) => tracing::info!(sha256, source, "looked up"),
            Looked::Unknown => tracing::info!(sha256, source, "VirusTotal does not know the file"),
            Looked::Failed(reason) => tracing::warn!(sha256, source, reason, "the look-up failed"),
        }
        end
    }

    fn subject(&self, item: &Item) -> Subject {
        serde_json::from_str(&item.body).map(|input| subject(&input)).unwrap_or_default()
    }
}
