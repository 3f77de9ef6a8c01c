//! The client's side: calls to the services that a build's client offers on its session.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use http::Uri;
use http::uri::PathAndQuery;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::MESSAGE_BYTES_MAX;

/// What may be under way on one stream. A tree is told in tiny frames, one an entry, and the transport takes too many of
/// them that are not read yet for an attack: how many it bears depends on the connection's window, how many there can be on
/// the stream's. Twenty bytes are the smallest frame, and each counts as 256: this is enough for ten transfers at once.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// Messages that come in.
pub(crate) type Incoming<R> = Streaming<R>;
/// Messages that go out; the last one ends the stream.
pub(crate) type Outgoing<Q> = Pin<Box<dyn Stream<Item = Q> + Send>>;

/// A connection on which the other side is the server.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    sender: http2::SendRequest<Body>,
}

impl Channel {
    /// The channel, and what must be driven for it to move; that ends when the connection does.
    pub(crate) async fn open<I>(io: I) -> hyper::Result<(Self, impl Future<Output = hyper::Result<()>>)>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(io))
            .await?;
        Ok((Self { sender }, connection))
    }

    pub(crate) async fn unary<Q, R>(&self, path: &'static str, message: Q) -> Result<R, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        ready(&mut grpc).await?;
        let path = PathAndQuery::from_static(path);
        Ok(grpc.unary(Request::new(message), path, ProstCodec::<Q, R>::default()).await?.into_inner())
    }

    /// A call whose both sides are streams.
    pub(crate) async fn streams<Q, R>(
        &self,
        path: &'static str,
        metadata: MetadataMap,
        messages: Outgoing<Q>,
    ) -> Result<Incoming<R>, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        ready(&mut grpc).await?;
        let mut request = Request::new(messages);
        *request.metadata_mut() = metadata;
        let path = PathAndQuery::from_static(path);
        Ok(grpc.streaming(request, path, ProstCodec::<Q, R>::default()).await?.into_inner())
    }

    fn grpc(&self) -> Grpc<Self> {
        Grpc::with_origin(self.clone(), Uri::from_static("http://localhost"))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unavailable(format!("the client's session has ended: {error}")))
}

impl GrpcService<Body> for Channel {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
