//! Bundles: objects in an S3 bucket.
//!
//! No object is ever whole in memory. Files are uploaded in parts, and objects are downloaded in pieces that a task
//! reads ahead. A download that breaks off is resumed at the byte where it broke.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        get_object::{GetObjectError, GetObjectOutput, builders::GetObjectFluentBuilder},
        put_object::builders::PutObjectFluentBuilder,
    },
    presigning::PresigningConfig,
    primitives::{ByteStream, Length},
    types::{CompletedMultipartUpload, CompletedPart, Object, ServerSideEncryption},
};
use bytes::{Buf, Bytes};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use url::Url;

use super::{
    error::{failed, unavailable},
    s3,
};
use crate::{
    BundleInfo, BundleReader, Bundles, StoreError, Upload,
    keys::{check_key, check_prefix},
    local::{self, Scratch},
};

/// Size of a part in bytes. Files up to this size are uploaded in one request. S3 takes parts from 5 MiB and at most
/// 10,000 of them, so a file may have up to 80 GB.
const PART: u64 = 8 * 1024 * 1024;
/// Number of parts of a file that are uploaded at once.
const PARTS_AT_ONCE: usize = 4;
/// Number of pieces of a body that are read ahead. A piece is what arrived at once, at most some hundred KB.
const AHEAD: usize = 8;
/// Most attempts in a row to resume a body without receiving any more of it.
const MAX_FRUITLESS: u32 = 5;
/// Most retries of a conditional write that S3 refuses because of a concurrent one.
const MAX_CONFLICTS: u32 = 5;
/// Wait before the first retry; it grows by as much with each further one.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Longest life of a presigned request that S3 allows.
const LONGEST_UPLOAD: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The setting that names the bucket.
const BUCKET: &str = "BUNDLE_BUCKET";

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// Bundles in a bucket.
pub struct S3Bundles {
    bucket: Bucket,
    scratch: Scratch,
}

#[derive(Clone)]
struct Bucket {
    client: Client,
    name: String,
}

impl S3Bundles {
    /// Uses the bucket `name`. Unfinished files are under `state_dir`, on a disk of this machine.
    ///
    /// # Errors
    /// [`StoreError::StateDir`] if `state_dir` cannot be used.
    pub fn new(config: &SdkConfig, name: &str, state_dir: &Path) -> Result<Self, StoreError> {
        let bucket = Bucket { client: s3(config), name: name.to_owned() };
        Ok(Self { bucket, scratch: local::scratch(state_dir)? })
    }
}

#[async_trait]
impl Bundles for S3Bundles {
    async fn put_file(&self, key: &str, from: &Path) -> Result<bool, StoreError> {
        check_key(key)?;
        let action = format!("putting {key}");
        let lost =
            |e: io::Error| StoreError::Unavailable { action: action.clone(), source: e.into() };
        let metadata = tokio::fs::symlink_metadata(from).await.map_err(lost)?;
        if !metadata.is_file() {
            return Err(lost(io::Error::other("what is put is not a file")));
        }
        let new = if metadata.len() <= PART {
            self.bucket.put_whole(key, from, &action).await?
        } else {
            self.bucket.put_parts(key, from, metadata.len(), &action).await?
        };
        tokio::fs::remove_file(from).await.map_err(lost)?;
        Ok(new)
    }

    async fn put(&self, key: &str, content: &[u8]) -> Result<(), StoreError> {
        check_key(key)?;
        let body = ByteStream::from(content.to_vec());
        let put = self.bucket.put_object(key).body(body).send().await;
        put.map(drop).map_err(|e| failed(&format!("putting {key}"), BUCKET, e))
    }

