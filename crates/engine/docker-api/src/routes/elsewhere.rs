//! What Docker's API has and this engine does not: each is refused with words that say so.

use http::Method;
use http::StatusCode;

use crate::http::error::{ApiError, ApiResult};
use crate::http::reply::{self, Reply};

/// Swarm's routes answer as an engine that is not part of a swarm, so that clients which ask before they act go on.
pub(crate) fn swarm(method: &Method, segments: &[&str]) -> ApiError {
    match (method.as_str(), segments) {
        ("POST", ["swarm", "init" | "join"]) => ApiError::unsupported("Swarm mode is not supported by this engine"),
        ("POST", ["swarm", "leave"]) => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm")
        }
        _ => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        ),
    }
}

pub(crate) fn checkpoints() -> ApiError {
    ApiError::unsupported("checkpoints are not supported by this engine")
}

/// Everything that no other room answers.
pub(crate) fn rest(method: &Method, segments: &[&str]) -> ApiResult<Reply> {
    match (method.as_str(), segments) {
        ("GET", ["plugins"]) => reply::ok(&[(); 0]),
        ("GET", ["plugins", name @ .., "json"]) if !name.is_empty() => {
            Err(ApiError::not_found(format!("plugin {:?} not found", name.join("/"))))
        }
        ("GET", ["images", .., "attestations"]) => {
            Err(ApiError::unsupported("attestations are not supported by this engine"))
        }
        (_, ["plugins", ..]) => Err(ApiError::unsupported("plugins are not supported by this engine")),
        ("POST", ["build", "cancel"]) => Err(ApiError::unsupported(
            "build/cancel: a build ends with its client's connection; there is nothing else to cancel it by",
        )),
        _ => Err(ApiError::page_not_found()),
    }
}
