//! Namespaces: which kinds there are, leaving one ([`unshare`]), joining others ([`setns`]). Making a process straight into new ones is
//! [`crate::clone`]'s.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::sys::{self, flags};
use crate::{Attempt, Result};

flags! {
    /// `CLONE_NEW*`.
    pub struct Namespaces: u64 {
        CGROUP = libc::CLONE_NEWCGROUP;
        IPC = libc::CLONE_NEWIPC;
        MOUNT = libc::CLONE_NEWNS;
        NET = libc::CLONE_NEWNET;
        PID = libc::CLONE_NEWPID;
        TIME = libc::CLONE_NEWTIME;
        USER = libc::CLONE_NEWUSER;
        UTS = libc::CLONE_NEWUTS;
    }
}

impl Namespaces {
    /// Every kind with its name under `/proc/PID/ns`, in an order in which a process that owns them may join: user first, so that the rights
    /// over the others are there.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::USER, "user"),
        (Self::CGROUP, "cgroup"),
        (Self::IPC, "ipc"),
        (Self::UTS, "uts"),
        (Self::NET, "net"),
        (Self::PID, "pid"),
        (Self::TIME, "time"),
        (Self::MOUNT, "mnt"),
    ];
}

/// Moves the calling thread into new namespaces (PID and TIME: its future children).
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    // SAFETY: only CLONE_NEW* bits can be in `Namespaces` by its constants; they change what the thread sees and no memory. FILES, the one flag
    // that breaks descriptor ownership, is masked away.
    let ret = unsafe { libc::unshare((namespaces.bits() & !(libc::CLONE_FILES as u64)) as i32) };
    sys::check(ret.into()).map(drop).attempt("unshare", format_args!("{namespaces:?}"))
}

/// Joins the namespace that a descriptor (of `/proc/PID/ns/*` or a bind mount of one) refers to; it must be of the kind given.
pub fn setns(fd: impl AsFd, kind: Namespaces) -> Result<()> {
    set(fd, kind, "setns")
}

/// Joins several namespaces of the process behind a pidfd at once: all or none.
pub fn setns_pidfd(pidfd: impl AsFd, kinds: Namespaces) -> Result<()> {
    set(pidfd, kinds, "setns(pidfd)")
}

fn set(fd: impl AsFd, kinds: Namespaces, call: &'static str) -> Result<()> {
    let fd = fd.as_fd();
    // SAFETY: a call with a borrowed descriptor and a number.
    let ret = unsafe { libc::setns(fd.as_raw_fd(), kinds.bits() as i32) };
    sys::check(ret.into()).map(drop).attempt(call, format_args!("fd {}, {kinds:?}", fd.as_raw_fd()))
}

/// Opens a namespace by path, `/proc/PID/ns/net` or a bind mount.
pub fn open(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .attempt("open", format_args!("{path:?}, namespace"))
}

/// The kind of an open namespace (NS_GET_NSTYPE).
pub fn kind(fd: impl AsFd) -> Result<Namespaces> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    let fd = fd.as_fd();
    // SAFETY: NS_GET_NSTYPE takes no argument and returns a number.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    sys::check(ret.into())
        .map(|bits| Namespaces::from_bits(bits as u64))
        .attempt("ioctl", format_args!("fd {}, NS_GET_NSTYPE", fd.as_raw_fd()))
}

/// The user namespace that an open namespace belongs to (NS_GET_USERNS).
pub fn owner(fd: impl AsFd) -> Result<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let fd = fd.as_fd();
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor (close-on-exec).
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS) };
    let owner = sys::check(ret.into()).attempt("ioctl", format_args!("fd {}, NS_GET_USERNS", fd.as_raw_fd()))?;
    // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(owner as i32) })
}

/// Device and inode of an open namespace: equal means the same namespace.
pub fn identity(fd: impl AsFd) -> Result<(u64, u64)> {
    crate::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}
