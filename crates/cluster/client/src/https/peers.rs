//! Questions that one node's agent has for another's: short ones, over connections that are kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use resources::{Value, meta};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::kubelet::place;
use super::tls::{self, Identity, TlsError};

const CONNECT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where the agent listened when the connection was made, and the connection.
type Open = ((String, u16), SendRequest<Empty<Bytes>>);

/// The agents of other nodes. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Peers {
    tls: Arc<ClientConfig>,
    open: Arc<Mutex<BTreeMap<String, Open>>>,
}

impl Peers {
    /// `authority` is what agents are held against, `identity` who asks.
    pub fn new(authority: &str, identity: &Identity) -> Result<Self, TlsError> {
        Ok(Self { tls: tls::client(authority, identity, &["h2"])?, open: Arc::default() })
    }

    /// Asks the agent of a node, as its object says where that is. The answer's code and its text.
    pub async fn ask(&self, node: &Value, path: &str) -> Result<(StatusCode, String), String> {
        let (name, place) = (meta::name(node), place(node)?);
        let mut sender = match self.kept(name, &place) {
            Some(sender) => sender,
            None => self.dial(name, &place).await?,
        };
        let uri = format!("https://{name}{path}");
        let request = http::Request::builder().method(Method::GET).uri(uri).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        let failed = |error: &dyn std::fmt::Display| {
            self.lock().remove(name);
            error.to_string()
        };
        sender.ready().await.map_err(|error| failed(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let code = answer.status();
        let text =
            Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| failed(&error))?;
        Ok((code, String::from_utf8_lossy(&text.to_bytes()).into_owned()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, name: &str, place: &(String, u16)) -> Option<SendRequest<Empty<Bytes>>> {
        let open = self.lock();
        let (at, sender) = open.get(name)?;
        (at == place && !sender.is_closed()).then(|| sender.clone())
    }

    async fn dial(&self, name: &str, place: &(String, u16)) -> Result<SendRequest<Empty<Bytes>>, String> {
        let connecting = async {
            let stream = TcpStream::connect((place.0.as_str(), place.1)).await.map_err(|error| error.to_string())?;
            let _ = stream.set_nodelay(true);
            // The node's name is in its certificate and cannot be another's; its address is what it says itself.
            let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(self.tls.clone()).connect(server, stream).await;
            stream.map_err(|error| format!("TLS: {error}"))
        };
        let stream = tokio::time::timeout(CONNECT, connecting).await.map_err(|_| "it does not answer".to_owned())??;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_PATIENCE);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        self.lock().insert(name.to_owned(), (place.clone(), sender.clone()));
        Ok(sender)
    }
}
