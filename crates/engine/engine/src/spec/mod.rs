//! The OCI spec of a container, as Docker would write it: a pure function of what was asked for, what the image said
//! (merged long before) and what the host is like.
//!
//! Nothing here opens a file: users, devices, seccomp profiles and other containers' namespaces arrive resolved.

mod build;
mod files;
mod mounts;
mod resources;
mod security;

pub(crate) use build::*;
pub(crate) use files::*;
pub(crate) use resources::{check_resources, count_cpus, device_names};
pub(crate) use security::*;
pub use security::{MASKED_PATHS, READONLY_PATHS};
