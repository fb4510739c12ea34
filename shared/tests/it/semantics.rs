//! Checks that the tests that docs/semantics.md names exist, and that every fault has one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Collects the names of the tests below a directory: each function right behind a test attribute, and the cases of the
/// suite for stores, which its macro lists, one a line.
fn tests_below(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                tests_below(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            if path.ends_with("it/store_suite.rs") {
                found.extend(
                    text.lines().map(str::trim).filter(|line| is_name(line)).map(String::from),
                );
            }
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                let name = line.trim_start_matches("async ").strip_prefix("fn ");
                if let Some((name, _)) = name.and_then(|rest| rest.split_once('(')) {
                    if is_test {
                        found.insert(name.to_owned());
                    }
                    is_test = false;
                }
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            }
        }
    }
}

/// Whether a word has the form of the name of a test: at least four words, joined by `_`.
fn is_name(word: &str) -> bool {
    word.matches('_').count() >= 3
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Returns the words in backticks that have the form of the name of a test.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|word| is_name(word))
}

#[test]
fn every_test_that_semantics_md_names_exists() {
    let mut tests = BTreeSet::new();
    for part in ["shared", "functions", "testdata"] {
        tests_below(&root().join(part), &mut tests);
    }
    let text = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let missing: Vec<&str> = names(&text).filter(|name| !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    assert!(names(&text).count() > 50);
}

#[test]
fn every_fault_and_every_answer_in_semantics_md_names_a_test() {
    let text = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let mut held = false;
    let mut rows = 0;
    for line in text.lines() {
        if !line.starts_with('|') {
            held = false;
        } else if line.ends_with("| held by |") {
            held = true;
        } else if held && !line.starts_with("|---") {
            assert!(names(line).next().is_some(), "{line}");
            rows += 1;
        }
    }
    assert!(rows > 30, "{rows}");
}
