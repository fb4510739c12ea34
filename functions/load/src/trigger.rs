//! Reads the events that start a run: a schedule's event, a range of minutes, or a notification of new objects in the
//! bucket from any of AWS's services.

use azul_vt::{
    lambda::{self, UnknownEvent},
    minute::Minute,
};
use serde::Deserialize;
use serde_json::Value;

/// Most envelopes that are removed from around an event: SNS in SQS makes two.
const MAX_WRAPPINGS: usize = 4;
const TAKES: &str = r#"{"from":"YYYYMMDDhhmm","to":"YYYYMMDDhhmm"}, news of S3 of objects under incoming/ (also by SNS, SQS or EventBridge), and its queue's"#;

/// The work that an event asks a run to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Catch up with the feed.
    Tick,
    /// Load these minutes again, both ends included.
    Range {
        /// First minute.
        from: Minute,
        /// Last minute.
        to: Minute,
    },
    /// Deliver an object that was put into the bucket.
    Object {
        /// Its key, under `incoming/`.
        key: String,
    },
}

/// Reasons why an event is not a trigger.
#[derive(Debug, thiserror::Error)]
pub enum NotATrigger {
    /// The event has a range that cannot be read.
    #[error(
        "the event asks for a range, but not as {{\"from\":\"YYYYMMDDhhmm\",\"to\":\"YYYYMMDDhhmm\"}}"
    )]
    Range(#[source] serde_json::Error),
    /// The event is about an object that is not under `incoming/`.
    #[error("the event is of the object `{0}`, but only objects under incoming/ are loaded")]
    Object(String),
    /// The event is of a kind that the function does not take.
    #[error(transparent)]
    Unknown(#[from] UnknownEvent),
}

const UNKNOWN: NotATrigger = NotATrigger::Unknown(UnknownEvent { takes: TAKES });

#[derive(Deserialize)]
struct Range {
    from: Minute,
    to: Minute,
}

impl Trigger {
    /// Reads an event. `{"from":…,"to":…}` is a range, a notification of S3 names objects, and an event that only
    /// starts the function ([`lambda::is_tick`]) is a tick. S3's test notification gives no trigger.
    ///
    /// # Errors
    /// See [`NotATrigger`].
    pub fn parse(event: &Value) -> Result<Vec<Self>, NotATrigger> {
        if event.get("from").is_some() || event.get("to").is_some() {
            let Range { from, to } =
                serde_json::from_value(event.clone()).map_err(NotATrigger::Range)?;
            return Ok(vec![Self::Range { from, to }]);
        }
        if lambda::is_tick(event) {
            return Ok(vec![Self::Tick]);
        }
        objects(event, MAX_WRAPPINGS)
    }

    /// Reads the new objects that a message of a queue names; `None` if the message is of another kind.
    pub fn of_message(body: &str) -> Option<Result<Vec<Self>, NotATrigger>> {
        let event = serde_json::from_str(body).ok()?;
        match objects(&event, MAX_WRAPPINGS) {
            Err(NotATrigger::Unknown(_)) => None,
            known => Some(known),
        }
    }
}

/// Reads the objects of a notification of S3, which may be wrapped by `EventBridge`, SNS or SQS.
fn objects(event: &Value, wrappings: usize) -> Result<Vec<Trigger>, NotATrigger> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str);
    if text("/Event") == Some("s3:TestEvent") {
        tracing::info!(
            bucket = text("/Bucket"),
            "S3 tests its notifications; there is nothing to do"
        );
        return Ok(Vec::new());
    }
    if let Some(records) = event.get("Records").and_then(Value::as_array) {
        if records.is_empty() {
            return Err(UNKNOWN);
        }
        let records: Result<Vec<_>, _> =
            records.iter().map(|record| of_record(record, wrappings)).collect();
        return Ok(records?.concat());
    }
    // SNS has this form inside a message of SQS.
    if text("/Type") == Some("Notification") {
        return unwrap(text("/Message"), wrappings);
    }
    match (text("/source"), text("/detail-type"), text("/detail/object/key")) {
        // `EventBridge` does not encode the key.
        (Some("aws.s3"), Some("Object Created"), Some(key)) => Ok(vec![object(key.to_owned())?]),
        _ => Err(UNKNOWN),
    }
}

fn of_record(record: &Value, wrappings: usize) -> Result<Vec<Trigger>, NotATrigger> {
    let text = |path: &str| record.pointer(path).and_then(Value::as_str);
    if let Some(key) = text("/s3/object/key") {
        let name = text("/eventName").unwrap_or("ObjectCreated:?");
        if !name.starts_with("ObjectCreated") {
            tracing::warn!(key, name, "news of S3 of something else than a new object is left");
            return Ok(Vec::new());
        }
        return Ok(vec![object(form_decode(key))?]);
    }
    unwrap(text("/Sns/Message").or_else(|| text("/body")), wrappings)
}

