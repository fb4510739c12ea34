//! Receives a request's body into a file.

use std::{
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
};

use azul_vt::{
    bundle::Compression,
    webhook::{arriving::Arriving, receive::BODY_IDLE_TIMEOUT},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncWriteExt, time::timeout};

use crate::{auth::Caller, reply::Problem};

/// A body that was received whole.
pub(crate) struct Received {
    /// File that holds the body.
    pub(crate) file: ScratchFile,
    /// SHA-256 of the bytes as received, in hex.
    pub(crate) sha256_hex: String,
}

/// The path of a file that is removed when this is dropped. A request may be dropped at any point of its work: when its
/// caller goes away, or when its connection makes room for another.
pub(crate) struct ScratchFile(PathBuf);

impl ScratchFile {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        // The file does not exist any more if it was moved. A file that is left is removed by the next process.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Number of bytes at the start of a body that identify its compression.
const MAGIC: usize = 4;

/// Writes a body into a new file below `scratch`, checking its size, its signature and that it is
/// compressed as its header says. The file is removed on any problem.
pub(crate) async fn receive<B>(
    scratch: &Path,
    body: B,
    caller: Caller,
    encoding: Option<Compression>,
    max_bytes: u64,
    arriving: &Arriving<'_>,
) -> Result<Received, Problem>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = ScratchFile(scratch.join(format!("post-{}-{number}", std::process::id())));
    let writing = write(file.path(), body, caller, encoding, max_bytes, arriving);
    let sha256_hex = arriving.unless_broken_off(writing).await??;
    Ok(Received { file, sha256_hex })
}

/// Reads a body only to check its signature.
pub(crate) async fn check<B>(body: B, caller: Caller, max_bytes: u64) -> Result<(), Problem>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = pin!(body);
    let mut chunks = Chunks::new(body, caller, max_bytes);
    while chunks.next().await?.is_some() {}
    chunks.finish()
}

async fn write<B>(
    path: &Path,
    body: B,
    caller: Caller,
    encoding: Option<Compression>,
    max_bytes: u64,
    arriving: &Arriving<'_>,
) -> Result<String, Problem>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = pin!(body);
    let mut chunks = Chunks::new(body, caller, max_bytes);
    let mut file = File::create(path).await.map_err(Problem::Disk)?;
    let mut hash = Sha256::new();
    let mut start = Vec::with_capacity(MAGIC);
    while let Some(data) = chunks.next().await? {
        arriving.grow(chunks.size)?;
        start.extend(data.iter().take(MAGIC.saturating_sub(start.len())));
        hash.update(&data);
        file.write_all(&data).await.map_err(Problem::Disk)?;
    }
    arriving.finish()?;
    chunks.finish()?;
    if let Some(encoding) = encoding
        && !start.is_empty()
        && Compression::of(&start) != encoding
    {
        return Err(Problem::NotEncoded(encoding));
    }
    file.flush().await.map_err(Problem::Disk)?;
    Ok(hex::encode(hash.finalize()))
}

/// Reads the bytes of a body, up to a limit, and checks its signature at the end.
struct Chunks<'a, B> {
    body: Pin<&'a mut B>,
    caller: Caller,
    size: u64,
    max_bytes: u64,
}

impl<'a, B> Chunks<'a, B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new(body: Pin<&'a mut B>, caller: Caller, max_bytes: u64) -> Self {
        Self { body, caller, size: 0, max_bytes }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let silent = |_| Problem::BodyBroken("nothing more of it came for half a minute".into());
        while let Some(frame) =
            timeout(BODY_IDLE_TIMEOUT, self.body.frame()).await.map_err(silent)?
        {
            let frame = frame.map_err(|e| Problem::BodyBroken(e.into().to_string()))?;
            let Ok(data) = frame.into_data() else { continue }; // trailers
            self.size = self.size.saturating_add(data.len() as u64);
            if self.size > self.max_bytes {
                return Err(Problem::TooLarge(self.max_bytes));
            }
            if let Caller::Signed(pending) = &mut self.caller {
                pending.update(&data);
            }
            return Ok(Some(data));
        }
        Ok(None)
    }

    /// Checks the signature after the whole body was read.
    fn finish(self) -> Result<(), Problem> {
        match self.caller {
            Caller::Trusted => Ok(()),
            Caller::Signed(pending) => {
                pending.finish().map(drop).map_err(|_| Problem::Unauthorized)
            }
        }
    }
}
