//! The child: carries the steps of a plan out and becomes the program. It runs alone in its process, decides nothing that the plan could
//! have decided, and resolves every path of the container beneath the new root by descriptor. The host's `/proc` is used through a
//! descriptor that the launcher opened, never through a path that the container's image or volumes could have changed.

mod console;
mod finish;
mod rootfs;
mod steps;

pub(crate) use finish::Finish;
pub(crate) use rootfs::rootfs_mount;
pub(crate) use steps::kinds;

use std::cell::OnceCell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux::cgroup::Group;
use linux::clone::{CloneArgs, SingleThreaded};
use linux::fs::Root;
use linux::ns::Namespaces;

use crate::plan::{ExecPlan, Plan, Step};
use crate::report::{Cause, Channel, Failure, FromChild, RefusedKind, ToChild};

/// What the launcher opened for the child.
pub(crate) struct Inherited {
    pub(crate) channel: Channel,
    pub(crate) proc: Proc,
    /// The launcher says first which pid the process has for it: where that is needed and no procfs of the host is at hand to ask.
    pub(crate) pid_comes: bool,
    /// New namespaces that the child makes itself, beside whatever its launcher does meanwhile.
    pub(crate) unshare: Namespaces,
    pub(crate) join: Vec<(Namespaces, OwnedFd)>,
    pub(crate) group: Option<Group>,
    /// The child was cloned into its v2 group already.
    pub(crate) in_v2_group: bool,
    /// A first stage has joined the group already.
    pub(crate) joined_group: bool,
    pub(crate) early: Vec<OwnedFd>,
    pub(crate) rootfs: Option<OwnedFd>,
    pub(crate) console: Console,
    /// Wins over the plan's.
    pub(crate) console_size: Option<crate::plan::ConsoleSize>,
    pub(crate) seccomp_listener: Option<OwnedFd>,
    pub(crate) gate: Option<OwnedFd>,
    /// For stdin, stdout, stderr; empty where the launcher's own stay.
    pub(crate) stdio: Vec<OwnedFd>,
}

/// A procfs to write through that nothing in the container can have changed: the host's, opened by the launcher. A process that others
/// in its pid namespace can see before it has executed the program must not hold that one (whoever may trace it could enter the host
/// through it): it makes one of its own namespace when it needs one.
pub(crate) struct Proc {
    host: Option<Root>,
    own: OnceCell<Root>,
}

impl Proc {
    pub(crate) fn of_host() -> linux::Result<Self> {
        Ok(Self { host: Some(Root::open("/proc")?), own: OnceCell::new() })
    }

    /// Call it before the clone that makes the process visible.
    fn let_go_of_host(&mut self) {
        if vocab::weak::without("window") {
            return;
        }
        self.host = None;
    }

    pub(crate) fn get(&self) -> linux::Result<&Root> {
        if let Some(root) = self.host.as_ref().or_else(|| self.own.get()) {
            return Ok(root);
        }
        let tree = linux::mount::new_fs("proc", None, &[], linux::mount::MountAttr::empty())?;
        Ok(self.own.get_or_init(|| Root::from_fd(tree)))
    }
}

/// Where the master of the container's terminal goes.
pub(crate) enum Console {
    None,
    Launcher,
    Socket(OwnedFd),
}

impl Inherited {
    /// Everything that must stay open until exec.
    pub(crate) fn keep(&self) -> Vec<BorrowedFd<'_>> {
        let mut keep: Vec<BorrowedFd<'_>> = vec![self.channel.socket.as_fd()];
        keep.extend(self.proc.host.as_ref().map(AsFd::as_fd));
        keep.extend(self.channel.late.as_ref().map(AsFd::as_fd));
        keep.extend(self.channel.turn.get().map(AsFd::as_fd));
        keep.extend(self.join.iter().map(|(_, fd)| fd.as_fd()));
        keep.extend(self.early.iter().map(AsFd::as_fd));
        keep.extend(self.rootfs.as_ref().map(AsFd::as_fd));
        keep.extend(self.seccomp_listener.as_ref().map(AsFd::as_fd));
        keep.extend(self.gate.as_ref().map(AsFd::as_fd));
        if let Console::Socket(socket) = &self.console {
            keep.push(socket.as_fd());
        }
        keep
    }
}

