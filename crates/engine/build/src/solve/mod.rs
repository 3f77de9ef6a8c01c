//! Carrying a graph out: every step when its inputs are there, independent ones at once, identical ones of concurrent builds
//! once, and none whose result is known.

mod caches;
mod copy;
mod image_config;
mod key;
mod run;
mod stubs;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use engine::Engine;
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use vocab::{Digest, Reference};

use crate::cache::{Cache, CacheEntry, CacheRecord, PrunePolicy};
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::event::{Event, Events};
use crate::plan::{Files, Graph, Node, NodeId, Op};
use caches::CacheMounts;
use key::Content;

/// Builds images on one engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Builder {
    inner: Arc<BuilderInner>,
}

#[derive(Debug)]
struct BuilderInner {
    engine: Engine,
    /// `<root>/build`: contexts under way and cache mounts.
    root: PathBuf,
    cache: Cache,
    mounts: CacheMounts,
    /// Keys that somebody is working on.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Steps at once.
    slots: Semaphore,
}

/// What a client answers, when it answers; `None`: it has nothing of that name.
pub type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<Option<T>>> + Send + 'a>>;

/// Gives a build what only its client has.
pub trait Client: Send + Sync {
    /// The bytes of a secret; `None`: there is none of that name.
    fn secret(&self, id: &str) -> Answer<'_, Vec<u8>>;

    /// A unix socket on this machine that leads to the client's ssh agent; `None`: it offers none of that name.
    fn ssh(&self, id: &str) -> Answer<'_, PathBuf>;
}

/// A client that has nothing to give.
#[derive(Debug)]
pub struct NoClient;

impl Client for NoClient {
    fn secret(&self, _: &str) -> Answer<'_, Vec<u8>> {
        Box::pin(async { Ok(None) })
    }

    fn ssh(&self, _: &str) -> Answer<'_, PathBuf> {
        Box::pin(async { Ok(None) })
    }
}

/// One build.
pub struct Job {
    pub graph: Arc<Graph>,
    /// By name; the main one is [`crate::plan::MAIN_CONTEXT`].
    pub contexts: BTreeMap<String, Arc<Context>>,
    pub client: Arc<dyn Client>,
    pub events: Events,
    pub cancel: CancellationToken,
    /// Limits, extra hosts and the like of `RUN` steps.
    pub host: engine::HostConfig,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("graph", &self.graph).finish_non_exhaustive()
    }
}

/// What came out of a build.
#[derive(Debug)]
pub struct Built {
    /// The configuration of the image, complete.
    pub config: Vec<u8>,
    /// Chain id of its files; `None`: none at all.
    pub top: Option<Digest>,
    pub created_at: Option<Timestamp>,
    _lease: Option<Arc<Lease>>,
}

/// Files after a step, held while anybody needs them.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) top: Option<Digest>,
    pub(crate) created_at: Option<Timestamp>,
    lease: Option<Arc<Lease>>,
}

type Lease = image::Lease;

impl State {
    fn content(&self) -> Content {
        match self.top {
            Some(top) => Content::Layers(top),
            None => Content::Nothing,
        }
    }
}

type Outcome = std::result::Result<State, Arc<BuildError>>;

impl Builder {
    /// Steps that one build machine runs at once: more would only wait for each other.
    const STEPS_MAX: usize = 8;

    /// The builder of an engine. Removes what an earlier one left in the middle of a build.
    pub fn open(engine: &Engine) -> Result<Self> {
        let root = engine.config().root.join("build");
        let contexts = root.join("contexts");
        if contexts.exists() {
            std::fs::remove_dir_all(&contexts)
                .map_err(|source| BuildError::Io { what: format!("remove {}", contexts.display()), source })?;
        }
        Ok(Self {
            inner: Arc::new(BuilderInner {
                engine: engine.clone(),
                cache: Cache::new(engine),
                mounts: CacheMounts::open(root.join("mounts"))?,
                root,
                busy: Mutex::default(),
                slots: Semaphore::new(Self::STEPS_MAX),
            }),
        })
    }

    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// An empty context, to be filled with what the client sends. Blocking.
    pub fn new_context(&self) -> Result<Context> {
        Context::new(&self.inner.root.join("contexts"))
    }

