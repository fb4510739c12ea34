//! Checks bundles of any compression, with any chunks and any damage.

use std::io::{self, Read, Write as _};

use bundle::{
    BundleError, Caps, Compression, Extent, KEPT_OF_LONG_LINE, Line, OrderedError,
    map_checked_lines, map_lines, verify,
};
use proptest::{collection::vec, prelude::*};

const CAPS: Caps = Caps { max_bundle_bytes: 64 << 20, max_line_bytes: 1 << 20 };

const ALL: [Compression; 4] =
    [Compression::Plain, Compression::Bzip2, Compression::Gzip, Compression::Zstd];

fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Plain => bytes.to_vec(),
        Compression::Bzip2 => {
            let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Compression::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Compression::Zstd => {
            let mut to = zstd::Encoder::new(Vec::new(), 1).unwrap();
            to.include_checksum(true).unwrap();
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
    }
}

/// Returns all lines with their bytes, and the error at the end if there is one. Asserts that one thread and two
/// threads give the same.
fn read(
    reader: impl Read + Send + Clone,
    caps: Caps,
) -> (Vec<(Line, Vec<u8>)>, Option<BundleError>) {
    let (one, two) = (read_on(reader.clone(), caps, 1), read_on(reader, caps, 2));
    assert_eq!(one.0, two.0);
    assert_eq!(format!("{:?}", one.1), format!("{:?}", two.1));
    two
}

fn read_on(
    reader: impl Read + Send,
    caps: Caps,
    threads: usize,
) -> (Vec<(Line, Vec<u8>)>, Option<BundleError>) {
    let mut all = Vec::new();
    let taken = map_lines(
        reader,
        caps,
        threads,
        |line, bytes| (*line, bytes.to_vec()),
        |line| {
            all.push(line);
            Ok::<_, std::convert::Infallible>(())
        },
    );
    match taken {
        Ok(_) => (all, None),
        Err(OrderedError::Bundle(error)) => (all, Some(error)),
    }
}

fn error(bytes: &[u8]) -> BundleError {
    read(bytes, CAPS).1.expect("an error")
}

/// Returns the lines that a plain text should give.
fn expected(text: &[u8], cap: usize) -> Vec<(Line, Vec<u8>)> {
    text.split(|byte| *byte == b'\n')
        .zip(1..)
        .map(|(line, number)| (line.strip_suffix(b"\r").unwrap_or(line), number))
        .filter(|(line, _)| line.len() > cap || !line.trim_ascii().is_empty())
        .map(|(line, number)| {
            let length = line.len() as u64;
            if line.len() <= cap {
                (Line::Record { number }, line.to_vec())
            } else {
                let kept = line.len().min(KEPT_OF_LONG_LINE);
                (Line::TooLong { number, length }, line[..kept].to_vec())
            }
        })
        .collect()
}

/// A reader that gives bytes in pieces of these sizes, over and over, with an interruption between them.
#[derive(Clone)]
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: Vec<usize>,
    turn: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(2) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let size = self.sizes[self.turn / 2 % self.sizes.len()];
        let n = size.min(out.len()).min(self.bytes.len());
        out[..n].copy_from_slice(&self.bytes[..n]);
        self.bytes = &self.bytes[n..];
        Ok(n)
    }
}

