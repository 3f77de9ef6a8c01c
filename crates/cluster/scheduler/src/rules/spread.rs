//! Spreading over zones, hosts and other places.

use std::collections::BTreeMap;

use resources::selector::LabelSelector;
use resources::{Value, meta};

use super::{Refusal, affinity, taints};
use crate::{Facts, NodeFacts, PodFacts};

fn constraints<'a>(pod: &'a PodFacts, when: &'a str) -> impl Iterator<Item = &'a Value> {
    meta::list_at(pod.spec(), &["topologySpreadConstraints"])
        .iter()
        .filter(move |constraint| constraint["whenUnsatisfiable"] == when)
}

/// Matching pods by place, over the nodes that the pod could go to at all.
fn counts(pod: &PodFacts, constraint: &Value, facts: &Facts<'_>) -> BTreeMap<String, i64> {
    let key = constraint["topologyKey"].as_str().unwrap_or_default();
    let mut wanted = constraint["labelSelector"].clone();
    for label in meta::list_at(constraint, &["matchLabelKeys"]).iter().filter_map(Value::as_str) {
        if let Some(value) = meta::at(&pod.pod, &["metadata", "labels", label]) {
            wanted["matchLabels"][label] = value.clone();
        }
    }
    let selector = LabelSelector::from_object(&wanted).ok().filter(|_| !constraint["labelSelector"].is_null());
    let mut counts = BTreeMap::new();
    for node in &facts.nodes {
        let Some(place) = node.label(key) else { continue };
        let honours = constraint["nodeAffinityPolicy"] != "Ignore";
        if honours && affinity::filter(pod, node, facts).is_err() {
            continue;
        }
        if constraint["nodeTaintsPolicy"] == "Honor" && taints::filter(pod, node, facts).is_err() {
            continue;
        }
        let here = node.pods.iter().filter(|other| {
            other.namespace() == pod.namespace()
                && !meta::is_terminating(&other.pod)
                && selector.as_ref().is_some_and(|selector| selector.matches_object(&other.pod))
        });
        *counts.entry(place.to_owned()).or_default() += here.count() as i64;
    }
    counts
}

fn matches_self(pod: &PodFacts, constraint: &Value) -> i64 {
    let selector = LabelSelector::from_object(&constraint["labelSelector"]);
    i64::from(selector.is_ok_and(|selector| selector.matches_object(&pod.pod)))
}

pub fn filter(pod: &PodFacts, node: &NodeFacts, facts: &Facts<'_>) -> Result<(), Refusal> {
    for constraint in constraints(pod, "DoNotSchedule") {
        let Some(place) = node.label(constraint["topologyKey"].as_str().unwrap_or_default()) else {
            return Err(Refusal::lasting(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        };
        let counts = counts(pod, constraint, facts);
        let few = (counts.len() as i64) < constraint["minDomains"].as_i64().unwrap_or(1);
        let least = if few { 0 } else { counts.values().min().copied().unwrap_or(0) };
        let here = counts.get(place).copied().unwrap_or(0) + matches_self(pod, constraint);
        if here - least > constraint["maxSkew"].as_i64().unwrap_or(1) {
            return Err(Refusal::curable("node(s) didn't match pod topology spread constraints"));
        }
    }
    Ok(())
}

pub fn score(pod: &PodFacts, node: &NodeFacts, facts: &Facts<'_>) -> i64 {
    let mut scores = Vec::new();
    for constraint in constraints(pod, "ScheduleAnyway") {
        let counts = counts(pod, constraint, facts);
        let most = counts.values().max().copied().unwrap_or(0);
        let here = node
            .label(constraint["topologyKey"].as_str().unwrap_or_default())
            .and_then(|place| counts.get(place).copied());
        scores.push(match here {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(here) => 100 - here * 100 / most,
        });
    }
    if scores.is_empty() { 0 } else { scores.iter().sum::<i64>() / scores.len() as i64 }
}
