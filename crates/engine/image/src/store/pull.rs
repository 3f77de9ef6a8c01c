//! Taking an image in from a registry: layers come as streams, several at a time, each downloaded, hashed, inflated and
//! unpacked in one pipeline; in the end everything becomes part of the store, with its names, in one transaction.
//!
//! What was received of a compressed layer stays in `partial/` when its stream breaks, so that the next try asks for the
//! rest only. What is there is not trusted: it goes through the same pipeline again, and the digest decides in the end.
//!
//! ```no_run
//! # use std::{io::Read, sync::Arc};
//! # fn pull(
//! #     store: &Arc<image::Store>, manifest: image::PulledManifest, layers: &[(vocab::Digest, u64)],
//! #     fetch: impl Fn(&vocab::Digest, u64) -> Box<dyn Read + Send>,
//! # ) -> image::Result<()> {
//! let pull = store.pull()?;
//! for (at, wanted) in pull.missing(&manifest.config)?.into_iter().enumerate().filter(|(_, wanted)| *wanted) {
//!     let (digest, size) = layers[at];
//!     let part = pull.layer(digest, size)?; // each on a thread of its own
//!     let from = part.have(); // 0 again if the registry cannot give a range
//!     part.receive(from, &mut fetch(&digest, from), &|_bytes| {})?;
//! }
//! pull.commit(manifest, vec!["busybox:1.36".parse()?])?;
//! # Ok(()) }
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use vocab::{Digest, Reference};

use super::Store;
use super::held::Claim;
use super::ingest::{Blob, Ingest, Packing, StagedLayer};
use super::layers::{Lease, stored};
use super::load::{INFLATED_BUFFERS, new_image};
use super::records::{Descriptor, LAYERS, LayerRecord};
use super::staging::Staging;
use crate::chunk::Pool;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::manifest::{self, Document};

const STREAM_BUFFERS: usize = 32;

/// An image on its way into the store. Dropped before [`Pull::commit`], nothing of it is there, except partial layers for
/// the next try.
pub struct Pull {
    store: Arc<Store>,
    staging: Staging,
    /// Shared by the layers, so that more of them take no more memory.
    stream: Pool,
    inflated: Pool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    received: HashMap<Digest, StagedLayer>,
    /// By diff id.
    present: HashMap<Digest, StagedLayer>,
    leases: Vec<Lease>,
}

/// The documents of an image, as they came.
#[derive(Debug, Clone)]
pub struct PulledManifest {
    pub media_type: String,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
}

/// One layer that is to be received.
pub struct Part<'a> {
    pull: &'a Pull,
    digest: Digest,
    size: u64,
    path: PathBuf,
    have: u64,
    /// Nobody else writes to the partial file.
    _claim: Option<Claim<'a>>,
}

impl Store {
    pub fn pull(self: &Arc<Self>) -> Result<Pull> {
        Ok(Pull {
            staging: Staging::new(&self.tmp())?,
            store: self.clone(),
            stream: Pool::new(STREAM_BUFFERS),
            inflated: Pool::new(INFLATED_BUFFERS),
            state: Mutex::default(),
        })
    }

    pub(super) fn partial_dir(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// Removes what interrupted pulls have left, except where one goes on. Returns the bytes.
    pub fn forget_partials(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in super::check::names_in(&self.partial_dir())? {
            let Some(key) = name.to_str().map(partial_key) else { continue };
            let Some(_claim) = self.claim_alone(&key) else { continue };
            let path = self.partial_dir().join(&name);
            bytes += fs::metadata(&path).map_or(0, |meta| meta.len());
            let _ = fs::remove_file(&path);
        }
        Ok(bytes)
    }
}

fn partial_key(hex: &str) -> String {
    format!("partial/{hex}")
}

impl Pull {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// For each layer of the configuration, bottom first, whether it has to be received. The others are in the store and
    /// stay there while this pull lives.
    pub fn missing(&self, config: &[u8]) -> Result<Vec<bool>> {
        let parsed = Config::parse(config, "configuration")?;
        let _lock = self.store.lock();
        let layers: Vec<(Digest, LayerRecord)> = self.store.db.read()?.list(&LAYERS)?;
        let mut state = self.state();
        let mut pinned = Vec::new();
        for (chain, layer) in layers.iter().filter(|(_, layer)| parsed.rootfs.diff_ids.contains(&layer.diff_id)) {
            pinned.push(*chain);
            state.present.insert(layer.diff_id, stored(layer));
        }
        state.leases.push(self.store.lease_locked(pinned));
        Ok(parsed.rootfs.diff_ids.iter().map(|diff_id| !state.present.contains_key(diff_id)).collect())
    }

    /// A layer by digest and size as the manifest tells them.
    pub fn layer(&self, digest: Digest, size: u64) -> Result<Part<'_>> {
        let claim = self.store.claim_alone(&partial_key(&digest.hex()));
        let path = match claim {
            Some(_) => self.store.partial_dir().join(digest.hex()),
            // Another pull receives the same layer: this one does without what is there.
            None => self.staging.fresh(),
        };
        let have = fs::metadata(&path).map_or(0, |meta| meta.len());
        if have > size {
            fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
        }
        let have = if have > size { 0 } else { have };
        Ok(Part { pull: self, digest, size, path, have, _claim: claim })
    }

