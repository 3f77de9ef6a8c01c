//! What a client sends from its standard input: a tar that is the context, or a Dockerfile alone.

use std::io::Read;
use std::sync::Arc;

use build::Context;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::errors::status_of;
use crate::progress::Part;
use crate::session::Session;
use crate::wire::session as wire;

const PULL: &str = "/moby.upload.v1.Upload/Pull";

/// Bytes of a Dockerfile that comes alone.
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// Enough to see a tar's first header.
const HEAD_BYTES: usize = 512;

/// Hands what the client sends to `read`, which runs on a thread of its own.
pub(crate) async fn pull<T, F>(session: &Arc<Session>, path: &str, mut part: Part, read: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce(&mut dyn ReadSend) -> build::Result<T> + Send + 'static,
{
    let mut metadata = MetadataMap::new();
    let value = MetadataValue::try_from(path).map_err(|_| Status::invalid_argument("the upload's path"))?;
    metadata.insert("urlpath", value);
    metadata.insert("urlhost", MetadataValue::from_static("buildkit-session"));
    let nothing = Box::pin(futures_util::stream::pending::<wire::Bytes>());
    let mut incoming = session.channel.streams::<_, wire::Bytes>(PULL, metadata, nothing).await?;
    let (pieces, received) = mpsc::channel(64);
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = Pieces { received, piece: Bytes::new() };
        let result = read(&mut reader);
        // The rest is heard out: a client that cannot send it would take it for a failure.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
        result
    });
    let mut bytes = 0;
    while let Some(piece) = incoming.next().await {
        let piece = piece?.data;
        bytes += piece.len() as u64;
        part.current(bytes);
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    drop(pieces);
    match reading.await {
        Ok(result) => {
            part.done();
            result.map_err(|error| status_of(&error, None))
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A reader that a thread can own.
pub(crate) trait ReadSend: Read + Send {}

impl<T: Read + Send> ReadSend for T {}

struct Pieces {
    received: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Fills a context: an archive is unpacked, anything else is its Dockerfile. Blocking.
pub(crate) fn unpack(context: &Context, reader: &mut dyn ReadSend) -> build::Result<()> {
    let io = |source| build::BuildError::Io { what: "read the context that the client sends".into(), source };
    let mut head = Vec::new();
    reader.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(io)?;
    if is_archive(&head) {
        return context.unpack(&mut Read::chain(head.as_slice(), reader));
    }
    reader.take(TEXT_BYTES_MAX).read_to_end(&mut head).map_err(io)?;
    context.write("Dockerfile", &head)
}

fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 4] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MAGIC.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}
