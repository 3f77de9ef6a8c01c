//! What happens when a process of ours ends: state, waiters, restart policy, auto-remove.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keeper::client::Held;
use keeper::{Exited, Phase};

use super::container::Told;
use super::inner::blocking;
use super::{Container, Inner};
use crate::decide::restart::{Ended, decide_restart};
use crate::{ContainerId, Status, WaitOutcome};

/// How long the engine's end waits for processes that were killed to be reaped, and how often it looks.
const STRAYS_WAIT: Duration = Duration::from_secs(1);
const STRAYS_STEP: Duration = Duration::from_millis(5);

impl Inner {
    /// News from the keeper.
    pub(crate) async fn exited(self: Arc<Self>, id: String, exited: Exited) {
        let Ok(id) = id.parse() else { return };
        if self.steps.ended(id, exited) {
            return;
        }
        let container = self.registry().get(id);
        match container {
            Some(container) => self.container_exited(container, exited).await,
            // An exec's, or that of something without a record that was ended at the start.
            None => self.exec_exited(id, exited).await,
        }
    }

    pub(crate) async fn container_exited(self: &Arc<Self>, container: Arc<Container>, exited: Exited) {
        {
            let mut live = container.live();
            if live.starting {
                // `launch` takes it up once it has said that the container ran.
                live.early_exit = Some(exited);
                return;
            }
            if !std::mem::take(&mut live.awaits_exit) {
                // Told twice: a keeper that took over repeats what it is not sure of.
                return;
            }
        }
        vocab::crash::point("engine.exit.before_cleanup");
        let oom_killed = {
            let (inner, held) = (self.clone(), container.clone());
            blocking(move || {
                let oom_killed = inner.clean_group(&held);
                inner.release_volumes(&held);
                inner.release_images(&held);
                inner.drop_view(held.id);
                inner.release_networks(&held);
                oom_killed
            })
            .await
        };
        let record = container.record();
        let at = Timestamp::new(exited.at.0, exited.at.1 as i32).unwrap_or_else(|_| Timestamp::now());
        let code = exited.code();
        let (restart_in, outcome, ran) = {
            let mut live = container.live();
            live.pidfd = None;
            if let Some(root) = live.root.take() {
                container.keep_root(root);
                // Nobody listens any more: the engine is ending, and the kernel lets go of everything.
                let _ = self.ended_roots.send(container.clone());
            }
            live.target = None;
            live.unforgotten = true;
            live.execs.clear();
            let ran =
                live.saved.state.started_at.map_or(Duration::ZERO, |started| {
                    Duration::try_from(at.duration_since(started)).unwrap_or_default()
                });
            let restart_in = decide_restart(Ended {
                policy: record.host.restart_policy,
                exit_code: code,
                restarts: live.saved.restarts,
                manually: live.stop_asked,
                ran,
                backoff: live.backoff,
            });
            let state = &mut live.saved.state;
            state.status = if restart_in.is_some() { Status::Restarting } else { Status::Exited };
            state.pid = 0;
            state.exit_code = code;
            if exited.exit.is_none() {
                state.error = super::open::LOST_WITH_KERNEL.to_owned();
            }
            state.finished_at = Some(at);
            state.oom_killed = oom_killed;
            if let Some(wait) = restart_in {
                live.backoff = wait;
            }
            (restart_in, WaitOutcome { exit_code: code, error: None }, ran)
        };
        self.save_state_soon(container.id);
        if oom_killed {
            self.container_event(&container, "oom", &[]);
        }
        let extra = [("exitCode", code.to_string()), ("execDuration", ran.as_secs().to_string())];
        self.container_event(&container, "die", &extra);
        if let Some(wait) = restart_in {
            self.restart_after(&container, wait);
        }
        container.live().tell_waiters(Told::Exited, &outcome);
        container.tell_stage();
        let keep = container.live().keep;
        if restart_in.is_none() && record.host.auto_remove && !keep {
            self.remove_soon(container);
        }
    }

    /// Ends what is left in the cgroup and removes it. Returns whether the kernel killed for want of memory.
    pub(crate) fn clean_group(&self, container: &Container) -> bool {
        let path = self.cgroup_path(container.id, &container.record().host);
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
            tracing::warn!(container = %container.id, %error, "the cgroup stays behind");
        }
        oom_killed
    }

    /// Arms the restart policy's timer.
    pub(crate) fn restart_after(self: &Arc<Self>, container: &Arc<Container>, wait: Duration) {
        if !self.config.restarts {
            return;
        }
        let (inner, held) = (self.clone(), container.clone());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // From here on it is a start like any other: whoever cancels now waits for the lock.
            tokio::spawn(async move { inner.restart_by_policy(held).await });
        });
        container.live().restart_timer = Some(timer.abort_handle());
    }

    async fn restart_by_policy(self: Arc<Self>, container: Arc<Container>) {
        let _alone = container.operation.lock().await;
        {
            let mut live = container.live();
            if live.saved.state.status != Status::Restarting || live.removed {
                return;
            }
            live.restart_timer = None;
            live.saved.restarts += 1;
        }
        if let Err(error) = self.launch(&container).await {
            tracing::warn!(container = %container.id, %error, "restart by policy failed");
        }
    }

    /// The engine ends: what belongs to nothing that stays is forgotten first. If no engine comes again, nobody else would
    /// tell the keeper, and it would stay for it.
    pub(crate) async fn forget_strays(&self) {
        for _ in 0..STRAYS_WAIT.as_millis() / STRAYS_STEP.as_millis() {
            let strays = self.strays();
            for id in strays.iter().filter(|(_, ended)| *ended).map(|(id, _)| id) {
                self.forget(id).await;
            }
            if strays.iter().all(|(_, ended)| *ended) {
                return;
            }
            // Processes that were killed with their container a moment ago.
            tokio::time::sleep(STRAYS_STEP).await;
        }
    }

    /// What the keeper holds beside containers and the execs in them, and whether it has ended.
    fn strays(&self) -> Vec<(String, bool)> {
        let container = |id: ContainerId| self.registry().get(id);
        let runs_on = |id: ContainerId| container(id).is_some_and(|container| container.status().is_running());
        let stays = |held: &Held| {
            let Ok(id) = held.id.parse::<ContainerId>() else { return false };
            let running = !matches!(held.phase, Phase::Ended(_));
            let exec = self.execs().get(&id).map(|exec| exec.container);
            container(id).is_some() || (running && exec.is_none_or(runs_on))
        };
        let strays = self.keeper.all_held().into_iter().filter(|held| !stays(held));
        strays.map(|held| (held.id, matches!(held.phase, Phase::Ended(_)))).collect()
    }

    /// Lets the keeper forget what has ended.
    pub(crate) async fn forget(&self, id: &str) {
        match self.keeper.forget(id).await {
            Ok(()) | Err(keeper::client::Error::NotHeld(_)) => {}
            Err(error) => tracing::warn!(id, %error, "the keeper could not forget"),
        }
    }
}
