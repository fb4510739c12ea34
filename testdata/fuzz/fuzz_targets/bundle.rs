//! Fuzzes the reader of bundles: of bzip2 it gives the lines of the ordinary decoder, whatever the damage and the number
//! of threads.

#![no_main]

use azul_vt::bundle::{Caps, Compression, Line, OrderedError, map_checked_lines, map_lines};
use azul_vt_fuzz::{compressed_input, ordinary};
use libfuzzer_sys::fuzz_target;

const CAPS: Caps = Caps { max_bundle_bytes: 1 << 28, max_line_bytes: 1 << 16 };

fuzz_target!(|data: &[u8]| {
    let Some((kind, input)) = compressed_input(data) else { return };
    let (one, sound) = lines(&input, 1);
    assert!(lines(&input, 3) == (one.clone(), sound));
    let (checked, is_all) = checked(&input, 1 + usize::from(kind) % 3);
    assert_eq!(checked, one[..checked.len()]);
    assert!(!is_all || sound && checked == one);
    if Compression::of(&input) != Compression::Bzip2 {
        assert_eq!((checked.len(), is_all), (0, false));
        return;
    }
    let (plain, is_sound) = ordinary(&input);
    assert_eq!(sound, is_sound);
    let expected = expected(&plain, sound);
    if sound {
        assert_eq!(one, expected);
    } else {
        // The ordinary decoder loses the bytes that it decoded in the very call that fails.
        assert!(one.iter().zip(&expected).all(|(one, other)| one == other));
    }
});

fn lines(input: &[u8], threads: usize) -> (Vec<(u64, Vec<u8>)>, bool) {
    let mut all = Vec::new();
    let ended = map_lines(
        input,
        CAPS,
        threads,
        |line: &Line, bytes| (line.number(), bytes.to_vec()),
        |line| {
            all.push(line);
            Ok::<_, std::convert::Infallible>(())
        },
    );
    let sound = match ended {
        Ok(_) => true,
        Err(OrderedError::Bundle(_)) => false,
    };
    (all, sound)
}

/// Returns the lines whose checksum was verified, and whether they are all lines.
fn checked(input: &[u8], threads: usize) -> (Vec<(u64, Vec<u8>)>, bool) {
    let mut all = Vec::new();
    let take = |line| {
        all.push(line);
        Ok::<_, std::convert::Infallible>(())
    };
    let work = |line: &Line, bytes: &[u8]| (line.number(), bytes.to_vec());
    let Ok(is_all) = map_checked_lines(input, CAPS, threads, work, take);
    (all, is_all)
}

fn expected(plain: &[u8], sound: bool) -> Vec<(u64, Vec<u8>)> {
    let mut all: Vec<_> = (1..).zip(plain.split(|byte| *byte == b'\n')).collect();
    if !sound {
        // A line that breaks off is not handed on.
        all.pop();
    }
    all.into_iter()
        .filter_map(|(number, line)| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_long = line.len() > CAPS.max_line_bytes;
            let kept = if is_long { &line[..4096] } else { line };
            let kept = kept.strip_prefix(b"\xef\xbb\xbf").filter(|_| number == 1).unwrap_or(kept);
            (is_long || !kept.trim_ascii().is_empty()).then(|| (number, kept.to_vec()))
        })
        .collect()
}
