//! Directory trees by descriptor: listing and removing without ever following a link or crossing into another mount.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Attempt, Error, Result, fs};

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    /// `Unknown` on file systems that do not tell.
    pub kind: FileType,
    pub inode: u64,
}

/// Opens a directory named in `dir` for reading, without following a link.
pub fn open_dir(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    fs::openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// The names in an open directory (readable or O_PATH), without `.` and `..`, in the file system's order.
pub fn entries(dir: impl AsFd) -> Result<Vec<Entry>> {
    let fd = dir.as_fd();
    let run = || {
        // A fresh description, so that the position of the caller's is neither used nor moved.
        let own = rustix::fs::openat(fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut found = Vec::new();
        for entry in Dir::new(own)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                found.push(Entry {
                    name: OsString::from_vec(name.to_vec()),
                    kind: entry.file_type(),
                    inode: entry.ino(),
                });
            }
        }
        Ok::<_, Errno>(found)
    };
    run().attempt("getdents", format_args!("fd {}", fd.as_raw_fd()))
}

/// Removes `name` in `dir` and everything below it. Absent is fine. EXDEV, with the rest left in place, if something is mounted below:
/// what belongs to another file system is never removed.
pub fn remove_all(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    match fs::unlinkat(dir, name) {
        Ok(()) => return Ok(()),
        Err(error) if error.is(Errno::NOENT) => return Ok(()),
        Err(error) if error.is(Errno::ISDIR) || error.is(Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let device = fs::lstatat(dir, name)?.st_dev;
    empty(open_dir(dir, name)?, device)?;
    match fs::rmdirat(dir, name) {
        Err(error) if !error.is(Errno::NOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Descriptors held at once. Depth is whatever a container left behind, so what lies deeper is moved up to the top first.
const DEPTH_MAX: usize = 48;

fn empty(top: OwnedFd, device: u64) -> Result<()> {
    // A stack instead of recursion: each directory on the way down with the name that leads on from it.
    let mut stack: Vec<(OwnedFd, OsString)> = Vec::new();
    let mut cur = top;
    let mut moved = 0u64;
    'dir: loop {
        for entry in entries(&cur)? {
            let unlinked = if entry.kind == FileType::Directory {
                fs::rmdirat(&cur, &entry.name)
            } else {
                fs::unlinkat(&cur, &entry.name)
            };
            match unlinked {
                Ok(()) => {}
                Err(error) if error.is(Errno::NOENT) => {}
                Err(error) if error.is(Errno::NOTEMPTY) || error.is(Errno::EXIST) || error.is(Errno::ISDIR) => {
                    let below = open_dir(&cur, &entry.name)?;
                    if fs::fstat(&below)?.st_dev != device {
                        return Err(Error::new("remove_all", format_args!("mount at {:?}", entry.name), Errno::XDEV));
                    }
                    if stack.len() >= DEPTH_MAX {
                        let aside = format!(".removing-{moved}-{}", entry.inode);
                        moved += 1;
                        fs::renameat(&cur, &entry.name, &stack[0].0, aside, fs::RenameFlags::NOREPLACE)?;
                        continue;
                    }
                    stack.push((std::mem::replace(&mut cur, below), entry.name));
                    continue 'dir;
                }
                Err(error) => return Err(error),
            }
        }
        // This level is empty: go up, remove it, and look again at what is left there.
        let Some((parent, name)) = stack.pop() else { return Ok(()) };
        cur = parent;
        match fs::rmdirat(&cur, &name) {
            Ok(()) => {}
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NOTEMPTY) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_goes_and_what_links_point_at_stays() {
        let path = std::env::temp_dir().join(format!("knarr-tree-{}", std::process::id()));
        std::fs::create_dir_all(path.join("t/a/b/c")).unwrap();
        std::fs::create_dir_all(path.join("keep/x")).unwrap();
        std::os::unix::fs::symlink(path.join("keep"), path.join("t/a/link")).unwrap();
        for n in 0..300 {
            std::fs::write(path.join(format!("t/a/b/{n}")), "").unwrap();
        }
        let root = fs::Root::open(&path).unwrap();
        assert_eq!(entries(root.open_dir("t/a").unwrap()).unwrap().len(), 2);
        remove_all(&root, "t").unwrap();
        remove_all(&root, "t").unwrap();
        assert!(!path.join("t").exists() && path.join("keep/x").exists());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn depth_is_no_limit() {
        let path = std::env::temp_dir().join(format!("knarr-deep-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let root = fs::Root::open(&path).unwrap();
        let mut cur = fs::reopen(&root, OFlags::PATH).unwrap();
        for _ in 0..3000 {
            fs::mkdirat(&cur, "d", Mode::from_raw_mode(0o755)).unwrap();
            cur = fs::openat(&cur, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        remove_all(&root, "d").unwrap();
        std::fs::remove_dir(path).unwrap();
    }
}
