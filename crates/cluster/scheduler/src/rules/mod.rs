//! The rules, one a file. A rule looks at a pod once ([`Rule::judge`]) and then says of one node after the other why it cannot
//! take the pod ([`Judge::filter`]) or how good it is ([`Judge::score`]). What has nothing to say about a pod is not asked.

mod affinity;
mod balance;
mod fit;
mod image;
mod limits;
mod node;
mod pods;
mod ports;
mod restrictions;
mod spread;
mod taints;
mod volumes;
mod zone;

use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

/// Why a node cannot take a pod, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    pub text: String,
    /// Taking pods away from the node could help.
    pub curable: bool,
}

impl Refusal {
    pub fn curable(text: impl Into<String>) -> Self {
        Self { text: text.into(), curable: true }
    }

    pub fn lasting(text: impl Into<String>) -> Self {
        Self { text: text.into(), curable: false }
    }
}

/// The most that a node can score by one rule.
pub const SCORE_MAX: i64 = 100;

/// A rule that has looked at a pod.
pub trait Judge {
    /// Why no node whatsoever can take the pod.
    fn refuses(&self) -> Option<Refusal> {
        None
    }

    /// Why the node cannot take the pod.
    fn filter(&self, _node: &NodeFacts) -> Result<(), Refusal> {
        Ok(())
    }

    /// How good the node is, of those that can.
    fn score(&self, _node: &NodeFacts) -> i64 {
        0
    }

    /// Brings the scores of all such nodes to 0 through [`SCORE_MAX`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// What may have happened in the cluster that lets a pod be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    NodeCame,
    /// It has more of something, other labels, or fewer taints.
    NodeChanged,
    /// A pod of a node ended or went.
    PodLeft,
    /// A pod got a node, or other labels.
    PodCame,
    VolumesChanged,
    NamespacesChanged,
}

/// One rule.
pub trait Rule: Sync {
    /// As upstream's configuration names it.
    fn name(&self) -> &'static str;

    /// Looks at a pod; nothing if the rule has nothing to say about it where it filters or where it scores.
    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, profile: &'a Profile) -> Option<Box<dyn Judge + 'a>>;

    /// Whether this rule filters.
    fn filters(&self) -> bool {
        true
    }

    /// Whether a pod that this rule refused could be placed after this.
    fn may_help(&self, happened: Happened) -> bool;
}

/// In the order in which they are asked; the first refusal counts.
pub const RULES: &[&dyn Rule] = &[
    &node::Unschedulable,
    &node::Name,
    &taints::Taints,
    &affinity::Affinity,
    &ports::Ports,
    &fit::Fit,
    &restrictions::Restrictions,
    &limits::Limits,
    &volumes::Binding,
    &zone::Zone,
    &spread::Spread,
    &pods::Pods,
    &balance::Balance,
    &image::Locality,
];

/// Weights of the rules that score, which are upstream's.
pub const WEIGHTS: &[(&str, i64)] = &[
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodeResourcesFit", 1),
    ("NodeResourcesBalancedAllocation", 1),
    ("InterPodAffinity", 2),
    ("PodTopologySpread", 2),
    ("ImageLocality", 1),
];

/// Largest becomes [`SCORE_MAX`], or 0 when the largest is what nobody wants.
fn normalize_by_most(scores: &mut [i64], reverse: bool) {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let share = if most == 0 { 0 } else { *score * SCORE_MAX / most };
        *score = if reverse { SCORE_MAX - share } else { share };
    }
}

pub use volumes::is_bound;
