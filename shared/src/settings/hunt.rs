//! Settings of Livehunt.

use jiff::SignedDuration;
use regex::Regex;

use super::{FEED_RETENTION_HOURS, Reader, SettingError, hours, list, within};

/// Settings of `hunt`.
#[derive(Clone, Debug)]
pub struct HuntSettings {
    /// `HUNT_API`: whether it is `legacy`, so that notifications are read by the API before the IoC stream.
    pub is_legacy: bool,
    /// `HUNT_BACKLOG_HOURS`: age of the oldest notifications that the first run reads.
    pub backlog: SignedDuration,
    /// `HUNT_RULESETS`: names or ids of rulesets.
    pub rulesets: Globs,
    /// `HUNT_RULES`: names of rules.
    pub rules: Globs,
    /// `HUNT_TAGS`: tags of a notification or of its rule.
    pub tags: Globs,
    /// `HUNT_MIN_POSITIVES`: smallest number of engines that must detect a file.
    pub min_positives: u64,
    /// `HUNT_SOURCE`: the Azul source of Livehunt's events.
    pub source: String,
    /// `RETROHUNT_SOURCE`: the Azul source of Retrohunt's events.
    pub retrohunt_source: String,
    /// `HUNT_DOWNLOAD`: whether the samples are asked for.
    pub download: bool,
    /// `HUNT_PCAP`: whether network captures are asked for too.
    pub pcap: bool,
    /// `RESULT_LIMIT`: most downloads of a rule's hits a day.
    pub result_limit: u32,
}

impl HuntSettings {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, SettingError> {
        let is_legacy =
            r.parse(&["HUNT_API"], "ioc_stream", "ioc_stream or legacy", |t| match t {
                "ioc_stream" => Some(false),
                "legacy" => Some(true),
                _ => None,
            })?;
        let backlog = r.parse(
            &["HUNT_BACKLOG_HOURS"],
            "24",
            "a number of hours up to 168: VirusTotal keeps no more",
            |t| within::<i64>(t, 0, FEED_RETENTION_HOURS).and_then(hours),
        )?;
        let expected = "patterns, separated by commas, such as mal_*,!test_*";
        let mut globs = |name: &'static str| r.parse(&[name], "", expected, Globs::parse);
        let (rulesets, rules, tags) =
            (globs("HUNT_RULESETS")?, globs("HUNT_RULES")?, globs("HUNT_TAGS")?);
        let min_positives =
            r.parse(&["HUNT_MIN_POSITIVES"], "0", "a number of detections", |t| {
                within(t, 0, 10_000)
            })?;
        let result_limit = r.parse(
            &["RESULT_LIMIT"],
            "50",
            "a number of downloads a rule and day, at least 1",
            |t| within(t, 1, i64::from(u32::MAX)),
        )?;
        Ok(Self {
            is_legacy,
            backlog,
            rulesets,
            rules,
            tags,
            min_positives,
            source: r.text(&["HUNT_SOURCE"], "vtlivehunt"),
            retrohunt_source: r.text(&["RETROHUNT_SOURCE"], "vtretrohunt"),
            download: r.switch_or("HUNT_DOWNLOAD", "1")?,
            pcap: r.switch("HUNT_PCAP")?,
            result_limit,
        })
    }
}

/// Patterns of names: `*` stands for any characters, `!` before a pattern excludes.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    included: Vec<Regex>,
    excluded: Vec<Regex>,
}

impl Globs {
    /// Reads a list of patterns separated by commas. `None` if a pattern is too large.
    pub fn parse(text: &str) -> Option<Self> {
        let mut globs = Self::default();
        for entry in list(text) {
            let (patterns, glob) = match entry.strip_prefix('!') {
                Some(glob) => (&mut globs.excluded, glob),
                None => (&mut globs.included, entry.as_str()),
            };
            let parts: Vec<String> = glob.split('*').map(regex::escape).collect();
            patterns.push(Regex::new(&format!("^(?s:{})$", parts.join(".*"))).ok()?);
        }
        Some(globs)
    }

    /// Whether something with these names is wanted. No name may match an excluding pattern, and if there are including
    /// patterns, a name must match one of them.
    pub fn want(&self, names: &[&str]) -> bool {
        let any =
            |patterns: &[Regex]| names.iter().any(|name| patterns.iter().any(|p| p.is_match(name)));
        !any(&self.excluded) && (self.included.is_empty() || any(&self.included))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_include_and_exclude() {
        let want = |patterns: &str, names: &[&str]| Globs::parse(patterns).unwrap().want(names);
        assert!(want("", &["anything"]) && want("", &[]));
        assert!(want("mal_*", &["mal_one"]) && !want("mal_*", &["a_mal_one"]));
        assert!(want("*a*b", &["xxaxxb"]) && !want("a.b", &["aab"]));
        assert!(!want("!test_*", &["test_1"]) && want("!test_*", &["real"]));
        assert!(!want("mal_*,!*_test", &["mal_test"]) && want("mal_*,!*_test", &["mal_x"]));
        assert!(want("b", &["a", "b"]) && !want("!b", &["a", "b"]) && !want("c", &[]));
    }
}
