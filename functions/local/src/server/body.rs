//! A request's body that has to arrive at a minimum rate.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Times, connections::BodyWatch};

/// The body came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("it came too slowly: send at least {} KB a second", BYTES_PER_SECOND / 1024)]
struct TooSlow;

/// Minimum rate of a body: bytes a second on average, after the first [`Times::body_grace`].
const BYTES_PER_SECOND: u32 = 16 * 1024;

/// A body that ends in an error if nothing arrives for a while, or if it arrives too slowly.
pub(crate) struct PacedBody {
    body: Incoming,
    times: Times,
    watch: BodyWatch,
    /// Time for which the rest of the body may still be awaited in all. Bytes add to it, up to [`Times::body_grace`],
    /// so that a fast start does not allow a client to drip for long afterwards. Time in which nobody reads is not
    /// counted against the client.
    patience: Duration,
    /// Time since which a piece is awaited.
    awaits_since: Option<Instant>,
    /// Timer that wakes the reader when the body is late.
    late: Pin<Box<Sleep>>,
}

impl PacedBody {
    pub(super) fn new(body: Incoming, times: Times, watch: BodyWatch) -> Self {
        let late = Box::pin(sleep_until(Instant::now()));
        Self { body, times, watch, patience: times.body_grace, awaits_since: None, late }
    }

    fn begin_to_wait(&mut self) {
        let now = Instant::now();
        self.awaits_since = Some(now);
        self.watch.awaits();
        self.late.as_mut().reset(now + self.patience.min(self.times.body_silence));
    }

    fn end_to_wait(&mut self) {
        if let Some(since) = self.awaits_since.take() {
            self.watch.came();
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            if this.awaits_since.is_none() {
                this.begin_to_wait();
            }
            ready!(this.late.as_mut().poll(context));
            return Poll::Ready(Some(Err(TooSlow.into())));
        };
        this.end_to_wait();
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let earned = Duration::from_secs(bytes as u64) / BYTES_PER_SECOND;
            this.patience = (this.patience + earned).min(this.times.body_grace);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
