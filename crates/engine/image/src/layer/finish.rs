//! The end of unpacking, and metadata by kind: directories get their owner, mode, attributes and times when nothing more is put
//! into them; links, devices and FIFOs by directory and name, never followed. Files are in [`super::files`].

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags};

use super::dirs::{Dir, Dirs};
use super::files::{Owner, describe, set_xattrs, times};
use super::recipe::Moved;
use super::unpack::Unpacked;
use crate::error::{Context, Error, Result};
use crate::tar::path::parts;
use crate::tar::{Entry, Kind, TarError};

/// What is left of the applier when the workers are gone.
pub(super) struct Rest {
    pub(super) owner: Owner,
    pub(super) folder: OwnedFd,
    pub(super) dirs: Dirs,
    pub(super) moved: Vec<Moved>,
    pub(super) dirs_done_last: Vec<Entry>,
    pub(super) unpacked: Unpacked,
}

impl Rest {
    /// A directory that a member described after all is not implicit; the root is one that every layer has.
    pub(super) fn note_implicit(&mut self) {
        let parts_of = |entry: &Entry| Some(parts(&entry.path).ok()?.join(&b'/'));
        let explicit: HashSet<Vec<u8>> = self.dirs_done_last.iter().filter_map(parts_of).collect();
        let implicit = &mut self.unpacked.implicit_dirs;
        implicit.push(Vec::new());
        implicit.retain(|path| !explicit.contains(path));
    }

    /// Metadata of directories, in the order of the archive: the last word counts.
    pub(super) fn finish_dirs(&mut self) -> Result<()> {
        for entry in std::mem::take(&mut self.dirs_done_last) {
            let parts = parts(&entry.path)
                .map_err(|detail| Error::Tar { what: String::new(), source: TarError::entry(&entry.path, detail) })?;
            let Some((name, above)) = parts.split_last() else {
                let root = self.dirs.get(&[]).context(|| describe(&entry))?;
                if let Some(root) = root {
                    let root = linux::fs::reopen(&*root, OFlags::RDONLY | OFlags::DIRECTORY);
                    root.and_then(|root| dir_metadata(root, &entry, self.owner)).context(|| describe(&entry))?;
                }
                continue;
            };
            // A later member may have put something else there.
            let parent = match self.dirs.get(above) {
                Err(e) if e.is(Errno::NOTDIR) => None,
                other => other.context(|| describe(&entry))?,
            };
            let Some(parent) = parent else { continue };
            match linux::tree::open_dir(&*parent, OsStr::from_bytes(name)) {
                Ok(dir) => dir_metadata(dir, &entry, self.owner).context(|| describe(&entry))?,
                Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) || e.is(Errno::LOOP) => {}
                Err(e) => return Err(e).context(|| describe(&entry)),
            }
        }
        Ok(())
    }
}

pub(super) fn dir_metadata(dir: OwnedFd, entry: &Entry, owner: Owner) -> linux::Result<()> {
    if (entry.uid, entry.gid) != (owner.uid, owner.gid) {
        linux::fs::fchown(&dir, entry.uid, entry.gid)?;
    }
    linux::fs::fchmod(&dir, Mode::from_raw_mode(entry.mode))?;
    set_xattrs(&dir, entry)?;
    linux::fs::futimens(&dir, &times(entry.mtime))
}

/// Metadata of links, devices and FIFOs: by directory and name, never followed.
pub(super) fn special_metadata(dir: &Dir, name: &OsStr, entry: &Entry, owner: Owner) -> linux::Result<()> {
    if (entry.uid, entry.gid) != (owner.uid, owner.gid) {
        linux::fs::chownat(dir, name, entry.uid, entry.gid)?;
    }
    if !matches!(entry.kind, Kind::Symlink(_)) {
        linux::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode))?;
    }
    // The kernel keeps user attributes on files and directories only.
    if entry.xattrs.iter().any(|(name, _)| !name.starts_with(b"user.")) {
        let fd = linux::fs::openat(dir, name, OFlags::PATH, Mode::empty())?;
        let mut kept = entry.clone();
        kept.xattrs.retain(|(name, _)| !name.starts_with(b"user."));
        set_xattrs(fd, &kept)?;
    }
    linux::fs::utimensat(dir, name, &times(entry.mtime))
}

pub(crate) fn is_whiteout(stat: &linux::fs::Stat) -> bool {
    linux::fs::file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}
