//! DaemonSets: one pod on every node that fits, replaced node by node when the template changes.
//!
//! * `nodes` — which nodes a set's pods run on, and what every such pod tolerates
//! * `update` — which pods go, and where a second one may come, during a rolling update

mod nodes;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use crate::Names;
use crate::pods;
use crate::revisions::History;

pub const HASH: &str = "controller-revision-hash";
const GENERATION: &str = "pod-template-generation";
/// Pods made or ended for one set at a time: the next look goes on.
const BURST: usize = 250;
/// A pod that fails on a node again and again is replaced later and later.
const FAILED_DELAY: Duration = Duration::from_secs(1);
const FAILED_DELAY_MAX: Duration = Duration::from_secs(15 * 60);

pub struct DaemonSets {
    names: Names,
    /// By set and node: when the last failed pod was taken away, and how long the next one has to wait.
    failed: BTreeMap<(String, String), (Timestamp, Duration)>,
}

impl DaemonSets {
    pub fn new(names: Names) -> Self {
        Self { names, failed: BTreeMap::new() }
    }
}

impl Part for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::DaemonSet, Kind::Pod, Kind::Node, Kind::ControllerRevision]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::DaemonSet => vec![Key::of(object)],
            Kind::Node => view.list(Kind::DaemonSet).map(|set| Key::of(set)).collect(),
            _ => pods::owner_keys(view, Kind::DaemonSet, object),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.at(Kind::DaemonSet, key) else { return Outcome::default() };
        let mut writes = Vec::new();
        let claimed = pods::claim(view, Kind::Pod, Kind::DaemonSet, set, &mut writes);
        let mut look = Look::new(set, view, claimed, now);
        if meta::is_terminating(set) {
            return Outcome::of(writes);
        }
        let mut history = History::new(view, Kind::DaemonSet, set, &mut writes);
        let labels = meta::at(set, &["spec", "template", "metadata", "labels"]).cloned().unwrap_or_else(|| json!({}));
        let current = history.current(view, HASH, &labels, &mut writes);
        look.hash = current.hash.clone();
        let mut plan = look.place(&mut self.failed, &mut writes);
        if plan.is_quiet() && meta::str_at(set, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
            plan = Plan { again: plan.again, ..update::plan(&look) };
        }
        for pod in plan.delete.iter().take(BURST) {
            writes.push(Write::delete(Kind::Pod, pod));
            let text = format!("Deleted pod: {}", meta::name(pod));
            writes.push(Write::normal(Kind::DaemonSet, set, "SuccessfulDelete", text));
        }
        for node in plan.create.iter().take(BURST) {
            let (name, base) = pods::one_of_many(set, &self.names.suffix());
            let mut pod = pods::from_template(Kind::DaemonSet, set, &set["spec"]["template"], &name);
            pod["metadata"]["generateName"] = base.into();
            pod["metadata"]["labels"][HASH] = look.hash.as_str().into();
            pod["metadata"]["labels"][GENERATION] = look.generation.to_string().into();
            nodes::fix(&mut pod["spec"], node);
            writes.push(Write::Create(Kind::Pod, pod));
            writes.push(Write::normal(Kind::DaemonSet, set, "SuccessfulCreate", format!("Created pod: {name}")));
        }
        let live = |revision: &Value| {
            let hash = meta::str_at(revision, &["metadata", "labels", HASH]);
            meta::name(revision) == current.name
                || look.pods.iter().any(|pod| meta::str_at(pod, &["metadata", "labels", HASH]) == hash)
        };
        history.trim(live, &mut writes);
        let (status, mut again) = look.status(current.collisions);
        writes.extend(pods::status_write(Kind::DaemonSet, set, status));
        again = [again, plan.again].into_iter().flatten().min();
        Outcome { writes, again }
    }
}

/// What is to be done about the pods of a set.
#[derive(Debug, Default)]
struct Plan {
    delete: Vec<Arc<Value>>,
    /// Names of nodes that get a pod.
    create: Vec<String>,
    again: Option<Duration>,
}

impl Plan {
    fn is_quiet(&self) -> bool {
        self.delete.is_empty() && self.create.is_empty()
    }

    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |have| have.min(after)));
    }
}

/// A set, its pods by node, and the nodes they belong on.
struct Look<'a> {
    set: &'a Value,
    now: Timestamp,
    hash: String,
    /// `deprecated.daemonset.template.generation`, or the set's generation where nobody keeps that count.
    generation: i64,
    min_ready_secs: i64,
    pods: Vec<&'a Arc<Value>>,
    /// Oldest first.
    by_node: BTreeMap<String, Vec<&'a Arc<Value>>>,
    nodes: Vec<(&'a Arc<Value>, nodes::Verdict)>,
}