    /// Carries a graph out.
    pub async fn build(&self, job: Job) -> Result<Built> {
        let job = Arc::new(job);
        let graph = job.graph.clone();
        let used = Arc::new(Mutex::new(Vec::new()));
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for _ in &graph.nodes {
            let (sender, receiver) = watch::channel(None::<Outcome>);
            senders.push(sender);
            receivers.push(receiver);
        }
        let receivers = Arc::new(receivers);
        let mut tasks = tokio::task::JoinSet::new();
        for (at, sender) in senders.into_iter().enumerate() {
            let work = Work {
                builder: self.inner.clone(),
                job: job.clone(),
                at,
                states: receivers.clone(),
                used: used.clone(),
            };
            tasks.spawn(async move {
                let cancel = work.job.cancel.clone();
                let outcome = work.node().await.map_err(|error| {
                    // The rest of the build is for nothing.
                    cancel.cancel();
                    match error {
                        BuildError::Shared(error) => error,
                        error => Arc::new(error),
                    }
                });
                sender.send_replace(Some(outcome));
            });
        }
        while let Some(done) = tasks.join_next().await {
            if let Err(error) = done
                && error.is_panic()
            {
                job.cancel.cancel();
                std::panic::resume_unwind(error.into_panic());
            }
        }
        // The failure that caused the others: not a cancelled step, unless there is nothing else.
        let mut first = None;
        let mut states = Vec::new();
        for receiver in receivers.iter() {
            match receiver.borrow().clone() {
                Some(Ok(state)) => states.push(state),
                Some(Err(error)) => {
                    if first.as_ref().is_none_or(|f: &Arc<BuildError>| matches!(**f, BuildError::Cancelled)) {
                        first = Some(error);
                    }
                }
                None => first = first.or(Some(Arc::new(BuildError::Cancelled))),
            }
        }
        if let Some(error) = first {
            return Err(BuildError::Shared(error));
        }
        let inner = self.inner.clone();
        let keys = std::mem::take(&mut *used.lock().unwrap_or_else(|e| e.into_inner()));
        blocking(move || {
            inner.cache.touch(&keys)?;
            image_config::complete(inner.engine.store(), &graph, &states)
        })
        .await
    }

    /// Makes an image of what was built and gives it its names. Durable.
    pub async fn export(&self, built: Built, names: Vec<Reference>) -> Result<Digest> {
        let inner = self.inner.clone();
        blocking(move || {
            let id = inner.engine.store().create_image(built.config, built.top.as_ref(), names, None)?;
            Ok(id)
        })
        .await
    }

    /// What the cache holds: layers of steps, and folders of cache mounts.
    pub async fn usage(&self) -> Result<Vec<CacheEntry>> {
        let inner = self.inner.clone();
        blocking(move || {
            let mut entries = inner.cache.list()?;
            entries.extend(inner.mounts.list()?);
            Ok(entries)
        })
        .await
    }

    /// Removes what the policy does not keep, least recently used first; returns what was removed.
    pub async fn prune(&self, policy: PrunePolicy) -> Result<Vec<CacheEntry>> {
        let inner = self.inner.clone();
        blocking(move || {
            let mut entries = inner.cache.list()?;
            entries.extend(inner.mounts.list()?);
            let mut removed = policy.unwanted(entries);
            let keys: Vec<String> = removed.iter().map(|e| e.key.clone()).collect();
            let gone: std::collections::HashSet<String> = inner.cache.remove(&keys)?.into_iter().collect();
            let mut folders = Vec::new();
            for entry in removed.iter().filter(|e| !gone.contains(&e.key)) {
                if inner.mounts.remove(&entry.key)? {
                    folders.push(entry.key.clone());
                }
            }
            removed.retain(|e| gone.contains(&e.key) || folders.contains(&e.key));
            Ok(removed)
        })
        .await
    }
}

