//! Livehunt and Retrohunt: the matches of the user's own rules (VirusTotal's reference, "Get objects from the IoC
//! Stream", "Get hunting notification files", "Get a Retrohunt job's matching files", "Get Livehunt rulesets").

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use url::Url;

use super::{
    client::{Follow, VirusTotal},
    error::VirusTotalError,
};
use json::{Document, Kind, Value};

/// Number of objects in a page, which is the most that the IoC stream allows.
const PAGE: &str = "40";
/// Most bytes of a page: ten times the size of 40 objects on the real feed, and readable within 256 MB of memory.
const MAX_PAGE_BYTES: u64 = 32 * 1024 * 1024;
/// Most objects that are read of a page. It is many times what any list of VirusTotal gives.
const MAX_OBJECTS: usize = 1000;

/// A page of objects in their original JSON.
#[derive(Debug)]
pub struct Page {
    /// JSON text of each object.
    pub objects: Vec<Box<RawValue>>,
    /// Cursor of the next page; `None` if this is the last.
    pub cursor: Option<String>,
}

/// A ruleset of Livehunt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Id of the ruleset.
    pub id: String,
    /// Name of the ruleset.
    pub name: String,
    /// Whether the ruleset had more matches than its daily limit, so that notifications were lost.
    pub rate_limited: bool,
}

/// A page of rulesets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rulesets {
    /// The rulesets that can be read.
    pub rulesets: Vec<Ruleset>,
    /// Number of objects that are not rulesets.
    pub unreadable: u64,
    /// Cursor of the next page; `None` if this is the last.
    pub cursor: Option<String>,
}

impl VirusTotal {
    /// Reads a page of the IoC stream: file notifications of Livehunt since `from` (seconds since 1970), the oldest
    /// first. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn ioc_stream(
        &self,
        from: i64,
        cursor: Option<&str>,
    ) -> Result<Page, VirusTotalError> {
        let filter = format!("origin:hunting entity_type:file date:{from}+");
        let query = [("filter", filter.as_str()), ("order", "date+")];
        self.page("the IoC stream", "/api/v3/ioc_stream", &query, cursor).await
    }

    /// Reads a page of Livehunt's notifications from the API that preceded the IoC stream, the newest first. Costs one
    /// request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn hunting_notifications(
        &self,
        cursor: Option<&str>,
    ) -> Result<Page, VirusTotalError> {
        let path = "/api/v3/intelligence/hunting_notification_files";
        self.page("hunting notifications", path, &[], cursor).await
    }

    /// Reads a page of the files that a Retrohunt job matched. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]. [`VirusTotalError::Missing`] means that there is no such job.
    pub async fn retrohunt_matches(
        &self,
        job: &str,
        cursor: Option<&str>,
    ) -> Result<Page, VirusTotalError> {
        let mut url = self.origin().clone();
        if let Ok(mut path) = url.path_segments_mut() {
            let job = ["api", "v3", "intelligence", "retrohunt_jobs", job, "matching_files"];
            path.clear().extend(job);
        }
        url.query_pairs_mut().append_pair("limit", PAGE);
        let subject = format!("matches of the Retrohunt job {job}");
        self.page_of(&subject, url, cursor, MAX_PAGE_BYTES).await
    }

    /// Reads a page of the rulesets of Livehunt. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn rulesets(&self, cursor: Option<&str>) -> Result<Rulesets, VirusTotalError> {
        let path = "/api/v3/intelligence/hunting_rulesets";
        let Page { objects, cursor } = self.page("rulesets of Livehunt", path, &[], cursor).await?;
        let read: Vec<Ruleset> =
            objects.iter().filter_map(|object| Ruleset::read(object.get())).collect();
        let unreadable = objects.len().saturating_sub(read.len()) as u64;
        Ok(Rulesets { rulesets: read, unreadable, cursor })
    }

    async fn page(
        &self,
        subject: &str,
        path: &str,
        query: &[(&str, &str)],
        cursor: Option<&str>,
    ) -> Result<Page, VirusTotalError> {
        let mut url = self.origin().clone();
        url.set_path(path);
        url.query_pairs_mut().append_pair("limit", PAGE).extend_pairs(query);
        self.page_of(subject, url, cursor, MAX_PAGE_BYTES).await
    }

    /// Reads a page of the list at `url`, of at most `limit` bytes.
    pub(super) async fn page_of(
        &self,
        subject: &str,
        mut url: Url,
        cursor: Option<&str>,
        limit: u64,
    ) -> Result<Page, VirusTotalError> {
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        let reply = self.get_url(subject, url, Follow::Public).await?;
        let mut unreadable = reply.asked.answer(Some(200), "UnreadableAnswer", String::new());
        let body = self.whole(reply, limit).await?;
        read_page(&body).map_err(|why| {
            unreadable.message = format!("the answer is not a page of objects: {why}");
            VirusTotalError::Unexpected(unreadable)
        })
    }
}

