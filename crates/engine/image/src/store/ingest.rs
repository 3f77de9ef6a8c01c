//! One layer from a stream to a folder in staging, as a pipeline: hashed, inflated, parsed and written at the same time
//! on threads of its own, from shared buffers. Nothing is trusted until both digests are known.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use vocab::Digest;

use super::staging::Staging;
use crate::chunk::{Chunk, Pool, Source, SourceReader};
use crate::error::{Context, Error, Result};
use crate::hash::Hasher;
use crate::layer::{self, Unpacked};
use crate::model::Limits;

/// How a layer's tar is packed. Told by its first bytes: the media type is somebody's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub(crate) fn sniff(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Packing::Zstd),
            _ if head.len() >= 512 && crate::tar::looks_like_header(head) => Some(Packing::Plain),
            // A tar of nothing.
            _ if head.len() >= 512 && head.iter().all(|b| *b == 0) => Some(Packing::Plain),
            _ => None,
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Inflates `input`. Several gzip members or zstd frames one after another are one stream.
    pub(crate) fn reader<'r>(self, input: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
        Ok(match self {
            Packing::Plain => Box::new(input),
            Packing::Gzip => {
                Box::new(flate2::bufread::MultiGzDecoder::new(io::BufReader::with_capacity(64 << 10, input)))
            }
            Packing::Zstd => Box::new(zstd::Decoder::new(input)?),
        })
    }
}

/// A layer in staging, verified against itself: what its digests are is known, whether they are the right ones is not.
#[derive(Debug, Clone)]
pub(crate) struct StagedLayer {
    /// Digest and size of the stream as it came.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) packing: Packing,
    pub(crate) diff_id: Digest,
    pub(crate) tar_bytes: u64,
    /// The unpacked folder; `None` if the layer was in the store already and was only hashed.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) unpacked: Unpacked,
    /// The compressed stream, if it was compressed.
    pub(crate) blob: Option<PathBuf>,
}

/// The pools and limits that the layers of one operation share.
pub(crate) struct Ingest<'a> {
    pub(crate) staging: &'a Staging,
    pub(crate) limits: &'a Limits,
    pub(crate) rootless: bool,
    /// Buffers for inflated bytes; the bytes as they came have a pool of their own, so that neither can starve the other.
    pub(crate) inflated: Pool,
}

/// Where a compressed stream is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blob<'p> {
    /// In a new file in staging.
    Staged,
    /// In this file, which has the first `have` bytes already.
    Resumed { path: &'p Path, have: u64 },
}

/// A layer on its way: its bytes go in at one end, the staged layer comes out when they end.
pub(crate) struct Running<'scope> {
    inputs: Vec<SyncSender<Chunk>>,
    result: ScopedJoinHandle<'scope, Result<StagedLayer>>,
}

impl Running<'_> {
    /// Hands on the next bytes. False: the layer has failed, more bytes are useless.
    pub(crate) fn send(&self, chunk: &Chunk) -> bool {
        self.inputs.iter().all(|input| input.send(chunk.clone()).is_ok())
    }

    /// Ends the stream. The layer goes on in the background until it is joined.
    pub(crate) fn close(&mut self) {
        self.inputs.clear();
    }

    pub(crate) fn join(self) -> Result<StagedLayer> {
        drop(self.inputs);
        self.result.join().unwrap_or_else(|_| Err(Error::Damaged("the thread of a layer panicked".into())))
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.result.is_finished()
    }
}

/// Buffers in flight between two threads of a pipeline; the pool is the tighter bound.
const CHANNEL: usize = 64;

struct Channel(Receiver<Chunk>);

impl Source for Channel {
    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        Ok(self.0.recv().ok())
    }
}

/// Has the disk written to while a large layer is still unpacked, so that little is left for the sync at the end.
struct Flushing {
    input: Receiver<Chunk>,
    flush: SyncSender<()>,
    /// Bytes since it was last asked for.
    passed: u64,
}

