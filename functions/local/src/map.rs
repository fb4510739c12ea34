//! `vt map`: records to events, as `vt load` would post them, without posting.

use anyhow::{Context as _, anyhow};
use azul_vt::{
    azul::{
        avro,
        event::{BinaryEvent, ModelVersion},
    },
    bundle::Line,
    mapping::{Mapped, Mapper, Record},
    pipeline::{
        assemble,
        prepare::{self, Batch, Batcher, Outcome, Prepared},
    },
    settings::Settings,
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    cli::{Format, MapArgs},
    failure::{Failure, say},
    lines::{self, Shape},
    output::Output,
    settings,
};

/// Maps a file's records and prints the events that would be posted.
pub(crate) fn run(args: &MapArgs) -> Result<(), Failure> {
    let settings = with_options(settings::read()?, args);
    let mapper = assemble::mapper(&settings, false).map_err(|error| {
        let name = if args.handlers.is_some() { "--handlers" } else { "HANDLERS" };
        Failure::Usage(anyhow!("{name}: {error}"))
    })?;
    let input = args.input.as_deref().map(read_event).transpose()?;
    let work = Work {
        mapper,
        report: args.report,
        input,
        model_version: settings.model_version,
        max_event_bytes: settings.max_event_bytes,
        now: args.now.unwrap_or_else(Timestamp::now),
    };
    let mut source = lines::Source::open(&args.file, args.threads, &settings)?;
    source = if args.report {
        source.one_document_as_one_line()?
    } else {
        source.documents_as_lines()?
    };
    match args.format {
        Format::Json => source.print(|line, bytes| work.json(line, bytes)),
        Format::Avro => work.avro(source),
    }
}

/// Returns the settings with the values of the options, which take precedence.
fn with_options(mut settings: Settings, args: &MapArgs) -> Settings {
    if let Some(handlers) = &args.handlers {
        settings.handlers.clone_from(handlers);
    }
    settings.model_version = args.model_version.unwrap_or(settings.model_version);
    if let Some(hours) = args.max_age_hours {
        settings.max_age = (hours >= 0).then(|| SignedDuration::from_hours(hours));
    }
    settings
}

/// The event that reports were looked up for.
fn read_event(path: &std::path::Path) -> Result<BinaryEvent, Failure> {
    let name = path.display();
    let read = || -> anyhow::Result<BinaryEvent> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let event: BinaryEvent = serde_json::from_slice(&text)
            .with_context(|| format!("{name} is not a binary event"))?;
        if event.source.path.is_empty() {
            return Err(anyhow!("{name}: source.path is empty, so there is no node to go on from"));
        }
        Ok(event)
    };
    read().map_err(Failure::Usage)
}

/// The work on each line.
struct Work {
    mapper: Mapper,
    report: bool,
    input: Option<BinaryEvent>,
    model_version: ModelVersion,
    max_event_bytes: usize,
    now: Timestamp,
}

impl Work {
    fn map(&self, line: &Line, bytes: &[u8]) -> Mapped {
        let record = match prepare::read(line, bytes) {
            Ok(record) => record,
            Err(reason) => return Mapped::Rejected(reason),
        };
        self.map_record(&record)
    }

    fn map_record(&self, record: &Record) -> Mapped {
        if self.report {
            self.mapper.map_report(record, self.input.as_ref(), self.now)
        } else {
            self.mapper.map_feed(record, self.now)
        }
    }

    /// One line of JSON, with the event as it would be posted: features that do not fit are cut.
    fn json(&self, line: &Line, bytes: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let number = line.number();
        match self.map(line, bytes) {
            Mapped::Filtered(reason) => Shape::filtered(number, &reason).to_line(),
            Mapped::Rejected(reason) => Shape::rejected(number, &reason).to_line(),
            Mapped::Event { event, .. } => {
                match avro::cut_to_fit(*event, self.model_version, self.max_event_bytes) {
                    Ok(event) => Shape::events(number, &[event]).to_line(),
                    Err(error) => Shape::rejected(number, &error.to_string()).to_line(),
                }
            }
        }
    }

    fn prepare(&self, line: &Line, bytes: &[u8]) -> Prepared {
        let (outcome, bad_values) = match self.map(line, bytes) {
            Mapped::Filtered(reason) => (Outcome::Filtered(reason), 0),
            Mapped::Rejected(reason) => (Outcome::NoRecord(reason), 0),
            Mapped::Event { event, bad_values } => {
                let sha256 = event.entity.sha256.clone();
                match avro::fit(*event, self.model_version, self.max_event_bytes) {
                    Ok(encoded) => {
                        let event = encoded.bytes;
                        (Outcome::Event { event, sha256, requests: Vec::new() }, bad_values)
                    }
                    Err(error) => (Outcome::Rejected(error.to_string()), bad_values),
                }
            }
        };
        // The record is kept because its size counts towards the batch, as it does in a load.
        let record = bytes.to_vec();
        Prepared { line: line.number(), outcome, record, bad_values, replaced_utf8: 0 }
    }

    /// Prints the bulk messages that a load would post, each preceded by its length. Rejected lines, and the number of
    /// filtered ones, are reported on standard error.
    fn avro(&self, source: lines::Source) -> Result<(), Failure> {
        let mut output = Output::open();
        let mut batcher = Batcher::default();
        let mut message = Vec::new();
        let (mut filtered, mut rejected) = (0_u64, 0_u64);
        let ended = source.each(
            |line, bytes| self.prepare(line, bytes),
            |prepared| {
                match &prepared.outcome {
                    Outcome::Event { .. } => {}
                    Outcome::Filtered(_) => filtered += 1,
                    Outcome::Rejected(reason) | Outcome::NoRecord(reason) => {
                        rejected += 1;
                        say(&format!("vt: line {}: rejected: {reason}", prepared.line));
                    }
                }
                match batcher.add(prepared) {
                    Some(batch) => self.write(&batch, &mut message, &mut output),
                    None => Ok(()),
                }
            },
        );
        if !matches!(ended, Err(Failure::Closed)) {
            if let Some(batch) = batcher.finish() {
                self.write(&batch, &mut message, &mut output)?;
            }
            output.finish()?;
            if filtered + rejected > 0 {
                say(&format!("vt: {filtered} records filtered, {rejected} rejected"));
            }
        }
        ended
    }

    fn write(
        &self,
        batch: &Batch,
        message: &mut Vec<u8>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let events: Vec<&[u8]> = batch
            .lines
            .iter()
            .filter_map(|line| match &line.outcome {
                Outcome::Event { event, .. } => Some(event.as_slice()),
                _ => None,
            })
            .collect();
        if events.is_empty() {
            return Ok(());
        }
        message.clear();
        avro::bulk(self.model_version, &events, message);
        let length = u32::try_from(message.len()).map_err(Failure::job)?;
        output.bytes(&length.to_be_bytes())?;
        output.bytes(message)
    }
}
