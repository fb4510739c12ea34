//! Makes the answer to Azul for an event that was looked up. Pure: the same input gives the same bytes.

use std::time::Duration;

use azul_vt::{
    azul::{
        avro,
        event::{Author, BinaryEvent, ModelVersion, StatusEntity, StatusEvent, status},
    },
    mapping::{Mapped, Mapper, Record},
};
use jiff::Timestamp;

use crate::wanted::AUTHOR;

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// VirusTotal's report, `{"data":{…}}`.
    Report(&'a [u8]),
    /// VirusTotal does not know the file.
    Unknown,
    /// The look-up failed for good, for this reason.
    Failed(&'a str),
}

/// The answer that is posted for an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The task's status, with its result if there is one.
    Status(Box<StatusEvent>),
    /// The result alone. The event was not handed out as a task, so the dispatcher takes no status for it.
    Mapped(Box<BinaryEvent>),
    /// Nothing is posted, because there is neither a task nor a result. The text is the reason.
    Nothing(String),
}

/// Makes answers.
pub struct Answers {
    /// Mapper from reports to events.
    pub mapper: Mapper,
    /// Model version of the events.
    pub model_version: ModelVersion,
    /// Most bytes of an event that is posted (`MAX_EVENT_BYTES`). Larger results lose features.
    pub max_event_bytes: usize,
}

/// Returns the author of look-ups.
pub fn author() -> Author {
    Author::new(AUTHOR, "plugin")
}

/// Removes the features and the free-form facts of an input, which may be megabytes. Neither the dispatcher nor readers
/// of a status use them, and the input is still a valid event.
pub fn cut_down(mut input: BinaryEvent) -> BinaryEvent {
    input.entity.features = Vec::new();
    input.entity.info = None;
    input
}

impl Answers {
    /// Returns the answer to `input`, whose look-up took `runtime`.
    pub fn reply(
        &self,
        input: &BinaryEvent,
        found: Found<'_>,
        runtime: Duration,
        now: Timestamp,
    ) -> Reply {
        let is_task = !input.dequeued.is_empty();
        let mut status = StatusEvent {
            model_version: self.model_version.number(),
            kafka_key: String::new(),
            timestamp: now,
            author: author(),
            entity: StatusEntity {
                input: input.clone(),
                status: status::COMPLETED.into(),
                runtime: runtime.as_secs_f64(),
                error: String::new(),
                message: String::new(),
                results: Vec::new(),
            },
        };
        let room = if is_task { self.room_in(&status) } else { self.max_event_bytes };
        let result = match found {
            Found::Report(report) => self.map(input, report, room, now),
            Found::Unknown => {
                Err((status::OPT_OUT, "VirusTotal does not know the file".to_owned()))
            }
            Found::Failed(why) => Err((status::ERROR_NETWORK, why.to_owned())),
        };
        let entity = &mut status.entity;
        match result {
            Ok(event) if is_task => entity.results.push(*event),
            Ok(event) => return Reply::Mapped(event),
            Err((_, message)) if !is_task => return Reply::Nothing(message),
            Err((status, message)) => {
                status.clone_into(&mut entity.status);
                entity.message = message;
                if status != status::OPT_OUT {
                    entity.error = "The look-up in VirusTotal failed".into();
                }
            }
        }
        Reply::Status(Box::new(status))
    }

    /// Returns the number of bytes that a status leaves for its result.
    fn room_in(&self, status: &StatusEvent) -> usize {
        // The blocks and counts around a result.
        const FRAME: usize = 32;
        let mut bytes = Vec::new();
        avro::encode_status(status, self.model_version, &mut bytes);
        self.max_event_bytes.saturating_sub(bytes.len()).saturating_sub(FRAME)
    }

