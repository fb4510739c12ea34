//! Decides which events are worked. Pure.

use azul_vt::azul::event::{DownloadEvent, download_action};

use crate::events::AUTHOR;

/// Returns the inbox item of an event: the event as JSON, with its hash in lower case.
///
/// # Errors
/// The reason why the event is ignored, in words for its sender.
pub fn item(mut event: DownloadEvent) -> Result<String, String> {
    if event.author.name == AUTHOR {
        return Err("it is an event of our own".into());
    }
    match event.action.as_str() {
        download_action::SUCCESS if event.entity.category.is_empty() => {
            return Err("it counts in no quota: it has no category".into());
        }
        download_action::REQUESTED | download_action::SUCCESS => {}
        action => {
            return Err(format!(
                "its action is `{action}`: requested is worked, and success counted"
            ));
        }
    }
    event.entity.hash.make_ascii_lowercase();
    serde_json::to_string(&event).map_err(|error| error.to_string())
}

/// Whether a request's hash is a SHA-256, in lower case.
pub fn is_sha256(hash: &str) -> bool {
    hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
