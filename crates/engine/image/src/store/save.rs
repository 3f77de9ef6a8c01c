//! `save`: one archive that old and new readers take: `manifest.json` and `repositories` for Docker, `oci-layout` and
//! `index.json` for everyone else, and every blob once. A layer goes out as it came in: the compressed blob, or the tar
//! made from its recipe; each is hashed on its way, so that damage on the disk cannot pass for the image.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};

use serde_json::json;
use vocab::{Digest, Reference};

use super::Store;
use super::names::Found;
use super::records::*;
use crate::error::{Context, Error, Result};
use crate::hash::sha256;
use crate::layer::RecipeReader;
use crate::manifest::{Document, IMAGE_NAME, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, REF_NAME, parse};
use crate::tar::{Entry, FileData, Kind, Time, Writer};

const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One image to write.
pub(super) struct Plan {
    id: Digest,
    names: Vec<Reference>,
    pub(super) manifest: Descriptor,
    pub(super) manifest_bytes: Vec<u8>,
    /// The configuration's bytes: its blob may go with the image before they are written.
    pub(super) config: Vec<u8>,
    /// Chain ids, bottom first.
    chains: Vec<Digest>,
    pub(super) layers: Vec<(Descriptor, LayerRecord)>,
    time: Time,
}

impl Store {
    pub(super) fn save_images(&self, names: &[String], output: &mut (dyn Write + Send)) -> Result<()> {
        let (plans, _pins) = {
            let _lock = self.lock();
            let plans = self.plan_save(names)?;
            let pins = self.pin(plans.iter().flat_map(|plan| plan.chains.iter().copied()));
            (plans, pins)
        };
        let mut tar = Writer::new(io::BufWriter::with_capacity(256 << 10, output));
        let mut written = HashSet::new();
        folder(&mut tar, "blobs")?;
        folder(&mut tar, "blobs/sha256")?;
        for plan in &plans {
            for (descriptor, layer) in &plan.layers {
                if written.insert(descriptor.digest) {
                    self.write_layer(&mut tar, descriptor, layer)?;
                }
            }
            if written.insert(plan.id) {
                bytes(&mut tar, &blob_name(&plan.id), &plan.config, plan.time)?;
            }
            if written.insert(plan.manifest.digest) {
                bytes(&mut tar, &blob_name(&plan.manifest.digest), &plan.manifest_bytes, plan.time)?;
            }
        }
        bytes(&mut tar, "index.json", &index(&plans), Time::default())?;
        bytes(&mut tar, "manifest.json", &manifest_list(&plans), Time::default())?;
        bytes(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, Time::default())?;
        let repositories = repositories(&plans);
        if !repositories.is_empty() {
            let text = serde_json::to_vec(&repositories).unwrap_or_default();
            bytes(&mut tar, "repositories", &text, Time::default())?;
        }
        tar.finish().and_then(|mut out| out.flush()).map_err(stream)
    }

    fn plan_save(&self, names: &[String]) -> Result<Vec<Plan>> {
        if names.is_empty() {
            return Err(Error::invalid("save", "no images given"));
        }
        let mut wanted: Vec<(Digest, Vec<Reference>)> = Vec::new();
        for name in names {
            let mut add = |id: Digest, name: Option<Reference>| match wanted.iter_mut().find(|(other, _)| *other == id)
            {
                Some((_, names)) => {
                    names.extend(name.filter(|name| !names.contains(name)).into_iter().collect::<Vec<_>>())
                }
                None => wanted.push((id, name.into_iter().collect())),
            };
            let untagged =
                name.parse::<Reference>().ok().filter(|name| name.tag().is_none() && name.digest().is_none());
            let prefix = untagged.map(|name| format!("{}:", name.repository()));
            let all: Vec<(String, NameRecord)> = match &prefix {
                Some(prefix) => self.db.read()?.list_prefix(&NAMES, prefix.as_bytes())?,
                None => Vec::new(),
            };
            if all.is_empty() {
                let (id, found) = self.find(name)?;
                add(
                    id,
                    match found {
                        Found::Name(reference) if reference.tag().is_some() => Some(reference),
                        _ => None,
                    },
                );
            }
            for (name, record) in all {
                add(record.image, name.parse().ok());
            }
        }
        wanted.into_iter().map(|(id, names)| self.plan_image(id, names)).collect()
    }

