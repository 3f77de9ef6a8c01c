//! Bodies that come from files. Bytes are read in pieces on threads that may block, one piece ahead of the connection; a
//! reader that waits holds a buffer and no thread.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;

/// Bytes in one piece: large enough that the way to another thread does not matter.
const PIECE_BYTES: usize = 256 << 10;

type Source = Box<dyn Read + Send>;
type Read1 = JoinHandle<(Source, io::Result<Bytes>)>;

/// The body of a request or an answer.
pub enum Body {
    Empty,
    Full(Bytes),
    File(FileBody),
    /// Whatever arrives, for as long as the sender lives.
    Channel {
        receiver: tokio::sync::mpsc::Receiver<io::Result<Bytes>>,
        left: u64,
    },
}

/// Exactly `left` bytes of a source; a source that ends early is an error, which cuts the connection.
pub struct FileBody {
    left: u64,
    state: State,
}

enum State {
    Idle(Source),
    Reading(Read1),
    Gone,
}

impl Body {
    pub fn of(source: Source, bytes: u64) -> Self {
        if bytes == 0 { Self::Empty } else { Self::File(FileBody { left: bytes, state: State::Idle(source) }) }
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Full(text.into().into())
    }
}

fn start(mut source: Source, want: u64) -> Read1 {
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; want.min(PIECE_BYTES as u64) as usize];
        let mut filled = 0;
        while filled < buffer.len() {
            match source.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (source, Err(e)),
            }
        }
        buffer.truncate(filled);
        (source, Ok(buffer.into()))
    })
}

impl FileBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Gone) {
                State::Gone => return Poll::Ready(None),
                State::Idle(source) => self.state = State::Reading(start(source, self.left)),
                State::Reading(mut reading) => {
                    let done = match Pin::new(&mut reading).poll(cx) {
                        Poll::Pending => {
                            self.state = State::Reading(reading);
                            return Poll::Pending;
                        }
                        Poll::Ready(done) => done,
                    };
                    let (source, piece) = done.map_err(io::Error::other)?;
                    let piece = piece?;
                    if piece.is_empty() {
                        let text = format!("the source ended {} bytes early", self.left);
                        return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))));
                    }
                    self.left -= piece.len() as u64;
                    if self.left > 0 {
                        // One piece ahead, while this one is on its way.
                        self.state = State::Reading(start(source, self.left));
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(_) => match std::mem::replace(&mut *self, Self::Empty) {
                Self::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Self::File(file) => file.poll(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Self::Channel { receiver, left } => receiver.poll_recv(cx).map(|piece| match piece {
                Some(Ok(piece)) => {
                    *left = left.saturating_sub(piece.len() as u64);
                    Some(Ok(Frame::data(piece)))
                }
                Some(Err(error)) => Some(Err(error)),
                None if *left > 0 => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the source ended early"))),
                None => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::File(file) => file.left == 0,
            Self::Channel { left, .. } => *left == 0,
            Self::Full(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::File(file) => SizeHint::with_exact(file.left),
            Self::Channel { left, .. } => SizeHint::with_exact(*left),
        }
    }
}
