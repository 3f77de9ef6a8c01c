//! [`Engine`]: every call a caller can make.
//!
//! `reference` names a container by its full id, its name (with or without the leading slash) or a unique prefix of its
//! id, tried in that order; nothing found is [`Error::NoSuchContainer`]. What a method acknowledges is durable.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::*;

/// Where an instance lives. Everything else (sockets, cgroup parent, tags) derives from these.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Durable state; `/var/lib/knarr`.
    pub root: PathBuf,
    /// State of this boot; `/run/knarr`.
    pub run: PathBuf,
    /// Program and arguments that run the keeper: the engine appends `--run <run>`.
    pub keeper: Vec<OsString>,
    /// Labels of this engine, shown by `info`.
    pub labels: Vec<String>,
}

/// The engine. Cheap to clone; the last clone's death does not stop anything: containers run on.
#[derive(Debug, Clone)]
pub struct Engine {
    #[allow(dead_code)]
    inner: Arc<EngineConfig>,
}

/// A wait that is already armed: an exit between [`Engine::wait`] and [`Waiter::outcome`] is not missed.
#[derive(Debug)]
pub struct Waiter {
    receiver: tokio::sync::oneshot::Receiver<WaitOutcome>,
}

impl Waiter {
    /// Waits. Fails only if the engine shuts down meanwhile.
    pub async fn outcome(self) -> Result<WaitOutcome> {
        self.receiver.await.map_err(|_| Error::Other {
            what: "wait".into(),
            kind: vocab::ErrorKind::Unavailable,
            message: "the engine is shutting down".into(),
        })
    }
}

fn unbuilt<T>(what: &str) -> Result<T> {
    Err(Error::Unsupported(format!("{what} is not supported by this build")))
}

/// Life of the engine.
impl Engine {
    /// Opens the root, starts or finds the keeper, adopts what runs, finishes what a crash interrupted and applies
    /// restart policies. Refuses a root that another engine has open.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        Ok(Self { inner: Arc::new(config) })
    }

    /// Stops accepting work and lets go of everything. Containers run on.
    pub async fn shutdown(&self) {}
}

/// Containers.
impl Engine {
    /// Makes a container; nothing runs. The image must exist ([`Error::NoSuchImage`]): pulling is the caller's step.
    pub async fn create(&self, _request: CreateRequest) -> Result<Created> {
        unbuilt("create")
    }

    /// Starts it. [`Error::NotModified`] if it runs, [`Error::Start`] if the workload cannot be executed.
    pub async fn start(&self, _reference: &str) -> Result<()> {
        unbuilt("start")
    }

    /// Sends the stop signal (`signal`, else the container's, else TERM), waits `timeout` (else the container's, else
    /// 10 s; negative: for ever), then kills; returns when it has exited. [`Error::NotModified`] if it does not run.
    pub async fn stop(&self, _reference: &str, _signal: Option<&str>, _timeout_secs: Option<i64>) -> Result<()> {
        unbuilt("stop")
    }

    /// Sends a signal (a name with or without `SIG`, or a number; empty is KILL). With KILL it returns after the exit.
    pub async fn kill(&self, _reference: &str, _signal: &str) -> Result<()> {
        unbuilt("kill")
    }

    pub async fn restart(&self, _reference: &str, _signal: Option<&str>, _timeout_secs: Option<i64>) -> Result<()> {
        unbuilt("restart")
    }

    /// Freezes every process of the container.
    pub async fn pause(&self, _reference: &str) -> Result<()> {
        unbuilt("pause")
    }

    pub async fn unpause(&self, _reference: &str) -> Result<()> {
        unbuilt("unpause")
    }

    pub async fn rename(&self, _reference: &str, _name: &str) -> Result<()> {
        unbuilt("rename")
    }

    /// Changes limits and restart policy, of a running container at once. Returns warnings.
    pub async fn update(&self, _reference: &str, _request: UpdateRequest) -> Result<Vec<String>> {
        unbuilt("update")
    }

    pub async fn remove(&self, _reference: &str, _options: RemoveOptions) -> Result<()> {
        unbuilt("remove")
    }

    /// Removes stopped containers. Filters: `until`, `label`, `label!`.
    pub async fn prune_containers(&self, _filters: &Filters) -> Result<Pruned> {
        unbuilt("prune")
    }

    /// Arms a wait; see [`WaitCondition`].
    pub async fn wait(&self, _reference: &str, _condition: WaitCondition) -> Result<Waiter> {
        unbuilt("wait")
    }

    pub async fn inspect(&self, _reference: &str, _size: bool) -> Result<ContainerView> {
        unbuilt("inspect")
    }

    /// Newest first. Filters: `id`, `name` (regular expression-like: a substring, `^` and `$` anchors), `label`,
    /// `status`, `exited`, `ancestor`, `before`, `since`, `volume`, `network`, `health`, `is-task`, `publish`, `expose`.
    pub async fn list(&self, _options: ListOptions) -> Result<Vec<ContainerSummary>> {
        unbuilt("list")
    }

    /// `ps_args` as `docker top` passes them; empty is `-ef`.
    pub async fn top(&self, _reference: &str, _ps_args: &str) -> Result<TopTable> {
        unbuilt("top")
    }

