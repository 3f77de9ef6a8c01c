//! The launcher's side: makes what needs the host's rights (cgroup, descriptors, id maps), clones the child, and lets go. The child's
//! side is `init`.

use std::cell::OnceCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use linux::cgroup::{Cgroups, Group};
use linux::clone::{CloneArgs, SingleThreaded};
use linux::fs::{OFlags, Root};
use linux::idmap::{self, IdSpan};
use linux::mount::{self, AttrChange};
use linux::ns::{self, Namespaces};
use linux::socket;

use crate::hooks;
use crate::init::{self, Console, Inherited};
use crate::maps;
use crate::plan::{
    CgroupPlan, ConsoleSize, EarlyIdmap, MapWriter, Namespace, Plan, ProcessPlan, RootfsSource, Step, SysctlOwner,
    sysctl_owner,
};
use crate::report::{Cause, Channel, Failure, FromChild, RefusedKind, Report, ToChild};

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
    /// A new terminal of the container's devpts; the master arrives as [`crate::Event::Console`]. `size` wins over the spec's.
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

/// How long processes of a failed or ended container may take to die before its cgroup is given up on.
const DYING: Duration = Duration::from_secs(10);

/// Starts a container. Does not wait for the child, except while an unprivileged launcher's `newuidmap` runs and until a first stage
/// (namespaces joined by path) has cloned the container's process.
///
/// # Errors
/// Nothing is left behind: the cgroup is removed and the child, if there was one, is killed and reaped.
pub fn launch(token: &SingleThreaded, plan: &Plan, stdio: Stdio, gate: Gate) -> Result<Launched, Failure> {
    let mut warnings = plan.warnings.clone();
    let group = make_group(&plan.cgroup, &mut warnings)?;
    vocab::crash::point("runtime.launch.group");
    let made = group.as_ref().is_some_and(Group::created);
    match clone_container(token, plan, stdio, gate, group) {
        Ok((pid, pidfd, report)) => {
            vocab::crash::point("runtime.launch.cloned");
            Ok(Launched { pid, pidfd, report, warnings })
        }
        Err(failure) => {
            if made {
                let _ = cleanup(&plan.cgroup);
            }
            Err(failure)
        }
    }
}

/// The mounted hierarchies, looked for once in this process.
pub(crate) fn cgroups() -> Result<&'static Cgroups, Failure> {
    static FOUND: std::sync::OnceLock<Cgroups> = std::sync::OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let found = Cgroups::detect().map_err(|error| cgroup_failure("find cgroups", &error))?;
    Ok(FOUND.get_or_init(|| found))
}

fn cgroup_failure(step: &str, error: &linux::cgroup::Error) -> Failure {
    let kind = match error.kind() {
        vocab::ErrorKind::NotFound => RefusedKind::NotFound,
        vocab::ErrorKind::Forbidden => RefusedKind::Forbidden,
        vocab::ErrorKind::Invalid => RefusedKind::Invalid,
        vocab::ErrorKind::Unsupported => RefusedKind::Unsupported,
        vocab::ErrorKind::Unavailable => RefusedKind::Unavailable,
        _ => RefusedKind::Internal,
    };
    Cause::refused(kind, error.to_string()).at(step.into())
}

fn make_group(plan: &CgroupPlan, warnings: &mut Vec<String>) -> Result<Option<Group>, Failure> {
    if plan.path.is_empty() {
        return Ok(None);
    }
    let path = Path::new(&plan.path);
    let made = if plan.optional { cgroups()?.create_permitted(path) } else { cgroups()?.create(path) };
    let group = match made {
        Ok(group) => group,
        // Without a limit to hold nobody misses the group; one that was asked for is not dropped in silence.
        Err(error) if plan.optional && plan.resources == Default::default() => {
            warnings.push(format!("no cgroup of its own: {error}"));
            return Ok(None);
        }
        Err(error) => return Err(cgroup_failure(&format!("make cgroup {}", plan.path), &error)),
    };
    match group.apply(&plan.resources) {
        Ok(notes) => {
            warnings.extend(notes);
            Ok(Some(group))
        }
        Err(error) => {
            let failure = cgroup_failure("set limits", &error);
            if group.created() {
                let _ = group.remove(DYING);
            }
            Err(failure)
        }
    }
}

