//! Classifies the dispatcher's answers to posted events, as azul-dispatcher v12 gives them.
//!
//! Several answers share a status and a title, so their texts decide. Bodies that are not JSON, such as those of
//! gateways, are treated as text.

use std::{borrow::Cow, time::Duration};

use reqwest::StatusCode;
use serde::Deserialize;

use super::dispatcher::PostError;
use json::limits::at_most;

use base::peer_text;

/// Longest text taken over from an answer, in characters.
const MAX_TEXT_CHARS: usize = 1000;

/// The dispatcher's answer to a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: some or all events are published.
    Accepted(Accepted),
    /// 400: the request itself is wrong (empty body, unknown model).
    BadRequest(String),
    /// 413, of a gateway in front of the dispatcher: the body is too large; nothing is published.
    BodyTooLarge(String),
    /// 422: the body cannot be decoded as a whole; nothing is published.
    Undecodable(String),
    /// 425: nothing is published; the first event (Avro) or every event (JSON) is invalid.
    Invalid(String),
    /// 425: nothing is published; at least one event is older than its source keeps events.
    AgedOff(String),
    /// 425: nothing is published; filters of the dispatcher dropped events.
    Filtered(Filtered),
    /// 500: at least one event is too large for the broker; others may be published.
    TooLarge(String),
    /// 500: Azul's source configuration lacks the source of an event; others may be published.
    UnregisteredTopic {
        /// The source, if the answer names the topic.
        source: Option<String>,
        /// The dispatcher's message.
        detail: String,
    },
    /// Any other answer. It does not show whether the events were published.
    Other {
        /// HTTP status.
        status: u16,
        /// The answer's message.
        detail: String,
        /// Time to wait before the next attempt, if the answer says it.
        retry_after: Option<Duration>,
    },
}

impl Answer {
    /// HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Accepted(_) => 200,
            Self::BadRequest(_) => 400,
            Self::BodyTooLarge(_) => 413,
            Self::Undecodable(_) => 422,
            Self::Invalid(_) | Self::AgedOff(_) | Self::Filtered(_) => 425,
            Self::TooLarge(_) | Self::UnregisteredTopic { .. } => 500,
            Self::Other { status, .. } => *status,
        }
    }
}

/// The dispatcher's counts for a post.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Number of events that are decoded and valid, including aged-off ones. For Avro: those before the first invalid
    /// one.
    pub total_ok: u64,
    /// Number of refused events. For Avro: always 0, even if `total_ok` is less than the number of events.
    pub total_failures: u64,
    /// Reason for each refused event.
    pub failures: Vec<String>,
}

/// The dispatcher's filters that dropped events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// The filters as the answer lists them, for example `age_off:3,dedupe:1`.
    pub filters: String,
    /// Number of events that the filters dropped together, if the answer counts them.
    pub dropped: Option<u64>,
}

#[derive(Deserialize)]
struct AcceptedBody {
    total_ok: u64,
    #[serde(default)]
    total_failures: u64,
    #[serde(default)]
    failures: Option<Failures>,
}

/// Failures of a post: at most 10,000, because no post has so many events.
#[derive(Deserialize)]
#[serde(transparent)]
struct Failures(#[serde(deserialize_with = "at_most::<_, _, 10_000>")] Vec<FailureBody>);

#[derive(Deserialize)]
struct FailureBody {
    #[serde(default)]
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    title: String,
    detail: String,
    error_enum: String,
}

/// Whether the meaning of a status lies in its body.
pub(super) fn needs_body(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 425 | 500)
}

/// Returns the meaning of an answer.
pub(super) fn understand(
    status: StatusCode,
    body: &[u8],
    retry_after: Option<Duration>,
) -> Result<Answer, PostError> {
    let text = String::from_utf8_lossy(body);
    if status == StatusCode::OK {
        return accepted(&text);
    }
    let error = serde_json::from_str::<ErrorBody>(&text).unwrap_or_default();
    let full: Cow<'_, str> = match (error.title.is_empty(), error.detail.is_empty()) {
        (_, false) => Cow::Borrowed(&error.detail),
        (false, true) => Cow::Borrowed(&error.title),
        (true, true) => Cow::Borrowed(&text),
    };
    let detail = one_line(&full);
    let other = |detail: String| Answer::Other { status: status.as_u16(), detail, retry_after };
    Ok(match status.as_u16() {
        400 => Answer::BadRequest(detail),
        413 => Answer::BodyTooLarge(detail),
        422 => Answer::Undecodable(detail),
        425 => {
            not_wanted(&error.error_enum, &full, detail.clone()).unwrap_or_else(|| other(detail))
        }
        500 => {
            let lower = full.to_lowercase();
            // This is checked first, because only an operator can fix it, and until then no retry succeeds.
            if lower.contains("unregistered topic") {
                Answer::UnregisteredTopic { source: source_of_topic(&full), detail }
            // The second text comes from Kafka itself.
            } else if lower.contains("message too large") || lower.contains("message was too large")
            {
                Answer::TooLarge(detail)
            } else {
                other(detail)
            }
        }
        _ => other(detail),
    })
}

fn accepted(text: &str) -> Result<Answer, PostError> {
    let body: AcceptedBody = serde_json::from_str(text)
        .map_err(|_| PostError::Nonsense(format!("200 with `{}`", peer_text::line(text, 200))))?;
    Ok(Answer::Accepted(Accepted {
        total_ok: body.total_ok,
        total_failures: body.total_failures,
        failures: body
            .failures
            .map_or_else(Vec::new, |Failures(all)| all)
            .into_iter()
            .map(|failure| one_line(&failure.error))
            .collect(),
    }))
}

