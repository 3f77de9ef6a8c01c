//! The engine's state, and the helpers that every story uses.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Container;
use super::events::Events;
use super::exec::Exec;
use super::follow::LogWatch;
use super::networks::Networks;
use super::records::{CONTAINERS, STATES};
use super::registries::Doors;
use super::registry::Registry;
use super::seccomp::SeccompFilters;
use super::start::UserFilesCache;
use super::step::Steps;
use crate::spec::HostFacts;
use crate::volumes::Volumes;
use crate::{ContainerId, EngineConfig, Error, ExecId, HostConfig, Result};

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) db: db::Db,
    pub(crate) images: Arc<image::Store>,
    pub(crate) doors: Doors,
    pub(crate) events: Events,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) networks: Networks,
    pub(crate) facts: HostFacts,
    pub(crate) runtime_facts: runtime::HostFacts,
    pub(crate) cgroups: linux::cgroup::Cgroups,
    pub(crate) keeper: keeper::client::Keeper,
    pub(crate) engine_id: String,
    pub(crate) boot_id: String,
    pub(crate) opened: Instant,
    pub(crate) opened_at: Timestamp,
    pub(crate) dirty: mpsc::UnboundedSender<ContainerId>,
    pub(crate) ended_roots: mpsc::UnboundedSender<Arc<Container>>,
    /// Read by what must be whole; the engine's end waits for it.
    pub(crate) under_way: Arc<tokio::sync::RwLock<()>>,
    pub(crate) log_watch: LogWatch,
    pub(crate) user_files: UserFilesCache,
    pub(crate) seccomp: SeccompFilters,
    /// Configurations of images that containers were lately made of.
    pub(crate) image_configs: Mutex<Vec<(vocab::Digest, Arc<image::config::Config>)>>,
    pub(crate) loads: crate::procview::Loads,
    execs: Mutex<HashMap<ExecId, Arc<Exec>>>,
    pub(crate) steps: Steps,
    registry: Mutex<Registry>,
    entropy: std::fs::File,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("root", &self.config.root).field("run", &self.config.run).finish_non_exhaustive()
    }
}

/// Parts that `open` has gathered.
pub(crate) struct Parts {
    pub(crate) config: EngineConfig,
    pub(crate) db: db::Db,
    pub(crate) images: Arc<image::Store>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) networks: Networks,
    pub(crate) facts: HostFacts,
    pub(crate) runtime_facts: runtime::HostFacts,
    pub(crate) cgroups: linux::cgroup::Cgroups,
    pub(crate) keeper: keeper::client::Keeper,
    pub(crate) engine_id: String,
    pub(crate) boot_id: String,
    pub(crate) dirty: mpsc::UnboundedSender<ContainerId>,
    pub(crate) ended_roots: mpsc::UnboundedSender<Arc<Container>>,
    pub(crate) log_watch: LogWatch,
}

impl Inner {
    pub(crate) fn new(parts: Parts) -> Result<Self> {
        let entropy = std::fs::File::open("/dev/urandom").map_err(|e| Error::internal("open /dev/urandom", e))?;
        Ok(Self {
            doors: Doors::new(&parts.config.registries),
            config: parts.config,
            db: parts.db,
            images: parts.images,
            events: Events::default(),
            volumes: parts.volumes,
            networks: parts.networks,
            facts: parts.facts,
            runtime_facts: parts.runtime_facts,
            cgroups: parts.cgroups,
            keeper: parts.keeper,
            engine_id: parts.engine_id,
            boot_id: parts.boot_id,
            opened: Instant::now(),
            opened_at: Timestamp::now(),
            dirty: parts.dirty,
            ended_roots: parts.ended_roots,
            under_way: Arc::default(),
            log_watch: parts.log_watch,
            user_files: UserFilesCache::default(),
            seccomp: SeccompFilters::default(),
            image_configs: Mutex::default(),
            loads: Default::default(),
            execs: Mutex::default(),
            steps: Steps::default(),
            registry: Mutex::default(),
            entropy,
        })
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn execs(&self) -> MutexGuard<'_, HashMap<ExecId, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        self.registry().find(reference)
    }

