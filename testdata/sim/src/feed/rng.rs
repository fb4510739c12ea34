//! A small generator of pseudo-random numbers (SplitMix64): the same on every platform, for ever.

use std::fmt::Write as _;

/// State and the draws from it.
#[derive(Debug)]
pub(super) struct Rng {
    state: u64,
    small: bool,
}

const WORDS: [&str; 40] = [
    "amber", "basalt", "cedar", "delta", "ember", "fjord", "garnet", "harbor", "indigo", "jasper",
    "kelp", "lumen", "maple", "nectar", "onyx", "pebble", "quartz", "raven", "saffron", "tundra",
    "umber", "velvet", "willow", "xenon", "yarrow", "zephyr", "anchor", "breeze", "copper",
    "drift", "falcon", "glacier", "hollow", "island", "juniper", "lantern", "meadow", "north",
    "orchid", "prism",
];

/// The next number of that state.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    pub(super) fn new(seed: u64, minute: &str, index: u64, small: bool) -> Self {
        let mut rng = Self { state: seed, small };
        for byte in minute.bytes() {
            rng.state = rng.next() ^ u64::from(byte);
        }
        rng.state = rng.next() ^ index;
        rng
    }

    pub(super) fn next(&mut self) -> u64 {
        split_mix(&mut self.state)
    }

    /// From `low` to `high`, both included.
    pub(super) fn range(&mut self, low: i64, high: i64) -> i64 {
        let span = high.abs_diff(low).saturating_add(1);
        low + (self.next() % span).cast_signed()
    }

    /// Returns the length of a list: from `low` to `high`, at most 2 in small records.
    pub(super) fn len(&mut self, low: i64, high: i64) -> i64 {
        let n = self.range(low, high);
        if self.small { n.min(2) } else { n }
    }

    pub(super) fn chance(&mut self, percent: i64) -> bool {
        self.range(1, 100) <= percent
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let last = i64::try_from(from.len()).unwrap_or(1) - 1;
        let at = usize::try_from(self.range(0, last)).unwrap_or_default();
        from.get(at).copied().unwrap_or_default()
    }

    pub(super) fn word(&mut self) -> &'static str {
        self.pick(&WORDS)
    }

    /// Lower-case hex of that many digits.
    pub(super) fn hex(&mut self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            // Writing to a string does not fail.
            let _ = write!(text, "{:016x}", self.next());
        }
        text.truncate(digits);
        text
    }

    /// A decimal number between `low` and `high` with up to six digits after the point.
    pub(super) fn decimal(&mut self, low: i64, high: i64) -> String {
        let micros = self.range(low * 1_000_000, high * 1_000_000);
        format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }

    /// `AmberCedar`, in the way of function and type names.
    pub(super) fn camel(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..2 {
            let word = self.word();
            text.extend(word.chars().take(1).flat_map(char::to_uppercase));
            text.extend(word.chars().skip(1));
        }
        text
    }

    /// A sentence of that many words.
    pub(super) fn sentence(&mut self, words: i64) -> String {
        let mut text = self.camel();
        for _ in 1..words {
            text.push(' ');
            text.push_str(self.word());
        }
        text.push('.');
        text
    }

    /// A host of a domain reserved for examples.
    pub(super) fn host(&mut self) -> String {
        let domain = self.pick(&["example.com", "example.net", "example.org"]);
        format!("{}-{}.{domain}", self.word(), self.range(1, 999))
    }

    /// An address of a network reserved for documentation.
    pub(super) fn address(&mut self) -> String {
        let network = self.pick(&["192.0.2", "198.51.100", "203.0.113"]);
        format!("{network}.{}", self.range(1, 254))
    }

    /// `2019-05-23 10:11:12`.
    pub(super) fn date_time(&mut self) -> String {
        format!("{} {}", self.date('-'), self.time())
    }

    pub(super) fn date(&mut self, sep: char) -> String {
        format!(
            "{}{sep}{:02}{sep}{:02}",
            self.range(2009, 2025),
            self.range(1, 12),
            self.range(1, 28)
        )
    }

    pub(super) fn time(&mut self) -> String {
        format!("{:02}:{:02}:{:02}", self.range(0, 23), self.range(0, 59), self.range(0, 59))
    }

    /// `1.2.3.4`.
    pub(super) fn version(&mut self) -> String {
        format!(
            "{}.{}.{}.{}",
            self.range(1, 20),
            self.range(0, 9),
            self.range(0, 9999),
            self.range(0, 99)
        )
    }

    pub(super) fn guid(&mut self) -> String {
        format!("{}-{}-{}-{}-{}", self.hex(8), self.hex(4), self.hex(4), self.hex(4), self.hex(12))
    }
}
