//! Opening an engine: the root, the keeper, and everything that happened while nobody looked.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use keeper::client::{Event, Held, Keeper};
use keeper::{Exited, Kind, Phase};
use tokio::sync::mpsc;

use super::follow::LogWatch;
use super::image_mounts::owner_of;
use super::inner::{Parts, blocking, cgroup_parent, instance_tag};
use super::networks::{Networks, guard_rules};
use super::records::{CONTAINERS, FACTS, STATES};
use super::remove::remove_dir;
use super::{Container, Inner};
use crate::decide::adopt::{Adoption, HeldAs, Remembered, decide_adoption};
use crate::spec::HostFacts;
use crate::volumes::Volumes;
use crate::{ContainerId, EngineConfig, Error, Result, Status};

impl Inner {
    pub(crate) async fn open(config: EngineConfig) -> Result<Arc<Self>> {
        make_dirs(&config)?;
        let opening = config.clone();
        let store = blocking(move || open_store(&opening)).await?;
        let keeper_config = keeper::client::Config { run: config.run.clone(), command: config.keeper.clone() };
        let (keeper, held, events) = Keeper::connect_or_spawn(keeper_config).await.map_err(|e| Error::Other {
            what: "start the keeper".into(),
            kind: e.kind(),
            message: e.to_string(),
        })?;
        let (dirty, changed) = mpsc::unbounded_channel();
        let (ended_roots, to_let_go) = mpsc::unbounded_channel();
        let facts = host_facts(&config.run)?;
        let inner = Arc::new(Self::new(Parts {
            db: store.db,
            images: store.images,
            volumes: store.volumes,
            networks: store.networks,
            engine_id: store.engine_id,
            facts,
            runtime_facts: runtime::HostFacts::gather()?,
            cgroups: linux::cgroup::Cgroups::detect().map_err(|e| Error::internal("find the cgroups", e))?,
            keeper,
            boot_id: linux::proc::boot_id().unwrap_or_default(),
            log_watch: LogWatch::new()?,
            dirty,
            ended_roots,
            config,
        })?);
        tokio::spawn(save_changed(Arc::downgrade(&inner), changed));
        tokio::spawn(super::rest::give_memory_back(inner.events.activity()));
        tokio::spawn(super::roots::let_roots_go(to_let_go));
        tokio::spawn(crate::procview::keep_fresh(Arc::downgrade(&inner)));
        inner.adopt(held).await?;
        inner.open_registry().await?;
        tokio::spawn(hear_keeper(Arc::downgrade(&inner), events));
        tokio::spawn(guard_rules(Arc::downgrade(&inner)));
        Ok(inner)
    }

    /// Takes over what runs, learns what ended, finishes what a crash interrupted, and applies restart policies.
    async fn adopt(self: &Arc<Self>, held: Vec<Held>) -> Result<()> {
        let inner = self.clone();
        let adopted = blocking(move || inner.read_containers()).await?;
        let mut held: HashMap<String, Held> = held.into_iter().map(|h| (h.id.clone(), h)).collect();
        let mut later = Vec::new();
        for container in adopted {
            let told = held.remove(&container.id.to_string());
            let exited = match &told {
                Some(held) => ended(held),
                None => self.exit_on_disk(&container),
            };
            later.push((self.adopt_one(&container, told.as_ref(), exited), exited, container));
        }
        // Of containers and execs that are gone.
        for id in self.keeper.recorded_exits() {
            let known = id.parse().is_ok_and(|id| self.registry().get(id).is_some());
            if !known && !held.contains_key(&id) {
                self.forget(&id).await;
            }
        }
        // What is left belongs to nobody: execs of an engine that is gone, containers whose removal was committed.
        for (id, held) in held {
            self.let_go(&id, &held).await;
        }
        let running = later.iter().filter(|(adoption, ..)| matches!(adoption, Adoption::TakeOver { .. }));
        let running = running.map(|(_, _, container)| container.id).collect();
        let inner = self.clone();
        let named = blocking(move || {
            inner.sweep_cgroups();
            inner.sweep();
            // Containers of other networks, and those that run, are not kept from their engine by it.
            if let Err(error) = inner.networks.adopt(&running) {
                tracing::error!(%error, "the networks are not as they should be");
            }
            inner.adopt_resolvers()
        })
        .await;
        let mut kept = tokio::task::JoinSet::new();
        for id in named {
            let inner = self.clone();
            kept.spawn(async move { inner.keep_resolver(id).await });
        }
        while kept.join_next().await.is_some() {}
        for (adoption, exited, container) in later {
            self.after_adoption(&container, adoption, exited).await;
        }
        Ok(())
    }

