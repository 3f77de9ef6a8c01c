//! Claims: there, bound or waiting for the pod, and on volumes that the node can reach.

use cache::Kind;
use resources::{Value, meta};

use super::{Refusal, affinity};
use crate::{Facts, NodeFacts, PodFacts};

/// Names of the claims that a pod uses.
pub fn claims(pod: &Value) -> Vec<String> {
    let volumes = meta::list_at(pod, &["spec", "volumes"]).iter();
    volumes
        .filter_map(|volume| match volume.get("ephemeral") {
            Some(ephemeral) if !ephemeral.is_null() => {
                Some(format!("{}-{}", meta::name(pod), volume["name"].as_str().unwrap_or_default()))
            }
            _ => volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned),
        })
        .collect()
}

/// Whether an unbound claim's volume is made only when the node of its first pod is known.
pub fn waits_for_pod(view: &cache::View, claim: &Value) -> bool {
    let class = meta::str_at(claim, &["spec", "storageClassName"]);
    view.get(Kind::StorageClass, "", class).is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer")
}

pub fn filter(pod: &PodFacts, node: &NodeFacts, facts: &Facts<'_>) -> Result<(), Refusal> {
    for name in claims(&pod.pod) {
        let Some(claim) = facts.view.get(Kind::Claim, pod.namespace(), &name) else {
            return Err(Refusal::lasting(format!("persistentvolumeclaim {name:?} not found")));
        };
        if meta::is_terminating(claim) {
            return Err(Refusal::lasting(format!("persistentvolumeclaim {name:?} is being deleted")));
        }
        let volume = meta::str_at(claim, &["spec", "volumeName"]);
        if volume.is_empty() || meta::str_at(claim, &["status", "phase"]) != "Bound" {
            if !waits_for_pod(facts.view, claim) {
                return Err(Refusal::lasting("pod has unbound immediate PersistentVolumeClaims"));
            }
            let chosen = meta::str_at(claim, &["metadata", "annotations", "volume.kubernetes.io/selected-node"]);
            if !chosen.is_empty() && chosen != node.name() {
                return Err(Refusal::lasting("node(s) had volume node affinity conflict"));
            }
            continue;
        }
        let terms = facts
            .view
            .get(Kind::Volume, "", volume)
            .map(|volume| meta::list_at(volume, &["spec", "nodeAffinity", "required", "nodeSelectorTerms"]));
        if let Some(terms) = terms
            && !terms.is_empty()
            && !terms.iter().any(|term| affinity::matches_term(term, &node.node))
        {
            return Err(Refusal::lasting("node(s) had volume node affinity conflict"));
        }
    }
    Ok(())
}
