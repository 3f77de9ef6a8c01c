//! The words of the store's callers: what they ask, what they are told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vocab::{Digest, Reference};

use crate::config::Config;

/// An operating system and a processor, as in `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// Empty: any.
    pub variant: String,
}

impl Platform {
    /// What this machine runs.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
    }

    /// `os/arch[/variant]`, `arch`, or `os`.
    pub fn parse(text: &str) -> Result<Self, crate::Error> {
        let invalid = || crate::Error::invalid(format!("platform {text:?}"), "expected os/architecture[/variant]");
        let parts: Vec<&str> = text.split('/').collect();
        let clean = |part: &&str| {
            !part.is_empty()
                && part.len() < 64
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if !parts.iter().all(clean) {
            return Err(invalid());
        }
        let (os, architecture, variant) = match parts[..] {
            ["linux"] => ("linux", Self::host().architecture, ""),
            [architecture] => ("linux", architecture.to_owned(), ""),
            [os, architecture] => (os, architecture.to_owned(), ""),
            [os, architecture, variant] => (os, architecture.to_owned(), variant),
            _ => return Err(invalid()),
        };
        let architecture = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "i386" => "386".to_owned(),
            other => other.to_owned(),
        };
        Ok(Self { os: os.to_ascii_lowercase(), architecture, variant: variant.to_ascii_lowercase() })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// One line of `images`.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    pub parent: Option<Digest>,
    /// References with a tag, in order.
    pub tags: Vec<Reference>,
    /// References with a digest, in order.
    pub digests: Vec<Reference>,
    pub created_at: Option<Timestamp>,
    /// Unpacked bytes of all its layers.
    pub size_bytes: u64,
    /// Of these, bytes in layers that other images use too.
    pub shared_size_bytes: u64,
    pub labels: BTreeMap<String, String>,
    /// Snapshots (containers) made of it.
    pub containers: Vec<String>,
}

/// Everything known about one image.
#[derive(Debug, Clone)]
pub struct ImageFacts {
    pub id: Digest,
    pub parent: Option<Digest>,
    pub tags: Vec<Reference>,
    pub digests: Vec<Reference>,
    /// When a tag last moved to it, or it was made.
    pub tagged_at: Option<Timestamp>,
    pub size_bytes: u64,
    pub config: Config,
    /// The configuration as it came, with fields that [`Config`] does not know.
    pub config_bytes: Vec<u8>,
    /// Directories of its layers, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Snapshots (containers) made of it.
    pub containers: Vec<String>,
}

/// One step of `history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Known for the image itself and for parents in this store.
    pub id: Option<Digest>,
    pub created_at: Option<Timestamp>,
    pub created_by: String,
    /// Unpacked bytes; 0 where the step made no layer.
    pub size_bytes: u64,
    pub comment: String,
    pub tags: Vec<Reference>,
}

/// What to list. All conditions hold together; several values of one condition are alternatives.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Also intermediate images (untagged parents of others).
    pub all: bool,
    /// Only untagged (`true`) or only tagged (`false`) images.
    pub dangling: Option<bool>,
    /// `key` or `key=value`; all of them hold.
    pub labels: Vec<String>,
    /// Glob patterns on the familiar name with or without tag (`busy*`, `host/repo:1.*`).
    pub references: Vec<String>,
    /// Made before, after this image.
    pub before: Vec<String>,
    pub since: Vec<String>,
    /// Made before this time.
    pub until: Option<Timestamp>,
}

/// What to prune. Images that a snapshot uses stay.
#[derive(Debug, Clone)]
pub struct PruneFilter {
    /// Only untagged images; else all that no container uses.
    pub dangling: bool,
    pub until: Option<Timestamp>,
    /// `key`, `key=value`: all hold.
    pub labels: Vec<String>,
    /// The same, none holds (`label!`).
    pub labels_not: Vec<String>,
}

