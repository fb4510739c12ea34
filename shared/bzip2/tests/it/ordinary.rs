//! The ordinary decoder: the crate `bzip2`, stream after stream until the input ends.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use bzip2::bufread::BzDecoder;

/// Most decompressed bytes in one call, because a call that fails loses what it has decoded.
const CALL: usize = 64 << 10;

/// The end of a decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Sound,
    Empty,
    Cut,
    Damaged,
    Garbage,
    Failed,
}

/// Returns the bytes and the end of the ordinary decoder.
pub(crate) fn ordinary(reader: impl Read) -> (Vec<u8>, Fate) {
    let mut out = Vec::new();
    let fate = ordinary_from(reader, 0, &mut out);
    (out, fate)
}

/// Appends what the ordinary decoder yields to `out`, without its first `skip` bytes, and returns its end.
pub(crate) fn ordinary_from(reader: impl Read, skip: usize, out: &mut Vec<u8>) -> Fate {
    let mut plain = Vec::new();
    let fate = streams(BufReader::new(reader), &mut plain);
    out.extend_from_slice(plain.get(skip..).unwrap_or_default());
    match fate {
        Ok(fate) => fate,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Fate::Cut,
        // Only the tests' own reader gives this error.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Fate::Failed,
        Err(_) => Fate::Damaged,
    }
}

fn streams(mut input: impl BufRead, out: &mut Vec<u8>) -> io::Result<Fate> {
    let mut is_first = true;
    loop {
        let mut start = Vec::new();
        input.by_ref().take(4).read_to_end(&mut start)?;
        match start[..] {
            [] if is_first => return Ok(Fate::Empty),
            [] => return Ok(Fate::Sound),
            [b'B', b'Z', b'h', b'1'..=b'9'] => {}
            [b'B'] | [b'B', b'Z'] | [b'B', b'Z', b'h'] => return Ok(Fate::Cut),
            _ => return Ok(Fate::Garbage),
        }
        is_first = false;
        let mut stream = BzDecoder::new(Cursor::new(start).chain(&mut input));
        loop {
            let before = out.len();
            out.resize(before + CALL, 0);
            let read = stream.read(&mut out[before..]);
            out.truncate(before + read.as_ref().map_or(0, |read| *read));
            if read? == 0 {
                break;
            }
        }
    }
}
