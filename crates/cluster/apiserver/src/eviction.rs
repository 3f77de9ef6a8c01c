//! Evictions: a delete that disruption budgets have a say in. [`judge`] is pure; [`grant`] takes from the budget's number
//! with a compare-and-swap, so that two evictions never share one.

use resources::kinds::conditions_set;
use resources::selector::LabelSelector;
use resources::{Status, Value, meta};

use crate::api::{Api, Outcome, now};

/// Pods that were granted and have not gone: more would hide a controller that does not keep up.
const GRANTED_MAX: usize = 2000;

/// A pod that no budget counts: it has not begun, has ended or ends already.
pub fn is_free(pod: &Value) -> bool {
    matches!(meta::str_at(pod, &["status", "phase"]), "Pending" | "Succeeded" | "Failed") || meta::is_terminating(pod)
}

fn is_ready(pod: &Value) -> bool {
    meta::list_at(pod, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// It takes one of the disruptions that are allowed.
    Takes,
    /// It serves nobody, and the budget lets such pods go.
    Free,
    No {
        cause: String,
        retry_secs: u32,
    },
}

fn judge(budget: &Value, pod: &Value) -> Judgement {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let name = meta::name(budget);
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    let enough = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
    if !is_ready(pod) && (always || enough) {
        return Judgement::Free;
    }
    if number("observedGeneration") < meta::generation(budget) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Judgement::No { cause, retry_secs: 10 };
    }
    let granted = budget["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if granted > GRANTED_MAX {
        let cause = "DisruptedPods map too big - too many evictions not confirmed by PDB controller".to_owned();
        return Judgement::No { cause, retry_secs: 0 };
    }
    if number("disruptionsAllowed") <= 0 {
        let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
        let cause = format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently");
        return Judgement::No { cause, retry_secs: 0 };
    }
    Judgement::Takes
}

fn refused(cause: String, retry_secs: u32) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, "TooManyRequests", message).cause("DisruptionBudget", cause, "");
    status.retry_after_secs = retry_secs;
    status
}

/// Asks the pod's budget, and takes from it.
pub async fn grant(api: &Api, pod: &Value, dry: bool) -> Outcome<()> {
    let budgets = api.builtin("policy", "poddisruptionbudgets");
    let namespace = meta::namespace(pod);
    let mut of_pod = Vec::new();
    for budget in api.list_objects(&budgets, namespace).await? {
        let selector = &budget["spec"]["selector"];
        let selects = LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(pod));
        if !selector.is_null() && selects {
            of_pod.push(budget);
        }
    }
    let budget = match &of_pod[..] {
        [] => return Ok(()),
        [budget] => budget,
        _ => {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "InternalError", text));
        }
    };
    let mut judgement = judge(budget, pod);
    if !dry && judgement == Judgement::Takes {
        let key = budgets.key(namespace, meta::name(budget));
        api.modify(&key, |budget| {
            judgement = judge(budget, pod);
            let takes = judgement == Judgement::Takes;
            if takes {
                let left = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
                budget["status"]["disruptionsAllowed"] = (left - 1).into();
                budget["status"]["disruptedPods"][meta::name(pod)] = now().into();
            }
            takes
        })
        .await?;
    }
    match judgement {
        Judgement::Takes | Judgement::Free => Ok(()),
        Judgement::No { cause, retry_secs } => Err(refused(cause, retry_secs)),
    }
}

/// Says in the pod's status why it goes.
pub fn mark(pod: &mut Value) -> bool {
    conditions_set(pod, "DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting", client::now());
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_budget_says() {
        let pod = |ready: bool| {
            let word = if ready { "True" } else { "False" };
            json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": word}]}})
        };
        let budget = |allowed: i64, healthy: i64, policy: &str, seen: i64| {
            json!({"metadata": {"name": "b", "generation": 2}, "spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"observedGeneration": seen, "disruptionsAllowed": allowed, "currentHealthy": healthy,
                    "desiredHealthy": 2, "expectedPods": 3}})
        };
        let no = |cause: &str, retry_secs: u32| Judgement::No { cause: cause.into(), retry_secs };
        let short = "The disruption budget b needs 2 healthy pods and has 1 currently";
        for (budget, ready, expected) in [
            (budget(1, 3, "", 2), true, Judgement::Takes),
            (budget(0, 1, "", 2), true, no(short, 0)),
            (budget(0, 1, "", 2), false, no(short, 0)),
            (budget(0, 2, "", 2), false, Judgement::Free),
            (budget(0, 1, "AlwaysAllow", 2), false, Judgement::Free),
            (budget(0, 1, "AlwaysAllow", 2), true, no(short, 0)),
            (budget(1, 3, "", 1), true, no("The disruption budget b is still being processed by the server.", 10)),
        ] {
            assert_eq!(judge(&budget, &pod(ready)), expected, "{budget} {ready}");
        }
    }
}
