//! A hit, as VirusTotal tells of it: in the IoC stream, as a notification of before, or as a match of
//! Retrohunt. Pure.

use jiff::Timestamp;
use serde::Deserialize;

/// What a rule matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Names the notification; of Retrohunt's matches the file and the rule do.
    pub id: String,
    /// When it was notified; `None` for Retrohunt's matches.
    pub date: Option<Timestamp>,
    /// The rule's name.
    pub rule: String,
    /// Tags of the rule.
    pub rule_tags: Vec<String>,
    /// The ruleset's id; "" where it has none.
    pub ruleset: String,
    /// The ruleset's name; "" where it has none.
    pub ruleset_name: String,
    /// Tags of the notification.
    pub tags: Vec<String>,
    /// What the match was found in, where not in the file itself.
    pub match_source: String,
    /// What matched, as text.
    pub snippet: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Bytes of the file; `None` where it is not said.
    pub size: Option<u64>,
    /// Detections of the file.
    pub positives: u64,
}

/// What an object of a page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A file that a rule matched.
    Hit(Box<Hit>),
    /// An object of another type.
    Other,
    /// Nothing that can be read; why.
    Malformed(String),
}

#[derive(Deserialize)]
struct Object {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    context_attributes: Context,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    sha256: String,
    size: Option<u64>,
    last_analysis_stats: Stats,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stats {
    malicious: u64,
}

/// Names of today, of before the IoC stream (`rule_name` …), and of an early beta (`hunting_…`).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    #[serde(alias = "hunting_notification_id")]
    notification_id: String,
    #[serde(alias = "hunting_notification_date")]
    notification_date: Option<i64>,
    sources: Vec<Source>,
    #[serde(alias = "notification_tags", alias = "hunting_notification_tags")]
    tags: Vec<String>,
    hunting_info: Info,
    #[serde(alias = "hunting_notification_subject")]
    rule_name: String,
    rule_tags: Vec<String>,
    #[serde(alias = "hunting_ruleset_id")]
    ruleset_id: String,
    ruleset_name: String,
    #[serde(alias = "hunting_notification_body")]
    notification_snippet: String,
    notification_source_key: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    label: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    rule_name: String,
    rule_tags: Vec<String>,
    snippet: Option<String>,
    source_key: Option<String>,
}

/// Reads an object of a page; `job` is the Retrohunt job that it is a match of.
pub fn read(object: &str, job: Option<&str>) -> Read {
    let Object { kind, id, attributes, context_attributes: context } =
        match serde_json::from_str(object) {
            Ok(object) => object,
            Err(error) => return Read::Malformed(error.to_string()),
        };
    if kind != "file" {
        return Read::Other;
    }
    let mut sha256 = if attributes.sha256.is_empty() { id } else { attributes.sha256 };
    sha256.make_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Read::Malformed("it has no SHA-256".into());
    }
    let Info { rule_name, rule_tags, snippet, source_key } = context.hunting_info;
    let rule = first([rule_name, context.rule_name]);
    if rule.is_empty() {
        return Read::Malformed("it names no rule".into());
    }
    let (notification, date) = if let Some(job) = job {
        (format!("{job} {rule} {sha256}"), None)
    } else {
        let date = context.notification_date.and_then(|date| Timestamp::from_second(date).ok());
        if context.notification_id.is_empty() || date.is_none() {
            return Read::Malformed("its notification has no id or no date".into());
        }
        (context.notification_id, date)
    };
    let ruleset = context.sources.into_iter().find(|source| source.kind == "hunting_ruleset");
    let ruleset = ruleset.unwrap_or_default();
    Read::Hit(Box::new(Hit {
        id: notification,
        date,
        rule,
        rule_tags: if rule_tags.is_empty() { context.rule_tags } else { rule_tags },
        ruleset: first([ruleset.id, context.ruleset_id]),
        ruleset_name: first([ruleset.label, context.ruleset_name]),
        tags: context.tags,
        match_source: first([
            source_key.unwrap_or_default(),
            context.notification_source_key.unwrap_or_default(),
        ]),
        snippet: first([snippet.unwrap_or_default(), context.notification_snippet]),
        sha256,
        size: attributes.size,
        positives: attributes.last_analysis_stats.malicious,
    }))
}

/// The first text that is none of nothing.
fn first<const N: usize>(texts: [String; N]) -> String {
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(context: &Value) -> String {
        let sha256 = "AB".repeat(32);
        let attributes =
            json!({"sha256": sha256, "size": 7, "last_analysis_stats": {"malicious": 3}});
        json!({"type": "file", "id": sha256, "attributes": attributes, "context_attributes": context})
            .to_string()
    }

    fn expected() -> Hit {
        Hit {
            id: "n-1".into(),
            date: Some(Timestamp::from_second(1_795_500_000).unwrap()),
            rule: "rule".into(),
            rule_tags: vec!["apt".into()],
            ruleset: "77".into(),
            ruleset_name: "set".into(),
            tags: vec!["rule".into()],
            match_source: "key".into(),
            snippet: "text".into(),
            sha256: "ab".repeat(32),
            size: Some(7),
            positives: 3,
        }
    }

    #[test]
    fn the_names_of_today_and_of_before_give_the_same_hit() {
        let today = json!({
            "notification_id": "n-1", "notification_date": 1_795_500_000, "origin": "hunting",
            "sources": [{"type": "other", "id": "1"}, {"type": "hunting_ruleset", "id": "77", "label": "set"}],
            "tags": ["rule"],
            "hunting_info": {"rule_name": "rule", "rule_tags": ["apt"], "snippet": "text",
                             "source_country": null, "source_key": "key"},
        });
        let before = json!({
            "notification_id": "n-1", "notification_date": 1_795_500_000, "notification_tags": ["rule"],
            "notification_snippet": "text", "notification_source_key": "key", "rule_name": "rule",
            "rule_tags": ["apt"], "ruleset_id": "77", "ruleset_name": "set", "match_in_subfile": false,
        });
        for context in [today, before] {
            assert_eq!(read(&object(&context), None), Read::Hit(Box::new(expected())));
        }
        let beta = json!({
            "hunting_notification_id": "n-1", "hunting_notification_date": 1_795_500_000,
            "hunting_notification_subject": "rule", "hunting_notification_tags": ["rule"],
            "hunting_notification_body": "text", "hunting_ruleset_id": "77",
        });
        let Read::Hit(hit) = read(&object(&beta), None) else { panic!() };
        assert_eq!(
            (hit.id.as_str(), hit.rule.as_str(), hit.ruleset.as_str()),
            ("n-1", "rule", "77")
        );
    }

    #[test]
    fn matches_of_a_job_need_no_notification() {
        let object = object(&json!({"rule_name": "rule", "match_in_subfile": false}));
        let Read::Hit(hit) = read(&object, Some("job")) else { panic!() };
        assert_eq!(hit.id, format!("job rule {}", "ab".repeat(32)));
        assert_eq!(hit.date, None);
        assert!(matches!(read(&object, None), Read::Malformed(_)));
    }

    #[test]
    fn what_is_no_file_or_no_hit_is_said_so() {
        assert_eq!(read(r#"{"type":"url","id":"x"}"#, None), Read::Other);
        for bad in ["{}", "7", r#"{"type":"file"}"#, r#"{"type":"file","id":"abc"}"#] {
            assert!(matches!(read(bad, None), Read::Malformed(_)), "{bad}");
        }
        assert!(matches!(
            read(&object(&json!({"notification_id": "n"})), None),
            Read::Malformed(_)
        ));
    }
}
