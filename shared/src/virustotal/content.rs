//! Content of files and network captures, as it streams in (VirusTotal's reference, "Download a file", "Get
//! behaviour reports of a file", "Get the PCAP file generated during a file's behavior analysis").

use bytes::Bytes;
use serde::Deserialize;
use url::Url;

use super::{
    client::{Follow, Reply, VirusTotal},
    error::VirusTotalError,
    trust::{self, ContentHosts, Untrusted},
};

/// Bytes of a list of behaviour reports that are read: each holds what a sandbox saw, and may be large.
const MAX_BEHAVIOURS_BYTES: u64 = 33_554_432;

/// Content on its way.
pub struct Content {
    virustotal: VirusTotal,
    reply: Reply,
    received: u64,
}

impl Content {
    /// How many bytes it will have, where that was said.
    pub fn length(&self) -> Option<u64> {
        self.reply.response.content_length()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`VirusTotalError::Transient`]: it broke off, or stood still.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, VirusTotalError> {
        let piece = self.virustotal.piece(&mut self.reply, self.received).await?;
        let more = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.received = self.received.saturating_add(more);
        Ok(piece)
    }
}

/// A behaviour report of a file, as far as its network capture goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BehaviourReport {
    /// `<sha256>_<sandbox>`.
    pub id: String,
    /// The sandbox's name.
    pub sandbox: String,
    /// When it ran, seconds since 1970; 0 where that is not said.
    pub analysis_date: i64,
    /// Whether there is a capture.
    pub has_pcap: bool,
}

impl VirusTotal {
    /// Content by a direct link of the feed, which costs no quota. The key goes along where the link is at
    /// VirusTotal's own origin.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]; [`VirusTotalError::Redirect`]: it leads, at once or later, to where content may
    /// not come from.
    pub async fn open_link(
        &self,
        sha256: &str,
        link: Url,
        hosts: &ContentHosts,
    ) -> Result<Content, VirusTotalError> {
        let what = format!("file {sha256} by its direct link");
        hosts.check(&link, self.origin()).map_err(|source| refused(&what, &link, Some(source)))?;
        // Whoever wrote the link must not choose what is asked for with the key, and with what quota.
        let is_own = trust::is_same_origin(&link, self.origin());
        if is_own && !link.path().starts_with("/api/v3/feeds/") {
            return Err(refused(&what, &link, None));
        }
        let reply = self.get_url(&what, link, Follow::Listed(hosts)).await?;
        Ok(self.content(reply))
    }

    /// Content of a file by its hash: `GET /api/v3/files/{sha256}/download`. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]; [`VirusTotalError::Missing`]: VirusTotal itself says that it does not have it.
    pub async fn open_file(
        &self,
        sha256: &str,
        hosts: &ContentHosts,
    ) -> Result<Content, VirusTotalError> {
        let path = format!("/api/v3/files/{sha256}/download");
        let what = format!("the content of file {sha256}");
        let reply = self.get(&what, &path, Follow::Listed(hosts)).await;
        Ok(self.content(reply.map_err(VirusTotalError::unless_its_own_word)?))
    }

    /// The behaviour reports of a file: `GET /api/v3/files/{sha256}/behaviours`. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn behaviours(&self, sha256: &str) -> Result<Vec<BehaviourReport>, VirusTotalError> {
        #[derive(Deserialize)]
        struct Body {
            data: Vec<Report>,
        }
        #[derive(Deserialize)]
        struct Report {
            id: String,
            attributes: Attributes,
        }
        #[derive(Deserialize)]
        struct Attributes {
            #[serde(default)]
            sandbox_name: String,
            #[serde(default)]
            analysis_date: i64,
            #[serde(default)]
            has_pcap: bool,
        }
        let path = format!("/api/v3/files/{sha256}/behaviours");
        let what = format!("behaviour reports of file {sha256}");
        let reply = self.get(&what, &path, Follow::Public).await?;
        let unreadable = reply.asked.answer(
            Some(200),
            "UnreadableAnswer",
            "the answer is not a list of behaviour reports".to_owned(),
        );
        let body = self.whole(reply, MAX_BEHAVIOURS_BYTES).await?;
        let Ok(Body { data }) = serde_json::from_slice(&body) else {
            return Err(VirusTotalError::Unexpected(unreadable));
        };
        // What else the reports hold was passed over: it may be megabytes.
        Ok(data
            .into_iter()
            .map(|Report { id, attributes }| BehaviourReport {
                id,
                sandbox: attributes.sandbox_name,
                analysis_date: attributes.analysis_date,
                has_pcap: attributes.has_pcap,
            })
            .collect())
    }

    /// The network capture of a behaviour report: `GET /api/v3/file_behaviours/{id}/pcap`. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn open_pcap(
        &self,
        report: &BehaviourReport,
        hosts: &ContentHosts,
    ) -> Result<Content, VirusTotalError> {
        let mut url = self.origin().clone();
        if let Ok(mut path) = url.path_segments_mut() {
            // The id holds the sandbox's name, and that any characters.
            path.clear().extend(["api", "v3", "file_behaviours", &report.id, "pcap"]);
        }
        let what = format!("the network capture {}", report.id);
        let reply = self.get_url(&what, url, Follow::Listed(hosts)).await?;
        Ok(self.content(reply))
    }

    fn content(&self, reply: Reply) -> Content {
        Content { virustotal: self.clone(), reply, received: 0 }
    }
}

fn refused(what: &str, link: &Url, source: Option<Untrusted>) -> VirusTotalError {
    let host = link.host_str().unwrap_or("nowhere");
    let answer = super::Answer {
        asked: what.to_owned(),
        status: None,
        code: "RefusedLink".to_owned(),
        message: match source {
            Some(_) => format!("it leads to {host}, which is not asked"),
            None => "it is no link of the feed".to_owned(),
        },
        request_id: "none".to_owned(),
        is_own: true,
    };
    VirusTotalError::Redirect { answer: Box::new(answer), source }
}
