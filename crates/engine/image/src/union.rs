//! A stack of layer directories seen as the one tree that overlayfs makes of them, without a mount: it works for a running
//! container, unprivileged, and leaves nothing in any mount table. Links are never followed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags, Root, Stat};

use crate::error::{Context, Result};
use crate::layer::is_whiteout;

pub(crate) use crate::tar::path::DEPTH_MAX;

pub(crate) struct Union {
    root: Node,
}

/// The directories that make up one directory of the tree, topmost first.
pub(crate) struct Node {
    dirs: Vec<OwnedFd>,
}

/// One name in a merged directory.
pub(crate) enum Child {
    /// Metadata is that of the topmost.
    Dir { stat: Stat, node: Node },
    /// Anything else: index of the directory of the node that it is in.
    Leaf { stat: Stat, at: usize },
}

impl Child {
    pub(crate) fn stat(&self) -> &Stat {
        match self {
            Child::Dir { stat, .. } | Child::Leaf { stat, .. } => stat,
        }
    }
}

impl Union {
    /// Topmost first.
    pub(crate) fn open(folders: &[PathBuf]) -> Result<Self> {
        let dirs = folders
            .iter()
            .map(|folder| Root::open(folder).map(Root::into_fd).context(|| format!("open layer {}", folder.display())));
        Ok(Self { root: Node { dirs: dirs.collect::<Result<_>>()? } })
    }

    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    /// What is at `path`, without following links; `None` too where a part of the path is no directory.
    pub(crate) fn stat(&self, path: &[u8]) -> linux::Result<Option<Stat>> {
        let mut held: Option<Node> = None;
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        for (at, part) in parts.iter().enumerate() {
            let node = held.as_ref().unwrap_or(&self.root);
            match node.child(OsStr::from_bytes(part))? {
                None => return Ok(None),
                Some(child) if at + 1 == parts.len() => return Ok(Some(*child.stat())),
                Some(Child::Dir { node, .. }) => held = Some(node),
                Some(Child::Leaf { .. }) => return Ok(None),
            }
        }
        self.root.dirs.first().map(linux::fs::fstat).transpose()
    }
}

impl Node {
    pub(crate) fn dir(&self, at: usize) -> &OwnedFd {
        &self.dirs[at]
    }

    pub(crate) fn names(&self) -> linux::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for dir in &self.dirs {
            names.extend(linux::tree::entries(dir)?.into_iter().map(|entry| entry.name));
        }
        Ok(names)
    }

    /// `None`: there is no such name, or it is hidden.
    pub(crate) fn child(&self, name: &OsStr) -> linux::Result<Option<Child>> {
        let mut dirs = Vec::new();
        let mut top = None;
        for (at, dir) in self.dirs.iter().enumerate() {
            let stat = match linux::fs::lstatat(dir, name) {
                Err(e) if e.is(Errno::NOENT) => continue,
                other => other?,
            };
            if is_whiteout(&stat) {
                break;
            }
            if linux::fs::file_type(&stat) != FileType::Directory {
                if top.is_none() {
                    return Ok(Some(Child::Leaf { stat, at }));
                }
                break;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let opened = match linux::fs::openat(dir, name, flags, Mode::empty()) {
                // Removed or replaced between the two calls, in a running container.
                Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) => continue,
                other => other?,
            };
            let opaque = is_opaque(&opened)?;
            dirs.push(opened);
            top.get_or_insert(stat);
            if opaque {
                break;
            }
        }
        Ok(top.map(|stat| Child::Dir { stat, node: Node { dirs } }))
    }
}

/// Whether a directory hides what the layers below have at its path.
pub(crate) fn is_opaque(dir: &OwnedFd) -> linux::Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        match linux::xattr::get(dir, name) {
            Ok(Some(value)) if value == b"y" => return Ok(true),
            Ok(_) => {}
            Err(e) if e.is(Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}
