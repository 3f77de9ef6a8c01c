//! Hijacked connections: after `101 UPGRADED` an attach or exec owns both directions of the socket.
//!
//! Docker's clients send the request with `Connection: Upgrade` and `Upgrade: tcp`; from then on bytes from the
//! client are standard input (a half-close is its end) and bytes to the client are output.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::body::Body;
use super::reply::Reply;

const GONE_CHECK_EVERY: Duration = Duration::from_millis(500);
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Whether the client asked to take the connection over.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"tcp"))
}

/// The answer after which the connection speaks WebSocket.
pub(crate) fn websocket_reply(accept: HeaderValue) -> Reply {
    let mut reply = Response::new(Body::Empty);
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    reply
}

/// The answer after which the connection is no longer HTTP.
pub(crate) fn reply(content_type: HeaderValue) -> Reply {
    let mut reply = Response::new(Body::Empty);
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    reply
}

/// What the client sends after the takeover.
#[derive(Debug)]
pub(crate) struct FromClient {
    /// Bytes that arrived together with the request's head.
    early: Bytes,
    socket: OwnedReadHalf,
}

impl FromClient {
    /// The next bytes; 0 when the client closed its side.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let count = buffer.len().min(self.early.len());
            self.early.copy_to_slice(&mut buffer[..count]);
            return Ok(count);
        }
        self.socket.read(buffer).await
    }

    /// Waits until the client is gone altogether. A half-close looks alike to a reader; that nobody can be written to
    /// any more shows in the socket's readiness, which no wait can be armed for, so it is looked at now and then.
    pub(crate) async fn gone(&self) {
        loop {
            match self.socket.ready(Interest::READABLE | Interest::WRITABLE).await {
                Ok(ready) if !ready.is_write_closed() => tokio::time::sleep(GONE_CHECK_EVERY).await,
                _ => return,
            }
        }
    }

    /// Reads on after the last output, for a while: closing a socket that still holds unread bytes would reset the
    /// connection under the client that is reading the end of the output.
    pub(crate) async fn drain(&mut self) {
        let mut buffer = vec![0; 16 << 10];
        let read_all = async { while self.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
        // A client that never closes is cut off.
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, read_all).await;
    }
}

/// Where output goes.
#[derive(Debug)]
pub(crate) struct ToClient {
    socket: OwnedWriteHalf,
}

impl ToClient {
    /// Writes a header and a payload with one system call where the socket takes both.
    pub(crate) async fn write_framed(&mut self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        let mut parts = [io::IoSlice::new(header), io::IoSlice::new(payload)];
        let mut parts = &mut parts[..];
        while parts.iter().any(|part| !part.is_empty()) {
            let written = self.socket.write_vectored(parts).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            io::IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Tells the client that no more output comes, while its input may still flow.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        self.socket.shutdown().await
    }
}

/// Waits until the answer has been sent and takes the connection.
pub(crate) async fn take(upgrade: OnUpgrade) -> io::Result<(FromClient, ToClient)> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let parts = upgraded
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| io::Error::other("the connection is not a unix socket"))?;
    let (read, write) = parts.io.into_inner().into_split();
    Ok((FromClient { early: parts.read_buf, socket: read }, ToClient { socket: write }))
}
