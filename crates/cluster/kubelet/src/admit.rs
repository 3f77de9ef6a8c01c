//! Which pods this node does not run, and why: the words that upstream's kubelet has for it. Pure.

use resources::quantity::Quantity;
use resources::{Value, meta};

use crate::actions::End;
use crate::pod;
use crate::qos;

/// What this host can.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    pub apparmor: bool,
}

impl Host {
    pub fn look() -> Self {
        Self { apparmor: std::path::Path::new("/sys/kernel/security/apparmor/profiles").exists() }
    }
}

/// Whoever names a profile must not run without one.
fn asks_for_apparmor(pod: &Value) -> bool {
    let asks =
        |context: &Value| matches!(context["appArmorProfile"]["type"].as_str(), Some("Localhost" | "RuntimeDefault"));
    asks(&pod["spec"]["securityContext"]) || pod::containers(pod).any(|(_, one)| asks(&one["securityContext"]))
}

fn rejected(reason: &'static str, why: &str) -> End {
    End::failed(reason, format!("Pod was rejected: {why}"))
}

fn capacity(allocatable: &Value, what: &str, of: fn(Quantity) -> i64) -> Option<i64> {
    Quantity::parse(allocatable[what].as_str()?).ok().map(of)
}

fn is_over(pod: &Value) -> bool {
    matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// A resource, the reason of a pod that finds too little of it, and how it is counted.
type Row = (&'static str, &'static str, fn(Quantity) -> i64);

/// What is missing of one resource for `pod` beside `others`: resource, asked, used, there.
pub fn short(
    pod: &Value,
    others: &[&Value],
    allocatable: &Value,
) -> Option<(&'static str, &'static str, i64, i64, i64)> {
    let others: Vec<&&Value> =
        others.iter().filter(|other| meta::uid(other) != meta::uid(pod) && !is_over(other)).collect();
    let rows: [Row; 2] = [("cpu", "OutOfcpu", qos::millis), ("memory", "OutOfmemory", qos::bytes)];
    for (what, reason, of) in rows {
        let asked = qos::pod_amount(pod, "requests", what, of).unwrap_or(0);
        let Some(there) = capacity(allocatable, what, of).filter(|_| asked > 0) else { continue };
        let used = others.iter().map(|other| qos::pod_amount(other, "requests", what, of).unwrap_or(0)).sum::<i64>();
        if used.saturating_add(asked) > there {
            return Some((what, reason, asked, used, there));
        }
    }
    let there = capacity(allocatable, "pods", qos::bytes).unwrap_or(i64::MAX);
    let used = i64::try_from(others.len()).unwrap_or(i64::MAX);
    (used >= there).then_some(("pods", "OutOfpods", 1, used, there))
}

/// Why a pod that has not begun yet does not begin. What the scheduler has looked at is looked at again: a pod may come with its
/// node named.
pub fn refuse(pod: &Value, others: &[&Value], allocatable: &Value, host: Host) -> Option<End> {
    if let Some((what, reason, asked, used, there)) = short(pod, others, allocatable) {
        let why =
            format!("Node didn't have enough resource: {what}, requested: {asked}, used: {used}, capacity: {there}");
        return Some(rejected(reason, &why));
    }
    if pod["spec"]["securityContext"]["supplementalGroupsPolicy"] == "Strict" {
        return Some(rejected(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    if !host.apparmor && asks_for_apparmor(pod) {
        return Some(rejected("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
    }
    let os = meta::str_at(pod, &["spec", "os", "name"]);
    if !os.is_empty() && os != "linux" {
        let why = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(rejected("PodOSNotSupported", why));
    }
    None
}

/// What a pod asks of its node that this one cannot give; it is not begun, and the answer is never left out silently.
pub fn unsupported(pod: &Value) -> Option<String> {
    if pod["spec"]["hostUsers"] == false {
        return Some("user namespaces for pods (hostUsers: false) are not supported by this node".into());
    }
    for (_, container) in pod::containers(pod) {
        if !meta::list_at(container, &["volumeDevices"]).is_empty() {
            return Some(format!(
                "container {}: raw block devices are not supported by this node",
                pod::name(container)
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, cpu: &str) -> Value {
        json!({"metadata": {"uid": uid}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]}})
    }

    #[test]
    fn a_pod_that_does_not_fit_is_told_why() {
        let there = json!({"cpu": "2", "memory": "1Gi", "pods": "2"});
        let other = pod("a", "1500m");
        let refused = |pod: &Value, others: &[&Value]| {
            refuse(pod, others, &there, Host { apparmor: false })
                .map(|end| format!("{}: {}", end.reason, end.message))
                .unwrap_or_default()
        };
        assert_eq!(refused(&pod("b", "500m"), &[&other]), "");
        assert_eq!(
            refused(&pod("b", "501m"), &[&other]),
            "OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
        );
        assert_eq!(refused(&pod("a", "2"), &[&other]), "", "itself does not count");
        let mut over = other.clone();
        over["status"]["phase"] = "Succeeded".into();
        assert_eq!(refused(&pod("b", "2"), &[&over]), "", "nor does who has ended");
        assert!(refused(&pod("c", "0"), &[&other, &pod("b", "0")]).starts_with("OutOfpods"));
        let strict = json!({"spec": {"securityContext": {"supplementalGroupsPolicy": "Strict"}}});
        assert!(refused(&strict, &[]).starts_with("SupplementalGroupsPolicyNotSupported"));
        let held =
            json!({"spec": {"containers": [{"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}]}});
        assert!(refused(&held, &[]).starts_with("AppArmor: Pod was rejected: Cannot enforce AppArmor"));
        assert!(unsupported(&json!({"spec": {"hostUsers": false}})).is_some());
        assert!(unsupported(&pod("a", "1")).is_none());
    }
}
