//! Fuzzes the parallel decoder of bzip2: with the ordinary decoder for the rest, it gives the bytes and the end of the
//! ordinary decoder alone, whatever the damage and the number of threads.

#![no_main]

use std::{convert::Infallible, io::Read};

use azul_vt_fuzz::{compressed_input, ordinary};
use libfuzzer_sys::fuzz_target;
use parallel_bzip2::{End, Limits, decode};

const MAX_BYTES: u64 = 1 << 28;

fuzz_target!(|data: &[u8]| {
    let Some((kind, input)) = compressed_input(data) else { return };
    let (plain, is_sound) = ordinary(&input);
    let one = by_blocks(&input, 1);
    assert!(by_blocks(&input, 2 + usize::from(kind) % 2) == one);
    let (mut text, rest) = one;
    let sound = match rest {
        None => true,
        Some((rest, skip)) => {
            let (more, sound) = ordinary(&rest);
            text.extend_from_slice(more.get(skip..).unwrap_or_default());
            sound
        }
    };
    assert_eq!(sound, is_sound);
    // The ordinary decoder loses the bytes that it decoded in the very call that fails.
    assert!(text.len() == plain.len() || !sound);
    assert!(text.iter().zip(&plain).all(|(one, other)| one == other));
});

/// Returns the bytes of the verified blocks and, if the decoder did not come to the end, the rest with the number of
/// bytes to skip.
fn by_blocks(input: &[u8], threads: usize) -> (Vec<u8>, Option<(Vec<u8>, usize)>) {
    let mut text = Vec::new();
    let limits = Limits { threads, max_bytes: MAX_BYTES };
    let take = |block: Vec<u8>| {
        text.extend_from_slice(&block);
        Ok::<_, Infallible>(())
    };
    let Ok(end) = decode(input, limits, |_| Some(()), |(), block| block.to_vec(), take);
    match end {
        End::Complete { bytes } => {
            assert_eq!(bytes, text.len() as u64);
            (text, None)
        }
        End::Unclear(mut rest) => {
            assert_eq!(rest.produced(), text.len() as u64);
            let (mut bytes, skip) = (Vec::new(), rest.skip());
            rest.read_to_end(&mut bytes).unwrap();
            (text, Some((bytes, skip)))
        }
    }
}
