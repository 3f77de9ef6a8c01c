//! Media types, and what a manifest of any kind refers to. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use vocab::Digest;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a client that takes every kind of manifest says.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// What a registry needs to know of a manifest: which bytes it keeps alive and what it says about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) media_type: String,
    /// Configuration and layers that must be in the repository.
    pub(crate) blobs: Vec<Digest>,
    /// Manifests of an index.
    pub(crate) manifests: Vec<Digest>,
    pub(crate) subject: Option<Digest>,
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) artifact_type: Option<String>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads a manifest that was sent as `announced` (without parameters; empty: not said). The answer says what is wrong.
pub(crate) fn parse(bytes: &[u8], announced: &str) -> Result<Facts, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| format!("not a manifest: {e}"))?;
    if document.schema_version != 2 {
        return Err(format!("schema version {} is not supported", document.schema_version));
    }
    let own = document.media_type.unwrap_or_default();
    if !own.is_empty() && !announced.is_empty() && own != announced {
        return Err(format!("it calls itself {own:?} and was sent as {announced:?}"));
    }
    let is_image = document.config.is_some() || document.layers.is_some();
    if is_image && document.manifests.is_some() {
        return Err("it could be read as an image and as an index".into());
    }
    let shape = match (is_image, &document.manifests) {
        (_, Some(_)) => OCI_INDEX,
        (true, None) => OCI_MANIFEST,
        (false, None) => return Err("neither an image manifest nor an index".into()),
    };
    let media_type = match (own.as_str(), announced) {
        ("", "" | "application/json") => shape.to_owned(),
        ("", announced) => announced.to_owned(),
        (own, _) => own.to_owned(),
    };
    if is_index(&media_type) == is_image
        && matches!(&*media_type, OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST)
    {
        return Err(format!("its content does not suit its type {media_type:?}"));
    }
    let artifact_type = document.artifact_type.filter(|text| !text.is_empty());
    let artifact_type =
        artifact_type.or_else(|| document.config.as_ref().map(|config| config.media_type.clone()).filter(|_| is_image));
    let layers = document.layers.unwrap_or_default();
    // What has addresses of its own need not be here.
    let own_layers = layers.iter().filter(|layer| layer.urls.is_empty());
    let blobs = document.config.iter().chain(own_layers).map(|blob| blob.digest);
    Ok(Facts {
        blobs: blobs.collect(),
        manifests: document.manifests.iter().flatten().map(|manifest| manifest.digest).collect(),
        subject: document.subject.map(|subject| subject.digest),
        artifact_type,
        annotations: document.annotations.unwrap_or_default(),
        media_type,
    })
}

/// The descriptors of an index.
pub(crate) fn index_entries(bytes: &[u8]) -> Option<Vec<Descriptor>> {
    serde_json::from_slice::<Document>(bytes).ok()?.manifests
}

/// Configuration and layers of an image manifest.
pub(crate) fn image_parts(bytes: &[u8]) -> Option<(Descriptor, Vec<Descriptor>)> {
    let document = serde_json::from_slice::<Document>(bytes).ok()?;
    Some((document.config?, document.layers?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_tell_what_they_refer_to() {
        let d = |n: u8| format!("sha256:{}", format!("{n:02x}").repeat(32));
        let blob = |n: u8| format!(r#"{{"mediaType":"x/y","digest":"{}","size":1}}"#, d(n));
        let image = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}],"subject":{}}}"#,
            blob(1),
            blob(2),
            blob(3),
            blob(4)
        );
        let facts = parse(image.as_bytes(), OCI_MANIFEST).unwrap();
        assert_eq!(facts.blobs, [d(1), d(2), d(3)].map(|text| text.parse().unwrap()));
        assert_eq!(facts.subject, Some(d(4).parse().unwrap()));
        assert_eq!(facts.artifact_type.as_deref(), Some("x/y"));
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, blob(5));
        assert_eq!(parse(index.as_bytes(), "").unwrap().manifests, [d(5).parse().unwrap()]);
        let refusal = |text: &str, announced: &str| parse(text.as_bytes(), announced).unwrap_err();
        assert_eq!(
            refusal(&index, OCI_MANIFEST),
            format!("it calls itself {OCI_INDEX:?} and was sent as {OCI_MANIFEST:?}")
        );
        assert_eq!(refusal(r#"{"schemaVersion":1}"#, ""), "schema version 1 is not supported");
        assert_eq!(refusal(r#"{"schemaVersion":2}"#, ""), "neither an image manifest nor an index");
        assert!(refusal("[", "").starts_with("not a manifest: "));
        assert_eq!(refusal(&image, OCI_INDEX), format!("its content does not suit its type {OCI_INDEX:?}"));
    }
}
