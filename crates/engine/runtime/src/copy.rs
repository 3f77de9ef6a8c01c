//! Copies what an image has below a directory into a new tmpfs (`tmpcopyup`), by descriptor, never following a link.

use std::os::fd::{AsFd, OwnedFd};

use linux::fs::{self, FileType, Mode, OFlags};

const DEPTH_MAX: u32 = 256;

/// Directories, regular files, links, with owner and mode. Devices, sockets and FIFOs are left out: a tmpfs for data has no use for them.
pub(crate) fn copy_tree(from: &OwnedFd, to: &OwnedFd) -> linux::Result<()> {
    let stat = fs::fstat(from)?;
    fs::fchown(to, stat.st_uid, stat.st_gid)?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_below(from, to, 0)
}

fn copy_below(from: &OwnedFd, to: &OwnedFd, depth: u32) -> linux::Result<()> {
    if depth > DEPTH_MAX {
        return Err(linux::Error::new("copy", "directories nested too deep", linux::Errno::LOOP));
    }
    for entry in linux::tree::entries(from)? {
        let name = &entry.name;
        let stat = fs::lstatat(from, name)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match fs::file_type(&stat) {
            FileType::Directory => {
                fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let (source, target) =
                    (fs::openat(from, name, flags, Mode::empty())?, fs::openat(to, name, flags, Mode::empty())?);
                copy_below(&source, &target, depth + 1)?;
                fs::fchown(&target, stat.st_uid, stat.st_gid)?;
                fs::fchmod(&target, mode)?;
            }
            FileType::RegularFile => {
                let source =
                    fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
                std::io::copy(&mut source, &mut target).map_err(|error| {
                    let errno = linux::Errno::from_raw_os_error(error.raw_os_error().unwrap_or(5));
                    linux::Error::new("copy", format_args!("{name:?}"), errno)
                })?;
                fs::fchown(target.as_fd(), stat.st_uid, stat.st_gid)?;
                fs::fchmod(target.as_fd(), mode)?;
            }
            FileType::Symlink => {
                fs::symlinkat(fs::readlinkat(from, name)?, to, name)?;
                fs::chownat(to, name, stat.st_uid, stat.st_gid)?;
            }
            _ => {}
        }
    }
    Ok(())
}
