//! The file feed: one bundle a minute (VirusTotal's reference, "Get a file feed batch").

use std::path::Path;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{
    client::{Follow, Reply, VirusTotal},
    error::VirusTotalError,
};
use base::minute::Minute;
use net::http_client;

/// A bundle that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Size in bytes, as received.
    pub bytes: u64,
    /// SHA-256 of the received bytes, in lower-case hexadecimal.
    pub sha256_hex: String,
}

/// Result of a request for a minute that does not fetch its bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Time of the server's clock, if the answer has it.
    pub date: Option<Timestamp>,
    /// Id of the request in the log.
    pub request_id: String,
}

impl VirusTotal {
    /// Fetches the bundle of `minute` into the file `into`. The file is created or replaced once a body arrives, and
    /// removed if the body breaks off. It holds the bytes as VirusTotal sends them, which are compressed. Without a
    /// `Content-Length` it is not known whether they are complete; `bundle::verify` finds out.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]. The request is not retried here.
    pub async fn fetch_minute(
        &self,
        minute: Minute,
        into: &Path,
    ) -> Result<Fetched, VirusTotalError> {
        let reply =
            self.get(&format!("feed minute {minute}"), &path(minute), Follow::Public).await?;
        let result = self.receive(reply, into).await;
        if result.is_err() {
            // The partial file is useless. If it cannot be removed, the result is the same.
            drop(tokio::fs::remove_file(into).await);
        }
        result
    }

    /// Requests `minute` without fetching its bundle. This is cheap, costs no quota, and shows whether the key may read
    /// the feed.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]. [`VirusTotalError::Missing`] and [`VirusTotalError::NotAvailableYet`] also show that
    /// the key may read the feed.
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
