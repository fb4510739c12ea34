//! Reads a hit in each form that VirusTotal gives it: an object of the IoC stream, a notification of the older API, or
//! a match of Retrohunt. Pure.
//!
//! Promise: a member that is null, missing or of an unexpected JSON type is left out, and the hit remains. An item of a
//! page is malformed only if it is no JSON object, has no SHA-256, or, in Livehunt, has no notification id.

use azul_vt::json::{Kind, Value};
use jiff::Timestamp;

/// A file that a YARA rule matched. A text that VirusTotal does not give is "".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Id under which the hit is remembered: the notification's id, or the job, rule and file of a Retrohunt match.
    pub id: String,
    /// VirusTotal's id of the notification; "" for Retrohunt's matches.
    pub notification: String,
    /// Time of the notification; `None` for Retrohunt's matches, and if VirusTotal does not give it.
    pub date: Option<Timestamp>,
    /// The rule's name.
    pub rule: String,
    /// Tags of the rule.
    pub rule_tags: Vec<String>,
    /// The ruleset's id.
    pub ruleset: String,
    /// The ruleset's name.
    pub ruleset_name: String,
    /// Tags of the notification.
    pub tags: Vec<String>,
    /// Part of the file that matched, in VirusTotal's words, such as `ORIGINAL_FILE`.
    pub match_source: String,
    /// The pseudonym (a ciphered id) that VirusTotal gives the file's submitter.
    pub submitter: String,
    /// The submitter's country.
    pub source_country: String,
    /// Text of the part that matched.
    pub snippet: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Size of the file in bytes; `None` if VirusTotal does not give it.
    pub size: Option<u64>,
    /// Number of engines that detect the file; `None` if VirusTotal does not give it.
    pub positives: Option<u64>,
    /// Number of values that were left out, because their JSON type is not the expected one.
    pub bad_values: u64,
}

/// The result of reading an object of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A file that a rule matched.
    Hit(Box<Hit>),
    /// An object of another type.
    Other,
    /// The object cannot be delivered, for this reason.
    Malformed(String),
}

/// Reads an object of a page; `job` is the Retrohunt job that it is a match of.
pub fn read(object: Value<'_>, job: Option<&str>) -> Read {
    if object.kind() != Kind::Object {
        return Read::Malformed("it is no object".into());
    }
    let mut reader = Reader::default();
    for path in
        [&["attributes"][..], &["context_attributes"], &["context_attributes", "hunting_info"]]
    {
        let place = object.at(path).filter(|value| !value.is_null());
        reader.bad_values += u64::from(place.is_some_and(|value| value.kind() != Kind::Object));
    }
    let kind = reader.text([object.get("type")]);
    if !kind.is_empty() && kind != "file" {
        return Read::Other;
    }
    let Some(sha256) = reader.sha256([object.at(&["attributes", "sha256"]), object.get("id")])
    else {
        return Read::Malformed("it has no SHA-256".into());
    };
    // The current names come first, then those of the API before the IoC stream, then those of an early beta
    // (`hunting_…`).
    let context = |name| object.at(&["context_attributes", name]);
    let info = |name| object.at(&["context_attributes", "hunting_info", name]);
    let rule = reader.text([
        info("rule_name"),
        context("rule_name"),
        context("hunting_notification_subject"),
    ]);
    let (id, notification, date) = if let Some(job) = job {
        (format!("{job} {rule} {sha256}"), String::new(), None)
    } else {
        let id = [context("notification_id"), context("hunting_notification_id")];
        let id = reader.text(id);
        if id.is_empty() {
            return Read::Malformed("its notification has no id".into());
        }
        let dates = [context("notification_date"), context("hunting_notification_date")];
        (id.clone(), id, reader.date(dates))
    };
    let is_ruleset = |source: &Value<'_>| {
        source.get("type").and_then(Value::text).as_deref() == Some("hunting_ruleset")
    };
    let sources = context("sources");
    let ruleset = sources.into_iter().flat_map(Value::items).find(is_ruleset);
    let ruleset = |name| ruleset.and_then(|ruleset| ruleset.get(name));
    Read::Hit(Box::new(Hit {
        id,
        notification,
        date,
        rule,
        rule_tags: reader.texts([info("rule_tags"), context("rule_tags")]),
        ruleset: reader.text([ruleset("id"), context("ruleset_id"), context("hunting_ruleset_id")]),
        ruleset_name: reader.text([ruleset("label"), context("ruleset_name")]),
        tags: reader.texts([
            context("tags"),
            context("notification_tags"),
            context("hunting_notification_tags"),
        ]),
        match_source: reader.text([info("match_source"), context("match_source")]),
        submitter: reader.text([info("source_key"), context("notification_source_key")]),
        source_country: reader
            .text([info("source_country"), context("notification_source_country")]),
        snippet: reader.text([
            info("snippet"),
            context("notification_snippet"),
            context("hunting_notification_body"),
        ]),
        size: reader.count(object.at(&["attributes", "size"])),
        positives: reader.count(object.at(&["attributes", "last_analysis_stats", "malicious"])),
        sha256,
        bad_values: reader.bad_values,
    }))
}

