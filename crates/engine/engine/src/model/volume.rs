//! Volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;

/// `volume create`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Empty: the engine makes a name, and the volume counts as anonymous.
    pub name: String,
    /// Empty or `local`.
    pub driver: String,
    /// `type`, `o` and `device`, as mount(8) has them.
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct VolumeView {
    pub name: String,
    pub driver: String,
    pub mountpoint: PathBuf,
    pub created_at: Timestamp,
    /// Nobody named it: it came with a container or without a name.
    pub anonymous: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Filled by `disk_usage`.
    pub size_bytes: Option<u64>,
    /// How many containers refer to it; filled by `disk_usage` and `volume_list`.
    pub used_by: usize,
}
