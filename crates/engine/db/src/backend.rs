//! The file under redb. It differs from redb's own in two things: growing reserves the blocks, so that a commit inside
//! the file's length cannot hit a full disk (removing things must work when the disk is full), and the same descriptor
//! serves again when the database is opened anew after an I/O error.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;

/// How long a lock may still be held by a process that was killed: its other threads, and children of its that have not called exec
/// yet, end a moment later.
const PATIENCE: Duration = Duration::from_secs(1);

/// Clones are the same open file.
#[derive(Debug, Clone)]
pub struct Backend {
    file: Arc<Locked>,
    /// The file is still being made, under another name.
    new: bool,
}

/// The file with its lock. A child that was forked but has not yet called exec holds the descriptor too, so closing ours
/// would not free the lock; unlocking does.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl std::ops::Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Backend {
    /// Opens or makes the file, with a lock that keeps every other process out until this one is gone.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::io(path, source);
        let aside = unfinished(path);
        let begun = Instant::now();
        loop {
            // Looked at anew each time: whoever holds the lock may finish making the file.
            let new = !path.exists();
            let at = if new { &aside } else { path };
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(at);
            let file = file.map_err(io)?;
            match file.try_lock() {
                Ok(()) => {
                    if new {
                        // What a making that was cut short has left is nothing.
                        file.set_len(0).map_err(io)?;
                    }
                    return Ok(Self { file: Arc::new(Locked(file)), new });
                }
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 100),
                Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
    }

    /// To be called when the file is a database: until then a power cut leaves none, not a part of one.
    pub fn finish(&mut self, path: &Path) -> Result<(), Error> {
        let io = |source| Error::io(path, source);
        let aside = unfinished(path);
        if !self.new {
            // The second name of a file that was finished at the last instant, if anything.
            let _ = std::fs::remove_file(&aside);
            return Ok(());
        }
        self.file.sync_all().map_err(io)?;
        // Not a rename, which would put it in place of what another process has made meanwhile.
        match std::fs::hard_link(&aside, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::InUse { path: path.to_owned() });
            }
            other => other.map_err(io)?,
        }
        std::fs::remove_file(&aside).map_err(io)?;
        self.new = false;
        if let Some(parent) = path.parent() {
            // A file is found after a power cut only if its folder's entry is on disk too.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        Ok(())
    }

    pub(crate) fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut at = self.file.metadata()?.len();
        if len < at {
            return self.file.set_len(len);
        }
        let before = at;
        while at < len {
            let n = (len - at).min(ZEROS.len() as u64) as usize;
            if let Err(full) = self.file.write_all_at(&ZEROS[..n], at) {
                // Leave the disk as full as it was, not fuller.
                let _ = self.file.set_len(before);
                return Err(full);
            }
            at += n as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}
