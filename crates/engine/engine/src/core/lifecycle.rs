//! Start, stop, kill, restart, pause: what a caller does to a container's processes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::inner::blocking;
use super::{Container, Inner};
use crate::decide::signal::parse_signal;
use crate::{Error, Result, Status, WaitCondition};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// How long the kernel may take to end a killed process before we say so.
const KILL_WAIT: Duration = Duration::from_secs(10);
const DEFAULT_STOP_SECS: i64 = 10;

impl Inner {
    pub(crate) async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _alone = container.operation.lock().await;
        {
            let mut live = container.live();
            if live.removed || live.saved.removing {
                return Err(Error::Conflict("container is marked for removal and cannot be started".into()));
            }
            match live.saved.state.status {
                Status::Running => {
                    return Err(Error::NotModified(format!("container {} is already running", container.id)));
                }
                Status::Paused => {
                    return Err(Error::Conflict("cannot start a paused container, try unpause instead".into()));
                }
                _ => {}
            }
            if let Some(timer) = live.restart_timer.take() {
                timer.abort();
            }
            // A user's start wipes the slate.
            live.saved.restarts = 0;
            live.backoff = Duration::ZERO;
        }
        self.launch(container).await
    }

    /// Launches it; the caller holds the operation lock. A failure is the container's new state as well.
    pub(crate) async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        vocab::crash::point("engine.start.before");
        let (inner, held) = (self.clone(), container.clone());
        let prepared = blocking(move || inner.prepare_start(&held)).await;
        let started = match prepared {
            Ok(prepared) => self.ask_keeper(container, prepared).await,
            Err(error) => Err(error),
        };
        vocab::crash::point("engine.start.after_keeper");
        match started {
            Ok(()) => {
                self.begin_health(container);
                self.ship_logs(container);
                self.container_event(container, "start", &[]);
                let policy = container.record().host.restart_policy.mode;
                if policy == crate::RestartMode::No {
                    self.save_state_soon(container.id);
                } else {
                    // Whether it was running decides what a start after a power cut does.
                    let (inner, held) = (self.clone(), container.clone());
                    blocking(move || inner.save_state(&held)).await?;
                }
                vocab::crash::point("engine.start.after_commit");
                // It may have ended before we knew that it ran.
                let early = container.live().early_exit.take();
                if let Some(exited) = early {
                    self.container_exited(container.clone(), exited).await;
                }
                Ok(())
            }
            Err(error) => {
                let (inner, held) = (self.clone(), container.clone());
                blocking(move || {
                    inner.clean_group(&held);
                    inner.release_volumes(&held);
                    inner.release_images(&held);
                    inner.drop_view(held.id);
                    inner.release_networks(&held);
                })
                .await;
                self.start_failed(container, &error);
                Err(error)
            }
        }
    }

    async fn ask_keeper(self: &Arc<Self>, container: &Arc<Container>, prepared: super::start::Prepared) -> Result<()> {
        let super::start::Prepared { plan, request, warnings, sandbox } = prepared;
        for warning in warnings.iter().chain(&plan.warnings) {
            tracing::warn!(container = %container.id, "{warning}");
        }
        let stale = {
            let mut live = container.live();
            live.starting = true;
            live.early_exit = None;
            std::mem::take(&mut live.unforgotten)
        };
        if stale {
            self.forget(&container.id.to_string()).await;
        }
        let target = Arc::new(plan.exec_target());
        let mut request = request;
        request.sinks = std::mem::take(&mut container.live().pending_sinks);
        let started = match self.keeper.start(request).await {
            Ok(started) => started,
            Err(error) => {
                container.live().starting = false;
                return Err(super::start::launch_error(&container.record(), error));
            }
        };
        drop(sandbox);
        self.keep_resolver(container.id).await;
        for warning in &started.warnings {
            tracing::warn!(container = %container.id, "{warning}");
        }
        let mut live = container.live();
        live.starting = false;
        live.awaits_exit = true;
        live.stop_asked = false;
        live.pidfd = Some(Arc::new(started.pidfd));
        live.root = started.root;
        live.target = Some(target);
        live.saved.stopped_by_user = false;
        live.saved.pid_start = started.start_time;
        live.saved.boot_id.clone_from(&self.boot_id);
        let state = &mut live.saved.state;
        state.status = Status::Running;
        state.pid = started.pid;
        state.exit_code = 0;
        state.error.clear();
        state.oom_killed = false;
        state.started_at = Some(Timestamp::now());
        drop(live);
        container.tell_stage();
        Ok(())
    }

    fn start_failed(self: &Arc<Self>, container: &Arc<Container>, error: &Error) {
        let exit_code = match error {
            Error::Start { exit_code, .. } => *exit_code,
            _ => 128,
        };
        {
            let mut live = container.live();
            live.starting = false;
            live.pending_sinks.clear();
            let state = &mut live.saved.state;
            if state.status.is_running() {
                // A restart by policy failed.
                state.status = Status::Exited;
                state.finished_at = Some(Timestamp::now());
            }
            state.pid = 0;
            state.exit_code = exit_code;
            state.error = error.to_string();
            live.tell_waiters(super::container::Told::Exited, &crate::WaitOutcome { exit_code, error: None });
        }
        container.tell_stage();
        self.save_state_soon(container.id);
        if container.record().host.auto_remove {
            self.remove_soon(container.clone());
        }
    }

    pub(crate) async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout_secs: Option<i64>,
    ) -> Result<()> {
        let _alone = container.operation.lock().await;
        if !container.status().is_running() {
            return Err(Error::NotModified(format!("container {} is already stopped", container.id)));
        }
        self.stop_processes(container, signal, timeout_secs).await?;
        self.container_event(container, "stop", &[]);
        Ok(())
    }

    /// The caller holds the operation lock.
    async fn stop_processes(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout_secs: Option<i64>,
    ) -> Result<()> {
        let record = container.record();
        let number = match signal.filter(|s| !s.is_empty()).or(record.config.stop_signal.as_deref()) {
            Some(name) => parse_signal(name)?,
            None => SIGTERM,
        };
        let secs = timeout_secs.or(record.config.stop_timeout_secs).unwrap_or(DEFAULT_STOP_SECS);
        if self.cancel_restart(container) {
            return Ok(());
        }
        let exit = container.wait(WaitCondition::NextExit);
        tokio::pin!(exit);
        self.ask_to_stop(container);
        vocab::crash::point("engine.stop.before_signal");
        match self.signal(container, number).await {
            Ok(()) => {}
            // It has ended on its own; its exit is on the way.
            Err(_) if self.ended(container) => {}
            Err(error) => return Err(error),
        }
        vocab::crash::point("engine.stop.after_signal");
        let patience = async {
            match u64::try_from(secs) {
                Ok(secs) => tokio::time::sleep(Duration::from_secs(secs)).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = &mut exit => return Ok(()),
            () = patience => {}
        }
        let _ = self.signal(container, SIGKILL).await;
        match tokio::time::timeout(KILL_WAIT, exit).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::internal(
                format_args!("cannot stop container {}", container.id),
                "it did not end within 10 seconds after SIGKILL",
            )),
        }
    }

    /// Whether process 1 has ended, told or not.
    fn ended(&self, container: &Container) -> bool {
        let pidfd = container.live().pidfd.clone();
        pidfd.is_none_or(|fd| linux::pidfd::has_ended(&*fd).unwrap_or(true))
    }

    fn ask_to_stop(&self, container: &Container) {
        let mut live = container.live();
        live.stop_asked = true;
        live.saved.stopped_by_user = true;
    }

    /// Ends a wait for the restart policy's back-off. True if there was one: then nothing runs.
    fn cancel_restart(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        {
            let mut live = container.live();
            if live.saved.state.status != Status::Restarting {
                return false;
            }
            if let Some(timer) = live.restart_timer.take() {
                timer.abort();
            }
            live.saved.stopped_by_user = true;
            live.saved.state.status = Status::Exited;
        }
        container.tell_stage();
        self.save_state_soon(container.id);
        true
    }

    /// Sends a signal to process 1 and thaws a frozen container that is to end.
    async fn signal(self: &Arc<Self>, container: &Arc<Container>, number: i32) -> Result<()> {
        let pidfd = container.pidfd()?;
        linux::pidfd::send_signal(&*pidfd, number).map_err(|e| match e {
            e if e.is(linux::Errno::SRCH) => container.not_running(),
            e => e.into(),
        })?;
        self.container_event(container, "kill", &[("signal", number.to_string())]);
        let frozen = container.status() == Status::Paused && container.live().stop_asked;
        if frozen {
            self.thaw(container).await?;
        }
        Ok(())
    }

    pub(crate) async fn kill(
        self: &Arc<Self>,
        container: &Arc<Container>,
        reference: &str,
        signal: &str,
    ) -> Result<()> {
        let number = if signal.is_empty() { SIGKILL } else { parse_signal(signal)? };
        let refused = |container: &Container| {
            Error::Conflict(format!("cannot kill container: {reference}: {}", container.not_running()))
        };
        if !container.status().is_running() {
            return Err(refused(container));
        }
        if self.cancel_restart(container) {
            return Ok(());
        }
        let exit = container.wait(WaitCondition::NextExit);
        let stop_signal = container.record().config.stop_signal.as_deref().map_or(Ok(SIGTERM), parse_signal)?;
        if number == SIGKILL || number == stop_signal {
            self.ask_to_stop(container);
        }
        match self.signal(container, number).await {
            Err(_) if self.ended(container) && number != SIGKILL => return Err(refused(container)),
            Err(_) if self.ended(container) => {}
            other => other?,
        }
        if number == SIGKILL && tokio::time::timeout(KILL_WAIT, exit).await.is_err() {
            return Err(Error::internal(
                format_args!("cannot kill container {}", container.id),
                "it did not end within 10 seconds after SIGKILL",
            ));
        }
        Ok(())
    }

    pub(crate) async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout_secs: Option<i64>,
    ) -> Result<()> {
        let _alone = container.operation.lock().await;
        if container.live().removed {
            return Err(Error::NoSuchContainer(container.id.to_string()));
        }
        if container.status().is_running() {
            // Its end must not remove it.
            container.live().keep = true;
            let stopped = self.stop_processes(container, signal, timeout_secs).await;
            container.live().keep = false;
            stopped?;
            self.container_event(container, "stop", &[]);
        }
        {
            let mut live = container.live();
            live.saved.restarts = 0;
            live.backoff = Duration::ZERO;
        }
        self.launch(container).await?;
        self.container_event(container, "restart", &[]);
        Ok(())
    }

    pub(crate) async fn pause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _alone = container.operation.lock().await;
        match container.status() {
            Status::Running => {}
            Status::Paused => return Err(Error::Conflict(format!("Container {} is already paused", container.id))),
            Status::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => return Err(container.not_running()),
        }
        self.freeze(container).await?;
        self.set_paused(container, true);
        // Durably: an engine that finds a frozen container without this takes it for a commit cut short.
        let (inner, held) = (self.clone(), container.clone());
        blocking(move || inner.save_state(&held)).await?;
        self.container_event(container, "pause", &[]);
        Ok(())
    }

    pub(crate) async fn unpause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _alone = container.operation.lock().await;
        if container.status() != Status::Paused {
            return Err(Error::Conflict(format!("Container {} is not paused", container.id)));
        }
        self.thaw(container).await
    }

    pub(crate) async fn freeze(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let (inner, held) = (self.clone(), container.clone());
        blocking(move || {
            let group = inner.group(&held)?;
            group
                .freeze(Duration::from_secs(10))
                .map_err(|e| Error::internal(format_args!("cannot pause container {}", held.id), e))
        })
        .await
    }

    async fn thaw(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        self.thaw_group(container).await?;
        self.set_paused(container, false);
        self.container_event(container, "unpause", &[]);
        Ok(())
    }

    pub(crate) async fn thaw_group(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let (inner, held) = (self.clone(), container.clone());
        blocking(move || {
            let group = inner.group(&held)?;
            group.thaw().map_err(|e| Error::internal(format_args!("cannot unpause container {}", held.id), e))
        })
        .await
    }

    fn set_paused(&self, container: &Container, paused: bool) {
        let mut live = container.live();
        let state = &mut live.saved.state;
        match (paused, state.status) {
            (true, Status::Running) => state.status = Status::Paused,
            (false, Status::Paused) => state.status = Status::Running,
            // It ended meanwhile.
            _ => return,
        }
        drop(live);
        self.save_state_soon(container.id);
    }

    /// The container's cgroup in all hierarchies.
    pub(crate) fn group(&self, container: &Container) -> Result<linux::cgroup::Group> {
        let path = self.cgroup_path(container.id, &container.record().host);
        self.cgroups
            .find(&path)
            .map_err(|e| Error::internal(format_args!("find the cgroup of container {}", container.id), e))
    }
}
