//! `_ping`, `version`, `info`, `events`, `system df`.

use std::ops::ControlFlow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderName, HeaderValue, PRAGMA};
use http::{Method, StatusCode};
use jiff::Timestamp;

use crate::http::body::Body;
use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::{event, info, time};

/// Clients learn the API version from the headers; that answer must never come from a cache.
pub(crate) fn ping(method: &Method) -> Reply {
    let body = if method == Method::HEAD { Body::Empty } else { Body::Full(Bytes::from_static(b"OK")) };
    let mut reply = reply::with_type(StatusCode::OK, reply::TEXT, body);
    let headers = reply.headers_mut();
    if method == Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // 2: BuildKit is the builder that clients use unless they are told otherwise.
    headers.insert(HeaderName::from_static("builder-version"), HeaderValue::from_static("2"));
    headers.insert(HeaderName::from_static("swarm"), HeaderValue::from_static("inactive"));
    reply
}

pub(crate) async fn version(call: Call) -> ApiResult<Reply> {
    reply::ok(&info::version(&call.engine.info().await?))
}

pub(crate) async fn info(call: Call) -> ApiResult<Reply> {
    reply::ok(&info::info(call.engine.info().await?, Timestamp::now()))
}

pub(crate) async fn doctor(call: Call) -> ApiResult<Reply> {
    let findings = call.engine.doctor(call.query.flag("deep")).await?;
    reply::ok(&findings.iter().map(info::finding).collect::<Vec<_>>())
}

const EVENT_FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

pub(crate) async fn events(call: Call) -> ApiResult<Reply> {
    let query = engine::EventQuery {
        since: time::parse("since", call.query.get("since"))?,
        until: time::parse("until", call.query.get("until"))?,
        filters: filters::parse(&call.query, EVENT_FILTERS)?,
    };
    let events = call.engine.events(query).await?;
    let body = Body::encoded(events, |event, out| match event {
        Ok(event) => append_line(out, &event::Event::from_model(event)),
        Err(error) => {
            tracing::warn!(%error, "event stream ended");
            ControlFlow::Break(())
        }
    });
    Ok(reply::with_type(StatusCode::OK, reply::JSON, body))
}

/// Appends one document and a newline. A value that cannot be encoded ends the stream.
pub(crate) fn append_line<T: serde::Serialize>(out: &mut Vec<u8>, value: &T) -> ControlFlow<()> {
    match serde_json::to_writer(&mut *out, value) {
        Ok(()) => {
            out.push(b'\n');
            ControlFlow::Continue(())
        }
        Err(_) => ControlFlow::Break(()),
    }
}

pub(crate) async fn disk_usage(call: Call) -> ApiResult<Reply> {
    let types: Vec<&str> = call.query.all("type").collect();
    if let Some(unknown) = types.iter().find(|name| !["container", "image", "volume", "build-cache"].contains(*name)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wants = |name| types.is_empty() || types.contains(&name);
    let parts = info::UsageParts { images: wants("image"), containers: wants("container"), volumes: wants("volume") };
    let usage = call.engine.disk_usage().await?;
    let images = if parts.images {
        let options = engine::ImageListOptions { shared_size: true, ..engine::ImageListOptions::default() };
        call.engine.image_list(options).await?
    } else {
        Vec::new()
    };
    let cache = match wants("build-cache") {
        true => Some(call.builder.usage().await.map_err(super::build::refused)?),
        false => None,
    };
    reply::ok(&info::disk_usage(usage, images, cache, parts, call.version))
}
