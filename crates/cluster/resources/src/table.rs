//! What `kubectl get` prints: the columns of each kind and their cells.
//!
//! One file because it is a table: one entry a kind, alike in shape.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::crd;
use crate::kinds::ready_count;
use crate::meta::{self, at, list_at, map_at, str_at};

/// A column; priority 1 shows with `-o wide` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub priority: u8,
}

const fn col(name: &'static str, kind: &'static str, priority: u8) -> Column {
    Column { name, kind, priority }
}

const NAME: Column = col("Name", "string", 0);
const AGE: Column = col("Age", "string", 0);
const PLAIN: &[Column] = &[NAME, AGE];

/// The columns of a built-in resource.
pub fn columns(group: &str, resource: &str) -> &'static [Column] {
    const S: &str = "string";
    const I: &str = "integer";
    match (group, resource) {
        ("", "pods") => {
            const C: &[Column] = &[
                NAME,
                col("Ready", S, 0),
                col("Status", S, 0),
                col("Restarts", S, 0),
                AGE,
                col("IP", S, 1),
                col("Node", S, 1),
                col("Nominated Node", S, 1),
                col("Readiness Gates", S, 1),
            ];
            C
        }
        ("apps", "deployments") => {
            const C: &[Column] = &[
                NAME,
                col("Ready", S, 0),
                col("Up-to-date", I, 0),
                col("Available", I, 0),
                AGE,
                col("Containers", S, 1),
                col("Images", S, 1),
                col("Selector", S, 1),
            ];
            C
        }
        ("apps", "replicasets") | ("", "replicationcontrollers") => {
            const C: &[Column] = &[
                NAME,
                col("Desired", I, 0),
                col("Current", I, 0),
                col("Ready", I, 0),
                AGE,
                col("Containers", S, 1),
                col("Images", S, 1),
                col("Selector", S, 1),
            ];
            C
        }
        ("apps", "statefulsets") => {
            const C: &[Column] = &[NAME, col("Ready", S, 0), AGE, col("Containers", S, 1), col("Images", S, 1)];
            C
        }
        ("apps", "daemonsets") => {
            const C: &[Column] = &[
                NAME,
                col("Desired", I, 0),
                col("Current", I, 0),
                col("Ready", I, 0),
                col("Up-to-date", I, 0),
                col("Available", I, 0),
                col("Node Selector", S, 0),
                AGE,
                col("Containers", S, 1),
                col("Images", S, 1),
                col("Selector", S, 1),
            ];
            C
        }
        ("apps", "controllerrevisions") => {
            const C: &[Column] = &[NAME, col("Controller", S, 0), col("Revision", S, 0), AGE];
            C
        }
        ("batch", "jobs") => {
            const C: &[Column] = &[
                NAME,
                col("Status", S, 0),
                col("Completions", S, 0),
                col("Duration", S, 0),
                AGE,
                col("Containers", S, 1),
                col("Images", S, 1),
                col("Selector", S, 1),
            ];
            C
        }
        ("batch", "cronjobs") => {
            const C: &[Column] = &[
                NAME,
                col("Schedule", S, 0),
                col("Timezone", S, 0),
                col("Suspend", "boolean", 0),
                col("Active", I, 0),
                col("Last Schedule", S, 0),
                AGE,
                col("Containers", S, 1),
                col("Images", S, 1),
                col("Selector", S, 1),
            ];
            C
        }
        ("", "services") => {
            const C: &[Column] = &[
                NAME,
                col("Type", S, 0),
                col("Cluster-IP", S, 0),
                col("External-IP", S, 0),
                col("Port(s)", S, 0),
                AGE,
                col("Selector", S, 1),
            ];
            C
        }
        ("", "endpoints") => {
            const C: &[Column] = &[NAME, col("Endpoints", S, 0), AGE];
            C
        }
        ("discovery.k8s.io", "endpointslices") => {
            const C: &[Column] = &[NAME, col("AddressType", S, 0), col("Ports", S, 0), col("Endpoints", S, 0), AGE];
            C
        }
        ("networking.k8s.io", "ingresses") => {
            const C: &[Column] =
                &[NAME, col("Class", S, 0), col("Hosts", S, 0), col("Address", S, 0), col("Ports", S, 0), AGE];
            C
        }
        ("networking.k8s.io", "ingressclasses") => {
            const C: &[Column] = &[NAME, col("Controller", S, 0), col("Parameters", S, 0), AGE];
            C
        }
        ("networking.k8s.io", "networkpolicies") => {
            const C: &[Column] = &[NAME, col("Pod-Selector", S, 0), AGE];
            C
        }
        ("", "configmaps") => {
            const C: &[Column] = &[NAME, col("Data", S, 0), AGE];
            C
        }
        ("", "secrets") => {
            const C: &[Column] = &[NAME, col("Type", S, 0), col("Data", I, 0), AGE];
            C
        }
        ("", "serviceaccounts") => {
            const C: &[Column] = &[NAME, AGE];
            C
        }
        ("", "namespaces") => {
            const C: &[Column] = &[NAME, col("Status", S, 0), AGE];
            C
        }
        ("", "nodes") => {
            const C: &[Column] = &[
                NAME,
                col("Status", S, 0),
                col("Roles", S, 0),
                AGE,
                col("Version", S, 0),
                col("Internal-IP", S, 1),
                col("External-IP", S, 1),
                col("OS-Image", S, 1),
                col("Kernel-Version", S, 1),
                col("Container-Runtime", S, 1),
            ];
            C
        }
        ("" | "events.k8s.io", "events") => {
            const C: &[Column] = &[
                col("Last Seen", S, 0),
                col("Type", S, 0),
                col("Reason", S, 0),
                col("Object", S, 0),
                col("Subobject", S, 1),
                col("Source", S, 1),
                col("Message", S, 0),
                col("First Seen", S, 1),
                col("Count", S, 1),
                col("Name", S, 1),
            ];
            C
        }
        ("", "persistentvolumes") => {
            const C: &[Column] = &[
                NAME,
                col("Capacity", S, 0),
                col("Access Modes", S, 0),
                col("Reclaim Policy", S, 0),
                col("Status", S, 0),
                col("Claim", S, 0),
                col("StorageClass", S, 0),
                col("VolumeAttributesClass", S, 0),
                col("Reason", S, 0),
                AGE,
                col("VolumeMode", S, 1),
            ];
            C
        }
        ("", "persistentvolumeclaims") => {
            const C: &[Column] = &[
                NAME,
                col("Status", S, 0),
                col("Volume", S, 0),
                col("Capacity", S, 0),
                col("Access Modes", S, 0),
                col("StorageClass", S, 0),
                col("VolumeAttributesClass", S, 0),
                AGE,
                col("VolumeMode", S, 1),
            ];
            C
        }
        ("storage.k8s.io", "storageclasses") => {
            const C: &[Column] = &[
                NAME,
                col("Provisioner", S, 0),
                col("ReclaimPolicy", S, 0),
                col("VolumeBindingMode", S, 0),
                col("AllowVolumeExpansion", S, 0),
                AGE,
            ];
            C
        }
        ("autoscaling", "horizontalpodautoscalers") => {
            const C: &[Column] = &[
                NAME,
                col("Reference", S, 0),
                col("Targets", S, 0),
                col("MinPods", S, 0),
                col("MaxPods", S, 0),
                col("Replicas", S, 0),
                AGE,
            ];
            C
        }
        ("policy", "poddisruptionbudgets") => {
            const C: &[Column] = &[
                NAME,
                col("Min Available", S, 0),
                col("Max Unavailable", S, 0),
                col("Allowed Disruptions", I, 0),
                AGE,
            ];
            C
        }
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            const C: &[Column] = &[NAME, col("Created At", "date", 0)];
            C
        }
        ("rbac.authorization.k8s.io", _) => {
            const C: &[Column] =
                &[NAME, col("Role", S, 0), AGE, col("Users", S, 1), col("Groups", S, 1), col("ServiceAccounts", S, 1)];
            C
        }
        ("coordination.k8s.io", "leases") => {
            const C: &[Column] = &[NAME, col("Holder", S, 0), AGE];
            C
        }
        ("scheduling.k8s.io", "priorityclasses") => {
            const C: &[Column] =
                &[NAME, col("Value", I, 0), col("Global-Default", "boolean", 0), AGE, col("PreemptionPolicy", S, 0)];
            C
        }
        ("", "resourcequotas") => {
            const C: &[Column] = &[NAME, col("Request", S, 0), col("Limit", S, 0), AGE];
            C
        }
        ("", "limitranges") => {
            const C: &[Column] = &[NAME, col("Created At", S, 0)];
            C
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            const C: &[Column] = &[NAME, col("Created At", "date", 0)];
            C
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            const C: &[Column] = &[
                NAME,
                AGE,
                col("SignerName", S, 0),
                col("Requestor", S, 0),
                col("RequestedDuration", S, 0),
                col("Condition", S, 0),
            ];
            C
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            const C: &[Column] = &[NAME, col("Webhooks", I, 0), AGE];
            C
        }
        ("node.k8s.io", "runtimeclasses") => {
            const C: &[Column] = &[NAME, col("Handler", S, 0), AGE];
            C
        }
        ("storage.k8s.io", "volumeattachments") => {
            const C: &[Column] =
                &[NAME, col("Attacher", S, 0), col("PV", S, 0), col("Node", S, 0), col("Attached", "boolean", 0), AGE];
            C
        }
        ("apiregistration.k8s.io", "apiservices") => {
            const C: &[Column] = &[NAME, col("Service", S, 0), col("Available", S, 0), AGE];
            C
        }
        _ => PLAIN,
    }
}

