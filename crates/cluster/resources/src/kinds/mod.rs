//! What is particular to each kind: defaults, what a create and an update may set, validation. One module a family.

mod admission;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod cluster;
mod config;
mod csi;
pub mod devices;
mod flow;
mod groups;
mod hooks;
mod ingress;
mod network;
mod node;
mod pod;
mod podspec;
mod policies;
mod rbac;
mod rules;
mod status;
mod storage;

pub use certificates::{signing_request_prepare, signing_request_stays};
pub(crate) use config::{base64, from_base64};
pub use pod::{conditions_set, ephemeral_containers_stay, ready_count};
pub use rules::{Faults, validate_finalizers, validate_meta, validate_meta_update};

use serde_json::Value;

use crate::names;

/// A kind's rules. All functions are pure; the server calls them in the order they stand here.
#[derive(Debug, Clone, Copy)]
pub struct Strategy {
    /// Fills in what the writer left out.
    pub default: fn(&mut Value),
    /// Takes out what a create may not set and sets what it starts with.
    pub prepare_create: fn(&mut Value),
    /// `(new, old)`: puts back what an update may not change.
    pub prepare_update: fn(&mut Value, &Value),
    pub validate: fn(&Value, &mut Faults),
    /// `(new, old)`
    pub validate_update: fn(&Value, &Value, &mut Faults),
    /// `(new, old)`, of a write of the status alone; asked by [`Strategy::judge_status`].
    validate_status: fn(&Value, &Value, &mut Faults),
    /// Faults of a name.
    pub name: fn(&str) -> Vec<String>,
    /// `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
    /// An update of an object that does not exist makes it.
    pub create_on_update: bool,
    /// An update without resource version overwrites.
    pub unconditional_update: bool,
    /// A create may bring a status.
    pub status_on_create: bool,
    /// A delete waits for the node to finish.
    pub graceful: bool,
}

fn nothing(_: &mut Value) {}
fn keep(_: &mut Value, _: &Value) {}
fn fine(_: &Value, _: &mut Faults) {}
fn same(_: &Value, _: &Value, _: &mut Faults) {}

impl Strategy {
    pub const PLAIN: Self = Self {
        default: nothing,
        prepare_create: nothing,
        prepare_update: keep,
        validate: fine,
        validate_update: same,
        validate_status: same,
        name: names::dns_subdomain,
        generation: false,
        create_on_update: false,
        unconditional_update: true,
        status_on_create: false,
        graceful: false,
    };

    /// Faults that a write of the status brings.
    pub fn judge_status(&self, new: &Value, old: &Value, faults: &mut Faults) {
        let mut found = Faults::default();
        (self.validate_status)(new, old, &mut found);
        if found.0.is_empty() {
            return;
        }
        let mut stood = Faults::default();
        (self.validate_status)(old, old, &mut stood);
        found.0.retain(|fault| !stood.0.contains(fault));
        faults.0.append(&mut found.0);
    }
}

/// The rules of a built-in kind, for objects of this version: most have the same shape in all of them.
pub fn strategy_in(group: &str, version: &str, resource: &str) -> Strategy {
    let own = match (group, version) {
        ("resource.k8s.io", "v1beta1") => devices::beta::strategy(resource),
        _ => None,
    };
    own.unwrap_or_else(|| strategy(group, resource))
}

/// The rules of a built-in kind, in the version that is kept.
pub fn strategy(group: &str, resource: &str) -> Strategy {
    match group {
        "" => match resource {
            "pods" => pod::POD,
            "podtemplates" => pod::TEMPLATE,
            "replicationcontrollers" => apps::REPLICATION_CONTROLLER,
            "services" => network::SERVICE,
            "endpoints" => network::ENDPOINTS,
            "configmaps" => config::CONFIG_MAP,
            "secrets" => config::SECRET,
            "serviceaccounts" => config::SERVICE_ACCOUNT,
            "namespaces" => cluster::NAMESPACE,
            "nodes" => node::NODE,
            "events" => cluster::EVENT,
            "limitranges" => cluster::LIMIT_RANGE,
            "resourcequotas" => cluster::RESOURCE_QUOTA,
            "persistentvolumes" => storage::VOLUME,
            "persistentvolumeclaims" => storage::CLAIM,
            _ => Strategy::PLAIN,
        },
        "apps" => match resource {
            "deployments" => apps::DEPLOYMENT,
            "replicasets" => apps::REPLICA_SET,
            "statefulsets" => apps::STATEFUL_SET,
            "daemonsets" => apps::DAEMON_SET,
            "controllerrevisions" => apps::CONTROLLER_REVISION,
            _ => Strategy::PLAIN,
        },
        "batch" => match resource {
            "jobs" => batch::JOB,
            "cronjobs" => batch::CRON_JOB,
            _ => Strategy::PLAIN,
        },
        "rbac.authorization.k8s.io" => rbac::strategy(resource),
        "events.k8s.io" => cluster::NEW_EVENT,
        "coordination.k8s.io" => match resource {
            "leasecandidates" => cluster::LEASE_CANDIDATE,
            _ => cluster::LEASE,
        },
        "autoscaling" => autoscaling::AUTOSCALER,
        "policy" => autoscaling::DISRUPTION_BUDGET,
        "networking.k8s.io" => network::strategy(resource),
        "discovery.k8s.io" => network::ENDPOINT_SLICE,
        "storage.k8s.io" => storage::strategy(resource),
        "scheduling.k8s.io" => match resource {
            "priorityclasses" => cluster::PRIORITY_CLASS,
            "podgroups" => groups::POD_GROUP,
            "workloads" => groups::WORKLOAD,
            _ => Strategy::PLAIN,
        },
        "node.k8s.io" => node::RUNTIME_CLASS,
        "admissionregistration.k8s.io" => admission::strategy(resource),
        "apiextensions.k8s.io" => {
            Strategy { generation: true, prepare_create: crate::crd::prepare_definition, ..Strategy::PLAIN }
        }
        "apiregistration.k8s.io" => cluster::API_SERVICE,
        "flowcontrol.apiserver.k8s.io" => flow::strategy(resource),
        "certificates.k8s.io" => certificates::strategy(resource),
        "resource.k8s.io" => devices::strategy(resource),
        _ => Strategy::PLAIN,
    }
}
