//! Prepares a line: decides what is sent for it. This is a pure function, so the same line and `now` always give the
//! same bytes.

use jiff::Timestamp;

use crate::{
    azul::{
        avro,
        event::{BinaryEvent, DownloadEvent, ModelVersion},
    },
    bundle::Line,
    mapping::{Mapped, Mapper, Record},
    selection::{Candidate, Selector},
};

/// Most events in one post.
pub const BATCH_EVENTS: usize = 50;
/// Most bytes of events in one post.
pub const BATCH_BYTES: usize = 4 << 20;
/// Most bytes of raw records held for one post: they are kept beside their events until the
/// dispatcher's answer, because a refused record goes to `rejects/` whole.
pub const BATCH_RECORD_BYTES: usize = 4 << 20;
/// Most lines accounted for at once where few of them make events.
pub const BATCH_LINES: usize = 2000;

/// Outcome of a line before anything is sent.
#[derive(Debug)]
pub enum Outcome {
    /// The line makes an event and the download requests that go with it.
    Event {
        /// The event in Avro.
        event: Vec<u8>,
        /// SHA-256 of the binary.
        sha256: String,
        /// Download requests, one for each rule that hit.
        requests: Vec<DownloadEvent>,
    },
    /// The record is not wanted, with the reason.
    Filtered(String),
    /// The record can never be delivered, with the reason.
    Rejected(String),
    /// The line is not a record of a file: it cannot be read, or is about something else.
    NoRecord(String),
}

/// A line, ready to be sent.
#[derive(Debug)]
pub struct Prepared {
    /// Number of the line, from 1.
    pub line: u64,
    /// Outcome of the line, with the event and requests to send.
    pub outcome: Outcome,
    /// The record, as it came; at most 4096 bytes of a line over the cap.
    pub record: Vec<u8>,
    /// Number of values that the mapping left out.
    pub bad_values: u64,
    /// Invalid UTF-8 sequences that became U+FFFD.
    pub replaced_utf8: u64,
}

/// Prepares lines.
#[derive(Debug)]
pub struct Preparer<'a> {
    /// Maps records to events.
    pub mapper: &'a Mapper,
    /// Makes the download requests for a record.
    pub selector: &'a Selector,
    /// Model version of the encoded events.
    pub model_version: ModelVersion,
    /// Largest event in bytes. Larger events lose features, beginning with the last.
    pub max_event_bytes: usize,
    /// Timestamp of all events.
    pub now: Timestamp,
}

impl Preparer<'_> {
    /// Prepares one line. `bytes` is the line without its newline.
    pub fn prepare(&self, line: &Line, bytes: &[u8]) -> Prepared {
        let number = line.number();
        let mut prepared = Prepared {
            line: number,
            outcome: Outcome::Filtered(String::new()),
            record: bytes.to_vec(),
            bad_values: 0,
            replaced_utf8: 0,
        };
        prepared.outcome = match read(line, bytes) {
            Err(reason) => Outcome::NoRecord(reason),
            Ok(record) => {
                prepared.replaced_utf8 = record.replaced();
                match self.mapper.map_feed(&record, self.now) {
                    Mapped::Filtered(reason) => Outcome::Filtered(reason),
                    Mapped::Rejected(reason) => Outcome::NoRecord(reason),
                    Mapped::Event { event, bad_values } => {
                        prepared.bad_values = bad_values;
                        self.encode(&record, *event)
                    }
                }
            }
        };
        prepared
    }

    fn encode(&self, record: &Record, event: BinaryEvent) -> Outcome {
        let requests = select(self.selector, record, &event, self.now);
        let sha256 = event.entity.sha256.clone();
        match avro::fit(event, self.model_version, self.max_event_bytes) {
            Ok(encoded) => Outcome::Event { event: encoded.bytes, sha256, requests },
            Err(error) => Outcome::Rejected(error.to_string()),
        }
    }
}

/// Reads the record of a line.
///
/// # Errors
/// The reason why the line is rejected: it is too long, or not a record.
pub fn read(line: &Line, bytes: &[u8]) -> Result<Record, String> {
    match line {
        Line::TooLong { length, .. } => {
            Err(format!("the line has {length} bytes, more than MAX_LINE_BYTES allows"))
        }
        Line::Record { .. } => Record::parse(bytes).map_err(|error| error.to_string()),
    }
}

