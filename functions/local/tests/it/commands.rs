//! Commands that need no server.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use sim::feed::Style;

pub(crate) const NOW: &str = "2026-11-24T09:30:00Z";
pub(crate) const MINUTE: &str = "202611240900";

/// `vt` with an empty environment.
pub(crate) fn vt(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vt"));
    command.args(args).env_clear();
    command
}

pub(crate) fn run(args: &[&str], input: &[u8]) -> Output {
    let pipe = Stdio::piped;
    let mut child = vt(args).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A command that stops reading early closes its input.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Reads a document of the repository, named by its path there.
pub(crate) fn document(path: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    std::fs::read_to_string(format!("{root}{path}")).unwrap()
}

#[test]
fn settings_md_lists_the_settings_that_there_are_with_their_defaults() {
    let shown = run(&["settings", "--json"], b"").stdout;
    let shown: Vec<serde_json::Value> = serde_json::from_slice(&shown).unwrap();
    let text = document("docs/settings.md");
    let section = text.split_once("\n## All settings\n").unwrap().1;
    let section = section.split_once("\n## ").unwrap().0;
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut listed = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.split(" | ");
        let names = quoted(cells.next().unwrap());
        let default = cells.next().unwrap();
        for name in names {
            if let Some(setting) = shown.iter().find(|setting| setting["name"] == *name) {
                let value = setting["value"].as_str().unwrap();
                let same =
                    if value == "none" { default == "none" } else { quoted(default)[0] == value };
                assert!(same, "{name}: {value} is not {default}");
            }
            listed.push(name);
        }
    }
    for setting in &shown {
        let name = setting["name"].as_str().unwrap();
        assert!(listed.iter().any(|listed| listed == name), "{name} is not in docs/settings.md");
    }
    // Every other name in the table must be a known alias.
    let aliases = ["VIRUSTOTAL_APISERVER", "ALL_PROXY"];
    for name in listed.iter().filter(|name| **name == name.to_uppercase()) {
        let known = shown.iter().any(|setting| setting["name"] == **name);
        assert!(known || aliases.contains(&name.as_str()), "{name} is no setting");
    }
}

#[test]
fn map_gives_a_line_for_each_record_numbered_as_in_the_input() {
    let mut input = sim::feed::lines(3, MINUTE, 2, Style::Small);
    input.extend_from_slice(b"\n{}\n");
    let output = run(&["map", "-", "--now", NOW], &input);
    assert!(output.status.success());
    let rows: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers: Vec<_> = rows.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 4]);
    assert_eq!(rows[0]["events"].as_array().unwrap().len(), 1);
    assert!(rows[2]["rejected"].is_string());
}

#[test]
fn the_same_input_gives_the_same_bytes_on_any_number_of_threads() {
    let input = sim::feed::bundle(3, MINUTE, 400, Style::Small);
    for format in ["avro", "json"] {
        let args = |threads| ["map", "-", "--now", NOW, "--format", format, "--threads", threads];
        let one = run(&args("1"), &input);
        assert!(one.status.success() && one.stdout.len() > 100_000);
        for threads in ["1", "2", "5"] {
            assert_eq!(run(&args(threads), &input).stdout, one.stdout, "{format} {threads}");
        }
    }
}

#[test]
fn an_undecodable_bundle_prints_what_came_before_and_fails() {
    let bundle = sim::feed::bundle(3, MINUTE, 400, Style::Small);
    let output = run(&["map", "-", "--now", NOW], &bundle[..bundle.len() - 4]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.split(|b| *b == b'\n').count() > 100);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cut off") && error.lines().count() == 1, "{error}");
}

#[test]
fn usage_errors_exit_with_two() {
    for args in [
        &["map", "/no/such/file"][..],
        &["map", "-", "--handlers", "Nonsense"],
        &["map", "-", "--model-version", "4"],
        &["rules", "match", "a|@re:\"(\"", "-"],
        &["rules", "match", " ; ", "-"],
        &["load", "--from", "202611240901", "--to", "202611240900"],
        &["rules", "check", "/no/such/folder"],
        &["nonsense"],
    ] {
        let output = run(args, b"{}\n");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_rule_is_tried_on_records() {
    let input = b"{\"attributes\":{\"size\":3}}\n\n{\"attributes\":{\"size\":9}}\n";
    let output = run(&["rules", "match", "attributes.size|@gt:5", "-"], input);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "false\ntrue\n");
}

#[test]
fn a_rule_that_can_hardly_be_meant_is_warned_of_and_works_as_in_gjson() {
    let output = run(&["rules", "match", "type|@nonsense:1", "-"], b"{\"type\":\"file\"}\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"false\n");
    let warning = "there is no modifier `@nonsense`";
    assert!(String::from_utf8(output.stderr).unwrap().contains(warning));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.yaml");
    let rule = |text: &str| format!("- odd: {{syntax: gjson, rule: '{text}', daily_quota: 1}}\n");
    std::fs::write(&file, rule("type|@nonsense:1")).unwrap();
    let check = || run(&["rules", "check", dir.path().to_str().unwrap()], b"");
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("rule mine/odd") && said(&output).contains(warning));
    std::fs::write(&file, rule("type|@re:\"(\"")).unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("mine.yaml") && said(&output).contains("odd"));
}

#[test]
fn every_command_has_help_with_examples() {
    for command in [
        "",
        "load",
        "retry",
        "ingest",
        "tload",
        "map",
        "select",
        "rules",
        "rules check",
        "rules match",
        "settings",
        "status",
        "doctor",
        "rejects",
        "rejects list",
        "rejects show",
        "rejects retry",
        "aws",
        "aws init",
    ] {
        for help in ["-h", "--help"] {
            let args: Vec<&str> = command.split_whitespace().chain([help]).collect();
            let output = run(&args, b"");
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && text.contains("Examples:"), "{command}: {text}");
            assert!(!text.contains('\u{1b}'), "colours into a pipe: {command}");
        }
    }
    let version = String::from_utf8(run(&["--version"], b"").stdout).unwrap();
    assert_eq!(version, format!("vt {}\n", env!("CARGO_PKG_VERSION")));
}
