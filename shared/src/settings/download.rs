//! Settings of downloads.

use super::{Reader, SettingError, list, within};
use crate::virustotal::ContentHosts;

/// Settings of `download`, beside [`super::LookupSettings`].
#[derive(Clone, Debug)]
pub struct DownloadSettings {
    /// `DIRECT_ONLY`: never download by hash, which costs quota.
    pub direct_only: bool,
    /// `SKIPPED_ACTION`: a sample that Azul has already is reported as skipped, not as a success.
    pub skipped_action: bool,
    /// `QUOTA_REJECT_EVENTS`: a request for which the quota of its category has no place is reported as failed.
    pub quota_reject_events: bool,
    /// `CONTENT_HOSTS`: hosts from which content may be downloaded.
    pub content_hosts: ContentHosts,
    /// `PCAP_LIMIT`: most network captures that are fetched for a sample.
    pub pcap_limit: usize,
    /// `PCAP_SANDBOXES`: sandboxes whose captures are preferred, in this order.
    pub pcap_sandboxes: Vec<String>,
}

impl DownloadSettings {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, SettingError> {
        let content_hosts = r.parse(
            &["CONTENT_HOSTS"],
            ContentHosts::DEFAULT,
            "host names, separated by commas, such as files.example.com or *.example.com, or origins such as http://127.0.0.1:8080",
            ContentHosts::parse,
        )?;
        let pcap_limit =
            r.parse(&["PCAP_LIMIT"], "1", "a number from 0 to 100", |t| within(t, 0, 100))?;
        let pcap_sandboxes = list(&r.text(&["PCAP_SANDBOXES"], ""));
        Ok(Self {
            direct_only: r.switch("DIRECT_ONLY")?,
            skipped_action: r.switch("SKIPPED_ACTION")?,
            quota_reject_events: r.switch("QUOTA_REJECT_EVENTS")?,
            content_hosts,
            pcap_limit,
            pcap_sandboxes,
        })
    }
}
