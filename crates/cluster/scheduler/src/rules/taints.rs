//! Taints and tolerations.

use resources::meta;
use resources::placement::{tolerates, untolerated};

use super::{Happened, Judge, Refusal, Rule, normalize_by_most};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

pub struct Taints;

struct Tolerates<'a>(&'a PodFacts);

impl Rule for Taints {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        Some(Box::new(Tolerates(pod)))
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::NodeChanged)
    }
}

/// Whether a pod may not be on a node because of a taint.
pub fn refused(pod: &PodFacts, node: &NodeFacts) -> Option<Refusal> {
    if !node.has_taints {
        return None;
    }
    let taint = untolerated(pod.spec(), &node.node, &["NoSchedule", "NoExecute"])?;
    let text = |name: &str| taint[name].as_str().unwrap_or_default();
    Some(Refusal::lasting(format!("node(s) had untolerated taint {{{}: {}}}", text("key"), text("value"))))
}

impl Judge for Tolerates<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        refused(self.0, node).map_or(Ok(()), Err)
    }

    fn score(&self, node: &NodeFacts) -> i64 {
        if !node.has_taints {
            return 0;
        }
        let taints = meta::list_at(&node.node, &["spec", "taints"]).iter();
        let soft = taints.filter(|taint| taint["effect"] == "PreferNoSchedule" && !tolerates(self.0.spec(), taint));
        soft.count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_most(scores, true);
    }
}
