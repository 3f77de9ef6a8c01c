//! Nodes that take nothing new, and pods that name their node.

use resources::placement::tolerates;

use super::{Happened, Judge, Refusal, Rule};
use crate::facts::Facts;
use crate::nodes::NodeFacts;
use crate::pods::PodFacts;
use crate::profile::Profile;

/// A cordoned node.
pub struct Unschedulable;

struct Cordoned;

impl Rule for Unschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        let taint = serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        (!tolerates(pod.spec(), &taint)).then(|| Box::new(Cordoned) as Box<dyn Judge>)
    }

    fn may_help(&self, happened: Happened) -> bool {
        matches!(happened, Happened::NodeCame | Happened::NodeChanged)
    }
}

impl Judge for Cordoned {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        match node.unschedulable {
            true => Err(Refusal::lasting("node(s) were unschedulable")),
            false => Ok(()),
        }
    }
}

/// A pod that is meant for one node.
pub struct Name;

struct Named<'a>(&'a str);

impl Rule for Name {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn judge<'a>(&self, pod: &'a PodFacts, _: Facts<'a>, _: &'a Profile) -> Option<Box<dyn Judge + 'a>> {
        let name = pod.spec()["nodeName"].as_str().filter(|name| !name.is_empty())?;
        Some(Box::new(Named(name)))
    }

    fn may_help(&self, happened: Happened) -> bool {
        happened == Happened::NodeCame
    }
}

impl Judge for Named<'_> {
    fn filter(&self, node: &NodeFacts) -> Result<(), Refusal> {
        match node.name == self.0 {
            true => Ok(()),
            false => Err(Refusal::lasting("node(s) didn't match the requested node name")),
        }
    }
}
