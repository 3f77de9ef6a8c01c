//! Further processes in a running container.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keeper::client::{Sink, StartRequest, Work};
use keeper::{Exited, Stdio};
use oci_spec::runtime::{ProcessBuilder, UserBuilder};

use super::attach::Input;
use super::inner::blocking;
use super::start::{UserFiles, launch_message};
use super::{Container, Inner};
use crate::decide::merge::{DEFAULT_PATH, environment};
use crate::stream::Attached;
use crate::{ConsoleSize, ContainerId, Error, ExecConfig, ExecId, ExecStart, ExecView, Result, Status};

/// How long an ended exec can still be inspected.
const KEPT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: ExecId,
    pub(crate) container: ContainerId,
    config: ExecConfig,
    state: Mutex<ExecState>,
    /// True once it has ended.
    ended: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct ExecState {
    started: bool,
    running: bool,
    pid: i32,
    exit_code: Option<i32>,
    ended_at: Option<Instant>,
    console: Option<ConsoleSize>,
    /// Its end, told before its start was.
    early_exit: Option<Exited>,
}

impl Exec {
    fn state(&self) -> std::sync::MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended_at.is_some()
    }

    /// It could not be launched.
    fn failed(&self, error: &Error) {
        let exit_code = match error {
            Error::Start { exit_code, .. } => *exit_code,
            _ => 126,
        };
        let mut state = self.state();
        state.exit_code = Some(exit_code);
        state.ended_at = Some(Instant::now());
        drop(state);
        self.ended.send_replace(true);
    }
}

