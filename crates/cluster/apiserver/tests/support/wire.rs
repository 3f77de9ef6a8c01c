//! A server in this process and a client that speaks plain HTTP to it over TLS, so that tests see bytes and codes.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{Config, Server};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};

/// A connection as administrator (by a static token), over TLS that trusts the server's own authority.
pub struct Wire {
    pub server: Server,
    pub sender: SendRequest<Full<Bytes>>,
    pub token: String,
    dir: tempfile::TempDir,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }
}

/// A client's certificate and its key.
pub type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// A connection that asks for this name and offers these protocols.
pub async fn tls(
    server: &Server,
    protocols: &[&[u8]],
    identity: Option<Identity>,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let pem = server.authority_pem();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der.into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = tokio::net::TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn connect(server: &Server) -> SendRequest<Full<Bytes>> {
    let stream = tls(server, &[], None, "localhost").await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

impl Wire {
    pub async fn start() -> Self {
        Self::start_with(false).await
    }

    /// One with files, so that its authority can be had.
    pub async fn start_durable() -> Self {
        Self::start_with(true).await
    }

    /// Certificate and key of its authority, PEM.
    pub fn authority(&self) -> (String, String) {
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join("root/pki").join(name)).unwrap();
        (read("ca.crt"), read("ca.key"))
    }

    async fn start_with(files: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens");
        std::fs::write(&tokens, "secret,admin,1,\"system:masters\"\nplain,ann,2\n").unwrap();
        let root = files.then(|| dir.path().join("root"));
        let server = Server::start(Config { tokens: Some(tokens), root, ..Config::default() }).await.unwrap();
        let sender = connect(&server).await;
        Self { server, sender, token: "secret".into(), dir }
    }

    /// The namespace's default account is there: a controller makes it.
    pub async fn account(&mut self, namespace: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.get(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/default")).await.code != 200 {
            assert!(Instant::now() < deadline, "nobody makes {namespace}'s default account");
        }
    }

    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        if self.sender.ready().await.is_err() {
            self.sender = connect(&self.server).await;
        }
        let response = match self.sender.send_request(request).await {
            Ok(response) => response,
            // The server may end a connection on which it refuses a body.
            Err(_) => {
                self.sender = connect(&self.server).await;
                return Answer { code: 0, headers: http::HeaderMap::new(), body: Bytes::new() };
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// The code that a GET with a client certificate and nothing else is answered with; none if there is no connection.
    pub async fn get_as(&self, identity: Identity, path: &str) -> Option<u16> {
        let stream = tls(&self.server, &[], Some(identity), "localhost").await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = Request::builder().uri(path).header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
        Some(sender.send_request(request).await.ok()?.status().as_u16())
    }

    pub async fn post(&mut self, path: &str, value: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], value.to_string()).await
    }

    pub async fn config_map(&mut self, name: &str, labels: Value) -> Answer {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "b"}});
        self.post("/api/v1/namespaces/default/configmaps", &map).await
    }
}
