//! Jobs: pods that run to their end, as often and as long as the job says.
//!
//! * `tally` — counts pods that ended, each once
//! * `verdict` — whether the job goes on, has failed or is done
//! * `policy` — what a failure means, and when part of the work is enough
//! * `indexes` — sets of completion indexes
//! * `make` — the pods

mod indexes;
mod make;
mod policy;
mod tally;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::kinds::conditions_set;
use resources::{Value, decode, meta};
use serde_json::json;

use crate::Names;
use crate::pods;
use tally::Tally;
use verdict::Verdict;

pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The value of `managedBy` that means us.
const OURS: &str = "kubernetes.io/job-controller";
/// Pods made or ended for one job at a time: the next look goes on.
const BURST: usize = 500;

pub struct Jobs {
    names: Names,
}

impl Jobs {
    pub fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Part for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Job, Kind::Pod]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        match kind {
            Kind::Job => vec![Key::of(object)],
            _ => pods::owner_keys(view, Kind::Job, object),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, now: Timestamp) -> Outcome {
        let job = view.at(Kind::Job, key);
        let mut writes = let_go_of_strays(view, key, job.map_or("", |job| meta::uid(job)));
        let Some(job) = job else { return Outcome::of(writes) };
        let other = meta::str_at(job, &["spec", "managedBy"]);
        if !other.is_empty() && other != OURS {
            return Outcome::of(writes);
        }
        if is_finished(job) || meta::is_terminating(job) {
            let left = view.owned(Kind::Pod, meta::uid(job)).filter(|pod| tally::has_finalizer(pod));
            writes.extend(left.map(|pod| release(pod)));
            return after_the_end(job, writes, now);
        }
        let claimed = pods::claim(view, Kind::Pod, Kind::Job, job, &mut writes);
        let look = Look::new(job, claimed, now);
        let (more, again) = look.work(&mut self.names);
        writes.extend(more);
        Outcome { writes, again }
    }
}

/// Pods of a job that has gone need not wait for being counted.
fn let_go_of_strays(view: &View, key: &Key, uid: &str) -> Vec<Write> {
    view.in_namespace(Kind::Pod, &key.namespace)
        .filter(|pod| tally::has_finalizer(pod))
        .filter(|pod| {
            pods::controller(pod).is_some_and(|owner| owner.kind == "Job" && owner.name == key.name && owner.uid != uid)
        })
        .map(|pod| release(pod))
        .collect()
}

fn release(pod: &Value) -> Write {
    let mut left = meta::finalizers(pod);
    left.retain(|name| name != FINALIZER);
    let patch = json!({"metadata": {"uid": meta::uid(pod), "finalizers": left}});
    Write::Merge { kind: Kind::Pod, key: Key::of(pod), sub: "", patch }
}

pub fn is_finished(job: &Value) -> bool {
    finished(job).is_some()
}

/// The condition that says how a job ended.
pub fn finished(job: &Value) -> Option<&Value> {
    ["Complete", "Failed"]
        .iter()
        .filter_map(|kind| pods::condition(job, kind))
        .find(|condition| condition["status"] == "True")
}

/// A finished job goes after its time.
fn after_the_end(job: &Value, mut writes: Vec<Write>, now: Timestamp) -> Outcome {
    let ended = finished(job).and_then(|condition| pods::time(&condition["lastTransitionTime"]));
    let (Some(ended), Some(keep)) = (ended, job["spec"]["ttlSecondsAfterFinished"].as_i64()) else {
        return Outcome::of(writes);
    };
    if meta::is_terminating(job) {
        return Outcome::of(writes);
    }
    let left = keep - now.duration_since(ended).as_secs();
    if left > 0 {
        return Outcome::of(writes).after(Duration::from_secs(left.unsigned_abs()));
    }
    writes.push(Write::delete(Kind::Job, job));
    Outcome::of(writes)
}

