//! A view of our own program through which nobody can reach the file for writing: what runs inside a container's namespaces before exec
//! is started from it (CVE-2019-5736).

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::mount::{self, AttrChange, MountAttr};
use crate::{Attempt, Result, memfd};

/// Where the program is read from.
const SELF: &str = "/proc/self/exe";

/// A descriptor of our program to give to [`crate::exec::execve_fd`]: a read-only detached mount of it where we may mount (costs nothing), else
/// a sealed copy in memory.
pub fn protected() -> Result<OwnedFd> {
    match read_only_view(Path::new(SELF)) {
        Ok(fd) => Ok(fd),
        Err(_) => sealed_copy(Path::new(SELF)),
    }
}

/// True if nobody can reach our program's file for writing through `/proc/PID/exe`: it runs from a read-only mount, from sealed memory, or
/// belongs to somebody whose files we may not write.
pub fn is_protected() -> Result<bool> {
    let flags = rustix::fs::statvfs(SELF).attempt("statvfs", format_args!("{SELF:?}"))?.f_flag;
    if flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    if rustix::process::geteuid().as_raw() != 0 && rustix::fs::access(SELF, rustix::fs::Access::WRITE_OK).is_err() {
        let stat = rustix::fs::stat(SELF).attempt("stat", format_args!("{SELF:?}"))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Ok(true);
        }
    }
    let program = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .attempt("open", format_args!("{SELF:?}"))?;
    Ok(memfd::check_sealed(&program).is_ok())
}

/// The program opened through a detached read-only mount of its own: reopening `/proc/PID/exe` for writing answers EROFS. Needs CAP_SYS_ADMIN.
pub fn read_only_view(program: &Path) -> Result<OwnedFd> {
    let tree = mount::clone_tree_at(program, false)?;
    mount::set_attr(&tree, &AttrChange { set: MountAttr::RDONLY, ..Default::default() }, false)?;
    crate::fs::reopen(&tree, OFlags::RDONLY)
}

/// The program copied into sealed memory. Costs its size.
pub fn sealed_copy(program: &Path) -> Result<OwnedFd> {
    let from = rustix::fs::open(program, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .attempt("open", format_args!("{program:?}"))?;
    let mut from = std::fs::File::from(from);
    let mut to = memfd::create_executable("knarr")?;
    std::io::copy(&mut from, &mut to).attempt("copy", format_args!("{program:?} to memfd"))?;
    memfd::seal(&to)?;
    Ok(to.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_copy_cannot_be_written() {
        let fd = sealed_copy(Path::new("/bin/true")).unwrap();
        memfd::check_sealed(&fd).unwrap();
    }
}
