//! Putting files into a root.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags, Root, Stat, Timestamps};

use super::select::text;
use super::{At, Chmod, CopyError, Item, Result};
use crate::ignore::Patterns;

const DEPTH_MAX: usize = 4096;

/// Where things go, and what they look like there.
pub(crate) struct Target<'a> {
    pub(crate) root: &'a Root,
    /// Absolute; a directory if it ends with a slash.
    pub(crate) destination: &'a str,
    /// `None`: as in the source.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) chmod: Option<Chmod>,
    /// Sources keep the path that leads to them.
    pub(crate) parents: bool,
    pub(crate) exclude: &'a Patterns,
    /// No time is later than this (`SOURCE_DATE_EPOCH`).
    pub(crate) epoch: Option<i64>,
}

/// A file that stands nowhere yet.
pub(crate) struct Loose<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) mtime: Option<i64>,
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("destination", &self.destination).finish_non_exhaustive()
    }
}

/// Copies `items`, in their order. Later ones go over earlier ones. `many`: of several sources, so that the destination is a
/// directory.
pub(crate) fn apply(items: &[Item], target: &Target<'_>, many: bool) -> Result<()> {
    for item in items.iter().filter(|item| !item.excluded(target.exclude)) {
        let mut links = HashMap::new();
        let mut copier = Copier { target, links: &mut links };
        if target.parents {
            let parent = item.kept.rsplit_once('/').map_or("", |(parent, _)| parent);
            let place = format!("{}/{parent}", target.destination);
            if item.directory {
                let dir = target.directory(&format!("{}/{}", target.destination, item.kept))?;
                copier.children(item.fd.as_fd(), dir.as_fd(), item.below(true), 0)?;
            } else {
                let dir = target.directory(&place)?;
                copier.file(&item.fd, dir.as_fd(), OsStr::new(item.name()), &item.path)?;
            }
            continue;
        }
        if item.directory {
            // Of a directory its contents are meant.
            let dir = target.directory(target.destination)?;
            copier.children(item.fd.as_fd(), dir.as_fd(), "", 0)?;
            continue;
        }
        let (dir, name) = target.place(item.name(), many)?;
        copier.file(&item.fd, dir.as_fd(), OsStr::new(&name), &item.path)?;
    }
    Ok(())
}

impl Target<'_> {
    /// Writes one file that the instruction itself contains or that was downloaded.
    pub(crate) fn write(&self, loose: &Loose<'_>) -> Result<()> {
        let (dir, name) = self.place(loose.name, false)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        make_room(dir.as_fd(), OsStr::new(&name))?;
        let fd = linux::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o600)).at(&name)?;
        let mut file = File::from(fd);
        file.write_all(loose.data).map_err(|source| CopyError::Io { path: name.clone(), source })?;
        let mode = self.chmod.as_ref().map_or(loose.mode, |c| c.apply(loose.mode, false));
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        linux::fs::fchown(&file, uid, gid).at(&name)?;
        linux::fs::fchmod(&file, Mode::from_raw_mode(mode)).at(&name)?;
        if let Some(secs) = self.epoch.or(loose.mtime) {
            linux::fs::futimens(&file, &times(secs, 0)).at(&name)?;
        }
        Ok(())
    }

    /// The directory and the name that a single file gets: below the destination if that is (to be) a directory.
    fn place(&self, name: &str, many: bool) -> Result<(OwnedFd, String)> {
        let destination = self.destination;
        let is_dir = || self.root.stat(destination).is_ok_and(|s| linux::fs::file_type(&s) == FileType::Directory);
        if many || destination.ends_with('/') || is_dir() {
            return Ok((self.directory(destination)?, name.to_owned()));
        }
        let (parent, name) = destination.rsplit_once('/').unwrap_or(("", destination));
        Ok((self.directory(parent)?, name.to_owned()))
    }

    /// A directory in the root, made with everything above it where it is missing.
    pub(crate) fn directory(&self, path: &str) -> Result<OwnedFd> {
        let mut at = self.root.open_dir("/").at("/")?;
        let mut walked = String::new();
        for part in crate::plan::normal_parts(path) {
            walked.push('/');
            walked.push_str(part);
            match self.root.open_dir(&walked) {
                Ok(dir) => at = dir,
                Err(e) if e.is(Errno::NOENT) => {
                    linux::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)).at(&walked)?;
                    let made = linux::tree::open_dir(&at, part).at(&walked)?;
                    if let Some((uid, gid)) = self.owner {
                        linux::fs::fchown(&made, uid, gid).at(&walked)?;
                    }
                    // As BuildKit has it: a number is the mode of what is made on the way too. And whatever umask says.
                    let bits = if let Some(Chmod::Exact(bits)) = self.chmod { bits } else { 0o755 };
                    linux::fs::fchmod(&made, Mode::from_raw_mode(bits)).at(&walked)?;
                    if let Some(epoch) = self.epoch {
                        linux::fs::futimens(&made, &times(epoch, 0)).at(&walked)?;
                    }
                    at = made;
                }
                Err(e) if e.is(Errno::NOTDIR) => {
                    return Err(CopyError::Invalid(format!("cannot copy to {path}: {walked} is not a directory")));
                }
                Err(source) => return Err(CopyError::Kernel { path: walked, source }),
            }
        }
        Ok(at)
    }
}

