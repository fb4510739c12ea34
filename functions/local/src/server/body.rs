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

use super::Times;

/// The body came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("it came too slowly: send at least {} KB a second", BYTES_PER_SECOND / 1024)]
struct TooSlow;

/// Minimum rate of a body: bytes a second on average, after the first [`Times::body_grace`].
const BYTES_PER_SECOND: u64 = 16 * 1024;

/// A body that ends in an error if nothing arrives for a while, or if the average rate is too low.
pub(crate) struct PacedBody {
    body: Incoming,
    times: Times,
    /// Time of the first read.
    begun: Option<Instant>,
    received: u64,
    /// Wakes the reader when the body is late.
    late: Pin<Box<Sleep>>,
}

impl PacedBody {
    pub(super) fn new(body: Incoming, times: Times) -> Self {
        let late = Box::pin(sleep_until(Instant::now()));
        Self { body, times, begun: None, received: 0, late }
    }

    /// Returns the time by which the next piece has to arrive.
    fn deadline(&self, begun: Instant, now: Instant) -> Instant {
        let whole = self.times.body_grace + Duration::from_secs(self.received / BYTES_PER_SECOND);
        (begun + whole).min(now + self.times.body_silence)
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
        let begun = this.begun.unwrap_or_else(|| {
            let now = Instant::now();
            let deadline = this.deadline(now, now);
            this.late.as_mut().reset(deadline);
            *this.begun.insert(now)
        });
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            ready!(this.late.as_mut().poll(context));
            return Poll::Ready(Some(Err(TooSlow.into())));
        };
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            this.received = this.received.saturating_add(length as u64);
            let now = Instant::now();
            let deadline = this.deadline(begun, now);
            if deadline < now {
                return Poll::Ready(Some(Err(TooSlow.into())));
            }
            this.late.as_mut().reset(deadline);
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
