//! Compares the output of the dry runs to the letter.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::Stdio,
};

use azul_vt::azul::avro;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sim::feed::Style;
use testkit::corpus;

use crate::{
    commands::{MINUTE, NOW, run, vt},
    running::output,
    served::Stage,
};

fn rows(stdout: &[u8]) -> Vec<Value> {
    let text = str::from_utf8(stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn testdata(path: &str) -> String {
    format!("{}/../../testdata/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// The messages of `--format avro`.
fn messages(mut stdout: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = stdout.split_first_chunk::<4>() {
        let (message, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        messages.push(message.to_vec());
        stdout = rest;
    }
    assert!(stdout.is_empty());
    messages
}

#[test]
fn a_line_has_four_keys_in_order_and_events_filtered_or_rejected() {
    let input = concat!(
        r#"{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","attributes":{"last_analysis_date":1795512600}}"#,
        "\n \t\r\n",
        r#"{"id":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","attributes":{"last_analysis_date":1}}"#,
        "\r\n[1]\nnot json"
    );
    let output = run(&["map", "-", "--now", NOW], input.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(
        r#"{"line":1,"events":[{"model_version":6,"kafka_key":"","timestamp":"2026-11-24T09:30:00Z","author":{"name":"VirustotalFileFeed","version":""#
    ));
    assert!(lines[0].ends_with(r#"],"filtered":null,"rejected":null}"#));
    assert_eq!(
        lines[1],
        r#"{"line":3,"events":[],"filtered":"last analysed 1970-01-01T00:00:01Z, more than 72 h ago","rejected":null}"#
    );
    assert_eq!(
        lines[2],
        r#"{"line":4,"events":[],"filtered":null,"rejected":"the record is a list, not a JSON object"}"#
    );
    assert!(lines[3].starts_with(r#"{"line":5,"events":[],"filtered":null,"rejected":"#));
    assert_eq!(lines.len(), 4);
}

#[test]
fn age_counts_from_now_and_minus_one_is_no_limit() {
    let input = br#"{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","attributes":{"last_analysis_date":1795512600}}"#;
    let events = |args: &[&str], env: &[(&str, &str)]| {
        let mut all = vec!["map", "-"];
        all.extend_from_slice(args);
        let mut child = vt(&all)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        rows(&child.wait_with_output().unwrap().stdout)[0]["events"].as_array().unwrap().len()
    };
    let late = "2026-11-28T09:30:00Z";
    assert_eq!(events(&["--now", NOW], &[]), 1);
    assert_eq!(events(&["--now", late], &[]), 0);
    assert_eq!(events(&["--now", late, "--max-age-hours", "-1"], &[]), 1);
    assert_eq!(events(&["--now", late, "--max-age-hours=-1"], &[]), 1);
    assert_eq!(events(&["--now", late, "--max-age-hours", "200"], &[]), 1);
    assert_eq!(events(&["--now", late], &[("DISPATCHER_MAX_AGE_HOURS", "-1")]), 1);
}

#[test]
fn plain_and_compressed_files_and_standard_input_give_the_same() {
    let sample = testdata("feed/sample.json.bz2");
    let plain = {
        let mut plain = Vec::new();
        bzip2(&fs::read(&sample).unwrap()).read_to_end(&mut plain).unwrap();
        plain
    };
    let from_file = vt(&["map", &sample, "--max-age-hours", "-1", "--now", NOW]).output().unwrap();
    assert!(from_file.status.success());
    assert!(rows(&from_file.stdout).len() > 5);
    let args = ["map", "--max-age-hours", "-1", "--now", NOW, "-"];
    assert_eq!(run(&args, &fs::read(&sample).unwrap()).stdout, from_file.stdout);
    assert_eq!(run(&args, &plain).stdout, from_file.stdout);
}

fn bzip2(bytes: &[u8]) -> impl std::io::Read {
    // The expected text comes from the project's own decoder, because this test is of the command and not of the
    // decompressor.
    let caps = azul_vt::bundle::Caps { max_bundle_bytes: 1 << 30, max_line_bytes: 1 << 25 };
    let mut plain = Vec::new();
    let taken = azul_vt::bundle::map_lines(
        bytes,
        caps,
        1,
        |_, line| [line, b"\n"].concat(),
        |line| {
            plain.extend(line);
            Ok::<_, std::convert::Infallible>(())
        },
    );
    taken.unwrap();
    std::io::Cursor::new(plain)
}

#[test]
fn avro_holds_the_events_of_json_in_batches_of_at_most_fifty() {
    let input = sim::feed::lines(3, MINUTE, 120, Style::Small);
    for version in ["5", "6"] {
        let args =
            |format| ["map", "-", "--now", NOW, "--model-version", version, "--format", format];
        let json = run(&args("json"), &input);
        let avro = run(&args("avro"), &input);
        assert!(avro.status.success());
        let expected: Vec<Value> =
            rows(&json.stdout).into_iter().map(|row| row["events"][0].clone()).collect();
        let (mut events, mut sizes) = (Vec::new(), Vec::new());
        for message in messages(&avro.stdout) {
            let decoded = avro::decode_binary_bulk(&message).unwrap();
            sizes.push(decoded.len());
            events.extend(decoded.iter().map(|event| serde_json::to_value(event).unwrap()));
        }
        assert_eq!(sizes, [50, 50, 20]);
        assert_eq!(events, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_is_byte_for_byte_what_a_load_posts() {
    const RECORDS: u64 = 230;
    let stage = Stage::new().await;
    stage.generate(RECORDS);
    let mut load = stage.vt(&["load"]);
    load.env("FEED_BACKLOG_HOURS", "1").env("PACKAGE_LIMIT", "1");
    let loaded = output(load).await;
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let status = output(stage.vt(&["status", "--json"])).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let arrived = stage.dispatcher.arrived();
    let now = arrived.keys().values().next().unwrap()["timestamp"].as_str().unwrap().to_owned();
    let minute = status["cursor"].as_str().unwrap();
    let bundle = sim::feed::bundle(5, minute, RECORDS, Style::Small);
    let mapped = run(&["map", "-", "--now", &now, "--format", "avro"], &bundle);
    let hash = |message: &Vec<u8>| hex::encode(Sha256::digest(message));
    let mut expected: Vec<String> = messages(&mapped.stdout).iter().map(hash).collect();
    let posts = stage.dispatcher.posts();
    let mut posted: Vec<String> =
        posts.into_iter().filter(|post| post.model == "binary").map(|post| post.sha256).collect();
    assert_eq!(posted.len(), 5);
    // A few posts are in flight at once.
    expected.sort();
    posted.sort();
    assert_eq!(posted, expected);
}

#[test]
fn avro_leaves_no_word_of_what_it_lacks_out() {
    let input = format!("7\n{{\"id\":\"{}\"}}\n", "a".repeat(64));
    let output = run(&["map", "-", "--now", NOW, "--format", "avro"], input.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("line 1: rejected: ") && said.contains("1 records filtered, 1 rejected"));
}

#[test]
fn an_event_over_the_limit_is_printed_as_it_would_be_posted() {
    let input = sim::feed::lines(3, MINUTE, 1, Style::Small);
    let mut child = vt(&["map", "-", "--now", NOW, "--handlers", "all"])
        .env("MAX_EVENT_BYTES", "4096")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    let row = &rows(&output.stdout)[0];
    let features = row["events"][0]["entity"]["features"].as_array().unwrap();
    assert_eq!(features.last().unwrap()["name"], "features_truncated", "{row}");
}

#[test]
fn a_report_goes_on_from_the_input_event() {
    let dir = tempfile::tempdir().unwrap();
    let event = dir.path().join("event.json");
    let author = json!({"name": "p"});
    let node = json!({"author": author, "action": "sourced", "sha256": "aa", "timestamp": "2024-01-01T00:00:00Z", "size": 7});
    let source = json!({"name": "samples", "path": [node], "timestamp": "2024-01-02T00:00:00Z"});
    let mut input = json!({"model_version": 6, "kafka_key": "k", "timestamp": NOW, "author": author,
        "source": source, "entity": {"sha256": "aa"}, "action": "sourced"});
    fs::write(&event, input.to_string()).unwrap();
    let args = |event: &str| {
        ["map", "--report", "--input", event, "--now", NOW, "-"].map(str::to_owned).to_vec()
    };
    let sha256 = "aa".repeat(32);
    let lines = format!(
        "{{\"data\":{{\"id\":\"{sha256}\",\"attributes\":{{}}}}}}\n{{\"id\":\"{sha256}\"}}\n"
    );
    let map = |args: &[String]| {
        run(&args.iter().map(String::as_str).collect::<Vec<_>>(), lines.as_bytes())
    };
    let args = args(event.to_str().unwrap());
    let output = map(&args);
    for row in rows(&output.stdout) {
        let source = &row["events"][0]["source"];
        assert_eq!(source["name"], "samples");
        assert_eq!(source["path"][1]["action"], "mapped");
        assert_eq!(source["path"][1]["author"]["name"], "VirustotalFileFeed");
        assert_eq!(source["path"][1]["timestamp"], "2024-01-02T00:00:00Z");
        assert_eq!(source["path"][1]["size"], 7);
    }
    input["source"]["path"] = json!([]);
    fs::write(&event, input.to_string()).unwrap();
    assert_eq!(map(&args).status.code(), Some(2));
    fs::write(&event, "{}").unwrap();
    let output = map(&args);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("event.json"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("many.jsonl");
    fs::write(&file, "{\"id\":\"a\"}\n".repeat(200_000)).unwrap();
    for threads in ["1", "3"] {
        let mut child = vt(&["map", "--threads", threads, file.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut start = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut start).unwrap();
        // The pipe is closed by now.
        let output = child.wait_with_output().unwrap();
        assert_eq!(&start, b"{\"line\":1,");
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    }
}

#[test]
fn select_prints_a_request_for_each_rule_that_hits() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "- big: {syntax: gjson, rule: 'attributes.size|@gt:5', daily_quota: 10}\n\
                 - all: {syntax: gjson, rule: id, daily_quota: 2, collect_pcap: true}\n";
    fs::write(dir.path().join("mine.yaml"), rules).unwrap();
    let record = |byte: &str, size: u32| {
        let id = byte.repeat(32);
        json!({"id": id, "attributes": {"size": size}}).to_string()
    };
    let input = [record("aa", 3), record("bb", 9), String::new(), "7".to_owned()].join("\n");
    let args = ["select", "--rules", dir.path().to_str().unwrap(), "--now", NOW, "-"];
    let output = run(&args, input.as_bytes());
    assert!(output.status.success());
    let rows = rows(&output.stdout);
    let categories = |row: &Value| {
        let events = row["events"].as_array().unwrap();
        events.iter().map(|e| e["entity"]["category"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(categories(&rows[0]), ["mine/all"]);
    assert_eq!(categories(&rows[1]), ["mine/big", "mine/all"]);
    assert_eq!(rows[1]["events"][1]["action"], "requested");
    assert_eq!((&rows[2]["line"], rows[2]["rejected"].is_string()), (&json!(4), true));
}

#[test]
fn a_bad_rule_is_named_with_its_file_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = "- good: {syntax: gjson, rule: id, daily_quota: 1}\n";
    fs::write(dir.path().join("mine.yaml"), format!("{good}- bad: {{syntax: gjson, rule: id}}\n"))
        .unwrap();
    let path = dir.path().to_str().unwrap();
    for args in [&["rules", "check", path][..], &["select", "--rules", path, "-"]] {
        let output = run(args, b"{}\n");
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("mine.yaml") && said.contains("`bad`") && said.contains("daily_quota")
        );
        assert_eq!(said.lines().count(), 1);
    }
    fs::write(dir.path().join("mine.yaml"), good).unwrap();
    let output = run(&["rules", "check", path], b"");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "mine/good  at most 1 a day\n1 rule is good\n"
    );
    let example = testdata("select_rules/example");
    assert!(vt(&["rules", "check", &example]).output().unwrap().status.success());
}

#[test]
fn a_rule_may_begin_with_a_hyphen_and_lines_that_are_no_json_never_match() {
    let input = b"{\"-a\":1}\n{\"-a\":1\nnull\n";
    for args in [&["rules", "match", "--", "-a", "-"][..], &["rules", "match", "-a", "-"]] {
        let output = run(args, input);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "true\nfalse\nfalse\n", "{args:?}");
    }
}

#[test]
fn settings_show_their_source_and_no_secret() {
    let output = vt(&["settings", "--json"])
        .env("VIRUSTOTAL_APIKEY", "canary")
        .env("STATEDIR", "")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("canary"));
    let shown: Vec<Value> = serde_json::from_str(&text).unwrap();
    let of = |name: &str| shown.iter().find(|s| s["name"] == name).unwrap();
    let key = json!({"name": "VIRUSTOTAL_APIKEY", "value": "***", "source": "environment"});
    assert_eq!(of("VIRUSTOTAL_APIKEY"), &key);
    assert_eq!(of("STATEDIR")["source"], "default");
    let output = vt(&["settings"]).env("PACKAGE_LIMIT", "many").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("vt: PACKAGE_LIMIT=many: "));
}

#[test]
fn the_corpus_rules_match_through_the_command() {
    let (Some(rules), Some(records)) =
        (corpus::path("expected/rules.jsonl"), corpus::path("records/feed.jsonl"))
    else {
        return;
    };
    let rules = fs::read(rules).unwrap();
    // The library's tests compare every rule. A few here show that the command adds nothing of its own.
    for rule in rows(&rules).iter().step_by(6) {
        let text = rule["rule"].as_str().unwrap();
        let output =
            vt(&["rules", "match", "--", text, records.to_str().unwrap()]).output().unwrap();
        if output.status.code() == Some(2) {
            // The command refuses an empty rule and a bad regular expression.
            continue;
        }
        let said = String::from_utf8(output.stdout).unwrap();
        let matched: Vec<String> = said
            .lines()
            .enumerate()
            .filter(|(_, line)| *line == "true")
            .map(|(n, _)| format!("feed:{}", n + 1))
            .collect();
        let expected: Vec<&str> = rule["matches"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| name.starts_with("feed:"))
            .collect();
        assert_eq!(matched, expected, "{text}");
    }
}

#[test]
fn the_corpus_requests_come_out_of_select() {
    let (Some(expected), Some(records)) =
        (corpus::path("expected/feed.downloads.jsonl"), corpus::path("records/feed.jsonl"))
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let rule = "- any_av_timeout: {syntax: gjson, rule: \"attributes.last_analysis_stats.timeout|@gt:5\", daily_quota: 10}\n";
    fs::write(dir.path().join("basicv3.yaml"), rule).unwrap();
    let rules = dir.path().to_str().unwrap();
    let output = vt(&["select", "--rules", rules, records.to_str().unwrap()]).output().unwrap();
    let entities = |bytes: &[u8]| -> Vec<(Value, Vec<Value>)> {
        let of = |row: &Value| {
            let events = row["events"].as_array().cloned().unwrap_or_default();
            let entities = events.iter().map(|event| {
                let mut entity = event["entity"].clone();
                // The link's expiry differs: `vt` sets it seven days ahead, and the expected output has 24 hours.
                entity.as_object_mut().unwrap().remove("direct_expiry");
                entity
            });
            (row["line"].clone(), entities.collect())
        };
        rows(bytes).iter().map(of).collect()
    };
    assert_eq!(entities(&output.stdout), entities(&fs::read(expected).unwrap()));
}

#[test]
fn a_report_over_many_lines_is_one_record() {
    let sha256 = "aa".repeat(32);
    let report = format!(
        "{{\n  \"data\": {{\r\n    \"id\": \"{sha256}\",\n    \"attributes\": {{}}\n  }}\n}}\n"
    );
    let output = run(&["map", "--report", "--now", NOW, "-"], report.as_bytes());
    let rows = rows(&output.stdout);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["events"][0]["entity"]["sha256"], sha256);
}