struct Copier<'a> {
    target: &'a Target<'a>,
    /// First place of files with several names, by inode.
    links: &'a mut HashMap<(u64, u64), OwnedFd>,
}

impl Copier<'_> {
    fn children(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, below: &str, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(CopyError::Invalid(format!("directories nest deeper than {DEPTH_MAX}")));
        }
        let exclude = self.target.exclude;
        for entry in linux::tree::entries(from).at(below)? {
            let name = &entry.name;
            let path = if below.is_empty() { text(name) } else { format!("{below}/{}", text(name)) };
            let stat = linux::fs::lstatat(from, name).at(&path)?;
            let directory = linux::fs::file_type(&stat) == FileType::Directory;
            if exclude.excludes(&path) && !(directory && exclude.may_include_below(&path)) {
                continue;
            }
            if !directory {
                let fd = linux::fs::openat(from, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).at(&path)?;
                self.file(&fd, to, name, &path)?;
                continue;
            }
            let source = linux::tree::open_dir(from, name).at(&path)?;
            let (made, target) = self.enter(to, name, &path)?;
            self.children(source.as_fd(), target.as_fd(), &path, depth + 1)?;
            if made {
                self.dress(target.as_fd(), source.as_fd(), &stat, &path)?;
            }
        }
        Ok(())
    }

    /// The directory of that name, made if it is missing; a link to a directory is entered in-root.
    fn enter(&self, to: BorrowedFd<'_>, name: &OsStr, path: &str) -> Result<(bool, OwnedFd)> {
        match linux::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => Ok((true, linux::tree::open_dir(to, name).at(path)?)),
            Err(e) if e.is(Errno::EXIST) => match linux::tree::open_dir(to, name) {
                Ok(dir) => Ok((false, dir)),
                Err(_) => Err(CopyError::Invalid(format!(
                    "cannot copy to non-directory: {path}: a file of that name is there already"
                ))),
            },
            Err(source) => Err(CopyError::Kernel { path: path.to_owned(), source }),
        }
    }

    /// Anything but a directory. `fd` is `O_PATH`.
    fn file(&mut self, fd: &OwnedFd, to: BorrowedFd<'_>, name: &OsStr, path: &str) -> Result<()> {
        let stat = linux::fs::fstat(fd).at(path)?;
        let kind = linux::fs::file_type(&stat);
        make_room(to, name)?;
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&key)
            && linux::fs::link_fd(first, to, name).is_ok()
        {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match kind {
            FileType::RegularFile => {
                let source = linux::fs::reopen(fd, OFlags::RDONLY | OFlags::NONBLOCK).at(path)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let made = linux::fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).at(path)?;
                let (mut source, mut made) = (File::from(source), File::from(made));
                std::io::copy(&mut source, &mut made)
                    .map_err(|source| CopyError::Io { path: path.to_owned(), source })?;
                self.dress(made.as_fd(), source.as_fd(), &stat, path)?;
                if stat.st_nlink > 1 {
                    let kept = linux::fs::openat(to, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).at(path)?;
                    self.links.insert(key, kept);
                }
                return Ok(());
            }
            FileType::Symlink => {
                let target = linux::fs::readlinkat(fd, "").at(path)?;
                linux::fs::symlinkat(target, to, name).at(path)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let (major, minor) = linux::fs::device_numbers(&stat);
                linux::fs::mknodat(to, name, kind, mode, major, minor).at(path)?;
            }
            // A socket is nothing without its process.
            _ => return Ok(()),
        }
        let (uid, gid) = self.target.owner.unwrap_or((stat.st_uid, stat.st_gid));
        linux::fs::chownat(to, name, uid, gid).at(path)?;
        if kind != FileType::Symlink {
            let bits = self.target.chmod.as_ref().map_or(stat.st_mode & 0o7777, |c| c.apply(stat.st_mode, false));
            linux::fs::chmodat(to, name, Mode::from_raw_mode(bits)).at(path)?;
        }
        linux::fs::utimensat(to, name, &self.times(&stat)).at(path)
    }

    /// Owner, mode, attributes and time of an open file or directory.
    fn dress(&self, made: BorrowedFd<'_>, source: BorrowedFd<'_>, stat: &Stat, path: &str) -> Result<()> {
        let directory = linux::fs::file_type(stat) == FileType::Directory;
        for name in linux::xattr::list(source).unwrap_or_default() {
            let name_text = text(&name);
            // Overlay's own marks and the host's labels are not the file's.
            if !(name_text.starts_with("user.") && !name_text.starts_with("user.overlay")
                || name_text == "security.capability")
            {
                continue;
            }
            if let Some(value) = linux::xattr::get(source, &name).at(path)? {
                linux::xattr::set(made, &name, &value).at(path)?;
            }
        }
        let (uid, gid) = self.target.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let capability = linux::xattr::get(made, "security.capability").ok().flatten();
        linux::fs::fchown(made, uid, gid).at(path)?;
        if let Some(value) = capability {
            // A new owner takes it away.
            linux::xattr::set(made, "security.capability", &value).at(path)?;
        }
        let bits = self.target.chmod.as_ref().map_or(stat.st_mode & 0o7777, |c| c.apply(stat.st_mode, directory));
        linux::fs::fchmod(made, Mode::from_raw_mode(bits)).at(path)?;
        linux::fs::futimens(made, &self.times(stat)).at(path)
    }

    fn times(&self, stat: &Stat) -> Timestamps {
        match self.target.epoch {
            Some(epoch) if stat.st_mtime > epoch => times(epoch, 0),
            _ => times(stat.st_mtime, stat.st_mtime_nsec as i64),
        }
    }
}

