//! Which pods of lower priority would have to go, so that a pod fits.

use std::sync::Arc;

use cache::{Key, Kind};
use resources::selector::LabelSelector;

use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::place::{Judges, Refusals, refilter};
use crate::pods::PodFacts;
use crate::profile::Profile;

/// A node and the pods to be taken from it.
#[derive(Debug, Clone)]
pub struct Victims {
    pub node: String,
    pub pods: Vec<Arc<PodFacts>>,
}

/// The node where it hurts least: fewest broken budgets, lowest highest priority, lowest sum, fewest pods, latest start.
pub fn choose(pod: &PodFacts, facts: Facts<'_>, profile: &Profile, refusals: &Refusals) -> Option<Victims> {
    let judges = Judges::of(pod, facts, profile);
    let curable = |node: &&Arc<NodeFacts>| refusals.nodes.get(&node.name).is_some_and(|(_, refusal)| refusal.curable);
    let (percent, least) = profile.candidates;
    let most = (facts.nodes.len() * percent as usize / 100).max(least as usize);
    let candidates = facts.nodes.iter().filter(curable);
    candidates
        .filter_map(|node| victims(pod, node, facts, profile, &judges))
        .take(most)
        .min_by_key(|(victims, broken)| {
            let highest = victims.pods.iter().map(|pod| pod.priority).max().unwrap_or(i64::MIN);
            let sum: i64 = victims.pods.iter().map(|pod| pod.priority).sum();
            let important = victims.pods.iter().filter(|pod| pod.priority == highest);
            let earliest = important.map(|pod| pod.started.clone()).min().unwrap_or_default();
            (*broken, highest, sum, victims.pods.len(), std::cmp::Reverse(earliest), victims.node.clone())
        })
        .map(|(victims, _)| victims)
}

/// The fewest pods of lower priority whose end makes room: all go in thought, then the important ones come back first.
fn victims(
    pod: &PodFacts,
    node: &Arc<NodeFacts>,
    facts: Facts<'_>,
    profile: &Profile,
    judges: &Judges<'_>,
) -> Option<(Victims, usize)> {
    let mut lower: Vec<&Arc<PodFacts>> = node.all_pods().filter(|other| other.priority < pod.priority).collect();
    if lower.is_empty() {
        return None;
    }
    let fits = |gone: &[&Key]| {
        let mut left = (**node).clone();
        for key in gone {
            left.remove(key);
        }
        refilter(pod, left, facts, profile, judges).is_ok()
    };
    let mut gone: Vec<&Key> = lower.iter().map(|other| &other.key).collect();
    if !fits(&gone) {
        return None;
    }
    lower.sort_by_cached_key(|other| {
        (!is_guarded(other, facts), std::cmp::Reverse(other.priority), other.started.clone())
    });
    for other in &lower {
        let left: Vec<&Key> = gone.iter().filter(|key| **key != &other.key).copied().collect();
        if fits(&left) {
            gone = left;
        }
    }
    let victims: Vec<_> = lower.iter().filter(|other| gone.contains(&&other.key)).collect();
    let broken = victims.iter().filter(|other| is_guarded(other, facts)).count();
    let pods = victims.iter().map(|other| Arc::clone(other)).collect();
    Some((Victims { node: node.name.clone(), pods }, broken))
}

/// A disruption budget forbids to take it.
fn is_guarded(pod: &PodFacts, facts: Facts<'_>) -> bool {
    let Some(whole) = facts.view.at(Kind::Pod, &pod.key) else { return false };
    facts.view.in_namespace(Kind::DisruptionBudget, pod.namespace()).any(|budget| {
        let selector = &budget["spec"]["selector"];
        !selector.is_null()
            && budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) <= 0
            && LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(whole))
    })
}
