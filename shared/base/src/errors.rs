//! Renders errors for operators.

use std::error::Error;

use crate::peer_text;

/// Longest line of an error, in characters.
const MAX_CHARS: usize = 4000;

/// Returns an error and its causes on one line, outermost first: `what failed: why: why that`. Secrets in it are
/// hidden, because causes quote libraries and peers.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // A transparent error has the text of its cause, so the cause is not repeated.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    peer_text::line(&text, MAX_CHARS)
}
