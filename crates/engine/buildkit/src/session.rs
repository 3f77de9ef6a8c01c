//! The other direction: what a build needs of its client, asked over a connection that the client opened.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::rpc::Channel;

/// How long a build waits for the session that it names: the client opens both at once.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Sessions open at once.
const SESSIONS_MAX: usize = 1024;
/// Bytes of an identifier that a client chose.
const ID_BYTES_MAX: usize = 256;

/// A client that answers questions.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) channel: Channel,
    /// Names the folder at the client that builds of this session send, across sessions.
    pub(crate) shared_key: String,
    /// In lower case, as the header's names are compared.
    methods: HashSet<String>,
    /// Ends with the session.
    pub(crate) gone: CancellationToken,
}

impl Session {
    pub(crate) fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }
}

/// What a client said when it opened its session.
#[derive(Debug)]
pub struct SessionOffer {
    id: String,
    shared_key: String,
    methods: HashSet<String>,
}

impl SessionOffer {
    /// Reads the headers of `POST /session`.
    pub fn of_headers(headers: &HeaderMap) -> Result<Self, String> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let id = text("x-docker-expose-session-uuid");
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err("a session needs an identifier in X-Docker-Expose-Session-Uuid".into());
        }
        let methods = headers
            .get_all("x-docker-expose-session-grpc-method")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_ascii_lowercase)
            .collect();
        Ok(Self { id, shared_key: text("x-docker-expose-session-sharedkey"), methods })
    }
}

/// Every open session, by its identifier.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    changed: Notify,
}

impl Sessions {
    /// Serves one session until its client goes.
    pub(crate) async fn run<I>(&self, offer: SessionOffer, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (channel, connection) = match Channel::open(io).await {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%error, "a build session did not begin"),
        };
        let gone = CancellationToken::new();
        let _ends = gone.clone().drop_guard();
        let SessionOffer { id, shared_key, methods } = offer;
        let session = Arc::new(Session { channel, shared_key, methods, gone });
        {
            let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
            if open.len() >= SESSIONS_MAX || open.contains_key(&id) {
                return tracing::warn!(
                    id,
                    "a build session was refused: its identifier is taken, or there are too many"
                );
            }
            open.insert(id.clone(), session);
        }
        self.changed.notify_waiters();
        let closing = Closing { sessions: self, id };
        if let Err(error) = connection.await {
            tracing::debug!(id = closing.id, %error, "a build session ended");
        }
    }

    /// The session of that name; waits a moment for it.
    pub(crate) async fn get(&self, id: &str) -> Result<Arc<Session>, Status> {
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(session) = self.open.lock().unwrap_or_else(|e| e.into_inner()).get(id) {
                    return session.clone();
                }
                changed.await;
            }
        };
        tokio::time::timeout(WAIT_MAX, found)
            .await
            .map_err(|_| Status::not_found(format!("no active session for {id}: context deadline exceeded")))
    }
}

/// Takes a session off the list, also when its task is dropped.
struct Closing<'s> {
    sessions: &'s Sessions,
    id: String,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.sessions.open.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.id);
    }
}
