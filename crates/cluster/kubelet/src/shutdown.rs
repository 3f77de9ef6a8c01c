//! The machine goes down: its pods end by their importance, each within the time of its class, and are told as ended.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use resources::{Value, meta};

use crate::actions::End;
use crate::manage::Doors;
use crate::node::{self, Machine};
use crate::runtime::{Runtime, State};
use crate::shown::shown_container;

pub const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Pods of the cluster's own upkeep, from this priority on.
const CRITICAL: i64 = 2_000_000_000;
const LOOK: Duration = Duration::from_millis(50);
/// For what is told last: nobody waits for an API that does not answer.
const TELLING: Duration = Duration::from_secs(2);

/// Priorities, each the least of its class, with the time of that class; ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Periods(Vec<(i64, Duration)>);

impl Periods {
    /// `total` for all, of which `critical` is the critical pods' own.
    pub fn new(total: Duration, critical: Duration) -> Result<Self, String> {
        let Some(others) = total.checked_sub(critical) else {
            return Err("the time of critical pods is more than the time of all".into());
        };
        Ok(match total.is_zero() {
            true => Self::default(),
            false => Self(vec![(0, others), (CRITICAL, critical)]),
        })
    }

    /// `PRIORITY=DURATION,...`
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let wrong = || format!("{one:?} is not PRIORITY=DURATION");
            let (priority, time) = one.split_once('=').ok_or_else(wrong)?;
            let time = vocab::duration::parse(time).ok_or_else(wrong)?;
            all.push((priority.trim().parse().map_err(|_| wrong())?, time));
        }
        all.sort_unstable();
        Ok(Self(all))
    }

    /// Nothing ends with the machine's program.
    pub fn is_none(&self) -> bool {
        self.0.iter().all(|(_, time)| time.is_zero())
    }

    /// Pods by class, those that end first first. Pure.
    fn classes(&self, pods: &[Arc<Value>]) -> Vec<(Duration, Vec<String>)> {
        let mut classes: Vec<(Duration, Vec<String>)> = self.0.iter().map(|(_, time)| (*time, Vec::new())).collect();
        for pod in pods {
            let priority = pod["spec"]["priority"].as_i64().unwrap_or(0);
            let above = self.0.iter().rposition(|(least, _)| *least <= priority);
            // Less important than any class: with the least.
            if let Some((_, uids)) = classes.get_mut(above.unwrap_or(0)) {
                uids.push(meta::uid(pod).to_owned());
            }
        }
        classes.retain(|(_, uids)| !uids.is_empty());
        classes
    }
}

/// Ends the pods of one node.
pub struct Shutdown<R> {
    doors: Arc<Doors<R>>,
    machine: Machine,
    periods: Periods,
}

impl<R: Runtime> Shutdown<R> {
    pub fn new(doors: Arc<Doors<R>>, machine: Machine, periods: Periods) -> Self {
        Self { doors, machine, periods }
    }

    /// Returns when they have ended, or when their time is over; at once if no time was set. The kubelet has to run meanwhile.
    pub async fn run(&self) {
        if self.periods.is_none() {
            return;
        }
        let doors = &self.doors;
        doors.begin_to_end();
        tracing::info!("the machine goes down: pods end");
        let (seen, short) = (doors.runtime.images().await.unwrap_or_default(), Vec::new());
        let (why, devices) = (Some("node is shutting down"), doors.devices.counts());
        let telling = node::tell(&doors.api, &doors.node, &self.machine, &seen, why, &short, &devices);
        let _ = tokio::time::timeout(TELLING, telling).await;
        let pods: Vec<Arc<Value>> = self.pods().into_iter().filter(|pod| !is_ended(pod)).collect();
        for (time, uids) in self.periods.classes(&pods) {
            for uid in &uids {
                let end = End { within: Some(time), ..End::failed(REASON, MESSAGE.to_owned()) };
                doors.order(uid, end);
            }
            let ended = async {
                while self.any_runs(&uids).await {
                    tokio::time::sleep(LOOK).await;
                }
            };
            // Those that are killed at the end of it take a moment more.
            if tokio::time::timeout(time + TELLING, ended).await.is_err() {
                tracing::warn!(pods = uids.len(), ?time, "some pods have not ended in their time");
            }
        }
        let told = async {
            while !self.pods().iter().all(is_ended) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(TELLING, told).await;
    }

    fn pods(&self) -> Vec<Arc<Value>> {
        let view = self.doors.view.read().unwrap_or_else(PoisonError::into_inner);
        let here = view.pods_on(&self.doors.node.name);
        here.filter(|pod| shown_container(pod).is_none()).cloned().collect()
    }

    async fn any_runs(&self, uids: &[String]) -> bool {
        let seen = self.doors.runtime.containers(None).await.unwrap_or_default();
        seen.iter().any(|seen| uids.contains(&seen.pod_uid) && matches!(seen.state, State::Running { .. }))
    }
}

fn is_ended(pod: &Arc<Value>) -> bool {
    matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_less_important_end_first() {
        let pod =
            |uid: &str, priority: i64| Arc::new(json!({"metadata": {"uid": uid}, "spec": {"priority": priority}}));
        let pods = [pod("dns", CRITICAL + 1000), pod("web", 0), pod("low", -5), pod("high", 10_000)];
        let check = |periods: Periods| -> String {
            let classes = periods.classes(&pods).into_iter();
            classes.map(|(time, uids)| format!("{}s {}", time.as_secs(), uids.join(" "))).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(check(Periods::new(secs(30), secs(10)).unwrap()), "20s web low high; 10s dns");
        assert_eq!(check(Periods::parse("10000=5s,0=1m").unwrap()), "60s web low; 5s dns high");
        assert_eq!(check(Periods::default()), "");
        assert!(Periods::new(secs(0), secs(0)).unwrap().is_none());
        assert!(Periods::new(secs(5), secs(6)).is_err());
        for bad in ["x", "1=x", "x=1s", "1"] {
            assert!(Periods::parse(bad).is_err(), "{bad}");
        }
    }
}
