//! The crates below `shared/` depend on each other in one direction, and the pure ones on no SDK, database or network.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// The pure crates, lowest first, each with those of the workspace that it may depend on.
const PURE: [(&str, &[&str]); 6] = [
    ("base", &[]),
    ("json", &[]),
    ("bundle", &[]),
    ("azul", &["base", "json"]),
    ("mapping", &["azul", "base", "json"]),
    ("rules", &["azul", "base", "json", "mapping"]),
];

/// Parts of names of crates that no pure crate may depend on, not even through others.
const IMPURE: [&str; 7] =
    ["aws-", "hyper", "lambda_", "reqwest", "rusqlite", "rustls", "libsqlite3-sys"];

/// Returns the crates that a crate is built with, by name: those that it names, and theirs. Those of tests do not count.
fn dependencies(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    let name_of = |package: &Value| package["name"].as_str().unwrap().to_owned();
    let names: BTreeMap<&str, String> = (metadata["packages"].as_array().unwrap().iter())
        .map(|package| (package["id"].as_str().unwrap(), name_of(package)))
        .collect();
    let is_normal = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().unwrap();
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    let named = |node: &Value| -> Vec<String> {
        let all = node["deps"].as_array().unwrap().iter().filter(is_normal);
        all.map(|dependency| names[dependency["pkg"].as_str().unwrap()].clone()).collect()
    };
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let direct: BTreeMap<String, Vec<String>> = nodes
        .iter()
        .map(|node| (names[node["id"].as_str().unwrap()].clone(), named(node)))
        .collect();
    let mut whole = BTreeMap::new();
    for (krate, _) in PURE {
        let (mut found, mut next) = (Vec::new(), vec![krate.to_owned()]);
        while let Some(name) = next.pop() {
            for other in &direct[&name] {
                if !found.contains(other) {
                    found.push(other.clone());
                    next.push(other.clone());
                }
            }
        }
        whole.insert(krate.to_owned(), found);
    }
    whole
}

#[test]
fn pure_crates_depend_only_on_those_below_them_and_on_nothing_that_does_io() {
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let members: Vec<&str> = (metadata["workspace_members"].as_array().unwrap().iter())
        .map(|member| member.as_str().unwrap())
        .collect();
    let ours: Vec<String> = (metadata["packages"].as_array().unwrap().iter())
        .filter(|package| members.contains(&package["id"].as_str().unwrap()))
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect();
    let found = dependencies(&metadata);
    for (krate, allowed) in PURE {
        for name in &found[krate] {
            assert!(
                !ours.contains(name) || allowed.contains(&name.as_str()),
                "{krate} depends on {name}, which is not below it"
            );
            assert!(
                !IMPURE.iter().any(|part| name.starts_with(part)),
                "{krate} is pure and depends on {name}"
            );
        }
    }
}
