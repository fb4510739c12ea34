//! Reads events that come in: the body of a webhook, or the answer to a poll.

use base::peer_text;
use json::limits::{JsonLimits, at_most};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, value::RawValue};

use super::{
    avro::{self, AvroError},
    event::{BinaryEvent, DownloadEvent},
};
pub use json::limits::JsonLimitError;

/// Model versions that are accepted: those of Azul 7 to the current one.
const VERSIONS: std::ops::RangeInclusive<i64> = 4..=6;

/// Most events of one body.
pub const MAX_EVENTS: usize = 5000;

/// Limits of one body. An event has some 20 bytes for each value and 60 for each object, so a body of 6 MiB stays
/// within them.
const LIMITS: JsonLimits = JsonLimits { values: 1_000_000, objects: 150_000 };

/// Longest reason why an event is refused, in characters.
const MAX_REASON_CHARS: usize = 200;

/// A kind of event that can come in.
pub trait Incoming: DeserializeOwned {
    /// Returns the `model_version` of the event.
    fn model_version(&self) -> i64;

    /// Decodes an Avro bulk message.
    ///
    /// # Errors
    /// [`AvroError`] if the message is not a bulk message of this kind of event.
    fn decode_bulk(message: &[u8]) -> Result<Vec<Self>, AvroError>;
}

impl Incoming for BinaryEvent {
    fn model_version(&self) -> i64 {
        self.model_version
    }

    fn decode_bulk(message: &[u8]) -> Result<Vec<Self>, AvroError> {
        avro::decode_binary_bulk(message)
    }
}

impl Incoming for DownloadEvent {
    fn model_version(&self) -> i64 {
        self.model_version
    }

    fn decode_bulk(message: &[u8]) -> Result<Vec<Self>, AvroError> {
        avro::decode_download_bulk(message)
    }
}

