//! Layers without an image: what a build makes step by step. A layer is made from a tar or from a snapshot's writable layer
//! and stands on another by its chain id; a snapshot can be prepared on any of them; an image is a configuration over one.
//!
//! A layer that no image, snapshot or keep names is removed by the next collection, so whoever makes one gets a [`Lease`]
//! with it. A *keep* is a lease that outlives the process: a record under the holder's own key (a build cache's).
//!
//! ```no_run
//! # use std::sync::Arc;
//! # fn build(store: &Arc<image::Store>, db: &db::Db, base: vocab::Digest, config: Vec<u8>) -> image::Result<()> {
//! let snapshot = store.prepare_on("step-1", Some(&base))?;
//! // ... run the step in an overlay of `snapshot` ...
//! let sealed = store.seal("step-1")?;
//! db.write(|txn| store.keep(txn, "cache-key", &sealed.layer.chain))?;
//! let id = store.create_image(config, Some(&sealed.layer.chain), vec!["app".parse()?], None)?;
//! # Ok(()) }
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use linux::fs::{OFlags, Root};
use vocab::{Digest, Reference, crash};

use super::Store;
use super::commit::{Additions, NewImage};
use super::ingest::{Packing, StagedLayer};
use super::load::read_head;
use super::records::*;
use super::staging::{Staging, unique};
use crate::chunk::{Pool, ReadSource};
use crate::config::{Config, chain_ids};
use crate::error::{Context, Error, Result};
use crate::layer;
use crate::model::*;
use crate::pack::{self, Packer};

const BUFFERS: usize = 16;

/// Keeps layers, with those below them, in the store while it lives.
#[derive(Debug)]
pub struct Lease {
    store: Arc<Store>,
    chains: Vec<Digest>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.unpin(&self.chains);
    }
}

/// A layer that was just made. It stays as long as its lease does, or what names it meanwhile.
#[derive(Debug)]
pub struct Sealed {
    pub layer: LayerFacts,
    pub lease: Lease,
}

impl Store {
    /// As [`Store::prepare`], on a chain of layers instead of an image (`None`: on nothing). The layers stay until the snapshot is
    /// removed or sealed.
    pub fn prepare_on(&self, container: &str, top: Option<&Digest>) -> Result<Snapshot> {
        let prepared = self.prepare_files_on(container, top)?;
        crash::point("image.snapshot.files");
        self.db.write(|txn| prepared.record(txn))?;
        crash::point("image.snapshot.recorded");
        Ok(prepared.keep())
    }

    /// Makes the snapshot's writable layer a layer on top of the snapshot's own, without copying a file: the folder is
    /// renamed, and its tar is only made once to be hashed. Durable; the snapshot is gone, whatever comes of it. Nothing may have it
    /// mounted. An unchanged snapshot gives a layer of an empty tar.
    pub fn seal(self: &Arc<Self>, container: &str) -> Result<Sealed> {
        let (below, pins) = {
            let _lock = self.lock();
            let record = self.snapshot_record(container)?;
            let pins = self.pin(record.layers.iter().copied());
            (record.layers, pins)
        };
        let what = format!("seal {container}");
        let folder = self.snapshots_dir().join(container);
        let upper = Root::open(folder.join("upper"))
            .and_then(|upper| linux::fs::reopen(&upper, OFlags::RDONLY | OFlags::DIRECTORY))
            .context(|| &what)?;
        let staging = Staging::new(&self.tmp())?;
        let made = staging.folder()?;
        let (reader, writer) = std::io::pipe().context(|| "make a pipe")?;
        let mut tar = crate::hash::HashReader::new(reader);
        let described = std::thread::scope(|scope| {
            let packing = scope.spawn(|| {
                let mut packer = Packer::new(std::io::BufWriter::with_capacity(256 << 10, writer));
                crate::deep::walk(|| pack::pack_layer(&mut packer, &upper)).context(|| &what)??;
                let mut out = packer.finish()?;
                out.flush().map_err(|source| Error::Stream { what: "write a layer", source })
            });
            let described = layer::describe(ReadSource::new(&mut tar, Pool::new(BUFFERS)), &made, &what);
            let packed = packing.join().unwrap_or_else(|_| Err(Error::Damaged("packing a layer panicked".into())));
            packed.and(described)
        })?;
        let (diff_id, tar_bytes) = tar.finish();
        let chain = on_top(below.last(), &diff_id);
        let mut record = LayerRecord {
            folder: format!("{}-{}", &diff_id.hex()[..12], unique()?),
            diff_id,
            tar_bytes,
            bytes: described.bytes,
            compressed: None,
            // Its root looks as that of the layers below does, and its tar does not tell.
            rebased: !below.is_empty(),
            parent: below.last().copied(),
        };
        if below.is_empty() {
            let mark = made.join("incomplete");
            File::create_new(&mark).context(|| format!("make {}", mark.display()))?;
        }
        staging.sync()?;
        crash::point("image.seal.synced");

        let lock = self.lock();
        let claim = self.claim(container);
        match self.db.read()?.get(&LAYERS, &chain)? {
            Some(same) => record = same,
            None => {
                let place = self.layers_dir().join(&record.folder);
                let what = || format!("make layer {chain}");
                std::fs::rename(folder.join("upper"), made.join("diff")).context(what)?;
                crash::point("image.seal.taken");
                std::fs::rename(&made, &place).context(what)?;
                for folder in [&place, &self.layers_dir()] {
                    File::open(folder).and_then(|folder| folder.sync_all()).context(what)?;
                }
            }
        }
        let lease = self.lease_locked(below.iter().copied().chain([chain]).collect());
        self.owe(chain);
        crash::point("image.seal.before_record");
        let written = self.db.write(|txn| {
            txn.put(&LAYERS, &chain, &record)?;
            txn.remove(&SNAPSHOTS, &container.to_owned())?;
            Ok::<_, Error>(())
        });
        crash::point("image.seal.after_record");
        drop(lock);
        // When the commit failed the folder of the layer is nobody's: the next start finds it.
        written?;
        self.remove_folder(container);
        drop((claim, pins));
        Ok(Sealed { layer: facts(chain, &record), lease })
    }

