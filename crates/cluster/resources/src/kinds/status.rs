//! What a write of status may say: counts that fit together, ends that stay, addresses that are addresses. Rules are for what
//! is written: a fault that stood already, of an object older than its rule, is nobody's who changes something else
//! ([`Strategy::judge_status`](super::Strategy::judge_status)).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::rules::Faults;
use crate::quantity::Quantity;
use crate::{FieldError, meta, names};

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const OVER_REPLICAS: &str = "cannot be greater than status.replicas";

fn number(status: &Value, field: &str) -> i64 {
    status[field].as_i64().unwrap_or(0)
}

fn counts(status: &Value, fields: &[&str], faults: &mut Faults) {
    fields.iter().for_each(|field| faults.non_negative(status, field, "status"));
}

/// Each of these is at most the number in `limit`.
fn at_most(status: &Value, fields: &[&str], limit: &str, detail: &str, faults: &mut Faults) {
    for field in fields {
        if number(status, field) > number(status, limit) {
            faults.invalid(&format!("status.{field}"), number(status, field), detail);
        }
    }
}

fn collisions_stay(new: &Value, old: &Value, faults: &mut Faults) {
    let now = number(&new["status"], "collisionCount");
    if now < number(&old["status"], "collisionCount") {
        let value = new["status"]["collisionCount"].clone();
        faults.invalid("status.collisionCount", value, "cannot be decremented");
    }
}

pub(super) fn deployment(new: &Value, old: &Value, faults: &mut Faults) {
    let status = &new["status"];
    let fields = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    counts(status, &fields, faults);
    at_most(status, &["updatedReplicas", "readyReplicas", "availableReplicas"], "replicas", OVER_REPLICAS, faults);
    at_most(status, &["availableReplicas"], "readyReplicas", "cannot be greater than readyReplicas", faults);
    collisions_stay(new, old, faults);
}

/// ReplicaSet and ReplicationController.
pub(super) fn replica_set(new: &Value, _: &Value, faults: &mut Faults) {
    let status = &new["status"];
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    counts(status, &["replicas"], faults);
    counts(status, &parts, faults);
    counts(status, &["terminatingReplicas", "observedGeneration"], faults);
    at_most(status, &parts, "replicas", OVER_REPLICAS, faults);
    at_most(status, &["availableReplicas"], "readyReplicas", "cannot be greater than readyReplicas", faults);
}

pub(super) fn stateful_set(new: &Value, old: &Value, faults: &mut Faults) {
    let status = &new["status"];
    let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    counts(status, &["replicas"], faults);
    counts(status, &parts, faults);
    counts(status, &["observedGeneration", "collisionCount"], faults);
    at_most(status, &parts, "replicas", OVER_REPLICAS, faults);
    at_most(status, &["availableReplicas"], "readyReplicas", "cannot be greater than status.readyReplicas", faults);
    collisions_stay(new, old, faults);
}

pub(super) fn daemon_set(new: &Value, old: &Value, faults: &mut Faults) {
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    counts(&new["status"], &fields, faults);
    collisions_stay(new, old, faults);
}

pub(super) fn autoscaler(new: &Value, _: &Value, faults: &mut Faults) {
    counts(&new["status"], &["currentReplicas", "desiredReplicas"], faults);
}

pub(super) fn disruption_budget(new: &Value, _: &Value, faults: &mut Faults) {
    let fields = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
    counts(&new["status"], &fields, faults);
}

/// Its phase follows from its end.
pub(super) fn namespace(new: &Value, _: &Value, faults: &mut Faults) {
    let phase = &new["status"]["phase"];
    let (wanted, detail) = match meta::is_terminating(new) {
        true => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
    };
    if phase != wanted {
        faults.invalid("status.Phase", phase.as_str().unwrap_or_default(), detail);
    }
}