/// Makes texts of ordinary lines of a feed, odd ones and long ones.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => "\\{[a-z \r]{0,40}",
        2 => Just(String::new()),
        1 => " {0,5}\r?",
        1 => (10_usize..10_000).prop_map(|n| format!("{{{}", "x".repeat(n))),
    ];
    (vec(line, 0..20), any::<bool>()).prop_map(|(lines, end)| {
        let mut text = String::from("{}\n");
        text.push_str(&lines.join("\n"));
        if end {
            text.push('\n');
        }
        text.into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_same_lines_come_out_of_every_compression_cut_into_any_pieces(
        text in text(), cap in 1_usize..6000, sizes in vec(1_usize..3000, 1..5), split in any::<prop::sample::Index>(),
    ) {
        let caps = Caps { max_line_bytes: cap, ..CAPS };
        let expected = expected(&text, cap);
        let split = split.index(text.len());
        for compression in ALL {
            let mut bytes = compress(&text[..split], compression);
            bytes.extend(compress(&text[split..], compression));
            let pieces = Pieces { bytes: &bytes, sizes: sizes.clone(), turn: 0 };
            let (lines, error) = read(pieces, caps);
            prop_assert!(error.is_none(), "{compression}: {error:?}");
            prop_assert_eq!(&lines, &expected);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in vec(any::<u8>(), 0..400), magic in 0_usize..6) {
        let starts: [&[u8]; 6] = [b"", b"BZh9", b"BZh91AY&SY", &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], &[0x50, 0x2a, 0x4d, 0x18]];
        bytes.splice(0..0, starts[magic].iter().copied());
        drop(read(&bytes[..], CAPS));
    }

    #[test]
    fn damage_anywhere_is_an_error_or_changes_nothing(
        at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>(),
    ) {
        let text = "{\"a\":\"some text that repeats, and some more\"}\n".repeat(200);
        for compression in [Compression::Bzip2, Compression::Gzip, Compression::Zstd] {
            let mut bytes = compress(text.as_bytes(), compression);
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
                let error = error(&bytes);
                prop_assert!(matches!(error, BundleError::Truncated { .. } | BundleError::Empty), "{error:?}");
            } else {
                bytes[at] ^= 1 << bit;
                let (lines, error) = read(&bytes[..], CAPS);
                // A flipped bit of a magic number makes the bundle a plain text, and a gzip header has bits without a
                // meaning.
                prop_assert!(error.is_some() || at < 10 || lines.len() == 200, "{compression} byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn lines_whose_checksum_was_not_seen_do_not_leave(
        text in text(), split in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), flip in 0_u8..16,
    ) {
        let expected = expected(&text, CAPS.max_line_bytes);
        let split = split.index(text.len());
        let compress_both = |compression| {
            let mut bytes = compress(&text[..split], compression);
            let first = bytes.len();
            bytes.extend(compress(&text[split..], compression));
            (bytes, first)
        };
        for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            prop_assert_eq!(checked(&compress_both(compression).0), (Vec::new(), false), "{}", compression);
        }
        let (mut bytes, first) = compress_both(Compression::Bzip2);
        prop_assert_eq!(checked(&bytes), (expected.clone(), true));
        let at = at.index(bytes.len());
        if flip < 8 {
            bytes[at] ^= 1 << flip;
        } else if at != first {
            bytes.truncate(at);
        }
        let (lines, is_all) = checked(&bytes);
        prop_assert_eq!(&lines[..], &expected[..lines.len()]);
        // No checksum covers the bits that fill up the last byte of a stream.
        prop_assert!(!is_all || lines == expected);
    }
}

/// Returns the lines whose checksum was verified, and whether these are all lines. Asserts that one thread and two
/// threads give the same.
fn checked(bytes: &[u8]) -> (Vec<(Line, Vec<u8>)>, bool) {
    let on = |threads| {
        let mut all = Vec::new();
        let take = |line| {
            all.push(line);
            Ok::<_, std::convert::Infallible>(())
        };
        let work = |line: &Line, bytes: &[u8]| (*line, bytes.to_vec());
        let Ok(is_all) = map_checked_lines(bytes, CAPS, threads, work, take);
        (all, is_all)
    };
    let (one, two) = (on(1), on(2));
    assert_eq!(one, two);
    one
}

#[test]
fn an_empty_input_is_told_from_a_bundle_of_no_lines() {
    assert!(matches!(error(b""), BundleError::Empty));
    assert!(matches!(verify(&b""[..], CAPS, 2), Err(BundleError::Empty)));
    for compression in [Compression::Bzip2, Compression::Gzip, Compression::Zstd] {
        let bytes = compress(b"", compression);
        let extent = verify(&bytes[..], CAPS, 2).unwrap();
        assert_eq!(extent, Extent { bytes: 0, lines: 0, compression });
        assert_eq!(read(&bytes[..], CAPS).0.len(), 0);
    }
}

#[test]
fn verify_counts_bytes_and_lines_with_blank_ones() {
    for compression in ALL {
        let bytes = compress(b"{}\n\n{}\r\n{}", compression);
        let extent = verify(&bytes[..], CAPS, 2).unwrap();
        assert_eq!(extent, Extent { bytes: 10, lines: 4, compression });
        assert_eq!(read(&bytes[..], CAPS).0.len(), 3);
    }
}

#[test]
fn bytes_after_the_end_are_an_error_that_says_where() {
    for compression in [Compression::Bzip2, Compression::Gzip, Compression::Zstd] {
        let mut bytes = compress(b"{}\n{}\n", compression);
        bytes.extend(b"\0\0\0\0\0");
        let (lines, error) = read(&bytes[..], CAPS);
        assert_eq!(lines.len(), 2);
        let garbage = matches!(error, Some(BundleError::TrailingGarbage { at: 6, .. }));
        assert!(garbage, "{compression}: {error:?}");
    }
}

#[test]
fn a_wrong_checksum_is_damage_that_says_where() {
    for (compression, from_end) in
        [(Compression::Gzip, 8), (Compression::Zstd, 1), (Compression::Bzip2, 3)]
    {
        let mut bytes = compress(b"{}\n", compression);
        let at = bytes.len() - from_end;
        bytes[at] ^= 0xff;
        let error = error(&bytes);
        assert!(matches!(error, BundleError::Corrupt { .. }), "{compression}: {error:?}");
        assert!(error.to_string().contains("decompressed byte "), "{error}");
        assert!(!error.is_transient());
    }
}

#[test]
fn an_error_of_the_reader_is_passed_through_as_such() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the disk is gone"))
        }
    }
    for compression in ALL {
        let bytes = compress("{\"a\":1}\n".repeat(1000).as_bytes(), compression);
        for kept in [0, 2, bytes.len() / 2, bytes.len()] {
            for threads in [1, 2] {
                let (_, error) = read_on(bytes[..kept].chain(Fails), CAPS, threads);
                let Some(error @ BundleError::Read { .. }) = error else {
                    panic!("{compression} {kept}: {error:?}");
                };
                assert!(error.is_transient());
                let source = std::error::Error::source(&error).unwrap();
                assert_eq!(source.to_string(), "the disk is gone");
            }
        }
    }
}

