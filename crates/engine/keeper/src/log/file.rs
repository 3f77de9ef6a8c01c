//! One log file and its older ones: appending whole records, rotating, and giving up on a batch without leaving half of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vocab::crash;

use crate::model::{LogDriver, LogSpec};

#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) spec: LogSpec,
    /// Opened with the first record, and again after it could not be.
    file: Option<File>,
}

/// The file as it is before an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub inode: u64,
    pub size: u64,
}

impl LogFile {
    pub(crate) fn new(spec: LogSpec) -> Self {
        Self { spec, file: None }
    }

    /// Where the next record goes, after rotation if that is due.
    pub(crate) fn position(&mut self) -> io::Result<Position> {
        let now = self.stat()?;
        match self.spec.max_size {
            Some(max) if now.size >= max.max(1) => {
                self.rotate()?;
                self.stat()
            }
            _ => Ok(now),
        }
    }

    /// As [`LogFile::position`], without rotating.
    pub(crate) fn stat(&mut self) -> io::Result<Position> {
        if self.spec.driver == LogDriver::Cri && self.is_moved() {
            self.file = None;
        }
        let meta = self.open()?.metadata()?;
        Ok(Position { inode: meta.ino(), size: meta.size() })
    }

    /// Whoever asked for a log in this format rotates it by giving the file another name.
    fn is_moved(&self) -> bool {
        let Some(Ok(own)) = self.file.as_ref().map(File::metadata) else { return false };
        let named = std::fs::symlink_metadata(&self.spec.path);
        named.map_or(true, |named| (named.dev(), named.ino()) != (own.dev(), own.ino()))
    }

    /// Bytes until rotation.
    pub(crate) fn room(&self, position: Position) -> usize {
        self.spec.max_size.map_or(usize::MAX, |max| max.saturating_sub(position.size).max(1) as usize)
    }

    /// Appends all of `records` or, on error, nothing: what was written of them is cut off again.
    pub(crate) fn append(&mut self, position: Position, records: &[u8]) -> io::Result<()> {
        let file = self.open()?;
        let result = file.write_all(records);
        if result.is_err() {
            // Shrinking needs no space. If even that fails, the reader meets one torn record.
            let _ = file.set_len(position.size);
        }
        result
    }

    /// Cuts the file back to `size`.
    pub(crate) fn cut(&mut self, size: u64) -> io::Result<()> {
        self.open()?.set_len(size)
    }

    fn open(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                // The directory is ours, but what is in it may have been restored from anywhere: no links, no FIFOs.
                .custom_flags((linux::fs::OFlags::NOFOLLOW | linux::fs::OFlags::NONBLOCK).bits() as i32)
                .open(&self.spec.path)?,
        };
        Ok(self.file.insert(file))
    }

    /// Moves every file one number up, beginning above the first gap, so that doing it again after a death half way loses nothing.
    fn rotate(&mut self) -> io::Result<()> {
        let kept = self.spec.max_files.max(1);
        if kept == 1 {
            return self.cut(0);
        }
        let path = &self.spec.path;
        let oldest = kept - 1;
        let gap = match (1..=oldest).find(|n| !numbered(path, *n).exists()) {
            Some(gap) => gap,
            None => {
                // Removed, not replaced: ext4 writes out what replaces a file before anything else happens, and a log that is soon gone
                // need never reach the disk.
                std::fs::remove_file(numbered(path, oldest))?;
                oldest
            }
        };
        for n in (1..gap).rev() {
            std::fs::rename(numbered(path, n), numbered(path, n + 1))?;
            crash::point("keeper.log.rotate");
        }
        std::fs::rename(path, numbered(path, 1))?;
        crash::point("keeper.log.rotated");
        self.file = None;
        Ok(())
    }
}

/// `<path>.N`.
fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("knarr-log-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn log(&self, max_size: u64, max_files: u32) -> LogFile {
            LogFile::new(LogSpec { max_size: Some(max_size), max_files, ..LogSpec::json_file(self.0.join("log")) })
        }

        fn shown(&self) -> String {
            let mut names: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().path()).collect();
            names.sort();
            let show = |path: &PathBuf| {
                format!("{}={}", path.file_name().unwrap().display(), std::fs::read_to_string(path).unwrap())
            };
            names.iter().map(show).collect::<Vec<_>>().join(" ")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn append(log: &mut LogFile, text: &str) {
        let position = log.position().unwrap();
        log.append(position, text.as_bytes()).unwrap();
    }

    #[test]
    fn full_files_move_up_and_the_oldest_goes() {
        let scratch = Scratch::new("rotate");
        let mut log = scratch.log(2, 3);
        for text in ["a1", "b2", "c3", "d4", "e5"] {
            append(&mut log, text);
        }
        assert_eq!(scratch.shown(), "log=e5 log.1=d4 log.2=c3");
        append(&mut scratch.log(2, 1), "f6");
        assert_eq!(scratch.shown(), "log=f6 log.1=d4 log.2=c3");
    }

    #[test]
    fn a_rotation_cut_short_is_finished_without_losing_a_file() {
        let scratch = Scratch::new("gap");
        let mut log = scratch.log(1, 5);
        for text in ["a", "b", "c"] {
            append(&mut log, text);
        }
        // Died after 2 became 3 and 1 became 2, before the current file became 1.
        std::fs::rename(scratch.0.join("log.2"), scratch.0.join("log.3")).unwrap();
        std::fs::rename(scratch.0.join("log.1"), scratch.0.join("log.2")).unwrap();
        append(&mut scratch.log(1, 5), "d");
        assert_eq!(scratch.shown(), "log=d log.1=c log.2=b log.3=a");
        // Died after the oldest had been removed to make room.
        std::fs::remove_file(scratch.0.join("log.3")).unwrap();
        append(&mut scratch.log(1, 4), "e");
        assert_eq!(scratch.shown(), "log=e log.1=d log.2=c log.3=b");
    }

    #[test]
    fn a_log_that_others_rotate_goes_on_under_its_own_name() {
        let scratch = Scratch::new("moved");
        let mut log = scratch.log(100, 1);
        log.spec.driver = LogDriver::Cri;
        append(&mut log, "a");
        std::fs::rename(scratch.0.join("log"), scratch.0.join("log.old")).unwrap();
        append(&mut log, "b");
        std::fs::rename(scratch.0.join("log"), scratch.0.join("log.older")).unwrap();
        std::fs::write(scratch.0.join("log"), "c").unwrap();
        append(&mut log, "d");
        assert_eq!(scratch.shown(), "log=cd log.old=a log.older=b");
    }

    #[test]
    fn a_link_in_the_place_of_a_log_is_not_followed() {
        let scratch = Scratch::new("link");
        std::os::unix::fs::symlink("/etc/hostname", scratch.0.join("log")).unwrap();
        assert!(scratch.log(10, 2).position().is_err());
    }
}
