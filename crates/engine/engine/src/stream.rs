//! Streams that cross between the engine's threads and its callers: output of containers, logs, events, archives.
//!
//! Every stream is bounded: a reader that stops reading stops the writer, and dropping a stream stops the work behind it.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::{Chunk, Error, Event, LogEntry, Result};

/// Items that arrive until the source ends. Dropping it ends the source's work.
#[derive(Debug)]
pub struct Stream<T> {
    receiver: mpsc::Receiver<Result<T>>,
}

pub type OutputStream = Stream<Chunk>;
pub type LogStream = Stream<LogEntry>;
pub type EventStream = Stream<Event>;
pub type ByteStream = Stream<Bytes>;

impl<T> Stream<T> {
    pub(crate) fn channel(depth: usize) -> (mpsc::Sender<Result<T>>, Self) {
        let (sender, receiver) = mpsc::channel(depth);
        (sender, Self { receiver })
    }

    /// The next item; `None` at the end. After an error the stream is over.
    pub async fn next(&mut self) -> Option<Result<T>> {
        self.receiver.recv().await
    }

    /// For `futures::Stream` adapters.
    pub fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Result<T>>> {
        self.receiver.poll_recv(context)
    }
}

/// The reading end of a request body: an async edge feeds [`BodySender`], blocking code inside the engine reads.
#[derive(Debug)]
pub struct Body {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

#[derive(Debug, Clone)]
pub struct BodySender(mpsc::Sender<io::Result<Bytes>>);

impl Body {
    /// A body and the end that feeds it. Dropping the sender is the end of the body.
    pub fn channel() -> (BodySender, Self) {
        let (sender, receiver) = mpsc::channel(8);
        (BodySender(sender), Self { receiver, rest: Bytes::new() })
    }
}

impl BodySender {
    /// Waits while the engine is busy with earlier pieces. `Err`: the engine has stopped reading; stop sending.
    pub async fn send(&self, bytes: Bytes) -> Result<(), ()> {
        self.0.send(Ok(bytes)).await.map_err(|_| ())
    }

    /// Ends the body with an error (the client went away), so that half an archive is not taken for a whole one.
    pub async fn fail(&self, error: io::Error) {
        let _ = self.0.send(Err(error)).await;
    }
}

/// Blocks the calling thread: only for code that runs under `spawn_blocking`.
impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.advance(count);
        Ok(count)
    }
}

/// The writing end of a [`ByteStream`] for blocking code. Small writes are gathered; flush before the end.
pub(crate) struct ByteSink {
    sender: mpsc::Sender<Result<Bytes>>,
    gathered: Vec<u8>,
}

const PIECE: usize = 64 << 10;

impl ByteSink {
    pub(crate) fn new(sender: mpsc::Sender<Result<Bytes>>) -> Self {
        Self { sender, gathered: Vec::new() }
    }
}

impl io::Write for ByteSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.gathered.len().min(PIECE - 1));
        self.gathered.extend_from_slice(&bytes[..count]);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.gathered));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A container's or exec's standard input or terminal, from the outside.
pub struct InputSink {
    pub(crate) inner: Box<dyn InputPipe>,
}

pub(crate) trait InputPipe: Send {
    fn write<'a>(&'a mut self, bytes: &'a [u8]) -> std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;
    fn close(self: Box<Self>);
}

impl std::fmt::Debug for InputSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InputSink")
    }
}

impl InputSink {
    /// Waits until the process has room. An error means that it has closed its input or is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write(bytes).await.map_err(|error| Error::internal("write to standard input", error))
    }

    /// The client half-closed its side: the process sees end of file if this input is to be closed (`stdin_once` or an
    /// exec's); with a terminal nothing is closed. Merely dropping the sink detaches: the input stays open.
    pub fn close(self) {
        self.inner.close();
    }
}

/// Waits for a descriptor in the runtime's loop.
pub(crate) fn register(
    fd: std::os::fd::OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // Deprecated because a type could change its descriptor while it is registered; an OwnedFd cannot.
    #[allow(deprecated)]
    tokio::io::unix::AsyncFd::with_interest(fd, interest)
}

/// Both directions of an attached process.
#[derive(Debug)]
pub struct Attached {
    /// Output is raw terminal bytes, all as stdout.
    pub tty: bool,
    /// Ends when the process has ended and everything it wrote was delivered.
    pub output: OutputStream,
    /// Present if input was asked for and the process has one.
    pub input: Option<InputSink>,
}
