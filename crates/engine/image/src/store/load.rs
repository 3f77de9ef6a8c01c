//! `load`: from the members of an archive to images. What the archive says is checked against what its bytes are: digests,
//! sizes and the order of layers; only then does anything become part of the store.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use vocab::{Digest, Reference};

use super::Store;
use super::collect::{Collector, Member, Members};
use super::commit::NewImage;
use super::ingest::{Ingest, Packing, StagedLayer};
use super::records::{Descriptor, LAYERS};
use super::staging::Staging;
use crate::chunk::{Pool, ReadSource};
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::manifest::{self, Document, IMAGE_NAME, Link, REF_NAME};
use crate::model::*;
use crate::tar::{Kind, Reader};

/// Buffers of the stream as it comes, and of inflated layers: 256 KiB each, so 28 MiB at most.
const STREAM_BUFFERS: usize = 64;
pub(super) const INFLATED_BUFFERS: usize = 48;
/// Index in index in index: nobody needs more, and a cycle needs an end.
const INDEX_DEPTH_MAX: usize = 4;

/// One entry of a docker-archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ArchiveImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Store {
    pub(super) fn load_stream(
        &self,
        input: &mut (dyn Read + Send),
        options: &LoadOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Loaded>> {
        let pool = Pool::new(STREAM_BUFFERS);
        let what = "read the archive";
        let stream = |source| Error::Stream { what, source };
        let head = read_head(input).map_err(stream)?;
        let packing =
            Packing::sniff(&head).ok_or_else(|| Error::invalid("archive", "neither a tar nor a compressed tar"))?;
        let input = std::io::Cursor::new(head).chain(input);
        let input = packing.reader(input).map_err(stream)?;
        let mut tar = Reader::new(ReadSource::new(input, pool));
        self.load_members(options, progress, |collector| {
            let tar_error = |source| Error::Tar { what: "archive".into(), source };
            while let Some(entry) = tar.next_entry().map_err(tar_error)? {
                match entry.kind {
                    Kind::File(data) if data.sparse.is_some() => {
                        return Err(Error::invalid("archive", "a member is stored as a sparse file"));
                    }
                    Kind::File(data) => collector.file(&entry.path, data.size, &mut tar.reader())?,
                    Kind::Symlink(target) => collector.link(&entry.path, &target, true)?,
                    Kind::HardLink(target) => collector.link(&entry.path, &target, false)?,
                    Kind::Dir => {}
                    _ => return Err(Error::invalid("archive", "a member is neither a file nor a folder")),
                }
            }
            Ok(())
        })
    }

    pub(super) fn load_folder(
        &self,
        folder: &Path,
        options: &LoadOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Loaded>> {
        let root = linux::fs::Root::open(folder).context(|| format!("open {}", folder.display()))?;
        let mut names = vec!["oci-layout".to_owned(), "index.json".to_owned()];
        let blobs = folder.join("blobs/sha256");
        for entry in std::fs::read_dir(&blobs).context(|| format!("list {}", blobs.display()))? {
            let entry = entry.context(|| format!("list {}", blobs.display()))?;
            if let Some(name) = entry.file_name().to_str() {
                names.push(format!("blobs/sha256/{name}"));
            }
        }
        let pool = Pool::new(STREAM_BUFFERS);
        self.load_members(options, progress, |collector| {
            for name in names {
                use linux::fs::{Mode, OFlags};
                let fd = root.open_file(&name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW, Mode::empty());
                let file = std::fs::File::from(fd.context(|| format!("open {name}"))?);
                let meta = file.metadata().context(|| format!("read {name}"))?;
                if !meta.is_file() {
                    return Err(Error::invalid(name, "not a file"));
                }
                collector.file(name.as_bytes(), meta.len(), &mut ReadSource::new(file, pool.clone()))?;
            }
            Ok(())
        })
    }

    /// Takes in members with `feed`, then makes images of them.
    fn load_members(
        &self,
        options: &LoadOptions,
        progress: &(dyn Fn(Progress) + Sync),
        feed: impl FnOnce(&mut Collector<'_, '_>) -> Result<()>,
    ) -> Result<Vec<Loaded>> {
        let staging = Staging::new(&self.tmp())?;
        let ingest = self.ingest(&staging);
        let (known, _pins) = self.known_layers()?;
        let known = |digest: &Digest| known.contains(digest);
        let members = std::thread::scope(|scope| {
            let mut collector = Collector::new(scope, &ingest, &known, progress);
            feed(&mut collector)?;
            collector.finish()
        })?;
        vocab::crash::point("image.load.unpacked");
        let images = resolve(&members, options, &self.options.limits)?;
        if images.is_empty() {
            return Err(Error::invalid("archive", "it holds no image"));
        }
        let loaded: Vec<Loaded> =
            images.iter().map(|image| Loaded { id: image.id, references: image.names.clone() }).collect();
        self.commit_images(&staging, images)?;
        for image in &loaded {
            if image.references.is_empty() {
                progress(Progress::Loaded { id: image.id });
            }
            for reference in &image.references {
                progress(Progress::Tagged { reference: reference.clone(), id: image.id });
            }
        }
        Ok(loaded)
    }

    pub(super) fn ingest<'a>(&'a self, staging: &'a Staging) -> Ingest<'a> {
        Ingest {
            staging,
            limits: &self.options.limits,
            rootless: self.options.rootless,
            inflated: Pool::new(INFLATED_BUFFERS),
        }
    }

    /// Digests of the layers in the store, plain and compressed. The pins keep them there while the answer is used.
    fn known_layers(&self) -> Result<(HashSet<Digest>, super::Pins<'_>)> {
        let _lock = self.lock();
        let layers = self.db.read()?.list(&LAYERS)?;
        let pins = self.pin(layers.iter().map(|(chain, _)| *chain));
        let digests =
            layers.into_iter().flat_map(|(_, layer)| [Some(layer.diff_id), layer.compressed.map(|c| c.digest)]);
        Ok((digests.flatten().collect(), pins))
    }
}

/// The first 512 bytes, or all there are.
pub(crate) fn read_head(input: &mut (dyn Read + Send)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    input.take(512).read_to_end(&mut head)?;
    Ok(head)
}

fn resolve(members: &Members, options: &LoadOptions, limits: &Limits) -> Result<Vec<NewImage>> {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let mut images: Vec<NewImage> = Vec::new();
    let from_index = if members.get("index.json").is_some() {
        Oci { members, limits, platform: &platform }.images()?
    } else {
        Vec::new()
    };
    if members.get("manifest.json").is_some() {
        // Docker's own list of what to load counts; the index adds the manifests as registries know them.
        for mut image in archive_images(members, limits)? {
            if let Some(same) = from_index.iter().find(|other| other.id == image.id) {
                image.manifests = same.manifests.clone();
            }
            images.push(image);
        }
    } else {
        images = from_index;
    }
    if !options.only.is_empty() && !vocab::weak::without("only") {
        let only: HashSet<Reference> = options.only.iter().map(|name| name.clone().or_latest()).collect();
        for image in &mut images {
            image.names.retain(|name| only.contains(name));
        }
    }
    Ok(images)
}

fn archive_images(members: &Members, limits: &Limits) -> Result<Vec<NewImage>> {
    let list: Vec<ArchiveImage> =
        serde_json::from_slice(members.document("manifest.json")?).map_err(|e| Error::invalid("manifest.json", e))?;
    if list.len() > limits.manifests {
        return Err(Error::limit("manifest.json", format!("more than {} images", limits.manifests)));
    }
    list.into_iter()
        .map(|item| {
            let names = item.repo_tags.unwrap_or_default();
            let names =
                names.iter().map(|name| Ok(name.parse::<Reference>()?.or_latest())).collect::<Result<Vec<_>>>()?;
            let config = members.document(&item.config)?;
            let layers = item.layers.unwrap_or_default();
            let layers = layers.iter().map(|name| match members.get(name) {
                Some(Member::Layer(layer)) => Ok(layer.clone()),
                Some(_) => Err(Error::Unsupported(format!("layer {name}: not a tar, gzip or zstd"))),
                None => Err(Error::invalid("archive", format!("layer {name} is missing"))),
            });
            new_image(config, layers.collect::<Result<_>>()?, names, limits)
        })
        .collect()
}

/// Compares configuration and layers.
pub(super) fn new_image(
    config: &[u8],
    layers: Vec<StagedLayer>,
    names: Vec<Reference>,
    limits: &Limits,
) -> Result<NewImage> {
    let id = crate::hash::sha256(config);
    let parsed = Config::parse(config, &format!("configuration {id}"))?;
    let expected = &parsed.rootfs.diff_ids;
    if expected.len() != layers.len() {
        let detail =
            format!("invalid manifest, layers length mismatch: expected {}, got {}", expected.len(), layers.len());
        return Err(Error::invalid(format!("image {id}"), detail));
    }
    if layers.len() > limits.layers {
        return Err(Error::limit(format!("image {id}"), format!("max depth exceeded: {} layers", layers.len())));
    }
    for (at, (expected, layer)) in expected.iter().zip(&layers).enumerate() {
        if *expected != layer.diff_id && !vocab::weak::without("digest") {
            let what = format!("invalid diffID for layer {at}");
            return Err(Error::Digest { what, expected: *expected, actual: layer.diff_id });
        }
    }
    if !parsed.os.is_empty() && parsed.os != "linux" {
        return Err(Error::Unsupported(format!("cannot load {} image on linux", parsed.os)));
    }
    Ok(NewImage { id, config: config.to_vec(), parsed, layers, names, manifests: Vec::new(), parent: None })
}

/// The OCI side of an archive.
struct Oci<'a> {
    members: &'a Members,
    limits: &'a Limits,
    platform: &'a Platform,
}

