//! What a process can say about itself and its children: waiting, prctl switches, scheduling, names, limits on harm.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Attempt, Error, Result, sys};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl Exit {
    /// From the status word of `wait(2)`.
    pub fn from_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8) as u8),
            signal => Self::Signal(signal as u8),
        }
    }

    /// As shells and Docker count: 128 + signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code.into(),
            Self::Signal(signal) => 128 + i32::from(signal),
        }
    }
}

/// Reaps any child that has ended: its pid and how. `None` if none has (and `block` is false) or there are no children.
pub fn wait_any(block: bool) -> Result<Option<(i32, Exit)>> {
    match waitid(libc::P_ALL, 0, block) {
        Err(Errno::CHILD) => Ok(None),
        other => other.attempt("waitid", format_args!("P_ALL")),
    }
}

/// Reaps one child by number.
pub fn wait_pid(pid: i32, block: bool) -> Result<Option<Exit>> {
    waitid(libc::P_PID, pid as u32, block)
        .map(|found| found.map(|(_, exit)| exit))
        .attempt("waitid", format_args!("P_PID {pid}"))
}

pub(crate) fn waitid(kind: libc::idtype_t, id: u32, block: bool) -> std::result::Result<Option<(i32, Exit)>, Errno> {
    let flags = libc::WEXITED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: siginfo_t is plain data, all zeros is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is valid for writing.
        match sys::check(unsafe { libc::waitid(kind, id, &raw mut info, flags) }.into()) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            Ok(_) => {}
        }
        // SAFETY: waitid fills the SIGCHLD fields (or leaves the zeros, which read as pid 0).
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let exit = match info.si_code {
            libc::CLD_EXITED => Exit::Code(status as u8),
            _ => Exit::Signal(status as u8),
        };
        return Ok(Some((pid, exit)));
    }
}

fn prctl(option: i32, arg: u64, name: &'static str) -> Result<u64> {
    // SAFETY: only options whose argument is a number are called through here.
    let ret = unsafe { libc::prctl(option, arg, 0u64, 0u64, 0u64) };
    sys::check(ret.into()).map(|v| v as u64).attempt("prctl", format_args!("{name}, {arg}"))
}

/// Orphans below this process become its children instead of init's.
pub fn set_subreaper(on: bool) -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, on.into(), "SET_CHILD_SUBREAPER").map(drop)
}

/// Not dumpable: nobody without CAP_SYS_PTRACE in our user namespace may look into this process' /proc files or trace it. Reset by exec.
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, on.into(), "SET_DUMPABLE").map(drop)
}

/// The signal this process gets when the thread that made it ends; 0 for none. Cleared by exec of a set-id program and by changing ids.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64, "SET_PDEATHSIG").map(drop)
}

/// Irrevocable.
pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "SET_NO_NEW_PRIVS").map(drop)
}

/// Keep permitted capabilities when the last root id is given up. Cleared by exec.
pub fn set_keep_caps(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, on.into(), "SET_KEEPCAPS").map(drop)
}

/// At most 15 bytes are kept.
pub fn set_name(name: &CStr) -> Result<()> {
    rustix::thread::set_name(name).attempt("prctl", format_args!("SET_NAME, {name:?}"))
}

/// New session and process group, without controlling terminal.
pub fn setsid() -> Result<()> {
    rustix::process::setsid().map(drop).attempt("setsid", format_args!(""))
}

pub fn chdir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    rustix::process::chdir(path).attempt("chdir", format_args!("{path:?}"))
}

pub fn fchdir(fd: impl AsFd) -> Result<()> {
    rustix::process::fchdir(&fd).attempt("fchdir", format_args!("fd {}", fd.as_fd().as_raw_fd()))
}

pub fn chroot(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    rustix::process::chroot(path).attempt("chroot", format_args!("{path:?}"))
}

/// The working directory; ENOENT if it is gone or outside the root ("(unreachable)").
pub fn getcwd() -> Result<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let cwd = rustix::process::getcwd(Vec::new()).attempt("getcwd", format_args!(""))?.into_bytes();
    if cwd.first() != Some(&b'/') {
        return Err(Error::new("getcwd", String::from_utf8_lossy(&cwd), Errno::NOENT));
    }
    Ok(std::ffi::OsString::from_vec(cwd).into())
}