    /// Lets the keeper forget ends that are durable now.
    pub(crate) async fn forget_ended(&self, ids: &[ContainerId]) {
        for id in ids {
            let Some(container) = self.registry().get(*id) else { continue };
            let ended = {
                let mut live = container.live();
                // A start that is under way forgets the old exit itself.
                !live.starting && std::mem::take(&mut live.unforgotten)
            };
            if ended {
                self.forget(&id.to_string()).await;
            }
        }
    }

    /// Reads every record into the registry. Blocking.
    fn read_containers(&self) -> Result<Vec<Arc<Container>>> {
        let read = self.db.read()?;
        let mut states: HashMap<ContainerId, _> = read.list(&STATES)?.into_iter().collect();
        let records = read.list(&CONTAINERS)?;
        drop(read);
        let mut registry = self.registry();
        for (id, record) in records {
            let saved = states.remove(&id).unwrap_or_default();
            if let Err(error) = registry.reserve_name(&record.name, id) {
                tracing::warn!(container = %id, %error, "two records have one name");
            }
            registry.insert(Arc::new(Container::new(id, record, saved)));
        }
        Ok(registry.all())
    }

    /// How its last run ended, if a keeper that nobody heard any more wrote it down.
    fn exit_on_disk(&self, container: &Container) -> Option<Exited> {
        let state = container.state();
        let exited = self.keeper.recorded_exit(&container.id.to_string()).filter(|_| state.status.is_running())?;
        let at = Timestamp::new(exited.at.0, exited.at.1 as i32).ok()?;
        // Not that of a run before.
        state.started_at.is_none_or(|started| at >= started).then_some(exited)
    }

    fn adopt_one(
        self: &Arc<Self>,
        container: &Arc<Container>,
        held: Option<&Held>,
        exited: Option<Exited>,
    ) -> Adoption {
        let record = container.record();
        let mut live = container.live();
        let frozen = || {
            let path = self.cgroup_path(container.id, &record.host);
            self.cgroups.find(&path).and_then(|group| group.is_frozen()).unwrap_or(false)
        };
        let state = &live.saved.state;
        let held_as = match (held, exited) {
            (_, Some(_)) => HeldAs::Ended,
            (None, None) => HeldAs::Nothing,
            (Some(_), None) => HeldAs::Running { frozen: frozen() },
        };
        let exit_known = exited.is_some_and(|e| {
            let at = Timestamp::new(e.at.0, e.at.1 as i32).ok();
            !state.status.is_running() && state.finished_at.is_some() && state.finished_at == at
        });
        let adoption = decide_adoption(
            Remembered {
                status: state.status,
                policy: record.host.restart_policy,
                stopped_by_user: live.saved.stopped_by_user,
                exit_code: state.exit_code,
                exit_known,
            },
            held_as,
        );
        if held_as == HeldAs::Ended {
            live.unforgotten = true;
        }
        match (adoption, held) {
            (Adoption::TakeOver { paused, .. }, Some(held)) => {
                match self.keeper.pidfd(&held.id) {
                    Ok(pidfd) => live.pidfd = Some(Arc::new(pidfd)),
                    Err(error) => tracing::warn!(container = %container.id, %error, "no pidfd for a held container"),
                }
                live.awaits_exit = true;
                self.adopt_volumes(container);
                let known = live.saved.state.pid == held.pid && live.saved.pid_start == held.start_time;
                live.saved.pid_start = held.start_time;
                live.saved.boot_id.clone_from(&self.boot_id);
                let state = &mut live.saved.state;
                state.status = if paused { Status::Paused } else { Status::Running };
                state.pid = held.pid;
                if !known {
                    state.started_at = Some(start_instant(held.start_time));
                    state.exit_code = 0;
                    state.error.clear();
                    live.saved.stopped_by_user = false;
                }
            }
            (Adoption::Lost { restart }, _) => {
                let rebooted = live.saved.boot_id != self.boot_id;
                let state = &mut live.saved.state;
                state.status = if restart { Status::Restarting } else { Status::Exited };
                state.error = if rebooted { LOST_WITH_MACHINE } else { LOST_WITH_KEEPER }.to_owned();
                state.exit_code = 255;
                state.pid = 0;
                state.finished_at.get_or_insert_with(Timestamp::now);
            }
            _ => {}
        }
        drop(live);
        container.tell_stage();
        adoption
    }

