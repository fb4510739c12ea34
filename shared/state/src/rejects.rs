//! Keeps everything that was refused for good, with the reason, until somebody looks at it. The rejects of a batch are
//! JSON lines in one object of [`Bundles`].

use std::{
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BundleInfo, Bundles, StoreError, keys::bad_name};

/// Most bytes of a record that are kept. Real records have about 30 KB, the largest about 1 MB.
pub const MAX_KEPT: usize = 1024 * 1024;

const FOLDER: &str = "rejects/";
const ENDING: &str = ".jsonl";

/// Kind of thing that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectStage {
    /// A record that cannot be mapped.
    Record,
    /// An event that the dispatcher refuses, or that is too large for it.
    Event,
    /// A download request that the dispatcher refuses.
    Request,
    /// A bundle that cannot be decoded, or in which there is no record.
    Bundle,
    /// A hit of Livehunt or Retrohunt that cannot be read, or whose event the dispatcher refuses.
    Hit,
    /// An item that no inbox takes.
    Item,
    /// A polled event that cannot be read.
    Polled,
    /// Further rejects of a bundle, of which only the number is known: a [`DroppedRejects`].
    NotKept,
}

/// Encoding of [`Reject::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As text, because it is valid UTF-8.
    Text,
    /// In base64, because it is not valid UTF-8.
    Base64,
}

/// One thing that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// Origin of the reject: `feed/202611240857`, `posted/<sha256 of the body>`, `hunt`, `retrohunt/<job>` or
    /// `inbox/<queue>/<sha256 of the item's id>`.
    pub origin: String,
    /// Number of the line, or of a hit's object in VirusTotal's page, counted from 1; 0 for a whole bundle.
    pub line: u64,
    /// Kind of thing that was refused.
    pub stage: RejectStage,
    /// Reason of the reject, in words for an operator.
    pub reason: String,
    /// SHA-256 of the sample, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Time of the reject.
    pub now: Timestamp,
    /// Whether the record was longer than [`MAX_KEPT`], so that only its start is kept.
    #[serde(default)]
    pub cut: bool,
    /// Encoding of `record`.
    pub encoding: Encoding,
    /// The record in the encoding that `encoding` names.
    pub record: String,
}

impl Reject {
    /// Makes a reject with the bytes of a record, at most [`MAX_KEPT`] of them. The caller adds the SHA-256.
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
            // The record was cut within a character, and all of it before is text.
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

    /// Returns the record's bytes as they were read, up to where it was cut. `None` if `record` was changed and is not
    /// valid base64 any more.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self.encoding {
            Encoding::Text => Some(self.record.clone().into_bytes()),
            Encoding::Base64 => BASE64_STANDARD.decode(&self.record).ok(),
        }
    }
}

/// Rejects of a bundle that were only counted, because the rejects before them had reached the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRejects {
    /// Line of the first reject that was not kept.
    pub from_line: u64,
    /// Number of rejects that were not kept.
    pub lines: u64,
}

/// The outcome of writing the rejects of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Number of rejects that were kept, from the first one on.
    pub rejects: usize,
    /// Size of their object in bytes.
    pub bytes: u64,
}

/// The store of all rejects that nobody has removed yet.
#[derive(Clone)]
pub struct Rejects {
    bundles: Arc<dyn Bundles>,
}

impl Rejects {
    /// Keeps rejects in `bundles`, under `rejects/`.
    pub fn new(bundles: Arc<dyn Bundles>) -> Self {
        Self { bundles }
    }

    /// Returns the key of the object for a batch of `origin` that begins at `first_line`. Leading zeros keep the
    /// objects of an origin in order of their lines.
    pub fn key(origin: &str, first_line: u64) -> String {
        format!("{FOLDER}{origin}/{first_line:012}{ENDING}")
    }

    /// Keeps the rejects of a batch, durably, in one object. Its key depends only on `origin` and `first_line`, so a
    /// repeat of the batch replaces the object. Without rejects there is no object, and one that an earlier try of the
    /// batch left is removed.
    ///
    /// # Errors
    /// [`StoreError::BadName`] if `origin` cannot be part of a key, else any error of [`Bundles`].
    pub async fn write(
        &self,
        origin: &str,
        first_line: u64,
        rejects: &[Reject],
    ) -> Result<(), StoreError> {
        self.write_within(origin, first_line, rejects, u64::MAX).await.map(drop)
    }

