//! Limits of Azul's metastore. It drops a whole event if one value breaks a limit, after the dispatcher took the event.

/// Most features of an event.
pub const MAX_FEATURES: usize = 10_000;
/// Longest text of the entity and longest `key.value` of a reference, in bytes: Azul's index has no longer terms. The
/// limit for the value of a feature is lower.
pub const MAX_TEXT_BYTES: usize = 32_766;

/// Number of hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
/// Number of hexadecimal digits of a TLSH hash, without its version.
const TLSH_DIGITS: usize = 70;

/// Returns the start of a text: at most `max_bytes` bytes, cut at the border of a character.
pub fn start_of(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or(text)
}

/// Whether a text is a SHA-256 in hexadecimal digits of either case.
pub fn is_sha256(text: &str) -> bool {
    text.len() == SHA256_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a text has the form of an ssdeep hash: a block size and two parts, separated by colons.
pub fn is_ssdeep(text: &str) -> bool {
    let mut parts = text.split(':');
    let block_size = parts.next().and_then(|size| size.parse::<i32>().ok());
    text.len() <= MAX_TEXT_BYTES && block_size.is_some_and(|size| size >= 0) && parts.count() == 2
}

/// Whether a text is a TLSH hash, with its version `T1` or without.
pub fn is_tlsh(text: &str) -> bool {
    let digits = text.strip_prefix("T1").unwrap_or(text);
    digits.len() == TLSH_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(start_of("aé", 3), "aé");
        assert_eq!(start_of("aé", 2), "a");
        assert_eq!(start_of("aé", 0), "");
    }

    #[test]
    fn an_ssdeep_hash_is_a_number_and_two_parts() {
        for good in ["3:abc:def", "3::", "1536:a/+b:c", "0:a:b,\"name\""] {
            assert!(is_ssdeep(good), "{good}");
        }
        for bad in ["", "3", "3:abc", "x:abc:def", "-3:a:b", "3:a:b:c", ":a:b", "99999999999:a:b"] {
            assert!(!is_ssdeep(bad), "{bad}");
        }
    }

    #[test]
    fn a_tlsh_hash_has_seventy_digits() {
        let digits = "0aF".repeat(23) + "1";
        assert!(is_tlsh(&digits) && is_tlsh(&format!("T1{digits}")));
        for bad in
            ["", "TNULL", "NULL", "T1", &format!("T2{digits}"), &digits[1..], &"g".repeat(70)]
        {
            assert!(!is_tlsh(bad), "{bad}");
        }
    }
}
