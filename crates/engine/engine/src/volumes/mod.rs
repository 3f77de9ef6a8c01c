//! Volumes: directories below the root that outlive containers, with their records, and the file systems that some of them
//! are (`type`, `o`, `device` of the local driver).
//!
//! A volume's own folder is `<root>/volumes/<name>`: `_data` has the files, `filling` exists while something is being
//! copied in, so that a crash in the middle is seen and undone. A volume with driver options is mounted on `_data` while a
//! container uses it, and at no other time.
//!
//! A volume of another driver has no files here: `plugins` asks the driver, which says where they are while they are used.
//!
//! * `options` — names and driver options, pure
//! * `mounting` — who uses a volume, and the mounts that come and go with them
//! * `fill` — copy-up from an image, export to and import from a tar
//! * `foreign` — volumes of other drivers: their mounts, and what is known of them
//! * `plugins` — the drivers themselves
//! * `calls` — create, list, remove, prune; `api` is their face
//!
//! Where a volume ends up in a container is `decide::mounts`' business.

mod api;
mod calls;
mod fill;
mod foreign;
mod mounting;
pub(crate) mod options;
mod plugins;

pub(crate) use fill::Held;
pub(crate) use mounting::{is_mounted, take_off};
pub use plugins::PluginConfig;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::core::records::{VOLUMES, VolumeRecord};
use crate::{ContainerId, Error, Result, VolumeView};

/// Docker's mark on volumes that nobody named.
pub(crate) const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

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
    /// Volumes whose driver is removing them.
    leaving: Mutex<BTreeSet<String>>,
    /// Where drivers have mounted volumes, by volume and user.
    places: Mutex<BTreeMap<String, BTreeMap<ContainerId, PathBuf>>>,
    plugins: plugins::Plugins,
    db: db::Db,
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volumes").field("dir", &self.dir).finish_non_exhaustive()
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Volumes {
    pub(crate) fn open(root: &Path, db: &db::Db, plugins: PluginConfig) -> Result<Self> {
        let known = db.read()?.list(&VOLUMES)?.into_iter().collect();
        Ok(Self {
            dir: root.join("volumes"),
            known: Mutex::new(known),
            users: Mutex::default(),
            reserved: Mutex::default(),
            changing: Mutex::default(),
            filling: Mutex::default(),
            leaving: Mutex::default(),
            places: Mutex::default(),
            plugins: plugins::Plugins::new(plugins),
            db: db.clone(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its files are; for one of another driver, while it is used.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        let place = locked(&self.places).get(name).and_then(|users| users.values().next().cloned());
        place.unwrap_or_else(|| self.dir.join(name).join("_data"))
    }

    pub(crate) fn get(&self, name: &str) -> Option<VolumeRecord> {
        locked(&self.known).get(name).cloned()
    }

    /// A record that is durable, or will be with the commit that the caller is about to make.
    pub(crate) fn learn(&self, name: String, record: VolumeRecord) {
        locked(&self.known).insert(name, record);
    }

    /// The commit failed.
    pub(crate) fn unlearn(&self, name: &str) -> Option<VolumeRecord> {
        locked(&self.known).remove(name)
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

    /// Keeps containers from using a volume while its driver removes it.
    pub(super) fn leave(&self, name: &str) -> Result<Leaving<'_>> {
        if !locked(&self.leaving).insert(name.to_owned()) {
            return Err(Error::Conflict(format!("volume {name} is being removed")));
        }
        Ok(Leaving { volumes: self, name: name.to_owned() })
    }

    pub(super) fn is_leaving(&self, name: &str) -> bool {
        locked(&self.leaving).contains(name)
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
            driver: record.driver_name().to_owned(),
            mountpoint: if record.is_local() { self.data(name) } else { self.place(name).unwrap_or_default() },
            created_at: record.created_at,
            anonymous: record.anonymous,
            labels: record.labels.clone(),
            options: record.options.clone(),
            size_bytes: None,
            used_by: 0,
            scope: "local".into(),
            status: None,
        }
    }

    /// Makes the directory if it is missing. Blocking.
    pub(crate) fn ensure(&self, name: &str) -> Result<PathBuf> {
        let data = self.data(name);
        if !data.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            let failed = |e| Error::internal(format_args!("make volume {name}"), e);
            self.make_folder(name)?;
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&data).map_err(failed)?;
        }
        Ok(data)
    }

    /// Nobody else reaches a volume by path: it may hold set-user-ID programs (DA-05).
    fn make_folder(&self, name: &str) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o701).create(self.dir.join(name));
        made.map_err(|e| Error::internal(format_args!("make volume {name}"), e))
    }

    /// Forgets a volume whose record is gone, and removes its files. Blocking.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        if let Some(record) = self.unlearn(name).filter(|record| !record.is_local()) {
            self.plugins.remove(&record.driver, name)?;
        }
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
    pub(crate) fn tidy(self: &std::sync::Arc<Self>) {
        let known = locked(&self.known).clone();
        // What another driver has is seen to when it is mounted.
        for name in known.into_iter().filter(|(_, record)| record.is_local()).map(|(name, _)| name) {
            if let Err(error) = self.undo_half_fill(&name).and_then(|()| self.unmount_unused(&name)) {
                tracing::warn!(volume = name, %error, "cannot tidy up a volume");
            }
        }
        self.take_back();
    }
}

/// A volume that its driver is removing.
#[derive(Debug)]
pub(super) struct Leaving<'a> {
    volumes: &'a Volumes,
    name: String,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        locked(&self.volumes.leaving).remove(&self.name);
    }
}
