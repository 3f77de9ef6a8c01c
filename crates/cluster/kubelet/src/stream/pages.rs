//! The node's own pages: health, pods, figures. The API's proxy and the node's own port both end here.

use client::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response};
use resources::{Status, Value};
use serde_json::json;
use std::sync::PoisonError;

use crate::manage::Doors;
use crate::node;
use crate::runtime::Runtime;
use crate::stats::{self, metrics, summary};

/// What Prometheus is told that it gets.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn text(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Some(text.into())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn value(value: &Value) -> Response<Body> {
    text("application/json", value.to_string())
}

/// `path` without its leading slash.
pub async fn serve<R: Runtime>(doors: &Doors<R>, method: &Method, path: &str) -> Result<Response<Body>, Status> {
    let path = path.trim_matches('/');
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Status::new(405, "MethodNotAllowed", format!("the node's page {path:?} is for reading")));
    }
    match path {
        "healthz" | "healthz/ping" | "healthz/log" | "healthz/syncloop" => {
            Ok(text("text/plain; charset=utf-8", "ok".into()))
        }
        "pods" => {
            let view = doors.view.read().unwrap_or_else(PoisonError::into_inner);
            let items: Vec<Value> = view.pods_on(&doors.node.name).map(|pod| Value::clone(pod)).collect();
            Ok(value(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})))
        }
        "stats/summary" => Ok(value(&summary::summary(&doors.node.name, &stats::read(doors).await))),
        "metrics" => Ok(text(TEXT, metrics::kubelet(&doors.node.name, node::VERSION, &stats::read(doors).await))),
        "metrics/resource" => Ok(text(TEXT, metrics::resource(&stats::read(doors).await))),
        "metrics/cadvisor" => {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            Ok(text(TEXT, metrics::cadvisor(&stats::read(doors).await, cpus)))
        }
        other => Err(Status::new(404, "NotFound", format!("the node has no page {other:?}"))),
    }
}
