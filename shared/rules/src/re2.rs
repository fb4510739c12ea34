//! Translates RE2's syntax to that of the `regex` crate. Most of the syntax is the same. In RE2, `\d \w \s \b` are
//! ASCII, a brace that begins no repetition stands for itself, `\Q…\E` quotes, `\<` is `<`, and a class has no nested
//! brackets or set operations.

use std::fmt::Write;

use regex::bytes::{Regex, RegexBuilder};

/// Compiles `pattern`, which is written for RE2.
pub(super) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translate(pattern)).octal(true).build()
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    // Number of characters since the class was opened; `None` outside a class.
    let mut class: Option<usize> = None;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let at_start = class.is_some_and(|read| read == 0);
        class = class.map(|read| read + 1);
        rest = after;
        match c {
            '\\' => rest = escape(after, class.is_some(), &mut out),
            '[' if class.is_none() => {
                out.push('[');
                if let Some(negated) = after.strip_prefix('^') {
                    out.push('^');
                    rest = negated;
                }
                class = Some(0);
            }
            '[' => match after.strip_prefix(':').and_then(|name| name.split_once(":]")) {
                // `[:alpha:]`
                Some((name, behind)) if !name.contains(']') => {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "[:{name}:]");
                    rest = behind;
                }
                _ => out.push_str("\\["),
            },
            // A bracket right behind the opening one is a member of the class.
            ']' if at_start => out.push_str("\\]"),
            ']' if class.is_some() => {
                out.push(']');
                class = None;
            }
            '&' | '~' if class.is_some() => {
                out.push('\\');
                out.push(c);
            }
            '{' if class.is_none() && !repeats(after) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    out
}

/// Translates the escape behind a backslash and returns the text behind it.
fn escape<'p>(after: &'p str, in_class: bool, out: &mut String) -> &'p str {
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = after.get(c.len_utf8()..).unwrap_or_default();
    let class = match c {
        'd' | 'D' => "0-9",
        'w' | 'W' => "0-9A-Za-z_",
        's' | 'S' => r"\t\n\x0C\r ",
        'b' | 'B' if !in_class => {
            let _ = write!(out, r"(?-u:\{c})");
            return rest;
        }
        '<' | '>' => {
            out.push(c);
            return rest;
        }
        'Q' if !in_class => {
            let (quoted, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(quoted));
            return rest;
        }
        _ => {
            out.push('\\');
            out.push(c);
            return rest;
        }
    };
    let _ = match (c.is_ascii_uppercase(), in_class) {
        (true, _) => write!(out, "[^{class}]"),
        (false, false) => write!(out, "[{class}]"),
        (false, true) => write!(out, "{class}"),
    };
    rest
}

/// Whether `after`, the text behind an opening brace, makes it a repetition: `{2}`, `{2,}` or `{2,5}`.
fn repeats(after: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    after.split_once('}').is_some_and(|(inner, _)| match inner.split_once(',') {
        Some((low, high)) => digits(low) && (high.is_empty() || digits(high)),
        None => digits(inner),
    })
}

#[cfg(test)]
mod tests {
    use super::compile;

    fn first<'t>(pattern: &str, text: &'t str) -> Option<&'t str> {
        let found = compile(pattern).unwrap().find(text.as_bytes())?;
        Some(std::str::from_utf8(found.as_bytes()).unwrap())
    }

    #[test]
    fn perl_classes_are_ascii() {
        assert_eq!(first(r"\w+", "éa_1é"), Some("a_1"));
        assert_eq!(first(r"[\w.]+", "é a.b é"), Some("a.b"));
        assert_eq!(first(r"\d", "٣"), None);
        assert_eq!(first(r"\S+", " a\u{a0}b "), Some("a\u{a0}b"));
        assert_eq!(first(r"[^\d]+", "12é3"), Some("é"));
        assert_eq!(first(r"[\D]+", "12é3"), Some("é"));
        assert_eq!(first(r"\ba\b", "éaé"), Some("a"));
    }

    #[test]
    fn braces_and_brackets_that_mean_nothing_stand_for_themselves() {
        assert_eq!(first(r#"{"a":{2}"#, r#"{"a"::"#), Some(r#"{"a"::"#));
        assert_eq!(first("a{,2}", "a{,2}"), Some("a{,2}"));
        assert_eq!(first("a{2,}b{1,2}", "aaabbb"), Some("aaabb"));
        assert_eq!(first("[[a&&b~~]+", "x[a&b~"), Some("[a&b~"));
        assert_eq!(first("[]a]+", "x]a"), Some("]a"));
        assert_eq!(first("[^]a]+", "]ax"), Some("x"));
        assert_eq!(first("[[:upper:]_]+", "aB_"), Some("B_"));
        assert_eq!(first(r"\Qa.b[\E+", "a.b[["), Some("a.b[["));
        assert_eq!(first(r"\<a\>", "<a>"), Some("<a>"));
        assert_eq!(first(r"\x41\101", "AA"), Some("AA"));
        assert_eq!(first("(?i)STRASSE|é", "É"), Some("É"));
    }

    #[test]
    fn what_re2_does_not_know_is_refused() {
        for pattern in ["(", "a**b(", "[z-a]", r"(?=x)", r"\1(a)(?<!b)", "*"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
