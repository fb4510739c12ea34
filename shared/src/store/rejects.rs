//! What was refused for good, kept with its reason until somebody looks at it: JSON lines in [`Bundles`],
//! an object for each batch that had any.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BundleInfo, Bundles, StoreError, keys::bad_name};

/// How much of a record is kept, in bytes: real ones are about 30 KB, the largest about 1 MB.
pub const MAX_KEPT: usize = 1024 * 1024;

const FOLDER: &str = "rejects/";
const ENDING: &str = ".jsonl";

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectStage {
    /// A record that cannot be mapped.
    Record,
    /// An event that the dispatcher refuses, or that is too large for it.
    Event,
    /// A download request that the dispatcher refuses.
    Request,
    /// A bundle that cannot be decoded.
    Bundle,
    /// A hit of Livehunt or Retrohunt that cannot be read, or whose event the dispatcher refuses.
    Hit,
}

/// How [`Reject::record`] is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As it was: it is valid UTF-8.
    Text,
    /// In base64, since it is not.
    Base64,
}

/// One thing that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// Where it came from: `feed/202611240857`, `posted/<sha256 of the body>`, `hunt` or `retrohunt/<job>`.
    pub origin: String,
    /// Its line there, of a hit its place in VirusTotal's page, counted from 1; 0 where it is the whole bundle.
    pub line: u64,
    /// What was refused.
    pub stage: RejectStage,
    /// Why, in words for an operator.
    pub reason: String,
    /// SHA-256 of the sample, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// When.
    pub now: Timestamp,
    /// True where the record was longer than [`MAX_KEPT`] and is kept up to there.
    #[serde(default)]
    pub cut: bool,
    /// How `record` is written.
    pub encoding: Encoding,
    /// The record, as `encoding` says.
    pub record: String,
}

impl Reject {
    /// Keeps the bytes of a record, at most [`MAX_KEPT`] of them. The SHA-256 is for the caller to add.
    pub fn new(
        origin: impl Into<String>,
        line: u64,
        stage: RejectStage,
        reason: impl Into<String>,
        record: &[u8],
        now: Timestamp,
    ) -> Self {
        let cut = record.len() > MAX_KEPT;
        let kept = record.get(..MAX_KEPT).unwrap_or(record);
        let (encoding, record) = match str::from_utf8(kept) {
            Ok(text) => (Encoding::Text, text.to_owned()),
            // The end was cut within a character, and all before it is text.
            Err(e) if cut && e.error_len().is_none() => {
                let whole = kept.get(..e.valid_up_to()).unwrap_or_default();
                (Encoding::Text, String::from_utf8_lossy(whole).into_owned())
            }
            Err(_) => (Encoding::Base64, BASE64_STANDARD.encode(kept)),
        };
        Self {
            origin: origin.into(),
            line,
            stage,
            reason: reason.into(),
            sha256: None,
            now,
            cut,
            encoding,
            record,
        }
    }

    /// The record's bytes as they were read, up to where it was cut. `None` where `record` was changed
    /// and is no base64 any more.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self.encoding {
            Encoding::Text => Some(self.record.clone().into_bytes()),
            Encoding::Base64 => BASE64_STANDARD.decode(&self.record).ok(),
        }
    }
}

/// All that was refused and not settled yet.
#[derive(Clone)]
pub struct Rejects {
    bundles: Arc<dyn Bundles>,
}

impl Rejects {
    /// Keeps rejects in `bundles`, under `rejects/`.
    pub fn new(bundles: Arc<dyn Bundles>) -> Self {
        Self { bundles }
    }

    /// The object for a batch of `origin` that begins at `first_line`. Zeros in front put objects of an
    /// origin in order of their lines.
    pub fn key(origin: &str, first_line: u64) -> String {
        format!("{FOLDER}{origin}/{first_line:012}{ENDING}")
    }

    /// Keeps what was refused of a batch, durably, in one object whose name depends on `origin` and
    /// `first_line` alone: a repeat of the batch replaces it. No rejects, no object; what an earlier
    /// try of the batch left is removed.
    ///
    /// # Errors
    /// [`StoreError::BadName`] where `origin` is no part of a key, else what [`Bundles`] gives.
    pub async fn write(
        &self,
        origin: &str,
        first_line: u64,
        rejects: &[Reject],
    ) -> Result<(), StoreError> {
        let key = Self::key(origin, first_line);
        if rejects.is_empty() {
            return self.bundles.remove(&key).await;
        }
        let mut lines = Vec::new();
        for reject in rejects {
            serde_json::to_writer(&mut lines, reject).map_err(|e| StoreError::Unavailable {
                action: format!("writing {key}"),
                source: e.into(),
            })?;
            lines.push(b'\n');
        }
        self.bundles.put(&key, &lines).await
    }

