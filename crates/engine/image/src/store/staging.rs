//! A folder below `tmp/` for what is being made. It goes away with its owner, whatever happens; what is complete moves out
//! of it into the store by rename.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use vocab::Digest;

use crate::error::{Context, Result};
use crate::hash;

pub(crate) struct Staging {
    path: PathBuf,
    name: String,
    /// Open since before the first write: a write that fails later in the kernel is told to this descriptor.
    disk: File,
    next: AtomicU32,
}

impl Staging {
    pub(crate) fn new(tmp: &Path) -> Result<Self> {
        let name = unique()?;
        let path = tmp.join(&name);
        fs::DirBuilder::new().mode(0o700).create(&path).context(|| format!("make {}", path.display()))?;
        let disk = File::open(&path).context(|| format!("open {}", path.display()))?;
        // Layers far from each other on the disk: making files is slow where many were just removed. Where the file system does not know
        // the hint it does without.
        let _ = linux::fs::spread_directories(&disk);
        Ok(Self { path, name, disk, next: AtomicU32::new(0) })
    }

    /// Durable: everything written here, and everything else on this disk.
    pub(crate) fn sync(&self) -> Result<()> {
        vocab::crash::point("image.staging.sync");
        if vocab::weak::without("sync") {
            return Ok(());
        }
        linux::fs::syncfs(&self.disk).context(|| "write new layers to the disk")
    }

    /// A path in the folder where nothing is yet. Its name was never used before: where it is spread to follows from the name, and the
    /// layers that were made by the last such folder, and maybe removed a moment ago, are not to be the neighbours of these.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.path.join(format!("{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A new folder in it. Its mode lets a container's root through to the layer below it.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        let path = self.fresh();
        fs::DirBuilder::new().mode(0o711).create(&path).context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// A new file with these bytes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(Digest, PathBuf)> {
        let path = self.fresh();
        let write = || File::create_new(&path)?.write_all(bytes);
        write().context(|| format!("write {}", path.display()))?;
        Ok((hash::sha256(bytes), path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// A name that nothing has had before.
pub(crate) fn unique() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(path).context(|| format!("read {path}"))?;
    Ok(text.trim().replace('-', "").chars().take(16).collect())
}

/// Removes a folder that nobody refers to any more. What cannot be removed now is found again at the next start.
pub(crate) fn remove_tree(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    // However deep it is: `remove_all` goes down without recursion and with a bounded number of descriptors.
    match linux::fs::Root::open(parent).and_then(|parent| linux::tree::remove_all(&parent, name)) {
        Err(error) if !error.is(linux::Errno::NOENT) => {
            tracing::warn!(path = %path.display(), %error, "a folder that is no longer needed could not be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ext4 spreads by name: the second folder would otherwise share the first one's place on the disk.
    #[test]
    fn no_two_folders_have_the_same_name() {
        let tmp = tempfile::tempdir().unwrap();
        let name = || {
            let folder = Staging::new(tmp.path()).unwrap().folder().unwrap();
            folder.file_name().unwrap().to_owned()
        };
        assert_ne!(name(), name());
    }
}
