//! New processes by `clone3`, as `fork` does it: the child gets a copy of everything and runs a closure that ends in exec or exit.
//!
//! A copy of a process that had other threads is a minefield (their locks stay held for ever), so cloning needs a
//! [`SingleThreaded`] token, and each clone asks the kernel again whether the process really has one thread.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;

use crate::idmap::IdMaps;
use crate::ns::Namespaces;
use crate::sys;
use crate::{Attempt, Error, Result};

/// Proof that this process has one thread. Stays on the thread that made it.
#[derive(Debug)]
pub struct SingleThreaded {
    _not_send: PhantomData<*const ()>,
}

impl SingleThreaded {
    /// Make it at the start of `main`, before anything can start a thread. EINVAL if there are several already.
    pub fn new() -> Result<Self> {
        check_single().attempt("single-threaded", format_args!("this process has several threads"))?;
        Ok(Self { _not_send: PhantomData })
    }
}

/// The kernel lets nobody leave a thread group of several, and does nothing for a group of one: the cheapest exact check there is.
fn check_single() -> std::result::Result<(), Errno> {
    // SAFETY: for a single thread the call has no effect; for several it fails.
    let ret = unsafe { libc::unshare(libc::CLONE_THREAD) };
    sys::check(ret.into()).map(drop)
}

/// How the child is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs<'fd> {
    /// New namespaces for the child.
    pub namespaces: Namespaces,
    /// Directory of a cgroup v2 group in which the child starts.
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// The child becomes a sibling of the caller instead of its child (CLONE_PARENT); it then has no exit signal of its own.
    pub as_sibling: bool,
}

/// A child and the descriptor that stands for it: poll it for the end, signal through it, never mix it up with a later process of the same number.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// libc's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Clones the process; the child runs `child` and exits with the number that it returns (or 101 if it panics). The child never returns
/// from this function, and no destructor or exit handler of the parent's runs in it.
///
/// The child inherits the signal mask and dispositions: see [`crate::signal::reset_for_exec`].
pub fn spawn(_token: &SingleThreaded, args: &CloneArgs<'_>, child: impl FnOnce() -> u8) -> Result<Child> {
    check_single().attempt("clone3", format_args!("refused: this process has several threads"))?;
    let mut pidfd: i32 = -1;
    let mut raw = RawCloneArgs {
        flags: args.namespaces.bits() | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..Default::default()
    };
    if args.as_sibling {
        raw.flags |= libc::CLONE_PARENT as u64;
        // clone3 refuses an exit signal together with CLONE_PARENT: the caller's own is inherited.
        raw.exit_signal = 0;
    }
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is fork: the child has a copy of the whole address space, including this stack, and nothing is shared.
    // The process has exactly one thread (checked just above), so no lock of the allocator or of the standard library can be held by a thread that
    // does not exist in the child. `raw` is a valid clone_args of the size given, and `pidfd` outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<RawCloneArgs>()) };
    let pid = sys::check(ret).attempt(
        "clone3",
        format_args!(
            "{:?}, PIDFD{}{}",
            args.namespaces,
            if args.as_sibling { "|PARENT" } else { "" },
            if args.cgroup.is_some() { "|INTO_CGROUP" } else { "" }
        ),
    )?;
    if pid == 0 {
        let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(101);
        exit_now(code);
    }
    if pidfd < 0 {
        return Err(Error::new("clone3", "no pidfd", Errno::NOSYS));
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor (close-on-exec) that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: pid as i32, pidfd })
}

static SECOND: libc::timespec = libc::timespec { tv_sec: 1, tv_nsec: 0 };

/// Whose are the namespaces that [`user_namespaces`] makes.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// A new user namespace with these maps.
    New(&'a IdMaps),
    /// One that is there.
    Existing(BorrowedFd<'a>),
}

/// A user namespace, and a network namespace that belongs to it. They live by these descriptors.
#[derive(Debug)]
pub struct UserNamespaces {
    pub user: OwnedFd,
    pub network: OwnedFd,
}

/// A network namespace that belongs to another user namespace than the caller's.
///
/// From any thread of a process with any number of them: nobody can leave the user namespace of a process with several threads, so a child
/// holds the new ones until they are open.
pub fn user_namespaces(owner: Owner<'_>) -> Result<UserNamespaces> {
    let (ready, tell) = crate::pipe::pipe()?;
    let mut pidfd: i32 = -1;
    let (namespaces, join) = match owner {
        Owner::New(_) => (Namespaces::USER | Namespaces::NET, -1),
        Owner::Existing(user) => (Namespaces::empty(), user.as_raw_fd()),
    };
    // No signal tells of its end: whoever reaps children in this process does not come upon this one.
    let mut raw = RawCloneArgs {
        flags: namespaces.bits() | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        ..Default::default()
    };
    let parent = std::process::id();
    // SAFETY: without CLONE_VM this is fork: nothing is shared with the child. Other threads may hold locks, so the child makes nothing but
    // the system calls below and never returns. `raw` is a valid clone_args of the size given, and `pidfd` outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<RawCloneArgs>()) };
    let pid = sys::check(ret).attempt("clone3", format_args!("{owner:?}, PIDFD"))?;
    if pid == 0 {
        // SAFETY: system calls alone, which may be made in a child of a process with threads; the pointers are to statics.
        unsafe {
            let joined = join < 0
                || (libc::syscall(libc::SYS_setns, join, libc::CLONE_NEWUSER) == 0
                    && libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) == 0);
            let word = if joined { c"r" } else { c"f" };
            libc::syscall(libc::SYS_write, tell.as_raw_fd(), word.as_ptr(), 1);
            // It is killed at once; a parent that was killed itself is noticed.
            while joined && libc::syscall(libc::SYS_getppid) == i64::from(parent) {
                libc::syscall(libc::SYS_ppoll, 0, 0, &raw const SECOND, 0, 0);
            }
            libc::_exit(0)
        }
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor (close-on-exec) that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    drop(tell);
    let mut word = [0];
    let made = match crate::pipe::read(&ready, &mut word) {
        Ok(_) if word == *b"r" => held_namespaces(pid as i32, owner),
        Ok(_) => Err(Error::new("setns and unshare", format_args!("{owner:?}"), Errno::PERM)),
        Err(error) => Err(error),
    };
    let _ = crate::pidfd::send_signal(&pidfd, 9);
    let _ = crate::process::wait_pid(pid as i32, true);
    made
}

/// Writes `uid_map`, `gid_map` or `setgroups` of a process in a new user namespace. The kernel takes each map once and whole.
pub fn write_map(pid: i32, file: &str, value: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, value).map_err(|error| {
        let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO));
        Error::new("write", format_args!("{path}, {value:?}"), errno)
    })
}

fn held_namespaces(pid: i32, owner: Owner<'_>) -> Result<UserNamespaces> {
    let maps = match owner {
        Owner::New(maps) => vec![("gid_map", &maps.gid), ("uid_map", &maps.uid)],
        Owner::Existing(_) => Vec::new(),
    };
    for (file, spans) in maps {
        write_map(pid, file, &crate::idmap::lines(spans))?;
    }
    let open = |name: &str| crate::ns::open(format!("/proc/{pid}/ns/{name}"));
    Ok(UserNamespaces { user: open("user")?, network: open("net")? })
}

/// Ends the process without running destructors, exit handlers or flushing buffers.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_gets_no_token() {
        // The test harness runs tests in threads of their own.
        assert!(SingleThreaded::new().unwrap_err().is(Errno::INVAL));
    }
}