    async fn open(&self, key: &str) -> Result<Option<BundleReader>, StoreError> {
        check_key(key)?;
        let action = format!("opening {key}");
        let object = match self.bucket.get(key).send().await {
            Ok(object) => object,
            Err(e) if e.as_service_error().is_some_and(GetObjectError::is_no_such_key) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(&action, BUCKET, e)),
        };
        let length = object.content_length().and_then(|n| u64::try_from(n).ok());
        let length = length.ok_or_else(|| unavailable(&action, "S3 told no length"))?;
        let (to, pieces) = mpsc::channel(AHEAD);
        let source = Source { bucket: self.bucket.clone(), key: key.to_owned(), length };
        tokio::spawn(source.read(object, to));
        Ok(Some(Box::new(Reader { pieces, piece: Bytes::new(), left: length })))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<BundleInfo>, StoreError> {
        check_prefix(prefix)?;
        let request = self.bucket.client.list_objects_v2();
        let request = request.bucket(&self.bucket.name).prefix(prefix);
        // S3 lists in the order of the keys' bytes, which is that of text here.
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed(&format!("listing {prefix}"), BUCKET, e))?;
            found.extend(page.contents().iter().filter_map(info));
        }
        Ok(found)
    }

    async fn remove(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        let request = self.bucket.client.delete_object().bucket(&self.bucket.name).key(key);
        let removed = request.send().await;
        removed.map(drop).map_err(|e| failed(&format!("removing {key}"), BUCKET, e))
    }

    fn scratch(&self) -> &Path {
        &self.scratch.path
    }

    async fn presign_put(
        &self,
        key: &str,
        valid: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Upload>, StoreError> {
        check_key(key)?;
        let action = format!("presigning {key}");
        let valid = valid.min(LONGEST_UPLOAD);
        let start = SystemTime::UNIX_EPOCH.checked_add(now.as_duration().unsigned_abs());
        let config = PresigningConfig::builder()
            .start_time(start.ok_or_else(|| unavailable(&action, "there is no such time"))?)
            .expires_in(valid.unsigned_abs())
            .build()
            .map_err(|e| unavailable(&action, e))?;
        // `If-None-Match` is signed too, so the request can be used once and cannot overwrite an object.
        let request = self.bucket.put_object(key).if_none_match("*").presigned(config).await;
        let request = request.map_err(|e| failed(&action, BUCKET, e))?;
        let url = Url::parse(request.uri()).map_err(|e| unavailable(&action, e))?;
        let headers = request.headers().map(|(name, value)| (name.into(), value.into())).collect();
        let expires = now.saturating_add(valid).unwrap_or(Timestamp::MAX);
        Ok(Some(Upload { url, headers, expires }))
    }
}

impl Bucket {
    fn put_object(&self, key: &str) -> PutObjectFluentBuilder {
        let request = self.client.put_object().bucket(&self.name).key(key);
        request.content_type(content_type(key)).server_side_encryption(ServerSideEncryption::Aes256)
    }

    fn get(&self, key: &str) -> GetObjectFluentBuilder {
        self.client.get_object().bucket(&self.name).key(key)
    }

    /// Puts a file in one request. Returns false if the key exists.
    async fn put_whole(&self, key: &str, from: &Path, action: &str) -> Result<bool, StoreError> {
        put_new(action, || async {
            let body = ByteStream::from_path(from).await.map_err(|e| unavailable(action, e))?;
            Ok(self.put_object(key).if_none_match("*").body(body).send().await)
        })
        .await
    }

    /// Puts a file in parts. Returns false if the key exists.
    async fn put_parts(
        &self,
        key: &str,
        from: &Path,
        size: u64,
        action: &str,
    ) -> Result<bool, StoreError> {
        let request = self.client.create_multipart_upload().bucket(&self.name).key(key);
        let request = request.content_type(content_type(key));
        let begun = request.server_side_encryption(ServerSideEncryption::Aes256).send().await;
        let id = begun.map_err(|e| failed(action, BUCKET, e))?.upload_id;
        let id = id.ok_or_else(|| unavailable(action, "S3 told no upload's id"))?;
        let mut unfinished = Unfinished { bucket: self.clone(), key: key.to_owned(), id: Some(id) };
        let new = unfinished.finish(from, size, action).await?;
        if new {
            unfinished.id = None;
        }
        Ok(new)
    }
}

/// An upload in parts. Its parts cost money until it is completed or aborted, so dropping it aborts it, even if the
/// caller gave up waiting.
struct Unfinished {
    bucket: Bucket,
    key: String,
    id: Option<String>,
}

impl Unfinished {
    async fn finish(&self, from: &Path, size: u64, action: &str) -> Result<bool, StoreError> {
        let offsets = (0..size.div_ceil(PART)).map(|n| n * PART);
        let parts = (1..).zip(offsets).map(|(number, offset)| {
            let length = PART.min(size.saturating_sub(offset));
            self.part(number, from.to_path_buf(), offset, length, action)
        });
        let parts = stream::iter(parts).buffered(PARTS_AT_ONCE).try_collect().await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        put_new(action, || async {
            let complete = self.bucket.client.complete_multipart_upload();
            let complete = complete.bucket(&self.bucket.name).key(&self.key);
            let complete = complete.set_upload_id(self.id.clone()).if_none_match("*");
            Ok(complete.multipart_upload(parts.clone()).send().await)
        })
        .await
    }

    async fn part(
        &self,
        number: i32,
        from: PathBuf,
        offset: u64,
        length: u64,
        action: &str,
    ) -> Result<CompletedPart, StoreError> {
        let body = ByteStream::read_from().path(from).offset(offset).length(Length::Exact(length));
        let body = body.build().await.map_err(|e| unavailable(action, e))?;
        let request = self.bucket.client.upload_part().bucket(&self.bucket.name).key(&self.key);
        let request = request.set_upload_id(self.id.clone()).part_number(number);
        let done = request.body(body).send().await.map_err(|e| failed(action, BUCKET, e))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(done.e_tag)
            .set_checksum_crc32(done.checksum_crc32)
            .build())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // Outside of a runtime no request can be sent. The bucket's lifecycle rule then removes the upload.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let abort = self.bucket.client.abort_multipart_upload().bucket(&self.bucket.name);
        let abort = abort.key(&self.key).upload_id(id);
        let key = std::mem::take(&mut self.key);
        runtime.spawn(async move {
            if let Err(error) = abort.send().await {
                let error = base::errors::chain(&error);
                tracing::warn!(key, error, "an upload in parts was not aborted");
            }
        });
    }
}

