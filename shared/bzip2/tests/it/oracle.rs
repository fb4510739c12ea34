//! Compares the decoder with the ordinary one: for any input, both yield the same bytes and the same end.

#![expect(clippy::cast_possible_truncation, reason = "tests")]

use std::io::{self, Cursor, Read, Write as _};

use bzip2::{Compression, write::BzEncoder};
use parallel_bzip2::{End, Limits, decode};
use proptest::prelude::*;

use crate::ordinary::{Fate, ordinary, ordinary_from};

/// Magic number at the start of a block.
const BLOCK: u64 = 0x3141_5926_5359;
/// Magic number at the start of a stream's end.
const END: u64 = 0x1772_4538_5090;

fn limits(threads: usize) -> Limits {
    Limits { threads, max_bytes: u64::MAX }
}

/// Decodes by blocks, then the rest with the ordinary decoder. Also returns the number of bytes that came by blocks.
fn by_blocks(reader: impl Read + Send, threads: usize, most: u64) -> (Vec<u8>, Fate, usize) {
    let mut out = Vec::new();
    let end = decode(
        reader,
        Limits { threads, max_bytes: most },
        |text| Some(text.len()),
        |length, text| {
            assert_eq!(length, text.len());
            text.to_vec()
        },
        |text| {
            out.extend_from_slice(&text);
            Ok::<_, ()>(())
        },
    );
    let by_blocks = out.len();
    let fate = match end.unwrap() {
        End::Complete { bytes } => {
            assert_eq!(bytes, out.len() as u64);
            Fate::Sound
        }
        End::Unclear(rest) => {
            assert_eq!(rest.produced(), out.len() as u64);
            let skip = rest.skip();
            ordinary_from(rest, skip, &mut out)
        }
    };
    (out, fate, by_blocks)
}

/// Asserts that both decoders come to the same end, and returns the number of bytes that came by blocks.
fn assert_same(input: &[u8]) -> usize {
    let (expected, fate) = ordinary(input);
    let mut all = Vec::new();
    for threads in [1, 2, 3] {
        let (out, found, by_blocks) = by_blocks(input, threads, u64::MAX);
        assert_eq!(found, fate, "{threads} threads");
        if fate == Fate::Sound {
            assert!(out == expected, "{threads} threads");
        } else {
            // In the call that fails, the ordinary decoder loses the bytes that it has decoded.
            let least = out.len().min(expected.len());
            assert!(out.len().abs_diff(expected.len()) <= 64 << 10, "{threads} threads");
            assert!(out[..least] == expected[..least], "{threads} threads");
        }
        all.push(by_blocks);
    }
    assert!(all.windows(2).all(|two| two[0] == two[1]));
    all[0]
}

fn compress(text: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Returns a text made from a seed, with sections of runs, words, noise and all bytes.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let mut out = Vec::with_capacity(length + 5000);
    while out.len() < length {
        let kind = random(6);
        let count = random(5000) as usize;
        match kind {
            0 => out.extend((0..count).map(|_| random(256) as u8)),
            1 => out.resize(out.len() + count, random(256) as u8),
            2 => out.extend((0..count).map(|i| (i % 7) as u8 + b'a')),
            3 => out.extend(b"{\"attributes\": {\"names\": [\"".iter().cycle().take(count)),
            4 => out.extend((0..count).map(|_| b"abc\n"[random(4) as usize])),
            _ => {
                let from = random(out.len() as u64 + 1) as usize;
                let again = out[from..].iter().copied().take(count).collect::<Vec<_>>();
                out.extend(again);
            }
        }
    }
    out.truncate(length);
    out
}

/// Makes inputs of several streams after one another.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let one = (any::<u64>(), prop_oneof![0..30_usize, 0..5000_usize, 0..400_000_usize], 1..=9_u32)
        .prop_map(|(seed, length, level)| compress(&text(seed, length), level));
    proptest::collection::vec(one, 1..4).prop_map(|streams| streams.concat())
}

fn put(input: &mut [u8], bit: usize, value: u64, count: usize) {
    for i in 0..count {
        let Some(byte) = input.get_mut((bit + i) / 8) else { return };
        let mask = 0x80 >> ((bit + i) % 8);
        *byte &= !mask;
        if value >> (count - 1 - i) & 1 != 0 {
            *byte |= mask;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn sound_streams(input in streams()) {
        assert_same(&input);
    }

    #[test]
    fn cut_streams(input in streams(), cut in any::<proptest::sample::Index>()) {
        assert_same(&input[..cut.index(input.len())]);
    }

    #[test]
    fn flipped_bits(mut input in streams(), bits in proptest::collection::vec(any::<proptest::sample::Index>(), 1..3)) {
        for bit in bits {
            let bit = bit.index(input.len() * 8);
            input[bit / 8] ^= 0x80 >> (bit % 8);
        }
        assert_same(&input);
    }

    #[test]
    fn magics_by_chance(mut input in streams(), bit in any::<proptest::sample::Index>(), end in any::<bool>()) {
        let bit = bit.index(input.len() * 8);
        put(&mut input, bit, if end { END } else { BLOCK }, 48);
        assert_same(&input);
    }

    #[test]
    fn garbage_after_the_end(mut input in streams(), garbage in proptest::collection::vec(any::<u8>(), 1..20)) {
        input.extend(garbage);
        assert_same(&input);
    }

    #[test]
    fn anything(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert_same(&input);
        assert_same(&[b"BZh1", &input[..]].concat());
        assert_same(&[b"BZh91AY&SY", &input[..]].concat());
    }

    #[test]
    fn readers_that_fail(input in streams(), cut in any::<proptest::sample::Index>(), threads in 1..4_usize) {
        let cut = cut.index(input.len());
        let failing = || Cursor::new(input[..cut].to_vec()).chain(Failing);
        let (expected, fate) = ordinary(failing());
        assert_eq!(fate, Fate::Failed);
        let (out, fate, _) = by_blocks(failing(), threads, u64::MAX);
        assert_eq!(fate, Fate::Failed);
        let least = out.len().min(expected.len());
        assert!(out.len().abs_diff(expected.len()) <= 64 << 10);
        assert!(out[..least] == expected[..least]);
    }

    #[test]
    fn caps(input in streams(), most in 0..500_000_u64, threads in 1..4_usize) {
        let (expected, fate) = ordinary(&input[..]);
        let (out, found, by_blocks) = by_blocks(&input[..], threads, most);
        assert!(by_blocks as u64 <= most);
        assert_eq!(found, fate);
        assert!(out == expected);
    }
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::TimedOut.into())
    }
}

