//! Maps records to events: VirusTotal's facts about a file become one `binary`/`mapped` event of Azul.
//!
//! Mapping is pure: the same record and the same `now` give the same event. A value of the wrong form is left out and
//! counted. A record gives no event if it is not a file with a SHA-256, is the empty file, or is too old.

mod catalogue;
mod entity;
mod format;
mod record;
mod shapes;
mod special;

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};

pub use self::{
    catalogue::{HandlerSet, UnknownHandler, descriptors},
    record::{Record, RecordError},
};
use self::{
    entity::{FileTypes, describe, references},
    record::{BadValue, FileObject},
    shapes::Sink,
};
use azul::{
    event::{
        Author, BinaryEvent, BinaryFlags, JsonObject, ModelVersion, PathNode, Source, StringMap,
    },
    limits::{MAX_TEXT_BYTES, start_of},
};
use json::Kind;

/// SHA-256 of the empty file, which is in every feed and gives no information.
const EMPTY_FILE: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Settings of a [`Mapper`].
#[derive(Clone, Debug)]
pub struct MapperOptions {
    /// The handlers that emit features.
    pub handlers: HandlerSet,
    /// Version of the event models: 5 carries VirusTotal's own names of file types, 6 does not.
    pub model_version: ModelVersion,
    /// Author of the mapped events.
    pub author: Author,
    /// The Azul source of feed records, and of reports without an input event.
    pub source: String,
    /// Longest time since the last analysis of a feed record. Older records are filtered; `None` means no limit.
    pub max_age: Option<SignedDuration>,
}

/// The outcome of mapping a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Mapped {
    /// The record gave an event.
    Event {
        /// The event.
        event: Box<BinaryEvent>,
        /// Number of the record's values that were left out.
        bad_values: u64,
    },
    /// The record is not wanted, for this reason.
    Filtered(String),
    /// The record can never be an event, for this reason.
    Rejected(String),
}

/// Maps records to events.
#[derive(Clone, Debug)]
pub struct Mapper {
    options: MapperOptions,
}

impl Mapper {
    /// Returns a mapper with these settings.
    pub fn new(options: MapperOptions) -> Self {
        Self { options }
    }

    /// Maps a record of the feed. `now` is the time of the event, and the age of the record counts up to it.
    pub fn map_feed(&self, record: &Record, now: Timestamp) -> Mapped {
        let file = record.feed_object();
        let mut sink = Sink::default();
        let (sha256, analysed) = match identify(file, &mut sink) {
            Ok(identity) => identity,
            Err(outcome) => return outcome,
        };
        if let Some(reason) = self.too_old(analysed, now) {
            return Mapped::Filtered(reason);
        }
        let source = self.new_source(file, &sha256, analysed, &mut sink);
        self.event(file, &sha256, source, now, sink)
    }

    /// Maps a file report: `{"data":…}` or the bare file object. If there is an `input` event that asked for the
    /// report, the event continues its source and path. Otherwise the event is like that of a feed record. The age
    /// limit does not apply, because the report was requested.
    pub fn map_report(
        &self,
        record: &Record,
        input: Option<&BinaryEvent>,
        now: Timestamp,
    ) -> Mapped {
        let file = record.report_object();
        let mut sink = Sink::default();
        let (sha256, source) = match input.filter(|input| !input.source.path.is_empty()) {
            Some(input) => {
                let sha256 = match identity(file) {
                    Ok(sha256) => sha256,
                    Err(outcome) => return outcome,
                };
                let source = self.continued_source(&input.source, &sha256);
                (sha256, source)
            }
            None => match identify(file, &mut sink) {
                Ok((sha256, analysed)) => {
                    let source = self.new_source(file, &sha256, analysed, &mut sink);
                    (sha256, source)
                }
                Err(outcome) => return outcome,
            },
        };
        self.event(file, &sha256, source, now, sink)
    }

    fn too_old(&self, analysed: Timestamp, now: Timestamp) -> Option<String> {
        let max_age = self.options.max_age?;
        (now.duration_since(analysed) > max_age)
            .then(|| format!("last analysed {analysed}, more than {} h ago", max_age.as_hours()))
    }

