//! Connections: one HTTP/1.1 exchange at a time, kept for the next one when an answer was read to its end.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::error::{self, Error, Result};
use super::url::{Origin, Url};
use crate::body::Body;
use crate::tls::{self, Trust};

const CONNECT_TIME: Duration = Duration::from_secs(15);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Until an answer begins. A registry may hash what it was sent before it says anything.
const ANSWER_TIME: Duration = Duration::from_secs(300);
/// A body that brings nothing for so long is taken for broken.
const SILENCE: Duration = Duration::from_secs(60);
const IDLE_MAX: usize = 8;
/// An answer's head is refused above this; bodies are streams.
const BUFFER_BYTES_MAX: usize = 512 << 10;
const AGENT: &str = concat!("knarr/", env!("CARGO_PKG_VERSION"));

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<Origin, Vec<SendRequest<Body>>>>,
    /// One configuration for each kind of trust: reading the system's certificates takes a while.
    tls: Mutex<Vec<(Trust, Arc<rustls::ClientConfig>)>>,
}

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) url: Url,
    body: Incoming,
    back: Option<(Arc<Pool>, SendRequest<Body>)>,
}

/// One request; the body is made anew for each try.
pub(crate) struct Plain<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: &'a [(HeaderName, String)],
    pub(crate) body: &'a (dyn Fn() -> Result<Body> + Sync),
}

impl Pool {
    pub(super) async fn send(self: &Arc<Self>, trust: &Trust, plain: &Plain<'_>) -> Result<Answer> {
        // A connection that was idle may have ended meanwhile: then a fresh one decides.
        if let Some(sender) = self.take(&plain.url.origin) {
            let repeatable = matches!((plain.body)()?, Body::Empty | Body::Full(_));
            if repeatable && let Ok(answer) = self.exchange(sender, plain).await {
                return Ok(answer);
            }
        }
        let sender = self.connect(trust, plain).await?;
        self.exchange(sender, plain).await
    }

    fn take(&self, origin: &Origin) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        let senders = idle.get_mut(origin)?;
        while let Some(sender) = senders.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn give(&self, origin: Origin, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        let senders = idle.entry(origin).or_default();
        if senders.len() < IDLE_MAX && !sender.is_closed() {
            senders.push(sender);
        }
    }

    async fn exchange(self: &Arc<Self>, mut sender: SendRequest<Body>, plain: &Plain<'_>) -> Result<Answer> {
        let failed = |detail: String| Error::transport(&plain.method, plain.url, detail);
        let mut request = Request::new((plain.body)()?);
        *request.method_mut() = plain.method.clone();
        *request.uri_mut() = plain.url.path.parse().map_err(|e: http::uri::InvalidUri| failed(e.to_string()))?;
        let headers = request.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|e| failed(e.to_string()));
        headers.insert(HOST, value(&plain.url.origin.authority())?);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        for (name, text) in plain.headers {
            headers.insert(name.clone(), value(text)?);
        }
        let answered = timeout(ANSWER_TIME, sender.send_request(request)).await;
        let response = answered.map_err(|_| failed("timeout awaiting response headers".into()))?;
        let response = response.map_err(|e| failed(chain(&e)))?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            url: plain.url.clone(),
            body,
            back: Some((self.clone(), sender)),
        })
    }

    async fn connect(&self, trust: &Trust, plain: &Plain<'_>) -> Result<SendRequest<Body>> {
        let origin = &plain.url.origin;
        let failed = |detail: String| Error::transport(&plain.method, plain.url, detail);
        let address = format!("{}:{}", origin.host, origin.port);
        let connecting = TcpStream::connect((origin.bare_host(), origin.port));
        let stream = match timeout(CONNECT_TIME, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(failed(error::dial(&address, &e))),
            Err(_) => return Err(failed(error::dial(&address, &io::ErrorKind::TimedOut.into()))),
        };
        // Only makes small requests quicker.
        let _ = stream.set_nodelay(true);
        if !origin.https {
            return handshake(stream).await.map_err(failed);
        }
        let config = self.tls_config(trust)?;
        let name = ServerName::try_from(origin.bare_host().to_owned()).map_err(|e| failed(e.to_string()))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = match timeout(HANDSHAKE_TIME, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(failed(format!("tls: {e}"))),
            Err(_) => return Err(failed("net/http: TLS handshake timeout".into())),
        };
        handshake(stream).await.map_err(failed)
    }

    fn tls_config(&self, trust: &Trust) -> Result<Arc<rustls::ClientConfig>> {
        let mut known = self.tls.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, config)) = known.iter().find(|(same, _)| same == trust) {
            return Ok(config.clone());
        }
        let config = tls::client(trust)?;
        known.push((trust.clone(), config.clone()));
        Ok(config)
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Body>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| chain(&e))?;
    // Ends with the sender and the answer's body; its error is the request's, which tells it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// An error with its causes: hyper's own text alone says little.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

impl Answer {
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next piece of the body; nothing at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match timeout(SILENCE, self.body.frame()).await {
                Err(_) => return Err(format!("no byte for {} seconds", SILENCE.as_secs())),
                Ok(None) => {
                    if let Some((pool, sender)) = self.back.take() {
                        pool.give(self.url.origin.clone(), sender);
                    }
                    return Ok(None);
                }
                Ok(Some(Err(error))) => return Err(chain(&error)),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, as long as it is no longer than `max`.
    pub(crate) async fn whole(mut self, method: &Method, max: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await.map_err(|detail| Error::transport(method, &self.url, detail))? {
            if bytes.len() + piece.len() > max {
                return Err(Error::content(&self.url, format!("the answer is longer than {max} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Reads away a short body, so that the connection can be used again.
    pub(crate) async fn discard(mut self) {
        for _ in 0..16 {
            if !matches!(self.piece().await, Ok(Some(_))) {
                break;
            }
        }
    }
}
