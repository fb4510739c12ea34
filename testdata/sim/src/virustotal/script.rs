//! Scripts: behaviours for the next requests that replace the normal answer, in order.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::fault::Fault;

/// Behaviour at a request for a minute, a file, a PCAP or hits, instead of the normal answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// 404 `NotFoundError`: the batch was never produced.
    Missing,
    /// 400 `NotAvailableYet`.
    NotAvailableYet,
    /// 401 `WrongCredentialsError`.
    Unauthorized,
    /// 403 `ForbiddenError`: no feed licence.
    Forbidden,
    /// 429 `QuotaExceededError`, with Retry-After in seconds or without.
    TooManyRequests(Option<u64>),
    /// 500 with a body that is not JSON.
    ServerError,
    /// 503 `TransientError`, with Retry-After in seconds or without.
    Transient(Option<u64>),
    /// 504 `DeadlineExceededError`.
    DeadlineExceeded,
    /// A redirect without a Location.
    RedirectNowhere,
    /// A redirect to the same place, again and again.
    RedirectLoop,
    /// A redirect to that URL.
    RedirectTo(String),
    /// Any fault, on the answer of VirusTotal's own origin.
    Api(Fault),
    /// Any fault, on the answer that carries the content, which is the second origin's for a bundle
    /// or a file: for example [`Fault::TruncateBody`], [`Fault::FlipByte`], [`Fault::EmptyBody`],
    /// [`Fault::ResetInBody`], [`Fault::HangInBody`], [`Fault::Delay`].
    Content(Fault),
    /// Another content than the minute's, the file's, the PCAP's or the page's own, this time.
    Bundle(Bytes),
}

impl Behaviour {
    fn is_of_content(&self) -> bool {
        matches!(self, Self::Content(_) | Self::Bundle(_))
    }
}

/// Behaviours in order, each with the number of requests that it is for.
#[derive(Debug, Default)]
pub(super) struct Script(VecDeque<(Behaviour, usize)>);

impl Script {
    /// Queues that up, `times` times.
    pub(super) fn push(&mut self, behaviour: &Behaviour, times: usize) {
        if times > 0 {
            self.0.push_back((behaviour.clone(), times));
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether other content comes next.
    pub(super) fn gives_other_content(&self) -> bool {
        matches!(self.0.front(), Some((Behaviour::Bundle(_), _)))
    }

    /// Takes the next behaviour, whatever it is.
    pub(super) fn take(&mut self) -> Option<Behaviour> {
        let (behaviour, times) = self.0.front_mut()?;
        let behaviour = behaviour.clone();
        *times = times.saturating_sub(1);
        if *times == 0 {
            self.0.pop_front();
        }
        Some(behaviour)
    }

    /// Takes the next behaviour if it applies to the content (`content` is true), or to all else (`content` is false).
    pub(super) fn take_for(&mut self, content: bool) -> Option<Behaviour> {
        if self.0.front()?.0.is_of_content() != content {
            return None;
        }
        self.take()
    }
}
