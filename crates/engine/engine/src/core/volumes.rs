//! Volumes, as far as containers need them: a directory below the root and a record. Their own API comes with the
//! networks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::records::{VOLUMES, VolumeRecord};
use crate::{Error, Result, VolumeView};

#[derive(Debug)]
pub(crate) struct Volumes {
    dir: PathBuf,
    known: Mutex<BTreeMap<String, VolumeRecord>>,
}

impl Volumes {
    pub(crate) fn open(root: &Path, db: &db::Db) -> Result<Self> {
        let known = db.read()?.list(&VOLUMES)?.into_iter().collect();
        Ok(Self { dir: root.join("volumes"), known: Mutex::new(known) })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, VolumeRecord>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its files are.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("_data")
    }

    pub(crate) fn get(&self, name: &str) -> Option<VolumeRecord> {
        self.known().get(name).cloned()
    }

    /// After the commit that made or changed it.
    pub(crate) fn learn(&self, name: String, record: VolumeRecord) {
        self.known().insert(name, record);
    }

    pub(crate) fn views(&self) -> Vec<VolumeView> {
        let known = self.known();
        let views = known.iter().map(|(name, record)| VolumeView {
            name: name.clone(),
            driver: "local".into(),
            mountpoint: self.data(name),
            created_at: record.created_at,
            anonymous: record.anonymous,
            labels: record.labels.clone(),
            options: record.options.clone(),
            size_bytes: None,
            used_by: 0,
        });
        views.collect()
    }

    /// Makes the directory if it is missing. Blocking.
    pub(crate) fn ensure(&self, name: &str) -> Result<PathBuf> {
        let data = self.data(name);
        std::fs::create_dir_all(&data).map_err(|e| Error::internal(format_args!("make volume {name}"), e))?;
        Ok(data)
    }

    /// Forgets a volume whose record is gone, and removes its files. Blocking.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        self.known().remove(name);
        match std::fs::remove_dir_all(self.dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::internal(format_args!("remove volume {name}"), e))
            }
            _ => Ok(()),
        }
    }
}
