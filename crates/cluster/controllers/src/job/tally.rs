//! Counts pods that ended, each once, whatever happens between two writes.
//!
//! A pod carries a finalizer until it is counted. First its uid is put down in the job's status (`uncountedTerminatedPods`),
//! then its finalizer goes, then the uid turns into a number: whoever is interrupted finds out from pod and status together how
//! far it came. A completed index needs no uid: the index itself is counted once. Pure.

use std::sync::Arc;

use resources::{Value, meta};
use serde_json::json;

use super::indexes::Indexes;
use super::policy::{self, Action};
use super::{FAILURES, FINALIZER, index_of, is_failed};

/// Pods put down at a time: a status has its limits.
const UNCOUNTED_MAX: usize = 500;

#[derive(Debug, Default)]
pub struct Tally<'a> {
    succeeded: i64,
    failed: i64,
    uncounted_succeeded: Vec<String>,
    uncounted_failed: Vec<String>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// Pods whose finalizer goes once the status is written.
    pub release: Vec<&'a Arc<Value>>,
    /// A rule of the failure policy ends the job.
    pub fatal: Option<String>,
    indexed: bool,
}

impl<'a> Tally<'a> {
    pub fn new(job: &Value, pods: &[&'a Arc<Value>]) -> Self {
        let (spec, status) = (&job["spec"], &job["status"]);
        let indexed = spec["completionMode"] == "Indexed";
        let completions = spec["completions"].as_i64().unwrap_or(0);
        let per_index = spec["backoffLimitPerIndex"].as_i64();
        let text = |field: &str| status[field].as_str().unwrap_or_default();
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        let mut tally = Self {
            succeeded: number("succeeded"),
            failed: number("failed"),
            completed: Indexes::parse(text("completedIndexes"), completions),
            failed_indexes: Indexes::parse(text("failedIndexes"), completions),
            indexed,
            ..Self::default()
        };
        let carries = |uid: &str| pods.iter().any(|pod| meta::uid(pod) == uid && has_finalizer(pod));
        for (list, count, kept) in [
            ("succeeded", &mut tally.succeeded, &mut tally.uncounted_succeeded),
            ("failed", &mut tally.failed, &mut tally.uncounted_failed),
        ] {
            for uid in meta::list_at(status, &["uncountedTerminatedPods", list]).iter().filter_map(Value::as_str) {
                match carries(uid) {
                    true => kept.push(uid.to_owned()),
                    false => *count += 1,
                }
            }
        }
        for pod in pods.iter().copied().filter(|pod| has_finalizer(pod)) {
            let uid = meta::uid(pod).to_owned();
            if tally.uncounted_succeeded.contains(&uid) || tally.uncounted_failed.contains(&uid) {
                tally.release.push(pod);
                continue;
            }
            if tally.uncounted_succeeded.len() + tally.uncounted_failed.len() >= UNCOUNTED_MAX {
                break;
            }
            let index = index_of(pod).filter(|index| (0..completions).contains(index));
            if meta::str_at(pod, &["status", "phase"]) == "Succeeded" {
                match (indexed, index) {
                    (true, Some(index)) => drop(tally.completed.insert(index)),
                    (true, None) => {}
                    (false, _) => tally.uncounted_succeeded.push(uid),
                }
                tally.release.push(pod);
            } else if is_failed(job, pod) {
                let action = policy::of_failure(job, pod);
                tally.release.push(pod);
                if let Action::FailJob(why) = &action {
                    tally.fatal.get_or_insert_with(|| why.clone());
                }
                if action == Action::Ignore || (indexed && index.is_none()) {
                    continue;
                }
                tally.uncounted_failed.push(uid);
                if let (Some(limit), Some(index)) = (per_index, index)
                    && (action == Action::FailIndex || failures(pod) >= limit)
                {
                    tally.failed_indexes.insert(index);
                }
            }
        }
        tally
    }

    pub fn succeeded(&self) -> i64 {
        if self.indexed { self.completed.len() } else { self.succeeded + self.uncounted_succeeded.len() as i64 }
    }

    pub fn failed(&self) -> i64 {
        self.failed + self.uncounted_failed.len() as i64
    }

    /// Nothing waits for being counted.
    pub fn is_settled(&self) -> bool {
        self.release.is_empty() && self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty()
    }

    /// Puts the counts into a status.
    pub fn tell(&self, status: &mut Value, per_index: bool) {
        let succeeded = if self.indexed { self.completed.len() } else { self.succeeded };
        for (field, count) in [("succeeded", succeeded), ("failed", self.failed)] {
            if count > 0 {
                status[field] = count.into();
            }
        }
        let mut uncounted = json!({});
        for (field, list) in [("succeeded", &self.uncounted_succeeded), ("failed", &self.uncounted_failed)] {
            if !list.is_empty() {
                uncounted[field] = list.clone().into();
            }
        }
        status["uncountedTerminatedPods"] = uncounted;
        if self.indexed && !self.completed.is_empty() {
            status["completedIndexes"] = self.completed.to_string().into();
        }
        if per_index {
            status["failedIndexes"] = self.failed_indexes.to_string().into();
        }
    }
}

pub fn has_finalizer(pod: &Value) -> bool {
    meta::list_at(pod, &["metadata", "finalizers"]).iter().any(|name| name == FINALIZER)
}

/// How often the index of a pod had failed when the pod was made.
pub fn failures(pod: &Value) -> i64 {
    meta::str_at(pod, &["metadata", "annotations", FAILURES]).parse().unwrap_or(0)
}
