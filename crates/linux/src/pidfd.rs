//! Processes by descriptor: a pidfd never refers to another process, however often the number is used again.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ns::Namespaces;
use crate::process::Exit;
use crate::{Attempt, Result, sys};

/// ESRCH if there is no such process (or it is not a thread-group leader).
pub fn open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: numbers only; the result is a new descriptor (close-on-exec by definition).
    sys::check_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).attempt("pidfd_open", format_args!("{pid}"))
}

/// Sends any signal number, real-time ones too; 0 only checks. ESRCH once the process was reaped.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd();
    // SAFETY: the siginfo pointer may be null, which means "as kill(2) would".
    let ret = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    sys::check(ret).map(drop).attempt("pidfd_send_signal", format_args!("fd {}, signal {signal}", fd.as_raw_fd()))
}

/// A duplicate of another process' descriptor (needs ptrace rights over it).
pub fn get_fd(pidfd: impl AsFd, number: i32) -> Result<OwnedFd> {
    let fd = pidfd.as_fd();
    // SAFETY: numbers only; the result is a new descriptor (close-on-exec by definition).
    sys::check_fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, fd.as_raw_fd(), number, 0) })
        .attempt("pidfd_getfd", format_args!("fd {}, {number}", fd.as_raw_fd()))
}

/// Reaps a child that has ended, by its pidfd. `None` if it still runs and `block` is false.
pub fn wait(pidfd: impl AsFd, block: bool) -> Result<Option<Exit>> {
    let fd = pidfd.as_fd();
    crate::process::waitid(libc::P_PIDFD, fd.as_raw_fd() as u32, block)
        .map(|found| found.map(|(_, exit)| exit))
        .attempt("waitid", format_args!("P_PIDFD fd {}", fd.as_raw_fd()))
}

/// True once the process has ended (reaped or not).
pub fn has_ended(pidfd: impl AsFd) -> Result<bool> {
    let fd = pidfd.as_fd();
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, no waiting.
    let ret = unsafe { libc::poll(&raw mut poll, 1, 0) };
    sys::check(ret.into()).map(|n| n > 0).attempt("poll", format_args!("pidfd {}", fd.as_raw_fd()))
}

/// What `PIDFD_GET_INFO` tells (Linux 6.13; the exit status 6.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// 0 once the process was reaped.
    pub pid: i32,
    pub ppid: i32,
    pub cgroup_id: Option<u64>,
    /// Known once the process has been reaped by whoever was its parent, also by somebody else than us. This is how a stranger learns
    /// how a process ended.
    pub exit: Option<Exit>,
}

#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
    coredump: [u32; 2],
}

const INFO_PID: u64 = 1;
const INFO_CGROUPID: u64 = 4;
const INFO_EXIT: u64 = 8;
/// `_IOWR(0xff, 11, size)` with the size of the struct in the number.
const GET_INFO: u64 = 0xc000_ff0b | ((size_of::<RawInfo>() as u64) << 16);

/// ENOTTY or EINVAL on kernels that do not have it.
pub fn info(pidfd: impl AsFd) -> Result<Info> {
    let fd = pidfd.as_fd();
    let mut raw = RawInfo { mask: INFO_PID | INFO_CGROUPID | INFO_EXIT, ..Default::default() };
    // SAFETY: the request number carries the size of `raw`, which is valid for reading and writing that many bytes.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), GET_INFO as _, &raw mut raw) };
    match sys::check(ret.into()) {
        Ok(_) => Ok(Info {
            pid: raw.tgid as i32,
            ppid: raw.ppid as i32,
            cgroup_id: (raw.mask & INFO_CGROUPID != 0).then_some(raw.cgroupid),
            exit: (raw.mask & INFO_EXIT != 0).then(|| Exit::from_wait_status(raw.exit_code)),
        }),
        Err(errno) => Err(errno).attempt("ioctl", format_args!("fd {}, PIDFD_GET_INFO", fd.as_raw_fd())),
    }
}

