//! The cache outside the engine: what it knows, in the documents that BuildKit's cache exporters write, and records taken from
//! such documents. The keys are this builder's own, so another builder finds its way through the layers but not through the keys.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use base64::Engine as _;
use linux::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vocab::{Digest, Reference};

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::export::{LayerForm, Package, PackageBlob, bytes_of, descriptor};
use crate::media::MediaTypes;
use crate::solve::{Builder, Built, blocking};

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Where an image's configuration carries a cache.
const INLINE: &str = "moby.buildkit.cache.v0";
/// Bytes of one document.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;
/// Layers and records that one document may have.
const ENTRIES_MAX: usize = 100_000;

/// BuildKit's `CacheConfig`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CacheConfig {
    #[serde(default)]
    layers: Vec<CacheLayer>,
    #[serde(default)]
    records: Vec<CacheRecords>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CacheLayer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob: Option<Digest>,
    /// -1: nothing is below it. Left out: the first one is.
    #[serde(default, skip_serializing_if = "is_zero")]
    parent: i64,
    #[serde(default)]
    annotations: Option<LayerAnnotations>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerAnnotations {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(default, rename = "diffID", skip_serializing_if = "Option::is_none")]
    diff_id: Option<Digest>,
    #[serde(default)]
    size: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CacheRecords {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(default, rename = "layers", skip_serializing_if = "Vec::is_empty")]
    results: Vec<CacheResult>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CacheResult {
    layer: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<jiff::Timestamp>,
}

/// What one step of a build came to, for an export.
#[derive(Debug, Clone)]
pub(crate) struct StepResult {
    pub(crate) keys: Vec<String>,
    pub(crate) top: Digest,
}

/// A cache from elsewhere, and how to get its layers.
pub struct ImportedCache {
    /// Of each layer: blob, its length, its tar's digest, what is below it.
    layers: Vec<ImportedLayer>,
    by_key: BTreeMap<String, usize>,
    place: Place,
}

#[derive(Debug, Clone, PartialEq)]
struct ImportedLayer {
    blob: Digest,
    size: u64,
    diff_id: Digest,
    parent: Option<usize>,
}

/// Blobs that somebody else has.
pub trait Blobs: Send + Sync {
    /// Writes a blob of at most `limit` bytes; returns how many it had.
    fn fetch<'a>(
        &'a self,
        digest: &'a Digest,
        limit: u64,
        into: &'a mut (dyn std::io::Write + Send),
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>>;
}

enum Place {
    Layout(Arc<Context>),
    Blobs(Arc<dyn Blobs>),
    Registry { reference: Reference, credentials: engine::Credentials },
}

impl std::fmt::Debug for ImportedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportedCache").field("records", &self.by_key.len()).finish_non_exhaustive()
    }
}

/// The document's layers and records, checked: every index leads to an earlier place, and every layer tells what it is. Pure.
fn understood(config: CacheConfig) -> Result<(Vec<ImportedLayer>, BTreeMap<String, usize>)> {
    let bad = |detail: &str| BuildError::Invalid(format!("the imported cache cannot be read: {detail}"));
    if config.layers.len() > ENTRIES_MAX || config.records.len() > ENTRIES_MAX {
        return Err(bad("it has too many entries"));
    }
    let mut layers = Vec::new();
    for (at, layer) in config.layers.iter().enumerate() {
        let (Some(blob), Some(annotations)) = (layer.blob, &layer.annotations) else {
            return Err(bad("a layer has no digest"));
        };
        let parent = usize::try_from(layer.parent).ok();
        if parent.is_some_and(|parent| parent >= at) {
            return Err(bad("a layer is below itself"));
        }
        let diff_id = annotations.diff_id.ok_or_else(|| bad("a layer has no diff id"))?;
        layers.push(ImportedLayer { blob, size: annotations.size, diff_id, parent });
    }
    let mut by_key = BTreeMap::new();
    for record in config.records {
        let (Some(digest), Some(result)) = (record.digest, record.results.first()) else { continue };
        if result.layer >= layers.len() {
            return Err(bad("a record leads to no layer"));
        }
        by_key.insert(digest.hex(), result.layer);
    }
    Ok((layers, by_key))
}

