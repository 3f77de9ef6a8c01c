//! The kernel's key store: containers get a session keyring of their own.

use crate::{Attempt, Result, sys};

/// Joins a new, anonymous session keyring. ENOSYS where the kernel has no keys, EDQUOT where the user has too many.
pub fn join_new_session() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    sys::check(ret).map(drop).attempt("keyctl", format_args!("JOIN_SESSION_KEYRING, new"))
}