impl Oci<'_> {
    fn images(&self) -> Result<Vec<NewImage>> {
        let index = self.members.document("index.json")?;
        let Document::Index { manifests } = manifest::parse(index, "", "index.json", self.limits)? else {
            return Err(Error::invalid("index.json", "not an index"));
        };
        // Several manifests of one name are platforms of one image.
        let mut named: BTreeMap<Option<Reference>, Vec<Link>> = BTreeMap::new();
        for link in manifests {
            named.entry(name_of(&link)?).or_default().push(link);
        }
        let mut images: Vec<NewImage> = Vec::new();
        let mut budget = self.limits.manifests;
        for (name, links) in named {
            let chosen: Vec<&Link> =
                if name.is_some() || links.iter().any(|link| link.platform.is_some()) {
                    let chosen = manifest::select(&links, self.platform);
                    vec![chosen.ok_or_else(|| {
                        Error::invalid("index.json", format!("nothing for platform {}", self.platform))
                    })?]
                } else {
                    links.iter().collect()
                };
            for link in chosen {
                let mut image = self.image(link, &mut Vec::new(), &mut budget)?;
                image.names.extend(name.clone());
                match images.iter_mut().find(|other| other.id == image.id) {
                    Some(same) => same.names.extend(image.names),
                    None => images.push(image),
                }
            }
        }
        Ok(images)
    }

    /// Follows a descriptor to one image.
    fn image(&self, link: &Link, above: &mut Vec<Digest>, budget: &mut usize) -> Result<NewImage> {
        let what = format!("manifest {}", link.digest);
        if above.len() >= INDEX_DEPTH_MAX && !vocab::weak::without("depth")
            || above.contains(&link.digest)
            || *budget == 0
        {
            return Err(Error::limit(what, "indexes are nested too deeply"));
        }
        *budget -= 1;
        above.push(link.digest);
        let bytes = self.blob(link)?;
        match manifest::parse(bytes, &link.media_type, &what, self.limits)? {
            Document::Index { manifests } => {
                let chosen = manifest::select(&manifests, self.platform);
                let nothing = || Error::invalid(&what, format!("nothing for platform {}", self.platform));
                self.image(chosen.ok_or_else(nothing)?, above, budget)
            }
            Document::Image { config, layers } => {
                let config = self.blob(&config)?;
                let layers = layers.iter().map(|link| match self.members.by_digest(&link.digest) {
                    Some(Member::Layer(layer)) if layer.size == link.size => Ok(layer.clone()),
                    Some(Member::Layer(layer)) => Err(size_error(link, layer.size)),
                    _ => Err(Error::invalid("archive", format!("no layer has the digest {}", link.digest))),
                });
                let mut image = new_image(config, layers.collect::<Result<_>>()?, Vec::new(), self.limits)?;
                let media_type = match link.media_type.as_str() {
                    "" => manifest::OCI_MANIFEST,
                    announced => announced,
                };
                let descriptor =
                    Descriptor { media_type: media_type.to_owned(), digest: link.digest, size: bytes.len() as u64 };
                image.manifests.push((descriptor, bytes.to_vec()));
                Ok(image)
            }
        }
    }

    fn blob(&self, link: &Link) -> Result<&[u8]> {
        match self.members.by_digest(&link.digest) {
            Some(Member::Document(bytes)) if bytes.len() as u64 == link.size => Ok(bytes),
            Some(Member::Document(bytes)) => Err(size_error(link, bytes.len() as u64)),
            _ => Err(Error::invalid("archive", format!("no document has the digest {}", link.digest))),
        }
    }
}

fn size_error(link: &Link, actual: u64) -> Error {
    Error::invalid(format!("blob {}", link.digest), format!("it has {actual} bytes, expected {}", link.size))
}

/// The full name that an index gives an image; a bare tag (`1`) names nothing.
fn name_of(link: &Link) -> Result<Option<Reference>> {
    if let Some(name) = link.annotation(IMAGE_NAME) {
        return Ok(Some(name.parse::<Reference>()?.or_latest()));
    }
    match link.annotation(REF_NAME) {
        Some(name) if name.contains(['/', ':', '@']) => Ok(Some(name.parse::<Reference>()?.or_latest())),
        _ => Ok(None),
    }
}
