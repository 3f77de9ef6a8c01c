//! StatefulSets: pods with a name and storage of their own, made, replaced and ended in order.
//!
//! * `identity` — what makes a pod the one of its ordinal
//! * `claims` — its storage, and who takes it along
//! * `update` — which pods go for a new template

mod claims;
mod identity;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use crate::pods;
use crate::revisions::{self, History};

const HASH: &str = "controller.kubernetes.io/hash";

pub struct StatefulSets;

impl Part for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::StatefulSet, Kind::Pod, Kind::Claim, Kind::ControllerRevision]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::StatefulSet => vec![Key::of(object)],
            // A claim that ends keeps its pod from being made.
            Kind::Claim => claims::set_keys(view, object),
            _ => pods::owner_keys(view, Kind::StatefulSet, object),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.at(Kind::StatefulSet, key) else { return Outcome::default() };
        let mut writes = Vec::new();
        let claimed = pods::claim(view, Kind::Pod, Kind::StatefulSet, set, &mut writes);
        let mut history = History::new(view, Kind::StatefulSet, set, &mut writes);
        if meta::is_terminating(set) {
            return Outcome::of(writes);
        }
        let labels = meta::at(set, &["spec", "selector", "matchLabels"]).cloned().unwrap_or_else(|| json!({}));
        let update = history.current(view, HASH, &labels, &mut writes);
        let current = meta::str_at(set, &["status", "currentRevision"]);
        let current = if current.is_empty() { update.name.clone() } else { current.to_owned() };
        let mut look = Look::new(set, claimed, now);
        look.update = update.name.clone();
        look.current = current;
        look.templates =
            (history.named(&look.current).map(|revision| revisions::template(revision)), &set["spec"]["template"]);
        look.work(view, &mut writes);
        let live = |revision: &Value| {
            let name = meta::name(revision);
            let used = look.all().any(|pod| identity::revision(pod) == name);
            name == look.current || name == look.update || used
        };
        history.trim(live, &mut writes);
        let (status, again) = look.status(update.collisions);
        writes.extend(pods::status_write(Kind::StatefulSet, set, status));
        Outcome { writes, again }
    }
}

/// A set and its pods by ordinal.
struct Look<'a> {
    set: &'a Value,
    now: Timestamp,
    start: i64,
    replicas: i64,
    min_ready_secs: i64,
    /// One after the other.
    ordered: bool,
    wanted: BTreeMap<i64, &'a Arc<Value>>,
    /// Pods beyond the number that is asked for.
    condemned: BTreeMap<i64, &'a Arc<Value>>,
    current: String,
    update: String,
    /// Of the current revision, where it is known, and of the update.
    templates: (Option<Value>, &'a Value),
}