/// An object that is being read.
struct Source {
    bucket: Bucket,
    key: String,
    length: u64,
}

impl Source {
    /// Sends the object's pieces until all are sent or the receiver is gone.
    async fn read(self, object: GetObjectOutput, to: mpsc::Sender<io::Result<Bytes>>) {
        let etag = object.e_tag;
        let (mut body, mut at, mut fruitless) = (Some(object.body), 0_u64, 0_u32);
        loop {
            let broken: Boxed = match &mut body {
                Some(open) => match open.next().await {
                    Some(Ok(piece)) => {
                        at = at.saturating_add(piece.len() as u64);
                        fruitless = 0;
                        if to.send(Ok(piece)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    None if at == self.length => return,
                    None => "the body ended early".into(),
                    Some(Err(e)) => e.into(),
                },
                // An object that was replaced meanwhile is not resumed.
                None => match self.rest(at, etag.clone()).await {
                    Ok(rest) => {
                        body = Some(rest.body);
                        continue;
                    }
                    Err(e) if status(&e).is_some_and(|s| s < 500) => {
                        fruitless = MAX_FRUITLESS;
                        e.into()
                    }
                    Err(e) => e.into(),
                },
            };
            body = None;
            // After the last byte only its checksum can be wrong.
            if at >= self.length || fruitless >= MAX_FRUITLESS {
                // If the receiver is gone, nobody needs the error.
                let _ = to.send(Err(io::Error::other(broken))).await;
                return;
            }
            tracing::debug!(key = self.key, at, error = broken, "a body broke off; going on");
            tokio::time::sleep(RETRY_DELAY * fruitless).await;
            fruitless += 1;
        }
    }

    async fn rest(
        &self,
        at: u64,
        etag: Option<String>,
    ) -> Result<GetObjectOutput, SdkError<GetObjectError, HttpResponse>> {
        let request = self.bucket.get(&self.key).range(format!("bytes={at}-"));
        request.set_if_match(etag).send().await
    }
}

/// A reader of an object's pieces as they arrive.
struct Reader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    left: u64,
}

impl io::Read for Reader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None if self.left == 0 => return Ok(0),
                // This is not `UnexpectedEof`, because the object is not truncated; only reading it ended.
                None => return Err(io::Error::other("the reading of the object was ended")),
            }
        }
        let n = self.piece.len().min(to.len());
        let (Some(to), Some(from)) = (to.get_mut(..n), self.piece.get(..n)) else { return Ok(0) };
        to.copy_from_slice(from);
        self.piece.advance(n);
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }
}

/// Sends a conditional write until S3 does not refuse it because of a concurrent one. Returns false if the key exists.
async fn put_new<T, E, F>(action: &str, mut send: impl FnMut() -> F) -> Result<bool, StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    F: Future<Output = Result<Result<T, SdkError<E, HttpResponse>>, StoreError>>,
{
    let mut conflicts = 0;
    loop {
        match send().await? {
            Ok(_) => return Ok(true),
            Err(e) if status(&e) == Some(412) => return Ok(false),
            Err(e) if status(&e) == Some(409) && conflicts < MAX_CONFLICTS => {}
            Err(e) => return Err(failed(action, BUCKET, e)),
        }
        conflicts += 1;
        tokio::time::sleep(RETRY_DELAY * conflicts).await;
    }
}

/// Returns the metadata of an object. `None` if its key is not valid here, because then another program put it.
fn info(object: &Object) -> Option<BundleInfo> {
    let key = object.key().filter(|key| check_key(key).is_ok())?.to_owned();
    let size = object.size().and_then(|n| u64::try_from(n).ok())?;
    let modified = object.last_modified()?;
    let nanosecond = i32::try_from(modified.subsec_nanos()).ok()?;
    let modified = Timestamp::new(modified.secs(), nanosecond).ok()?;
    Some(BundleInfo { key, size, modified })
}

/// Returns the content type of a key. It is for people who look into the bucket; this program never reads it.
fn content_type(key: &str) -> &'static str {
    match key.rsplit_once('.').map(|(_, ending)| ending) {
        Some("bz2") => "application/x-bzip2",
        Some("json") => "application/json",
        Some("jsonl") => "application/x-ndjson",
        _ => "application/octet-stream",
    }
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}
