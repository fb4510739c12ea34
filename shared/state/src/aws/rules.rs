//! Selection rules in an S3 bucket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use aws_config::{SdkConfig, timeout::TimeoutConfig};
use aws_sdk_s3::{Client, types::Object};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{error::failed, s3};
use crate::StoreError;
use rules::{Loaded, Marks, RuleError, RuleErrors, RuleSet, RuleSource};

/// The setting that names the bucket.
const RULES_ROOT: &str = "RULES_ROOT";
/// Most objects that are listed to find rule files.
const MAX_OBJECTS: usize = 10_000;
/// Most rule files. It is far more than people write.
const MAX_FILES: usize = 1_000;
/// Largest rule file in bytes.
const MAX_BYTES: i64 = 1024 * 1024;
/// Most bytes of all rule files together. It bounds the memory that they take.
const MAX_BYTES_OF_ALL: usize = 16 * 1024 * 1024;
const AT_ONCE: usize = 8;
/// Longest time of a call with all its attempts. It is short, because a bundle waits while the rules are read.
const CALL: Duration = Duration::from_secs(20);

/// The rule files in a bucket: the objects whose keys begin with a prefix and end with `.yaml`. An object is ignored if
/// a part of its key behind the prefix begins with a dot.
pub struct S3Rules {
    client: Client,
    bucket: String,
    prefix: String,
}

impl S3Rules {
    /// Reads rules in the bucket `bucket` below `prefix`, which is empty or ends with `/`.
    pub fn new(config: &SdkConfig, bucket: &str, prefix: &str) -> Self {
        let timeouts = TimeoutConfig::builder().operation_timeout(CALL).build();
        let config = config.to_builder().timeout_config(timeouts).build();
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Self { client: s3(&config), bucket, prefix }
    }

    fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    fn out_of_reach(&self, key: &str, source: impl Into<StoreError>) -> RuleError {
        RuleError::OutOfReach { place: self.place(key), source: Box::new(source.into()) }
    }

    fn too_much(&self, key: &str, limit: &'static str) -> RuleError {
        RuleError::TooMuch { place: self.place(key), limit }
    }

    fn is_rule_file(&self, key: &str) -> bool {
        let Some(path) = key.strip_prefix(&self.prefix) else { return false };
        // The ending is case-sensitive, as in a directory: `.YAML` does not count.
        let is_yaml = Path::new(path).extension().is_some_and(|extension| extension == "yaml");
        is_yaml && !path.split('/').any(|part| part.starts_with('.'))
    }

    /// Returns the key of a rule file and its mark, an `ETag`; `None` for any other object.
    fn mark(&self, object: &Object) -> Result<Option<(String, String)>, RuleError> {
        let Some(key) = object.key().filter(|key| self.is_rule_file(key)) else { return Ok(None) };
        if object.size().is_some_and(|size| size > MAX_BYTES) {
            return Err(self.too_much(key, "is larger than 1 MiB"));
        }
        Ok(Some((key.to_owned(), object.e_tag().unwrap_or_default().to_owned())))
    }

    /// Reads an object if its `ETag` is still `mark`.
    async fn fetch(&self, key: &str, mark: &str) -> Result<Vec<u8>, RuleError> {
        let action = "reading a rule file";
        let asked = self.client.get_object().bucket(&self.bucket).key(key).if_match(mark).send();
        let object =
            asked.await.map_err(|e| self.out_of_reach(key, failed(action, RULES_ROOT, e)))?;
        let body = tokio::time::timeout(CALL, object.body.collect()).await;
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| {
            self.out_of_reach(key, StoreError::Unavailable { action: action.into(), source })
        };
        let body = body.map_err(|e| broken(e.into()))?.map_err(|e| broken(e.into()))?;
        Ok(body.to_vec())
    }
}

#[async_trait]
impl RuleSource for S3Rules {
    async fn list(&self) -> Result<Option<Marks>, RuleError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
        let mut pages = request.into_paginator().send();
        let (mut marks, mut objects) = (Marks::new(), 0);
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| {
                self.out_of_reach(&self.prefix, failed("listing rule files", RULES_ROOT, e))
            })?;
            objects += page.contents().len();
            for object in page.contents() {
                marks.extend(self.mark(object)?);
            }
            if marks.len() > MAX_FILES {
                return Err(self.too_much(&self.prefix, "holds more than 1000 rule files"));
            }
            if objects > MAX_OBJECTS {
                return Err(self.too_much(&self.prefix, "holds more than 10000 objects"));
            }
        }
        marks.sort();
        Ok(Some(marks).filter(|marks| !marks.is_empty()))
    }

    /// Loads the rules. If an object cannot be fetched, the whole load fails even if `lenient`, because that is not an
    /// error in a rule file.
    async fn load(&self, seen: Option<&Marks>, lenient: bool) -> Result<Loaded, RuleErrors> {
        let Some(seen) = seen else {
            let rules = RuleSet::empty();
            return Ok(Loaded { rules, errors: Vec::new(), missing: true });
        };
        let fetch = |(key, mark): (String, String)| async move {
            Ok((self.place(&key), self.fetch(&key, &mark).await?))
        };
        let mut files = stream::iter(seen.clone()).map(fetch).buffered(AT_ONCE);
        let (mut texts, mut errors, mut bytes) = (Vec::new(), Vec::new(), 0);
        let one = |error: RuleError| RuleErrors(vec![error]);
        while let Some((place, text)) = files.try_next().await.map_err(one)? {
            bytes += text.len();
            if bytes > MAX_BYTES_OF_ALL {
                return Err(one(self.too_much(&self.prefix, "holds more than 16 MiB of rules")));
            }
            let path = PathBuf::from(place);
            match String::from_utf8(text) {
                Ok(text) => texts.push((path, text)),
                Err(e) => {
                    let source = io::Error::new(io::ErrorKind::InvalidData, e);
                    errors.push(RuleError::Unreadable { path, source });
                }
            }
        }
        RuleSet::compile(texts, errors, lenient)
    }

    fn gone(&self) -> RuleError {
        RuleError::Gone { place: self.place(&self.prefix) }
    }
}
