//! A vendor's file, as the specification has it: JSON or YAML, of which JSON is a part.

use std::path::Path;

use serde::Deserialize;

use crate::name::{Name, is_device, is_kind};

/// A file of a machine with many cards has a few hundred kilobytes.
const BYTES_MAX: u64 = 8 << 20;

/// Versions whose fields are known here.
const VERSIONS: [&str; 10] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

pub(crate) struct File {
    pub(crate) edits: Edits,
    pub(crate) devices: Vec<(Name, Edits)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[serde(rename = "annotations")]
    _annotations: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// What a container gets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// `NAME=VALUE`.
    pub(crate) env: Vec<String>,
    pub(crate) device_nodes: Vec<DeviceNode>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) intel_rdt: Option<serde::de::IgnoredAny>,
    pub(crate) net_devices: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeviceNode {
    pub(crate) path: String,
    /// Empty: the same.
    pub(crate) host_path: String,
    /// `b`, `c`, `u`, `p`; empty: as the host's.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    /// `rwm` or a part of it; empty is all.
    pub(crate) permissions: String,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Mount {
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    pub(crate) options: Vec<String>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hook {
    pub(crate) hook_name: String,
    pub(crate) path: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) timeout: Option<i64>,
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
        if size > BYTES_MAX {
            return Err(format!("{size} bytes are more than the {BYTES_MAX} that are read"));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(|error| error.to_string())?)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wire: Wire = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if !VERSIONS.contains(&&*wire.cdi_version) {
            return Err(format!("cdiVersion {:?} is not known", wire.cdi_version));
        }
        if !is_kind(&wire.kind) {
            return Err(format!("kind {:?} is not VENDOR/CLASS", wire.kind));
        }
        wire.container_edits.check()?;
        let mut devices: Vec<(Name, Edits)> = Vec::new();
        for device in wire.devices {
            if !is_device(&device.name) {
                return Err(format!("device name {:?} is not valid", device.name));
            }
            let name = Name { kind: wire.kind.clone(), device: device.name };
            if devices.iter().any(|(other, _)| *other == name) {
                return Err(format!("the device {name} is named twice"));
            }
            device.container_edits.check().map_err(|problem| format!("{name}: {problem}"))?;
            devices.push((name, device.container_edits));
        }
        Ok(Self { edits: wire.container_edits, devices })
    }
}

impl Edits {
    pub(crate) fn extend(&mut self, other: &Self) {
        let other = other.clone();
        self.env.extend(other.env);
        self.device_nodes.extend(other.device_nodes);
        self.mounts.extend(other.mounts);
        self.hooks.extend(other.hooks);
        self.additional_gids.extend(other.additional_gids);
    }

    fn check(&self) -> Result<(), String> {
        // Left out silently, a container would run without what its device needs.
        if self.intel_rdt.is_some() {
            return Err("containerEdits.intelRdt is not supported".into());
        }
        if !self.net_devices.is_empty() {
            return Err("containerEdits.netDevices is not supported".into());
        }
        if let Some(env) = self.env.iter().find(|env| env.find('=').is_none_or(|at| at == 0)) {
            return Err(format!("env {env:?} is not NAME=VALUE"));
        }
        for node in &self.device_nodes {
            if !node.path.starts_with('/') {
                return Err(format!("device node {:?} is no absolute path", node.path));
            }
            if !matches!(&*node.kind, "" | "b" | "c" | "u" | "p") {
                return Err(format!("device {:?} has the unknown type {:?}", node.path, node.kind));
            }
            if !node.permissions.bytes().all(|b| b"rwm".contains(&b)) {
                return Err(format!("device {:?} has the unknown permissions {:?}", node.path, node.permissions));
            }
        }
        if let Some(mount) = self.mounts.iter().find(|m| m.host_path.is_empty() || !m.container_path.starts_with('/')) {
            return Err(format!("mount {:?} to {:?} lacks a path", mount.host_path, mount.container_path));
        }
        for hook in &self.hooks {
            if !crate::apply::HOOKS.contains(&&*hook.hook_name) {
                return Err(format!("unknown hook {:?}", hook.hook_name));
            }
            if !hook.path.starts_with('/') {
                return Err(format!("hook {:?} is no absolute path", hook.path));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_are_read_and_nonsense_is_named() {
        let good = r#"{"cdiVersion":"1.0.0","kind":"v.com/c","annotations":{"a":"b"},"devices":[{"name":"0","annotations":{"x":"y"},
            "containerEdits":{"deviceNodes":[{"path":"/dev/x","hostPath":"/dev/y","fileMode":432}],"additionalGids":[44]}}]}"#;
        let file = File::parse(good).unwrap();
        let node = &file.devices[0].1.device_nodes[0];
        assert_eq!((&*node.path, &*node.host_path, node.file_mode), ("/dev/x", "/dev/y", Some(0o660)));
        assert_eq!(file.devices[0].1.additional_gids, [44]);
        let with = |edits: &str| {
            format!("{{cdiVersion: 1.0.0, kind: v.com/c, devices: [{{name: a, containerEdits: {edits}}}]}}")
        };
        assert!(File::parse(&with("{env: [A=]}")).is_ok());
        for (text, part) in [
            (with("{env: [A]}"), "is not NAME=VALUE"),
            (with("{deviceNodes: [{path: dev/x}]}"), "no absolute path"),
            (with("{deviceNodes: [{path: /x, type: s}]}"), "unknown type"),
            (with("{deviceNodes: [{path: /x, permissions: rx}]}"), "unknown permissions"),
            (with("{mounts: [{hostPath: /a}]}"), "lacks a path"),
            (with("{hooks: [{hookName: never, path: /x}]}"), "unknown hook"),
            (with("{hooks: [{hookName: poststop, path: x}]}"), "no absolute path"),
            (with("{intelRdt: {closID: a}}"), "intelRdt is not supported"),
            (with("{netDevices: [{name: a}]}"), "netDevices is not supported"),
            (with("{}").replace("name: a", "name: '-'"), "device name"),
            (with("{}").replace("1.0.0", "9.0.0"), "cdiVersion \"9.0.0\" is not known"),
            (with("{}").replace("v.com/c", "v"), "is not VENDOR/CLASS"),
            ("[]".into(), ""),
            ("kind: v.com/c".into(), "cdiVersion"),
        ] {
            let problem = File::parse(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
