//! Deployments move from one template to the next through replica sets, within their bounds.

use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::kinds::conditions_set;
use resources::{Value, decode, meta};
use serde_json::json;

use crate::names::template_hash;
use crate::pods;

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Annotations that are a deployment's own and not its replica sets'.
const OWN: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", REVISION, DESIRED, MAX, "deprecated.deployment.rollback.to"];

pub struct Deployments;

impl Part for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Deployment, Kind::ReplicaSet, Kind::Pod]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Deployment => vec![Key::of(object)],
            Kind::ReplicaSet => pods::owner_keys(view, Kind::Deployment, object),
            // A recreate waits until the last old pod has gone; nothing else depends on single pods.
            _ => {
                let set = pods::controller_key(object, Kind::ReplicaSet);
                let set = set.and_then(|key| view.at(Kind::ReplicaSet, &key));
                let key = set.and_then(|set| pods::controller_key(set, Kind::Deployment));
                key.into_iter().filter(|key| view.at(Kind::Deployment, key).is_some_and(|d| is_recreate(d))).collect()
            }
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(deployment) = view.at(Kind::Deployment, key) else { return Outcome::default() };
        let mut writes = Vec::new();
        let sets = pods::claim(view, Kind::ReplicaSet, Kind::Deployment, deployment, &mut writes);
        let mut rollout = Rollout::new(deployment, sets, writes);
        if meta::is_terminating(deployment) {
            let (status, _) = rollout.status(now);
            rollout.writes.extend(pods::status_write(Kind::Deployment, deployment, status));
            return Outcome::of(rollout.writes);
        }
        let paused = deployment["spec"]["paused"] == true;
        if !paused {
            rollout.ensure_new_set(view);
        }
        rollout.scale_proportionally();
        if !paused {
            if is_recreate(deployment) {
                rollout.recreate(view)
            } else {
                rollout.roll(view, now)
            }
            rollout.trim_history();
        }
        let (status, again) = rollout.status(now);
        rollout.writes.extend(pods::status_write(Kind::Deployment, deployment, status));
        Outcome { writes: rollout.writes, again }
    }
}

fn is_recreate(deployment: &Value) -> bool {
    meta::str_at(deployment, &["spec", "strategy", "type"]) == "Recreate"
}

/// A replica set with what this look has decided about it.
#[derive(Debug, Clone)]
struct Set {
    object: Arc<Value>,
    /// What its spec says, or will after the writes.
    wanted: i64,
}

impl Set {
    fn count(&self, field: &str) -> i64 {
        self.object["status"][field].as_i64().unwrap_or(0)
    }

