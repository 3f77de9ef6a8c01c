//! One connection: two tasks that read and write it, and a channel for each half of each stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::frame::{DATA_BYTES_MAX, Decoder, Encoder, Frame};
use crate::headers::Headers;

/// Most streams whose other half is open at a time.
const STREAMS_MAX: usize = 1000;
const REFUSED: u32 = 3;
const PROTOCOL_ERROR: u32 = 1;
/// How long the other side may take to close after we did.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Gone;

/// A stream of either side's.
#[derive(Debug)]
pub struct Stream {
    pub headers: Headers,
    pub reader: Reader,
    pub writer: Writer,
}

/// What the other side sends on a stream.
#[derive(Debug)]
pub struct Reader(mpsc::Receiver<Bytes>);

impl Reader {
    /// `None`: its half is closed.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

/// Our half of a stream. Dropping it leaves it open; [`Writer::finish`] closes it.
#[derive(Debug, Clone)]
pub struct Writer {
    stream: u32,
    out: mpsc::Sender<Frame>,
}

impl Writer {
    pub async fn write(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(DATA_BYTES_MAX));
            self.send(Frame::Data { stream: self.stream, bytes: piece, fin: false }).await?;
        }
        Ok(())
    }

    pub async fn finish(self) -> Result<(), Gone> {
        self.send(Frame::Data { stream: self.stream, bytes: Bytes::new(), fin: true }).await
    }

    /// Ends both halves at once.
    pub async fn reset(self) -> Result<(), Gone> {
        self.send(Frame::Reset { stream: self.stream, status: PROTOCOL_ERROR }).await
    }

    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.out.send(frame).await.map_err(|_| Gone)
    }
}

type Halves = Arc<Mutex<BTreeMap<u32, mpsc::Sender<Bytes>>>>;

/// A connection that is being served. Dropping it ends it at once.
#[derive(Debug)]
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Frame>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
        self.writing.abort();
    }
}

impl Connection {
    /// The next stream; `None`: the other side has gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Says that nothing more comes, after everything that was written, and waits a while for the other side to close.
    pub async fn close(mut self) {
        let _ = self.out.send(Frame::GoAway).await;
        let gone = async { while self.streams.recv().await.is_some() {} };
        let _ = tokio::time::timeout(PATIENCE, gone).await;
    }
}

/// Serves a connection whose opener speaks first.
pub fn serve(
    reader: impl AsyncRead + Unpin + Send + 'static,
    writer: impl AsyncWrite + Unpin + Send + 'static,
) -> Connection {
    let (tell, streams) = mpsc::channel(16);
    let (out, frames) = mpsc::channel(64);
    let reading = tokio::spawn(read(reader, Halves::default(), Some(tell), out.clone()));
    let writing = tokio::spawn(write(writer, frames));
    Connection { streams, out, reading, writing }
}

/// A connection that we have opened, and whose streams are ours. Dropping it ends it at once.
#[derive(Debug)]
pub struct Opener {
    halves: Halves,
    out: mpsc::Sender<Frame>,
    /// The number of the next stream.
    next: u32,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.reading.abort();
        self.writing.abort();
    }
}

/// Opens a connection whose other side answers.
pub fn dial(
    reader: impl AsyncRead + Unpin + Send + 'static,
    writer: impl AsyncWrite + Unpin + Send + 'static,
) -> Opener {
    let (out, frames) = mpsc::channel(64);
    let halves = Halves::default();
    let reading = tokio::spawn(read(reader, halves.clone(), None, out.clone()));
    let writing = tokio::spawn(write(writer, frames));
    Opener { halves, out, next: 1, reading, writing }
}

