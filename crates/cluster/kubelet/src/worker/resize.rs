//! Giving running containers the resources that their pod's spec has now.

use std::sync::{Arc, PoisonError};

use resources::{Value, meta};

use super::Worker;
use crate::pod;
use crate::resize::{self, Change};
use crate::runtime::{ContainerSeen, Runtime, RuntimeError, State};

impl<R: Runtime> Worker<R> {
    pub(super) async fn resize(&mut self, pod: &Arc<Value>, seen: &[ContainerSeen]) -> Result<(), RuntimeError> {
        self.limits.retain(|id, _| seen.iter().any(|seen| seen.id == *id));
        let mut changes = Vec::new();
        for seen in seen.iter().filter(|seen| matches!(seen.state, State::Running { .. })) {
            let found = pod::containers(pod).find(|(_, container)| pod::name(container) == seen.name);
            let Some((_, container)) = found else { continue };
            let have = match self.limits.get(&seen.id) {
                Some(have) => *have,
                None => {
                    let have = self.doors.runtime.limits(&seen.id).await?;
                    self.limits.insert(seen.id.clone(), have);
                    have
                }
            };
            match resize::change(container, &have) {
                Change::Nothing => {
                    self.memory.allocated.insert(seen.name.clone(), container["resources"].clone());
                }
                change => changes.push((seen.clone(), container.clone(), change)),
            }
        }
        self.memory.resize = None;
        if changes.is_empty() {
            return Ok(());
        }
        let pending = {
            let view = self.doors.view.read().unwrap_or_else(PoisonError::into_inner);
            let others: Vec<&Value> = view.pods_on(&self.doors.node.name).map(|pod| &**pod).collect();
            resize::pending(pod, &others, &self.doors.allocatable)
        };
        if let Some((reason, message)) = pending {
            self.doors.event(
                pod,
                true,
                if reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" },
                &message,
            );
            self.memory.resize = Some(("PodResizePending", reason, message));
            return Ok(());
        }
        let group = crate::qos::group(pod);
        self.doors.runtime.group(&group).await?;
        self.group = Some(group);
        for (seen, container, change) in changes {
            match change {
                Change::Nothing => {}
                Change::Restart => self.stop_sick(pod, &seen.id, &seen.name, "resize requires restart").await?,
                Change::InPlace(limits) => match self.doors.runtime.limit(&seen.id, &limits).await {
                    Ok(()) => {
                        self.limits.insert(seen.id.clone(), limits);
                        self.memory.allocated.insert(seen.name.clone(), container["resources"].clone());
                        let text = format!("Pod resize completed: container {}", pod::name(&container));
                        self.doors.container_event(pod, &seen.name, false, "ResizeCompleted", &text);
                    }
                    Err(error) => {
                        let text = format!("container {}: {error}", pod::name(&container));
                        self.doors.event(pod, true, "ResizeError", &text);
                        tracing::debug!(pod = meta::name(pod), text, "a resize failed; will try again");
                        self.memory.resize = Some(("PodResizeInProgress", "Error", text));
                    }
                },
            }
        }
        Ok(())
    }
}