fn clone_container(
    token: &SingleThreaded,
    plan: &Plan,
    stdio: Stdio,
    gate: Gate,
    group: Option<Group>,
) -> Result<(i32, OwnedFd, Report), Failure> {
    let prepare = |error: linux::Error| Cause::from(error).at("prepare the launch".into());
    let join = open_joined(plan)?;
    let mut mappers = Mappers::new(token, plan, &join);
    let mut early = Vec::with_capacity(plan.early.len());
    for wanted in &plan.early {
        let at = |cause: Cause| cause.at(format!("open {} for a mount", wanted.source.display()));
        let tree = match &wanted.within {
            None => mount::clone_tree_at(&wanted.source, wanted.recursive),
            Some(within) => Root::open(&wanted.source)
                .and_then(|root| root.open_path(within))
                .and_then(|found| mount::clone_tree(found, wanted.recursive)),
        };
        let tree = tree.map_err(|e| at(e.into()))?;
        if let Some(idmap) = &wanted.idmap {
            let step = || format!("show {} with other ids, which not every file system can", wanted.source.display());
            mappers.map(&tree, idmap).map_err(|cause| cause.at(step()))?;
        }
        early.push(tree);
    }
    let rootfs = if plan.rootfs_by_launcher {
        Some(mapped_rootfs(&mut mappers, plan).map_err(|cause| cause.at("prepare the root file system".into()))?)
    } else {
        None
    };
    let seccomp_listener = agent(&plan.process)?;
    let (console, fds) = streams(stdio, plan.terminal)?;
    let (gate, late) = match gate {
        Gate::Open => (None, None),
        Gate::Wait { on, late_errors } => (Some(on), late_errors),
    };
    let (ours, theirs) = socket::pair(socket::Kind::SeqPacket).map_err(prepare)?;
    let report = Report::new(ours);
    let in_v2_group = group.as_ref().is_some_and(|group| group.clone_into().is_some());
    let (console, size) = console;
    let (namespaces, unshare) = at_clone(plan);
    let pid_comes = plan.two_stages
        && (seccomp_listener.is_some()
            || !plan.hooks.create_container.is_empty()
            || !plan.hooks.start_container.is_empty());
    let inherited = Inherited {
        channel: Channel { socket: theirs, late, turn: OnceCell::new() },
        proc: init::Proc::of_host().map_err(prepare)?,
        pid_comes,
        unshare,
        join,
        group,
        in_v2_group,
        joined_group: false,
        early,
        rootfs,
        console,
        console_size: size,
        seccomp_listener,
        gate,
        stdio: fds,
    };
    // The closure owns `inherited`, so the group that it is cloned into needs a descriptor of its own.
    let v2 = match inherited.group.as_ref().and_then(Group::clone_into) {
        Some(fd) => Some(linux::fs::dup(fd).map_err(prepare)?),
        None => None,
    };
    let args = CloneArgs {
        namespaces: if plan.two_stages { Namespaces::empty() } else { namespaces },
        cgroup: v2.as_ref().map(AsFd::as_fd),
        as_sibling: false,
    };
    let clone_failed = |error: linux::Error| Cause::from(error).at("clone the container's process".into());
    let child = if plan.two_stages {
        let second = CloneArgs { namespaces, cgroup: None, as_sibling: true };
        let first = linux::clone::spawn(token, &args, move || init::first_stage(token, &second, plan, inherited))
            .map_err(clone_failed)?;
        let (pid, pidfd) = second_stage(&first, &report)?;
        if pid_comes {
            // A child that has ended meanwhile says so itself.
            let _ = report.tell(&ToChild::Go { pid });
        }
        (pid, pidfd)
    } else {
        let child = linux::clone::spawn(token, &args, move || init::run(plan, inherited)).map_err(clone_failed)?;
        (child.pid, child.pidfd)
    };
    let (pid, pidfd) = child;
    if let Some(maps) = &plan.id_maps {
        let written = match maps.writer {
            MapWriter::Direct => maps::write(pid, maps),
            MapWriter::Helpers => maps::write_by_helpers(pid, maps),
        };
        let told = written.and_then(|()| Ok(report.tell(&ToChild::Go { pid })?));
        if let Err(cause) = told {
            // What the child had to say comes first: it is why it could not be told.
            let failure = match report.poll() {
                crate::report::Event::Failed(failure) => failure,
                _ => cause.at("write the id maps".into()),
            };
            end(pid, &pidfd);
            return Err(failure);
        }
    }
    Ok((pid, pidfd, report))
}

