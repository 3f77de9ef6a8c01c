//! What is reachable, and what is not: image and snapshot records name layers, layers and images name blobs, and holds of
//! others name either. Whatever no record names is removed, record first, then file: a crash between the two leaves a file that the next start finds.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use vocab::{Digest, crash};

use super::Store;
use super::blobs::HOLDS;
use super::check::names_in;
use super::records::*;
use super::staging::{remove_tree, unique};
use crate::error::{Context, Result};
use crate::model::{Collected, DiskUsage, ListFilter};

/// Records that are gone; their files follow.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    /// Topmost first.
    pub(crate) layers: Vec<Digest>,
    folders: Vec<String>,
    blobs: Vec<Digest>,
    pub(crate) bytes: u64,
}

impl Store {
    /// Removes every blob, layer and leftover that nothing refers to. Safe at any time.
    pub fn collect(&self) -> Result<Collected> {
        let lock = self.lock();
        let dead = self.db.write(|txn| self.sweep(txn))?;
        let layers = dead.layers.len();
        let (blobs, bytes) = (dead.blobs.len(), dead.bytes);
        let trash = self.bury(&dead);
        drop(lock);
        trash.iter().for_each(|path| remove_tree(path));
        Ok(Collected { layers, blobs, snapshots: 0, bytes })
    }

    /// Removes the records of what is unreachable. Under the lock, inside a transaction.
    pub(crate) fn sweep(&self, txn: &mut db::Write<'_>) -> Result<Dead> {
        let images = txn.list(&IMAGES)?;
        let mut live: HashSet<Digest> = images.iter().flat_map(|(_, image)| image.layers.iter().copied()).collect();
        live.extend(txn.list(&SNAPSHOTS)?.into_iter().flat_map(|(_, snapshot)| snapshot.layers));
        let mut held = self.held.lock();
        let mut owed = HashSet::new();
        let holds = txn.list(&HOLDS)?;
        live.extend(holds.iter().filter_map(|(_, hold)| hold.layer));
        let mut dead = Dead::default();
        let mut live_folders = HashSet::new();
        let mut live_blobs: HashSet<Digest> = images.iter().map(|(id, _)| *id).collect();
        live_blobs.extend(holds.iter().map(|(_, hold)| hold.digest));
        live_blobs.extend(images.iter().flat_map(|(_, image)| image.manifests.iter().map(|m| m.digest)));
        let mut gone: Vec<(Digest, LayerRecord)> = Vec::new();
        for (chain, layer) in txn.list(&LAYERS)? {
            let pinned = held.is_pinned(&chain);
            if pinned && !live.contains(&chain) {
                owed.insert(chain);
            }
            if pinned || live.contains(&chain) {
                live_folders.insert(layer.folder.clone());
                live_blobs.extend(layer.compressed.iter().map(|compressed| compressed.digest));
            } else {
                gone.push((chain, layer));
            }
        }
        held.set_owed(owed);
        drop(held);
        for (chain, layer) in gone {
            txn.remove(&LAYERS, &chain)?;
            dead.layers.push(chain);
            if !live_folders.contains(&layer.folder) && !dead.folders.contains(&layer.folder) {
                dead.bytes += layer.bytes;
                dead.folders.push(layer.folder);
            }
        }
        for (digest, blob) in txn.list(&BLOBS)? {
            if !live_blobs.contains(&digest) {
                txn.remove(&BLOBS, &digest)?;
                dead.bytes += blob.bytes;
                dead.blobs.push(digest);
            }
        }
        Ok(dead)
    }

    /// Takes the files of dead records out of the store, under the lock; removing them can be slow and comes after it.
    pub(crate) fn bury(&self, dead: &Dead) -> Vec<PathBuf> {
        crash::point("image.collect.records_gone");
        for digest in &dead.blobs {
            let path = self.blob_path(digest);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a blob that is no longer needed could not be removed");
            }
        }
        dead.folders.iter().filter_map(|folder| self.to_trash(&self.layers_dir().join(folder))).collect()
    }

    /// A rename, so that it is gone at once however large it is.
    pub(crate) fn to_trash(&self, path: &Path) -> Option<PathBuf> {
        let moved = unique().and_then(|name| {
            let trash = self.tmp().join(format!("trash-{name}"));
            match std::fs::rename(path, &trash) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                other => other.context(|| format!("move {} away", path.display())).map(|()| Some(trash)),
            }
        });
        moved.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "it is no longer needed and stays until the next start");
            None
        })
    }

    /// Removes what a crash left: everything in `tmp`, and files that no record names.
    pub(super) fn recover(&self) -> Result<()> {
        for path in &self.strays()?.unnamed {
            tracing::info!(path = %path.display(), "removing a leftover");
            let _ = self.to_trash(path);
        }
        // Nothing of ours can be at work yet, so all of it is a dead process's.
        for name in names_in(&self.tmp())? {
            remove_tree(&self.tmp().join(name));
        }
        Ok(())
    }

    /// Bytes on disk; images with their shared sizes.
    pub fn usage(&self) -> Result<DiskUsage> {
        let images = self.list(&ListFilter { all: true, ..ListFilter::default() })?;
        let read = self.db.read()?;
        let mut folders = BTreeSet::new();
        let layers = read.list(&LAYERS)?;
        let unique = layers.iter().filter(|(_, layer)| folders.insert(layer.folder.clone()));
        let layers_bytes = unique.map(|(_, layer)| layer.bytes).sum();
        let blobs_bytes = read.list(&BLOBS)?.iter().map(|(_, blob)| blob.bytes).sum();
        Ok(DiskUsage { layers_bytes, blobs_bytes, images })
    }
}
