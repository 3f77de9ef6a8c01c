//! Takes in the members of an archive in whatever order they come: layers go straight into their pipelines, documents are
//! kept in memory, everything is hashed. Names in the archive are only names; what a member is, its bytes say.

use std::collections::{BTreeMap, HashMap};
use std::thread::Scope;

use vocab::Digest;

use super::ingest::{Blob, Ingest, Packing, Running, StagedLayer};
use crate::chunk::{Chunk, Source};
use crate::error::{Error, Result};
use crate::model::Progress;
use crate::tar::TarError;

/// Documents of one archive together: a thousand images' manifests are a fraction of this.
const DOCUMENTS_BYTES_MAX: u64 = 48 << 20;
/// Layers in their pipelines at a time: each has a few threads.
const RUNNING_MAX: usize = 3;
/// Between two reports about one layer.
const REPORT_BYTES: u64 = 4 << 20;
/// Links and members of an archive: names are kept.
const MEMBERS_MAX: usize = 100_000;

pub(crate) enum Member {
    Document(Vec<u8>),
    Layer(StagedLayer),
    /// Another member, by its name.
    Link(String),
    /// Too large for a document and no tar.
    Unknown,
}

/// What was in an archive.
#[derive(Default)]
pub(crate) struct Members {
    by_name: BTreeMap<String, Member>,
    by_digest: HashMap<Digest, String>,
}

impl Members {
    pub(crate) fn get(&self, name: &str) -> Option<&Member> {
        let mut name = clean(name)?;
        // Old archives link equal layers to each other.
        for _ in 0..8 {
            match self.by_name.get(&name)? {
                Member::Link(target) => name = target.clone(),
                member => return Some(member),
            }
        }
        None
    }

    pub(crate) fn document(&self, name: &str) -> Result<&[u8]> {
        match self.get(name) {
            Some(Member::Document(bytes)) => Ok(bytes),
            Some(_) => Err(Error::invalid(name, "too large or not a document")),
            None => Err(Error::invalid("archive", format!("{name} is missing"))),
        }
    }

    /// By content: a member's name says nothing about its digest.
    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<&Member> {
        self.by_name.get(self.by_digest.get(digest)?)
    }
}

pub(crate) struct Collector<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    ingest: &'env Ingest<'env>,
    /// Whether a layer of this digest (of its tar, or compressed) is in the store.
    known: &'env (dyn Fn(&Digest) -> bool + Sync),
    progress: &'env (dyn Fn(Progress) + Sync),
    members: Members,
    documents_bytes: u64,
    running: Vec<(String, String, Running<'scope>)>,
}

impl<'scope, 'env> Collector<'scope, 'env> {
    pub(crate) fn new(
        scope: &'scope Scope<'scope, 'env>,
        ingest: &'env Ingest<'env>,
        known: &'env (dyn Fn(&Digest) -> bool + Sync),
        progress: &'env (dyn Fn(Progress) + Sync),
    ) -> Self {
        let (members, documents_bytes, running) = (Members::default(), 0, Vec::new());
        Self { scope, ingest, known, progress, members, documents_bytes, running }
    }

    pub(crate) fn link(&mut self, name: &[u8], target: &[u8], symbolic: bool) -> Result<()> {
        let (Some(name), Ok(target)) = (text(name), std::str::from_utf8(target)) else { return Ok(()) };
        let target = match (symbolic, name.rsplit_once('/')) {
            (true, Some((folder, _))) => clean(&format!("{folder}/{target}")),
            _ => clean(target),
        };
        // A link that leads out of the archive leads nowhere.
        if let Some(target) = target {
            self.insert(name, Member::Link(target), None)?;
        }
        Ok(())
    }

    /// Takes in one file of `size` bytes.
    pub(crate) fn file(&mut self, name: &[u8], size: u64, source: &mut dyn Source) -> Result<()> {
        let Some(name) = text(name) else {
            return Err(Error::invalid("archive", format!("strange member name {:?}", String::from_utf8_lossy(name))));
        };
        let mut next = || source.next_chunk().map_err(|e| stream_error(&name, e));
        let mut head: Vec<Chunk> = Vec::new();
        let mut first = Vec::new();
        while first.len() < 512
            && let Some(chunk) = next()?
        {
            first.extend_from_slice(&chunk[..chunk.len().min(512)]);
            head.push(chunk);
        }
        match Packing::sniff(&first) {
            Some(packing) => self.layer(name, size, packing, head, source),
            None => self.document(name, size, head, source),
        }
    }

