//! Makes the events for a hit: the file's event, and the request for its content. Pure.

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

/// Name of the author of hunting events. It is the Go plugin's name, so that its events and those of this plugin merge.
pub const AUTHOR: &str = "VirustotalHuntFeed";
/// Most bytes that are kept of a text of a hit. Azul drops a whole event that has a text of more than 32,766 bytes.
const MAX_TEXT_BYTES: usize = 4000;
/// Most bytes of a rule's name in the category of a download request. Quotas are counted by category.
const MAX_CATEGORY_BYTES: usize = 200;
/// Most tags of a rule that an event carries.
const MAX_TAGS: usize = 100;

/// Returns the author of hunting events.
pub fn author() -> Author {
    Author::new(AUTHOR, "loader")
}

/// Returns all features of these events: the report's, and the hit's own.
pub fn descriptors() -> Vec<FeatureDescriptor> {
    let own = [
        ("hunt_rule", "Name of the YARA rule that matched the file."),
        ("hunt_ruleset", "Name of the ruleset that the matching rule is in."),
        ("hunt_rule_tag", "A tag of the matching rule."),
        ("hunt_notification", "VirusTotal's id of the notification."),
        ("hunt_match_source", "Where in the file the match was, in VirusTotal's words."),
        ("hunt_submitter_id", "VirusTotal's pseudonym (a ciphered id) of who submitted the file."),
        ("hunt_source_country", "Country of who submitted the file."),
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

/// Reason why a hit has no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// The file is not wanted, for example the empty file.
    Unwanted(String),
    /// The hit's object cannot be mapped to an event.
    Impossible(String),
}

/// Makes events.
pub struct Events {
    /// Mapper from reports to events.
    pub mapper: Mapper,
    /// Model version of the events.
    pub model_version: ModelVersion,
    /// Most bytes of an event. A larger event loses features.
    pub max_event_bytes: usize,
}

impl Events {
    /// Returns the event of a hit whose object is `report`, and the number of the report's values that were left out.
    ///
    /// # Errors
    /// [`NoEvent`] says why the hit has no event.
    pub fn mapped(
        &self,
        report: &Record,
        hit: &Hit,
        source: &str,
        now: Timestamp,
    ) -> Result<(BinaryEvent, u64), NoEvent> {
        let (mut event, bad_values) = match self.mapper.map_report(report, None, now) {
            Mapped::Event { event, bad_values } => (*event, bad_values),
            Mapped::Filtered(why) => return Err(NoEvent::Unwanted(why)),
            Mapped::Rejected(why) => return Err(NoEvent::Impossible(why)),
        };
        // The SHA-256 in the report may be a bad value or in upper case, so the hit's own is used.
        event.entity.sha256.clone_from(&hit.sha256);
        for node in &mut event.source.path {
            node.sha256.clone_from(&hit.sha256);
        }
        source.clone_into(&mut event.source.name);
        let references = [
            ("subject", &hit.rule),
            ("ruleset", &hit.ruleset),
            ("ruleset_name", &hit.ruleset_name),
        ];
        event.source.references = references
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), cut(value, MAX_TEXT_BYTES).to_owned()))
            .collect::<StringMap>();
        if let Some(date) = hit.date {
            event.source.timestamp = date;
            for node in &mut event.source.path {
                node.timestamp = date;
            }
        }
        let own = [
            ("hunt_rule", &hit.rule),
            ("hunt_ruleset", &hit.ruleset_name),
            ("hunt_notification", &hit.notification),
            ("hunt_match_source", &hit.match_source),
            ("hunt_submitter_id", &hit.submitter),
            ("hunt_source_country", &hit.source_country),
            ("hunt_match_snippet", &hit.snippet),
        ];
        let tags = hit.rule_tags.iter().take(MAX_TAGS).map(|tag| ("hunt_rule_tag", tag));
        let own = own.into_iter().chain(tags).filter(|(_, value)| !value.is_empty());
        // The hit's own features come first, because features that do not fit are cut from the end.
        let own = own.map(|(name, value)| Feature {
            name: name.into(),
            value: cut(value, MAX_TEXT_BYTES).to_owned(),
            kind: "string".into(),
            ..Feature::default()
        });
        event.entity.features.splice(..0, own);
        let event = avro::cut_to_fit(event, self.model_version, self.max_event_bytes)
            .map_err(|error| NoEvent::Impossible(error.to_string()))?;
        Ok((event, bad_values))
    }

    /// Returns the request for a hit's content, which is posted after the hit's event.
    pub fn request(
        &self,
        event: &BinaryEvent,
        hit: &Hit,
        settings: &HuntSettings,
    ) -> DownloadEvent {
        // A hit without a rule's name counts for its ruleset.
        let rule = [&hit.rule, &hit.ruleset_name].into_iter().find(|name| !name.is_empty());
        let rule = rule.map_or("unnamed", |rule| cut(rule, MAX_CATEGORY_BYTES));
        DownloadEvent {
            model_version: self.model_version.number(),
            kafka_key: String::new(),
            timestamp: event.timestamp,
            author: author(),
            source: event.source.clone(),
            action: download_action::REQUESTED.into(),
            entity: DownloadEntity {
                hash: hit.sha256.clone(),
                category: format!("{}/{rule}", event.source.name),
                category_quota: settings.result_limit.into(),
                pcap: settings.pcap,
                ..DownloadEntity::default()
            },
        }
    }
}

/// Checks whether the patterns of the settings want a hit.
///
/// # Errors
/// The reason why the hit is not wanted.
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
    if hit.positives.is_some_and(|positives| positives < *min_positives) {
        return Err("HUNT_MIN_POSITIVES");
    }
    Ok(())
}

/// Returns the start of a text: at most `most` bytes, cut at the border of a character.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}
