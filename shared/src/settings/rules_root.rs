//! Reads the place of the rules: a directory, or a part of a bucket.

use std::{fmt, path::PathBuf, str::FromStr};

/// The place of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesRoot {
    /// A directory: all `*.yaml` below it.
    Dir(PathBuf),
    /// An S3 bucket: all `*.yaml` whose keys begin with `prefix`.
    Bucket {
        /// Its name.
        bucket: String,
        /// Empty, or ends with `/`.
        prefix: String,
    },
}

/// A text begins with `s3://` but is not a valid URL of a bucket.
#[derive(Debug, thiserror::Error)]
#[error("a bucket is written s3://bucket/prefix/")]
pub struct NotARulesRoot;

impl FromStr for RulesRoot {
    type Err = NotARulesRoot;

    fn from_str(text: &str) -> Result<Self, NotARulesRoot> {
        let Some(place) = text.strip_prefix("s3://") else { return Ok(Self::Dir(text.into())) };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            return Err(NotARulesRoot);
        }
        // The prefix ends with `/`, so that `rules` does not match keys of `rules-of-others/`.
        let end = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: format!("{prefix}{end}") })
    }
}

impl fmt::Display for RulesRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => dir.display().fmt(f),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_written_as_a_url_and_anything_else_is_a_directory() {
        for (text, shown) in [
            ("s3://rules-1/azul/vt/", "s3://rules-1/azul/vt/"),
            ("s3://rules-1/azul", "s3://rules-1/azul/"),
            ("s3://rules-1", "s3://rules-1/"),
        ] {
            let root = text.parse::<RulesRoot>().unwrap();
            assert!(matches!(&root, RulesRoot::Bucket { bucket, .. } if bucket == "rules-1"));
            assert_eq!(root.to_string(), shown);
        }
        for text in ["./rules", "rules/s3://x", "S3:/"] {
            assert_eq!(text.parse::<RulesRoot>().unwrap(), RulesRoot::Dir(text.into()));
        }
        for text in ["s3://", "s3:///rules/", "s3://Rules/x", "s3://a b/"] {
            assert!(text.parse::<RulesRoot>().is_err(), "{text}");
        }
    }
}
