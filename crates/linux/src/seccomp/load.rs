//! Putting a filter in force.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::error::{Errno, Error};

use super::compile::{FLAG_NEW_LISTENER, Filter};

const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;

/// Filters the calling thread (with TSYNC every thread of the process) from now on and for everything it starts. Needs
/// `no_new_privs` or CAP_SYS_ADMIN. Gives the listener's descriptor (close-on-exec) if the filter notifies.
///
/// One system call, no allocation unless it fails: usable between clone and exec.
pub fn load(filter: &Filter) -> Result<Option<OwnedFd>, Error> {
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        instructions: *const super::Instruction,
    }
    let program =
        Program { length: filter.instructions.len() as libc::c_ushort, instructions: filter.instructions.as_ptr() };
    // SAFETY: the kernel reads `length` instructions of `struct sock_filter`'s layout (`Instruction` is repr(C) and the same four
    // fields) from memory that `filter` keeps alive over the call, and writes nothing.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, libc::c_ulong::from(filter.flags), &raw const program)
    };
    if result < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        let args =
            format_args!("SET_MODE_FILTER, flags {:#x}, {} instructions", filter.flags, filter.instructions.len());
        return Err(Error::new("seccomp", args, errno));
    }
    if filter.flags & FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER a success is a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as i32) }))
}
