//! Pages of hits, and how the position follows them.

use std::collections::BTreeSet;

use azul_vt::{
    errors::chain,
    pipeline::Limits,
    store::BUDGET,
    virustotal::{Page, asks},
};
use jiff::SignedDuration;

use crate::{Hunt, HuntError, NAME, Report, deliver::Dates};

/// Pages that a run reads at most: four hundred thousand notifications.
const MOST_PAGES: usize = 10_000;
/// Pages without an object, in a row, that a run reads at most.
const MOST_EMPTY: usize = 20;
/// How long a run waits for the request budget.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// How far the pages of a run reach.
struct Reached {
    /// Whether the oldest come first, as far as is seen. Else the position moves when all pages are read.
    is_ordered: bool,
    /// The newest date of the pages before the last one.
    before: Option<i64>,
    /// The newest date of all pages.
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
    /// Reads pages to their end: notifications since `from`, or the matches of a job.
    ///
    /// The position moves to the newest date of a page when the next page turns out to go on from there; where the
    /// newest come first, when all pages are read.
    pub(crate) async fn pages(
        &self,
        job: Option<&str>,
        from: Option<i64>,
        limits: &Limits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let is_legacy = job.is_none() && self.settings.hunt.is_legacy;
        let mut reached =
            Reached { is_ordered: job.is_none() && !is_legacy, before: None, newest: None };
        let (mut cursor, mut seen, mut empty) = (None::<String>, BTreeSet::new(), 0);
        for _ in 0..MOST_PAGES {
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
                    if empty == MOST_EMPTY {
                        return Err(HuntError::EndlessPages { pages: seen.len(), empty });
                    }
                    cursor = Some(next);
                }
                _ => return self.move_to(reached.newest, report).await,
            }
        }
        Err(HuntError::EndlessPages { pages: MOST_PAGES, empty })
    }

    /// Moves the position to the date of a notification that is done, unless it is there or the date is in the
    /// future.
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

    /// One page; `None` where it was asked to stop, or the quota is used up.
    async fn page(
        &self,
        job: Option<&str>,
        from: Option<i64>,
        cursor: Option<&str>,
        limits: &Limits,
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
            let Some(asked) = limits.bound(asking).await else { return Ok(None) };
            let error = match asked {
                Ok(page) => return Ok(Some(page)),
                Err(error) => error,
            };
            let now = self.clock.now();
            if asks::ends_run(&self.store, BUDGET, &error, now).await? {
                return Ok(None);
            }
            if asks::used_up(&self.store, &error, now).await?.is_some() {
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

    /// Waits for a grant of the request budget. False where it was asked to stop before, or there is none for
    /// long: the next run goes on then.
    async fn granted(&self, limits: &Limits) -> Result<bool, HuntError> {
        let windows = &self.settings.lookup.windows;
        let mut waited = SignedDuration::ZERO;
        while let Some(wait) = asks::grant(&self.store, windows, self.clock.now()).await? {
            waited = waited.saturating_add(wait);
            if waited > PATIENCE || limits.sleep(wait.unsigned_abs()).await {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
