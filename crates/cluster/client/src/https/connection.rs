//! Servers, tried in order, and requests to the one that answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use resources::Status;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls::{self, Identity, TlsError};

const CONNECT: Duration = Duration::from_secs(5);
/// Longest answer to anything but a watch.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer: a page of large objects.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How soon a dead peer is noticed.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// A server's place: `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub host: String,
    pub port: u16,
}

impl Target {
    /// Reads a URL of an API server; the port may be left out.
    pub fn parse(url: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("server {url:?}: {why}");
        let rest = url.strip_prefix("https://").ok_or_else(|| bad("a URL begins with https://"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(bad("nothing follows the address and port"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| bad("the address has no end"))?;
                (host, port.strip_prefix(':').unwrap_or("6443"))
            }
            None => rest.split_once(':').unwrap_or((rest, "6443")),
        };
        let port = port.parse().map_err(|_| bad("the port is no number"))?;
        let target = Self { host: host.to_owned(), port };
        target.server_name().map_err(|why| bad(&why))?;
        Ok(target)
    }

    /// As `Host` and `:authority` have it.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub(super) fn server_name(&self) -> Result<ServerName<'static>, String> {
        ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())
    }

    pub(super) async fn connect(&self) -> Result<TcpStream, String> {
        let connecting = tokio::time::timeout(CONNECT, TcpStream::connect((self.host.as_str(), self.port))).await;
        let stream = connecting.map_err(|_| "it does not answer".to_owned())?.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

/// Why no server could be reached: the last error of each.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.iter().map(|(server, why)| format!("{server}: {why}")).collect::<Vec<_>>().join("; "))]
pub struct ConnectError(pub Vec<(Target, String)>);

/// The API over HTTPS, as one user. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Https(Arc<Shared>);

struct Shared {
    /// The one that answered last comes first.
    servers: Mutex<Vec<Target>>,
    tls: Arc<ClientConfig>,
    token: Option<HeaderValue>,
    agent: HeaderValue,
    open: tokio::sync::Mutex<Option<(Target, SendRequest<Full<Bytes>>)>>,
}

impl Https {
    /// `authority` is the PEM that servers are held against. Who asks is said by the identity, or by the token if there
    /// is one. `agent` names the writer in `managedFields`.
    pub fn new(
        servers: Vec<Target>,
        authority: &str,
        identity: &Identity,
        token: Option<&str>,
        agent: &str,
    ) -> Result<Self, TlsError> {
        let sensitive = |token: &str| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Ok(Self(Arc::new(Shared {
            servers: Mutex::new(servers),
            tls: tls::client(authority, identity, &["h2"])?,
            token: token.and_then(sensitive),
            agent: HeaderValue::try_from(agent).unwrap_or(HeaderValue::from_static("knarr")),
            open: tokio::sync::Mutex::new(None),
        })))
    }

    /// Servers that are known now, besides those that this client began with.
    pub fn learn(&self, servers: impl IntoIterator<Item = Target>) {
        let mut known = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for server in servers {
            if !known.contains(&server) {
                known.push(server);
            }
        }
    }

    pub fn servers(&self) -> Vec<Target> {
        self.0.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next request makes a new connection, with the identity as it is by then.
    pub async fn reconnect(&self) {
        self.0.open.lock().await.take();
    }

    async fn sender(&self) -> Result<(Target, SendRequest<Full<Bytes>>), ConnectError> {
        let mut open = self.0.open.lock().await;
        if let Some((target, sender)) = open.as_ref()
            && !sender.is_closed()
        {
            return Ok((target.clone(), sender.clone()));
        }
        *open = None;
        let mut failed = Vec::new();
        for target in self.servers() {
            match self.dial(&target).await {
                Ok(sender) => {
                    let mut servers = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
                    servers.retain(|known| *known != target);
                    servers.insert(0, target.clone());
                    drop(servers);
                    *open = Some((target.clone(), sender.clone()));
                    return Ok((target, sender));
                }
                Err(why) => failed.push((target, why)),
            }
        }
        Err(ConnectError(failed))
    }

    async fn dial(&self, target: &Target) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = target.connect().await?;
        let connecting = TlsConnector::from(self.0.tls.clone()).connect(target.server_name()?, stream);
        let stream = tokio::time::timeout(CONNECT, connecting).await.map_err(|_| "TLS takes too long".to_owned())?;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| format!("HTTP/2: {error}"))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the API ended");
            }
        });
        Ok(sender)
    }

    /// Sends a request; the answer's body is still to come.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Status> {
        // A connection that turns out to be closed has carried nothing: once more over a new one.
        for again in [true, false] {
            let (target, mut sender) = self.sender().await.map_err(unavailable)?;
            if let Err(error) = sender.ready().await {
                self.drop_closed(&target).await;
                match again {
                    true => continue,
                    false => return Err(unavailable(error)),
                }
            }
            let mut request = http::Request::builder()
                .method(method.clone())
                .uri(format!("https://{}{path}", target.authority()))
                .header(ACCEPT, "application/json")
                .header(USER_AGENT, self.0.agent.clone());
            if let Some(token) = &self.0.token {
                request = request.header(AUTHORIZATION, token.clone());
            }
            if !content_type.is_empty() {
                request = request.header(CONTENT_TYPE, content_type);
            }
            let request = request
                .body(Full::new(body.clone()))
                .map_err(|error| Status::bad_request(format!("request {path:?}: {error}")))?;
            match tokio::time::timeout(PATIENCE, sender.send_request(request)).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    self.drop_closed(&target).await;
                    // What may have been written is not written twice.
                    let safe = method == Method::GET || error.is_canceled();
                    if !(safe && again) {
                        return Err(unavailable(format!("{target}: {}", deepest(&error))));
                    }
                }
                Err(_) => {
                    self.reconnect().await;
                    return Err(Status::new(504, "Timeout", format!("{target} does not answer")));
                }
            }
        }
        Err(unavailable("the connection ended"))
    }

    async fn drop_closed(&self, target: &Target) {
        let mut open = self.0.open.lock().await;
        if open.as_ref().is_some_and(|(current, sender)| current == target && sender.is_closed()) {
            *open = None;
        }
    }

    /// A request with its whole answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Bytes, Status> {
        let response = self.send(method, path, content_type, body).await?;
        let code = response.status();
        let reading = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let read = tokio::time::timeout(PATIENCE, reading).await;
        let read = read.map_err(|_| Status::new(504, "Timeout", "the answer's body does not arrive"))?;
        let bytes = read.map_err(|error| unavailable(format!("read the answer: {error}")))?.to_bytes();
        match code.is_success() {
            true => Ok(bytes),
            false => Err(super::status_of(code.as_u16(), &bytes)),
        }
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    text
}

pub(super) fn unavailable(why: impl std::fmt::Display) -> Status {
    Status::new(503, "ServiceUnavailable", format!("the API cannot be reached: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_urls() {
        for (url, shown) in [
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
            ("https://api.example/", "https://api.example:6443"),
            ("https://[fd00::1]:7443", "https://[fd00::1]:7443"),
        ] {
            assert_eq!(Target::parse(url).unwrap().to_string(), shown);
        }
        for bad in ["http://a", "a:6443", "https://a/x", "https://a:b", "https://", "https://[::1", "https://u@h"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