    async fn after_adoption(self: &Arc<Self>, container: &Arc<Container>, adoption: Adoption, exited: Option<Exited>) {
        let record = container.record();
        // Also of what has ended: its last lines may not have been delivered.
        self.ship_logs(container);
        match adoption {
            Adoption::Keep => {
                let stale = container.live().unforgotten;
                if stale {
                    self.save_state_soon(container.id);
                }
                let ran = container.status() == Status::Exited;
                if record.host.auto_remove && ran {
                    self.remove_soon(container.clone());
                }
            }
            Adoption::TakeOver { thaw, .. } => {
                if thaw && let Err(error) = self.thaw_group(container).await {
                    tracing::warn!(container = %container.id, %error, "stays frozen");
                }
                self.adopt_health(container);
                self.save_state_soon(container.id);
                // It may have ended between the keeper's list and now: its event comes.
            }
            Adoption::LearnExit => {
                container.live().awaits_exit = true;
                if let Some(exited) = exited {
                    self.container_exited(container.clone(), exited).await;
                }
            }
            Adoption::Lost { restart } => {
                let (inner, held) = (self.clone(), container.clone());
                blocking(move || inner.clean_group(&held)).await;
                self.save_state_soon(container.id);
                if restart {
                    self.restart_after(container, std::time::Duration::ZERO);
                } else if record.host.auto_remove {
                    self.remove_soon(container.clone());
                }
            }
            Adoption::Start => {
                container.live().saved.state.status = Status::Restarting;
                self.restart_after(container, std::time::Duration::ZERO);
            }
            Adoption::RestartSoon => self.restart_after(container, std::time::Duration::from_millis(100)),
        }
    }

    /// Removes the instance's cgroup in each hierarchy, where no container has one below it any more.
    pub(crate) fn remove_cgroup_parent(&self) {
        let Ok(layout) = linux::cgroup::Layout::detect() else { return };
        for hierarchy in &layout.hierarchies {
            // Not empty, or never made: both are fine, and the kernel knows.
            let _ = std::fs::remove_dir(hierarchy.mount.join(self.facts.cgroup_parent.trim_start_matches('/')));
        }
    }

    /// Ends and forgets what has no record.
    async fn let_go(&self, id: &str, held: &Held) {
        match (held.kind, held.phase) {
            (_, Phase::Ended(_)) => self.forget(id).await,
            // An exec runs on; it is forgotten when it ends.
            (Kind::Exec, _) => {}
            (Kind::Container, _) => {
                tracing::warn!(id, pid = held.pid, "ends a container that has no record");
                if let Ok(pidfd) = self.keeper.pidfd(id) {
                    let _ = linux::pidfd::send_signal(&pidfd, 9);
                }
            }
        }
    }

