//! The image configuration (OCI image-spec, "Image Configuration"; Docker adds fields of its own). Only what is needed is
//! parsed; the bytes themselves are what is stored, hashed and handed out again, so a field that is not named here survives.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use vocab::Digest;

use crate::error::{Error, Result};

/// No real configuration is near this; Docker refuses above 8 MiB too.
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// A parsed image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub variant: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub os_version: String,
    /// RFC 3339 as written; [`Config::created_at`] reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub author: String,
    /// Docker's, not in the OCI specification.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub comment: String,
    #[serde(deserialize_with = "nullable")]
    pub config: Workload,
    pub rootfs: RootFs,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub history: Vec<History>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub created_by: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub author: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub comment: String,
    /// True where the step made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// What an image says about the process to run in it. Data for the workload only: nothing here is ever an action on the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Workload {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub user: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Says something to Windows alone; builders of Linux images set it with every `CMD` all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "nullable")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub on_build: Vec<String>,
}

/// `{}`: the value of a set written as a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Empty;

impl Serialize for Empty {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        serializer.serialize_map(Some(0))?.end()
    }
}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Empty)
    }
}

/// `HEALTHCHECK`. Zero means the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub test: Vec<String>,
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub interval: Duration,
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub timeout: Duration,
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub start_period: Duration,
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub start_interval: Duration,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let nanos = i64::deserialize(deserializer)?;
        Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
    }
}

/// Go writes an absent list, map or string as `null`.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Config {
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let config: Config = serde_json::from_slice(bytes).map_err(|e| Error::invalid(what, e))?;
        if config.rootfs.kind != "layers" {
            return Err(Error::invalid(what, format!("rootfs.type is {:?}, expected \"layers\"", config.rootfs.kind)));
        }
        let layers = config.history.iter().filter(|h| !h.empty_layer).count();
        if !config.history.is_empty() && layers > config.rootfs.diff_ids.len() {
            let detail = format!("history tells of {layers} layers, rootfs has {}", config.rootfs.diff_ids.len());
            return Err(Error::invalid(what, detail));
        }
        Ok(config)
    }

    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.created.as_deref()?.parse().ok()
    }
}

/// OCI image-spec, "ChainID": names a stack of layers by what is in all of them.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(parent) => crate::hash::sha256(format!("{parent} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_with_nulls_as_go_writes_them_is_read() {
        let config = Config::parse(
            br#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05.6Z","author":null,
                "config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,"Volumes":{"/v":{}},"ExposedPorts":null,"Labels":null,
                "OnBuild":null,"Healthcheck":{"Test":["NONE"],"Interval":1000000000}},"history":null,
                "rootfs":{"type":"layers","diff_ids":null},"some.vendor":{"x":1}}"#,
            "config",
        )
        .unwrap();
        assert_eq!(config.config.cmd, Some(vec!["sh".into()]));
        assert_eq!(config.config.volumes.len(), 1);
        assert_eq!(config.config.healthcheck.unwrap().interval, Duration::from_secs(1));
        assert_eq!(config.created.as_deref(), Some("2024-01-02T03:04:05.6Z"));
        assert!(Config::parse(br#"{"config":null}"#, "config").is_ok());
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let a = Digest::from_sha256([1; 32]);
        let b = Digest::from_sha256([2; 32]);
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], crate::hash::sha256(format!("{a} {b}").as_bytes()));
    }
}