/// The child's whole life before exec. Returns only if something failed, after it was reported.
pub(crate) fn run(plan: &Plan, mut inherited: Inherited) -> u8 {
    match carry_out(plan, &mut inherited) {
        Ok(never) => match never {},
        Err(failure) => {
            inherited.channel.fail(failure);
            1
        }
    }
}

enum Never {}

fn carry_out(plan: &Plan, inherited: &mut Inherited) -> Result<Never, Failure> {
    let told_pid = told_pid(inherited)?;
    let private_memory = !plan.namespaces.contains(&crate::plan::Namespace::User);
    let prepare = |error: linux::Error| Cause::from(error).at("prepare the child".into());
    if private_memory {
        // From here on nobody in a shared pid namespace can look into this process or reopen what it has open.
        linux::process::set_dumpable(false).map_err(prepare)?;
    }
    if !inherited.unshare.is_empty() {
        linux::ns::unshare(inherited.unshare).map_err(|error| Cause::from(error).at("make namespaces".into()))?;
    }
    stdio(inherited).map_err(prepare)?;
    linux::process::umask(0);
    // Its descriptors are closed below by number, so it must never be dropped.
    let group = ManuallyDrop::new(inherited.group.take());
    let mut child = steps::Child::new(plan, group.as_ref(), told_pid);
    let mut closed = false;
    for step in &plan.steps {
        if !closed && !matches!(step, Step::JoinCgroups) {
            // Descriptors of the launcher's other children must not stay open in this one.
            close_others(inherited, plan.process.preserve_fds).map_err(prepare)?;
            closed = true;
        }
        child.step(step, inherited).map_err(|cause| cause.at(step.name()))?;
    }
    if !private_memory {
        linux::process::set_dumpable(false).map_err(prepare)?;
    }
    let root = child.into_root();
    let finish = Finish {
        pid: told_pid,
        process: &plan.process,
        hooks: &plan.hooks.start_container,
        state: Some(plan),
        setgroups: setgroups(plan),
        seccomp_state: plan
            .process
            .seccomp
            .as_ref()
            .and_then(|s| s.listener.as_ref())
            .map(|_| crate::seccomp::state(plan, 0)),
    };
    Err(finish.run(inherited, root))
}

fn told_pid(inherited: &Inherited) -> Result<i32, Failure> {
    if !inherited.pid_comes {
        return Ok(0);
    }
    await_go(&inherited.channel).map_err(|cause| cause.at("hear its own pid".into()))
}

/// Joins cgroup and namespaces and clones the container's process as a sibling; then its work is done.
pub(crate) fn first_stage(token: &SingleThreaded, second: &CloneArgs<'_>, plan: &Plan, mut inherited: Inherited) -> u8 {
    let joined = steps::join_cgroups(inherited.group.as_ref(), inherited.in_v2_group)
        .map_err(|cause| cause.at("join the cgroup".into()))
        .and_then(|()| steps::join_namespaces(&inherited.join).map_err(|cause| cause.at("join namespaces".into())));
    if let Err(failure) = joined {
        inherited.channel.fail(failure);
        return 1;
    }
    inherited.joined_group = true;
    // From the first moment the second stage is seen by all who are in a pid namespace that it joins. Under a user namespace of its own
    // nobody there may look into it.
    let joins_pids = plan.join.iter().any(|join| join.namespace == crate::plan::Namespace::Pid);
    if joins_pids && !plan.namespaces.contains(&crate::plan::Namespace::User) {
        inherited.proc.let_go_of_host();
    }
    if let Err(error) = stdio(&mut inherited) {
        inherited.channel.fail(Cause::from(error).at("prepare the child".into()));
        return 1;
    }
    // Closed below by number; the second stage asks it for paths only.
    let group = ManuallyDrop::new(inherited.group.take());
    if let Err(error) = close_others(&inherited, plan.process.preserve_fds) {
        inherited.channel.fail(Cause::from(error).at("prepare the child".into()));
        return 1;
    }
    clone_second(token, second, inherited, |mut inherited| {
        inherited.group = ManuallyDrop::into_inner(group);
        run(plan, inherited)
    })
}

