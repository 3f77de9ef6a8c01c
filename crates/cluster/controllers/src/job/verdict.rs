//! Whether a job goes on. Pure.

use std::time::Duration;

use jiff::Timestamp;
use resources::{Value, meta};

use super::{Look, policy};
use crate::pods;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Open,
    /// Its pods end now, which `interim` says; `kind` when they have.
    Ends {
        interim: &'static str,
        kind: &'static str,
        reason: String,
        message: String,
    },
}

fn failed(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::Ends { interim: "FailureTarget", kind: "Failed", reason: reason.into(), message: message.into() }
}

fn complete(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::Ends { interim: "SuccessCriteriaMet", kind: "Complete", reason: reason.into(), message: message.into() }
}

pub fn of(look: &Look<'_>) -> Verdict {
    let (job, tally) = (look.job, &look.tally);
    let spec = &job["spec"];
    // What was decided once stays decided.
    for (interim, verdict) in
        [("FailureTarget", failed as fn(&str, String) -> Verdict), ("SuccessCriteriaMet", complete)]
    {
        if let Some(condition) = pods::condition(job, interim).filter(|condition| condition["status"] == "True") {
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            return verdict(&text("reason"), text("message"));
        }
    }
    if let Some(why) = &tally.fatal {
        return failed("PodFailurePolicy", why.clone());
    }
    let limit = spec["backoffLimit"].as_i64().unwrap_or(6);
    if tally.failed() > limit || restarts_exceed(look, limit) {
        return failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if !look.suspended && left(job, look.now).is_some_and(|left| left <= 0) {
        return failed("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let (true, Some(completions)) = (look.indexed, look.completions) {
        let lost = tally.failed_indexes.len();
        if spec["maxFailedIndexes"].as_i64().is_some_and(|most| lost > most) {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return failed("MaxFailedIndexesExceeded", text);
        }
        if let Some(rule) = policy::of_success(job, completions, &tally.completed) {
            return complete("SuccessPolicy", format!("Matched rules at index {rule}"));
        }
        if lost > 0 && lost + tally.completed.len() >= completions {
            return failed("FailedIndexes", "Job has failed indexes");
        }
    }
    let done = match look.completions {
        None => tally.succeeded() > 0 && look.active.is_empty() && look.terminating == 0,
        Some(completions) => tally.succeeded() >= completions,
    };
    match done {
        true => complete("CompletionsReached", "Reached expected number of succeeded pods"),
        false => Verdict::Open,
    }
}

/// Containers that are restarted in place are failures as well.
fn restarts_exceed(look: &Look<'_>, limit: i64) -> bool {
    if meta::str_at(look.job, &["spec", "template", "spec", "restartPolicy"]) != "OnFailure" {
        return false;
    }
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses =
        look.active.iter().flat_map(|pod| lists.iter().flat_map(|list| meta::list_at(pod, &["status", list])));
    let restarts: i64 = statuses.filter_map(|status| status["restartCount"].as_i64()).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Seconds until the job's deadline.
fn left(job: &Value, now: Timestamp) -> Option<i64> {
    let limit = job["spec"]["activeDeadlineSeconds"].as_i64()?;
    let began = pods::time(&job["status"]["startTime"])?;
    Some(limit - now.duration_since(began).as_secs())
}

pub fn deadline(job: &Value, now: Timestamp) -> Option<Duration> {
    left(job, now).map(|left| Duration::from_secs(left.max(0).unsigned_abs()))
}
