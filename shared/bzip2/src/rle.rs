//! Undoes the run-length coding of a block: after four equal bytes, one byte gives the number of further ones.

use super::block::Unverified;

/// Number of places that are compared at once.
const STEP: usize = 32;

/// Appends the expansion of `text` to `out`, which may grow to `most` bytes.
///
/// # Errors
/// [`Unverified`] if a run at the end has no count, or there are more than `most` bytes.
#[expect(clippy::indexing_slicing, reason = "`run` is followed by three bytes at least")]
pub(crate) fn expand(text: &[u8], out: &mut Vec<u8>, most: usize) -> Result<(), Unverified> {
    let mut start = 0;
    while let Some(run) = next_run(text, start) {
        let more = usize::from(*text.get(run + 4).ok_or(Unverified)?);
        if out.len() + (run + 4 - start) + more > most {
            return Err(Unverified);
        }
        out.extend_from_slice(&text[start..run + 4]);
        out.resize(out.len() + more, text[run]);
        start = run + 5;
    }
    let rest = text.get(start..).unwrap_or_default();
    if out.len() + rest.len() > most {
        return Err(Unverified);
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// Returns the place of the next four equal bytes. Steps of a fixed size without branches become vector code.
#[expect(clippy::indexing_slicing, reason = "`i + 3` is below the window's length")]
fn next_run(text: &[u8], mut from: usize) -> Option<usize> {
    while let Some(window) = text.get(from..).and_then(<[u8]>::first_chunk::<{ STEP + 3 }>) {
        let mut found = 0;
        for i in 0..STEP {
            let different = (window[i] ^ window[i + 1])
                | (window[i] ^ window[i + 2])
                | (window[i] ^ window[i + 3]);
            found |= u8::from(different == 0);
        }
        if found != 0 {
            break;
        }
        from += STEP;
    }
    let rest = text.get(from..)?;
    rest.windows(4).position(|four| four.iter().all(|byte| *byte == four[0])).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &[u8], most: usize) -> Result<Vec<u8>, Unverified> {
        let mut out = Vec::new();
        expand(text, &mut out, most).map(|()| out)
    }

    #[test]
    fn runs_are_found_at_any_place() {
        for before in 0..80 {
            for more in [0, 1, 255] {
                let mut text: Vec<u8> = (0..before).collect();
                text.extend([200, 200, 200, 200, more, 200, 200, 200, 201]);
                let mut plain: Vec<u8> = (0..before).collect();
                plain.extend(vec![200; 7 + usize::from(more)]);
                plain.push(201);
                let length = plain.len();
                assert_eq!(expanded(&text, length), Ok(plain));
                assert_eq!(expanded(&text, length - 1), Err(Unverified));
            }
        }
    }

    #[test]
    fn a_count_is_no_part_of_the_next_run() {
        assert_eq!(
            expanded(&[4, 4, 4, 4, 4, 4, 4, 4, 5], 100),
            Ok([vec![4; 11], vec![5]].concat())
        );
        assert_eq!(expanded(b"xaaaa", 100), Err(Unverified));
        assert_eq!(expanded(b"", 0), Ok(Vec::new()));
    }
}