    /// Ends what is left in cgroups of ours in which no container runs, and removes them: what a crash of engine and keeper
    /// together left. Blocking.
    fn sweep_cgroups(&self) {
        let runs = |name: &str| {
            let container = name.parse().ok().and_then(|id| self.registry().get(id));
            container.is_some_and(|container| container.status().is_running())
        };
        let parent = self.facts.cgroup_parent.trim_start_matches('/');
        let hierarchies = &self.cgroups.layout().hierarchies;
        let groups: BTreeSet<PathBuf> =
            hierarchies.iter().flat_map(|h| container_groups(&h.mount, Path::new(parent))).collect();
        let name_of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in groups.iter().filter(|path| !runs(&name_of(path))) {
            let plan = runtime::plan::CgroupPlan {
                path: format!("/{}", path.display()),
                resources: Default::default(),
                optional: false,
            };
            match runtime::cleanup(&plan) {
                Ok(()) => tracing::info!(cgroup = plan.path, "removed a left-over cgroup"),
                Err(error) => tracing::warn!(cgroup = plan.path, %error, "cannot remove a left-over cgroup"),
            }
        }
    }

    /// Removes root file systems, directories and volumes that no record speaks of: what a crash in the middle of a
    /// create or remove left. Blocking.
    fn sweep(&self) {
        self.sweep_steps();
        let known = |name: &str| owner_of(name).is_some_and(|id| self.registry().get(id).is_some());
        for name in self.images.snapshots().unwrap_or_default() {
            if !known(&name)
                && let Err(error) = self.images.remove_snapshot(&name)
            {
                tracing::warn!(snapshot = name, %error, "cannot remove a left-over root file system");
            }
        }
        for name in names_in(&self.containers_dir()) {
            if !known(&name) {
                remove_dir(&self.containers_dir().join(name));
            }
        }
        for name in names_in(self.volumes.dir()) {
            if self.volumes.get(&name).is_none()
                && let Err(error) = self.volumes.remove_files(&name)
            {
                tracing::warn!(volume = name, %error, "cannot remove a left-over volume");
            }
        }
        self.volumes.tidy();
        self.tidy_images();
        self.adopt_views();
    }
}

/// Why an exit code of 255 is none.
const LOST_WITH_MACHINE: &str = "the machine went down while it ran: its exit code is not known";
const LOST_WITH_KEEPER: &str =
    "the engine and its keeper died while it ran: it was ended, and its exit code is not known";
pub(crate) const LOST_WITH_KERNEL: &str =
    "it ended while its keeper was dead, and this kernel (before 6.15) does not tell how: its exit code is not known";

fn ended(held: &Held) -> Option<Exited> {
    match held.phase {
        Phase::Ended(exited) => Some(exited),
        _ => None,
    }
}

/// How deep containers' groups may lie beneath the instance's: pods bring `kubepods/CLASS/POD`.
const GROUP_DEPTH: usize = 3;

