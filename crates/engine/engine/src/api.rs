//! [`Engine`]: every call a caller can make.
//!
//! `reference` names a container by its full id, its name (with or without the leading slash) or a unique prefix of its
//! id, tried in that order; nothing found is [`Error::NoSuchContainer`]. What a method acknowledges is durable.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::core::{Inner, PutOptions, blocking};
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
    /// Where vendors' files of devices are; those of a later one count.
    pub cdi_dirs: Vec<PathBuf>,
    /// Drivers of volumes that are programs of others.
    pub plugins: PluginConfig,
    pub registries: Registries,
    /// Which ids containers have on the host.
    pub users: crate::UserRanges,
    /// Whether published ports obey the host's filters at `input`. `None`: as the last engine of this boot had it, for whoever
    /// was not asked by somebody who knows.
    pub published_ports: Option<network::PublishedPorts>,
    /// Whether restart policies are applied. Who only looks leaves them to the next engine.
    pub restarts: bool,
}

/// How other registries are reached, and the engine's own.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    pub client: registry::client::Config,
    /// Off by default.
    pub serve: Option<(registry::server::Listen, registry::server::Config)>,
}

/// The engine. Cheap to clone; the last clone's death does not stop anything: containers run on.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
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

/// Life of the engine.
impl Engine {
    /// Opens the root, starts or finds the keeper, adopts what runs, finishes what a crash interrupted and applies
    /// restart policies. Refuses a root that another engine has open.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        Ok(Self { inner: Inner::open(config).await? })
    }

    /// Stops accepting work and lets go of everything. Containers run on.
    pub async fn shutdown(&self) {
        self.inner.end_steps();
        let _whole = self.inner.under_way.write().await;
        self.inner.forget_strays().await;
        let inner = self.inner.clone();
        let ids: Vec<_> = inner.registry().all().iter().map(|c| c.id).collect();
        match blocking(move || inner.save_states(&ids)).await {
            // Else a keeper would stay for exits alone.
            Ok(ended) => self.inner.forget_ended(&ended).await,
            Err(error) => tracing::error!(%error, "cannot write the state of containers"),
        }
        self.inner.doors.close();
        self.inner.remove_cgroup_parent();
        let inner = self.inner.clone();
        blocking(move || inner.networks.rest()).await;
        // A keeper that dies from now on is the next engine's to replace.
        self.inner.keeper.leave().await;
    }

    /// The client of registries, and of files at other addresses.
    pub fn web_client(&self) -> registry::client::Client {
        self.inner.doors.client.clone()
    }

    /// The client of this engine's keeper.
    pub fn keeper(&self) -> keeper::client::Keeper {
        self.inner.keeper.clone()
    }
}

