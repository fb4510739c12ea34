//! The crates below `shared/` depend on each other in one direction, and the pure ones on no SDK, database or network.

use std::{collections::BTreeSet, process::Command};

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

/// First parts of the names of libraries that no pure crate may be built with, not even through others: this project's
/// own that do I/O, SDKs, databases and HTTP.
const IMPURE: [&str; 8] =
    ["azul_vt", "aws_", "hyper", "lambda_", "libsqlite3", "reqwest", "rusqlite", "rustls"];

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
                !IMPURE.iter().any(|part| name.starts_with(part)),
                "{krate} is pure and depends on {name}"
            );
        }
    }
}
