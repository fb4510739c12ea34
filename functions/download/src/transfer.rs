//! Streams content from VirusTotal into the dispatcher's store, so that it is never whole in memory.

use std::{future::Future, io};

use azul_vt::{
    azul::{
        dispatcher::{Dispatcher, PostError},
        event::Datastream,
        streams::{STREAM_TIME, StreamError},
    },
    virustotal::{Content, VirusTotalError},
};
use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Response};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

/// Number of pieces that are buffered between VirusTotal and the store.
const PIECES: usize = 4;

/// Reasons why content is not in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// VirusTotal did not send the whole content.
    #[error(transparent)]
    Source(#[from] VirusTotalError),
    /// The content has no bytes.
    #[error("the content is empty")]
    Empty,
    /// The content is larger than the limit.
    #[error("the content has more than {0} bytes (MAX_DOWNLOAD_SIZE_MB)")]
    TooLarge(u64),
    /// The content has another SHA-256 than the one that was requested.
    #[error("the content has the SHA-256 {0}, which is not the one asked for")]
    Mismatch(String),
    /// The content is not a network capture, although one was requested.
    #[error("the content is no network capture")]
    NoCapture,
    /// The transfer took longer than an upload may take.
    #[error("the content did not come within {} minutes", STREAM_TIME.as_secs() / 60)]
    Slow,
    /// The store did not take the content.
    #[error(transparent)]
    Store(#[from] StreamError),
}

/// A source of content in pieces.
pub(crate) trait Pieces: Send {
    /// Returns the length of the content in bytes; `None` if it is not known.
    fn length(&self) -> Option<u64>;

    /// Returns the next piece; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, TransferError>> + Send;
}

impl Pieces for Content {
    fn length(&self) -> Option<u64> {
        Content::length(self)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        Ok(self.piece().await?)
    }
}

/// The store's own content, to be stored once more.
impl Pieces for Response {
    fn length(&self) -> Option<u64> {
        self.content_length()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        let broken =
            |e: reqwest::Error| StreamError::NoAnswer(PostError::Broken(e.without_url())).into();
        self.chunk().await.map_err(broken)
    }
}

/// The place of content in the store, and the conditions that it must meet.
#[derive(Clone, Copy)]
pub(crate) struct Transfer<'a> {
    pub(crate) store: &'a Dispatcher,
    pub(crate) source: &'a str,
    pub(crate) label: &'a str,
    /// SHA-256 that the content must have; `None`: any.
    pub(crate) sha256: Option<&'a str>,
    /// Most bytes of the content; `None`: no limit.
    pub(crate) most: Option<u64>,
}

/// Reasons why content was not sent completely.
enum Broken {
    /// The content cannot be read, or does not meet the conditions.
    Content(TransferError),
    /// The store stopped reading.
    Unread,
}

impl Transfer<'_> {
    /// Streams content into the store: first the pieces that were read before (`begun`), then the rest. If the content
    /// does not meet the conditions, the store keeps nothing.
    pub(crate) async fn run(
        self,
        begun: Vec<Bytes>,
        content: impl Pieces,
    ) -> Result<Datastream, TransferError> {
        if let Some(most) = self.most
            && content.length().is_some_and(|length| length > most)
        {
            return Err(TransferError::TooLarge(most));
        }
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
        let pieces = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let body = Body::wrap_stream(pieces);
        let storing = self.store.put_stream(self.source, self.label, self.sha256, body);
        let sending = async {
            let sent = self.send(begun, content, &sender).await;
            if sent.is_err() {
                // The error breaks the request off, so that the store keeps nothing.
                let _ = sender.send(Err(io::Error::other("the content broke off"))).await;
            }
            drop(sender);
            sent
        };
        let nonsense =
            |why: &str| Err(StreamError::NoAnswer(PostError::Nonsense(why.to_owned())).into());
        match tokio::join!(sending, storing) {
            (Ok(sha256), Ok(stored)) if stored.sha256 == sha256 => Ok(stored),
            (Ok(_), Ok(_)) => nonsense("it describes another content than was sent"),
            (Err(Broken::Content(error)), _) => Err(error),
            // The store was still waiting for the rest.
            (Err(Broken::Unread), Err(StreamError::NoAnswer(PostError::Timeout(_)))) => {
                Err(TransferError::Slow)
            }
            (_, Err(error)) => Err(error.into()),
            (Err(Broken::Unread), Ok(_)) => nonsense("it came before all was sent"),
        }
    }

    /// Sends all pieces, and returns the SHA-256 of the content.
    async fn send(
        &self,
        begun: Vec<Bytes>,
        mut content: impl Pieces,
        to: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<String, Broken> {
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        let mut begun = begun.into_iter();
        loop {
            let piece = match begun.next() {
                Some(piece) => piece,
                None => match content.next().await.map_err(Broken::Content)? {
                    Some(piece) => piece,
                    None => break,
                },
            };
            bytes = bytes.saturating_add(piece.len() as u64);
            if let Some(most) = self.most.filter(|most| bytes > *most) {
                return Err(Broken::Content(TransferError::TooLarge(most)));
            }
            hash.update(&piece);
            to.send(Ok(piece)).await.map_err(|_| Broken::Unread)?;
        }
        if bytes == 0 {
            return Err(Broken::Content(TransferError::Empty));
        }
        let sha256 = hex::encode(hash.finalize());
        if self.sha256.is_some_and(|wanted| wanted != sha256) {
            return Err(Broken::Content(TransferError::Mismatch(sha256)));
        }
        Ok(sha256)
    }
}