/// One node under way.
struct Work {
    builder: Arc<BuilderInner>,
    job: Arc<Job>,
    at: NodeId,
    states: Arc<Vec<watch::Receiver<Option<Outcome>>>>,
    used: Arc<Mutex<Vec<String>>>,
}

impl Work {
    fn graph_node(&self) -> &Node {
        &self.job.graph.nodes[self.at]
    }

    /// The state of another node, when it is there.
    async fn state(&self, node: NodeId) -> Result<State> {
        let mut receiver = self.states[node].clone();
        let outcome = receiver.wait_for(Option::is_some).await.map_err(|_| BuildError::Cancelled)?;
        match outcome.as_ref().expect("waited for it") {
            Ok(state) => Ok(state.clone()),
            Err(error) => Err(BuildError::Shared(error.clone())),
        }
    }

    async fn node(&self) -> Result<State> {
        let mut inputs = BTreeMap::new();
        for input in self.graph_node().inputs() {
            if let Files::Node(node) = input {
                inputs.insert(node, self.state(node).await?);
            }
        }
        if self.job.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let node = self.at;
        self.job.events.tell(Event::Started { node, at: Timestamp::now() }).await;
        let result = self.solve(&inputs).await;
        let error = result.as_ref().err().map(|error| match error.root() {
            BuildError::Cancelled => "CANCELED".to_owned(),
            error => error.to_string(),
        });
        self.job.events.tell(Event::Done { node, error, at: Timestamp::now() }).await;
        result
    }

