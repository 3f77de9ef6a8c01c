//! Volumes, and their way to and from a tar (which Docker does not have).

use std::collections::BTreeMap;

use http::StatusCode;
use http::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};

use super::to_the_end;
use crate::http::body::{Body, feed, read_json_or_none};
use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::http::version::ApiVersion;
use crate::router::Call;
use crate::wire::{info, unset};

/// From this version on prune spares volumes with a name, unless asked.
const PRUNE_SPARES_NAMED: ApiVersion = ApiVersion(42);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    name: Option<String>,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    cluster_volume_spec: Option<Value>,
}

pub(crate) async fn list(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["dangling", "driver", "label", "name"])?;
    let found = call.engine.volume_list(&filters).await?;
    let warnings = if found.warnings.is_empty() { Value::Null } else { json!(found.warnings) };
    let shown = found.volumes.into_iter().map(info::volume).collect::<Vec<_>>();
    reply::ok(&json!({ "Volumes": shown, "Warnings": warnings }))
}

pub(crate) async fn inspect(call: Call, name: &str) -> ApiResult<Reply> {
    reply::ok(&info::volume(call.engine.volume_inspect(name).await?))
}

pub(crate) async fn create(call: Call) -> ApiResult<Reply> {
    let (parts, mut body) = call.request.into_parts();
    let body: CreateBody = read_json_or_none(&parts.headers, &mut body).await?.unwrap_or_default();
    if body.cluster_volume_spec.is_some_and(|spec| !spec.is_null()) {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "volume create: this node is not part of a swarm"));
    }
    let request = engine::VolumeRequest {
        name: unset(body.name),
        driver: unset(body.driver),
        options: unset(body.driver_opts),
        labels: unset(body.labels),
    };
    let engine = call.engine;
    let volume = to_the_end(async move { engine.volume_create(request).await }).await?;
    reply::json(StatusCode::CREATED, &info::volume(volume))
}

pub(crate) async fn remove(call: Call, name: &str) -> ApiResult<Reply> {
    let force = call.query.flag("force");
    let (engine, name) = (call.engine, name.to_owned());
    to_the_end(async move { engine.volume_remove(&name, force).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Only a swarm's volumes can be changed.
pub(crate) async fn update(call: Call, name: &str) -> ApiResult<Reply> {
    call.engine.volume_inspect(name).await?;
    Err(ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "volume update only valid for cluster volumes, but swarm is unavailable",
    ))
}

pub(crate) async fn prune(call: Call) -> ApiResult<Reply> {
    let mut filters = filters::parse(&call.query, &["all", "label", "label!"])?;
    if call.version < PRUNE_SPARES_NAMED && !filters.has("all") {
        filters.insert("all", "true");
    }
    let engine = call.engine;
    let pruned = to_the_end(async move { engine.volume_prune(&filters).await }).await?;
    let names = if pruned.ids.is_empty() { None } else { Some(pruned.ids) };
    reply::ok(&json!({ "VolumesDeleted": names, "SpaceReclaimed": pruned.space_reclaimed_bytes }))
}

pub(crate) async fn export(call: Call, name: &str) -> ApiResult<Reply> {
    let archive = call.engine.volume_export(name).await?;
    Ok(reply::with_type(StatusCode::OK, HeaderValue::from_static("application/x-tar"), Body::Bytes(archive)))
}

pub(crate) async fn import(call: Call, name: &str) -> ApiResult<Reply> {
    let body = feed(call.request.into_body());
    let (engine, name) = (call.engine, name.to_owned());
    to_the_end(async move { engine.volume_import(&name, body).await }).await?;
    Ok(reply::empty(StatusCode::OK))
}