/// Containers.
impl Engine {
    /// Makes a container; nothing runs. The image must exist ([`Error::NoSuchImage`]): pulling is the caller's step.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        let inner = self.inner.clone();
        blocking(move || inner.create(request)).await
    }

    /// Starts it. [`Error::NotModified`] if it runs, [`Error::Start`] if the workload cannot be executed.
    pub async fn start(&self, reference: &str) -> Result<()> {
        let container = self.inner.find(reference)?;
        self.inner.start(&container).await
    }

    /// Sends the stop signal (`signal`, else the container's, else TERM), waits `timeout` (else the container's, else
    /// 10 s; negative: for ever), then kills; returns when it has exited. [`Error::NotModified`] if it does not run.
    pub async fn stop(&self, reference: &str, signal: Option<&str>, timeout_secs: Option<i64>) -> Result<()> {
        let container = self.inner.find(reference)?;
        self.inner.stop(&container, signal, timeout_secs).await
    }

    /// Sends a signal (a name with or without `SIG`, or a number; empty is KILL). With KILL it returns after the exit.
    pub async fn kill(&self, reference: &str, signal: &str) -> Result<()> {
        // Docker looks at the signal first, then for the container.
        if !signal.is_empty() {
            crate::decide::signal::parse_signal(signal)
                .map_err(|error| Error::Invalid(format!("cannot kill container: {reference}: {error}")))?;
        }
        let container = self.inner.find(reference)?;
        self.inner.kill(&container, reference, signal).await
    }

    pub async fn restart(&self, reference: &str, signal: Option<&str>, timeout_secs: Option<i64>) -> Result<()> {
        let container = self.inner.find(reference)?;
        self.inner.restart(&container, signal, timeout_secs).await
    }

    /// Freezes every process of the container.
    pub async fn pause(&self, reference: &str) -> Result<()> {
        let container = self.inner.find(reference)?;
        self.inner.pause(&container).await
    }

    pub async fn unpause(&self, reference: &str) -> Result<()> {
        let container = self.inner.find(reference)?;
        self.inner.unpause(&container).await
    }

    pub async fn rename(&self, reference: &str, name: &str) -> Result<()> {
        let container = self.inner.find(reference)?;
        let _alone = container.operation.lock().await;
        let (inner, held, name) = (self.inner.clone(), container.clone(), name.to_owned());
        blocking(move || inner.rename(&held, &name)).await
    }

    /// Changes limits and restart policy, of a running container at once. Returns warnings.
    pub async fn update(&self, reference: &str, request: UpdateRequest) -> Result<Vec<String>> {
        // Docker looks at the limits first, then for the container. What depends on limits that it has waits for it.
        let mut asked = request.resources.clone();
        if asked.memory_bytes == 0 {
            asked.memory_swap_bytes = 0;
        }
        crate::spec::check_resources(&asked, self.inner.facts.cpus)?;
        let container = self.inner.find(reference)?;
        let _alone = container.operation.lock().await;
        let (inner, held) = (self.inner.clone(), container.clone());
        blocking(move || inner.update(&held, request)).await
    }

    pub async fn remove(&self, reference: &str, options: RemoveOptions) -> Result<()> {
        let container = self.inner.find(reference)?;
        self.inner.remove(&container, options).await
    }

    /// Removes stopped containers. Filters: `until`, `label`, `label!`.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<Pruned> {
        self.inner.prune(filters).await
    }

    /// Arms a wait; see [`WaitCondition`].
    pub async fn wait(&self, reference: &str, condition: WaitCondition) -> Result<Waiter> {
        let container = self.inner.find(reference)?;
        Ok(Waiter { receiver: container.wait(condition) })
    }

    pub async fn inspect(&self, reference: &str, size: bool) -> Result<ContainerView> {
        let container = self.inner.find(reference)?;
        let inner = self.inner.clone();
        blocking(move || inner.view(&container, size)).await
    }

    /// Newest first. Filters: `id`, `name` (regular expression-like: a substring, `^` and `$` anchors), `label`,
    /// `status`, `exited`, `ancestor`, `before`, `since`, `volume`, `network`, `health`, `is-task`, `publish`, `expose`.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<ContainerSummary>> {
        let inner = self.inner.clone();
        blocking(move || inner.list(&options)).await
    }

    /// `ps_args` as `docker top` passes them; empty is `-ef`.
    pub async fn top(&self, reference: &str, ps_args: &str) -> Result<TopTable> {
        let container = self.inner.find(reference)?;
        let (inner, ps_args) = (self.inner.clone(), ps_args.to_owned());
        blocking(move || inner.top(&container, &ps_args)).await
    }

    /// One reading. A container that does not run gives [`Stats::running`] false and zeros.
    pub async fn stats(&self, reference: &str) -> Result<Stats> {
        let container = self.inner.find(reference)?;
        let inner = self.inner.clone();
        blocking(move || inner.stats(&container)).await
    }

    /// Paths that differ from the image.
    pub async fn changes(&self, reference: &str) -> Result<Vec<Change>> {
        let container = self.inner.find(reference)?;
        let inner = self.inner.clone();
        blocking(move || inner.changes(&container)).await
    }

    /// The root file system as a tar.
    pub async fn export(&self, reference: &str) -> Result<ByteStream> {
        let container = self.inner.find(reference)?;
        Ok(self.inner.export(&container))
    }

    /// Makes an image of the container's changes; returns its id. Volumes and the init layer are never part of it.
    pub async fn commit(&self, reference: &str, request: CommitRequest) -> Result<vocab::Digest> {
        let container = self.inner.find(reference)?;
        self.inner.commit(&container, request).await
    }

    /// `docker cp` asks what a path is. Paths resolve inside the container's root, running or not.
    pub async fn archive_stat(&self, reference: &str, path: &str) -> Result<PathStat> {
        let container = self.inner.find(reference)?;
        let (inner, path) = (self.inner.clone(), path.to_owned());
        blocking(move || inner.archive_stat(&container, &path)).await
    }

    /// A tar of the path, entries named from its last component on.
    pub async fn archive_get(&self, reference: &str, path: &str) -> Result<(PathStat, ByteStream)> {
        let container = self.inner.find(reference)?;
        self.inner.archive_get(&container, path).await
    }

    /// Unpacks a tar (plain, gzip or zstd) into a directory of the container. `no_overwrite_dir_non_dir` refuses to
    /// replace a directory by something else or the reverse; `copy_uid_gid` gives everything to the container's user
    /// instead of the archive's owners.
    pub async fn archive_put(
        &self,
        reference: &str,
        path: &str,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
        body: Body,
    ) -> Result<()> {
        let container = self.inner.find(reference)?;
        let options = PutOptions { no_overwrite_dir_non_dir, copy_uid_gid };
        let (inner, path) = (self.inner.clone(), path.to_owned());
        blocking(move || inner.archive_put(&container, &path, options, body)).await
    }
}

