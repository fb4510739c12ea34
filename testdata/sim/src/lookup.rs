//! Files that somebody else put into Azul, what VirusTotal knows of them, and files asked for.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// SHA-256 of the n-th file.
pub fn sha256(n: usize) -> String {
    format!("{:064x}", n + 0xabcd)
}

/// The event of the n-th file, source `incidents`, as the dispatcher hands it out.
pub fn event(n: usize) -> Value {
    let author = json!({"name": "someone", "category": "plugin"});
    let time = "2026-11-24T08:00:00Z";
    let node =
        json!({"author": author, "action": "sourced", "sha256": sha256(n), "timestamp": time});
    json!({
        "model_version": 6, "kafka_key": format!("key-{n}"), "timestamp": time,
        "author": author, "action": "sourced", "dequeued": format!("key-{n}.VirustotalFileLookup.1.0"),
        "source": {"name": "incidents", "timestamp": time, "path": [node]},
        "entity": {
            "sha256": sha256(n), "size": 5,
            "datastreams": [{"label": "content", "sha256": sha256(n), "size": 5}],
            "features": [{"name": "x", "value": "y", "type": "string"}],
        },
    })
}

/// Returns VirusTotal's report on the n-th file.
pub fn report(n: usize) -> String {
    let attributes = json!({"sha256": sha256(n), "type_tag": "pdf", "tags": ["seen"]});
    json!({"data": {"type": "file", "id": sha256(n), "attributes": attributes}}).to_string()
}

/// The content of the n-th sample that VirusTotal has: a PDF where n is even, a program where it is odd.
/// Its hash is its own, not that of [`sha256`].
pub fn sample(n: usize) -> Vec<u8> {
    let start = if n.is_multiple_of(2) { "%PDF-1.7\n" } else { "MZ\n" };
    format!("{start}sample {n} of the stand-in for VirusTotal\n").into_bytes()
}

/// The request for a file's content, as the dispatcher hands it out. The caller adds `direct_url`,
/// `direct_expiry` and `pcap` to its `entity`.
pub fn download_event(sha256: &str, category: &str, quota: i64) -> Value {
    let author = json!({"name": "VirustotalFileFeed", "category": "plugin", "version": "1"});
    let time = "2026-11-24T08:00:00Z";
    let node = json!({"author": author, "action": "mapped", "sha256": sha256, "timestamp": time});
    let key = Sha256::digest(json!([sha256, category, quota]).to_string());
    json!({
        "model_version": 6, "kafka_key": hex::encode(key), "timestamp": time,
        "author": author, "action": "requested",
        "source": {
            "name": "virustotal", "timestamp": time,
            "references": {"submitter_country": "AU"}, "path": [node],
        },
        "entity": {"hash": sha256, "category": category, "category_quota": quota},
    })
}
