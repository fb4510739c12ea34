//! Decompresses a bundle, stream after stream. The magic bytes tell the compression.

use std::io::{self, BufRead, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use parallel_bzip2::Rest;

use super::{BundleError, Compression};

/// Number of compressed bytes that are read at once.
const INPUT: usize = 64 * 1024;

/// Most decompressed bytes in one call, because a call that fails loses what it has decoded.
const CALL: usize = 64 * 1024;

/// Largest zstd window, as a power of two: 8 MiB. RFC 8878 recommends decoders to support it, and `zstd` writes no
/// larger one up to level 19. The format allows 2 TiB, and the header of a frame alone must not decide how much memory
/// is taken.
const WINDOW_LOG: u32 = 23;

/// A decompressing reader whose errors keep apart a failing reader and damaged data.
pub(super) struct Decoder<R> {
    state: State<R>,
    compression: Option<Compression>,
    produced: u64,
    /// Number of the next bytes that are not part of the bundle.
    skip: usize,
}

enum State<R> {
    /// Between two streams, or before the first.
    Between(Source<R>),
    Plain(Source<R>),
    Bzip2(Box<BzDecoder<Source<R>>>),
    Gzip(Box<GzDecoder<Source<R>>>),
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
    Done,
}

impl<R: Read> Decoder<Rest<R>> {
    /// Continues with the rest that the block decoder has left.
    pub(super) fn resume(rest: Rest<R>) -> Self {
        let (produced, skip) = (rest.produced(), rest.skip());
        Self { produced, skip, ..Self::new(rest) }
    }
}

impl<R: Read> Decoder<R> {
    /// Starts at the first byte of a bundle.
    pub(super) fn new(reader: R) -> Self {
        let state = State::Between(Source::new(reader));
        Self { state, compression: None, produced: 0, skip: 0 }
    }

    pub(super) fn compression(&self) -> Option<Compression> {
        self.compression
    }

    pub(super) fn produced(&self) -> u64 {
        self.produced
    }

    /// Appends up to `room` bytes to `out`. It appends none only if everything was read before.
    ///
    /// # Errors
    /// Any [`BundleError`]; it is [`BundleError::TooLarge`] if there are more than `most_bytes` in all. Bytes that were
    /// appended before the error are valid.
    pub(super) fn fill(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        most_bytes: u64,
    ) -> Result<(), BundleError> {
        let end = out.len() + room;
        let mut filled = out.len();
        out.resize(end, 0);
        let ended = loop {
            let left = most_bytes.saturating_sub(self.produced);
            // At the cap, one byte is requested to tell a bundle that ends here from one that continues. The request is
            // limited, because a call that fails loses what it has decoded.
            let room = (end - filled).min(CALL);
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).clamp(1, room);
            match self.read(out.get_mut(filled..filled + wanted).unwrap_or_default()) {
                Ok(0) => break Ok(()),
                Ok(_) if left == 0 => break Err(BundleError::TooLarge { limit: most_bytes }),
                Ok(read) => {
                    filled += read;
                    // If the input is slow, such as a terminal or a peer, complete lines do not wait for more bytes.
                    let slow = read < wanted && matches!(self.state, State::Plain(_));
                    if slow
                        && memchr::memrchr(b'\n', out.get(..filled).unwrap_or_default()).is_some()
                    {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error),
            }
            if filled == end {
                break Ok(());
            }
        };
        out.truncate(filled);
        ended
    }

    /// Fills the start of `out` and returns the number of bytes; 0 at the end of the last stream.
    ///
    /// # Errors
    /// Any [`BundleError`]; it is [`BundleError::TooLarge`] if there are more than `most_bytes` in all.
    pub(super) fn read_within(
        &mut self,
        out: &mut [u8],
        most_bytes: u64,
    ) -> Result<usize, BundleError> {
        let left = most_bytes.saturating_sub(self.produced);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).max(1).min(out.len());
        match self.read(out.get_mut(..wanted).unwrap_or_default())? {
            read if read > 0 && left == 0 => Err(BundleError::TooLarge { limit: most_bytes }),
            read => Ok(read),
        }
    }

    /// Fills the start of `out`, which must not be empty, and returns the number of bytes; 0 at the end of the last
    /// stream.
    fn read(&mut self, out: &mut [u8]) -> Result<usize, BundleError> {
        loop {
            let read = match &mut self.state {
                State::Plain(source) => source.read(out),
                State::Bzip2(stream) => stream.read(out),
                State::Gzip(stream) => stream.read(out),
                State::Zstd(stream) => stream.read(out),
                State::Done => return Ok(0),
                State::Between(_) => {
                    self.open()?;
                    continue;
                }
            };
            match read {
                Ok(0) => self.close(),
                Ok(n) => {
                    let skipped = self.skip.min(n);
                    if skipped > 0 {
                        self.skip -= skipped;
                        out.copy_within(skipped..n, 0);
                    }
                    let n = n - skipped;
                    if n == 0 {
                        continue;
                    }
                    self.produced = self.produced.saturating_add(n as u64);
                    return Ok(n);
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// Starts the next stream, or ends at the end of the input.
    fn open(&mut self) -> Result<(), BundleError> {
        let State::Between(mut source) = std::mem::replace(&mut self.state, State::Done) else {
            return Ok(());
        };
        let start = source.peek(4).map_err(|error| self.explain(error))?;
        let found = if start.is_empty() { None } else { Some(sniff(start)) };
        let compression = match (self.compression, found) {
            (None, None) => return Err(BundleError::Empty),
            (Some(_), None) => return Ok(()),
            (None, Some(Sniffed::Cut(compression))) => {
                self.compression = Some(compression);
                return Err(BundleError::Truncated { compression, at: 0 });
            }
            (None, Some(Sniffed::Whole(found))) => found,
            (Some(compression), Some(Sniffed::Whole(found))) if compression == found => found,
            (Some(compression), Some(Sniffed::Cut(found))) if compression == found => {
                return Err(BundleError::Truncated { compression, at: self.produced });
            }
            (Some(compression), Some(_)) => {
                return Err(BundleError::TrailingGarbage { compression, at: self.produced });
            }
        };
        self.compression = Some(compression);
        self.state = match compression {
            Compression::Plain => State::Plain(source),
            Compression::Bzip2 => State::Bzip2(Box::new(BzDecoder::new(source))),
            Compression::Gzip => State::Gzip(Box::new(GzDecoder::new(source))),
            Compression::Zstd => {
                let stream = zstd::Decoder::with_buffer(source).and_then(|mut stream| {
                    stream.window_log_max(WINDOW_LOG)?;
                    Ok(stream.single_frame())
                });
                State::Zstd(Box::new(stream.map_err(|error| self.explain(error))?))
            }
        };
        Ok(())
    }

    /// Ends the current stream.
    fn close(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::Bzip2(stream) => State::Between(stream.into_inner()),
            State::Gzip(stream) => State::Between(stream.into_inner()),
            State::Zstd(stream) => State::Between(stream.finish()),
            State::Plain(_) | State::Between(_) | State::Done => State::Done,
        };
    }

    fn explain(&self, error: io::Error) -> BundleError {
        let at = self.produced;
        let compression = self.compression.unwrap_or(Compression::Plain);
        let error = match error.downcast::<Below>() {
            Ok(Below(source)) => return BundleError::Read { at, source },
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return BundleError::Truncated { compression, at };
        }
        // zstd reports its errors only as texts.
        if compression == Compression::Zstd && error.to_string().contains("too much memory") {
            return BundleError::WindowTooLarge { at, limit: 1 << WINDOW_LOG };
        }
        BundleError::Corrupt { compression, at, source: error }
    }
}

pub(super) enum Sniffed {
    /// The start has the magic number of this compression, or none at all if it is plain.
    Whole(Compression),
    /// The input ends inside a magic number. No JSON starts like one.
    Cut(Compression),
}

/// Returns the compression by the first four bytes of a stream. Fewer bytes are the whole input.
pub(super) fn sniff(start: &[u8]) -> Sniffed {
    match start {
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Sniffed::Whole(Compression::Bzip2),
        [0x1f, 0x8b, ..] => Sniffed::Whole(Compression::Gzip),
        // This is the magic number of a frame or of a skippable frame (RFC 8878, section 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Sniffed::Whole(Compression::Zstd)
        }
        [b'B'] | [b'B', b'Z'] | [b'B', b'Z', b'h'] => Sniffed::Cut(Compression::Bzip2),
        [0x1f] => Sniffed::Cut(Compression::Gzip),
        [0x28] | [0x28, 0xb5] | [0x28, 0xb5, 0x2f] => Sniffed::Cut(Compression::Zstd),
        _ => Sniffed::Whole(Compression::Plain),
    }
}

/// Marks an error of the reader below on its way through a decompressor.
#[derive(Debug, thiserror::Error)]
#[error("the reader failed")]
struct Below(#[source] io::Error);

/// A buffered reader that can look at the next four bytes, and that marks its errors.
struct Source<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> Source<R> {
    fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; INPUT].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Returns the next `n` bytes without consuming them; fewer only at the end.
    fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        if self.end - self.start < n {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.end < n && self.more()? > 0 {}
        }
        let end = self.end.min(self.start + n);
        Ok(self.buffer.get(self.start..end).unwrap_or_default())
    }

    fn more(&mut self) -> io::Result<usize> {
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.reader.read(room) {
                Ok(n) => {
                    // A reader that returns more bytes than it was given room for is wrong, so its count is capped.
                    let n = n.min(room.len());
                    self.end += n;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::other(Below(error))),
            }
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), available.get(..n)) {
            to.copy_from_slice(from);
        }
        self.consume(n);
        Ok(n)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
            self.more()?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }
}
