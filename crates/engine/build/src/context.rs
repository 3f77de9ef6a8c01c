//! A build context on disk: unpacked from what the client sent, gone with the last one who holds it.

use std::any::Any;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use linux::fs::{Mode, Root};

use crate::copy::Digests;
use crate::error::{BuildError, Result};

/// A folder of files that a build copies from. Everything in it belongs to root; nothing in it is followed out of it.
#[derive(Debug)]
pub struct Context {
    path: PathBuf,
    root: Root,
    /// What goes away with it.
    folder: Option<PathBuf>,
    /// What is known of its files.
    digests: Option<Digests>,
    /// Whoever keeps the folder as it is.
    _held: Option<Arc<dyn Any + Send + Sync>>,
}

impl Context {
    /// An empty one below `parent`.
    pub fn new(parent: &Path) -> Result<Self> {
        let what = || format!("make a build context in {}", parent.display());
        std::fs::create_dir_all(parent).map_err(|source| BuildError::Io { what: what(), source })?;
        // As staged layers: making many files is slow where many were just removed, and contexts come and go.
        let _ = std::fs::File::open(parent).map(linux::fs::spread_directories);
        // A new name each time: where the folder is spread to follows from its name.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
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
                    let folder = path.parent().map(Path::to_owned);
                    return Ok(Self { root: Root::open(&path)?, path, folder, digests: None, _held: None });
                }
            }
        }
    }

    /// A folder that is there already and stays, and in which nobody changes anything as long as `held` is. What its files
    /// amount to is remembered in the file `digests`.
    pub fn kept(path: &Path, digests: PathBuf, held: Arc<dyn Any + Send + Sync>) -> Result<Self> {
        let digests = Some(Digests::open(digests));
        Ok(Self { root: Root::open(path)?, path: path.to_owned(), folder: None, digests, _held: Some(held) })
    }

    /// A directory in it, resolved in-root, as the whole context.
    pub(crate) fn into_sub(mut self, path: &str) -> Result<Self> {
        let missing = || BuildError::Invalid(format!("subdirectory {path:?} is no directory of the repository"));
        let dir = match vocab::weak::without("git-subdir") {
            true => std::fs::File::open(self.path.join(path)).map_err(|_| missing())?.into(),
            false => self.root.open_dir(path).map_err(|_| missing())?,
        };
        let place = linux::fs::proc_fd(std::os::fd::AsFd::as_fd(&dir));
        let real = std::fs::read_link(&place)
            .map_err(|source| BuildError::Io { what: format!("read {}", place.display()), source })?;
        Ok(Self { path: real, root: Root::from_fd(dir), folder: self.folder.take(), digests: None, _held: None })
    }

    /// Unpacks a tar (plain or packed) into it. Everything will belong to root, as Docker has it.
    pub fn unpack(&self, tar: &mut (dyn Read + Send)) -> Result<()> {
        let options = image::archive::UnpackOptions { owner: Some((0, 0)), ..Default::default() };
        Ok(image::archive::unpack(&self.root, Path::new("/"), tar, &options)?)
    }

    /// Makes a kept folder what a tar (plain or packed) has, and writes only what differs. Returns the bytes of all files.
    pub fn renew(&self, tar: &mut (dyn Read + Send)) -> Result<u64> {
        let options = image::archive::UnpackOptions { owner: Some((0, 0)), ..Default::default() };
        let known = |stat: &linux::fs::Stat| self.digests.as_ref().and_then(|digests| digests.get(stat));
        Ok(image::archive::renew(&self.root, tar, &options, &known)?)
    }

    /// A file of it, at most `limit` bytes; `None` if there is none of that name.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        if vocab::weak::without("context-root") {
            return Ok(std::fs::read(self.path.join(path)).ok());
        }
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

    pub(crate) fn digests(&self) -> Option<&Digests> {
        self.digests.as_ref()
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
        let Some(folder) = &self.folder else { return };
        let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else { return };
        let removed = Root::open(parent).and_then(|parent| linux::tree::remove_all(&parent, name));
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "a build context stays behind");
        }
    }
}
