//! Manifests and indexes: OCI and Docker schema 2. Pure: bytes in, meaning out.
//!
//! The same bytes must mean the same to everyone: a document that could be read as an image and as an index at once is
//! refused, and so is one whose media type is not the one that it was announced with.

use serde::Deserialize;
use vocab::Digest;

use crate::error::{Error, Result};
use crate::model::{Limits, Platform};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Link {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) platform: Option<PlatformJson>,
}

impl Link {
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Signatures and provenance ride in an index beside the images that they speak of.
    fn is_attestation(&self) -> bool {
        self.annotation("vnd.docker.reference.type") == Some("attestation-manifest")
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PlatformJson {
    os: String,
    architecture: String,
    variant: String,
}

#[derive(Debug)]
pub(crate) enum Document {
    Image { config: Link, layers: Vec<Link> },
    Index { manifests: Vec<Link> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Link>,
    #[serde(default)]
    layers: Option<Vec<Link>>,
    #[serde(default)]
    manifests: Option<Vec<Link>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a document announced with `media_type` (empty: not announced).
pub(crate) fn parse(bytes: &[u8], media_type: &str, what: &str, limits: &Limits) -> Result<Document> {
    if bytes.len() as u64 > limits.manifest_bytes {
        return Err(Error::limit(what, format!("a manifest may have {} bytes", limits.manifest_bytes)));
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| Error::invalid(what, e))?;
    let invalid = |detail: String| Err(Error::invalid(what, detail));
    if raw.schema_version != 2 {
        return invalid(format!("schema version {} is not supported", raw.schema_version));
    }
    let own = raw.media_type.as_deref().unwrap_or("");
    let announced = vocab::weak::without("announced") || media_type.is_empty() || own == media_type;
    if !own.is_empty() && !announced {
        return invalid(format!("it calls itself {own:?} and was announced as {media_type:?}"));
    }
    let media_type = if own.is_empty() { media_type } else { own };
    let image = raw.config.is_some() || raw.layers.is_some() || raw.fs_layers.is_some();
    match (image, raw.manifests) {
        (true, Some(_)) if !vocab::weak::without("ambiguous") => {
            invalid("it could be read as an image and as an index".into())
        }
        (_, Some(manifests)) => {
            if !matches!(media_type, "" | OCI_INDEX | DOCKER_LIST) {
                return invalid(format!("an index of type {media_type:?}"));
            }
            if manifests.len() > limits.manifests {
                return Err(Error::limit(what, format!("an index may list {} manifests", limits.manifests)));
            }
            Ok(Document::Index { manifests })
        }
        (true, None) => {
            if !matches!(media_type, "" | OCI_MANIFEST | DOCKER_MANIFEST) {
                return invalid(format!("a manifest of type {media_type:?}"));
            }
            let (Some(config), Some(layers)) = (raw.config, raw.layers) else {
                return invalid("a manifest without config or layers".into());
            };
            if layers.len() > limits.layers {
                return Err(Error::limit(what, format!("{} layers, at most {}", layers.len(), limits.layers)));
            }
            if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
                return Err(Error::Unsupported(format!("{what}: not a container image but {:?}", config.media_type)));
            }
            for layer in &layers {
                layer_type(&layer.media_type, what)?;
            }
            Ok(Document::Image { config, layers })
        }
        (false, None) => invalid("neither an image manifest nor an index".into()),
    }
}

/// Tars only: a file system image would be parsed by the kernel.
fn layer_type(media_type: &str, what: &str) -> Result<()> {
    let base = media_type
        .strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.")
        .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.v1."))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff."))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff."));
    match base {
        Some("tar" | "tar+gzip" | "tar.gzip" | "tar+zstd" | "tar.zstd") => Ok(()),
        _ if vocab::weak::without("layer-type") => Ok(()),
        _ => Err(Error::Unsupported(format!("{what}: layers of type {media_type:?} are not supported"))),
    }
}

/// One manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

/// The manifest of an index, announced with `media_type`, that suits a platform best.
pub fn choose(index: &[u8], media_type: &str, wanted: &Platform) -> Result<Option<Chosen>> {
    match parse(index, media_type, "index", &Limits::default())? {
        Document::Index { manifests } => Ok(select(&manifests, wanted).map(|link| Chosen {
            media_type: link.media_type.clone(),
            digest: link.digest,
            size: link.size,
        })),
        Document::Image { .. } => Err(Error::invalid("index", "an image, not an index")),
    }
}

/// The manifest of an index that suits `wanted` best: the exact variant, else the best one this platform also runs.
pub(crate) fn select<'a>(manifests: &'a [Link], wanted: &Platform) -> Option<&'a Link> {
    let rank = |link: &Link| -> Option<u32> {
        if link.is_attestation() {
            return None;
        }
        // Without a platform only the configuration can tell.
        let Some(has) = &link.platform else { return Some(1000) };
        if has.os != wanted.os || has.architecture != wanted.architecture {
            return None;
        }
        variant_rank(&wanted.architecture, &has.variant, &wanted.variant)
    };
    manifests.iter().filter_map(|link| Some((rank(link)?, link))).min_by_key(|(rank, _)| *rank).map(|(_, link)| link)
}