/// Which namespaces come with the clone, and which the child makes for itself. Making them takes longer than the clone (a network
/// namespace most), and a launcher with other children to look after does not wait for it.
fn at_clone(plan: &Plan) -> (Namespaces, Namespaces) {
    let all = Namespaces::from_bits(plan.clone_flags);
    // Under a new user namespace the others belong to it only if they come with it; a first stage clones once more.
    if plan.two_stages || all.contains(Namespaces::USER) {
        return (all, Namespaces::empty());
    }
    (Namespaces::from_bits(all.bits() & Namespaces::PID.bits()), all.without(Namespaces::PID))
}

/// The connection to the agent that a filter with SCMP_ACT_NOTIFY needs.
pub(crate) fn agent(process: &ProcessPlan) -> Result<Option<OwnedFd>, Failure> {
    let Some(listener) = process.seccomp.as_ref().and_then(|seccomp| seccomp.listener.as_ref()) else {
        return Ok(None);
    };
    let at = |error: linux::Error| Cause::from(error).at("connect to the seccomp agent".into());
    socket::connect(&listener.path, socket::Kind::Stream).map(Some).map_err(at)
}

/// Kills and reaps a child of ours.
pub(crate) fn end(pid: i32, pidfd: &OwnedFd) {
    let _ = linux::pidfd::send_signal(pidfd, 9);
    let _ = linux::process::wait_pid(pid, true);
}

/// Hears from the first stage which process it made.
pub(crate) fn second_stage(first: &linux::clone::Child, report: &Report) -> Result<(i32, OwnedFd), Failure> {
    let heard = report.receive();
    let _ = linux::process::wait_pid(first.pid, true);
    let step = || "join namespaces".to_owned();
    match heard {
        Ok(Some((FromChild::Pid(pid), _))) => {
            let pidfd = linux::pidfd::open(pid).map_err(|error| Cause::from(error).at(step()))?;
            Ok((pid, pidfd))
        }
        Ok(Some((FromChild::Failed(failure), _))) => Err(failure),
        Ok(_) => Err(Cause::refused(RefusedKind::Internal, "the first stage ended without a word").at(step())),
        Err(error) => Err(Cause::from(error).at(step())),
    }
}

fn open_joined(plan: &Plan) -> Result<Vec<(Namespaces, OwnedFd)>, Failure> {
    let mut open = Vec::with_capacity(plan.join.len());
    for join in &plan.join {
        let step = || format!("open {} namespace {}", join.namespace.proc_name(), join.path.display());
        let at = |error: linux::Error| Cause::from(error).at(step());
        let fd = ns::open(&join.path).map_err(at)?;
        let kind = Namespaces::from_bits(join.namespace.flag());
        let found = ns::kind(&fd).map_err(at)?;
        if found != kind {
            return Err(Cause::refused(RefusedKind::Invalid, format!("it is a {found:?} namespace")).at(step()));
        }
        let own = || -> linux::Result<bool> {
            let mine = ns::open(format!("/proc/self/ns/{}", join.namespace.proc_name()))?;
            Ok(ns::identity(&mine)? == ns::identity(&fd)?)
        };
        let sysctl = plan.steps.iter().find_map(|step| match step {
            Step::Sysctl { path, .. } if sysctl_owner(path) == SysctlOwner::Namespace(join.namespace) => Some(path),
            _ => None,
        });
        if let Some(path) = sysctl
            && own().map_err(at)?
        {
            let message = format!("sysctl {path} would change the host: this is the host's own namespace");
            return Err(Cause::refused(RefusedKind::Invalid, message).at(step()));
        }
        // Nobody can enter the user namespace they are in.
        if join.namespace == Namespace::User && own().map_err(at)? {
            continue;
        }
        open.push((kind, fd));
    }
    Ok(open)
}

