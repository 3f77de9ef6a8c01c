//! The handshake of WebSocket (RFC 6455), with refusals in Docker's form; the codec is `streaming`'s.

use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use streaming::websocket;

use super::error::{ApiError, ApiResult};

/// Checks a handshake and gives the `Sec-WebSocket-Accept` that answers it.
pub(crate) fn accept(headers: &HeaderMap) -> ApiResult<HeaderValue> {
    let is_websocket = headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_websocket);
    let Some(key) = key else {
        return Err(ApiError::invalid("a WebSocket handshake was expected: Upgrade: websocket and Sec-WebSocket-Key"));
    };
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::invalid("Sec-WebSocket-Version 13 was expected"));
    }
    HeaderValue::try_from(websocket::accept_key(key.as_bytes()))
        .map_err(|error| ApiError::internal(format!("encode the handshake: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_rfc_is_answered_as_in_the_rfc() {
        let mut headers = HeaderMap::new();
        assert!(accept(&headers).is_err());
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(accept(&headers).is_err());
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        assert_eq!(accept(&headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
