//! Nodes whose agent falls silent: their conditions become unknown, and taints keep pods away and drive them out.

use std::collections::BTreeMap;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, decode, meta};
use serde_json::json;

use crate::pods;

/// How long a node may be silent.
const GRACE: Duration = Duration::from_secs(50);
const LEASES: &str = "kube-node-lease";
/// How often somebody looks, whatever happens: a longer pause is one in which nothing was heard because nobody listened.
const TICK: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(25);
/// Conditions that nobody knows when the agent does not tell.
const TOLD: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const PREFIX: &str = "node.kubernetes.io/";
/// Taints that are ours to set and to take away.
const OURS: [&str; 7] = [
    "not-ready",
    "unreachable",
    "unschedulable",
    "memory-pressure",
    "disk-pressure",
    "pid-pressure",
    "network-unavailable",
];

/// What a node last said, and when we heard it: clocks of nodes may differ from ours.
#[derive(Debug, Clone)]
struct Heard {
    said: (String, String),
    at: Timestamp,
}

#[derive(Default)]
pub struct NodeLifecycle {
    heard: BTreeMap<String, Heard>,
    /// Silence counts from here on: before, the API did not answer, or this process did not run.
    listening: Timestamp,
    /// When a node was looked at last.
    looked: Timestamp,
}

impl NodeLifecycle {
    /// For how long a node has been silent while somebody listened.
    fn silent(&mut self, node: &str, said: (String, String), now: Timestamp) -> Duration {
        if elapsed(self.looked, now) > PAUSE_MAX {
            self.listening = now;
        }
        self.looked = now;
        let heard = self.heard.entry(node.to_owned()).or_insert_with(|| Heard { said: said.clone(), at: now });
        if heard.said != said {
            *heard = Heard { said, at: now };
        }
        elapsed(heard.at.max(self.listening), now)
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

impl Part for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Lease, Kind::Pod]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Node => vec![Key::of(object)],
            Kind::Lease if meta::namespace(object) == LEASES => vec![Key::new("", meta::name(object))],
            Kind::Lease => Vec::new(),
            // A pod of a node that is silent already is not ready either.
            _ => {
                let node = meta::str_at(object, &["spec", "nodeName"]);
                let silent = view.get(Kind::Node, "", node).is_some_and(|node| ready(node) != "True");
                if silent { vec![Key::new("", node)] } else { Vec::new() }
            }
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(node) = view.at(Kind::Node, key) else {
            self.heard.remove(&key.name);
            return Outcome::default();
        };
        let lease = view.get(Kind::Lease, LEASES, &key.name);
        let renewed = lease.map_or("", |lease| meta::str_at(lease, &["spec", "renewTime"])).to_owned();
        let beat = pods::condition(node, "Ready").map(|condition| condition["lastHeartbeatTime"].to_string());
        let said = (renewed, beat.unwrap_or_default());
        let silent = self.silent(&key.name, said, now);
        let mut writes = Vec::new();
        let mut state = (**node).clone();
        if silent >= GRACE && TOLD.iter().any(|kind| status_of(node, kind) != "Unknown") {
            let unknown: Vec<Value> = TOLD.iter().map(|kind| unknown(node, kind, now)).collect();
            for condition in &unknown {
                put(&mut state, condition.clone());
            }
            let patch = json!({"status": {"conditions": unknown}});
            writes.push(Write::Strategic { kind: Kind::Node, key: key.clone(), sub: "status", patch });
            let text = format!("Node {} status is now: NodeNotReady", key.name);
            writes.push(Write::normal(Kind::Node, node, "NodeNotReady", text));
        }
        if ready(&state) != "True" {
            for pod in view.pods_on(&key.name).filter(|pod| pods::is_ready(pod)) {
                let condition =
                    json!({"type": "Ready", "status": "False", "lastTransitionTime": decode::format_time(now, 0)});
                let patch = json!({"status": {"conditions": [condition]}});
                writes.push(Write::Strategic { kind: Kind::Pod, key: Key::of(pod), sub: "status", patch });
                writes.push(Write::warning(Kind::Pod, pod, "NodeNotReady", "Node is not ready"));
            }
        }
        let have = meta::list_at(node, &["spec", "taints"]);
        let wanted = taints(&state, have, now);
        if wanted != have {
            // Whoever else changes taints meanwhile is not overwritten.
            let patch = json!({"metadata": {"resourceVersion": meta::resource_version(node)},
                "spec": {"taints": if wanted.is_empty() { Value::Null } else { wanted.into() }}});
            // Before the status, which makes a new version.
            writes.insert(0, Write::Merge { kind: Kind::Node, key: key.clone(), sub: "", patch });
        }
        let mut outcome = Outcome::of(writes);
        if silent < GRACE {
            outcome = outcome.after(GRACE - silent);
        }
        // One node is enough to tell whether time passes unseen.
        match self.heard.first_key_value().is_some_and(|(first, _)| *first == key.name) {
            true => outcome.after(TICK),
            false => outcome,
        }
    }

    fn unanswered(&mut self, now: Timestamp) {
        self.listening = now;
    }
}

