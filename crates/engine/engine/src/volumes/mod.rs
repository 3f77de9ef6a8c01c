//! Volumes: directories below the root that outlive containers, with their records, and the file systems that some of them
//! are (`type`, `o`, `device` of the local driver).
//!
//! A volume's own folder is `<root>/volumes/<name>`: `_data` has the files, `filling` exists while something is being
//! copied in, so that a crash in the middle is seen and undone. A volume with driver options is mounted on `_data` while a
//! container uses it, and at no other time.
//!
//! * `options` — names and driver options, pure
//! * `mounting` — who uses a volume, and the mounts that come and go with them
//! * `fill` — copy-up from an image, export to and import from a tar
//! * `calls` — create, list, remove, prune; `api` is their face
//!
//! Where a volume ends up in a container is `decide::mounts`' business.

mod api;
mod calls;
mod fill;
mod mounting;
pub(crate) mod options;

pub(crate) use fill::Held;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::core::records::{VOLUMES, VolumeRecord};
use crate::{ContainerId, Error, Result, VolumeView};

/// Docker's mark on volumes that nobody named.
pub(crate) const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

#[derive(Debug)]
pub(crate) struct Volumes {
    dir: PathBuf,
    known: Mutex<BTreeMap<String, VolumeRecord>>,
    /// Running containers (and copies under way) by volume. Held while a mount is made or taken away.
    users: Mutex<BTreeMap<String, BTreeSet<ContainerId>>>,
    /// Containers that are just being made: their volumes must not be removed under them.
    reserved: Mutex<BTreeMap<ContainerId, Vec<String>>>,
    /// One change of the set of volumes at a time.
    changing: Mutex<()>,
    /// One copy into a volume at a time.
    filling: Mutex<()>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Volumes {
    pub(crate) fn open(root: &Path, db: &db::Db) -> Result<Self> {
        let known = db.read()?.list(&VOLUMES)?.into_iter().collect();
        Ok(Self {
            dir: root.join("volumes"),
            known: Mutex::new(known),
            users: Mutex::default(),
            reserved: Mutex::default(),
            changing: Mutex::default(),
            filling: Mutex::default(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its files are.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("_data")
    }

    pub(crate) fn get(&self, name: &str) -> Option<VolumeRecord> {
        locked(&self.known).get(name).cloned()
    }

    /// A record that is durable, or will be with the commit that the caller is about to make.
    pub(crate) fn learn(&self, name: String, record: VolumeRecord) {
        locked(&self.known).insert(name, record);
    }

    /// The commit failed.
    pub(crate) fn unlearn(&self, name: &str) {
        locked(&self.known).remove(name);
    }

    /// Held while volumes are chosen or removed.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        locked(&self.changing)
    }

    /// Keeps `names` from being removed until [`Volumes::release_reserved`].
    pub(crate) fn reserve(&self, id: ContainerId, names: Vec<String>) {
        if !names.is_empty() {
            locked(&self.reserved).insert(id, names);
        }
    }

    pub(crate) fn release_reserved(&self, id: ContainerId) {
        locked(&self.reserved).remove(&id);
    }

    pub(super) fn reserved_by(&self, name: &str) -> Vec<ContainerId> {
        let reserved = locked(&self.reserved);
        reserved.iter().filter(|(_, names)| names.iter().any(|n| n == name)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn views(&self) -> Vec<VolumeView> {
        locked(&self.known).iter().map(|(name, record)| self.view(name, record)).collect()
    }

    pub(super) fn view(&self, name: &str, record: &VolumeRecord) -> VolumeView {
        VolumeView {
            name: name.to_owned(),
            driver: "local".into(),
            mountpoint: self.data(name),
            created_at: record.created_at,
            anonymous: record.anonymous,
            labels: record.labels.clone(),
            options: record.options.clone(),
            size_bytes: None,
            used_by: 0,
        }
    }

    /// Makes the directory if it is missing. Blocking.
    pub(crate) fn ensure(&self, name: &str) -> Result<PathBuf> {
        let data = self.data(name);
        if !data.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            let failed = |e| Error::internal(format_args!("make volume {name}"), e);
            // Nobody else reaches a volume by path: it may hold set-user-ID programs (DA-05).
            std::fs::DirBuilder::new().recursive(true).mode(0o701).create(self.dir.join(name)).map_err(failed)?;
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&data).map_err(failed)?;
        }
        Ok(data)
    }

    /// Forgets a volume whose record is gone, and removes its files. Blocking.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        self.unlearn(name);
        self.remove_files(name)
    }

    /// Removes a volume's folder. What is mounted in it is taken off first, never emptied.
    pub(crate) fn remove_files(&self, name: &str) -> Result<()> {
        let failed = |e: linux::Error| Error::internal(format_args!("remove volume {name}"), e);
        mounting::take_off(&self.data(name)).map_err(failed)?;
        let dir = linux::fs::Root::open(&self.dir).map_err(failed)?;
        match linux::tree::remove_all(&dir, name) {
            Err(error) if !error.is(linux::Errno::NOENT) => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// At the start of an engine: undoes half-made copies and takes off what no running container uses. Blocking.
    pub(crate) fn tidy(&self) {
        let names: Vec<String> = locked(&self.known).keys().cloned().collect();
        for name in names {
            if let Err(error) = self.undo_half_fill(&name).and_then(|()| self.unmount_unused(&name)) {
                tracing::warn!(volume = name, %error, "cannot tidy up a volume");
            }
        }
    }
}
