//! Response bodies: whole, a list put together while it is sent, a stream of watch events, and any but the last compressed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// Bytes put together at a time when a list is sent.
const CHUNK: usize = 128 << 10;

/// Appends what is sent for an item.
pub type Make = Box<dyn Fn(&Bytes, &mut BytesMut) + Send>;

pub enum Body {
    Whole(Option<Bytes>),
    /// Head, items with commas between them, tail. The items are the stored bytes; only one chunk is copied at a time.
    List {
        head: Bytes,
        items: VecDeque<Bytes>,
        tail: Bytes,
        started: bool,
    },
    /// A list whose items are made of the stored bytes while it is sent, so that only one chunk of them is there at a time.
    Made {
        head: Bytes,
        items: VecDeque<Bytes>,
        make: Make,
        tail: Bytes,
        started: bool,
    },
    Stream(mpsc::Receiver<Bytes>),
    /// Pieces that somebody else makes while earlier ones are sent, of which `left` bytes are to come.
    Piped {
        pieces: mpsc::Receiver<Bytes>,
        left: u64,
    },
    /// Another body, compressed chunk by chunk while it is sent; `None` when the last one has been.
    Gzip {
        inner: Box<Body>,
        encoder: Option<GzEncoder<Vec<u8>>>,
    },
}

impl Body {
    /// Compresses a body of this many bytes or more, as upstream: smaller ones are not worth the time. Streams are left
    /// alone, their events must not wait for each other.
    const GZIP_FROM: u64 = 128 << 10;

    pub fn is_worth_gzip(&self) -> bool {
        match self {
            Self::Whole(_) | Self::List { .. } | Self::Piped { .. } => {
                self.size_hint().exact().is_some_and(|size| size >= Self::GZIP_FROM)
            }
            // What is made is not much smaller than what it is made of.
            Self::Made { items, .. } => items.iter().map(|item| item.len() as u64).sum::<u64>() >= Self::GZIP_FROM,
            Self::Stream(_) | Self::Gzip { .. } => false,
        }
    }

    pub fn gzip(self) -> Self {
        Self::Gzip { inner: Box::new(self), encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    pub fn empty() -> Self {
        Self::Whole(None)
    }

    /// A list in JSON: items joined by commas.
    pub fn list(head: impl Into<Bytes>, items: VecDeque<Bytes>, tail: impl Into<Bytes>) -> Self {
        Self::List { head: head.into(), items, tail: tail.into(), started: false }
    }

    /// A list in JSON: what `make` writes for each item, joined by commas.
    pub fn made(head: impl Into<Bytes>, items: VecDeque<Bytes>, make: Make, tail: impl Into<Bytes>) -> Self {
        Self::Made { head: head.into(), items, make, tail: tail.into(), started: false }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Whole(Some(bytes.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        match this {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(events) => events.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Piped { pieces, left } => pieces.poll_recv(cx).map(|piece| {
                let piece = piece?;
                *left = left.saturating_sub(piece.len() as u64);
                Some(Ok(Frame::data(piece)))
            }),
            Self::List { head, items, tail, started } => {
                let mut chunk = BytesMut::with_capacity(CHUNK + (16 << 10));
                chunk.extend_from_slice(&std::mem::take(head));
                while chunk.len() < CHUNK
                    && let Some(item) = items.pop_front()
                {
                    if std::mem::replace(started, true) {
                        chunk.extend_from_slice(b",");
                    }
                    chunk.extend_from_slice(&item);
                }
                if items.is_empty() {
                    chunk.extend_from_slice(&std::mem::take(tail));
                }
                let done = chunk.is_empty();
                Poll::Ready((!done).then(|| Ok(Frame::data(chunk.freeze()))))
            }
            Self::Made { head, items, make, tail, started } => {
                let mut chunk = BytesMut::with_capacity(CHUNK + (16 << 10));
                chunk.extend_from_slice(&std::mem::take(head));
                while chunk.len() < CHUNK
                    && let Some(item) = items.pop_front()
                {
                    if std::mem::replace(started, true) {
                        chunk.extend_from_slice(b",");
                    }
                    make(&item, &mut chunk);
                }
                if items.is_empty() {
                    chunk.extend_from_slice(&std::mem::take(tail));
                }
                let done = chunk.is_empty();
                Poll::Ready((!done).then(|| Ok(Frame::data(chunk.freeze()))))
            }
            Self::Gzip { inner, encoder } => loop {
                let Some(open) = encoder else { return Poll::Ready(None) };
                let frame = match Pin::new(inner.as_mut()).poll_frame(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(frame) => frame.map(|Ok(frame)| frame.into_data().unwrap_or_default()),
                };
                let out = match frame {
                    Some(data) => {
                        open.write_all(&data).expect("memory takes what is written");
                        std::mem::take(open.get_mut())
                    }
                    None => encoder.take().expect("it is open").finish().expect("memory takes what is written"),
                };
                if !out.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::List { head, items, tail, .. } | Self::Made { head, items, tail, .. } => {
                head.is_empty() && items.is_empty() && tail.is_empty()
            }
            Self::Stream(_) => false,
            Self::Piped { left, .. } => *left == 0,
            Self::Gzip { encoder, .. } => encoder.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::List { head, items, tail, started } => {
                let commas = if *started { items.len() } else { items.len().saturating_sub(1) };
                let bytes: usize = items.iter().map(Bytes::len).sum();
                SizeHint::with_exact((head.len() + bytes + commas + tail.len()) as u64)
            }
            Self::Piped { left, .. } => SizeHint::with_exact(*left),
            Self::Made { .. } | Self::Stream(_) | Self::Gzip { .. } => SizeHint::default(),
        }
    }
}
