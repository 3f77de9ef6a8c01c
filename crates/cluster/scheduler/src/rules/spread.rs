//! Spreading over zones, hosts and other places.

use std::collections::BTreeMap;

use cache::Kind;
use resources::selector::{LabelSelector, Operator, Requirement};
use resources::{Value, meta};

use super::{Happened, Judge, Refusal, Rule, SCORE_MAX, affinity, taints};
use crate::facts::Facts;
use crate::groups::Asked;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::{Defaults, Profile};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub struct Spread;

/// One constraint with how many pods each place has.
struct Constraint<'a> {
    key: String,
    hard: bool,
    skew_max: i64,
    domains_min: i64,
    own: i64,
    honours_affinity: bool,
    honours_taints: bool,
    asked: Asked<'a>,
    places: BTreeMap<String, i64>,
    /// What a soft constraint counts for: more where there are more places.
    weight: f64,
}

struct Wants<'a> {
    hard: Vec<Constraint<'a>>,
    soft: Vec<Constraint<'a>>,
    /// A node without one of the soft constraints' labels is the worst there is; not where the constraints are a default.
    needs_all: bool,
}

impl Rule for Spread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, profile: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        let own = meta::list_at(pod.spec(), &["topologySpreadConstraints"]);
        let needs_all = !own.is_empty() || !matches!(profile.default_spread, Defaults::System);
        let read: Vec<Constraint<'a>> = match own.is_empty() {
            false => own.iter().filter_map(|constraint| read(constraint, None, pod, facts)).collect(),
            true => {
                let defaults = profile.default_spread.constraints();
                let selector = if defaults.is_empty() { None } else { default_selector(pod, facts) };
                let selector = selector?;
                defaults.iter().filter_map(|constraint| read(constraint, Some(&selector), pod, facts)).collect()
            }
        };
        if read.is_empty() {
            return None;
        }
        let (mut hard, mut soft): (Vec<_>, Vec<_>) = read.into_iter().partition(|constraint| constraint.hard);
        count_hard(&mut hard, pod, facts);
        count_soft(&mut soft, pod, facts, needs_all);
        Some(Box::new(Wants { hard, soft, needs_all }))
    }

    fn may_help(&self, happened: Happened) -> bool {
        !matches!(happened, Happened::VolumesChanged | Happened::NamespacesChanged)
    }
}

fn read<'a>(
    constraint: &Value,
    default: Option<&LabelSelector>,
    pod: &'a PodFacts,
    facts: Facts<'a>,
) -> Option<Constraint<'a>> {
    let mut selector = match (default, &constraint["labelSelector"]) {
        (Some(selector), _) => Some(selector.clone()),
        (None, Value::Null) => None,
        (None, selector) => LabelSelector::from_object(selector).ok(),
    };
    for key in meta::list_at(constraint, &["matchLabelKeys"]).iter().filter_map(Value::as_str) {
        if let (Some(selector), Some(value)) = (&mut selector, pod.labels()[key].as_str()) {
            let fresh = Requirement { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] };
            if !selector.requirements.contains(&fresh) {
                selector.requirements.push(fresh);
            }
        }
    }
    let own = selector.as_ref().is_some_and(|selector| selector.matches_object(&pod.pod));
    let namespace = pod.namespace();
    let asked = Asked::new(&facts.cluster.groups, move |group| {
        group.namespace == namespace
            && !group.terminating
            && selector
                .as_ref()
                .is_some_and(|selector| selector.matches(&|key: &str| group.labels.get(key).and_then(Value::as_str)))
    });
    Some(Constraint {
        key: constraint["topologyKey"].as_str().filter(|key| !key.is_empty())?.to_owned(),
        hard: constraint["whenUnsatisfiable"] != "ScheduleAnyway",
        skew_max: constraint["maxSkew"].as_i64().unwrap_or(1),
        domains_min: constraint["minDomains"].as_i64().unwrap_or(1),
        own: i64::from(own),
        honours_affinity: constraint["nodeAffinityPolicy"] != "Ignore",
        honours_taints: constraint["nodeTaintsPolicy"] == "Honor",
        asked,
        places: BTreeMap::new(),
        weight: 1.0,
    })
}

/// What selects the pod together with those that it serves with: the services and the controller that it belongs to.
fn default_selector(pod: &PodFacts, facts: Facts<'_>) -> Option<LabelSelector> {
    let mut selector = LabelSelector::default();
    let mut add = |requirement: Requirement| {
        if !selector.requirements.contains(&requirement) {
            selector.requirements.push(requirement);
        }
    };
    for service in facts.view.services_of(pod.namespace(), pod.labels()) {
        for (key, value) in meta::map_at(service, &["spec", "selector"]) {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            add(Requirement { key: key.clone(), operator: Operator::In, values });
        }
    }
    let owner = meta::owners(&pod.pod).into_iter().find(|owner| owner.controller);
    if let Some(owner) = owner {
        let kinds = [Kind::ReplicaSet, Kind::StatefulSet, Kind::ReplicationController];
        let found = kinds.into_iter().find(|kind| kind.as_str() == owner.kind);
        let object = found.and_then(|kind| Some((kind, facts.view.get(kind, pod.namespace(), &owner.name)?)));
        if let Some((kind, object)) = object {
            let wanted = &object["spec"]["selector"];
            let plain = serde_json::json!({"matchLabels": wanted});
            let wanted = if kind == Kind::ReplicationController { &plain } else { wanted };
            let parsed = LabelSelector::from_object(wanted).unwrap_or_default();
            parsed.requirements.into_iter().for_each(add);
        }
    }
    (!selector.is_empty()).then_some(selector)
}

