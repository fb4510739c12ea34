//! Compares rules and download requests with real records and the Go plugin's results for them.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path, time::Instant};

use azul::event::{Author, DownloadEvent, ModelVersion, PathNode, Source, StringMap};
use jiff::{SignedDuration, Timestamp};
use mapping::Record;
use rules::{
    CHECK_INTERVAL, Candidate, Directory, Filter, Refresh, RuleError, RuleProblem, RuleSet, Rules,
    Selector, SelectorOptions,
};
use serde_json::Value;
use testkit::corpus;

const SHA256: &str = "ab00000000000000000000000000000000000000000000000000000000000001";

fn lines(file: &str) -> Option<Vec<String>> {
    // Some of the hostile lines are not UTF-8.
    let text = String::from_utf8_lossy(&corpus::read(file)?).into_owned();
    Some(text.lines().map(str::to_owned).collect())
}

fn rules_of_corpus() -> Option<Vec<Value>> {
    let rules = lines("expected/rules.jsonl")?;
    Some(rules.iter().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn now() -> Timestamp {
    "2024-01-01T01:00:00Z".parse().unwrap()
}

fn options() -> SelectorOptions {
    SelectorOptions {
        author: Author {
            name: "VirustotalFileFeed".into(),
            version: "2.2.0".into(),
            category: "plugin".into(),
            security: String::new(),
        },
        model_version: ModelVersion::V6,
        direct_link: SignedDuration::from_hours(168),
        max_download_bytes: Some(20 << 20),
    }
}

/// Returns a source with one path node, as in a mapped event.
fn source(sha256: &str, time: Timestamp) -> Source {
    let node = PathNode {
        author: options().author,
        action: "mapped".into(),
        sha256: sha256.into(),
        relationship: StringMap::new(),
        timestamp: time,
        file_format_legacy: String::new(),
        file_format: String::new(),
        size: 1,
        filename: String::new(),
        language: String::new(),
    };
    Source {
        name: "virustotal".into(),
        references: StringMap::new(),
        security: String::new(),
        path: vec![node],
        timestamp: time,
        settings: StringMap::new(),
    }
}

fn rule_dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn load(files: &[(&str, &str)]) -> RuleSet {
    RuleSet::load(rule_dir(files).path(), false).unwrap().rules
}

fn errors(files: &[(&str, &str)]) -> String {
    RuleSet::load(rule_dir(files).path(), false).unwrap_err().to_string()
}

fn rule(name: &str, rule: &str) -> String {
    format!("- {name}:\n    syntax: gjson\n    rule: {rule}\n    daily_quota: 5\n")
}

fn record(text: &str) -> Record {
    Record::parse(text.as_bytes()).unwrap()
}

fn select(rules: RuleSet, text: &str) -> Vec<DownloadEvent> {
    let analysed = "2024-07-01T00:00:00Z".parse().unwrap();
    let candidate = Candidate {
        record: &record(text),
        source: &source(SHA256, analysed),
        sha256: SHA256,
        size: Some(10),
        download_url: Some("https://vt.example/download"),
        last_analysis: Some(analysed),
    };
    Selector::new(rules, options()).select(&candidate, now())
}

#[test]
fn all_132_rules_of_the_corpus_match_exactly_the_records_that_they_matched() {
    let Some(rules) = rules_of_corpus() else { return };
    let records: Vec<(String, String)> = ["feed", "objects"]
        .into_iter()
        .flat_map(|name| {
            let lines = lines(&format!("records/{name}.jsonl")).unwrap();
            lines.into_iter().enumerate().map(move |(n, line)| (format!("{name}:{}", n + 1), line))
        })
        .collect();
    assert_eq!((rules.len(), records.len()), (132, 35));
    // All rules are also one set, in which texts that they share are searched for once.
    let file: String =
        (0..).zip(&rules).map(|(n, r)| rule(&n.to_string(), &r["rule"].to_string())).collect();
    let set = load(&[("all.yaml", &file)]);
    let mut of_set: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); rules.len()];
    for (name, text) in &records {
        for rule in set.matching(&record(text)) {
            let number: usize = rule.category.strip_prefix("all/").unwrap().parse().unwrap();
            of_set[number].insert(name);
        }
    }
    let mut wrong = String::new();
    for (rule, of_set) in rules.iter().zip(of_set) {
        let text = rule["rule"].as_str().unwrap();
        let filter = Filter::compile(text).unwrap();
        let ours: BTreeSet<&str> = records
            .iter()
            .filter(|(_, record)| filter.matches(record))
            .map(|(name, _)| name.as_str())
            .collect();
        let theirs: BTreeSet<&str> =
            rule["matches"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(of_set, ours, "{text}");
        if ours != theirs {
            writeln!(wrong, "{text}: {:?}", ours.symmetric_difference(&theirs)).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn no_rule_of_the_corpus_panics_on_a_hostile_line() {
    let (Some(rules), Some(lines)) = (rules_of_corpus(), lines("records/hostile.jsonl")) else {
        return;
    };
    for rule in rules {
        let filter = Filter::compile(rule["rule"].as_str().unwrap()).unwrap();
        for line in &lines {
            filter.matches(line);
            // A line that is cut anywhere is no longer JSON.
            for cut in (0..line.len()).filter(|cut| line.is_char_boundary(*cut)) {
                filter.matches(&line[..cut]);
            }
        }
    }
}

#[test]
fn requests_equal_those_of_the_go_plugin() {
    let Some(expected) = lines("expected/feed.downloads.jsonl") else { return };
    let rules = load(&[(
        "basicv3.yaml",
        "- any_av_timeout: {syntax: gjson, rule: \"attributes.last_analysis_stats.timeout|@gt:5\", \
         daily_quota: 10}",
    )]);
    let selector = Selector::new(rules, options());
    let mut requests = 0;
    for (line, expected) in lines("records/feed.jsonl").unwrap().iter().zip(expected) {
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let record: Value = serde_json::from_str(line).unwrap();
        let attributes = &record["attributes"];
        let sha256 = attributes["sha256"].as_str().unwrap();
        let analysed =
            Timestamp::from_second(attributes["last_analysis_date"].as_i64().unwrap()).unwrap();
        // The source of a record is left to the mapping.
        let mut source = source(sha256, analysed);
        let theirs = expected["events"].as_array().cloned().unwrap_or_default();
        if let Some(theirs) = theirs.first() {
            let mut theirs = theirs["source"].clone();
            theirs["path"][0]["file_format_legacy"] = "".into();
            source = serde_json::from_value(theirs).unwrap();
        }
        let candidate = Candidate {
            record: &self::record(line),
            source: &source,
            sha256,
            size: attributes["size"].as_u64(),
            download_url: record["context_attributes"]["download_url"].as_str(),
            last_analysis: Some(analysed),
        };
        let ours = selector.select(&candidate, now());
        assert_eq!(ours.len(), theirs.len(), "{expected}");
        for (ours, mut theirs) in ours.into_iter().zip(theirs) {
            requests += 1;
            // These are the known differences.
            theirs["model_version"] = 6.into();
            theirs["kafka_key"] = "".into();
            theirs["source"]["path"][0]["action"] = "mapped".into();
            theirs["source"]["path"][0].as_object_mut().unwrap().remove("file_format_legacy");
            let expiry = analysed + SignedDuration::from_hours(168);
            theirs["entity"]["direct_expiry"] = expiry.to_string().into();
            assert_eq!(serde_json::to_value(&ours).unwrap(), theirs);
        }
    }
    assert_eq!(requests, 5);
}

#[test]
fn rules_that_hit_the_same_record_keep_their_own_category_quota_and_pcap() {
    let rules = load(&[
        (
            "b.v3.yaml",
            "- first: {syntax: gjson, rule: a, daily_quota: 1}\n\
             - second: {syntax: gjson, rule: a, daily_quota: 2, collect_pcap: true}\n\
             - third: {syntax: gjson, rule: a, daily_quota: 3}\n\
             - never: {syntax: gjson, rule: a, daily_quota: 0}\n",
        ),
        ("a/z.yaml", "- fourth: {syntax: gjson, rule: a, daily_quota: 4, reference: why}\n"),
    ]);
    let requests = select(rules, r#"{"a":1}"#);
    let asked: Vec<_> = requests
        .iter()
        .map(|r| (r.entity.category.as_str(), r.entity.category_quota, r.entity.pcap))
        .collect();
    let expected = [
        ("z/fourth", 4, false),
        ("b/first", 1, false),
        ("b/second", 2, true),
        ("b/third", 3, false),
    ];
    assert_eq!(asked, expected);
    assert!(requests.iter().all(|r| r.timestamp == now() && r.action == "requested"));
}

#[test]
fn no_request_goes_out_for_what_cannot_or_need_not_be_downloaded() {
    let selector = Selector::new(load(&[("a.yaml", &rule("r", "a"))]), options());
    let source = source(SHA256, now());
    let hit = record(r#"{"a":1}"#);
    let good = Candidate {
        record: &hit,
        source: &source,
        sha256: SHA256,
        size: Some(20 << 20),
        download_url: None,
        last_analysis: None,
    };
    let asked = |candidate: Candidate<'_>| selector.select(&candidate, now()).len();
    assert_eq!(asked(good), 1);
    assert_eq!(asked(Candidate { size: Some((20 << 20) + 1), ..good }), 0);
    assert_eq!(asked(Candidate { size: None, ..good }), 0);
    assert_eq!(asked(Candidate { sha256: &SHA256[1..], ..good }), 0);
    assert_eq!(asked(Candidate { sha256: &SHA256.replace('a', "g"), ..good }), 0);
    assert_eq!(asked(Candidate { record: &record(r#"{"a":null}"#), ..good }), 0);
    let upper = SHA256.to_uppercase();
    let requests = selector.select(&Candidate { sha256: &upper, ..good }, now());
    assert_eq!(requests[0].entity.hash, SHA256);
}

#[test]
fn a_direct_link_goes_out_only_with_its_end() {
    let selector = Selector::new(load(&[("a.yaml", &rule("r", "a"))]), options());
    let mut source = source(SHA256, now());
    source.path[0].action.clear();
    let link = |download_url, last_analysis| {
        let candidate = Candidate {
            record: &record(r#"{"a":1}"#),
            source: &source,
            sha256: SHA256,
            size: Some(1),
            download_url,
            last_analysis,
        };
        let request = selector.select(&candidate, now()).pop().unwrap();
        assert_eq!(request.source.path[0].action, "mapped");
        (request.entity.direct_url, request.entity.direct_expiry)
    };
    let end = now() + SignedDuration::from_hours(168);
    assert_eq!(link(Some("https://x"), Some(now())), ("https://x".into(), Some(end)));
    assert_eq!(link(Some("https://x"), None), (String::new(), None));
    assert_eq!(link(Some(""), Some(now())), (String::new(), None));
    assert_eq!(link(None, Some(now())), (String::new(), None));
    assert_eq!(link(Some("https://x"), Some(Timestamp::MAX)), (String::new(), None));
}

#[test]
fn a_bad_rule_is_named_with_its_file_its_line_and_what_is_wrong() {
    let cases = [
        ("rule: a\n    daily_quota: 1", "has no `syntax`"),
        ("syntax: jq\n    rule: a\n    daily_quota: 1", "has the syntax `jq`"),
        ("syntax: gjson\n    daily_quota: 1", "has no `rule`"),
        ("syntax: gjson\n    rule: a", "has no `daily_quota`"),
        ("syntax: gjson\n    rule: a\n    daily_quota: -1", "has daily_quota -1"),
        ("syntax: gjson\n    rule: a\n    daily_quota: many", "invalid type: string \"many\""),
        ("syntax: gjson\n    rule: a\n    daily_quota: 1\n    quota: 1", "unknown field `quota`"),
        ("syntax: gjson\n    rule: ' ;; '\n    daily_quota: 1", "the rule is empty"),
        ("syntax: gjson\n    rule: 'b;a|@re:\"(\"'\n    daily_quota: 1", "unclosed group"),
    ];
    for (body, wrong) in cases {
        let file = format!("# comment\n{}\n- bad:\n    {body}\n", rule("good", "a"));
        let text = errors(&[("sub/x.yaml", &file)]);
        assert!(text.contains("sub/x.yaml, line 7: rule `bad`"), "{text}");
        assert!(text.contains(wrong), "{text}");
    }
    let twice = rule("r", "a") + &rule("r", "b");
    assert!(errors(&[("x.yaml", &twice)]).contains("line 5: rule `r`: stands twice"));
    let broken = errors(&[("x.yaml", "- a: {\n"), ("y.yaml", "a: 1\n"), ("z.yaml", "- [1]")]);
    assert_eq!(broken.matches("not a YAML list of rules").count(), 3, "{broken}");
    assert!(broken.contains("line 2 column 1"), "{broken}");
}

#[test]
fn leniency_keeps_the_good_rules_and_tells_the_others() {
    let dir = rule_dir(&[
        ("a.yaml", &(rule("good", "a") + &rule("bad", "'a|@re:\"(\"'"))),
        ("b.yaml", "not: [a list"),
        ("c.yaml", "# nothing yet\n"),
        ("d.yml", "- ignored: 1"),
        (".hidden/e.yaml", "- ignored: 1"),
    ]);
    let loaded = RuleSet::load(dir.path(), true).unwrap();
    assert_eq!(loaded.rules.len(), 1);
    assert_eq!(loaded.rules.rules()[0].category, "a/good");
    assert!(matches!(
        &loaded.errors[..],
        [
            RuleError::Rule { problem: RuleProblem::Filter(_), line: Some(5), .. },
            RuleError::NotAList { .. }
        ]
    ));
    assert!(RuleSet::load(dir.path(), false).is_err());
}

#[test]
fn a_directory_that_does_not_exist_holds_no_rules() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = RuleSet::load(&dir.path().join("gone"), false).unwrap();
    assert!(loaded.missing && loaded.rules.is_empty());
    let loaded = RuleSet::load(dir.path(), false).unwrap();
    assert!(!loaded.missing && loaded.rules.is_empty());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(RuleSet::load(&file, false).is_err());
}

#[tokio::test]
async fn rules_follow_their_directory_and_a_broken_set_keeps_the_old_one() {
    let dir = rule_dir(&[("a.yaml", &rule("one", "a"))]);
    let write = |text: &str| fs::write(dir.path().join("a.yaml"), text).unwrap();
    let mut now = Instant::now();
    let source = Box::new(Directory(dir.path().to_owned()));
    let (mut rules, errors, missing) = Rules::open(source, false, now).await.unwrap();
    assert!(errors.is_empty() && !missing);

    write(&(rule("one", "a") + &rule("two", "b")));
    assert!(matches!(rules.refresh(now + CHECK_INTERVAL / 2).await, Refresh::Unchanged));
    assert_eq!(rules.current().len(), 1);
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Reloaded(errors) if errors.is_empty()));
    assert_eq!(rules.current().len(), 2);

    write("- broken: {");
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Broken(errors) if errors.0.len() == 1));
    assert_eq!(rules.current().len(), 2);
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Unchanged));

    fs::remove_dir_all(dir.path()).unwrap();
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Broken(_)));
    assert_eq!(rules.current().len(), 2);

    fs::create_dir(dir.path()).unwrap();
    write(&rule("three", "c"));
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Reloaded(_)));
    assert_eq!(rules.current().rules()[0].category, "a/three");
}

