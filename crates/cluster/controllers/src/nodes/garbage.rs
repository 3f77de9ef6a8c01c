//! Pods that nobody will ever end: bound to nodes that have gone, told to end before they had a node, or simply too many that
//! have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};

use crate::pods;

/// A node may be seen later than its pods.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Pods that have ended and are kept to be looked at.
const ENDED_MAX: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub struct PodGarbage {
    ended_max: usize,
    /// Nodes that pods name and nobody knows, and since when.
    missing: BTreeMap<String, Timestamp>,
}

impl Default for PodGarbage {
    fn default() -> Self {
        Self { ended_max: ENDED_MAX, missing: BTreeMap::new() }
    }
}

/// The key under which the number of ended pods is looked at.
fn everything() -> Key {
    Key::new("", "")
}

impl Part for PodGarbage {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Pod if pods::is_ended(object) => vec![Key::of(object), everything()],
            Kind::Pod => {
                // Almost all are on a node that is there, or wait for one: those are not looked at.
                let node = meta::str_at(object, &["spec", "nodeName"]);
                let known = || view.get(Kind::Node, "", node).is_some() && !self.missing.contains_key(node);
                let fine = !meta::is_terminating(object) && (node.is_empty() || known());
                if fine { Vec::new() } else { vec![Key::of(object)] }
            }
            _ => {
                let gone = view.get(Kind::Node, "", meta::name(object)).is_none() || out_of_service(object);
                if gone { view.pods_on(meta::name(object)).map(|pod| Key::of(pod)).collect() } else { Vec::new() }
            }
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        if *key == everything() {
            return Outcome::of(self.too_many(view));
        }
        let Some(pod) = view.at(Kind::Pod, key) else { return Outcome::default() };
        let name = meta::str_at(pod, &["spec", "nodeName"]);
        if name.is_empty() {
            // Nobody has it and nobody will.
            let never = meta::is_terminating(pod) && !pods::is_ended(pod);
            return if never { Outcome::of(end(pod, None, now)) } else { Outcome::default() };
        }
        if let Some(node) = view.get(Kind::Node, "", name) {
            self.missing.remove(name);
            let dead = meta::is_terminating(pod) && out_of_service(node) && !is_ready(node);
            return if dead { Outcome::of(end(pod, None, now)) } else { Outcome::default() };
        }
        let since = *self.missing.entry(name.to_owned()).or_insert(now);
        let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if waited < QUARANTINE {
            return Outcome::default().after(QUARANTINE - waited);
        }
        Outcome::of(end(pod, Some("PodGC: node no longer exists"), now))
    }
}

impl PodGarbage {
    /// The oldest that have ended, beyond the number that is kept.
    fn too_many(&self, view: &View) -> Vec<Write> {
        let mut ended: Vec<&Arc<Value>> = view.ended_pods().filter(|pod| !meta::is_terminating(pod)).collect();
        if ended.len() <= self.ended_max {
            return Vec::new();
        }
        ended.sort_by_key(|pod| (meta::get(pod, "creationTimestamp").to_owned(), Key::of(pod)));
        ended.iter().take(ended.len() - self.ended_max).map(|pod| forced(pod)).collect()
    }
}

fn out_of_service(node: &Value) -> bool {
    meta::list_at(node, &["spec", "taints"]).iter().any(|taint| taint["key"] == OUT_OF_SERVICE)
}

fn is_ready(node: &Value) -> bool {
    pods::condition(node, "Ready").is_some_and(|condition| condition["status"] == "True")
}

fn forced(pod: &Value) -> Write {
    Write::Delete { kind: Kind::Pod, key: Key::of(pod), uid: meta::uid(pod).to_owned(), grace_secs: Some(0) }
}

/// Says how a pod ended that nobody else will report on, and takes it away at once.
fn end(pod: &Value, why: Option<&str>, now: Timestamp) -> Vec<Write> {
    let mut writes = Vec::new();
    if !pods::is_ended(pod) {
        writes.push(match why {
            Some(why) => super::disrupted(pod, "DeletionByPodGC", why, true, now),
            None => Write::Merge {
                kind: Kind::Pod,
                key: Key::of(pod),
                sub: "status",
                patch: serde_json::json!({"status": {"phase": "Failed"}}),
            },
        });
    }
    writes.push(forced(pod));
    writes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::World;

    fn pod(world: &mut World, name: &str, node: &str) {
        world.put(Kind::Pod, json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node}}));
    }

    #[test]
    fn pods_of_nodes_that_have_gone_go_after_a_while() {
        let (mut world, mut part) = (World::new(), PodGarbage::default());
        world.node("here");
        pod(&mut world, "stays", "here");
        pod(&mut world, "lost", "gone");
        pod(&mut world, "waits", "");
        for (name, looked_at) in [("stays", 0), ("lost", 1), ("waits", 0)] {
            let keys = part.keys(&world.view, Kind::Pod, &world.find(Kind::Pod, name));
            assert_eq!(keys.len(), looked_at, "{name}");
        }
        assert_eq!(world.step(&mut part, "lost"), Some(QUARANTINE));
        world.node("gone");
        let lost = world.find(Kind::Pod, "lost");
        assert_eq!(part.keys(&world.view, Kind::Pod, &lost).len(), 1, "that its node is there is to be learnt");
        let node = world.find(Kind::Node, "gone");
        world.view.remove(Kind::Node, &node);
        world.pass(40);
        for name in ["stays", "lost", "waits"] {
            let outcome = world.look(&mut part, &Key::new("d", name));
            assert_eq!(outcome.writes.is_empty(), name != "lost");
            if name == "lost" {
                let [Write::Strategic { patch, .. }, Write::Delete { grace_secs, .. }] = &outcome.writes[..] else {
                    panic!()
                };
                assert_eq!((&patch["status"]["phase"], grace_secs), (&json!("Failed"), &Some(0)));
                assert_eq!(patch["status"]["conditions"][0]["reason"], "DeletionByPodGC");
            }
        }
    }

    #[test]
    fn told_to_end_before_there_was_a_node() {
        let (mut world, mut part) = (World::new(), PodGarbage::default());
        pod(&mut world, "p", "");
        world.change(Kind::Pod, "p", |pod| meta::set(pod, "deletionTimestamp", "2026-01-01T00:00:00Z"));
        world.step(&mut part, "p");
        assert!(world.names(Kind::Pod).is_empty() || world.find(Kind::Pod, "p")["status"]["phase"] == "Failed");
    }

    #[test]
    fn only_so_many_that_ended_are_kept() {
        let (mut world, mut part) = (World::new(), PodGarbage { ended_max: 2, ..PodGarbage::default() });
        world.node("n");
        for name in ["a", "b", "c", "d"] {
            pod(&mut world, name, "n");
            world.pass(1);
        }
        for name in ["c", "b", "a"] {
            world.change(Kind::Pod, name, |pod| pod["status"]["phase"] = "Succeeded".into());
        }
        let outcome = world.look(&mut part, &everything());
        let [Write::Delete { key, .. }] = &outcome.writes[..] else { panic!("{:?}", outcome.writes) };
        assert_eq!(key.name, "a", "the oldest");
    }
}