impl Ruleset {
    fn read(object: &str) -> Option<Self> {
        let document = Document::parse(object.to_owned()).ok()?;
        let text = |path: &[&str]| {
            let text = document.root().at(path).and_then(Value::lenient_text);
            text.filter(|text| !text.is_empty()).map(Cow::into_owned)
        };
        let limited = document.root().at(&["attributes", "rate_limited"]);
        let id = text(&["id"])?;
        Some(Self {
            name: text(&["attributes", "name"]).unwrap_or_else(|| id.clone()),
            id,
            rate_limited: limited.and_then(Value::lenient_bool).unwrap_or_default(),
        })
    }
}

/// Reads a page: a list `data`, and `meta.cursor` if there is a next page. The objects are not parsed here, so that a
/// bad one is lost alone, later.
fn read_page(body: &[u8]) -> Result<Page, String> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(deserialize_with = "few")]
        data: Vec<Box<RawValue>>,
        #[serde(default)]
        meta: Option<Box<RawValue>>,
    }
    let text = String::from_utf8_lossy(body);
    let Body { data, meta } = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let cursor = match meta {
        Some(meta) => read_cursor(meta.get().to_owned())?,
        None => None,
    };
    Ok(Page { objects: data, cursor })
}

/// Returns the cursor in a page's `meta`. A cursor that cannot be read is an error, because otherwise the page would
/// count as the last.
fn read_cursor(meta: String) -> Result<Option<String>, String> {
    let meta = Document::parse(meta).map_err(|error| format!("in `meta`: {error}"))?;
    match meta.root().kind() {
        Kind::Null => return Ok(None),
        Kind::Object => {}
        _ => return Err("`meta` is no object".into()),
    }
    let cursor = meta.root().get("cursor").filter(|cursor| !cursor.is_null());
    let Some(cursor) = cursor else { return Ok(None) };
    let cursor = cursor.lenient_text().ok_or("`meta.cursor` is no text")?;
    Ok((!cursor.is_empty()).then(|| cursor.into_owned()))
}

/// Reads a list of at most [`MAX_OBJECTS`] objects.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Box<RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of objects")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut objects = Vec::new();
            while let Some(object) = list.next_element()? {
                if objects.len() == MAX_OBJECTS {
                    return Err(A::Error::custom("a list of more than 1000 objects"));
                }
                objects.push(object);
            }
            Ok(objects)
        }
    }
    deserializer.deserialize_seq(Few)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_list_and_where_the_next_one_begins() {
        let read = |text: &str| {
            let Page { objects, cursor } = read_page(text.as_bytes()).unwrap();
            (objects.len(), cursor)
        };
        for none in ["", r#","meta":null"#, r#","meta":{}"#, r#","meta":{"cursor":null}"#] {
            assert_eq!(read(&format!(r#"{{"data":[7,null,{{}}]{none}}}"#)), (3, None), "{none}");
        }
        assert_eq!(
            read(r#"{"meta":{"cursor":"ab","count":[]},"data":[]}"#),
            (0, Some("ab".into()))
        );
        assert_eq!(read(r#"{"data":[],"meta":{"cursor":12}}"#), (0, Some("12".into())));
        // A byte that is not UTF-8 is replaced by one character, and the page stays readable.
        assert_eq!(read_page(b"{\"data\":[\"\xff\"]}").unwrap().objects.len(), 1);
    }

    #[test]
    fn what_is_no_page_is_said_so() {
        let many = format!(r#"{{"data":[{}1]}}"#, "1,".repeat(MAX_OBJECTS));
        for text in [
            "",
            "<html>login</html>",
            "{}",
            "[]",
            r#"{"data":null}"#,
            r#"{"data":{"id":1}}"#,
            r#"{"data":[]"#,
            r#"{"data":[],"meta":[]}"#,
            r#"{"data":[],"meta":{"cursor":{}}}"#,
            r#"{"error":{"code":"TransientError"}}"#,
            &many,
        ] {
            assert!(read_page(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ruleset_needs_its_id_alone() {
        let name = |text: &str| Ruleset::read(text).map(|r| (r.name, r.rate_limited));
        let full = r#"{"id":"7","attributes":{"name":"mine","rate_limited":true}}"#;
        assert_eq!(name(full), Some(("mine".into(), true)));
        for odd in [
            r#"{"id":7}"#,
            r#"{"id":"7","attributes":null}"#,
            r#"{"id":"7","attributes":{"name":null,"rate_limited":null}}"#,
        ] {
            assert_eq!(name(odd), Some(("7".into(), false)), "{odd}");
        }
        assert_eq!(name("7").or_else(|| name("{}")), None);
    }
}
