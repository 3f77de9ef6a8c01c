//! The asking side, over a socket of this machine. The connection is made when it is needed, and again when it has broken.

use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::MESSAGE_BYTES_MAX;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

fn path(service: &str, method: &str) -> Result<PathAndQuery, Status> {
    PathAndQuery::try_from(format!("/{service}/{method}"))
        .map_err(|error| Status::internal(format!("{method} is no method: {error}")))
}

impl Client {
    /// `socket`: where the other side listens. Nothing is sent yet.
    pub fn new(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("nobody answers: {error}")))?;
        Ok(grpc)
    }

    /// One message out, one message in, within a time if there is one.
    pub async fn unary<Q, R>(
        &self,
        service: &str,
        method: &str,
        message: Q,
        limit: Option<Duration>,
    ) -> Result<R, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let (mut grpc, path) = (self.ready().await?, path(service, method)?);
        let mut request = Request::new(message);
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        Ok(grpc.unary(request, path, ProstCodec::<Q, R>::default()).await?.into_inner())
    }

    /// One message out, a stream of them in.
    pub async fn server_stream<Q, R>(&self, service: &str, method: &str, message: Q) -> Result<Streaming<R>, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let (mut grpc, path) = (self.ready().await?, path(service, method)?);
        let codec = ProstCodec::<Q, R>::default();
        Ok(grpc.server_streaming(Request::new(message), path, codec).await?.into_inner())
    }
}
