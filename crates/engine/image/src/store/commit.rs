//! From staging to the store. Everything that the new records will speak of is complete and on disk before they are
//! written, in one transaction: a crash at any instant leaves the images whole or not at all, and leftovers that no record
//! speaks of, which the next start removes.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use vocab::{Digest, Reference, crash};

use super::ingest::{Packing, StagedLayer};
use super::records::*;
use super::staging::{Staging, remove_tree, unique};
use super::{Pins, Store};
use crate::chunk::{Pool, ReadSource};
use crate::config::{Config, chain_ids};
use crate::error::{Context, Error, Result};
use crate::layer::{self, RecipeReader, Unpacked};
use crate::manifest::{self, Document};

/// An image that is complete in staging (or has its layers in the store already).
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) parsed: Config,
    /// Bottom first, in the order of the configuration's diff ids, verified against them.
    pub(crate) layers: Vec<StagedLayer>,
    pub(crate) names: Vec<Reference>,
    pub(crate) manifests: Vec<(Descriptor, Vec<u8>)>,
    pub(crate) parent: Option<Digest>,
}

/// What one commit adds.
#[derive(Default)]
pub(super) struct Additions<'a> {
    pub(super) layers: BTreeMap<Digest, LayerRecord>,
    /// From staging to their place.
    moves: Vec<(PathBuf, PathBuf)>,
    blobs: BTreeMap<Digest, u64>,
    images: Vec<(Digest, ImageRecord, Vec<Reference>)>,
    /// Staged folders that have become some layer's.
    taken: HashSet<PathBuf>,
    /// Where new layers' folders are for now.
    staged_at: BTreeMap<String, PathBuf>,
    /// Layers of the store whose folders are shared.
    pins: Vec<Pins<'a>>,
}

impl Store {
    /// Makes `images` part of the store, durably and all together.
    pub(super) fn commit_images(&self, staging: &Staging, images: Vec<NewImage>) -> Result<()> {
        let chains: Vec<Digest> = images.iter().flat_map(|image| chain_ids(&image.parsed.rootfs.diff_ids)).collect();
        let _pins = {
            let _lock = self.lock();
            self.pin(chains)
        };
        let now = self.now_secs();
        let mut add = Additions::default();
        for image in images {
            self.add_image(staging, image, now, &mut add)?;
        }
        self.settle(staging, &add)
    }

    /// Writes the staged files to the disk, and makes them part of the store together with their records.
    pub(super) fn settle(&self, staging: &Staging, add: &Additions<'_>) -> Result<()> {
        crash::point("image.commit.staged");
        if add.staged_at.is_empty() {
            // A few documents: no reason to wait for what everybody else has written to this disk.
            for (from, _) in &add.moves {
                File::open(from).and_then(|file| file.sync_all()).context(|| format!("sync {}", from.display()))?;
            }
        } else {
            staging.sync()?;
        }
        crash::point("image.commit.synced");

        let _lock = self.lock();
        let mut moved: Vec<&Path> = Vec::new();
        let result = self.publish(add, &mut moved);
        if result.is_err() {
            self.unpublish(add, &moved);
        }
        result
    }

    /// Takes away what a failed [`Store::publish`] has moved into the store. A commit whose failure was told may have reached
    /// the disk all the same: what a record speaks of stays, and so does everything if nobody can tell.
    fn unpublish(&self, add: &Additions<'_>, moved: &[&Path]) {
        let named = || -> Result<HashSet<PathBuf>> {
            let read = self.db.read()?;
            let mut named = HashSet::new();
            for chain in add.layers.keys() {
                named.extend(read.get(&LAYERS, chain)?.map(|layer| self.layers_dir().join(layer.folder)));
            }
            for digest in add.blobs.keys() {
                named.extend(read.get(&BLOBS, digest)?.map(|_| self.blob_path(digest)));
            }
            Ok(named)
        };
        match named() {
            Ok(named) => moved.iter().filter(|path| !named.contains(**path)).for_each(|path| remove_tree(path)),
            Err(error) => tracing::warn!(%error, "what a failed load has moved stays until the next start"),
        }
    }

