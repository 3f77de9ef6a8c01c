//! Copies a tree by descriptors: nothing in it is ever followed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use linux::fs;
use linux::fs::{FileType, Mode, OFlags};

use crate::{Error, Result};

/// Copies what is in `from`, and `from`'s own owner and mode, into the directory `to`.
pub(crate) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    for entry in linux::tree::entries(from)? {
        let name = &entry.name;
        let stat = fs::lstatat(from, name)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match fs::file_type(&stat) {
            FileType::Directory => {
                fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let (source, target) = (linux::tree::open_dir(from, name)?, linux::tree::open_dir(to, name)?);
                copy_tree(source.as_fd(), target.as_fd())?;
                continue;
            }
            FileType::RegularFile => {
                let source =
                    fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let target = fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                let (mut source, mut target) = (File::from(source), File::from(target));
                std::io::copy(&mut source, &mut target)
                    .map_err(|e| Error::internal(format_args!("copy {}", name.to_string_lossy()), e))?;
            }
            FileType::Symlink => fs::symlinkat(fs::readlinkat(from, name)?, to, name)?,
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let (major, minor) = super::devices::split(stat.st_rdev);
                fs::mknodat(to, name, fs::file_type(&stat), mode, major as u32, minor as u32)?;
            }
            // A socket is nothing without its process.
            _ => continue,
        }
        fs::chownat(to, name, stat.st_uid, stat.st_gid)?;
        if fs::file_type(&stat) != FileType::Symlink {
            fs::chmodat(to, name, mode)?;
        }
    }
    let own = fs::fstat(from)?;
    fs::fchown(to, own.st_uid, own.st_gid)?;
    fs::fchmod(to, Mode::from_raw_mode(own.st_mode & 0o7777))?;
    Ok(())
}
