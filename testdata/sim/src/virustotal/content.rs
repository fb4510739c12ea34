//! Files' content: by the feed's links and by hash, both through a redirect to the second origin.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State as Shared},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, Uri};
use sha2::{Digest, Sha256};

use super::{
    Asked, Behaviour, Inner, Script, VirusTotal,
    made::Made,
    routes::{behave, error, plain, redirect},
};
use crate::{
    fault::around,
    server::{Conn, lock},
};

/// The files that VirusTotal has, and what happens to the next requests for them.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Content by SHA-256, which need not be the content's own hash.
    contents: BTreeMap<String, Content>,
    links: BTreeMap<String, Script>,
    downloads: BTreeMap<String, Script>,
    any_download: Script,
}

/// The content of a file: as given, or made anew for each answer.
#[derive(Clone, Debug)]
enum Content {
    Given(Bytes),
    Made(Made),
}

impl Content {
    fn into_body(self) -> Body {
        match self {
            Self::Given(bytes) => Body::from(bytes),
            Self::Made(made) => Body::new(made),
        }
    }
}

/// The way by which a client came to the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Link,
    Hash,
}

impl Way {
    /// Returns the name of the way in the URLs of the second origin.
    fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Hash => "hash",
        }
    }

    /// Returns the way that the URL of a redirect names.
    fn of(uri: &Uri) -> Option<Self> {
        let query = uri.query().unwrap_or_default();
        let (_, name) = url::form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == "by")?;
        [Self::Link, Self::Hash].into_iter().find(|way| way.name() == name)
    }
}

impl Files {
    /// Takes the behaviour for a request on this way, from the file's own script first, then from that of all files.
    fn take(&mut self, way: Way, sha256: &str, content: bool) -> Option<Behaviour> {
        let own = match way {
            Way::Link => self.links.get_mut(sha256),
            Way::Hash => self.downloads.get_mut(sha256),
        };
        match own.filter(|script| !script.is_empty()) {
            Some(own) => own.take_for(content),
            None if way == Way::Hash => self.any_download.take_for(content),
            None => None,
        }
    }
}

impl VirusTotal {
    /// VirusTotal has that file; gives its sha256.
    pub fn sample(&self, content: impl Into<Bytes>) -> String {
        let content = content.into();
        let sha256 = hex::encode(Sha256::digest(&content));
        self.sample_as(&sha256, content);
        sha256
    }

    /// VirusTotal has that content under that hash, which need not be its own: a peer that lies.
    pub fn sample_as(&self, sha256: &str, content: impl Into<Bytes>) {
        let content = Content::Given(content.into());
        lock(&self.inner.state).files.contents.insert(sha256.to_owned(), content);
    }

    /// VirusTotal has a file of that many pseudo-random bytes, never whole in memory; gives its sha256.
    pub fn large_sample(&self, size: u64, seed: u64) -> String {
        let made = Made::new(size, seed);
        let sha256 = made.sha256();
        lock(&self.inner.state).files.contents.insert(sha256.clone(), Content::Made(made));
        sha256
    }

    /// The feed's direct link of that file, whether VirusTotal has it or not.
    pub fn link(&self, sha256: &str) -> String {
        format!("{}/api/v3/feeds/files/{}/download", self.url(), token(sha256))
    }

    /// The next `times` requests for that file by its link go like this. What is of the content is
    /// for the redirect's target, of redirects that a link gave. With `usize::MAX` it stays so.
    pub fn behave_link(&self, sha256: &str, behaviour: &Behaviour, times: usize) {
        let mut state = lock(&self.inner.state);
        state.files.links.entry(sha256.to_owned()).or_default().push(behaviour, times);
    }

    /// The next `times` requests for that file by its hash go like this, as for
    /// [`Self::behave_link`].
    pub fn behave_download(&self, sha256: &str, behaviour: &Behaviour, times: usize) {
        let mut state = lock(&self.inner.state);
        state.files.downloads.entry(sha256.to_owned()).or_default().push(behaviour, times);
    }

    /// The next `times` requests by hash for any file without a script of its own go like this.
    pub fn behave_any_download(&self, behaviour: &Behaviour, times: usize) {
        lock(&self.inner.state).files.any_download.push(behaviour, times);
    }

    /// Requests for content are normal again, by links and by hash.
    pub fn clear_for_content(&self) {
        let files = &mut lock(&self.inner.state).files;
        files.links.clear();
        files.downloads.clear();
        files.any_download.clear();
    }

    /// The sha256 of files asked for by hash so far, in order, repeats too.
    pub fn downloads_asked(&self) -> Vec<String> {
        self.subjects(Asked::Download)
    }

    /// The sha256 of files asked for by link so far, in order, repeats too.
    pub fn links_asked(&self) -> Vec<String> {
        self.subjects(Asked::Link)
    }
}

/// The opaque part of a link, which is no hash itself.
fn token(sha256: &str) -> String {
    let reversed: String = sha256.chars().rev().collect();
    hex::encode(format!("{reversed}||v3"))
}

/// Returns the SHA-256 that a token was made from.
fn token_sha256(token: &str) -> Option<String> {
    let text = String::from_utf8(hex::decode(token).ok()?).ok()?;
    Some(text.strip_suffix("||v3")?.chars().rev().collect())
}

pub(super) async fn by_link(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(token): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let sha256 = token_sha256(&token).unwrap_or(token);
    inner.log(Asked::Link, &sha256, &headers, &uri);
    lead(&inner, &conn, Way::Link, &sha256, &headers, &uri).await
}

pub(super) async fn by_hash(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Download, &id, &headers, &uri);
    lead(&inner, &conn, Way::Hash, &id, &headers, &uri).await
}

/// Sends the client to the second origin.
async fn lead(
    inner: &Inner,
    conn: &Conn,
    way: Way,
    sha256: &str,
    headers: &HeaderMap,
    uri: &Uri,
) -> Response {
    if let Some(refused) = inner.refused(headers) {
        return refused;
    }
    let (behaviour, target) = {
        let mut state = lock(&inner.state);
        let target = state.files.contents.contains_key(sha256).then(|| {
            let signed = "Expires=1800000000&Signature=c2lnbmVk";
            format!("{}/content/{sha256}?{signed}&by={}", state.content_url, way.name())
        });
        (state.files.take(way, sha256, false), target)
    };
    let normal = match target {
        Some(target) => redirect(&target),
        None => error(404, "NotFoundError", &format!("File {sha256:?} not found")),
    };
    behave(behaviour, normal, sha256, uri, conn).await
}

/// The content itself, at the second origin.
pub(super) async fn content(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Content, &sha256, &headers, &uri);
    let (content, behaviour) = {
        let files = &mut lock(&inner.state).files;
        let behaviour = Way::of(&uri).and_then(|way| files.take(way, &sha256, true));
        (files.contents.get(&sha256).cloned(), behaviour)
    };
    let (content, fault) = match behaviour {
        Some(Behaviour::Bundle(other)) => (Some(Content::Given(other)), None),
        Some(Behaviour::Content(fault)) => (content, Some(fault)),
        _ => (content, None),
    };
    let answer = match content {
        Some(content) => plain(200, "application/octet-stream", content.into_body()),
        None => plain(404, "text/plain", "no such object"),
    };
    around(fault, &conn, async { answer }).await
}