impl Inner {
    pub(crate) fn exec_create(&self, container: &Container, config: ExecConfig) -> Result<ExecId> {
        match container.status() {
            Status::Running => {}
            Status::Paused => {
                return Err(Error::Conflict(format!(
                    "Container {} is paused, unpause the container before exec",
                    container.id
                )));
            }
            Status::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => return Err(container.not_running()),
        }
        if config.cmd.is_empty() {
            return Err(Error::Invalid("No exec command specified".into()));
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::Invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        if config.cmd.iter().chain(&config.env).any(|t| t.contains('\0')) {
            return Err(Error::Invalid("invalid exec configuration: a value contains a NUL byte".into()));
        }
        let id = self.new_id();
        let command = command_words(&config.cmd);
        let state = ExecState { console: config.console_size, ..Default::default() };
        let exec = Arc::new(Exec {
            id,
            container: container.id,
            config,
            state: Mutex::new(state),
            ended: tokio::sync::watch::channel(false).0,
        });
        {
            let mut live = container.live();
            let now = Instant::now();
            live.execs.retain(|_, e| e.state().ended_at.is_none_or(|at| now.duration_since(at) < KEPT));
            live.execs.insert(id, exec.clone());
        }
        let mut all = self.execs();
        let now = Instant::now();
        all.retain(|_, e| e.state().ended_at.is_none_or(|at| now.duration_since(at) < KEPT));
        all.insert(id, exec);
        drop(all);
        self.container_event(container, format!("exec_create: {command}"), &[("execID", id.to_string())]);
        Ok(id)
    }

    /// Whether there is the user of an exec that is to be made. Docker finds it out here rather than as it starts, and clients tell
    /// the one from the other. Blocking: reads files of the container.
    pub(crate) fn check_exec_user(&self, container: &Container, config: &ExecConfig) -> Result<()> {
        let record = container.record();
        let user = if config.user.is_empty() { &record.config.user } else { &config.user };
        if user.is_empty() || container.status() != Status::Running {
            return Ok(());
        }
        let pid = container.live().saved.state.pid;
        UserFiles::of_process(pid).resolve(user, &record.host.group_add).map(drop)
    }

    pub(crate) fn find_exec(&self, id: &str) -> Result<Arc<Exec>> {
        let missing = || Error::NoSuchExec(id.to_owned());
        let parsed = id.parse().map_err(|_| missing())?;
        self.execs().get(&parsed).cloned().ok_or_else(missing)
    }

    /// Whether it could be started now, and in which container.
    pub(crate) fn exec_check(&self, id: &str) -> Result<Arc<Container>> {
        let exec = self.find_exec(id)?;
        let container = self.registry().get(exec.container).ok_or_else(|| Error::NoSuchExec(id.to_owned()))?;
        let state = exec.state();
        if state.started {
            let why = if state.running { "is already running" } else { "has already run" };
            return Err(Error::Conflict(format!("exec command {id} {why}")));
        }
        drop(state);
        match container.status() {
            Status::Running => Ok(container),
            Status::Paused => {
                Err(Error::Conflict(format!("Container {} is paused, unpause the container before exec", container.id)))
            }
            _ => Err(container.not_running()),
        }
    }

    pub(crate) async fn exec_start(self: &Arc<Self>, id: &str, options: ExecStart) -> Result<Option<Attached>> {
        let container = self.exec_check(id)?;
        let exec = self.find_exec(id)?;
        {
            let mut state = exec.state();
            if state.started {
                let why = if state.running { "is already running" } else { "has already run" };
                return Err(Error::Conflict(format!("exec command {id} {why}")));
            }
            state.started = true;
            state.console = options.console_size.or(state.console);
        }
        let config = &exec.config;
        let attached = !options.detach;
        let (sink, streams) = if attached && (config.attach_stdout || config.attach_stderr || config.tty) {
            let (sink, streams) = Sink::new(config.attach_stdout || config.tty, config.attach_stderr && !config.tty)
                .map_err(|e| Error::internal("open exec streams", e))?;
            (Some(sink), Some(streams))
        } else {
            (None, None)
        };
        let (inner, launched) = (self.clone(), exec.clone());
        let launch = async move {
            let result = inner.launch_exec(&container, &launched, sink, attached).await;
            if let Err(error) = &result {
                launched.failed(error);
            }
            result
        };
        self.whole("launch an exec", launch).await?;
        if !attached {
            return Ok(None);
        }
        let input = (config.attach_stdin).then(|| Input::exec(self.clone(), exec.id));
        Ok(Some(self.attached(config.tty, streams, Vec::new(), input)))
    }

    async fn launch_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec: &Arc<Exec>,
        sink: Option<Sink>,
        attached: bool,
    ) -> Result<()> {
        let pidfd = container.pidfd()?;
        let (inner, held, planned) = (self.clone(), container.clone(), exec.clone());
        let plan = blocking(move || inner.plan_exec(&held, &planned)).await?;
        let config = &exec.config;
        let console = exec.state().console.unwrap_or(ConsoleSize { rows: 24, cols: 80 });
        let stdio = match () {
            _ if config.tty => Stdio::Tty { rows: console.rows, cols: console.cols },
            _ => Stdio::Pipes { stdin: attached && config.attach_stdin },
        };
        let target = pidfd.try_clone().map_err(|e| Error::internal("duplicate a pidfd", e))?;
        let program = config.cmd[0].clone();
        let own = container.record().config.working_dir.clone();
        let cwd = if config.working_dir.is_empty() { own } else { config.working_dir.clone() };
        let failed = |error: keeper::client::Error| exec_error(&program, &cwd, error);
        let request = StartRequest {
            id: exec.id.to_string(),
            work: Work::exec(&plan, target).map_err(failed)?,
            stdio,
            log: None,
            sinks: sink.into_iter().collect(),
            gated: false,
        };
        let command = command_words(&config.cmd);
        let extra = [("execID", exec.id.to_string())];
        self.container_event(container, format!("exec_start: {command}"), &extra);
        vocab::crash::point("engine.exec.before_start");
        let started = self.keeper.start(request).await.map_err(failed)?;
        vocab::crash::point("engine.exec.after_start");
        let early = {
            let mut state = exec.state();
            state.running = true;
            state.pid = started.pid;
            (state.early_exit.take(), state.console.filter(|size| config.tty && *size != console))
        };
        let (early, resized) = early;
        if let Some(size) = resized {
            // Asked for while it was being launched; it may have ended already.
            let _ = self.keeper.resize(&exec.id.to_string(), size.rows, size.cols);
        }
        if let Some(exited) = early {
            self.exec_exited(exec.id, exited).await;
        }
        Ok(())
    }

    /// Blocking.
    fn plan_exec(&self, container: &Container, exec: &Exec) -> Result<runtime::ExecPlan> {
        let record = container.record();
        let (pid, target) = {
            let live = container.live();
            (live.saved.state.pid, live.target.clone())
        };
        let target = match target {
            Some(target) => target,
            None => Arc::new(self.rebuild_target(container)?),
        };
        let (config, host) = (&exec.config, &record.host);
        let user_word = if config.user.is_empty() { &record.config.user } else { &config.user };
        let user = UserFiles::of_process(pid).resolve(user_word, &host.group_add)?;
        let mut own_env = record.config.env.clone();
        own_env.extend(config.env.iter().cloned());
        let env = environment(&own_env, DEFAULT_PATH, &record.config.hostname, config.tty, &user.home);
        let cwd = match (config.working_dir.as_str(), record.config.working_dir.as_str()) {
            ("", "") => "/",
            ("", own) => own,
            (asked, _) => asked,
        };
        let privileged = crate::HostConfig { privileged: host.privileged || config.privileged, ..host.clone() };
        let security = crate::spec::parse_security_opt(&host.security_opt)?;
        let broken = |e| Error::internal("build the exec's process", e);
        let process = ProcessBuilder::default()
            .terminal(config.tty)
            .user(
                UserBuilder::default()
                    .uid(user.uid)
                    .gid(user.gid)
                    .additional_gids(user.groups)
                    .build()
                    .map_err(broken)?,
            )
            .args(config.cmd.clone())
            .env(env)
            .cwd(cwd)
            .capabilities(crate::spec::capabilities(&privileged, user.uid, &self.facts)?)
            .rlimits(crate::spec::rlimits(host, &self.facts)?)
            .no_new_privileges(security.no_new_privileges && !config.privileged)
            .oom_score_adj(host.oom_score_adj)
            .build()
            .map_err(broken)?;
        runtime::plan_exec(&process, &target, &self.runtime_facts, 0)
            .map_err(|e| Error::Start { exit_code: 126, message: format!("OCI runtime exec failed: {e}") })
    }

