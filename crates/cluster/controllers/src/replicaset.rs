//! ReplicaSets and ReplicationControllers have as many pods as they say.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use crate::Names;
use crate::pods;

/// Pods made or ended for one set at a time: the next look goes on.
const BURST: usize = 500;

/// ReplicaSets, or ReplicationControllers: the same but for the words.
pub struct ReplicaSets {
    names: Names,
    kind: Kind,
    /// What sets read of each pod, by its uid, both as digests: a set of thousands is not looked at because one of its pods got
    /// a node.
    seen: HashMap<u64, u64>,
    /// The last change was one that no set reads.
    unread: bool,
}

impl ReplicaSets {
    pub fn new(names: Names) -> Self {
        Self { names, kind: Kind::ReplicaSet, seen: HashMap::new(), unread: false }
    }

    pub fn of_controllers(names: Names) -> Self {
        Self { names, kind: Kind::ReplicationController, seen: HashMap::new(), unread: false }
    }
}

impl Part for ReplicaSets {
    fn name(&self) -> &'static str {
        if self.kind == Kind::ReplicaSet { "replicaset-controller" } else { "replication-controller" }
    }

    fn watches(&self) -> &'static [Kind] {
        match self.kind {
            Kind::ReplicationController => &[Kind::ReplicationController, Kind::Pod],
            _ => &[Kind::ReplicaSet, Kind::Pod],
        }
    }

    fn notice(&mut self, view: &View, kind: Kind, object: &Value) {
        self.unread = false;
        if kind != Kind::Pod || pods::controller(object).is_some_and(|owner| owner.kind != self.kind.as_str()) {
            return;
        }
        let uid = digest(meta::uid(object));
        let pod = view.at(Kind::Pod, &Key::of(object)).filter(|pod| meta::uid(pod) == meta::uid(object));
        match pod {
            Some(pod) => {
                let read = read_by_sets(pod);
                self.unread = self.seen.insert(uid, read) == Some(read);
            }
            None => drop(self.seen.remove(&uid)),
        }
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Pod if self.unread => Vec::new(),
            kind if kind == self.kind => vec![Key::of(object)],
            _ => pods::owner_keys(view, self.kind, object),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.at(self.kind, key) else { return Outcome::default() };
        let mut writes = Vec::new();
        let claimed = pods::claim(view, Kind::Pod, self.kind, set, &mut writes);
        let mut active: Vec<_> = claimed.iter().copied().filter(|pod| pods::is_active(pod)).collect();
        let wanted = set["spec"]["replicas"].as_i64().unwrap_or(1).max(0) as usize;
        if !meta::is_terminating(set) && wanted > active.len() {
            for _ in 0..(wanted - active.len()).min(BURST) {
                let (name, base) = pods::one_of_many(set, &self.names.suffix());
                let mut pod = pods::from_template(self.kind, set, &set["spec"]["template"], &name);
                pod["metadata"]["generateName"] = base.into();
                writes.push(Write::Create(Kind::Pod, pod));
                writes.push(Write::normal(self.kind, set, "SuccessfulCreate", format!("Created pod: {name}")));
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
                writes.push(Write::normal(self.kind, set, "SuccessfulDelete", text));
            }
        }
        let (status, again) = status(set, &claimed, now);
        writes.extend(pods::status_write(self.kind, set, status));
        Outcome { writes, again }
    }
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Everything of a pod that decides how many its set has, and what the set's status says: a digest.
fn read_by_sets(pod: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for owner in meta::owners(pod) {
        (owner.uid, owner.controller).hash(&mut hasher);
    }
    for (key, value) in meta::map_at(pod, &["metadata", "labels"]) {
        (key, value.as_str()).hash(&mut hasher);
    }
    (meta::is_terminating(pod), pods::is_ended(pod), pods::is_ready(pod)).hash(&mut hasher);
    let ready = pods::condition(pod, "Ready").map(|ready| ready["lastTransitionTime"].as_str());
    ready.hash(&mut hasher);
    hasher.finish()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn world(kind: Kind) -> World {
        let mut world = World::new();
        let selector =
            if kind == Kind::ReplicaSet { json!({"matchLabels": {"app": "w"}}) } else { json!({"app": "w"}) };
        let spec = json!({"replicas": 2, "selector": selector, "template": {"metadata": {"labels": {"app": "w"}}, "spec": {}}});
        world
            .put(kind, json!({"metadata": {"name": "w", "namespace": "d", "uid": "u", "generation": 1}, "spec": spec}));
        world
    }

    #[test]
    fn as_many_pods_as_are_asked_for_under_both_names() {
        for (kind, mut part) in [
            (Kind::ReplicaSet, ReplicaSets::new(Names::new(1))),
            (Kind::ReplicationController, ReplicaSets::of_controllers(Names::new(1))),
        ] {
            let mut world = world(kind);
            world.settle(&mut part, "w");
            assert_eq!(world.live().len(), 2);
            assert_eq!(
                world.view.list(Kind::Pod).next().unwrap()["metadata"]["ownerReferences"][0]["kind"],
                kind.as_str()
            );
            world.all_ready();
            world.settle(&mut part, "w");
            let status = world.find(kind, "w")["status"].clone();
            let expected = json!({"replicas": 2, "observedGeneration": 1, "fullyLabeledReplicas": 2, "readyReplicas": 2,
                "availableReplicas": 2});
            assert_eq!(status, expected);
            assert!(world.events[0].starts_with("SuccessfulCreate: Created pod: w-"));
            // One that is not ready goes first.
            world.change(kind, "w", |set| set["spec"]["replicas"] = 1.into());
            let broken = world.live()[1].clone();
            world.change(Kind::Pod, &broken, |pod| pod["status"]["conditions"] = json!([]));
            world.settle(&mut part, "w");
            assert!(!world.live().contains(&broken));
            assert_eq!(world.events.last().unwrap(), &format!("SuccessfulDelete: Deleted pod: {broken}"));
        }
    }

    #[test]
    fn orphans_are_taken_in_and_strangers_let_go() {
        let (mut world, mut part) = (world(Kind::ReplicaSet), ReplicaSets::new(Names::new(1)));
        world.put(Kind::Pod, json!({"metadata": {"name": "lone", "namespace": "d", "labels": {"app": "w"}}}));
        world.settle(&mut part, "w");
        assert_eq!(
            (world.live().len(), world.find(Kind::Pod, "lone")["metadata"]["ownerReferences"][0]["uid"].as_str()),
            (2, Some("u"))
        );
        world.change(Kind::Pod, "lone", |pod| pod["metadata"]["labels"]["app"] = "other".into());
        world.settle(&mut part, "w");
        assert_eq!(world.live().len(), 3);
        assert_eq!(world.find(Kind::Pod, "lone")["metadata"]["ownerReferences"], json!([]));
    }

    #[test]
    fn a_set_is_looked_at_for_what_it_reads_of_a_pod_alone() {
        let (mut world, mut part) = (world(Kind::ReplicaSet), ReplicaSets::new(Names::new(1)));
        world.settle(&mut part, "w");
        let name = world.live()[0].clone();
        let mut concerned = |world: &mut World, change: &dyn Fn(&mut Value)| {
            world.change(Kind::Pod, &name, change);
            let pod = world.find(Kind::Pod, &name);
            part.notice(&world.view, Kind::Pod, &pod);
            part.keys(&world.view, Kind::Pod, &pod).len()
        };
        let ready = |status: &str, at: &str| json!([{"type": "Ready", "status": status, "lastTransitionTime": at}]);
        assert_eq!(concerned(&mut world, &|_| ()), 1, "nobody had seen it");
        assert_eq!(concerned(&mut world, &|pod| pod["spec"]["nodeName"] = "n1".into()), 0);
        assert_eq!(concerned(&mut world, &|pod| pod["status"]["podIP"] = "10.0.0.1".into()), 0);
        assert_eq!(concerned(&mut world, &|pod| pod["status"]["conditions"] = ready("True", "1")), 1);
        assert_eq!(concerned(&mut world, &|pod| pod["status"]["conditions"] = ready("True", "2")), 1);
        assert_eq!(concerned(&mut world, &|pod| pod["metadata"]["labels"]["app"] = "x".into()), 1);
        assert_eq!(
            concerned(&mut world, &|pod| pod["metadata"]["ownerReferences"] = json!([])),
            0,
            "an orphan of nobody's"
        );
        assert_eq!(concerned(&mut world, &|pod| pod["metadata"]["labels"]["app"] = "w".into()), 1);
        assert_eq!(concerned(&mut world, &|pod| pod["status"]["phase"] = "Failed".into()), 1);
        let gone = world.find(Kind::Pod, &name);
        world.view.remove(Kind::Pod, &gone);
        part.notice(&world.view, Kind::Pod, &gone);
        assert_eq!(part.keys(&world.view, Kind::Pod, &gone).len(), 1);
        assert!(part.seen.is_empty());
    }

    #[test]
    fn a_pod_is_available_after_a_while() {
        let (mut world, mut part) = (world(Kind::ReplicaSet), ReplicaSets::new(Names::new(1)));
        world.change(Kind::ReplicaSet, "w", |set| set["spec"]["minReadySeconds"] = 30.into());
        world.settle(&mut part, "w");
        world.all_ready();
        assert_eq!(world.step(&mut part, "w"), Some(std::time::Duration::from_secs(30)));
        world.pass(30);
        world.settle(&mut part, "w");
        assert_eq!(world.find(Kind::ReplicaSet, "w")["status"]["availableReplicas"], 2);
    }
}