/// Returns the download requests for a record that was mapped to `event`.
pub fn select(
    selector: &Selector,
    record: &Record,
    event: &BinaryEvent,
    now: Timestamp,
) -> Vec<DownloadEvent> {
    let download_url = record.download_url();
    let candidate = Candidate {
        record,
        source: &event.source,
        sha256: &event.entity.sha256,
        size: record.size(),
        download_url: download_url.as_deref(),
        last_analysis: record.last_analysis_date(),
    };
    selector.select(&candidate, now)
}

/// Lines that are sent and accounted for together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The lines in order.
    pub lines: Vec<Prepared>,
    events: usize,
    event_bytes: usize,
    record_bytes: usize,
}

impl Batch {
    /// Returns the numbers of the first and the last line; zeros for an empty batch.
    pub fn span(&self) -> (u64, u64) {
        let number = |line: Option<&Prepared>| line.map_or(0, |p| p.line);
        (number(self.lines.first()), number(self.lines.last()))
    }

    /// Returns the memory in bytes that the batch takes while it is posted. It has the records, and the events twice:
    /// alone and in the post.
    pub fn bytes(&self) -> usize {
        self.record_bytes + 2 * self.event_bytes
    }

    /// Whether a line of the batch is a record of a file, whatever its outcome.
    pub fn has_record(&self) -> bool {
        self.lines.iter().any(|line| !matches!(line.outcome, Outcome::NoRecord(_)))
    }

    /// Returns the number of events in the batch.
    pub fn events(&self) -> usize {
        self.events
    }
}

/// Groups lines into batches. The result depends only on the sequence of lines.
#[derive(Debug, Default)]
pub struct Batcher {
    open: Batch,
}

impl Batcher {
    /// Adds a line. Returns the batch that the line closed, if it did.
    pub fn add(&mut self, line: Prepared) -> Option<Batch> {
        let event_bytes = match &line.outcome {
            Outcome::Event { event, .. } => event.len(),
            _ => 0,
        };
        let open = &mut self.open;
        let full = open.events == BATCH_EVENTS
            || (open.events > 0 && event_bytes > 0 && open.event_bytes + event_bytes > BATCH_BYTES)
            || open.record_bytes + line.record.len() > BATCH_RECORD_BYTES
            || open.lines.len() == BATCH_LINES;
        let closed = (full && !open.lines.is_empty()).then(|| std::mem::take(&mut self.open));
        let open = &mut self.open;
        open.events += usize::from(event_bytes > 0);
        open.event_bytes += event_bytes;
        open.record_bytes += line.record.len();
        open.lines.push(line);
        closed
    }

    /// Returns the last batch; `None` if no lines are left.
    pub fn finish(self) -> Option<Batch> {
        (!self.open.lines.is_empty()).then_some(self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(line: u64, event_bytes: usize, record_bytes: usize) -> Prepared {
        let outcome = if event_bytes == 0 {
            Outcome::Rejected("no".into())
        } else {
            Outcome::Event { event: vec![0; event_bytes], sha256: String::new(), requests: vec![] }
        };
        let record = vec![0; record_bytes];
        Prepared { line, outcome, record, bad_values: 0, replaced_utf8: 0 }
    }

    fn batches(sizes: &[(usize, usize)]) -> Vec<(u64, u64)> {
        let mut batcher = Batcher::default();
        let mut spans = Vec::new();
        for (i, (event, record)) in sizes.iter().enumerate() {
            spans.extend(batcher.add(prepared(i as u64 + 1, *event, *record)).map(|b| b.span()));
        }
        spans.extend(batcher.finish().map(|b| b.span()));
        spans
    }

    #[test]
    fn a_batch_holds_at_most_fifty_events() {
        assert_eq!(batches(&[(10, 10); 120]), [(1, 50), (51, 100), (101, 120)]);
    }

    #[test]
    fn a_batch_holds_at_most_four_megabytes_of_events_unless_one_event_is_larger() {
        assert_eq!(
            batches(&[(3 << 20, 1), (2 << 20, 1), (5 << 20, 1), (1, 1)]),
            [(1, 1), (2, 2), (3, 3), (4, 4)]
        );
    }

    #[test]
    fn a_batch_ends_before_its_records_fill_the_memory() {
        assert_eq!(batches(&[(0, 3 << 20), (1, 3 << 20), (1, 1)]), [(1, 1), (2, 3)]);
    }

    #[test]
    fn lines_without_events_are_accounted_for_now_and_then() {
        assert_eq!(batches(&vec![(0, 1); 2100]), [(1, 2000), (2001, 2100)]);
        assert!(batches(&[]).is_empty());
    }
}