fn status_of<'a>(node: &'a Value, kind: &str) -> &'a str {
    pods::condition(node, kind).and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

/// `True`, `False`, `Unknown`, or nothing yet.
fn ready(node: &Value) -> &str {
    status_of(node, "Ready")
}

fn unknown(node: &Value, kind: &str, now: Timestamp) -> Value {
    let stamp = decode::format_time(now, 0);
    match pods::condition(node, kind) {
        None => json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
            "message": "Kubelet never posted node status.", "lastHeartbeatTime": node["metadata"]["creationTimestamp"],
            "lastTransitionTime": stamp}),
        Some(have) => json!({"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.", "lastHeartbeatTime": have["lastHeartbeatTime"],
            "lastTransitionTime": if have["status"] == "Unknown" { have["lastTransitionTime"].clone() } else { stamp.into() }}),
    }
}

fn put(node: &mut Value, condition: Value) {
    let list = meta::object_at(node, &["status"]).entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.retain(|have| have["type"] != condition["type"]);
        list.push(condition);
    }
}

/// The taints of a node in this state: other people's, and ours.
fn taints(node: &Value, have: &[Value], now: Timestamp) -> Vec<Value> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready(node) {
        "True" => {}
        "Unknown" => wanted.extend([("unreachable", "NoSchedule"), ("unreachable", "NoExecute")]),
        // A new node is not ready until its agent says so.
        "" => wanted.push(("not-ready", "NoSchedule")),
        _ => wanted.extend([("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]),
    }
    for (kind, key) in [
        ("MemoryPressure", "memory-pressure"),
        ("DiskPressure", "disk-pressure"),
        ("PIDPressure", "pid-pressure"),
        ("NetworkUnavailable", "network-unavailable"),
    ] {
        if status_of(node, kind) == "True" {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node["spec"]["unschedulable"] == true {
        wanted.push(("unschedulable", "NoSchedule"));
    }
    let key = |taint: &Value| taint["key"].as_str().unwrap_or_default().to_owned();
    let is = |taint: &Value, (name, effect): (&str, &str)| {
        key(taint).strip_prefix(PREFIX) == Some(name) && taint["effect"] == effect
    };
    let ours = |taint: &Value| {
        let name = key(taint);
        name.strip_prefix(PREFIX).is_some_and(|name| OURS.contains(&name)) && taint["effect"] != "PreferNoSchedule"
    };
    let mut taints: Vec<Value> =
        have.iter().filter(|taint| !ours(taint) || wanted.iter().any(|one| is(taint, *one))).cloned().collect();
    for (name, effect) in wanted {
        if !taints.iter().any(|taint| is(taint, (name, effect))) {
            let stamp = decode::format_time(now, 0);
            taints.push(json!({"key": format!("{PREFIX}{name}"), "effect": effect, "timeAdded": stamp}));
        }
    }
    taints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn world() -> World {
        let mut world = World::new();
        world.node("n");
        world.put(Kind::Lease, json!({"metadata": {"name": "n", "namespace": LEASES}, "spec": {"renewTime": "1"}}));
        world.put(Kind::Pod, json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n"}}));
        world.ready("p");
        world
    }

    fn look(world: &mut World, part: &mut NodeLifecycle) -> Option<Duration> {
        let outcome = world.look(part, &Key::new("", "n"));
        world.apply(outcome.writes);
        outcome.again
    }

    /// Time passes, and the part looks as often as it asks to.
    fn wait(world: &mut World, part: &mut NodeLifecycle, secs: i64) {
        for _ in 0..secs {
            world.pass(1);
            look(world, part);
        }
    }

    fn shown(world: &World) -> Vec<String> {
        let node = world.find(Kind::Node, "n");
        let taints = meta::list_at(&node, &["spec", "taints"]).iter();
        taints
            .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_comes_back() {
        let (mut world, mut part) = (world(), NodeLifecycle::default());
        assert_eq!(look(&mut world, &mut part), Some(TICK));
        wait(&mut world, &mut part, 40);
        world.change(Kind::Lease, "n", |lease| lease["spec"]["renewTime"] = "2".into());
        assert_eq!(look(&mut world, &mut part), Some(TICK));
        wait(&mut world, &mut part, 49);
        assert_eq!(look(&mut world, &mut part), Some(Duration::from_secs(1)));
        assert_eq!(ready(&world.find(Kind::Node, "n")), "True");
        world.pass(1);
        look(&mut world, &mut part);
        look(&mut world, &mut part);
        let node = world.find(Kind::Node, "n");
        let condition = pods::condition(&node, "Ready").unwrap();
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("Unknown"), &json!("NodeStatusUnknown")));
        assert_eq!(pods::condition(&node, "PIDPressure").unwrap()["reason"], "NodeStatusNeverUpdated");
        let both = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
        assert_eq!(shown(&world), both);
        assert!(!pods::is_ready(&world.find(Kind::Pod, "p")));
        assert_eq!(
            world.events,
            ["NodeNotReady: Node n status is now: NodeNotReady", "NodeNotReady: Node is not ready"]
        );
        assert!(world.look(&mut part, &Key::new("", "n")).writes.is_empty(), "once");
        world.change(Kind::Node, "n", |node| {
            put(node, json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "3"}))
        });
        look(&mut world, &mut part);
        assert!(shown(&world).is_empty());
    }

    #[test]
    fn silence_counts_only_while_somebody_listens() {
        // The process stood still for two minutes: what nodes said meanwhile is yet to be read.
        let (mut world, mut part) = (world(), NodeLifecycle::default());
        look(&mut world, &mut part);
        world.pass(120);
        assert!(world.look(&mut part, &Key::new("", "n")).writes.is_empty());
        wait(&mut world, &mut part, 49);
        assert!(shown(&world).is_empty());
        // The API answers nothing: nobody can say more than it let them.
        part.unanswered(world.now);
        wait(&mut world, &mut part, 49);
        assert!(shown(&world).is_empty());
        wait(&mut world, &mut part, 1);
        look(&mut world, &mut part);
        assert_eq!(shown(&world).len(), 2, "but then it is the node that is silent");
    }

    #[test]
    fn taints_say_what_is_wrong() {
        for (conditions, unschedulable, expected) in [
            (json!([]), false, vec!["not-ready:NoSchedule"]),
            (json!([{"type": "Ready", "status": "False"}]), false, vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
            (
                json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]),
                true,
                vec!["disk-pressure:NoSchedule", "unschedulable:NoSchedule"],
            ),
        ] {
            let (mut world, mut part) = (world(), NodeLifecycle::default());
            world.change(Kind::Node, "n", |node| {
                node["status"]["conditions"] = conditions.clone();
                node["spec"] = json!({"unschedulable": unschedulable, "taints": [
                    {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"}]});
            });
            look(&mut world, &mut part);
            let mut all = vec!["mine:NoSchedule".to_owned()];
            all.extend(expected.iter().map(|one| format!("{PREFIX}{one}")));
            assert_eq!(shown(&world), all);
        }
    }
}