/// Output and input.
impl Engine {
    /// The container's log. Whether its stdout and stderr are one terminal stream is [`ContainerConfig::tty`].
    pub async fn logs(&self, reference: &str, options: LogOptions) -> Result<LogStream> {
        let container = self.inner.find(reference)?;
        if crate::ship::options::reading_is_disabled(&container.record().host.log) {
            return Err(Error::Unsupported("configured logging driver does not support reading".into()));
        }
        self.inner.logs(&container, options).await
    }

    /// Joins the container's streams. May be called before `start`: nothing that it writes is missed then.
    pub async fn attach(&self, reference: &str, options: AttachOptions) -> Result<Attached> {
        let container = self.inner.find(reference)?;
        self.inner.attach(&container, options).await
    }

    /// Sets the terminal's size; remembered as the first size if it has not been started.
    pub async fn resize(&self, reference: &str, size: ConsoleSize) -> Result<()> {
        let container = self.inner.find(reference)?;
        self.inner.resize(&container, size)
    }

    pub async fn exec_create(&self, reference: &str, config: ExecConfig) -> Result<ExecId> {
        let container = self.inner.find(reference)?;
        let (inner, held) = (self.inner.clone(), container.clone());
        let config = blocking(move || inner.check_exec_user(&held, &config).map(|()| config)).await?;
        self.inner.exec_create(&container, config)
    }

    /// Starts an exec. `None` when detached; else its streams, whose output ends with the process.
    pub async fn exec_start(&self, id: &str, options: ExecStart) -> Result<Option<Attached>> {
        self.inner.exec_start(id, options).await
    }

    /// Refuses what [`Engine::exec_start`] would refuse now.
    pub async fn exec_check(&self, id: &str) -> Result<()> {
        self.inner.exec_check(id).map(drop)
    }

    pub async fn exec_inspect(&self, id: &str) -> Result<ExecView> {
        self.inner.exec_view(id)
    }

    /// Waits for the end of an exec that was started and tells its exit code; its output may end a little earlier. `None` if it is
    /// forgotten before.
    pub async fn exec_wait(&self, id: &str) -> Option<i32> {
        self.inner.exec_end(id).await
    }

    pub async fn exec_resize(&self, id: &str, size: ConsoleSize) -> Result<()> {
        self.inner.exec_resize(id, size)
    }
}