/// Returns which of its three meanings a 425 has. `None` if the answer is not the dispatcher's.
fn not_wanted(error_enum: &str, full: &str, detail: String) -> Option<Answer> {
    if error_enum == "ErrorStringEnumAllEventsAgedOffImmediately" {
        return Some(Answer::AgedOff(detail));
    }
    // `… by the following filters [name:count,…], with 0 response failures …`; empty brackets mean
    // that no filter dropped anything, so the events themselves are at fault.
    let after = full.split_once("filters [").map(|(_, after)| after);
    match after.and_then(|after| after.split_once(']')) {
        Some((filters, _)) if !filters.trim().is_empty() => {
            let dropped = filters
                .split(',')
                .map(|filter| filter.rsplit_once(':')?.1.trim().parse::<u64>().ok())
                .try_fold(0_u64, |sum, count| sum.checked_add(count?));
            Some(Answer::Filtered(Filtered { filters: one_line(filters), dropped }))
        }
        Some(_) => Some(Answer::Invalid(detail)),
        None if error_enum == "ErrorStringEnumAllEventsFiltered" => Some(Answer::Invalid(detail)),
        None => None,
    }
}

/// Returns the source that a message names, as `source 'name'` or in a topic `azul.<prefix>.<source>.binary.<action>`.
/// No source in a topic has a dot.
fn source_of_topic(detail: &str) -> Option<String> {
    let quoted = || detail.split_once("source '")?.1.split_once('\'').map(|(source, _)| source);
    let dotted = || detail.split_once(".binary.")?.0.rsplit_once('.').map(|(_, source)| source);
    quoted().or_else(dotted).filter(|source| !source.is_empty()).map(one_line)
}

/// Returns the start of a peer's text for logs and errors, on one line and without control characters and secrets.
pub(super) fn one_line(text: &str) -> String {
    peer_text::line(text, MAX_TEXT_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Answer, PostError> {
        understand(StatusCode::from_u16(status).unwrap(), body.as_bytes(), None)
    }

    fn error(detail: &str, error_enum: &str) -> String {
        serde_json::json!({"status":"x","title":"a title","detail":detail,"error_enum":error_enum})
            .to_string()
    }

    #[test]
    fn the_account_of_a_post_may_lack_its_failures() {
        for failures in ["", r#","failures":null"#, r#","failures":[]"#] {
            let body = format!(r#"{{"total_ok":3,"total_failures":0{failures}}}"#);
            let Ok(Answer::Accepted(accepted)) = answer(200, &body) else { panic!("{body}") };
            assert_eq!(accepted, Accepted { total_ok: 3, ..Accepted::default() });
        }
    }

    #[test]
    fn a_good_status_with_a_bad_body_is_no_answer() {
        for body in ["", "ok", "null", "{}", r#"{"total_ok":-1}"#, r#"{"total_ok":3"#] {
            assert!(matches!(answer(200, body), Err(PostError::Nonsense(_))), "{body}");
        }
    }

    #[test]
    fn too_early_has_three_meanings() {
        let filtered = "ErrorStringEnumAllEventsFiltered";
        let detail = |filters: &str| {
            format!(
                "all filtered out by the following filters [{filters}], with 0 response failures"
            )
        };
        assert!(matches!(
            answer(425, &error("too old", "ErrorStringEnumAllEventsAgedOffImmediately")),
            Ok(Answer::AgedOff(_))
        ));
        assert!(matches!(answer(425, &error(&detail(""), filtered)), Ok(Answer::Invalid(_))));
        for (filters, dropped) in [("a:2,b:3", Some(5)), ("a", None), ("a:2,b", None)] {
            let filters = filters.to_owned();
            assert_eq!(
                answer(425, &error(&detail(&filters), filtered)).unwrap(),
                Answer::Filtered(Filtered { filters, dropped })
            );
        }
        // This is the answer of a gateway, whose replay protection says nothing about the events.
        assert!(matches!(answer(425, "Too Early"), Ok(Answer::Other { status: 425, .. })));
    }

    #[test]
    fn a_server_error_is_told_apart_by_its_detail() {
        let size =
            "successfully submitted 4/5 events …: message too large for kafka: 9 vs 8 bytes;\n";
        assert!(matches!(answer(500, &error(size, "")), Ok(Answer::TooLarge(_))));
        let words = "unregistered topic for source 'a b' and action 'mapped'";
        let Ok(Answer::UnregisteredTopic { source, .. }) = answer(500, &error(words, "")) else {
            panic!()
        };
        assert_eq!(source.as_deref(), Some("a b"));
        let topic = "Unregistered topic azul.qa01.vtlivehunt.binary.mapped; message too large";
        let Ok(Answer::UnregisteredTopic { source, .. }) = answer(500, &error(topic, "")) else {
            panic!()
        };
        assert_eq!(source.as_deref(), Some("vtlivehunt"));
        let Ok(Answer::UnregisteredTopic { source: None, .. }) =
            answer(500, &error("unregistered topic", ""))
        else {
            panic!()
        };
        assert!(matches!(answer(500, &error("broker", "")), Ok(Answer::Other { .. })));
        assert!(matches!(answer(500, "<html>"), Ok(Answer::Other { .. })));
    }

    #[test]
    fn words_of_an_answer_are_one_short_line() {
        let Ok(Answer::Undecodable(detail)) = answer(422, &"a\n\u{1b}[31m ".repeat(100_000)) else {
            panic!()
        };
        assert!(detail.chars().count() <= MAX_TEXT_CHARS + 1);
        assert!(!detail.contains(['\n', '\u{1b}']));
        let one_word = "é".repeat(50_000);
        assert!(one_line(&one_word).chars().count() <= MAX_TEXT_CHARS + 1);
    }
}
