//! Claims: there, bound or waiting for the pod, and on volumes that the node can reach.

use std::sync::Arc;

use cache::{Kind, View};
use resources::{Value, binding, meta, placement};

use super::{Happened, Judge, Refusal, Rule};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

pub struct Binding;

/// What is to be asked of a node, or why no node will do.
enum Wants<'a> {
    Nowhere(Refusal),
    Claims { unbound: Vec<&'a Arc<Value>>, volumes: Vec<&'a Arc<Value>>, view: &'a View },
}

/// Whether an unbound claim's volume is made only when the node of its first pod is known.
fn waits_for_pod(view: &View, claim: &Value) -> bool {
    let class = binding::class(claim);
    view.get(Kind::StorageClass, "", class).is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer")
}

pub fn is_bound(claim: &Value) -> bool {
    !meta::str_at(claim, &["spec", "volumeName"]).is_empty() && meta::str_at(claim, &["status", "phase"]) == "Bound"
}

impl Rule for Binding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, facts: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        if pod.claims.is_empty() {
            return None;
        }
        let (mut unbound, mut volumes) = (Vec::new(), Vec::new());
        let nowhere = |text: String| Some(Box::new(Wants::Nowhere(Refusal::lasting(text))) as Box<dyn Judge + 'a>);
        for name in &pod.claims {
            let Some(claim) = facts.view.get(Kind::Claim, pod.namespace(), name) else {
                return nowhere(format!("persistentvolumeclaim {name:?} not found"));
            };
            if meta::is_terminating(claim) {
                return nowhere(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if meta::str_at(claim, &["status", "phase"]) == "Lost" {
                let volume = meta::str_at(claim, &["spec", "volumeName"]);
                let text = "bound to non-existent persistentvolume";
                return nowhere(format!("persistentvolumeclaim {name:?} {text} {volume:?}"));
            }
            if is_bound(claim) {
                volumes.extend(facts.view.get(Kind::Volume, "", meta::str_at(claim, &["spec", "volumeName"])));
            } else if waits_for_pod(facts.view, claim) {
                unbound.push(claim);
            } else {
                return nowhere("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        Some(Box::new(Wants::Claims { unbound, volumes, view: facts.view }))
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::NodeChanged | Happened::VolumesChanged)
    }
}

/// Whether the node is where an unbound claim can get its volume: one that is there, or one that can be made.
fn to_be_bound(claim: &Value, node: &NodeFacts, view: &View) -> Result<(), Refusal> {
    let chosen = meta::str_at(claim, &["metadata", "annotations", binding::SELECTED_NODE]);
    if !chosen.is_empty() && chosen != node.name {
        return Err(Refusal::lasting("node(s) had volume node affinity conflict"));
    }
    if binding::best(view.list(Kind::Volume), claim, Some(&node.node)).is_some() {
        return Ok(());
    }
    let class = view.get(Kind::StorageClass, "", binding::class(claim));
    let made = class.is_some_and(|class| {
        let terms = meta::list_at(class, &["allowedTopologies"]);
        let meets = |term: &Value| {
            meta::list_at(term, &["matchLabelExpressions"]).iter().all(|expression| {
                let have = node.label(expression["key"].as_str().unwrap_or_default());
                meta::list_at(expression, &["values"]).iter().any(|value| value.as_str() == have)
            })
        };
        class["provisioner"] != binding::NO_PROVISIONER && (terms.is_empty() || terms.iter().any(meets))
    });
    match made {
        true => Ok(()),
        false => Err(Refusal::lasting("node(s) didn't find available persistent volumes to bind")),
    }
}

impl Judge for Wants<'_> {
    fn refuses(&self) -> Option<Refusal> {
        match self {
            Self::Nowhere(refusal) => Some(refusal.clone()),
            Self::Claims { .. } => None,
        }
    }

    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        let (unbound, volumes, view) = match self {
            Self::Nowhere(refusal) => return Err(refusal.clone()),
            Self::Claims { unbound, volumes, view } => (unbound, volumes, view),
        };
        if volumes.iter().any(|volume| !placement::reaches_volume(volume, &node.node)) {
            return Err(Refusal::lasting("node(s) had volume node affinity conflict"));
        }
        unbound.iter().try_for_each(|claim| to_be_bound(claim, node, view))
    }
}
