//! Health checks: one task a running container that has a check, from its start (or its adoption) to its end.
//!
//! A probe is an exec like any other; what its result means is `decide::health`'s business.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;

use super::container::Stage;
use super::{Container, Inner};
use crate::decide::health::{Check, OUTPUT_MAX, OnFailure, output_text};
use crate::{ExecConfig, ExecStart, Health, HealthProbe, HealthStatus, Result, Status};

/// How long a probe that was killed may take to end before nobody waits for it any more.
const END_WAIT: Duration = Duration::from_secs(10);

impl Inner {
    /// A container has just been started: its health begins anew.
    pub(crate) fn begin_health(self: &Arc<Self>, container: &Arc<Container>) {
        let check = Check::of(&container.record().config);
        {
            let mut live = container.live();
            live.saved.state.health =
                check.as_ref().map(|_| Health { status: HealthStatus::Starting, ..Default::default() });
        }
        self.watch_health(container, check);
    }

    /// It has been running all along: its health goes on from what was saved.
    pub(crate) fn adopt_health(self: &Arc<Self>, container: &Arc<Container>) {
        let check = Check::of(&container.record().config);
        if check.is_some() {
            let mut live = container.live();
            live.saved.state.health.get_or_insert(Health { status: HealthStatus::Starting, ..Default::default() });
        }
        self.watch_health(container, check);
    }

    fn watch_health(self: &Arc<Self>, container: &Arc<Container>, check: Option<Check>) {
        let Some(check) = check else { return };
        let started = container.state().started_at;
        tokio::spawn(watch(Arc::downgrade(self), container.clone(), check, started));
    }

    /// One probe: runs the check's command in the container, for no longer than its timeout.
    async fn probe(self: &Arc<Self>, container: &Arc<Container>, check: &Check) -> HealthProbe {
        let started_at = Timestamp::now();
        let (exit_code, output) = match self.run_probe(container, check).await {
            Ok(result) => result,
            Err(error) => (-1, error.to_string()),
        };
        HealthProbe { started_at, finished_at: Timestamp::now(), exit_code, output }
    }

    async fn run_probe(self: &Arc<Self>, container: &Arc<Container>, check: &Check) -> Result<(i32, String)> {
        let config =
            ExecConfig { cmd: check.command.clone(), attach_stdout: true, attach_stderr: true, ..Default::default() };
        let id = self.exec_create(container, config)?;
        let name = id.to_string();
        let mut attached = match self.exec_start(&name, ExecStart::default()).await {
            Ok(Some(attached)) => attached,
            Ok(None) => return Ok((-1, String::new())),
            // The command cannot be run: that is the probe's result.
            Err(crate::Error::Start { exit_code, message }) => return Ok((exit_code, message)),
            Err(error) => return Err(error),
        };
        let mut said = Vec::new();
        let mut truncated = false;
        let whole = async {
            while let Some(Ok(chunk)) = attached.output.next().await {
                let room = OUTPUT_MAX - said.len();
                truncated |= chunk.bytes.len() > room;
                said.extend_from_slice(&chunk.bytes[..chunk.bytes.len().min(room)]);
            }
            self.exec_end(&name).await
        };
        match tokio::time::timeout(check.timeout, whole).await {
            Ok(code) => Ok((code.unwrap_or(-1), output_text(&said, truncated))),
            Err(_) => {
                if let Ok(pidfd) = self.keeper.pidfd(&name) {
                    // Gone meanwhile is fine.
                    let _ = linux::pidfd::send_signal(&pidfd, 9);
                }
                let _ = tokio::time::timeout(END_WAIT, self.exec_end(&name)).await;
                let mut text =
                    format!("Health check exceeded timeout ({})", crate::decide::text::go_duration(check.timeout));
                if !said.is_empty() {
                    text = format!("{text}: {}", output_text(&said, truncated));
                }
                Ok((-1, text))
            }
        }
    }

    async fn became(self: &Arc<Self>, container: &Arc<Container>, status: HealthStatus, check: &Check) {
        self.save_state_soon(container.id);
        self.container_event(container, format!("health_status: {}", status.as_str()), &[]);
        if status != HealthStatus::Unhealthy || check.on_failure == OnFailure::Nothing {
            return;
        }
        let (inner, held, action) = (self.clone(), container.clone(), check.on_failure);
        // A task of its own: the container's end ends the watching one.
        tokio::spawn(async move {
            tracing::info!(container = %held.id, ?action, "unhealthy");
            let done = match action {
                OnFailure::Nothing => Ok(()),
                OnFailure::Kill => inner.kill(&held, &held.id.to_string(), "KILL").await,
                OnFailure::Restart => inner.restart(&held, None, None).await,
                OnFailure::Stop => inner.stop(&held, None, None).await,
            };
            match done {
                Ok(()) | Err(crate::Error::NotModified(_) | crate::Error::Conflict(_)) => {}
                Err(error) => tracing::warn!(container = %held.id, %error, "unhealthy, and nothing can be done"),
            }
        });
    }
}

/// Probes until the container ends or is started anew. Holds the engine only while it probes.
async fn watch(inner: Weak<Inner>, container: Arc<Container>, check: Check, started: Option<Timestamp>) {
    let mut stages = container.stages();
    let since_start = |at: Timestamp| {
        started.map_or(Duration::ZERO, |started| Duration::try_from(at.duration_since(started)).unwrap_or_default())
    };
    loop {
        let status = container.state().health.map_or(HealthStatus::Starting, |health| health.status);
        let pause = tokio::time::sleep(check.wait(status, since_start(Timestamp::now())));
        tokio::pin!(pause);
        loop {
            let state = container.state();
            if state.started_at != started || !matches!(*stages.borrow_and_update(), Stage::Running) {
                return;
            }
            tokio::select! {
                () = &mut pause => break,
                changed = stages.changed() => if changed.is_err() { return },
            }
        }
        let Some(inner) = inner.upgrade() else { return };
        if container.status() != Status::Running {
            // Frozen: nothing can answer, and that is nobody's fault.
            continue;
        }
        // A task of its own: a start under way at the keeper is carried to its end, whatever becomes of the container.
        let (held, asked) = (container.clone(), check.clone());
        let probing = tokio::spawn(async move { (inner.probe(&held, &asked).await, inner) });
        let (probe, inner) = tokio::select! {
            told = probing => match told {
                Ok(told) => told,
                Err(_) => return,
            },
            () = ended(&container, started) => return,
        };
        let changed = {
            let mut live = container.live();
            let state = &mut live.saved.state;
            if state.started_at != started || state.status != Status::Running {
                // It ended, or was frozen, while it was asked.
                continue;
            }
            let after = since_start(probe.started_at);
            check.judge(state.health.get_or_insert_default(), probe, after)
        };
        if let Some(status) = changed {
            inner.became(&container, status, &check).await;
        }
    }
}

/// Resolves when this life of the container is over.
async fn ended(container: &Container, started: Option<Timestamp>) {
    let mut stages = container.stages();
    loop {
        let state = container.state();
        let running = matches!(*stages.borrow_and_update(), Stage::Running);
        if !running || state.started_at != started || stages.changed().await.is_err() {
            return;
        }
    }
}
