//! Events that come in: a webhook's body, or what a poll gave.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    avro::{self, AvroError},
    event::{BinaryEvent, DownloadEvent},
};

/// Model versions that are read: Azul 7 to today.
const VERSIONS: std::ops::RangeInclusive<i64> = 4..=6;

/// A kind of event that can come in.
pub trait Incoming: DeserializeOwned {
    /// `model_version` of the event.
    fn model_version(&self) -> i64;

    /// Decodes an Avro bulk message.
    ///
    /// # Errors
    /// The message is none, or holds another kind of event.
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

/// A body that holds no events.
#[derive(Debug, thiserror::Error)]
pub enum NotEvents {
    /// Not JSON.
    #[error("the body is not JSON")]
    Json(#[source] serde_json::Error),
    /// JSON of another shape.
    #[error("the body is neither an event, nor a list of events, nor {{\"events\":[…]}}")]
    Shape,
    /// Not Avro.
    #[error("the body is no Avro bulk message of model version 4, 5 or 6")]
    Avro(#[source] AvroError),
}

/// An event, or why it is none.
pub type Read<E> = Result<E, String>;

/// Reads JSON: one event, a list of them, or `{"events":[…]}`. Each event has its own result.
///
/// # Errors
/// [`NotEvents`] where the body as a whole is nothing of that.
pub fn from_json<E: Incoming>(body: &[u8]) -> Result<Vec<Read<E>>, NotEvents> {
    let events = match serde_json::from_slice(body).map_err(NotEvents::Json)? {
        Value::Array(events) => events,
        Value::Object(mut object) if !object.contains_key("entity") => {
            match object.remove("events") {
                Some(Value::Array(events)) => events,
                _ => return Err(NotEvents::Shape),
            }
        }
        event @ Value::Object(_) => vec![event],
        _ => return Err(NotEvents::Shape),
    };
    Ok(events.into_iter().map(from_value).collect())
}

/// Reads an Avro bulk message: as a whole, because behind a broken event nothing can be found any more.
///
/// # Errors
/// [`NotEvents::Avro`].
pub fn from_avro<E: Incoming>(body: &[u8]) -> Result<Vec<Read<E>>, NotEvents> {
    Ok(E::decode_bulk(body).map_err(NotEvents::Avro)?.into_iter().map(Ok).collect())
}

/// Reads one event.
///
/// # Errors
/// What is wrong with it, in words.
pub fn from_value<E: Incoming>(event: Value) -> Read<E> {
    of_known_version(serde_json::from_value(event))
}

/// Reads the JSON text of one event.
///
/// # Errors
/// What is wrong with it, in words.
pub fn from_text<E: Incoming>(event: &[u8]) -> Read<E> {
    of_known_version(serde_json::from_slice(event))
}

fn of_known_version<E: Incoming>(event: serde_json::Result<E>) -> Read<E> {
    let event = event.map_err(|error| error.to_string())?;
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
    fn other_bodies_are_refused_as_a_whole() {
        for body in ["", "null", "7", "\"x\"", "{}", "{\"events\":7}", "[", "{\"events\":[}"] {
            assert!(from_json::<BinaryEvent>(body.as_bytes()).is_err(), "{body}");
        }
        assert!(from_avro::<BinaryEvent>(b"\x0cnot avro").is_err());
    }
}