    fn document(&mut self, name: String, size: u64, head: Vec<Chunk>, source: &mut dyn Source) -> Result<()> {
        if size > crate::config::CONFIG_BYTES_MAX {
            return self.insert(name, Member::Unknown, None);
        }
        self.documents_bytes += size;
        if self.documents_bytes > DOCUMENTS_BYTES_MAX {
            return Err(Error::limit("archive", format!("more than {DOCUMENTS_BYTES_MAX} bytes of documents")));
        }
        let mut bytes = head.iter().flat_map(|chunk| chunk.iter().copied()).collect::<Vec<u8>>();
        while let Some(chunk) = source.next_chunk().map_err(|e| stream_error(&name, e))? {
            bytes.extend_from_slice(&chunk);
        }
        let digest = crate::hash::sha256(&bytes);
        self.insert(name, Member::Document(bytes), Some(digest))
    }

    fn layer(
        &mut self,
        name: String,
        size: u64,
        packing: Packing,
        head: Vec<Chunk>,
        source: &mut dyn Source,
    ) -> Result<()> {
        while self.running.len() >= RUNNING_MAX {
            self.join_one()?;
        }
        let id = short_id(&name);
        let known = digest_in(&name).is_some_and(|digest| (self.known)(&digest));
        let mut running = self.ingest.start(self.scope, packing, format!("layer {name}"), known, Blob::Staged);
        let (mut current, mut reported) = (0, 0);
        let mut head = head.into_iter();
        let report = |current| (self.progress)(Progress::Layer { id: id.clone(), current, total: size });
        report(0);
        while let Some(chunk) = match head.next() {
            Some(chunk) => Some(chunk),
            None => source.next_chunk().map_err(|e| stream_error(&name, e))?,
        } {
            current += chunk.len() as u64;
            if !running.send(&chunk) {
                // It has stopped listening: its error says why.
                running.join()?;
                return Err(Error::Damaged(format!("layer {name} ended before its bytes did")));
            }
            if current - reported >= REPORT_BYTES {
                reported = current;
                report(current);
            }
        }
        report(current);
        running.close();
        self.running.push((name, id, running));
        Ok(())
    }

    fn join_one(&mut self) -> Result<()> {
        let at = self.running.iter().position(|(_, _, running)| running.is_finished()).unwrap_or(0);
        let (name, id, running) = self.running.remove(at);
        let layer = running.join()?;
        (self.progress)(Progress::LayerDone { id });
        let digest = layer.digest;
        self.insert(name, Member::Layer(layer), Some(digest))
    }

    fn insert(&mut self, name: String, member: Member, digest: Option<Digest>) -> Result<()> {
        if self.members.by_name.len() >= MEMBERS_MAX {
            return Err(Error::limit("archive", format!("more than {MEMBERS_MAX} members")));
        }
        if let Some(digest) = digest {
            self.members.by_digest.insert(digest, name.clone());
        }
        if self.members.by_name.insert(name.clone(), member).is_some() {
            return Err(Error::invalid("archive", format!("{name} appears twice")));
        }
        Ok(())
    }

    /// Waits for the layers that are still on their way.
    pub(crate) fn finish(mut self) -> Result<Members> {
        while !self.running.is_empty() {
            self.join_one()?;
        }
        Ok(self.members)
    }
}

fn stream_error(name: &str, error: std::io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TarError>()) {
        Some(tar) => Error::Tar { what: format!("archive member {name}"), source: tar.clone() },
        None => Error::Stream { what: "read the archive", source: error },
    }
}

fn text(name: &[u8]) -> Option<String> {
    clean(std::str::from_utf8(name).ok()?)
}

/// `./a/../b` is `b`; what leads out of the archive is nothing.
fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// A digest that the member's name speaks of, as in `blobs/sha256/<hex>` and `<hex>.tar`. Only a hint.
fn digest_in(name: &str) -> Option<Digest> {
    name.split(['/', '.']).rev().find(|part| part.len() == 64).and_then(|hex| format!("sha256:{hex}").parse().ok())
}

/// Twelve digits to show for a layer.
fn short_id(name: &str) -> String {
    match digest_in(name) {
        Some(digest) => digest.hex()[..12].to_owned(),
        None => crate::hash::sha256(name.as_bytes()).hex()[..12].to_owned(),
    }
}
