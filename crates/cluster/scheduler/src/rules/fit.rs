//! Resources: whether a pod fits, and how full it leaves the node, as the profile wants them.

use super::{Happened, Judge, Refusal, Rule, SCORE_MAX};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::{Profile, Strategy};

pub struct Fit;

struct Wants<'a> {
    pod: &'a PodFacts,
    profile: &'a Profile,
}

impl Rule for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, profile: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        Some(Box::new(Wants { pod, profile }))
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::NodeChanged | Happened::PodLeft)
    }
}

/// Used and whole amount of a resource if the pod came to the node. Pods that ask for no CPU or memory count a little.
pub fn after(pod: &PodFacts, node: &NodeFacts, name: &str) -> (i64, i64) {
    match name {
        "cpu" => (node.counted.0 + pod.counted.0, node.allocatable.cpu),
        "memory" => (node.counted.1 + pod.counted.1, node.allocatable.memory),
        name => (node.requested.get(name) + pod.requests.get(name), node.allocatable.get(name)),
    }
}

fn percent(part: i64, of: i64) -> i64 {
    (i128::from(part) * i128::from(SCORE_MAX) / i128::from(of)) as i64
}

/// The height of a line through points at `x`.
fn along(shape: &[(i64, i64)], x: i64) -> i64 {
    let Some(next) = shape.iter().position(|(at, _)| x <= *at) else {
        return shape.last().map_or(0, |(_, height)| *height);
    };
    if next == 0 {
        return shape[0].1;
    }
    let ((x0, y0), (x1, y1)) = (shape[next - 1], shape[next]);
    y0 + (y1 - y0) * (x - x0) / (x1 - x0).max(1)
}

/// Extended resources alone: they have a group.
fn is_ignored(profile: &Profile, name: &str) -> bool {
    let Some((group, _)) = name.split_once('/') else { return false };
    profile.ignored_resources.iter().any(|ignored| ignored == name)
        || profile.ignored_groups.iter().any(|ignored| ignored == group)
}

/// 0 through [`SCORE_MAX`]. Pure.
fn score_of(strategy: &Strategy, used: i64, whole: i64) -> i64 {
    match strategy {
        Strategy::LeastAllocated if used > whole => 0,
        Strategy::LeastAllocated => percent(whole - used, whole),
        // A node that is more than full counts as full.
        Strategy::MostAllocated => percent(used.min(whole), whole),
        // The shape's heights are 0 through 10.
        Strategy::RequestedToCapacityRatio(shape) if used > whole => along(shape, 100) * 10,
        Strategy::RequestedToCapacityRatio(shape) => along(shape, percent(used, whole)) * 10,
    }
}

impl Judge for Wants<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        if node.pods.len() as i64 + 1 > node.pods_max {
            return Err(Refusal::curable("Too many pods"));
        }
        for (name, wanted) in self.pod.requests.iter().filter(|(_, wanted)| *wanted > 0) {
            if is_ignored(self.profile, name) {
                continue;
            }
            let have = node.allocatable.get(name);
            if node.requested.get(name) + wanted > have {
                let text = format!("Insufficient {name}");
                // A pod that is larger than the empty node never fits.
                return Err(if wanted > have { Refusal::lasting(text) } else { Refusal::curable(text) });
            }
        }
        Ok(())
    }

    fn score(&self, node: &NodeFacts) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (name, weight) in &self.profile.scored {
            let extended = !matches!(name.as_str(), "cpu" | "memory");
            if extended && self.pod.requests.get(name) == 0 {
                continue;
            }
            let (used, whole) = after(self.pod, node, name);
            if whole > 0 {
                sum += weight * score_of(&self.profile.strategy, used, whole);
                weights += weight;
            }
        }
        if weights == 0 { 0 } else { sum / weights }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies() {
        let shape = Strategy::RequestedToCapacityRatio(vec![(0, 0), (50, 10), (100, 4)]);
        for (strategy, used, whole, expected) in [
            (Strategy::LeastAllocated, 0, 4, 100),
            (Strategy::LeastAllocated, 1, 4, 75),
            (Strategy::LeastAllocated, 5, 4, 0),
            (Strategy::MostAllocated, 1, 4, 25),
            (Strategy::MostAllocated, 9, 4, 100),
            (shape.clone(), 0, 4, 0),
            (shape.clone(), 1, 4, 50),
            (shape.clone(), 2, 4, 100),
            (shape.clone(), 3, 4, 70),
            (shape.clone(), 4, 4, 40),
            (shape, 8, 4, 40),
        ] {
            assert_eq!(score_of(&strategy, used, whole), expected, "{strategy:?} {used}/{whole}");
        }
    }
}
