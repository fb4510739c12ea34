//! Sandbox reports of files, and their PCAPs.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension,
    extract::{Path, State as Shared},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, Uri};
use serde_json::{Value, json};

use super::{
    Asked, Behaviour, Inner, Script, VirusTotal,
    routes::{behave, error, plain},
};
use crate::{
    fault::around,
    server::{Conn, lock},
};

pub(super) const JSON: &str = "application/json; charset=utf-8";
const PCAP: &str = "application/vnd.tcpdump.pcap";

/// The reports of sandboxes, and what happens to the next requests for them.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    /// Reports by the file's SHA-256.
    reports: BTreeMap<String, Vec<Report>>,
    /// Scripts of the lists of reports, by the file's SHA-256.
    of_lists: BTreeMap<String, Script>,
    /// Scripts of the PCAPs, by the report's id.
    of_pcaps: BTreeMap<String, Script>,
}

#[derive(Debug)]
struct Report {
    /// `<sha256>_<sandbox>`.
    id: String,
    sandbox: String,
    analysis_date: i64,
    pcap: Option<Bytes>,
}

impl Report {
    fn to_json(&self) -> Value {
        json!({"type": "file_behaviour", "id": self.id, "attributes": {
            "sandbox_name": self.sandbox,
            "analysis_date": self.analysis_date,
            "has_pcap": self.pcap.is_some(),
            "has_html_report": false,
            "has_evtx": false,
            "has_memdump": false,
        }})
    }
}

impl VirusTotal {
    /// Adds the report of a sandbox on a file, with its date (Unix seconds), and with or without a PCAP.
    pub fn behaviour(&self, sha256: &str, sandbox: &str, analysis_date: i64, pcap: Option<Bytes>) {
        let (id, sandbox) = (format!("{sha256}_{sandbox}"), sandbox.to_owned());
        let mut state = lock(&self.inner.state);
        let reports = state.sandboxes.reports.entry(sha256.to_owned()).or_default();
        reports.retain(|report| report.id != id);
        reports.push(Report { id, sandbox, analysis_date, pcap });
    }

    /// The next `times` requests for that file's list of sandbox reports go like this. With
    /// `usize::MAX` it stays so.
    pub fn behave_behaviours(&self, sha256: &str, behaviour: &Behaviour, times: usize) {
        let mut state = lock(&self.inner.state);
        state.sandboxes.of_lists.entry(sha256.to_owned()).or_default().push(behaviour, times);
    }

    /// The next `times` requests for the PCAP of that report (`<sha256>_<sandbox>`) go like this.
    /// With `usize::MAX` it stays so.
    pub fn behave_pcap(&self, id: &str, behaviour: &Behaviour, times: usize) {
        let mut state = lock(&self.inner.state);
        state.sandboxes.of_pcaps.entry(id.to_owned()).or_default().push(behaviour, times);
    }

    /// Requests for sandbox reports and PCAPs are normal again.
    pub fn clear_for_sandboxes(&self) {
        let sandboxes = &mut lock(&self.inner.state).sandboxes;
        sandboxes.of_lists.clear();
        sandboxes.of_pcaps.clear();
    }
}

/// The list of a file's sandbox reports.
pub(super) async fn behaviours(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Behaviours, &sha256, &headers, &uri);
    if let Some(refused) = inner.refused(&headers) {
        return refused;
    }
    let (behaviour, list) = {
        let sandboxes = &mut lock(&inner.state).sandboxes;
        let reports = sandboxes.reports.get(&sha256).into_iter().flatten();
        let list: Vec<Value> = reports.map(Report::to_json).collect();
        (sandboxes.of_lists.get_mut(&sha256).and_then(Script::take), list)
    };
    let normal = plain(200, JSON, json!({"data": list}).to_string());
    behave_here(behaviour, normal, JSON, &sha256, &uri, &conn).await
}

/// The PCAP of a sandbox report.
pub(super) async fn pcap(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Pcap, &id, &headers, &uri);
    if let Some(refused) = inner.refused(&headers) {
        return refused;
    }
    let (behaviour, pcap) = {
        let sandboxes = &mut lock(&inner.state).sandboxes;
        let report = sandboxes.reports.values().flatten().find(|report| report.id == id);
        let pcap = report.and_then(|report| report.pcap.clone());
        (sandboxes.of_pcaps.get_mut(&id).and_then(Script::take), pcap)
    };
    let normal = match pcap {
        Some(pcap) => plain(200, PCAP, pcap),
        None => error(404, "NotFoundError", &format!("PCAP of {id:?} not found")),
    };
    behave_here(behaviour, normal, PCAP, &id, &uri, &conn).await
}

/// Returns the normal answer, or another one if a behaviour is given. The answer carries the content itself, without a
/// redirect.
pub(super) async fn behave_here(
    behaviour: Option<Behaviour>,
    normal: Response,
    content_type: &'static str,
    subject: &str,
    uri: &Uri,
    conn: &Conn,
) -> Response {
    match behaviour {
        Some(Behaviour::Content(fault)) => around(Some(fault), conn, async { normal }).await,
        Some(Behaviour::Bundle(other)) => plain(200, content_type, other),
        other => behave(other, normal, subject, uri, conn).await,
    }
}
