//! Carrying a graph out: every step when its inputs are there, independent ones at once, identical ones of concurrent builds
//! once, and none whose result is known.

mod agent;
mod caches;
mod copy;
mod image_config;
mod key;
mod run;
mod stubs;
mod tidy;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use engine::Engine;
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use vocab::{Digest, Reference, crash};

use crate::cache::{Cache, CacheEntry, CacheKind, CacheRecord, Keep, Limits, PrunePolicy};
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::event::{Event, Events};
use crate::external::{ImportedCache, StepResult};
use crate::plan::{Files, Graph, Node, NodeId, Op};
use crate::sources::Downloads;
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
    downloads: Downloads,
    /// Keys that somebody is working on.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Steps at once.
    slots: Semaphore,
    keep: Keep,
    tidying: tidy::Tidying,
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

/// What came out of a build. Held as long as any copy of this is.
#[derive(Debug, Clone)]
pub struct Built {
    /// The configuration of the image, complete.
    pub config: Vec<u8>,
    /// Chain id of its files; `None`: none at all.
    pub top: Option<Digest>,
    pub created_at: Option<Timestamp>,
    /// What its steps came to, and leases of their layers.
    pub(crate) steps: Arc<Vec<StepResult>>,
    pub(crate) _leases: Vec<Arc<Lease>>,
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

    /// The builder of an engine, whose cache is kept to `keep` after its builds. Removes what an earlier one left in the
    /// middle of a build.
    pub fn open(engine: &Engine, keep: Keep) -> Result<Self> {
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
                downloads: Downloads::open(root.join("downloads"), engine)?,
                root,
                busy: Mutex::default(),
                slots: Semaphore::new(Self::STEPS_MAX),
                keep,
                tidying: tidy::Tidying::default(),
            }),
        })
    }

    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn downloads(&self) -> &Downloads {
        &self.inner.downloads
    }

    /// An empty context, to be filled with what the client sends. Blocking.
    pub fn new_context(&self) -> Result<Context> {
        Context::new(&self.inner.root.join("contexts"))
    }

    /// Carries a graph out.
    pub async fn build(&self, job: Job) -> Result<Built> {
        self.build_with(job, Vec::new()).await
    }

    /// Carries a graph out, with what other caches know.
    pub async fn build_with(&self, job: Job, imports: Vec<ImportedCache>) -> Result<Built> {
        let built = self.carry_out(job, imports).await;
        // Also after a failure: its steps are in the cache.
        tidy::after_build(&self.inner);
        built
    }

    async fn carry_out(&self, job: Job, imports: Vec<ImportedCache>) -> Result<Built> {
        let imports = Arc::new(imports);
        let steps = Arc::new(Mutex::new(Vec::new()));
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
                imports: imports.clone(),
                steps: steps.clone(),
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
        let steps = std::mem::take(&mut *steps.lock().unwrap_or_else(|e| e.into_inner()));
        blocking(move || {
            inner.cache.touch(&keys)?;
            image_config::complete(inner.engine.store(), &graph, &states, steps)
        })
        .await
    }

    /// A file without a name, on the disk of the store.
    pub(crate) fn scratch_file(&self) -> Result<std::fs::File> {
        self.inner.downloads.scratch()
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
        blocking(move || inner.entries()).await
    }

    /// Removes what the policy does not keep, least recently used first; returns what was removed.
    pub async fn prune(&self, policy: PrunePolicy) -> Result<Vec<CacheEntry>> {
        let inner = self.inner.clone();
        blocking(move || inner.prune(&policy)).await
    }
}

impl BuilderInner {
    fn entries(&self) -> Result<Vec<CacheEntry>> {
        let mut entries = self.cache.list()?;
        entries.extend(self.mounts.list()?);
        entries.extend(self.downloads.list()?);
        entries.extend(self.cache.list_packed()?);
        Ok(entries)
    }

    fn prune(&self, policy: &PrunePolicy) -> Result<Vec<CacheEntry>> {
        let mut removed = policy.unwanted(self.entries()?);
        let keys_of = |kind| -> Vec<String> {
            removed.iter().filter(|e: &&CacheEntry| e.kind == kind).map(|e| e.key.clone()).collect()
        };
        let mut gone: std::collections::HashSet<String> =
            self.cache.remove(&keys_of(CacheKind::Regular))?.into_iter().collect();
        gone.extend(self.cache.remove_packed(&keys_of(CacheKind::Packed))?);
        for key in keys_of(CacheKind::Mount) {
            if self.mounts.remove(&key)? {
                gone.insert(key);
            }
        }
        for key in keys_of(CacheKind::Source) {
            if self.downloads.remove(&key)? {
                gone.insert(key);
            }
        }
        removed.retain(|e| gone.contains(&e.key));
        Ok(removed)
    }

    /// Keeps the cache to `keep`; returns what was removed.
    fn keep_within(&self, keep: Keep) -> Result<Vec<CacheEntry>> {
        let limits = match keep {
            Keep::All => return Ok(Vec::new()),
            Keep::Bytes(bytes) => Limits::of_bytes(bytes),
            Keep::ByDisk => {
                let (total, free) = linux::fs::space(&self.root)?;
                let used = self.entries()?.iter().filter(|e| !e.shared).map(|e| e.record.bytes).sum();
                Limits::of_disk(total, free, used)
            }
        };
        let mut removed = Vec::new();
        for policy in limits.policies(Timestamp::now()) {
            removed.extend(self.prune(&policy)?);
        }
        Ok(removed)
    }
}

