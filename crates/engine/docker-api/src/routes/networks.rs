//! Networks.

use http::StatusCode;
use serde_json::json;

use super::to_the_end;
use crate::http::body::read_json;
use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::network::{ConnectBody, CreateBody, DisconnectBody, Network};

pub(crate) async fn list(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let networks = call.engine.network_list(&filters).await?;
    // A list tells nothing of containers.
    let plain = networks
        .into_iter()
        .map(|network| Network::from_model(engine::NetworkView { containers: Default::default(), ..network }));
    reply::ok(&plain.collect::<Vec<_>>())
}

pub(crate) async fn inspect(call: Call, id: &str) -> ApiResult<Reply> {
    if let Some(scope) = call.query.text("scope").filter(|scope| *scope != "local") {
        return Err(ApiError::not_found(format!("network {id} not found in scope {scope}")));
    }
    reply::ok(&Network::from_model(call.engine.network_inspect(id).await?))
}

pub(crate) async fn create(call: Call) -> ApiResult<Reply> {
    let (parts, body) = call.request.into_parts();
    let request = read_json::<CreateBody>(&parts.headers, body).await?.into_request()?;
    let engine = call.engine;
    let created = to_the_end(async move { engine.network_create(request).await }).await?;
    reply::json(StatusCode::CREATED, &json!({ "Id": created.id, "Warning": created.warning }))
}

pub(crate) async fn remove(call: Call, id: &str) -> ApiResult<Reply> {
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.network_remove(&id).await }).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn connect(call: Call, id: &str) -> ApiResult<Reply> {
    let (parts, body) = call.request.into_parts();
    let (container, settings) = read_json::<ConnectBody>(&parts.headers, body).await?.into_request();
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.network_connect(&id, &container, settings).await }).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn disconnect(call: Call, id: &str) -> ApiResult<Reply> {
    let (parts, body) = call.request.into_parts();
    let (container, force) = read_json::<DisconnectBody>(&parts.headers, body).await?.into_request();
    let (engine, id) = (call.engine, id.to_owned());
    to_the_end(async move { engine.network_disconnect(&id, &container, force).await }).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn prune(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["label", "label!", "until"])?;
    let engine = call.engine;
    let pruned = to_the_end(async move { engine.network_prune(&filters).await }).await?;
    reply::ok(&json!({ "NetworksDeleted": if pruned.is_empty() { None } else { Some(pruned) } }))
}
