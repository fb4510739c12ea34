//! Makes download requests for the records that rules select.

use jiff::{SignedDuration, Timestamp};

use super::RuleSet;
use azul::event::{Author, DownloadEntity, DownloadEvent, ModelVersion, Source};
use mapping::Record;

/// Settings that all requests of a run share.
#[derive(Clone, Debug)]
pub struct SelectorOptions {
    /// Author of the requests.
    pub author: Author,
    /// Version of the event model.
    pub model_version: ModelVersion,
    /// Time for which a feed's direct link is valid, from the last analysis of the record.
    pub direct_link: SignedDuration,
    /// Largest file that is requested, in bytes; `None` means no limit.
    pub max_download_bytes: Option<u64>,
}

/// A record that may be worth a download.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The record, which the rules look at.
    pub record: &'a Record,
    /// Source of the record, as in its mapped event.
    pub source: &'a Source,
    /// SHA-256 of the sample, in hexadecimal digits.
    pub sha256: &'a str,
    /// Size of the sample, in bytes. A file of unknown size, or of 0 bytes, is not requested.
    pub size: Option<u64>,
    /// The feed's direct link to the sample.
    pub download_url: Option<&'a str>,
    /// Time of the last analysis by VirusTotal, from which the age of the direct link counts.
    pub last_analysis: Option<Timestamp>,
}

/// Turns records into download requests.
#[derive(Clone, Debug)]
pub struct Selector {
    rules: RuleSet,
    options: SelectorOptions,
}

impl Selector {
    /// Returns a selector with these rules.
    pub fn new(rules: RuleSet, options: SelectorOptions) -> Self {
        Self { rules, options }
    }

    /// Returns the rules in force.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Replaces the rules in force.
    pub fn set_rules(&mut self, rules: RuleSet) {
        self.rules = rules;
    }

    /// Returns one request for each rule that the record matches, in the order of the rules. It has the category and
    /// the quota of the rule, and asks for network captures if the rule does. `now` is the time of the requests.
    pub fn select(&self, candidate: &Candidate<'_>, now: Timestamp) -> Vec<DownloadEvent> {
        if !self.may_download(candidate) {
            return Vec::new();
        }
        self.rules
            .matching(candidate.record)
            .into_iter()
            .map(|rule| {
                let (direct_url, direct_expiry) = self.direct_link(candidate);
                DownloadEvent {
                    model_version: self.options.model_version.number(),
                    kafka_key: String::new(),
                    timestamp: now,
                    author: self.options.author.clone(),
                    source: requested_source(candidate.source),
                    action: "requested".to_owned(),
                    entity: DownloadEntity {
                        hash: candidate.sha256.to_ascii_lowercase(),
                        direct_url,
                        direct_expiry,
                        pcap: rule.collect_pcap,
                        category: rule.category.clone(),
                        category_quota: rule.daily_quota,
                        metadata: None,
                    },
                }
            })
            .collect()
    }

    fn may_download(&self, candidate: &Candidate<'_>) -> bool {
        let sha256 = candidate.sha256.as_bytes();
        let Some(size) = candidate.size.filter(|size| *size > 0) else { return false };
        sha256.len() == 64
            && sha256.iter().all(u8::is_ascii_hexdigit)
            && self.options.max_download_bytes.is_none_or(|max| size <= max)
    }

    /// Returns the direct link and its expiry. A link of unknown expiry is left out: it would count as expired, and an
    /// expired link prevents a download of the sample by its hash.
    fn direct_link(&self, candidate: &Candidate<'_>) -> (String, Option<Timestamp>) {
        let url = candidate.download_url.filter(|url| !url.is_empty());
        let expiry = candidate
            .last_analysis
            .and_then(|analysed| analysed.checked_add(self.options.direct_link).ok());
        match (url, expiry) {
            (Some(url), Some(expiry)) => (url.to_owned(), Some(expiry)),
            _ => (String::new(), None),
        }
    }
}

/// Returns the source for a request. The dispatcher refuses path nodes without a valid binary action, so missing ones
/// are set to `mapped`.
fn requested_source(source: &Source) -> Source {
    let mut source = source.clone();
    for node in source.path.iter_mut().filter(|node| node.action.is_empty()) {
        "mapped".clone_into(&mut node.action);
    }
    source
}
