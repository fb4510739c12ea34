//! Rules for keys in [`Bundles`](super::Bundles) and names of leases. They are the same in every implementation, so
//! that the state can be moved from one to another.

use super::StoreError;

/// Longest key in bytes, which is S3's limit.
const LONGEST_KEY: usize = 1024;
/// Longest segment of a key in bytes, which is the longest file name of common file systems.
const LONGEST_SEGMENT: usize = 255;

/// Checks that a text is a valid key: see [`BundleInfo::key`](super::BundleInfo::key).
pub(super) fn check_key(key: &str) -> Result<(), StoreError> {
    let reason = if key.is_empty() {
        "it is empty"
    } else if key.len() > LONGEST_KEY {
        "it is longer than 1024 bytes"
    } else if key.contains(|c: char| c.is_control() || c == '\\') {
        "it holds a control character or a backslash"
    } else if key.split('/').any(str::is_empty) {
        "it begins or ends with `/` or holds an empty segment"
    } else if key.split('/').any(|segment| segment.starts_with('.')) {
        "a segment begins with a dot"
    } else if key.split('/').any(|segment| segment.len() > LONGEST_SEGMENT) {
        "a segment is longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(bad_name(key, reason))
}

/// Checks that a text is a valid prefix: a key that may end anywhere, also behind a `/`.
pub(super) fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    match prefix.strip_suffix('/').unwrap_or(prefix) {
        "" if prefix.is_empty() => Ok(()),
        key => check_key(key),
    }
}

/// Checks that a text is a valid name of a lease.
pub(super) fn check_lease_name(name: &str) -> Result<(), StoreError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 100 || !name.bytes().all(plain) {
        let reason = "a lease is named by 1 to 100 letters, digits, `-`, `_` and `.`";
        return Err(bad_name(name, reason));
    }
    Ok(())
}

/// Returns the error for an invalid name. The name may come from outside, so the error shows at most 100 characters of
/// it, on one line.
pub(super) fn bad_name(name: &str, reason: &'static str) -> StoreError {
    let name = name.chars().take(100).flat_map(char::escape_debug).collect();
    StoreError::BadName { name, reason }
}
