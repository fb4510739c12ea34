//! Download requests for the records that rules select.

use jiff::{SignedDuration, Timestamp};

use super::RuleSet;
use azul::event::{Author, DownloadEntity, DownloadEvent, ModelVersion, Source};
use mapping::Record;

/// What all requests of a run have in common.
#[derive(Clone, Debug)]
pub struct SelectorOptions {
    /// Who asks.
    pub author: Author,
    /// Version of the event model.
    pub model_version: ModelVersion,
    /// How long a feed's direct link lasts from the record's last analysis.
    pub direct_link: SignedDuration,
    /// Larger files are not asked for, bytes. `None`: no limit.
    pub max_download_bytes: Option<u64>,
}

/// A record that may be worth a download.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The record, which the rules look at.
    pub record: &'a Record,
    /// Where the record came from, as in its mapped event.
    pub source: &'a Source,
    /// Hex.
    pub sha256: &'a str,
    /// Bytes. A file of unknown size, or of none, is not asked for.
    pub size: Option<u64>,
    /// The feed's direct link to the sample.
    pub download_url: Option<&'a str>,
    /// When VirusTotal last analysed the sample: the direct link's age counts from then.
    pub last_analysis: Option<Timestamp>,
}

/// Turns records into download requests.
#[derive(Clone, Debug)]
pub struct Selector {
    rules: RuleSet,
    options: SelectorOptions,
}

impl Selector {
    /// A selector by `rules`.
    pub fn new(rules: RuleSet, options: SelectorOptions) -> Self {
        Self { rules, options }
    }

    /// The rules in force.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Puts other rules in force.
    pub fn set_rules(&mut self, rules: RuleSet) {
        self.rules = rules;
    }

    /// One request for each rule that the record matches, in the rules' order, each with that rule's
    /// category, quota and wish for captures. `now` is the requests' timestamp.
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

    /// The direct link and its end. A link whose end cannot be told is left out: without one it would
    /// count as expired, and an expired link keeps the sample from being fetched by its hash.
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

/// The dispatcher refuses a request whose path nodes lack a valid binary action.
fn requested_source(source: &Source) -> Source {
    let mut source = source.clone();
    for node in source.path.iter_mut().filter(|node| node.action.is_empty()) {
        "mapped".clone_into(&mut node.action);
    }
    source
}
