//! Checks that documents name only files, headings and commands that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Collects the Markdown files below a directory, without those that a build or a tool leaves.
fn markdown_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                markdown_below(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

fn all_documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    markdown_below(&root(), &mut found);
    found.sort();
    found
}

/// Returns the text without its fenced blocks, and those blocks without the rest.
fn split(text: &str) -> (String, String) {
    let (mut prose, mut fenced) = (String::new(), String::new());
    let mut is_prose = true;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_prose = !is_prose;
            continue;
        }
        let part = if is_prose { &mut prose } else { &mut fenced };
        part.push_str(line);
        part.push('\n');
    }
    (prose, fenced)
}

fn prose(text: &str) -> String {
    split(text).0
}

/// Returns the anchors of a document's headings, as GitHub makes them: of equal ones the second ends in `-1`.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::new();
    let mut found = BTreeSet::new();
    for line in prose(text).lines() {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let slug = kept.collect::<String>().replace(' ', "-");
        let times = seen.entry(slug.clone()).and_modify(|times| *times += 1).or_insert(0);
        found.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
    }
    found
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_that_exist() {
    let link = Regex::new(r"\]\(([^()\s]+)\)").unwrap();
    let mut count = 0;
    for document in all_documents() {
        let text = fs::read_to_string(&document).unwrap();
        for found in link.captures_iter(&prose(&text)) {
            let target = &found[1];
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(path)
            };
            assert!(file.exists(), "{}: {target} does not exist", document.display());
            if !anchor.is_empty() {
                let known = anchors(&fs::read_to_string(&file).unwrap());
                assert!(
                    known.contains(anchor),
                    "{}: {target} is none of {known:?}",
                    document.display()
                );
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn every_path_that_a_document_names_exists() {
    let root = root();
    let folders: BTreeSet<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "target" && name != ".git")
        .collect();
    let is_path = Regex::new(r"^[\w./-]+$").unwrap();
    let mut count = 0;
    for document in all_documents() {
        let place = document.strip_prefix(&root).unwrap();
        let is_checked = place.starts_with("docs")
            || ["README.md", "CONTRIBUTING.md", "SECURITY.md"].iter().any(|name| place == *name);
        if !is_checked {
            continue;
        }
        let text = prose(&fs::read_to_string(&document).unwrap());
        for named in text.split('`').skip(1).step_by(2).filter(|word| is_path.is_match(word)) {
            let Some((first, _)) = named.split_once('/') else { continue };
            if folders.contains(first) {
                assert!(root.join(named).exists(), "{}: no {named}", place.display());
                count += 1;
            }
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}

/// Returns the targets of the Makefile.
fn targets() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("Makefile")).unwrap();
    let target = Regex::new(r"(?m)^([a-z][a-z-]*):").unwrap();
    target.captures_iter(&text).map(|found| found[1].to_owned()).collect()
}

/// Returns the calls of `make` in a script, a line each, without comments.
fn calls_of_make(script: &str) -> impl Iterator<Item = String> {
    let lines = script.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    lines.filter(|line| line.split(' ').any(|word| word == "make")).map(str::to_owned)
}

/// Returns the targets that a call of `make` names.
fn targets_of(call: &str) -> impl Iterator<Item = &str> {
    let after = call.split(' ').skip_while(|word| *word != "make").skip(1);
    after.filter(|word| !word.contains('=') && !word.starts_with('-'))
}

/// Collects the scripts of a workflow: every text under a key `run`.
fn scripts(value: &serde_yaml::Value, found: &mut Vec<String>) {
    match value {
        serde_yaml::Value::Mapping(members) => {
            for (key, member) in members {
                match member.as_str() {
                    Some(text) if key.as_str() == Some("run") => found.push(text.to_owned()),
                    _ => scripts(member, found),
                }
            }
        }
        serde_yaml::Value::Sequence(items) => {
            for item in items {
                scripts(item, found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_workflow_of_ci_runs_every_stage_and_only_targets_that_exist() {
    let targets = targets();
    let text = fs::read_to_string(root().join(".github/workflows/ci.yaml")).unwrap();
    let workflow: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let started_by = workflow["on"].as_mapping().unwrap();
    assert!(started_by.contains_key("push") && started_by.contains_key("pull_request"));
    let mut found = Vec::new();
    scripts(&workflow, &mut found);
    let mut calls: BTreeSet<String> =
        found.iter().flat_map(|script| calls_of_make(script)).collect();
    for call in &calls {
        for target in targets_of(call) {
            assert!(targets.contains(target), "`{call}`: the Makefile has no {target}");
        }
    }
    let stages = fs::read_to_string(root().join(".ci/run")).unwrap();
    let stages: BTreeSet<String> = calls_of_make(&stages).collect();
    // The database of advisories is on GitHub, which a machine that runs .ci/run may not reach.
    assert!(calls.remove("make advisories"));
    assert_eq!(calls, stages);
    assert!(stages.len() > 5, "{stages:?}");
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let targets = targets();
    let in_prose = Regex::new(r"`make ((?:[a-z][a-z-]* ?)+)").unwrap();
    let at_a_start = Regex::new(r"(?m)^\s*make ((?:[a-z][a-z-]* ?)+)").unwrap();
    let mut count = 0;
    for document in all_documents() {
        let (prose, fenced) = split(&fs::read_to_string(&document).unwrap());
        let named = in_prose.captures_iter(&prose).chain(at_a_start.captures_iter(&fenced));
        for target in named
            .flat_map(|found| found[1].split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        {
            assert!(targets.contains(&target), "{}: make {target}", document.display());
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}