    fn publish<'a>(&self, add: &'a Additions<'_>, moved: &mut Vec<&'a Path>) -> Result<()> {
        // Another load may have brought the same layer while this one was on its way: the first one stays.
        let read = self.db.read()?;
        let mut new: BTreeMap<&Digest, &LayerRecord> = BTreeMap::new();
        let mut others: HashSet<Digest> = HashSet::new();
        for (chain, layer) in &add.layers {
            match read.get(&LAYERS, chain)? {
                None => drop(new.insert(chain, layer)),
                Some(other) if other.compressed != layer.compressed => drop(others.insert(*chain)),
                Some(_) => {}
            }
        }
        drop(read);
        let mut images = add.images.clone();
        for (_, record, _) in images.iter_mut().filter(|(_, r, _)| r.layers.iter().any(|chain| others.contains(chain)))
        {
            // They name layers in the form that ours had.
            record.manifests.clear();
        }
        let mut blobs: HashSet<Digest> = images.iter().map(|(id, ..)| *id).collect();
        blobs.extend(images.iter().flat_map(|(_, record, _)| record.manifests.iter().map(|m| m.digest)));
        blobs.extend(new.values().filter_map(|layer| layer.compressed.as_ref()).map(|compressed| compressed.digest));
        let mut needed: HashSet<PathBuf> = blobs.iter().map(|digest| self.blob_path(digest)).collect();
        needed.extend(new.values().map(|layer| self.layers_dir().join(&layer.folder)));
        for (from, to) in &add.moves {
            if to.exists() || !needed.contains(to) {
                continue;
            }
            std::fs::rename(from, to).context(|| format!("rename {} to {}", from.display(), to.display()))?;
            moved.push(to);
            crash::point("image.commit.moved");
        }
        for folder in [self.layers_dir(), self.blobs_dir()] {
            File::open(&folder).and_then(|f| f.sync_all()).context(|| format!("sync {}", folder.display()))?;
        }
        crash::point("image.commit.before_record");
        self.db.write(|txn| {
            for (chain, layer) in &new {
                txn.put(&LAYERS, chain, layer)?;
            }
            for (digest, bytes) in add.blobs.iter().filter(|(digest, _)| blobs.contains(digest)) {
                txn.put(&BLOBS, digest, &BlobRecord { bytes: *bytes })?;
            }
            for (id, record, names) in &images {
                let mut record = record.clone();
                if let Some(old) = txn.get(&IMAGES, id)? {
                    for manifest in old.manifests {
                        if !record.manifests.contains(&manifest) {
                            record.manifests.push(manifest);
                        }
                    }
                    record.parent = record.parent.or(old.parent);
                }
                txn.put(&IMAGES, id, &record)?;
                for name in names {
                    txn.put(&NAMES, &name.to_string(), &NameRecord { image: *id })?;
                }
            }
            Ok::<_, Error>(())
        })?;
        crash::point("image.commit.after_record");
        Ok(())
    }

    fn add_image<'a>(&'a self, staging: &Staging, image: NewImage, now: i64, add: &mut Additions<'a>) -> Result<()> {
        let chains = chain_ids(&image.parsed.rootfs.diff_ids);
        let mut lowers: Vec<PathBuf> = Vec::new();
        // Digests of the layers as they are stored, to compare manifests with.
        let mut stored = Vec::new();
        for (at, (chain, staged)) in chains.iter().zip(&image.layers).enumerate() {
            let record = match add.layers.get(chain).cloned() {
                Some(record) => Some(record),
                None => self.db.read()?.get(&LAYERS, chain)?,
            };
            let record = match record {
                Some(record) => record,
                None => {
                    let mut record = self.add_layer(staging, staged, at > 0, &lowers, add)?;
                    record.parent = at.checked_sub(1).map(|below| chains[below]);
                    add.layers.insert(*chain, record.clone());
                    record
                }
            };
            stored.push(record.compressed.as_ref().map_or(record.diff_id, |compressed| compressed.digest));
            let folder = add.staged_at.get(&record.folder).cloned();
            lowers.insert(0, folder.unwrap_or_else(|| self.layers_dir().join(&record.folder)).join("diff"));
        }
        self.add_blob(staging, &image.config, add)?;
        let mut manifests = Vec::new();
        for (descriptor, bytes) in &image.manifests {
            let document = manifest::parse(bytes, &descriptor.media_type, "manifest", &self.options.limits)?;
            // A manifest is worth keeping as long as exactly its layers can be given out.
            if matches!(document, Document::Image { layers, .. } if layers.iter().map(|l| l.digest).eq(stored.iter().copied()))
            {
                self.add_blob(staging, bytes, add)?;
                manifests.push(descriptor.clone());
            }
        }
        let record = ImageRecord {
            layers: chains,
            manifests,
            parent: image.parent,
            created: image.parsed.created.clone(),
            labels: image.parsed.config.labels.clone(),
            tagged_at: now,
        };
        add.images.push((image.id, record, image.names));
        Ok(())
    }

    /// Finds or makes the folder of a layer on top of `lowers`. The record lacks its parent.
    pub(super) fn add_layer<'a>(
        &'a self,
        staging: &Staging,
        staged: &StagedLayer,
        has_parent: bool,
        lowers: &[PathBuf],
        add: &mut Additions<'a>,
    ) -> Result<LayerRecord> {
        let compressed = (staged.packing != Packing::Plain).then(|| Descriptor {
            media_type: staged.packing.media_type().to_owned(),
            digest: staged.digest,
            size: staged.size,
        });
        let mut record = LayerRecord {
            folder: String::new(),
            diff_id: staged.diff_id,
            tar_bytes: staged.tar_bytes,
            bytes: staged.unpacked.bytes,
            compressed,
            rebased: false,
            parent: None,
        };
        // The same layer elsewhere in a stack, as long as it was not completed from what is below it there.
        let mut twins: Vec<LayerRecord> = add.layers.values().cloned().collect();
        {
            let _lock = self.lock();
            let stored = self.db.read()?.list(&LAYERS)?.into_iter();
            let same: Vec<_> = stored.filter(|(_, layer)| layer.diff_id == staged.diff_id).collect();
            add.pins.push(self.pin(same.iter().map(|(chain, _)| *chain)));
            twins.extend(same.into_iter().map(|(_, layer)| layer));
        }
        let fits = |layer: &&LayerRecord| {
            layer.diff_id == staged.diff_id && !layer.rebased && (!has_parent || !self.wants_parent(layer, add))
        };
        if let Some(twin) = twins.iter().find(fits).cloned() {
            return Ok(LayerRecord { folder: twin.folder, bytes: twin.bytes, compressed: twin.compressed, ..record });
        }
        let (folder, unpacked) = match &staged.folder {
            Some(folder) if add.taken.insert(folder.clone()) => (folder.clone(), staged.unpacked.clone()),
            _ => {
                let source = twins.iter().find(|layer| layer.diff_id == staged.diff_id);
                let (folder, unpacked, kept) = self.remake(staging, staged, source, add)?;
                record.compressed = kept;
                (folder, unpacked)
            }
        };
        record.bytes = unpacked.bytes;
        if has_parent && unpacked.needs_parent() {
            record.bytes += layer::rebase(&folder.join("diff"), lowers, &unpacked, self.options.rootless)?;
            record.rebased = true;
        } else if !unpacked.foreign_links.is_empty() {
            let path = String::from_utf8_lossy(&unpacked.foreign_links[0].1).into_owned();
            return Err(Error::invalid(
                format!("layer {}", staged.diff_id),
                format!("a hard link to {path}, which is nowhere"),
            ));
        }
        if let (Some(compressed), Some(blob)) = (&record.compressed, &staged.blob)
            && compressed.digest == staged.digest
        {
            add.moves.push((blob.clone(), self.blob_path(&staged.digest)));
            add.blobs.insert(staged.digest, staged.size);
        }
        if !has_parent && unpacked.needs_parent() {
            let mark = folder.join("incomplete");
            File::create_new(&mark).context(|| format!("make {}", mark.display()))?;
        }
        record.folder = format!("{}-{}", &staged.diff_id.hex()[..12], unique()?);
        let place = self.layers_dir().join(&record.folder);
        add.staged_at.insert(record.folder.clone(), folder.clone());
        add.moves.push((folder, place));
        Ok(record)
    }

    /// A bottom layer may be shared by a stack in which it is not at the bottom only if it describes all its directories.
    fn wants_parent(&self, layer: &LayerRecord, add: &Additions<'_>) -> bool {
        let folder = match add.staged_at.get(&layer.folder) {
            Some(staged) => staged.clone(),
            None => self.layers_dir().join(&layer.folder),
        };
        folder.join("incomplete").exists()
    }

    /// Unpacks a layer once more, from what the store or staging keeps of it.
    fn remake(
        &self,
        staging: &Staging,
        staged: &StagedLayer,
        twin: Option<&LayerRecord>,
        add: &Additions<'_>,
    ) -> Result<(PathBuf, Unpacked, Option<Descriptor>)> {
        let what = format!("layer {}", staged.diff_id);
        let folder = staging.folder()?;
        let (tar, kept): (Box<dyn std::io::Read + Send>, _) = match (twin, &staged.folder) {
            (Some(twin), _) => match &twin.compressed {
                Some(compressed) => {
                    let staged_blob = staged.blob.as_ref().filter(|_| compressed.digest == staged.digest);
                    let path = staged_blob.cloned().unwrap_or_else(|| self.blob_path(&compressed.digest));
                    (inflate(&path)?, twin.compressed.clone())
                }
                None => {
                    let folder = add.staged_at.get(&twin.folder).cloned();
                    let folder = folder.unwrap_or_else(|| self.layers_dir().join(&twin.folder));
                    (Box::new(RecipeReader::open(&folder)?) as _, None)
                }
            },
            (None, Some(folder)) if staged.packing == Packing::Plain => {
                (Box::new(RecipeReader::open(folder)?) as _, None)
            }
            _ => return Err(Error::invalid(what, "its name in the archive speaks of another layer")),
        };
        let mut tar = crate::hash::HashReader::new(tar);
        let options = layer::Options {
            recipe: kept.is_none(),
            rootless: self.options.rootless,
            workers: 2,
            limits: self.options.limits.clone(),
        };
        let unpacked = layer::unpack(ReadSource::new(&mut tar, Pool::new(32)), &folder, &what, &options)?;
        let (actual, _) = tar.finish();
        if actual != staged.diff_id {
            return Err(Error::Damaged(format!("{what} gives {actual} when it is made again")));
        }
        Ok((folder, unpacked, kept))
    }

    fn add_blob(&self, staging: &Staging, bytes: &[u8], add: &mut Additions<'_>) -> Result<()> {
        let (digest, path) = staging.bytes(bytes)?;
        if add.blobs.insert(digest, bytes.len() as u64).is_none() {
            add.moves.push((path, self.blob_path(&digest)));
        }
        Ok(())
    }
}

/// A blob's bytes, inflated if they are compressed.
pub(super) fn inflate(path: &Path) -> Result<Box<dyn std::io::Read + Send>> {
    let what = || format!("read {}", path.display());
    let mut file = File::open(path).context(what)?;
    let head = super::load::read_head(&mut file).context(what)?;
    let packing = Packing::sniff(&head).unwrap_or(Packing::Plain);
    std::io::Seek::rewind(&mut file).context(what)?;
    packing.reader(file).context(what)
}