/// The cells of an object, in the order of [`columns`].
pub fn cells(group: &str, resource: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let age = age_of(object, now);
    let text = |path: &[&str]| Value::from(str_at(object, path));
    let number = |path: &[&str]| Value::from(at(object, path).and_then(Value::as_i64).unwrap_or(0));
    let name: Value = meta::name(object).into();
    let created: Value = meta::get(object, "creationTimestamp").into();
    let (containers, images) = template(object);
    match (group, resource) {
        ("", "pods") => {
            let (ready, all) = ready_count(object);
            let gates = list_at(object, &["spec", "readinessGates"]).len();
            vec![
                name,
                format!("{ready}/{all}").into(),
                pod_status(object).into(),
                restarts(object, now).into(),
                age,
                or_none(str_at(object, &["status", "podIP"])),
                or_none(str_at(object, &["spec", "nodeName"])),
                or_none(str_at(object, &["status", "nominatedNodeName"])),
                if gates == 0 { "<none>".into() } else { format!("0/{gates}").into() },
            ]
        }
        ("apps", "deployments") => {
            let ready = number(&["status", "readyReplicas"]);
            vec![
                name,
                format!("{ready}/{}", number(&["spec", "replicas"])).into(),
                number(&["status", "updatedReplicas"]),
                number(&["status", "availableReplicas"]),
                age,
                containers,
                images,
                selector(&object["spec"]["selector"]),
            ]
        }
        ("apps", "replicasets") | ("", "replicationcontrollers") => {
            vec![
                name,
                number(&["spec", "replicas"]),
                number(&["status", "replicas"]),
                number(&["status", "readyReplicas"]),
                age,
                containers,
                images,
                selector(&object["spec"]["selector"]),
            ]
        }
        ("apps", "statefulsets") => {
            let ready = number(&["status", "readyReplicas"]);
            vec![name, format!("{ready}/{}", number(&["spec", "replicas"])).into(), age, containers, images]
        }
        ("apps", "daemonsets") => vec![
            name,
            number(&["status", "desiredNumberScheduled"]),
            number(&["status", "currentNumberScheduled"]),
            number(&["status", "numberReady"]),
            number(&["status", "updatedNumberScheduled"]),
            number(&["status", "numberAvailable"]),
            labels(&object["spec"]["template"]["spec"]["nodeSelector"]),
            age,
            containers,
            images,
            selector(&object["spec"]["selector"]),
        ],
        ("apps", "controllerrevisions") => {
            let controller = meta::owners(object).into_iter().find(|owner| owner.controller);
            let controller = controller.map_or("<none>".into(), |owner| {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                format!("{}/{}", crate::errors::qualified(group, &owner.kind.to_lowercase()), owner.name)
            });
            vec![name, controller.into(), number(&["revision"]), age]
        }
        ("batch", "jobs") => {
            let done = number(&["status", "succeeded"]);
            let wanted = at(object, &["spec", "completions"]).and_then(Value::as_i64);
            let completions = match wanted {
                Some(wanted) => format!("{done}/{wanted}"),
                None => format!("{done}/1 of {}", number(&["spec", "parallelism"])),
            };
            vec![
                name,
                job_status(object).into(),
                completions.into(),
                job_duration(object, now).into(),
                age,
                containers,
                images,
                selector(&object["spec"]["selector"]),
            ]
        }
        ("batch", "cronjobs") => {
            let template = &object["spec"]["jobTemplate"];
            let (containers, images) = self::template(template);
            let last = str_at(object, &["status", "lastScheduleTime"]);
            vec![
                name,
                text(&["spec", "schedule"]),
                or_none(str_at(object, &["spec", "timeZone"])),
                (if object["spec"]["suspend"] == true { "True" } else { "False" }).into(),
                list_at(object, &["status", "active"]).len().into(),
                if last.is_empty() { "<none>".into() } else { since(last, now) },
                age,
                containers,
                images,
                selector(&template["spec"]["selector"]),
            ]
        }
        ("", "services") => {
            let ip = match str_at(object, &["spec", "clusterIP"]) {
                "" => "<none>",
                ip => ip,
            };
            vec![
                name,
                text(&["spec", "type"]),
                ip.into(),
                external_ip(object).into(),
                service_ports(object).into(),
                age,
                labels(&object["spec"]["selector"]),
            ]
        }
        ("", "endpoints") => vec![name, endpoints(object).into(), age],
        ("discovery.k8s.io", "endpointslices") => {
            let ports = list_at(object, &["ports"]).iter().map(|port| port["port"].to_string());
            let all = list_at(object, &["endpoints"]).iter();
            let addresses = all.flat_map(|endpoint| list_at(endpoint, &["addresses"])).filter_map(Value::as_str);
            vec![
                name,
                text(&["addressType"]),
                some_of(ports.collect(), "<unset>").into(),
                some_of(addresses.map(str::to_owned).collect(), "<unset>").into(),
                age,
            ]
        }
        ("networking.k8s.io", "ingresses") => {
            let hosts = list_at(object, &["spec", "rules"]).iter();
            let hosts: Vec<String> = hosts.filter_map(|rule| rule["host"].as_str()).map(str::to_owned).collect();
            let tls = !list_at(object, &["spec", "tls"]).is_empty();
            vec![
                name,
                or_none(str_at(object, &["spec", "ingressClassName"])),
                some_of(hosts, "*").into(),
                load_balancer(object).into(),
                (if tls { "80, 443" } else { "80" }).into(),
                age,
            ]
        }
        ("networking.k8s.io", "ingressclasses") => {
            let to = &object["spec"]["parameters"];
            let parameters = match to["name"].as_str() {
                Some(name) => {
                    let group = to["apiGroup"].as_str().unwrap_or_default();
                    let kind = crate::errors::qualified(group, to["kind"].as_str().unwrap_or_default());
                    format!("{kind}/{name}")
                }
                None => "<none>".into(),
            };
            vec![name, text(&["spec", "controller"]), parameters.into(), age]
        }
        ("networking.k8s.io", "networkpolicies") => vec![name, selector(&object["spec"]["podSelector"]), age],
        ("", "configmaps") => {
            let count = map_at(object, &["data"]).count() + map_at(object, &["binaryData"]).count();
            vec![name, count.into(), age]
        }
        ("", "secrets") => vec![name, text(&["type"]), map_at(object, &["data"]).count().into(), age],
        ("", "namespaces") => vec![name, text(&["status", "phase"]), age],
        ("", "nodes") => {
            let address = |kind: &str| {
                let found = list_at(object, &["status", "addresses"]).iter().find(|address| address["type"] == kind);
                or_none(found.map_or("", |address| address["address"].as_str().unwrap_or_default()))
            };
            let info = |field: &str| match str_at(object, &["status", "nodeInfo", field]) {
                "" => Value::from("<unknown>"),
                text => text.into(),
            };
            vec![
                name,
                node_status(object).into(),
                node_roles(object).into(),
                age,
                info("kubeletVersion"),
                address("InternalIP"),
                address("ExternalIP"),
                info("osImage"),
                info("kernelVersion"),
                info("containerRuntimeVersion"),
            ]
        }
        ("" | "events.k8s.io", "events") => event(object, now),
        ("", "persistentvolumes") => {
            let claim = &object["spec"]["claimRef"];
            let claim = match claim["name"].as_str() {
                Some(name) => format!("{}/{name}", claim["namespace"].as_str().unwrap_or_default()),
                None => String::new(),
            };
            vec![
                name,
                text(&["spec", "capacity", "storage"]),
                modes(&object["spec"]["accessModes"]).into(),
                text(&["spec", "persistentVolumeReclaimPolicy"]),
                terminating_or(object, str_at(object, &["status", "phase"])),
                claim.into(),
                text(&["spec", "storageClassName"]),
                unset(str_at(object, &["spec", "volumeAttributesClassName"])),
                text(&["status", "reason"]),
                age,
                unset(str_at(object, &["spec", "volumeMode"])),
            ]
        }
        ("", "persistentvolumeclaims") => vec![
            name,
            terminating_or(object, str_at(object, &["status", "phase"])),
            text(&["spec", "volumeName"]),
            text(&["status", "capacity", "storage"]),
            modes(&object["status"]["accessModes"]).into(),
            text(&["spec", "storageClassName"]),
            unset(str_at(object, &["spec", "volumeAttributesClassName"])),
            age,
            unset(str_at(object, &["spec", "volumeMode"])),
        ],
        ("storage.k8s.io", "storageclasses") => {
            let default = str_at(object, &["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"]);
            let shown =
                if default == "true" { format!("{} (default)", meta::name(object)) } else { meta::name(object).into() };
            vec![
                shown.into(),
                text(&["provisioner"]),
                text(&["reclaimPolicy"]),
                text(&["volumeBindingMode"]),
                (object["allowVolumeExpansion"] == true).into(),
                age,
            ]
        }
        ("autoscaling", "horizontalpodautoscalers") => {
            let to = &object["spec"]["scaleTargetRef"];
            let part = |key: &str| to[key].as_str().unwrap_or_default().to_owned();
            vec![
                name,
                format!("{}/{}", part("kind"), part("name")).into(),
                autoscaler_targets(object).into(),
                at(object, &["spec", "minReplicas"]).map_or("<unset>".into(), |n| n.to_string()).into(),
                number(&["spec", "maxReplicas"]),
                number(&["status", "currentReplicas"]),
                age,
            ]
        }
        ("policy", "poddisruptionbudgets") => {
            let amount = |field: &str| match &object["spec"][field] {
                Value::Null => Value::from("N/A"),
                Value::String(text) => text.as_str().into(),
                other => other.to_string().into(),
            };
            vec![name, amount("minAvailable"), amount("maxUnavailable"), number(&["status", "disruptionsAllowed"]), age]
        }
        ("rbac.authorization.k8s.io", "roles" | "clusterroles")
        | ("apiextensions.k8s.io", "customresourcedefinitions") => {
            vec![name, created]
        }
        ("", "limitranges") => vec![name, created],
        ("rbac.authorization.k8s.io", _) => {
            let subjects = |kind: &str| {
                let all = list_at(object, &["subjects"]).iter().filter(|subject| subject["kind"] == kind);
                let name = |subject: &Value| match subject["namespace"].as_str() {
                    Some(namespace) => format!("{namespace}/{}", subject["name"].as_str().unwrap_or_default()),
                    None => subject["name"].as_str().unwrap_or_default().to_owned(),
                };
                Value::from(all.map(name).collect::<Vec<_>>().join(", "))
            };
            let role = format!("{}/{}", str_at(object, &["roleRef", "kind"]), str_at(object, &["roleRef", "name"]));
            vec![name, role.into(), age, subjects("User"), subjects("Group"), subjects("ServiceAccount")]
        }
        ("coordination.k8s.io", "leases") => vec![name, text(&["spec", "holderIdentity"]), age],
        ("scheduling.k8s.io", "priorityclasses") => {
            vec![name, number(&["value"]), (object["globalDefault"] == true).into(), age, text(&["preemptionPolicy"])]
        }
        ("", "resourcequotas") => {
            let mut requests = Vec::new();
            let mut limits = Vec::new();
            for (key, hard) in map_at(object, &["status", "hard"]) {
                let used = str_at(object, &["status", "used", key]);
                let shown = format!("{key}: {used}/{}", hard.as_str().unwrap_or_default());
                if key.starts_with("limits.") { &mut limits } else { &mut requests }.push(shown);
            }
            vec![name, requests.join(", ").into(), limits.join(", ").into(), age]
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            let conditions = list_at(object, &["status", "conditions"]).iter().filter_map(|c| c["type"].as_str());
            let mut state: Vec<&str> = conditions.collect();
            if state.is_empty() {
                state.push("Pending");
            }
            if !str_at(object, &["status", "certificate"]).is_empty() {
                state.push("Issued");
            }
            let asked = at(object, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
            vec![
                name,
                age,
                text(&["spec", "signerName"]),
                text(&["spec", "username"]),
                asked.map_or("<none>".into(), human).into(),
                state.join(",").into(),
            ]
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            vec![name, list_at(object, &["webhooks"]).len().into(), age]
        }
        ("node.k8s.io", "runtimeclasses") => vec![name, text(&["handler"]), age],
        ("storage.k8s.io", "volumeattachments") => vec![
            name,
            text(&["spec", "attacher"]),
            text(&["spec", "source", "persistentVolumeName"]),
            text(&["spec", "nodeName"]),
            (object["status"]["attached"] == true).into(),
            age,
        ],
        ("apiregistration.k8s.io", "apiservices") => {
            let service = &object["spec"]["service"];
            let service = match service["name"].as_str() {
                Some(name) => format!("{}/{name}", service["namespace"].as_str().unwrap_or_default()),
                None => "Local".into(),
            };
            let available = list_at(object, &["status", "conditions"]).iter().find(|c| c["type"] == "Available");
            let available = available.map_or("Unknown", |c| c["status"].as_str().unwrap_or_default());
            vec![name, service.into(), available.into(), age]
        }
        _ => vec![name, age],
    }
}

/// Column definitions and cells of a custom resource.
pub fn custom_cells(columns: &[crd::Column], object: &Value, now: Timestamp) -> Vec<Value> {
    let mut out = vec![Value::from(meta::name(object))];
    if columns.is_empty() {
        out.push(age_of(object, now));
    }
    for column in columns {
        let found = json_path(object, &column.json_path);
        out.push(match (found, column.kind.as_str()) {
            (None, _) => Value::Null,
            (Some(Value::String(time)), "date") => since(&time, now),
            (Some(Value::Object(map)), _) => Value::Object(map).to_string().into(),
            (Some(value), "string") if !value.is_string() => value.to_string().into(),
            (Some(value), _) => value,
        });
    }
    out
}

/// `columnDefinitions` of a table.
pub fn column_definitions(group: &str, resource: &str, custom: Option<&[crd::Column]>) -> Value {
    let definition = |name: &str, kind: &str, format: &str, description: &str, priority: i64| json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority});
    match custom {
        Some(custom) => {
            let mut out = vec![definition("Name", "string", "name", "", 0)];
            if custom.is_empty() {
                out.push(definition("Age", "date", "", "", 0));
            }
            let rest = custom.iter();
            out.extend(rest.map(|c| definition(&c.name, &c.kind, &c.format, &c.description, c.priority)));
            out.into()
        }
        None => columns(group, resource)
            .iter()
            .map(|column| {
                let format = if column.name == "Name" { "name" } else { "" };
                definition(column.name, column.kind, format, "", column.priority.into())
            })
            .collect(),
    }
}

