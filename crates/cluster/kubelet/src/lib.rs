//! Runs the pods of one node.
//!
//! * `actions` — what to do about a pod, from its spec and what runs (pure)
//! * `status` — what to tell of it (pure)
//! * `container` — what a container gets: environment, mounts, limits, security (pure)
//! * `images`, `credentials` — where a container's image comes from, and what opens its registry
//! * `qos` — what a pod may use as a whole (pure)
//! * `objects` — the ConfigMaps and Secrets that pods here refer to, followed
//! * `files` — the contents of ConfigMap, Secret, downward API and token volumes (pure), put in place atomically
//! * `worker` — one task a pod: looks, decides, acts, tells
//! * `network` — the node's subnet for pods, host ports, bandwidth
//! * `admit`, `pressure`, `resize` — who may begin, who has to go, what a change of resources takes (pure); `upkeep` looks after the node
//! * `shutdown` — ends pods by their importance when the machine goes down
//! * `devices` — devices that plugins offer, and whose they are
//! * `static_pods` — pods that a directory of this node declares
//! * `shown` — pods that only show a container which nobody in the cluster runs
//! * `pod_logs` — where containers' logs are
//! * `probes`, `hooks`, `ask` — one task a probe; what probes and hooks do, and how a workload is asked over its network
//! * `local_path` — directories of the built-in provisioner
//! * `node` — the node's own object and its lease
//! * `stats` — what everything uses, as the API, Prometheus and people read it
//! * `stream` — logs, exec, attach: what the API asks the node for
//! * `serve` — the agent's own HTTPS, for API servers and monitors elsewhere; `certificates` — how it comes by its own
//!
//! Containers, sandboxes and images are behind the door `pods::Runtime`: the engine of this process, or with `cri_runtime` any runtime
//! at its socket; `node_runtime` is whichever the node has.
//!
//! A pod's containers are found again by their labels: nothing is remembered outside of the runtime, so that a node agent that
//! dies leaves pods running and the next one goes on.

mod actions;
mod admit;
mod ask;
mod certificates;
mod container;
mod credentials;
mod cri_runtime;
mod devices;
mod files;
mod hooks;
mod images;
mod local_path;
mod manage;
mod network;
mod node;
mod node_runtime;
mod objects;
mod pod;
mod pod_logs;
mod pressure;
mod probes;
mod qos;
mod resize;
mod serve;
mod shown;
mod shutdown;
mod static_pods;
mod stats;
mod status;
mod stream;
mod sysctls;
mod upkeep;
mod worker;

use pods as runtime;

pub use certificates::{CertificateError, Wanted, write_secret};
pub use cri_runtime::CriRuntime;
pub use manage::{Config, Kubelet, Leave, Reached, Registrar, end_all};
pub use node_runtime::NodeRuntime;
pub use pod_logs::PodLogs;
pub use pressure::{Eviction, Thresholds};
pub use serve::Serving;
pub use shown::{SHOWN_CONTAINER, shown_container};
pub use shutdown::{Periods, Shutdown};
pub use status::RuntimeName;
pub use upkeep::ImageGc;