/// Reads members that VirusTotal writes in several ways, and counts values that cannot be read.
#[derive(Default)]
struct Reader {
    bad_values: u64,
}

impl Reader {
    /// Returns the first value that `read` accepts. A null counts as missing; a value that `read` refuses counts as
    /// bad.
    fn first<'a, T>(
        &mut self,
        places: impl IntoIterator<Item = Option<Value<'a>>>,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Option<T> {
        for value in places.into_iter().flatten().filter(|value| !value.is_null()) {
            match read(value) {
                Some(found) => return Some(found),
                None => self.bad_values += 1,
            }
        }
        None
    }

    /// Returns the first non-empty text; "" if there is none.
    fn text<'a>(&mut self, places: impl IntoIterator<Item = Option<Value<'a>>>) -> String {
        let is_said = |value: &Option<Value<'_>>| {
            value.is_some_and(|value| value.text().is_none_or(|text| !text.is_empty()))
        };
        let said = places.into_iter().filter(is_said);
        self.first(said, Value::lenient_text).unwrap_or_default().into_owned()
    }

    /// Returns the texts of the first list that has any. A single text counts as a list of one.
    fn texts<'a>(&mut self, places: impl IntoIterator<Item = Option<Value<'a>>>) -> Vec<String> {
        for value in places.into_iter().flatten() {
            let texts: Vec<String> = match value.kind() {
                Kind::List => value.items().map(|item| self.text([Some(item)])).collect(),
                _ => vec![self.text([Some(value)])],
            };
            let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
            if !texts.is_empty() {
                return texts;
            }
        }
        Vec::new()
    }

    fn sha256<'a>(
        &mut self,
        places: impl IntoIterator<Item = Option<Value<'a>>>,
    ) -> Option<String> {
        let read = |value: Value<'_>| {
            let text = value.text()?.to_ascii_lowercase();
            let is_hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            is_hash.then_some(text)
        };
        self.first(places, read)
    }

    /// Reads seconds since 1970. Zero is refused, because many senders write it for "no time".
    fn date<'a>(
        &mut self,
        places: impl IntoIterator<Item = Option<Value<'a>>>,
    ) -> Option<Timestamp> {
        let read = |value: Value<'_>| {
            let seconds = value.lenient_integer().filter(|seconds| *seconds > 0)?;
            Timestamp::from_second(seconds).ok()
        };
        self.first(places, read)
    }

    fn count(&mut self, place: Option<Value<'_>>) -> Option<u64> {
        self.first([place], |value| u64::try_from(value.lenient_integer()?).ok())
    }
}

#[cfg(test)]
mod tests {
    use azul_vt::json::Document;
    use serde_json::{Value as Json, json};

    use super::*;

    fn read(object: &str, job: Option<&str>) -> Read {
        super::read(Document::parse(object.to_owned()).unwrap().root(), job)
    }

    fn object(context: &Json) -> String {
        let sha256 = "AB".repeat(32);
        let attributes =
            json!({"sha256": sha256, "size": 7, "last_analysis_stats": {"malicious": 3}});
        json!({"type": "file", "id": sha256, "attributes": attributes, "context_attributes": context})
            .to_string()
    }

    fn expected() -> Hit {
        Hit {
            id: "n-1".into(),
            notification: "n-1".into(),
            date: Some(Timestamp::from_second(1_795_500_000).unwrap()),
            rule: "rule".into(),
            rule_tags: vec!["apt".into()],
            ruleset: "77".into(),
            ruleset_name: "set".into(),
            tags: vec!["rule".into()],
            match_source: "ORIGINAL_FILE".into(),
            submitter: "0a1b2c3d".into(),
            source_country: "AU".into(),
            snippet: "text".into(),
            sha256: "ab".repeat(32),
            size: Some(7),
            positives: Some(3),
            bad_values: 0,
        }
    }

