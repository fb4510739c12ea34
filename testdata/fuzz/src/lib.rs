//! Helpers of several fuzz targets: inputs made of the fuzzer's bytes, and the ordinary decoder of bzip2.

use std::io::{BufRead, Read, Write};

use bzip2::{bufread::BzDecoder, write::BzEncoder};

/// Makes an input of the fuzzer's bytes. The first byte, which is returned too, says how the others are used: as they
/// are, behind the start of a bzip2 stream, or as a text that is compressed and then damaged.
pub fn compressed_input(data: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (kind, data) = data.split_first()?;
    let input = match kind % 4 {
        0 => data.to_vec(),
        1 => [b"BZh91AY&SY", data].concat(),
        _ => damaged(*kind, data)?,
    };
    Some((*kind, input))
}

/// A compressed text with up to four damaged bytes: pairs of place and bits come first.
fn damaged(kind: u8, data: &[u8]) -> Option<Vec<u8>> {
    let (damage, text) = data.split_first_chunk::<8>()?;
    // The text is repeated to make more blocks.
    let times = if kind % 4 == 2 { 1 } else { usize::from(kind / 4).max(1) * 16 };
    let level = bzip2::Compression::new(1 + u32::from(kind % 9));
    let mut encoder = BzEncoder::new(Vec::new(), level);
    encoder.write_all(&text.repeat(times)).unwrap();
    let mut input = encoder.finish().unwrap();
    for [place, bits] in damage.as_chunks().0 {
        let at = usize::from(*place) * input.len() / 256;
        if let Some(byte) = input.get_mut(at) {
            *byte ^= bits;
        }
    }
    Some(input)
}

/// Decodes streams one after the other with the ordinary decoder. Returns the text, and whether all streams are sound.
pub fn ordinary(mut input: &[u8]) -> (Vec<u8>, bool) {
    let mut plain = Vec::new();
    while !input.fill_buf().unwrap().is_empty() {
        if !matches!(input, [b'B', b'Z', b'h', b'1'..=b'9', ..]) {
            return (plain, false);
        }
        let mut stream = BzDecoder::new(input);
        if stream.read_to_end(&mut plain).is_err() {
            return (plain, false);
        }
        input = stream.into_inner();
    }
    (plain, true)
}