    /// After a restart of the engine nobody remembers what was launched; it follows from the record.
    fn rebuild_target(&self, container: &Container) -> Result<runtime::ExecTarget> {
        let prepared = self.prepare_target(container)?;
        let target = Arc::new(prepared);
        container.live().target = Some(target.clone());
        Ok((*target).clone())
    }

    pub(crate) async fn exec_exited(&self, id: ExecId, exited: Exited) {
        let exec = self.execs().get(&id).cloned();
        if let Some(exec) = &exec {
            {
                let mut state = exec.state();
                if !state.running {
                    // `launch_exec` takes it up; one that failed to launch has ended already.
                    state.early_exit = Some(exited);
                    return;
                }
                state.running = false;
                state.pid = 0;
                state.exit_code = Some(exited.code());
                state.ended_at = Some(Instant::now());
            }
            exec.ended.send_replace(true);
            let container = self.registry().get(exec.container);
            if let Some(container) = container {
                container.live().execs.remove(&id);
                let extra = [("execID", id.to_string()), ("exitCode", exited.code().to_string())];
                self.container_event(&container, "exec_die", &extra);
            }
        }
        self.forget(&id.to_string()).await;
    }

    /// Waits for the end of an exec that was started, and tells its exit code. Nothing if it is forgotten before.
    pub(crate) async fn exec_end(&self, id: &str) -> Option<i32> {
        let exec = self.find_exec(id).ok()?;
        let mut ended = exec.ended.subscribe();
        ended.wait_for(|ended| *ended).await.ok()?;
        exec.state().exit_code
    }

    pub(crate) fn exec_view(&self, id: &str) -> Result<ExecView> {
        let exec = self.find_exec(id)?;
        let state = exec.state();
        Ok(ExecView {
            id: exec.id,
            container: exec.container,
            config: exec.config.clone(),
            running: state.running || (state.started && state.exit_code.is_none()),
            exit_code: state.exit_code,
            pid: state.pid,
            // Docker never says otherwise.
            can_remove: false,
            labels: BTreeMap::new(),
        })
    }

    pub(crate) fn exec_resize(&self, id: &str, size: ConsoleSize) -> Result<()> {
        let exec = self.find_exec(id)?;
        let mut state = exec.state();
        state.console = Some(size);
        // Not started, or just being launched: it gets this size then.
        if !state.started || (!state.running && state.exit_code.is_none()) {
            return Ok(());
        }
        if !state.running {
            return Err(Error::Conflict(format!("exec {id} is not running")));
        }
        if !exec.config.tty {
            return Ok(());
        }
        drop(state);
        self.keeper.resize(&exec.id.to_string(), size.rows, size.cols).map_err(|e| Error::internal("resize", e))
    }
}

/// The command as events have it: the program, a space, and its arguments, if there are any.
fn command_words(cmd: &[String]) -> String {
    match cmd {
        [program] => format!("{program} "),
        words => words.join(" "),
    }
}

fn exec_error(program: &str, cwd: &str, error: keeper::client::Error) -> Error {
    let keeper::client::Error::Launch(failure) = &error else {
        return Error::Other { what: "cannot exec".into(), kind: error.kind(), message: error.to_string() };
    };
    let (exit_code, text) = (super::start::launch_exit_code(failure), failure.to_string());
    if let (runtime::Cause::Call(error), true) = (&failure.cause, failure.step == "enter the working directory") {
        let why = match error.errno() {
            linux::Errno::NOENT => "no such file or directory",
            linux::Errno::NOTDIR => "not a directory",
            linux::Errno::ACCESS => "permission denied",
            _ => &text,
        };
        return Error::Start {
            exit_code: if error.is(linux::Errno::NOENT) { 127 } else { 126 },
            message: format!(
                "OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd ({cwd:?}) set in config.json failed: {why}"
            ),
        };
    }
    let exit_code = if exit_code == 128 { 126 } else { exit_code };
    let message = launch_message(program, exit_code, &text);
    let tail = message.split("error during container init").nth(1).unwrap_or(&message);
    Error::Start {
        exit_code,
        message: format!("OCI runtime exec failed: exec failed: unable to start container process{tail}"),
    }
}
