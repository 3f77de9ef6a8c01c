//! To the client: the files themselves into a folder of its, or one stream of bytes that it writes where it was told to.

use std::io::Write;
use std::sync::Arc;

use build::Built;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::Response;
use crate::files::send_tree;
use crate::kit::Kit;
use crate::progress::Task;
use crate::session::Session;
use crate::view::View;
use crate::wire::fsutil::Packet;
use crate::wire::session as wire;

const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const CHUNK_BYTES: usize = 256 << 10;

/// One exporter of a solve, as the client knows it.
pub(crate) struct Place<'p> {
    pub(crate) session: &'p Arc<Session>,
    /// Which of the request's exporters it is.
    pub(crate) number: usize,
}

impl Place<'_> {
    fn metadata(&self) -> Result<MetadataMap, Status> {
        if !self.session.supports(SEND) {
            return Err(Status::failed_precondition(format!("method {SEND} not supported by the client")));
        }
        let mut metadata = MetadataMap::new();
        let number = MetadataValue::try_from(self.number.to_string()).map_err(|_| Status::internal("a number"))?;
        metadata.insert("buildkit-attachable-exporter-id", number);
        Ok(metadata)
    }
}

/// `type=local`: the whole file tree.
pub(crate) async fn folder(kit: &Kit, place: &Place<'_>, built: &Arc<Built>, task: &Task) -> Result<Response, Status> {
    let mut part = task.part("copying files");
    let metadata = place.metadata()?;
    let (packets, to_send) = mpsc::channel::<Packet>(256);
    let (requests, asked) = mpsc::channel::<Packet>(256);
    let (kit, built) = (kit.clone(), built.clone());
    let sending = tokio::task::spawn_blocking(move || {
        let mut asked = asked;
        let view = View::open(&kit, &built)?;
        let sent = send_tree(view.root(), &mut asked, &packets);
        sent.map_err(|error| Status::unknown(error.to_string()))
    });
    // A client answers when it has heard something: the sending begins before.
    let opened = place.session.channel.streams::<_, Packet>(SEND, metadata, Box::pin(stream_of(to_send)));
    let mut incoming = opened.await?;
    let mut broken = None;
    while let Some(packet) = incoming.next().await {
        match packet {
            Ok(packet) => {
                if requests.send(packet).await.is_err() {
                    break;
                }
            }
            Err(status) => {
                broken = Some(status);
                break;
            }
        }
    }
    drop(requests);
    let sent = sending.await.map_err(|error| Status::internal(error.to_string()))?;
    match (sent, broken) {
        (Ok(()), _) => {}
        // What the client says is why the sending ended.
        (Err(_), Some(status)) => return Err(status),
        (Err(status), None) => return Err(status),
    }
    part.current(0);
    part.done();
    Ok(Response::new())
}

/// A stream of bytes that `write` makes, on a thread of its own.
pub(crate) async fn file<F>(place: &Place<'_>, name: &str, task: &Task, write: F) -> Result<(), Status>
where
    F: FnOnce(&mut (dyn Write + Send)) -> Result<(), Status> + Send + 'static,
{
    let mut part = task.part(name);
    let metadata = place.metadata()?;
    let (pieces, to_send) = mpsc::channel::<wire::Bytes>(8);
    let (counted, mut counts) = tokio::sync::watch::channel(0u64);
    let writing = tokio::task::spawn_blocking(move || {
        let mut pieces = std::io::BufWriter::with_capacity(CHUNK_BYTES, Pieces { pieces, counted });
        write(&mut pieces)?;
        pieces.flush().map_err(|_| Status::cancelled("the client went away"))
    });
    let sent = async {
        let opened = place.session.channel.streams::<_, wire::Bytes>(SEND, metadata, Box::pin(stream_of(to_send)));
        let mut incoming = opened.await?;
        // The client says nothing but when it is done, or why it is not.
        while let Some(piece) = incoming.next().await {
            piece?;
        }
        Ok::<_, Status>(())
    };
    let told = async {
        while counts.changed().await.is_ok() {
            let bytes = *counts.borrow_and_update();
            part.current(bytes);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let (sent, (), written) = tokio::join!(sent, told, writing);
    // A client that refuses ends the stream, and with it the writing: its reason comes first.
    sent?;
    written.map_err(|error| Status::internal(error.to_string()))??;
    part.done();
    Ok(())
}

fn stream_of<T>(receiver: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> + Send
where
    T: Send,
{
    futures_util::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) },
    )
}

struct Pieces {
    pieces: mpsc::Sender<wire::Bytes>,
    counted: tokio::sync::watch::Sender<u64>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let data = Bytes::copy_from_slice(&bytes[..bytes.len().min(CHUNK_BYTES)]);
        let count = data.len();
        self.pieces
            .blocking_send(wire::Bytes { data })
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        self.counted.send_modify(|all| *all += count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
