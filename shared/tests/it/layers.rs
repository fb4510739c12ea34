//! The crates below `shared/` depend on each other in one direction, and the pure ones on no SDK, database or network.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// All programs and libraries of the workspace, lowest first. A crate may depend only on those before it.
const LAYERS: [&str; 18] = [
    "base",
    "json",
    "parallel-bzip2",
    "bundle",
    "net",
    "telemetry",
    "azul",
    "mapping",
    "rules",
    "virustotal",
    "state",
    "azul-vt",
    "download",
    "hunt",
    "ingest",
    "load",
    "query",
    "vt",
];

/// Crates that only tests depend on.
const FOR_TESTS: [&str; 2] = ["sim", "testkit"];

/// The pure crates by the names of their libraries, lowest first, each with those of the workspace that it may depend on.
const PURE: [(&str, &[&str]); 7] = [
    ("base", &[]),
    ("json", &[]),
    ("parallel_bzip2", &[]),
    ("bundle", &["parallel_bzip2"]),
    ("azul", &["base", "json"]),
    ("mapping", &["azul", "base", "json"]),
    ("rules", &["azul", "base", "json", "mapping"]),
];

/// Crates of this project that do I/O. No pure crate may be built with them, not even through others.
const OURS_WITH_IO: [&str; 5] = ["azul_vt", "net", "state", "telemetry", "virustotal"];

/// First parts of the names of other libraries that no pure crate may be built with: SDKs, databases, HTTP and
/// sockets.
const IMPURE: [&str; 10] = [
    "aws_",
    "hyper",
    "lambda_",
    "libsqlite3",
    "mio",
    "reqwest",
    "rusqlite",
    "rustls",
    "socket2",
    "tokio",
];

/// Returns the names of all crates that a crate is built with, its own among them. Those of tests do not count.
fn built_with(krate: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            &krate.replace('_', "-"),
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args(["--format", "{lib}", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn pure_crates_depend_only_on_those_below_them_and_on_nothing_that_does_io() {
    for (krate, allowed) in PURE {
        let found = built_with(krate);
        assert!(found.contains(krate), "{found:?}");
        for name in &found {
            let is_ours = name == krate || PURE.iter().any(|(other, _)| other == name);
            assert!(
                !is_ours || name == krate || allowed.contains(&name.as_str()),
                "{krate} depends on {name}, which is not below it"
            );
            assert!(
                !OURS_WITH_IO.contains(&name.as_str())
                    && !IMPURE.iter().any(|part| name.starts_with(part)),
                "{krate} is pure and depends on {name}"
            );
        }
    }
}

#[test]
fn every_crate_depends_only_on_those_below_it() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut seen = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        if FOR_TESTS.contains(&name) {
            continue;
        }
        let layer = LAYERS.iter().position(|layer| *layer == name);
        let layer = layer.unwrap_or_else(|| panic!("{name} is in none of the layers: add it"));
        seen.insert(name);
        // `kind` is null for dependencies that are not only those of tests or of a build script.
        let normal = package["dependencies"].as_array().unwrap().iter();
        for dependency in normal.filter(|dependency| dependency["kind"].is_null()) {
            let other = dependency["name"].as_str().unwrap();
            assert!(!FOR_TESTS.contains(&other), "{name} depends on {other}, which is for tests");
            if let Some(below) = LAYERS.iter().position(|layer| *layer == other) {
                assert!(below < layer, "{name} depends on {other}, which is not below it");
            }
        }
    }
    assert_eq!(seen.len(), LAYERS.len(), "a layer is no crate any more: {seen:?}");
}

#[test]
fn the_log_shows_the_details_of_every_crate() {
    let crates: BTreeSet<String> = LAYERS.iter().map(|name| name.replace('-', "_")).collect();
    let shown = azul_vt::telemetry::OWN.map(str::to_owned).into();
    assert_eq!(crates, shown);
}
