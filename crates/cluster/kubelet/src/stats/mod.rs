//! What the node, its pods and their containers use: readings of now, and rates from the ones before.
//!
//! * `machine` — the node's own figures, from `/proc`
//! * `summary` — `/stats/summary` (pure)
//! * `metrics` — `/metrics`, `/metrics/resource`, `/metrics/cadvisor` as text (pure)

pub mod machine;
pub mod metrics;
pub mod summary;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use resources::{Value, meta};

use crate::actions;
use crate::manage::Doors;
use crate::pod;
use crate::runtime::{ContainerSeen, Runtime, State, Traffic, Used};
use machine::MachineUse;

/// A rate needs readings at least this far apart.
const APART_SECS: f64 = 1.0;

/// Readings of processor time, by what they are of.
#[derive(Debug, Default)]
pub struct Samples(Mutex<BTreeMap<String, Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Timestamp,
    cpu_nanos: u64,
    rate: u64,
}

impl Samples {
    /// Takes a reading in; billionths of a processor since the one before, or since `began` for the first.
    pub fn rate(&self, of: &str, began: Timestamp, at: Timestamp, cpu_nanos: u64) -> u64 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |since: Timestamp, before: u64| {
            let secs = at.duration_since(since).as_secs_f64();
            (secs >= APART_SECS).then(|| (cpu_nanos.saturating_sub(before) as f64 / secs) as u64)
        };
        match all.get(of).copied() {
            Some(last) => match over(last.at, last.cpu_nanos) {
                Some(rate) => {
                    all.insert(of.to_owned(), Sample { at, cpu_nanos, rate });
                    rate
                }
                None => last.rate,
            },
            None => {
                let rate = over(began, 0).unwrap_or(0);
                all.insert(of.to_owned(), Sample { at, cpu_nanos, rate });
                rate
            }
        }
    }

    fn keep(&self, known: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|of, _| known(of));
    }
}

/// A running container with what it uses.
#[derive(Debug, Clone)]
pub struct ContainerUse {
    pub seen: ContainerSeen,
    pub began: Timestamp,
    pub used: Used,
    /// Billionths of a processor.
    pub cpu_rate: u64,
}

/// A pod that has running containers.
#[derive(Debug, Clone)]
pub struct PodUse {
    pub pod: std::sync::Arc<Value>,
    pub containers: Vec<ContainerUse>,
    /// Nothing for pods on the host's network.
    pub network: Option<BTreeMap<String, Traffic>>,
    /// Bytes of its volumes, by name.
    pub volumes: BTreeMap<String, u64>,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    pub at: Timestamp,
    pub node: MachineUse,
    pub node_cpu_rate: u64,
    pub pods: Vec<PodUse>,
    /// Containers by state, for the counters.
    pub states: BTreeMap<&'static str, usize>,
}

/// Reads everything.
pub async fn read<R: Runtime>(doors: &Doors<R>) -> Reading {
    let node = machine::read(doors.root());
    let at = Timestamp::now();
    let node_cpu_rate = doors.samples.rate("", node.booted, at, node.cpu_nanos);
    let seen = doors.runtime.containers(None).await.unwrap_or_default();
    let mut states = BTreeMap::from([("created", 0), ("running", 0), ("exited", 0)]);
    for container in &seen {
        let state = match container.state {
            State::Created => "created",
            State::Running { .. } => "running",
            State::Exited { .. } => "exited",
        };
        *states.entry(state).or_default() += 1;
    }
    doors.samples.keep(|of| of.is_empty() || seen.iter().any(|seen| seen.id == of));
    let mine: Vec<std::sync::Arc<Value>> = {
        let view = doors.view.read().unwrap_or_else(PoisonError::into_inner);
        view.pods_on(&doors.node.name).cloned().collect()
    };
    let mut pods = Vec::new();
    for pod in mine {
        let mut containers = Vec::new();
        for (_, container) in pod::containers(&pod) {
            let own: Vec<ContainerSeen> = seen.iter().filter(|seen| seen.pod_uid == meta::uid(&pod)).cloned().collect();
            let Some(current) = actions::current(&own, pod::name(container)) else { continue };
            let State::Running { started } = current.state else { continue };
            let Ok(Some(used)) = doors.runtime.used(&current.id).await else { continue };
            let cpu_rate = doors.samples.rate(&current.id, started, Timestamp::now(), used.cpu_nanos);
            containers.push(ContainerUse { seen: current.clone(), began: started, used, cpu_rate });
        }
        if containers.is_empty() {
            continue;
        }
        let network = match pod::host_network(&pod) {
            true => None,
            false => Some(doors.runtime.traffic(meta::uid(&pod)).await.unwrap_or_default()),
        };
        pods.push(PodUse { pod, containers, network, volumes: BTreeMap::new() });
    }
    Reading { at, node, node_cpu_rate, pods, states }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_time_between_readings() {
        let samples = Samples::default();
        let at = |millis: i64| Timestamp::from_millisecond(millis).unwrap();
        assert_eq!(samples.rate("c", at(0), at(2000), 1_000_000_000), 500_000_000, "since it began");
        assert_eq!(samples.rate("c", at(0), at(2500), 9_000_000_000), 500_000_000, "too soon: the last rate");
        assert_eq!(samples.rate("c", at(0), at(4000), 3_000_000_000), 1_000_000_000);
        samples.keep(|of| of != "c");
        assert_eq!(samples.rate("c", at(4000), at(4100), 7), 0, "forgotten, and only just begun");
    }
}
