//! Runs the pods of one node.
//!
//! * `actions` — what to do about a pod, from its spec and what runs (pure)
//! * `status` — what to tell of it (pure)
//! * `container` — what a container gets: environment, mounts, limits, security (pure)
//! * `files` — the contents of ConfigMap, Secret, downward API and token volumes (pure), put in place atomically
//! * `worker` — one task a pod: looks, decides, acts, tells
//! * `probes` — one task a probe
//! * `node` — the node's own object and its lease
//! * `stream` — logs, exec, attach: what the API asks the node for
//! * `runtime` — the door to containers; `engine_runtime` and `sandbox` are the one behind which the engine stands
//!
//! A pod's containers are found again by their labels: nothing is remembered outside of the runtime, so that a node agent that
//! dies leaves pods running and the next one goes on.

mod actions;
mod container;
mod engine_runtime;
mod files;
mod hooks;
mod manage;
mod node;
mod pod;
mod probes;
mod runtime;
mod sandbox;
mod status;
mod stream;
mod sysctls;
mod worker;

pub use engine_runtime::EngineRuntime;
pub use manage::{Config, Kubelet, end_all};
pub use runtime::{
    ContainerRequest, ContainerSeen, ImageSeen, Input, LogLine, LogQuery, Mount, Output, Process, Runtime,
    RuntimeError, Sandbox, SandboxRequest, State,
};