/// One node under way.
struct Work {
    builder: Arc<BuilderInner>,
    job: Arc<Job>,
    at: NodeId,
    states: Arc<Vec<watch::Receiver<Option<Outcome>>>>,
    used: Arc<Mutex<Vec<String>>>,
    imports: Arc<Vec<ImportedCache>>,
    steps: Arc<Mutex<Vec<StepResult>>>,
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
        let (state, found) = match &node.op {
            Op::Copy(copy) => {
                let fetched = self.fetch(copy).await?;
                if copy.link {
                    self.linked(copy, &parent, inputs, fetched).await?
                } else {
                    let keys = self.copy_keys(copy, &parent.content(), inputs, &fetched).await?;
                    self.once(&keys, || self.copy(copy, &parent, inputs, fetched)).await?
                }
            }
            Op::Run(run) => {
                let keys = vec![self.run_key(run, &parent, inputs).await?];
                self.once(&keys, || self.run(run, &parent, inputs)).await?
            }
            Op::Workdir { path, user } => {
                let keys = vec![key::workdir(&parent.content(), path, user, self.job.graph.strict_epoch)];
                self.once(&keys, || self.workdir(path, user, &parent)).await?
            }
            Op::Scratch | Op::Image { .. } => unreachable!("answered above"),
        };
        if found {
            self.job.events.tell(Event::Cached { node: self.at }).await;
        }
        Ok(state)
    }

    /// What one of the keys stands for, or what `make` makes, once for all builds. Tells whether it was there.
    async fn once<F>(&self, keys: &[String], make: impl FnOnce() -> F) -> Result<(State, bool)>
    where
        F: Future<Output = Result<image::Sealed>>,
    {
        let (state, found) = self.find_or_make(keys, make).await?;
        if let Some(top) = state.top {
            let step = StepResult { keys: keys.to_vec(), top };
            self.steps.lock().unwrap_or_else(|e| e.into_inner()).push(step);
        }
        Ok((state, found))
    }

    async fn find_or_make<F>(&self, keys: &[String], make: impl FnOnce() -> F) -> Result<(State, bool)>
    where
        F: Future<Output = Result<image::Sealed>>,
    {
        let fresh = self.graph_node().fresh;
        if !fresh && let Some(state) = self.cached(keys).await? {
            return Ok((state, true));
        }
        // Whoever comes second finds what the first one made.
        let turn = {
            let mut busy = self.builder.busy.lock().unwrap_or_else(|e| e.into_inner());
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            busy.entry(keys[0].clone()).or_default().clone()
        };
        let cancelled = self.job.cancel.cancelled();
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = cancelled => return Err(BuildError::Cancelled),
        };
        if !fresh && let Some(state) = self.cached(keys).await? {
            return Ok((state, true));
        }
        let _slot = tokio::select! {
            slot = self.builder.slots.acquire() => slot.expect("never closed"),
            () = self.job.cancel.cancelled() => return Err(BuildError::Cancelled),
        };
        let mut found = false;
        let imported = if fresh { None } else { self.imported(keys).await };
        let sealed = match imported {
            Some(sealed) => {
                found = true;
                sealed
            }
            None => make().await?,
        };
        let record = self.record(&sealed.layer.chain, sealed.layer.bytes);
        let created_at = Some(record.created_at);
        let state = State { top: record.top, created_at, lease: Some(Arc::new(sealed.lease)) };
        let (inner, keys) = (self.builder.clone(), keys.to_vec());
        blocking(move || {
            crash::point("build.cache.before_record");
            inner.cache.put(&keys, &record)?;
            crash::point("build.cache.after_record");
            Ok(())
        })
        .await?;
        Ok((state, found))
    }

    /// What a cache from elsewhere has under one of the keys. One that cannot give it is as good as none.
    async fn imported(&self, keys: &[String]) -> Option<image::Sealed> {
        let builder = Builder { inner: self.builder.clone() };
        for import in self.imports.iter() {
            let Some(layer) = import.find(keys) else { continue };
            let bring = import.bring(&builder, layer);
            let brought = tokio::select! {
                brought = bring => brought,
                () = self.job.cancel.cancelled() => return None,
            };
            match brought {
                Ok(sealed) => return Some(sealed),
                Err(error) => tracing::warn!(%error, "a cached layer could not be imported"),
            }
        }
        None
    }

    fn record(&self, chain: &Digest, bytes: u64) -> CacheRecord {
        let node = self.graph_node();
        let now = Timestamp::now();
        CacheRecord {
            top: Some(*chain),
            description: node.name.split_once("] ").map_or(node.name.as_str(), |(_, text)| text).to_owned(),
            created_at: now,
            last_used_at: now,
            uses: 1,
            bytes,
        }
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

    /// What the result of a `RUN` depends on: its definition, and what its mounts show.
    async fn run_key(
        &self,
        run: &crate::plan::RunOp,
        parent: &State,
        inputs: &BTreeMap<NodeId, State>,
    ) -> Result<String> {
        let mut sources = Vec::new();
        for mount in &run.mounts {
            match &mount.from {
                Some(Files::Node(node)) => sources.push(inputs.get(node).map_or(Content::Nothing, State::content)),
                Some(Files::Context(name)) => {
                    sources.push(self.context_content(name, std::slice::from_ref(&mount.source)).await?)
                }
                None => {}
            }
        }
        Ok(key::run(&parent.content(), run, &sources, &self.job.host.extra_hosts, self.job.graph.strict_epoch))
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
                items.extend(crate::copy::select(context.root(), path, false)?);
            }
            Ok(Content::Files(crate::copy::digest(&items, &crate::Patterns::default(), true, context.digests())?))
        })
        .await
    }

    fn snapshot_name(&self) -> String {
        snapshot_name()
    }
}

pub(crate) fn snapshot_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("build-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
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
    pub(crate) fn new(store: &Arc<image::Store>, name: String, top: Option<&Digest>) -> Result<Self> {
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

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
