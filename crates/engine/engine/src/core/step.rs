//! A build step: one process in a root of its own, with Docker's default confinement. No record speaks of it: if the engine
//! dies, the next one ends it and removes what it had.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use keeper::client::{Sink, StartRequest, Streams, Work};
use keeper::{Exited, Stdio};
use oci_spec::runtime::{Mount, MountBuilder};
use runtime::RootfsSource;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::inner::blocking;
use super::networks::Sandbox;
use super::records::{ContainerRecord, StateRecord};
use super::start::{UserFiles, launch_exit_code, launch_message};
use super::{Container, Inner};
use crate::decide::caps;
use crate::spec::{self, Joined, SpecInput};
use crate::stream::OutputStream;
use crate::{ContainerConfig, ContainerId, Error, HostConfig, Result};

/// What a step is.
#[derive(Debug)]
pub struct StepRequest {
    /// Its root; the caller owns the snapshot and removes or keeps it afterwards.
    pub root: image::Snapshot,
    /// The same root as a descriptor: users are looked up in it.
    pub files: OwnedFd,
    pub args: Vec<String>,
    /// `NAME=value`, complete.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user[:group]`.
    pub user: String,
    /// Beside Docker's defaults, parents before children.
    pub mounts: Vec<StepMount>,
    /// Network mode, privileges, limits and extra hosts are read from here.
    pub host: HostConfig,
    pub hostname: String,
}

/// A mount of a step. Sources are the caller's own paths, never a container's or an image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepMount {
    pub destination: String,
    pub source: StepSource,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepSource {
    Bind(PathBuf),
    /// A size of 0 is no limit.
    Tmpfs {
        size_bytes: u64,
        mode: u32,
    },
    /// Topmost first; with `upper` and `work` it takes writes.
    Overlay {
        lowers: Vec<PathBuf>,
        writable: Option<(PathBuf, PathBuf)>,
    },
}

/// A step that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Step {
    /// Ends when the process has ended and everything it wrote was delivered.
    pub output: OutputStream,
    ends: EndsStep,
    life: JoinHandle<Result<StepOutcome>>,
}

impl Step {
    /// Waits for the end; what it had is removed then. The exit code is the process's, or 128 and the signal that ended it.
    /// 137 with `oom` if the kernel ran out of its memory.
    pub async fn outcome(mut self) -> Result<StepOutcome> {
        (&mut self.life).await.unwrap_or_else(|error| Err(Error::internal("wait for a step", error)))
    }

    /// Something that ends it, for a build that is cancelled.
    pub fn killer(&self) -> StepKiller {
        self.ends.0.clone()
    }
}

/// Kills the step that nobody waits for any more.
#[derive(Debug)]
struct EndsStep(StepKiller);