const FLUSH_BYTES: u64 = 128 << 20;

impl Source for Flushing {
    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        let chunk = self.input.recv().ok();
        self.passed += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.passed >= if chunk.is_some() { FLUSH_BYTES } else { FLUSH_BYTES / 4 } {
            self.passed = 0;
            // One that is still on its way will do.
            let _ = self.flush.try_send(());
        }
        Ok(chunk)
    }
}

fn hash(chunks: Receiver<Chunk>) -> (Digest, u64) {
    let mut hasher = Hasher::default();
    for chunk in chunks {
        hasher.update(&chunk);
    }
    let bytes = hasher.bytes();
    (hasher.finish(), bytes)
}

const PANICKED: &str = "the thread of a layer panicked";

impl Ingest<'_> {
    /// Starts a layer. `known`: it seems to be in the store already, so its bytes are hashed only.
    pub(crate) fn start<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        packing: Packing,
        what: String,
        known: bool,
        blob: Blob<'_>,
    ) -> Running<'scope> {
        let (blob, have) = match blob {
            Blob::Staged => (self.staging.fresh(), 0),
            Blob::Resumed { path, have } => (path.to_owned(), have),
        };
        let (first, first_rx) = sync_channel(CHANNEL);
        let (second, second_rx) = sync_channel(CHANNEL);
        let result = scope.spawn(move || match packing {
            Packing::Plain => self.plain(first_rx, second_rx, &what, known),
            _ => self.compressed(first_rx, second_rx, (blob, have), packing, &what, known),
        });
        Running { inputs: vec![first, second], result }
    }

    fn plain(
        &self,
        to_hash: Receiver<Chunk>,
        to_unpack: Receiver<Chunk>,
        what: &str,
        known: bool,
    ) -> Result<StagedLayer> {
        std::thread::scope(|scope| {
            let hashing = scope.spawn(move || hash(to_hash));
            let unpacked = self.unpack(to_unpack, what, known, true);
            let (diff_id, bytes) = hashing.join().map_err(|_| Error::Damaged(PANICKED.into()))?;
            let (folder, unpacked) = unpacked?;
            Ok(StagedLayer {
                digest: diff_id,
                size: bytes,
                packing: Packing::Plain,
                diff_id,
                tar_bytes: bytes,
                folder,
                unpacked,
                blob: None,
            })
        })
    }

    fn compressed(
        &self,
        to_keep: Receiver<Chunk>,
        to_inflate: Receiver<Chunk>,
        (blob, have): (PathBuf, u64),
        packing: Packing,
        what: &str,
        known: bool,
    ) -> Result<StagedLayer> {
        std::thread::scope(|scope| {
            let path = &blob;
            let keeping = scope.spawn(move || keep(to_keep, path, have));
            let (hash_tx, to_hash) = sync_channel(CHANNEL);
            let (unpack_tx, to_unpack) = sync_channel(CHANNEL);
            let hashing = scope.spawn(move || hash(to_hash));
            let inflating = scope.spawn(move || self.inflate(to_inflate, packing, what, &[hash_tx, unpack_tx]));
            let unpacked = self.unpack(to_unpack, what, known, false);
            let panicked = |_| Error::Damaged(PANICKED.into());
            let inflated = inflating.join().map_err(panicked)?;
            let (diff_id, tar_bytes) = hashing.join().map_err(panicked)?;
            let (digest, size) = keeping.join().map_err(panicked)??;
            // A broken compressed stream ends the tar early: what broke first is the thing to tell.
            let (folder, unpacked) = match (inflated, unpacked) {
                (Err(broken @ Error::Invalid { .. }), _) => return Err(broken),
                (Err(limit @ Error::Limit { .. }), _) => return Err(limit),
                (_, Err(unpacked)) => return Err(unpacked),
                (Err(other), Ok(_)) => return Err(other),
                (Ok(()), Ok(done)) => done,
            };
            Ok(StagedLayer { digest, size, packing, diff_id, tar_bytes, folder, unpacked, blob: Some(blob.clone()) })
        })
    }

    fn inflate(
        &self,
        input: Receiver<Chunk>,
        packing: Packing,
        what: &str,
        outputs: &[SyncSender<Chunk>],
    ) -> Result<()> {
        let counted = Counted { inner: SourceReader::new(Channel(input)), bytes: 0 };
        let counter = std::sync::Arc::new(std::sync::Mutex::new(counted));
        let invalid = |e: io::Error| Error::invalid(what, format!("cannot be inflated: {e}"));
        let mut reader = packing.reader(SharedReader(counter.clone())).map_err(invalid)?;
        let mut inflated: u64 = 0;
        while let Some(chunk) = self.inflated.read(&mut reader).map_err(invalid)? {
            inflated += chunk.len() as u64;
            let taken = counter.lock().unwrap_or_else(|e| e.into_inner()).bytes;
            if inflated > self.limits.layer_bytes && !vocab::weak::without("limits") {
                return Err(Error::limit(what, format!("more than {} bytes inflated", self.limits.layer_bytes)));
            }
            if inflated > 64 << 20 && inflated / taken.max(1) > self.limits.ratio {
                return Err(Error::limit(what, format!("grows more than {} times when inflated", self.limits.ratio)));
            }
            if !outputs.iter().all(|output| output.send(chunk.clone()).is_ok()) {
                break;
            }
        }
        // The keeper of the blob reads every byte; so does this end, or the sender would take it for a failure.
        io::copy(&mut SharedReader(counter), &mut io::sink()).map_err(invalid).map(drop)
    }

    fn unpack(
        &self,
        input: Receiver<Chunk>,
        what: &str,
        known: bool,
        recipe: bool,
    ) -> Result<(Option<PathBuf>, Unpacked)> {
        if known {
            for chunk in input {
                drop(chunk);
            }
            return Ok((None, Unpacked::default()));
        }
        let folder = self.staging.folder()?;
        let options = layer::Options { recipe, rootless: self.rootless, workers: 2, limits: self.limits.clone() };
        let unpacked = std::thread::scope(|scope| {
            let (flush, wanted) = sync_channel::<()>(1);
            let flushing = scope.spawn(move || wanted.iter().try_for_each(|()| self.staging.sync()));
            let source = Flushing { input, flush, passed: 0 };
            let unpacked = layer::unpack(source, &folder, what, &options);
            let flushed = flushing.join().map_err(|_| Error::Damaged(PANICKED.into()))?;
            unpacked.and_then(|unpacked| flushed.map(|()| unpacked))
        })?;
        vocab::crash::point("image.layer.unpacked");
        Ok((Some(folder), unpacked))
    }
}

/// Writes the stream to a file, whose first `have` bytes are there already, and hashes it.
fn keep(chunks: Receiver<Chunk>, path: &Path, have: u64) -> Result<(Digest, u64)> {
    let what = || format!("write {}", path.display());
    let mut hasher = Hasher::default();
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path).context(what)?;
    file.set_len(have).context(what)?;
    for chunk in chunks {
        // What is there already came from there.
        let skip = have.saturating_sub(hasher.bytes()).min(chunk.len() as u64);
        file.write_all_at(&chunk[skip as usize..], hasher.bytes() + skip).context(what)?;
        hasher.update(&chunk);
    }
    let bytes = hasher.bytes();
    Ok((hasher.finish(), bytes))
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

/// The reader under an inflater, whose position its owner wants to know.
struct SharedReader<R>(std::sync::Arc<std::sync::Mutex<Counted<R>>>);

impl<R: Read> Read for SharedReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut shared = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let n = shared.inner.read(out)?;
        shared.bytes += n as u64;
        Ok(n)
    }
}
