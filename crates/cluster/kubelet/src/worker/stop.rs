//! Ending containers and pods, within their grace.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, PODS};
use resources::{Value, meta};

use super::{REFRESH, Worker};
use crate::actions::{self, End};
use crate::hooks;
use crate::manage::Doors;
use crate::pod::{self, Role};
use crate::runtime::{ContainerSeen, Runtime, RuntimeError, State};

impl<R: Runtime> Worker<R> {
    pub(super) async fn stop_sick(&self, pod: &Value, id: &str, name: &str, why: &str) -> Result<(), RuntimeError> {
        let found = pod::containers(pod).find(|(_, container)| pod::name(container) == name);
        self.doors.container_event(pod, name, false, "Killing", &format!("Container {name} {why}, will be restarted"));
        let own = found.and_then(|(_, container)| {
            ["livenessProbe", "startupProbe"]
                .iter()
                .find_map(|p| container[*p]["terminationGracePeriodSeconds"].as_u64())
        });
        let grace = own.map_or_else(|| pod::grace(pod), Duration::from_secs);
        if let Some((_, container)) = found {
            stop_one(&self.doors, pod, container, id, grace).await?;
        }
        Ok(())
    }

    /// Ends everything. `Ok(None)`: the API knows, and this worker has nothing more to do.
    pub(super) async fn end(&mut self, pod: &Arc<Value>, end: Option<End>) -> Result<Option<Duration>, RuntimeError> {
        self.probes.end();
        let running = |seen: &ContainerSeen| matches!(seen.state, State::Running { .. });
        let seen = self.seen().await?;
        if seen.iter().any(running) {
            self.tell(pod, &seen, None).await;
            let within = end.as_ref().and_then(|end| end.within);
            let grace = within.map_or_else(|| pod::grace(pod), |within| pod::grace(pod).min(within));
            let began = tokio::time::Instant::now();
            let (doors, ending) = (self.doors.clone(), pod.clone());
            let stopping = async move {
                // Hooks and signals come when new connections go elsewhere.
                if meta::is_terminating(&ending) && !grace.is_zero() {
                    doors.leave(&ending).await;
                }
                stop_all(doors, ending, seen, grace).await
            };
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    stopped = &mut stopping => { stopped?; break }
                    changed = self.pod.changed() => {
                        // Somebody has less patience now, or the pod is gone altogether.
                        let left = self.pod.borrow_and_update().as_ref().map_or(Duration::ZERO, |pod| pod::grace(pod)).min(grace);
                        if left < grace || changed.is_err() {
                            tokio::select! {
                                stopped = &mut stopping => stopped?,
                                () = tokio::time::sleep_until(began + left) => {}
                            }
                            break;
                        }
                    }
                }
            }
            for container in self.seen().await?.iter().filter(|seen| running(seen)) {
                self.doors.runtime.kill(&container.id).await?;
            }
        }
        let seen = self.seen().await?;
        self.tell(pod, &seen, end.as_ref()).await;
        let Some(latest) = self.latest() else {
            self.clear_away(true).await;
            return Ok(None);
        };
        if !meta::is_terminating(&latest) {
            return Ok(Some(REFRESH));
        }
        self.clear_away(false).await;
        if !meta::finalizers(&latest).is_empty() {
            // Somebody else has to let go first; nothing is left here.
            let options = DeleteOptions { grace_secs: Some(0), propagation: String::new(), uid: self.uid.clone() };
            let _ = self.doors.api.delete(&PODS, meta::namespace(&latest), meta::name(&latest), &options).await;
            return Ok(Some(REFRESH));
        }
        let options = DeleteOptions { grace_secs: Some(0), propagation: String::new(), uid: self.uid.clone() };
        match self.doors.api.delete(&PODS, meta::namespace(&latest), meta::name(&latest), &options).await {
            Ok(_) => Ok(None),
            Err(status) if matches!(status.code, 404 | 409) => Ok(None),
            Err(status) => Err(RuntimeError::Failed(status.message)),
        }
    }

    /// Removes containers, sandbox and files of the pod.
    pub(super) async fn clear_away(&mut self, kill: bool) {
        self.probes.end();
        let runtime = &self.doors.runtime;
        let attempt = async {
            for container in self.seen().await? {
                if kill && matches!(container.state, State::Running { .. }) {
                    runtime.kill(&container.id).await?;
                }
                runtime.remove(&container.id).await?;
            }
            runtime.remove_sandbox(&self.uid).await
        };
        if let Err(error) = attempt.await {
            tracing::warn!(pod = self.uid, %error, "cannot clear the pod away");
        }
        self.doors.config.logs.forget_pod(&self.uid);
        self.doors.devices.keep(|uid| uid != self.uid);
        let directory = self.doors.pod_directory(&self.uid);
        if let Err(error) = fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %directory.display(), %error, "cannot remove the pod's files");
        }
        self.volumes.clear();
        self.group = None;
        self.doors.forget_order(&self.uid);
        self.doors.objects.keep(&self.uid, &std::collections::BTreeSet::new());
    }
}

/// Main containers together, then sidecars in the reverse of their order, all within the grace.
async fn stop_all<R: Runtime>(
    doors: Arc<Doors<R>>,
    pod: Arc<Value>,
    seen: Vec<ContainerSeen>,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let began = tokio::time::Instant::now();
    let running = |name: &str| {
        actions::current(&seen, name)
            .filter(|seen| matches!(seen.state, State::Running { .. }))
            .map(|seen| seen.id.clone())
    };
    let mut first = tokio::task::JoinSet::new();
    for (role, container) in pod::containers(&pod) {
        if role == Role::Sidecar {
            continue;
        }
        let Some(id) = running(pod::name(container)) else { continue };
        let name = pod::name(container);
        doors.container_event(&pod, name, false, "Killing", &format!("Stopping container {name}"));
        let (doors, pod, container) = (doors.clone(), pod.clone(), container.clone());
        first.spawn(async move { stop_one(&doors, &pod, &container, &id, grace).await });
    }
    while let Some(stopped) = first.join_next().await {
        stopped.unwrap_or_else(|error| Err(RuntimeError::Failed(error.to_string())))?;
    }
    let sidecars: Vec<&Value> =
        pod::containers(&pod).filter(|(role, _)| *role == Role::Sidecar).map(|(_, container)| container).collect();
    for container in sidecars.into_iter().rev() {
        let Some(id) = running(pod::name(container)) else { continue };
        let name = pod::name(container);
        doors.container_event(&pod, name, false, "Killing", &format!("Stopping container {name}"));
        let left = grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2).min(grace));
        stop_one(&doors, &pod, container, &id, left).await?;
    }
    Ok(())
}

/// The hook, then the signal, then the end, all within the grace.
async fn stop_one<R: Runtime>(
    doors: &Arc<Doors<R>>,
    pod: &Value,
    container: &Value,
    id: &str,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let began = tokio::time::Instant::now();
    let name = pod::name(container);
    let hook = &container["lifecycle"]["preStop"];
    if hook.is_object() && !grace.is_zero() {
        match tokio::time::timeout(grace, hooks::run(doors, pod, hook, id)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                doors.container_event(pod, name, true, "FailedPreStopHook", &format!("PreStopHook failed: {error}"));
            }
            Err(_) => doors.container_event(pod, name, true, "FailedPreStopHook", "PreStopHook did not end in time"),
        }
    }
    // A hook that took all of the time leaves the workload two seconds.
    let left = grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2).min(grace));
    doors.runtime.stop(id, left).await
}
