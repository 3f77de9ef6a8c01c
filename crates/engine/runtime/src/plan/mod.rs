//! Decides everything about a container from its spec and facts about the host, as plain values. Never touches the host: the
//! launcher (`launch`) and the child (`init`) carry a [`Plan`] out.

mod build;
mod cgroup;
mod error;
mod exec;
mod facts;
mod mounts;
pub mod options;
mod process;
mod seccomp;
#[cfg(test)]
mod tests;
mod types;

pub use build::{Options, plan, valid_id};
pub(crate) use build::{SysctlOwner, sysctl_owner};
pub use cgroup::resources_of;
pub use error::{Fault, PlanError};
pub use exec::{ExecTarget, plan_exec};
pub use facts::HostFacts;
pub use process::{capability_number, capability_sets};
pub use seccomp::seccomp_of;
pub use types::*;
