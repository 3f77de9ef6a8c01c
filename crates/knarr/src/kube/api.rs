//! The Kubernetes API over TLS, for commands: a request, an answer; a stream of lines; a connection of one's own.
//!
//! One thread, one connection that is kept for the next request. Errors are kubectl's words.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::config::Config;
use crate::failure::Failure;

/// The size at which an answer is refused.
const ANSWER_BYTES_MAX: usize = 1 << 30;
pub const JSON: &str = "application/json";

/// A connection to one cluster.
pub struct Api {
    runtime: Runtime,
    config: Config,
    tls: Arc<ClientConfig>,
    idle: RefCell<Option<SendRequest<Full<Bytes>>>>,
}

/// A whole answer.
pub struct Reply {
    pub status: u16,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::new(format!("the server's answer is not JSON: {error}")))
    }
}

impl Api {
    pub fn new(config: Config) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = tls(&config).map_err(|error| Failure::new(format!("kubeconfig: {error}")))?;
        Ok(Self { runtime, config, tls, idle: RefCell::new(None) })
    }

    pub fn namespace(&self) -> &str {
        &self.config.namespace
    }

    /// For what runs on after this call, such as port-forwards.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn unreachable(&self, error: impl std::fmt::Display) -> Failure {
        Failure::new(format!(
            "The connection to the server {} was refused or broken - did you specify the right host or port? ({error})",
            self.config.address
        ))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = TcpStream::connect(&self.config.address).await.map_err(|error| self.unreachable(error))?;
        // Requests are small and wait for their answer.
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(self.config.server_name.clone()).map_err(|error| self.unreachable(error))?;
        let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(|error| {
            Failure::new(format!("Unable to connect to the server: {}: {error}", self.config.address))
        })?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(error))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let prefix = if self.config.prefix.is_empty() { String::new() } else { format!("/{}", self.config.prefix) };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"))
            .header("host", &self.config.address)
            .header("user-agent", concat!("knarr/", env!("CARGO_PKG_VERSION")))
            .header("accept", accept);
        if !content.is_empty() {
            request = request.header("content-type", content);
        }
        if let Some(token) = &self.config.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(Full::new(body)).map_err(|error| Failure::new(format!("{path}: {error}")))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), Failure> {
        let idle = self.idle.borrow_mut().take();
        let mut sender = match idle.filter(|sender| sender.is_ready()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        for warning in response.headers().get_all("warning") {
            // `299 - "text"` (RFC 9111, section 5.5).
            let text = warning.to_str().unwrap_or_default();
            let text = text.split_once('"').map_or(text, |(_, rest)| rest.trim_end_matches('"'));
            let _ = writeln!(std::io::stderr(), "Warning: {}", text.replace("\\\"", "\""));
        }
        Ok((response, sender))
    }

    /// Any answer, whatever its status.
    pub fn send(&self, method: Method, path: &str, accept: &str, content: &str, body: Bytes) -> Result<Reply, Failure> {
        self.runtime.block_on(async {
            let request = self.build(method, path, accept, content, body)?;
            let (response, sender) = self.exchange(request).await?;
            let status = response.status().as_u16();
            let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.unreachable(error))?.to_bytes();
            *self.idle.borrow_mut() = Some(sender);
            Ok(Reply { status, body })
        })
    }

    /// An answer below 400; anything else is kubectl's error.
    pub fn ask(&self, method: Method, path: &str, accept: &str, content: &str, body: Bytes) -> Result<Reply, Failure> {
        let reply = self.send(method, path, accept, content, body)?;
        if reply.status < 400 { Ok(reply) } else { Err(refusal(reply.status, &reply.body)) }
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, JSON, "", Bytes::new())?.json()
    }

    /// `None` where there is no such object.
    pub fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        let reply = self.send(Method::GET, path, JSON, "", Bytes::new())?;
        match reply.status {
            404 => Ok(None),
            0..400 => reply.json().map(Some),
            status => Err(refusal(status, &reply.body)),
        }
    }

    pub fn change(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(method, path, JSON, content, body.to_string().into())?.json()
    }

    /// Hands every piece of the answer's body to `each` until it says `false` or the server ends.
    pub fn stream(
        &self,
        path: &str,
        accept: &str,
        mut each: impl FnMut(&[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let request = self.build(Method::GET, path, accept, "", Bytes::new())?;
            let (mut response, _sender) = self.exchange(request).await?;
            if response.status() != StatusCode::OK {
                let status = response.status().as_u16();
                let body = http_body_util::Limited::new(response.into_body(), 1 << 20).collect().await;
                let body = body.map_err(|error| self.unreachable(error))?.to_bytes();
                return Err(refusal(status, &body));
            }
            while let Some(frame) = response.body_mut().frame().await {
                let frame = frame.map_err(|error| self.unreachable(error))?;
                if let Some(bytes) = frame.data_ref()
                    && !each(bytes)?
                {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Follows a watch: one event at a time, until `each` says `false` or the server ends it.
    pub fn watch(
        &self,
        path: &str,
        accept: &str,
        mut each: impl FnMut(&str, &Value) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut pending = Vec::new();
        self.stream(path, accept, |bytes| {
            pending.extend_from_slice(bytes);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
                if !each(event["type"].as_str().unwrap_or_default(), &event["object"])? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// A connection that the server has turned into a WebSocket of the named protocol.
    pub async fn websocket(&self, path: &str, protocol: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, Failure> {
        let mut request = self.build(Method::GET, path, "*/*", "", Bytes::new())?;
        let headers = request.headers_mut();
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            // The nonce proves nothing over TLS; it only has to be 16 bytes.
            ("sec-websocket-key", "a25hcnIga25hcnIga24="),
        ] {
            headers.insert(name, http::HeaderValue::from_static(value));
        }
        let protocol = http::HeaderValue::from_str(protocol).map_err(|error| Failure::new(error.to_string()))?;
        headers.insert("sec-websocket-protocol", protocol);
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status().as_u16();
            let body = http_body_util::Limited::new(response.into_body(), 1 << 20).collect().await;
            let body = body.map_err(|error| self.unreachable(error))?.to_bytes();
            return Err(refusal(status, &body));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.unreachable(error))?;
        Ok(TokioIo::new(upgraded))
    }
}

/// What kubectl says of an error answer.
pub fn refusal(status: u16, body: &[u8]) -> Failure {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = match (value["message"].as_str(), value["reason"].as_str()) {
        (Some(message), Some("Invalid")) => format!("The {message}").replace("The The ", "The "),
        (Some(message), Some(reason)) if !reason.is_empty() => format!("Error from server ({reason}): {message}"),
        (Some(message), _) => format!("Error from server: {message}"),
        (None, _) => format!("Error from server: status {status}: {}", String::from_utf8_lossy(body).trim()),
    };
    Failure { status: Some(status), ..Failure::new(message) }
}

fn tls(config: &Config) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let system;
    let bundle = match config.authority.is_empty() {
        false => &config.authority,
        true => {
            system = std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
            &system
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle).flatten() {
        // A bundle may hold certificates of kinds that are not understood; the others still count.
        let _ = roots.add(certificate);
    }
    let builder = builder.with_root_certificates(roots);
    let config = match &config.identity {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
            let certificates = certificates.map_err(|error| format!("client-certificate: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("client-key: {error}"))?;
            builder.with_client_auth_cert(certificates, key).map_err(|error| format!("client-certificate: {error}"))?
        }
    };
    Ok(Arc::new(config))
}