fn times(secs: i64, nanos: i64) -> Timestamps {
    let time = linux::fs::Timespec { tv_sec: secs, tv_nsec: nanos };
    Timestamps { last_access: time, last_modification: time }
}

/// What is in the way of a file goes; a directory in its way stays and is an error.
fn make_room(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    match linux::fs::unlinkat(dir, name) {
        Ok(()) => Ok(()),
        Err(e) if e.is(Errno::NOENT) => Ok(()),
        Err(e) if e.is(Errno::ISDIR) || e.is(Errno::PERM) => {
            Err(CopyError::Invalid(format!("cannot overwrite directory {:?} with a file", text(name))))
        }
        Err(source) => Err(CopyError::Kernel { path: text(name), source }),
    }
}

/// Whether a file is something that `ADD` unpacks: a tar, plain or packed.
pub(crate) fn is_archive(item: &Item) -> Result<bool> {
    use std::io::Read;
    if item.directory {
        return Ok(false);
    }
    let file = linux::fs::reopen(&item.fd, OFlags::RDONLY | OFlags::NONBLOCK).at(&item.path)?;
    let mut head = [0; 512];
    let io = |source| CopyError::Io { path: item.path.clone(), source };
    let mut file = File::from(file);
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..]).map_err(io)? {
            0 => break,
            count => filled += count,
        }
    }
    let head = &head[..filled];
    Ok(image::is_archive(head))
}

/// Unpacks an archive into the destination, which is made if it is missing.
pub(crate) fn unpack(item: &Item, target: &Target<'_>) -> Result<()> {
    drop(target.directory(target.destination)?);
    let file = linux::fs::reopen(&item.fd, OFlags::RDONLY | OFlags::NONBLOCK).at(&item.path)?;
    let options = image::archive::UnpackOptions { owner: target.owner, ..Default::default() };
    let path = std::path::Path::new(target.destination);
    Ok(image::archive::unpack(target.root, path, &mut File::from(file), &options)?)
}
