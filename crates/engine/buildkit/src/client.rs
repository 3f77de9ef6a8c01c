//! What steps ask of the client while they run: secrets, and its ssh agent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use build::{Answer, BuildError, Client};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::session::Session;
use crate::wire::rpc::Empty;
use crate::wire::session as wire;

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";

/// A build's client, as far as its session goes.
pub(crate) struct SessionClient {
    session: Arc<Session>,
    run: PathBuf,
    agents: Mutex<Vec<Agent>>,
}

/// A socket of ours that leads to the client's agent; gone with the build.
struct Agent {
    id: String,
    path: PathBuf,
    _accepting: DropGuard,
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an agent's socket stays behind");
        }
    }
}

impl SessionClient {
    pub(crate) fn new(session: Arc<Session>, run: PathBuf) -> Self {
        Self { session, run, agents: Mutex::default() }
    }

    async fn find_secret(&self, id: &str) -> build::Result<Option<Vec<u8>>> {
        if !self.session.supports(GET_SECRET) {
            return Ok(None);
        }
        let asked = wire::ById { id: id.to_owned() };
        match self.session.channel.unary::<_, wire::Secret>(GET_SECRET, asked).await {
            Ok(secret) => Ok(Some(secret.data.to_vec())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(BuildError::Invalid(format!("secret {id}: {}", status.message()))),
        }
    }

    async fn find_agent(&self, id: &str) -> build::Result<Option<PathBuf>> {
        if !self.session.supports(CHECK_AGENT) {
            return Ok(None);
        }
        if let Some(path) = self.known_agent(id) {
            return Ok(Some(path));
        }
        let asked = wire::ById { id: id.to_owned() };
        if let Err(status) = self.session.channel.unary::<_, Empty>(CHECK_AGENT, asked).await {
            // The client says it of an id that it was not given.
            if matches!(status.code(), Code::NotFound | Code::Unimplemented) || status.message().contains("unset ssh") {
                return Ok(None);
            }
            return Err(BuildError::Invalid(format!("ssh socket {id}: {}", status.message())));
        }
        let agent =
            self.listen(id).map_err(|source| BuildError::Io { what: format!("offer ssh socket {id}"), source })?;
        let path = agent.path.clone();
        self.agents.lock().unwrap_or_else(|e| e.into_inner()).push(agent);
        Ok(Some(path))
    }

    fn known_agent(&self, id: &str) -> Option<PathBuf> {
        let agents = self.agents.lock().unwrap_or_else(|e| e.into_inner());
        agents.iter().find(|agent| agent.id == id).map(|agent| agent.path.clone())
    }

    fn listen(&self, id: &str) -> std::io::Result<Agent> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let folder = self.run.join("agents");
        // The folder keeps others out; the socket itself must let the step's user in.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let path = folder.join(crate::ids::new());
        let listener = UnixListener::bind(&path)?;
        let token = CancellationToken::new();
        let agent = Agent { id: id.to_owned(), path: path.clone(), _accepting: token.clone().drop_guard() };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        let (session, id) = (self.session.clone(), id.to_owned());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = token.cancelled() => return,
                };
                let Ok((stream, _)) = stream else { return };
                let (session, id, token) = (session.clone(), id.clone(), token.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(&session, &id, stream) => {}
                        () = token.cancelled() => {}
                    }
                });
            }
        });
        Ok(agent)
    }
}

impl Client for SessionClient {
    fn secret(&self, id: &str) -> Answer<'_, Vec<u8>> {
        let id = id.to_owned();
        Box::pin(async move { self.find_secret(&id).await })
    }

    fn ssh(&self, id: &str) -> Answer<'_, PathBuf> {
        let id = id.to_owned();
        Box::pin(async move { self.find_agent(&id).await })
    }
}

/// One connection to the agent, both ways, until either side ends it.
async fn forward(session: &Session, id: &str, stream: UnixStream) {
    let (mut read, mut write) = stream.into_split();
    let (pieces, to_send) = mpsc::channel::<wire::Bytes>(16);
    let outgoing = futures_util::stream::unfold(to_send, |mut to_send: mpsc::Receiver<wire::Bytes>| async move {
        to_send.recv().await.map(|piece| (piece, to_send))
    });
    let mut metadata = MetadataMap::new();
    let Ok(value) = MetadataValue::try_from(id) else { return };
    metadata.insert("id", value);
    let sending = async move {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count) = read.read(&mut buffer).await
            && count > 0
        {
            let data = Bytes::copy_from_slice(&buffer[..count]);
            if pieces.send(wire::Bytes { data }).await.is_err() {
                return;
            }
        }
    };
    // A client answers when it has heard something: what is said goes out while its answer is awaited.
    let opening = session.channel.streams::<_, wire::Bytes>(FORWARD_AGENT, metadata, Box::pin(outgoing));
    tokio::pin!(sending, opening);
    let mut sent = false;
    let opened = loop {
        tokio::select! {
            opened = &mut opening => break opened,
            () = &mut sending, if !sent => sent = true,
        }
    };
    let mut incoming = match opened {
        Ok(incoming) => incoming,
        Err(status) => return tracing::debug!(id, message = status.message(), "the client's agent did not answer"),
    };
    let receiving = async move {
        while let Some(Ok(piece)) = incoming.next().await {
            if write.write_all(&piece.data).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    if sent {
        receiving.await;
    } else {
        tokio::join!(sending, receiving);
    }
}

/// Removes sockets that an engine which died has left.
pub(crate) fn sweep(run: &Path) {
    let folder = run.join("agents");
    if folder.exists()
        && let Err(error) = std::fs::remove_dir_all(&folder)
    {
        tracing::warn!(path = %folder.display(), %error, "sockets of earlier builds stay behind");
    }
}