#[test]
fn a_bundle_may_be_as_large_as_its_cap_and_no_larger() {
    let text = b"{}\n{}\n";
    for compression in ALL {
        let bytes = compress(text, compression);
        let caps = Caps { max_bundle_bytes: 6, max_line_bytes: 100 };
        assert_eq!(verify(&bytes[..], caps, 2).unwrap().bytes, 6);
        let (lines, error) = read(&bytes[..], Caps { max_bundle_bytes: 5, ..caps });
        assert_eq!(lines.len(), 1);
        assert!(matches!(error, Some(BundleError::TooLarge { limit: 5 })), "{error:?}");
    }
}

#[test]
fn a_line_over_the_cap_is_shown_and_passed_over() {
    let mut text = vec![b'x'; 100_000];
    text.extend(b"\r\n{}\n");
    for compression in ALL {
        let bytes = compress(&text, compression);
        let (lines, error) = read(&bytes[..], Caps { max_line_bytes: 99_999, ..CAPS });
        assert!(error.is_none());
        assert_eq!(lines[0], (Line::TooLong { number: 1, length: 100_000 }, vec![b'x'; 4096]));
        assert_eq!(lines[1], (Line::Record { number: 2 }, b"{}".to_vec()));
        let (lines, _) = read(&bytes[..], Caps { max_line_bytes: 100_000, ..CAPS });
        assert_eq!(lines[0].0, Line::Record { number: 1 });
        assert_eq!(lines[0].1.len(), 100_000);
    }
}

#[test]
fn a_gigabyte_of_zeros_is_one_long_line_in_bounded_memory() {
    let caps = Caps { max_bundle_bytes: 2 << 30, max_line_bytes: 1 << 20 };
    for compression in [Compression::Bzip2, Compression::Zstd] {
        let bomb = compress(&vec![0; 64 << 20], compression).repeat(16);
        assert!(bomb.len() < 100_000);
        let (lines, error) = read(&bomb[..], caps);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(
            lines,
            [(Line::TooLong { number: 1, length: 1 << 30 }, vec![0; KEPT_OF_LONG_LINE])]
        );
        let (lines, error) = read(&bomb[..], Caps { max_bundle_bytes: 80 << 20, ..caps });
        assert!(lines.is_empty());
        assert!(matches!(error, Some(BundleError::TooLarge { .. })), "{error:?}");
    }
}

#[test]
fn a_zstd_window_over_the_cap_is_refused() {
    let mut to = zstd::Encoder::new(Vec::new(), 1).unwrap();
    to.window_log(27).unwrap();
    to.write_all(b"{}\n").unwrap();
    // Because it is flushed in two steps, the frame does not know its size and keeps its window.
    to.flush().unwrap();
    let bytes = to.finish().unwrap();
    assert!(matches!(error(&bytes), BundleError::WindowTooLarge { at: 0, .. }));
}

#[test]
fn zstd_frames_to_be_skipped_are_skipped() {
    let mut bytes = vec![0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'a', b'b', b'c'];
    bytes.extend(compress(b"{}\n", Compression::Zstd));
    let (lines, error) = read(&bytes[..], CAPS);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(lines.len(), 1);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    for compression in ALL {
        let bytes = compress(b"\xef\xbb\xbf{}\n\xef\xbb\xbf[]\n", compression);
        let (lines, error) = read(&bytes[..], CAPS);
        assert!(error.is_none());
        let lines: Vec<_> = lines.into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(lines, [b"{}".to_vec(), b"\xef\xbb\xbf[]".to_vec()]);
    }
}