impl Default for PruneFilter {
    fn default() -> Self {
        Self { dangling: true, until: None, labels: Vec::new(), labels_not: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    pub force: bool,
    /// Keep untagged parents.
    pub no_prune: bool,
}

/// What `rmi` and `prune` did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone, in familiar form.
    Untagged(String),
    /// An image or a layer (by chain id) is gone.
    Deleted(Digest),
}

#[derive(Debug, Clone, Default)]
pub struct Pruned {
    pub removed: Vec<Removed>,
    pub reclaimed_bytes: u64,
}

/// What `load` and `import` report while they work. Counts are bytes of the layer's tar as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A layer is being unpacked. `id`: twelve digits that name it (of its diff id where that is known already).
    Layer { id: String, current: u64, total: u64 },
    /// The layer is complete and verified.
    LayerDone { id: String },
    /// A name now stands for this image, durably.
    Tagged { reference: Reference, id: Digest },
    /// An image without a name is there, durably.
    Loaded { id: Digest },
}

/// One image that `load` brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub id: Digest,
    pub references: Vec<Reference>,
}

#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Which image of a multi-platform archive; `None`: what this machine runs.
    pub platform: Option<Platform>,
    /// If not empty, only these names are set; other names in the archive are ignored.
    pub only: Vec<Reference>,
}

#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    pub reference: Option<Reference>,
    pub message: String,
    /// Dockerfile instructions: `CMD ["sh"]`, `ENV A=b`.
    pub changes: Vec<String>,
    pub platform: Option<Platform>,
}

#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    pub reference: Option<Reference>,
    pub author: String,
    pub message: String,
    /// Dockerfile instructions, applied on top of `config`.
    pub changes: Vec<String>,
    /// What the container ran with; becomes the image's configuration. `None`: as in its image.
    pub config: Option<crate::config::Workload>,
    /// Shown in the history: the container's command.
    pub created_by: String,
}

/// A container's root file system as directories for one overlay mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Read-only, topmost first. The first is the init layer: mount points, never part of a commit.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFacts {
    /// Its chain id: what it is together with all layers below it.
    pub chain: Digest,
    /// Chain id of the layer that it stands on.
    pub parent: Option<Digest>,
    pub diff_id: Digest,
    /// Bytes in its files.
    pub bytes: u64,
    /// Bytes of its uncompressed tar.
    pub tar_bytes: u64,
    /// Digest and size of the compressed tar, if it came so and is kept so. Else the tar is made again when it is read.
    pub compressed: Option<(Digest, u64)>,
}

/// One line of `diff`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute in the container.
    pub path: PathBuf,
    pub kind: ChangeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Changed,
    Added,
    Deleted,
}

/// What `system df` tells about images.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// Bytes of all layers, each counted once.
    pub layers_bytes: u64,
    /// Bytes of compressed layers, manifests and configurations.
    pub blobs_bytes: u64,
    pub images: Vec<ImageSummary>,
}

/// Something on disk and the database that do not agree, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub remedy: String,
}

/// What garbage collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub layers: usize,
    pub blobs: usize,
    pub snapshots: usize,
    pub bytes: u64,
}

/// How far input may go. Defaults are far above any real image and far below what hurts.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Unpacked bytes of one layer.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Layers of one image. The kernel stacks 500 directories in one overlay; one is the init layer, one the writable one.
    pub layers: usize,
    /// Bytes of one manifest or index.
    pub manifest_bytes: u64,
    /// Manifests in one index.
    pub manifests: usize,
    /// Unpacked bytes per compressed byte, once a layer is larger than 64 MiB.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 256 << 30,
            layer_entries: 4_000_000,
            layers: 498,
            manifest_bytes: 4 << 20,
            manifests: 10_000,
            ratio: 1_200,
        }
    }
}

/// A layer in a form that was asked for before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayer {
    pub key: String,
    /// Of the tar that was packed.
    pub diff_id: Digest,
    pub bytes: u64,
    /// Seconds since 1970.
    pub made_at: i64,
    pub used_at: i64,
    /// Somebody has a lease of the layer at this moment.
    pub in_use: bool,
}
