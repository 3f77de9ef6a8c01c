//! What is reachable, and what is not: image and snapshot records name layers, layers and images name blobs. Whatever no
//! record names is removed, record first, then file: a crash between the two leaves a file that the next start finds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use vocab::{Digest, crash};

use super::Store;
use super::records::*;
use super::staging::{remove_tree, unique};
use crate::error::{Context, Error, Result};
use crate::model::{Collected, DiskUsage, Finding, ListFilter};

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
        live.extend(self.pins.lock().unwrap_or_else(|e| e.into_inner()).keys());
        let mut dead = Dead::default();
        let mut live_folders = HashSet::new();
        let mut live_blobs: HashSet<Digest> = images.iter().map(|(id, _)| *id).collect();
        live_blobs.extend(images.iter().flat_map(|(_, image)| image.manifests.iter().map(|m| m.digest)));
        let mut gone: Vec<(Digest, LayerRecord)> = Vec::new();
        for (chain, layer) in txn.list(&LAYERS)? {
            if live.contains(&chain) {
                live_folders.insert(layer.folder.clone());
                live_blobs.extend(layer.compressed.iter().map(|compressed| compressed.digest));
            } else {
                gone.push((chain, layer));
            }
        }
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
        let trash = self.tmp().join(format!("trash-{}", unique().ok()?));
        match std::fs::rename(path, &trash) {
            Ok(()) => Some(trash),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "it is no longer needed and could not be moved away");
                }
                None
            }
        }
    }

    /// Removes what a crash left: everything in `tmp`, and files that no record names.
    pub(super) fn recover(&self) -> Result<()> {
        let strays = self.strays()?;
        for path in &strays.unnamed {
            tracing::info!(path = %path.display(), "removing a leftover");
            let _ = self.to_trash(path);
        }
        // Nothing of ours can be at work yet, so all of it is a dead process's.
        for name in names_in(&self.tmp())? {
            remove_tree(&self.tmp().join(name));
        }
        Ok(())
    }

    fn strays(&self) -> Result<Strays> {
        let read = self.db.read()?;
        let folders: HashSet<OsString> = read.list(&LAYERS)?.into_iter().map(|(_, l)| l.folder.into()).collect();
        let blobs: HashSet<OsString> = read.list(&BLOBS)?.into_iter().map(|(d, _)| d.hex().into()).collect();
        let snapshots: HashSet<OsString> = read.list(&SNAPSHOTS)?.into_iter().map(|(id, _)| id.into()).collect();
        let mut strays = Strays::default();
        for (folder, named) in
            [(self.layers_dir(), &folders), (self.blobs_dir(), &blobs), (self.snapshots_dir(), &snapshots)]
        {
            let present = names_in(&folder)?;
            strays.unnamed.extend(present.iter().filter(|name| !named.contains(*name)).map(|name| folder.join(name)));
            strays.missing.extend(named.iter().filter(|name| !present.contains(*name)).map(|name| folder.join(name)));
        }
        strays.missing.sort();
        Ok(strays)
    }

    /// Compares records with folders and files. `deep` reads and hashes every blob and makes every layer's tar again.
    pub fn check(&self, deep: bool) -> Result<Vec<Finding>> {
        let _lock = self.lock();
        let mut findings = Vec::new();
        let mut find = |what: String, remedy: &str| findings.push(Finding { what, remedy: remedy.to_owned() });
        let strays = self.strays()?;
        for path in &strays.unnamed {
            find(format!("{} belongs to nothing", path.display()), "restart the engine: it removes leftovers at start");
        }
        for path in &strays.missing {
            find(format!("{} is missing", path.display()), "load or pull the image again");
        }
        let read = self.db.read()?;
        let layers: HashMap<Digest, LayerRecord> = read.list(&LAYERS)?.into_iter().collect();
        let blobs: HashMap<Digest, BlobRecord> = read.list(&BLOBS)?.into_iter().collect();
        let images: HashMap<Digest, ImageRecord> = read.list(&IMAGES)?.into_iter().collect();
        for (id, image) in &images {
            let mut needed: Vec<Digest> = image.manifests.iter().map(|m| m.digest).collect();
            needed.push(*id);
            for digest in needed.iter().filter(|digest| !blobs.contains_key(digest)) {
                find(
                    format!("image {id} needs blob {digest}, which has no record"),
                    "remove the image and load it again",
                );
            }
            for chain in image.layers.iter().filter(|chain| !layers.contains_key(chain)) {
                find(
                    format!("image {id} needs layer {chain}, which has no record"),
                    "remove the image and load it again",
                );
            }
        }
        for (name, record) in read.list(&NAMES)? {
            if !images.contains_key(&record.image) {
                find(format!("name {name} stands for {}, which is no image", record.image), "tag another image so");
            }
        }
        for (digest, blob) in &blobs {
            let Ok(meta) = std::fs::metadata(self.blob_path(digest)) else { continue };
            if meta.len() != blob.bytes {
                let what = format!("blob {digest} has {} bytes, its record says {}", meta.len(), blob.bytes);
                find(what, "remove the image and load it again");
            } else if deep {
                let mut file = std::fs::File::open(self.blob_path(digest)).context(|| format!("open blob {digest}"))?;
                let mut hash = crate::hash::HashWriter::new(std::io::sink());
                std::io::copy(&mut file, &mut hash).context(|| format!("read blob {digest}"))?;
                let (_, actual, _) = hash.finish();
                if actual != *digest {
                    find(format!("blob {digest} has the digest {actual}"), "remove the image and load it again");
                }
            }
        }
        if deep {
            for layer in layers.values().filter(|layer| layer.compressed.is_none()) {
                let mut hash = crate::hash::HashWriter::new(std::io::sink());
                let copied = crate::layer::RecipeReader::open(&self.layers_dir().join(&layer.folder))
                    .map_err(|e| e.to_string())
                    .and_then(|mut tar| std::io::copy(&mut tar, &mut hash).map_err(|e| e.to_string()));
                let (_, actual, _) = hash.finish();
                match copied {
                    Err(error) => {
                        find(format!("layer {}: {error}", layer.diff_id), "remove the image and load it again")
                    }
                    Ok(_) if actual != layer.diff_id => {
                        find(
                            format!("layer {} was changed on disk", layer.diff_id),
                            "remove the image and load it again",
                        );
                    }
                    Ok(_) => {}
                }
            }
        }
        Ok(findings)
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

#[derive(Default)]
struct Strays {
    unnamed: Vec<PathBuf>,
    missing: Vec<PathBuf>,
}

fn names_in(folder: &Path) -> Result<HashSet<OsString>> {
    let what = || format!("list {}", folder.display());
    let entries = std::fs::read_dir(folder).context(what)?;
    entries.map(|entry| Ok(entry.context(what)?.file_name())).collect::<Result<_, Error>>()
}
