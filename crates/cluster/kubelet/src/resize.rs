//! What a change of a running container's resources takes. Pure.

use resources::{Value, meta};

use crate::admit;
use crate::qos;
use crate::runtime::Limits;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// The running container gets these.
    InPlace(Limits),
    /// Its policy says that it has to begin anew.
    Restart,
}

/// From the limits that a running container has to the ones that its spec gives it.
pub fn change(container: &Value, have: &Limits) -> Change {
    let want = qos::container_limits(container);
    if want == *have {
        return Change::Nothing;
    }
    let cpu = (want.cpu_shares, want.cpu_quota_micros) != (have.cpu_shares, have.cpu_quota_micros);
    let memory = want.memory_bytes != have.memory_bytes;
    let restarts = |what: &str| {
        meta::list_at(container, &["resizePolicy"])
            .iter()
            .any(|policy| policy["resourceName"] == what && policy["restartPolicy"] == "RestartContainer")
    };
    if cpu && restarts("cpu") || memory && restarts("memory") { Change::Restart } else { Change::InPlace(want) }
}

/// Why what the spec asks for cannot be given now: the condition's reason and message.
pub fn pending(pod: &Value, others: &[&Value], allocatable: &Value) -> Option<(&'static str, String)> {
    if let Some((what, _, asked, _, there)) = admit::short(pod, &[], allocatable) {
        let text = format!("Node didn't have enough capacity: {what}, requested: {asked}, capacity: {there}");
        return Some(("Infeasible", text));
    }
    let (what, _, asked, used, there) = admit::short(pod, others, allocatable)?;
    let text = format!("Node didn't have enough resource: {what}, requested: {asked}, used: {used}, capacity: {there}");
    Some(("Deferred", text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_policy_of_what_changes_decides() {
        let container = |cpu: &str, memory: &str, policy: Value| json!({"name": "c", "resizePolicy": policy, "resources": {"limits": {"cpu": cpu, "memory": memory}}});
        let none = || json!([]);
        let have = qos::container_limits(&container("1", "64Mi", none()));
        assert_eq!(change(&container("1", "64Mi", none()), &have), Change::Nothing);
        assert!(
            matches!(change(&container("2", "64Mi", none()), &have), Change::InPlace(limits) if limits.cpu_quota_micros == 200_000)
        );
        let memory = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        assert!(matches!(change(&container("2", "64Mi", memory.clone()), &have), Change::InPlace(_)));
        assert_eq!(change(&container("1", "65Mi", memory), &have), Change::Restart);
    }

    #[test]
    fn what_the_node_cannot_give_waits_or_never_comes() {
        let there = json!({"cpu": "2", "memory": "1Gi", "pods": "9"});
        let pod = |uid: &str, cpu: &str| json!({"metadata": {"uid": uid}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        let other = pod("b", "1500m");
        let reason = |cpu: &str| pending(&pod("a", cpu), &[&other], &there).map_or("", |(reason, _)| reason);
        assert_eq!((reason("500m"), reason("1"), reason("3")), ("", "Deferred", "Infeasible"));
    }
}