    /// One reading. A container that does not run gives [`Stats::running`] false and zeros.
    pub async fn stats(&self, _reference: &str) -> Result<Stats> {
        unbuilt("stats")
    }

    /// Paths that differ from the image.
    pub async fn changes(&self, _reference: &str) -> Result<Vec<Change>> {
        unbuilt("diff")
    }

    /// The root file system as a tar.
    pub async fn export(&self, _reference: &str) -> Result<ByteStream> {
        unbuilt("export")
    }

    /// Makes an image of the container's changes; returns its id. Volumes and the init layer are never part of it.
    pub async fn commit(&self, _reference: &str, _request: CommitRequest) -> Result<vocab::Digest> {
        unbuilt("commit")
    }

    /// `docker cp` asks what a path is. Paths resolve inside the container's root, running or not.
    pub async fn archive_stat(&self, _reference: &str, _path: &str) -> Result<PathStat> {
        unbuilt("archive")
    }

    /// A tar of the path, entries named from its last component on.
    pub async fn archive_get(&self, _reference: &str, _path: &str) -> Result<(PathStat, ByteStream)> {
        unbuilt("archive")
    }

    /// Unpacks a tar (plain, gzip or zstd) into a directory of the container. `no_overwrite_dir_non_dir` refuses to
    /// replace a directory by something else or the reverse; `copy_uid_gid` gives the archive's owner instead of root.
    pub async fn archive_put(
        &self,
        _reference: &str,
        _path: &str,
        _no_overwrite_dir_non_dir: bool,
        _copy_uid_gid: bool,
        _body: Body,
    ) -> Result<()> {
        unbuilt("archive")
    }
}

/// Output and input.
impl Engine {
    /// The container's log. Whether its stdout and stderr are one terminal stream is [`ContainerConfig::tty`].
    pub async fn logs(&self, _reference: &str, _options: LogOptions) -> Result<LogStream> {
        unbuilt("logs")
    }

    /// Joins the container's streams. May be called before `start`: nothing that it writes is missed then.
    pub async fn attach(&self, _reference: &str, _options: AttachOptions) -> Result<Attached> {
        unbuilt("attach")
    }

    /// Sets the terminal's size; remembered as the first size if it has not been started.
    pub async fn resize(&self, _reference: &str, _size: ConsoleSize) -> Result<()> {
        unbuilt("resize")
    }

    pub async fn exec_create(&self, _reference: &str, _config: ExecConfig) -> Result<ExecId> {
        unbuilt("exec")
    }

    /// Starts an exec. `None` when detached; else its streams, whose output ends with the process.
    pub async fn exec_start(&self, _id: &str, _options: ExecStart) -> Result<Option<Attached>> {
        unbuilt("exec")
    }

    pub async fn exec_inspect(&self, _id: &str) -> Result<ExecView> {
        unbuilt("exec")
    }

    pub async fn exec_resize(&self, _id: &str, _size: ConsoleSize) -> Result<()> {
        unbuilt("exec")
    }
}

/// Images. `reference` is a name (`busybox`, `busybox:1.36`, `host/repo@sha256:...`), an id or a unique prefix of an id.
impl Engine {
    pub async fn image_list(&self, _options: ImageListOptions) -> Result<Vec<ImageSummary>> {
        unbuilt("images")
    }

    pub async fn image_inspect(&self, _reference: &str) -> Result<ImageView> {
        unbuilt("image inspect")
    }

    pub async fn image_history(&self, _reference: &str) -> Result<Vec<HistoryEntry>> {
        unbuilt("history")
    }

    /// `target`: `repository[:tag]`.
    pub async fn image_tag(&self, _reference: &str, _target: &str) -> Result<()> {
        unbuilt("tag")
    }

    /// `force` also untags what stopped containers use; `no_prune` keeps untagged parents.
    pub async fn image_remove(&self, _reference: &str, _force: bool, _no_prune: bool) -> Result<Vec<ImageRemoval>> {
        unbuilt("rmi")
    }

    /// Filters: `dangling` (default true), `until`, `label`.
    pub async fn image_prune(&self, _filters: &Filters) -> Result<ImagePruned> {
        unbuilt("image prune")
    }

    /// Loads a docker-archive or an OCI layout (plain, gzip or zstd). Names move only after everything is verified and
    /// durable; the stream ends after the last of them, or with the error.
    pub async fn image_load(&self, _body: Body) -> Result<ItemStream<LoadProgress>> {
        unbuilt("load")
    }

    /// An archive that both `docker load` and OCI tools read.
    pub async fn image_save(&self, _references: &[String]) -> Result<ByteStream> {
        unbuilt("save")
    }

    /// Makes an image of one root file system tar; returns its id.
    pub async fn image_import(&self, _request: ImportRequest, _body: Body) -> Result<vocab::Digest> {
        unbuilt("import")
    }
}

/// The engine itself.
impl Engine {
    pub async fn events(&self, _query: EventQuery) -> Result<EventStream> {
        unbuilt("events")
    }

    pub async fn info(&self) -> Result<Info> {
        unbuilt("info")
    }

    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        unbuilt("system df")
    }

    /// Compares the database with mounts, cgroups, processes, layers, blobs, logs and the run directory. Empty: clean.
    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        unbuilt("doctor")
    }

    /// How long since this engine was opened.
    pub fn uptime(&self) -> Duration {
        Duration::ZERO
    }
}
