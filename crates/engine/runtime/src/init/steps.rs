//! One function a step, except for those that build the root file system (`rootfs`) and the terminal (`console`).

use std::os::fd::OwnedFd;

use linux::Errno;
use linux::cgroup::Group;
use linux::fs::{Mode, OFlags, Root};
use linux::mount::{self, AttrChange, Propagation as Spread};
use linux::ns::Namespaces;

use crate::hooks;
use crate::plan::options::{Propagation, PropagationKind};
use crate::plan::{Namespace, Plan, Step};
use crate::report::{Cause, FromChild, RefusedKind};

use super::rootfs::Masks;
use super::{Inherited, await_go};

/// What the steps leave for later ones.
pub(super) struct Child<'plan> {
    pub(super) plan: &'plan Plan,
    /// Only its paths are used once it is joined.
    pub(super) group: Option<&'plan Group>,
    /// The new root, once attached; `/` itself after pivot.
    pub(super) root: Option<Root>,
    pub(super) masks: Masks,
    /// As the launcher sees this process; 0 while unknown.
    pub(super) pid: i32,
}

impl<'plan> Child<'plan> {
    pub(super) fn new(plan: &'plan Plan, group: Option<&'plan Group>, pid: i32) -> Self {
        Self { plan, group, root: None, masks: Masks::default(), pid }
    }

    pub(super) fn into_root(self) -> Option<Root> {
        self.root
    }

    pub(super) fn root(&self) -> Result<&Root, Cause> {
        self.root
            .as_ref()
            .ok_or_else(|| Cause::refused(RefusedKind::Internal, "the root file system is not attached yet"))
    }

    pub(super) fn step(&mut self, step: &Step, with: &mut Inherited) -> Result<(), Cause> {
        match step {
            Step::BecomeRoot { setgroups } => self.become_root(*setgroups, with),
            Step::JoinCgroups if with.joined_group => Ok(()),
            Step::JoinCgroups => join_cgroups(self.group, with.in_v2_group),
            Step::JoinNamespaces => join_namespaces(&with.join),
            Step::UnshareCgroup => Ok(linux::ns::unshare(Namespaces::CGROUP)?),
            Step::TimeOffsets(lines) => time_offsets(lines, with),
            Step::NewSession => Ok(linux::process::setsid()?),
            Step::SessionKeyring { .. } => session_keyring(with),
            Step::LoopbackUp => Ok(linux::net::loopback_up()?),
            Step::OomScoreAdj(score) => oom_score_adj(*score, with),
            Step::Sysctl { path, value } => sysctl(path, value, with),
            Step::RootPropagation(propagation) => root_propagation(*propagation),
            Step::AttachRootfs => self.attach_rootfs(with),
            Step::Mount(step) => self.mount(step, with),
            Step::DeviceNode(node) => self.device(node),
            Step::Symlink { path, target } => self.symlink(path, target),
            Step::Ptmx => self.ptmx(),
            Step::RuntimeHooks => {
                with.channel.say(&FromChild::Hooks, None)?;
                self.pid = await_go(&with.channel)?;
                Ok(())
            }
            Step::CreateContainerHooks => {
                let pid = self.own_pid(with)?;
                let state = hooks::state(self.plan, hooks::Status::Creating, pid);
                hooks::run(&self.plan.hooks.create_container, "createContainer", &state)
            }
            Step::Console { size, mount } => self.console(*size, *mount, with),
            Step::PivotRoot => self.pivot_root(),
            Step::MoveRoot => self.move_root(),
            Step::SealMount { destination } => self.seal_mount(destination),
            Step::SealRoot => self.seal_root(),
            Step::MaskPath(path) => self.mask(path),
            Step::ReadonlyPath(path) => self.read_only(path),
            Step::Hostname(name) => Ok(linux::process::set_hostname(name)?),
            Step::Domainname(name) => Ok(linux::process::set_domainname(name)?),
            Step::Umask(mask) => {
                linux::process::umask(*mask);
                Ok(())
            }
            Step::WorkingDirectory(_) if vocab::weak::without("cwd") => Ok(()),
            Step::WorkingDirectory(path) => {
                self.root()?.mkdir_all(path, Mode::from_raw_mode(0o755))?;
                Ok(())
            }
        }
    }

    fn become_root(&mut self, setgroups: bool, with: &Inherited) -> Result<(), Cause> {
        if self.plan.id_maps.is_some() {
            self.pid = await_go(&with.channel)?;
        }
        if setgroups {
            linux::cred::set_groups(&[])?;
        }
        linux::cred::set_gid(0)?;
        linux::cred::set_uid(0)?;
        // Changing ids made this process undumpable, which hides its own /proc files from it.
        linux::process::set_dumpable(true)?;
        Ok(())
    }

