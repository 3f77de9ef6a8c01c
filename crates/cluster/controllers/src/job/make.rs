//! The pods of a job: which are missing, which wait after a failure, and how one looks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cache::Kind;
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use super::{FAILURES, FINALIZER, INDEX, Look, index_of, is_failed, policy, tally};
use crate::Names;
use crate::pods;

const BACKOFF: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// Active pods whose index is done, lost, out of range or somebody else's already; and the others.
pub fn surplus_of_indexes<'a>(look: &Look<'a>) -> (Vec<&'a Arc<Value>>, Vec<&'a Arc<Value>>) {
    let end = look.completions.unwrap_or(0);
    let mut seen = BTreeSet::new();
    let (kept, surplus) = look.active.iter().copied().partition(|pod| {
        index_of(pod).is_some_and(|index| {
            (0..end).contains(&index)
                && !look.tally.completed.contains(index)
                && !look.tally.failed_indexes.contains(index)
                && seen.insert(index)
        })
    });
    (surplus, kept)
}

/// Up to `missing` new pods; and when to look again if some have to wait.
pub fn pods(look: &Look<'_>, missing: i64, names: &mut Names) -> (Vec<Value>, Option<Duration>) {
    if missing <= 0 {
        return (Vec::new(), None);
    }
    let job = look.job;
    let per_index = job["spec"]["backoffLimitPerIndex"].is_i64();
    let waits = if per_index { None } else { delay(look.pods.iter().copied(), look) };
    if let Some(left) = waits {
        return (Vec::new(), Some(left));
    }
    if !look.indexed {
        let count = 0..missing;
        return (count.map(|_| pod(job, None, 0, names)).collect(), None);
    }
    let mut by_index: BTreeMap<i64, Vec<&Arc<Value>>> = BTreeMap::new();
    for pod in &look.pods {
        by_index.entry(index_of(pod).unwrap_or(-1)).or_default().push(pod);
    }
    let holds = super::waits_for_the_end(job);
    let (mut made, mut again): (Vec<Value>, Option<Duration>) = (Vec::new(), None);
    for index in 0..look.completions.unwrap_or(0) {
        if made.len() as i64 >= missing {
            break;
        }
        let of_index = by_index.get(&index).map(Vec::as_slice).unwrap_or_default();
        let busy = of_index.iter().any(|pod| pods::is_active(pod) || (holds && !pods::is_ended(pod)));
        if busy || look.tally.completed.contains(index) || look.tally.failed_indexes.contains(index) {
            continue;
        }
        let mut failures = 0;
        if per_index {
            if let Some(left) = delay(of_index.iter().copied(), look) {
                again = Some(again.map_or(left, |have| have.min(left)));
                continue;
            }
            let counted = of_index
                .iter()
                .filter(|pod| is_failed(job, pod) && policy::of_failure(job, pod) != policy::Action::Ignore);
            failures = counted.map(|pod| tally::failures(pod) + 1).max().unwrap_or(0);
        }
        made.push(pod(job, Some((index, per_index)), failures, names));
    }
    (made, again)
}

/// How long the next pod has to wait: failures since the last success double it.
fn delay<'a>(pods: impl Iterator<Item = &'a Arc<Value>> + Clone, look: &Look<'_>) -> Option<Duration> {
    let succeeded = pods.clone().filter(|pod| pod["status"]["phase"] == "Succeeded");
    let good = succeeded.filter_map(|pod| ended_at(pod)).max();
    let failed = pods.filter(|pod| is_failed(look.job, pod)).filter_map(|pod| ended_at(pod));
    let failed: Vec<Timestamp> = failed.filter(|at| good.is_none_or(|good| *at > good)).collect();
    let last = failed.iter().max()?;
    let doubled = BACKOFF.saturating_mul(1 << (failed.len() - 1).min(16)).min(BACKOFF_MAX);
    let passed = Duration::try_from(look.now.duration_since(*last)).unwrap_or_default();
    (passed < doubled).then(|| doubled - passed)
}

fn ended_at(pod: &Value) -> Option<Timestamp> {
    let statuses = meta::list_at(pod, &["status", "containerStatuses"]).iter();
    let ended = statuses.filter_map(|status| pods::time(&status["state"]["terminated"]["finishedAt"])).max();
    ended
        .or_else(|| pods::time(&pods::condition(pod, "Ready")?["lastTransitionTime"]))
        .or_else(|| pods::time(&pod["metadata"]["deletionTimestamp"]))
        .or_else(|| pods::time(&pod["metadata"]["creationTimestamp"]))
}

/// `index`: the completion index, and whether failures are counted for each.
fn pod(job: &Value, index: Option<(i64, bool)>, failures: i64, names: &mut Names) -> Value {
    let suffix = names.suffix();
    let (name, base) = match index {
        None => pods::one_of_many(job, &suffix),
        Some((index, _)) => {
            // Room for the suffix within a label's 63 letters.
            let end = format!("-{index}-");
            let own: String = meta::name(job).chars().take(58 - end.len()).collect();
            (format!("{own}{end}{suffix}"), format!("{own}{end}"))
        }
    };
    let mut pod = pods::from_template(Kind::Job, job, &job["spec"]["template"], &name);
    pod["metadata"]["generateName"] = base.into();
    let mut finalizers = meta::finalizers(&pod);
    finalizers.push(FINALIZER.into());
    meta::set_finalizers(&mut pod, finalizers);
    let Some((index, per_index)) = index else { return pod };
    let text = index.to_string();
    for field in ["labels", "annotations"] {
        meta::object_at(&mut pod, &["metadata", field]).insert(INDEX.into(), text.as_str().into());
    }
    if per_index {
        meta::object_at(&mut pod, &["metadata", "annotations"]).insert(FAILURES.into(), failures.to_string().into());
    }
    pod["spec"]["hostname"] = format!("{}-{index}", meta::name(job)).into();
    let variable = json!({"name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}}});
    for list in ["initContainers", "containers"] {
        for container in meta::items_mut(&mut pod, &["spec", list]) {
            let own = meta::list_at(container, &["env"]);
            if own.iter().any(|entry| entry["name"] == variable["name"]) {
                continue;
            }
            let mut all = own.to_vec();
            all.push(variable.clone());
            container["env"] = all.into();
        }
    }
    pod
}