    /// Keeps a bundle of `origin` that was refused as a whole: moves the file `from` to an object called
    /// `name`, and writes why beside it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn keep_bundle(
        &self,
        origin: &str,
        name: &str,
        from: &Path,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = format!("{FOLDER}{origin}/{name}");
        self.bundles.put_file(&key, from).await?;
        let reason = format!("{reason}; its bytes are kept as {key}");
        let reject = Reject::new(origin, 0, RejectStage::Bundle, reason, b"", now);
        self.write(origin, 0, &[reject]).await
    }

    /// The objects kept, in order of key.
    ///
    /// # Errors
    /// What [`Bundles`] gives.
    pub async fn list(&self) -> Result<Vec<BundleInfo>, StoreError> {
        let mut objects = self.bundles.list(FOLDER).await?;
        objects.retain(|object| object.key.ends_with(ENDING));
        Ok(objects)
    }

    /// What an object holds; `None` where there is none of that key.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where it holds anything else than rejects, [`StoreError::BadName`] where
    /// `key` is not one of theirs.
    pub async fn read(&self, key: &str) -> Result<Option<Vec<Reject>>, StoreError> {
        check(key)?;
        let Some(reader) = self.bundles.open(key).await? else { return Ok(None) };
        let key = key.to_owned();
        let action = format!("reading {key}");
        let read = tokio::task::spawn_blocking(move || {
            let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| {
                StoreError::Unavailable { action: format!("reading {key}"), source }
            };
            let mut rejects = Vec::new();
            for (n, line) in BufReader::new(reader).split(b'\n').enumerate() {
                let line = line.map_err(|e| unavailable(e.into()))?;
                let reject = serde_json::from_slice(&line).map_err(|e| StoreError::Damaged {
                    what: format!("line {} of {key}", n.saturating_add(1)),
                    reason: e.to_string(),
                })?;
                rejects.push(reject);
            }
            Ok(Some(rejects))
        });
        read.await.unwrap_or_else(|e| Err(StoreError::Unavailable { action, source: e.into() }))
    }

    /// Removes an object; no error where it is not there.
    ///
    /// # Errors
    /// [`StoreError::BadName`] where `key` is not one of theirs, else what [`Bundles`] gives.
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        check(key)?;
        self.bundles.remove(key).await
    }
}

/// Other objects are out of reach from here, whatever an operator types.
fn check(key: &str) -> Result<(), StoreError> {
    if key.starts_with(FOLDER) && key.ends_with(ENDING) {
        return Ok(());
    }
    Err(bad_name(
        key,
        "rejects are kept under keys like `rejects/feed/202611240857/000000000001.jsonl`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(record: &[u8]) -> Reject {
        Reject::new(
            "feed/202611240857",
            1,
            RejectStage::Record,
            "no",
            record,
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_record_is_kept_as_text_where_it_is_text_and_else_as_base64() {
        assert_eq!(kept("{\"é\":1}".as_bytes()).record, "{\"é\":1}");
        let bytes = b"{\"\xff\":1}";
        let reject = kept(bytes);
        assert_eq!(reject.encoding, Encoding::Base64);
        assert_eq!(reject.bytes().unwrap(), bytes);
        assert!(!reject.cut);
    }

    #[test]
    fn a_long_record_is_cut_at_a_character_and_says_so() {
        let mut record = vec![b'a'; MAX_KEPT - 1];
        record.extend("é".bytes());
        let reject = kept(&record);
        assert!(reject.cut);
        assert_eq!(reject.encoding, Encoding::Text);
        assert_eq!(reject.bytes().unwrap(), vec![b'a'; MAX_KEPT - 1]);
        // Cut in the middle of text that is broken before: bytes, not text.
        *record.first_mut().unwrap() = 0xff;
        assert_eq!(kept(&record).bytes().unwrap(), record[..MAX_KEPT]);
    }

    #[test]
    fn a_reject_reads_back_from_its_line() {
        let mut reject = kept(b"x\n\0y");
        reject.sha256 = Some("00".repeat(32));
        let line = serde_json::to_string(&reject).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Reject>(&line).unwrap(), reject);
    }
}
