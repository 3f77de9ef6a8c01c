//! What a finished build becomes beside an image in the store: its files as a tar, or a package of blobs and manifests, which
//! goes into an archive or to a registry.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use image::Compression;
use image::tar::{Entry, FileData, Kind, Time, Writer};
use linux::fs::Root;
use registry::client::BlobSource;
use serde_json::{Value, json};
use vocab::{Digest, Reference};

use crate::error::{BuildError, Result};
use crate::media::{LAYER, MediaTypes};
use crate::solve::{Builder, Built, Scratchpad, blocking};

/// What is said about an image beside its configuration.
#[derive(Debug, Clone, Default)]
pub struct PackageOptions {
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of what stands for the manifest in an index.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// Annotations of the index.
    pub index_annotations: BTreeMap<String, String>,
    /// In-toto statements without their subject, which is the image: predicate type and predicate.
    pub attestations: Vec<(String, Value)>,
    pub form: LayerForm,
    /// Only OCI's have room for annotations, attestations and zstd: with one of these they are used anyway, as BuildKit does.
    pub media: MediaTypes,
}

impl PackageOptions {
    /// The names for an image with these layers.
    fn media(&self, layers: &[LeavingLayer]) -> MediaTypes {
        let said = [&self.annotations, &self.descriptor_annotations, &self.index_annotations];
        let plain = self.attestations.is_empty() && said.iter().all(|annotations| annotations.is_empty());
        match plain && layers.iter().all(|layer| self.media.layer(&layer.media_type).is_some()) {
            true => self.media,
            false => MediaTypes::Oci,
        }
    }
}

/// In which form layers leave the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerForm {
    /// Of layers that the store has without a packed form: what was built here. `None`: as they are, which is plain.
    compression: Option<Compression>,
    /// Also of those that came packed otherwise.
    force: bool,
}

impl LayerForm {
    /// From `compression`, `compression-level` and `force-compression`, as BuildKit's exporters take them: a level, or
    /// force, without a form means gzip.
    pub fn parse(kind: Option<&str>, level: Option<&str>, force: bool) -> std::result::Result<Self, String> {
        let level = level.filter(|level| !level.is_empty());
        let number = level.map(|level| level.parse().map_err(|_| format!("compression level {level:?} is no number")));
        let number = number.transpose()?;
        let kind = match kind.filter(|kind| !kind.is_empty()) {
            Some(kind) => Some(kind),
            None => (number.is_some() || force).then_some("gzip"),
        };
        let compression = kind.map(|kind| Compression::parse(kind, number)).transpose()?;
        Ok(Self { compression, force })
    }

    /// Whether every layer leaves as the store has it.
    pub fn is_as_stored(self) -> bool {
        matches!((self.compression, self.force), (None, _) | (Some(Compression::None), false))
    }
}

/// Bytes of a package.
#[derive(Debug, Clone)]
pub enum PackageBlob {
    Bytes(Vec<u8>),
    /// In the store, this long.
    Stored(u64),
}

impl PackageBlob {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stored(size) => *size,
        }
    }

    /// From its beginning.
    pub fn reader(&self, store: &image::Store, digest: &Digest) -> image::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(io::Cursor::new(bytes.clone())),
            Self::Stored(_) => store.blob(digest)?.ok_or(image::Error::NoSuchBlob(*digest))?.reader(0)?,
        })
    }
}

/// A layer as it leaves the machine.
pub(crate) struct LeavingLayer {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) blob: PackageBlob,
}

/// An image, with whatever belongs to it, in the form in which it leaves the machine.
#[derive(Debug)]
pub struct Package {
    pub blobs: BTreeMap<Digest, PackageBlob>,
    /// Each with its media type; what one refers to stands before it. The last one is the whole.
    pub manifests: Vec<(String, Vec<u8>)>,
    /// Id of the image, and its layers from the bottom: for archives as Docker reads them.
    docker: Option<(Digest, Vec<Digest>)>,
    /// What stands for it in an index: the image, and what is attested of it.
    entries: Vec<Value>,
    /// Whoever keeps the layers in the store.
    _built: Vec<Built>,
}

impl Package {
    /// Something that is no image.
    pub(crate) fn new(
        blobs: BTreeMap<Digest, PackageBlob>,
        manifests: Vec<(String, Vec<u8>)>,
        built: Vec<Built>,
    ) -> Self {
        Self { blobs, manifests, docker: None, entries: Vec::new(), _built: built }
    }