impl ImportedCache {
    /// From a folder as `type=local` writes it: an OCI layout.
    pub fn of_layout(context: Arc<Context>) -> Result<Self> {
        let read = |path: &str| context.read(path, DOCUMENT_BYTES_MAX);
        let missing = |what: &str| BuildError::Invalid(format!("the imported cache has no {what}"));
        let index: Value = document(&read("index.json")?.ok_or_else(|| missing("index.json"))?)?;
        let chosen = index["manifests"].as_array().and_then(|all| all.first()).ok_or_else(|| missing("manifest"))?;
        let blob = |value: &Value| -> Result<Vec<u8>> {
            let digest: Digest = value["digest"].as_str().unwrap_or_default().parse().map_err(|_| missing("digest"))?;
            let bytes = read(&format!("blobs/sha256/{}", digest.hex()))?.ok_or_else(|| missing("blob"))?;
            if image::hash::sha256(&bytes) != digest {
                return Err(BuildError::Invalid(format!("the imported cache is damaged at {digest}")));
            }
            Ok(bytes)
        };
        let manifest: Value = document(&blob(chosen)?)?;
        let config = config_descriptor(&manifest).ok_or_else(|| missing("cache configuration"))?;
        let (layers, by_key) = understood(document(&blob(&config)?)?)?;
        Ok(Self { layers, by_key, place: Place::Layout(context) })
    }

    /// From a folder that is elsewhere: the digest of the manifest in it.
    pub async fn of_blobs(blobs: Arc<dyn Blobs>, manifest: &Digest) -> Result<Self> {
        let read = async |digest: &Digest| -> Result<Value> {
            let mut bytes = Vec::new();
            blobs.fetch(digest, DOCUMENT_BYTES_MAX, &mut bytes).await?;
            if image::hash::sha256(&bytes) != *digest {
                return Err(BuildError::Invalid(format!("the imported cache is damaged at {digest}")));
            }
            document(&bytes)
        };
        let missing = || BuildError::Invalid("the imported cache has no cache configuration".into());
        let config = config_descriptor(&read(manifest).await?).ok_or_else(missing)?;
        let config: Digest = config["digest"].as_str().unwrap_or_default().parse().map_err(|_| missing())?;
        let (layers, by_key) = understood(document_of(read(&config).await?)?)?;
        Ok(Self { layers, by_key, place: Place::Blobs(blobs) })
    }

    /// From a registry: a cache of its own, or one in an image.
    pub async fn of_registry(
        builder: &Builder,
        reference: Reference,
        credentials: engine::Credentials,
    ) -> Result<Self> {
        let client = builder.engine().web_client();
        let failed = |error: registry::client::Error| {
            BuildError::Invalid(format!("import cache from {}: {error}", reference.familiar()))
        };
        let missing = || BuildError::Invalid(format!("{} has no cache in it", reference.familiar()));
        let bytes = client.manifest_bytes(&reference, credentials.clone()).await.map_err(failed)?;
        let mut manifest: Value = document(&bytes)?;
        // An image with others, or with what is attested of it, in an index: this machine's.
        if config_descriptor(&manifest).is_none() && manifest["manifests"].is_array() {
            let digest = own_of(&manifest).ok_or_else(missing)?;
            let one = reference.clone().with_digest(digest);
            let bytes = client.manifest_bytes(&one, credentials.clone()).await.map_err(failed)?;
            manifest = document(&bytes)?;
        }
        let small = async |value: &Value| -> Result<Vec<u8>> {
            let digest: Digest = value["digest"].as_str().unwrap_or_default().parse().map_err(|_| missing())?;
            let size = value["size"].as_u64().unwrap_or(0);
            client.blob_bytes(&reference, credentials.clone(), &digest, size, DOCUMENT_BYTES_MAX).await.map_err(failed)
        };
        let (layers, by_key) = match config_descriptor(&manifest) {
            Some(config) => understood(document(&small(&config).await?)?)?,
            None => {
                let config: Value = document(&small(&manifest["config"]).await?)?;
                inline_of(&manifest, &config).ok_or_else(missing)??
            }
        };
        Ok(Self { layers, by_key, place: Place::Registry { reference, credentials } })
    }

    pub(crate) fn find(&self, keys: &[String]) -> Option<usize> {
        keys.iter().find_map(|key| self.by_key.get(key)).copied()
    }

