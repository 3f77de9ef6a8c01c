//! Signals as data: blocked and read from a descriptor; and the clean state in which a program must be started.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use crate::{Attempt, Result, sys};

fn sigset(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset and sigaddset write only into it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Signals that arrive as reads instead of interrupting anything.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl std::os::fd::AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl SignalFd {
    /// Blocks `signals` for the calling thread and delivers them here. Non-blocking, close-on-exec.
    pub fn new(signals: &[i32]) -> Result<Self> {
        let set = sigset(signals);
        // SAFETY: `set` is valid; the old mask is not asked for.
        let ret = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        sys::check(ret.into()).attempt("sigprocmask", format_args!("BLOCK, {signals:?}"))?;
        // SAFETY: `set` is valid; -1 asks for a new descriptor.
        let ret = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        let fd = sys::check_fd(ret.into()).attempt("signalfd", format_args!("{signals:?}"))?;
        Ok(Self { fd })
    }

    /// The next signal number, `None` if there is none now.
    pub fn read(&self) -> Result<Option<i32>> {
        let mut buf = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut buf) {
            Ok(_) => Ok(Some(u32::from_ne_bytes([buf[0], buf[1], buf[2], buf[3]]) as i32)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno).attempt("read", format_args!("signalfd {}", self.fd.as_raw_fd())),
        }
    }
}

/// Nothing blocked, nothing ignored, no handler: what a new program expects. (Rust ignores SIGPIPE, and a blocked signal stays blocked
/// across exec.)
pub fn reset_for_exec() -> Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: the raw call, because libc refuses its two internal real-time signals, which we may have inherited as ignored. All zeros is the
        // kernel's sigaction with SIG_DFL, no flags, no restorer and an empty mask of 8 bytes; the old one is not asked for.
        let ret = unsafe {
            let default = [0u64; 4];
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8usize)
        };
        sys::check(ret).attempt("rt_sigaction", format_args!("{signal}, DFL"))?;
    }
    unblock_all()
}

/// Lets every signal through to the calling thread and those that it starts from now on.
pub fn unblock_all() -> Result<()> {
    let none = sigset(&[]);
    // SAFETY: `none` is valid; the old mask is not asked for.
    let ret = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
    sys::check(ret.into()).map(drop).attempt("sigprocmask", format_args!("SETMASK, none"))
}

/// Number of a signal name: `TERM`, `SIGTERM`, `sigterm`, `RTMIN+3`, `15`. `None` if there is no such signal.
pub fn from_name(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == bare) {
        return Some(*number);
    }
    // As everybody outside libc counts: 34 to 64.
    let (base, rest) =
        if let Some(rest) = bare.strip_prefix("RTMIN") { (34, rest) } else { (64, bare.strip_prefix("RTMAX")?) };
    let offset: i32 = if rest.is_empty() { 0 } else { rest.parse().ok()? };
    let number = base + offset;
    (34..=64).contains(&number).then_some(number)
}

/// The name without `SIG`, `None` for real-time signals and unknown numbers.
pub fn name(signal: i32) -> Option<&'static str> {
    NAMES.iter().find(|(_, number)| *number == signal).map(|(name, _)| *name)
}

const NAMES: [(&str, i32); 35] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_docker_names_them() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX", Some(64)),
            ("RTMAX+1", None),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(from_name(text), number, "{text}");
        }
    }
}
