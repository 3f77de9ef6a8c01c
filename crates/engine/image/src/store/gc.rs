//! What is reachable, and what is not: images, snapshots and keeps name layers, layers (with what was packed of them) and images
//! name blobs, and holds of others name either. Whatever no record names is removed, record first, then file: a crash between the two leaves a file
//! that the next start finds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use vocab::{Digest, crash};

use super::Store;
use super::blobs::{HOLDS, Hold};
use super::check::names_in;
use super::records::*;
use super::staging::{remove_tree, unique};
use crate::error::{Context, Result};
use crate::model::{Collected, DiskUsage, ListFilter};

/// A pull that was not taken up again for so long never will be.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Records that are gone; their files follow.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    /// Topmost first.
    pub(crate) layers: Vec<Digest>,
    folders: Vec<String>,
    blobs: Vec<Digest>,
    pub(crate) bytes: u64,
}

/// What the records lead to. The one place that decides it.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) layers: HashSet<Digest>,
    pub(super) folders: HashSet<String>,
    pub(super) blobs: HashSet<Digest>,
    /// Of the layers.
    diff_ids: HashSet<Digest>,
    /// By diff id, what was packed of it.
    packed: HashMap<Digest, Vec<Digest>>,
}

impl Reach {
    pub(super) fn new(
        images: &[(Digest, ImageRecord)],
        snapshots: &[(String, SnapshotRecord)],
        kept: &[(String, KeptRecord)],
        holds: &[(String, Hold)],
        packed: &[(String, PackedRecord)],
        layers: &[(Digest, LayerRecord)],
    ) -> Self {
        let mut reach = Self::default();
        for (_, packed) in packed {
            reach.packed.entry(packed.diff_id).or_default().push(packed.digest);
        }
        for (id, image) in images {
            reach.blobs.insert(*id);
            reach.blobs.extend(image.manifests.iter().map(|manifest| manifest.digest));
            reach.layers.extend(&image.layers);
        }
        reach.blobs.extend(holds.iter().map(|(_, hold)| hold.digest));
        reach.layers.extend(holds.iter().filter_map(|(_, hold)| hold.layer));
        reach.layers.extend(snapshots.iter().flat_map(|(_, snapshot)| &snapshot.layers));
        let parents: HashMap<&Digest, Option<Digest>> =
            layers.iter().map(|(chain, layer)| (chain, layer.parent)).collect();
        for (_, kept) in kept {
            let mut next = Some(kept.chain);
            while let Some(chain) = next {
                reach.layers.insert(chain);
                next = parents.get(&chain).copied().flatten();
            }
        }
        for (chain, layer) in layers {
            if reach.layers.contains(chain) {
                reach.add_layer(*chain, layer);
            }
        }
        reach
    }

    fn add_layer(&mut self, chain: Digest, layer: &LayerRecord) {
        self.layers.insert(chain);
        self.folders.insert(layer.folder.clone());
        self.blobs.extend(layer.compressed.iter().map(|compressed| compressed.digest));
        self.blobs.extend(self.packed.get(&layer.diff_id).into_iter().flatten());
        self.diff_ids.insert(layer.diff_id);
    }
}

impl Store {
    /// Removes every blob, layer and leftover that nothing refers to. Safe at any time.
    pub fn collect(&self) -> Result<Collected> {
        self.collect_locked(self.lock())
    }

    pub(super) fn collect_locked(&self, lock: MutexGuard<'_, ()>) -> Result<Collected> {
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
        let layers = txn.list(&LAYERS)?;
        let packed = txn.list(&PACKED)?;
        let (images, snapshots) = (txn.list(&IMAGES)?, txn.list(&SNAPSHOTS)?);
        let mut reach = Reach::new(&images, &snapshots, &txn.list(&KEPT)?, &txn.list(&HOLDS)?, &packed, &layers);
        {
            let mut held = self.held.lock();
            let spared = |(chain, _): &&(Digest, LayerRecord)| !reach.layers.contains(chain) && held.is_pinned(chain);
            let owed: HashSet<Digest> = layers.iter().filter(spared).map(|(chain, _)| *chain).collect();
            for (chain, layer) in layers.iter().filter(|(chain, _)| owed.contains(chain)) {
                reach.add_layer(*chain, layer);
            }
            held.set_owed(owed);
        }
        let mut dead = Dead::default();
        for (chain, layer) in layers.into_iter().filter(|(chain, _)| !reach.layers.contains(chain)) {
            txn.remove(&LAYERS, &chain)?;
            dead.layers.push(chain);
            if !reach.folders.contains(&layer.folder) && !dead.folders.contains(&layer.folder) {
                dead.bytes += layer.bytes;
                dead.folders.push(layer.folder);
            }
        }
        for (key, _) in packed.iter().filter(|(_, packed)| !reach.diff_ids.contains(&packed.diff_id)) {
            txn.remove(&PACKED, key)?;
        }
        for (digest, blob) in txn.list(&BLOBS)? {
            if !reach.blobs.contains(&digest) {
                txn.remove(&BLOBS, &digest)?;
                dead.bytes += blob.bytes;
                dead.blobs.push(digest);
            }
        }
        Ok(dead)
    }

    /// Takes the files of dead records out of the store, under the lock; removing them can be slow and comes after it.
    pub(crate) fn bury(&self, dead: &Dead) -> Vec<PathBuf> {
        if !dead.folders.is_empty() || !dead.blobs.is_empty() {
            crash::point("image.collect.records_gone");
        }
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

    /// Removes what a crash left: layers that only a lease kept, everything in `tmp`, and files that no record names.
    pub(super) fn recover(&self) -> Result<()> {
        self.collect()?;
        let strays = self.strays()?;
        for path in &strays.unnamed {
            tracing::info!(path = %path.display(), "removing a leftover");
            let _ = self.to_trash(path);
        }
        for path in strays.missing.iter().filter(|path| path.starts_with(self.snapshots_dir())) {
            // A record is synced, the empty folders that were made just before it are not: a power cut may take them.
            let Some(container) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if let Err(error) = self.snapshot(container) {
                tracing::warn!(container, %error, "its folders are gone and could not be made again");
            }
        }
        for name in names_in(&self.partial_dir())? {
            let path = self.partial_dir().join(name);
            let age =
                std::fs::metadata(&path).and_then(|meta| meta.modified()).map(|at| at.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age > PARTIAL_AGE_MAX) {
                let _ = std::fs::remove_file(&path);
            }
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
