//! What only a node can answer.

use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use resources::{Status, Value};

use crate::{Body, Query, User};

/// A request that only a node can answer: a pod's log, exec, attach, port-forward or proxy, or the node's own proxy.
pub struct NodeRequest {
    pub node: String,
    /// The pod it is about, as stored; `None` for the node itself.
    pub pod: Option<Value>,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: String,
    /// What follows a proxy in the path.
    pub rest: String,
    pub method: Method,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For exec and its like: the connection, once a 101 has been answered.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    pub user: User,
}

/// The door to the nodes. Authorization has been done when a request comes here.
pub trait Nodes: Send + Sync {
    fn answer(&self, request: NodeRequest)
    -> Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send + '_>>;
}
