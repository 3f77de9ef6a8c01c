//! Affinity and anti-affinity between pods.

use resources::selector::LabelSelector;
use resources::{Value, meta};

use super::Refusal;
use crate::{Facts, NodeFacts, PodFacts};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn terms<'a>(pod: &'a PodFacts, which: &str, when: &str) -> &'a [Value] {
    meta::list_at(pod.spec(), &["affinity", which, when])
}

/// Whether a term of `owner` speaks of `other`.
fn selects(term: &Value, owner: &PodFacts, other: &PodFacts, facts: &Facts<'_>) -> bool {
    let listed = meta::list_at(term, &["namespaces"]);
    let by_labels = term.get("namespaceSelector").filter(|selector| !selector.is_null());
    let own = listed.is_empty() && by_labels.is_none();
    let namespace = (own && owner.namespace() == other.namespace())
        || listed.iter().any(|name| name == other.namespace())
        || by_labels.is_some_and(|selector| {
            let object = facts.view.get(cache::Kind::Namespace, "", other.namespace());
            object.is_some_and(|object| {
                LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(object))
            })
        });
    let labels = term.get("labelSelector").filter(|selector| !selector.is_null());
    namespace
        && labels.is_some_and(|selector| {
            LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(&other.pod))
        })
}

/// Whether two nodes are in the same place, as a term means it.
fn together(term: &Value, one: &NodeFacts, other: &NodeFacts) -> bool {
    let key = term["topologyKey"].as_str().unwrap_or_default();
    one.label(key).is_some() && one.label(key) == other.label(key)
}

pub fn filter(pod: &PodFacts, node: &NodeFacts, facts: &Facts<'_>) -> Result<(), Refusal> {
    let everywhere = || facts.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)));
    for term in terms(pod, "podAffinity", REQUIRED) {
        let met = everywhere().any(|(at, other)| together(term, node, at) && selects(term, pod, other, facts));
        // The first of a group that wants to be together has nobody to be with.
        let first = selects(term, pod, pod, facts)
            && node.label(term["topologyKey"].as_str().unwrap_or_default()).is_some()
            && !everywhere().any(|(_, other)| selects(term, pod, other, facts));
        if !met && !first {
            return Err(Refusal::lasting("node(s) didn't match pod affinity rules"));
        }
    }
    for term in terms(pod, "podAntiAffinity", REQUIRED) {
        if everywhere().any(|(at, other)| together(term, node, at) && selects(term, pod, other, facts)) {
            return Err(Refusal::curable("node(s) didn't match pod anti-affinity rules"));
        }
    }
    let repelled = everywhere().any(|(at, other)| {
        terms(other, "podAntiAffinity", REQUIRED)
            .iter()
            .any(|term| together(term, node, at) && selects(term, other, pod, facts))
    });
    match repelled {
        false => Ok(()),
        true => Err(Refusal::curable("node(s) didn't satisfy existing pods anti-affinity rules")),
    }
}

pub fn score(pod: &PodFacts, node: &NodeFacts, facts: &Facts<'_>) -> i64 {
    let mut sum = 0;
    let mut most = 0;
    for (which, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
        for preference in terms(pod, which, PREFERRED) {
            let (weight, term) = (preference["weight"].as_i64().unwrap_or(0), &preference["podAffinityTerm"]);
            let near = facts.nodes.iter().filter(|at| together(term, node, at)).flat_map(|at| &at.pods);
            let count = near.filter(|other| selects(term, pod, other, facts)).count().min(10) as i64;
            sum += sign * weight * count;
            most += weight * 10;
        }
    }
    if most == 0 { 0 } else { 50 + sum * 50 / most }
}
