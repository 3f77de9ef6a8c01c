//! Pods leave nodes with a NoExecute taint: at once if they do not tolerate it, else when their patience is over.

use std::collections::BTreeMap;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::placement::toleration_covers;
use resources::{Value, meta};

use crate::pods;

#[derive(Default)]
pub struct TaintEviction {
    /// By pod, with its uid: since when its node has had such a taint.
    since: BTreeMap<Key, (String, Timestamp)>,
}

impl Part for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Pod]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Node => {
                let hard = !no_execute(object).is_empty();
                let pods = view.pods_on(meta::name(object));
                pods.map(|pod| Key::of(pod)).filter(|key| hard || self.since.contains_key(key)).collect()
            }
            _ => {
                // Almost no pod is on such a node: the others are not looked at.
                let (key, node) = (Key::of(object), meta::str_at(object, &["spec", "nodeName"]));
                let hard = view.get(Kind::Node, "", node).is_some_and(|node| !no_execute(node).is_empty());
                if hard || self.since.contains_key(&key) { vec![key] } else { Vec::new() }
            }
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(pod) = view.at(Kind::Pod, key) else {
            self.since.remove(key);
            return Outcome::default();
        };
        let uid = meta::uid(pod);
        if self.since.get(key).is_some_and(|(of, _)| of != uid) {
            self.since.remove(key);
        }
        let node = view.get(Kind::Node, "", meta::str_at(pod, &["spec", "nodeName"]));
        let taints = node.map(|node| no_execute(node)).unwrap_or_default();
        if taints.is_empty() || meta::is_terminating(pod) {
            let waited = self.since.remove(key).is_some();
            let cancelled = waited && !meta::is_terminating(pod);
            let text = format!("Cancelling deletion of Pod {key}");
            let told = cancelled.then(|| Write::normal(Kind::Pod, pod, "TaintManagerEviction", text));
            return Outcome::of(told.into_iter().collect());
        }
        let added = taints.iter().filter_map(|taint| pods::time(&taint["timeAdded"])).min();
        let first = || (uid.to_owned(), added.unwrap_or(now).min(now));
        let (_, since) = *self.since.entry(key.clone()).or_insert_with(first);
        let patience = match patience(&pod["spec"], &taints) {
            Patience::Forever => {
                self.since.remove(key);
                return Outcome::default();
            }
            Patience::Secs(secs) => secs,
        };
        let left = patience - now.duration_since(since).as_secs();
        if left > 0 {
            return Outcome::default().after(Duration::from_secs(left.unsigned_abs()));
        }
        self.since.remove(key);
        let text = "Taint manager: deleting due to NoExecute taint";
        Outcome::of(vec![
            super::disrupted(pod, "DeletionByTaintManager", text, false, now),
            Write::delete(Kind::Pod, pod),
            Write::normal(Kind::Pod, pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}")),
        ])
    }
}

