//! The launcher's side: makes what needs the host's rights (cgroup, descriptors, id maps), clones the child, and lets go. The child's
//! side is `init`.

use std::os::fd::OwnedFd;

use linux::clone::SingleThreaded;

use crate::plan::{ConsoleSize, ExecPlan, Plan};
use crate::report::{Cause, Failure, RefusedKind, Report};

/// Standard input, output and error of the program.
#[derive(Debug)]
pub enum Stdio {
    /// The launcher's own.
    Inherit,
    Null,
    Fds {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A new terminal of the container's devpts; the master arrives as [`crate::Event::Console`].
    Terminal {
        size: Option<ConsoleSize>,
    },
    /// As `Terminal`, but the master is sent over this connected unix socket (runc's `--console-socket`).
    ConsoleSocket {
        socket: OwnedFd,
        size: Option<ConsoleSize>,
    },
}

/// When the program is executed.
#[derive(Debug)]
pub enum Gate {
    /// As soon as everything is set up.
    Open,
    /// After one byte has been read from this descriptor (a pipe, or a FIFO opened for reading and writing); the end of the
    /// stream ends the child. `late_errors` takes the text of a failure that happens after that, when the launcher may be gone.
    Wait { on: OwnedFd, late_errors: Option<OwnedFd> },
}

/// A cloned child on its way to the program.
#[derive(Debug)]
pub struct Launched {
    /// In the launcher's pid namespace. A child of the launcher, who has to reap it, also when the launch fails later.
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub report: Report,
    /// What was asked for and could not be had, so far (limits on a host without the controller, ...).
    pub warnings: Vec<String>,
}

/// Starts a container. Does not wait for the child, except while an unprivileged launcher's `newuidmap` runs and until a first stage
/// (namespaces joined by path) has cloned the container's process.
///
/// # Errors
/// Nothing is left behind: the cgroup is removed and the child, if there was one, is killed and reaped.
pub fn launch(_token: &SingleThreaded, _plan: &Plan, _stdio: Stdio, _gate: Gate) -> Result<Launched, Failure> {
    Err(Cause::refused(RefusedKind::Unsupported, "not in this build").at("launch".into()))
}

/// Starts another process in the namespaces of a running one; it becomes a child of the caller.
pub fn launch_exec(
    _token: &SingleThreaded,
    _plan: &ExecPlan,
    _target: &OwnedFd,
    _stdio: Stdio,
) -> Result<Launched, Failure> {
    Err(Cause::refused(RefusedKind::Unsupported, "not in this build").at("launch".into()))
}

/// Runs prestart and createRuntime hooks (blocking) and tells the child to go on, or to give up.
pub fn run_runtime_hooks(_plan: &Plan, _launched: &Launched) -> Result<(), Failure> {
    Ok(())
}

/// Removes the container's cgroup once its processes have ended; kills what is left in it. Running it again is no error.
pub fn cleanup(_cgroup: &crate::plan::CgroupPlan) -> Result<(), Failure> {
    Ok(())
}
