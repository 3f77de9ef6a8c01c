//! Traces that a step's surroundings leave in its files: mount points that were not there before, times.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use linux::Errno;
use linux::fs::{FileType, OFlags, Root, Timespec, Timestamps};

use crate::error::Result;

/// The paths that a mount on `target` will make because they are missing, topmost first.
pub(super) fn missing(root: &Root, target: &str) -> Vec<String> {
    let mut path = String::new();
    let mut found = Vec::new();
    for part in crate::plan::normal_parts(target) {
        path.push('/');
        path.push_str(part);
        if !found.is_empty() || root.lstat(&path).is_err() {
            found.push(path.clone());
        }
    }
    found
}

/// Removes mount points that are still as they were made: empty. Resolved in-root by descriptor, so that a step which put a link in
/// the way reaches nothing but its own files (BL-02).
pub(super) fn remove(root: &Root, made: &[String]) {
    for path in made.iter().rev() {
        if vocab::weak::without("stubs") {
            let _ = root.open_dir("/").map(|dir| std::fs::remove_dir(linux::fs::proc_fd(dir.as_fd()).join(&path[1..])));
            continue;
        }
        let Ok((dir, name)) = root.parent(path) else { continue };
        let Ok(stat) = linux::fs::lstatat(&dir, &name) else { continue };
        let removed = match linux::fs::file_type(&stat) {
            FileType::Directory => linux::fs::rmdirat(&dir, &name),
            FileType::RegularFile if stat.st_size == 0 => linux::fs::unlinkat(&dir, &name),
            _ => continue,
        };
        if let Err(error) = removed
            && !error.is(Errno::NOTEMPTY)
        {
            tracing::debug!(path, %error, "a mount point stays in the layer");
        }
    }
}

/// Makes no time in the tree later than `epoch`, seconds.
pub(super) fn clamp_times(upper: &Path, epoch: i64) -> Result<()> {
    let root = Root::open(upper)?;
    let dir = root.open_dir("/")?;
    clamp_dir(dir.as_fd(), epoch)?;
    Ok(())
}

fn clamp_dir(dir: BorrowedFd<'_>, epoch: i64) -> linux::Result<()> {
    let time = Timespec { tv_sec: epoch, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    for entry in linux::tree::entries(dir)? {
        let stat = linux::fs::lstatat(dir, &entry.name)?;
        if linux::fs::file_type(&stat) == FileType::Directory {
            clamp_dir(linux::tree::open_dir(dir, &entry.name)?.as_fd(), epoch)?;
        }
        if stat.st_mtime > epoch || (stat.st_mtime == epoch && stat.st_mtime_nsec > 0) {
            linux::fs::utimensat(dir, &entry.name, &times)?;
        }
    }
    let own = linux::fs::fstat(dir)?;
    if own.st_mtime > epoch {
        linux::fs::futimens(linux::fs::reopen(dir, OFlags::RDONLY | OFlags::DIRECTORY)?, &times)?;
    }
    Ok(())
}