fn clone_second(
    token: &SingleThreaded,
    second: &CloneArgs<'_>,
    inherited: Inherited,
    child: impl FnOnce(Inherited) -> u8,
) -> u8 {
    let (own, turn) = match linux::fs::dup(&inherited.channel.socket).and_then(|own| Ok((own, linux::pipe::pipe()?))) {
        Ok((socket, turn)) => (Channel { socket, late: None, turn: OnceCell::new() }, turn),
        Err(error) => {
            inherited.channel.fail(Cause::from(error).at("clone the process".into()));
            return 1;
        }
    };
    let (theirs, ours) = (turn.0, ManuallyDrop::new(turn.1));
    let second_stage = || {
        // The write end closes in this process and stays in the first stage until that ends.
        drop(ManuallyDrop::into_inner(ours));
        if !vocab::weak::without("turn") {
            let _ = inherited.channel.turn.set(theirs);
        }
        child(inherited)
    };
    match linux::clone::spawn(token, second, second_stage) {
        Ok(cloned) => {
            if vocab::weak::without("turn") {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            u8::from(own.say(&FromChild::Pid(cloned.pid), None).is_err())
        }
        Err(error) => {
            own.fail(Cause::from(error).at("clone the process".into()));
            1
        }
    }
}

/// As [`first_stage`], for a process that enters a running container.
pub(crate) fn exec_first_stage(
    token: &SingleThreaded,
    second: &CloneArgs<'_>,
    plan: &ExecPlan,
    mut inherited: Inherited,
) -> u8 {
    if let Err(failure) = enter_container(plan, &mut inherited) {
        inherited.channel.fail(failure);
        return 1;
    }
    clone_second(token, second, inherited, |mut inherited| {
        let failure = exec_child(plan, &mut inherited);
        inherited.channel.fail(failure);
        1
    })
}

fn enter_container(plan: &ExecPlan, inherited: &mut Inherited) -> Result<(), Failure> {
    let prepare = |error: linux::Error| Cause::from(error).at("prepare the child".into());
    if let Some(cpus) = &plan.process.affinity_initial {
        let cpus: Vec<usize> = cpus.iter().map(|n| *n as usize).collect();
        linux::process::set_affinity(&cpus).map_err(|e| Cause::from(e).at("set the initial CPU affinity".into()))?;
    }
    steps::join_cgroups(inherited.group.as_ref(), inherited.in_v2_group)
        .map_err(|cause| cause.at("join the cgroup".into()))?;
    if let Some(score) = plan.oom_score_adj {
        steps::oom_score_adj(score, inherited).map_err(|cause| cause.at(format!("set oom_score_adj {score}")))?;
    }
    drop(inherited.group.take());
    if plan.namespaces.contains(&crate::plan::Namespace::Pid)
        && !plan.namespaces.contains(&crate::plan::Namespace::User)
    {
        inherited.proc.let_go_of_host();
    }
    stdio(inherited).map_err(prepare)?;
    close_others(inherited, plan.process.preserve_fds).map_err(prepare)?;
    // Nobody in the container sees this stage: a pid namespace is joined for children only.
    if let Some((kinds, target)) = inherited.join.first()
        && !kinds.is_empty()
    {
        linux::ns::setns_pidfd(target, *kinds).map_err(|e| Cause::from(e).at("join namespaces".into()))?;
    }
    inherited.join.clear();
    Ok(())
}

fn exec_child(plan: &ExecPlan, inherited: &mut Inherited) -> Failure {
    let prepared = (|| -> Result<(), Cause> {
        // The container's processes see this one: they must not look into it, nor through it at the host.
        linux::process::set_dumpable(false)?;
        if vocab::weak::without("window") {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        linux::process::setsid()?;
        steps::session_keyring(inherited)?;
        if plan.namespaces.contains(&crate::plan::Namespace::User) {
            if plan.setgroups {
                linux::cred::set_groups(&[])?;
            }
            linux::cred::set_gid(0)?;
            linux::cred::set_uid(0)?;
            linux::process::set_dumpable(false)?;
        }
        linux::process::umask(plan.process.umask.unwrap_or(0o022));
        if plan.terminal {
            let size = inherited.console_size;
            console::terminal(&Root::open("/")?, size, inherited)?;
        }
        Ok(())
    })();
    if let Err(cause) = prepared {
        return cause.at("prepare the process".into());
    }
    let pid = match told_pid(inherited) {
        Ok(pid) => pid,
        Err(failure) => return failure,
    };
    Finish {
        pid,
        process: &plan.process,
        hooks: &[],
        state: None,
        setgroups: plan.setgroups,
        seccomp_state: serde_json::from_str(&plan.state).ok(),
    }
    .run(inherited, None)
}

fn setgroups(plan: &Plan) -> bool {
    plan.id_maps.as_ref().is_none_or(|maps| !maps.deny_setgroups)
}

/// Puts the program's standard streams in place.
fn stdio(inherited: &mut Inherited) -> linux::Result<()> {
    for (to, fd) in inherited.stdio.drain(..).enumerate() {
        linux::exec::dup_onto(&fd, to as i32)?;
    }
    Ok(())
}

/// Closes all that is not needed until exec.
pub(crate) fn close_others(inherited: &Inherited, preserve_fds: u32) -> linux::Result<()> {
    if vocab::weak::without("descriptors") {
        return Ok(());
    }
    let mut keep: Vec<BorrowedFd<'_>> = inherited.keep();
    for number in 3..3 + preserve_fds as i32 {
        keep.extend(linux::exec::borrow_inherited(number));
    }
    linux::exec::close_except(&keep)
}

/// Waits for the launcher's word.
pub(crate) fn await_go(channel: &Channel) -> Result<i32, Cause> {
    match channel.hear()? {
        ToChild::Go { pid } => Ok(pid),
        ToChild::Abort(failure) => Err(Cause::refused(
            match failure.kind() {
                vocab::ErrorKind::NotFound => RefusedKind::NotFound,
                vocab::ErrorKind::Forbidden => RefusedKind::Forbidden,
                vocab::ErrorKind::Invalid => RefusedKind::Invalid,
                _ => RefusedKind::Internal,
            },
            failure.to_string(),
        )),
    }
}

/// Waits at the gate until the byte comes.
pub(crate) fn wait_at_gate(inherited: &Inherited) -> Result<(), Cause> {
    // It stays open until exec: whoever opened the gate sees it close and knows that the program runs, or why not.
    let Some(gate) = inherited.gate.as_ref() else { return Ok(()) };
    // The launcher may have gone by the time it is told; that is no reason to give up.
    let _ = inherited.channel.say(&FromChild::Ready, None);
    let mut byte = [0];
    // Until the launcher has put the container on record nobody could ever start or delete it: without its word this process ends.
    await_go(&inherited.channel)?;
    let read = loop {
        match linux::pipe::read(gate, &mut byte) {
            Err(error) if error.is(linux::Errno::INTR) => {}
            other => break other?,
        }
    };
    if read == 0 {
        return Err(Cause::refused(RefusedKind::Unavailable, "closed before the container was started"));
    }
    Ok(())
}