/// Whether a pod counts as failed. With `podReplacementPolicy: Failed` one that is told to end may still succeed.
fn is_failed(job: &Value, pod: &Value) -> bool {
    let phase = meta::str_at(pod, &["status", "phase"]);
    if phase == "Failed" {
        return true;
    }
    // Nobody will ever report on a pod that has no node.
    let nowhere = meta::str_at(pod, &["spec", "nodeName"]).is_empty();
    meta::is_terminating(pod) && phase != "Succeeded" && (nowhere || !waits_for_the_end(job))
}

/// A pod is replaced only when it has ended for sure.
fn waits_for_the_end(job: &Value) -> bool {
    job["spec"]["podReplacementPolicy"] == "Failed"
}

fn index_of(pod: &Value) -> Option<i64> {
    meta::str_at(pod, &["metadata", "annotations", INDEX]).parse().ok()
}

/// A job with its pods.
struct Look<'a> {
    job: &'a Value,
    now: Timestamp,
    pods: Vec<&'a Arc<Value>>,
    /// Neither ended nor told to end.
    active: Vec<&'a Arc<Value>>,
    terminating: i64,
    tally: Tally<'a>,
    indexed: bool,
    suspended: bool,
    parallelism: i64,
    completions: Option<i64>,
}

impl<'a> Look<'a> {
    fn new(job: &'a Value, pods: Vec<&'a Arc<Value>>, now: Timestamp) -> Self {
        let spec = &job["spec"];
        let active = pods.iter().copied().filter(|pod| pods::is_active(pod)).collect();
        let ending = |pod: &&&Arc<Value>| {
            let nowhere = meta::str_at(pod, &["spec", "nodeName"]).is_empty();
            meta::is_terminating(pod) && !pods::is_ended(pod) && !nowhere
        };
        Self {
            job,
            now,
            active,
            terminating: pods.iter().filter(ending).count() as i64,
            tally: Tally::new(job, &pods),
            indexed: spec["completionMode"] == "Indexed",
            suspended: spec["suspend"] == true,
            parallelism: spec["parallelism"].as_i64().unwrap_or(1).max(0),
            completions: spec["completions"].as_i64(),
            pods,
        }
    }

    fn work(&self, names: &mut Names) -> (Vec<Write>, Option<Duration>) {
        let mut object = self.job.clone();
        let mut events = Vec::new();
        let mut changes = Vec::new();
        let mut again = None;
        match verdict::of(self) {
            Verdict::Ends { interim, kind, reason, message } => {
                let gone = self.active.iter().take(BURST);
                gone.for_each(|pod| self.end(pod, &mut changes));
                conditions_set(&mut object, interim, "True", &reason, &message, self.now);
                if self.active.is_empty() && self.terminating == 0 && self.tally.is_settled() {
                    conditions_set(&mut object, kind, "True", &reason, &message, self.now);
                    // One that had nothing to do, or never got to it, began as it ended.
                    meta::object_at(&mut object, &["status"])
                        .entry("startTime")
                        .or_insert_with(|| decode::format_time(self.now, 0).into());
                    if kind == "Complete" {
                        object["status"]["completionTime"] = decode::format_time(self.now, 0).into();
                        events.push(Write::normal(Kind::Job, self.job, "Completed", "Job completed"));
                    } else {
                        events.push(Write::warning(Kind::Job, self.job, &reason, message));
                    }
                    if self.suspended {
                        conditions_set(&mut object, "Suspended", "False", "JobResumed", "Job resumed", self.now);
                    }
                }
            }
            Verdict::Open if self.suspended => {
                self.active.iter().take(BURST).for_each(|pod| self.end(pod, &mut changes));
                if suspended(self.job) != Some(true) {
                    conditions_set(&mut object, "Suspended", "True", "JobSuspended", "Job suspended", self.now);
                    events.push(Write::normal(Kind::Job, self.job, "Suspended", "Job suspended"));
                }
                // What was asked for in seconds begins anew.
                meta::object_at(&mut object, &["status"]).remove("startTime");
            }
            Verdict::Open => {
                if suspended(self.job) == Some(true) {
                    conditions_set(&mut object, "Suspended", "False", "JobResumed", "Job resumed", self.now);
                    events.push(Write::normal(Kind::Job, self.job, "Resumed", "Job resumed"));
                    object["status"]["startTime"] = decode::format_time(self.now, 0).into();
                }
                if object["status"].get("startTime").is_none() {
                    object["status"]["startTime"] = decode::format_time(self.now, 0).into();
                }
                again = verdict::deadline(&object, self.now);
                let more = self.manage(names, &mut changes);
                again = [again, more].into_iter().flatten().min();
            }
        }
        let status = self.status(object);
        let mut writes: Vec<Write> = pods::status_write(Kind::Job, self.job, status).into_iter().collect();
        writes.extend(self.tally.release.iter().map(|pod| release(pod)));
        writes.extend(changes);
        writes.extend(events);
        (writes, again)
    }

