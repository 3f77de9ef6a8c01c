//! Asking a workload over its network whether it is well: TCP, HTTP, HTTPS and gRPC's health protocol.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use resources::{Value, meta};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 10 << 10;
const AGENT: &str = "kube-probe/1.36";
/// `SERVING` of gRPC's health protocol.
const SERVING: u64 = 1;

pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port)).await;
    stream.map_err(|error| format!("dial tcp {}: connect: {}", joined(host, port), plain(&error)))
}

/// The kernel's words without Rust's number behind them.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An answer from 200 to 399 is good.
pub async fn http(get: &Value, host: &str, port: u16) -> Result<(), String> {
    let https = get["scheme"] == "HTTPS";
    let path = match get["path"].as_str() {
        None | Some("") => "/".to_owned(),
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => format!("/{path}"),
    };
    let url = format!("{}://{}{path}", if https { "https" } else { "http" }, joined(host, port));
    let failed = |error: String| format!("Get {url:?}: {error}");
    let request = request(get, host, port, path.clone())?;
    let stream = connect(host, port).await.map_err(&failed)?;
    let code = match https {
        false => send(stream, request).await,
        true => {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
            // Probes do not care whose certificate it is, as upstream's do not.
            let trusting = client::believing_anybody().map_err(|error| failed(error.to_string()))?;
            let secured = tokio_rustls::TlsConnector::from(Arc::new(trusting)).connect(name, stream).await;
            send(secured.map_err(|error| failed(error.to_string()))?, request).await
        }
    };
    match code.map_err(failed)? {
        200..400 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}

fn request(get: &Value, host: &str, port: u16, path: String) -> Result<Request<Empty<Bytes>>, String> {
    let mut headers = HeaderMap::new();
    for header in meta::list_at(get, &["httpHeaders"]) {
        let text = |field: &str| header[field].as_str().unwrap_or_default();
        let name = http::HeaderName::try_from(text("name")).map_err(|error| error.to_string())?;
        let value = http::HeaderValue::try_from(text("value")).map_err(|error| error.to_string())?;
        headers.append(name, value);
    }
    let mut request = Request::get(path).body(Empty::new()).map_err(|error| error.to_string())?;
    let mut fill = |name: &'static str, value: &str| {
        if !headers.contains_key(name)
            && let Ok(value) = http::HeaderValue::try_from(value)
        {
            headers.insert(name, value);
        }
    };
    fill("host", &joined(host, port));
    fill("user-agent", AGENT);
    fill("accept", "*/*");
    fill("connection", "close");
    *request.headers_mut() = headers;
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let driving = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    let code = match answer {
        Err(error) => Err(error),
        Ok(answer) => {
            let code = answer.status().as_u16();
            // Read so that a workload that logs its answers is not cut off; what it says is not told.
            let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok(code)
        }
    };
    driving.abort();
    code
}

/// `grpc.health.v1.Health/Check` over plain HTTP/2.
pub async fn grpc(service: &str, host: &str, port: u16) -> Result<(), String> {
    let address = joined(host, port);
    let refused = |error: String| format!("timeout: failed to connect service {address:?} within 1s: {error}");
    let stream = connect(host, port).await.map_err(&refused)?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| refused(error.to_string()))?;
    let driving = tokio::spawn(connection);
    let asked = async {
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", AGENT)
            .body(Full::new(health_request(service)))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| refused(error.to_string()))?;
        let head = answer.headers().get("grpc-status").cloned();
        let body =
            Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        let code = head.or_else(|| body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned());
        match code.as_ref().and_then(|code| code.to_str().ok()) {
            None | Some("0") => {}
            Some("12") => {
                return Err(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
                );
            }
            Some(code) => return Err(format!("error: health rpc probe failed: rpc error: code = {code}")),
        }
        match health_status(&body.to_bytes()) {
            Some(SERVING) => Ok(()),
            other => Err(format!("service unhealthy (responded with {:?})", status_name(other.unwrap_or(0)))),
        }
    };
    let outcome = asked.await;
    driving.abort();
    outcome
}

fn status_name(status: u64) -> &'static str {
    match status {
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// Field 1 is the service's name; five bytes before the message tell that it is not compressed and how long it is.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(&message);
    out.freeze()
}

/// Field 1 is the status. `None`: not an answer of this protocol.
fn health_status(body: &[u8]) -> Option<u64> {
    let [0, a, b, c, d, message @ ..] = body else { return None };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    match message.get(..length)? {
        [] => Some(0),
        [0x08, status, ..] => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_protocol_is_written_and_read() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("db")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        assert_eq!(health_request(&"x".repeat(300))[5..8], [0x0a, 0xac, 2]);
        for (body, expected) in [
            (&[0u8, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 9, 8, 1], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[], None),
        ] {
            assert_eq!(health_status(body), expected, "{body:?}");
        }
    }

    #[test]
    fn a_probes_headers_are_what_the_pod_says_and_upstreams_own() {
        let get = serde_json::json!({"httpHeaders": [{"name": "X-A", "value": "1"}, {"name": "Host", "value": "web"}]});
        let made = request(&get, "fd00::1", 80, "/x".into()).unwrap();
        assert_eq!((made.headers()["host"].to_str().unwrap(), made.headers()["x-a"].to_str().unwrap()), ("web", "1"));
        assert_eq!(made.headers()["user-agent"], AGENT);
        let plain = request(&serde_json::json!({}), "fd00::1", 80, "/x".into()).unwrap();
        assert_eq!(plain.headers()["host"], "[fd00::1]:80");
        let bad = serde_json::json!({"httpHeaders": [{"name": "a b", "value": "1"}]});
        assert!(request(&bad, "h", 1, "/".into()).is_err());
    }
}
