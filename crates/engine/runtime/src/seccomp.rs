//! Loading the compiled filter, and handing its notify descriptor to the agent.

use std::os::fd::AsFd;

use crate::hooks;
use crate::init::Inherited;
use crate::plan::SeccompPlan;
use crate::report::Cause;

/// Puts the filter in force. The agent gets the descriptor with the container's process state (runtime-spec, "Seccomp notify").
/// `state` is the container's state object; its pid is that of the filtered process.
pub(crate) fn install(plan: &SeccompPlan, with: &mut Inherited, state: Option<serde_json::Value>) -> Result<(), Cause> {
    let message = plan.listener.as_ref().map(|listener| {
        let state = state.unwrap_or_default();
        let message = serde_json::json!({
            "ociVersion": state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": state["pid"],
            "metadata": listener.metadata,
            "state": state,
        });
        message.to_string()
    });
    let fd = linux::seccomp::load(&plan.filter)?;
    if let (Some(fd), Some(message), Some(socket)) = (fd, message, with.seccomp_listener.take()) {
        linux::socket::send(&socket, message.as_bytes(), &[fd.as_fd()])?;
    }
    Ok(())
}

/// The state object for [`install`].
pub(crate) fn state(plan: &crate::plan::Plan, pid: i32) -> serde_json::Value {
    hooks::state_value(&plan.oci_version, &plan.id, hooks::Status::Creating, pid, &plan.bundle, &plan.annotations)
}