    /// Brings a layer, and everything below it, into the store; returns the topmost with a lease.
    pub(crate) async fn bring(&self, builder: &Builder, layer: usize) -> Result<image::Sealed> {
        let mut chain = Vec::new();
        let mut next = Some(layer);
        while let Some(at) = next {
            chain.push(&self.layers[at]);
            next = self.layers[at].parent;
        }
        chain.reverse();
        let diff_ids: Vec<Digest> = chain.iter().map(|layer| layer.diff_id).collect();
        let ids = image::config::chain_ids(&diff_ids);
        let mut below: Option<image::Sealed> = None;
        for (layer, id) in chain.into_iter().zip(ids) {
            let store = builder.engine().store().clone();
            let known = blocking(move || match store.lease(&id) {
                Ok(lease) => Ok(store.layer(&id)?.map(|layer| image::Sealed { layer, lease })),
                Err(image::Error::NoSuchLayer(_)) => Ok(None),
                Err(error) => Err(error.into()),
            })
            .await?;
            if known.is_some() {
                below = known;
                continue;
            }
            let mut input = self.open(builder, layer).await?;
            let store = builder.engine().store().clone();
            let parent = below.as_ref().map(|sealed| sealed.layer.chain);
            let sealed = blocking(move || Ok(store.add_layer_tar(parent.as_ref(), &mut *input)?)).await?;
            if sealed.layer.chain != id {
                return Err(BuildError::Invalid(format!(
                    "the imported cache is damaged: {} is not what it says",
                    layer.blob
                )));
            }
            below = Some(sealed);
        }
        below.ok_or_else(|| BuildError::Invalid("the imported cache has a record without a layer".into()))
    }

    async fn open(&self, builder: &Builder, layer: &ImportedLayer) -> Result<Box<dyn Read + Send>> {
        match &self.place {
            Place::Layout(context) => {
                let path = format!("blobs/sha256/{}", layer.blob.hex());
                let fd = context.root().open_file(&path, OFlags::RDONLY, linux::fs::Mode::empty())?;
                Ok(Box::new(std::fs::File::from(fd)))
            }
            Place::Blobs(blobs) => {
                use std::io::Seek;
                let mut file = builder.scratch_file()?;
                blobs.fetch(&layer.blob, layer.size, &mut file).await?;
                file.rewind().map_err(|source| BuildError::Io { what: "read a cached layer".into(), source })?;
                Ok(Box::new(file))
            }
            Place::Registry { reference, credentials } => {
                let client = builder.engine().web_client();
                let mut file = builder.scratch_file()?;
                let failed =
                    |e: registry::client::Error| BuildError::Invalid(format!("fetch cached layer {}: {e}", layer.blob));
                let got = client.blob_file(reference, credentials.clone(), &layer.blob, layer.size, &mut file).await;
                got.map_err(failed)?;
                use std::io::Seek;
                let io = |source| BuildError::Io { what: "read a cached layer".into(), source };
                file.rewind().map_err(io)?;
                Ok(Box::new(file))
            }
        }
    }
}

fn document<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| BuildError::Invalid(format!("the imported cache cannot be read: {e}")))
}

fn document_of<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| BuildError::Invalid(format!("the imported cache cannot be read: {e}")))
}

/// The cache's configuration in either form of its manifest: an image's, or an index that lists everything.
fn config_descriptor(manifest: &Value) -> Option<Value> {
    let is_cache = |value: &&Value| value["mediaType"] == CACHE_CONFIG;
    let own = Some(&manifest["config"]).filter(is_cache);
    own.or_else(|| manifest["manifests"].as_array()?.iter().find(is_cache)).cloned()
}

/// The image of an index that is for this machine.
fn own_of(index: &Value) -> Option<Digest> {
    let host = image::Platform::host();
    let fits = |entry: &&Value| {
        let platform = &entry["platform"];
        platform["os"] == host.os.as_str() && platform["architecture"] == host.architecture.as_str()
    };
    index["manifests"].as_array()?.iter().find(fits)?["digest"].as_str()?.parse().ok()
}

type Understood = (Vec<ImportedLayer>, BTreeMap<String, usize>);

