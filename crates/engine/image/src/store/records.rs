//! What the database keeps about images.

use std::collections::BTreeMap;

use db::Table;
use serde::{Deserialize, Serialize};
use vocab::Digest;

/// By image id.
pub(crate) const IMAGES: Table<Digest, ImageRecord> = Table::new("images");
/// By canonical reference, with a tag or with a digest.
pub(crate) const NAMES: Table<String, NameRecord> = Table::new("image-names");
/// By chain id.
pub(crate) const LAYERS: Table<Digest, LayerRecord> = Table::new("image-layers");
/// By digest: the files below `blobs/`.
pub(crate) const BLOBS: Table<Digest, BlobRecord> = Table::new("image-blobs");
/// By the tar's digest and the form: blobs that were packed from layers.
pub(crate) const PACKED: Table<String, PackedRecord> = Table::new("image-packed");
/// By the holder's key: layers that stay without an image.
pub(crate) const KEPT: Table<String, KeptRecord> = Table::new("image-kept");
/// By container id.
pub(crate) const SNAPSHOTS: Table<String, SnapshotRecord> = Table::new("snapshots");

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Chain ids, bottom first.
    pub(crate) layers: Vec<Digest>,
    /// Manifests as they came, whose bytes are blobs: their digests are what registries know the image by.
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    /// The image that `commit` or a build started from.
    #[serde(default)]
    pub(crate) parent: Option<Digest>,
    /// From the configuration, so that a listing reads no files.
    #[serde(default)]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Seconds since 1970: when it was made here or a name last moved to it.
    #[serde(default)]
    pub(crate) tagged_at: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    pub(crate) image: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Folder below `layers/`. Layers that do not depend on what is below them may share one.
    pub(crate) folder: String,
    pub(crate) diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub(crate) tar_bytes: u64,
    /// Bytes in its files.
    pub(crate) bytes: u64,
    /// The compressed tar as it came, kept as a blob. Without it the folder has a recipe.
    #[serde(default)]
    pub(crate) compressed: Option<Descriptor>,
    /// The folder was completed from the layers below, and must not be shared with another chain.
    #[serde(default)]
    pub(crate) rebased: bool,
    /// The layer that this one stands on, by chain id.
    #[serde(default)]
    pub(crate) parent: Option<Digest>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeptRecord {
    pub(crate) chain: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PackedRecord {
    pub(crate) diff_id: Digest,
    /// Of the blob.
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    /// Seconds since 1970.
    pub(crate) made_at: i64,
    pub(crate) used_at: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    /// `None`: made on layers that are no image's.
    pub(crate) image: Option<Digest>,
    /// Chain ids, bottom first: the snapshot keeps its layers even if its image is forced away.
    pub(crate) layers: Vec<Digest>,
}

/// OCI image-spec, "Content Descriptors", what is needed of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}
