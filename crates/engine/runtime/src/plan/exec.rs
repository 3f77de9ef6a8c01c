//! One more process in a running container, decided. Pure.

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use super::error::{Faults, PlanError};
use super::facts::HostFacts;
use super::process::process_plan;
use super::types::{CapabilitySets, ConsoleSize, ExecPlan, Namespace, Plan, SeccompPlan};

/// What exec needs to know of a container: kept beside it for as long as it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecTarget {
    pub id: String,
    pub namespaces: Vec<Namespace>,
    /// As [`super::CgroupPlan::path`].
    pub cgroup: String,
    pub cgroup_optional: bool,
    pub setgroups: bool,
    pub seccomp: Option<SeccompPlan>,
    /// For a process that names none of its own.
    pub capabilities: Option<CapabilitySets>,
    /// As [`ExecPlan::state`].
    pub state: String,
    pub personality: Option<u64>,
}

impl Plan {
    /// What a later exec needs of this container.
    pub fn exec_target(&self) -> ExecTarget {
        ExecTarget {
            id: self.id.clone(),
            namespaces: self.namespaces.clone(),
            cgroup: self.cgroup.path.clone(),
            cgroup_optional: self.cgroup.optional,
            setgroups: self.id_maps.as_ref().is_none_or(|maps| !maps.deny_setgroups),
            seccomp: self.process.seccomp.clone(),
            capabilities: self.process.capabilities,
            state: crate::seccomp::state(self, 0).to_string(),
            personality: self.process.personality,
        }
    }
}

/// Decides everything about one more process in a running container. The container's seccomp filter applies to it as well.
///
/// # Errors
/// Every fault of the process object, with its field path.
pub fn plan_exec(
    process: &Process,
    target: &ExecTarget,
    facts: &HostFacts,
    preserve_fds: u32,
) -> Result<ExecPlan, PlanError> {
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    let mut plan = process_plan(process, "process", facts, &mut warnings, &mut faults);
    plan.preserve_fds = preserve_fds;
    plan.seccomp.clone_from(&target.seccomp);
    plan.personality = target.personality;
    plan.capabilities = plan.capabilities.or(target.capabilities);
    if !target.setgroups && !plan.groups.is_empty() {
        faults.invalid("process.user.additionalGids", "cannot be set in this container's user namespace");
    }
    if !faults.0.is_empty() {
        return Err(PlanError { faults: faults.0 });
    }
    Ok(ExecPlan {
        id: target.id.clone(),
        state: target.state.clone(),
        namespaces: target.namespaces.clone(),
        cgroup: target.cgroup.clone(),
        cgroup_optional: target.cgroup_optional,
        setgroups: target.setgroups,
        oom_score_adj: process.oom_score_adj(),
        terminal: process.terminal().unwrap_or(false),
        console_size: process.console_size().map(|size| ConsoleSize {
            rows: size.height().min(u64::from(u16::MAX)) as u16,
            cols: size.width().min(u64::from(u16::MAX)) as u16,
        }),
        process: plan,
        warnings,
    })
}
