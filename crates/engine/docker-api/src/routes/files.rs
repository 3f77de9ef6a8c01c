//! Files of containers: `diff`, `export` and both directions of `cp`.

use base64::Engine as _;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::to_the_end;
use crate::http::body::{Body, feed};
use crate::http::error::{ApiError, ApiResult};
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::container;

const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

pub(crate) async fn changes(call: Call, id: &str) -> ApiResult<Reply> {
    let changes = call.engine.changes(id).await?;
    let changes = changes.into_iter().map(container::Change::from_model).collect::<Vec<_>>();
    reply::ok(&if changes.is_empty() { None } else { Some(changes) })
}

pub(crate) async fn export(call: Call, id: &str) -> ApiResult<Reply> {
    let archive = call.engine.export(id).await?;
    Ok(reply::with_type(StatusCode::OK, HeaderValue::from_static("application/octet-stream"), Body::Bytes(archive)))
}

fn path(call: &Call) -> ApiResult<&str> {
    call.query.text("path").ok_or_else(|| ApiError::invalid("bad parameter: 'path' cannot be empty"))
}

/// Docker names the container as the caller did.
fn named(error: engine::Error, id: &str) -> engine::Error {
    match error {
        engine::Error::NoSuchPath { path, .. } => engine::Error::NoSuchPath { container: id.to_owned(), path },
        other => other,
    }
}

fn stat_header(stat: engine::PathStat) -> ApiResult<HeaderValue> {
    let json = serde_json::to_vec(&container::PathStat::from_model(stat));
    let json = json.map_err(|error| ApiError::internal(format!("encode path stat: {error}")))?;
    let text = base64::engine::general_purpose::STANDARD.encode(json);
    HeaderValue::try_from(text).map_err(|error| ApiError::internal(format!("encode path stat: {error}")))
}

pub(crate) async fn stat(call: Call, id: &str) -> ApiResult<Reply> {
    let stat = call.engine.archive_stat(id, path(&call)?).await.map_err(|error| named(error, id))?;
    Ok(reply::header(reply::empty(StatusCode::OK), PATH_STAT, stat_header(stat)?))
}

pub(crate) async fn get(call: Call, id: &str) -> ApiResult<Reply> {
    let (stat, archive) = call.engine.archive_get(id, path(&call)?).await.map_err(|error| named(error, id))?;
    let reply = reply::with_type(StatusCode::OK, reply::TAR, Body::Bytes(archive));
    Ok(reply::header(reply, PATH_STAT, stat_header(stat)?))
}

pub(crate) async fn put(call: Call, id: &str) -> ApiResult<Reply> {
    let path = path(&call)?.to_owned();
    let no_overwrite = call.query.flag("noOverwriteDirNonDir");
    let copy_owner = call.query.flag("copyUIDGID");
    let body = feed(call.request.into_body());
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move {
        let put = engine.archive_put(&id, &path, no_overwrite, copy_owner, body).await;
        put.map_err(|error| named(error, &id))
    })
    .await?;
    Ok(reply::empty(StatusCode::OK))
}
