//! Secrets: the value of a variable, or an entry of AWS Secrets Manager that is read again now and then, so
//! that it can be rotated without a deploy.
//!
//! No error and no `Debug` shows a value; they name the setting and the entry.

use std::{fmt, sync::Arc, time::Duration};

use aws_sdk_secretsmanager::Client;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{Mutex, OnceCell},
    time::Instant,
};

use crate::{
    errors::chain,
    peer_text,
    settings::Settings,
    store::{StoreError, aws},
};

/// How long what was read of an entry counts: so long may a rotated secret be unknown here.
pub const TTL: Duration = Duration::from_mins(5);
/// When an entry that could not be read again is tried next; what was read before counts meanwhile.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Where a setting says that its secret is.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// In the variable itself.
    Value(SecretString),
    /// In the entry of this name or ARN.
    Entry(String),
}

/// A secret that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Secrets Manager did not give it.
    #[error("{setting}_SECRET: the entry `{entry}` of Secrets Manager cannot be read")]
    Unreadable {
        /// The setting whose secret it is.
        setting: &'static str,
        /// Name of the entry.
        entry: String,
        /// What the client said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is there, but not as text.
    #[error("{setting}_SECRET: the entry `{entry}` of Secrets Manager holds no text")]
    NoText {
        /// The setting whose secret it is.
        setting: &'static str,
        /// Name of the entry.
        entry: String,
    },
}

/// A secret, as it is at the moment. Cheap to clone; clones share what was read.
#[derive(Clone)]
pub struct Secret {
    setting: &'static str,
    source: Arc<Source>,
}

enum Source {
    Value(SecretString),
    Entry(Box<Entry>),
}

struct Entry {
    name: String,
    ttl: Duration,
    client: OnceCell<Client>,
    /// How AWS is reached, where there is no client yet.
    settings: Option<Settings>,
    /// What was read last, and until when it counts.
    read: Mutex<Option<(SecretString, Instant)>>,
}

impl Secret {
    /// The secret of `setting`, where `source` says; `None` where it is not set. Asks nobody yet.
    pub fn of(
        setting: &'static str,
        source: Option<&SecretSource>,
        settings: &Settings,
    ) -> Option<Self> {
        let source = match source? {
            SecretSource::Value(value) => Source::Value(value.clone()),
            SecretSource::Entry(name) => Source::Entry(Box::new(Entry {
                name: name.clone(),
                ttl: TTL,
                client: OnceCell::new(),
                settings: Some(settings.clone()),
                read: Mutex::default(),
            })),
        };
        Some(Self { setting, source: Arc::new(source) })
    }

    /// The entry `name`, asked for by `client`, and again when what it gave is `ttl` old.
    pub fn entry(setting: &'static str, name: &str, client: Client, ttl: Duration) -> Self {
        let source = Source::Entry(Box::new(Entry {
            name: name.to_owned(),
            ttl,
            client: OnceCell::new_with(Some(client)),
            settings: None,
            read: Mutex::default(),
        }));
        Self { setting, source: Arc::new(source) }
    }

    /// The value that a variable holds; `None` where it has to be asked for.
    pub fn fixed(&self) -> Option<&SecretString> {
        match &*self.source {
            Source::Value(value) => Some(value),
            Source::Entry(_) => None,
        }
    }

    /// The secret as it is now, without blanks around it.
    ///
    /// # Errors
    /// [`SecretError`], where it was never read: an entry that cannot be read again keeps its last value.
    pub async fn get(&self) -> Result<SecretString, SecretError> {
        let entry = match &*self.source {
            Source::Value(value) => return Ok(value.clone()),
            Source::Entry(entry) => entry,
        };
        // Whoever comes while somebody asks waits for the same answer.
        let mut read = entry.read.lock().await;
        if let Some((value, until)) = &*read
            && Instant::now() < *until
        {
            return Ok(value.clone());
        }
        // Boxed: the client's future is deep and large, and asked for rarely.
        match (Box::pin(self.ask(entry)).await, &mut *read) {
            (Ok(value), read) => {
                *read = Some((value.clone(), Instant::now() + entry.ttl));
                Ok(value)
            }
            (Err(error), Some((value, until))) => {
                tracing::warn!(
                    error = chain(&error),
                    "a secret is not read again; the last one counts"
                );
                *until = Instant::now() + RETRY_DELAY.min(entry.ttl);
                Ok(value.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The parts of a secret that holds several, separated by commas; none of them is empty.
    ///
    /// # Errors
    /// As [`get`](Secret::get).
    pub async fn list(&self) -> Result<Vec<SecretString>, SecretError> {
        Ok(split(&self.get().await?))
    }

    async fn ask(&self, entry: &Entry) -> Result<SecretString, SecretError> {
        let unreadable = |source| SecretError::Unreadable {
            setting: self.setting,
            entry: entry.name.clone(),
            source,
        };
        let connect = async || match &entry.settings {
            Some(settings) => aws::config(settings).await.map(|config| Client::new(&config)),
            None => Err(StoreError::Unavailable {
                action: "reaching AWS".into(),
                source: "it is not set up".into(),
            }),
        };
        let client =
            entry.client.get_or_try_init(connect).await.map_err(|e| unreadable(e.into()))?;
        let answer = client.get_secret_value().secret_id(&entry.name).send().await;
        let answer = answer.map_err(|e| unreadable(e.into()))?;
        let text = answer.secret_string.map(|text| SecretString::from(text.trim()));
        let text = text.filter(|text| !text.expose_secret().is_empty());
        text.iter().for_each(peer_text::hide);
        text.ok_or_else(|| SecretError::NoText { setting: self.setting, entry: entry.name.clone() })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = match &*self.source {
            Source::Value(_) => None,
            Source::Entry(entry) => Some(&entry.name),
        };
        f.debug_struct("Secret").field("setting", &self.setting).field("entry", &entry).finish()
    }
}

/// The parts of a text with commas.
pub fn split(all: &SecretString) -> Vec<SecretString> {
    let parts = all.expose_secret().split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(SecretString::from).collect()
}
