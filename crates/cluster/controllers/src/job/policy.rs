//! What a pod's failure means for its job, and when a job counts as done before all of it is. Pure.

use cache::Key;
use resources::{Value, meta};

use super::indexes::Indexes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The job fails, for this reason.
    FailJob(String),
    FailIndex,
    Ignore,
    Count,
}

/// The first rule of the job's `podFailurePolicy` that a failed pod meets.
pub fn of_failure(job: &Value, pod: &Value) -> Action {
    for (at, rule) in meta::list_at(job, &["spec", "podFailurePolicy", "rules"]).iter().enumerate() {
        let Some(how) = by_exit_code(rule, pod).or_else(|| by_condition(rule, pod)) else { continue };
        return match rule["action"].as_str().unwrap_or_default() {
            "FailJob" => Action::FailJob(format!("{how} matching FailJob rule at index {at}")),
            "FailIndex" => Action::FailIndex,
            "Ignore" => Action::Ignore,
            _ => Action::Count,
        };
    }
    Action::Count
}

fn by_exit_code(rule: &Value, pod: &Value) -> Option<String> {
    let wanted = rule.get("onExitCodes").filter(|wanted| !wanted.is_null())?;
    let listed = |code: i64| meta::list_at(wanted, &["values"]).iter().any(|value| value.as_i64() == Some(code));
    let name = wanted["containerName"].as_str();
    let statuses = ["initContainerStatuses", "containerStatuses"].into_iter();
    let all = statuses.flat_map(|list| meta::list_at(pod, &["status", list]));
    for status in all.filter(|status| name.is_none_or(|name| status["name"] == name)) {
        let Some(code) = status["state"]["terminated"]["exitCode"].as_i64().filter(|code| *code != 0) else { continue };
        let meets = match wanted["operator"].as_str() {
            Some("In") => listed(code),
            Some("NotIn") => !listed(code),
            _ => false,
        };
        if meets {
            let container = status["name"].as_str().unwrap_or_default();
            return Some(format!("Container {container} for pod {} failed with exit code {code}", Key::of(pod)));
        }
    }
    None
}

fn by_condition(rule: &Value, pod: &Value) -> Option<String> {
    let patterns = meta::list_at(rule, &["onPodConditions"]).iter();
    let have = meta::list_at(pod, &["status", "conditions"]);
    patterns
        .filter_map(|pattern| pattern["type"].as_str().map(|kind| (kind, pattern["status"].as_str().unwrap_or("True"))))
        .find(|(kind, status)| have.iter().any(|one| one["type"] == *kind && one["status"] == *status))
        .map(|(kind, _)| format!("Pod {} has condition {kind}", Key::of(pod)))
}

/// The rule of the job's `successPolicy` that the completed indexes meet.
pub fn of_success(job: &Value, completions: i64, completed: &Indexes) -> Option<usize> {
    meta::list_at(job, &["spec", "successPolicy", "rules"]).iter().position(|rule| {
        let wanted = rule["succeededIndexes"].as_str().map(|text| Indexes::parse(text, completions));
        let met = wanted.as_ref().map_or(completed.len(), |wanted| wanted.common(completed));
        let needed = rule["succeededCount"].as_i64().or(wanted.as_ref().map(Indexes::len));
        needed.is_some_and(|needed| met >= needed)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_rule_counts() {
        let job = json!({"spec": {"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}}]}}});
        let pod = |name: &str, code: i64, condition: &str| {
            json!({"metadata": {"name": "p", "namespace": "d"}, "status": {"conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{"name": name, "state": {"terminated": {"exitCode": code}}}]}})
        };
        let failed = "Container main for pod d/p failed with exit code 42 matching FailJob rule at index 1";
        for (name, code, condition, action) in [
            ("main", 42, "DisruptionTarget", Action::Ignore),
            ("main", 42, "Ready", Action::FailJob(failed.into())),
            ("side", 42, "Ready", Action::FailIndex),
            ("main", 2, "Ready", Action::Count),
            ("main", 0, "Ready", Action::Count),
        ] {
            assert_eq!(of_failure(&job, &pod(name, code, condition)), action, "{name} {code} {condition}");
        }
    }

    #[test]
    fn some_indexes_may_be_enough() {
        let job = |rules: Value| json!({"spec": {"successPolicy": {"rules": rules}}});
        let done = Indexes::parse("1-3", 10);
        for (rules, met) in [
            (json!([{"succeededIndexes": "1,2"}]), Some(0)),
            (json!([{"succeededIndexes": "0-9", "succeededCount": 4}, {"succeededCount": 3}]), Some(1)),
            (json!([{"succeededIndexes": "0-1"}]), None),
            (json!([]), None),
        ] {
            assert_eq!(of_success(&job(rules.clone()), 10, &done), met, "{rules}");
        }
    }
}