    pub(super) fn plan_image(&self, id: Digest, names: Vec<Reference>) -> Result<Plan> {
        let read = self.db.read()?;
        let image = read.get(&IMAGES, &id)?.ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        let (_, config) = self.config(&id)?;
        let mut layers = Vec::new();
        for chain in &image.layers {
            let layer = read.get(&LAYERS, chain)?;
            let layer = layer.ok_or_else(|| Error::Damaged(format!("layer {chain} has no record")))?;
            let plain = || Descriptor { media_type: PLAIN_LAYER.into(), digest: layer.diff_id, size: layer.tar_bytes };
            layers.push((layer.compressed.clone().unwrap_or_else(plain), layer));
        }
        // The image's own manifest, if it lists the layers in the form in which they are stored.
        let own = image.manifests.iter().find_map(|manifest| {
            let bytes = std::fs::read(self.blob_path(&manifest.digest)).ok()?;
            let document = parse(&bytes, &manifest.media_type, "manifest", &self.options.limits).ok()?;
            let stored = layers.iter().map(|(descriptor, _)| descriptor.digest);
            let same = matches!(document, Document::Image { layers, .. } if layers.iter().map(|l| l.digest).eq(stored));
            same.then(|| (manifest.clone(), bytes))
        });
        let (manifest, manifest_bytes) = match own {
            Some(own) => own,
            None => {
                let size = config.len() as u64;
                let config = Descriptor { media_type: OCI_CONFIG.into(), digest: id, size };
                let list: Vec<&Descriptor> = layers.iter().map(|(descriptor, _)| descriptor).collect();
                let text = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": list});
                let text = serde_json::to_vec(&text).map_err(|e| Error::invalid("manifest", e))?;
                let size = text.len() as u64;
                (Descriptor { media_type: OCI_MANIFEST.into(), digest: sha256(&text), size }, text)
            }
        };
        let created = image.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let time = Time { secs: created.map_or(0, |at| at.as_second().max(0)), nanos: 0 };
        Ok(Plan { id, names, manifest, manifest_bytes, config, chains: image.layers, layers, time })
    }

    fn write_layer<W: Write>(&self, tar: &mut Writer<W>, descriptor: &Descriptor, layer: &LayerRecord) -> Result<()> {
        let what = || format!("layer {}", descriptor.digest);
        let mut source: Box<dyn Read> = match layer.compressed {
            Some(_) => Box::new(File::open(self.blob_path(&descriptor.digest)).context(what)?),
            None => Box::new(RecipeReader::open(&self.layers_dir().join(&layer.folder))?),
        };
        tar.entry(&member(&blob_name(&descriptor.digest), descriptor.size, Time::default())).map_err(stream)?;
        let mut hasher = crate::hash::Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::Damaged(format!("{}: {e}", what()))),
            };
            hasher.update(&buffer[..n]);
            if hasher.bytes() > descriptor.size {
                return Err(Error::Damaged(format!("{} is longer than it was", what())));
            }
            tar.data(&buffer[..n]).map_err(stream)?;
        }
        let bytes = hasher.bytes();
        let actual = hasher.finish();
        if actual != descriptor.digest {
            return Err(Error::Damaged(format!("{}: its {bytes} bytes have the digest {actual}", what())));
        }
        Ok(())
    }
}

fn stream(source: io::Error) -> Error {
    Error::Stream { what: "write the archive", source }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn member(name: &str, size: u64, mtime: Time) -> Entry {
    let kind = Kind::File(FileData::plain(size));
    Entry { path: name.into(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

fn folder<W: Write>(tar: &mut Writer<W>, name: &str) -> Result<()> {
    let entry = Entry { kind: Kind::Dir, mode: 0o755, ..member(name, 0, Time::default()) };
    tar.entry(&entry).map_err(stream)
}

fn bytes<W: Write>(tar: &mut Writer<W>, name: &str, bytes: &[u8], time: Time) -> Result<()> {
    tar.entry(&member(name, bytes.len() as u64, time)).and_then(|()| tar.data(bytes)).map_err(stream)
}

fn index(plans: &[Plan]) -> Vec<u8> {
    let mut manifests = Vec::new();
    for plan in plans {
        let base =
            json!({"mediaType": plan.manifest.media_type, "digest": plan.manifest.digest, "size": plan.manifest.size});
        if plan.names.is_empty() {
            manifests.push(base.clone());
        }
        for name in &plan.names {
            let mut named = base.clone();
            named["annotations"] = json!({IMAGE_NAME: name, REF_NAME: name.tag()});
            manifests.push(named);
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    serde_json::to_vec(&index).unwrap_or_default()
}

fn manifest_list(plans: &[Plan]) -> Vec<u8> {
    let list: Vec<_> = plans
        .iter()
        .map(|plan| {
            let tags: Vec<String> = plan.names.iter().map(Reference::familiar).collect();
            let layers: Vec<String> = plan.layers.iter().map(|(layer, _)| blob_name(&layer.digest)).collect();
            json!({"Config": blob_name(&plan.id), "RepoTags": (!tags.is_empty()).then_some(tags), "Layers": layers})
        })
        .collect();
    serde_json::to_vec(&list).unwrap_or_default()
}

/// Docker's oldest list of names, still read by some tools: repository, tag, topmost layer.
fn repositories(plans: &[Plan]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for plan in plans {
        let Some((top, _)) = plan.layers.last() else { continue };
        for name in &plan.names {
            let tag = name.tag().unwrap_or_default().to_owned();
            all.entry(name.familiar_repository()).or_default().insert(tag, top.digest.hex());
        }
    }
    all
}
