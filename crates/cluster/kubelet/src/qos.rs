//! Where a pod's control group is and what it may use as a whole. Pure.

use pods::{PERIOD_MICROS, SHARES_MIN};
use resources::quantity::Quantity;
use resources::{Value, meta};

use crate::pod::{self, Role};
use crate::runtime::{GroupRequest, Limits};

const SHARES_MAX: i64 = 262_144;

pub fn shares(millis: i64) -> i64 {
    (millis.saturating_mul(1024) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// Microseconds in a period; 0 is no limit.
pub fn quota(millis: i64) -> i64 {
    if millis <= 0 { 0 } else { (millis.saturating_mul(PERIOD_MICROS) / 1000).max(1000) }
}

/// An amount of `resources`: `("requests", "cpu")`.
pub fn amount(resources: &Value, which: &str, what: &str) -> Option<Quantity> {
    Quantity::parse(resources[which].get(what)?.as_str()?).ok()
}

pub fn millis(quantity: Quantity) -> i64 {
    i64::try_from(quantity.nanos() / 1_000_000).unwrap_or(i64::MAX)
}

pub fn bytes(quantity: Quantity) -> i64 {
    i64::try_from(quantity.ceil()).unwrap_or(i64::MAX)
}

/// What one container may use.
pub fn container_limits(container: &Value) -> Limits {
    let of = |which: &str, what: &str| amount(&container["resources"], which, what);
    let cpu = of("requests", "cpu").or_else(|| of("limits", "cpu")).map_or(0, millis);
    Limits {
        cpu_shares: shares(cpu),
        cpu_quota_micros: of("limits", "cpu").map_or(0, |limit| quota(millis(limit))),
        memory_bytes: of("limits", "memory").map_or(0, bytes),
    }
}

/// What a pod asks for or may use of one resource: the containers that run together, or the largest step before them, whichever
/// is more; what the pod itself says counts above all. `None`: some container has no limit, so the pod has none.
pub fn pod_amount(pod: &Value, which: &str, what: &str, of: fn(Quantity) -> i64) -> Option<i64> {
    let overhead = || {
        let text = pod["spec"]["overhead"].get(what).and_then(Value::as_str);
        text.and_then(|text| Quantity::parse(text).ok()).map_or(0, of)
    };
    if let Some(whole) = amount(&pod["spec"]["resources"], which, what) {
        return Some(of(whole) + overhead());
    }
    let (mut together, mut largest, mut sidecars) = (0i64, 0i64, 0i64);
    for (role, container) in pod::containers(pod) {
        if role == Role::Ephemeral {
            continue;
        }
        // Who names a limit alone asks for as much.
        let own = amount(&container["resources"], which, what);
        let own = own.or_else(|| amount(&container["resources"], "limits", what));
        let own = match own.map(of) {
            Some(own) => own,
            None if which == "limits" => return None,
            None => 0,
        };
        match role {
            Role::Main => together = together.saturating_add(own),
            Role::Sidecar => {
                sidecars = sidecars.saturating_add(own);
                largest = largest.max(sidecars);
            }
            Role::Init | Role::Ephemeral => largest = largest.max(sidecars.saturating_add(own)),
        }
    }
    Some(together.saturating_add(sidecars).max(largest).saturating_add(overhead()))
}

/// The pod's group: its place beneath the class of its quality of service, and its limits.
pub fn group(pod: &Value) -> GroupRequest {
    let class = pod::quality(pod);
    let cpu = pod_amount(pod, "requests", "cpu", millis).unwrap_or(0);
    GroupRequest {
        uid: meta::uid(pod).to_owned(),
        class: match class {
            "Guaranteed" => "",
            "Burstable" => "burstable",
            _ => "besteffort",
        },
        limits: Limits {
            cpu_shares: if class == "BestEffort" { SHARES_MIN } else { shares(cpu) },
            cpu_quota_micros: pod_amount(pod, "limits", "cpu", millis).map_or(0, quota),
            memory_bytes: pod_amount(pod, "limits", "memory", bytes).unwrap_or(0),
        },
    }
}

/// The shares of the class of pods with requests but without limits: what they ask for together.
pub fn burstable_shares<'a>(pods: impl Iterator<Item = &'a Value>) -> i64 {
    let asked = pods
        .filter(|pod| pod::quality(pod) == "Burstable")
        .map(|pod| pod_amount(pod, "requests", "cpu", millis).unwrap_or(0));
    shares(asked.sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_group_follows_from_its_containers() {
        let one = |requests: &str, limits: &str| json!({"name": "c", "resources": {"requests": {"cpu": requests}, "limits": {"cpu": limits, "memory": "64Mi"}}});
        let check = |spec: Value| {
            let group = group(&json!({"metadata": {"uid": "u"}, "spec": spec}));
            (group.class, group.limits.cpu_shares, group.limits.cpu_quota_micros, group.limits.memory_bytes >> 20)
        };
        assert_eq!(check(json!({"containers": [{"name": "c"}]})), ("besteffort", 2, 0, 0));
        assert_eq!(
            check(json!({"containers": [one("500m", "1"), one("250m", "1")]})),
            ("burstable", 768, 200_000, 128)
        );
        let guaranteed = json!({"name": "c", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}});
        assert_eq!(check(json!({"containers": [guaranteed]})), ("", 2048, 200_000, 1024));
        // A container without limits leaves the pod without one; a step before the others counts if it is larger.
        assert_eq!(check(json!({"containers": [one("1", "1"), {"name": "d"}]})), ("burstable", 1024, 0, 0));
        assert_eq!(
            check(json!({"initContainers": [one("2", "2")], "containers": [one("1", "1")]})),
            ("", 2048, 200_000, 64)
        );
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "64Mi"}}});
        assert_eq!(
            check(json!({"initContainers": [sidecar], "containers": [one("1", "1")]})),
            ("burstable", 1536, 200_000, 128)
        );
        let whole = json!({"resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4", "memory": "2Gi"}}, "containers": [one("1", "1")]});
        assert_eq!(check(whole), ("burstable", 3072, 400_000, 2048));
    }
}