/// Reasons why a body has no events.
#[derive(Debug, thiserror::Error)]
pub enum NotEvents {
    /// The body is not JSON.
    #[error("the body is not JSON")]
    Json(#[source] serde_json::Error),
    /// The body is JSON, but has none of the accepted forms.
    #[error("the body is neither an event, nor a list of events, nor {{\"events\":[…]}}")]
    Shape,
    /// The body has more events than are taken at once.
    #[error("the body has more than {MAX_EVENTS} events: send fewer at once")]
    TooMany,
    /// The body has more JSON values than are taken at once.
    #[error("the body is too much at once: send fewer events")]
    TooMuch(#[from] JsonLimitError),
    /// The body is not an Avro bulk message.
    #[error("the body is no Avro bulk message of model version 4, 5 or 6")]
    Avro(#[source] AvroError),
}

/// An event, or the reason why it is refused.
pub type Read<E> = Result<E, String>;

/// Reads JSON: one event, a list of them, or `{"events":[…]}`. Each event has its own result.
///
/// # Errors
/// [`NotEvents`] if the body has none of these forms, or exceeds a limit.
pub fn from_json<E: Incoming>(body: &[u8]) -> Result<Vec<Read<E>>, NotEvents> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        entity: Option<IgnoredAny>,
        #[serde(borrow)]
        events: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct List<'a> {
        #[serde(borrow, deserialize_with = "at_most::<_, _, MAX_EVENTS>")]
        events: Vec<&'a RawValue>,
    }
    LIMITS.check(body)?;
    let whole: &RawValue = serde_json::from_slice(body).map_err(NotEvents::Json)?;
    let list = match whole.get().as_bytes().first() {
        Some(b'[') => whole,
        Some(b'{') => {
            let envelope = serde_json::from_str(whole.get()).map_err(|_| NotEvents::Shape)?;
            match envelope {
                Envelope { entity: Some(_), .. } => {
                    return Ok(vec![from_text(whole.get().as_bytes())]);
                }
                Envelope { events: Some(events), .. } if events.get().starts_with('[') => events,
                Envelope { .. } => return Err(NotEvents::Shape),
            }
        }
        _ => return Err(NotEvents::Shape),
    };
    // The text is a JSON list, so the only possible error is its length.
    let List { events } = serde_json::from_str(list.get()).map_err(|_| NotEvents::TooMany)?;
    Ok(events.into_iter().map(|event| from_text(event.get().as_bytes())).collect())
}

/// Reads an Avro bulk message. One broken event fails the whole message, because the start of the next one is unknown.
///
/// # Errors
/// [`NotEvents::Avro`] if the message is broken, or [`NotEvents::TooMany`].
pub fn from_avro<E: Incoming>(body: &[u8]) -> Result<Vec<Read<E>>, NotEvents> {
    let events = E::decode_bulk(body).map_err(NotEvents::Avro)?;
    if events.len() > MAX_EVENTS {
        return Err(NotEvents::TooMany);
    }
    Ok(events.into_iter().map(Ok).collect())
}

/// Reads one event.
///
/// # Errors
/// A sentence that says what is wrong with the event.
pub fn from_value<E: Incoming>(event: Value) -> Read<E> {
    of_known_version(serde_json::from_value(event))
}

/// Reads the JSON text of one event.
///
/// # Errors
/// A sentence that says what is wrong with the event.
pub fn from_text<E: Incoming>(event: &[u8]) -> Read<E> {
    of_known_version(serde_json::from_slice(event))
}

fn of_known_version<E: Incoming>(event: serde_json::Result<E>) -> Read<E> {
    // The error may quote the event, so it is cleaned.
    let event = event.map_err(|error| peer_text::line(&error.to_string(), MAX_REASON_CHARS))?;
    let version = event.model_version();
    if VERSIONS.contains(&version) {
        Ok(event)
    } else {
        Err(format!("model_version {version} is not one of 4, 5 and 6"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(version: i64) -> Value {
        json!({
            "model_version": version, "kafka_key": "", "timestamp": "2026-11-24T00:00:00Z",
            "author": {"name": "someone"}, "action": "sourced",
            "source": {"name": "incidents", "path": []}, "entity": {"sha256": "00"},
        })
    }

    fn read(body: &Value) -> Vec<Read<BinaryEvent>> {
        from_json(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn one_event_a_list_and_an_object_with_events_are_the_same() {
        for body in [event(6), json!([event(6)]), json!({ "events": [event(6)] })] {
            assert_eq!(read(&body).len(), 1);
            assert!(read(&body).iter().all(Result::is_ok));
        }
        assert!(read(&json!([])).is_empty());
    }

    #[test]
    fn a_broken_event_costs_only_itself() {
        let read = read(&json!([event(6), {"entity": 1}, 7, event(3), event(4)]));
        let fine: Vec<bool> = read.iter().map(Result::is_ok).collect();
        assert_eq!(fine, [true, false, false, false, true]);
        assert!(read.into_iter().nth(3).unwrap().unwrap_err().contains("model_version 3"));
    }

    #[test]
    fn what_is_too_much_for_one_body_is_refused_before_it_is_read() {
        let refused = |body: String| from_json::<BinaryEvent>(body.as_bytes()).unwrap_err();
        let many = |item: &str, n: usize| format!("[{}{item}]", format!("{item},").repeat(n));
        assert!(from_json::<BinaryEvent>(many("0", MAX_EVENTS - 1).as_bytes()).is_ok());
        for body in [many("0", MAX_EVENTS), format!("{{\"events\":{}}}", many("0", MAX_EVENTS))] {
            assert!(matches!(refused(body), NotEvents::TooMany));
        }
        for body in [
            many("0", 3_000_000),
            many("[]", 2_000_000),
            many("{}", 2_000_000),
            "[".repeat(3_000_000),
            "{\"a\":".repeat(1_000_000),
            format!("{{\"entity\":{{\"info\":{}}}}}", many("{}", 200_000)),
        ] {
            assert!(matches!(refused(body), NotEvents::TooMuch(_)));
        }
    }

    #[test]
    fn a_reason_quotes_no_more_than_its_start() {
        let long = format!("[\"{}\"]", "x".repeat(1_000_000));
        let reason = from_json::<BinaryEvent>(long.as_bytes()).unwrap().remove(0).unwrap_err();
        assert!(reason.chars().count() <= MAX_REASON_CHARS + 1, "{}", reason.len());
    }

    #[test]
    fn other_bodies_are_refused_as_a_whole() {
        for body in ["", "null", "7", "\"x\"", "{}", "{\"events\":7}", "[", "{\"events\":[}"] {
            assert!(from_json::<BinaryEvent>(body.as_bytes()).is_err(), "{body}");
        }
        assert!(from_avro::<BinaryEvent>(b"\x0cnot avro").is_err());
    }
}
