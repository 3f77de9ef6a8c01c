//! Being told that something in a directory changed. One instance serves many directories: a host has few instances.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::{Attempt, Result};

/// A non-blocking instance.
pub fn init() -> Result<OwnedFd> {
    inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .attempt("inotify_init1", format_args!("CLOEXEC | NONBLOCK"))
}

/// Watches a directory for files that are written to, made, renamed or emptied in it. Returns the watch's number, which is the same
/// if the directory is watched already.
pub fn watch_dir(instance: impl AsFd, path: &Path) -> Result<i32> {
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    inotify::add_watch(&instance, path, flags).attempt("inotify_add_watch", format_args!("{path:?}"))
}

pub fn unwatch(instance: impl AsFd, watch: i32) -> Result<()> {
    let fd = instance.as_fd().as_raw_fd();
    inotify::remove_watch(&instance, watch).attempt("inotify_rm_watch", format_args!("fd {fd}, {watch}"))
}

/// What there is to read, without waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Watches that something happened to, each once.
    Changed(Vec<i32>),
    /// Too much happened: look at everything.
    Overflow,
}

pub fn read(instance: impl AsFd) -> Result<News> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(&instance, &mut buffer);
    let mut changed = Vec::new();
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => return Ok(News::Overflow),
            Ok(event) => {
                if !changed.contains(&event.wd()) {
                    changed.push(event.wd());
                }
            }
            Err(Errno::WOULDBLOCK) => return Ok(News::Changed(changed)),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(errno).attempt("read", format_args!("inotify fd {}", instance.as_fd().as_raw_fd()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_news_of_its_directory() {
        let dir = std::env::temp_dir().join(format!("knarr-inotify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fd = init().unwrap();
        let watch = watch_dir(&fd, &dir).unwrap();
        assert_eq!(watch_dir(&fd, &dir).unwrap(), watch);
        assert_eq!(read(&fd).unwrap(), News::Changed(Vec::new()));
        std::fs::write(dir.join("a"), "x").unwrap();
        assert_eq!(read(&fd).unwrap(), News::Changed(vec![watch]));
        unwatch(&fd, watch).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
