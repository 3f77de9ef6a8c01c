//! What files amount to: names, kinds, modes, owners, contents. Not their times: a checkout made anew is the same source.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use linux::fs::{FileType, Mode, OFlags};
use vocab::Digest;

use super::select::text;
use super::{At, CopyError, Item, Result};
use crate::ignore::Patterns;

const DEPTH_MAX: usize = 4096;

/// One digest over everything that `items` name, without what `exclude` leaves out.
pub(crate) fn digest(items: &[Item], exclude: &Patterns, with_paths: bool) -> Result<Digest> {
    let mut hasher = image::hash::Hasher::default();
    for item in items {
        let head = if with_paths { &item.path } else { item.name() };
        field(&mut hasher, head.as_bytes());
        let stat = linux::fs::fstat(&item.fd).at(&item.path)?;
        if item.directory {
            field(&mut hasher, b"dir");
            directory(&mut hasher, item.fd.as_fd(), "", exclude, 0)?;
        } else {
            let file = linux::fs::reopen(&item.fd, OFlags::RDONLY | OFlags::NONBLOCK).at(&item.path)?;
            metadata(&mut hasher, &stat);
            content(&mut hasher, File::from(file), &item.path)?;
        }
    }
    Ok(hasher.finish())
}

fn directory(
    hasher: &mut image::hash::Hasher,
    dir: BorrowedFd<'_>,
    below: &str,
    exclude: &Patterns,
    depth: usize,
) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(CopyError::Invalid(format!("directories nest deeper than {DEPTH_MAX}")));
    }
    let mut entries = linux::tree::entries(dir).at(below)?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let path = if below.is_empty() { text(&entry.name) } else { format!("{below}/{}", text(&entry.name)) };
        let excluded = exclude.excludes(&path);
        let stat = linux::fs::lstatat(dir, &entry.name).at(&path)?;
        let kind = linux::fs::file_type(&stat);
        if excluded && !(kind == FileType::Directory && exclude.may_include_below(&path)) {
            continue;
        }
        field(hasher, path.as_bytes());
        metadata(hasher, &stat);
        match kind {
            FileType::Directory => {
                let child = linux::tree::open_dir(dir, &entry.name).at(&path)?;
                directory(hasher, child.as_fd(), &path, exclude, depth + 1)?;
            }
            FileType::Symlink => {
                let target = linux::fs::readlinkat(dir, &entry.name).at(&path)?;
                field(hasher, target.as_os_str().as_bytes());
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let file = linux::fs::openat(dir, &entry.name, flags, Mode::empty()).at(&path)?;
                content(hasher, File::from(file), &path)?;
            }
            _ => field(hasher, &stat.st_rdev.to_le_bytes()),
        }
    }
    Ok(())
}

fn metadata(hasher: &mut image::hash::Hasher, stat: &linux::fs::Stat) {
    hasher.update(&stat.st_mode.to_le_bytes());
    hasher.update(&stat.st_uid.to_le_bytes());
    hasher.update(&stat.st_gid.to_le_bytes());
}

fn content(hasher: &mut image::hash::Hasher, mut file: File, path: &str) -> Result<()> {
    let stat = linux::fs::fstat(&file).at(path)?;
    if linux::fs::file_type(&stat) != FileType::RegularFile {
        return Ok(());
    }
    hasher.update(&(stat.st_size as u64).to_le_bytes());
    let mut buffer = vec![0; (stat.st_size.clamp(1, 256 << 10)) as usize];
    loop {
        let count = file.read(&mut buffer).map_err(|source| CopyError::Io { path: path.to_owned(), source })?;
        if count == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..count]);
    }
}

/// Length first, so that no two lists of fields give the same bytes.
fn field(hasher: &mut image::hash::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