    fn new_source(
        &self,
        file: FileObject<'_>,
        sha256: &str,
        analysed: Timestamp,
        sink: &mut Sink,
    ) -> Source {
        let types = FileTypes::of(file);
        let node = PathNode {
            author: self.options.author.clone(),
            action: "mapped".into(),
            sha256: sha256.into(),
            relationship: StringMap::new(),
            timestamp: analysed,
            file_format_legacy: self.legacy(types.by_tag()),
            file_format: format::file_format(types.by_tag()).into(),
            size: file.size().ok().flatten().unwrap_or(0),
            filename: String::new(),
            language: String::new(),
        };
        Source {
            name: self.options.source.clone(),
            references: references(file, sink),
            security: String::new(),
            path: vec![node],
            timestamp: analysed,
            settings: StringMap::new(),
        }
    }

    /// Returns the source of the input with one more node, which takes over the facts about the file from the last
    /// node.
    fn continued_source(&self, input: &Source, sha256: &str) -> Source {
        let mut source = input.clone();
        if let Some(last) = source.path.last() {
            let node = PathNode {
                author: self.options.author.clone(),
                action: "mapped".into(),
                sha256: sha256.into(),
                timestamp: source.timestamp,
                ..last.clone()
            };
            source.path.push(node);
        }
        for node in &mut source.path {
            node.file_format_legacy = self.legacy(&node.file_format_legacy);
        }
        source
    }

    fn event(
        &self,
        file: FileObject<'_>,
        sha256: &str,
        source: Source,
        now: Timestamp,
        mut sink: Sink,
    ) -> Mapped {
        let types = FileTypes::of(file);
        let mut entity = describe(file, &mut sink);
        entity.sha256 = sha256.into();
        entity.file_format_legacy = self.legacy(types.by_magika());
        entity.file_format = format::file_format(types.by_magika()).into();
        entity.info = Some(JsonObject::new());
        if let Some(attributes) = file.get("attributes") {
            if attributes.kind() == Kind::Object {
                for handler in self.options.handlers.handlers() {
                    shapes::emit(handler, attributes, &mut sink);
                }
            } else {
                sink.bad();
            }
        }
        entity.features = sink.features;
        let event = BinaryEvent {
            model_version: self.options.model_version.number(),
            kafka_key: String::new(),
            timestamp: now,
            author: self.options.author.clone(),
            source,
            entity,
            action: "mapped".into(),
            dequeued: String::new(),
            retries: 0,
            flags: BinaryFlags::default(),
            track_source_references: String::new(),
            track_links: Vec::new(),
            track_authors: Vec::new(),
        };
        Mapped::Event { event: Box::new(event), bad_values: sink.bad_values }
    }

    fn legacy(&self, vt_type: &str) -> String {
        match self.options.model_version {
            ModelVersion::V5 => start_of(vt_type, MAX_TEXT_BYTES).to_owned(),
            ModelVersion::V6 => String::new(),
        }
    }
}

/// Returns the identity and the time of a file. A missing or invalid time counts as 1970, which the age limit filters.
fn identify<'a>(
    file: FileObject<'a>,
    sink: &mut Sink,
) -> Result<(Cow<'a, str>, Timestamp), Mapped> {
    let sha256 = identity(file)?;
    let analysed = file.last_analysis_date().unwrap_or_else(|_: BadValue| {
        sink.bad_values += 1;
        None
    });
    Ok((sha256, analysed.unwrap_or(Timestamp::UNIX_EPOCH)))
}

fn identity(file: FileObject<'_>) -> Result<Cow<'_, str>, Mapped> {
    if let Some(reason) = file.not_a_file_reason() {
        return Err(Mapped::Rejected(reason));
    }
    let Some(sha256) = file.sha256() else {
        return Err(Mapped::Rejected(file.missing_sha256_reason()));
    };
    if sha256 == EMPTY_FILE {
        return Err(Mapped::Filtered("the empty file".into()));
    }
    Ok(sha256)
}
