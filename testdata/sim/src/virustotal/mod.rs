//! VirusTotal, as far as this project needs it: minutely bundles and files behind a redirect to a
//! second origin, reports, PCAPs, what rules hit, all the error answers, and what a user object says
//! of its key.

mod content;
mod hunting;
mod made;
mod routes;
mod sandbox;
mod script;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::watch;

use self::{content::Files, hunting::Hunting, sandbox::Sandboxes, script::Script};
pub use self::{hunting::Hit, script::Behaviour};
use crate::server::{Date, Server, lock, wait_until};

/// The key that is accepted until [`VirusTotal::set_key`].
pub const TEST_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A running VirusTotal with its second origin. Dropping it ends both.
///
/// At the start it accepts [`TEST_KEY`] and knows no minute: unknown minutes are missing (404).
#[derive(Debug)]
pub struct VirusTotal {
    api: Server,
    content: Server,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    key: String,
    content_url: String,
    minutes: BTreeMap<String, Minute>,
    /// Reports by SHA-256.
    reports: BTreeMap<String, Bytes>,
    /// Script of the next requests for any file.
    any_file: Script,
    files: Files,
    sandboxes: Sandboxes,
    hunting: Hunting,
    unknown: Unknown,
    privileges: BTreeMap<String, bool>,
    requests: Vec<Request>,
    leaks: Vec<String>,
}

#[derive(Debug, Default)]
struct Minute {
    bundle: Option<Bytes>,
    /// Script of the next requests for the minute or file.
    script: Script,
}

impl State {
    /// Takes the behaviour for a request for a file, from its own script first, then from that of all files.
    fn take_for_files(&mut self, id: &str) -> Option<Behaviour> {
        let own = self.minutes.get_mut(id).and_then(|file| file.script.take());
        own.or_else(|| self.any_file.take())
    }
}

/// Answer to a request for a minute that has no bundle.
#[derive(Clone)]
pub enum Unknown {
    /// 404: the batch was never produced.
    Missing,
    /// 400 `NotAvailableYet`.
    NotAvailableYet,
    /// The bundle that the function makes of the minute (`YYYYMMDDhhmm`).
    Generate(Arc<dyn Fn(&str) -> Bytes + Send + Sync>),
}

impl std::fmt::Debug for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "Missing",
            Self::NotAvailableYet => "NotAvailableYet",
            Self::Generate(_) => "Generate",
        })
    }
}

/// Subject of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A feed minute, at VirusTotal's own origin.
    Feed,
    /// The bundle, at the second origin.
    Bundle,
    /// The report on a file.
    Report,
    /// A file by the feed's direct link, at VirusTotal's own origin.
    Link,
    /// A file by its hash, at VirusTotal's own origin.
    Download,
    /// The content of a file, at the second origin.
    Content,
    /// The list of a file's sandbox reports.
    Behaviours,
    /// The PCAP of a sandbox report.
    Pcap,
    /// A page of what rules hit, or of the rulesets.
    Hunting,
    /// A user object.
    User,
    /// Quotas of a user.
    Quotas,
}

/// A request, as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The resource that the request asked for.
    pub asked: Asked,
    /// The minute (`YYYYMMDDhhmm`), the file's, the sandbox report's or the user's id, or what
    /// [`VirusTotal::hunting_asked`] says.
    pub subject: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// `X-Request-Id`, where the client sends one; else "".
    pub request_id: String,
    /// When it came in.
    pub at: Instant,
}

