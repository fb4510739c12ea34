//! Record → event: what VirusTotal says of a file becomes one `binary`/`mapped` event of Azul.
//!
//! Pure: the same record and the same `now` give the same event. A value that is not what its place
//! asks for costs that value and is counted; only a record without identity or time gives no event.

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

/// sha256 of the empty file, which is in every feed and says nothing.
const EMPTY_FILE: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// How a [`Mapper`] maps.
#[derive(Clone, Debug)]
pub struct MapperOptions {
    /// The handlers that emit features.
    pub handlers: HandlerSet,
    /// Version of the event models: 5 carries VirusTotal's own names of file types, 6 does not.
    pub model_version: ModelVersion,
    /// Who maps.
    pub author: Author,
    /// The Azul source of feed records, and of reports without an input event.
    pub source: String,
    /// Feed records last analysed longer ago than this are filtered; `None`: no limit.
    pub max_age: Option<SignedDuration>,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Mapped {
    /// It is an event.
    Event {
        /// The event.
        event: Box<BinaryEvent>,
        /// Values of the record that had to be left out.
        bad_values: u64,
    },
    /// It is not wanted, and why.
    Filtered(String),
    /// It never can be an event, and why.
    Rejected(String),
}

/// Maps records to events.
#[derive(Clone, Debug)]
pub struct Mapper {
    options: MapperOptions,
}

impl Mapper {
    /// A mapper that maps as `options` say.
    pub fn new(options: MapperOptions) -> Self {
        Self { options }
    }

    /// Maps a record of the feed. `now` becomes the event's own time and is what age counts from.
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

    /// Maps a file report, `{"data":…}` or the bare file object. With the `input` event that asked
    /// for it the event goes on from the input's source and path; without one it is like a feed
    /// record's. The age limit does not apply: a report was asked for.
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

    /// The input's source with one more node, which takes over what its last one knows of the file.
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

/// Identity and time. A time that is missing, or none, counts as 1970, which the age limit filters.
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
    if let Some(reason) = file.is_no_file() {
        return Err(Mapped::Rejected(reason));
    }
    let Some(sha256) = file.sha256() else {
        return Err(Mapped::Rejected(file.without_sha256()));
    };
    if sha256 == EMPTY_FILE {
        return Err(Mapped::Filtered("the empty file".into()));
    }
    Ok(sha256)
}