pub(super) fn service(new: &Value, _: &Value, faults: &mut Faults) {
    let ingress = meta::list_at(new, &["status", "loadBalancer", "ingress"]);
    let path = "status.loadBalancer.ingress";
    if new["spec"]["type"] != "LoadBalancer" && !ingress.is_empty() {
        faults.forbidden(path, "may only be used when `spec.type` is \"LoadBalancer\"");
        return;
    }
    for (at, point) in ingress.iter().enumerate() {
        let path = format!("{path}[{at}]");
        match (point["ip"].as_str().unwrap_or_default(), point["ipMode"].as_str()) {
            ("", Some(_)) => faults.forbidden(&format!("{path}.ipMode"), "may not be specified when `ip` is not set"),
            ("", None) => {}
            (_, None) => faults.required(&format!("{path}.ipMode"), "must be specified when `ip` is set"),
            (_, Some("VIP" | "Proxy")) => {}
            (_, Some(mode)) => {
                faults.push(FieldError::unsupported(format!("{path}.ipMode"), mode, &["Proxy", "VIP"]));
            }
        }
        entry_point(point, &path, faults);
    }
}

pub(super) fn ingress(new: &Value, _: &Value, faults: &mut Faults) {
    for (at, point) in meta::list_at(new, &["status", "loadBalancer", "ingress"]).iter().enumerate() {
        entry_point(point, &format!("status.loadBalancer.ingress[{at}]"), faults);
    }
}

fn entry_point(point: &Value, path: &str, faults: &mut Faults) {
    let text = |field: &str| point[field].as_str().unwrap_or_default();
    if !text("ip").is_empty() {
        address(text("ip"), &format!("{path}.ip"), faults);
    }
    if !text("hostname").is_empty() {
        let path = format!("{path}.hostname");
        faults.all_invalid(&path, text("hostname"), names::dns_subdomain(text("hostname")));
        if text("hostname").parse::<IpAddr>().is_ok() {
            faults.invalid(&path, text("hostname"), "must be a DNS name, not an IP address");
        }
    }
}

fn address(text: &str, path: &str, faults: &mut Faults) -> Option<IpAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        faults.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    parsed
}

/// Amounts in `status.FIELD`.
fn amounts(object: &Value, field: &str, faults: &mut Faults) {
    for (name, value) in meta::map_at(object, &["status", field]) {
        if value.as_str().and_then(|text| Quantity::parse(text).ok()).is_some_and(|amount| amount.is_negative()) {
            faults.invalid(&format!("status.{field}[{name}]"), value.clone(), NOT_NEGATIVE);
        }
    }
}

pub(super) fn resource_quota(new: &Value, _: &Value, faults: &mut Faults) {
    for field in ["hard", "used"] {
        for (name, _) in meta::map_at(new, &["status", field]) {
            faults.all_invalid(&format!("status.{field}[{name}]"), name, names::qualified_name(name));
        }
        amounts(new, field, faults);
    }
}

pub(super) fn claim(new: &Value, _: &Value, faults: &mut Faults) {
    amounts(new, "capacity", faults);
    amounts(new, "allocatedResources", faults);
    let states = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizePending",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    for (name, state) in meta::map_at(new, &["status", "allocatedResourceStatuses"]) {
        if !states.contains(&state.as_str().unwrap_or_default()) {
            let path = format!("status.allocatedResourceStatuses[{name}]");
            faults.push(FieldError::unsupported(path, state.clone(), &states));
        }
    }
}

/// Containers that have ended for good stay so.
pub(super) fn pod(new: &Value, old: &Value, faults: &mut Faults) {
    let nominated = |pod: &Value| meta::str_at(pod, &["status", "nominatedNodeName"]).to_owned();
    if nominated(new) != nominated(old) && !nominated(new).is_empty() {
        let name = nominated(new);
        faults.all_invalid("status.nominatedNodeName", &name, names::dns_subdomain(&name));
    }
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        ended_stay_ended(new, old, list, faults);
    }
    for list in ["hostIPs", "podIPs"] {
        addresses(&new["status"], list, faults);
    }
    let (host, first) = (meta::str_at(new, &["status", "hostIP"]), &new["status"]["hostIPs"][0]["ip"]);
    if first.as_str().is_some_and(|first| first != host) {
        faults.invalid("status.hostIPs[0].ip", first.clone(), "must be equal to `hostIP`");
    }
}