    #[test]
    fn the_names_of_today_and_of_before_give_the_same_hit() {
        let today = json!({
            "notification_id": "n-1", "notification_date": 1_795_500_000, "origin": "hunting",
            "sources": [{"type": "other", "id": "1"}, {"type": "hunting_ruleset", "id": "77", "label": "set"}],
            "tags": ["rule"],
            "hunting_info": {"rule_name": "rule", "rule_tags": ["apt"], "snippet": "text",
                             "source_country": "AU", "source_key": "0a1b2c3d",
                             "match_source": "ORIGINAL_FILE"},
        });
        let before = json!({
            "notification_id": "n-1", "notification_date": 1_795_500_000, "notification_tags": ["rule"],
            "notification_snippet": "text", "notification_source_key": "0a1b2c3d",
            "notification_source_country": "AU", "match_source": "ORIGINAL_FILE", "rule_name": "rule",
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
        assert_eq!(hit.notification, "");
        assert!(matches!(read(&object, None), Read::Malformed(_)));
    }

    #[test]
    fn what_is_no_file_or_no_hit_is_said_so() {
        assert_eq!(read(r#"{"type":"url","id":"x"}"#, None), Read::Other);
        for bad in ["{}", "7", "null", r#"{"type":"file"}"#, r#"{"type":"file","id":"abc"}"#] {
            assert!(matches!(read(bad, None), Read::Malformed(_)), "{bad}");
        }
        for id in [json!(null), json!(""), json!([]), json!({"a": 1})] {
            let context = json!({"notification_id": id, "notification_date": 1_795_500_000});
            assert!(matches!(read(&object(&context), None), Read::Malformed(_)), "{id}");
        }
    }

    #[test]
    fn a_member_of_another_kind_costs_that_member_alone() {
        let good = json!({
            "notification_id": "n-1", "notification_date": 1_795_500_000,
            "sources": [{"type": "hunting_ruleset", "id": "77", "label": "set"}], "tags": ["rule"],
            "hunting_info": {"rule_name": "rule", "rule_tags": ["apt"], "snippet": "text",
                             "source_country": "AU", "source_key": "0a1b2c3d",
                             "match_source": "ORIGINAL_FILE"},
        });
        let changed = |path: &str, value: Json| {
            let mut context = good.clone();
            *context.pointer_mut(path).unwrap() = value;
            let Read::Hit(hit) = read(&object(&context), None) else { panic!("{context}") };
            *hit
        };
        let odd = [json!(null), json!([1, null]), json!({"a": 1}), json!(true), json!(7.5)];
        for path in [
            "/notification_date",
            "/sources",
            "/sources/0",
            "/sources/0/id",
            "/sources/0/label",
            "/tags",
            "/tags/0",
            "/hunting_info",
            "/hunting_info/rule_name",
            "/hunting_info/rule_tags",
            "/hunting_info/rule_tags/0",
            "/hunting_info/snippet",
            "/hunting_info/source_country",
            "/hunting_info/source_key",
            "/hunting_info/match_source",
        ] {
            for value in &odd {
                let hit = changed(path, value.clone());
                assert_eq!((hit.id.as_str(), hit.size), ("n-1", Some(7)), "{path} {value}");
            }
        }
        // A null counts as missing; a value that cannot be read is counted.
        let hit = changed("/hunting_info/rule_tags", json!(null));
        assert_eq!((hit.rule_tags.len(), hit.bad_values), (0, 0));
        let hit = changed("/hunting_info/snippet", json!({"a": 1}));
        assert_eq!((hit.snippet.as_str(), hit.rule.as_str(), hit.bad_values), ("", "rule", 1));
        let hit = changed("/notification_date", json!("1795500000"));
        assert_eq!((hit.date, hit.bad_values), (expected().date, 0));
        let hit = changed("/notification_date", json!(-5));
        assert_eq!((hit.date, hit.bad_values), (None, 1));
        assert_eq!(changed("/sources/0/id", json!(77)), expected());
        // The object has the names of several API versions, and one name twice.
        let mut both = good.clone();
        both["hunting_notification_id"] = json!("n-2");
        both["rule_name"] = json!("another");
        both["notification_tags"] = json!(["y"]);
        assert_eq!(read(&object(&both), None), Read::Hit(Box::new(expected())));
        let twice = object(&good).replace("\"tags\":", "\"tags\":[\"rule\"],\"tags\":");
        assert_eq!(read(&twice, None), Read::Hit(Box::new(expected())));
    }

    #[test]
    fn numbers_of_the_file_may_be_missing_or_odd() {
        let context = json!({"notification_id": "n-1"});
        for (attributes, size, positives) in [
            (json!(null), None, None),
            (json!([]), None, None),
            (json!({"size": null, "last_analysis_stats": null}), None, None),
            (json!({"size": "12", "last_analysis_stats": {"malicious": "3"}}), Some(12), Some(3)),
            (json!({"size": 12.0, "last_analysis_stats": {"malicious": null}}), Some(12), None),
            (json!({"size": -1, "last_analysis_stats": []}), None, None),
        ] {
            let object = json!({"type": "file", "id": "ab".repeat(32),
                                "attributes": attributes, "context_attributes": context});
            let Read::Hit(hit) = read(&object.to_string(), None) else { panic!("{object}") };
            assert_eq!((hit.size, hit.positives), (size, positives), "{object}");
        }
    }
}
