//! Pods on the engine: sandboxes without a process, the control groups they are in, and their containers.
//!
//! * `runtime` — the door to pods' containers, shaped like the container runtime interface, and its words
//! * `engine_runtime` — the one behind which the engine stands; `exec`, `first_process` and `image_volume` are parts of it
//! * `sandbox` — namespaces held by files, and a pod's small files in memory
//! * `groups` — the tree of control groups that pods are in
//! * `plugins` — what plugins of the container network interface are told of a pod (pure)
//! * `traffic` — what went through a pod's interfaces, as the kernel tells it (pure)
//!
//! Who decides what runs stands above: the cluster's kubelet, or another one over the container runtime interface. Nothing is
//! remembered here outside of the engine's own records and the run directory.

mod engine_runtime;
mod exec;
mod first_process;
mod groups;
mod image_volume;
mod plugins;
mod runtime;
mod sandbox;
mod sub_path;
mod traffic;

pub use engine::{MASKED_PATHS, READONLY_PATHS};
pub use engine_runtime::{EngineRuntime, last_words};
pub use exec::Ran;
pub use groups::{Groups, PERIOD_MICROS, SHARES_MIN};
pub use runtime::{
    ContainerRequest, ContainerSeen, DeviceRequest, Foreign, GroupRequest, ImageSeen, Input, Limits, LogLine, LogQuery,
    Login, Mount, NetworkConfig, Output, Pipe, PortRequest, Process, Runtime, RuntimeError, Sandbox, SandboxRequest,
    Seccomp, State, Traffic, Used, labels,
};
pub use sandbox::Sandboxes;
pub use sub_path::{image_note, image_of, sub_path};
pub use traffic::traffic;
