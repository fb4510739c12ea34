//! Reads secrets from a variable or from an entry of AWS Secrets Manager. An entry is read again every few minutes, so
//! that the secret can be rotated without a deployment.
//!
//! No error and no `Debug` output shows a secret's value; they name the setting and the entry.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Mutex, time::Instant};

use base::{errors::chain, peer_text};

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

/// A place that keeps secrets in named entries, such as AWS Secrets Manager.
#[async_trait]
pub trait SecretEntries: Send + Sync {
    /// Returns the text of the entry with this name or ARN; `None` if the entry holds no text.
    ///
    /// # Errors
    /// The entry cannot be read.
    async fn read(
        &self,
        entry: &str,
    ) -> Result<Option<SecretString>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A secret whose current value can be read. It is cheap to clone, and clones share the value that was read.
#[derive(Clone)]
pub struct Secret {
    setting: &'static str,
    source: Arc<Source>,
}

enum Source {
    Value(SecretString),
    Entry(Entry),
}

struct Entry {
    name: String,
    ttl: Duration,
    entries: Arc<dyn SecretEntries>,
    /// The last value that was read, and the time until which it is used.
    read: Mutex<Option<(SecretString, Instant)>>,
}

impl Secret {
    /// Returns the secret of `setting` at the place `source`. Sends no request yet. An entry is read from `entries`,
    /// and again when the last value is older than [`TTL`].
    pub fn new(
        setting: &'static str,
        source: &SecretSource,
        entries: &Arc<dyn SecretEntries>,
    ) -> Self {
        match source {
            SecretSource::Value(value) => {
                Self { setting, source: Arc::new(Source::Value(value.clone())) }
            }
            SecretSource::Entry(name) => Self::entry(setting, name, Arc::clone(entries), TTL),
        }
    }

    /// Returns the secret in the entry `name`, which is read again when the last value is older than `ttl`.
    pub fn entry(
        setting: &'static str,
        name: &str,
        entries: Arc<dyn SecretEntries>,
        ttl: Duration,
    ) -> Self {
        let read = Mutex::default();
        let source = Source::Entry(Entry { name: name.to_owned(), ttl, entries, read });
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
        match (self.ask(entry).await, &mut *read) {
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
        let text = entry.entries.read(&entry.name).await.map_err(unreadable)?;
        let text = text.map(|text| SecretString::from(text.expose_secret().trim()));
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
