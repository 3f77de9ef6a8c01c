//! The OCI runtime: a spec becomes a [`plan::Plan`] (pure), [`launch`] clones a child, the child carries the plan out and becomes the
//! program. Used as a library by the keeper and as a command line by [`cli`].
//!
//! Never here: images, networks beyond the loopback, logs, restart policies.

pub mod cli;
mod copy;
mod exec;
mod hooks;
mod init;
mod launch;
mod maps;
pub mod plan;
mod report;
mod seccomp;

pub use exec::launch_exec;
pub use launch::{Gate, HookRunner, Launched, Stdio, cleanup, launch, run_runtime_hooks, start_runtime_hooks};
pub use plan::{ExecPlan, ExecTarget, HostFacts, Options, Plan, PlanError, RootfsSource, plan, plan_exec};
pub use report::{Cause, Event, Failure, RefusedKind, Report};
