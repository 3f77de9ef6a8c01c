//! A socket of a step's own that leads to the client's ssh agent: it has the owner and the mode that the step asks for, and is
//! gone with the step.

use std::path::Path;

use linux::fs::{Mode, Root};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{BuildError, Result};

#[derive(Debug)]
pub(super) struct Agent {
    _serving: DropGuard,
}

impl Agent {
    /// Whoever connects to `path` speaks to `agent`.
    pub(super) fn listen(path: &Path, agent: &Path, mode: u32, owner: (u32, u32)) -> Result<Self> {
        let failed = |source| BuildError::Io { what: format!("offer an ssh agent at {}", path.display()), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            let folder = Root::open(folder)?;
            linux::fs::chownat(&folder, name, owner.0, owner.1)?;
            linux::fs::chmodat(&folder, name, Mode::from_raw_mode(mode))?;
        }
        let over = CancellationToken::new();
        let (agent, ended) = (agent.to_owned(), over.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = ended.cancelled() => return,
                };
                let Ok((stream, _)) = accepted else { return };
                let (agent, ended) = (agent.clone(), ended.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(stream, &agent) => {}
                        () = ended.cancelled() => {}
                    }
                });
            }
        });
        Ok(Self { _serving: over.drop_guard() })
    }
}

async fn forward(mut stream: UnixStream, agent: &Path) {
    match UnixStream::connect(agent).await {
        // Whoever ends first ends it; what the other side still says is for nobody.
        Ok(mut agent) => drop(tokio::io::copy_bidirectional(&mut stream, &mut agent).await),
        Err(error) => tracing::debug!(agent = %agent.display(), %error, "the client's ssh agent did not answer"),
    }
}
