//! Claims that are for one pod alone.

use cache::{Key, Kind};
use resources::meta;

use super::{Happened, Judge, Refusal, Rule};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

pub struct Restrictions;

/// Claims of the pod that are for one pod alone, and that others have.
struct Taken<'a> {
    claims: Vec<Key>,
    facts: Facts<'a>,
}

impl Rule for Restrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        let taken = pod.claims.iter().filter(|name| {
            let claim = facts.view.get(Kind::Claim, pod.namespace(), name);
            let alone = claim.is_some_and(|claim| {
                meta::list_at(claim, &["spec", "accessModes"]).iter().any(|mode| mode == "ReadWriteOncePod")
            });
            alone && facts.cluster.claim_users.contains_key(&Key::new(pod.namespace(), *name))
        });
        let claims: Vec<Key> = taken.map(|name| Key::new(pod.namespace(), name)).collect();
        (!claims.is_empty()).then(|| Box::new(Taken { claims, facts }) as Box<dyn Judge>)
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::PodLeft | Happened::VolumesChanged)
    }
}

fn users(node: &NodeFacts, claim: &Key) -> usize {
    let uses = |pod: &&std::sync::Arc<PodFacts>| pod.namespace() == claim.namespace && pod.claims.contains(&claim.name);
    node.all_pods().filter(uses).count()
}

impl Judge for Taken<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        // The node may be shown without some of its pods.
        let taken = self.claims.iter().any(|claim| {
            let all = self.facts.cluster.claim_users.get(claim).copied().unwrap_or(0);
            let really = self.facts.cluster.find(&node.name).map_or(0, |node| users(node, claim));
            all - really + users(node, claim) > 0
        });
        if !taken {
            return Ok(());
        }
        let text = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        Err(Refusal::curable(text))
    }
}