    /// Makes a layer of a tar (plain or packed) on top of `parent`.
    pub fn add_layer_tar(self: &Arc<Self>, parent: Option<&Digest>, input: &mut (dyn Read + Send)) -> Result<Sealed> {
        let below = {
            let _lock = self.lock();
            let below = self.chain_below(parent)?;
            self.lease_locked(below)
        };
        let stream = |source| Error::Stream { what: "read the layer", source };
        let head = read_head(input).map_err(stream)?;
        let tar = crate::inflate::inflate(head, input).map_err(stream)?;
        let mut tar = tar.ok_or_else(|| Error::invalid("layer", "not a tar or compressed tar"))?;
        let staging = Staging::new(&self.tmp())?;
        let staged = self.stage(&staging, "layer", |send| {
            let pool = Pool::new(BUFFERS);
            while let Some(chunk) = pool.read(&mut tar).map_err(stream)? {
                if !send(&chunk) {
                    break;
                }
            }
            Ok(())
        })?;
        let chain = on_top(parent, &staged.diff_id);
        let _lease = {
            let _lock = self.lock();
            self.owe(chain);
            self.lease_locked(vec![chain])
        };
        let mut add = Additions::default();
        if self.db.read()?.get(&LAYERS, &chain)?.is_none() {
            let lowers = self.lowers(&below.chains)?;
            let mut record = self.add_layer(&staging, &staged, parent.is_some(), &lowers, &mut add)?;
            record.parent = parent.copied();
            add.layers.insert(chain, record);
        }
        self.settle(&staging, &add)?;
        drop(add);
        let layer = self.layer(&chain)?.ok_or_else(|| Error::Damaged(format!("layer {chain} has no record")))?;
        let lease = self.lease(&chain)?;
        Ok(Sealed { layer, lease })
    }

    /// Makes an image of a configuration and the layers up to `top`, which must be those that its diff ids tell, with its
    /// names, in one transaction.
    pub fn create_image(
        &self,
        config: Vec<u8>,
        top: Option<&Digest>,
        names: Vec<Reference>,
        parent: Option<Digest>,
    ) -> Result<Digest> {
        let id = crate::hash::sha256(&config);
        let parsed = Config::parse(&config, &format!("configuration {id}"))?;
        let chains = chain_ids(&parsed.rootfs.diff_ids);
        if chains.last() != top {
            let told = chains.last().map_or_else(|| "no layer".to_owned(), Digest::to_string);
            return Err(Error::invalid(
                format!("image {id}"),
                format!("its diff ids lead to {told}, not to its layers"),
            ));
        }
        if chains.len() > self.options.limits.layers {
            return Err(Error::limit(format!("image {id}"), format!("max depth exceeded: {} layers", chains.len())));
        }
        let staging = Staging::new(&self.tmp())?;
        let (layers, _pins) = {
            let _lock = self.lock();
            (self.stored_layers(&chains)?, self.pin(chains))
        };
        let names = names.into_iter().map(Reference::or_latest).collect();
        let image = NewImage { id, config, parsed, layers, names, manifests: Vec::new(), parent };
        self.commit_images(&staging, vec![image])?;
        Ok(id)
    }

    /// Keeps a layer and those below it under the holder's key, in place of what was kept there, as long as the record is there.
    pub fn keep(&self, txn: &mut db::Write<'_>, key: &str, chain: &Digest) -> Result<()> {
        if txn.get(&LAYERS, chain)?.is_none() {
            return Err(Error::NoSuchLayer(*chain));
        }
        Ok(txn.put(&KEPT, &key.to_owned(), &KeptRecord { chain: *chain })?)
    }

