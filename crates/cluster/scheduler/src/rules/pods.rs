//! Affinity and anti-affinity between pods: what the pod says about others, and what others say about it.

use std::collections::BTreeMap;

use super::{Happened, Judge, Refusal, Rule, SCORE_MAX};
use crate::facts::Facts;
use crate::groups::Asked;
use crate::nodes::NodeFacts;
use crate::pods::{PodFacts, Term};
use crate::profile::Profile;

pub struct Pods;

/// Values by topology key and place.
type Places = BTreeMap<String, BTreeMap<String, i64>>;

struct Wants<'a> {
    affinity: &'a [Term],
    anti_affinity: &'a [Term],
    /// For each affinity term: how many pods each place has that all terms select.
    near: Vec<BTreeMap<String, i64>>,
    /// For each anti-affinity term: the same of the pods that it selects.
    away: Vec<BTreeMap<String, i64>>,
    /// The pod would be the first of a group that wants to be together.
    first: bool,
    /// Places where pods are that do not want this one near them.
    repelling: Places,
    scores: Places,
}

fn at<'n>(node: &'n NodeFacts, key: &str) -> Option<&'n str> {
    node.label(key)
}

fn add(places: &mut Places, key: &str, place: &str, amount: i64) {
    if !places.contains_key(key) {
        places.insert(key.to_owned(), BTreeMap::new());
    }
    if let Some(places) = places.get_mut(key) {
        match places.get_mut(place) {
            Some(have) => *have += amount,
            None => drop(places.insert(place.to_owned(), amount)),
        }
    }
}

impl Rule for Pods {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, profile: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        if pod.terms.is_empty() && facts.cluster.with_terms == 0 {
            return None;
        }
        let mut wants = Wants {
            affinity: &pod.terms.affinity,
            anti_affinity: &pod.terms.anti_affinity,
            near: vec![BTreeMap::new(); pod.terms.affinity.len()],
            away: Vec::new(),
            first: false,
            repelling: Places::new(),
            scores: Places::new(),
        };
        own(pod, facts, &mut wants);
        others(pod, facts, profile, &mut wants);
        Some(Box::new(wants))
    }

    fn may_help(&self, happened: Happened) -> bool {
        !matches!(happened, Happened::VolumesChanged)
    }
}

/// What the pod says about others.
fn own(pod: &PodFacts, facts: Facts<'_>, wants: &mut Wants<'_>) {
    let groups = &facts.cluster.groups;
    let selects = |term: &Term| {
        let term = term.clone();
        let view = facts.view;
        Asked::new(groups, move |group| term.selects(&group.namespace, &group.labels, view))
    };
    if !pod.terms.affinity.is_empty() {
        let terms = pod.terms.affinity.clone();
        let view = facts.view;
        let all = Asked::new(groups, move |group| {
            terms.iter().all(|term| term.selects(&group.namespace, &group.labels, view))
        });
        for node in facts.nodes {
            let count = all.count(&node.groups);
            if count == 0 {
                continue;
            }
            for (term, places) in pod.terms.affinity.iter().zip(&mut wants.near) {
                if let Some(place) = at(node, &term.topology_key) {
                    *places.entry(place.to_owned()).or_default() += count;
                }
            }
        }
        let nobody = wants.near.iter().all(BTreeMap::is_empty);
        wants.first = nobody && pod.terms.affinity.iter().all(|term| term.selects_pod(pod, facts.view));
    }
    let mut count = |term: &Term| {
        let asked = selects(term);
        let mut places: BTreeMap<String, i64> = BTreeMap::new();
        for node in facts.nodes {
            let count = asked.count(&node.groups);
            if count > 0
                && let Some(place) = at(node, &term.topology_key)
            {
                *places.entry(place.to_owned()).or_default() += count;
            }
        }
        places
    };
    wants.away = pod.terms.anti_affinity.iter().map(&mut count).collect();
    for (weight, term) in &pod.terms.preferred {
        for (place, pods) in count(term) {
            add(&mut wants.scores, &term.topology_key, &place, weight * pods);
        }
    }
}

/// What others say about the pod.
fn others(pod: &PodFacts, facts: Facts<'_>, profile: &Profile, wants: &mut Wants<'_>) {
    for node in facts.nodes.iter().filter(|node| node.with_terms > 0) {
        for other in node.all_pods().filter(|other| !other.terms.is_empty()) {
            for term in &other.terms.anti_affinity {
                if let Some(place) = at(node, &term.topology_key)
                    && term.selects_pod(pod, facts.view)
                {
                    add(&mut wants.repelling, &term.topology_key, place, 1);
                }
            }
            let hard = other.terms.affinity.iter().map(|term| (profile.hard_pod_affinity, term));
            let wishes = other.terms.preferred.iter().filter(|_| !profile.ignores_wishes_of_others);
            let soft = wishes.map(|(weight, term)| (*weight, term));
            for (weight, term) in hard.chain(soft).filter(|(weight, _)| *weight != 0) {
                if let Some(place) = at(node, &term.topology_key)
                    && term.selects_pod(pod, facts.view)
                {
                    add(&mut wants.scores, &term.topology_key, place, weight);
                }
            }
        }
    }
}

impl Judge for Wants<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        for (term, places) in self.affinity.iter().zip(&self.near) {
            // A node without the label is no place at all.
            let met = at(node, &term.topology_key).is_some_and(|place| self.first || places.contains_key(place));
            if !met {
                return Err(Refusal::lasting("node(s) didn't match pod affinity rules"));
            }
        }
        for (term, places) in self.anti_affinity.iter().zip(&self.away) {
            if at(node, &term.topology_key).is_some_and(|place| places.contains_key(place)) {
                return Err(Refusal::curable("node(s) didn't match pod anti-affinity rules"));
            }
        }
        let repelled =
            self.repelling.iter().any(|(key, places)| at(node, key).is_some_and(|place| places.contains_key(place)));
        match repelled {
            false => Ok(()),
            true => Err(Refusal::curable("node(s) didn't satisfy existing pods anti-affinity rules")),
        }
    }

    fn score(&self, node: &NodeFacts) -> i64 {
        self.scores.iter().filter_map(|(key, places)| places.get(at(node, key)?)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        if self.scores.is_empty() {
            return;
        }
        let (least, most) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if most == least { 0 } else { (*score - least) * SCORE_MAX / (most - least) };
        }
    }
}
