//! PodDisruptionBudgets: how many pods of an application may be taken away by choice. Evictions take from the number that
//! stands in the status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::kinds::conditions_set;
use resources::selector::LabelSelector;
use resources::{Value, meta};
use serde_json::json;

use crate::pods;

/// An evicted pod that is still there after this time was not evicted after all.
const EVICTED_SECS: i64 = 120;

pub struct DisruptionBudgets;

impl Part for DisruptionBudgets {
    fn name(&self) -> &'static str {
        "controllermanager"
    }

    fn watches(&self) -> &'static [Kind] {
        &[
            Kind::DisruptionBudget,
            Kind::Pod,
            Kind::Deployment,
            Kind::ReplicaSet,
            Kind::StatefulSet,
            Kind::ReplicationController,
        ]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        let of_pod = |pod: &Value| -> Vec<Key> {
            let budgets = view.in_namespace(Kind::DisruptionBudget, meta::namespace(pod));
            budgets.filter(|budget| selects(budget, pod)).map(|budget| Key::of(budget)).collect()
        };
        match kind {
            Kind::DisruptionBudget => vec![Key::of(object)],
            Kind::Pod => of_pod(object),
            // Their numbers are what shares are taken of.
            _ => view.in_namespace(Kind::DisruptionBudget, meta::namespace(object)).map(|one| Key::of(one)).collect(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let Some(budget) = view.at(Kind::DisruptionBudget, key) else { return Outcome::default() };
        let all: Vec<&Arc<Value>> =
            view.in_namespace(Kind::Pod, &key.namespace).filter(|pod| selects(budget, pod)).collect();
        let mut writes = Vec::new();
        let counted = match expected(view, budget, &all) {
            Ok(counted) => counted,
            Err(why) => {
                let mut object = Value::clone(budget);
                conditions_set(&mut object, "DisruptionAllowed", "False", "SyncFailed", &why, now);
                object["status"]["disruptionsAllowed"] = 0.into();
                object["status"]["observedGeneration"] = meta::generation(budget).into();
                fill(&mut object["status"]);
                if let Some(write) = pods::status_write(Kind::DisruptionBudget, budget, object["status"].take()) {
                    writes.push(Write::warning(Kind::DisruptionBudget, budget, "CalculateExpectedPodCountFailed", why));
                    writes.push(write);
                }
                return Outcome::of(writes);
            }
        };
        let (going, again) = going(budget, &all, now);
        let healthy = all
            .iter()
            .filter(|pod| !meta::is_terminating(pod) && pods::is_ready(pod) && !pods::is_ended(pod))
            .filter(|pod| !going.contains_key(meta::name(pod)))
            .count() as i64;
        let allowed = if counted.pods <= 0 { 0 } else { (healthy - counted.healthy).max(0) };
        let mut object = Value::clone(budget);
        let mut status = json!({"observedGeneration": meta::generation(budget), "disruptionsAllowed": allowed,
            "currentHealthy": healthy, "desiredHealthy": counted.healthy, "expectedPods": counted.pods});
        if !going.is_empty() {
            status["disruptedPods"] = json!(going);
        }
        status["conditions"] = meta::at(budget, &["status", "conditions"]).cloned().unwrap_or_else(|| json!([]));
        object["status"] = status;
        let (word, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        conditions_set(&mut object, "DisruptionAllowed", word, reason, "", now);
        for condition in meta::items_mut(&mut object, &["status", "conditions"]) {
            condition["observedGeneration"] = meta::generation(budget).into();
            meta::object_at(condition, &[]).entry("message").or_insert_with(|| "".into());
        }
        writes.extend(pods::status_write(Kind::DisruptionBudget, budget, object["status"].take()));
        Outcome { writes, again }
    }
}

fn fill(status: &mut Value) {
    for field in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        if status[field].is_null() {
            status[field] = 0.into();
        }
    }
}

/// A budget without selector is nobody's; one with an empty selector is everybody's.
fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    !selector.is_null() && LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(pod))
}

struct Counted {
    pods: i64,
    /// How many of them have to be healthy.
    healthy: i64,
}

fn expected(view: &View, budget: &Value, all: &[&Arc<Value>]) -> Result<Counted, String> {
    let spec = &budget["spec"];
    if let Some(least) = spec.get("minAvailable").filter(|least| !least.is_null()) {
        if let Some(number) = least.as_i64() {
            return Ok(Counted { pods: all.len() as i64, healthy: number });
        }
        let pods = scale(view, all)?;
        return Ok(Counted { pods, healthy: pods::share(least, pods, true) });
    }
    if let Some(most) = spec.get("maxUnavailable").filter(|most| !most.is_null()) {
        let pods = scale(view, all)?;
        return Ok(Counted { pods, healthy: (pods - pods::share(most, pods, true)).max(0) });
    }
    Ok(Counted { pods: all.len() as i64, healthy: 0 })
}