#[test]
fn sound_streams_need_no_ordinary_decoder() {
    for (level, length) in [(1, 0), (1, 1), (1, 350_000), (9, 350_000), (9, 2_000_000)] {
        let input = compress(&text(length as u64, length), level);
        assert_eq!(assert_same(&input), length);
        assert_eq!(assert_same(&[&input[..], &input, &input].concat()), 3 * length);
    }
}

#[test]
fn bytes_that_repeat() {
    for period in [1, 2, 3, 64, 1000, 10_000] {
        let one = text(period as u64 + 77, period);
        let plain: Vec<u8> = one.iter().copied().cycle().take(300_000).collect();
        assert_same(&compress(&plain, 9));
        assert_same(&compress(&plain, 1));
        let noise: Vec<u8> = (0..period).map(|i| (i * i * 31 + i / 7) as u8).collect();
        let plain: Vec<u8> = noise.iter().copied().cycle().take(840_000).collect();
        assert_eq!(assert_same(&compress(&plain, 9)), plain.len());
    }
}

#[test]
fn long_runs_of_the_sorted_text_beside_rare_bytes() {
    // The rows that start with the pair are preceded by its second byte 250,000 times, and then by the rare one.
    for rare in [2, 123, 124, 125, 126, 127, 250] {
        let pairs = |count: usize| [0, 1].into_iter().cycle().take(2 * count);
        let mut plain: Vec<u8> = (0..=255).collect();
        plain.extend(pairs(300_000));
        plain.push(rare);
        plain.extend(pairs(50_000));
        plain.extend((0..=255).rev());
        assert_eq!(assert_same(&compress(&plain, 9)), plain.len());
    }
}

#[test]
fn blocks_of_much_more_than_they_have_room_for_are_left_to_the_ordinary_decoder() {
    let plain = vec![b'x'; 30 << 20];
    assert_eq!(assert_same(&compress(&plain, 9)), 0);
}

#[test]
fn cut_at_each_place_of_a_small_stream() {
    let input = [compress(b"one\n", 1), compress(b"", 5), compress(b"three\n", 9)].concat();
    for cut in 0..=input.len() {
        assert_same(&input[..cut]);
    }
    for bit in 0..input.len() * 8 {
        let mut damaged = input.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_same(&damaged);
    }
}

#[test]
fn faults_in_any_block_are_found_after_the_blocks_before() {
    let plain = text(5, 700_000);
    let input = compress(&plain, 1);
    let mut most = 0;
    for part in 1..40 {
        let mut damaged = input.clone();
        damaged[input.len() * part / 40] ^= 1 << (part % 8);
        most = most.max(assert_same(&damaged));
    }
    assert!(most > 400_000);
}

#[test]
fn a_wrong_checksum_of_the_stream_is_found() {
    let mut input = compress(&text(9, 250_000), 1);
    let last = input.len() - 2;
    input[last] ^= 1;
    assert!(assert_same(&input) > 200_000);
    let again = compress(b"more", 1);
    assert_same(&[input, again].concat());
}

#[test]
fn a_taker_that_gives_up_and_a_panic_end_all_threads() {
    let input = compress(&text(9, 900_000), 1);
    for threads in [1, 2, 5] {
        let mut seen = 0;
        let take = |()| {
            seen += 1;
            if seen == 3 { Err("enough") } else { Ok(()) }
        };
        let ended = decode(&input[..], limits(threads), |_| Some(()), |(), _| (), take);
        assert!(matches!(ended, Err("enough")));
        assert_eq!(seen, 3);
        for place in ["pass", "work", "take"] {
            let ended = std::panic::catch_unwind(|| {
                let mut passed = 0;
                let mut taken = 0;
                let _ = decode(
                    &input[..],
                    limits(threads),
                    |_| {
                        passed += 1;
                        assert!(place != "pass" || passed < 4, "on purpose");
                        Some(passed)
                    },
                    |passed, _| assert!(place != "work" || passed < 4, "on purpose"),
                    |()| {
                        taken += 1;
                        assert!(place != "take" || taken < 4, "on purpose");
                        Ok::<_, ()>(())
                    },
                );
            });
            assert!(ended.is_err());
        }
    }
}