impl<'a> Look<'a> {
    fn new(set: &'a Value, view: &'a View, claimed: Vec<&'a Arc<Value>>, now: Timestamp) -> Self {
        let mut by_node: BTreeMap<String, Vec<&Arc<Value>>> = BTreeMap::new();
        for pod in &claimed {
            by_node.entry(nodes::of_pod(pod).to_owned()).or_default().push(pod);
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| {
                let unbound = meta::str_at(pod, &["spec", "nodeName"]).is_empty();
                (unbound, meta::get(pod, "creationTimestamp").to_owned(), meta::name(pod).to_owned())
            });
        }
        let spec = nodes::spec(set);
        let nodes = view.list(Kind::Node).map(|node| (node, nodes::judge(&spec, node))).collect();
        let generation = meta::str_at(set, &["metadata", "annotations", "deprecated.daemonset.template.generation"]);
        Self {
            set,
            now,
            hash: String::new(),
            generation: generation.parse().unwrap_or_else(|_| meta::generation(set)),
            min_ready_secs: set["spec"]["minReadySeconds"].as_i64().unwrap_or(0),
            pods: claimed,
            by_node,
            nodes,
        }
    }

    fn on(&self, node: &Value) -> &[&'a Arc<Value>] {
        self.by_node.get(meta::name(node)).map(Vec::as_slice).unwrap_or_default()
    }

    fn is_updated(&self, pod: &Value) -> bool {
        meta::str_at(pod, &["metadata", "labels", HASH]) == self.hash
    }

    fn is_available(&self, pod: &Value) -> bool {
        pods::available(pod, self.min_ready_secs, self.now).is_ok()
    }

    /// The newer pods beside an older one are wanted while an update surges.
    fn surge(&self) -> i64 {
        let strategy = &self.set["spec"]["updateStrategy"];
        if strategy["type"] != "RollingUpdate" {
            return 0;
        }
        let desired = self.nodes.iter().filter(|(_, verdict)| verdict.runs).count() as i64;
        pods::share(&strategy["rollingUpdate"]["maxSurge"], desired, true)
    }

    /// Pods where they are missing, and none where they do not belong, whatever their template.
    fn place(&self, failed: &mut BTreeMap<(String, String), (Timestamp, Duration)>, writes: &mut Vec<Write>) -> Plan {
        let mut plan = Plan::default();
        let surges = self.surge() > 0;
        let uid = meta::uid(self.set);
        for (node, verdict) in &self.nodes {
            let on = self.on(node);
            let name = meta::name(node);
            if !verdict.stays {
                plan.delete.extend(on.iter().filter(|pod| !meta::is_terminating(pod)).map(|pod| (*pod).clone()));
                continue;
            }
            let mut running = Vec::new();
            for pod in on.iter().filter(|pod| !meta::is_terminating(pod)) {
                match meta::str_at(pod, &["status", "phase"]) {
                    "Failed" => {
                        let (at, delay) = failed
                            .entry((uid.to_owned(), name.to_owned()))
                            .or_insert((Timestamp::UNIX_EPOCH, Duration::ZERO));
                        let waited = Duration::try_from(self.now.duration_since(*at)).unwrap_or_default();
                        if waited < *delay {
                            plan.look_again(*delay - waited);
                            continue;
                        }
                        // Whoever was well for long starts from the beginning.
                        let next = if waited > FAILED_DELAY_MAX * 2 { FAILED_DELAY } else { *delay * 2 };
                        (*at, *delay) = (self.now, next.clamp(FAILED_DELAY, FAILED_DELAY_MAX));
                        let text =
                            format!("Found failed daemon pod {} on node {name}, will try to kill it", Key::of(pod));
                        writes.push(Write::warning(Kind::DaemonSet, self.set, "FailedDaemonPod", text));
                        plan.delete.push((*pod).clone());
                    }
                    "Succeeded" => {
                        let text = format!(
                            "Found succeeded daemon pod {} on node {name}, will try to delete it",
                            Key::of(pod)
                        );
                        writes.push(Write::normal(Kind::DaemonSet, self.set, "SucceededDaemonPod", text));
                        plan.delete.push((*pod).clone());
                    }
                    _ => running.push(*pod),
                }
            }
            // A node gets its next pod when nothing of the last one is left.
            if on.is_empty() && verdict.runs {
                plan.create.push(name.to_owned());
            }
            let mut seen = [false; 2];
            for pod in running {
                // While an update surges there may be two: the oldest of the old and of the new.
                let which = usize::from(surges && self.is_updated(pod));
                if std::mem::replace(&mut seen[which], true) {
                    plan.delete.push(pod.clone());
                }
            }
        }
        let known: std::collections::BTreeSet<&str> = self.nodes.iter().map(|(node, _)| meta::name(node)).collect();
        for (_, pods) in self.by_node.iter().filter(|(node, _)| !node.is_empty() && !known.contains(node.as_str())) {
            plan.delete.extend(pods.iter().filter(|pod| !meta::is_terminating(pod)).map(|pod| (*pod).clone()));
        }
        failed.retain(|(of, node), (at, _)| {
            (of != uid || known.contains(node.as_str())) && self.now.duration_since(*at).as_secs() < 3600
        });
        plan
    }

    fn status(&self, collisions: i64) -> (Value, Option<Duration>) {
        let mut again: Option<Duration> = None;
        let (mut desired, mut current, mut misplaced, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
        for (node, verdict) in &self.nodes {
            let oldest = self.on(node).first();
            desired += i64::from(verdict.runs);
            let Some(pod) = oldest else { continue };
            if !verdict.runs {
                misplaced += 1;
                continue;
            }
            current += 1;
            // What goes away serves nobody for long.
            let live = !meta::is_terminating(pod);
            ready += i64::from(live && pods::is_ready(pod));
            updated += i64::from(self.is_updated(pod));
            match pods::available(pod, self.min_ready_secs, self.now) {
                Ok(()) => available += i64::from(live),
                Err(Some(left)) => again = Some(again.map_or(left, |have| have.min(left))),
                Err(None) => {}
            }
        }
        let mut status = json!({"observedGeneration": meta::generation(self.set), "desiredNumberScheduled": desired,
            "currentNumberScheduled": current, "numberMisscheduled": misplaced, "numberReady": ready});
        for (field, count) in [
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
            ("updatedNumberScheduled", updated),
            ("collisionCount", collisions),
        ] {
            if count > 0 {
                status[field] = count.into();
            }
        }
        if let Some(conditions) = meta::at(self.set, &["status", "conditions"]) {
            status["conditions"] = conditions.clone();
        }
        (status, again)
    }
}

#[cfg(test)]
mod tests;
