//! Reports on files (VirusTotal's reference, "Get a file report").

use std::borrow::Cow;

use bytes::Bytes;
use reqwest::StatusCode;

use super::{
    client::{Follow, Reply, VirusTotal},
    error::{NOT_THAT, VirusTotalError},
};
use json::{Document, Kind, Value};

/// Largest report in bytes. It equals the default limit of a record of the feed.
const MAX_REPORT_BYTES: u64 = 33_554_432;

impl VirusTotal {
    /// Returns the report on a file as it came (`{"data":{…}}`): `GET /api/v3/files/{hash}`. The report was checked to
    /// be about that file. Costs one request of the API quota, even if VirusTotal does not know the file.
    ///
    /// `hash` must be the SHA-256, SHA-1 or MD5 in hexadecimal digits.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]. [`VirusTotalError::Missing`] means that VirusTotal itself says that it does not know
    /// the file. Any other body with status 200 is [`VirusTotalError::Transient`], because it is broken or not from
    /// VirusTotal.
    pub async fn file_report(&self, hash: &str) -> Result<Bytes, VirusTotalError> {
        let (subject, path) = (format!("file {hash}"), format!("/api/v3/files/{hash}"));
        let reply = self.get(&subject, &path, Follow::Public).await;
        let reply = reply.map_err(VirusTotalError::transient_unless_own_404)?;
        let status = Some(reply.response.status().as_u16());
        let mut answer = reply.asked.answer(status, NOT_THAT, String::new());
        let body = self.whole(reply, MAX_REPORT_BYTES).await?;
        match check_report(&body, hash) {
            Ok(()) => Ok(body),
            Err(why) => {
                answer.message = why;
                Err(VirusTotalError::Transient { answer, retry_after: None, source: None })
            }
        }
    }

    /// Reads a whole body of at most `limit` bytes.
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

/// Checks that `body` is VirusTotal's report (`{"data":{…}}`) on the file that `hash` names: its SHA-256, SHA-1 or MD5,
/// in letters of any case.
///
/// # Errors
/// A sentence that says why the body is not that report.
pub fn check_report(body: &[u8], hash: &str) -> Result<(), String> {
    let document = Document::parse(String::from_utf8_lossy(body).into_owned())
        .map_err(|error| format!("the body is no JSON that is taken here: {error}"))?;
    let data = document.root().get("data").filter(|data| data.kind() == Kind::Object);
    let file = data.ok_or("the body has no object `data`, so it is no report")?;
    if file.get("type").and_then(Value::text).as_deref() != Some("file") {
        return Err("the object's type is not `file`".into());
    }
    let text = |value: Option<Value<'_>>| {
        value.and_then(Value::text).filter(|text| !text.is_empty()).map(Cow::into_owned)
    };
    let attribute = |name| text(file.at(&["attributes", name]));
    let sha256 = attribute("sha256").or_else(|| text(file.get("id")));
    let sha256 = sha256.filter(|sha256| is_sha256(sha256)).ok_or("the report has no SHA-256")?;
    let named = match hash.len() {
        32 => attribute("md5"),
        40 => attribute("sha1"),
        _ => Some(sha256.clone()),
    };
    if named.is_some_and(|named| named.eq_ignore_ascii_case(hash)) {
        return Ok(());
    }
    Err(format!("the report is on another file, {sha256}"))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_on_the_file_that_was_asked_for_by_whichever_hash() {
        let (sha256, sha1, md5) = ("a".repeat(64), "b".repeat(40), "c".repeat(32));
        let attributes = json!({"sha256": sha256, "sha1": sha1, "md5": md5, "size": null});
        let report = json!({"data": {"type": "file", "id": sha256, "attributes": attributes}});
        let report = report.to_string();
        for hash in [&sha256, &sha1, &md5] {
            assert_eq!(check_report(report.as_bytes(), hash), Ok(()));
            assert_eq!(check_report(report.as_bytes(), &hash.to_ascii_uppercase()), Ok(()));
            let other = hash.replace(['a', 'b', 'c'], "d");
            assert!(check_report(report.as_bytes(), &other).unwrap_err().contains("another file"));
        }
        let by_id = format!(r#"{{"data":{{"type":"file","id":"{sha256}"}}}}"#);
        assert_eq!(check_report(by_id.as_bytes(), &sha256), Ok(()));
    }

    #[test]
    fn what_is_no_report_is_said_so() {
        let sha256 = "a".repeat(64);
        for body in [
            "",
            "<html>Please log in</html>",
            "[]",
            "{}",
            "null",
            r#"{"error":{"code":"TransientError"}}"#,
            r#"{"data":[]}"#,
            r#"{"data":{}}"#,
            &format!(r#"{{"data":{{"type":"file","id":"{sha256}""#),
            &format!(r#"{{"data":{{"type":"url","id":"{sha256}"}}}}"#),
            &format!(r#"{{"data":{{"id":"{sha256}"}}}}"#),
            r#"{"data":{"type":"file","id":7}}"#,
        ] {
            assert!(check_report(body.as_bytes(), &sha256).is_err(), "{body}");
        }
    }
}
