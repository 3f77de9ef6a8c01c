//! Calls to a runtime that listens on a socket.

use std::path::Path;
use std::time::Duration;

use prost::Message;
use tonic::{Status, Streaming};

use crate::wire::{ContainerEventResponse, GetEventsRequest};

/// Beside the runtime's own time for a thing, as upstream's `--runtime-request-timeout`.
const PATIENCE: Duration = Duration::from_secs(120);
const RUNTIME: &str = "runtime.v1.RuntimeService";
const IMAGE: &str = "runtime.v1.ImageService";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client(grpc::Client);

impl Client {
    /// `socket`: where the runtime listens. Nothing is sent yet.
    pub fn new(socket: &Path) -> Result<Self, tonic::transport::Error> {
        grpc::Client::new(socket).map(Self)
    }

    /// Asks the service for containers and sandboxes.
    pub async fn runtime<Q, R>(&self, method: &str, message: Q) -> Result<R, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        self.0.unary(RUNTIME, method, message, Some(PATIENCE)).await
    }

    /// Asks for something that takes as long as its own limit says.
    pub async fn runtime_within<Q, R>(&self, method: &str, message: Q, limit: Duration) -> Result<R, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        self.0.unary(RUNTIME, method, message, Some(PATIENCE + limit)).await
    }

    /// Asks the service for images; a pull takes as long as it takes.
    pub async fn image<Q, R>(&self, method: &str, message: Q) -> Result<R, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        self.0.unary(IMAGE, method, message, None).await
    }

    /// What happens to containers, from now on.
    pub async fn events(&self) -> Result<Streaming<ContainerEventResponse>, Status> {
        self.0.server_stream(RUNTIME, "GetContainerEvents", GetEventsRequest {}).await
    }
}
