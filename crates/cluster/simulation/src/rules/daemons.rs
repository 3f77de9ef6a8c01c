//! A DaemonSet has one pod on a node, and a second only while it surges or while nobody knows whether the first was made.

use cache::Kind;
use resources::{Value, meta};

use super::{Change, Rule, Truth, is_active, owner};

/// The node that a daemon's pod is for, also before it is bound.
pub fn meant_for(pod: &Value) -> &str {
    let bound = meta::str_at(pod, &["spec", "nodeName"]);
    if !bound.is_empty() {
        return bound;
    }
    let path = ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let terms =
        meta::at(pod, &path).map(|required| meta::list_at(required, &["nodeSelectorTerms"])).unwrap_or_default();
    let fields = terms.iter().flat_map(|term| meta::list_at(term, &["matchFields"]));
    fields.filter_map(|field| field["values"][0].as_str()).next().unwrap_or_default()
}

pub struct OneOnANode;

impl Rule for OneOnANode {
    fn check(&mut self, truth: &Truth, change: &Change) -> Result<(), String> {
        let (Kind::Pod, Some(pod), None) = (change.kind, &change.after, &change.before) else { return Ok(()) };
        let Some((key, uid)) = owner(pod, Kind::DaemonSet) else { return Ok(()) };
        let Some(set) = truth.view.at(Kind::DaemonSet, &key).filter(|set| meta::uid(set) == uid) else { return Ok(()) };
        let node = meant_for(pod);
        let there =
            truth.view.owned(Kind::Pod, &uid).filter(|other| is_active(other) && meant_for(other) == node).count();
        let surge = set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"].clone();
        let surges = !(surge.is_null() || surge == 0 || surge == "0%");
        let most = 1 + u64::from(surges) + truth.doubtful();
        match there as u64 <= most {
            true => Ok(()),
            false => Err(format!("daemon set {key} has {there} pods for node {node:?}")),
        }
    }
}