    /// Makes the image part of the store under these names (with tags or with digests) and returns its id. Everything is checked against
    /// the manifest and the configuration, and durable.
    pub fn commit(self, image: PulledManifest, names: Vec<Reference>) -> Result<Digest> {
        let limits = &self.store.options.limits;
        let digest = crate::hash::sha256(&image.manifest);
        let what = format!("manifest {digest}");
        let Document::Image { config, layers } = manifest::parse(&image.manifest, &image.media_type, &what, limits)?
        else {
            return Err(Error::invalid(what, "an index, not an image"));
        };
        let id = crate::hash::sha256(&image.config);
        if id != config.digest {
            return Err(Error::Digest { what: "configuration".into(), expected: config.digest, actual: id });
        }
        let diff_ids = Config::parse(&image.config, &format!("configuration {id}"))?.rootfs.diff_ids;
        let state = std::mem::take(&mut *self.state());
        let staged = layers.iter().enumerate().map(|(at, link)| {
            let received = state.received.get(&link.digest).filter(|layer| layer.size == link.size);
            let present = || diff_ids.get(at).and_then(|diff_id| state.present.get(diff_id));
            let layer = received.or_else(present).cloned();
            layer.ok_or_else(|| Error::invalid(&what, format!("layer {} was not received", link.digest)))
        });
        let names = names.into_iter().map(Reference::or_latest).collect();
        let mut new = new_image(&image.config, staged.collect::<Result<_>>()?, names, limits)?;
        let media_type = match image.media_type.as_str() {
            "" => manifest::OCI_MANIFEST.to_owned(),
            _ => image.media_type,
        };
        let descriptor = Descriptor { media_type, digest, size: image.manifest.len() as u64 };
        new.manifests.push((descriptor, image.manifest));
        self.store.commit_images(&self.staging, vec![new])?;
        drop(state);
        Ok(id)
    }
}

impl Part<'_> {
    /// Bytes that an earlier try has left: the rest is enough.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Takes the layer in. `from`: where `input` begins, at most [`Part::have`]. `progress` is told bytes of the whole layer.
    /// [`Error::Stream`]: the input broke, what came of it is kept, and the layer may be asked for again. On any other error nothing of
    /// it is kept.
    pub fn receive(self, from: u64, input: &mut (dyn Read + Send), progress: &dyn Fn(u64)) -> Result<()> {
        let what = format!("layer {}", self.digest);
        let received = self.run(from, input, progress, &what);
        match received {
            Ok(layer) => {
                self.pull.state().received.insert(self.digest, layer);
                Ok(())
            }
            Err(error) => {
                if !matches!(error, Error::Stream { .. }) {
                    let _ = fs::remove_file(&self.path);
                }
                Err(error)
            }
        }
    }

    fn run(&self, from: u64, input: &mut (dyn Read + Send), progress: &dyn Fn(u64), what: &str) -> Result<StagedLayer> {
        if from > self.have {
            return Err(Error::invalid(what, format!("input from byte {from}, but only {} are there", self.have)));
        }
        let disk = || format!("keep {what}");
        let before: Box<dyn Read> = match from {
            0 => Box::new(std::io::empty()),
            _ => Box::new(File::open(&self.path).context(disk)?.take(from)),
        };
        let mut all = before.chain(Tolerant { input, error: None });
        let store = &self.pull.store;
        let ingest = Ingest {
            staging: &self.pull.staging,
            limits: &store.options.limits,
            rootless: store.options.rootless,
            inflated: self.pull.inflated.clone(),
        };
        let short = || Error::Stream { what: "receive a layer", source: std::io::ErrorKind::UnexpectedEof.into() };
        let (received, layer) = std::thread::scope(|scope| {
            let mut chunk = self.pull.stream.read(&mut all).context(disk)?;
            let head = chunk.as_deref().unwrap_or_default();
            let Some(packing) = Packing::sniff(head) else {
                return match (head.len() as u64) < self.size.min(512) {
                    true => Ok((head.len() as u64, Err(short()))),
                    false => Err(Error::Unsupported(format!("{what}: not a tar, gzip or zstd"))),
                };
            };
            let blob = Blob::Resumed { path: &self.path, have: from };
            let mut running = ingest.start(scope, packing, what.to_owned(), false, blob);
            let mut received = 0;
            while let Some(next) = chunk {
                received += next.len() as u64;
                if received > self.size {
                    return Err(Error::invalid(what, format!("it is longer than {} bytes", self.size)));
                }
                if !running.send(&next) {
                    // It has stopped listening: its error says why.
                    break;
                }
                drop(next);
                progress(received);
                chunk = self.pull.stream.read(&mut all).context(disk)?;
            }
            running.close();
            Ok((received, running.join()))
        })?;
        // When the input broke, the layer could only fail: what broke first is the thing to tell.
        if let Some(source) = all.into_inner().1.error {
            return Err(Error::Stream { what: "receive a layer", source });
        }
        let layer = match layer {
            Err(Error::Tar { .. } | Error::Invalid { .. } | Error::Stream { .. }) if received < self.size => {
                Err(short())
            }
            Ok(_) if received < self.size => Err(short()),
            other => other,
        }?;
        if layer.digest != self.digest && !vocab::weak::without("pull-digest") {
            return Err(Error::Digest { what: what.to_owned(), expected: self.digest, actual: layer.digest });
        }
        Ok(layer)
    }
}

/// An error of the input is an end that is remembered: what came before it counts.
struct Tolerant<'a> {
    input: &'a mut (dyn Read + Send),
    error: Option<std::io::Error>,
}

impl Read for Tolerant<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(out) {
            Err(e) if e.kind() != std::io::ErrorKind::Interrupted => {
                self.error = Some(e);
                Ok(0)
            }
            other => other,
        }
    }
}
