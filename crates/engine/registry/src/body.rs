//! Bodies that come from files. What is in memory is read where it is sent from; for the rest pieces are read on threads that
//! may block, one piece ahead of the connection. Both into two buffers that belong to the body: whoever waits for a slow
//! reader holds those and no thread.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;

/// Bytes in one piece: large enough that the way to another thread does not matter.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces of one body that are in memory: one on its way, one that is read meanwhile.
const PIECES: usize = 2;

enum Source {
    Any(Box<dyn Read + Send>),
    File(image::SharedFile),
}

type Read1 = JoinHandle<(Source, io::Result<Lent>)>;

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
    buffers: Arc<Buffers>,
}

enum State {
    Idle(Source),
    Reading(Read1),
    Gone,
}

/// The buffers of one body that nobody uses at the moment.
struct Buffers(Mutex<Free>);

struct Free {
    buffers: Vec<Vec<u8>>,
    /// Who wants one, when there was none.
    waiting: Option<Waker>,
}

/// A buffer in use. The connection gives it back when it has sent it.
struct Lent {
    buffer: Vec<u8>,
    filled: usize,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let waiting = {
            let mut free = self.home.0.lock().unwrap_or_else(|e| e.into_inner());
            free.buffers.push(std::mem::take(&mut self.buffer));
            free.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl Buffers {
    fn new() -> Arc<Self> {
        // Each gets its bytes when it is first used: a short body needs one.
        let buffers = vec![Vec::new(); PIECES];
        Arc::new(Self(Mutex::new(Free { buffers, waiting: None })))
    }

    fn take(self: &Arc<Self>, cx: &Context<'_>) -> Option<Lent> {
        let mut free = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match free.buffers.pop() {
            Some(buffer) => Some(Lent { buffer, filled: 0, home: self.clone() }),
            None => {
                free.waiting = Some(cx.waker().clone());
                None
            }
        }
    }
}

impl Body {
    pub fn of(source: Box<dyn Read + Send>, bytes: u64) -> Self {
        Self::from_source(Source::Any(source), bytes)
    }

    /// `bytes` of a file, from `at` on.
    pub fn of_file(file: std::fs::File, at: u64, bytes: u64) -> Self {
        Self::from_source(Source::File(image::SharedFile::new(Arc::new(file), at)), bytes)
    }

    fn from_source(source: Source, bytes: u64) -> Self {
        if bytes == 0 {
            return Self::Empty;
        }
        Self::File(FileBody { left: bytes, state: State::Idle(source), buffers: Buffers::new() })
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Full(text.into().into())
    }
}

impl Lent {
    /// Room for so many of the bytes that are wanted; how many that is.
    fn room(&mut self, want: u64) -> usize {
        let want = want.min(PIECE_BYTES as u64) as usize;
        if self.buffer.len() < want {
            self.buffer.resize(want, 0);
        }
        want
    }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Any(source) => source.read(out),
            Self::File(file) => file.read(out),
        }
    }
}

/// A piece that no disk is needed for; else the buffer comes back.
fn at_once(source: &mut Source, mut lent: Lent, want: u64) -> Result<Lent, Lent> {
    let Source::File(file) = source else { return Err(lent) };
    let want = lent.room(want);
    match file.read_cached(&mut lent.buffer[..want]) {
        Some(count) => {
            lent.filled = count;
            Ok(lent)
        }
        None => Err(lent),
    }
}

fn start(mut source: Source, mut lent: Lent, want: u64) -> Read1 {
    tokio::task::spawn_blocking(move || {
        let want = lent.room(want);
        while lent.filled < want {
            match source.read(&mut lent.buffer[lent.filled..want]) {
                Ok(0) => break,
                Ok(n) => lent.filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (source, Err(e)),
            }
        }
        (source, Ok(lent))
    })
}

impl FileBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Gone) {
                State::Gone => return Poll::Ready(None),
                // The last piece is on its way: there is nothing left to read.
                State::Idle(_) if self.left == 0 => return Poll::Ready(None),
                State::Idle(mut source) => match self.buffers.take(cx) {
                    Some(lent) => match at_once(&mut source, lent, self.left) {
                        Ok(piece) => {
                            self.left -= piece.filled as u64;
                            self.state = State::Idle(source);
                            return Poll::Ready(Some(Ok(Bytes::from_owner(piece))));
                        }
                        Err(lent) => self.state = State::Reading(start(source, lent, self.left)),
                    },
                    None => {
                        self.state = State::Idle(source);
                        return Poll::Pending;
                    }
                },
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
                    if piece.filled == 0 {
                        let text = format!("the source ended {} bytes early", self.left);
                        return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))));
                    }
                    self.left -= piece.filled as u64;
                    self.state = match self.buffers.take(cx) {
                        // One piece ahead, while this one is on its way.
                        Some(lent) if self.left > 0 => State::Reading(start(source, lent, self.left)),
                        _ => State::Idle(source),
                    };
                    return Poll::Ready(Some(Ok(Bytes::from_owner(piece))));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that keeps what it was given gets no third piece until it lets go of one, and every byte comes once.
    #[tokio::test]
    async fn a_body_has_two_pieces_and_no_more() {
        use std::io::Write;
        let bytes: Vec<u8> = (0..5 * PIECE_BYTES + 77).map(|n| (n / 3) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let (skip, count) = (5, bytes.len() as u64 - 5);
        let any = Box::new(io::Cursor::new(bytes[skip..].to_vec()));
        for mut body in [Body::of_file(file, skip as u64, count), Body::of(any, count)] {
            let (mut held, mut got) = (std::collections::VecDeque::new(), Vec::new());
            loop {
                let next = std::future::poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
                    // Nothing comes by itself while both are held.
                    Poll::Pending if held.len() == PIECES => Poll::Ready(Some(Err(io::ErrorKind::WouldBlock.into()))),
                    other => other,
                });
                match next.await {
                    Some(Ok(frame)) => held.push_back(frame.into_data().unwrap()),
                    Some(Err(error)) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        let piece: Bytes = held.pop_front().unwrap();
                        got.extend_from_slice(&piece);
                    }
                    None => break,
                }
                assert!(held.len() <= PIECES);
            }
            held.iter().for_each(|piece| got.extend_from_slice(piece));
            assert!(got == bytes[skip..]);
        }
    }
}
