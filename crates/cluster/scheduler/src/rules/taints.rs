//! Taints and tolerations.

use resources::{Value, meta};

use super::Refusal;
use crate::{Facts, NodeFacts, PodFacts};

/// Whether a pod's spec tolerates a taint.
pub fn tolerates(spec: &Value, taint: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    meta::list_at(spec, &["tolerations"]).iter().any(|toleration| {
        let effect = text(&toleration["effect"]);
        if !effect.is_empty() && effect != text(&taint["effect"]) {
            return false;
        }
        let (key, exists) = (text(&toleration["key"]), toleration["operator"] == "Exists");
        if key.is_empty() {
            return exists;
        }
        key == text(&taint["key"]) && (exists || text(&toleration["value"]) == text(&taint["value"]))
    })
}

pub fn filter(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> Result<(), Refusal> {
    let hard = |taint: &&Value| matches!(taint["effect"].as_str(), Some("NoSchedule" | "NoExecute"));
    let refused =
        meta::list_at(&node.node, &["spec", "taints"]).iter().filter(hard).find(|taint| !tolerates(pod.spec(), taint));
    match refused {
        None => Ok(()),
        Some(taint) => {
            let (key, value) = (taint["key"].as_str().unwrap_or_default(), taint["value"].as_str().unwrap_or_default());
            Err(Refusal::lasting(format!("node(s) had untolerated taint {{{key}: {value}}}")))
        }
    }
}

pub fn score(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> i64 {
    let soft = meta::list_at(&node.node, &["spec", "taints"])
        .iter()
        .filter(|taint| taint["effect"] == "PreferNoSchedule" && !tolerates(pod.spec(), taint))
        .count();
    100 - (soft as i64 * 25).min(100)
}