    /// Images of several platforms under one index.
    pub fn join(packages: Vec<Self>, annotations: &BTreeMap<String, String>) -> Result<Self> {
        let mut whole = Self::new(BTreeMap::new(), Vec::new(), Vec::new());
        for package in packages {
            whole.blobs.extend(package.blobs);
            // Each one's own index is taken apart. Only OCI's has room for what is not Docker's.
            let is_index = |kind: &str| [MediaTypes::Oci, MediaTypes::Docker].iter().any(|media| kind == media.index());
            whole.manifests.extend(package.manifests.into_iter().filter(|(kind, _)| !is_index(kind)));
            whole.entries.extend(package.entries);
            whole._built.extend(package._built);
        }
        let docker = MediaTypes::Docker;
        let plain = annotations.is_empty() && whole.manifests.iter().all(|(kind, _)| kind == docker.manifest());
        whole.index(if plain { docker } else { MediaTypes::Oci }, annotations)?;
        Ok(whole)
    }

    fn index(&mut self, media: MediaTypes, annotations: &BTreeMap<String, String>) -> Result<()> {
        let mut index = json!({ "schemaVersion": 2, "mediaType": media.index(), "manifests": self.entries });
        if !annotations.is_empty() {
            index["annotations"] = json!(annotations);
        }
        self.manifests.push((media.index().to_owned(), bytes_of(&index)?));
        Ok(())
    }

    /// Of the whole.
    pub fn digest(&self) -> Digest {
        let whole = self.manifests.last().map_or(&[][..], |(_, bytes)| bytes);
        image::hash::sha256(whole)
    }
}

impl Builder {
    /// The files of a build, as a tar. Blocking.
    pub fn write_files(&self, built: &Built, out: &mut (dyn Write + Send)) -> Result<()> {
        let store = self.engine().store();
        let pad = Scratchpad::new(store, crate::solve::snapshot_name(), built.top.as_ref())?;
        let root = Root::from_fd(store.mount_files(&pad.name)?);
        Ok(image::archive::pack(&root, Path::new("/"), out)?)
    }

