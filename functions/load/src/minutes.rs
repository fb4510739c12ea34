//! One minute: fetched, staged, verified, delivered, noted in the ledger.

use std::{
    io::{Read as _, Seek as _},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use azul_vt::{
    bundle::{self, Compression},
    errors::chain,
    mapping::Mapper,
    metrics,
    minute::Minute,
    pipeline::{Account, Ended, Input, Limits, Progress},
    store::{
        BundleReader, Claim, Clock, Counts, GapKind, Lease, LedgerRow, MinuteState, Store,
        StoreError, rejects::Rejects,
    },
    virustotal::VirusTotalError,
};

use super::{Load, LoadError, MinuteEnd, NAME, Report, gap_delay, is_bad};

/// Times a bundle that cannot be decoded is fetched before its minute becomes a gap.
const FETCHES: u32 = 3;

/// What staging a minute came to.
enum Staging {
    Staged(String),
    Missing(String),
    Failed(String),
    NotYet,
    Paused,
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
        for attempt in 1..=FETCHES {
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
                    Staging::Missing(said) => {
                        self.gap(minute, GapKind::Missing, said, lease, report).await?;
                        return Ok(MinuteEnd::Missing);
                    }
                    Staging::Failed(said) => {
                        self.gap(minute, GapKind::Failed, said, lease, report).await?;
                        return Ok(MinuteEnd::Failed);
                    }
                    // The gap was due, so the clock or the gap is wrong: look again later.
                    Staging::NotYet if is_gap => {
                        let said = "VirusTotal says that the minute is not available yet".into();
                        self.gap(minute, GapKind::Missing, said, lease, report).await?;
                        return Ok(MinuteEnd::Missing);
                    }
                    Staging::NotYet => return Ok(MinuteEnd::NotYet),
                    Staging::Paused => return Ok(MinuteEnd::Paused),
                }
            };
            let note = Note { store: &self.store, clock: &*self.clock, lease, minute };
            note.put(MinuteState::Loading { bundle: staged.clone(), lines_done }, counts).await?;
            let mut minute_progress = MinuteProgress { note, bundle: staged.clone(), counts };
            let before = counts;
            let outcome =
                self.send(minute, reader, lines_done, ageless, limits, &mut minute_progress).await;
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
                // It was verified when it was staged, so the disk or somebody else changed it.
                Err(error) if is_bad(&error) => {
                    tracing::error!(%minute, key = staged, attempt, "the staged bundle is damaged");
                    self.store.bundles.remove(&staged).await?;
                }
                Err(source) => return Err(LoadError::Minute { minute, source }),
            }
        }
        let said = "the staged bundle was damaged again and again: look at the disk".to_owned();
        self.gap(minute, GapKind::Failed, said, lease, report).await?;
        Ok(MinuteEnd::Failed)
    }

    async fn send(
        &self,
        minute: Minute,
        reader: BundleReader,
        lines_done: u64,
        ageless: Option<&Arc<Mapper>>,
        limits: &Limits,
        progress: &mut MinuteProgress<'_>,
    ) -> Result<Ended, azul_vt::pipeline::DeliverError> {
        let input =
            Input { reader, origin: format!("feed/{minute}"), lines_done, now: self.clock.now() };
        let mapper = ageless.unwrap_or(&self.pipeline.mapper);
        self.pipeline.deliver_with(mapper, input, limits, progress).await
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

    /// Fetches a minute's bundle, decodes all of it once, and only then keeps it.
    async fn stage(&self, minute: Minute, limits: &Limits) -> Result<Staging, LoadError> {
        let Some(virustotal) = &self.virustotal else { return Err(LoadError::NoKey) };
        let mut bad = String::new();
        for fetch in 1..=FETCHES {
            let path =
                self.store.bundles.scratch().join(format!("{minute}-{}", std::process::id()));
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
                    Err(error) if minute < self.horizon() && is_gone(&error) => {
                        return Ok(Staging::Missing(error.to_string()));
                    }
                    Err(error) if error.is_transient() => {
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
            let verified = match self.verify(path.clone()).await? {
                Ok(Some(compression)) => Ok(compression),
                Ok(None) => Err("it is neither compressed nor a list of objects".to_owned()),
                Err(error) => Err(chain(&error)),
            };
            match verified {
                Ok(compression) => {
                    let ending = if compression == Compression::Bzip2 { "bz2" } else { "bundle" };
                    let key =
                        format!("staged/feed/files/{}-{short}.{ending}", minute.storage_path());
                    self.store.bundles.put_file(&key, &path).await?;
                    return Ok(Staging::Staged(key));
                }
                Err(error) => {
                    bad = error;
                    tracing::warn!(%minute, fetch, error = bad, "the bundle cannot be decoded");
                    let rejects = Rejects::new(Arc::clone(&self.store.bundles));
                    let (origin, name) = (format!("feed/{minute}"), format!("bundle-{short}"));
                    rejects.keep_bundle(&origin, &name, &path, &bad, self.clock.now()).await?;
                    if limits.reached() {
                        return Ok(Staging::Paused);
                    }
                }
            }
        }
        Ok(Staging::Failed(format!("{bad} (fetched {FETCHES} times)")))
    }

    /// Decodes a whole file off the async threads. The inner result says whether it is a bundle.
    async fn verify(
        &self,
        path: PathBuf,
    ) -> Result<Result<Option<Compression>, bundle::BundleError>, LoadError> {
        let (caps, threads) = (self.pipeline.caps, self.pipeline.threads);
        let checked = tokio::task::spawn_blocking(move || {
            let read = |source| bundle::BundleError::Read { at: 0, source };
            let mut file = std::fs::File::open(&path).map_err(read)?;
            let mut start = [0; 1];
            // An error page that came with 200 is not compressed, and no list of objects.
            file.read(&mut start).map_err(read)?;
            file.rewind().map_err(read)?;
            let verified = bundle::verify(file, caps, threads)?;
            let compression = verified.extent.compression;
            let is_bundle = compression != Compression::Plain || start == *b"{";
            Ok::<_, bundle::BundleError>(is_bundle.then_some(compression))
        });
        match checked.await {
            Ok(Err(error)) if error.is_transient() => {
                Err(unavailable("reading a fetched bundle", error))
            }
            Ok(checked) => Ok(checked),
            Err(error) => Err(unavailable("verifying a fetched bundle", error)),
        }
    }
}

/// Whether an answer may say that there is no such minute any more.
fn is_gone(error: &VirusTotalError) -> bool {
    error.answer().is_some_and(|answer| matches!(answer.status, Some(400 | 410)))
}

fn unavailable(action: &str, source: impl std::error::Error + Send + Sync + 'static) -> LoadError {
    StoreError::Unavailable { action: action.into(), source: Box::new(source) }.into()
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
