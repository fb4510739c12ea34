//! What starts a run: any JSON.

use azul_vt::minute::Minute;
use serde::Deserialize;
use serde_json::Value;

/// What a run is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Catch up.
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

/// JSON that asks for something, but not in a way that can be done.
#[derive(Debug, thiserror::Error)]
pub enum NotATrigger {
    /// A range that is not one.
    #[error(
        "the event asks for a range, but not as {{\"from\":\"YYYYMMDDhhmm\",\"to\":\"YYYYMMDDhhmm\"}}"
    )]
    Range(#[source] serde_json::Error),
    /// An object event for something else.
    #[error("the event is of the object `{0}`, but only objects under incoming/ are loaded")]
    Object(String),
}

#[derive(Deserialize)]
struct Range {
    from: Minute,
    to: Minute,
}

impl Trigger {
    /// Reads an event: `{"from":…,"to":…}` is a range, an S3 object-created event (as S3 or `EventBridge`
    /// sends it) an object, and any other JSON, a schedule's event, `{}` or `null` among them, a tick.
    ///
    /// # Errors
    /// See [`NotATrigger`].
    pub fn parse(event: &Value) -> Result<Vec<Self>, NotATrigger> {
        if event.get("from").is_some() || event.get("to").is_some() {
            let Range { from, to } =
                serde_json::from_value(event.clone()).map_err(NotATrigger::Range)?;
            return Ok(vec![Self::Range { from, to }]);
        }
        let records = event.get("Records").and_then(Value::as_array);
        let keys: Vec<&str> = match records {
            Some(records) => {
                records.iter().filter_map(|r| r.pointer("/s3/object/key")?.as_str()).collect()
            }
            None => {
                event.pointer("/detail/object/key").and_then(Value::as_str).into_iter().collect()
            }
        };
        if keys.is_empty() {
            return Ok(vec![Self::Tick]);
        }
        // S3 writes keys as a form does: `+` is a blank, the rest percent-encoded. EventBridge does not.
        let decode = |key: &str| if records.is_some() { form_decode(key) } else { key.to_owned() };
        keys.into_iter()
            .map(decode)
            .map(|key| {
                if key.starts_with("incoming/") {
                    Ok(Self::Object { key })
                } else {
                    Err(NotATrigger::Object(key))
                }
            })
            .collect()
    }
}

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
    fn any_json_is_a_tick_unless_it_asks_for_more() {
        for event in [json!(null), json!({}), json!([]), json!({"source": "aws.scheduler"})] {
            assert_eq!(Trigger::parse(&event).unwrap(), [Trigger::Tick]);
        }
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
