//! Builds the pipeline and its parts from the settings.

use std::time::Instant;

use jiff::Timestamp;

use super::{
    Pipeline, RunLimits,
    publish::{PublishError, Publisher, PublisherOptions, register_event},
};
#[cfg(feature = "aws")]
use crate::store::aws;
use crate::{
    azul::{
        dispatcher::{Dispatcher, DispatcherOptions},
        event::{Author, PluginEvent},
    },
    errors::chain,
    http_client::HttpSetupError,
    mapping::{self, HandlerSet, Mapper, MapperOptions, UnknownHandler},
    selection::{Directory, Refresh, RuleErrors, RuleSource, Rules, Selector, SelectorOptions},
    settings::{RulesRoot, Settings},
    store::{Store, StoreError},
    virustotal::{VirusTotal, allowed_hosts::PublicNames},
};

/// Name of the author of mapped events from the feed. It is the Go plugin's, so that the events of both programs merge.
pub const FEED_AUTHOR: &str = "VirustotalFileFeed";

/// Reason why the pipeline cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// HANDLERS names a handler that does not exist.
    #[error("HANDLERS: {0}")]
    Handlers(#[from] UnknownHandler),
    /// The rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RuleErrors),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// The client of AWS cannot be built.
    #[error(transparent)]
    Aws(#[from] StoreError),
}

/// The author of feed events.
pub fn feed_author() -> Author {
    Author::new(FEED_AUTHOR, "plugin")
}

/// Returns the mapper that the settings describe, without an age limit if `ageless`.
///
/// # Errors
/// An unknown handler.
pub fn mapper(settings: &Settings, ageless: bool) -> Result<Mapper, UnknownHandler> {
    Ok(Mapper::new(MapperOptions {
        handlers: HandlerSet::parse(&settings.handlers)?,
        model_version: settings.model_version,
        author: feed_author(),
        source: settings.load_source.clone(),
        max_age: if ageless { None } else { settings.max_age },
    }))
}

/// Returns the options for download requests.
pub fn selector_options(settings: &Settings) -> SelectorOptions {
    SelectorOptions {
        author: feed_author(),
        model_version: settings.model_version,
        direct_link: settings.direct_link,
        max_download_bytes: settings.max_download_bytes,
    }
}

/// Returns a client of the dispatcher that the settings name.
///
/// # Errors
/// The HTTP client cannot be built.
pub fn dispatcher(settings: &Settings) -> Result<Dispatcher, HttpSetupError> {
    let client = crate::http_client::build(&settings.http)?;
    let options = DispatcherOptions::default();
    Ok(Dispatcher::new(client, settings.events_url.clone(), options).with_peers(&settings.peers))
}

/// Returns a client of the dispatcher's content store that the settings name.
///
/// # Errors
/// The HTTP client cannot be built.
pub fn content_store(settings: &Settings) -> Result<Dispatcher, HttpSetupError> {
    let client = crate::http_client::build(&settings.http)?;
    let options = DispatcherOptions::default();
    Ok(Dispatcher::new(client, settings.data_url.clone(), options).with_peers(&settings.peers))
}

/// Returns a client of VirusTotal's API as a running function uses it. It has an HTTP client of its own, which also
/// refuses names of non-public addresses ([`PublicNames`]).
///
/// # Errors
/// The HTTP client cannot be built.
pub fn virustotal(settings: &Settings) -> Result<VirusTotal, HttpSetupError> {
    let content = &settings.download.content_hosts;
    let client = crate::http_client::builder(&settings.http)?
        .dns_resolver(PublicNames::new(&settings.virustotal, &settings.http, content))
        .build()
        .map_err(HttpSetupError::Client)?;
    Ok(VirusTotal::new(client, settings.virustotal_options(), &settings.peers))
}

/// Returns the source of the rule files: a directory or a bucket.
///
/// # Errors
/// The client of AWS cannot be built.
#[cfg_attr(
    not(feature = "aws"),
    expect(clippy::unused_async, reason = "a bucket is read by awaiting it")
)]
pub async fn rule_source(
    settings: &Settings,
    root: &RulesRoot,
) -> Result<Box<dyn RuleSource>, StoreError> {
    Ok(match root {
        RulesRoot::Dir(dir) => Box::new(Directory(dir.clone())),
        #[cfg(feature = "aws")]
        RulesRoot::Bucket { bucket, prefix } => {
            // The future is boxed, because it is large and rarely used.
            let config = Box::pin(aws::config(&settings.http, &settings.peers)).await?;
            Box::new(aws::S3Rules::new(&config, bucket, prefix))
        }
        #[cfg(not(feature = "aws"))]
        RulesRoot::Bucket { .. } => {
            let _ = settings;
            return Err(crate::store::without_aws("reading the rules"));
        }
    })
}

/// Reloads the rules when their files change.
pub(super) struct RuleFollower {
    rules: Rules,
    options: SelectorOptions,
}

impl RuleFollower {
    /// Returns a selector with the new rules if they changed.
    pub(super) async fn refresh(&mut self) -> Option<Selector> {
        match self.rules.refresh(Instant::now()).await {
            Refresh::Unchanged => None,
            Refresh::Broken(errors) => {
                tracing::error!(error = %errors, "the rules cannot be read again; the old ones stay in force");
                None
            }
            Refresh::Reloaded(errors) => {
                for error in errors {
                    tracing::error!(error = %chain(&error), "a rule is passed over");
                }
                tracing::info!(rules = self.rules.current().len(), "the rules changed");
                Some(self.selector())
            }
        }
    }

    fn selector(&self) -> Selector {
        for warning in self.rules.current().warnings() {
            tracing::warn!("{warning}");
        }
        Selector::new(self.rules.current().clone(), self.options.clone())
    }
}

impl Pipeline {
    /// The pipeline that the settings describe. Reads the rules.
    ///
    /// # Errors
    /// See [`AssembleError`].
    pub async fn from_settings(settings: &Settings, store: Store) -> Result<Self, AssembleError> {
        let root = &settings.rules_root;
        let source = rule_source(settings, root).await?;
        let (rules, errors, missing) =
            Rules::open(source, settings.rules_lenient, Instant::now()).await?;
        for error in errors {
            tracing::error!(error = %chain(&error), "a rule is passed over");
        }
        if missing {
            tracing::info!(
                RULES_ROOT = %root,
                "no rule files are there: nothing is selected for download"
            );
        }
        let follower = RuleFollower { rules, options: selector_options(settings) };
        let selector = follower.selector();
        let options = PublisherOptions::new(settings.model_version, settings.max_event_bytes);
        let publisher = Publisher::new(dispatcher(settings)?, options);
        let mut pipeline =
            Self::new(settings, store, mapper(settings, false)?, publisher, selector);
        pipeline.follower = Some(tokio::sync::Mutex::new(follower));
        Ok(pipeline)
    }

    /// Registers this plugin at Azul, once in this pipeline's life. Does nothing if that is done already.
    ///
    /// # Errors
    /// The dispatcher does not accept the registration, or not in time. The next call tries again.
    pub async fn register(&self, now: Timestamp, limits: &RunLimits) -> Result<(), PublishError> {
        let register = async || self.publisher.register(&self.registration(now), limits).await;
        self.registered.get_or_try_init(register).await.copied()
    }

    fn registration(&self, now: Timestamp) -> PluginEvent {
        let description = "Makes Azul events of VirusTotal's file feed and asks for the samples that rules select.";
        let features = mapping::descriptors();
        register_event(
            &feed_author(),
            &self.contact,
            description,
            features,
            now,
            self.model_version,
        )
    }
}