/// The cache in an image: its records, and the image's own layers.
fn inline_of(manifest: &Value, config: &Value) -> Option<Result<Understood>> {
    let text = config[INLINE].as_str()?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let mut cache: CacheConfig = match document(&bytes) {
        Ok(cache) => cache,
        Err(error) => return Some(Err(error)),
    };
    let diff_ids = config.pointer("/rootfs/diff_ids")?.as_array()?;
    let layers = manifest["layers"].as_array()?;
    // What the layers are stands in the image itself.
    cache.layers = layers
        .iter()
        .zip(diff_ids)
        .enumerate()
        .map(|(at, (layer, diff_id))| CacheLayer {
            blob: layer["digest"].as_str().and_then(|digest| digest.parse().ok()),
            parent: at as i64 - 1,
            annotations: Some(LayerAnnotations {
                media_type: String::new(),
                diff_id: diff_id.as_str().and_then(|digest| digest.parse().ok()),
                size: layer["size"].as_u64().unwrap_or(0),
            }),
        })
        .collect();
    Some(understood(cache))
}

impl Builder {
    /// What builds know, as a package: every step with `max`, else those whose layers the results have. Blocking.
    pub fn cache_package(&self, built: &[&Built], max: bool, form: LayerForm) -> Result<Package> {
        let (config, mut blobs) = self.cache_config(built, max, form)?;
        let mut list = Vec::new();
        for layer in &config.layers {
            let (Some(blob), Some(annotations)) = (layer.blob, &layer.annotations) else { continue };
            list.push(descriptor(&annotations.media_type, &blob, annotations.size));
        }
        let config = bytes_of(&serde_json::to_value(&config).map_err(|e| BuildError::Invalid(e.to_string()))?)?;
        let digest = image::hash::sha256(&config);
        let manifest = bytes_of(&json!({
            "schemaVersion": 2,
            "mediaType": MediaTypes::Oci.manifest(),
            "config": descriptor(CACHE_CONFIG, &digest, config.len() as u64),
            "layers": list,
        }))?;
        blobs.insert(digest, PackageBlob::Bytes(config));
        let held = built.iter().copied().cloned().collect();
        Ok(Package::new(blobs, vec![(MediaTypes::Oci.manifest().to_owned(), manifest)], held))
    }

    /// The same build, whose image carries its cache. Blocking.
    pub fn with_inline_cache(&self, built: &Built) -> Result<Built> {
        // The image's layers are in its manifest, in the same order.
        let own = self.chain_of(built.top)?;
        let index: BTreeMap<Digest, usize> = own.iter().enumerate().map(|(at, chain)| (*chain, at)).collect();
        let cache = CacheConfig { layers: Vec::new(), records: self.records(built, &index) };
        let text = serde_json::to_vec(&cache).map_err(|e| BuildError::Invalid(e.to_string()))?;
        let mut config: Value = document(&built.config)?;
        config[INLINE] = base64::engine::general_purpose::STANDARD.encode(text).into();
        Ok(Built { config: bytes_of(&config)?, ..built.clone() })
    }

    fn cache_config(
        &self,
        all: &[&Built],
        max: bool,
        form: LayerForm,
    ) -> Result<(CacheConfig, BTreeMap<Digest, PackageBlob>)> {
        let mut config = CacheConfig::default();
        let mut index: BTreeMap<Digest, usize> = BTreeMap::new();
        let mut records = BTreeMap::new();
        let mut blobs = BTreeMap::new();
        for built in all {
            for chain in self.layers_known(built, max)? {
                if index.contains_key(&chain) {
                    continue;
                }
                let leaving = self.leaving_layer(&chain, form)?;
                let facts = self.engine().store().layer(&chain)?.ok_or(image::Error::NoSuchLayer(chain))?;
                let parent = facts.parent.and_then(|parent| index.get(&parent)).map_or(-1, |at| *at as i64);
                index.insert(chain, config.layers.len());
                config.layers.push(CacheLayer {
                    blob: Some(leaving.digest),
                    parent,
                    annotations: Some(LayerAnnotations {
                        media_type: leaving.media_type,
                        diff_id: Some(facts.diff_id),
                        size: leaving.blob.bytes(),
                    }),
                });
                blobs.insert(leaving.digest, leaving.blob);
            }
            records.extend(self.records(built, &index).into_iter().map(|record| (record.digest, record)));
        }
        config.records = records.into_values().collect();
        Ok((config, blobs))
    }