/// Sets the file mode creation mask, returns the old one.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::umask(mask) }
}

pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).attempt("sethostname", format_args!("{name:?}"))
}

pub fn set_domainname(name: &str) -> Result<()> {
    rustix::system::setdomainname(name.as_bytes()).attempt("setdomainname", format_args!("{name:?}"))
}

/// Execution domain (PER_LINUX32 = 8 and flags). Returns the previous one.
pub fn set_personality(persona: u64) -> Result<u64> {
    // SAFETY: a number in, a number out.
    let ret = unsafe { libc::personality(persona) };
    sys::check(ret.into()).map(|old| old as u64).attempt("personality", format_args!("{persona:#x}"))
}

pub fn set_nice(nice: i32) -> Result<()> {
    // SAFETY: numbers only.
    let ret = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    sys::check(ret.into()).map(drop).attempt("setpriority", format_args!("{nice}"))
}

/// I/O class (0 none, 1 real time, 2 best effort, 3 idle) and level 0 to 7.
pub fn set_ioprio(class: u16, level: u16) -> Result<()> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: numbers only.
    let ret = unsafe {
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, (i32::from(class) << 13) | i32::from(level & 0x1fff))
    };
    sys::check(ret).map(drop).attempt("ioprio_set", format_args!("class {class}, level {level}"))
}

/// For [`set_scheduler`]; times in nanoseconds (deadline policy only).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// SCHED_OTHER 0, FIFO 1, RR 2, BATCH 3, ISO 4, IDLE 5, DEADLINE 6.
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

pub fn set_scheduler(sched: &Scheduler) -> Result<()> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: sched.policy,
        flags: sched.flags,
        nice: sched.nice,
        priority: sched.priority,
        runtime: sched.runtime,
        deadline: sched.deadline,
        period: sched.period,
    };
    // SAFETY: `attr` is a sched_attr whose first field gives its size; the kernel only reads it.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    sys::check(ret).map(drop).attempt("sched_setattr", format_args!("{sched:?}"))
}

/// Pins the calling thread to CPUs (numbers below 1024).
pub fn set_affinity(cpus: &[usize]) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus.iter().copied().filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    rustix::thread::sched_setaffinity(None, &set).attempt("sched_setaffinity", format_args!("{cpus:?}"))
}

/// NUMA policy of the calling thread: `MPOL_*` mode with its flags, node numbers below 1024.
pub fn set_memory_policy(mode: u32, nodes: &[u32]) -> Result<()> {
    let mut mask = [0u64; 16];
    for node in nodes.iter().filter(|node| **node < 1024) {
        mask[(node / 64) as usize] |= 1 << (node % 64);
    }
    let (pointer, bits) = if nodes.is_empty() { (std::ptr::null(), 0u64) } else { (mask.as_ptr(), 1025) };
    // SAFETY: the kernel reads `bits - 1` bits, which `mask` has; a null mask goes with no bits.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    sys::check(ret).map(drop).attempt("set_mempolicy", format_args!("{mode:#x}, nodes {nodes:?}"))
}

/// How soon the out-of-memory killer picks this process, -1000 to 1000. Lowering needs CAP_SYS_RESOURCE (EACCES).
pub fn set_oom_score_adj(adj: i32) -> Result<()> {
    std::fs::write("/proc/self/oom_score_adj", adj.to_string())
        .attempt("write", format_args!("/proc/self/oom_score_adj, {adj}"))
}

/// Sends a signal by number; only for a group or a process that cannot have been reaped (our own child). Elsewhere use [`crate::pidfd`].
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: numbers only.
    let ret = unsafe { libc::kill(pid, signal) };
    sys::check(ret.into()).map(drop).attempt("kill", format_args!("{pid}, {signal}"))
}

/// The wall clock as (seconds, nanoseconds) since 1970.
pub fn wall_clock() -> (i64, u32) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec, now.tv_nsec as u32)
}
