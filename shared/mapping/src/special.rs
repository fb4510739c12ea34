//! Reads the rows that have a reader of their own.

use std::borrow::Cow;

use super::{
    catalogue::{Row, Special},
    format,
    shapes::{Checked, Sink, scalar_of, text_of},
};
use json::{Kind, Value};

/// Shortest TLSH hash, in bytes: the format has 70 hexadecimal digits. Shorter texts, such as `TNULL`, are not hashes.
const MIN_TLSH_BYTES: usize = 70;

/// Emits the features of a special row.
pub(super) fn emit(special: Special, row: &Row, root: Value<'_>, sink: &mut Sink) {
    let Some(value) = root.at(row.path).filter(|value| !value.is_null()) else { return };
    match special {
        Special::Tlsh => match scalar_of(row, value) {
            Checked::Value(hash) if hash.len() >= MIN_TLSH_BYTES => sink.push(row, hash, ""),
            Checked::Bad => sink.bad(),
            _ => {}
        },
        Special::CountAsLabel => match scalar_of(row, value) {
            Checked::Value(count) => {
                let verdict = row.path.last().copied().unwrap_or_default();
                sink.push(row, Cow::Borrowed(verdict), &count);
            }
            Checked::Nothing => {}
            Checked::Bad => sink.bad(),
        },
        Special::CertIssuer => emit_name(row, value, "Issuer", sink),
        Special::CertSubject => emit_name(row, value, "Subject", sink),
        Special::Permissions => emit_permissions(row, value, sink),
        Special::UnixTime => match unix_time(value) {
            Some(time) => sink.push(row, Cow::Owned(time), ""),
            None => sink.bad(),
        },
        Special::VersionInfo => emit_version(row, value, sink),
        Special::ExternalAssemblies => emit_assemblies(row, value, sink),
    }
}

/// Emits a distinguished name. Its parts are sorted by key, so that equal names have equal texts.
fn emit_name(row: &Row, certificate: Value<'_>, whose: &str, sink: &mut Sink) {
    let Some(name) = certificate.get(whose).filter(|name| !name.is_null()) else { return };
    if name.kind() != Kind::Object {
        return sink.bad();
    }
    let mut parts: Vec<_> = name.members().map(|(key, value)| (key, text_of(value))).collect();
    parts.sort();
    let parts: Vec<_> = parts.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !parts.is_empty() {
        sink.push(row, Cow::Owned(parts.join(",")), "");
    }
}

fn emit_permissions(row: &Row, permissions: Value<'_>, sink: &mut Sink) {
    if permissions.kind() != Kind::Object {
        return sink.bad();
    }
    for (permission, details) in permissions.members() {
        if sink.is_full() {
            break;
        }
        let kind = details.get("permission_type").map(text_of).unwrap_or_default();
        sink.push(row, permission, &kind);
    }
}

fn unix_time(value: Value<'_>) -> Option<String> {
    format::unix_time(format::scalar(value)?.parse().ok()?)
}

/// Emits the version of an assembly. Letters stand for missing parts.
fn emit_version(row: &Row, assembly: Value<'_>, sink: &mut Sink) {
    let parts = [
        ("majorversion", "x"),
        ("minorversion", "y"),
        ("buildnumber", "z"),
        ("revisionnumber", "a"),
    ];
    let mut version = String::new();
    let mut found = false;
    for (key, missing) in parts {
        let part = assembly.get(key).filter(|part| !part.is_null());
        let text = part.and_then(format::scalar);
        if part.is_some() && text.is_none() {
            sink.bad();
        }
        found |= text.is_some();
        if !version.is_empty() {
            version.push('.');
        }
        version.push_str(text.as_deref().unwrap_or(missing));
    }
    if found {
        sink.push(row, Cow::Owned(version), "");
    }
}

