//! `RUN`: a process in a snapshot, with its mounts, sealed as a layer when it ends well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{HostConfig, StepMount, StepRequest, StepSource};
use jiff::Timestamp;
use linux::fs::{Mode, Root};

use super::agent::Agent;
use super::caches::InUse;
use super::{Scratchpad, State, Work, blocking, stubs};
use crate::Patterns;
use crate::context::Context;
use crate::copy::{Target, apply, select};
use crate::error::{BuildError, Result};
use crate::event::Event;
use crate::plan::{Files, Mount, MountKind, NodeId, RunOp};
use crate::syntax::{RunNetwork, RunSecurity};

/// Bytes of a secret, as Docker limits them.
const SECRET_BYTES_MAX: usize = 500 * 1024;

/// What a step's mounts need while it runs.
#[derive(Default)]
struct Held {
    mounts: Vec<StepMount>,
    env: Vec<String>,
    /// Files of the step alone: secrets, scripts, copies. On a memory file system, so that they never reach a disk (BL-09).
    private: Option<Private>,
    _agents: Vec<Agent>,
    _caches: Vec<InUse>,
    _contexts: Vec<Arc<Context>>,
    _pads: Vec<Scratchpad>,
}

impl Work {
    pub(super) async fn run(
        &self,
        run: &RunOp,
        parent: &State,
        inputs: &BTreeMap<NodeId, State>,
    ) -> Result<image::Sealed> {
        let held = self.mounts(run, inputs).await?;
        let engine = self.builder.engine.clone();
        let name = self.snapshot_name();
        let (top, targets) = (parent.top, held.mounts.iter().map(|m| m.destination.clone()).collect::<Vec<_>>());
        let (pad, files, made) = blocking(move || {
            let pad = Scratchpad::new(engine.store(), name, top.as_ref())?;
            let root = Root::from_fd(engine.store().mount(&pad.name, false)?);
            let made: Vec<String> = targets.iter().flat_map(|target| stubs::missing(&root, target)).collect();
            Ok((pad, root.into_fd(), made))
        })
        .await?;
        let mut host = self.job.host.clone();
        host.network_mode = match run.network {
            RunNetwork::Default => host.network_mode,
            RunNetwork::None => "none".into(),
            RunNetwork::Host => "host".into(),
        };
        if run.security == RunSecurity::Insecure {
            host = HostConfig { privileged: true, ..host };
        }
        let mut env = run.env.clone();
        env.extend(held.env.iter().cloned());
        let request = StepRequest {
            root: pad.snapshot.clone(),
            files,
            args: run.args.clone(),
            env,
            working_dir: run.cwd.clone(),
            user: run.user.clone(),
            mounts: held.mounts.clone(),
            host,
            hostname: "buildkitsandbox".into(),
        };
        let outcome = self.execute(request).await;
        // Caches may be used by others again, secrets are gone.
        drop(held);
        let outcome = outcome?;
        if outcome.exit_code != 0 {
            let command = run.args.join(" ");
            let why = if outcome.oom_killed {
                format!("exit code: {} (out of memory)", outcome.exit_code)
            } else {
                format!("exit code: {}", outcome.exit_code)
            };
            let node = self.graph_node();
            return Err(BuildError::Step {
                span: node.span,
                name: node.name.clone(),
                message: format!("process \"{command}\" did not complete successfully: {why}"),
                exit_code: Some(outcome.exit_code),
                command,
            });
        }
        let (engine, epoch) = (self.builder.engine.clone(), self.job.graph.epoch);
        blocking(move || {
            if !made.is_empty() {
                let root = Root::from_fd(engine.store().mount(&pad.name, true)?);
                stubs::remove(&root, &made);
            }
            pad.seal(epoch)
        })
        .await
    }

