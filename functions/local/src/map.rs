//! `vt map`: what records would become.

use std::{fs, io::Read, path::Path};

use anyhow::{Context as _, anyhow};
use azul_vt::{
    azul::{
        avro,
        event::{BinaryEvent, ModelVersion},
    },
    bundle::{BundleError, Caps, Line, Lines},
    mapping::{HandlerSet, Mapped, Mapper, MapperOptions, Record},
    pipeline::{
        assemble::feed_author,
        ordered::{OrderedError, map_lines},
        prepare::{Batch, Batcher, Outcome, Prepared},
    },
    settings::Settings,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    cli::{MapArgs, MapFormat},
    failure::Failure,
    input::Input,
    output::Output,
};

/// A record's line of output.
#[derive(Serialize)]
struct Row {
    line: u64,
    events: Vec<BinaryEvent>,
    filtered: Option<String>,
    rejected: Option<String>,
}

/// The caps that the settings give.
pub(crate) fn caps(settings: &Settings) -> Caps {
    Caps { max_bundle_bytes: settings.max_bundle_bytes, max_line_bytes: settings.max_line_bytes }
}

/// The next line; an input that cannot be read is a usage error, a bundle that cannot be decoded a
/// failed job. No bytes at all are no lines.
pub(crate) fn next<R: Read>(
    lines: &mut Lines<R>,
    buffer: &mut Vec<u8>,
    name: &str,
) -> Result<Option<Line>, Failure> {
    match lines.next(buffer) {
        Ok(line) => Ok(line),
        Err(error) => undecodable(error, name).map(|()| None),
    }
}

fn undecodable(error: BundleError, name: &str) -> Result<(), Failure> {
    match error {
        BundleError::Empty => Ok(()),
        error if error.is_transient() => {
            Err(Failure::Usage(anyhow::Error::new(error).context(format!("cannot read {name}"))))
        }
        error => Err(Failure::Job(anyhow::Error::new(error).context(name.to_owned()))),
    }
}

/// Runs `vt map`.
pub(crate) fn run(args: &MapArgs) -> Result<(), Failure> {
    let settings = crate::settings::read()?;
    let version = match args.model_version {
        Some(number) => ModelVersion::from_number(number).unwrap_or(settings.model_version),
        None => settings.model_version,
    };
    let handlers = args.handlers.as_deref().unwrap_or(&settings.handlers);
    let mapper = Mapper::new(MapperOptions {
        handlers: HandlerSet::parse(handlers).map_err(Failure::usage)?,
        model_version: version,
        author: feed_author(),
        source: settings.load_source.clone(),
        max_age: match args.max_age_hours {
            Some(-1) => None,
            Some(hours) => Some(SignedDuration::from_hours(hours)),
            None => settings.max_age,
        },
    });
    let event = args.input.as_deref().map(read_event).transpose()?;
    let now = args.now.unwrap_or_else(Timestamp::now);
    let map = |line: &Line, bytes: &[u8]| match line {
        Line::TooLong { length, .. } => Mapped::Rejected(format!(
            "the line has {length} bytes, more than MAX_LINE_BYTES allows"
        )),
        Line::Record { .. } => match Record::parse(bytes) {
            Err(error) => Mapped::Rejected(error.to_string()),
            Ok(record) if args.report => mapper.map_report(&record, event.as_ref(), now),
            Ok(record) => mapper.map_feed(&record, now),
        },
    };
    let input = Input::open(&args.file)?;
    let _bar = input.progress();
    let lines = Lines::new(input.reader, caps(&settings));
    let mut output = Output::open();
    let done = match args.format {
        MapFormat::Json => map_lines(
            lines,
            args.threads,
            |line, bytes| row(line.number(), map(line, bytes)),
            |row| output.json(&row),
        ),
        MapFormat::Avro => {
            let max = settings.max_event_bytes;
            let mut batcher = Batcher::default();
            let done = map_lines(
                lines,
                args.threads,
                |line, bytes| prepared(line.number(), bytes, map(line, bytes), version, max),
                |line| match batcher.add(line) {
                    Some(batch) => write_batch(&mut output, &batch, version),
                    None => Ok(()),
                },
            );
            match (batcher.finish(), &done) {
                (Some(batch), Ok(()) | Err(OrderedError::Bundle(_))) => {
                    write_batch(&mut output, &batch, version)?;
                }
                _ => {}
            }
            done
        }
    };
    // What came before a fault is printed.
    let flushed = output.finish();
    match done {
        Ok(()) => flushed,
        Err(OrderedError::Taker(failure)) => Err(failure),
        Err(OrderedError::Bundle(error)) => flushed.and(undecodable(error, &input.name)),
    }
}

fn row(line: u64, mapped: Mapped) -> Row {
    let mut row = Row { line, events: Vec::new(), filtered: None, rejected: None };
    match mapped {
        Mapped::Event { event, .. } => row.events.push(*event),
        Mapped::Filtered(reason) => row.filtered = Some(reason),
        Mapped::Rejected(reason) => row.rejected = Some(reason),
    }
    row
}

/// As `load` prepares a line, without download requests. Only the record's length counts here.
fn prepared(
    line: u64,
    bytes: &[u8],
    mapped: Mapped,
    version: ModelVersion,
    max: usize,
) -> Prepared {
    let outcome = match mapped {
        Mapped::Filtered(reason) => Outcome::Filtered(reason),
        Mapped::Rejected(reason) => Outcome::Rejected(reason),
        Mapped::Event { event, .. } => match avro::fit(*event, version, max) {
            Ok(encoded) => {
                Outcome::Event { event: encoded.bytes, sha256: String::new(), requests: Vec::new() }
            }
            Err(error) => Outcome::Rejected(error.to_string()),
        },
    };
    Prepared { line, outcome, record: bytes.to_vec(), bad_values: 0, replaced_utf8: 0 }
}

fn write_batch(output: &mut Output, batch: &Batch, version: ModelVersion) -> Result<(), Failure> {
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
    let mut message = Vec::new();
    avro::bulk(version, &events, &mut message);
    let length = u32::try_from(message.len())
        .map_err(|_| Failure::Job(anyhow!("a message of {} bytes is too long", message.len())))?;
    output.bytes(&length.to_be_bytes())?;
    output.bytes(&message)
}

fn read_event(path: &Path) -> Result<BinaryEvent, Failure> {
    let name = path.display();
    let text =
        fs::read(path).with_context(|| format!("cannot read {name}")).map_err(Failure::Usage)?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{name} is no binary event"))
        .map_err(Failure::Usage)
}