/// One namespace of the process. ESRCH once it has ended. Before Linux 6.11 by `/proc`, with the process checked to be alive
/// after the namespace was opened, so that a number used again cannot stand in for it.
pub fn namespace(pidfd: impl AsFd, kind: Namespaces) -> Result<OwnedFd> {
    let fd = pidfd.as_fd();
    let number = match kind {
        Namespaces::CGROUP => 1,
        Namespaces::IPC => 2,
        Namespaces::MOUNT => 3,
        Namespaces::NET => 4,
        Namespaces::PID => 5,
        Namespaces::TIME => 7,
        Namespaces::USER => 9,
        Namespaces::UTS => 10,
        _ => return Err(Errno::INVAL).attempt("ioctl", format_args!("PIDFD_GET_NAMESPACE, {kind:?}")),
    };
    // SAFETY: `_IO(0xff, number)` takes no argument and returns a new descriptor (close-on-exec).
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), (0xff00u64 | number) as _, 0) };
    match sys::check_fd(ret.into()) {
        Err(Errno::NOTTY | Errno::INVAL) => namespace_by_proc(fd, kind),
        found => found.attempt("ioctl", format_args!("fd {}, PIDFD_GET_NAMESPACE {kind:?}", fd.as_raw_fd())),
    }
}

fn namespace_by_proc(pidfd: BorrowedFd<'_>, kind: Namespaces) -> Result<OwnedFd> {
    let name = match kind {
        Namespaces::CGROUP => "cgroup",
        Namespaces::IPC => "ipc",
        Namespaces::MOUNT => "mnt",
        Namespaces::NET => "net",
        Namespaces::PID => "pid",
        Namespaces::TIME => "time",
        Namespaces::USER => "user",
        _ => "uts",
    };
    let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&info)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        .attempt("read", format_args!("{info}"))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse::<i32>().ok());
    let Some(pid) = pid.filter(|pid| *pid > 0) else { return Err(Errno::SRCH).attempt("read", format_args!("{info}")) };
    let path = format!("/proc/{pid}/ns/{name}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => Err(Errno::SRCH),
        other => other,
    };
    let namespace = namespace.attempt("open", format_args!("{path}"))?;
    send_signal(pidfd, 0)?;
    Ok(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_the_same_by_descriptor_and_by_proc() {
        let pidfd = open(std::process::id() as i32).unwrap();
        let identity = |fd: OwnedFd| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino)).unwrap();
        for kind in [Namespaces::USER, Namespaces::MOUNT, Namespaces::NET, Namespaces::UTS] {
            let by_proc = identity(namespace_by_proc(pidfd.as_fd(), kind).unwrap());
            assert_eq!(identity(namespace(&pidfd, kind).unwrap()), by_proc, "{kind:?}");
        }
    }

    #[test]
    fn our_own_pidfd_tells_who_we_are() {
        let pidfd = open(std::process::id() as i32).unwrap();
        send_signal(&pidfd, 0).unwrap();
        assert!(!has_ended(&pidfd).unwrap());
        match info(&pidfd) {
            Ok(info) => assert_eq!((info.pid, info.exit), (std::process::id() as i32, None)),
            Err(error) => assert!(error.is(Errno::NOTTY) || error.is(Errno::INVAL), "{error}"),
        }
    }

    #[test]
    fn a_child_is_reaped_by_pidfd_and_its_exit_stays_known() {
        #[expect(clippy::zombie_processes, reason = "reaped through its pidfd below")]
        let child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pidfd = open(child.id() as i32).unwrap();
        assert_eq!(wait(&pidfd, true).unwrap(), Some(Exit::Code(7)));
        if let Ok(info) = info(&pidfd) {
            assert_eq!(info.exit, Some(Exit::Code(7)));
        }
        assert!(send_signal(&pidfd, 0).unwrap_err().is(Errno::SRCH));
    }
}