fn ended_stay_ended(new: &Value, old: &Value, list: &str, faults: &mut Faults) {
    for (at, before) in meta::list_at(old, &["status", list]).iter().enumerate() {
        let Some(ended) = before["state"].get("terminated").filter(|ended| ended.is_object()) else { continue };
        let restarted = match restart_policy(&old["spec"], list, &before["name"]) {
            None | Some("Always") => true,
            Some("OnFailure") => ended["exitCode"] != 0,
            Some(_) => false,
        };
        let now = meta::list_at(new, &["status", list]).iter().find(|now| now["name"] == before["name"]);
        if !restarted && now.is_some_and(|now| !now["state"]["terminated"].is_object()) {
            let path = format!("status.{list}[{at}].state");
            faults.forbidden(&path, "may not be transitioned to non-terminated state");
        }
    }
}

/// `None`: by rules of its own, which look at its exit code.
fn restart_policy<'a>(spec: &'a Value, list: &str, name: &Value) -> Option<&'a str> {
    let containers = match list {
        "containerStatuses" => "containers",
        "initContainerStatuses" => "initContainers",
        // Nobody starts those again.
        _ => return Some("Never"),
    };
    let container = meta::list_at(spec, &[containers]).iter().find(|container| container["name"] == *name);
    if container.is_some_and(|container| !meta::list_at(container, &["restartPolicyRules"]).is_empty()) {
        return None;
    }
    container.and_then(|container| container["restartPolicy"].as_str()).or(spec["restartPolicy"].as_str())
}

/// At most one of each family.
fn addresses(status: &Value, list: &str, faults: &mut Faults) {
    let entries = meta::list_at(status, &[list]);
    let path = format!("status.{list}");
    let mut seen = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        seen.extend(address(entry["ip"].as_str().unwrap_or_default(), &format!("{path}[{at}]"), faults));
    }
    if seen.len() > 2 || seen.len() == 2 && seen[0].is_ipv4() == seen[1].is_ipv4() {
        faults.invalid(&path, entries.to_vec(), "may specify no more than one IP for each IP family");
    }
}