/// Images. `reference` is a name (`busybox`, `busybox:1.36`, `host/repo@sha256:...`), an id or a unique prefix of an id.
impl Engine {
    pub async fn image_list(&self, options: ImageListOptions) -> Result<Vec<ImageSummary>> {
        let inner = self.inner.clone();
        blocking(move || inner.image_list(&options)).await
    }

    pub async fn image_inspect(&self, reference: &str) -> Result<ImageView> {
        let (inner, name) = (self.inner.clone(), reference.to_owned());
        blocking(move || inner.image_view(&name)).await
    }

    pub async fn image_history(&self, reference: &str) -> Result<Vec<HistoryEntry>> {
        let (inner, name) = (self.inner.clone(), reference.to_owned());
        blocking(move || inner.image_history(&name)).await
    }

    /// `target`: `repository[:tag]`.
    pub async fn image_tag(&self, reference: &str, target: &str) -> Result<()> {
        let (inner, name, target) = (self.inner.clone(), reference.to_owned(), target.to_owned());
        blocking(move || inner.image_tag(&name, &target)).await
    }

    /// `force` also untags what stopped containers use; `no_prune` keeps untagged parents.
    pub async fn image_remove(&self, reference: &str, force: bool, no_prune: bool) -> Result<Vec<ImageRemoval>> {
        let (inner, name) = (self.inner.clone(), reference.to_owned());
        blocking(move || inner.image_remove(&name, force, no_prune)).await
    }

    /// Filters: `dangling` (default true), `until`, `label`.
    pub async fn image_prune(&self, filters: &Filters) -> Result<ImagePruned> {
        let (inner, filters) = (self.inner.clone(), filters.clone());
        blocking(move || inner.image_prune(&filters)).await
    }

    /// Loads a docker-archive or an OCI layout (plain, gzip or zstd). Names move only after everything is verified and
    /// durable; the stream ends after the last of them, or with the error.
    pub async fn image_load(&self, body: Body) -> Result<ItemStream<LoadProgress>> {
        Ok(self.inner.image_load(body))
    }

    /// An archive that both `docker load` and OCI tools read.
    pub async fn image_save(&self, references: &[String]) -> Result<ByteStream> {
        self.inner.image_save(references.to_vec()).await
    }

    /// Makes an image of one root file system tar; returns its id.
    pub async fn image_import(&self, request: ImportRequest, body: Body) -> Result<vocab::Digest> {
        let inner = self.inner.clone();
        blocking(move || inner.image_import(request, body)).await
    }
}

/// Networks. `reference` is a name, an id or a unique prefix of an id.
impl Engine {
    pub async fn network_create(&self, request: NetworkRequest) -> Result<NetworkCreated> {
        let inner = self.inner.clone();
        blocking(move || inner.network_create(request)).await
    }

    /// By name. Filters: `dangling`, `driver`, `id`, `label`, `name`, `scope`, `type`.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<NetworkView>> {
        self.inner.network_list(filters)
    }

    pub async fn network_inspect(&self, reference: &str) -> Result<NetworkView> {
        self.inner.network_view(reference)
    }

    /// Refused while a running container is on it.
    pub async fn network_remove(&self, reference: &str) -> Result<()> {
        let (inner, name) = (self.inner.clone(), reference.to_owned());
        blocking(move || inner.network_remove(&name)).await
    }

    /// Removes networks that no container, running or not, is on; their names. Filters: `until`, `label`, `label!`.
    pub async fn network_prune(&self, filters: &Filters) -> Result<Vec<String>> {
        let (inner, filters) = (self.inner.clone(), filters.clone());
        blocking(move || inner.network_prune(&filters)).await
    }

    /// Puts a container on one more network, at once if it runs.
    pub async fn network_connect(&self, network: &str, container: &str, settings: EndpointSettings) -> Result<()> {
        let container = self.inner.find(container)?;
        self.inner.network_connect(network, &container, settings).await
    }

    /// Takes a container off a network. `force`: also off one that does not exist any more.
    pub async fn network_disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let container = self.inner.find(container)?;
        self.inner.network_disconnect(network, &container, force).await
    }
}

