//! The scheduler as a part of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, binding, decode, meta};
use serde_json::json;

use crate::config::Config;
use crate::facts::Cluster;
use crate::place::{self, Judges, Refusals};
use crate::pods::PodFacts;
use crate::preempt;
use crate::profile::Profile;
use crate::queue::Waiters;
use crate::rules::{Happened, is_bound};

/// A pod that found no place is tried again after this time even if nothing is seen that may help.
const RETRY: Duration = Duration::from_secs(300);

/// Binds pods that name no node and one of its profiles.
pub struct Scheduler {
    profiles: Vec<Profile>,
    cluster: Option<Cluster>,
    waiters: Waiters,
    /// Bindings under way: the view does not show them yet. Uid and node.
    assumed: BTreeMap<Key, (String, String)>,
    /// Pods that the last change may help.
    woken: Vec<Key>,
    /// Where the next search begins.
    start: usize,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Scheduler {
    pub const NAME: &str = "default-scheduler";

    pub fn new(config: Config) -> Self {
        let (waiters, assumed, woken) = (Waiters::new(config.backoff), BTreeMap::new(), Vec::new());
        Self { profiles: config.profiles, cluster: None, waiters, assumed, woken, start: 0 }
    }

    /// The profile of a pod, if one of ours is asked for.
    fn profile(&self, pod: &Value) -> Option<&Profile> {
        let name = match meta::str_at(pod, &["spec", "schedulerName"]) {
            "" => Self::NAME,
            name => name,
        };
        self.profiles.iter().find(|profile| profile.name == name)
    }

    fn waits(&self, pod: &Value) -> bool {
        meta::str_at(pod, &["spec", "nodeName"]).is_empty()
            && !meta::is_terminating(pod)
            && !matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
            && self.profile(pod).is_some()
    }

    fn pod_changed(&mut self, view: &View, object: &Value) -> Option<Happened> {
        let key = Key::of(object);
        let now = view.at(Kind::Pod, &key);
        let waits = now.filter(|pod| self.waits(pod)).cloned();
        let cluster = self.cluster.get_or_insert_with(|| Cluster::of(view));
        if let Some(pod) = waits {
            // What is on its way to a node counts there until the view shows otherwise.
            let assumed = self.assumed.get(&key).is_some_and(|(uid, _)| uid == meta::uid(&pod));
            if !assumed {
                self.assumed.remove(&key);
                cluster.pod(&key, Some(&pod));
            }
            if self.waiters.seen(&key, &pod) {
                self.woken.push(key);
            }
            return None;
        }
        self.assumed.remove(&key);
        self.waiters.forget(&key);
        let had = cluster.group_of(&key);
        cluster.pod(&key, now);
        match (had, cluster.group_of(&key)) {
            (Some(_), None) => Some(Happened::PodLeft),
            // Other labels, or being deleted: then it is not counted any more where pods are spread.
            (had, has) if had != has => Some(Happened::PodCame),
            _ => None,
        }
    }

    fn node_changed(&mut self, view: &View, object: &Value) -> Option<Happened> {
        let name = meta::name(object);
        let cluster = self.cluster.get_or_insert_with(|| Cluster::of(view));
        let before = cluster.find(name).map(|node| node.node.clone());
        let now = view.get(Kind::Node, "", name);
        // A heartbeat changes nothing that anybody asks about.
        let same = |one: &Value, other: &Value| {
            let paths: [&[&str]; 4] =
                [&["spec"], &["metadata", "labels"], &["status", "allocatable"], &["status", "images"]];
            paths.iter().all(|path| meta::at(one, path) == meta::at(other, path))
        };
        match (before, now) {
            (None, None) => None,
            (Some(_), None) => {
                cluster.node(name, None);
                None
            }
            (None, Some(node)) => {
                cluster.node(name, Some(node));
                Some(Happened::NodeCame)
            }
            (Some(before), Some(node)) => {
                let changed = !same(&before, node);
                if changed {
                    cluster.node(name, Some(node));
                }
                changed.then_some(Happened::NodeChanged)
            }
        }
    }
}

impl Part for Scheduler {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[
            Kind::Pod,
            Kind::Node,
            Kind::Namespace,
            Kind::Claim,
            Kind::Volume,
            Kind::StorageClass,
            Kind::CsiNode,
            Kind::DisruptionBudget,
            Kind::Service,
            Kind::ReplicaSet,
            Kind::StatefulSet,
            Kind::ReplicationController,
        ]
    }