    /// Lets go of what was kept; the next [`Store::collect`] removes what nothing else names. No error if there is nothing.
    pub fn unkeep(&self, txn: &mut db::Write<'_>, key: &str) -> Result<()> {
        Ok(txn.remove(&KEPT, &key.to_owned())?)
    }

    /// What is kept under keys that start with `prefix`.
    pub fn kept(&self, prefix: &str) -> Result<Vec<(String, LayerFacts)>> {
        let read = self.db.read()?;
        let mut found = Vec::new();
        for (key, kept) in read.list_prefix(&KEPT, prefix.as_bytes())? {
            if let Some(record) = read.get(&LAYERS, &kept.chain)? {
                found.push((key, facts(kept.chain, &record)));
            }
        }
        Ok(found)
    }

    /// A layer by its chain id.
    pub fn layer(&self, chain: &Digest) -> Result<Option<LayerFacts>> {
        Ok(self.db.read()?.get(&LAYERS, chain)?.map(|record| facts(*chain, &record)))
    }

    /// All layers.
    pub fn layers(&self) -> Result<Vec<LayerFacts>> {
        Ok(self.db.read()?.list(&LAYERS)?.iter().map(|(chain, record)| facts(*chain, record)).collect())
    }

    /// Every layer of any image.
    pub fn layers_of_images(&self) -> Result<std::collections::HashSet<Digest>> {
        Ok(self.db.read()?.list(&IMAGES)?.into_iter().flat_map(|(_, image)| image.layers).collect())
    }

    /// The topmost layer of an image, if it has any: what a build goes on from.
    pub fn top_layer(&self, image: &Digest) -> Result<Option<Digest>> {
        let record = self.db.read()?.get(&IMAGES, image)?.ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
        Ok(record.layers.last().copied())
    }

    /// Puts a layer that stands alone (or anywhere) on top of another: the same files under another chain id. What is there
    /// already is used again.
    pub fn stack(self: &Arc<Self>, parent: Option<&Digest>, layer: &Digest) -> Result<Sealed> {
        let facts = self.layer(layer)?.ok_or(Error::NoSuchLayer(*layer))?;
        let chain = on_top(parent, &facts.diff_id);
        match self.lease(&chain) {
            Ok(lease) => {
                let layer = self.layer(&chain)?.ok_or(Error::NoSuchLayer(chain))?;
                return Ok(Sealed { layer, lease });
            }
            Err(Error::NoSuchLayer(_)) => {}
            Err(error) => return Err(error),
        }
        let blob = self.blob(&facts.diff_id)?.ok_or(Error::NoSuchBlob(facts.diff_id))?;
        self.add_layer_tar(parent, &mut *blob.reader(0)?)
    }

    /// Keeps a layer and those below it while the lease lives.
    pub fn lease(self: &Arc<Self>, top: &Digest) -> Result<Lease> {
        let _lock = self.lock();
        let chains = self.chain_below(Some(top))?;
        Ok(self.lease_locked(chains))
    }

    pub(super) fn lease_locked(self: &Arc<Self>, chains: Vec<Digest>) -> Lease {
        self.pin_all(&chains);
        Lease { store: self.clone(), chains }
    }

    /// The layers up to `top`, bottom first.
    pub(crate) fn chain_below(&self, top: Option<&Digest>) -> Result<Vec<Digest>> {
        let read = self.db.read()?;
        let mut chains = Vec::new();
        let mut next = top.copied();
        while let Some(chain) = next {
            next = read.get(&LAYERS, &chain)?.ok_or(Error::NoSuchLayer(chain))?.parent;
            chains.push(chain);
        }
        chains.reverse();
        Ok(chains)
    }

    /// Layers of the store in the form in which a new image names them.
    pub(super) fn stored_layers(&self, chains: &[Digest]) -> Result<Vec<StagedLayer>> {
        let read = self.db.read()?;
        let stored = chains.iter().map(|chain| match read.get(&LAYERS, chain)? {
            Some(layer) => Ok(stored(&layer)),
            None => Err(Error::NoSuchLayer(*chain)),
        });
        stored.collect()
    }
}

/// A layer of the store as if it were staged: nothing has to be moved.
pub(super) fn stored(layer: &LayerRecord) -> StagedLayer {
    StagedLayer {
        digest: layer.diff_id,
        size: layer.tar_bytes,
        packing: Packing::Plain,
        diff_id: layer.diff_id,
        tar_bytes: layer.tar_bytes,
        folder: None,
        unpacked: Default::default(),
        blob: None,
    }
}

/// The chain id of a layer on top of another.
pub(super) fn on_top(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        Some(parent) => crate::hash::sha256(format!("{parent} {diff_id}").as_bytes()),
        None => *diff_id,
    }
}

fn facts(chain: Digest, record: &LayerRecord) -> LayerFacts {
    LayerFacts {
        chain,
        parent: record.parent,
        diff_id: record.diff_id,
        bytes: record.bytes,
        tar_bytes: record.tar_bytes,
        compressed: record.compressed.as_ref().map(|compressed| (compressed.digest, compressed.size)),
    }
}
