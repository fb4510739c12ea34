//! Content of files and network captures, as it streams in (VirusTotal's reference, "Download a file", "Get
//! behaviour reports of a file", "Get the PCAP file generated during a file's behavior analysis").

use bytes::Bytes;
use url::Url;

use super::{
    allowed_hosts::{self, ContentHosts, Untrusted},
    client::{Follow, Reply, VirusTotal},
    error::{NOT_THAT, VirusTotalError},
    hunting::Page,
};
use json::{Document, Value};

/// Most bytes of a page of behaviour reports. A report holds all that a sandbox saw, and may be large.
const MAX_BEHAVIOURS_BYTES: u64 = 33_554_432;

/// Content that is being received.
pub struct Content {
    virustotal: VirusTotal,
    reply: Reply,
    received: u64,
}

impl Content {
    /// Returns the length of the content in bytes, if the answer says it.
    pub fn length(&self) -> Option<u64> {
        self.reply.response.content_length()
    }

    /// Returns the function that makes the error for content that is not the file that was asked for; its argument
    /// says why. Asking again later may help.
    pub fn wrong_content_error(&self) -> impl FnOnce(&str) -> VirusTotalError + use<> {
        let status = Some(self.reply.response.status().as_u16());
        let mut answer = self.reply.asked.answer(status, NOT_THAT, String::new());
        answer.is_own = self.reply.own;
        move |why| {
            why.clone_into(&mut answer.message);
            VirusTotalError::Transient { answer, retry_after: None, source: None }
        }
    }

    /// Reads the next piece; `None` at the end.
    ///
    /// # Errors
    /// [`VirusTotalError::Transient`] if the content broke off or stalled.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, VirusTotalError> {
        let piece = self.virustotal.piece(&mut self.reply, self.received).await?;
        let more = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.received = self.received.saturating_add(more);
        Ok(piece)
    }
}

/// The parts of a behaviour report of a file that concern its network capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BehaviourReport {
    /// `<sha256>_<sandbox>`.
    pub id: String,
    /// The sandbox's name.
    pub sandbox: String,
    /// Time of the analysis, in seconds since 1970; 0 if the report does not say it.
    pub analysis_date: i64,
    /// Whether there is a capture.
    pub has_pcap: bool,
}

/// A page of behaviour reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BehaviourReports {
    /// The reports that can be read.
    pub reports: Vec<BehaviourReport>,
    /// Number of objects that are not behaviour reports.
    pub unreadable: u64,
    /// Cursor of the next page; `None` if this is the last.
    pub cursor: Option<String>,
}

impl BehaviourReport {
    fn read(object: &str) -> Option<Self> {
        let document = Document::parse(object.to_owned()).ok()?;
        let id = document.root().get("id")?.text().filter(|id| !id.is_empty())?.into_owned();
        let attribute = |name| document.root().at(&["attributes", name]);
        let sandbox = attribute("sandbox_name").and_then(Value::lenient_text);
        Some(Self {
            sandbox: sandbox.unwrap_or_default().into_owned(),
            analysis_date: attribute("analysis_date")
                .and_then(Value::lenient_integer)
                .unwrap_or_default(),
            has_pcap: attribute("has_pcap").and_then(Value::lenient_bool).unwrap_or_default(),
            id,
        })
    }
}

impl VirusTotal {
    /// Opens content by a direct link of the feed, which costs no quota. The key is sent only if the link is at
    /// VirusTotal's own origin.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]. [`VirusTotalError::Redirect`] means that the link, or a redirect from it, leads to a
    /// host that is not allowed.
    pub async fn open_link(
        &self,
        sha256: &str,
        link: Url,
        hosts: &ContentHosts,
    ) -> Result<Content, VirusTotalError> {
        let what = format!("file {sha256} by its direct link");
        hosts.check(&link, self.origin()).map_err(|source| refused(&what, &link, Some(source)))?;
        // The link comes from a record. Its author must not be able to choose a request that uses the key and its
        // quota.
        let is_own = allowed_hosts::is_same_origin(&link, self.origin());
        if is_own && !link.path().starts_with("/api/v3/feeds/") {
            return Err(refused(&what, &link, None));
        }
        let reply = self.get_url(&what, link, Follow::Listed(hosts)).await?;
        Ok(self.content(reply))
    }

    /// Opens the content of a file by its hash: `GET /api/v3/files/{sha256}/download`. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]; [`VirusTotalError::Missing`] means that VirusTotal itself says that it does not have
    /// the file.
    pub async fn open_file(
        &self,
        sha256: &str,
        hosts: &ContentHosts,
    ) -> Result<Content, VirusTotalError> {
        let path = format!("/api/v3/files/{sha256}/download");
        let what = format!("the content of file {sha256}");
        let reply = self.get(&what, &path, Follow::Listed(hosts)).await;
        Ok(self.content(reply.map_err(VirusTotalError::transient_unless_own_404)?))
    }

    /// Reads a page of the behaviour reports of a file: `GET /api/v3/files/{sha256}/behaviours`. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn behaviours(
        &self,
        sha256: &str,
        cursor: Option<&str>,
    ) -> Result<BehaviourReports, VirusTotalError> {
        let mut url = self.origin().clone();
        url.set_path(&format!("/api/v3/files/{sha256}/behaviours"));
        let subject = format!("behaviour reports of file {sha256}");
        let Page { objects, cursor } =
            self.page_of(&subject, url, cursor, MAX_BEHAVIOURS_BYTES).await?;
        // The rest of a report may be megabytes, and is dropped here.
        let reports: Vec<BehaviourReport> =
            objects.iter().filter_map(|object| BehaviourReport::read(object.get())).collect();
        let unreadable = objects.len().saturating_sub(reports.len()) as u64;
        Ok(BehaviourReports { reports, unreadable, cursor })
    }

    /// Opens the network capture of a behaviour report: `GET /api/v3/file_behaviours/{id}/pcap`. Costs one request.
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
            // The id holds the sandbox's name, which may have any characters.
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
    let message = match source {
        Some(_) => format!("it leads to {host}, which is not asked"),
        None => "it is no link of the feed".to_owned(),
    };
    let answer = super::Answer::new(what, None, "RefusedLink", &message, "none");
    VirusTotalError::Redirect { answer: Box::new(answer), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_report_needs_its_id_alone() {
        let good = r#"{"id":"aa_Box","attributes":{"sandbox_name":"Box","analysis_date":5,"has_pcap":true}}"#;
        let report = BehaviourReport::read(good).unwrap();
        assert_eq!((report.sandbox.as_str(), report.analysis_date), ("Box", 5));
        assert!(report.has_pcap);
        let odd = r#"{"id":"aa_Box","attributes":{"sandbox_name":null,"analysis_date":"5","has_pcap":1}}"#;
        let report = BehaviourReport::read(odd).unwrap();
        assert_eq!((report.sandbox.as_str(), report.analysis_date), ("", 5));
        assert!(report.has_pcap);
        for none in ["7", "{}", r#"{"id":null}"#, r#"{"id":7,"attributes":{"has_pcap":true}}"#] {
            assert_eq!(BehaviourReport::read(none), None, "{none}");
        }
        assert!(!BehaviourReport::read(r#"{"id":"aa_Box","attributes":null}"#).unwrap().has_pcap);
    }
}
