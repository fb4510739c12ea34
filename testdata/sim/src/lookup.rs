//! Files that somebody else put into Azul, and what VirusTotal knows of them.

use serde_json::{Value, json};

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

/// VirusTotal's report of it.
pub fn report(n: usize) -> String {
    let attributes = json!({"sha256": sha256(n), "type_tag": "pdf", "tags": ["seen"]});
    json!({"data": {"type": "file", "id": sha256(n), "attributes": attributes}}).to_string()
}