    /// The host's `/proc/self` is a link to our number there.
    pub(super) fn own_pid(&self, with: &Inherited) -> Result<i32, Cause> {
        if self.pid != 0 {
            return Ok(self.pid);
        }
        own_pid(with.proc.get()?)
    }
}

pub(super) fn own_pid(proc: &Root) -> Result<i32, Cause> {
    let link = proc.readlink("self")?;
    link.to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Cause::refused(RefusedKind::Internal, format!("/proc/self is a link to {}", link.display())))
}

pub(super) fn join_cgroups(group: Option<&Group>, in_v2_group: bool) -> Result<(), Cause> {
    let Some(group) = group else { return Ok(()) };
    let joined = if in_v2_group { group.join_self_v1() } else { group.join_self() };
    joined.map_err(|error| Cause::refused(RefusedKind::Forbidden, error.to_string()))
}

pub(super) fn join_namespaces(join: &[(Namespaces, OwnedFd)]) -> Result<(), Cause> {
    for (kind, fd) in join {
        linux::ns::setns(fd, *kind)?;
    }
    Ok(())
}

/// Namespaces as `linux::ns` knows them.
pub(crate) fn kinds(namespaces: impl IntoIterator<Item = Namespace>) -> Namespaces {
    Namespaces::from_bits(namespaces.into_iter().fold(0, |bits, namespace| bits | namespace.flag()))
}

fn write_proc(with: &Inherited, path: &str, value: &str) -> linux::Result<()> {
    if vocab::weak::without("proc") {
        let file = linux::fs::open_host(format!("/proc/{path}"), OFlags::WRONLY)?;
        return linux::pipe::write(&file, value.as_bytes()).map(drop);
    }
    let file = with.proc.get()?.open_file(path, OFlags::WRONLY | OFlags::NOFOLLOW, Mode::empty())?;
    linux::pipe::write(&file, value.as_bytes()).map(drop).map_err(|error| linux::Error {
        call: "write".into(),
        args: format!("/proc/{path}, {value:?}"),
        errno: error.errno,
    })
}

fn time_offsets(lines: &str, with: &Inherited) -> Result<(), Cause> {
    linux::ns::unshare(Namespaces::TIME)?;
    if !lines.is_empty() {
        write_proc(with, "self/timens_offsets", lines)?;
    }
    // The root is still the host's here.
    let fd = linux::ns::open("/proc/self/ns/time_for_children")?;
    Ok(linux::ns::setns(fd, Namespaces::TIME)?)
}

pub(super) fn session_keyring(with: &Inherited) -> Result<(), Cause> {
    if vocab::weak::without("keyring") {
        return Ok(());
    }
    match linux::keyring::join_new_session() {
        Ok(()) => Ok(()),
        Err(error) if error.is(Errno::NOSYS) => Ok(()),
        Err(error) if error.is(Errno::PERM) => {
            with.channel.warn(format!("no session keyring of its own: {error}"));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn oom_score_adj(score: i32, with: &Inherited) -> Result<(), Cause> {
    match write_proc(with, "self/oom_score_adj", &score.to_string()) {
        Err(error) if error.is(Errno::ACCESS) || error.is(Errno::PERM) => {
            with.channel.warn(format!("oom_score_adj stays as it is: {error}"));
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Through the host's procfs, whose `sys` shows the writer's own namespaces; where that is mounted read-only (we are in a container
/// ourselves) through a procfs that is mounted nowhere.
fn sysctl(path: &str, value: &str, with: &Inherited) -> Result<(), Cause> {
    match write_proc(with, &format!("sys/{path}"), value) {
        Err(error) if error.is(Errno::ROFS) => {
            let fresh = Root::from_fd(mount::new_fs("proc", None, &[], mount::MountAttr::empty())?);
            let file = fresh.open_file(format!("sys/{path}"), OFlags::WRONLY | OFlags::NOFOLLOW, Mode::empty())?;
            linux::pipe::write(&file, value.as_bytes())?;
            Ok(())
        }
        other => Ok(other?),
    }
}

pub(super) const fn spread(kind: PropagationKind) -> Spread {
    match kind {
        PropagationKind::Private => Spread::Private,
        PropagationKind::Slave => Spread::Slave,
        PropagationKind::Shared => Spread::Shared,
        PropagationKind::Unbindable => Spread::Unbindable,
    }
}

fn root_propagation(propagation: Propagation) -> Result<(), Cause> {
    let root = Root::open("/")?;
    let change = AttrChange { propagation: Some(spread(propagation.kind)), ..Default::default() };
    Ok(mount::set_attr(&root, &change, propagation.recursive)?)
}