    async fn solve(&self, inputs: &BTreeMap<NodeId, State>) -> Result<State> {
        let node = self.graph_node();
        match &node.op {
            Op::Scratch => return Ok(State { top: None, created_at: None, lease: None }),
            Op::Image { id, .. } => {
                let (inner, id) = (self.builder.clone(), *id);
                return blocking(move || {
                    let store = inner.engine.store();
                    let top = store.top_layer(&id)?;
                    let lease = top.as_ref().map(|top| store.lease(top)).transpose()?.map(Arc::new);
                    Ok(State { top, created_at: None, lease })
                })
                .await;
            }
            _ => {}
        }
        let parent = node.parent.and_then(|p| inputs.get(&p)).cloned();
        let parent = parent.unwrap_or(State { top: None, created_at: None, lease: None });
        let keys = self.keys(&parent, inputs).await?;
        if !node.fresh
            && let Some(state) = self.cached(&keys).await?
        {
            self.job.events.tell(Event::Cached { node: self.at }).await;
            return Ok(state);
        }
        // Whoever comes second finds what the first one made.
        let first = keys[0].clone();
        let turn = {
            let mut busy = self.builder.busy.lock().unwrap_or_else(|e| e.into_inner());
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            busy.entry(first).or_default().clone()
        };
        let cancelled = self.job.cancel.cancelled();
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = cancelled => return Err(BuildError::Cancelled),
        };
        if !node.fresh
            && let Some(state) = self.cached(&keys).await?
        {
            self.job.events.tell(Event::Cached { node: self.at }).await;
            return Ok(state);
        }
        let _slot = tokio::select! {
            slot = self.builder.slots.acquire() => slot.expect("never closed"),
            () = self.job.cancel.cancelled() => return Err(BuildError::Cancelled),
        };
        let sealed = match &node.op {
            Op::Run(run) => self.run(run, &parent, inputs).await?,
            Op::Copy(copy) => self.copy(copy, &parent, inputs).await?,
            Op::Workdir { path, user } => self.workdir(path, user, &parent).await?,
            Op::Scratch | Op::Image { .. } => unreachable!("answered above"),
        };
        let now = Timestamp::now();
        let record = CacheRecord {
            top: Some(sealed.layer.chain),
            description: node.name.split_once("] ").map_or(node.name.as_str(), |(_, text)| text).to_owned(),
            created_at: now,
            last_used_at: now,
            uses: 1,
            bytes: sealed.layer.bytes,
        };
        let state = State { top: record.top, created_at: Some(now), lease: Some(Arc::new(sealed.lease)) };
        let inner = self.builder.clone();
        blocking(move || inner.cache.put(&keys, &record)).await?;
        Ok(state)
    }

    async fn cached(&self, keys: &[String]) -> Result<Option<State>> {
        let (inner, keys, used) = (self.builder.clone(), keys.to_vec(), self.used.clone());
        blocking(move || {
            for key in &keys {
                if let Some((record, lease)) = inner.cache.find(key)? {
                    used.lock().unwrap_or_else(|e| e.into_inner()).push(key.clone());
                    let lease = lease.map(Arc::new);
                    return Ok(Some(State { top: record.top, created_at: Some(record.created_at), lease }));
                }
            }
            Ok(None)
        })
        .await
    }

    /// What the step's result depends on: by its definition, and, for copies, by the content copied.
    async fn keys(&self, parent: &State, inputs: &BTreeMap<NodeId, State>) -> Result<Vec<String>> {
        let below = parent.content();
        match &self.graph_node().op {
            Op::Workdir { path, user } => Ok(vec![key::workdir(&below, path, user)]),
            Op::Run(run) => {
                let mut sources = Vec::new();
                for mount in &run.mounts {
                    match &mount.from {
                        Some(Files::Node(node)) => {
                            sources.push(inputs.get(node).map_or(Content::Nothing, State::content));
                        }
                        Some(Files::Context(name)) => {
                            sources.push(self.context_content(name, std::slice::from_ref(&mount.source)).await?)
                        }
                        None => {}
                    }
                }
                Ok(vec![key::run(&below, run, &sources, &self.job.host.extra_hosts)])
            }
            Op::Copy(copy) => self.copy_keys(copy, &below, inputs).await,
            Op::Scratch | Op::Image { .. } => Ok(Vec::new()),
        }
    }

    fn context(&self, name: &str) -> Result<Arc<Context>> {
        self.job
            .contexts
            .get(name)
            .cloned()
            .ok_or_else(|| BuildError::Invalid(format!("the client sent no build context named {name:?}")))
    }

    async fn context_content(&self, name: &str, paths: &[String]) -> Result<Content> {
        let (context, paths) = (self.context(name)?, paths.to_vec());
        blocking(move || {
            let mut items = Vec::new();
            for path in &paths {
                items.extend(crate::copy::select(context.root(), path)?);
            }
            Ok(Content::Files(crate::copy::digest(&items, &crate::Patterns::default(), true)?))
        })
        .await
    }

    fn snapshot_name(&self) -> String {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("build-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A snapshot that goes away unless it is sealed.
pub(crate) struct Scratchpad {
    store: Arc<image::Store>,
    pub(crate) name: String,
    pub(crate) snapshot: image::Snapshot,
    sealed: bool,
}

impl Scratchpad {
    /// Blocking.
    fn new(store: &Arc<image::Store>, name: String, top: Option<&Digest>) -> Result<Self> {
        let snapshot = store.prepare_on(&name, top)?;
        Ok(Self { store: store.clone(), name, snapshot, sealed: false })
    }

    /// Blocking.
    fn seal(mut self, epoch: Option<i64>) -> Result<image::Sealed> {
        if let Some(epoch) = epoch {
            stubs::clamp_times(&self.snapshot.upper, epoch)?;
        }
        self.sealed = true;
        Ok(self.store.seal(&self.name)?)
    }
}

impl Drop for Scratchpad {
    fn drop(&mut self) {
        if !self.sealed
            && let Err(error) = self.store.remove_snapshot(&self.name)
        {
            tracing::warn!(snapshot = self.name, %error, "a build step's files stay behind");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
