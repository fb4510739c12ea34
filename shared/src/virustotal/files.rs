//! Files: what VirusTotal knows about one (its reference, "Get a file report").

use bytes::Bytes;
use reqwest::StatusCode;

use super::{
    client::{Follow, Reply, VirusTotal},
    error::VirusTotalError,
};

/// Bytes of a report that are taken: the longest record of the feed by default, too.
const MAX_REPORT_BYTES: u64 = 33_554_432;

impl VirusTotal {
    /// The report on a file: `GET /api/v3/files/{sha256}`, as it came (`{"data":{…}}`). Costs one request
    /// of the API quota, also where VirusTotal does not know the file.
    ///
    /// `sha256` must be 64 hexadecimal digits.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]; [`VirusTotalError::Missing`]: VirusTotal does not know it.
    pub async fn file_report(&self, sha256: &str) -> Result<Bytes, VirusTotalError> {
        let reply = self
            .get(&format!("file {sha256}"), &format!("/api/v3/files/{sha256}"), Follow::Public)
            .await?;
        self.whole(reply, MAX_REPORT_BYTES).await
    }

    /// A whole body of at most `limit` bytes.
    pub(super) async fn whole(
        &self,
        mut reply: Reply,
        limit: u64,
    ) -> Result<Bytes, VirusTotalError> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut reply, body.len() as u64).await? {
            body.extend_from_slice(&piece);
            if body.len() as u64 > limit {
                let status = Some(StatusCode::OK.as_u16());
                let answer = reply.asked.answer(status, "TooLarge", String::new());
                return Err(VirusTotalError::TooLarge { answer, limit });
            }
        }
        Ok(body.into())
    }
}
