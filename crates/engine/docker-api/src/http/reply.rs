//! Answers: a status, a content type and a body. Headers that every answer carries are added by the server.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::error::{ApiError, ApiResult};

pub(crate) type Reply = Response<Body>;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(crate) const RAW_STREAM: HeaderValue = HeaderValue::from_static("application/vnd.docker.raw-stream");
pub(crate) const MULTIPLEXED_STREAM: HeaderValue =
    HeaderValue::from_static("application/vnd.docker.multiplexed-stream");

/// One JSON document and, as Go's encoder ends it, a newline.
pub(crate) fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> ApiResult<Reply> {
    let mut text = Vec::with_capacity(512);
    serde_json::to_writer(&mut text, value).map_err(|error| ApiError::internal(format!("encode answer: {error}")))?;
    text.push(b'\n');
    Ok(with_type(status, JSON, Body::Full(text.into())))
}

/// 200 with a JSON document.
pub(crate) fn ok<T: Serialize + ?Sized>(value: &T) -> ApiResult<Reply> {
    json(StatusCode::OK, value)
}

/// A status without a body: 204 after most actions, 200 after some.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::Empty);
    *reply.status_mut() = status;
    reply
}

pub(crate) fn with_type(status: StatusCode, content_type: HeaderValue, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// A refusal as Docker writes it. 304 has no body by HTTP's own rules.
pub(crate) fn error(error: &ApiError) -> Reply {
    if error.status == StatusCode::NOT_MODIFIED {
        return empty(error.status);
    }
    #[derive(Serialize)]
    struct Message<'a> {
        message: &'a str,
    }
    let text = serde_json::to_vec(&Message { message: &error.message }).map(|mut text| {
        text.push(b'\n');
        text
    });
    with_type(error.status, JSON, Body::Full(text.unwrap_or_default().into()))
}

/// Adds a header to an answer.
pub(crate) fn header(mut reply: Reply, name: HeaderName, value: HeaderValue) -> Reply {
    reply.headers_mut().insert(name, value);
    reply
}
