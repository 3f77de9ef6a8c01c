//! Which pods of lower priority would have to go, so that a pod fits.

use cache::{Key, Kind};
use resources::selector::LabelSelector;
use resources::{Value, meta};

use crate::rules::FILTERS;
use crate::{Facts, NodeFacts, PodFacts};

/// A node and the pods to be taken from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Victims {
    pub node: String,
    pub pods: Vec<std::sync::Arc<Value>>,
}

/// The node where it hurts least: fewest broken budgets, lowest highest priority, lowest sum, fewest pods.
pub fn choose(pod: &PodFacts, facts: &Facts<'_>, hopeless: &[String]) -> Option<Victims> {
    if pod.spec()["preemptionPolicy"] == "Never" {
        return None;
    }
    let candidates = facts.nodes.iter().filter(|node| !hopeless.iter().any(|name| name == node.name()));
    candidates
        .filter_map(|node| victims(pod, node, facts))
        .min_by_key(|(victims, broken)| {
            let priority = |pod: &std::sync::Arc<Value>| pod["spec"]["priority"].as_i64().unwrap_or(0);
            let highest = victims.pods.iter().map(priority).max().unwrap_or(i64::MIN);
            let sum: i64 = victims.pods.iter().map(priority).sum();
            (*broken, highest, sum, victims.pods.len(), victims.node.clone())
        })
        .map(|(victims, _)| victims)
}

/// The fewest pods of lower priority whose end makes room: all go in thought, then the important ones come back first.
fn victims(pod: &PodFacts, node: &NodeFacts, facts: &Facts<'_>) -> Option<(Victims, usize)> {
    let mut lower: Vec<&PodFacts> = node.pods.iter().filter(|other| other.priority < pod.priority).collect();
    if lower.is_empty() {
        return None;
    }
    let mut gone: Vec<Key> = lower.iter().map(|other| Key::of(&other.pod)).collect();
    if !fits(pod, node, &gone, facts) {
        return None;
    }
    lower.sort_by_key(|other| {
        (
            !is_guarded(other, facts),
            std::cmp::Reverse(other.priority),
            meta::get(&other.pod, "creationTimestamp").to_owned(),
        )
    });
    for other in &lower {
        let key = Key::of(&other.pod);
        let left: Vec<Key> = gone.iter().filter(|at| **at != key).cloned().collect();
        if fits(pod, node, &left, facts) {
            gone = left;
        }
    }
    let victims: Vec<&&PodFacts> = lower.iter().filter(|other| gone.contains(&Key::of(&other.pod))).collect();
    let broken = victims.iter().filter(|other| is_guarded(other, facts)).count();
    let pods = victims.iter().map(|other| other.pod.clone()).collect();
    Some((Victims { node: node.name().to_owned(), pods }, broken))
}

fn fits(pod: &PodFacts, node: &NodeFacts, gone: &[Key], facts: &Facts<'_>) -> bool {
    let without = node.without(gone);
    let mut changed = Facts { view: facts.view, nodes: facts.nodes.clone() };
    if let Some(place) = changed.nodes.iter_mut().find(|other| other.name() == node.name()) {
        *place = without.clone();
    }
    FILTERS.iter().all(|filter| filter(pod, &without, &changed).is_ok())
}

/// A disruption budget forbids to take it.
fn is_guarded(pod: &PodFacts, facts: &Facts<'_>) -> bool {
    facts.view.in_namespace(Kind::DisruptionBudget, pod.namespace()).any(|budget| {
        let selector = &budget["spec"]["selector"];
        !selector.is_null()
            && budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) <= 0
            && LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(&pod.pod))
    })
}