    pub(crate) fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (&self.entropy).read_exact(&mut bytes).expect("/dev/urandom always has bytes");
        bytes
    }

    /// A new id. Its short form is never all digits: a host name like that would be read as an address.
    pub(crate) fn new_id(&self) -> ContainerId {
        loop {
            let id = ContainerId::from_bytes(self.random_bytes());
            if !id.short().bytes().all(|b| b.is_ascii_digit()) {
                return id;
            }
        }
    }

    /// `<root>/containers/<id>`: logs and the network files.
    pub(crate) fn container_dir(&self, id: ContainerId) -> PathBuf {
        self.containers_dir().join(id.to_string())
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.config.root.join("containers")
    }

    /// The json-file log, if the driver keeps one.
    pub(crate) fn log_path(&self, id: ContainerId, host: &HostConfig) -> Option<PathBuf> {
        match host.log.driver.as_str() {
            "none" => None,
            crate::ship::options::CRI => crate::ship::options::cri_path(&host.log),
            _ => Some(self.container_dir(id).join(format!("{id}-json.log"))),
        }
    }

    /// Where the container's cgroups are, from the root of every hierarchy.
    pub(crate) fn cgroup_path(&self, id: ContainerId, host: &HostConfig) -> PathBuf {
        let parent = match host.resources.cgroup_parent.as_str() {
            "" => self.facts.cgroup_parent.as_str(),
            parent => parent,
        };
        Path::new("/").join(parent.trim_start_matches('/')).join(id.to_string())
    }

    /// Writes the container's state and returns when it is durable. Blocking.
    pub(crate) fn save_state(&self, container: &Container) -> Result<()> {
        self.save_states(&[container.id]).map(drop)
    }

    /// Writes the states of those that still exist. Answers those whose end is durable now and that the keeper still has.
    pub(crate) fn save_states(&self, ids: &[ContainerId]) -> Result<Vec<ContainerId>> {
        let containers: Vec<Arc<Container>> = {
            let registry = self.registry();
            ids.iter().filter_map(|id| registry.get(*id)).collect()
        };
        self.db.write(|txn| {
            let mut ended = Vec::new();
            for container in &containers {
                // A removal may have been committed since: its record must not come back.
                if txn.get(&CONTAINERS, &container.id)?.is_some() {
                    // Both at once: an end that comes after this is not in what is written.
                    let (saved, unforgotten) = {
                        let live = container.live();
                        (live.saved.clone(), live.unforgotten)
                    };
                    txn.put(&STATES, &container.id, &saved)?;
                    ended.extend(unforgotten.then_some(container.id));
                }
            }
            Ok(ended)
        })
    }

    /// Does work that must be whole: whoever asked may go away, and the engine's end waits for it. What is half done would
    /// leave the keeper with a process that nobody knows.
    pub(crate) async fn whole<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.begin_whole(work).await.await.unwrap_or_else(|error| Err(Error::internal(what, error)))
    }

    /// The same, for who waits later or not at all.
    pub(crate) async fn begin_whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let under_way = self.under_way.clone().read_owned().await;
        tokio::spawn(async move {
            let result = work.await;
            drop(under_way);
            result
        })
    }

    /// Writes the container's state soon, together with others'. For what the keeper knows as well: after a crash the
    /// keeper is asked.
    pub(crate) fn save_state_soon(&self, id: ContainerId) {
        let _ = self.dirty.send(id);
    }
}

/// Runs blocking work on the pool. A panic there is ours and is passed on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// `/knarr-<tag>`: instances side by side do not share cgroups.
pub(crate) fn cgroup_parent(run: &Path) -> String {
    format!("/knarr-{}", instance_tag(run))
}

/// What is this instance's alone carries it: a digest of the run directory's path.
pub fn instance_tag(run: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    // FNV-1a: short, stable across versions, and nobody attacks the path of their own run directory.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in run.as_os_str().as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{:08x}", hash >> 32)
}
