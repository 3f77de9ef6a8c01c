//! Response bodies: whole, a list put together while it is sent, and a stream of watch events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// Bytes put together at a time when a list is sent.
const CHUNK: usize = 128 << 10;

pub enum Body {
    Whole(Option<Bytes>),
    /// Head, items with something between them, tail. The items are the stored bytes; only one chunk is copied at a time.
    List {
        head: Bytes,
        items: VecDeque<Bytes>,
        between: &'static [u8],
        tail: Bytes,
        started: bool,
    },
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    /// A list in JSON: items joined by commas.
    pub fn list(head: impl Into<Bytes>, items: VecDeque<Bytes>, tail: impl Into<Bytes>) -> Self {
        Self::List { head: head.into(), items, between: b",", tail: tail.into(), started: false }
    }

    /// One part after the other.
    pub fn parts(head: impl Into<Bytes>, items: VecDeque<Bytes>) -> Self {
        Self::List { head: head.into(), items, between: b"", tail: Bytes::new(), started: false }
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
            Self::List { head, items, between, tail, started } => {
                let mut chunk = BytesMut::with_capacity(CHUNK + (16 << 10));
                chunk.extend_from_slice(&std::mem::take(head));
                while chunk.len() < CHUNK
                    && let Some(item) = items.pop_front()
                {
                    if std::mem::replace(started, true) {
                        chunk.extend_from_slice(between);
                    }
                    chunk.extend_from_slice(&item);
                }
                if items.is_empty() {
                    chunk.extend_from_slice(&std::mem::take(tail));
                }
                let done = chunk.is_empty();
                Poll::Ready((!done).then(|| Ok(Frame::data(chunk.freeze()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::List { head, items, tail, .. } => head.is_empty() && items.is_empty() && tail.is_empty(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::List { head, items, between, tail, started } => {
                let commas = between.len() * if *started { items.len() } else { items.len().saturating_sub(1) };
                let bytes: usize = items.iter().map(Bytes::len).sum();
                SizeHint::with_exact((head.len() + bytes + commas + tail.len()) as u64)
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
