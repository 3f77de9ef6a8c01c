//! User and group ids of the calling process. The calls act on one thread (raw system calls): use them only where there is one.

use rustix::fs::{Gid, Uid};

use rustix::io::Errno;

use crate::{Attempt, Error, Result};

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

/// Makes files as this user and group on the calling thread alone, with the rights over files that it had.
///
/// The files of a container with ids of its own can be made by those ids only: the kernel has no number on disk for the host's root.
pub fn make_files_as(uid: u32, gid: u32) -> Result<()> {
    for (call, number, id) in [("setfsgid", libc::SYS_setfsgid, gid), ("setfsuid", libc::SYS_setfsuid, uid)] {
        // SAFETY: calls with one number each; they change the calling thread's file system ids and no memory.
        unsafe { libc::syscall(number, id) };
        // It answers with the old id whatever happens: asked again, with an id that there is not, it tells.
        // SAFETY: as above; the kernel refuses -1 and changes nothing.
        let now = unsafe { libc::syscall(number, u32::MAX) };
        if now as u32 != id {
            return Err(Error::new(call, format_args!("{id}"), Errno::PERM));
        }
    }
    // Leaving root's id took away the rights that go with files; they are still permitted.
    let mut sets = crate::caps::get()?;
    sets.effective = sets.permitted;
    crate::caps::set(&sets)
}
