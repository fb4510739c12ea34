//! The file feed: one bundle a minute (VirusTotal's reference, "Get a file feed batch").

use std::path::Path;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{
    client::{Follow, Reply, VirusTotal},
    error::VirusTotalError,
};
use crate::{http_client, minute::Minute};

/// A bundle that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its size as received.
    pub bytes: u64,
    /// SHA-256 of it as received, in lower-case hexadecimal.
    pub sha256_hex: String,
}

/// What asking for a minute without fetching it told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The time that the server says it is.
    pub date: Option<Timestamp>,
    /// Names the request in the log.
    pub request_id: String,
}

impl VirusTotal {
    /// Fetches the bundle of `minute` into the file `into`, which is created or replaced once a body
    /// comes, and removed again where that breaks off. The bytes are as VirusTotal sends them: compressed,
    /// and not yet known to be whole where no `Content-Length` came with them (`bundle::verify` finds out).
    ///
    /// # Errors
    /// Any [`VirusTotalError`]. Nothing is tried again here.
    pub async fn fetch_minute(
        &self,
        minute: Minute,
        into: &Path,
    ) -> Result<Fetched, VirusTotalError> {
        let reply =
            self.get(&format!("feed minute {minute}"), &path(minute), Follow::Public).await?;
        let result = self.receive(reply, into).await;
        if result.is_err() {
            // What is left of it is of no use; that it cannot be removed changes nothing.
            drop(tokio::fs::remove_file(into).await);
        }
        result
    }

    /// Asks for `minute` without fetching its bundle: cheap, free of quota, and enough to know whether the
    /// key may read the feed.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]; [`VirusTotalError::Missing`] and [`VirusTotalError::NotAvailableYet`] too
    /// say that the key may.
    pub async fn probe_minute(&self, minute: Minute) -> Result<Probe, VirusTotalError> {
        let reply =
            self.get(&format!("feed minute {minute}"), &path(minute), Follow::Never).await?;
        Ok(Probe {
            date: http_client::date(reply.response.headers()),
            request_id: reply.asked.id().to_owned(),
        })
    }

    async fn receive(&self, mut reply: Reply, into: &Path) -> Result<Fetched, VirusTotalError> {
        let status = Some(reply.response.status().as_u16());
        let limit = self.max_body_bytes();
        let announced = reply.response.content_length();
        let too_large = |reply: &Reply| VirusTotalError::TooLarge {
            answer: reply.asked.answer(status, "TooLarge", String::new()),
            limit,
        };
        if announced.is_some_and(|announced| announced > limit) {
            return Err(too_large(&reply));
        }
        let write = |source| VirusTotalError::Write { path: into.to_owned(), source };
        let mut file = File::create(into).await.map_err(write)?;
        let mut hash = Sha256::new();
        let mut bytes = 0_u64;
        while let Some(piece) = self.piece(&mut reply, bytes).await? {
            bytes = bytes.saturating_add(piece.len() as u64);
            if bytes > limit {
                return Err(too_large(&reply));
            }
            hash.update(&piece);
            file.write_all(&piece).await.map_err(write)?;
        }
        if let Some(announced) = announced.filter(|announced| *announced != bytes) {
            let message = format!("{bytes} bytes came of {announced}");
            return Err(reply.asked.broken("TruncatedBody", message, None));
        }
        file.flush().await.map_err(write)?;
        Ok(Fetched { bytes, sha256_hex: hex::encode(hash.finalize()) })
    }
}

fn path(minute: Minute) -> String {
    format!("/api/v3/feeds/files/{minute}")
}
