//! Node selector and node affinity.

use resources::selector::LabelSelector;
use resources::{Value, meta};
use serde_json::json;

use super::Refusal;
use crate::{Facts, NodeFacts, PodFacts};

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

pub fn filter(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> Result<(), Refusal> {
    let spec = pod.spec();
    let selected = meta::map_at(spec, &["nodeSelector"]).all(|(key, value)| node.label(key) == value.as_str());
    let required = meta::at(spec, &["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
    let terms = required.map(|required| meta::list_at(required, &["nodeSelectorTerms"]));
    if selected && terms.is_none_or(|terms| terms.iter().any(|term| matches_term(term, &node.node))) {
        return Ok(());
    }
    Err(Refusal::lasting("node(s) didn't match Pod's node affinity/selector"))
}

pub fn score(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> i64 {
    let path = ["affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
    let preferred = meta::list_at(pod.spec(), &path);
    let weight = |term: &Value| term["weight"].as_i64().unwrap_or(0);
    let all: i64 = preferred.iter().map(weight).sum();
    let met: i64 = preferred.iter().filter(|term| matches_term(&term["preference"], &node.node)).map(weight).sum();
    if all == 0 { 0 } else { met * 100 / all }
}
