//! Livehunt and Retrohunt: what rules of one's own matched (VirusTotal's reference, "Get objects from the IoC
//! Stream", "Get hunting notification files", "Get a Retrohunt job's matching files", "Get Livehunt rulesets").

use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::{
    client::{Follow, VirusTotal},
    error::VirusTotalError,
};

/// Objects of a page: the most that the IoC stream gives.
const PAGE: &str = "40";
/// Bytes of a page: its objects are as long as records of the feed at most.
const MAX_PAGE_BYTES: u64 = 128 * 1024 * 1024;

/// A page of objects, each as it came.
#[derive(Debug)]
pub struct Page {
    /// The objects, JSON.
    pub objects: Vec<Box<RawValue>>,
    /// Where the next page begins; `None`: this is the last.
    pub cursor: Option<String>,
}

/// A ruleset of Livehunt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it matched more than its limit a day, so that notifications were lost.
    pub rate_limited: bool,
}

impl VirusTotal {
    /// A page of the IoC stream: file notifications of Livehunt since `from` (seconds since 1970), the oldest
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

    /// A page of Livehunt's notifications as they were told of before the IoC stream, the newest first. Costs
    /// one request.
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

    /// A page of the files that a Retrohunt job matched. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`]; [`VirusTotalError::Missing`]: there is no such job.
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
        self.page_of(&format!("matches of the Retrohunt job {job}"), url, &[], cursor).await
    }

    /// The rulesets of Livehunt, at most 40 of them. Costs one request.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn rulesets(&self) -> Result<Vec<Ruleset>, VirusTotalError> {
        #[derive(Deserialize)]
        struct Object {
            id: String,
            attributes: Attributes,
        }
        #[derive(Deserialize)]
        struct Attributes {
            #[serde(default)]
            name: String,
            #[serde(default)]
            rate_limited: bool,
        }
        let path = "/api/v3/intelligence/hunting_rulesets";
        let page = self.page("rulesets of Livehunt", path, &[], None).await?;
        let read = |object: &RawValue| serde_json::from_str::<Object>(object.get()).ok();
        let rulesets = page.objects.iter().filter_map(|object| read(object));
        Ok(rulesets
            .map(|Object { id, attributes }| Ruleset {
                id,
                name: attributes.name,
                rate_limited: attributes.rate_limited,
            })
            .collect())
    }

    async fn page(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, &str)],
        cursor: Option<&str>,
    ) -> Result<Page, VirusTotalError> {
        let mut url = self.origin().clone();
        url.set_path(path);
        self.page_of(what, url, query, cursor).await
    }

    async fn page_of(
        &self,
        what: &str,
        mut url: Url,
        query: &[(&str, &str)],
        cursor: Option<&str>,
    ) -> Result<Page, VirusTotalError> {
        #[derive(Deserialize)]
        struct Body {
            data: Vec<Box<RawValue>>,
            #[serde(default)]
            meta: Meta,
        }
        #[derive(Default, Deserialize)]
        struct Meta {
            cursor: Option<String>,
        }
        url.query_pairs_mut().append_pair("limit", PAGE).extend_pairs(query);
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        let reply = self.get_url(what, url, Follow::Public).await?;
        let nonsense = "the answer is not a page of objects".to_owned();
        let unreadable = reply.asked.answer(Some(200), "UnreadableAnswer", nonsense);
        let body = self.whole(reply, MAX_PAGE_BYTES).await?;
        let Ok(Body { data, meta }) = serde_json::from_slice(&body) else {
            return Err(VirusTotalError::Unexpected(unreadable));
        };
        let cursor = meta.cursor.filter(|cursor| !cursor.is_empty());
        Ok(Page { objects: data, cursor })
    }
}
