//! Keeps the rejects of one bundle, up to `REJECTS_MAX_MB`; further ones are only counted.

use jiff::Timestamp;

use crate::store::{
    StoreError,
    rejects::{DroppedRejects, Reject, Rejects},
};

/// The rejects of one bundle, which are kept batch by batch.
pub(super) struct Refused<'a> {
    rejects: Rejects,
    origin: &'a str,
    max_bytes: u64,
    is_resumed: bool,
    now: Timestamp,
    /// Bytes kept so far. `None`: the bundle is resumed, and the bytes of earlier runs are not known yet.
    kept: Option<u64>,
    not_kept: DroppedRejects,
    /// The value of `not_kept` that was written last.
    noted: DroppedRejects,
}

impl<'a> Refused<'a> {
    /// Begins with no rejects. `is_resumed`: an earlier run kept some of the bundle's rejects.
    pub(super) fn new(
        rejects: Rejects,
        origin: &'a str,
        max_bytes: u64,
        is_resumed: bool,
        now: Timestamp,
    ) -> Self {
        let kept = (!is_resumed).then_some(0);
        let (not_kept, noted) = <_>::default();
        Self { rejects, origin, max_bytes, is_resumed, now, kept, not_kept, noted }
    }

    /// Whether further rejects are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.not_kept.lines > 0
    }

    /// Keeps the rejects of the batch that begins at `first_line`. `others` is the number of further rejects that were
    /// only counted, because [`Refused::is_full`] was true.
    pub(super) async fn add(
        &mut self,
        first_line: u64,
        rejects: &[Reject],
        others: u64,
    ) -> Result<(), StoreError> {
        let kept = match self.kept {
            Some(kept) => kept,
            None if rejects.is_empty() => 0,
            None => self.earlier().await?,
        };
        let room = if self.is_full() { 0 } else { self.max_bytes.saturating_sub(kept) };
        let written = self.rejects.write_within(self.origin, first_line, rejects, room).await?;
        if !rejects.is_empty() {
            self.kept = Some(kept.saturating_add(written.bytes));
        }
        let left = rejects.get(written.rejects..).unwrap_or_default();
        if let Some(reject) = left.first()
            && !self.is_full()
        {
            self.not_kept.from_line = reject.line;
        }
        self.not_kept.lines += left.len() as u64 + others;
        // The count is written each time it has doubled, so that a crash does not hide it.
        if self.not_kept.lines > self.noted.lines.saturating_mul(2) {
            self.note(false).await?;
        }
        Ok(())
    }

    /// Writes how many rejects were not kept. Removes the count of an earlier try of the whole bundle.
    pub(super) async fn finish(&mut self) -> Result<(), StoreError> {
        if self.not_kept != self.noted {
            return self.note(true).await;
        }
        if !self.is_resumed && !self.is_full() {
            return self.rejects.forget_not_kept(self.origin).await;
        }
        Ok(())
    }

    async fn note(&mut self, is_all: bool) -> Result<(), StoreError> {
        self.noted = self.not_kept;
        let (not_kept, most) = (&self.not_kept, self.max_bytes);
        self.rejects.note_not_kept(self.origin, not_kept, is_all, most, self.now).await
    }

    /// Returns the bytes that earlier runs kept, and takes over their count of rejects that were not kept.
    async fn earlier(&mut self) -> Result<u64, StoreError> {
        if let Some(earlier) = self.rejects.not_kept(self.origin).await? {
            (self.not_kept, self.noted) = (earlier, earlier);
        }
        self.rejects.bytes_of(self.origin).await
    }
}
