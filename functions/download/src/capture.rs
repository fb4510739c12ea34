//! Fetches captures of a sample's network traffic that sandboxes recorded. A capture that cannot be fetched is left
//! out; it never makes the sample fail.

use std::{cmp::Reverse, time::Duration};

use azul_vt::{
    azul::event::Datastream, errors::chain, pipeline::RunLimits, virustotal::BehaviourReport,
    worker::Disposition,
};
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use crate::{
    Download,
    transfer::{Pieces as _, Transfer, TransferError},
};

/// The label of captures at the dispatcher.
pub(crate) const LABEL: &str = "pcap";
/// Bytes of pcap's file header. An empty capture has no more bytes.
const HEADER_BYTES: usize = 24;
/// First bytes of files in the formats pcap (either byte order, micro- or nanoseconds) and pcapng.
const MAGIC: [[u8; 4]; 5] = [
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x0a, 0x0d, 0x0d, 0x0a],
];
/// Longest wait of a capture for the request budget. It is short, because the sample waits too.
const MAX_BUDGET_WAIT: Duration = Duration::from_mins(1);
/// Most pages of behaviour reports that are read for one sample. A page has ten reports.
const MAX_PAGES: usize = 25;
/// Longest time for fetching all captures of a sample.
const TIME: Duration = Duration::from_mins(5);

/// Returns the reports whose captures are fetched, at most `most`. Reports of the named sandboxes come first, in that
/// order, then the others with the newest first.
pub(crate) fn choose(
    mut reports: Vec<BehaviourReport>,
    sandboxes: &[String],
    most: usize,
) -> Vec<BehaviourReport> {
    reports.retain(|report| report.has_pcap);
    let rank = |report: &BehaviourReport| {
        let named = |name: &String| name.eq_ignore_ascii_case(&report.sandbox);
        sandboxes.iter().position(named).unwrap_or(sandboxes.len())
    };
    reports.sort_by_cached_key(|report| {
        (rank(report), Reverse(report.analysis_date), report.id.clone())
    });
    reports.truncate(most);
    reports
}

/// Whether content with this beginning is a capture that is not empty.
pub(crate) fn is_capture(beginning: &[u8]) -> bool {
    beginning.len() > HEADER_BYTES && MAGIC.iter().any(|magic| beginning.starts_with(magic))
}

impl Download {
    /// Fetches captures of a sample's traffic into the store, as far as possible within `limits` and [`TIME`]. Errors
    /// are only logged.
    pub(crate) async fn captures(
        &self,
        source: &str,
        sha256: &str,
        limits: &RunLimits,
    ) -> Vec<Datastream> {
        let mut captures = Vec::new();
        let fetching = self.fetch_captures(source, sha256, limits, &mut captures);
        if !matches!(limits.run_until(timeout(TIME, fetching)).await, Some(Ok(()))) {
            tracing::warn!(sha256, "time was up before all network captures were there");
        }
        captures
    }

    async fn fetch_captures(
        &self,
        source: &str,
        sha256: &str,
        limits: &RunLimits,
        captures: &mut Vec<Datastream>,
    ) {
        let settings = &self.common.settings.download;
        // Captures always cost requests, which `DIRECT_ONLY` does not allow.
        if settings.direct_only || settings.pcap_limit == 0 {
            return;
        }
        let reports = self.behaviours(sha256, limits).await;
        for report in choose(reports, &settings.pcap_sandboxes, settings.pcap_limit) {
            if !self.grant_in_time(limits).await {
                break;
            }
            match self.capture(source, &report).await {
                Ok(capture) => captures.push(capture),
                Err(error) => {
                    let id = report.id;
                    tracing::warn!(id, error = chain(&error), "a network capture is left out");
                }
            }
        }
    }

