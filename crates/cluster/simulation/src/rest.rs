//! What must be true of a cluster at rest: everything declared is so, and nothing is left over.

use std::collections::BTreeSet;
use std::sync::Arc;

use cache::{Key, Kind, View};
use resources::selector::LabelSelector;
use resources::{Value, meta};

use crate::rules::{Truth, condition, is_active, is_ended, is_ready};

/// Everything that is not as it should be, in words.
pub fn unrest(truth: &Truth) -> Vec<String> {
    let view = &truth.view;
    let mut out = Vec::new();
    for kind in Kind::ALL {
        for object in view.list(*kind) {
            // Volumes of this machine's directories end on their node, and there is none.
            if meta::is_terminating(object) && *kind != Kind::Volume {
                out.push(format!("{} {} is still being deleted", kind.as_str(), Key::of(object)));
            }
            orphaned(view, *kind, object, &mut out);
        }
    }
    view.list(Kind::Deployment).for_each(|one| deployment(view, one, &mut out));
    view.list(Kind::ReplicaSet).for_each(|one| replica_set(view, one, &mut out));
    view.list(Kind::StatefulSet).for_each(|one| stateful_set(view, one, &mut out));
    view.list(Kind::DaemonSet).for_each(|one| daemon_set(view, one, &mut out));
    view.list(Kind::Job).for_each(|one| job(view, one, &mut out));
    view.list(Kind::CronJob).for_each(|one| cron_job(view, one, &mut out));
    view.list(Kind::Service).for_each(|one| service(view, one, &mut out));
    view.list(Kind::DisruptionBudget).for_each(|one| budget(view, one, &mut out));
    view.list(Kind::HorizontalPodAutoscaler).for_each(|one| autoscaler(truth, one, &mut out));
    for pod in view.list(Kind::Pod).filter(|pod| !is_ended(pod)) {
        match meta::str_at(pod, &["spec", "nodeName"]) {
            "" => out.push(format!("pod {} has no node", Key::of(pod))),
            node if view.get(Kind::Node, "", node).is_none() => {
                out.push(format!("pod {} is on {node}, which is gone", Key::of(pod)));
            }
            _ => {}
        }
    }
    for node in view.list(Kind::Node) {
        let taints = meta::list_at(node, &["spec", "taints"]);
        if !is_ready(node) || !taints.is_empty() {
            out.push(format!("node {} is not well: {taints:?}", meta::name(node)));
        }
        if meta::str_at(node, &["spec", "podCIDR"]).is_empty() {
            out.push(format!("node {} has no subnet", meta::name(node)));
        }
    }
    let live = view.list(Kind::Pod).filter(|pod| !is_ended(pod)).count();
    if truth.running.count() != live {
        out.push(format!("{} pods run on nodes, and {live} are known", truth.running.count()));
    }
    out
}

fn orphaned(view: &View, kind: Kind, object: &Value, out: &mut Vec<String>) {
    for owner in meta::owners(object) {
        let Some(of) = Kind::ALL.iter().find(|kind| kind.as_str() == owner.kind) else { continue };
        let namespaced = if *of == Kind::Node { "" } else { meta::namespace(object) };
        let found = view.get(*of, namespaced, &owner.name).is_some_and(|found| meta::uid(found) == owner.uid);
        if !found {
            out.push(format!(
                "{} {} is of {} {}, which is gone",
                kind.as_str(),
                Key::of(object),
                owner.kind,
                owner.name
            ));
        }
    }
}