#[allow(clippy::type_complexity, reason = "a pair of pairs, used once")]
pub(crate) fn streams(stdio: Stdio, terminal: bool) -> Result<((Console, Option<ConsoleSize>), Vec<OwnedFd>), Failure> {
    let at = |error: linux::Error| Cause::from(error).at("open standard streams".into());
    let mismatch =
        |message: &str| Err(Cause::refused(RefusedKind::Invalid, message).at("open standard streams".into()));
    let is_terminal = matches!(stdio, Stdio::Terminal { .. } | Stdio::ConsoleSocket { .. });
    if terminal && !is_terminal {
        return mismatch("the process asks for a terminal and gets none");
    }
    if !terminal && is_terminal {
        return mismatch("the process asks for no terminal and gets one");
    }
    Ok(match stdio {
        Stdio::Inherit => ((Console::None, None), Vec::new()),
        Stdio::Null => {
            let null = linux::fs::open_host(Path::new("/dev/null"), OFlags::RDWR).map_err(at)?;
            let (second, third) = (linux::fs::dup(&null).map_err(at)?, linux::fs::dup(&null).map_err(at)?);
            ((Console::None, None), vec![null, second, third])
        }
        Stdio::Fds { stdin, stdout, stderr } => ((Console::None, None), vec![stdin, stdout, stderr]),
        Stdio::Terminal { size } => ((Console::Launcher, size), Vec::new()),
        Stdio::ConsoleSocket { socket, size } => ((Console::Socket(socket), size), Vec::new()),
    })
}

/// User namespaces through whose maps mounts show their owners: one for each map, and the container's own where it is joined.
struct Mappers<'a> {
    token: &'a SingleThreaded,
    made: Vec<(Vec<IdSpan>, Vec<IdSpan>, OwnedFd)>,
    joined: Option<(&'a EarlyIdmap, &'a OwnedFd)>,
}

impl<'a> Mappers<'a> {
    fn new(token: &'a SingleThreaded, plan: &'a Plan, join: &'a [(Namespaces, OwnedFd)]) -> Self {
        let user = join.iter().find(|(kind, _)| *kind == Namespaces::USER).map(|(_, fd)| fd);
        Self { token, made: Vec::new(), joined: plan.rootfs_maps.as_ref().zip(user) }
    }

    fn map(&mut self, tree: &OwnedFd, idmap: &EarlyIdmap) -> Result<(), Cause> {
        let same = |uid: &[IdSpan], gid: &[IdSpan]| uid == idmap.uid && gid == idmap.gid;
        let own = self.joined.filter(|(maps, _)| same(&maps.uid, &maps.gid)).map(|(_, fd)| fd);
        if own.is_none() && !self.made.iter().any(|(uid, gid, _)| same(uid, gid)) {
            let made = maps::namespace(self.token, &idmap.uid, &idmap.gid)?;
            self.made.push((idmap.uid.clone(), idmap.gid.clone(), made));
        }
        let made = self.made.iter().find(|(uid, gid, _)| same(uid, gid)).map(|(.., fd)| fd);
        let change = AttrChange { idmap: own.or(made).map(AsFd::as_fd), ..Default::default() };
        Ok(mount::set_attr(tree, &change, idmap.recursive)?)
    }
}

/// The root for a container that is root of a user namespace only. The layers of an overlay belong to the host's ids: they are seen
/// through the container's map, so that its root owns what the image's root owns.
fn mapped_rootfs(mappers: &mut Mappers<'_>, plan: &Plan) -> Result<OwnedFd, Cause> {
    let (RootfsSource::Overlay { lowers, upper, work }, Some(maps)) = (&plan.rootfs, &plan.rootfs_maps) else {
        return init::rootfs_mount(&plan.rootfs);
    };
    let mut mapped = |path: &Path| -> Result<OwnedFd, Cause> {
        let tree = mount::clone_tree_at(path, false)?;
        mappers.map(&tree, maps)?;
        Ok(tree)
    };
    let lowers = lowers.iter().map(|path| mapped(path)).collect::<Result<Vec<_>, Cause>>()?;
    // Upper and work directory must be on one mount: the nearest directory above both.
    let shared = upper
        .ancestors()
        .find(|above| work.starts_with(above))
        .ok_or_else(|| Cause::refused(RefusedKind::Invalid, "upper and work directory have no directory in common"))?;
    let top = mapped(shared)?;
    let below = |path: &Path| Root::from_fd(linux::fs::dup(&top)?).open_dir(path.strip_prefix(shared).unwrap_or(path));
    let (upper, work) = (below(upper)?, below(work)?);
    let overlay = mount::Overlay {
        lowers: lowers.iter().map(AsFd::as_fd).collect(),
        upper: Some((upper.as_fd(), work.as_fd())),
        ..Default::default()
    };
    // Overlay makes files of its own in both as whoever mounts it. Through this map there is no host's root: what it made would belong to
    // nobody, and the kernel would rather mount everything read-only.
    let root_of = |spans: &[IdSpan]| idmap::outside(spans, 0).unwrap_or(0);
    linux::cred::make_files_as(root_of(&maps.uid), root_of(&maps.gid))?;
    let mounted = overlay.detached(mount::MountAttr::empty());
    linux::cred::make_files_as(0, 0)?;
    Ok(mounted?)
}

