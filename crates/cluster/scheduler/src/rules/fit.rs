//! Resources: whether a pod fits, and how full and how even it leaves the node.

use super::Refusal;
use crate::facts::{DEFAULT_CPU_MILLIS, DEFAULT_MEMORY_BYTES};
use crate::{Facts, NodeFacts, PodFacts};

pub fn filter(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> Result<(), Refusal> {
    let most = node.allocatable.get("pods").copied().unwrap_or(i64::MAX);
    if node.pods.len() as i64 + 1 > most {
        return Err(Refusal::curable("Too many pods"));
    }
    for (name, wanted) in pod.requests.iter().filter(|(_, wanted)| **wanted > 0) {
        let have = node.allocatable.get(name).copied().unwrap_or(0);
        let used = node.requested.get(name).copied().unwrap_or(0);
        if used + wanted > have {
            let text = format!("Insufficient {name}");
            // A pod that is larger than the empty node never fits.
            return Err(if *wanted > have { Refusal::lasting(text) } else { Refusal::curable(text) });
        }
    }
    Ok(())
}

/// Used and whole amount of a resource if the pod came here. Pods that ask for nothing count a little.
fn after(pod: &PodFacts, node: &NodeFacts, name: &str, default: i64) -> (i64, i64) {
    let of = |pod: &PodFacts| pod.requests.get(name).copied().filter(|amount| *amount > 0).unwrap_or(default);
    let used: i64 = node.pods.iter().map(of).sum();
    (used + of(pod), node.allocatable.get(name).copied().unwrap_or(0))
}

const COUNTED: [(&str, i64); 2] = [("cpu", DEFAULT_CPU_MILLIS), ("memory", DEFAULT_MEMORY_BYTES)];

/// The emptier the better.
pub fn least_allocated(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> i64 {
    let scores = COUNTED.map(|(name, default)| {
        let (used, whole) = after(pod, node, name, default);
        if whole <= 0 || used > whole { 0 } else { ((whole - used) as i128 * 100 / whole as i128) as i64 }
    });
    scores.iter().sum::<i64>() / scores.len() as i64
}

/// The more alike the shares of CPU and memory in use, the better.
pub fn balanced(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> i64 {
    let shares = COUNTED.map(|(name, default)| {
        let (used, whole) = after(pod, node, name, default);
        if whole <= 0 { 1.0 } else { (used as f64 / whole as f64).min(1.0) }
    });
    let spread = (shares[0] - shares[1]).abs() / 2.0;
    ((1.0 - spread) * 100.0) as i64
}
