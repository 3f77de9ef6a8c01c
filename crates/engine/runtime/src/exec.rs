//! One more process in a running container. A first stage joins the container's cgroup and namespaces and clones the process from inside, as a
//! child of the launcher; the process itself does the same last steps as a container's first.

use std::cell::OnceCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use linux::clone::{CloneArgs, SingleThreaded};
use linux::ns::{self, Namespaces};
use linux::socket;

use crate::init::{self, Inherited};
use crate::launch::{Launched, Stdio, cgroups, second_stage, streams};
use crate::plan::{ExecPlan, Namespace};
use crate::report::{Cause, Channel, Failure, RefusedKind, Report, ToChild};

/// Starts another process in the namespaces of the process behind `target` (its pidfd); it becomes a child of the caller. Waits until the
/// first stage has joined and cloned.
///
/// # Errors
/// The failed step of the launcher or the first stage; nothing is left behind.
pub fn launch_exec(
    token: &SingleThreaded,
    plan: &ExecPlan,
    target: &OwnedFd,
    stdio: Stdio,
) -> Result<Launched, Failure> {
    let prepare = |error: linux::Error| Cause::from(error).at("prepare the exec".into());
    let mut warnings = plan.warnings.clone();
    let group = if plan.cgroup.is_empty() {
        None
    } else {
        match cgroups()?.find(Path::new(&plan.cgroup)) {
            Ok(group) => Some(group),
            Err(error) if plan.cgroup_optional => {
                warnings.push(format!("not in the container's cgroup: {error}"));
                None
            }
            Err(error) => {
                return Err(
                    Cause::refused(RefusedKind::NotFound, error.to_string()).at("find the container's cgroup".into())
                );
            }
        }
    };
    let mut kinds = init::kinds(plan.namespaces.iter().copied());
    // Nobody can enter the user namespace they are in.
    if plan.namespaces.contains(&Namespace::User) {
        let same = || -> linux::Result<bool> {
            let theirs = linux::pidfd::namespace(target, Namespaces::USER)?;
            Ok(ns::identity(&theirs)? == ns::identity(&ns::open("/proc/self/ns/user")?)?)
        };
        if same().map_err(prepare)? {
            kinds.remove(Namespaces::USER);
        }
    }
    let pid_comes = plan.process.seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some());
    let seccomp_listener = crate::launch::agent(&plan.process)?;
    let (console, fds) = streams(stdio, plan.terminal)?;
    let (ours, theirs) = socket::pair(socket::Kind::SeqPacket).map_err(prepare)?;
    let report = Report::new(ours);
    let v2 = match group.as_ref().and_then(linux::cgroup::Group::clone_into) {
        Some(fd) => Some(linux::fs::dup(fd).map_err(prepare)?),
        None => None,
    };
    let inherited = Inherited {
        channel: Channel { socket: theirs, late: None, turn: OnceCell::new() },
        proc: init::Proc::of_host().map_err(prepare)?,
        pid_comes,
        unshare: Namespaces::empty(),
        join: vec![(kinds, linux::fs::dup(target).map_err(prepare)?)],
        in_v2_group: v2.is_some(),
        group,
        joined_group: false,
        early: Vec::new(),
        rootfs: None,
        console: console.0,
        console_size: console.1.or(plan.console_size),
        seccomp_listener,
        gate: None,
        stdio: fds,
    };
    let args = CloneArgs { namespaces: Namespaces::empty(), cgroup: v2.as_ref().map(AsFd::as_fd), as_sibling: false };
    let second = CloneArgs { namespaces: Namespaces::empty(), cgroup: None, as_sibling: true };
    let first = linux::clone::spawn(token, &args, move || init::exec_first_stage(token, &second, plan, inherited))
        .map_err(|error| Cause::from(error).at("clone".into()))?;
    let (pid, pidfd) = second_stage(&first, &report)?;
    if pid_comes {
        // A child that has ended meanwhile says so itself.
        let _ = report.tell(&ToChild::Go { pid });
    }
    Ok(Launched { pid, pidfd, report, warnings })
}
