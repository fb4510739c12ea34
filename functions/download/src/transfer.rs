//! Content from VirusTotal into the dispatcher's store, piece by piece: never whole in memory.

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

/// Pieces on their way between the two.
const PIECES: usize = 4;

/// Why content is not in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// VirusTotal did not give it to its end.
    #[error(transparent)]
    Source(#[from] VirusTotalError),
    /// There was nothing of it.
    #[error("the content is empty")]
    Empty,
    /// It is larger than what is wanted.
    #[error("the content has more than {0} bytes (MAX_DOWNLOAD_SIZE_MB)")]
    TooLarge(u64),
    /// It is another content.
    #[error("the content has the SHA-256 {0}, which is not the one asked for")]
    Mismatch(String),
    /// It is not of the kind that was asked for.
    #[error("the content is no network capture")]
    NoCapture,
    /// It took longer than an upload may.
    #[error("the content did not come within {} minutes", STREAM_TIME.as_secs() / 60)]
    Slow,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StreamError),
}

/// Where pieces come from.
pub(crate) trait Pieces: Send {
    /// How many bytes there will be, where that is known.
    fn length(&self) -> Option<u64>;

    /// The next piece; `None` at the end.
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

/// Where content goes, and what it may be.
#[derive(Clone, Copy)]
pub(crate) struct Transfer<'a> {
    pub(crate) store: &'a Dispatcher,
    pub(crate) source: &'a str,
    pub(crate) label: &'a str,
    /// The hash that it must have; `None`: any.
    pub(crate) sha256: Option<&'a str>,
    /// Bytes at most.
    pub(crate) most: Option<u64>,
}

/// Why content was not sent to its end.
enum Broken {
    /// The content's fault.
    Content(TransferError),
    /// The store does not read on.
    Unread,
}

impl Transfer<'_> {
    /// Streams `content`, after the pieces of it that were read before, into the store. Where it is not what it
    /// must be the store keeps nothing.
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
                // So the request breaks off, and the store keeps nothing.
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

    /// Sends pieces, and gives the SHA-256 of all of them.
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