/// 0 is best. A machine runs what lower variants were built for; a plain name means the usual variant.
fn variant_rank(architecture: &str, has: &str, wanted: &str) -> Option<u32> {
    let usual = match architecture {
        "arm64" => "v8",
        "arm" => "v7",
        "amd64" => "v1",
        _ => "",
    };
    let or_usual = |variant: &str| if variant.is_empty() { usual.to_owned() } else { variant.to_owned() };
    let (has, wanted) = (or_usual(has), or_usual(wanted));
    if has == wanted {
        return Some(0);
    }
    let level = |variant: &str| variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
    match (level(&has), level(&wanted)) {
        (Some(has), Some(wanted)) if has < wanted => Some(wanted - has),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    fn check(json: &str, media_type: &str) -> String {
        let json = json.replace("$D", D);
        match parse(json.as_bytes(), media_type, "m", &Limits { manifests: 2, layers: 2, ..Limits::default() }) {
            Ok(Document::Image { layers, .. }) => format!("image of {}", layers.len()),
            Ok(Document::Index { manifests }) => format!("index of {}", manifests.len()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn documents_mean_one_thing_or_nothing() {
        let config = r#""config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"$D","size":2}"#;
        let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"$D","size":1}"#;
        let rows = [
            (format!(r#"{{"schemaVersion":2,{config},"layers":[{layer}],"x":1}}"#), "", "image of 1"),
            (format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",{config},"layers":[]}}"#), OCI_MANIFEST, "image of 0"),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), OCI_INDEX, "index of 0"),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), DOCKER_LIST, "index of 0"),
            (
                format!(r#"{{"schemaVersion":2,{config},"layers":[],"manifests":[]}}"#),
                "",
                "m: it could be read as an image and as an index",
            ),
            (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#.into(), OCI_INDEX, "m: it could be read as an image and as an index"),
            (r#"{"schemaVersion":2,"fsLayers":[],"manifests":[]}"#.into(), "", "m: it could be read as an image and as an index"),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}",{config},"layers":[]}}"#),
                OCI_MANIFEST,
                &*format!("m: it calls itself {OCI_INDEX:?} and was announced as {OCI_MANIFEST:?}"),
            ),
            (format!(r#"{{"schemaVersion":2,{config},"layers":[]}}"#), OCI_INDEX, &*format!("m: a manifest of type {OCI_INDEX:?}")),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), OCI_MANIFEST, &*format!("m: an index of type {OCI_MANIFEST:?}")),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), "", "m: schema version 1 is not supported"),
            (r#"{"schemaVersion":2}"#.into(), "", "m: neither an image manifest nor an index"),
            (format!(r#"{{"schemaVersion":2,{config},"layers":[{layer},{layer},{layer}]}}"#), "", "m: 3 layers, at most 2"),
            (
                format!(r#"{{"schemaVersion":2,{config},"layers":[{{"mediaType":"application/vnd.erofs","digest":"$D","size":1}}]}}"#),
                "",
                "m: layers of type \"application/vnd.erofs\" are not supported",
            ),
            (
                r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.wasm","digest":"$D","size":2},"layers":[]}"#.into(),
                "",
                "m: not a container image but \"application/vnd.wasm\"",
            ),
            (
                r#"{"schemaVersion":2,"manifests":[{"digest":"$D","size":-1}]}"#.into(),
                "",
                "m: invalid value: integer `-1`, expected u64 at line 1 column 125",
            ),
        ];
        for (json, media_type, expected) in rows {
            assert_eq!(check(&json, media_type), expected, "{json}");
        }
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let link = |platform: &str| -> Link {
            let (os, rest) = platform.split_once('/').unwrap();
            let (architecture, variant) = rest.split_once('/').unwrap_or((rest, ""));
            Link {
                media_type: platform.into(),
                digest: D.parse().unwrap(),
                size: 0,
                annotations: None,
                platform: Some(PlatformJson {
                    os: os.into(),
                    architecture: architecture.into(),
                    variant: variant.into(),
                }),
            }
        };
        for (offered, wanted, expected) in [
            (&["linux/arm64", "linux/amd64"][..], "linux/amd64", Some("linux/amd64")),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm", Some("linux/arm/v7")),
            (&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some("linux/arm/v6")),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/arm64/v8"], "linux/arm64", Some("linux/arm64/v8")),
            (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["linux/amd64/v3"], "linux/amd64", None),
            (&["windows/amd64", "unknown/unknown"], "linux/amd64", None),
        ] {
            let links: Vec<Link> = offered.iter().map(|text| link(text)).collect();
            let chosen = select(&links, &Platform::parse(wanted).unwrap()).map(|link| link.media_type.as_str());
            assert_eq!(chosen, expected, "{offered:?} for {wanted}");
        }
    }

    #[cfg(feature = "weaken")]
    #[test]
    fn tests_notice_a_weakened_build() {
        let test = "manifest::tests::documents_mean_one_thing_or_nothing";
        vocab::weak::noticed(&[("announced", test), ("ambiguous", test), ("layer-type", test)]);
    }
}