#[tokio::test]
async fn a_directory_that_comes_later_is_read_then() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("rules");
    let mut now = Instant::now();
    let source = Box::new(Directory(root.clone()));
    let (mut rules, _, missing) = Rules::open(source, false, now).await.unwrap();
    assert!(missing);
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Unchanged));
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), rule("one", "a")).unwrap();
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Reloaded(_)));
    assert_eq!(rules.current().len(), 1);
}

#[test]
fn the_example_rules_load_without_warnings_and_select_what_they_say() {
    let dir =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/select_rules/example"));
    let rules = RuleSet::load(dir, false).unwrap().rules;
    for rule in rules.rules() {
        assert!(rule.filter.warnings().is_empty(), "{:?}", rule.filter.warnings());
        assert!(rule.daily_quota > 0 && !rule.reference.is_empty(), "{}", rule.category);
    }
    let hits = |text: &str| -> Vec<(String, bool)> {
        select(rules.clone(), text)
            .into_iter()
            .map(|request| (request.entity.category, request.entity.pcap))
            .collect()
    };
    let cases = [
        (
            r#"{"attributes":{"last_analysis_stats":{"timeout":6}}}"#,
            "verdicts/many_timeouts",
            false,
        ),
        (
            r#"{"attributes":{"last_analysis_stats":{"malicious":2},"times_submitted":1,"size":900}}"#,
            "verdicts/new_and_barely_detected",
            false,
        ),
        (
            r#"{"attributes":{"type_tags":["office"],"tags":["docx","macros","auto-open"]}}"#,
            "documents/office_macros",
            false,
        ),
        (
            r#"{"attributes":{"last_analysis_stats":{"malicious":12},"type_tag":"peexe","signature_info":{"verified":"Signed"}}}"#,
            "executables/signed_and_detected",
            false,
        ),
        (
            r#"{"attributes":{"pe_info":{"sections":[{"name":"UPX0","entropy":7.9},{"name":".text","entropy":7.6}]}}}"#,
            "executables/packed_code",
            false,
        ),
        (
            r#"{"attributes":{"last_analysis_results":{"X":{"result":"Backdoor.TURLA.a"}}}}"#,
            "actors/names_in_verdicts",
            true,
        ),
        (
            r#"{"attributes":{"crowdsourced_yara_results":[{"rule_name":"APT28_loader"}]}}"#,
            "actors/names_in_yara_rules",
            true,
        ),
        (
            r#"{"attributes":{"sandbox_verdicts":{"Zenbox":{"category":"malicious","malware_names":["Lumma"]}}}}"#,
            "network/named_by_a_sandbox",
            true,
        ),
    ];
    for (text, category, pcap) in &cases {
        assert_eq!(hits(text), [((*category).to_owned(), *pcap)], "{text}");
    }
    assert_eq!(cases.len(), rules.len());
    assert!(
        hits(r#"{"attributes":{"last_analysis_stats":{"timeout":5,"malicious":0}}}"#).is_empty()
    );
}
