//! One minute: fetched, staged, delivered, noted in the ledger.

use std::{
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use azul_vt::{
    bundle::Compression,
    errors::chain,
    mapping::Mapper,
    metrics,
    minute::Minute,
    pipeline::{Account, DeliverError, Ended, Input, Limits, Progress},
    store::{
        Claim, Clock, Counts, GapKind, Lease, LedgerRow, MinuteState, Store, StoreError,
        rejects::Rejects,
    },
    virustotal::{VirusTotalError, asks},
};

use super::{Load, LoadError, MinuteEnd, NAME, Report, gap_delay};

/// Times a bundle that cannot be decoded is fetched before its minute becomes a gap.
const FETCHES: u32 = 3;

/// What staging a minute came to.
enum Staging {
    Staged(String),
    /// It is no bundle.
    Bad(String),
    Missing(String),
    NotYet,
    Paused,
    /// VirusTotal wants to be left alone for longer than leases may be held.
    LeftAlone,
}

impl Load {
    /// Loads one minute, whose lease is held. With `ageless`, as a replay: also where it was loaded before.
    pub(crate) async fn load_minute(
        &self,
        minute: Minute,
        Claim { lease, limits, .. }: &Claim,
        ageless: Option<&Arc<Mapper>>,
        report: &mut Report,
    ) -> Result<MinuteEnd, LoadError> {
        let row = self.store.ledger.get(minute).await?;
        let is_gap = ageless.is_none()
            && matches!(&row, Some(LedgerRow { state: MinuteState::Gap { .. }, .. }));
        let (mut key, mut lines_done, mut counts) = (None, 0, Counts::default());
        if ageless.is_some() {
            key = staged(&self.store, minute).await?;
        } else {
            match row.map(|row| (row.state, row.counts)) {
                Some((MinuteState::Loaded | MinuteState::Buried { .. }, _)) => {
                    return Ok(MinuteEnd::Before);
                }
                Some((MinuteState::Loading { bundle, lines_done: done }, counted)) => {
                    (key, lines_done, counts) = (Some(bundle), done, counted);
                }
                _ => {}
            }
        }
        let mut bad = "what was staged is gone".to_owned();
        for fetch in 1..=FETCHES {
            if limits.reached() && fetch > 1 {
                return Ok(MinuteEnd::Paused);
            }
            // A staged bundle that is gone (somebody tidied up) is fetched anew, from its first line.
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
                    // By VirusTotal's own clock it cannot be missing yet.
                    Staging::Missing(_) if !is_gap && minute > self.newest() => {
                        return Ok(MinuteEnd::NotYet);
                    }
                    Staging::Missing(said) => {
                        self.gap(minute, GapKind::Missing, said, lease, report).await?;
                        return Ok(MinuteEnd::Missing);
                    }
                    // The gap was due, so the clock or the gap is wrong: look again later.
                    Staging::NotYet if is_gap => {
                        let said = "VirusTotal says that the minute is not available yet".into();
                        self.gap(minute, GapKind::Missing, said, lease, report).await?;
                        return Ok(MinuteEnd::Missing);
                    }
                    Staging::NotYet => return Ok(MinuteEnd::NotYet),
                    Staging::Paused => return Ok(MinuteEnd::Paused),
                    Staging::LeftAlone => return Ok(MinuteEnd::LeftAlone),
                }
            };
            let note = Note { store: &self.store, clock: &*self.clock, lease, minute };
            note.put(MinuteState::Loading { bundle: staged.clone(), lines_done }, counts).await?;
            let mut minute_progress = MinuteProgress { note, bundle: staged.clone(), counts };
            let before = counts;
            let input = Input { reader, origin: origin(minute), lines_done, now: self.clock.now() };
            let mapper = ageless.unwrap_or(&self.pipeline.mapper);
            let delivering =
                self.pipeline.deliver_staged(mapper, &staged, input, limits, &mut minute_progress);
            let outcome = delivering.await;
            let after = minute_progress.counts;
            let counts = after.since(before);
            metrics::count(NAME, &counts, self.clock.now());
            report.counts.add(counts);
            match outcome {
                Ok(Ended::Complete) => {
                    let note = minute_progress.note;
                    note.put(MinuteState::Loaded, after).await?;
                    report.loaded += 1;
                    metrics::BUNDLES.add([NAME, "loaded"], 1);
                    tracing::info!(%minute, records = after.records, delivered = after.delivered,
                        filtered = after.filtered, rejected = after.rejected,
                        requests = after.requests, "minute loaded");
                    return Ok(MinuteEnd::Loaded);
                }
                Ok(Ended::Paused) => return Ok(MinuteEnd::Paused),
                // What came before the fault was delivered, and comes again.
                Err(DeliverError::Bundle(error)) if !error.is_transient() => {
                    bad = chain(&error);
                    self.bury_damaged(minute, &staged, &bad).await?;
                }
                Err(source) => return Err(LoadError::Minute { minute, source }),
            }
        }
        let said = format!("{bad} (fetched {FETCHES} times)");
        self.gap(minute, GapKind::Failed, said, lease, report).await?;
        Ok(MinuteEnd::Failed)
    }

    /// Moves a staged bundle under `rejects/` that cannot be decoded.
    async fn bury_damaged(&self, minute: Minute, key: &str, why: &str) -> Result<(), StoreError> {
        tracing::warn!(%minute, key, error = why, "the bundle cannot be decoded");
        let name = name(key.rsplit(['-', '.']).nth(1).unwrap_or_default());
        self.pipeline.bury(key, &origin(minute), &name, why, self.clock.now()).await
    }

    /// Notes a gap, with the time of its next try.
    pub(crate) async fn gap(
        &self,
        minute: Minute,
        kind: GapKind,
        reason: String,
        lease: &Lease,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        let (count, outcome) = match kind {
            GapKind::Missing => (&mut report.missing, "missing"),
            GapKind::Failed => (&mut report.failed, "failed"),
        };
        *count += 1;
        metrics::BUNDLES.add([NAME, outcome], 1);
        let row = self.store.ledger.get(minute).await?;
        let attempts = match row.map(|row| row.state) {
            Some(MinuteState::Gap { attempts, .. }) => attempts.saturating_add(1),
            // A replay that found nothing changes nothing that was loaded.
            Some(MinuteState::Loaded) => return Ok(()),
            _ => 1,
        };
        let now = self.clock.now();
        let next_try = now.checked_add(gap_delay(attempts)).unwrap_or(now);
        tracing::warn!(%minute, ?kind, attempts, %next_try, reason, "minute is a gap");
        let state = MinuteState::Gap { kind, reason, attempts, next_try };
        let note = Note { store: &self.store, clock: &*self.clock, lease, minute };
        note.put(state, Counts::default()).await?;
        Ok(())
    }

    /// Fetches a minute's bundle, and keeps it if it looks like one.
    async fn stage(&self, minute: Minute, limits: &Limits) -> Result<Staging, LoadError> {
        let Some(virustotal) = &self.virustotal else { return Err(LoadError::NoKey) };
        if asks::is_left_alone(&self.store, asks::FEED, self.clock.now()).await? {
            return Ok(Staging::LeftAlone);
        }
        let path = self.store.bundles.scratch().join(format!("{minute}-{}", std::process::id()));
        let mut backoff = self.backoff.clone();
        let fetched = loop {
            let fetching = virustotal.fetch_minute(minute, &path);
            let Some(fetched) = limits.bound(fetching).await else {
                return Ok(Staging::Paused);
            };
            match fetched {
                Ok(fetched) => break fetched,
                Err(VirusTotalError::Missing(answer)) => {
                    return Ok(Staging::Missing(answer.to_string()));
                }
                Err(VirusTotalError::NotAvailableYet(_)) => return Ok(Staging::NotYet),
                // VirusTotal does not document how it refuses what it keeps no longer.
                Err(error) if self.is_too_old(minute) && is_gone(&error) => {
                    return Ok(Staging::Missing(error.to_string()));
                }
                Err(error) if error.is_transient() => {
                    let now = self.clock.now();
                    if asks::ends_run(&self.store, asks::FEED, &error, now).await? {
                        return Ok(Staging::LeftAlone);
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
        // An error page that came with 200 is not compressed, and no list of objects.
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

/// What the rejects of a minute are filed under …
fn origin(minute: Minute) -> String {
    format!("feed/{minute}")
}

/// … and a bundle among them, by the first digits of its SHA-256.
fn name(sha256: &str) -> String {
    format!("bundle-{sha256}")
}

/// The first bytes of a fetched file: four, or all where it has fewer.
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

/// Whether an answer may say that there is no such minute any more.
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
}

#[async_trait]
impl Progress for MinuteProgress<'_> {
    async fn done(&mut self, account: Account) -> Result<(), StoreError> {
        self.counts.add(account.counts);
        let state =
            MinuteState::Loading { bundle: self.bundle.clone(), lines_done: account.lines_done };
        self.note.put(state, self.counts).await
    }
}

/// The staged bundle of a minute, if one is kept.
pub(crate) async fn staged(store: &Store, minute: Minute) -> Result<Option<String>, StoreError> {
    let prefix = format!("staged/feed/files/{}-", minute.storage_path());
    Ok(store.bundles.list(&prefix).await?.pop().map(|bundle| bundle.key))
}
