//! The kernel's key store: containers get a session keyring of their own.

use crate::{Attempt, Result, sys};

/// The number of the caller's session keyring: differs between processes that share none.
pub fn session() -> Result<i32> {
    const KEYCTL_GET_KEYRING_ID: i32 = 0;
    const KEY_SPEC_SESSION_KEYRING: i32 = -3;
    // SAFETY: numbers only.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0) };
    sys::check(ret).map(|id| id as i32).attempt("keyctl", format_args!("GET_KEYRING_ID, session"))
}

/// Joins a new, anonymous session keyring. ENOSYS where the kernel has no keys, EDQUOT where the user has too many.
pub fn join_new_session() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    sys::check(ret).map(drop).attempt("keyctl", format_args!("JOIN_SESSION_KEYRING, new"))
}
