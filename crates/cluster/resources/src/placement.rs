//! Which nodes a pod's spec speaks of: selectors, required affinity, taints and what tolerates them. Pure; the scheduler and
//! the controllers that care about nodes ask the same questions.

use serde_json::{Value, json};

use crate::meta;
use crate::selector::LabelSelector;

/// Whether a node meets one term of a node selector. An empty term meets nothing.
pub fn matches_term(term: &Value, node: &Value) -> bool {
    let (labels, fields) = (meta::list_at(term, &["matchExpressions"]), meta::list_at(term, &["matchFields"]));
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let by_label = labels.iter().all(|expression| {
        holds(expression, |key| meta::at(node, &["metadata", "labels", key]).and_then(Value::as_str).map(str::to_owned))
    });
    by_label
        && fields
            .iter()
            .all(|expression| holds(expression, |key| (key == "metadata.name").then(|| meta::name(node).to_owned())))
}

fn holds(expression: &Value, value: impl Fn(&str) -> Option<String>) -> bool {
    let have = value(expression["key"].as_str().unwrap_or_default());
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = meta::list_at(expression, &["values"]).first().and_then(Value::as_str).and_then(number);
    let compared = have.as_deref().and_then(number).zip(bound);
    match expression["operator"].as_str().unwrap_or_default() {
        "Gt" => compared.is_some_and(|(have, bound)| have > bound),
        "Lt" => compared.is_some_and(|(have, bound)| have < bound),
        _ => LabelSelector::from_object(&json!({"matchExpressions": [expression]}))
            .is_ok_and(|selector| selector.matches(&|_| have.as_deref())),
    }
}

/// Whether a node meets a pod spec's node selector and required node affinity.
pub fn selects_node(spec: &Value, node: &Value) -> bool {
    let label = |key: &str| meta::at(node, &["metadata", "labels", key]);
    let selected = meta::map_at(spec, &["nodeSelector"]).all(|(key, value)| label(key) == Some(value));
    let required = meta::at(spec, &["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
    let terms = required.map(|required| meta::list_at(required, &["nodeSelectorTerms"]));
    selected && terms.is_none_or(|terms| terms.iter().any(|term| matches_term(term, node)))
}

/// Whether a node can reach a volume.
pub fn reaches_volume(volume: &Value, node: &Value) -> bool {
    let terms = meta::list_at(volume, &["spec", "nodeAffinity", "required", "nodeSelectorTerms"]);
    terms.is_empty() || terms.iter().any(|term| matches_term(term, node))
}

/// Whether one toleration tolerates a taint.
pub fn toleration_covers(toleration: &Value, taint: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let effect = text(&toleration["effect"]);
    if !effect.is_empty() && effect != text(&taint["effect"]) {
        return false;
    }
    let (key, exists) = (text(&toleration["key"]), toleration["operator"] == "Exists");
    if key.is_empty() {
        return exists;
    }
    key == text(&taint["key"]) && (exists || text(&toleration["value"]) == text(&taint["value"]))
}

/// Whether a pod's spec tolerates a taint.
pub fn tolerates(spec: &Value, taint: &Value) -> bool {
    meta::list_at(spec, &["tolerations"]).iter().any(|toleration| toleration_covers(toleration, taint))
}

/// The first taint of a node with one of these effects that a pod's spec does not tolerate.
pub fn untolerated<'a>(spec: &Value, node: &'a Value, effects: &[&str]) -> Option<&'a Value> {
    meta::list_at(node, &["spec", "taints"])
        .iter()
        .filter(|taint| taint["effect"].as_str().is_some_and(|effect| effects.contains(&effect)))
        .find(|taint| !tolerates(spec, taint))
}