    fn end(&self, pod: &Value, writes: &mut Vec<Write>) {
        writes.push(Write::delete(Kind::Pod, pod));
        let text = format!("Deleted pod: {}", meta::name(pod));
        writes.push(Write::normal(Kind::Job, self.job, "SuccessfulDelete", text));
    }

    /// How many pods should run at a time now.
    fn wanted(&self) -> i64 {
        match self.completions {
            // A queue of work: whoever finds it empty says so, and nobody new comes.
            None if self.tally.succeeded() > 0 => self.active.len() as i64,
            None => self.parallelism,
            Some(completions) => {
                let open = completions - self.tally.succeeded() - self.tally.failed_indexes.len();
                self.parallelism.min(open.max(0))
            }
        }
    }

    fn manage(&self, names: &mut Names, writes: &mut Vec<Write>) -> Option<Duration> {
        let wanted = self.wanted();
        let (surplus, mut active) = match self.indexed {
            true => make::surplus_of_indexes(self),
            false => (Vec::new(), self.active.clone()),
        };
        surplus.iter().for_each(|pod| self.end(pod, writes));
        if active.len() as i64 > wanted {
            let everywhere = active.clone();
            pods::rank_for_deletion(&mut active, |_| 0);
            let excess = everywhere.len() - wanted as usize;
            active.iter().take(excess.min(BURST)).for_each(|pod| self.end(pod, writes));
            return None;
        }
        // One that has yet to end holds its place.
        let held = if waits_for_the_end(self.job) { self.terminating } else { 0 };
        let missing = (wanted - active.len() as i64 - held).clamp(0, BURST as i64);
        let (pods, again) = make::pods(self, missing, names);
        for pod in pods {
            let text = format!("Created pod: {}", meta::name(&pod));
            writes.push(Write::Create(Kind::Pod, pod));
            writes.push(Write::normal(Kind::Job, self.job, "SuccessfulCreate", text));
        }
        again
    }

    fn status(&self, mut object: Value) -> Value {
        let mut status = json!({});
        for field in ["startTime", "completionTime", "conditions"] {
            if let Some(value) = object["status"].get(field).filter(|value| !value.is_null()) {
                status[field] = value.clone();
            }
        }
        let ready = self.active.iter().filter(|pod| pods::is_ready(pod)).count();
        if !self.active.is_empty() {
            status["active"] = self.active.len().into();
        }
        status["ready"] = ready.into();
        status["terminating"] = self.terminating.into();
        self.tally.tell(&mut status, self.job["spec"]["backoffLimitPerIndex"].is_i64());
        object["status"] = status;
        object["status"].take()
    }
}

fn suspended(job: &Value) -> Option<bool> {
    pods::condition(job, "Suspended").map(|condition| condition["status"] == "True")
}

#[cfg(test)]
mod tests;