    fn notice(&mut self, view: &View, kind: Kind, object: &Value) {
        self.woken.clear();
        let happened = match kind {
            Kind::Pod => self.pod_changed(view, object),
            Kind::Node => self.node_changed(view, object),
            Kind::Claim | Kind::Volume | Kind::StorageClass | Kind::CsiNode => Some(Happened::VolumesChanged),
            Kind::Namespace => Some(Happened::NamespacesChanged),
            _ => None,
        };
        if let Some(happened) = happened {
            self.woken.extend(self.waiters.wake(happened));
        }
    }

    fn keys(&self, _: &View, _: Kind, _: &Value) -> Vec<Key> {
        self.woken.clone()
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let mut cluster = self.cluster.take().unwrap_or_else(|| Cluster::of(view));
        let outcome = self.decide(&mut cluster, view, key, now);
        self.cluster = Some(cluster);
        outcome
    }
}

impl Scheduler {
    fn decide(&mut self, cluster: &mut Cluster, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(pod) = view.at(Kind::Pod, key).filter(|pod| self.waits(pod)) else {
            self.assumed.remove(key);
            self.waiters.forget(key);
            cluster.pod(key, view.at(Kind::Pod, key));
            return Outcome::default();
        };
        self.waiters.seen(key, pod);
        let gates = meta::list_at(pod, &["spec", "schedulingGates"]);
        if !gates.is_empty() {
            // A gate that goes is another spec.
            self.waiters.refused(key, Vec::new(), now);
            let text = "Scheduling is blocked due to non-empty scheduling gates";
            return Outcome::of(condition(pod, "SchedulingGated", text, now).into_iter().collect());
        }
        if let Some(wait) = self.waiters.hold(key, now) {
            return Outcome::default().after(wait);
        }
        self.waiters.begin(key);
        let Some(profile) = self.profile(pod).cloned() else { return Outcome::default() };
        // If the answer to its binding was lost it may be there already: nowhere else is safe while it still fits.
        let held = self.assumed.remove(key).filter(|(uid, _)| uid == meta::uid(pod)).map(|(_, node)| node);
        cluster.pod(key, Some(pod));
        let facts = PodFacts::new(pod.clone());
        let wished = held.into_iter().chain([meta::str_at(pod, &["status", "nominatedNodeName"]).to_owned()]);
        let wished: Vec<String> = wished.filter(|node| !node.is_empty()).collect();
        match choose(&facts, cluster, view, &profile, &wished, &mut self.start) {
            Ok(node) => {
                cluster.place(facts, &node);
                self.assumed.insert(key.clone(), (meta::uid(pod).to_owned(), node.clone()));
                let claims = profile.filters_with("VolumeBinding").then(|| choose_node_of_claims(view, pod, &node));
                if let Some(writes) = claims.flatten() {
                    // The node keeps its place for the pod; it is bound when its volumes are.
                    self.waiters.refused(key, vec!["VolumeBinding"], now);
                    return Outcome::of(writes).after(profile.claims_patience);
                }
                let text = format!("Successfully assigned {key} to {node}");
                let told = Write::normal(Kind::Pod, pod, "Scheduled", text);
                Outcome::of(vec![Write::Bind { pod: key.clone(), node }, told])
            }
            Err(refusals) => {
                self.waiters.refused(key, refusals.rules(), now);
                refuse(pod, &facts, cluster, view, &profile, &refusals, now)
            }
        }
    }
}

/// One of the nodes wished for, or the best.
fn choose(
    pod: &PodFacts,
    cluster: &Cluster,
    view: &View,
    profile: &Profile,
    wished: &[String],
    start: &mut usize,
) -> Result<String, Refusals> {
    let facts = cluster.facts(view);
    if !wished.is_empty() {
        let judges = Judges::of(pod, facts, profile);
        let mut nodes = wished.iter().filter_map(|name| cluster.find(name));
        if let Some(node) = nodes.find(|node| place::fits(pod, node, facts, profile, &judges).is_ok()) {
            return Ok(node.name.clone());
        }
    }
    place::place(pod, facts, profile, start)
}

