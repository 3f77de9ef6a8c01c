//! What `kubectl get` prints: the columns of each kind and their cells, as upstream's server prints them. One module a family of
//! kinds; [`of`] finds a kind's.

mod access;
mod cluster;
mod network;
mod path;
mod policies;
mod storage;
mod text;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{crd, meta};

pub use path::json_path;
pub use text::human;

/// A column; priority 1 shows with `-o wide` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub priority: u8,
}

const fn string(name: &'static str) -> Column {
    Column { name, kind: "string", priority: 0 }
}

const fn integer(name: &'static str) -> Column {
    Column { name, kind: "integer", priority: 0 }
}

const fn boolean(name: &'static str) -> Column {
    Column { name, kind: "boolean", priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", priority: 1 }
}

const NAME: Column = string("Name");
const AGE: Column = string("Age");

/// How a kind is printed.
struct Table {
    columns: &'static [Column],
    /// The cells of an object, in the order of the columns.
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// Kinds that upstream has no columns for show when they were made.
const CREATED: Table = Table {
    columns: &[NAME, Column { name: "Created At", kind: "date", priority: 0 }],
    cells: |object, _| vec![text::name(object), meta::get(object, "creationTimestamp").into()],
};

const NAME_AND_AGE: Table =
    Table { columns: &[NAME, AGE], cells: |object, now| vec![text::name(object), text::age(object, now)] };

/// How a built-in resource is printed.
fn of(group: &str, resource: &str) -> &'static Table {
    match (group, resource) {
        ("", "pods") => &workloads::POD,
        ("", "podtemplates") => &workloads::POD_TEMPLATE,
        ("", "replicationcontrollers") => &workloads::REPLICATION_CONTROLLER,
        ("apps", "deployments") => &workloads::DEPLOYMENT,
        ("apps", "replicasets") => &workloads::REPLICA_SET,
        ("apps", "statefulsets") => &workloads::STATEFUL_SET,
        ("apps", "daemonsets") => &workloads::DAEMON_SET,
        ("apps", "controllerrevisions") => &workloads::CONTROLLER_REVISION,
        ("batch", "jobs") => &workloads::JOB,
        ("batch", "cronjobs") => &workloads::CRON_JOB,
        ("autoscaling", "horizontalpodautoscalers") => &policies::AUTOSCALER,
        ("policy", "poddisruptionbudgets") => &policies::DISRUPTION_BUDGET,
        ("", "services") => &network::SERVICE,
        ("", "endpoints") => &network::ENDPOINTS,
        ("discovery.k8s.io", "endpointslices") => &network::ENDPOINT_SLICE,
        ("networking.k8s.io", "ingresses") => &network::INGRESS,
        ("networking.k8s.io", "ingressclasses") => &network::INGRESS_CLASS,
        ("networking.k8s.io", "networkpolicies") => &network::NETWORK_POLICY,
        ("networking.k8s.io", "ipaddresses") => &network::IP_ADDRESS,
        ("networking.k8s.io", "servicecidrs") => &network::SERVICE_CIDR,
        ("", "configmaps") => &cluster::CONFIG_MAP,
        ("", "secrets") => &cluster::SECRET,
        ("", "namespaces") => &cluster::NAMESPACE,
        ("", "nodes") => &cluster::NODE,
        ("" | "events.k8s.io", "events") => &cluster::EVENT,
        ("", "componentstatuses") => &cluster::COMPONENT_STATUS,
        ("", "resourcequotas") => &policies::RESOURCE_QUOTA,
        ("coordination.k8s.io", "leases") => &cluster::LEASE,
        ("coordination.k8s.io", "leasecandidates") => &cluster::LEASE_CANDIDATE,
        ("node.k8s.io", "runtimeclasses") => &cluster::RUNTIME_CLASS,
        ("internal.apiserver.k8s.io", "storageversions") => &cluster::STORAGE_VERSION,
        ("apiregistration.k8s.io", "apiservices") => &cluster::API_SERVICE,
        ("scheduling.k8s.io", "priorityclasses") => &policies::PRIORITY_CLASS,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &policies::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &policies::PRIORITY_LEVEL,
        ("", "persistentvolumes") => &storage::VOLUME,
        ("", "persistentvolumeclaims") => &storage::CLAIM,
        ("storage.k8s.io", "storageclasses") => &storage::CLASS,
        ("storage.k8s.io", "volumeattachments") => &storage::ATTACHMENT,
        ("storage.k8s.io", "volumeattributesclasses") => &storage::ATTRIBUTES_CLASS,
        ("storage.k8s.io", "csidrivers") => &storage::CSI_DRIVER,
        ("storage.k8s.io", "csinodes") => &storage::CSI_NODE,
        ("storage.k8s.io", "csistoragecapacities") => &storage::CSI_CAPACITY,
        ("resource.k8s.io", "resourceclaims") => &storage::RESOURCE_CLAIM,
        ("resource.k8s.io", "resourceslices") => &storage::RESOURCE_SLICE,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &access::BINDING,
        ("certificates.k8s.io", "certificatesigningrequests") => &access::SIGNING_REQUEST,
        ("certificates.k8s.io", "clustertrustbundles") => &access::TRUST_BUNDLE,
        ("certificates.k8s.io", "podcertificaterequests") => &access::POD_CERTIFICATE_REQUEST,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            &access::WEBHOOKS
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &access::VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => &access::MUTATING_POLICY,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings") => {
            &access::POLICY_BINDING
        }
        ("", "limitranges")
        | ("rbac.authorization.k8s.io", "roles" | "clusterroles")
        | ("apiextensions.k8s.io", "customresourcedefinitions") => &CREATED,
        _ => &NAME_AND_AGE,
    }
}

/// The columns of a built-in resource.
pub fn columns(group: &str, resource: &str) -> &'static [Column] {
    of(group, resource).columns
}

/// The cells of an object, in the order of [`columns`].
pub fn cells(group: &str, resource: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    (of(group, resource).cells)(object, now)
}

/// Column definitions and cells of a custom resource.
pub fn custom_cells(columns: &[crd::Column], object: &Value, now: Timestamp) -> Vec<Value> {
    let mut out = vec![Value::from(meta::name(object))];
    if columns.is_empty() {
        out.push(text::age(object, now));
    }
    for column in columns {
        let found = path::json_path(object, &column.json_path);
        out.push(match (found, column.kind.as_str()) {
            (None, _) => Value::Null,
            (Some(Value::String(time)), "date") => text::since(&time, now),
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
}
