//! Fuzzes rules: any file is loaded or refused, and a set of rules matches the same records as its rules do alone.

#![no_main]

use std::{fs, path::Path, sync::OnceLock};

use azul_vt::{mapping::Record, selection::RuleSet};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: OnceLock<TempDir> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    // The data are a record, a zero byte and rules.
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (Some(record), Some(rules)) = (parts.next(), parts.next()) else { return };
    let folder: &Path = FOLDER.get_or_init(|| TempDir::new().unwrap()).path();
    // The rules are used twice: as a file, and as the text of one rule.
    let quoted = serde_json::to_string(&String::from_utf8_lossy(rules)).unwrap();
    let one = format!("- r: {{syntax: gjson, daily_quota: 1, rule: {quoted}}}\n");
    for content in [rules, one.as_bytes()] {
        fs::write(folder.join("a.yaml"), content).unwrap();
        let Ok(loaded) = RuleSet::load(folder, true) else { continue };
        let Ok(record) = Record::parse(record) else { continue };
        let rules = loaded.rules.rules().iter().filter(|rule| rule.daily_quota > 0);
        let alone: Vec<_> = rules
            .filter(|rule| rule.filter.matches(record.text()))
            .map(|rule| &rule.category)
            .collect();
        let together: Vec<_> =
            loaded.rules.matching(&record).iter().map(|rule| &rule.category).collect();
        assert_eq!(together, alone);
    }
});
