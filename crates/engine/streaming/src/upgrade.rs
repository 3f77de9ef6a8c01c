//! How clients ask for streams: over WebSocket, or over SPDY/3.1 as those before Kubernetes 1.30 and many libraries do.

use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use crate::websocket::{self, Decoder, Message};

const SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// What both sides speak from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    WebSocket { key: Vec<u8>, protocol: &'static str },
    Spdy { protocol: &'static str },
}

/// Why a connection is not upgraded, as an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl Refusal {
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }
}

/// Chooses the first of our protocols that the client offers.
pub fn negotiate(headers: &HeaderMap, websocket: &[&'static str], spdy: &[&'static str]) -> Result<Wire, Refusal> {
    let asked = headers.get(UPGRADE).map(HeaderValue::as_bytes).unwrap_or_default();
    let choose = |name: &HeaderName, ours: &[&'static str]| {
        let offered = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<&str> = offered.flat_map(|text| text.split(',')).map(str::trim).collect();
        let chosen = ours.iter().copied().find(|known| offered.contains(known));
        chosen.ok_or_else(|| {
            let text = format!("unable to negotiate protocol: client supports {offered:?}, server accepts {ours:?}");
            Refusal { status: StatusCode::FORBIDDEN, message: text }
        })
    };
    if asked.eq_ignore_ascii_case(b"websocket") {
        let key = headers.get(&WEBSOCKET_KEY).ok_or_else(|| Refusal::bad_request("Sec-WebSocket-Key is missing"))?;
        let protocol = choose(&WEBSOCKET_PROTOCOL, websocket)?;
        return Ok(Wire::WebSocket { key: key.as_bytes().to_vec(), protocol });
    }
    if asked.eq_ignore_ascii_case(b"spdy/3.1") {
        return Ok(Wire::Spdy { protocol: choose(&SPDY_PROTOCOL, spdy)? });
    }
    Err(Refusal::bad_request("Upgrade request required"))
}

/// The answer that switches protocols.
pub fn switch(wire: &Wire) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    match wire {
        Wire::WebSocket { key, protocol } => {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            // Text in base 64 is always a header's value.
            if let Ok(accept) = HeaderValue::try_from(websocket::accept_key(key)) {
                headers.insert(WEBSOCKET_ACCEPT, accept);
            }
            headers.insert(WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        Wire::Spdy { protocol } => {
            headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            headers.insert(SPDY_PROTOCOL, HeaderValue::from_static(protocol));
        }
    }
    response
}

/// The bytes that a WebSocket carries in its messages, for protocols that are tunnelled through one.
pub fn tunnel(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let (mut from_client, mut to_client) = tokio::io::split(io);
        let (mut from_us, mut to_us) = tokio::io::split(ours);
        let (say, mut said) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
        let inward = async {
            let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 32 << 10]);
            loop {
                let count = match from_client.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => count,
                };
                for message in decoder.feed(&buffer[..count]) {
                    match message {
                        Ok(Message::Data(bytes)) => {
                            if to_us.write_all(&bytes).await.is_err() {
                                return;
                            }
                        }
                        Ok(Message::Ping(bytes)) => drop(say.try_send(bytes)),
                        Ok(Message::Close) | Err(_) => return,
                    }
                }
            }
        };
        let outward = async {
            let mut buffer = vec![0; 32 << 10];
            loop {
                let frame = tokio::select! {
                    count = from_us.read(&mut buffer) => match count {
                        Ok(0) | Err(_) => break,
                        Ok(count) => message(websocket::Kind::Binary, &buffer[..count]),
                    },
                    Some(ping) = said.recv() => message(websocket::Kind::Pong, &ping),
                };
                if to_client.write_all(&frame).await.is_err() || to_client.flush().await.is_err() {
                    return;
                }
            }
            let _ = to_client.write_all(&message(websocket::Kind::Close, &websocket::NORMAL_CLOSURE)).await;
            let _ = to_client.flush().await;
        };
        // Whichever ends first ends the tunnel.
        tokio::select! {
            () = inward => {}
            () = outward => {}
        }
    });
    theirs
}

/// A whole message as it goes over the wire.
pub fn message(kind: websocket::Kind, bytes: &[u8]) -> Vec<u8> {
    let mut frame = websocket::header(kind, bytes.len());
    frame.extend_from_slice(bytes);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_protocol_that_both_speak_is_chosen() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            match negotiate(&headers, &["v5", "v4"], &["v4", "v3"]) {
                Ok(Wire::WebSocket { protocol, .. }) => format!("websocket {protocol}"),
                Ok(Wire::Spdy { protocol }) => format!("spdy {protocol}"),
                Err(refusal) => format!("{} {}", refusal.status.as_u16(), refusal.message),
            }
        };
        let key = ("sec-websocket-key", "x");
        assert_eq!(check(&[("upgrade", "websocket"), key, ("sec-websocket-protocol", "v4, v5")]), "websocket v5");
        let many = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v3"), ("x-stream-protocol-version", "v4")];
        assert_eq!(check(&many), "spdy v4");
        assert_eq!(check(&[]), "400 Upgrade request required");
        assert_eq!(
            check(&[("upgrade", "spdy/3.1"), ("x-stream-protocol-version", "v1")]),
            "403 unable to negotiate protocol: client supports [\"v1\"], server accepts [\"v4\", \"v3\"]"
        );
    }
}
