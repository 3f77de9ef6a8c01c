//! Cache mounts: folders that outlive a build, by name.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use linux::fs::{Mode, Root};
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::cache::{CacheEntry, CacheKind, CacheRecord};
use crate::error::{BuildError, Result};
use crate::plan::Sharing;

#[derive(Debug)]
pub(super) struct CacheMounts {
    dir: PathBuf,
    /// Read: in use together with others. Written: in use alone.
    locks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

/// A cache mount in use.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) path: PathBuf,
    /// Whether it was made just now.
    pub(super) new: bool,
    _held: Held,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, never read")]
enum Held {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

impl CacheMounts {
    pub(super) fn open(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)
            .map_err(|source| BuildError::Io { what: format!("make {}", dir.display()), source })?;
        Ok(Self { dir, locks: Mutex::default() })
    }

    /// The folder of a cache. Its name on disk is a digest: an id leads nowhere (BL-07).
    pub(super) async fn take(&self, id: &str, sharing: Sharing, owner: (u32, u32), mode: u32) -> Result<InUse> {
        let base = match vocab::weak::without("cache-id") {
            true => id.to_owned(),
            false => image::hash::sha256(id.as_bytes()).hex()[..32].to_owned(),
        };
        let (name, held) = match sharing {
            Sharing::Shared => {
                let lock = self.lock(&base);
                (base, Held::Shared(lock.read_owned().await))
            }
            Sharing::Locked => {
                let lock = self.lock(&base);
                (base, Held::Alone(lock.write_owned().await))
            }
            Sharing::Private => {
                let mut number = 0;
                loop {
                    let name = if number == 0 { base.clone() } else { format!("{base}-{number}") };
                    if let Ok(held) = self.lock(&name).try_write_owned() {
                        break (name, Held::Alone(held));
                    }
                    number += 1;
                }
            }
        };
        let path = self.dir.join(&name);
        let all = Root::open(&self.dir)?;
        let new = match linux::fs::mkdirat(&all, &name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(e) if e.is(linux::Errno::EXIST) => false,
            Err(e) => return Err(e.into()),
        };
        if new {
            linux::fs::chownat(&all, &name, owner.0, owner.1)?;
            linux::fs::chmodat(&all, &name, Mode::from_raw_mode(mode))?;
            let label = self.dir.join(format!("{name}.id"));
            std::fs::write(&label, id)
                .map_err(|source| BuildError::Io { what: format!("write {}", label.display()), source })?;
        }
        Ok(InUse { path, new, _held: held })
    }

    fn lock(&self, name: &str) -> Arc<RwLock<()>> {
        self.locks.lock().unwrap_or_else(|e| e.into_inner()).entry(name.to_owned()).or_default().clone()
    }

    /// Blocking.
    pub(super) fn list(&self) -> Result<Vec<CacheEntry>> {
        let all = Root::open(&self.dir)?;
        let mut found = Vec::new();
        for entry in linux::tree::entries(&all)? {
            let name = entry.name.to_string_lossy().into_owned();
            if entry.kind != linux::fs::FileType::Directory {
                continue;
            }
            let id = std::fs::read_to_string(self.dir.join(format!("{name}.id"))).unwrap_or_default();
            let stat = linux::fs::lstatat(&all, &entry.name)?;
            let at = |secs| Timestamp::new(secs, 0).unwrap_or_default();
            found.push(CacheEntry {
                key: name.clone(),
                record: CacheRecord {
                    top: None,
                    description: format!("cached mount {id}"),
                    created_at: at(stat.st_ctime),
                    last_used_at: at(stat.st_mtime.max(stat.st_ctime)),
                    uses: 1,
                    bytes: bytes(&linux::tree::open_dir(&all, &entry.name)?)?,
                },
                parent: None,
                shared: false,
                in_use: self.is_in_use(&name),
                kind: CacheKind::Mount,
            });
        }
        Ok(found)
    }

    fn is_in_use(&self, name: &str) -> bool {
        self.lock(name).try_write_owned().is_err()
    }

    /// Removes one that nobody uses. Blocking.
    pub(super) fn remove(&self, name: &str) -> Result<bool> {
        let Ok(_alone) = self.lock(name).try_write_owned() else { return Ok(false) };
        let all = Root::open(&self.dir)?;
        linux::tree::remove_all(&all, name)?;
        linux::tree::remove_all(&all, format!("{name}.id"))?;
        Ok(true)
    }
}

fn bytes(dir: &std::os::fd::OwnedFd) -> linux::Result<u64> {
    let mut total = 0;
    for entry in linux::tree::entries(dir)? {
        let stat = linux::fs::lstatat(dir, &entry.name)?;
        total += stat.st_blocks as u64 * 512;
        if linux::fs::file_type(&stat) == linux::fs::FileType::Directory {
            total += bytes(&linux::tree::open_dir(dir, &entry.name)?)?;
        }
    }
    Ok(total)
}
