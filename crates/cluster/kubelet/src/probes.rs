//! One task a running container that has probes: startup first, then readiness and liveness side by side.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use resources::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::actions::Health;
use crate::hooks;
use crate::manage::Doors;
use crate::pod;
use crate::runtime::{ContainerSeen, Runtime, State};

type Healths = Arc<Mutex<BTreeMap<String, Health>>>;

/// The probes of one pod.
#[derive(Default)]
pub struct Probes {
    running: BTreeMap<String, JoinHandle<()>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.end();
    }
}

impl Probes {
    /// Starts the probes of containers that run and ends those of containers that do not.
    pub fn follow<R: Runtime>(
        &mut self,
        doors: &Arc<Doors<R>>,
        pod: &Arc<Value>,
        seen: &[ContainerSeen],
        healths: &Healths,
        nudge: &Arc<Notify>,
    ) {
        let alive = |id: &String| seen.iter().any(|seen| seen.id == *id && matches!(seen.state, State::Running { .. }));
        self.running.retain(|id, task| {
            let keep = alive(id);
            if !keep {
                task.abort();
                healths.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
            }
            keep
        });
        for seen in seen.iter().filter(|seen| alive(&seen.id)) {
            if self.running.contains_key(&seen.id) {
                continue;
            }
            let Some((_, container)) = pod::containers(pod).find(|(_, container)| pod::name(container) == seen.name)
            else {
                continue;
            };
            let has = |probe: &str| container[probe].is_object();
            if !(has("startupProbe") || has("readinessProbe") || has("livenessProbe")) {
                continue;
            }
            let begin = Health { started: !has("startupProbe"), ready: !has("readinessProbe"), sick: None };
            healths.lock().unwrap_or_else(PoisonError::into_inner).insert(seen.id.clone(), begin);
            let prober = Prober {
                doors: doors.clone(),
                pod: pod.clone(),
                container: container.clone(),
                id: seen.id.clone(),
                healths: healths.clone(),
                nudge: nudge.clone(),
            };
            self.running.insert(seen.id.clone(), tokio::spawn(prober.run()));
        }
    }

    pub fn end(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
        self.running.clear();
    }
}

struct Prober<R: Runtime> {
    doors: Arc<Doors<R>>,
    pod: Arc<Value>,
    container: Value,
    id: String,
    healths: Healths,
    nudge: Arc<Notify>,
}

/// Counts successes and failures in a row. Pure.
#[derive(Debug, Clone)]
pub struct Counter {
    successes_needed: u64,
    failures_needed: u64,
    successes: u64,
    failures: u64,
}

impl Counter {
    pub fn new(probe: &Value) -> Self {
        let number = |field: &str, default: u64| probe[field].as_u64().filter(|n| *n > 0).unwrap_or(default);
        Self {
            successes_needed: number("successThreshold", 1),
            failures_needed: number("failureThreshold", 3),
            successes: 0,
            failures: 0,
        }
    }

    /// Takes one result; a verdict when enough of its kind came in a row.
    pub fn count(&mut self, good: bool) -> Option<bool> {
        if good {
            (self.successes, self.failures) = (self.successes + 1, 0);
            (self.successes >= self.successes_needed).then_some(true)
        } else {
            (self.successes, self.failures) = (0, self.failures + 1);
            (self.failures >= self.failures_needed).then_some(false)
        }
    }
}

impl<R: Runtime> Prober<R> {
    async fn run(self) {
        if self.container["startupProbe"].is_object() {
            let passed = self.watch("startupProbe", "Startup", |prober, good, _| {
                match good {
                    true => prober.set(|health| health.started = true),
                    false => prober.set(|health| health.sick = Some("failed startup probe".into())),
                }
                true
            });
            passed.await;
            let sick = self
                .healths
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&self.id)
                .is_none_or(|h| h.sick.is_some());
            if sick {
                return;
            }
        }
        let readiness = async {
            if self.container["readinessProbe"].is_object() {
                self.watch("readinessProbe", "Readiness", |prober, good, _| {
                    prober.set(|health| health.ready = good);
                    false
                })
                .await;
            }
        };
        let liveness = async {
            if self.container["livenessProbe"].is_object() {
                self.watch("livenessProbe", "Liveness", |prober, good, _| {
                    if !good {
                        prober.set(|health| health.sick = Some("failed liveness probe".into()));
                    }
                    !good
                })
                .await;
            }
        };
        tokio::join!(readiness, liveness);
    }

    fn set(&self, change: impl FnOnce(&mut Health)) {
        let mut healths = self.healths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = healths.get_mut(&self.id) {
            let before = health.clone();
            change(health);
            if *health != before {
                self.nudge.notify_one();
            }
        }
    }

    /// Probes until `verdict` answers true.
    async fn watch(&self, field: &str, name: &str, verdict: impl Fn(&Self, bool, &str) -> bool) {
        let probe = &self.container[field];
        let secs = |field: &str, default: u64| Duration::from_secs(probe[field].as_u64().unwrap_or(default));
        tokio::time::sleep(secs("initialDelaySeconds", 0)).await;
        let mut counter = Counter::new(probe);
        loop {
            let timeout = secs("timeoutSeconds", 1).max(Duration::from_secs(1));
            let answer = hooks::ask(&self.doors, &self.pod, Some(&self.container), probe, &self.id, timeout).await;
            let (good, text) = match &answer {
                Ok(()) => (true, String::new()),
                Err(text) => (false, text.clone()),
            };
            if !good {
                self.doors.event(&self.pod, true, "Unhealthy", &format!("{name} probe failed: {text}"));
            }
            if counter.count(good).is_some_and(|decided| verdict(self, decided, &text)) {
                return;
            }
            tokio::time::sleep(secs("periodSeconds", 10).max(Duration::from_secs(1))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_results_in_a_row() {
        let mut counter = Counter::new(&serde_json::json!({"failureThreshold": 2, "successThreshold": 2}));
        let results = [false, true, false, false, true, true];
        let verdicts: Vec<_> = results.iter().map(|good| counter.count(*good)).collect();
        assert_eq!(verdicts, [None, None, None, Some(false), None, Some(true)]);
    }
}