    async fn execute(&self, request: StepRequest) -> Result<engine::StepOutcome> {
        let node = self.graph_node();
        let started = self.builder.engine.run_step(request).await;
        let mut step = started.map_err(|error| BuildError::Step {
            span: node.span,
            name: node.name.clone(),
            message: error.to_string(),
            exit_code: match &error {
                engine::Error::Start { exit_code, .. } => Some(*exit_code),
                _ => None,
            },
            command: String::new(),
        })?;
        let killer = step.killer();
        let mut cancelled = false;
        loop {
            tokio::select! {
                chunk = step.output.next() => match chunk {
                    Some(Ok(chunk)) => {
                        let stderr = chunk.stream == engine::Stream::Stderr;
                        let event =
                            Event::Output { node: self.at, stderr, bytes: chunk.bytes.to_vec(), at: Timestamp::now() };
                        self.job.events.tell(event).await;
                    }
                    Some(Err(_)) | None => break,
                },
                () = self.job.cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    killer.kill();
                }
            }
        }
        let wait = step.outcome();
        tokio::pin!(wait);
        let outcome = tokio::select! {
            outcome = &mut wait => outcome,
            () = self.job.cancel.cancelled(), if !cancelled => {
                cancelled = true;
                killer.kill();
                wait.await
            }
        };
        if cancelled {
            return Err(BuildError::Cancelled);
        }
        Ok(outcome?)
    }

    async fn mounts(&self, run: &RunOp, inputs: &BTreeMap<NodeId, State>) -> Result<Held> {
        let mut held = Held::default();
        for mount in &run.mounts {
            self.mount(mount, inputs, &mut held).await?;
        }
        held.mounts.sort_by_key(|m| m.destination.split('/').count());
        Ok(held)
    }

    async fn mount(&self, mount: &Mount, inputs: &BTreeMap<NodeId, State>, held: &mut Held) -> Result<()> {
        let node = self.graph_node();
        let failed = |message: String| BuildError::Step {
            span: node.span,
            name: node.name.clone(),
            message,
            exit_code: None,
            command: String::new(),
        };
        let add = |held: &mut Held, source, read_only| {
            held.mounts.push(StepMount { destination: mount.target.clone(), source, read_only });
        };
        match &mount.kind {
            MountKind::Tmpfs { size } => {
                add(held, StepSource::Tmpfs { size_bytes: *size, mode: 0o1777 }, false);
            }
            MountKind::Inline { data } => {
                let path = self.private(held)?.file(data.as_bytes(), 0o755, (0, 0))?;
                add(held, StepSource::Bind(path), true);
            }
            MountKind::Secret { id, required, mode, uid, gid, env } => {
                let Some(secret) = self.job.client.secret(id).await? else {
                    if *required {
                        return Err(failed(format!("secret {id}: not found")));
                    }
                    return Ok(());
                };
                if secret.len() > SECRET_BYTES_MAX {
                    return Err(failed(format!("secret {id}: larger than {SECRET_BYTES_MAX} bytes")));
                }
                if let Some(name) = env {
                    held.env.push(format!("{name}={}", String::from_utf8_lossy(&secret)));
                }
                if !mount.target.is_empty() {
                    let path = self.private(held)?.file(&secret, *mode, (*uid, *gid))?;
                    add(held, StepSource::Bind(path), true);
                }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let Some(socket) = self.job.client.ssh(id).await? else {
                    if *required {
                        return Err(failed(format!("ssh socket {id}: not found")));
                    }
                    return Ok(());
                };
                held.env.push(format!("SSH_AUTH_SOCK={}", mount.target));
                let path = self.private(held)?.place();
                held._agents.push(Agent::listen(&path, &socket, *mode, (*uid, *gid))?);
                add(held, StepSource::Bind(path), false);
            }
            MountKind::Cache { id, sharing, mode, uid, gid } => {
                let name = cache_name(id, (*uid, *gid), *mode, mount, inputs);
                let cache = self.builder.mounts.take(&name, *sharing, (*uid, *gid), *mode).await?;
                if cache.new
                    && let Some(from) = &mount.from
                {
                    self.fill(from, &mount.source, inputs, &cache.path).await?;
                }
                let path = match vocab::weak::without("cache-source") {
                    true => cache.path.join(mount.source.trim_start_matches('/')),
                    false => cache.path.clone(),
                };
                add(held, StepSource::Bind(path), mount.read_only);
                held._caches.push(cache);
            }
            MountKind::Bind => {
                let Some(from) = &mount.from else { return Ok(()) };
                let source = self.bind(from, mount, inputs, held).await?;
                // What is written to a bind is thrown away with the layer above it.
                let read_only = mount.read_only && !matches!(source, StepSource::Overlay { writable: Some(_), .. });
                add(held, source, read_only);
            }
        }
        Ok(())
    }

    /// What a bind mount shows. Sources resolve in-root by descriptor: nothing leads out of a context or a stage (BL-07).
    async fn bind(
        &self,
        from: &Files,
        mount: &Mount,
        inputs: &BTreeMap<NodeId, State>,
        held: &mut Held,
    ) -> Result<StepSource> {
        if let Files::Context(name) = from {
            let context = self.context(name)?;
            let real = real_path(context.root(), &mount.source)?;
            if mount.read_only {
                held._contexts.push(context);
                return Ok(StepSource::Bind(real));
            }
        }
        if let (Files::Node(node), true, "" | "/") = (from, mount.read_only, mount.source.trim_end_matches('/'))
            && let Some(state) = inputs.get(node)
        {
            let (store, name, top) = (self.builder.engine.store().clone(), self.snapshot_name(), state.top);
            let pad = blocking(move || Scratchpad::new(&store, name, top.as_ref())).await?;
            let mut lowers = pad.snapshot.lowers.clone();
            // An overlay needs two folders when it takes no writes.
            lowers.insert(0, pad.snapshot.upper.clone());
            held._pads.push(pad);
            return Ok(StepSource::Overlay { lowers, writable: None });
        }
        // A copy of its own: part of a stage, or something that may be written to.
        let place = self.private(held)?.folder()?;
        self.fill(from, &mount.source, inputs, &place).await?;
        let single = std::fs::read_dir(&place).is_ok_and(|mut d| d.next().is_some())
            && place.join(SINGLE).symlink_metadata().is_ok();
        Ok(StepSource::Bind(if single { place.join(SINGLE) } else { place }))
    }

    /// Copies files into a host folder: a directory's contents, or one file under [`SINGLE`].
    async fn fill(&self, from: &Files, source: &str, inputs: &BTreeMap<NodeId, State>, place: &Path) -> Result<()> {
        let context = match from {
            Files::Context(name) => Some(self.context(name)?),
            Files::Node(_) => None,
        };
        let top = match from {
            Files::Node(node) => inputs.get(node).and_then(|state| state.top),
            Files::Context(_) => None,
        };
        let (store, name) = (self.builder.engine.store().clone(), self.snapshot_name());
        let (source, place) = (source.to_owned(), place.to_owned());
        blocking(move || {
            let pad;
            let root = match &context {
                Some(context) => Root::from_fd(context.root().open_dir("/")?),
                None => {
                    pad = Scratchpad::new(&store, name, top.as_ref())?;
                    Root::from_fd(store.mount_files(&pad.name)?)
                }
            };
            let items = select(&root, &source, false)?;
            let to = Root::open(&place)?;
            let exclude = Patterns::default();
            let destination = if items.iter().all(|i| i.directory) { "/" } else { SINGLE_PATH };
            let target = Target {
                root: &to,
                destination,
                owner: None,
                chmod: None,
                parents: false,
                exclude: &exclude,
                epoch: None,
            };
            apply(&items, &target, items.len() > 1)?;
            Ok(())
        })
        .await
    }

    fn private<'h>(&self, held: &'h mut Held) -> Result<&'h mut Private> {
        if held.private.is_none() {
            held.private = Some(Private::new(&self.builder.engine.config().run)?);
        }
        Ok(held.private.as_mut().expect("made above"))
    }
}

