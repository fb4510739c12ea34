//! Loads one minute: fetches and stages its bundle, delivers its events, and notes the progress in the ledger.

use std::{
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use azul_vt::{
    bundle::Compression,
    errors::chain,
    metrics,
    minute::Minute,
    pipeline::{
        BatchReport, DeliverError, DeliverInput, Ended, NAMED_LINES, Progress, RunLimits, reasons,
    },
    store::{
        Claim, Clock, Counts, GapKind, Lease, LedgerRow, MinuteState, Store, StoreError,
        rejects::Rejects,
    },
    virustotal::{VirusTotalError, request_budget},
};

use super::{Load, LoadError, MinuteEnd, NAME, Replay, Report, gap_delay};

/// Number of times that a bundle is fetched before its minute becomes a gap, if it cannot be decoded.
const FETCHES: u32 = 3;

/// The result of staging a minute.
enum Staging {
    Staged(String),
    /// The answer is not a bundle.
    Bad(String),
    Missing(String),
    NotYet,
    Paused,
    /// VirusTotal asks for a pause that is longer than a run may hold its leases.
    FeedPaused,
}

/// The point from which a minute is loaded.
#[derive(Default)]
struct Begin {
    /// Key of the staged bundle to load; `None`: fetch the bundle.
    key: Option<String>,
    /// Key of a staged bundle that is used if VirusTotal no longer has the minute.
    second_choice: Option<String>,
    lines_done: u64,
    counts: Counts,
}

impl Load {
    /// Loads one minute whose lease is held. A replay also loads a minute that was loaded before.
    pub(crate) async fn load_minute(
        &self,
        minute: Minute,
        Claim { lease, limits, .. }: &Claim,
        replay: Option<Replay<'_>>,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        let row = self.store.ledger.get(minute).await?;
        let is_gap = replay.is_none()
            && matches!(&row, Some(LedgerRow { state: MinuteState::Gap { .. }, .. }));
        let was_loaded = matches!(&row, Some(LedgerRow { state: MinuteState::Loaded, .. }));
        let Some(begin) = self.begin(minute, row.as_ref(), replay).await? else {
            return Ok(MinuteEnd::AlreadySettled);
        };
        let Begin { mut key, mut second_choice, mut lines_done, mut counts } = begin;
        let mut bad = "what was staged is gone".to_owned();
        for fetch in 1..=FETCHES {
            if limits.reached() && fetch > 1 {
                return Ok(MinuteEnd::Paused);
            }
            // If the staged bundle was removed meanwhile, the bundle is fetched again and loaded from its first line.
            let open = match &key {
                Some(key) => self.store.bundles.open(key).await?,
                None => None,
            };
            let (staged, reader) = if let (Some(key), Some(reader)) = (key.take(), open) {
                (key, reader)
            } else {
                (lines_done, counts) = (0, Counts::default());
                match self.stage(minute, limits).await? {
                    Staging::Staged(key) => {
                        let reader = self.store.bundles.open(&key).await?;
                        let Some(reader) = reader else { continue };
                        (key, reader)
                    }
                    Staging::Bad(why) => {
                        bad = why;
                        continue;
                    }
                    Staging::Missing(_) if second_choice.is_some() => {
                        key = second_choice.take();
                        continue;
                    }
                    // The minute is too young to be missing, by VirusTotal's own clock.
                    Staging::Missing(_) if !is_gap && minute > self.newest() => {
                        return Ok(MinuteEnd::NotYet);
                    }
                    Staging::Missing(said) => {
                        self.gap(minute, (GapKind::Missing, said), row.as_ref(), lease, report)
                            .await?;
                        return Ok(MinuteEnd::Missing);
                    }
                    // The gap was due, so the clock or the gap is wrong: look again later.
                    Staging::NotYet if is_gap => {
                        let said = "VirusTotal says that the minute is not available yet".into();
                        self.gap(minute, (GapKind::Missing, said), row.as_ref(), lease, report)
                            .await?;
                        return Ok(MinuteEnd::Missing);
                    }
                    Staging::NotYet => return Ok(MinuteEnd::NotYet),
                    Staging::Paused => return Ok(MinuteEnd::Paused),
                    Staging::FeedPaused => return Ok(MinuteEnd::FeedPaused),
                }
            };
            let note = Note { store: &self.store, clock: &*self.clock, lease, minute };
            // A loaded minute keeps its row until a batch of the new bundle is delivered.
            if !was_loaded {
                let state = MinuteState::Loading { bundle: staged.clone(), lines_done };
                note.put(state, counts).await?;
            }
            let (bundle, rejected) = (staged.clone(), Vec::new());
            let mut minute_progress = MinuteProgress { note, bundle, counts, rejected };
            let before = counts;
            let input =
                DeliverInput { reader, origin: origin(minute), lines_done, now: self.clock.now() };
            let mapper = replay.map_or(&self.pipeline.mapper, |replay| replay.mapper);
            let delivering =
                self.pipeline.deliver_staged(mapper, &staged, input, limits, &mut minute_progress);
            let outcome = delivering.await;
            let after = minute_progress.counts;
            let counts = after.since(before);
            metrics::count(NAME, &counts, self.clock.now());
            report.counts.add(counts);
            match outcome {
                Ok(Ended::Complete) => {
                    minute_progress.note.put(MinuteState::Loaded, after).await?;
                    report.loaded += 1;
                    tell_loaded(minute, after, &minute_progress.rejected);
                    return Ok(MinuteEnd::Loaded);
                }
                Ok(Ended::Paused) => return Ok(MinuteEnd::Paused),
                // The records before the fault were delivered. They are delivered again with the next bundle.
                Err(DeliverError::Bundle(error)) if !error.is_transient() => {
                    bad = chain(&error);
                    self.bury_damaged(minute, &staged, &bad).await?;
                }
                Err(DeliverError::NoRecords(error)) => {
                    bad = error.to_string();
                    self.bury_damaged(minute, &staged, &bad).await?;
                }
                Err(source) => return Err(LoadError::Minute { minute, source }),
            }
        }
        let said = format!("{bad} (fetched {FETCHES} times)");
        self.gap(minute, (GapKind::Failed, said), row.as_ref(), lease, report).await?;
        Ok(MinuteEnd::Failed)
    }

    /// Returns the point from which a minute is loaded; `None` if it was loaded or given up before.
    async fn begin(
        &self,
        minute: Minute,
        row: Option<&LedgerRow>,
        replay: Option<Replay<'_>>,
    ) -> Result<Option<Begin>, LoadError> {
        let mut begin = Begin::default();
        if let Some(Replay { is_fetched, .. }) = replay {
            if !is_fetched {
                begin.key = staged(&self.store, minute).await?;
            }
            if is_suspect(row) && self.virustotal.is_some() {
                begin.second_choice = begin.key.take();
            }
            return Ok(Some(begin));
        }
        match row.map(|row| (&row.state, row.counts)) {
            Some((MinuteState::Loaded | MinuteState::Buried { .. }, _)) => return Ok(None),
            Some((MinuteState::Loading { bundle, lines_done }, counts)) => {
                let key = Some(bundle.clone());
                begin = Begin { key, lines_done: *lines_done, counts, ..begin };
            }
            _ => {}
        }
        Ok(Some(begin))
    }

    /// Moves a staged bundle that cannot be decoded, or that has no records, to `rejects/`.
    async fn bury_damaged(&self, minute: Minute, key: &str, why: &str) -> Result<(), StoreError> {
        tracing::warn!(%minute, key, error = why, "the bundle cannot be used");
        let name = name(key.rsplit(['-', '.']).nth(1).unwrap_or_default());
        self.pipeline.bury(key, &origin(minute), &name, why, self.clock.now()).await
    }

    /// Writes that a minute is a gap, with the time of the next try. `before` is the minute's row when this try began.
    pub(crate) async fn gap(
        &self,
        minute: Minute,
        (kind, reason): (GapKind, String),
        before: Option<&LedgerRow>,
        lease: &Lease,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        let (count, outcome) = match kind {
            GapKind::Missing => (&mut report.missing, "missing"),
            GapKind::Failed => (&mut report.failed, "failed"),
        };
        *count += 1;
        metrics::BUNDLES.add([NAME, outcome], 1);
        let note = Note { store: &self.store, clock: &*self.clock, lease, minute };
        let attempts = match before {
            Some(LedgerRow { state: MinuteState::Gap { attempts, .. }, .. }) => {
                attempts.saturating_add(1)
            }
            // A replay that finds no bundle leaves a loaded minute as it was. The exception is a minute whose records
            // were all rejected: an older version took any answer for a bundle.
            Some(LedgerRow { state: MinuteState::Loaded, counts, .. })
                if kind == GapKind::Missing || !counts.is_all_rejected() =>
            {
                return Ok(note.put(MinuteState::Loaded, *counts).await?);
            }
            _ => 1,
        };
        let now = self.clock.now();
        let next_try = now.checked_add(gap_delay(attempts)).unwrap_or(now);
        tracing::warn!(%minute, ?kind, attempts, %next_try, reason, "minute is a gap");
        let state = MinuteState::Gap { kind, reason, attempts, next_try };
        note.put(state, Counts::default()).await?;
        Ok(())
    }

    /// Fetches a minute's bundle, and keeps it if it looks like one.
    async fn stage(&self, minute: Minute, limits: &RunLimits) -> Result<Staging, LoadError> {
        let Some(virustotal) = &self.virustotal else { return Err(LoadError::NoKey) };
        if request_budget::is_kind_paused(&self.store, request_budget::FEED, self.clock.now())
            .await?
        {
            return Ok(Staging::FeedPaused);
        }
        let path = self.store.bundles.scratch().join(format!("{minute}-{}", std::process::id()));
        let mut backoff = self.backoff.clone();
        let fetched = loop {
            let fetching = virustotal.fetch_minute(minute, &path);
            let Some(fetched) = limits.run_until(fetching).await else {
                return Ok(Staging::Paused);
            };
            match fetched {
                Ok(fetched) => break fetched,
                Err(VirusTotalError::Missing(answer)) => {
                    return Ok(Staging::Missing(answer.to_string()));
                }
                Err(VirusTotalError::NotAvailableYet(_)) => return Ok(Staging::NotYet),
                // VirusTotal does not document its answer for minutes that it no longer keeps.
                Err(error) if self.is_too_old(minute) && is_gone(&error) => {
                    return Ok(Staging::Missing(error.to_string()));
                }
                Err(error) if error.is_transient() => {
                    let now = self.clock.now();
                    if request_budget::pause_if_wait_is_long(
                        &self.store,
                        request_budget::FEED,
                        &error,
                        now,
                    )
                    .await?
                    {
                        return Ok(Staging::FeedPaused);
                    }
                    let wait = backoff.next_wait(error.retry_after());
                    let attempt = backoff.attempts();
                    tracing::warn!(%minute, attempt, wait_ms = wait.as_millis(),
                        error = %chain(&error), "fetching again");
                    if limits.sleep(wait).await {
                        return Ok(Staging::Paused);
                    }
                }
                Err(source) => return Err(LoadError::Refused { minute, source }),
            }
        };
        let short = fetched.sha256_hex.get(..12).unwrap_or(&fetched.sha256_hex);
        let start = start(path.clone()).await?;
        let compression = Compression::of(&start);
        // An error page that came with status 200 is neither compressed nor a list of JSON objects.
        if compression == Compression::Plain && !matches!(start[..], [] | [b'{', ..]) {
            let why = "it is neither compressed nor a list of objects".to_owned();
            let rejects = Rejects::new(Arc::clone(&self.store.bundles));
            let now = self.clock.now();
            rejects.keep_bundle(&origin(minute), &name(short), &path, &why, now).await?;
            tracing::warn!(%minute, error = why, "what was fetched is no bundle");
            return Ok(Staging::Bad(why));
        }
        let ending = if compression == Compression::Bzip2 { "bz2" } else { "bundle" };
        let key = format!("staged/feed/files/{}-{short}.{ending}", minute.storage_path());
        self.store.bundles.put_file(&key, &path).await?;
        Ok(Staging::Staged(key))
    }
}

/// Logs that a minute is loaded, and warns if many of its records were rejected. `rejected` has the first rejected
/// lines.
fn tell_loaded(minute: Minute, counts: Counts, rejected: &[(u64, String)]) {
    metrics::BUNDLES.add([NAME, "loaded"], 1);
    let Counts { records, delivered, filtered, rejected: refused, requests, .. } = counts;
    tracing::info!(%minute, records, delivered, filtered, rejected = refused, requests, "minute loaded");
    if counts.is_much_rejected() {
        let first = reasons(rejected);
        tracing::warn!(%minute, records, rejected = refused, first,
            "many records of the minute were rejected");
    }
}

/// Returns the origin of the rejects of a minute, under which they are kept.
fn origin(minute: Minute) -> String {
    format!("feed/{minute}")
}

/// Returns the name of a bundle among the rejects, from the first digits of its SHA-256.
fn name(sha256: &str) -> String {
    format!("bundle-{sha256}")
}

/// Reads the first four bytes of a fetched file, or all if it has fewer.
async fn start(path: PathBuf) -> Result<Vec<u8>, LoadError> {
    let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Unavailable {
        action: "reading a fetched bundle".into(),
        source,
    };
    let reading = tokio::task::spawn_blocking(move || {
        let mut start = Vec::new();
        std::fs::File::open(&path)?.take(4).read_to_end(&mut start)?;
        Ok::<_, io::Error>(start)
    });
    let read = reading.await.map_err(|error| unavailable(error.into()))?;
    Ok(read.map_err(|error| unavailable(error.into()))?)
}

/// Whether an answer may mean that VirusTotal no longer has the minute.
fn is_gone(error: &VirusTotalError) -> bool {
    error.answer().is_some_and(|answer| matches!(answer.status, Some(400 | 410)))
}

/// Writes the ledger's row of a minute.
#[derive(Clone, Copy)]
struct Note<'a> {
    store: &'a Store,
    clock: &'a dyn Clock,
    lease: &'a Lease,
    minute: Minute,
}

