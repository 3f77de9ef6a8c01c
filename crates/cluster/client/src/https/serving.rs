//! One connection to a server of ours, the API's or an agent's: HTTP/1.1 or HTTP/2 over it, and how long it may take its time.
//!
//! A client may keep a connection that it does not use for as long as upstream lets it. Once it has begun a request, the
//! head of that has to be there sooner.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::Body;

/// How long a connection is kept before its first request, and one of HTTP/1.1 between two of them, as upstream.
const IDLE: Duration = Duration::from_secs(90);
/// How long a request's head may take from its first byte on, as upstream.
const HEAD: Duration = Duration::from_secs(32);
/// How long requests may still take when the server stops.
const LEAVING: Duration = Duration::from_secs(2);
const HEADER_BYTES_MAX: u32 = 64 << 10;
const STREAMS_MAX: u32 = 250;

/// Answers the requests of a connection until it ends or the server stops. `h2`: both sides have agreed on HTTP/2.
pub async fn serve_connection<S, F, Fut>(stream: S, h2: bool, stopping: impl Future<Output = ()>, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Send + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let head = Arc::new(match h2 {
        // Once there was a request, pings tell whether somebody is still there.
        true => Head::within(IDLE),
        false => Head::default(),
    });
    let stream = Guarded { stream, head: head.clone() };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        head.came();
        let (head, answer) = (head.clone(), answer(request));
        async move {
            let response = answer.await;
            // What follows a switch of protocols is no request.
            if !h2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                head.may_come();
            }
            Ok::<_, Infallible>(response)
        }
    });
    // Not the builder that finds out which of them a client speaks: it waits for the first bytes of one that says nothing, for ever.
    match h2 {
        true => {
            // It bounds the frames too in which headers may come.
            let header_bytes = if vocab::weak::without("headers") { u32::MAX } else { HEADER_BYTES_MAX };
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(header_bytes)
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(20))
                .initial_stream_window_size(256 << 10)
                .initial_connection_window_size(1 << 20)
                .serve_connection(TokioIo::new(stream), service);
            until(stopping, connection, |connection| connection.graceful_shutdown()).await;
        }
        false => {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(HEADER_BYTES_MAX as usize)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            until(stopping, connection, |connection| connection.graceful_shutdown()).await;
        }
    }
}

/// Until it ends by itself, or in good order once the server stops.
async fn until<C: Future>(stopping: impl Future<Output = ()>, connection: C, leave: impl FnOnce(Pin<&mut C>)) {
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping => {
            leave(connection.as_mut());
            let _ = tokio::time::timeout(LEAVING, connection).await;
        }
    }
}

/// The head of the next request.
#[derive(Default)]
struct Head {
    /// A request is being answered: what is read now is its body.
    answering: AtomicBool,
    /// Until when it has to be there; from its first byte on.
    until: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Head {
    /// Its time runs already.
    fn within(limit: Duration) -> Self {
        Self { until: Mutex::new(Some(Box::pin(tokio::time::sleep(limit)))), ..Self::default() }
    }

    fn came(&self) {
        self.answering.store(true, Ordering::Relaxed);
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn may_come(&self) {
        self.answering.store(false, Ordering::Relaxed);
    }

    /// Ready when its time is over. `bytes`: more of it has come.
    fn poll_late(&self, bytes: bool, cx: &mut Context<'_>) -> Poll<()> {
        if self.answering.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes && until.is_none() {
            *until = Some(Box::pin(tokio::time::sleep(HEAD)));
        }
        until.as_mut().map_or(Poll::Pending, |until| until.as_mut().poll(cx))
    }
}

/// A stream from which nothing is read any more when a request's head does not come to its end.
struct Guarded<S> {
    stream: S,
    head: Arc<Head>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() > before;
        if self.head.poll_late(bytes, cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(read)?;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    fn connect() -> DuplexStream {
        connect_by(false)
    }

    fn connect_by(h2: bool) -> DuplexStream {
        let (client, server) = tokio::io::duplex(64 << 10);
        let answer = |request: Request<Incoming>| async move {
            use http_body_util::BodyExt as _;
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(Body::from(body))
        };
        tokio::spawn(serve_connection(server, h2, std::future::pending(), answer));
        client
    }

    async fn answered(client: &mut DuplexStream) {
        let mut bytes = vec![0; 4096];
        let count = client.read(&mut bytes).await.unwrap();
        assert!(bytes[..count].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&bytes[..count]));
    }

    /// Seconds until the server ends the connection.
    async fn ended_after(client: &mut DuplexStream) -> u64 {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_kept_as_long_as_upstream_keeps_them() {
        // Never asked anything.
        assert_eq!(ended_after(&mut connect()).await, 90);
        assert_eq!(ended_after(&mut connect_by(true)).await, 90);
        // It begins as HTTP/2 does, and asks nothing.
        let mut client = connect_by(true);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        assert!((50..=90).contains(&ended_after(&mut client).await));
        // At rest between requests, again and again.
        let mut client = connect();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(80)).await;
            client.write_all(REQUEST).await.unwrap();
            answered(&mut client).await;
        }
        assert_eq!(ended_after(&mut client).await, 90);
        // A head that does not end, the first and a later one, however its bytes trickle in.
        for before in [0, 2] {
            let mut client = connect();
            for _ in 0..before {
                client.write_all(REQUEST).await.unwrap();
                answered(&mut client).await;
            }
            client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            let (mut read, mut write) = tokio::io::split(client);
            let trickle = tokio::spawn(async move {
                while write.write_all(b"a: b\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            });
            let begun = Instant::now();
            let _ = read.read_to_end(&mut Vec::new()).await;
            assert!((31..=33).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
            trickle.abort();
        }
        // A body may take longer.
        let mut client = connect();
        client.write_all(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n").await.unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            client.write_all(b"x").await.unwrap();
        }
        answered(&mut client).await;
    }
}