/// The replicas that the controllers of these pods ask for, each controller once.
fn scale(view: &View, all: &[&Arc<Value>]) -> Result<i64, String> {
    let mut scales: BTreeMap<String, i64> = BTreeMap::new();
    for pod in all.iter().filter(|pod| !pods::is_ended(pod)) {
        let Some(owner) = pods::controller(pod) else {
            return Err(format!("found no controllers for pod {:?}", meta::name(pod)));
        };
        let kind = [Kind::ReplicaSet, Kind::StatefulSet, Kind::ReplicationController, Kind::Deployment]
            .into_iter()
            .find(|kind| kind.as_str() == owner.kind);
        let found =
            kind.and_then(|kind| view.get(kind, meta::namespace(pod), &owner.name).map(|object| (kind, object)));
        let Some((kind, object)) = found.filter(|(_, object)| meta::uid(object) == owner.uid) else {
            return match kind {
                // It goes, and its pods will follow.
                Some(_) => continue,
                None => Err(format!(
                    "{}.{} does not implement the scale subresource",
                    owner.kind,
                    group(&owner.api_version)
                )),
            };
        };
        let above = pods::controller_key(object, Kind::Deployment).filter(|_| kind == Kind::ReplicaSet);
        let object = above.and_then(|key| view.at(Kind::Deployment, &key)).unwrap_or(object);
        scales.insert(meta::uid(object).to_owned(), object["spec"]["replicas"].as_i64().unwrap_or(1));
    }
    Ok(scales.values().sum())
}

fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

/// Pods that an eviction was granted for and that have not gone yet; and when to look again.
fn going(budget: &Value, all: &[&Arc<Value>], now: Timestamp) -> (BTreeMap<String, Value>, Option<Duration>) {
    let (mut going, mut again) = (BTreeMap::new(), None::<Duration>);
    for (name, since) in meta::map_at(budget, &["status", "disruptedPods"]) {
        let there = all.iter().find(|pod| meta::name(pod) == name);
        let Some(since_time) = pods::time(since) else { continue };
        if there.is_none_or(|pod| meta::is_terminating(pod)) {
            continue;
        }
        let left = EVICTED_SECS - now.duration_since(since_time).as_secs();
        if left > 0 {
            let left = Duration::from_secs(left.unsigned_abs());
            again = Some(again.map_or(left, |have| have.min(left)));
            going.insert(name.clone(), since.clone());
        }
    }
    (going, again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    /// A deployment's replica set with three ready pods, and a budget.
    fn world(spec: Value) -> World {
        let mut world = World::new();
        let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        world.put(
            Kind::Deployment,
            json!({"metadata": {"name": "w", "namespace": "d", "uid": "dep"}, "spec": {"replicas": 4}}),
        );
        world.put(
            Kind::ReplicaSet,
            json!({"metadata": {"name": "w-1", "namespace": "d", "uid": "set",
            "ownerReferences": owner("Deployment", "w", "dep")}, "spec": {"replicas": 3}}),
        );
        for name in ["a", "b", "c"] {
            world.put(
                Kind::Pod,
                json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "w"},
                "ownerReferences": owner("ReplicaSet", "w-1", "set")}}),
            );
            world.ready(name);
        }
        let mut budget = json!({"metadata": {"name": "b", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "w"}}}});
        resources::patch::merge_patch(&mut budget["spec"], &spec);
        world.put(Kind::DisruptionBudget, budget);
        world.settle(&mut DisruptionBudgets, "b");
        world
    }

    fn numbers(world: &World) -> [i64; 4] {
        let status = world.find(Kind::DisruptionBudget, "b")["status"].clone();
        ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
            .map(|field| status[field].as_i64().unwrap())
    }

    #[test]
    fn what_may_be_taken_away() {
        for (spec, expected) in [
            (json!({"minAvailable": 2}), [3, 2, 3, 1]),
            (json!({"minAvailable": "50%"}), [4, 2, 3, 1]),
            (json!({"minAvailable": "100%"}), [4, 4, 3, 0]),
            (json!({"maxUnavailable": 1}), [4, 3, 3, 0]),
            (json!({"maxUnavailable": "50%"}), [4, 2, 3, 1]),
            (json!({"minAvailable": 0}), [3, 0, 3, 3]),
            (json!({"minAvailable": 1, "selector": null}), [0, 1, 0, 0]),
        ] {
            let world = world(spec.clone());
            assert_eq!(numbers(&world), expected, "{spec}");
            let condition = world.find(Kind::DisruptionBudget, "b")["status"]["conditions"][0].clone();
            let reason = if expected[3] > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!((&condition["type"], &condition["reason"]), (&json!("DisruptionAllowed"), &json!(reason)));
        }
    }

    #[test]
    fn granted_evictions_count_until_the_pod_goes_or_time_is_up() {
        let mut world = world(json!({"minAvailable": 1}));
        world.change(Kind::DisruptionBudget, "b", |budget| {
            budget["status"]["disruptedPods"] = json!({"a": "2026-01-01T00:00:00Z", "gone": "2026-01-01T00:00:00Z"});
        });
        assert_eq!(world.step(&mut DisruptionBudgets, "b"), Some(Duration::from_secs(120)));
        assert_eq!(numbers(&world), [3, 1, 2, 1]);
        assert_eq!(
            world.find(Kind::DisruptionBudget, "b")["status"]["disruptedPods"],
            json!({"a": "2026-01-01T00:00:00Z"})
        );
        world.pass(120);
        world.settle(&mut DisruptionBudgets, "b");
        assert_eq!(numbers(&world), [3, 1, 3, 2]);
    }

    #[test]
    fn a_share_of_pods_that_nobody_counts_is_told() {
        let mut world = world(json!({"maxUnavailable": 1}));
        world.put(Kind::Pod, json!({"metadata": {"name": "lone", "namespace": "d", "labels": {"app": "w"}}}));
        world.settle(&mut DisruptionBudgets, "b");
        assert_eq!(world.events, ["CalculateExpectedPodCountFailed: found no controllers for pod \"lone\""]);
        let status = world.find(Kind::DisruptionBudget, "b")["status"].clone();
        assert_eq!(
            (&status["disruptionsAllowed"], &status["conditions"][0]["reason"]),
            (&json!(0), &json!("SyncFailed"))
        );
    }
}