/// A job ends once, for one reason, with its books in order.
pub(super) fn job(new: &Value, old: &Value, faults: &mut Faults) {
    let (status, before, spec) = (&new["status"], &old["status"], &new["spec"]);
    counts(status, &["active", "succeeded", "failed", "ready", "terminating"], faults);
    let uncounted = uncounted_pods(status, faults);
    let is = |status: &Value, kind: &str| {
        let mut conditions = meta::list_at(status, &["conditions"]).iter();
        conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let (complete, failed) = (is(status, "Complete"), is(status, "Failed"));
    let (target, met) = (is(status, "FailureTarget"), is(status, "SuccessCriteriaMet"));
    let finished = complete || failed;
    let mut conditions = |wrong: bool, detail: &str| {
        if wrong {
            faults.push(FieldError::wrong("status.conditions", detail));
        }
    };
    conditions(complete && failed, "cannot set Complete=True and Failed=true conditions");
    conditions(complete && target, "cannot set Complete=True and FailureTarget=true conditions");
    conditions(failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition");
    conditions(complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    conditions(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    conditions(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        let gone = is(before, kind) && !is(status, kind);
        conditions(gone, &format!("cannot disable the terminal {kind}=True condition"));
    }
    conditions(is(before, "SuccessCriteriaMet") && !met, "cannot disable the SuccessCriteriaMet=True condition");

    if finished {
        for field in ["active", "terminating"] {
            if number(status, field) > 0 {
                let detail = format!("{field}>0 is invalid for finished job");
                faults.invalid(&format!("status.{field}"), number(status, field), detail);
            }
        }
        if uncounted {
            let value = status["uncountedTerminatedPods"].clone();
            let detail = "uncountedTerminatedPods needs to be empty for finished job";
            faults.invalid("status.uncountedTerminatedPods", value, detail);
        }
    }
    if number(status, "ready") > number(status, "active") {
        faults.invalid("status.ready", number(status, "ready"), "cannot set more ready pods than active");
    }
    // One that has as many completions as pods side by side may be made smaller, and what had succeeded beyond goes.
    let elastic = spec["completionMode"] == "Indexed" && spec["completions"] == spec["parallelism"];
    for field in ["failed", "succeeded"] {
        if number(status, field) < number(before, field) && !(elastic && field == "succeeded") {
            let detail = format!("cannot decrease the {field} counter");
            faults.invalid(&format!("status.{field}"), number(status, field), detail);
        }
    }
    job_times(status, before, spec, (complete, finished), faults);
    job_indexes(status, spec, faults);
}

/// Whether there are pods that have ended and are not counted yet.
fn uncounted_pods(status: &Value, faults: &mut Faults) -> bool {
    let mut seen = BTreeSet::new();
    for field in ["succeeded", "failed"] {
        for (at, uid) in meta::list_at(status, &["uncountedTerminatedPods", field]).iter().enumerate() {
            let path = format!("status.uncountedTerminatedPods.{field}[{at}]");
            match uid.as_str().unwrap_or_default() {
                "" => faults.invalid(&path, "", "must not be empty"),
                uid if !seen.insert(uid) => faults.push(FieldError::duplicate(path, uid)),
                _ => {}
            }
        }
    }
    !seen.is_empty()
}

fn job_times(status: &Value, before: &Value, spec: &Value, (complete, finished): (bool, bool), faults: &mut Faults) {
    let time = |status: &Value, field: &str| status.get(field).filter(|time| time.is_string()).cloned();
    let (start, end) = (time(status, "startTime"), time(status, "completionTime"));
    let stamp = |time: &Option<Value>| time.as_ref()?.as_str()?.parse::<jiff::Timestamp>().ok();
    if end.is_some() && !complete {
        let detail = "cannot set completionTime when there is no Complete=True condition";
        faults.invalid("status.completionTime", end.clone(), detail);
    }
    if end.is_none() && complete {
        faults.required("status.completionTime", "completionTime is required for Complete jobs");
    }
    if stamp(&start).zip(stamp(&end)).is_some_and(|(start, end)| end < start) {
        faults.invalid("status.completionTime", end.clone(), "completionTime cannot be set before startTime");
    }
    if start.is_none() && finished {
        faults.required("status.startTime", "startTime is required for finished job");
    }
    let ended = time(before, "completionTime");
    if end.is_some() && ended.is_some() && end != ended {
        faults.invalid("status.completionTime", end, "completionTime cannot be mutated");
    }
    let began = time(before, "startTime");
    if began.is_some() && began != start && spec["suspend"] != true {
        faults.required("status.startTime", "startTime cannot be removed for unsuspended job");
    }
}

fn job_indexes(status: &Value, spec: &Value, faults: &mut Faults) {
    let text = |field: &str| status[field].as_str();
    let done = text("completedIndexes").unwrap_or_default();
    if !done.is_empty() && spec["completionMode"] != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        faults.invalid("status.completedIndexes", done, detail);
    }
    if let Some(failed) = text("failedIndexes").filter(|_| !spec["backoffLimitPerIndex"].is_number()) {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        faults.invalid("status.failedIndexes", failed, detail);
    }
    let Some(completions) = spec["completions"].as_i64() else { return };
    let mut ranges = Vec::new();
    for field in ["completedIndexes", "failedIndexes"] {
        match super::batch::index_ranges(text(field).unwrap_or_default(), completions) {
            Ok(of_field) => ranges.push(of_field),
            Err(fault) => {
                let detail = format!("error parsing {field}: {fault}");
                faults.invalid(&format!("status.{field}"), text(field).unwrap_or_default(), detail);
            }
        }
    }
    if let [done, failed] = ranges.as_slice()
        && let Some(both) = failed.iter().find_map(|(from, to)| {
            done.iter().find(|(first, last)| first <= to && from <= last).map(|(first, _)| *first.max(from))
        })
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {both}");
        faults.invalid("status.failedIndexes", text("failedIndexes").unwrap_or_default(), detail);
    }
}
