//! Reads pages of hits and moves the position behind them.

use std::collections::BTreeSet;

use azul_vt::{
    errors::chain,
    pipeline::RunLimits,
    store::BUDGET,
    virustotal::{Page, request_budget},
};
use jiff::SignedDuration;

use crate::{Hunt, HuntError, NAME, Report, deliver::Dates};

/// Most pages that a run reads: 10,000 pages of 40 notifications are 400,000.
const MAX_PAGES: usize = 10_000;
/// Most empty pages in a row that a run reads, so that a faulty peer cannot hold it.
const MAX_EMPTY: usize = 20;
/// Longest time that a run waits for the request budget. The next run continues after that.
const MAX_BUDGET_WAIT: SignedDuration = SignedDuration::from_mins(5);

/// Dates of the pages that a run has read.
struct Reached {
    /// Whether each page so far had its oldest notifications first. If not, the position moves only after all pages are
    /// read.
    is_ordered: bool,
    /// The newest date of all pages but the one that was read last.
    before: Option<i64>,
    /// The newest date of all pages that were read.
    newest: Option<i64>,
}

impl Reached {
    fn add(&mut self, dates: &Dates) {
        let goes_back =
            dates.oldest.zip(self.newest).is_some_and(|(oldest, newest)| oldest < newest);
        if self.is_ordered && (goes_back || !dates.is_ascending) {
            tracing::warn!(
                "VirusTotal does not give the oldest notifications first, although it is asked to: the position moves when all are read"
            );
            self.is_ordered = false;
        }
        self.before = self.newest;
        self.newest = self.newest.max(dates.newest);
    }
}

impl Hunt {
    /// Reads the notifications since `from`, or the matches of `job`, page by page to the end.
    ///
    /// The position moves to the newest date of a page once the next page is known to continue from there. If the
    /// newest notifications come first, the position moves only after all pages are read.
    pub(crate) async fn pages(
        &self,
        job: Option<&str>,
        from: Option<i64>,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let is_legacy = job.is_none() && self.settings.hunt.is_legacy;
        let mut reached =
            Reached { is_ordered: job.is_none() && !is_legacy, before: None, newest: None };
        let (mut cursor, mut seen, mut empty) = (None::<String>, BTreeSet::new(), 0);
        for _ in 0..MAX_PAGES {
            let Some(page) = self.page(job, from, cursor.as_deref(), limits).await? else {
                report.paused = true;
                return Ok(());
            };
            let dates = self.deliver(&page.objects, job, from, limits, report).await?;
            let is_over = is_legacy && dates.is_all_older;
            reached.add(&dates);
            if reached.is_ordered {
                self.move_to(reached.before, report).await?;
            }
            empty = if page.objects.is_empty() { empty + 1 } else { 0 };
            match page.cursor {
                Some(next) if !is_over => {
                    if !seen.insert(next.clone()) {
                        return Err(HuntError::RepeatedPage);
                    }
                    if empty == MAX_EMPTY {
                        return Err(HuntError::EndlessPages { pages: seen.len(), empty });
                    }
                    cursor = Some(next);
                }
                _ => return self.move_to(reached.newest, report).await,
            }
        }
        Err(HuntError::EndlessPages { pages: MAX_PAGES, empty })
    }

    /// Moves the position to the date of a delivered notification. A date in the future is replaced by the current
    /// time, and an older date than the position changes nothing.
    async fn move_to(&self, date: Option<i64>, report: &mut Report) -> Result<(), HuntError> {
        let Some(date) = date.map(|date| date.min(self.now().as_second())) else {
            return Ok(());
        };
        if report.position.is_none_or(|position| position < date)
            && self.store.cursors.advance(NAME, report.position, date).await?
        {
            report.position = Some(date);
        }
        Ok(())
    }

    /// Reads one page. `None`: the run was asked to stop, or the request budget or the quota is used up.
    async fn page(
        &self,
        job: Option<&str>,
        from: Option<i64>,
        cursor: Option<&str>,
        limits: &RunLimits,
    ) -> Result<Option<Page>, HuntError> {
        let mut backoff = self.backoff.clone();
        loop {
            if limits.reached() {
                return Ok(None);
            }
            if !self.granted(limits).await? {
                return Ok(None);
            }
            let asking = async {
                match (job, from) {
                    (Some(job), _) => self.virustotal.retrohunt_matches(job, cursor).await,
                    (None, Some(from)) if !self.settings.hunt.is_legacy => {
                        self.virustotal.ioc_stream(from, cursor).await
                    }
                    _ => self.virustotal.hunting_notifications(cursor).await,
                }
            };
            let Some(asked) = limits.run_until(asking).await else { return Ok(None) };
            let error = match asked {
                Ok(page) => return Ok(Some(page)),
                Err(error) => error,
            };
            let now = self.clock.now();
            if request_budget::pause_if_wait_is_long(&self.store, BUDGET, &error, now).await? {
                return Ok(None);
            }
            if request_budget::note_rate_limited(&self.store, &error, now).await?.is_some() {
                continue;
            }
            if !error.is_transient() {
                return Err(error.into());
            }
            let wait = backoff.next_wait(error.retry_after());
            tracing::warn!(error = chain(&error), wait_s = wait.as_secs(), "asking again");
            if limits.sleep(wait).await {
                return Ok(None);
            }
        }
    }

    /// Waits for a grant of the request budget. Returns false if the run was asked to stop, or would wait for too long;
    /// the next run continues then.
    async fn granted(&self, limits: &RunLimits) -> Result<bool, HuntError> {
        let windows = &self.settings.lookup.windows;
        let mut waited = SignedDuration::ZERO;
        while let Some(wait) =
            request_budget::acquire(&self.store, windows, self.clock.now()).await?
        {
            waited = waited.saturating_add(wait);
            if waited > MAX_BUDGET_WAIT || limits.sleep(wait.unsigned_abs()).await {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