    /// Returns the event of a report, or the status and the message that say why there is no event.
    fn map(
        &self,
        input: &BinaryEvent,
        report: &[u8],
        room: usize,
        now: Timestamp,
    ) -> Result<Box<BinaryEvent>, (&'static str, String)> {
        let broken = |why: String| (status::ERROR_EXCEPTION, why);
        let record = Record::parse(report)
            .map_err(|error| broken(format!("VirusTotal's report cannot be read: {error}")))?;
        match self.mapper.map_report(&record, Some(input), now) {
            Mapped::Event { event, .. } => {
                let (asked, got) = (&input.entity.sha256, &event.entity.sha256);
                if !got.eq_ignore_ascii_case(asked) {
                    let why =
                        format!("VirusTotal was asked for {asked} and gave a report on {got}");
                    return Err(broken(why));
                }
                let event = avro::cut_to_fit(*event, self.model_version, room)
                    .map_err(|error| broken(error.to_string()))?;
                Ok(Box::new(event))
            }
            Mapped::Filtered(why) => Err((status::OPT_OUT, why)),
            Mapped::Rejected(why) => Err(broken(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use azul_vt::mapping::{HandlerSet, MapperOptions};
    use serde_json::json;

    use super::*;

    fn input() -> BinaryEvent {
        let sha256 = "a".repeat(64);
        serde_json::from_value(json!({
            "model_version": 6, "kafka_key": "key", "author": {"name": "someone"}, "action": "sourced",
            "dequeued": "key.VirustotalFileLookup.1.0", "timestamp": "2026-11-24T08:00:00Z",
            "source": {"name": "incidents", "timestamp": "2026-11-24T07:00:00Z", "path": [
                {"author": {"name": "someone"}, "action": "sourced", "sha256": sha256, "size": 10}]},
            "entity": {"sha256": sha256, "size": 10, "info": {"a": 1},
                       "features": [{"name": "x", "value": "y", "type": "string"}]},
        }))
        .unwrap()
    }

    fn answers(max_event_bytes: usize) -> Answers {
        let mapper = Mapper::new(MapperOptions {
            handlers: HandlerSet::parse("default").unwrap(),
            model_version: ModelVersion::V6,
            author: author(),
            source: "virustotal".into(),
            max_age: None,
        });
        Answers { mapper, model_version: ModelVersion::V6, max_event_bytes }
    }

    fn report(sha256: &str, tags: usize) -> Vec<u8> {
        let tags: Vec<String> = (0..tags).map(|n| format!("tag{n:06}")).collect();
        let attributes = json!({"sha256": sha256, "tags": tags, "type_tag": "pdf"});
        json!({"data": {"type": "file", "id": sha256, "attributes": attributes}}).to_string().into()
    }

    fn status_of(reply: Reply) -> StatusEvent {
        let Reply::Status(status) = reply else { panic!("{reply:?}") };
        *status
    }

    fn now() -> Timestamp {
        "2026-11-24T09:00:00Z".parse().unwrap()
    }

    const RUNTIME: Duration = Duration::from_millis(1500);

    #[test]
    fn a_report_completes_the_task_with_one_result_behind_the_inputs_path() {
        let input = cut_down(input());
        let report = report(&"a".repeat(64), 3);
        let status =
            status_of(answers(100_000).reply(&input, Found::Report(&report), RUNTIME, now()));
        let StatusEntity { status, runtime, results, error, message, input: kept } = status.entity;
        assert_eq!(
            (status.as_str(), runtime, error, message),
            ("completed", 1.5, String::new(), String::new())
        );
        assert_eq!(
            (kept.dequeued.as_str(), kept.kafka_key.as_str()),
            ("key.VirustotalFileLookup.1.0", "key")
        );
        assert!(kept.entity.features.is_empty() && kept.entity.info.is_none());
        let [result] = results.as_slice() else { panic!("{results:?}") };
        assert_eq!(result.source.name, "incidents");
        let actions: Vec<&str> = result.source.path.iter().map(|n| n.action.as_str()).collect();
        assert_eq!(actions, ["sourced", "mapped"]);
        let tags = result.entity.features.iter().filter(|f| f.value.starts_with("tag0"));
        assert_eq!(tags.count(), 3);
    }

    #[test]
    fn an_unknown_file_opts_out_and_a_failure_says_why() {
        let input = input();
        let unknown =
            status_of(answers(100_000).reply(&input, Found::Unknown, RUNTIME, now())).entity;
        assert_eq!((unknown.status.as_str(), unknown.results.len()), ("opt-out", 0));
        assert!(!unknown.message.is_empty() && unknown.error.is_empty());
        let failed = answers(100_000).reply(&input, Found::Failed("503 twice"), RUNTIME, now());
        let failed = status_of(failed).entity;
        assert_eq!(
            (failed.status.as_str(), failed.message.as_str()),
            ("error-network", "503 twice")
        );
        assert!(!failed.error.is_empty());
    }

    #[test]
    fn a_report_on_another_file_or_no_report_is_an_error_and_never_a_result() {
        for report in [report(&"b".repeat(64), 1), b"<html>".to_vec(), b"{}".to_vec()] {
            let reply = answers(100_000).reply(&input(), Found::Report(&report), RUNTIME, now());
            let entity = status_of(reply).entity;
            assert_eq!((entity.status.as_str(), entity.results.len()), ("error-exception", 0));
            assert!(!entity.message.is_empty());
        }
    }

    #[test]
    fn an_event_that_is_no_task_gets_its_result_alone_or_nothing() {
        let mut input = input();
        input.dequeued.clear();
        let report = report(&"a".repeat(64), 1);
        let answers = answers(100_000);
        assert!(matches!(
            answers.reply(&input, Found::Report(&report), RUNTIME, now()),
            Reply::Mapped(event) if event.action == "mapped"
        ));
        assert!(matches!(answers.reply(&input, Found::Unknown, RUNTIME, now()), Reply::Nothing(_)));
    }

    #[test]
    fn a_result_is_cut_to_the_size_limit_and_says_so() {
        let report = report(&"a".repeat(64), 900);
        let reply = answers(8_000).reply(&input(), Found::Report(&report), RUNTIME, now());
        let status = status_of(reply);
        let mut bytes = Vec::new();
        avro::encode_status(&status, ModelVersion::V6, &mut bytes);
        assert!(bytes.len() <= 8_000 && bytes.len() > 7_900, "{}", bytes.len());
        let entity = status.entity;
        let [result] = entity.results.as_slice() else { panic!("{entity:?}") };
        assert_eq!(result.entity.features.last().unwrap().name, avro::FEATURES_TRUNCATED);
    }
}