impl Constraint<'_> {
    /// Whether the pods of all nodes count.
    fn counts_all(&self, pod: &PodFacts, facts: Facts<'_>) -> bool {
        facts.are_real() && !self.honours_taints && (!self.honours_affinity || affinity::selects_all(pod))
    }

    /// Whether the pods of a node count.
    fn counts(&self, pod: &PodFacts, node: &NodeFacts) -> bool {
        (!self.honours_affinity || affinity::selects(pod, node))
            && (!self.honours_taints || taints::refused(pod, node).is_none())
    }
}

fn count_hard(hard: &mut [Constraint<'_>], pod: &PodFacts, facts: Facts<'_>) {
    if hard.is_empty() {
        return;
    }
    let keys: Vec<String> = hard.iter().map(|constraint| constraint.key.clone()).collect();
    for node in facts.nodes.iter().filter(|node| keys.iter().all(|key| node.label(key).is_some())) {
        for constraint in hard.iter_mut() {
            if constraint.counts(pod, node) {
                let count = constraint.asked.count(&node.groups);
                add(&mut constraint.places, node.label(&constraint.key).unwrap_or_default(), count);
            }
        }
    }
}

fn count_soft(soft: &mut [Constraint<'_>], pod: &PodFacts, facts: Facts<'_>, needs_all: bool) {
    let keys: Vec<String> = soft.iter().map(|constraint| constraint.key.clone()).collect();
    for constraint in soft.iter_mut() {
        // A host is counted when it is looked at.
        let size = if constraint.key == HOSTNAME {
            facts.nodes.len()
        } else if constraint.key == ZONE && (keys.len() == 1 || !needs_all) && constraint.counts_all(pod, facts) {
            for (name, zone) in &facts.cluster.zones {
                constraint.places.insert(name.clone(), constraint.asked.count_all(&zone.groups));
            }
            constraint.places.len()
        } else {
            let all_keys = |node: &NodeFacts| !needs_all || keys.iter().all(|key| node.label(key).is_some());
            for node in facts.nodes {
                let count = constraint.asked.count(&node.groups);
                let label = if constraint.key == ZONE { node.zone.as_deref() } else { node.label(&constraint.key) };
                if let Some(place) = label
                    && (keys.len() == 1 || all_keys(node))
                    && constraint.counts(pod, node)
                {
                    add(&mut constraint.places, place, count);
                }
            }
            constraint.places.len()
        };
        constraint.weight = (size as f64 + 2.0).ln();
    }
}

fn add(places: &mut BTreeMap<String, i64>, place: &str, count: i64) {
    match places.get_mut(place) {
        Some(have) => *have += count,
        None => drop(places.insert(place.to_owned(), count)),
    }
}

/// The score of a node that cannot be compared: the worst.
const NOWHERE: i64 = i64::MIN;

impl Judge for Wants<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        for constraint in &self.hard {
            let Some(place) = node.label(&constraint.key) else {
                let text = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Refusal::lasting(text));
            };
            let few = (constraint.places.len() as i64) < constraint.domains_min;
            let least = if few { 0 } else { constraint.places.values().min().copied().unwrap_or(0) };
            let here = constraint.places.get(place).copied().unwrap_or(0) + constraint.own;
            if here - least > constraint.skew_max {
                return Err(Refusal::curable("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    fn score(&self, node: &NodeFacts) -> i64 {
        let mut sum = 0.0;
        for constraint in &self.soft {
            let count = if constraint.key == HOSTNAME {
                node.hostname.as_ref().map(|_| constraint.asked.count(&node.groups))
            } else {
                let place = if constraint.key == ZONE { node.zone.as_deref() } else { node.label(&constraint.key) };
                place.map(|place| constraint.places.get(place).copied().unwrap_or(0))
            };
            match count {
                Some(count) => sum += count as f64 * constraint.weight + (constraint.skew_max - 1) as f64,
                None if self.needs_all => return NOWHERE,
                None => {}
            }
        }
        sum.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        if self.soft.is_empty() {
            return;
        }
        let known = || scores.iter().copied().filter(|score| *score != NOWHERE);
        let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        for score in scores.iter_mut() {
            *score = match *score {
                NOWHERE => 0,
                _ if most == 0 => SCORE_MAX,
                score => SCORE_MAX * (most + least - score) / most,
            };
        }
    }
}