/// Which cache is meant: as in BuildKit, one that begins as something else, or is somebody else's, is another one.
fn cache_name(id: &str, owner: (u32, u32), mode: u32, mount: &Mount, inputs: &BTreeMap<NodeId, State>) -> String {
    let mut name = id.to_owned();
    if (owner, mode) != ((0, 0), 0o755) {
        name.push_str(&format!(":{}:{}:{mode:o}", owner.0, owner.1));
    }
    if let Some(Files::Node(node)) = &mount.from
        && let Some(top) = inputs.get(node).and_then(|state| state.top)
    {
        name.push_str(&format!(":{}:{}", top.hex(), mount.source));
    }
    name
}

/// Name of a single file in a folder of its own.
const SINGLE: &str = ".single";
const SINGLE_PATH: &str = "/.single";

/// A folder in the run directory that goes away with the step.
#[derive(Debug)]
struct Private {
    path: PathBuf,
    next: usize,
}

impl Private {
    fn new(run: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = run.join("steps").join(format!("files-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&path);
        made.map_err(|source| BuildError::Io { what: format!("make {}", path.display()), source })?;
        Ok(Self { path, next: 0 })
    }

    /// A path that nothing is at yet.
    fn place(&mut self) -> PathBuf {
        let path = self.path.join(self.next.to_string());
        self.next += 1;
        path
    }

    fn file(&mut self, bytes: &[u8], mode: u32, owner: (u32, u32)) -> Result<PathBuf> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.place();
        let what = || format!("write {}", path.display());
        let io = |source| BuildError::Io { what: what(), source };
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        linux::fs::fchown(&file, owner.0, owner.1)?;
        linux::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(path)
    }

    fn folder(&mut self) -> Result<PathBuf> {
        let path = self.place();
        std::fs::create_dir(&path)
            .map_err(|source| BuildError::Io { what: format!("make {}", path.display()), source })?;
        Ok(path)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if vocab::weak::without("secrets") {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "files of a build step stay behind");
        }
    }
}

/// The host's path of something in a root that only we change.
fn real_path(root: &Root, path: &str) -> Result<PathBuf> {
    use std::os::fd::AsFd;
    let relative = path.trim_start_matches('/');
    if vocab::weak::without("mount-source") {
        let outside = linux::fs::proc_fd(root.open_dir("/")?.as_fd()).join(relative);
        return outside.canonicalize().map_err(|_| BuildError::Invalid(format!("{path:?}: not found")));
    }
    let fd = root
        .open_path(if relative.is_empty() { "." } else { relative })
        .map_err(|_| BuildError::Invalid(format!("{path:?}: not found")))?;
    std::fs::read_link(linux::fs::proc_fd(fd.as_fd()))
        .map_err(|source| BuildError::Io { what: format!("find {path}"), source })
}