/// Removes one envelope and reads the event inside.
fn unwrap(message: Option<&str>, wrappings: usize) -> Result<Vec<Trigger>, NotATrigger> {
    let event = message.and_then(|message| serde_json::from_str(message).ok());
    let (Some(event), Some(wrappings)) = (event, wrappings.checked_sub(1)) else {
        return Err(UNKNOWN);
    };
    objects(&event, wrappings)
}

fn object(key: String) -> Result<Trigger, NotATrigger> {
    if key.starts_with("incoming/") {
        Ok(Trigger::Object { key })
    } else {
        Err(NotATrigger::Object(key))
    }
}

/// Decodes a key of a notification of S3. S3 encodes it like a form: `+` is a blank, the rest is percent-encoded.
fn form_decode(text: &str) -> String {
    let pair = format!("k={text}");
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_starts_the_function_is_a_tick_and_nothing_else_is() {
        for event in [json!(null), json!({}), json!([]), json!({"source": "aws.scheduler"})] {
            assert_eq!(Trigger::parse(&event).unwrap(), [Trigger::Tick]);
        }
        for event in [
            json!({"form": "202611240857", "till": "202611240857"}),
            json!({"Records": []}),
            json!({"Records": [{}]}),
            json!({"Records": [{"Sns": {"Message": "the disk is full"}}]}),
            json!({"source": "aws.s3", "detail-type": "Object Deleted",
                   "detail": {"object": {"key": "incoming/a"}}}),
            json!({"requestContext": {"http": {"method": "POST"}}}),
            json!("tick"),
        ] {
            let error = Trigger::parse(&event).unwrap_err();
            assert!(matches!(error, NotATrigger::Unknown(_)), "{event}: {error}");
        }
    }

    fn s3(key: &str) -> Value {
        json!({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
                            "s3": {"bucket": {"name": "b"}, "object": {"key": key}}}]})
    }

    #[test]
    fn news_of_an_object_are_known_whoever_brings_them() {
        let event_bridge = |key: &str| {
            json!({"source": "aws.s3", "detail-type": "Object Created",
                   "detail": {"bucket": {"name": "b"}, "object": {"key": key}}})
        };
        let sns = |inner: &Value| json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": inner.to_string()}}]});
        let envelope =
            |inner: &Value| json!({"Type": "Notification", "Message": inner.to_string()});
        let sqs = |inner: &Value| json!({"Records": [{"eventSource": "aws:sqs", "body": inner.to_string()}]});
        let (encoded, plain) = (s3("incoming/a+b%2Bc.bz2"), event_bridge("incoming/a b+c.bz2"));
        for event in [
            encoded.clone(),
            plain.clone(),
            sns(&encoded),
            sns(&plain),
            sqs(&encoded),
            sqs(&plain),
            sqs(&envelope(&encoded)),
            sqs(&envelope(&plain)),
        ] {
            let expected = Trigger::Object { key: "incoming/a b+c.bz2".into() };
            assert_eq!(Trigger::parse(&event).unwrap(), [expected], "{event}");
        }
        let message = envelope(&encoded).to_string();
        assert_eq!(Trigger::of_message(&message).unwrap().unwrap().len(), 1);
        assert!(Trigger::of_message(r#"{"format":1,"id":"202611240857"}"#).is_none());
        // An event inside too many envelopes is refused.
        let deep = (0..9).fold(encoded, |inner, _| envelope(&inner));
        assert!(matches!(Trigger::parse(&deep), Err(NotATrigger::Unknown(_))));
    }

    #[test]
    fn a_test_of_s3_and_removed_objects_ask_for_nothing() {
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"});
        assert_eq!(Trigger::parse(&test).unwrap(), []);
        let mut removed = s3("incoming/a");
        removed["Records"][0]["eventName"] = json!("ObjectRemoved:Delete");
        assert_eq!(Trigger::parse(&removed).unwrap(), []);
    }

    #[test]
    fn a_range_takes_both_spellings_of_minutes() {
        let event = json!({"from": "202611240857", "to": "2026-11-24T09:00Z"});
        let minute = |text: &str| text.parse().unwrap();
        assert_eq!(
            Trigger::parse(&event).unwrap(),
            [Trigger::Range { from: minute("202611240857"), to: minute("202611240900") }]
        );
        assert!(Trigger::parse(&json!({"from": "yesterday", "to": "today"})).is_err());
        assert!(Trigger::parse(&json!({"from": "202611240857"})).is_err());
    }

    #[test]
    fn an_object_event_names_its_key_decoded() {
        let event = json!({"Records": [{"s3": {"object": {"key": "incoming/a+b%2Bc.bz2"}}}]});
        assert_eq!(
            Trigger::parse(&event).unwrap(),
            [Trigger::Object { key: "incoming/a b+c.bz2".into() }]
        );
        let other = json!({"Records": [{"s3": {"object": {"key": "staged/x"}}}]});
        assert!(Trigger::parse(&other).is_err());
    }
}
