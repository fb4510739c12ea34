//! Errors of requests to VirusTotal (its reference, "Errors").

use std::{fmt, io, path::PathBuf, time::Duration};

use super::allowed_hosts::Untrusted;
use base::peer_text;
use net::secrets::SecretError;

/// Description of an answer, or of a missing one, for errors. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The requested thing, such as `feed minute 202611240857`.
    pub asked: String,
    /// The HTTP status; `None` if there was no answer.
    pub status: Option<u16>,
    /// VirusTotal's error code, such as `NotAvailableYet`. If the answer has none, a code of this program, such as
    /// `Timeout`.
    pub code: String,
    /// VirusTotal's message, shortened and without the key, or a description of what happened.
    pub message: String,
    /// Id of the request in the log: the server's id if it sent one, else the id that was sent to it.
    pub request_id: String,
    /// Whether the request went to VirusTotal's own origin, not to a host that it redirected to.
    pub is_own: bool,
}

/// Longest code that an error shows, in characters.
const MAX_CODE_CHARS: usize = 60;
/// Longest message that an error shows, in characters.
const MAX_MESSAGE_CHARS: usize = 300;

impl Answer {
    /// Makes an answer of VirusTotal's own origin. Its code and message are shortened, and secrets in them are hidden.
    pub(super) fn new(
        asked: &str,
        status: Option<u16>,
        code: &str,
        message: &str,
        request_id: &str,
    ) -> Self {
        Self {
            asked: asked.to_owned(),
            status,
            code: peer_text::line(code, MAX_CODE_CHARS),
            message: peer_text::line(message, MAX_MESSAGE_CHARS),
            request_id: request_id.to_owned(),
            is_own: true,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirusTotal, asked for {}: ", self.asked)?;
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        f.write_str(&self.code)?;
        if !self.message.is_empty() {
            // The message may be set later, from a body, so it is cleaned here as well.
            write!(f, ": {}", peer_text::line(&self.message, MAX_MESSAGE_CHARS))?;
        }
        write!(f, " (request {})", self.request_id)
    }
}

/// Reason why VirusTotal did not return the requested thing.
#[derive(Debug, thiserror::Error)]
pub enum VirusTotalError {
    /// There is no key.
    #[error("there is no VirusTotal key: set VIRUSTOTAL_APIKEY or VIRUSTOTAL_APIKEY_SECRET")]
    NoKey,
    /// The key cannot be read at the moment.
    #[error("VirusTotal was not asked, for want of the key")]
    KeyUnreadable(#[from] SecretError),
    /// The key has bytes that no header can carry.
    #[error("VIRUSTOTAL_APIKEY holds characters that no key has, such as a line break")]
    KeyUnusable,
    /// 404: VirusTotal does not have the requested thing. For a feed minute: it has no bundle (yet).
    #[error("{0}")]
    Missing(Box<Answer>),
    /// 400 `NotAvailableYet`: the feed minute is too young.
    #[error("{0}: the feed is an hour behind, ask again in a minute")]
    NotAvailableYet(Box<Answer>),
    /// Any other 400: asking again changes nothing.
    #[error("{0}")]
    BadRequest(Box<Answer>),
    /// 401: VirusTotal does not accept the key.
    #[error(
        "{0}: check that VIRUSTOTAL_APIKEY holds the whole key of an active user, without quotes"
    )]
    Unauthorized(Box<Answer>),
    /// 403: the key lacks a privilege.
    #[error(
        "{0}: the key is known but may not do this (the file feed, for example, needs VirusTotal's File \
         feeds licence): their sales contact adds what is lacking to the key's group"
    )]
    Forbidden(Box<Answer>),
    /// 424, 429, 5xx, no answer, or an answer that broke off: asking again later may help.
    #[error("{answer}")]
    Transient {
        /// The answer; its `status` is 429 if a quota is used up.
        answer: Box<Answer>,
        /// Wait that the server asks for.
        retry_after: Option<Duration>,
        /// Reason why there was no answer, or an incomplete one.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// A status that VirusTotal does not document for this call: asking again changes nothing.
    #[error("{0}")]
    Unexpected(Box<Answer>),
    /// The answer redirects to a host that is not allowed, without a target, or too often.
    #[error("{answer}")]
    Redirect {
        /// The redirecting answer.
        answer: Box<Answer>,
        /// The rule that the target breaks, if that is the reason.
        #[source]
        source: Option<Untrusted>,
    },
    /// The body is larger than the limit.
    #[error("{answer}: the body has more than {limit} bytes, which is the limit")]
    TooLarge {
        /// The answer.
        answer: Box<Answer>,
        /// The limit in bytes.
        limit: u64,
    },
    /// The received content could not be written to a file.
    #[error("{path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// The code that VirusTotal itself sends with a 404.
const NOT_FOUND: &str = "NotFoundError";
/// Code of this program for an answer with status 200 whose body is not the requested thing.
pub(super) const NOT_THAT: &str = "NotWhatWasAskedFor";

impl VirusTotalError {
    /// Makes a 404 transient unless its code shows that VirusTotal itself wrote it. For requests for a single object,
    /// because the 404 of a proxy or a gateway does not mean that the object is missing.
    pub(super) fn transient_unless_own_404(self) -> Self {
        match self {
            Self::Missing(answer) if answer.code != NOT_FOUND => {
                Self::Transient { answer, retry_after: None, source: None }
            }
            error => error,
        }
    }

    /// Whether the same request may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::NotAvailableYet(_) | Self::KeyUnreadable(_))
    }

    /// Whether the peer is out: it gave no answer or a server error, which says nothing about the object. An answer
    /// that breaks off is not an outage.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::KeyUnreadable(_) => true,
            Self::Transient { answer, .. } => match answer.status {
                Some(status) => matches!(status, 408 | 500..),
                None => matches!(answer.code.as_str(), "NoAnswer" | "Timeout"),
            },
            _ => false,
        }
    }

    /// Returns whether something else than VirusTotal seems to have answered, such as a proxy with an error page. The
    /// body is then not the requested thing and has no error code of VirusTotal. Unexpected content from a host that
    /// VirusTotal redirected to does not count, because it concerns only that file.
    pub fn is_foreign_answer(&self) -> bool {
        match self {
            Self::Transient { answer, .. } => {
                answer.is_own && (answer.status == Some(404) || answer.code == NOT_THAT)
            }
            _ => false,
        }
    }

    /// Returns the error with [`Answer::is_own`] set to `is_own`.
    pub(super) fn of(mut self, is_own: bool) -> Self {
        if let Self::Transient { answer, .. } = &mut self {
            answer.is_own = is_own;
        }
        self
    }

    /// Returns whether all requests fail until an operator changes the key or its privileges.
    pub fn needs_operator(&self) -> bool {
        matches!(self, Self::NoKey | Self::KeyUnusable | Self::Unauthorized(_) | Self::Forbidden(_))
    }

    /// Returns how long the server asks to wait, at most [`net::http_client::MAX_PAUSE`].
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transient { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns the answer, if a request was sent.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Missing(answer)
            | Self::NotAvailableYet(answer)
            | Self::BadRequest(answer)
            | Self::Unauthorized(answer)
            | Self::Forbidden(answer)
            | Self::Unexpected(answer)
            | Self::Transient { answer, .. }
            | Self::Redirect { answer, .. }
            | Self::TooLarge { answer, .. } => Some(answer),
            Self::NoKey | Self::KeyUnreadable(_) | Self::KeyUnusable | Self::Write { .. } => None,
        }
    }

    /// Returns the id of the request in the log, if one was sent.
    pub fn request_id(&self) -> Option<&str> {
        self.answer().map(|answer| answer.request_id.as_str())
    }
}
