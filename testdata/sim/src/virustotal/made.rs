//! Pseudo-random content of any size, made piece by piece and never whole in memory.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

use crate::feed::rng::split_mix;

const PIECE_BYTES: u64 = 64 * 1024;

/// The part of some content that is still to be made. The bytes depend only on size and seed.
#[derive(Clone, Debug)]
pub(super) struct Made {
    left: u64,
    state: u64,
}

impl Made {
    pub(super) fn new(size: u64, seed: u64) -> Self {
        Self { left: size, state: seed }
    }

    /// Returns the SHA-256 of the whole content, as lower-case hex.
    pub(super) fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for piece in self.clone() {
            hash.update(&piece);
        }
        hex::encode(hash.finalize())
    }
}

impl Iterator for Made {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let size = self.left.min(PIECE_BYTES);
        self.left -= size;
        let mut piece = vec![0; usize::try_from(size).unwrap_or_default()];
        for word in piece.chunks_mut(8) {
            let bytes = split_mix(&mut self.state).to_le_bytes();
            word.copy_from_slice(bytes.get(..word.len()).unwrap_or_default());
        }
        (size > 0).then(|| Bytes::from(piece))
    }
}

impl Body for Made {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|piece| Ok(Frame::data(piece))))
    }

    /// Returns the size that becomes the answer's Content-Length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