/// One step of a path: from a value to those below it.
type Step = Box<dyn Fn(&Value) -> Vec<&Value>>;

/// The simple paths that printer columns use: fields, `['quoted']` fields, indexes, and `[?(@.a=="b")]`.
pub fn json_path(object: &Value, path: &str) -> Option<Value> {
    let mut here = vec![object];
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        let step: Step;
        if let Some(inner) = rest.strip_prefix("[?(@.") {
            let (condition, after) = inner.split_once(")]")?;
            let (field, wanted) = condition.split_once("==")?;
            let (field, wanted) = (field.trim().to_owned(), wanted.trim().trim_matches(['"', '\'']).to_owned());
            step = Box::new(move |value| {
                let items = value.as_array().into_iter().flatten();
                items.filter(|item| item[&field].as_str() == Some(&wanted)).collect()
            });
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (inside, after) = inner.split_once(']')?;
            let inside = inside.to_owned();
            step = Box::new(move |value| match (inside.as_str(), inside.parse::<usize>()) {
                ("*", _) => value.as_array().into_iter().flatten().collect(),
                (_, Ok(index)) => value.get(index).into_iter().collect(),
                (name, _) => value.get(name.trim_matches(['"', '\''])).into_iter().collect(),
            });
            rest = after;
        } else {
            let inner = rest.strip_prefix('.').unwrap_or(rest);
            // A dot may be escaped inside a field's name.
            let mut name = String::new();
            let mut used = 0;
            let mut chars = inner.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '.' | '[' => break,
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    c => name.push(c),
                }
                used = at + c.len_utf8();
                if c == '\\' {
                    used += 1;
                }
            }
            if used == 0 {
                return None;
            }
            step = Box::new(move |value| value.get(&name).into_iter().collect());
            rest = &inner[used..];
        }
        here = here.into_iter().flat_map(&step).collect();
    }
    here.first().map(|value| (*value).clone())
}

