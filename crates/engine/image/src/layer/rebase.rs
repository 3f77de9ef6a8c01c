//! Layers that lean on those below them: a directory that the layer's tar does not describe looks as it does below, and a hard
//! link may lead to a file below. Overlay knows neither, so the layer is completed once it is known what it stands on.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags, Root};

use super::files::{self, times};
use super::finish::{dir_metadata, is_whiteout};
use super::unpack::{IMPLICIT_MODE, Unpacked};
use crate::error::{Context, Error, Result};
use crate::tar::path::{XattrRule, parts, xattr_rule};
use crate::tar::{Entry, Kind};

/// Completes a layer that depends on what is below it. `lowers`: the `diff` directories of the layers below, topmost first.
///
/// A directory that no member described gets what the topmost directory of that path below has, and a hard link to a file
/// below gets a copy of that file, as if the layer had been unpacked onto a mount of the layers below. Returns the bytes of the copies.
pub fn rebase(diff: &Path, lowers: &[PathBuf], unpacked: &Unpacked, rootless: bool) -> Result<u64> {
    let root = Root::open(diff).context(|| "open a layer")?;
    let below = lowers.iter().map(Root::open).collect::<linux::Result<Vec<_>>>().context(|| "open a layer")?;
    let find = |path: &[u8]| -> linux::Result<Option<OwnedFd>> {
        for lower in &below {
            match lower.open_file(Path::new(OsStr::from_bytes(path)), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(fd) if is_whiteout(&linux::fs::fstat(&fd)?) => return Ok(None),
                Ok(fd) => return Ok(Some(fd)),
                Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    };
    let mut copied = 0;
    for (path, target) in &unpacked.foreign_links {
        let text = || format!("link {:?} to {:?}", String::from_utf8_lossy(path), String::from_utf8_lossy(target));
        let clean = parts(target).map_err(|detail| Error::invalid(text(), detail))?.join(&b'/');
        let found = find(&clean).context(text)?;
        let found = found.ok_or_else(|| Error::invalid(text(), "the target is in no layer"))?;
        copied += copy_up(&found, &root, path, &clean).context(text)?;
    }
    for path in &unpacked.implicit_dirs {
        let text = || format!("directory {:?}", String::from_utf8_lossy(path));
        let Some(found) = find(path).context(text)? else { continue };
        let stat = linux::fs::fstat(&found).context(text)?;
        if linux::fs::file_type(&stat) != FileType::Directory {
            continue;
        }
        let mut entry = Entry {
            path: path.clone(),
            kind: Kind::Dir,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: crate::tar::Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            xattrs: Vec::new(),
        };
        for name in linux::xattr::list(&found).context(text)? {
            if xattr_rule(name.as_bytes()) == XattrRule::Set
                && let Some(value) = linux::xattr::get(&found, &name).context(text)?
            {
                entry.xattrs.push((name.as_bytes().to_vec(), value));
            }
        }
        let owner = files::owner(rootless).context(|| "ask for the own user and mask")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = root.open_file(Path::new(OsStr::from_bytes(path)), flags, Mode::empty()).context(text)?;
        dir_metadata(dir, &entry, owner).context(text)?;
    }
    Ok(copied)
}

/// Puts a copy of `from` at its own path in the layer and links `path` to it.
fn copy_up(from: &OwnedFd, root: &Root, path: &[u8], target: &[u8]) -> linux::Result<u64> {
    let stat = linux::fs::fstat(from)?;
    let (path, target) = (Path::new(OsStr::from_bytes(path)), Path::new(OsStr::from_bytes(target)));
    if linux::fs::file_type(&stat) != FileType::RegularFile {
        return Err(linux::Error::new("linkat", "target in another layer is no regular file", Errno::INVAL));
    }
    let mut copied = stat.st_size as u64;
    match root.lstat(target) {
        Err(e) if e.is(Errno::NOENT) => {
            if let Some(above) = target.parent() {
                root.mkdir_all(above, Mode::from_raw_mode(IMPLICIT_MODE))?;
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let to = root.open_file(target, flags, Mode::from_raw_mode(0o600))?;
            let source = linux::fs::reopen(from, OFlags::RDONLY)?;
            while linux::fs::copy_file_range(&source, None, &to, None, 1 << 30)? > 0 {}
            linux::fs::fchown(&to, stat.st_uid, stat.st_gid)?;
            linux::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            for name in linux::xattr::list(from)? {
                if xattr_rule(name.as_bytes()) == XattrRule::Set
                    && let Some(value) = linux::xattr::get(from, &name)?
                {
                    linux::xattr::set(&to, &name, &value)?;
                }
            }
            let time = crate::tar::Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
            linux::fs::futimens(&to, &times(time))?;
        }
        Err(e) => return Err(e),
        Ok(_) => copied = 0,
    }
    root.link(target, path).map(|()| copied)
}