    /// Reads the behaviour reports of a sample. An error, the request budget or [`MAX_PAGES`] can end the list early.
    async fn behaviours(&self, sha256: &str, limits: &RunLimits) -> Vec<BehaviourReport> {
        let (mut reports, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            if !self.grant_in_time(limits).await {
                return reports;
            }
            let page = match self.virustotal.behaviours(sha256, cursor.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    let known = reports.len();
                    let error = chain(&error);
                    tracing::warn!(sha256, known, error, "not all behaviour reports can be had");
                    return reports;
                }
            };
            if page.unreadable > 0 {
                let count = page.unreadable;
                tracing::warn!(sha256, count, "behaviour reports cannot be read");
            }
            reports.extend(page.reports);
            if page.cursor.is_none() || page.cursor == cursor {
                return reports;
            }
            cursor = page.cursor;
        }
        let known = reports.len();
        tracing::warn!(sha256, known, "there are more behaviour reports than are read");
        reports
    }

    async fn capture(
        &self,
        source: &str,
        report: &BehaviourReport,
    ) -> Result<Datastream, TransferError> {
        let settings = &self.common.settings;
        let hosts = &settings.download.content_hosts;
        let mut content = self.virustotal.open_pcap(report, hosts).await?;
        let mut beginning = BytesMut::new();
        while beginning.len() <= HEADER_BYTES {
            let Some(piece) = content.next().await? else { break };
            beginning.extend_from_slice(&piece);
        }
        if !is_capture(&beginning) {
            return Err(TransferError::NoCapture);
        }
        let most = settings.max_download_bytes;
        let to = Transfer { store: &self.content, source, label: LABEL, sha256: None, most };
        to.run(vec![Bytes::from(beginning)], content).await
    }

    /// Takes a grant of the request budget. Returns false if there is no grant within [`MAX_BUDGET_WAIT`].
    async fn grant_in_time(&self, limits: &RunLimits) -> bool {
        let until = Instant::now() + MAX_BUDGET_WAIT;
        // A pause ends the wait for a grant, because it is not known when the pause will end.
        while matches!(self.common.is_paused().await, Ok(false)) {
            let wait = match self.common.grant().await {
                Ok(()) => return true,
                Err(Disposition::Retry(again)) => again.after.unsigned_abs(),
                Err(_) => return false,
            };
            if Instant::now() + wait > until || limits.sleep(wait).await {
                tracing::warn!("no network captures: the request budget is used up");
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sandbox: &str, analysis_date: i64, has_pcap: bool) -> BehaviourReport {
        let id = format!("aa_{sandbox}");
        BehaviourReport { id, sandbox: sandbox.to_owned(), analysis_date, has_pcap }
    }

    #[test]
    fn named_sandboxes_come_first_then_the_newest() {
        let reports = vec![
            report("Old", 1, true),
            report("New", 9, true),
            report("Without", 10, false),
            report("C2AE", 3, true),
            report("Zen box", 2, true),
        ];
        let chosen = |sandboxes: &[&str], most| -> Vec<String> {
            let sandboxes: Vec<String> = sandboxes.iter().map(|s| (*s).to_owned()).collect();
            let chosen = choose(reports.clone(), &sandboxes, most);
            chosen.into_iter().map(|report| report.sandbox).collect()
        };
        assert_eq!(chosen(&[], 2), ["New", "C2AE"]);
        assert_eq!(chosen(&["zen box", "none", "Old"], 9), ["Zen box", "Old", "New", "C2AE"]);
        assert!(chosen(&["Old"], 0).is_empty());
    }

    #[test]
    fn a_capture_has_its_magic_and_more_than_a_header() {
        for magic in MAGIC {
            let mut bytes = magic.to_vec();
            bytes.resize(HEADER_BYTES, 0);
            assert!(!is_capture(&bytes), "a header alone");
            bytes.push(0);
            assert!(is_capture(&bytes));
        }
        assert!(!is_capture(b"<html><body>You may not do this</body></html>"));
        assert!(!is_capture(b""));
    }
}