impl VirusTotal {
    /// Starts on free ports.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn start() -> Result<Self> {
        Self::start_on(0).await
    }

    /// Starts on that port; the second origin takes a free one.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub async fn start_on(port: u16) -> Result<Self> {
        let privileges =
            ["file-feed", "download-file", "intelligence"].map(|p| (p.to_owned(), true)).into();
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                key: TEST_KEY.to_owned(),
                content_url: String::new(),
                minutes: BTreeMap::new(),
                reports: BTreeMap::new(),
                any_file: Script::default(),
                files: Files::default(),
                sandboxes: Sandboxes::default(),
                hunting: Hunting::default(),
                unknown: Unknown::Missing,
                privileges,
                requests: Vec::new(),
                leaks: Vec::new(),
            }),
            changed: watch::Sender::new(0),
        });
        let (api, content) = routes::routers(&inner);
        let content = Server::start(0, content).await?;
        lock(&inner.state).content_url = content.url();
        Ok(Self { api: Server::start(port, api).await?, content, inner })
    }

    /// Sets the header `Date` of each further answer of its own origin.
    pub fn set_date(&self, date: Date) {
        self.api.set_date(date);
    }

    /// `http://127.0.0.1:<port>`, without a slash at its end: what VIRUSTOTAL is set to.
    pub fn url(&self) -> String {
        self.api.url()
    }

    /// The second origin, which redirects point to and which must never see the key.
    pub fn content_url(&self) -> String {
        self.content.url()
    }

    /// The key that is accepted now.
    pub fn key(&self) -> String {
        lock(&self.inner.state).key.clone()
    }

    /// Ends it and waits for that.
    pub async fn stop(self) {
        self.api.stop().await;
        self.content.stop().await;
    }

    // Controls.

    /// Only this key is accepted from now on.
    pub fn set_key(&self, key: &str) {
        key.clone_into(&mut lock(&self.inner.state).key);
    }

    /// Sets the bundle of a minute (`YYYYMMDDhhmm`).
    pub fn serve(&self, minute: &str, bundle: impl Into<Bytes>) {
        let mut state = lock(&self.inner.state);
        state.minutes.entry(minute.to_owned()).or_default().bundle = Some(bundle.into());
    }

    /// VirusTotal knows that file: `{"data":…}`. Unknown files are answered with 404.
    pub fn report(&self, sha256: &str, report: impl Into<Bytes>) {
        lock(&self.inner.state).reports.insert(sha256.to_owned(), report.into());
    }

    /// The next `times` requests for any file go like this.
    pub fn behave_for_files(&self, behaviour: &Behaviour, times: usize) {
        lock(&self.inner.state).any_file.push(behaviour, times);
    }

    /// Requests for files are normal again.
    pub fn clear_for_files(&self) {
        lock(&self.inner.state).any_file.clear();
    }

    /// Files whose reports were asked for so far, in order, repeats too.
    pub fn reports_asked(&self) -> Vec<String> {
        self.subjects(Asked::Report)
    }

    /// The next `times` requests for that minute or file go like this; then it is normal again. Several
    /// calls for one queue up. With `usize::MAX` it stays so.
    pub fn behave(&self, minute: &str, behaviour: &Behaviour, times: usize) {
        let mut state = lock(&self.inner.state);
        state.minutes.entry(minute.to_owned()).or_default().script.push(behaviour, times);
    }

    /// Clears the script of a minute.
    pub fn clear(&self, minute: &str) {
        if let Some(minute) = lock(&self.inner.state).minutes.get_mut(minute) {
            minute.script.clear();
        }
    }

    /// Sets the answer for minutes that have no bundle.
    pub fn set_unknown(&self, unknown: Unknown) {
        lock(&self.inner.state).unknown = unknown;
    }

    /// Whether the user of the key has that privilege (`file-feed`, `download-file`, …).
    pub fn set_privilege(&self, name: &str, granted: bool) {
        lock(&self.inner.state).privileges.insert(name.to_owned(), granted);
    }

    /// Resets all connections of both origins and refuses new ones until [`Self::up`].
    pub async fn down(&self) {
        self.api.down().await;
        self.content.down().await;
    }

    /// Takes connections again, on the same ports.
    pub async fn up(&self) {
        self.api.up().await;
        self.content.up().await;
    }

    // Questions.

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.inner.state).requests.clone()
    }

    /// The feed minutes asked for so far, in order, repeats too.
    pub fn minutes_asked(&self) -> Vec<String> {
        self.subjects(Asked::Feed)
    }

    fn subjects(&self, asked: Asked) -> Vec<String> {
        let state = lock(&self.inner.state);
        let requests = state.requests.iter().filter(|r| r.asked == asked);
        requests.map(|r| r.subject.clone()).collect()
    }

    /// Returns the places where the key was seen and must not be: the second origin, or a URL. A test expects none.
    pub fn key_leaked(&self) -> Vec<String> {
        lock(&self.inner.state).leaks.clone()
    }

    /// Waits until the requests so far answer the question with yes.
    ///
    /// # Panics
    /// They do not within five minutes.
    pub async fn wait_until(&self, mut question: impl FnMut(&[Request]) -> bool) {
        let is_so = || question(&lock(&self.inner.state).requests);
        let seen = || format!("{:?}", self.requests());
        wait_until(self.inner.changed.subscribe(), is_so, seen).await;
    }
}