/// Runs prestart and createRuntime hooks (blocking) and tells the child to go on, or to give up. The answer to
/// [`crate::Event::RuntimeHooks`].
///
/// # Errors
/// A hook failed; the child has been told to end and reports the same.
pub fn run_runtime_hooks(plan: &Plan, launched: &Launched) -> Result<(), Failure> {
    let state = hooks::state(plan, hooks::Status::Creating, launched.pid);
    let ran = hooks::run(&plan.hooks.prestart, "prestart", &state)
        .and_then(|()| hooks::run(&plan.hooks.create_runtime, "createRuntime", &state))
        .map_err(|cause| cause.at("run createRuntime hooks".into()));
    let word = match &ran {
        Ok(()) => ToChild::Go { pid: launched.pid },
        Err(failure) => ToChild::Abort(failure.clone()),
    };
    let told = launched.report.tell(&word);
    ran?;
    told.map_err(|error| Cause::from(error).at("tell the child to go on".into()))
}

/// A process that runs prestart and createRuntime hooks beside its launcher. Dropped once the child has gone on or ended: a runner that is
/// still at it ends then.
#[derive(Debug)]
pub struct HookRunner {
    process: linux::clone::Child,
}

impl Drop for HookRunner {
    fn drop(&mut self) {
        end(self.process.pid, &self.process.pidfd);
    }
}

/// As [`run_runtime_hooks`], for a launcher with other things to do: the hooks run in a process of their own, which tells the child the
/// outcome. What went wrong comes as [`crate::Event::Failed`].
///
/// # Errors
/// The process could not be made; the child has been told to end.
pub fn start_runtime_hooks(token: &SingleThreaded, plan: &Plan, launched: &Launched) -> Result<HookRunner, Failure> {
    let run = || {
        // Hooks of a launcher that dies are nobody's any more; the child notices by itself.
        let _ = linux::process::set_parent_death_signal(9);
        // A hook gets none of these; a runner that lives long must not hold them.
        let _ = linux::exec::close_except(&[launched.report.as_fd(), launched.pidfd.as_fd()]);
        u8::from(run_runtime_hooks(plan, launched).is_err())
    };
    linux::clone::spawn(token, &CloneArgs::default(), run).map(|process| HookRunner { process }).map_err(|error| {
        let failure = Cause::from(error).at("run createRuntime hooks".into());
        let _ = launched.report.tell(&ToChild::Abort(failure.clone()));
        failure
    })
}

/// Removes the container's cgroup once its processes have ended; kills what is left in it. Running it again is no error.
pub fn cleanup(cgroup: &CgroupPlan) -> Result<(), Failure> {
    if cgroup.path.is_empty() {
        return Ok(());
    }
    let path = Path::new(&cgroup.path);
    let step = format!("remove cgroup {}", cgroup.path);
    let failed = |error: linux::cgroup::Error| cgroup_failure(&step, &error);
    match cgroups()?.remove(path, Duration::ZERO) {
        Ok(()) => return Ok(()),
        Err(linux::cgroup::Error::Busy { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    if let Ok(group) = cgroups()?.find(path) {
        group.kill().map_err(failed)?;
    }
    cgroups()?.remove(path, DYING).map_err(failed)
}