impl<'a> Look<'a> {
    fn new(set: &'a Value, claimed: Vec<&'a Arc<Value>>, now: Timestamp) -> Self {
        let spec = &set["spec"];
        let start = spec["ordinals"]["start"].as_i64().unwrap_or(0);
        let replicas = spec["replicas"].as_i64().unwrap_or(1).max(0);
        let by_ordinal = claimed.into_iter().filter_map(|pod| Some((identity::ordinal(set, pod)?, pod)));
        let (wanted, condemned) = by_ordinal.partition(|(ordinal, _)| (start..start + replicas).contains(ordinal));
        Self {
            set,
            now,
            start,
            replicas,
            min_ready_secs: spec["minReadySeconds"].as_i64().unwrap_or(0),
            ordered: spec["podManagementPolicy"] != "Parallel",
            wanted,
            condemned,
            current: String::new(),
            update: String::new(),
            templates: (None, &spec["template"]),
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a Arc<Value>> {
        self.wanted.values().chain(self.condemned.values()).copied()
    }

    fn ordinals(&self) -> std::ops::Range<i64> {
        self.start..self.start + self.replicas
    }

    /// Pods below keep the current revision while a new one is tried above.
    fn partition(&self) -> i64 {
        self.set["spec"]["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or(0)
    }

    fn rolls(&self) -> bool {
        self.set["spec"]["updateStrategy"]["type"] != "OnDelete"
    }

    fn is_available(&self, pod: &Value) -> bool {
        is_running_ready(pod) && pods::available(pod, self.min_ready_secs, self.now).is_ok()
    }

    /// Healthy: it serves and is not told to end.
    fn is_healthy(&self, pod: &Value) -> bool {
        is_running_ready(pod) && !meta::is_terminating(pod)
    }

    /// Makes what is missing, ends what is too much, replaces what is old; stops where order says to wait.
    fn work(&self, view: &View, writes: &mut Vec<Write>) {
        claims::keep_owners(view, self, writes);
        for ordinal in self.ordinals() {
            let pod = self.wanted.get(&ordinal).copied();
            match pod {
                Some(pod) if pods::is_ended(pod) && !meta::is_terminating(pod) => {
                    let failed = pod["status"]["phase"] == "Failed";
                    let (reason, how) = if failed {
                        ("RecreatingFailedPod", "failed")
                    } else {
                        ("RecreatingTerminatedPod", "terminated")
                    };
                    let text = format!("StatefulSet {} is recreating {how} Pod {}", Key::of(self.set), meta::name(pod));
                    writes.push(Write::warning(Kind::StatefulSet, self.set, reason, text));
                    self.end(pod, writes);
                    if self.ordered {
                        return;
                    }
                }
                Some(pod) => {
                    if pod["status"]["phase"] == "Pending" && !meta::is_terminating(pod) {
                        // Somebody may have taken a claim away before the pod could run.
                        claims::make(view, self.set, ordinal, meta::name(pod), writes);
                    }
                    writes.extend(identity::repair(self.set, pod, ordinal));
                    if self.ordered && !(self.is_healthy(pod) && self.is_available(pod)) {
                        return;
                    }
                }
                None => {
                    if !self.make(view, ordinal, writes) || self.ordered {
                        return;
                    }
                }
            }
        }
        let unhealthy = self.all().find(|pod| !self.is_healthy(pod));
        for (_, pod) in self.condemned.iter().rev() {
            if meta::is_terminating(pod) {
                if self.ordered {
                    return;
                }
                continue;
            }
            // One that serves nobody goes before those above it that do.
            let first = unhealthy.is_some_and(|first| meta::name(first) == meta::name(pod));
            if self.ordered && !is_running_ready(pod) && !first {
                return;
            }
            self.end(pod, writes);
            if self.ordered {
                return;
            }
        }
        if self.rolls() {
            update::choose(self).into_iter().for_each(|pod| self.end(pod, writes));
        }
    }

    /// A pod with its storage; false if the storage is not to be had yet.
    fn make(&self, view: &View, ordinal: i64, writes: &mut Vec<Write>) -> bool {
        let old = self.rolls() && ordinal < self.start + self.partition();
        let (template, revision) = match &self.templates.0 {
            Some(template) if old => (template, &self.current),
            _ => (self.templates.1, &self.update),
        };
        let pod = identity::pod(self.set, template, ordinal, revision);
        let name = meta::name(&pod).to_owned();
        if !claims::make(view, self.set, ordinal, &name, writes) {
            return false;
        }
        writes.push(Write::Create(Kind::Pod, pod));
        let text = format!("create Pod {name} in StatefulSet {} successful", meta::name(self.set));
        writes.push(Write::normal(Kind::StatefulSet, self.set, "SuccessfulCreate", text));
        true
    }

    fn end(&self, pod: &Value, writes: &mut Vec<Write>) {
        writes.push(Write::delete(Kind::Pod, pod));
        let text = format!("delete Pod {} in StatefulSet {} successful", meta::name(pod), meta::name(self.set));
        writes.push(Write::normal(Kind::StatefulSet, self.set, "SuccessfulDelete", text));
    }

    fn status(&self, collisions: i64) -> (Value, Option<Duration>) {
        let mut again: Option<Duration> = None;
        let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
        for pod in self.all() {
            replicas += 1;
            if is_running_ready(pod) {
                ready += 1;
                match pods::available(pod, self.min_ready_secs, self.now) {
                    Ok(()) => available += 1,
                    Err(Some(left)) => again = Some(again.map_or(left, |have| have.min(left))),
                    Err(None) => {}
                }
            }
            if !meta::is_terminating(pod) {
                current += i64::from(identity::revision(pod) == self.current);
                updated += i64::from(identity::revision(pod) == self.update);
            }
        }
        // Everybody has moved: the update is what is current now.
        let done = self.rolls() && updated == replicas && ready == replicas && replicas == self.replicas;
        let name = if done { &self.update } else { &self.current };
        if done {
            current = updated;
        }
        let mut status = json!({"observedGeneration": meta::generation(self.set), "replicas": replicas,
            "currentRevision": name, "updateRevision": self.update, "collisionCount": collisions,
            "availableReplicas": available});
        for (field, count) in [("readyReplicas", ready), ("currentReplicas", current), ("updatedReplicas", updated)] {
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

fn is_running_ready(pod: &Value) -> bool {
    meta::str_at(pod, &["status", "phase"]) == "Running" && pods::is_ready(pod)
}

#[cfg(test)]
mod tests;