impl Opener {
    pub async fn open(&mut self, headers: Headers) -> Result<Stream, Gone> {
        let stream = self.next;
        self.next += 2;
        let (sender, receiver) = mpsc::channel(4);
        lock(&self.halves).insert(stream, sender);
        self.out.send(Frame::Open { stream, fin: false, headers: headers.clone() }).await.map_err(|_| Gone)?;
        Ok(Stream { headers, reader: Reader(receiver), writer: Writer { stream, out: self.out.clone() } })
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) {
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    while let Some(frame) = frames.recv().await {
        encoder.write(&frame, &mut bytes);
        while bytes.len() < 2 * DATA_BYTES_MAX
            && let Ok(frame) = frames.try_recv()
        {
            encoder.write(&frame, &mut bytes);
        }
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        bytes.clear();
    }
}

fn lock(halves: &Halves) -> MutexGuard<'_, BTreeMap<u32, mpsc::Sender<Bytes>>> {
    halves.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `tell`: who takes streams of the other side; `None` where only we open any.
async fn read(
    reader: impl AsyncRead + Unpin,
    halves: Halves,
    tell: Option<mpsc::Sender<Stream>>,
    out: mpsc::Sender<Frame>,
) {
    hear(reader, &halves, tell.as_ref(), &out).await;
    // Nothing more comes on any stream.
    lock(&halves).clear();
}

async fn hear(
    mut reader: impl AsyncRead + Unpin,
    halves: &Halves,
    tell: Option<&mpsc::Sender<Stream>>,
    out: &mpsc::Sender<Frame>,
) {
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 32 << 10]);
    let mut last = 0;
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        decoder.feed(&buffer[..count]);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                // Nothing after it could be understood.
                Err(_) => return,
            };
            if take(frame, halves, &mut last, tell, out).await.is_err() {
                return;
            }
        }
    }
}