impl Drop for EndsStep {
    fn drop(&mut self) {
        self.0.kill();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepOutcome {
    pub exit_code: i32,
    pub oom_killed: bool,
}

#[derive(Debug, Clone)]
pub struct StepKiller {
    id: ContainerId,
    inner: Arc<Inner>,
}

impl StepKiller {
    /// Ends every process of the step. No error if it has ended.
    pub fn kill(&self) {
        self.inner.kill_step(self.id);
    }
}

/// Who waits for which step.
#[derive(Debug, Default)]
pub(crate) struct Steps(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    all: HashMap<ContainerId, oneshot::Sender<Exited>>,
    /// The engine is ending: what is being started is killed as well.
    closed: bool,
}

impl Steps {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn holds(&self, id: ContainerId) -> bool {
        self.waiting().all.contains_key(&id)
    }

    /// Passes an exit on; `false` if it is no step's.
    pub(crate) fn ended(&self, id: ContainerId, exited: Exited) -> bool {
        match self.waiting().all.remove(&id) {
            Some(waiter) => {
                let _ = waiter.send(exited);
                true
            }
            None => false,
        }
    }
}

impl Inner {
    fn step_dir(&self, id: ContainerId) -> PathBuf {
        self.config.run.join("steps").join(id.to_string())
    }

    /// Removes what steps of an engine that is gone had in the run directory. Blocking.
    pub(crate) fn sweep_steps(&self) {
        super::remove::remove_dir(&self.config.run.join("steps"));
    }

    pub(crate) async fn run_step(self: &Arc<Self>, request: StepRequest) -> Result<Step> {
        let id = self.new_id();
        let ends = EndsStep(StepKiller { id, inner: self.clone() });
        let (begun, begins) = oneshot::channel();
        let life = self.begin_whole(self.clone().live_step(id, request, begun)).await;
        let streams = begins.await.map_err(|_| Error::internal("start a step", "its task ended"))??;
        let output = self.attached(false, Some(streams), Vec::new(), None).output;
        Ok(Step { output, ends, life })
    }

    /// The whole life of a step, whoever waits for it.
    async fn live_step(
        self: Arc<Self>,
        id: ContainerId,
        request: StepRequest,
        begun: oneshot::Sender<Result<Streams>>,
    ) -> Result<StepOutcome> {
        let outcome = match self.start_step(id, request).await {
            Ok((streams, exited)) => {
                if begun.send(Ok(streams)).is_err() || self.steps.waiting().closed {
                    self.kill_step(id);
                }
                exited.await.map_err(|_| Error::internal("wait for a step", "the engine is shutting down"))
            }
            Err(error) => {
                self.steps.waiting().all.remove(&id);
                let _ = begun.send(Err(error));
                Err(Error::internal("wait for a step", "it did not start"))
            }
        };
        let inner = self.clone();
        let oom_killed = blocking(move || inner.end_step(id)).await;
        if outcome.is_ok() {
            self.forget(&id.to_string()).await;
        }
        outcome.map(|exited| StepOutcome { exit_code: exited.code(), oom_killed })
    }

    async fn start_step(
        self: &Arc<Self>,
        id: ContainerId,
        request: StepRequest,
    ) -> Result<(Streams, oneshot::Receiver<Exited>)> {
        let (sink, streams) = Sink::new(true, true).map_err(|e| Error::internal("open a step's streams", e))?;
        let program = request.args.first().cloned().unwrap_or_default();
        let inner = self.clone();
        let (plan, sandbox) = blocking(move || inner.plan_step(id, request)).await?;
        let (sender, exited) = oneshot::channel();
        self.steps.waiting().all.insert(id, sender);
        let work = Work::container(&plan).map_err(|e| step_error(&program, e))?;
        let request = StartRequest {
            id: id.to_string(),
            work,
            stdio: Stdio::Pipes { stdin: false },
            log: None,
            sinks: vec![sink],
            gated: false,
        };
        vocab::crash::point("engine.step.before_start");
        let started = self.keeper.start(request).await;
        // The namespace lives on in the process.
        drop(sandbox);
        vocab::crash::point("engine.step.after_start");
        started.map_err(|e| step_error(&program, e))?;
        Ok((streams, exited))
    }

    /// Ends every process of the step. No error if it has ended.
    fn kill_step(&self, id: ContainerId) {
        if let Ok(pidfd) = self.keeper.pidfd(&id.to_string()) {
            let _ = linux::pidfd::send_signal(&pidfd, 9);
        }
    }

    /// The engine ends: so does what it builds.
    pub(crate) fn end_steps(&self) {
        let ids: Vec<ContainerId> = {
            let mut waiting = self.steps.waiting();
            waiting.closed = true;
            waiting.all.keys().copied().collect()
        };
        for id in ids {
            self.kill_step(id);
        }
    }

    /// Blocking.
    fn plan_step(self: &Arc<Self>, id: ContainerId, request: StepRequest) -> Result<(runtime::Plan, Option<Sandbox>)> {
        let dir = self.step_dir(id);
        std::fs::create_dir_all(&dir).map_err(|e| Error::internal(format_args!("make {}", dir.display()), e))?;
        let root = linux::fs::Root::from_fd(request.files);
        let user = UserFiles::read(&root).resolve(&request.user, &request.host.group_add)?;
        // A mounted root would be busy when the step's own mount of it is made.
        drop(root);
        let host = &request.host;
        let config = ContainerConfig {
            hostname: request.hostname,
            env: request.env,
            entrypoint: Some(Vec::new()),
            cmd: Some(request.args),
            working_dir: request.working_dir,
            ..ContainerConfig::default()
        };
        let security = spec::parse_security_opt(&host.security_opt)?;
        let record = self.step_record(id, &config, host);
        let sandbox = self.attach_networks(&Container::new(id, record.clone(), StateRecord::default()), &record)?;
        let files = self.write_network_files(id, &record, &dir)?;
        let joined = Joined { network: sandbox.as_ref().map(Sandbox::path), ..Joined::default() };
        let mut spec = spec::build_spec(&SpecInput {
            id,
            config: &config,
            host,
            security: &security,
            user: &user,
            users: None,
            mounts: &[],
            files: &files,
            joined: &joined,
            facts: &self.facts,
            seccomp: None,
            devices: &if host.privileged { super::devices::all() } else { Vec::new() },
            view: &[],
            init: None,
            device_numbers: &super::devices::numbers,
        })?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &request.mounts {
            mounts.push(step_mount(mount)?);
        }
        spec.set_mounts(Some(mounts));
        let rootfs =
            RootfsSource::Overlay { lowers: request.root.lowers, upper: request.root.upper, work: request.root.work };
        let options = runtime::Options::new(id.to_string(), dir);
        let mut plan = runtime::plan(&spec, &rootfs, &self.runtime_facts, &options)
            .map_err(|e| Error::Start { exit_code: 128, message: format!("OCI runtime create failed: {e}") })?;
        if !host.privileged {
            let names = caps::decide_caps(&host.cap_add, &host.cap_drop, host.privileged, self.facts.capabilities)?;
            plan.process.seccomp = self.seccomp.plan(&security.seccomp, &names)?;
        }
        Ok((plan, sandbox))
    }

    /// The step in the words of a container, for the rooms that know only those. It is never stored.
    fn step_record(&self, id: ContainerId, config: &ContainerConfig, host: &HostConfig) -> ContainerRecord {
        ContainerRecord {
            name: format!("build-{}", id.short()),
            created_at: jiff::Timestamp::now(),
            image: vocab::Digest::from_sha256([0; 32]),
            platform: "linux".into(),
            config: config.clone(),
            host: host.clone(),
            mounts: Vec::new(),
            networks: None,
            users: None,
        }
    }

    /// Removes what a step had. Returns whether the kernel killed for want of memory. Blocking.
    fn end_step(self: &Arc<Self>, id: ContainerId) -> bool {
        let record = self.step_record(id, &ContainerConfig::default(), &HostConfig::default());
        self.release_networks(&Container::new(id, record, StateRecord::default()));
        let path = self.cgroup_path(id, &HostConfig::default());
        let oom_killed = match self.cgroups.find(&path) {
            Ok(group) => group.events().oom_kill.is_some_and(|n| n > 0),
            Err(_) => false,
        };
        let plan = runtime::plan::CgroupPlan {
            path: path.to_string_lossy().into_owned(),
            resources: Default::default(),
            optional: false,
        };
        if let Err(error) = runtime::cleanup(&plan) {
            tracing::warn!(step = %id, %error, "the cgroup of a build step stays behind");
        }
        super::remove::remove_dir(&self.step_dir(id));
        oom_killed
    }
}

fn step_mount(mount: &StepMount) -> Result<Mount> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let mut options: Vec<String> = Vec::new();
    let (kind, source) = match &mount.source {
        StepSource::Bind(path) => {
            options.extend(["rbind".into(), "rprivate".into()]);
            ("bind", path.clone())
        }
        StepSource::Tmpfs { size_bytes, mode } => {
            options.extend(["nosuid".into(), "nodev".into(), format!("mode={mode:o}")]);
            if *size_bytes > 0 {
                options.push(format!("size={size_bytes}"));
            }
            ("tmpfs", "tmpfs".into())
        }
        StepSource::Overlay { lowers, writable } => {
            // One by one (Linux 6.5): a single value may have no more than 255 bytes.
            options.extend(lowers.iter().map(|lower| format!("lowerdir+={}", text(lower))));
            if let Some((upper, work)) = writable {
                options.push(format!("upperdir={}", text(upper)));
                options.push(format!("workdir={}", text(work)));
            }
            ("overlay", "overlay".into())
        }
    };
    if mount.read_only {
        options.push("ro".into());
    }
    MountBuilder::default()
        .destination(&mount.destination)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
        .map_err(|e| Error::internal("build a step's mount", e))
}

fn step_error(program: &str, error: keeper::client::Error) -> Error {
    let keeper::client::Error::Launch(failure) = &error else {
        return Error::Other {
            what: "cannot start a build step".into(),
            kind: error.kind(),
            message: error.to_string(),
        };
    };
    let (exit_code, text) = (launch_exit_code(failure), failure.to_string());
    Error::Start { exit_code, message: launch_message(program, exit_code, &text) }
}

/// `user[:group]` by the passwd and group files of a root: user and group id. A bare number is both.
pub fn lookup_user(root: &linux::fs::Root, spec: &str) -> Result<(u32, u32)> {
    let user = UserFiles::read(root).resolve(spec, &[])?;
    let lone_number = !spec.contains(':') && spec.bytes().all(|b| b.is_ascii_digit());
    Ok(if lone_number { (user.uid, user.uid) } else { (user.uid, user.gid) })
}
