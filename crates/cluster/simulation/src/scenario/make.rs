//! Workloads, drawn.

use resources::Value;
use serde_json::json;

use crate::node::WORK_IMAGE;
use crate::rng::Rng;

fn template(rng: &mut Rng, name: &str, image: &str) -> Value {
    let cpu = rng.pick(&["100m", "200m", "350m"]);
    let mut spec = json!({"containers": [{"name": "main", "image": image, "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}]});
    if rng.chance(200) {
        spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": name}}}]);
    }
    if rng.chance(150) {
        spec["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": name}}}}]}});
    }
    if rng.chance(500) {
        // Leaves silent nodes soon.
        let leave = |key: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10});
        spec["tolerations"] = json!([leave("unreachable"), leave("not-ready")]);
    }
    json!({"metadata": {"labels": {"app": name}}, "spec": spec})
}

fn object(kind: &str, group: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": group, "kind": kind, "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

pub fn strategy(rng: &mut Rng) -> Value {
    if rng.chance(150) {
        return json!({"type": "Recreate", "rollingUpdate": null});
    }
    let bounds = [
        (json!(1), json!(0)),
        (json!(0), json!(1)),
        (json!("25%"), json!("25%")),
        (json!(2), json!(1)),
        (json!("50%"), json!(0)),
        (json!("100%"), json!("100%")),
    ];
    let (surge, unavailable) = rng.pick(&bounds);
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

pub fn deployment(rng: &mut Rng, name: &str) -> Value {
    let spec = json!({"replicas": rng.between(1, 6), "selector": {"matchLabels": {"app": name}}, "strategy": strategy(rng),
        "minReadySeconds": rng.pick(&[0, 0, 0, 3]), "revisionHistoryLimit": rng.between(0, 3), "template": template(rng, name, "app:0")});
    object("Deployment", "apps/v1", name, spec)
}

pub fn replica_set(rng: &mut Rng, name: &str) -> Value {
    let spec = json!({"replicas": rng.between(1, 4), "selector": {"matchLabels": {"app": name}}, "template": template(rng, name, "app:0")});
    object("ReplicaSet", "apps/v1", name, spec)
}

pub fn stateful_set(rng: &mut Rng, name: &str) -> Value {
    let mut spec = json!({"replicas": rng.between(1, 4), "serviceName": name, "selector": {"matchLabels": {"app": name}},
        "podManagementPolicy": rng.pick(&["OrderedReady", "Parallel"]), "template": template(rng, name, "app:0")});
    if rng.chance(300) {
        spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}}]);
        spec["persistentVolumeClaimRetentionPolicy"] =
            json!({"whenDeleted": rng.pick(&["Retain", "Delete"]), "whenScaled": rng.pick(&["Retain", "Delete"])});
    }
    object("StatefulSet", "apps/v1", name, spec)
}

pub fn daemon_set(rng: &mut Rng, name: &str) -> Value {
    let ways = [
        json!({"maxUnavailable": 1, "maxSurge": 0}),
        json!({"maxSurge": 1, "maxUnavailable": 0}),
        json!({"maxUnavailable": "50%"}),
    ];
    let rolling = rng.pick(&ways);
    let spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template(rng, name, "app:0"),
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
    object("DaemonSet", "apps/v1", name, spec)
}

fn job_spec(rng: &mut Rng, name: &str) -> Value {
    let mut template = template(rng, name, WORK_IMAGE);
    template["spec"]["restartPolicy"] = (*rng.pick(&["Never", "Never", "OnFailure"])).into();
    let mut spec = json!({"completions": rng.between(1, 5), "parallelism": rng.between(1, 3), "backoffLimit": 6, "template": template});
    if rng.chance(400) {
        spec["completionMode"] = "Indexed".into();
    }
    spec
}

pub fn job(rng: &mut Rng, name: &str) -> Value {
    let mut spec = job_spec(rng, name);
    if rng.chance(200) {
        spec["ttlSecondsAfterFinished"] = 30.into();
    }
    object("Job", "batch/v1", name, spec)
}

pub fn cron_job(rng: &mut Rng, name: &str) -> Value {
    let spec = json!({"schedule": rng.pick(&["*/30 * * * *", "7 * * * *", "@hourly", "15 */4 * * *"]),
        "concurrencyPolicy": rng.pick(&["Allow", "Forbid", "Replace"]),
        "successfulJobsHistoryLimit": rng.between(0, 3), "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": {"app": name}}, "spec": job_spec(rng, name)}});
    object("CronJob", "batch/v1", name, spec)
}

pub fn service(name: &str) -> Value {
    object("Service", "v1", name, json!({"selector": {"app": name}, "ports": [{"port": 80, "protocol": "TCP"}]}))
}

pub fn budget(rng: &mut Rng, name: &str) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}});
    match rng.chance(500) {
        true => spec["maxUnavailable"] = 1.into(),
        false => spec["minAvailable"] = "50%".into(),
    }
    object("PodDisruptionBudget", "policy/v1", name, spec)
}

pub fn autoscaler(rng: &mut Rng, name: &str) -> Value {
    let least = rng.between(1, 2);
    let utilization = *rng.pick(&[40, 50, 80]);
    let target = json!({"type": "Utilization", "averageUtilization": utilization});
    let mut spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": least, "maxReplicas": least + rng.between(1, 5),
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]});
    if rng.chance(500) {
        spec["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": rng.pick(&[30, 60])}});
    }
    object("HorizontalPodAutoscaler", "autoscaling/v2", name, spec)
}
