//! Replacing the program: `execve` with everything prepared beforehand, so that nothing is left to fail but the call itself.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::{Attempt, Error, Result, sys};

/// A NULL-terminated vector of C strings, as `execve` wants it.
#[derive(Debug)]
pub struct CStrings {
    owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// EINVAL if a string has a NUL byte inside.
    pub fn new<S: Into<Vec<u8>>>(strings: impl IntoIterator<Item = S>) -> Result<Self> {
        let owned = strings
            .into_iter()
            .map(|s| CString::new(s))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| Error::new("execve", format_args!("string with a NUL byte: {error}"), Errno::INVAL))?;
        let mut pointers: Vec<*const c_char> = owned.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Ok(Self { owned, pointers })
    }

    pub fn as_slice(&self) -> &[CString] {
        &self.owned
    }
}

/// Returns only on failure. The path is resolved in the caller's root and working directory; there is no PATH search here.
pub fn execve(path: &CStr, argv: &CStrings, envp: &CStrings) -> Error {
    // SAFETY: `path` is NUL-terminated, both vectors end with NULL and point to strings owned by the `CStrings` that live across the call.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    Error::last("execve", format_args!("{path:?}"))
}

/// As [`execve`], for an open program (`AT_EMPTY_PATH`). A script needs the descriptor not to be close-on-exec; a binary does not.
pub fn execve_fd(program: impl AsFd, argv: &CStrings, envp: &CStrings) -> Error {
    let fd = program.as_fd();
    // SAFETY: as in `execve`; the path is the empty static string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Error::last("execveat", format_args!("fd {}, EMPTY_PATH", fd.as_raw_fd()))
}

/// Marks every descriptor from `first` on close-on-exec: the last thing before exec.
pub fn cloexec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: marks descriptors, closes none.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    sys::check(ret).map(drop).attempt("close_range", format_args!("{first}, MAX, CLOEXEC"))
}

/// Closes every descriptor from 3 on except `keep`: what a child inherited from a long-lived parent and must not hold while it waits.
///
/// Only for a process that is about to exec or exit: it takes descriptors away from whoever owned them, so owned values that are not in
/// `keep` must not be used or dropped afterwards.
pub fn close_except(keep: &[std::os::fd::BorrowedFd<'_>]) -> Result<()> {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|n| *n > 2).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for last in numbers.into_iter().map(|n| n.saturating_sub(1)).chain([u32::MAX]) {
        if first <= last {
            // SAFETY: see the function's contract: nobody uses the descriptors that are closed.
            let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            sys::check(ret).attempt("close_range", format_args!("{first}, {last}"))?;
        }
        first = last.saturating_add(2);
    }
    Ok(())
}

/// Puts `fd` at the number `to` (0, 1 or 2 usually), inheritable. The previous holder of that number is closed.
///
/// Only for a process that is about to exec: it takes the number away from whoever owned it, so it is limited to stdio numbers and to the range
/// that `LISTEN_FDS` uses.
pub fn dup_onto(fd: impl AsFd, to: i32) -> Result<()> {
    let fd = fd.as_fd();
    let ret = if fd.as_raw_fd() == to {
        // dup2 of a number onto itself would leave close-on-exec set.
        // SAFETY: changes a descriptor flag.
        unsafe { libc::fcntl(to, libc::F_SETFD, 0) }
    } else {
        // SAFETY: replaces descriptor `to`; see the function's contract: the process is about to exec and nothing of ours uses `to` by number.
        unsafe { libc::dup2(fd.as_raw_fd(), to) }
    };
    sys::check(ret.into()).map(drop).attempt("dup2", format_args!("{}, {to}", fd.as_raw_fd()))
}

/// A descriptor by number if it is open: the standard streams, and those that a caller asked to hand on to the program.
pub fn borrow_inherited(fd: i32) -> Option<std::os::fd::BorrowedFd<'static>> {
    // SAFETY: reads a descriptor flag.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and a process that hands descriptors on by number does not close them before it executes the program.
    Some(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })
}

/// Takes ownership of a descriptor inherited by number, as passed by the parent (`--fd 3`, `LISTEN_FDS`, `PIPE_FD`). EBADF if it is not open;
/// numbers 0 to 2 are refused (EINVAL), std owns them. Sets close-on-exec. Call once for each number.
pub fn inherited(fd: i32) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    if fd < 3 {
        return Err(Error::new("inherited", format_args!("fd {fd}"), Errno::INVAL));
    }
    // SAFETY: changes a descriptor flag; fails with EBADF where there is no such descriptor.
    let ret = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    sys::check(ret.into()).attempt("fcntl", format_args!("fd {fd}, F_SETFD"))?;
    // SAFETY: the descriptor is open, and by the contract above it was handed to this process to own and is taken once.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}
