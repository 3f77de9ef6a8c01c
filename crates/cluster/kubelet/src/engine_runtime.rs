//! The engine of this process as a pod runtime.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use engine::{
    AttachOptions, Attached, ConsoleSize, ContainerConfig, ContainerSummary, CreateRequest, Engine, EventQuery,
    ExecConfig, ExecStart, HostConfig, ListOptions, LogOptions, RemoveOptions, Resources, Status, Stream,
    WaitCondition,
};
use tokio::sync::{mpsc, oneshot};
use vocab::ErrorKind;

use crate::runtime::{
    ContainerRequest, ContainerSeen, ImageSeen, Input, LogLine, LogQuery, Mount, Output, Process, Runtime,
    RuntimeError, Sandbox, SandboxRequest, State, labels,
};
use crate::sandbox::Sandboxes;

/// Last words beyond this are not told.
const MESSAGE_BYTES_MAX: usize = 4096;
const PROBE_OUTPUT_MAX: usize = 10 << 10;

#[derive(Debug, Clone)]
pub struct EngineRuntime {
    engine: Engine,
    sandboxes: Sandboxes,
}

fn told(error: engine::Error) -> RuntimeError {
    match error.kind() {
        ErrorKind::NotFound => RuntimeError::NotFound(error.to_string()),
        ErrorKind::Invalid | ErrorKind::Unsupported => RuntimeError::Invalid(error.to_string()),
        _ => RuntimeError::Failed(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(RuntimeError::Failed(format!("a thread ended: {error}"))))
}

impl EngineRuntime {
    /// `run`: the instance's run directory, where sandboxes live.
    pub fn new(engine: Engine, run: &Path) -> Self {
        Self { engine, sandboxes: Sandboxes::new(run) }
    }

    fn request(&self, request: &ContainerRequest) -> CreateRequest {
        let sandbox = self.sandboxes.path(&request.pod_uid);
        let held = |name: &str| format!("ns:{}", sandbox.join(name).display());
        let mut labels = BTreeMap::from([
            (labels::POD_NAME.to_owned(), request.pod_name.clone()),
            (labels::POD_NAMESPACE.to_owned(), request.pod_namespace.clone()),
            (labels::POD_UID.to_owned(), request.pod_uid.clone()),
            (labels::CONTAINER.to_owned(), request.name.clone()),
            (labels::ATTEMPT.to_owned(), request.attempt.to_string()),
            ("io.kubernetes.docker.type".to_owned(), "container".to_owned()),
        ]);
        let mut mounts: Vec<Mount> = request.mounts.clone();
        let file = |source: &str, target: &str, read_only| Mount {
            source: sandbox.join(source),
            target: target.to_owned(),
            read_only,
            propagation: "private",
        };
        let covered = |target: &str| request.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target);
        for (source, target) in
            [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")]
        {
            if !covered(target) {
                mounts.push(file(source, target, false));
            }
        }
        if !request.host_ipc && !covered("/dev/shm") {
            mounts.push(file("shm", "/dev/shm", false));
        }
        if let Some((target, source)) = &request.message {
            labels.insert(labels::MESSAGE.to_owned(), source.to_string_lossy().into_owned());
            if !covered(target) {
                mounts.push(Mount {
                    source: source.clone(),
                    target: target.clone(),
                    read_only: false,
                    propagation: "private",
                });
            }
        }
        let mut security = Vec::new();
        if request.no_new_privileges {
            security.push("no-new-privileges".to_owned());
        }
        if request.seccomp_unconfined {
            security.push("seccomp=unconfined".to_owned());
        }
        if request.unmasked_proc {
            security.push("systempaths=unconfined".to_owned());
        }
        let host = HostConfig {
            mounts: mounts.iter().map(bind).collect(),
            network_mode: if request.host_network { "host".into() } else { held("net") },
            uts_mode: if request.host_network { "host".into() } else { held("uts") },
            ipc_mode: if request.host_ipc { "host".into() } else { held("ipc") },
            pid_mode: match (&request.pid_of, request.host_pid) {
                (_, true) => "host".into(),
                (Some(id), _) => format!("container:{id}"),
                (None, false) => String::new(),
            },
            cap_add: request.cap_add.clone(),
            cap_drop: request.cap_drop.clone(),
            group_add: request.groups.clone(),
            privileged: request.privileged,
            readonly_rootfs: request.read_only_root,
            security_opt: security,
            oom_score_adj: request.oom_score_adj,
            annotations: request.annotations.clone(),
            resources: Resources {
                cpu_shares: request.cpu_shares,
                cpu_quota_micros: request.cpu_quota_micros,
                cpu_period_micros: if request.cpu_quota_micros > 0 { 100_000 } else { 0 },
                memory_bytes: request.memory_bytes,
                // No swap beyond the limit, as upstream without swap support.
                memory_swap_bytes: request.memory_bytes,
                ..Resources::default()
            },
            ..HostConfig::default()
        };
        let config = ContainerConfig {
            hostname: request.hostname.clone(),
            user: request.user.clone(),
            tty: request.tty,
            open_stdin: request.stdin,
            stdin_once: request.stdin_once,
            env: request.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            entrypoint: request.command.clone(),
            cmd: request.args.clone(),
            working_dir: request.working_dir.clone(),
            image: request.image.clone(),
            labels,
            ..ContainerConfig::default()
        };
        let name = format!(
            "k8s_{}_{}_{}_{}_{}",
            request.name, request.pod_name, request.pod_namespace, request.pod_uid, request.attempt
        );
        CreateRequest { name: Some(name), config, host, ..CreateRequest::default() }
    }

    fn seen(summary: ContainerSummary) -> Option<ContainerSeen> {
        let label = |name: &str| summary.labels.get(name).cloned();
        let state = match summary.state.status {
            Status::Created if summary.state.error.is_empty() => State::Created,
            Status::Running | Status::Paused | Status::Restarting => {
                State::Running { started: summary.state.started_at.unwrap_or(summary.created_at) }
            }
            _ => State::Exited {
                started: summary.state.started_at,
                finished: summary.state.finished_at.or(summary.state.started_at).unwrap_or(summary.created_at),
                code: summary.state.exit_code,
                oom: summary.state.oom_killed,
                error: summary.state.error.clone(),
            },
        };
        let message = match (&state, label(labels::MESSAGE)) {
            (State::Exited { .. }, Some(path)) => last_words(Path::new(&path)),
            _ => String::new(),
        };
        Some(ContainerSeen {
            id: summary.id.to_string(),
            pod_uid: label(labels::POD_UID)?,
            name: label(labels::CONTAINER)?,
            attempt: label(labels::ATTEMPT)?.parse().ok()?,
            image: summary.image,
            image_id: summary.image_id.to_string(),
            state,
            message,
        })
    }
}

fn bind(mount: &Mount) -> engine::MountRequest {
    engine::MountRequest {
        kind: engine::MountKind::Bind,
        source: mount.source.to_string_lossy().into_owned(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        consistency: String::new(),
        bind: Some(engine::BindOptions {
            propagation: mount.propagation.into(),
            read_only_non_recursive: mount.read_only,
            ..engine::BindOptions::default()
        }),
        volume: None,
        tmpfs: None,
        image_subpath: None,
    }
}

/// The end of a termination message; the file is the workload's own and may be anything.
fn last_words(path: &Path) -> String {
    let Ok(fd) = linux::fs::open_host(path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW) else {
        return String::new();
    };
    let bytes = linux::fs::read_regular(fd, 1 << 20, path).unwrap_or_default();
    let from = bytes.len().saturating_sub(MESSAGE_BYTES_MAX);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// What a terminal's size belongs to.
enum Resized {
    Container(String),
    Exec(String),
}

/// Carries an attached process between channels; `exit` is awaited when all output has been delivered.
fn carry(
    engine: Engine,
    attached: Attached,
    resized: Resized,
    exit: impl Future<Output = Result<i32, RuntimeError>> + Send + 'static,
) -> Process {
    let Attached { mut output, input, .. } = attached;
    let (to_reader, output_receiver) = mpsc::channel(16);
    let (input_sender, mut from_writer) = mpsc::channel(16);
    let (tell_exit, exit_receiver) = oneshot::channel();
    tokio::spawn(async move {
        while let Some(Ok(chunk)) = output.next().await {
            let piece = Output { stderr: chunk.stream == Stream::Stderr, bytes: chunk.bytes };
            if to_reader.send(piece).await.is_err() {
                return;
            }
        }
        let _ = tell_exit.send(exit.await);
    });
    tokio::spawn(async move {
        let mut input = input;
        while let Some(next) = from_writer.recv().await {
            match next {
                Input::Bytes(bytes) => {
                    if let Some(sink) = &mut input
                        && sink.write(&bytes).await.is_err()
                    {
                        input = None;
                    }
                }
                Input::End => drop(input.take().map(engine::InputSink::close)),
                Input::Size(rows, cols) => {
                    let size = ConsoleSize { rows, cols };
                    let _ = match &resized {
                        Resized::Container(id) => engine.resize(id, size).await,
                        Resized::Exec(id) => engine.exec_resize(id, size).await,
                    };
                }
            }
        }
    });
    Process { output: output_receiver, input: input_sender, exit: exit_receiver }
}

impl Runtime for EngineRuntime {
    async fn sandbox(&self, request: &SandboxRequest) -> Result<Sandbox, RuntimeError> {
        let (sandboxes, request) = (self.sandboxes.clone(), request.clone());
        blocking(move || sandboxes.make(&request)).await
    }

    async fn find_sandbox(&self, uid: &str) -> Option<Sandbox> {
        self.sandboxes.find(uid)
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), RuntimeError> {
        let (sandboxes, uid) = (self.sandboxes.clone(), uid.to_owned());
        blocking(move || sandboxes.remove(&uid)).await
    }

    async fn sandboxes(&self) -> Vec<String> {
        self.sandboxes.list()
    }

    async fn image(&self, name: &str) -> Result<Option<ImageSeen>, RuntimeError> {
        match self.engine.image_inspect(name).await {
            Ok(view) => Ok(Some(ImageSeen {
                id: view.id.to_string(),
                tags: view.tags,
                size_bytes: view.size_bytes,
                user: view.config.user,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    async fn images(&self) -> Result<Vec<ImageSeen>, RuntimeError> {
        let images = self.engine.image_list(engine::ImageListOptions::default()).await.map_err(told)?;
        let seen = images.into_iter().map(|image| ImageSeen {
            id: image.id.to_string(),
            tags: image.tags,
            size_bytes: image.size_bytes,
            user: String::new(),
        });
        Ok(seen.collect())
    }

    async fn pull(&self, name: &str) -> Result<(), RuntimeError> {
        let request = engine::PullRequest {
            reference: name.to_owned(),
            all_tags: false,
            platform: None,
            credentials: engine::Credentials::default(),
        };
        let mut reports = self.engine.image_pull(request).await.map_err(told)?;
        while let Some(report) = reports.next().await {
            report.map_err(told)?;
        }
        Ok(())
    }

    async fn containers(&self, pod_uid: Option<&str>) -> Result<Vec<ContainerSeen>, RuntimeError> {
        let mut options = ListOptions { all: true, ..ListOptions::default() };
        options.filters.insert(
            "label",
            match pod_uid {
                Some(uid) => format!("{}={uid}", labels::POD_UID),
                None => labels::POD_UID.to_owned(),
            },
        );
        let mut seen: Vec<ContainerSeen> =
            self.engine.list(options).await.map_err(told)?.into_iter().filter_map(Self::seen).collect();
        seen.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
        Ok(seen)
    }

    async fn start(&self, request: &ContainerRequest) -> Result<String, RuntimeError> {
        let create = self.request(request);
        let name = create.name.clone().unwrap_or_default();
        let id = match self.engine.create(create).await {
            Ok(created) => created.id.to_string(),
            // An earlier try got this far.
            Err(engine::Error::NameInUse { .. }) => name,
            Err(error) => return Err(told(error)),
        };
        vocab::crash::point("kubelet.start.created");
        match self.engine.start(&id).await {
            Ok(()) => Ok(id),
            Err(error) if error.kind() == ErrorKind::NotModified => Ok(id),
            Err(error) => Err(told(error)),
        }
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let secs = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        match self.engine.stop(id, None, Some(secs)).await {
            Err(error) if !matches!(error.kind(), ErrorKind::NotModified | ErrorKind::NotFound) => Err(told(error)),
            _ => Ok(()),
        }
    }

    async fn kill(&self, id: &str) -> Result<(), RuntimeError> {
        match self.engine.kill(id, "KILL").await {
            Err(error) if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => Err(told(error)),
            _ => Ok(()),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        match self.engine.remove(id, RemoveOptions { force: true, volumes: true }).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(told(error)),
            _ => Ok(()),
        }
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<(i32, String), RuntimeError> {
        let mut process = self.exec(id, command, false, false).await?;
        let collected = async {
            let mut text = Vec::new();
            while let Some(piece) = process.output.recv().await {
                let room = PROBE_OUTPUT_MAX.saturating_sub(text.len());
                text.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
            }
            let code = process.exit.await.map_err(|_| RuntimeError::Failed("the process was lost".into()))??;
            Ok((code, String::from_utf8_lossy(&text).into_owned()))
        };
        match tokio::time::timeout(timeout, collected).await {
            Ok(done) => done,
            Err(_) => Err(RuntimeError::Failed(format!("command timed out after {}s", timeout.as_secs()))),
        }
    }

    async fn exec(&self, id: &str, command: &[String], tty: bool, stdin: bool) -> Result<Process, RuntimeError> {
        let config = ExecConfig {
            cmd: command.to_vec(),
            tty,
            attach_stdin: stdin,
            attach_stdout: true,
            attach_stderr: true,
            ..ExecConfig::default()
        };
        let exec = self.engine.exec_create(id, config).await.map_err(told)?.to_string();
        let start = ExecStart { tty, ..ExecStart::default() };
        let attached = self.engine.exec_start(&exec, start).await.map_err(told)?;
        let attached = attached.ok_or_else(|| RuntimeError::Failed("the exec is detached".into()))?;
        let (engine, asked) = (self.engine.clone(), exec.clone());
        let exit = async move {
            // The output's end comes a moment before the exit is known.
            for _ in 0..500 {
                match engine.exec_inspect(&asked).await {
                    Ok(view) if view.running || view.exit_code.is_none() => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    Ok(view) => return Ok(view.exit_code.unwrap_or(0)),
                    Err(error) => return Err(told(error)),
                }
            }
            Err(RuntimeError::Failed("the process closed its output and runs on".into()))
        };
        Ok(carry(self.engine.clone(), attached, Resized::Exec(exec), exit))
    }

    async fn attach(&self, id: &str, stdin: bool) -> Result<Process, RuntimeError> {
        let options = AttachOptions { stdin, stdout: true, stderr: true, logs: false, stream: true };
        let waiter = self.engine.wait(id, WaitCondition::NotRunning).await.map_err(told)?;
        let attached = self.engine.attach(id, options).await.map_err(told)?;
        let exit = async move { waiter.outcome().await.map(|outcome| outcome.exit_code).map_err(told) };
        Ok(carry(self.engine.clone(), attached, Resized::Container(id.to_owned()), exit))
    }

    async fn logs(&self, id: &str, query: &LogQuery) -> Result<mpsc::Receiver<LogLine>, RuntimeError> {
        let options =
            LogOptions { follow: query.follow, since: query.since, tail: query.tail, ..LogOptions::default() };
        let mut lines = self.engine.logs(id, options).await.map_err(told)?;
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = lines.next() => next,
                    () = sender.closed() => return,
                };
                let Some(Ok(entry)) = next else { return };
                let line = LogLine { at: entry.at, stderr: entry.stream == Stream::Stderr, line: entry.line };
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn connect(&self, uid: &str, port: u16) -> Result<tokio::net::TcpStream, RuntimeError> {
        let path = self.sandboxes.path(uid).join("net");
        let connected = blocking(move || {
            // A socket belongs to the network in which it was made: a thread of its own goes there.
            std::thread::spawn(move || {
                let failed =
                    |what: &str, error: &dyn std::fmt::Display| RuntimeError::Failed(format!("{what}: {error}"));
                if path.exists() {
                    let netns = linux::ns::open(&path).map_err(|error| failed("open the pod's network", &error))?;
                    linux::ns::setns(&netns, linux::ns::Namespaces::NET)
                        .map_err(|error| failed("enter the pod's network", &error))?;
                }
                let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
                let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10))
                    .map_err(|error| failed(&format!("connect to port {port} of the pod"), &error))?;
                stream.set_nonblocking(true).map_err(|error| failed("set up the connection", &error))?;
                Ok(stream)
            })
            .join()
            .unwrap_or_else(|_| Err(RuntimeError::Failed("a thread ended".into())))
        })
        .await?;
        tokio::net::TcpStream::from_std(connected).map_err(|error| RuntimeError::Failed(error.to_string()))
    }

    async fn changes(&self) -> Result<mpsc::Receiver<String>, RuntimeError> {
        let mut query = EventQuery::default();
        query.filters.insert("type", "container");
        query.filters.insert("label", labels::POD_UID);
        let mut events = self.engine.events(query).await.map_err(told)?;
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                if !matches!(event.action.as_str(), "start" | "die" | "destroy" | "oom") {
                    continue;
                }
                let Some(uid) = event.attributes.get(labels::POD_UID) else { continue };
                if sender.send(uid.clone()).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}