fn or_none(text: &str) -> Value {
    (if text.is_empty() { "<none>" } else { text }).into()
}

fn unset(text: &str) -> Value {
    (if text.is_empty() { "<unset>" } else { text }).into()
}

fn terminating_or(object: &Value, phase: &str) -> Value {
    (if meta::is_terminating(object) { "Terminating" } else { phase }).into()
}

fn age_of(object: &Value, now: Timestamp) -> Value {
    match meta::get(object, "creationTimestamp") {
        "" => "<unknown>".into(),
        time => since(time, now),
    }
}

fn since(time: &str, now: Timestamp) -> Value {
    match time.parse::<Timestamp>() {
        Ok(time) => human((now.as_second() - time.as_second()).max(0)).into(),
        Err(_) => "<invalid>".into(),
    }
}

/// A length of time as kubectl writes it: `5s`, `2m30s`, `3h`, `4d`.
pub fn human(secs: i64) -> String {
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86400);
    let and = |big: i64, unit: char, small: i64, less: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{less}"),
    };
    if secs < 120 {
        format!("{secs}s")
    } else if minutes < 10 {
        and(minutes, 'm', secs % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        and(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        and(days, 'd', hours % 24, 'h')
    } else if days < 730 {
        format!("{days}d")
    } else if days < 2920 {
        and(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

fn labels(selector: &Value) -> Value {
    let pairs: Vec<String> = selector
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",").into() }
}

/// A label selector object, or the plain map of old kinds.
fn selector(selector: &Value) -> Value {
    if selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none() {
        return labels(selector);
    }
    let mut parts: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",").into()
}

/// Names and images of a workload's containers.
fn template(object: &Value) -> (Value, Value) {
    let containers = list_at(object, &["spec", "template", "spec", "containers"]);
    let join = |field: &str| {
        let texts: Vec<&str> = containers.iter().filter_map(|container| container[field].as_str()).collect();
        Value::from(texts.join(","))
    };
    (join("name"), join("image"))
}

fn some_of(mut texts: Vec<String>, empty: &str) -> String {
    if texts.is_empty() {
        return empty.to_owned();
    }
    let more = texts.len().saturating_sub(3);
    texts.truncate(3);
    let joined = texts.join(",");
    if more > 0 { format!("{joined} + {more} more...") } else { joined }
}

fn pod_status(pod: &Value) -> String {
    let mut reason = match str_at(pod, &["status", "reason"]) {
        "" => str_at(pod, &["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    if list_at(pod, &["status", "conditions"])
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }
    let inits = list_at(pod, &["spec", "initContainers"]).len();
    for (at, status) in list_at(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        let state = &status["state"];
        if state["terminated"]["exitCode"] == 0 || status["started"] == true {
            continue;
        }
        return match (state.get("terminated"), state["waiting"]["reason"].as_str()) {
            (Some(ended), _) => format!("Init:{}", ending(ended)),
            (None, Some(why)) if !why.is_empty() && why != "PodInitializing" => format!("Init:{why}"),
            _ => format!("Init:{at}/{inits}"),
        };
    }
    let mut running = false;
    for status in list_at(pod, &["status", "containerStatuses"]).iter().rev() {
        let state = &status["state"];
        if let Some(why) = state["waiting"]["reason"].as_str().filter(|why| !why.is_empty()) {
            reason = why.to_owned();
        } else if let Some(ended) = state.get("terminated") {
            reason = ending(ended);
        } else if status["ready"] == true && state.get("running").is_some() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready =
            list_at(pod, &["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        reason = if ready { "Running" } else { "NotReady" }.into();
    }
    if meta::is_terminating(pod) {
        let lost = str_at(pod, &["status", "reason"]) == "NodeLost";
        let ended = matches!(str_at(pod, &["status", "phase"]), "Failed" | "Succeeded");
        if lost {
            reason = "Unknown".into();
        } else if !ended {
            reason = "Terminating".into();
        }
    }
    reason
}

fn ending(terminated: &Value) -> String {
    match terminated["reason"].as_str().unwrap_or_default() {
        "" => match terminated["signal"].as_i64().unwrap_or(0) {
            0 => format!("ExitCode:{}", terminated["exitCode"]),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    }
}

fn restarts(pod: &Value, now: Timestamp) -> String {
    let statuses = list_at(pod, &["status", "containerStatuses"]);
    let count: i64 = statuses.iter().filter_map(|status| status["restartCount"].as_i64()).sum();
    let ends = statuses.iter().filter_map(|status| status["lastState"]["terminated"]["finishedAt"].as_str());
    match ends.max() {
        Some(last) if count > 0 => format!("{count} ({} ago)", since(last, now).as_str().unwrap_or_default()),
        _ => count.to_string(),
    }
}

fn job_status(job: &Value) -> &'static str {
    let holds =
        |kind: &str| list_at(job, &["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if meta::is_terminating(job) {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let time = |field: &str| str_at(job, &["status", field]).parse::<Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human(end.unwrap_or(now).as_second() - start.as_second()),
    }
}

fn load_balancer(object: &Value) -> String {
    let points = list_at(object, &["status", "loadBalancer", "ingress"]).iter();
    let texts: Vec<&str> = points.filter_map(|point| point["ip"].as_str().or(point["hostname"].as_str())).collect();
    texts.join(",")
}

fn external_ip(service: &Value) -> String {
    let external: Vec<&str> = list_at(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match str_at(service, &["spec", "type"]) {
        "ExternalName" => str_at(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let mut all = vec![load_balancer(service)];
            all.extend(external.iter().map(|&ip| ip.to_owned()));
            all.retain(|text| !text.is_empty());
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if external.is_empty() => "<none>".into(),
        _ => external.join(","),
    }
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = list_at(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or_default();
            match port["nodePort"].as_i64() {
                Some(node) if node > 0 => format!("{}:{node}/{protocol}", port["port"]),
                _ => format!("{}/{protocol}", port["port"]),
            }
        })
        .collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",") }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list_at(object, &["subsets"]) {
        for address in list_at(subset, &["addresses"]) {
            let ip = address["ip"].as_str().unwrap_or_default();
            let ports = list_at(subset, &["ports"]);
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    some_of(all, "<none>")
}

fn node_status(node: &Value) -> String {
    let ready = list_at(node, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut text = match ready.and_then(|c| c["status"].as_str()) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        text += ",SchedulingDisabled";
    }
    text
}

fn node_roles(node: &Value) -> String {
    let roles: Vec<&str> = map_at(node, &["metadata", "labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .collect();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let text = |path: &[&str]| str_at(object, path);
    let pick = |fields: &[&str]| {
        let found = fields.iter().map(|field| text(&[field])).find(|text| !text.is_empty());
        found.map_or(Value::from("<unknown>"), |time| since(time, now))
    };
    let involved = if object.get("involvedObject").is_some() { "involvedObject" } else { "regarding" };
    let kind = text(&[involved, "kind"]).to_lowercase();
    let source = match text(&["source", "component"]) {
        "" => text(&["reportingComponent"]),
        component => component,
    };
    let host = text(&["source", "host"]);
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    let count = at(object, &["series", "count"]).or(at(object, &["count"])).and_then(Value::as_i64).unwrap_or(1);
    let message = if object.get("note").is_some() { text(&["note"]) } else { text(&["message"]) };
    vec![
        match text(&["series", "lastObservedTime"]) {
            "" => pick(&["lastTimestamp", "firstTimestamp", "eventTime"]),
            time => since(time, now),
        },
        text(&["type"]).into(),
        text(&["reason"]).into(),
        format!("{kind}/{}", text(&[involved, "name"])).into(),
        text(&[involved, "fieldPath"]).into(),
        source.into(),
        message.trim().into(),
        pick(&["firstTimestamp", "eventTime"]),
        count.to_string().into(),
        meta::name(object).into(),
    ]
}

fn modes(modes: &Value) -> String {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    modes.as_array().into_iter().flatten().map(short).collect::<Vec<_>>().join(",")
}

fn autoscaler_targets(object: &Value) -> String {
    let mut texts = Vec::new();
    for metric in list_at(object, &["spec", "metrics"]) {
        let resource = &metric["resource"];
        let name = resource["name"].as_str().unwrap_or_default();
        let current = list_at(object, &["status", "currentMetrics"]).iter().find(|m| m["resource"]["name"] == name);
        let current = current.and_then(|m| m["resource"]["current"]["averageUtilization"].as_i64());
        let current = current.map_or("<unknown>".into(), |n| format!("{n}%"));
        let target = match resource["target"]["averageUtilization"].as_i64() {
            Some(n) => format!("{n}%"),
            None => resource["target"]["averageValue"].as_str().unwrap_or("<auto>").to_owned(),
        };
        texts.push(format!("{name}: {current}/{target}"));
    }
    if texts.is_empty() { "<none>".into() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        let now = Timestamp::UNIX_EPOCH;
        for gv in &crate::facts::facts().groups {
            for resource in &gv.resources {
                let (columns, cells) =
                    (columns(gv.group, resource.plural), cells(gv.group, resource.plural, &json!({}), now));
                assert_eq!(columns.len(), cells.len(), "{}/{}", gv.group, resource.plural);
            }
        }
    }

    #[test]
    fn ages_read_as_kubectls() {
        let rows = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (700, "11m"),
            (10800, "3h"),
            (11000, "3h3m"),
            (100_000, "27h"),
            (200_000, "2d7h"),
            (900_000, "10d"),
            (70_000_000, "2y80d"),
        ];
        for (secs, text) in rows {
            assert_eq!(human(secs), text);
        }
    }

    #[test]
    fn printer_column_paths_are_followed() {
        let object = json!({"spec": {"a.b": 1, "l": [{"type": "X", "v": "y"}]}});
        assert_eq!(json_path(&object, ".spec.l[0].v"), Some("y".into()));
        assert_eq!(json_path(&object, ".spec.l[?(@.type==\"X\")].v"), Some("y".into()));
        assert_eq!(json_path(&object, r".spec.a\.b"), Some(1.into()));
        assert_eq!(json_path(&object, ".spec['a.b']"), Some(1.into()));
        assert_eq!(json_path(&object, ".status.x"), None);
    }
}
