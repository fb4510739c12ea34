//! Holds back a feed bundle's lines until one of them is a record of a file. So an error page or a list that VirusTotal
//! sent in the place of a bundle leaves neither progress nor rejects.

use super::{
    BatchSender,
    prepare::{Batch, Outcome},
};

/// Most batches that are held until the first record. A bundle with more lines before its first record is read twice.
const MAX_HELD: usize = 4;
/// Most refused lines that an error or a warning names.
pub const NAMED_LINES: usize = 3;

/// None of a bundle's lines is a record of a file, or it has no lines.
#[derive(Debug, thiserror::Error)]
#[error("{}", no_records(*lines, first))]
pub struct NoRecords {
    /// Lines that are not blank.
    pub lines: u64,
    /// Number and reason of the first lines, at most [`NAMED_LINES`].
    pub first: Vec<(u64, String)>,
}

/// Reason why no more batches are taken.
#[derive(Debug)]
pub(super) enum Stop {
    /// The receiver of batches is gone.
    Closed,
    /// A record came after more batches than are held. The bundle has to be read again, with nothing held back.
    Late,
    /// There is no record in the whole bundle.
    NoRecords(NoRecords),
}

/// Holds batches back until one of them has a record.
#[derive(Debug, Default)]
pub(super) struct FirstRecordGate {
    is_open: bool,
    /// Whether batches were dropped, because there was no room for them.
    is_late: bool,
    held: Vec<Batch>,
    lines: u64,
    first: Vec<(u64, String)>,
}

impl FirstRecordGate {
    /// Returns a gate that holds nothing back.
    pub(super) fn open() -> Self {
        Self { is_open: true, ..Self::default() }
    }

    /// Passes a batch on, or holds it back.
    pub(super) fn put(&mut self, batch: Batch, outlet: &BatchSender) -> Result<(), Stop> {
        if !self.is_open {
            if !batch.has_record() {
                self.hold(batch);
                return Ok(());
            }
            if self.is_late {
                return Err(Stop::Late);
            }
            self.is_open = true;
            for batch in self.held.drain(..) {
                outlet.put(batch).map_err(|()| Stop::Closed)?;
            }
        }
        outlet.put(batch).map_err(|()| Stop::Closed)
    }

    fn hold(&mut self, batch: Batch) {
        self.lines += batch.lines.len() as u64;
        for line in batch.lines.iter().take(NAMED_LINES.saturating_sub(self.first.len())) {
            if let Outcome::NoRecord(reason) = &line.outcome {
                self.first.push((line.line, reason.clone()));
            }
        }
        if !self.is_late && self.held.len() < MAX_HELD {
            self.held.push(batch);
        } else {
            self.is_late = true;
            self.held.clear();
        }
    }

    /// Ends the bundle. An error if the bundle has no record: a minute of VirusTotal always has some, so a bundle
    /// without lines is a bad answer too.
    pub(super) fn finish(self) -> Result<(), Stop> {
        if self.is_open {
            return Ok(());
        }
        Err(Stop::NoRecords(NoRecords { lines: self.lines, first: self.first }))
    }
}

/// Returns the text of [`NoRecords`].
fn no_records(lines: u64, first: &[(u64, String)]) -> String {
    if lines == 0 {
        return "it has no lines".to_owned();
    }
    format!("none of its {lines} lines is a record of a file: {}", reasons(first))
}

/// Returns number and reason of the first [`NAMED_LINES`] refused lines as a text.
pub fn reasons(lines: &[(u64, String)]) -> String {
    let named = lines.iter().take(NAMED_LINES);
    named.map(|(line, reason)| format!("line {line}: {reason}")).collect::<Vec<_>>().join("; ")
}
