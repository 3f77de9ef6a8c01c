//! User and group ids of the calling process. The calls act on one thread (raw system calls): use them only where there is one.

use rustix::fs::{Gid, Uid};

use crate::{Attempt, Result};

/// Supplementary groups, replaced as a whole.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let raw: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&raw).attempt("setgroups", format_args!("{groups:?}"))
}

/// Real, effective and saved group id.
pub fn set_gid(gid: u32) -> Result<()> {
    let raw = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(raw, raw, raw).attempt("setresgid", format_args!("{gid}"))
}

/// Real, effective and saved user id. Leaving 0 drops capabilities unless [`crate::process::set_keep_caps`] was called.
pub fn set_uid(uid: u32) -> Result<()> {
    let raw = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(raw, raw, raw).attempt("setresuid", format_args!("{uid}"))
}

/// Effective user and group id.
pub fn effective_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}