fn emit_assemblies(row: &Row, assemblies: Value<'_>, sink: &mut Sink) {
    if assemblies.kind() != Kind::Object {
        return sink.bad();
    }
    for (name, assembly) in assemblies.members() {
        if sink.is_full() {
            break;
        }
        let version = assembly.get("version").map(text_of).unwrap_or_default();
        if !name.is_empty() && !version.is_empty() {
            sink.push(row, name, &version);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        catalogue::HandlerSet,
        shapes::{self, Sink},
    };
    use json::Document;

    /// Returns value and label of each feature `name` of `handler`, and the number of bad values.
    fn special(handler: &str, name: &str, attributes: &str) -> (Vec<(String, String)>, u64) {
        let document = Document::parse(attributes.to_owned()).unwrap();
        let handlers = HandlerSet::parse(handler).unwrap();
        let mut sink = Sink::default();
        for handler in handlers.handlers() {
            shapes::emit(handler, document.root(), &mut sink);
        }
        let named = sink.features.into_iter().filter(|feature| feature.name == name);
        (named.map(|feature| (feature.value, feature.label)).collect(), sink.bad_values)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(value, label)| ((*value).into(), (*label).into())).collect()
    }

    #[test]
    fn a_tlsh_hash_has_seventy_characters() {
        let of = |hash: &str| special("Common", "tlsh", &format!(r#"{{"tlsh":"{hash}"}}"#));
        assert_eq!(of("TNULL"), (vec![], 0));
        assert_eq!(of(&"A".repeat(69)), (vec![], 0));
        let hash = "A".repeat(70);
        assert_eq!(of(&hash), (pairs(&[(&hash, "")]), 0));
        assert_eq!(special("Common", "tlsh", r#"{"tlsh":[]}"#), (vec![], 1));
    }

    #[test]
    fn verdicts_are_values_and_counts_are_labels() {
        let stats = r#"{"last_analysis_stats":{"undetected":5.0,"harmless":"3","timeout":1e1,
            "malicious":0,"failure":null,"suspicious":true,"type-unsupported":4,"other":9}}"#;
        let expected =
            [("harmless", "3"), ("timeout", "10"), ("type-unsupported", "4"), ("undetected", "5")];
        assert_eq!(special("AvResultsStats", "av_verdict", stats), (pairs(&expected), 1));
    }

    #[test]
    fn certificate_names_are_sorted_and_whole() {
        let attributes = r#"{"androguard":{"certificate":{
            "Issuer":{"O":"Example","C":"AU","DN":"C:AU, O:Example"},"Subject":{}}}}"#;
        let issuer = special("Androguard", "apk_cert_issuer", attributes);
        assert_eq!(issuer, (pairs(&[("C=AU,DN=C:AU, O:Example,O=Example", "")]), 0));
        assert_eq!(special("Androguard", "apk_cert_subject", attributes), (vec![], 0));
        let bad = r#"{"androguard":{"certificate":{"Issuer":"x"}}}"#;
        assert_eq!(special("Androguard", "apk_cert_issuer", bad), (vec![], 1));
    }

    #[test]
    fn permissions_are_labelled_by_their_kind() {
        let attributes = r#"{"androguard":{"permission_details":{
            "P.B":{"permission_type":"normal"},"P.A":{"permission_type":null},"P.C":{}}}}"#;
        let expected = pairs(&[("P.B", "normal"), ("P.A", ""), ("P.C", "")]);
        assert_eq!(special("Androguard", "apk_permissions", attributes), (expected, 0));
        let bad = r#"{"androguard":{"permission_details":[]}}"#;
        assert_eq!(special("Androguard", "apk_permissions", bad), (vec![], 1));
    }

    #[test]
    fn unix_times_become_dates() {
        let of = |time| {
            special("PeInfo", "timestamp", &format!(r#"{{"pe_info":{{"timestamp":{time}}}}}"#))
        };
        assert_eq!(of("1714558272"), (pairs(&[("2024-05-01T10:11:12Z", "")]), 0));
        assert_eq!(of("0"), (pairs(&[("1970-01-01T00:00:00Z", "")]), 0));
        for bad in ["\"x\"", "1.5", "99999999999999", "true", "[]"] {
            assert_eq!(of(bad), (vec![], 1), "{bad}");
        }
        assert_eq!(of("null"), (vec![], 0));
    }

    #[test]
    fn versions_have_letters_for_what_is_missing() {
        let of = |data: &str| {
            let text = format!(r#"{{"dot_net_assembly":{{"assembly_data":{data}}}}}"#);
            special("DotNetAssembly", "assembly_version", &text)
        };
        let whole = r#"{"majorversion":1,"minorversion":0,"buildnumber":7,"revisionnumber":"3"}"#;
        assert_eq!(of(whole), (pairs(&[("1.0.7.3", "")]), 0));
        assert_eq!(of(r#"{"minorversion":2}"#), (pairs(&[("x.2.z.a", "")]), 0));
        assert_eq!(of(r#"{"majorversion":null,"name":"x"}"#), (vec![], 0));
        assert_eq!(of(r#"{"majorversion":{}}"#), (vec![], 1));
    }

    #[test]
    fn external_assemblies_need_a_version() {
        let attributes = r#"{"dot_net_assembly":{"external_assemblies":{
            "System":{"version":"4.0.0.0"},"Other":{},"":{"version":"1"}}}}"#;
        let expected = pairs(&[("System", "4.0.0.0")]);
        assert_eq!(special("DotNetAssembly", "external_assemblies", attributes), (expected, 0));
    }
}
