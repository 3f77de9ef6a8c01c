//! What files amount to: names, kinds, modes, owners, contents. Not their times: a checkout made anew is the same source.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use linux::fs::{FileType, Mode, OFlags, Stat};
use vocab::Digest;

use super::select::text;
use super::{At, CopyError, Digests, Item, Result};
use crate::ignore::Patterns;

const DEPTH_MAX: usize = 4096;

/// One digest over everything that `items` name, without what `exclude` leaves out. Files that `known` has are not read.
pub(crate) fn digest(items: &[Item], exclude: &Patterns, with_paths: bool, known: Option<&Digests>) -> Result<Digest> {
    let mut walk = Walk { hasher: image::hash::Hasher::default(), exclude, known };
    for item in items.iter().filter(|item| !item.excluded(exclude)) {
        let head = if with_paths { &item.kept } else { item.name() };
        walk.field(head.as_bytes());
        let stat = linux::fs::fstat(&item.fd).at(&item.path)?;
        if item.directory {
            walk.field(b"dir");
            walk.directory(item.fd.as_fd(), item.below(with_paths), 0)?;
        } else {
            walk.metadata(&stat);
            let open = || linux::fs::reopen(&item.fd, OFlags::RDONLY | OFlags::NONBLOCK);
            walk.content(&stat, open, &item.path)?;
        }
    }
    Ok(walk.hasher.finish())
}

struct Walk<'w> {
    hasher: image::hash::Hasher,
    exclude: &'w Patterns,
    known: Option<&'w Digests>,
}

impl Walk<'_> {
    fn directory(&mut self, dir: BorrowedFd<'_>, below: &str, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(CopyError::Invalid(format!("directories nest deeper than {DEPTH_MAX}")));
        }
        let mut entries = linux::tree::entries(dir).at(below)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let path = if below.is_empty() { text(&entry.name) } else { format!("{below}/{}", text(&entry.name)) };
            let excluded = self.exclude.excludes(&path);
            let stat = linux::fs::lstatat(dir, &entry.name).at(&path)?;
            let kind = linux::fs::file_type(&stat);
            if excluded && !(kind == FileType::Directory && self.exclude.may_include_below(&path)) {
                continue;
            }
            self.field(path.as_bytes());
            self.metadata(&stat);
            match kind {
                FileType::Directory => {
                    let child = linux::tree::open_dir(dir, &entry.name).at(&path)?;
                    self.directory(child.as_fd(), &path, depth + 1)?;
                }
                FileType::Symlink => {
                    let target = linux::fs::readlinkat(dir, &entry.name).at(&path)?;
                    self.field(target.as_os_str().as_bytes());
                }
                FileType::RegularFile => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                    let open = || linux::fs::openat(dir, &entry.name, flags, Mode::empty());
                    self.content(&stat, open, &path)?;
                }
                _ => self.field(&stat.st_rdev.to_le_bytes()),
            }
        }
        Ok(())
    }

    fn metadata(&mut self, stat: &Stat) {
        self.hasher.update(&stat.st_mode.to_le_bytes());
        self.hasher.update(&stat.st_uid.to_le_bytes());
        self.hasher.update(&stat.st_gid.to_le_bytes());
    }

    /// `stat` is what was at that place a moment ago; what `open` gives is what counts.
    fn content(&mut self, stat: &Stat, open: impl FnOnce() -> linux::Result<OwnedFd>, path: &str) -> Result<()> {
        if let Some(digest) = self.known.and_then(|known| known.get(stat)) {
            self.hasher.update(digest.as_bytes());
            return Ok(());
        }
        let file = open().at(path)?;
        let before = linux::fs::fstat(&file).at(path)?;
        if linux::fs::file_type(&before) != FileType::RegularFile {
            return Ok(());
        }
        let mut own = image::hash::Hasher::default();
        let mut file = File::from(file);
        let mut buffer = vec![0; before.st_size.clamp(1, 256 << 10) as usize];
        loop {
            let count = file.read(&mut buffer).map_err(|source| CopyError::Io { path: path.to_owned(), source })?;
            if count == 0 {
                break;
            }
            own.update(&buffer[..count]);
        }
        let digest = own.finish();
        if let Some(known) = self.known {
            known.learn(&before, &linux::fs::fstat(&file).at(path)?, digest);
        }
        self.hasher.update(digest.as_bytes());
        Ok(())
    }

    /// Length first, so that no two lists of fields give the same bytes.
    fn field(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }
}