/// Groups that have a container's name, beneath `parent` in a hierarchy; paths from its root.
pub(crate) fn container_groups(mount: &Path, parent: &Path) -> Vec<PathBuf> {
    fn walk(mount: &Path, place: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        for name in names_in(&mount.join(place)) {
            let path = place.join(&name);
            if name.parse::<ContainerId>().is_ok() {
                found.push(path);
            } else if depth > 0 && mount.join(&path).is_dir() {
                walk(mount, &path, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(mount, parent, GROUP_DEPTH, &mut found);
    found
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

struct Opened {
    db: db::Db,
    images: Arc<image::Store>,
    volumes: Arc<Volumes>,
    networks: Networks,
    engine_id: String,
}

fn make_dirs(config: &EngineConfig) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    // Root file systems and volumes hold set-user-ID programs: nobody else may reach them by path (DA-05).
    let dirs = [
        (config.root.clone(), 0o711),
        (config.root.join("containers"), 0o710),
        (config.root.join("volumes"), 0o701),
        (config.run.clone(), 0o711),
    ];
    for (dir, mode) in dirs {
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&dir);
        made.map_err(|e| Error::internal(format_args!("make {}", dir.display()), e))?;
    }
    Ok(())
}

fn open_store(config: &EngineConfig) -> Result<Opened> {
    let db = db::Db::open(&config.root.join("knarr.db"))?;
    let images = Arc::new(image::Store::open(&config.root, db.clone(), image::Options::default())?);
    let volumes = Arc::new(Volumes::open(&config.root, &db, config.plugins.clone())?);
    let known = db.read()?.get(&FACTS, &"engine-id".to_owned())?;
    let engine_id = match known {
        Some(id) => id,
        None => {
            let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
                .map_err(|e| Error::internal("make an id", e))?
                .trim()
                .to_owned();
            db.write(|txn| txn.put(&FACTS, &"engine-id".to_owned(), &id)).map_err(|e: db::Error| e)?;
            id
        }
    };
    let tag = instance_tag(&config.run);
    let networks = Networks::open(&config.run, &tag, &engine_id, published_ports(config)?, &db)?;
    Ok(Opened { db, images, volumes, networks, engine_id })
}

/// What the configuration says, kept for the next engine of this boot; or what was kept.
fn published_ports(config: &EngineConfig) -> Result<network::PublishedPorts> {
    let file = config.run.join("published-ports");
    let kept = std::fs::read_to_string(&file).ok().and_then(|text| network::PublishedPorts::parse(text.trim()));
    let Some(asked) = config.published_ports else { return Ok(kept.unwrap_or_default()) };
    if kept.unwrap_or_default() != asked {
        let failed = |e| Error::internal(format_args!("write {}", file.display()), e);
        let new = file.with_extension("new");
        std::fs::write(&new, asked.name()).and_then(|()| std::fs::rename(&new, &file)).map_err(failed)?;
    }
    Ok(asked)
}

fn host_facts(run: &Path) -> Result<HostFacts> {
    let caps = linux::caps::get()?;
    let nofile = linux::rlimit::get(linux::rlimit::Resource::NOFILE)?;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let thermal = |n: &u32| Path::new(&format!("/sys/devices/system/cpu/cpu{n}/thermal_throttle")).exists();
    Ok(HostFacts {
        capabilities: caps.permitted.0,
        cpus,
        thermal_cpus: (0..cpus as u32).filter(thermal).collect(),
        nofile_hard: nofile.hard,
        mqueue_folder: Path::new("/dev/mqueue").is_dir(),
        cgroup_parent: cgroup_parent(run),
    })
}

/// Clock ticks after boot as a point in time.
fn start_instant(ticks: u64) -> Timestamp {
    const TICKS_PER_SECOND: i64 = 100;
    let boot = linux::proc::boot_time().unwrap_or(0) as i64;
    let ticks = ticks as i64;
    let nanos = (ticks % TICKS_PER_SECOND) * (1_000_000_000 / TICKS_PER_SECOND);
    Timestamp::new(boot + ticks / TICKS_PER_SECOND, nanos as i32).unwrap_or_else(|_| Timestamp::now())
}

/// How long states that need not be durable at once are gathered.
const GATHER: std::time::Duration = std::time::Duration::from_millis(10);

/// Writes states that changed, many at a time, and lets the keeper forget exits that are durable now.
async fn save_changed(inner: std::sync::Weak<Inner>, mut changed: mpsc::UnboundedReceiver<ContainerId>) {
    let mut ids = Vec::new();
    while changed.recv_many(&mut ids, 1024).await > 0 {
        // A container that lives for milliseconds is never written: its removal or its next state comes first.
        tokio::time::sleep(GATHER).await;
        while let Ok(id) = changed.try_recv() {
            ids.push(id);
        }
        let Some(inner) = inner.upgrade() else { return };
        ids.sort_unstable();
        ids.dedup();
        let batch = std::mem::take(&mut ids);
        let saving = inner.clone();
        let (batch, saved) = blocking(move || {
            let saved = saving.save_states(&batch);
            (batch, saved)
        })
        .await;
        match saved {
            Ok(ended) => inner.forget_ended(&ended).await,
            Err(error) => {
                tracing::error!(%error, "cannot write the state of containers; trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                for id in batch {
                    inner.save_state_soon(id);
                }
            }
        }
    }
}

async fn hear_keeper(inner: std::sync::Weak<Inner>, mut events: mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = events.recv().await {
        let Some(inner) = inner.upgrade() else { return };
        match event {
            Event::Exited { id, exited } => drop(tokio::spawn(inner.exited(id, exited))),
            Event::Replaced { pid } => tracing::warn!(pid, "the keeper died; another has taken over"),
            Event::Lost { message } => tracing::error!(message, "no keeper can be started"),
        }
    }
}
