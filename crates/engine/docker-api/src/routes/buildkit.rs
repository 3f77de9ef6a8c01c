//! `POST /grpc` and `POST /session`: connections that BuildKit's protocol takes over; and the one that brings a folder.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::http::body::Body;
use crate::http::error::{ApiError, ApiResult};
use crate::http::reply::Reply;
use crate::router::Call;

/// From here on the client calls us.
pub(crate) fn grpc(mut call: Call) -> ApiResult<Reply> {
    let (upgrade, reply) = take_over(&mut call, "h2c")?;
    let kit = call.buildkit;
    tokio::spawn(async move {
        if let Some(io) = taken(upgrade).await {
            kit.serve_grpc(io).await;
        }
    });
    Ok(reply)
}

/// From here on we call the client.
pub(crate) fn session(mut call: Call) -> ApiResult<Reply> {
    let offer = buildkit::SessionOffer::of_headers(call.request.headers()).map_err(ApiError::invalid)?;
    let (upgrade, reply) = take_over(&mut call, "h2c")?;
    let kit = call.buildkit;
    tokio::spawn(async move {
        if let Some(io) = taken(upgrade).await {
            kit.serve_session(offer, io).await;
        }
    });
    Ok(reply)
}

/// From here on the client brings a folder; see [`buildkit::sync`].
pub(crate) fn context(mut call: Call) -> ApiResult<Reply> {
    let key = match call.query.text("key") {
        Some(key) if !key.is_empty() => key.to_owned(),
        _ => return Err(ApiError::invalid("a folder for a build needs a key, under which it is kept")),
    };
    let (upgrade, reply) = take_over(&mut call, "tcp")?;
    let kit = call.buildkit;
    tokio::spawn(async move {
        if let Some(io) = taken(upgrade).await {
            kit.serve_folder(&key, io).await;
        }
    });
    Ok(reply)
}

fn take_over(call: &mut Call, protocol: &'static str) -> ApiResult<(OnUpgrade, Reply)> {
    if !wants(call.request.headers(), protocol) {
        return Err(ApiError::invalid(format!("this path is for connections that are upgraded to {protocol}")));
    }
    let upgrade = call
        .request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| ApiError::invalid("this connection cannot be taken over"))?;
    let mut reply = Response::new(Body::Empty);
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    Ok((upgrade, reply))
}

fn wants(headers: &HeaderMap, protocol: &str) -> bool {
    headers.get(UPGRADE).is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
}

async fn taken(upgrade: OnUpgrade) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    match upgrade.await {
        Ok(upgraded) => Some(TokioIo::new(upgraded)),
        Err(error) => {
            tracing::debug!(%error, "a connection was not taken over");
            None
        }
    }
}