fn no_execute(node: &Value) -> Vec<&Value> {
    meta::list_at(node, &["spec", "taints"]).iter().filter(|taint| taint["effect"] == "NoExecute").collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Patience {
    Secs(i64),
    Forever,
}

/// How long a pod stays on a node with these taints: as long as the least patient of the tolerations that it needs.
fn patience(spec: &Value, taints: &[&Value]) -> Patience {
    let tolerations = meta::list_at(spec, &["tolerations"]);
    let mut least = Patience::Forever;
    for taint in taints {
        let covering: Vec<&Value> =
            tolerations.iter().filter(|toleration| toleration_covers(toleration, taint)).collect();
        if covering.is_empty() {
            return Patience::Secs(0);
        }
        for secs in covering.iter().filter_map(|toleration| toleration["tolerationSeconds"].as_i64()) {
            least = match least {
                Patience::Forever => Patience::Secs(secs.max(0)),
                Patience::Secs(have) => Patience::Secs(have.min(secs.max(0))),
            };
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::World;

    #[test]
    fn patience_is_that_of_the_least_patient() {
        let hard = |key: &str| json!({"key": key, "effect": "NoExecute"});
        let (a, b) = (hard("a"), hard("b"));
        let exists = |key: &str, secs: Value| json!({"key": key, "operator": "Exists", "tolerationSeconds": secs});
        for (tolerations, taints, expected) in [
            (json!([]), vec![&a], Patience::Secs(0)),
            (json!([exists("a", json!(300))]), vec![&a], Patience::Secs(300)),
            (json!([exists("a", json!(300)), exists("b", json!(20))]), vec![&a, &b], Patience::Secs(20)),
            (json!([exists("a", json!(300))]), vec![&a, &b], Patience::Secs(0)),
            (json!([exists("a", Value::Null)]), vec![&a], Patience::Forever),
            (json!([{"operator": "Exists"}]), vec![&a, &b], Patience::Forever),
            (json!([exists("a", json!(-5))]), vec![&a], Patience::Secs(0)),
        ] {
            assert_eq!(patience(&json!({"tolerations": tolerations}), &taints), expected, "{tolerations}");
        }
    }

    #[test]
    fn pods_go_when_their_time_is_over_unless_the_node_recovers() {
        let mut world = World::new();
        let mut part = TaintEviction::default();
        world.node("n");
        for name in ["p", "q"] {
            let tolerations =
                json!([{"key": "lost", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
            world.put(
                Kind::Pod,
                json!({"metadata": {"name": name, "namespace": "d"},
                "spec": {"nodeName": "n", "tolerations": tolerations}}),
            );
        }
        world.step(&mut part, "p");
        assert_eq!(part.keys(&world.view, Kind::Pod, &world.find(Kind::Pod, "p")), []);
        world.change(Kind::Node, "n", |node| node["spec"]["taints"] = json!([{"key": "lost", "effect": "NoExecute"}]));
        let node = world.find(Kind::Node, "n");
        assert_eq!(part.keys(&world.view, Kind::Node, &node).len(), 2);
        assert_eq!(part.keys(&world.view, Kind::Pod, &world.find(Kind::Pod, "p")), [Key::new("d", "p")]);
        assert_eq!(world.step(&mut part, "p"), Some(Duration::from_secs(300)));
        assert_eq!(world.step(&mut part, "q"), Some(Duration::from_secs(300)));
        world.pass(300);
        world.step(&mut part, "p");
        let pod = world.find(Kind::Pod, "p");
        assert!(meta::is_terminating(&pod));
        assert_eq!(pods::condition(&pod, "DisruptionTarget").unwrap()["reason"], "DeletionByTaintManager");
        world.change(Kind::Node, "n", |node| node["spec"]["taints"] = json!([]));
        assert_eq!(part.keys(&world.view, Kind::Pod, &world.find(Kind::Pod, "q")), [Key::new("d", "q")], "it waits");
        world.step(&mut part, "q");
        assert!(!meta::is_terminating(&world.find(Kind::Pod, "q")));
        assert_eq!(
            world.events,
            [
                "TaintManagerEviction: Marking for deletion Pod d/p",
                "TaintManagerEviction: Cancelling deletion of Pod d/q"
            ]
        );
    }

    #[test]
    fn the_next_pod_of_a_name_has_its_own_time() {
        let mut world = World::new();
        let mut part = TaintEviction::default();
        world.node("n");
        world.change(Kind::Node, "n", |node| node["spec"]["taints"] = json!([{"key": "lost", "effect": "NoExecute"}]));
        let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n",
            "tolerations": [{"key": "lost", "operator": "Exists", "tolerationSeconds": 300}]}});
        let first = world.put(Kind::Pod, pod.clone());
        assert_eq!(world.step(&mut part, "p"), Some(Duration::from_secs(300)));
        world.pass(200);
        world.view.remove(Kind::Pod, &first);
        let second = world.put(Kind::Pod, pod);
        assert_ne!(meta::uid(&first), meta::uid(&second));
        assert_eq!(world.step(&mut part, "p"), Some(Duration::from_secs(300)));
        world.view.remove(Kind::Pod, &second);
        assert_eq!(part.keys(&world.view, Kind::Pod, &second), [Key::new("d", "p")]);
        world.step(&mut part, "p");
        assert!(part.since.is_empty());
    }
}