    /// An image, and what is said about it, as blobs and manifests. Blocking.
    pub fn package(&self, built: &Built, options: &PackageOptions) -> Result<Package> {
        let mut blobs = BTreeMap::new();
        let layers = self.layers(built, options.form)?;
        let media = options.media(&layers);
        let mut list = Vec::new();
        for layer in &layers {
            let media_type = media.layer(&layer.media_type).unwrap_or_else(|| layer.media_type.clone());
            list.push(descriptor(&media_type, &layer.digest, layer.blob.bytes()));
            blobs.insert(layer.digest, layer.blob.clone());
        }
        let config = image::hash::sha256(&built.config);
        blobs.insert(config, PackageBlob::Bytes(built.config.clone()));
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media.manifest(),
            "config": descriptor(media.config(), &config, built.config.len() as u64),
            "layers": list,
        });
        if !options.annotations.is_empty() {
            manifest["annotations"] = json!(options.annotations);
        }
        let manifest = bytes_of(&manifest)?;
        let digest = image::hash::sha256(&manifest);
        let size = manifest.len() as u64;
        let mut manifests = vec![(media.manifest().to_owned(), manifest)];
        let platform: Value = serde_json::from_slice(&built.config)
            .map(|config: Value| {
                let mut platform = json!({ "architecture": config["architecture"], "os": config["os"] });
                if let Some(variant) = config["variant"].as_str().filter(|v| !v.is_empty()) {
                    platform["variant"] = variant.into();
                }
                platform
            })
            .map_err(|e| BuildError::Invalid(format!("read the image's configuration: {e}")))?;
        let mut image = descriptor(media.manifest(), &digest, size);
        image["platform"] = platform;
        if !options.descriptor_annotations.is_empty() {
            image["annotations"] = json!(options.descriptor_annotations);
        }
        let mut entries = vec![image];
        if !options.attestations.is_empty() {
            let attested = attestations(&options.attestations, &digest, &mut blobs)?;
            let mut entry = descriptor(media.manifest(), &image::hash::sha256(&attested), attested.len() as u64);
            entry["annotations"] = json!({
                "vnd.docker.reference.digest": digest.to_string(),
                "vnd.docker.reference.type": "attestation-manifest",
            });
            entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
            entries.push(entry);
            manifests.push((media.manifest().to_owned(), attested));
        }
        let layers = layers.into_iter().map(|layer| layer.digest).collect();
        let docker = Some((config, layers));
        let mut package = Package { blobs, manifests, docker, entries, _built: vec![built.clone()] };
        let more = !options.index_annotations.is_empty() || !options.descriptor_annotations.is_empty();
        if !options.attestations.is_empty() || more {
            package.index(media, &options.index_annotations)?;
        }
        Ok(package)
    }

    /// Each layer as it leaves the machine, bottom first.
    fn layers(&self, built: &Built, form: LayerForm) -> Result<Vec<LeavingLayer>> {
        let store = self.engine().store();
        let mut found = Vec::new();
        let mut next = built.top;
        while let Some(chain) = next {
            found.push(self.leaving_layer(&chain, form)?);
            next = store.layer(&chain)?.and_then(|layer| layer.parent);
        }
        found.reverse();
        Ok(found)
    }

    pub(crate) fn leaving_layer(&self, chain: &Digest, form: LayerForm) -> Result<LeavingLayer> {
        let store = self.engine().store();
        let layer = store.layer(chain)?.ok_or(image::Error::NoSuchLayer(*chain))?;
        let head = layer.compressed.map(|(digest, _)| head(store, &digest)).transpose()?;
        let wanted = form.compression.filter(|wanted| match &head {
            Some(head) => form.force && !wanted.is_form_of(head),
            None => *wanted != Compression::None,
        });
        if let Some(wanted) = wanted {
            let (digest, size) = store.packed_layer(chain, wanted)?;
            let media_type = wanted.media_type().to_owned();
            return Ok(LeavingLayer { media_type, digest, blob: PackageBlob::Stored(size) });
        }
        Ok(match (layer.compressed, head) {
            (Some((digest, size)), Some(head)) => {
                let packed = if head[..2] == [0x1f, 0x8b] { "gzip" } else { "zstd" };
                let media_type = format!("{LAYER}+{packed}");
                LeavingLayer { media_type, digest, blob: PackageBlob::Stored(size) }
            }
            _ => {
                let blob = PackageBlob::Stored(layer.tar_bytes);
                LeavingLayer { media_type: LAYER.to_owned(), digest: layer.diff_id, blob }
            }
        })
    }

    /// A package as one archive that Docker and readers of OCI layouts take. `names`: what the image is called in it. Blocking.
    pub fn write_archive(&self, package: &Package, names: &[Reference], out: &mut (dyn Write + Send)) -> Result<()> {
        let failed = |source| BuildError::Io { what: "write the archive".into(), source };
        let mut tar = Writer::new(io::BufWriter::with_capacity(256 << 10, out));
        let file = |tar: &mut Writer<_>, name: &str, bytes: &[u8]| -> io::Result<()> {
            tar.entry(&member(name, bytes.len() as u64))?;
            tar.data(bytes)
        };
        for (digest, blob) in &package.blobs {
            let name = format!("blobs/sha256/{}", digest.hex());
            tar.entry(&member(&name, blob.bytes())).map_err(failed)?;
            let mut reader = blob.reader(self.engine().store(), digest)?;
            let mut buffer = vec![0; 256 << 10];
            loop {
                let count = reader.read(&mut buffer).map_err(failed)?;
                if count == 0 {
                    break;
                }
                tar.data(&buffer[..count]).map_err(failed)?;
            }
        }
        for (_, bytes) in &package.manifests {
            let name = format!("blobs/sha256/{}", image::hash::sha256(bytes).hex());
            file(&mut tar, &name, bytes).map_err(failed)?;
        }
        let Some((media_type, whole)) = package.manifests.last() else { return Ok(()) };
        let root = descriptor(media_type, &package.digest(), whole.len() as u64);
        let mut roots = Vec::new();
        for name in names {
            let mut root = root.clone();
            root["annotations"] =
                json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.tag() });
            roots.push(root);
        }
        if roots.is_empty() {
            roots.push(root);
        }
        let index = bytes_of(&json!({ "schemaVersion": 2, "mediaType": MediaTypes::Oci.index(), "manifests": roots }))?;
        file(&mut tar, "index.json", &index).map_err(failed)?;
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
        if let Some((config, layers)) = &package.docker {
            let docker = json!([{
                "Config": blob(config),
                "RepoTags": (!tags.is_empty()).then_some(tags),
                "Layers": layers.iter().map(blob).collect::<Vec<_>>(),
            }]);
            file(&mut tar, "manifest.json", &bytes_of(&docker)?).map_err(failed)?;
        }
        file(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed)?;
        tar.finish().and_then(|mut out| out.flush()).map_err(failed)
    }

    /// Sends a package to a registry under one name; returns the digest of the whole.
    pub async fn push(
        &self,
        package: &Arc<Package>,
        name: &Reference,
        credentials: engine::Credentials,
    ) -> Result<Digest> {
        let blobs = package.blobs.iter().map(|(digest, blob)| {
            let source = match blob {
                PackageBlob::Bytes(bytes) => BlobSource::Bytes(bytes.clone().into()),
                PackageBlob::Stored(_) => BlobSource::Stored,
            };
            (*digest, blob.bytes(), source)
        });
        let request = registry::client::PackageRequest {
            reference: name.clone(),
            credentials,
            blobs: blobs.collect(),
            manifests: package.manifests.clone(),
        };
        let client = self.engine().web_client();
        let pushed = client.push_package(self.engine().store(), request).await;
        pushed.map_err(|error| BuildError::Invalid(format!("push {}: {error}", name.familiar())))?;
        Ok(package.digest())
    }

    /// As [`Builder::package`], on a thread that may block.
    pub async fn package_of(&self, built: &Built, options: PackageOptions) -> Result<Package> {
        let (builder, built) = (self.clone(), built.clone());
        blocking(move || builder.package(&built, &options)).await
    }
}

