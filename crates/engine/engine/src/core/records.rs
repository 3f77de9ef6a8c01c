//! The engine's tables. A record is JSON: fields that a newer version adds read as their default.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use linux::idmap::IdMaps;
use serde::{Deserialize, Serialize};
use vocab::Digest;

use crate::decide::mounts::ContainerMount;
use crate::decide::network::NetworkRecord;
use crate::{ConsoleSize, ContainerConfig, ContainerId, ContainerState, EndpointSettings, HostConfig};

pub(crate) const CONTAINERS: db::Table<ContainerId, ContainerRecord> = db::Table::new("engine.containers");
pub(crate) const STATES: db::Table<ContainerId, StateRecord> = db::Table::new("engine.states");
pub(crate) const VOLUMES: db::Table<String, VolumeRecord> = db::Table::new("engine.volumes");
/// By volume and user.
pub(crate) const DRIVER_MOUNTS: db::Table<String, DriverMount> = db::Table::new("engine.driver-mounts");
pub(crate) const NETWORKS: db::Table<String, NetworkRecord> = db::Table::new("engine.networks");
pub(crate) const FACTS: db::Table<String, String> = db::Table::new("engine.facts");

impl db::Key for ContainerId {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_bytes(bytes.try_into().ok()?))
    }
}

/// What a container is. Changes with `rename` and `update` alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Without a slash.
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    pub(crate) image: Digest,
    pub(crate) platform: String,
    /// Merged with the image's.
    pub(crate) config: ContainerConfig,
    /// With defaults filled in.
    pub(crate) host: HostConfig,
    pub(crate) mounts: Vec<ContainerMount>,
    /// The networks it is on, by name: what was asked for. `None`: the one that the network mode names.
    #[serde(default)]
    pub(crate) networks: Option<BTreeMap<String, EndpointSettings>>,
    /// Its ids on the host, settled when it was made; `None`: the host's own. Files on disk have the ids that the container sees.
    #[serde(default)]
    pub(crate) users: Option<IdMaps>,
}

/// What a container does. Changes with every start and exit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StateRecord {
    pub(crate) state: ContainerState,
    /// The last end was a user's wish.
    pub(crate) stopped_by_user: bool,
    /// Restarts by policy since a user last started it.
    pub(crate) restarts: u32,
    /// The start time (clock ticks after boot) of process 1: with the pid it names one process of this boot.
    pub(crate) pid_start: u64,
    pub(crate) boot_id: String,
    /// Removal has begun: the next start of the engine finishes it.
    pub(crate) removing: bool,
    /// The terminal's size before the first start.
    pub(crate) console: Option<ConsoleSize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) created_at: Timestamp,
    pub(crate) anonymous: bool,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    /// Whose it is; empty: ours.
    #[serde(default)]
    pub(crate) driver: String,
    /// Its driver has made it just now, for a container that is not there yet.
    #[serde(skip)]
    pub(crate) made_for_create: bool,
}

/// A mount that a volume's driver was asked for, and has not been asked to take back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DriverMount {
    pub(crate) volume: String,
    pub(crate) user: ContainerId,
    /// Where; nothing until it has answered.
    pub(crate) place: Option<PathBuf>,
}
