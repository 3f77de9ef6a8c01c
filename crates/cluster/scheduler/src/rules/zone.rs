//! Volumes that are in one zone or region, by their labels.

use cache::Kind;
use resources::{Value, meta};

use super::{Happened, Judge, Refusal, Rule};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

/// Each label with its older name.
const LABELS: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];

pub struct Zone;

/// Labels with the values that will do.
struct Wants(Vec<(String, Vec<String>)>);

impl Rule for Zone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        let mut wants = Vec::new();
        for name in &pod.claims {
            let claim = facts.view.get(Kind::Claim, pod.namespace(), name);
            let volume = claim.map(|claim| meta::str_at(claim, &["spec", "volumeName"])).unwrap_or_default();
            let Some(volume) = facts.view.get(Kind::Volume, "", volume) else { continue };
            for key in LABELS.iter().flat_map(|(new, old)| [new, old]) {
                if let Some(value) = meta::at(volume, &["metadata", "labels", key]).and_then(Value::as_str) {
                    wants.push(((*key).to_owned(), value.split("__").map(str::to_owned).collect()));
                }
            }
        }
        (!wants.is_empty()).then(|| Box::new(Wants(wants)) as Box<dyn Judge>)
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::NodeChanged | Happened::VolumesChanged)
    }
}

/// A node's value of a label or of its other name.
fn value<'n>(node: &'n NodeFacts, key: &str) -> Option<&'n str> {
    let other = LABELS.iter().find_map(|(new, old)| match key {
        key if key == *new => Some(*old),
        key if key == *old => Some(*new),
        _ => None,
    });
    node.label(key).or_else(|| node.label(other?))
}

impl Judge for Wants {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        // A node that says nothing of zones is in every zone: clusters without zones have such nodes only.
        let names_any = LABELS.iter().any(|(new, old)| node.label(new).is_some() || node.label(old).is_some());
        let fits = self
            .0
            .iter()
            .all(|(key, wanted)| value(node, key).is_some_and(|have| wanted.iter().any(|wanted| wanted == have)));
        match !names_any || fits {
            true => Ok(()),
            false => Err(Refusal::lasting("node(s) had no available volume zone")),
        }
    }
}
