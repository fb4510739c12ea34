//! Rows that are read in a way of their own.

use std::borrow::Cow;

use super::{
    catalogue::{Row, Special},
    format,
    json::{Kind, Value},
    shapes::{Checked, Sink, scalar_of, text_of},
};

/// Shorter texts, such as `TNULL`, are no TLSH hashes (the format has 70 hexadecimal digits).
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

/// A distinguished name: its parts sorted by key, so that equal names have equal texts.
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

/// The parts of an assembly's version; letters stand for those that are missing.
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
