use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::PathBuf,
};

use bzip2::read::MultiBzDecoder;
use serde_json::Value;
use sim::feed::{self, Style};

/// The coordinates of the committed samples; `UPDATE_SAMPLES=1 cargo test -p sim` writes them anew.
const SEED: u64 = 1;
const MINUTE: &str = "202601020304";

/// Every group of attributes that the mapping reads.
const GROUPS: [&str; 38] = [
    "tlsh",
    "magic",
    "ssdeep",
    "type_tag",
    "tags",
    "sandbox_verdicts",
    "last_analysis_results",
    "last_analysis_stats",
    "authentihash",
    "bundle_info",
    "crowdsourced_ids_stats",
    "password_info",
    "signature_info",
    "sigma_analysis_stats",
    "isoimage_info",
    "deb_info",
    "exiftool",
    "androguard",
    "elf_info",
    "pe_info",
    "known_distributors",
    "class_info",
    "detectiteasy",
    "dot_net_assembly",
    "dot_net_guids",
    "jar_info",
    "lnk_info",
    "office_info",
    "pdf_info",
    "powershell_info",
    "rtf_info",
    "sigma_analysis_results",
    "snort",
    "suricata",
    "swf_info",
    "vba_info",
    "size",
    "magika",
];

fn sample(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../feed").join(name)
}

fn records(seed: u64, minute: &str, n: u64, style: Style) -> Vec<Value> {
    let lines = feed::lines(seed, minute, n, style);
    lines
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn the_committed_samples_are_what_the_generator_makes() {
    let lines = feed::lines(SEED, MINUTE, 32, Style::Small);
    let bundle = feed::bundle(SEED, MINUTE, 12, Style::Real);
    if std::env::var_os("UPDATE_SAMPLES").is_some() {
        std::fs::write(sample("records.jsonl"), &lines).unwrap();
        std::fs::write(sample("sample.json.bz2"), &bundle).unwrap();
    }
    assert!(std::fs::read(sample("records.jsonl")).unwrap() == lines, "records.jsonl differs");
    let mut text = Vec::new();
    let packed = std::fs::read(sample("sample.json.bz2")).unwrap();
    MultiBzDecoder::new(&packed[..]).read_to_end(&mut text).unwrap();
    assert!(text == feed::lines(SEED, MINUTE, 12, Style::Real), "sample.json.bz2 differs");
}

#[test]
fn thirty_two_records_hold_every_group_of_attributes() {
    for style in [Style::Real, Style::Small] {
        for seed in [1, 2, 3] {
            let all = records(seed, MINUTE, 32, style);
            for group in GROUPS {
                let held = all.iter().any(|r| r["attributes"].get(group).is_some());
                assert!(held, "{group} is nowhere in seed {seed}, {style:?}");
            }
        }
    }
}

#[test]
fn sizes_are_skewed_as_in_the_real_feed() {
    let sizes: Vec<usize> =
        (0..2000).map(|i| feed::record(7, MINUTE, i, Style::Real).len()).collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((25_000..30_000).contains(&mean), "mean {mean}");
    assert!(*sizes.iter().min().unwrap() < 3_000);
    assert!((200_000..1_100_000).contains(sizes.iter().max().unwrap()));
    for i in 0..64 {
        let small = feed::record(7, MINUTE, i, Style::Small).len();
        assert!((1_000..15_000).contains(&small), "record {i}: {small}");
    }
}

#[test]
fn hashes_are_unique_and_announced() {
    let mut seen = BTreeSet::new();
    for minute in ["202601020304", "202601020305"] {
        for (index, record) in (0..).zip(records(1, minute, 100, Style::Small)) {
            let sha256 = feed::sha256(1, minute, index);
            assert_eq!(record["id"], Value::from(sha256.clone()));
            if let Some(own) = record["attributes"].get("sha256") {
                assert_eq!(*own, Value::from(sha256.clone()));
            }
            assert!(seen.insert(sha256));
        }
    }
}

#[test]
fn submitters_come_in_all_their_variants_and_times_lie_in_the_minute() {
    let all = records(1, MINUTE, 64, Style::Small);
    let mut variants: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &all {
        let submitter = &record["context_attributes"]["submitter"];
        let variant = match (submitter.is_null(), &submitter["city"], &submitter["country"]) {
            (true, ..) => "none",
            (_, _, country) if country == "XX" => "unknown country",
            (_, city, _) if city == "?" => "unknown city",
            (_, city, _) if city == "" => "empty city",
            _ => "full",
        };
        *variants.entry(variant).or_default() += 1;
        assert!(record["context_attributes"]["download_url"].is_string());
        let analysed = record["attributes"]["last_analysis_date"].as_i64().unwrap();
        assert!((1_767_323_040..1_767_323_100).contains(&analysed), "{analysed}");
    }
    assert_eq!(variants.len(), 5, "{variants:?}");
}

#[test]
fn inputs_of_the_triggers_are_json_and_name_no_real_account() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../events");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let event: Value = serde_json::from_str(&text).unwrap();
        let accounts = [event.pointer("/account"), event.pointer("/requestContext/accountId")];
        for account in accounts.into_iter().flatten() {
            assert_eq!(account, "123456789012");
        }
        count += 1;
    }
    assert!(count >= 10, "{count}");
}