    /// Chain ids of what steps came to, each after what is below it: of every step with `max`, else of those whose layers
    /// the result has.
    fn layers_known(&self, built: &Built, max: bool) -> Result<Vec<Digest>> {
        let of_result = self.chain_of(built.top)?;
        let diff_id = |chain: &Digest| -> Result<Digest> {
            Ok(self.engine().store().layer(chain)?.ok_or(image::Error::NoSuchLayer(*chain))?.diff_id)
        };
        // By what they hold: a linked layer is in the result under another chain id than its own.
        let of_result = of_result.iter().map(diff_id).collect::<Result<BTreeSet<Digest>>>()?;
        let mut known = Vec::new();
        for step in built.steps.iter() {
            if !max && !of_result.contains(&diff_id(&step.top)?) {
                continue;
            }
            known.extend(self.chain_of(Some(step.top))?);
        }
        Ok(known)
    }

    fn records(&self, built: &Built, index: &BTreeMap<Digest, usize>) -> Vec<CacheRecords> {
        let mut records = BTreeMap::new();
        for step in built.steps.iter() {
            let Some(layer) = index.get(&step.top) else { continue };
            for digest in step.keys.iter().filter_map(|key| format!("sha256:{key}").parse::<Digest>().ok()) {
                let result = CacheResult { layer: *layer, created_at: None };
                records.insert(digest, CacheRecords { digest: Some(digest), results: vec![result] });
            }
        }
        records.into_values().collect()
    }

    /// Chain ids up to `top`, bottom first.
    fn chain_of(&self, top: Option<Digest>) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        let mut next = top;
        while let Some(chain) = next {
            found.push(chain);
            next = self.engine().store().layer(&chain)?.ok_or(image::Error::NoSuchLayer(chain))?.parent;
        }
        found.reverse();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_sha256([n; 32])
    }

    fn layer(n: u8, parent: i64) -> CacheLayer {
        let annotations = LayerAnnotations { diff_id: Some(digest(n)), size: 5, ..LayerAnnotations::default() };
        CacheLayer { blob: Some(digest(n)), parent, annotations: Some(annotations) }
    }

    fn record(n: u8, layer: usize) -> CacheRecords {
        CacheRecords { digest: Some(digest(n)), results: vec![CacheResult { layer, created_at: None }] }
    }

    #[test]
    fn documents_read_back_as_buildkit_writes_them() {
        let config = CacheConfig { layers: vec![layer(1, -1), layer(2, 0), layer(3, 1)], records: vec![record(9, 2)] };
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""parent":-1"#) && !text.contains(r#""parent":0"#), "{text}");
        let (layers, by_key) = understood(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(layers.iter().map(|layer| layer.parent).collect::<Vec<_>>(), [None, Some(0), Some(1)]);
        assert_eq!(by_key, BTreeMap::from([(digest(9).hex(), 2)]));
    }

    #[test]
    fn documents_that_lead_nowhere_are_refused() {
        for config in [
            CacheConfig { layers: vec![layer(1, 0)], records: Vec::new() },
            CacheConfig { layers: vec![layer(1, 3)], records: Vec::new() },
            CacheConfig { layers: vec![layer(1, -1)], records: vec![record(9, 1)] },
            CacheConfig { layers: vec![CacheLayer { blob: None, ..layer(1, -1) }], records: Vec::new() },
        ] {
            assert!(understood(config.clone()).is_err(), "{config:?}");
        }
    }

    #[test]
    fn an_images_own_layers_stand_behind_its_records() {
        let cache = CacheConfig { layers: Vec::new(), records: vec![record(9, 1)] };
        let text = base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(&cache).unwrap());
        let config = json!({ INLINE: text, "rootfs": { "diff_ids": [digest(1).to_string(), digest(2).to_string()] } });
        let layers: Vec<_> = [3, 4].map(|n| json!({ "digest": digest(n).to_string(), "size": 7 })).into();
        let (layers, by_key) = inline_of(&json!({ "layers": layers }), &config).unwrap().unwrap();
        assert_eq!((layers[1].blob, layers[1].diff_id, layers[1].parent), (digest(4), digest(2), Some(0)));
        assert_eq!(by_key[&digest(9).hex()], 1);
        assert!(inline_of(&json!({}), &json!({})).is_none());
    }
}
