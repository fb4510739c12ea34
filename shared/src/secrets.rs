//! Reads secrets from a variable or from an entry of AWS Secrets Manager. An entry is read again every few minutes, so
//! that the secret can be rotated without a deployment.
//!
//! No error and no `Debug` output shows a secret's value; they name the setting and the entry.

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

/// Time for which a value that was read from an entry is used. A rotated secret is unknown for at most this time.
pub const TTL: Duration = Duration::from_mins(5);
/// Wait after an entry could not be read again. The last value is used meanwhile.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// The place of a secret, as the settings name it.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// The secret is the value of the variable itself.
    Value(SecretString),
    /// The secret is in the entry of Secrets Manager with this name or ARN.
    Entry(String),
}

/// Reasons why a secret is not available.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Secrets Manager did not return the entry.
    #[error("{setting}_SECRET: the entry `{entry}` of Secrets Manager cannot be read")]
    Unreadable {
        /// The setting whose secret it is.
        setting: &'static str,
        /// Name of the entry.
        entry: String,
        /// Error of the client.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The entry exists but holds no text, or an empty one.
    #[error("{setting}_SECRET: the entry `{entry}` of Secrets Manager holds no text")]
    NoText {
        /// The setting whose secret it is.
        setting: &'static str,
        /// Name of the entry.
        entry: String,
    },
}

/// A secret whose current value can be read. It is cheap to clone, and clones share the value that was read.
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
    /// Settings from which the AWS client is made when it is first needed; `None` if a client was given.
    settings: Option<Settings>,
    /// The last value that was read, and the time until which it is used.
    read: Mutex<Option<(SecretString, Instant)>>,
}

impl Secret {
    /// Returns the secret of `setting` at the place `source`; `None` if it is not set. Sends no request yet.
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

    /// Returns the secret in the entry `name`, which `client` reads again when the last value is older than `ttl`.
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

    /// Returns the value of the variable; `None` if the secret is in an entry and has to be read from there.
    pub fn fixed(&self) -> Option<&SecretString> {
        match &*self.source {
            Source::Value(value) => Some(value),
            Source::Entry(_) => None,
        }
    }

    /// Returns the current value of the secret, without blanks around it.
    ///
    /// # Errors
    /// [`SecretError`] if the entry was never read. An entry that cannot be read again keeps its last value.
    pub async fn get(&self) -> Result<SecretString, SecretError> {
        let entry = match &*self.source {
            Source::Value(value) => return Ok(value.clone()),
            Source::Entry(entry) => entry,
        };
        // The lock is held during the request, so that concurrent callers wait for the same answer.
        let mut read = entry.read.lock().await;
        if let Some((value, until)) = &*read
            && Instant::now() < *until
        {
            return Ok(value.clone());
        }
        // Boxed, because the client's future is large and rarely needed.
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

    /// Returns the parts of a secret that holds several values separated by commas. Empty parts are left out.
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

/// Splits a text at its commas. Empty parts are left out.
pub fn split(all: &SecretString) -> Vec<SecretString> {
    let parts = all.expose_secret().split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(SecretString::from).collect()
}
