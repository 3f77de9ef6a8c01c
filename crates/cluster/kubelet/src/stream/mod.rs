//! What the API asks the node for: logs as a stream of lines; exec, attach and port-forward over WebSocket or SPDY.

mod logs;
mod pages;
mod session;

use std::pin::Pin;
use std::sync::Arc;

use client::{Body, NodeRequest, Nodes};
use http::Response;
use resources::{Status, Value, meta};

use crate::actions;
use crate::manage::Doors;
use crate::runtime::{Runtime, RuntimeError, State};
use crate::shown::shown_container;

/// The door through which the API reaches this node's pods.
pub struct NodeDoor<R> {
    doors: Arc<Doors<R>>,
}

impl<R: Runtime> NodeDoor<R> {
    pub fn new(doors: Arc<Doors<R>>) -> Self {
        Self { doors }
    }

    async fn serve(&self, request: NodeRequest) -> Result<Response<Body>, Status> {
        if request.node != self.doors.node.name {
            return Err(unavailable(format!("the agent of node {:?} cannot be reached", request.node)));
        }
        let Some(pod) = request.pod.clone() else {
            return pages::serve(&self.doors, &request.method, &request.rest).await;
        };
        match request.subresource.as_str() {
            "log" => logs::serve(&self.doors, &pod, &request).await,
            "exec" | "attach" => session::serve(self.doors.clone(), pod, request).await,
            "portforward" => session::forward(self.doors.clone(), pod, request).await,
            other => Err(Status::new(501, "NotImplemented", format!("pods/{other} is not supported yet"))),
        }
    }
}

impl<R: Runtime> Nodes for NodeDoor<R> {
    fn answer(
        &self,
        request: NodeRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send + '_>> {
        Box::pin(self.serve(request))
    }
}

fn unavailable(message: String) -> Status {
    Status::new(503, "ServiceUnavailable", message)
}

fn failed(error: RuntimeError) -> Status {
    Status::new(500, "InternalError", error.to_string())
}

/// The container that a request means: the one it names, else the default one, else the only one.
fn container_name(pod: &Value, asked: &str) -> Result<String, Status> {
    let names: Vec<&str> = crate::pod::containers(pod).map(|(_, container)| crate::pod::name(container)).collect();
    let pod_name = meta::name(pod);
    if !asked.is_empty() {
        return match names.contains(&asked) {
            true => Ok(asked.to_owned()),
            false => Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}"))),
        };
    }
    let main: Vec<&str> = meta::list_at(pod, &["spec", "containers"]).iter().map(crate::pod::name).collect();
    match main[..] {
        [only] => Ok(only.to_owned()),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            main.join(" ")
        ))),
    }
}

/// The id of a running container of the pod.
async fn running<R: Runtime>(doors: &Doors<R>, pod: &Value, name: &str) -> Result<String, Status> {
    if let Some(id) = shown_container(pod) {
        return Ok(id.to_owned());
    }
    let seen = doors.runtime.containers(Some(meta::uid(pod))).await.map_err(failed)?;
    match actions::current(&seen, name) {
        Some(seen) if matches!(seen.state, State::Running { .. }) => Ok(seen.id.clone()),
        _ => Err(Status::bad_request(format!("container not found ({name:?})"))),
    }
}