    /// Pods that are available now, whatever its status says.
    fn standing(&self, view: &View, now: Timestamp) -> i64 {
        let min_ready = self.object["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
        let pods = view.owned(Kind::Pod, meta::uid(&self.object));
        pods.filter(|pod| pods::is_active(pod) && pods::available(pod, min_ready, now).is_ok()).count() as i64
    }
}

struct Rollout<'a> {
    deployment: &'a Value,
    replicas: i64,
    surge: i64,
    unavailable: i64,
    new: Option<Set>,
    /// Oldest first.
    old: Vec<Set>,
    writes: Vec<Write>,
    /// A new set was asked for in this look.
    made: Option<String>,
    collisions: i64,
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Value, sets: Vec<&Arc<Value>>, writes: Vec<Write>) -> Self {
        let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(1).max(0);
        let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
        let (mut surge, mut unavailable) = (
            pods::share(&rolling["maxSurge"], replicas, true),
            pods::share(&rolling["maxUnavailable"], replicas, false),
        );
        if is_recreate(deployment) {
            (surge, unavailable) = (0, replicas);
        } else if surge == 0 && unavailable == 0 {
            // Percentages of few replicas may both come to nothing, and nothing would ever move.
            unavailable = 1;
        }
        let mut sets: Vec<Set> = sets
            .into_iter()
            .map(|object| Set { object: object.clone(), wanted: object["spec"]["replicas"].as_i64().unwrap_or(1) })
            .collect();
        sets.sort_by_key(|set| {
            (
                meta::get(&set.object, "creationTimestamp").to_owned(),
                revision(&set.object),
                meta::name(&set.object).to_owned(),
            )
        });
        let template = &deployment["spec"]["template"];
        let new = sets.iter().position(|set| same_template(template, &set.object["spec"]["template"]));
        let new = new.map(|at| sets.remove(at));
        let collisions = deployment["status"]["collisionCount"].as_i64().unwrap_or(0);
        Self {
            deployment,
            replicas,
            surge,
            unavailable: unavailable.min(replicas),
            new,
            old: sets,
            writes,
            made: None,
            collisions,
        }
    }

    fn total(&self) -> i64 {
        self.old.iter().chain(&self.new).map(|set| set.wanted).sum()
    }

    /// The set for the current template, with the revision that comes after all others.
    fn ensure_new_set(&mut self, view: &View) {
        let newest = self.old.iter().map(|set| revision(&set.object)).max().unwrap_or(0);
        let deployment = self.deployment;
        if let Some(new) = &self.new {
            let mut current = revision(&new.object);
            if current <= newest {
                current = newest + 1;
            }
            let annotations = self.annotations(&new.object, current);
            let have = meta::at(&new.object, &["metadata", "annotations"]).cloned().unwrap_or_else(|| json!({}));
            let min_ready = deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
            let other_min = min_ready != new.object["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
            if annotations != have || other_min {
                let mut patch = json!({"metadata": {"annotations": annotations}});
                if other_min {
                    patch["spec"] = json!({"minReadySeconds": min_ready});
                }
                self.writes.push(Write::Merge { kind: Kind::ReplicaSet, key: Key::of(&new.object), sub: "", patch });
            }
            self.say_revision(current);
            return;
        }
        let template = &deployment["spec"]["template"];
        let mut hash = template_hash(template, self.collisions);
        let name = |hash: &str| format!("{}-{hash}", meta::name(deployment));
        while view.get(Kind::ReplicaSet, meta::namespace(deployment), &name(&hash)).is_some() {
            self.collisions += 1;
            hash = template_hash(template, self.collisions);
        }
        let mut template = template.clone();
        template["metadata"]["labels"][HASH] = hash.as_str().into();
        let mut selector = deployment["spec"]["selector"].clone();
        selector["matchLabels"][HASH] = hash.as_str().into();
        // As many as the bounds allow at once; the rest follows as old pods go.
        let allowed = if is_recreate(deployment) {
            let left = self.old.iter().any(|set| set.wanted > 0 || set.count("replicas") > 0);
            if left { 0 } else { self.replicas }
        } else {
            (self.replicas + self.surge - self.total()).clamp(0, self.replicas)
        };
        let mut annotations = self.annotations(&Value::Null, newest + 1);
        annotations[DESIRED] = self.replicas.to_string().into();
        annotations[MAX] = (self.replicas + self.surge).to_string().into();
        let mut spec = json!({"replicas": allowed, "selector": selector, "template": template});
        if let Some(secs) = deployment["spec"]["minReadySeconds"].as_i64().filter(|secs| *secs > 0) {
            spec["minReadySeconds"] = secs.into();
        }
        let name = name(&hash);
        let object = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": meta::namespace(deployment), "labels": template["metadata"]["labels"],
                "annotations": annotations, "ownerReferences": pods::owner_reference(Kind::Deployment, deployment)},
            "spec": spec});
        self.writes.push(Write::Create(Kind::ReplicaSet, object.clone()));
        if allowed > 0 {
            let text = format!("Scaled up replica set {name} from 0 to {allowed}");
            self.writes.push(Write::normal(Kind::Deployment, deployment, "ScalingReplicaSet", text));
        }
        self.made = Some(name);
        self.new = Some(Set { object: Arc::new(object), wanted: allowed });
        self.say_revision(newest + 1);
    }

    /// What a set carries of its deployment's annotations.
    fn annotations(&self, set: &Value, revision: i64) -> Value {
        let mut annotations = meta::at(set, &["metadata", "annotations"]).cloned().unwrap_or_else(|| json!({}));
        for (key, value) in meta::map_at(self.deployment, &["metadata", "annotations"]) {
            if !OWN.contains(&key.as_str()) {
                annotations[key] = value.clone();
            }
        }
        annotations[REVISION] = revision.to_string().into();
        annotations
    }

    fn say_revision(&mut self, revision: i64) {
        let text = revision.to_string();
        if meta::str_at(self.deployment, &["metadata", "annotations", REVISION]) != text {
            let patch = json!({"metadata": {"annotations": {REVISION: text}}});
            self.writes.push(Write::Merge { kind: Kind::Deployment, key: Key::of(self.deployment), sub: "", patch });
        }
    }

    /// Asks for another number of replicas of a set.
    fn scale(&mut self, old: Option<usize>, to: i64) {
        let (desired, most) = (self.replicas.to_string(), (self.replicas + self.surge).to_string());
        let set = match old {
            Some(at) => &mut self.old[at],
            None => match &mut self.new {
                Some(set) => set,
                None => return,
            },
        };
        let marked = meta::str_at(&set.object, &["metadata", "annotations", DESIRED]) == desired
            && meta::str_at(&set.object, &["metadata", "annotations", MAX]) == most;
        if set.wanted == to && marked {
            return;
        }
        let (from, name) = (set.wanted, meta::name(&set.object).to_owned());
        set.wanted = to;
        if self.made.as_deref() == Some(&name) {
            return;
        }
        let patch = json!({"spec": {"replicas": to}, "metadata": {"annotations": {DESIRED: desired, MAX: most}}});
        let key = Key::new(meta::namespace(self.deployment), &name);
        self.writes.push(Write::Merge { kind: Kind::ReplicaSet, key, sub: "", patch });
        if from != to {
            let way = if to > from { "up" } else { "down" };
            let text = format!("Scaled {way} replica set {name} from {from} to {to}");
            self.writes.push(Write::normal(Kind::Deployment, self.deployment, "ScalingReplicaSet", text));
        }
    }

    /// When the deployment itself is scaled in the middle of a rollout, every set gets its share of the difference.
    fn scale_proportionally(&mut self) {
        let live: Vec<Option<usize>> = (0..self.old.len()).map(Some).chain([None]).collect();
        let live: Vec<Option<usize>> =
            live.into_iter().filter(|at| self.set(*at).is_some_and(|set| set.wanted > 0)).collect();
        let changed = live.iter().filter_map(|at| self.set(*at)).any(|set| {
            let desired = meta::str_at(&set.object, &["metadata", "annotations", DESIRED]);
            !desired.is_empty() && desired != self.replicas.to_string()
        });
        if !changed {
            return;
        }
        if let [only] = live[..] {
            self.scale(only, self.replicas);
            return;
        }
        if is_recreate(self.deployment) {
            return;
        }
        let allowed = if self.replicas > 0 { self.replicas + self.surge } else { 0 };
        let total: i64 = self.total();
        let mut left = allowed - total;
        let mut order = live;
        order.sort_by_key(|at| std::cmp::Reverse(self.set(*at).map_or(0, |set| set.wanted)));
        for at in order.clone() {
            let Some(set) = self.set(at) else { continue };
            // Rounded to the nearest, as upstream does.
            let share = match total {
                0 => 0,
                total => (2 * set.wanted * allowed + total).div_euclid(2 * total) - set.wanted,
            };
            let change = if left >= 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
            let to = (set.wanted + change).max(0);
            left -= to - set.wanted;
            self.scale(at, to);
        }
        if left != 0
            && let Some(first) = order.first()
            && let Some(set) = self.set(*first)
        {
            let to = (set.wanted + left).max(0);
            self.scale(*first, to);
        }
    }

    fn set(&self, at: Option<usize>) -> Option<&Set> {
        match at {
            Some(at) => self.old.get(at),
            None => self.new.as_ref(),
        }
    }

    fn recreate(&mut self, view: &View) {
        for at in 0..self.old.len() {
            self.scale(Some(at), 0);
        }
        let lives = |set: &Set| {
            view.owned(Kind::Pod, meta::uid(&set.object)).any(|pod| !pods::is_ended(pod)) || set.count("replicas") > 0
        };
        if !self.old.iter().any(lives) {
            self.scale(None, self.replicas);
        }
    }

    fn roll(&mut self, view: &View, now: Timestamp) {
        let Some(new) = self.new.clone() else { return };
        if new.wanted > self.replicas {
            self.scale(None, self.replicas);
        } else if new.wanted < self.replicas {
            let room = self.replicas + self.surge - self.total();
            if room > 0 {
                self.scale(None, (new.wanted + room).min(self.replicas));
            }
        }
        let Some(new) = self.new.clone() else { return };
        let least = self.replicas - self.unavailable;
        let new_missing = new.wanted - new.count("availableReplicas");
        let mut room = self.total() - least - new_missing.max(0);
        // Old pods that are not available serve nobody: they go first.
        for at in 0..self.old.len() {
            if room <= 0 {
                break;
            }
            let set = &self.old[at];
            let mut broken = (set.wanted - set.count("availableReplicas")).max(0);
            if broken > 0 {
                // Its status may be of some time ago; pods that have come since are not to go as broken ones.
                broken = broken.min((set.wanted - set.standing(view, now)).max(0));
            }
            let broken = broken.min(room);
            if broken > 0 {
                let to = set.wanted - broken;
                room -= broken;
                self.scale(Some(at), to);
            }
        }
        // A set that was told to shrink counts its pods as available until they have gone.
        let lasting = |set: &Set| set.count("availableReplicas").min(set.wanted);
        let available: i64 = self.old.iter().chain(&self.new).map(lasting).sum();
        let mut spare = (available - least).min(room).max(0);
        for at in 0..self.old.len() {
            let set = &self.old[at];
            let gone = set.wanted.min(spare);
            if gone > 0 {
                // Those that this look has already taken away are no longer there to be counted.
                let to = set.wanted - gone;
                spare -= gone;
                self.scale(Some(at), to);
            }
        }
    }

    /// Old sets without pods beyond the history that is kept.
    fn trim_history(&mut self) {
        let keep = self.deployment["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10).max(0) as usize;
        let mut idle: Vec<&Set> = self
            .old
            .iter()
            .filter(|set| {
                let settled = set.count("observedGeneration") >= meta::generation(&set.object);
                set.wanted == 0 && set.count("replicas") == 0 && settled && !meta::is_terminating(&set.object)
            })
            .collect();
        let complete = self.new.as_ref().is_some_and(|new| new.count("availableReplicas") >= self.replicas);
        if !complete || idle.len() <= keep {
            return;
        }
        idle.sort_by_key(|set| revision(&set.object));
        let excess = idle.len() - keep;
        let deletes: Vec<Write> =
            idle.iter().take(excess).map(|set| Write::delete(Kind::ReplicaSet, &set.object)).collect();
        self.writes.extend(deletes);
    }

    fn status(&self, now: Timestamp) -> (Value, Option<Duration>) {
        let sum = |field: &str| -> i64 { self.old.iter().chain(&self.new).map(|set| set.count(field)).sum() };
        let updated = self.new.as_ref().map_or(0, |new| new.count("replicas"));
        let new_available = self.new.as_ref().map_or(0, |new| new.count("availableReplicas"));
        let (total, available) = (sum("replicas"), sum("availableReplicas"));
        let mut status = json!({"observedGeneration": meta::generation(self.deployment)});
        for (field, count) in [
            ("replicas", total),
            ("updatedReplicas", updated),
            ("readyReplicas", sum("readyReplicas")),
            ("availableReplicas", available),
            ("unavailableReplicas", (self.total() - available).max(0)),
            ("terminatingReplicas", sum("terminatingReplicas")),
            ("collisionCount", self.collisions),
        ] {
            if count > 0 {
                status[field] = count.into();
            }
        }
        let mut object = self.deployment.clone();
        let conditions = meta::at(self.deployment, &["status", "conditions"]).cloned().unwrap_or_else(|| json!([]));
        object["status"] = status;
        object["status"]["conditions"] = conditions;
        let set = |object: &mut Value, kind: &str, good: bool, reason: &str, text: String, moved: bool| {
            let status = if good { "True" } else { "False" };
            let before = pods::condition(object, kind).cloned();
            conditions_set(object, kind, status, reason, &text, now);
            let stamp = decode::format_time(now, 0);
            let same = before.as_ref().is_some_and(|b| b["status"] == status && b["reason"] == reason && !moved);
            let updated = match before {
                Some(before) if same => before["lastUpdateTime"].clone(),
                _ => stamp.into(),
            };
            for condition in meta::items_mut(object, &["status", "conditions"]) {
                if condition["type"] == kind {
                    condition["lastUpdateTime"] = updated.clone();
                }
            }
        };
        let enough = available >= self.replicas - self.unavailable;
        let (reason, text) = match enough {
            true => ("MinimumReplicasAvailable", "Deployment has minimum availability."),
            false => ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
        };
        set(&mut object, "Available", enough, reason, text.into(), false);
        let again = self.progress(&mut object, now, &set, updated, total, available, new_available);
        (object["status"].take(), again)
    }

    #[allow(clippy::too_many_arguments)]
    fn progress(
        &self,
        object: &mut Value,
        now: Timestamp,
        set: &impl Fn(&mut Value, &str, bool, &str, String, bool),
        updated: i64,
        total: i64,
        available: i64,
        new_available: i64,
    ) -> Option<Duration> {
        let before = &self.deployment["status"];
        let had = pods::condition(self.deployment, "Progressing");
        let reason = had.and_then(|condition| condition["reason"].as_str()).unwrap_or_default();
        if self.deployment["spec"]["paused"] == true {
            if reason != "DeploymentPaused" {
                conditions_set(object, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
            }
            return None;
        }
        let new = self.new.as_ref()?;
        let name = meta::name(&new.object).to_owned();
        let complete = updated == self.replicas
            && total == self.replicas
            && available == self.replicas
            && new_available == self.replicas
            && new.count("observedGeneration") >= meta::generation(&new.object);
        if complete {
            let text = format!("ReplicaSet {name:?} has successfully progressed.");
            set(object, "Progressing", true, "NewReplicaSetAvailable", text, false);
            return None;
        }
        if self.made.is_some() {
            let text = format!("Created new replica set {name:?}");
            set(object, "Progressing", true, "NewReplicaSetCreated", text, true);
            return self.deadline();
        }
        let count = |field: &str| before[field].as_i64().unwrap_or(0);
        let old_before = count("replicas") - count("updatedReplicas");
        let moved = updated > count("updatedReplicas")
            || total - updated < old_before
            || available > count("availableReplicas");
        let resumed = matches!(reason, "DeploymentPaused" | "NewReplicaSetAvailable" | "");
        if moved || resumed {
            let text = format!("ReplicaSet {name:?} is progressing.");
            set(object, "Progressing", true, "ReplicaSetUpdated", text, true);
            return self.deadline();
        }
        if reason == "ProgressDeadlineExceeded" {
            return None;
        }
        let since = had.and_then(|condition| pods::time(&condition["lastUpdateTime"]))?;
        let deadline = self.deadline()?;
        let late = now.duration_since(since);
        if late.as_secs() >= deadline.as_secs() as i64 {
            let text = format!("ReplicaSet {name:?} has timed out progressing.");
            set(object, "Progressing", false, "ProgressDeadlineExceeded", text, false);
            return None;
        }
        Some(deadline.saturating_sub(Duration::try_from(late).unwrap_or_default()))
    }

    fn deadline(&self) -> Option<Duration> {
        let secs = self.deployment["spec"]["progressDeadlineSeconds"].as_u64()?;
        (secs < i32::MAX as u64).then(|| Duration::from_secs(secs))
    }
}

fn revision(set: &Value) -> i64 {
    meta::str_at(set, &["metadata", "annotations", REVISION]).parse().unwrap_or(0)
}

/// Whether a set was made of this template.
fn same_template(template: &Value, of_set: &Value) -> bool {
    let mut stripped = of_set.clone();
    meta::object_at(&mut stripped, &["metadata", "labels"]).remove(HASH);
    let mut wanted = template.clone();
    meta::object_at(&mut wanted, &["metadata", "labels"]).remove(HASH);
    stripped == wanted
}

#[cfg(test)]
mod tests;