impl Note<'_> {
    async fn put(&self, state: MinuteState, counts: Counts) -> Result<(), StoreError> {
        let updated = self.clock.now();
        let row = LedgerRow { minute: self.minute, state, counts, updated };
        self.store.ledger.put(&row, self.lease).await
    }
}

/// Keeps a minute's progress in the ledger.
struct MinuteProgress<'a> {
    note: Note<'a>,
    bundle: String,
    counts: Counts,
    /// Number and reason of the first rejected lines, at most [`NAMED_LINES`].
    rejected: Vec<(u64, String)>,
}

#[async_trait]
impl Progress for MinuteProgress<'_> {
    async fn done(&mut self, account: BatchReport) -> Result<(), StoreError> {
        self.counts.add(account.counts);
        let room = NAMED_LINES.saturating_sub(self.rejected.len());
        self.rejected.extend(account.rejected.into_iter().take(room));
        let state =
            MinuteState::Loading { bundle: self.bundle.clone(), lines_done: account.lines_done };
        self.note.put(state, self.counts).await
    }
}

/// Whether a minute counts as loaded although all its records were rejected. Its staged file may not be a bundle.
pub(crate) fn is_suspect(row: Option<&LedgerRow>) -> bool {
    row.is_some_and(|row| row.state == MinuteState::Loaded && row.counts.is_all_rejected())
}

/// Returns the key of the newest staged bundle of a minute; `None` if none is kept.
pub(crate) async fn staged(store: &Store, minute: Minute) -> Result<Option<String>, StoreError> {
    let prefix = format!("staged/feed/files/{}-", minute.storage_path());
    let bundles = store.bundles.list(&prefix).await?.into_iter();
    Ok(bundles.max_by_key(|bundle| bundle.modified).map(|bundle| bundle.key))
}
