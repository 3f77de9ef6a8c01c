//! The scheduler as a part of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, decode, meta};
use serde_json::json;

use crate::preempt;
use crate::rules::{self, FILTERS, Refusal, SCORES};
use crate::{Facts, PodFacts};

/// A pod that found no place is tried again after this time even if nothing is seen to change.
const RETRY: Duration = Duration::from_secs(30);

/// Binds pods that name no node and this scheduler.
#[derive(Default)]
pub struct Scheduler {
    /// Bindings under way: the view does not show them yet.
    assumed: BTreeMap<Key, (String, String)>,
}

impl Scheduler {
    pub const NAME: &str = "default-scheduler";

    fn waits(pod: &Value) -> bool {
        meta::str_at(pod, &["spec", "nodeName"]).is_empty()
            && !meta::is_terminating(pod)
            && !matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
            && matches!(meta::str_at(pod, &["spec", "schedulerName"]), "" | Self::NAME)
    }

    /// Forgets what the view shows by now, and what has gone.
    fn settle(&mut self, view: &View) {
        self.assumed.retain(|key, (uid, _)| {
            view.at(Kind::Pod, key)
                .is_some_and(|pod| meta::uid(pod) == uid && meta::str_at(pod, &["spec", "nodeName"]).is_empty())
        });
    }
}

impl Part for Scheduler {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node, Kind::Namespace, Kind::Claim, Kind::Volume, Kind::StorageClass, Kind::DisruptionBudget]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        let waiting = || view.pods_on("").filter(|pod| Self::waits(pod)).map(|pod| Key::of(pod));
        match kind {
            Kind::Pod if Self::waits(object) => vec![Key::of(object)],
            // A pod that ended or went may have made room.
            Kind::Pod => {
                let ended = matches!(meta::str_at(object, &["status", "phase"]), "Succeeded" | "Failed");
                let gone = view.at(Kind::Pod, &Key::of(object)).is_none();
                if ended || gone { waiting().collect() } else { Vec::new() }
            }
            // A heartbeat changes nothing for pods that the node was already refused to.
            _ => waiting().collect(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        self.settle(view);
        self.assumed.remove(key);
        let Some(pod) = view.at(Kind::Pod, key).filter(|pod| Self::waits(pod)) else { return Outcome::default() };
        let gates = meta::list_at(pod, &["spec", "schedulingGates"]);
        if !gates.is_empty() {
            let text = "Scheduling is blocked due to non-empty scheduling gates";
            return Outcome::of(condition(pod, "SchedulingGated", text, now).into_iter().collect());
        }
        let assumed = self.assumed.iter().map(|(key, (_, node))| (key.clone(), node.clone())).collect();
        let facts = Facts::new(view, &assumed);
        let pod_facts = PodFacts::new(pod.clone());
        match place(&pod_facts, &facts) {
            Ok(node) => {
                self.assumed.insert(key.clone(), (meta::uid(pod).to_owned(), node.clone()));
                let mut writes = choose_node_of_claims(view, pod, &node);
                writes.push(Write::Bind { pod: key.clone(), node: node.clone() });
                let text = format!("Successfully assigned {key} to {node}");
                writes.push(Write::normal(Kind::Pod, pod, "Scheduled", text));
                Outcome::of(writes)
            }
            Err(refusals) => self.refuse(pod, &pod_facts, &facts, refusals, now),
        }
    }
}

