//! Volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;

/// `volume create`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Empty: the engine makes a name, and the volume counts as anonymous.
    pub name: String,
    /// Empty or `local`: ours; else a plugin's name.
    pub driver: String,
    /// `type`, `o` and `device`, as mount(8) has them; what another driver takes is its own.
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
    /// `local`, or `global` where a driver says that other machines have it too.
    pub scope: String,
    /// What another driver says of it, as it says it.
    pub status: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Debug, Clone)]
pub struct VolumeList {
    pub volumes: Vec<VolumeView>,
    /// Drivers that did not answer.
    pub warnings: Vec<String>,
}
