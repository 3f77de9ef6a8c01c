//! The best node for a pod, or why each refuses. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;
use crate::rules::{Judge, RULES, Refusal};

/// Why no node can take a pod.
#[derive(Debug, Default)]
pub struct Refusals {
    /// By node, with the rule that refused.
    pub nodes: BTreeMap<String, (&'static str, Refusal)>,
    /// One rule refused whatever the node.
    pub whole: Option<Refusal>,
}

impl Refusals {
    /// Names of the rules that refused.
    pub fn rules(&self) -> Vec<&'static str> {
        let mut rules: Vec<&'static str> = self.nodes.values().map(|(rule, _)| *rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// `2 Insufficient cpu, 1 node(s) were unschedulable`.
    pub fn counted(&self) -> String {
        if let Some(refusal) = &self.whole {
            return refusal.text.clone();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, refusal) in self.nodes.values() {
            *counts.entry(&refusal.text).or_default() += 1;
        }
        let mut parts: Vec<String> = counts.iter().map(|(text, count)| format!("{count} {text}")).collect();
        parts.sort();
        parts.join(", ")
    }
}

/// The rules that have something to say about a pod.
pub struct Judges<'a> {
    filters: Vec<(&'static str, usize)>,
    scores: Vec<(usize, i64)>,
    judges: Vec<Box<dyn Judge + 'a>>,
    /// What a node answers depends on that node alone.
    pub local: bool,
}

impl<'a> Judges<'a> {
    pub fn of(pod: &'a PodFacts, facts: Facts<'a>, profile: &'a Profile) -> Self {
        let (mut filters, mut scores, mut judges, mut local) = (Vec::new(), Vec::new(), Vec::new(), true);
        for rule in RULES {
            let filters_too = rule.filters() && profile.filters_with(rule.name());
            let weight = profile.weight(rule.name());
            if !filters_too && weight == 0 {
                continue;
            }
            let Some(judge) = rule.judge(pod, facts, profile) else { continue };
            if filters_too {
                filters.push((rule.name(), judges.len()));
            }
            if weight > 0 {
                scores.push((judges.len(), weight));
            }
            local &= !matches!(rule.name(), "InterPodAffinity" | "PodTopologySpread");
            judges.push(judge);
        }
        Self { filters, scores, judges, local }
    }

    pub fn filter(&self, node: &NodeFacts) -> Result<(), (&'static str, Refusal)> {
        for (rule, judge) in &self.filters {
            self.judges[*judge].filter(node).map_err(|refusal| (*rule, refusal))?;
        }
        Ok(())
    }

    /// What a rule says about the pod whatever the node.
    fn refuses(&self) -> Option<(&'static str, Refusal)> {
        self.filters.iter().find_map(|(rule, judge)| Some((*rule, self.judges[*judge].refuses()?)))
    }

    /// The best of some nodes; of equals the first.
    fn best<'n>(&self, nodes: &[&'n Arc<NodeFacts>]) -> Option<&'n Arc<NodeFacts>> {
        if nodes.len() < 2 {
            return nodes.first().copied();
        }
        let mut sums = vec![0_i64; nodes.len()];
        let mut scores = Vec::with_capacity(nodes.len());
        for (judge, weight) in &self.scores {
            let judge = &self.judges[*judge];
            scores.clear();
            scores.extend(nodes.iter().map(|node| judge.score(node)));
            judge.normalize(&mut scores);
            sums.iter_mut().zip(&scores).for_each(|(sum, score)| *sum += weight * score);
        }
        let most = sums.iter().copied().max()?;
        sums.iter().position(|sum| *sum == most).map(|place| nodes[place])
    }
}

/// Whether a node can take a pod, also when those come that it is kept for.
pub fn fits(
    pod: &PodFacts,
    node: &Arc<NodeFacts>,
    facts: Facts<'_>,
    profile: &Profile,
    judges: &Judges<'_>,
) -> Result<(), (&'static str, Refusal)> {
    judges.filter(node)?;
    let Some(nominated) = facts.cluster.nominated.get(&node.name) else { return Ok(()) };
    let mut others = nominated
        .values()
        .filter(|(other, _)| other.priority >= pod.priority && other.key != pod.key)
        .filter(|(other, _)| !node.pods.contains_key(&other.key))
        .peekable();
    if others.peek().is_none() {
        return Ok(());
    }
    let mut full = (**node).clone();
    others.for_each(|(other, group)| full.add(other.clone(), *group));
    refilter(pod, full, facts, profile, judges)
}

/// Asks about a node that has other pods than it really has.
pub fn refilter(
    pod: &PodFacts,
    node: NodeFacts,
    facts: Facts<'_>,
    profile: &Profile,
    judges: &Judges<'_>,
) -> Result<(), (&'static str, Refusal)> {
    if judges.local {
        return judges.filter(&node);
    }
    let node = Arc::new(node);
    let nodes = facts.changed(&node);
    Judges::of(pod, Facts { nodes: &nodes, ..facts }, profile).filter(&node)
}

/// The best node that every filter accepts, or why each refuses. The search begins at `start`, which moves on, and ends when
/// enough nodes would do.
pub fn place(pod: &PodFacts, facts: Facts<'_>, profile: &Profile, start: &mut usize) -> Result<String, Refusals> {
    let judges = Judges::of(pod, facts, profile);
    let mut refusals = Refusals::default();
    if let Some((rule, refusal)) = judges.refuses() {
        refusals.nodes = facts.nodes.iter().map(|node| (node.name.clone(), (rule, refusal.clone()))).collect();
        refusals.whole = Some(refusal);
        return Err(refusals);
    }
    let count = facts.nodes.len();
    let enough = profile.enough(count);
    let mut able: Vec<&Arc<NodeFacts>> = Vec::new();
    let mut looked = 0;
    while looked < count && able.len() < enough {
        let node = &facts.nodes[(*start + looked) % count];
        looked += 1;
        match fits(pod, node, facts, profile, &judges) {
            Ok(()) => able.push(node),
            Err(refusal) => drop(refusals.nodes.insert(node.name.clone(), refusal)),
        }
    }
    if count > 0 {
        *start = (*start + looked) % count;
    }
    judges.best(&able).map(|node| node.name.clone()).ok_or(refusals)
}