fn refuse(
    pod: &Value,
    pod_facts: &PodFacts,
    cluster: &Cluster,
    view: &View,
    profile: &Profile,
    refusals: &Refusals,
    now: Timestamp,
) -> Outcome {
    let facts = cluster.facts(view);
    let total = facts.nodes.len();
    let tell = |text: String, mut writes: Vec<Write>| {
        if let Some(condition) = condition(pod, "Unschedulable", &text, now) {
            writes.push(condition);
            writes.push(Write::warning(Kind::Pod, pod, "FailedScheduling", text));
        }
        Outcome::of(writes).after(RETRY)
    };
    if total == 0 {
        return tell("no nodes available to schedule pods".to_owned(), Vec::new());
    }
    let text = format!("0/{total} nodes are available: {}.", refusals.counted());
    if pod_facts.spec()["preemptionPolicy"] == "Never" {
        return tell(format!("{text} preemption: not eligible due to preemptionPolicy=Never."), Vec::new());
    }
    if !profile.preempts {
        return tell(text, Vec::new());
    }
    let nominated = meta::str_at(pod, &["status", "nominatedNodeName"]);
    let leaving = cluster
        .find(nominated)
        .is_some_and(|node| node.all_pods().any(|other| other.terminating && other.priority < pod_facts.priority));
    if leaving {
        let why = "not eligible due to a terminating pod on the nominated node.";
        return tell(format!("{text} preemption: {why}"), Vec::new());
    }
    if let Some(victims) = preempt::choose(pod_facts, facts, profile, refusals) {
        let status = json!({"status": {"nominatedNodeName": victims.node}});
        let mut writes = vec![Write::Merge { kind: Kind::Pod, key: Key::of(pod), sub: "status", patch: status }];
        for victim in victims.pods.iter().filter_map(|victim| view.at(Kind::Pod, &victim.key)) {
            let text = format!("Preempted by pod {} on node {}", meta::uid(pod), victims.node);
            let cause = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
                "reason": "PreemptionByScheduler", "lastTransitionTime": decode::format_time(now, 0),
                "message": format!("{}: preempting to accommodate a higher priority pod", profile.name)}]}});
            writes.push(Write::Strategic { kind: Kind::Pod, key: Key::of(victim), sub: "status", patch: cause });
            writes.push(Write::delete(Kind::Pod, victim));
            writes.push(Write::normal(Kind::Pod, victim, "Preempted", text));
        }
        return tell(text, writes);
    }
    let hopeless = refusals.nodes.values().filter(|(_, refusal)| !refusal.curable).count();
    let counts = [
        (total - hopeless, "No preemption victims found for incoming pod"),
        (hopeless, "Preemption is not helpful for scheduling"),
    ];
    let counts: Vec<String> =
        (counts.iter().filter(|(count, _)| *count > 0)).map(|(count, why)| format!("{count} {why}")).collect();
    let mut writes = Vec::new();
    if !nominated.is_empty() {
        // Nobody keeps a place for it there any more.
        let status = json!({"status": {"nominatedNodeName": null}});
        writes.push(Write::Merge { kind: Kind::Pod, key: Key::of(pod), sub: "status", patch: status });
    }
    tell(format!("{text} preemption: 0/{total} nodes are available: {}.", counts.join(", ")), writes)
}

/// Says in the pod's status why it has no node, unless it says so already.
fn condition(pod: &Value, reason: &str, message: &str, now: Timestamp) -> Option<Write> {
    let have =
        meta::list_at(pod, &["status", "conditions"]).iter().find(|condition| condition["type"] == "PodScheduled");
    if have.is_some_and(|have| have["status"] == "False" && have["reason"] == reason && have["message"] == message) {
        return None;
    }
    let patch = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": reason,
        "message": message, "lastProbeTime": null, "lastTransitionTime": decode::format_time(now, 0)}]}});
    Some(Write::Strategic { kind: Kind::Pod, key: Key::of(pod), sub: "status", patch })
}

/// Claims that wait for their first pod learn its node. Nothing if all are bound.
fn choose_node_of_claims(view: &View, pod: &Value, node: &str) -> Option<Vec<Write>> {
    let claims = crate::pods::claims(pod).into_iter();
    let unbound: Vec<_> = claims
        .filter_map(|name| view.get(Kind::Claim, meta::namespace(pod), &name))
        .filter(|claim| !is_bound(claim))
        .collect();
    if unbound.is_empty() {
        return None;
    }
    let told = |claim: &Value| meta::str_at(claim, &["metadata", "annotations", binding::SELECTED_NODE]) == node;
    let untold = unbound.into_iter().filter(|claim| !told(claim));
    Some(
        untold
            .map(|claim| {
                let patch = json!({"metadata": {"annotations": {binding::SELECTED_NODE: node}}});
                Write::Merge { kind: Kind::Claim, key: Key::of(claim), sub: "", patch }
            })
            .collect(),
    )
}
