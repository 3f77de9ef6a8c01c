//! The directories of a layer while it is unpacked: opened once, found by the path in the archive, resolved in-root.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use linux::Errno;
use linux::fs::{Mode, OFlags, Root};

/// Open directories kept at a time. Archives go through a tree in order, so few are needed; each costs a descriptor.
const OPEN_MAX: usize = 256;

/// An open directory of the layer.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    /// Tells whether two paths lead to the same directory.
    pub(super) inode: u64,
    /// As the archive spells it, without slashes at the ends; empty for the root.
    pub(super) path: Vec<u8>,
}

impl Dir {
    /// The path in the layer of `name` in this directory.
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path[..], b"/", name].concat() }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) struct Dirs {
    root: Root,
    open: HashMap<Vec<u8>, Arc<Dir>>,
}

impl Dirs {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root: Root::from_fd(root), open: HashMap::new() }
    }

    /// The directory at `parts`, links followed in-root; `None` if there is nothing.
    pub(super) fn get(&mut self, parts: &[&[u8]]) -> linux::Result<Option<Arc<Dir>>> {
        let path = parts.join(&b'/');
        if let Some(dir) = self.open.get(&path) {
            return Ok(Some(dir.clone()));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = if vocab::weak::without("root") {
            linux::fs::open_host(linux::fs::proc_fd(self.root.as_fd()).join(OsStr::from_bytes(&path)), flags)
        } else {
            self.root.open_file(Path::new(OsStr::from_bytes(&path)), flags, Mode::empty())
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(e) if e.is(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e),
        };
        let inode = linux::fs::fstat(&fd)?.st_ino;
        let dir = Arc::new(Dir { fd, inode, path: path.clone() });
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(path, dir.clone());
        Ok(Some(dir))
    }

    /// To be called when a directory or link was replaced: paths may lead elsewhere now.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }
}
