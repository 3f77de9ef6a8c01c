//! Node selector and node affinity.

use resources::placement::{self, matches_term};
use resources::{Value, meta};

use super::{Happened, Judge, Refusal, Rule, normalize_by_most};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

pub struct Affinity;

struct Wants<'a> {
    pod: &'a PodFacts,
    profile: &'a Profile,
    preferred: &'a [Value],
}

impl Rule for Affinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, profile: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        let spec = pod.spec();
        let nothing = |name: &str| spec.get(name).is_none_or(Value::is_null);
        if nothing("nodeSelector") && spec["affinity"]["nodeAffinity"].is_null() && profile.added_affinity.is_null() {
            return None;
        }
        let path = ["affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
        Some(Box::new(Wants { pod, profile, preferred: meta::list_at(spec, &path) }))
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::NodeChanged)
    }
}

/// Whether a pod's own selector and required affinity let it be on any node.
pub fn selects_all(pod: &PodFacts) -> bool {
    let spec = pod.spec();
    let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    meta::map_at(spec, &["nodeSelector"]).next().is_none() && meta::at(spec, &required).is_none_or(Value::is_null)
}

/// Whether a pod's own selector and required affinity let it be on a node.
pub fn selects(pod: &PodFacts, node: &NodeFacts) -> bool {
    placement::selects_node(pod.spec(), &node.node)
}

impl Judge for Wants<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        // What the profile adds comes first, and says that it was the profile's.
        let added = serde_json::json!({"affinity": {"nodeAffinity": self.profile.added_affinity}});
        if !self.profile.added_affinity.is_null() && !placement::selects_node(&added, &node.node) {
            return Err(Refusal::lasting("node(s) didn't match scheduler-enforced node affinity"));
        }
        match selects(self.pod, node) {
            true => Ok(()),
            false => Err(Refusal::lasting("node(s) didn't match Pod's node affinity/selector")),
        }
    }

    fn score(&self, node: &NodeFacts) -> i64 {
        let path = ["preferredDuringSchedulingIgnoredDuringExecution"];
        let added = meta::list_at(&self.profile.added_affinity, &path);
        let met = self.preferred.iter().chain(added).filter(|term| matches_term(&term["preference"], &node.node));
        met.map(|term| term["weight"].as_i64().unwrap_or(0)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_most(scores, false);
    }
}
