//! What all connections share: the builder, open sessions, solves under way, kept contexts, the history.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use build::{Builder, Context};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tonic::Status;

use crate::files::Folders;
use crate::history::History;
use crate::progress::Progress;
use crate::results::Results;
use crate::session::{SessionOffer, Sessions};
use crate::solve::Solve;
use crate::sync::Offered;

/// How long a call waits for the solve that it belongs to: the client starts both at once.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Solves under way at once.
const SOLVES_MAX: usize = 256;

/// BuildKit's doors of one engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kit {
    pub(crate) builder: Builder,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) solves: Arc<Solves>,
    pub(crate) folders: Arc<Folders>,
    pub(crate) results: Arc<Results>,
    pub(crate) history: Arc<History>,
    pub(crate) offered: Arc<Offered>,
}

impl Kit {
    /// Removes what an earlier engine left in the middle of a build. Blocking.
    pub fn open(builder: &Builder) -> std::io::Result<Self> {
        let config = builder.engine().config();
        let root = config.root.join("build");
        crate::client::sweep(&config.run);
        Ok(Self {
            builder: builder.clone(),
            sessions: Arc::default(),
            solves: Arc::default(),
            folders: Folders::open(root.join("sync")),
            results: Arc::default(),
            history: Arc::new(History::open(root.join("history"))?),
            offered: Arc::default(),
        })
    }

    /// What comes as a tar, in a folder that is kept under `key`. Blocking.
    pub fn unpack_context(&self, key: &str, tar: &mut (dyn Read + Send)) -> build::Result<Context> {
        self.folders.take(&format!("tar:{key}"), "local source for context").renewed(tar)
    }

    /// Lets go of results of builds that are over, which others could still have built on: before the cache is pruned.
    pub fn forget_results(&self) {
        self.results.forget();
    }

    /// Serves a connection that was taken over on `POST /grpc`.
    pub async fn serve_grpc<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, io: I) {
        let kit = self.clone();
        crate::rpc::serve(io, move |request| crate::service::answer(kit.clone(), request)).await;
    }

    /// Serves a connection that was taken over on `POST /session`.
    pub async fn serve_session<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, offer: SessionOffer, io: I) {
        self.sessions.run(offer, io).await;
    }
}

/// Solves under way, by the names that their clients gave them.
#[derive(Debug, Default)]
pub(crate) struct Solves {
    running: Mutex<HashMap<String, Arc<Solve>>>,
    /// What solves told that ended a moment ago: a client asks for it at the same time as it asks for the solve, and may come second.
    ended: Mutex<HashMap<String, Arc<Progress>>>,
    changed: Notify,
}

impl Solves {
    pub(crate) fn add(&self, solve: &Arc<Solve>) -> Result<(), Status> {
        let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        if running.len() >= SOLVES_MAX {
            return Err(Status::resource_exhausted(format!("more than {SOLVES_MAX} builds at once")));
        }
        if running.contains_key(&solve.reference) {
            return Err(Status::already_exists(format!("job ID {} exists", solve.reference)));
        }
        running.insert(solve.reference.clone(), solve.clone());
        drop(running);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The solve has ended; what it told is still there for as long as a call waits for a solve.
    pub(crate) fn remove(self: &Arc<Self>, reference: &str) {
        let Some(solve) = self.now(reference) else { return };
        self.ended().insert(reference.to_owned(), solve.progress.clone());
        self.running.lock().unwrap_or_else(|e| e.into_inner()).remove(reference);
        let (solves, reference) = (self.clone(), reference.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(WAIT_MAX).await;
            solves.ended().remove(&reference);
        });
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<String, Arc<Progress>>> {
        self.ended.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn now(&self, reference: &str) -> Option<Arc<Solve>> {
        self.running.lock().unwrap_or_else(|e| e.into_inner()).get(reference).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Solve>> {
        self.running.lock().unwrap_or_else(|e| e.into_inner()).values().cloned().collect()
    }

    /// The solve of that name; waits a moment for it.
    pub(crate) async fn get(&self, reference: &str) -> Result<Arc<Solve>, Status> {
        self.wait_for(reference, || self.now(reference)).await
    }

    /// What the solve of that name tells, also when it has just ended; waits a moment for it.
    pub(crate) async fn progress(&self, reference: &str) -> Result<Arc<Progress>, Status> {
        self.wait_for(reference, || self.progress_now(reference)).await
    }

    pub(crate) fn progress_now(&self, reference: &str) -> Option<Arc<Progress>> {
        let running = self.now(reference).map(|solve| solve.progress.clone());
        running.or_else(|| self.ended().get(reference).cloned())
    }

    async fn wait_for<T>(&self, reference: &str, look: impl Fn() -> Option<T>) -> Result<T, Status> {
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = look() {
                    return found;
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(WAIT_MAX, found).await;
        found.map_err(|_| Status::unavailable(format!("no such job {reference}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::SolveRequest;

    #[tokio::test(start_paused = true)]
    async fn who_asks_while_a_solve_comes_and_goes_hears_it() {
        let solves = Arc::new(Solves::default());
        let waiting = tokio::spawn({
            let solves = solves.clone();
            async move { solves.progress("a").await }
        });
        // It waits before there is anything, and runs again only when all is over.
        tokio::task::yield_now().await;
        let solve = Solve::new(SolveRequest { reference: "a".into(), ..SolveRequest::default() });
        solves.add(&solve).unwrap();
        solves.remove("a");
        assert!(Arc::ptr_eq(&waiting.await.unwrap().unwrap(), &solve.progress));
        assert_eq!(solves.get("a").await.unwrap_err().code(), tonic::Code::Unavailable);
        tokio::time::sleep(WAIT_MAX * 2).await;
        assert!(solves.progress_now("a").is_none(), "it is forgotten after a while");
    }
}
