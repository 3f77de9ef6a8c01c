//! The client's walk through its folder.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use linux::fs::{FileType, Root};

use crate::files::stat_of;
use crate::wire::fsutil::Stat;

const DEPTH_MAX: usize = 4096;

/// Tells every entry, directories before what is in them; returns the paths of the files by the numbers of their entries.
pub(super) fn tell(
    folder: &Path,
    wanted: &dyn Fn(&str, bool) -> bool,
    entry: impl FnMut(Stat) -> io::Result<()>,
) -> io::Result<HashMap<u32, String>> {
    let root = Root::open(folder).map_err(io::Error::other)?;
    let top = root.open_dir(".").map_err(io::Error::other)?;
    let mut walk = Walk { wanted, entry, next: 0, files: HashMap::new(), links: HashMap::new() };
    walk.directory(top.as_fd(), "", 0)?;
    Ok(walk.files)
}

struct Walk<'w, F> {
    wanted: &'w dyn Fn(&str, bool) -> bool,
    entry: F,
    next: u32,
    files: HashMap<u32, String>,
    /// First path of each file that has several.
    links: HashMap<(u64, u64), String>,
}

impl<F: FnMut(Stat) -> io::Result<()>> Walk<'_, F> {
    fn directory(&mut self, dir: BorrowedFd<'_>, below: &str, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("directories nest deeper than {DEPTH_MAX}")));
        }
        let mut entries = linux::tree::entries(dir).map_err(io::Error::other)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for found in entries {
            let name = found.name.to_str().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("a name that is not UTF-8: {:?}", found.name))
            })?;
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            let at = |error: linux::Error| io::Error::other(format!("{path}: {error}"));
            let facts = linux::fs::lstatat(dir, name).map_err(at)?;
            let kind = linux::fs::file_type(&facts);
            let directory = kind == FileType::Directory;
            // A socket means nothing without the process behind it.
            if kind == FileType::Socket || !(self.wanted)(&path, directory) {
                continue;
            }
            let mut stat = stat_of(&path, &facts);
            match kind {
                FileType::RegularFile => {
                    let first = (facts.st_nlink > 1).then(|| self.links.get(&(facts.st_dev, facts.st_ino))).flatten();
                    match first {
                        Some(first) => stat.linkname = first.clone(),
                        None => {
                            stat.size = facts.st_size;
                            self.files.insert(self.next, path.clone());
                            if facts.st_nlink > 1 {
                                self.links.insert((facts.st_dev, facts.st_ino), path.clone());
                            }
                        }
                    }
                }
                FileType::Symlink => {
                    let target = linux::fs::readlinkat(dir, name).map_err(at)?;
                    stat.linkname = target
                        .to_str()
                        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: not UTF-8")))?
                        .to_owned();
                }
                _ => {}
            }
            self.next += 1;
            (self.entry)(stat)?;
            if directory {
                let child = linux::tree::open_dir(dir, name).map_err(at)?;
                self.directory(child.as_fd(), &path, depth + 1)?;
            }
        }
        Ok(())
    }
}