impl Scheduler {
    fn refuse(
        &mut self,
        pod: &Value,
        pod_facts: &PodFacts,
        facts: &Facts<'_>,
        refusals: BTreeMap<String, Refusal>,
        now: Timestamp,
    ) -> Outcome {
        let total = facts.nodes.len();
        if total == 0 {
            let text = "no nodes available to schedule pods";
            let mut writes: Vec<Write> = condition(pod, "Unschedulable", text, now).into_iter().collect();
            if !writes.is_empty() {
                writes.push(Write::warning(Kind::Pod, pod, "FailedScheduling", text));
            }
            return Outcome::of(writes).after(RETRY);
        }
        let text = format!("0/{total} nodes are available: {}.", counted(&refusals));
        let hopeless: Vec<String> =
            refusals.iter().filter(|(_, refusal)| !refusal.curable).map(|(node, _)| node.clone()).collect();
        let nominated = meta::str_at(pod, &["status", "nominatedNodeName"]);
        let leaving = facts.nodes.iter().filter(|node| node.name() == nominated).flat_map(|node| &node.pods);
        let under_way =
            leaving.into_iter().any(|other| meta::is_terminating(&other.pod) && other.priority < pod_facts.priority);
        let victims = if under_way { None } else { preempt::choose(pod_facts, facts, &hopeless) };
        if let Some(victims) = victims {
            let mut writes = Vec::new();
            let status = json!({"status": {"nominatedNodeName": victims.node}});
            writes.push(Write::Merge { kind: Kind::Pod, key: Key::of(pod), sub: "status", patch: status });
            for victim in &victims.pods {
                let text = format!("Preempted by pod {} on node {}", meta::uid(pod), victims.node);
                let stamp = decode::format_time(now, 0);
                let cause = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
                    "reason": "PreemptionByScheduler", "lastTransitionTime": stamp,
                    "message": format!("{}: preempting to accommodate a higher priority pod", Self::NAME)}]}});
                writes.push(Write::Strategic { kind: Kind::Pod, key: Key::of(victim), sub: "status", patch: cause });
                writes.push(Write::delete(Kind::Pod, victim));
                writes.push(Write::normal(Kind::Pod, victim, "Preempted", text));
            }
            writes.extend(condition(pod, "Unschedulable", &text, now));
            return Outcome::of(writes).after(RETRY);
        }
        let why = match hopeless.len() {
            lasting if lasting == total => "Preemption is not helpful for scheduling",
            _ => "No preemption victims found for incoming pod",
        };
        let text = format!("{text} preemption: 0/{total} nodes are available: {total} {why}.");
        let mut writes: Vec<Write> = condition(pod, "Unschedulable", &text, now).into_iter().collect();
        if !writes.is_empty() {
            writes.push(Write::warning(Kind::Pod, pod, "FailedScheduling", text));
        }
        Outcome::of(writes).after(RETRY)
    }
}

/// The best node that every filter accepts, or why each refuses.
fn place(pod: &PodFacts, facts: &Facts<'_>) -> Result<String, BTreeMap<String, Refusal>> {
    let mut refusals = BTreeMap::new();
    let mut best: Option<(i64, &str)> = None;
    for node in &facts.nodes {
        match FILTERS.iter().try_for_each(|filter| filter(pod, node, facts)) {
            Err(refusal) => drop(refusals.insert(node.name().to_owned(), refusal)),
            Ok(()) => {
                let score = SCORES.iter().map(|(score, weight)| score(pod, node, facts) * weight).sum();
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, node.name()));
                }
            }
        }
    }
    best.map(|(_, name)| name.to_owned()).ok_or(refusals)
}

/// `2 Insufficient cpu, 1 node(s) were unschedulable`.
fn counted(refusals: &BTreeMap<String, Refusal>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for refusal in refusals.values() {
        *counts.entry(&refusal.text).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(text, count)| format!("{count} {text}")).collect();
    parts.sort();
    parts.join(", ")
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

/// Claims that wait for their first pod learn its node.
fn choose_node_of_claims(view: &View, pod: &Value, node: &str) -> Vec<Write> {
    let claims = rules::claims(pod).into_iter();
    claims
        .filter_map(|name| view.get(Kind::Claim, meta::namespace(pod), &name))
        .filter(|claim| meta::str_at(claim, &["spec", "volumeName"]).is_empty() && rules::waits_for_pod(view, claim))
        .map(|claim| {
            let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
            Write::Merge { kind: Kind::Claim, key: Key::of(claim), sub: "", patch }
        })
        .collect()
}