/// The manifest that carries statements about `subject`; their bytes become blobs.
fn attestations(
    list: &[(String, Value)],
    subject: &Digest,
    blobs: &mut BTreeMap<Digest, PackageBlob>,
) -> Result<Vec<u8>> {
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for (kind, predicate) in list {
        let statement = bytes_of(&json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": kind,
            "subject": [{ "name": "_", "digest": { "sha256": subject.hex() } }],
            "predicate": predicate,
        }))?;
        let digest = image::hash::sha256(&statement);
        let mut layer = descriptor("application/vnd.in-toto+json", &digest, statement.len() as u64);
        layer["annotations"] = json!({ "in-toto.io/predicate-type": kind });
        layers.push(layer);
        diff_ids.push(digest.to_string());
        blobs.insert(digest, PackageBlob::Bytes(statement));
    }
    let config = bytes_of(&json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?;
    let digest = image::hash::sha256(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaTypes::Oci.manifest(),
        "config": descriptor(MediaTypes::Oci.config(), &digest, config.len() as u64),
        "layers": layers,
    });
    blobs.insert(digest, PackageBlob::Bytes(config));
    bytes_of(&manifest)
}

pub(crate) fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
}

pub(crate) fn bytes_of(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| BuildError::Invalid(format!("write a manifest: {e}")))
}

/// The first bytes of a packed layer, which tell what it is packed with.
fn head(store: &image::Store, digest: &Digest) -> Result<[u8; 4]> {
    let mut head = [0; 4];
    let blob = store.blob(digest)?.ok_or(image::Error::NoSuchBlob(*digest))?;
    let failed = |source| BuildError::Io { what: format!("read layer {digest}"), source };
    blob.reader(0)?.read_exact(&mut head).map_err(failed)?;
    Ok(head)
}

fn member(name: &str, size: u64) -> Entry {
    let kind = Kind::File(FileData::plain(size));
    Entry { path: name.into(), kind, mode: 0o644, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_asked_for_as_of_buildkit() {
        let as_stored = |kind, level, force| LayerForm::parse(kind, level, force).map(LayerForm::is_as_stored);
        assert_eq!(as_stored(None, None, false), Ok(true));
        assert_eq!(as_stored(Some("uncompressed"), None, false), Ok(true));
        assert_eq!(as_stored(Some("uncompressed"), None, true), Ok(false));
        assert_eq!(as_stored(Some("zstd"), Some("5"), false), Ok(false));
        // Without a form it is gzip.
        assert_eq!(LayerForm::parse(None, None, true), LayerForm::parse(Some("gzip"), None, true));
        assert_eq!(LayerForm::parse(None, Some("9"), false), LayerForm::parse(Some("gzip"), Some("9"), false));
        assert!(LayerForm::parse(None, Some("12"), false).unwrap_err().contains("between 0 and 9"));
        assert!(LayerForm::parse(Some("zstd"), Some("much"), false).unwrap_err().contains("no number"));
        assert!(LayerForm::parse(Some("estargz"), None, false).is_err());
    }
}
