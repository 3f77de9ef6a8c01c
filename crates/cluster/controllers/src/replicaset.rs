//! ReplicaSets and ReplicationControllers have as many pods as they say.

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use crate::Names;
use crate::pods;

/// Pods made or ended for one set at a time: the next look goes on.
const BURST: usize = 500;

pub struct ReplicaSets {
    names: Names,
}

impl ReplicaSets {
    pub fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Part for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::ReplicaSet, Kind::Pod]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::ReplicaSet => vec![Key::of(object)],
            _ => pods::owner_keys(view, Kind::ReplicaSet, object),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.at(Kind::ReplicaSet, key) else { return Outcome::default() };
        let mut writes = Vec::new();
        let claimed = pods::claim(view, Kind::Pod, Kind::ReplicaSet, set, &mut writes);
        let mut active: Vec<_> = claimed.iter().copied().filter(|pod| pods::is_active(pod)).collect();
        let wanted = set["spec"]["replicas"].as_i64().unwrap_or(1).max(0) as usize;
        if !meta::is_terminating(set) && wanted > active.len() {
            for _ in 0..(wanted - active.len()).min(BURST) {
                let (name, base) = pods::one_of_many(set, &self.names.suffix());
                let mut pod = pods::from_template(Kind::ReplicaSet, set, &set["spec"]["template"], &name);
                pod["metadata"]["generateName"] = base.into();
                writes.push(Write::Create(Kind::Pod, pod));
                writes.push(Write::normal(Kind::ReplicaSet, set, "SuccessfulCreate", format!("Created pod: {name}")));
            }
        } else if !meta::is_terminating(set) && wanted < active.len() {
            let everywhere: Vec<&Value> = active.iter().map(|pod| &***pod).collect();
            let node = |pod: &Value| meta::str_at(pod, &["spec", "nodeName"]).to_owned();
            pods::rank_for_deletion(&mut active, |pod| {
                everywhere.iter().filter(|other| node(other) == node(pod)).count()
            });
            for pod in active.iter().take((everywhere.len() - wanted).min(BURST)) {
                writes.push(Write::delete(Kind::Pod, pod));
                let text = format!("Deleted pod: {}", meta::name(pod));
                writes.push(Write::normal(Kind::ReplicaSet, set, "SuccessfulDelete", text));
            }
        }
        let (status, again) = status(set, &claimed, now);
        writes.extend(pods::status_write(Kind::ReplicaSet, set, status));
        Outcome { writes, again }
    }
}

fn status(set: &Value, claimed: &[&std::sync::Arc<Value>], now: Timestamp) -> (Value, Option<std::time::Duration>) {
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let mut again: Option<std::time::Duration> = None;
    let (mut active, mut labelled, mut ready, mut available, mut terminating) = (0, 0, 0, 0, 0);
    let labels = meta::at(set, &["spec", "template", "metadata", "labels"]).and_then(Value::as_object);
    for pod in claimed {
        if pods::is_ended(pod) {
            continue;
        }
        if meta::is_terminating(pod) {
            terminating += 1;
            continue;
        }
        active += 1;
        let has = |(key, value): (&String, &Value)| meta::at(pod, &["metadata", "labels", key]) == Some(value);
        labelled += i64::from(labels.into_iter().flatten().all(has));
        ready += i64::from(pods::is_ready(pod));
        match pods::available(pod, min_ready, now) {
            Ok(()) => available += 1,
            Err(Some(left)) => again = Some(again.map_or(left, |have| have.min(left))),
            Err(None) => {}
        }
    }
    let mut status = json!({"replicas": active, "observedGeneration": meta::generation(set)});
    for (field, count) in [
        ("fullyLabeledReplicas", labelled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("terminatingReplicas", terminating),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if let Some(conditions) = meta::at(set, &["status", "conditions"]) {
        status["conditions"] = conditions.clone();
    }
    (status, again)
}