    /// As [`write`](Self::write), but keeps only as many rejects, from the first one on, as fit into `room` bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_within(
        &self,
        origin: &str,
        first_line: u64,
        rejects: &[Reject],
        room: u64,
    ) -> Result<Written, StoreError> {
        let key = Self::key(origin, first_line);
        let (mut lines, mut written) = (Vec::new(), Written::default());
        for reject in rejects {
            lines.extend(line_of(reject, &key)?);
            if lines.len() as u64 > room {
                break;
            }
            written = Written { rejects: written.rejects + 1, bytes: lines.len() as u64 };
        }
        lines.truncate(usize::try_from(written.bytes).unwrap_or(usize::MAX));
        if lines.is_empty() {
            self.bundles.remove(&key).await?;
        } else {
            self.bundles.put(&key, &lines).await?;
        }
        Ok(written)
    }

    /// Writes how many of `origin`'s rejects were not kept, because the others reached `max_bytes`. `is_all`: the
    /// bundle was read to its end, or as far as this run came; otherwise the number is a lower bound.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn note_not_kept(
        &self,
        origin: &str,
        not_kept: &DroppedRejects,
        is_all: bool,
        max_bytes: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let DroppedRejects { from_line, lines } = not_kept;
        let at_least = if is_all { "" } else { "at least " };
        let most = max_bytes / (1024 * 1024);
        let reason = format!(
            "{at_least}{lines} rejected lines, from line {from_line} on, were counted and not kept: the \
             rejects of this bundle reached REJECTS_MAX_MB={most}"
        );
        let key = Self::not_kept_key(origin);
        let record = serde_json::to_vec(not_kept).map_err(|e| unwritable(&key, e))?;
        let reject = Reject::new(origin, *from_line, RejectStage::NotKept, reason, &record, now);
        self.bundles.put(&key, &line_of(&reject, &key)?).await
    }

    /// Returns how many of `origin`'s rejects were not kept, as far as is known.
    ///
    /// # Errors
    /// [`StoreError`] if the object cannot be read.
    pub async fn not_kept(&self, origin: &str) -> Result<Option<DroppedRejects>, StoreError> {
        let noted = self.bundles.read(&Self::not_kept_key(origin)).await?;
        let noted = noted.and_then(|line| serde_json::from_slice::<Reject>(&line).ok());
        Ok(noted.and_then(|reject| serde_json::from_str(&reject.record).ok()))
    }

    /// Removes the object that [`note_not_kept`](Self::note_not_kept) wrote.
    ///
    /// # Errors
    /// [`StoreError`] if the object cannot be removed.
    pub async fn forget_not_kept(&self, origin: &str) -> Result<(), StoreError> {
        self.bundles.remove(&Self::not_kept_key(origin)).await
    }

    /// Returns the size of `origin`'s rejects in bytes.
    ///
    /// # Errors
    /// [`StoreError`] if the objects cannot be listed.
    pub async fn bytes_of(&self, origin: &str) -> Result<u64, StoreError> {
        let objects = self.bundles.list(&format!("{FOLDER}{origin}/")).await?;
        let lines = objects.iter().filter(|object| object.key.ends_with(ENDING));
        Ok(lines.fold(0, |bytes, object| bytes.saturating_add(object.size)))
    }

    fn not_kept_key(origin: &str) -> String {
        format!("{FOLDER}{origin}/not-kept{ENDING}")
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

    /// Returns the objects that hold rejects, in order of key.
    ///
    /// # Errors
    /// Any error of [`Bundles`].
    pub async fn list(&self) -> Result<Vec<BundleInfo>, StoreError> {
        let mut objects = self.bundles.list(FOLDER).await?;
        objects.retain(|object| object.key.ends_with(ENDING));
        Ok(objects)
    }

    /// Returns the rejects in an object; `None` if there is no object with this key.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the object holds anything else than rejects, [`StoreError::BadName`] if `key` is not
    /// the key of an object with rejects.
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

    /// Removes an object with rejects. It is no error if there is none.
    ///
    /// # Errors
    /// [`StoreError::BadName`] if `key` is not the key of an object with rejects, else any error of [`Bundles`].
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        check(key)?;
        self.bundles.remove(key).await
    }
}

/// Returns a reject as a line of JSON, with its line break.
fn line_of(reject: &Reject, key: &str) -> Result<Vec<u8>, StoreError> {
    let mut line = serde_json::to_vec(reject).map_err(|e| unwritable(key, e))?;
    line.push(b'\n');
    Ok(line)
}

fn unwritable(key: &str, error: serde_json::Error) -> StoreError {
    StoreError::Unavailable { action: format!("writing {key}"), source: error.into() }
}

/// Checks that a key is that of an object with rejects, so that an operator cannot read or remove other objects from
/// here.
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
    fn stages_are_kept_under_names_that_do_not_change() {
        let names = [
            (RejectStage::Record, "record"),
            (RejectStage::Event, "event"),
            (RejectStage::Request, "request"),
            (RejectStage::Bundle, "bundle"),
            (RejectStage::Hit, "hit"),
            (RejectStage::Item, "item"),
            (RejectStage::Polled, "polled"),
            (RejectStage::NotKept, "not_kept"),
        ];
        for (stage, name) in names {
            assert_eq!(serde_json::to_value(stage).unwrap(), name);
        }
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
        // The text was already invalid before the cut, so the record counts as bytes.
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
