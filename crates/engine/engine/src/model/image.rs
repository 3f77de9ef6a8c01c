//! Images as the engine's callers see them. The store itself is `image`'s; this is the edge's view of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use vocab::Digest;

use super::{Filters, Healthcheck};

#[derive(Debug, Clone, Default)]
pub struct ImageListOptions {
    /// Also intermediate images.
    pub all: bool,
    pub shared_size: bool,
    /// `reference`, `dangling`, `label`, `before`, `since`, `until`.
    pub filters: Filters,
}

#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    pub parent: Option<Digest>,
    /// `busybox:latest`, in familiar form.
    pub tags: Vec<String>,
    /// `busybox@sha256:...`.
    pub digests: Vec<String>,
    pub created_at: Option<Timestamp>,
    pub size_bytes: u64,
    /// `None` unless asked for.
    pub shared_size_bytes: Option<u64>,
    pub labels: BTreeMap<String, String>,
    /// Containers that use it.
    pub containers: usize,
}

#[derive(Debug, Clone)]
pub struct ImageView {
    pub id: Digest,
    pub parent: Option<Digest>,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub comment: String,
    pub author: String,
    pub created_at: Option<Timestamp>,
    /// When a tag last moved here.
    pub tagged_at: Option<Timestamp>,
    pub architecture: String,
    pub variant: String,
    pub os: String,
    pub size_bytes: u64,
    pub config: ImageConfig,
    pub layers: Vec<Digest>,
    /// Topmost first.
    pub lowers: Vec<std::path::PathBuf>,
}

/// What an image says about the workload. A value, never an action on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageConfig {
    pub user: String,
    pub exposed_ports: BTreeSet<String>,
    pub env: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub args_escaped: bool,
    pub volumes: BTreeSet<String>,
    pub working_dir: String,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub shell: Option<Vec<String>>,
    pub healthcheck: Option<Healthcheck>,
    pub on_build: Vec<String>,
}

/// One line of `history`, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// Known for the image itself and for parents made here.
    pub id: Option<Digest>,
    pub created_at: Option<Timestamp>,
    pub created_by: String,
    pub size_bytes: u64,
    pub comment: String,
    pub tags: Vec<String>,
}

/// What `rmi` and `image prune` did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRemoval {
    /// A name is gone: `busybox:latest`.
    Untagged(String),
    /// An image or layer is gone.
    Deleted(Digest),
}

#[derive(Debug, Clone, Default)]
pub struct ImagePruned {
    pub removed: Vec<ImageRemoval>,
    pub space_reclaimed_bytes: u64,
}

/// What `load` and `import` report while they work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadProgress {
    /// A layer is being unpacked: the first twelve digits of its diff id, bytes so far, bytes in all (0: not known).
    Layer { id: String, current: u64, total: u64 },
    /// A name now stands for this image.
    Tagged { reference: String, id: Digest },
    /// An image without a name was loaded.
    Loaded { id: Digest },
}

/// `import`.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// `repository[:tag]`; `None` leaves the image untagged.
    pub reference: Option<String>,
    pub message: String,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    pub platform: Option<String>,
}

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// With a tag, with a digest, or neither.
    pub reference: String,
    /// Without a tag: every tag, instead of `latest`.
    pub all_tags: bool,
    pub platform: Option<String>,
    pub credentials: Credentials,
}

/// What to push.
#[derive(Debug, Clone, Default)]
pub struct PushRequest {
    pub reference: String,
    /// Without a tag: every tag of the repository here, instead of `latest`.
    pub all_tags: bool,
    pub credentials: Credentials,
}

pub use registry::client::{Credentials, Report as RegistryReport};
