//! Decides which events are looked up, from the event and the settings alone. Pure.

use std::collections::BTreeSet;

use azul_vt::azul::{
    event::{BinaryEvent, binary_action},
    limits::is_sha256,
};

/// Name of the author of look-ups. It is the Go plugin's name, so that its events and those of this plugin merge.
pub const AUTHOR: &str = "VirustotalFileLookup";
/// The source of the feed's own events. They come from VirusTotal, so they are not looked up there.
const FEED_SOURCE: &str = "virustotal";

/// Sources whose binaries are looked up (`LOOKUP_SOURCES`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// `*`: all sources except that of the feed.
    All,
    /// The sources with these names.
    Named(BTreeSet<String>),
}

/// The conditions under which an event is looked up.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `LOOKUP_SOURCES`.
    pub sources: Sources,
    /// `LOOKUP_FORMATS`: Azul's file formats, each whole or up to a `*` at its end; `None`: all.
    pub formats: Option<Vec<String>>,
    /// `LOOKUP_MAX_SIZE`, in bytes: larger files are not looked up.
    pub max_size: Option<u64>,
}

impl Wanted {
    /// Returns the SHA-256 to look up, in lower case.
    ///
    /// # Errors
    /// The reason why the event is ignored, in words for the event's sender.
    pub fn sha256(&self, event: &BinaryEvent) -> Result<String, String> {
        let action = event.action.as_str();
        if ![binary_action::SOURCED, binary_action::EXTRACTED].contains(&action) {
            return Err(format!(
                "its action is `{action}`, and sourced and extracted are looked up"
            ));
        }
        if event.author.name == AUTHOR {
            return Err("it is an event of our own".into());
        }
        let source = event.source.name.as_str();
        let wanted = match &self.sources {
            Sources::All => source != FEED_SOURCE,
            Sources::Named(names) => names.contains(source),
        };
        if !wanted {
            return Err(format!("its source `{source}` is not in LOOKUP_SOURCES"));
        }
        let entity = &event.entity;
        if !is_sha256(&entity.sha256) {
            return Err("its entity.sha256 is not 64 hexadecimal digits".into());
        }
        if event.source.path.is_empty() {
            return Err("its source.path is empty, so no result could be attached to it".into());
        }
        if let Some(formats) = &self.formats
            && !formats.iter().any(|format| fits(format, &entity.file_format))
        {
            let format = &entity.file_format;
            return Err(format!("its file format `{format}` is not in LOOKUP_FORMATS"));
        }
        if self.max_size.is_some_and(|max| entity.size > max) {
            return Err(format!("its {} bytes are more than LOOKUP_MAX_SIZE", entity.size));
        }
        Ok(entity.sha256.to_ascii_lowercase())
    }
}

fn fits(wanted: &str, format: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => format.starts_with(start),
        None => format == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(change: impl FnOnce(&mut Value)) -> BinaryEvent {
        let mut event = json!({
            "model_version": 6, "author": {"name": "someone"}, "action": "sourced",
            "source": {"name": "incidents", "path": [
                {"author": {"name": "someone"}, "action": "sourced", "sha256": "A".repeat(64)}]},
            "entity": {"sha256": "A".repeat(64), "size": 10, "file_format": "document/pdf"},
        });
        change(&mut event);
        serde_json::from_value(event).unwrap()
    }

    fn wanted() -> Wanted {
        let sources = Sources::Named(["incidents".to_owned()].into());
        Wanted { sources, formats: None, max_size: None }
    }

    fn ignored(wanted: &Wanted, change: impl FnOnce(&mut Value)) -> String {
        wanted.sha256(&event(change)).unwrap_err()
    }

    #[test]
    fn a_sourced_binary_of_a_wanted_source_is_looked_up_by_its_lower_case_hash() {
        assert_eq!(wanted().sha256(&event(|_| ())).unwrap(), "a".repeat(64));
        let extracted = event(|e| e["action"] = json!("extracted"));
        assert!(wanted().sha256(&extracted).is_ok());
    }

    #[test]
    fn other_actions_our_own_events_other_sources_and_bad_hashes_are_ignored_with_the_reason() {
        for action in ["mapped", "enriched", "augmented", ""] {
            assert!(ignored(&wanted(), |e| e["action"] = json!(action)).contains("action"));
        }
        assert!(ignored(&wanted(), |e| e["author"]["name"] = json!(AUTHOR)).contains("our own"));
        assert!(
            ignored(&wanted(), |e| e["source"]["name"] = json!("Incidents")).contains("source")
        );
        for hash in ["", "abc", &"g".repeat(64), &"a".repeat(65)] {
            assert!(ignored(&wanted(), |e| e["entity"]["sha256"] = json!(hash)).contains("sha256"));
        }
        assert!(ignored(&wanted(), |e| e["source"]["path"] = json!([])).contains("path"));
    }

    #[test]
    fn a_star_means_every_source_but_the_feed_itself() {
        let all = Wanted { sources: Sources::All, ..wanted() };
        assert!(all.sha256(&event(|e| e["source"]["name"] = json!("any"))).is_ok());
        assert!(ignored(&all, |e| e["source"]["name"] = json!("virustotal")).contains("source"));
    }

    #[test]
    fn formats_and_sizes_narrow_it() {
        let formats = Some(vec!["document/*".to_owned(), "image/png".to_owned()]);
        let narrow = Wanted { formats, max_size: Some(10), ..wanted() };
        assert!(narrow.sha256(&event(|_| ())).is_ok());
        assert!(narrow.sha256(&event(|e| e["entity"]["file_format"] = json!("image/png"))).is_ok());
        for format in ["image/png2", "executable/windows/pe32", ""] {
            let reason = ignored(&narrow, |e| e["entity"]["file_format"] = json!(format));
            assert!(reason.contains("LOOKUP_FORMATS"), "{reason}");
        }
        assert!(ignored(&narrow, |e| e["entity"]["size"] = json!(11)).contains("LOOKUP_MAX_SIZE"));
    }
}
