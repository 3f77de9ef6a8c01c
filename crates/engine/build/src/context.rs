//! A build context on disk: unpacked from what the client sent, gone with the last one who holds it.

use std::io::Read;
use std::path::{Path, PathBuf};

use linux::fs::{Mode, Root};

use crate::error::{BuildError, Result};

/// A folder of files that a build copies from. Everything in it belongs to root; nothing in it is followed out of it.
#[derive(Debug)]
pub struct Context {
    path: PathBuf,
    root: Root,
    temporary: bool,
}

impl Context {
    /// An empty one below `parent`.
    pub fn new(parent: &Path) -> Result<Self> {
        let what = || format!("make a build context in {}", parent.display());
        std::fs::create_dir_all(parent).map_err(|source| BuildError::Io { what: what(), source })?;
        for attempt in 0u64.. {
            let name = format!("{}-{attempt}", std::process::id());
            let all = Root::open(parent)?;
            match linux::fs::mkdirat(&all, &name, Mode::from_raw_mode(0o700)) {
                Err(e) if e.is(linux::Errno::EXIST) => {}
                other => {
                    other?;
                    let path = parent.join(name).join("files");
                    std::fs::create_dir(&path)
                        .map_err(|source| BuildError::Io { what: format!("make {}", path.display()), source })?;
                    // What a bind mount of the context shows is open to every user; the folder above it is not.
                    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                        .map_err(|source| BuildError::Io { what: format!("open {}", path.display()), source })?;
                    return Ok(Self { root: Root::open(&path)?, path, temporary: true });
                }
            }
        }
        unreachable!("later attempts have other names")
    }

    /// A folder that is there already and stays.
    pub fn existing(path: &Path) -> Result<Self> {
        Ok(Self { root: Root::open(path)?, path: path.to_owned(), temporary: false })
    }

    /// Unpacks a tar (plain, gzip or zstd) into it. Everything will belong to root, as Docker has it.
    pub fn unpack(&self, tar: &mut (dyn Read + Send)) -> Result<()> {
        let options = image::archive::UnpackOptions { owner: Some((0, 0)), ..Default::default() };
        Ok(image::archive::unpack(&self.root, Path::new("/"), tar, &options)?)
    }

    /// A file of it, at most `limit` bytes; `None` if there is none of that name.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.root.read(path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is(linux::Errno::NOENT) || e.is(linux::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let place = self.path.join(path);
        std::fs::write(&place, bytes)
            .map_err(|source| BuildError::Io { what: format!("write {}", place.display()), source })
    }

    /// Removes what the patterns leave out.
    pub fn filter(&self, patterns: &crate::Patterns) -> Result<()> {
        if patterns.is_empty() {
            return Ok(());
        }
        let dir = self.root.open_dir("/")?;
        filter_dir(&dir, "", patterns)
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn filter_dir(dir: &std::os::fd::OwnedFd, below: &str, patterns: &crate::Patterns) -> Result<()> {
    for entry in linux::tree::entries(dir)? {
        let name = entry.name.to_string_lossy();
        let path = if below.is_empty() { name.into_owned() } else { format!("{below}/{name}") };
        let directory = entry.kind == linux::fs::FileType::Directory;
        if !patterns.excludes(&path) {
            if directory {
                filter_dir(&linux::tree::open_dir(dir, &entry.name)?, &path, patterns)?;
            }
        } else if directory && patterns.may_include_below(&path) {
            let child = linux::tree::open_dir(dir, &entry.name)?;
            filter_dir(&child, &path, patterns)?;
            if linux::tree::entries(&child)?.is_empty() {
                linux::fs::rmdirat(dir, &entry.name)?;
            }
        } else {
            linux::tree::remove_all(dir, &entry.name)?;
        }
    }
    Ok(())
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.temporary {
            return;
        }
        let Some(folder) = self.path.parent() else { return };
        let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else { return };
        let removed = Root::open(parent).and_then(|parent| linux::tree::remove_all(&parent, name));
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "a build context stays behind");
        }
    }
}