/// Pods: namespaces that the caller holds, on a network of their own. See [`PodNetwork`].
impl Engine {
    /// Makes the network of this node's pods, or makes sure that it is this one.
    pub async fn pod_network(&self, network: PodNetwork) -> Result<()> {
        let inner = self.inner.clone();
        blocking(move || inner.pod_network(network)).await
    }

    /// Gives a pod its interface and its published ports; its addresses, the same as before if it has them already.
    pub async fn pod_plug(&self, plug: PodPlug) -> Result<Vec<std::net::IpAddr>> {
        let inner = self.inner.clone();
        blocking(move || inner.pod_plug(&plug)).await
    }

    /// Takes back what a pod had. Its namespace must not be held any more: its address may be another's at once.
    pub async fn pod_unplug(&self, uid: &str) {
        let (inner, uid) = (self.inner.clone(), uid.to_owned());
        blocking(move || inner.pod_unplug(&uid)).await;
    }

    /// Pods that have something on the network, held or not.
    pub fn pods_plugged(&self) -> Vec<String> {
        self.inner.pods_plugged()
    }
}

/// What builds stand on.
impl Engine {
    /// Starts a build step in a root that the caller has prepared.
    pub async fn run_step(&self, request: StepRequest) -> Result<Step> {
        self.inner.run_step(request).await
    }

    /// The image store itself, for work that makes layers.
    pub fn store(&self) -> &Arc<image::Store> {
        &self.inner.images
    }

    /// The database that all records of this root are in.
    pub fn db(&self) -> &db::Db {
        &self.inner.db
    }

    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }
}

/// Registries.
impl Engine {
    /// Pulls. The stream ends after the image is in the store under its name, or with the error. Dropping it ends the pull;
    /// what has arrived of a layer waits for the next try.
    pub async fn image_pull(&self, request: PullRequest) -> Result<ItemStream<RegistryReport>> {
        self.inner.pull(request)
    }

    /// Pushes; a push to the engine's own registry moves records only.
    pub async fn image_push(&self, request: PushRequest) -> Result<ItemStream<RegistryReport>> {
        self.inner.push(request)
    }

    /// Whether a registry takes these credentials: [`Error::Unauthorized`] if not.
    pub async fn registry_login(&self, server: &str, credentials: Credentials) -> Result<registry::client::Login> {
        self.inner.registry_login(server, credentials).await
    }

    /// What a reference stands for in its registry.
    pub async fn registry_inspect(
        &self,
        reference: &str,
        credentials: Credentials,
    ) -> Result<registry::client::Inspected> {
        self.inner.registry_inspect(reference, credentials).await
    }

    pub async fn registry_search(
        &self,
        term: &str,
        limit: usize,
        credentials: Credentials,
    ) -> Result<Vec<registry::client::Found>> {
        self.inner.registry_search(term, limit, credentials).await
    }
}

/// The engine itself.
impl Engine {
    pub async fn events(&self, query: EventQuery) -> Result<EventStream> {
        self.inner.event_stream(query)
    }

    pub async fn info(&self) -> Result<Info> {
        let inner = self.inner.clone();
        Ok(blocking(move || inner.info()).await)
    }

    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let inner = self.inner.clone();
        blocking(move || inner.disk_usage()).await
    }

    /// Compares the database with mounts, cgroups, processes, layers, blobs, logs and the run directory. Empty: clean. `deep` reads and
    /// hashes every blob, which takes as long as reading them does.
    pub async fn doctor(&self, deep: bool) -> Result<Vec<Finding>> {
        let inner = self.inner.clone();
        blocking(move || inner.doctor(deep)).await
    }

    /// How long since this engine was opened.
    pub fn uptime(&self) -> Duration {
        self.inner.opened.elapsed()
    }
}
