//! Records compared with folders and files: what `doctor` asks the store. Exact while everything else goes on: what an
//! operation under way has made or is about to remove is no finding.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use vocab::Digest;

use super::Store;
use super::blobs::HOLDS;
use super::gc::Reach;
use super::records::*;
use crate::error::{Context, Error, Result};
use crate::hash::HashWriter;
use crate::layer::RecipeReader;
use crate::model::Finding;

const AGAIN: &str = "remove the image and load it again";

#[derive(Default)]
pub(super) struct Strays {
    pub(super) unnamed: Vec<PathBuf>,
    pub(super) missing: Vec<PathBuf>,
}

impl Store {
    /// Files that no record names and records whose files are missing. Under the lock of the files.
    pub(super) fn strays(&self) -> Result<Strays> {
        let read = self.db.read()?;
        let folders: HashSet<OsString> = read.list(&LAYERS)?.into_iter().map(|(_, l)| l.folder.into()).collect();
        let blobs: HashSet<OsString> = read.list(&BLOBS)?.into_iter().map(|(d, _)| d.hex().into()).collect();
        let snapshots: HashSet<OsString> = read.list(&SNAPSHOTS)?.into_iter().map(|(id, _)| id.into()).collect();
        drop(read);
        let mut strays = Strays::default();
        let mut compare = |folder: PathBuf, named: &HashSet<OsString>, sure: &dyn Fn(&OsString) -> Result<bool>| {
            let present = names_in(&folder)?;
            for name in present.symmetric_difference(named) {
                if sure(name)? {
                    let list = if named.contains(name) { &mut strays.missing } else { &mut strays.unnamed };
                    list.push(folder.join(name));
                }
            }
            Ok::<_, Error>(())
        };
        compare(self.layers_dir(), &folders, &|_| Ok(true))?;
        compare(self.blobs_dir(), &blobs, &|_| Ok(true))?;
        // Snapshots come and go without the lock. What differs is looked at once more while nobody can claim it.
        let held = self.held.lock();
        compare(self.snapshots_dir(), &snapshots, &|name| {
            let Some(container) = name.to_str() else { return Ok(true) };
            let record = self.db.read()?.get(&SNAPSHOTS, &container.to_owned())?;
            Ok(!held.is_claimed(container) && record.is_some() != self.snapshots_dir().join(container).exists())
        })?;
        strays.unnamed.sort();
        strays.missing.sort();
        Ok(strays)
    }

    /// Compares records with folders and files. `deep` reads and hashes every blob and makes every layer's tar again.
    pub fn check(&self, deep: bool) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut find = |what: String, remedy: &str| findings.push(Finding { what, remedy: remedy.to_owned() });
        let lock = self.lock();
        let strays = self.strays()?;
        for path in &strays.unnamed {
            find(format!("{} belongs to nothing", path.display()), "restart the engine: it removes leftovers at start");
        }
        for path in &strays.missing {
            find(format!("{} is missing", path.display()), "load or pull the image again");
        }
        let read = self.db.read()?;
        let (layers, images) = (read.list(&LAYERS)?, read.list(&IMAGES)?);
        let (names, snapshots) = (read.list(&NAMES)?, read.list(&SNAPSHOTS)?);
        let packed = read.list(&PACKED)?;
        let reach = Reach::new(&images, &snapshots, &read.list(&KEPT)?, &read.list(&HOLDS)?, &packed, &layers);
        let blobs: HashMap<Digest, BlobRecord> = read.list(&BLOBS)?.into_iter().collect();
        drop(read);
        let layers: HashMap<Digest, LayerRecord> = layers.into_iter().collect();
        let images: HashMap<Digest, ImageRecord> = images.into_iter().collect();
        // A snapshot on its way out takes its layers along when it is done: then is the time to look.
        let held = self.held.lock();
        let quiet = !held.is_a_snapshot_claimed();
        for chain in layers.keys().filter(|chain| quiet && !reach.layers.contains(chain) && !held.is_pinned(chain)) {
            find(format!("layer {chain} is needed by nothing"), "prune the images");
        }
        drop(held);
        let compressed = layers.values().filter_map(|l| l.compressed.as_ref()).map(|c| c.digest);
        let compressed: HashSet<Digest> = compressed.chain(packed.iter().map(|(_, p)| p.digest)).collect();
        for digest in blobs.keys().filter(|digest| !reach.blobs.contains(digest) && !compressed.contains(digest)) {
            find(format!("blob {digest} is needed by nothing"), "prune the images");
        }
        // What is hashed below stays that long; the rest of the store goes on.
        let _pins = self.pin(layers.keys().copied());
        drop(lock);

        for (id, image) in &images {
            for digest in image.manifests.iter().map(|m| m.digest).chain([*id]).filter(|d| !blobs.contains_key(d)) {
                find(format!("image {id} needs blob {digest}, which has no record"), AGAIN);
            }
        }
        let needed = images.iter().map(|(id, image)| (format!("image {id}"), &image.layers));
        let needed = needed.chain(snapshots.iter().map(|(id, snapshot)| (format!("snapshot {id}"), &snapshot.layers)));
        for (who, chains) in needed {
            for chain in chains.iter().filter(|chain| !layers.contains_key(chain)) {
                find(format!("{who} needs layer {chain}, which has no record"), AGAIN);
            }
        }
        for (name, record) in names.iter().filter(|(_, record)| !images.contains_key(&record.image)) {
            find(format!("name {name} stands for {}, which is no image", record.image), "tag another image so");
        }
        for (digest, blob) in &blobs {
            // A document's blob may go with its image at any moment: then it is no finding.
            let Ok(meta) = std::fs::metadata(self.blob_path(digest)) else { continue };
            if meta.len() != blob.bytes {
                find(format!("blob {digest} has {} bytes, its record says {}", meta.len(), blob.bytes), AGAIN);
            } else if deep && let Some(actual) = hash_file(&self.blob_path(digest))?.filter(|actual| actual != digest) {
                find(format!("blob {digest} has the digest {actual}"), AGAIN);
            }
        }
        for layer in layers.values().filter(|layer| deep && layer.compressed.is_none()) {
            match self.hash_layer(layer) {
                Err(error) => find(format!("layer {}: {error}", layer.diff_id), AGAIN),
                Ok(actual) if actual != layer.diff_id => {
                    find(format!("layer {} was changed on disk", layer.diff_id), AGAIN);
                }
                Ok(_) => {}
            }
        }
        Ok(findings)
    }

    fn hash_layer(&self, layer: &LayerRecord) -> Result<Digest, String> {
        let mut hash = HashWriter::new(std::io::sink());
        let mut tar = RecipeReader::open(&self.layers_dir().join(&layer.folder)).map_err(|e| e.to_string())?;
        std::io::copy(&mut tar, &mut hash).map_err(|e| e.to_string())?;
        Ok(hash.finish().1)
    }
}

/// `None` if the file is gone.
fn hash_file(path: &Path) -> Result<Option<Digest>> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.context(|| format!("open {}", path.display()))?,
    };
    let mut hash = HashWriter::new(std::io::sink());
    std::io::copy(&mut file, &mut hash).context(|| format!("read {}", path.display()))?;
    Ok(Some(hash.finish().1))
}

pub(super) fn names_in(folder: &Path) -> Result<HashSet<OsString>> {
    let what = || format!("list {}", folder.display());
    let entries = std::fs::read_dir(folder).context(what)?;
    entries.map(|entry| Ok(entry.context(what)?.file_name())).collect::<Result<_, Error>>()
}