async fn take(
    frame: Frame,
    halves: &Halves,
    last: &mut u32,
    tell: Option<&mpsc::Sender<Stream>>,
    out: &mpsc::Sender<Frame>,
) -> Result<(), Gone> {
    let say = async |frame| out.send(frame).await.map_err(|_| Gone);
    match frame {
        Frame::Open { stream, fin, headers } => {
            let Some(tell) = tell else { return say(Frame::Reset { stream, status: REFUSED }).await };
            // Its opener's are odd and grow.
            if stream % 2 == 0 || stream <= *last {
                return say(Frame::Reset { stream, status: PROTOCOL_ERROR }).await;
            }
            *last = stream;
            if lock(halves).len() >= STREAMS_MAX {
                return say(Frame::Reset { stream, status: REFUSED }).await;
            }
            let (sender, receiver) = mpsc::channel(4);
            if !fin {
                lock(halves).insert(stream, sender);
            }
            say(Frame::Reply { stream, fin: false, headers: Headers::default() }).await?;
            let opened = Stream { headers, reader: Reader(receiver), writer: Writer { stream, out: out.clone() } };
            tell.send(opened).await.map_err(|_| Gone)
        }
        Frame::Data { stream, bytes, fin } => {
            let half = lock(halves).get(&stream).cloned();
            if let Some(half) = half
                && !bytes.is_empty()
            {
                // Nobody may listen any more; the rest is thrown away.
                let _ = half.send(bytes).await;
            }
            if fin {
                lock(halves).remove(&stream);
            }
            Ok(())
        }
        Frame::Headers { stream, fin: true } | Frame::Reset { stream, .. } => {
            lock(halves).remove(&stream);
            Ok(())
        }
        // The opener's are odd: the others answer ours, of which there are none.
        Frame::Ping(id) if (id % 2 == 1) == tell.is_some() => say(Frame::Ping(id)).await,
        Frame::Ping(_) | Frame::Reply { .. } | Frame::Headers { .. } | Frame::GoAway => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other side: what it says, and the frames that come back until the connection ends.
    struct Client {
        io: tokio::io::DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
    }

    impl Client {
        async fn say(&mut self, frame: Frame) {
            let mut bytes = Vec::new();
            self.encoder.write(&frame, &mut bytes);
            self.io.write_all(&bytes).await.unwrap();
        }

        async fn hear(&mut self) -> Option<Frame> {
            let mut buffer = [0; 1024];
            loop {
                if let Some(frame) = self.decoder.next_frame().unwrap() {
                    return Some(frame);
                }
                match self.io.read(&mut buffer).await.unwrap() {
                    0 => return None,
                    count => self.decoder.feed(&buffer[..count]),
                }
            }
        }
    }

    fn pair() -> (Client, Connection) {
        let (io, ours) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(ours);
        (Client { io, encoder: Encoder::default(), decoder: Decoder::default() }, serve(reader, writer))
    }

    fn open(stream: u32, kind: &str) -> Frame {
        Frame::Open { stream, fin: false, headers: Headers(vec![("streamtype".into(), kind.into())]) }
    }

    fn data(stream: u32, text: &'static str, fin: bool) -> Frame {
        Frame::Data { stream, bytes: Bytes::from_static(text.as_bytes()), fin }
    }

    #[tokio::test]
    async fn streams_are_apart_and_close_by_halves() {
        let (mut client, mut connection) = pair();
        client.say(open(1, "error")).await;
        client.say(open(3, "data")).await;
        client.say(data(3, "question", true)).await;
        client.say(Frame::Ping(5)).await;
        let error = connection.next().await.unwrap();
        let mut stream = connection.next().await.unwrap();
        assert_eq!((error.headers.get("streamtype"), stream.headers.get("streamtype")), ("error", "data"));
        assert_eq!(stream.reader.next().await.as_deref(), Some(&b"question"[..]));
        assert_eq!(stream.reader.next().await, None);
        stream.writer.write(Bytes::from_static(b"answer")).await.unwrap();
        stream.writer.finish().await.unwrap();
        let closing = tokio::spawn(connection.close());
        let mut heard = Vec::new();
        while heard.last() != Some(&Frame::GoAway) {
            heard.push(client.hear().await.unwrap());
        }
        let reply = |stream| Frame::Reply { stream, fin: false, headers: Headers::default() };
        let said = [reply(1), reply(3), Frame::Ping(5), data(3, "answer", false), data(3, "", true), Frame::GoAway];
        assert_eq!(heard, said);
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn both_sides_of_ours_understand_each_other() {
        let (one, other) = tokio::io::duplex(1 << 10);
        let (reader, writer) = tokio::io::split(one);
        let mut opener = dial(reader, writer);
        let (reader, writer) = tokio::io::split(other);
        let mut connection = serve(reader, writer);
        let kind = |kind: &str| Headers(vec![("streamtype".into(), kind.into())]);
        let mut ours = opener.open(kind("data")).await.unwrap();
        let second = opener.open(kind("error")).await.unwrap();
        ours.writer.write(Bytes::from(vec![7; 100_000])).await.unwrap();
        ours.writer.finish().await.unwrap();
        let mut theirs = connection.next().await.unwrap();
        assert_eq!(connection.next().await.unwrap().headers.get("streamtype"), "error");
        let mut count = 0;
        while let Some(bytes) = theirs.reader.next().await {
            count += bytes.len();
        }
        assert_eq!(count, 100_000);
        theirs.writer.write(Bytes::from_static(b"answer")).await.unwrap();
        assert_eq!(ours.reader.next().await.as_deref(), Some(&b"answer"[..]));
        drop(connection);
        assert_eq!(ours.reader.next().await, None, "the end of the connection is the end of its streams");
        drop(second);
    }

    #[tokio::test]
    async fn a_stream_of_a_wrong_number_is_refused_and_the_end_is_told() {
        let (mut client, mut connection) = pair();
        client.say(open(2, "data")).await;
        client.say(open(5, "data")).await;
        client.say(open(3, "data")).await;
        let reset = |stream| Some(Frame::Reset { stream, status: PROTOCOL_ERROR });
        assert_eq!(client.hear().await, reset(2));
        assert!(matches!(client.hear().await, Some(Frame::Reply { stream: 5, .. })));
        assert_eq!(client.hear().await, reset(3));
        let mut stream = connection.next().await.unwrap();
        client.io.write_all(b"\x80\x02\x00\x01\x00\x00\x00\x00").await.unwrap();
        assert_eq!(stream.reader.next().await, None);
        assert!(connection.next().await.is_none());
    }
}
