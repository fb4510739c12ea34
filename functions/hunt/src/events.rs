//! What goes to Azul for a hit: the file's event, and the request for its content. Pure.

use azul_vt::{
    azul::{
        avro,
        event::{
            Author, BinaryEvent, DownloadEntity, DownloadEvent, Feature, FeatureDescriptor,
            ModelVersion, StringMap, download_action,
        },
    },
    mapping::{self, Mapped, Mapper, Record},
    settings::HuntSettings,
};
use jiff::Timestamp;

use crate::hit::Hit;

/// Name of the author of hunting events. The Go plugin's, so that its events and ours merge.
pub const AUTHOR: &str = "VirustotalHuntFeed";
/// Bytes of a snippet that are kept.
const MAX_SNIPPET_BYTES: usize = 4000;

/// The author of hunting events.
pub fn author() -> Author {
    Author::new(AUTHOR, "loader")
}

/// All features of these events: the report's, and the hit's own.
pub fn descriptors() -> Vec<FeatureDescriptor> {
    let own = [
        ("hunt_rule", "Name of the YARA rule that matched the file."),
        ("hunt_ruleset", "Name of the ruleset that the matching rule is in."),
        ("hunt_rule_tag", "A tag of the matching rule."),
        ("hunt_notification", "VirusTotal's id of the notification."),
        ("hunt_match_source", "What the match was found in, where not in the file itself."),
        ("hunt_match_snippet", "The bytes around the match, as VirusTotal prints them."),
    ];
    let own = own.map(|(name, desc)| FeatureDescriptor {
        name: name.into(),
        kind: "string".into(),
        desc: desc.into(),
        tags: Vec::new(),
    });
    mapping::descriptors().into_iter().chain(own).collect()
}

/// What events are made with.
pub struct Events {
    /// Reports to events.
    pub mapper: Mapper,
    /// Of the events.
    pub model_version: ModelVersion,
    /// An event is no larger: it loses features.
    pub max_event_bytes: usize,
}

impl Events {
    /// The event of a hit in the object `report`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn mapped(
        &self,
        report: &str,
        hit: &Hit,
        source: &str,
        now: Timestamp,
    ) -> Result<BinaryEvent, String> {
        let record = Record::parse(report.as_bytes()).map_err(|error| error.to_string())?;
        let mut event = match self.mapper.map_report(&record, None, now) {
            Mapped::Event { event, .. } => *event,
            Mapped::Filtered(why) | Mapped::Rejected(why) => return Err(why),
        };
        source.clone_into(&mut event.source.name);
        let references = [
            ("subject", &hit.rule),
            ("ruleset", &hit.ruleset),
            ("ruleset_name", &hit.ruleset_name),
        ];
        event.source.references = references
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect::<StringMap>();
        if let Some(date) = hit.date {
            event.source.timestamp = date;
            for node in &mut event.source.path {
                node.timestamp = date;
            }
        }
        let snippet = hit.snippet.floor_char_boundary(MAX_SNIPPET_BYTES);
        let notification = if hit.date.is_some() { hit.id.as_str() } else { "" };
        let own = [
            ("hunt_rule", hit.rule.as_str()),
            ("hunt_ruleset", hit.ruleset_name.as_str()),
            ("hunt_notification", notification),
            ("hunt_match_source", hit.match_source.as_str()),
            ("hunt_match_snippet", hit.snippet.get(..snippet).unwrap_or_default()),
        ];
        let tags = hit.rule_tags.iter().map(|tag| ("hunt_rule_tag", tag.as_str()));
        let own = own.into_iter().chain(tags).filter(|(_, value)| !value.is_empty());
        // First: what does not fit is cut from the end.
        let own = own.map(|(name, value)| Feature {
            name: name.into(),
            value: value.to_owned(),
            kind: "string".into(),
            ..Feature::default()
        });
        event.entity.features.splice(..0, own);
        avro::cut_to_fit(event, self.model_version, self.max_event_bytes)
            .map_err(|error| error.to_string())
    }

    /// The request for a hit's content, to go with its event.
    pub fn request(
        &self,
        event: &BinaryEvent,
        hit: &Hit,
        settings: &HuntSettings,
    ) -> DownloadEvent {
        DownloadEvent {
            model_version: self.model_version.number(),
            kafka_key: String::new(),
            timestamp: event.timestamp,
            author: author(),
            source: event.source.clone(),
            action: download_action::REQUESTED.into(),
            entity: DownloadEntity {
                hash: hit.sha256.clone(),
                category: format!("{}/{}", event.source.name, hit.rule),
                category_quota: settings.result_limit.into(),
                pcap: settings.pcap,
                ..DownloadEntity::default()
            },
        }
    }
}

/// Whether a hit is wanted, by the settings' patterns; else why not.
///
/// # Errors
/// The reason.
pub fn wanted(hit: &Hit, settings: &HuntSettings) -> Result<(), &'static str> {
    let HuntSettings { rulesets, rules, tags, min_positives, .. } = settings;
    if !rulesets.want(&[&hit.ruleset, &hit.ruleset_name]) {
        return Err("HUNT_RULESETS");
    }
    if !rules.want(&[&hit.rule]) {
        return Err("HUNT_RULES");
    }
    let all: Vec<&str> = hit.tags.iter().chain(&hit.rule_tags).map(String::as_str).collect();
    if !tags.want(&all) {
        return Err("HUNT_TAGS");
    }
    if hit.positives < *min_positives {
        return Err("HUNT_MIN_POSITIVES");
    }
    Ok(())
}