fn number(object: &Value, path: &[&str]) -> i64 {
    meta::at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

/// `status` fields that have to equal `wanted`, and the generation seen.
fn says(kind: &str, object: &Value, wanted: i64, fields: &[&str], out: &mut Vec<String>) {
    if number(object, &["status", "observedGeneration"]) != meta::generation(object) {
        out.push(format!("{kind} {} has not seen its last edit", Key::of(object)));
    }
    for field in fields {
        let have = number(object, &["status", field]);
        if have != wanted {
            out.push(format!("{kind} {} has {field} {have} of {wanted}", Key::of(object)));
        }
    }
}

fn deployment(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let wanted = number(one, &["spec", "replicas"]);
    says("deployment", one, wanted, &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"], out);
    let sets: Vec<_> = view.owned(Kind::ReplicaSet, meta::uid(one)).collect();
    let busy = sets.iter().filter(|set| number(set, &["spec", "replicas"]) > 0).count();
    if busy != usize::from(wanted > 0) {
        out.push(format!("deployment {} has {busy} replica sets with pods", Key::of(one)));
    }
    let idle = sets.len().saturating_sub(1) as i64;
    let kept = number(one, &["spec", "revisionHistoryLimit"]);
    if idle > kept {
        out.push(format!("deployment {} keeps {idle} old replica sets and should keep {kept}", Key::of(one)));
    }
}

fn replica_set(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let wanted = number(one, &["spec", "replicas"]);
    says("replica set", one, wanted, &["replicas", "readyReplicas", "availableReplicas"], out);
    let pods = view.owned(Kind::Pod, meta::uid(one)).filter(|pod| is_active(pod)).count() as i64;
    if pods != wanted {
        out.push(format!("replica set {} has {pods} pods of {wanted}", Key::of(one)));
    }
}

fn stateful_set(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let wanted = number(one, &["spec", "replicas"]);
    says("stateful set", one, wanted, &["replicas", "readyReplicas", "availableReplicas"], out);
    let have: BTreeSet<String> = view.owned(Kind::Pod, meta::uid(one)).map(|pod| meta::name(pod).to_owned()).collect();
    let should: BTreeSet<String> = (0..wanted).map(|ordinal| format!("{}-{ordinal}", meta::name(one))).collect();
    if have != should {
        out.push(format!("stateful set {} has the pods {have:?}", Key::of(one)));
    }
    let partition = number(one, &["spec", "updateStrategy", "rollingUpdate", "partition"]);
    let update = meta::str_at(one, &["status", "updateRevision"]);
    for ordinal in partition..wanted {
        let name = format!("{}-{ordinal}", meta::name(one));
        let Some(pod) = view.get(Kind::Pod, meta::namespace(one), &name) else { continue };
        if meta::str_at(pod, &["metadata", "labels", "controller-revision-hash"]) != update {
            out.push(format!("stateful pod {name} has not been updated"));
        }
    }
}

fn daemon_set(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let mut nodes: Vec<&str> = Vec::new();
    for pod in view.owned(Kind::Pod, meta::uid(one)) {
        nodes.push(meta::str_at(pod, &["spec", "nodeName"]));
        if !is_ready(pod) {
            out.push(format!("daemon {} is not ready", Key::of(pod)));
        }
    }
    nodes.sort_unstable();
    let all: Vec<&str> = view.list(Kind::Node).map(|node| meta::name(node)).collect();
    if nodes != all {
        out.push(format!("daemon set {} is on {nodes:?}, and there are {all:?}", Key::of(one)));
    }
    let wanted = all.len() as i64;
    let fields = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    says("daemon set", one, wanted, &fields, out);
}

fn job(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let active = view.owned(Kind::Pod, meta::uid(one)).filter(|pod| !is_ended(pod)).count();
    let is = |kind: &str| condition(one, kind).is_some_and(|have| have["status"] == "True");
    if active > 0 || number(one, &["status", "active"]) != 0 {
        out.push(format!("job {} still has {active} active pods", Key::of(one)));
    }
    // A cron job's are suspended with nothing else.
    if !is("Complete") && !is("Failed") && one["spec"]["suspend"] != true {
        out.push(format!("job {} has not finished", Key::of(one)));
    }
    for pod in view.owned(Kind::Pod, meta::uid(one)) {
        if meta::finalizers(pod).iter().any(|name| name == "batch.kubernetes.io/job-tracking") {
            out.push(format!("pod {} waits to be counted", Key::of(pod)));
        }
    }
}

fn cron_job(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let jobs: Vec<_> = view.owned(Kind::Job, meta::uid(one)).collect();
    for (outcome, limit) in [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")] {
        let has = |job: &&&Arc<Value>| condition(job, outcome).is_some_and(|have| have["status"] == "True");
        let (kept, most) = (jobs.iter().filter(has).count() as i64, number(one, &["spec", limit]));
        if kept > most {
            out.push(format!("cron job {} keeps {kept} jobs that are {outcome} and should keep {most}", Key::of(one)));
        }
    }
    let ends = |job: &Value| {
        ["Complete", "Failed"].iter().any(|kind| condition(job, kind).is_some_and(|have| have["status"] == "True"))
    };
    let active: BTreeSet<&str> = jobs.iter().filter(|job| !ends(job)).map(|job| meta::name(job)).collect();
    let told = meta::list_at(one, &["status", "active"]).iter().filter_map(|job| job["name"].as_str());
    let told: BTreeSet<&str> = told.collect();
    if told != active {
        out.push(format!("cron job {} tells of {told:?} at work, and there are {active:?}", Key::of(one)));
    }
}

fn service(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let selector = &one["spec"]["selector"];
    if selector.is_null() {
        return;
    }
    let Ok(selector) = LabelSelector::from_object(&serde_json::json!({"matchLabels": selector})) else { return };
    let pods = view.in_namespace(Kind::Pod, meta::namespace(one));
    let should: BTreeSet<&str> = pods
        .filter(|pod| !is_ended(pod) && is_ready(pod) && selector.matches_object(pod))
        .map(|pod| meta::str_at(pod, &["status", "podIP"]))
        .collect();
    let key = Key::of(one);
    let slices = view.slices_of(&key);
    let endpoints = slices.flat_map(|slice| meta::list_at(slice, &["endpoints"]));
    let have: BTreeSet<&str> = endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .filter_map(|endpoint| endpoint["addresses"][0].as_str())
        .collect();
    if have != should {
        out.push(format!("service {} leads to {have:?}, and ready are {should:?}", Key::of(one)));
    }
}

fn budget(view: &View, one: &Arc<Value>, out: &mut Vec<String>) {
    let Ok(selector) = LabelSelector::from_object(&one["spec"]["selector"]) else { return };
    let pods = view.in_namespace(Kind::Pod, meta::namespace(one));
    let healthy = pods.filter(|pod| is_active(pod) && is_ready(pod) && selector.matches_object(pod)).count() as i64;
    // What nobody owns any more cannot be counted against a number of wanted pods.
    let failed = condition(one, "DisruptionAllowed").is_some_and(|have| have["reason"] == "SyncFailed");
    let told = number(one, &["status", "currentHealthy"]);
    if told != healthy && !failed {
        out.push(format!("budget {} counts {told} healthy pods of {healthy}", Key::of(one)));
    }
}

/// As many replicas as the load asks for: within a tenth of the target's use, or at a bound.
fn autoscaler(truth: &Truth, one: &Arc<Value>, out: &mut Vec<String>) {
    let target = meta::str_at(one, &["spec", "scaleTargetRef", "name"]);
    let Some(deployment) = truth.view.get(Kind::Deployment, meta::namespace(one), target) else { return };
    let replicas = number(deployment, &["spec", "replicas"]);
    let (least, most) = (number(one, &["spec", "minReplicas"]), number(one, &["spec", "maxReplicas"]));
    // People have switched it off.
    if replicas == 0 {
        return;
    }
    let key = Key::of(one);
    if !(least..=most).contains(&replicas) {
        out.push(format!("autoscaler {key} leaves {replicas} replicas and should keep to {least} to {most}"));
    }
    if number(one, &["status", "desiredReplicas"]) != replicas {
        out.push(format!(
            "autoscaler {key} tells of {}, and {replicas} are asked for",
            one["status"]["desiredReplicas"]
        ));
    }
    let asked = scheduler::requests(&deployment["spec"]["template"]).cpu;
    let share = number(&one["spec"]["metrics"][0], &["resource", "target", "averageUtilization"]);
    let load = truth.load.get(target).copied().unwrap_or(0);
    let wanted = (load * 100).div_euclid(asked * share) + i64::from((load * 100).rem_euclid(asked * share) != 0);
    let ratio = (load / replicas) as f64 * 100.0 / (asked * share) as f64;
    // A tenth, and what is lost where the use is rounded to whole percents.
    let tolerance = 0.1 + 1.0 / share as f64;
    if wanted.clamp(least, most) != replicas && (ratio - 1.0).abs() > tolerance {
        out.push(format!("autoscaler {key} has {replicas} replicas, and a load of {load} asks for {wanted}"));
    }
}
