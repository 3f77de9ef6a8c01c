//! Edits on an OCI spec, in the order and by the rules of the specification's own tools.

use std::path::Path;

use oci_spec::runtime::{
    Hook as OciHook, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, Mount as OciMount,
    Spec,
};

use crate::Error;
use crate::file::{DeviceNode, Edits, Hook, Mount};

pub(crate) const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A device file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// `b`, `c` or `p`.
    pub kind: char,
    pub major: i64,
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Edits {
    /// `node`: looks a device file of the host up.
    pub fn apply(&self, spec: &mut Spec, node: &dyn Fn(&Path) -> Option<Node>) -> Result<(), Error> {
        self.environment(spec);
        for device in &self.device_nodes {
            add_device(spec, device, node)?;
        }
        self.mount(spec);
        for hook in &self.hooks {
            add_hook(spec, hook);
        }
        self.groups(spec);
        Ok(())
    }

    fn environment(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else { return };
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &self.env {
            let name = entry.split_inclusive('=').next().unwrap_or(entry);
            match env.iter_mut().find(|have| have.starts_with(name)) {
                Some(have) => have.clone_from(entry),
                None => env.push(entry.clone()),
            }
        }
        process.set_env(Some(env));
    }

    fn mount(&self, spec: &mut Spec) {
        if self.mounts.is_empty() {
            return;
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &self.mounts {
            mounts.retain(|have| have.destination() != Path::new(&mount.container_path));
            mounts.push(oci_mount(mount));
        }
        // What is below another's target is mounted after it.
        mounts.sort_by_key(|mount| mount.destination().components().count());
        spec.set_mounts(Some(mounts));
    }

    fn groups(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else { return };
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        for group in self.additional_gids.iter().filter(|group| **group != 0) {
            if !groups.contains(group) {
                groups.push(*group);
            }
        }
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
}

fn oci_mount(mount: &Mount) -> OciMount {
    let mut made = OciMount::default();
    made.set_destination((&mount.container_path).into());
    made.set_source(Some((&mount.host_path).into()));
    made.set_typ(Some(if mount.kind.is_empty() { "bind".into() } else { mount.kind.clone() }));
    let mut options = mount.options.clone();
    if mount.kind.is_empty() && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".into());
    }
    made.set_options(Some(options));
    made
}

fn add_device(spec: &mut Spec, device: &DeviceNode, node: &dyn Fn(&Path) -> Option<Node>) -> Result<(), Error> {
    let wrong = |why: &str| Error::Edit(format!("device {}: {why}", device.path));
    let host_path = if device.host_path.is_empty() { &device.path } else { &device.host_path };
    let said = device.kind.chars().next();
    // A pipe has no numbers; of everything else the host is asked for what the file leaves out.
    let told = said == Some('p') || (said.is_some() && device.major != 0);
    let found = if told { None } else { Some(node(Path::new(host_path)).ok_or_else(|| wrong("no device is there"))?) };
    let kind = said.or(found.map(|found| found.kind)).ok_or_else(|| wrong("its type is not known"))?;
    if let Some(found) = found
        && (if kind == 'u' { 'c' } else { kind }) != found.kind
    {
        return Err(wrong(&format!("its type is {:?}, not {kind:?}", found.kind)));
    }
    let numbers = found.map_or((device.major, device.minor), |found| (found.major, found.minor));
    let root = spec.process().as_ref().map_or((0, 0), |process| (process.user().uid(), process.user().gid()));
    let owner = |own: Option<u32>, process: u32| own.or((process != 0).then_some(process));
    let mut made = LinuxDeviceBuilder::default()
        .path(&device.path)
        .typ(match kind {
            'b' => LinuxDeviceType::B,
            'p' => LinuxDeviceType::P,
            _ => LinuxDeviceType::C,
        })
        .major(numbers.0)
        .minor(numbers.1);
    if let Some(mode) = device.file_mode.or(found.map(|found| found.mode)) {
        made = made.file_mode(mode);
    }
    if let Some(uid) = owner(device.uid, root.0) {
        made = made.uid(uid);
    }
    if let Some(gid) = owner(device.gid, root.1) {
        made = made.gid(gid);
    }
    let made = made.build().map_err(|error| wrong(&error.to_string()))?;
    let Some(linux) = spec.linux_mut() else { return Err(wrong("the spec has no linux part")) };
    let mut devices: Vec<LinuxDevice> = linux.devices().clone().unwrap_or_default();
    devices.retain(|have| have.path() != Path::new(&device.path));
    let typ = made.typ();
    devices.push(made);
    linux.set_devices(Some(devices));
    if typ == LinuxDeviceType::P {
        return Ok(());
    }
    let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(typ)
        .major(numbers.0)
        .minor(numbers.1)
        .access(access)
        .build()
        .map_err(|error| wrong(&error.to_string()))?;
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    Ok(())
}

// A vendor's file may still name the stage that was superseded.
#[allow(deprecated)]
fn add_hook(spec: &mut Spec, hook: &Hook) {
    let mut made = OciHook::default();
    made.set_path((&hook.path).into());
    made.set_args((!hook.args.is_empty()).then(|| hook.args.clone()));
    made.set_env((!hook.env.is_empty()).then(|| hook.env.clone()));
    made.set_timeout(hook.timeout);
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    let stage = match &*hook.hook_name {
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        _ => hooks.poststop_mut(),
    };
    stage.get_or_insert_default().push(made);
    spec.set_hooks(Some(hooks));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::file::File;

    fn spec() -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 1000, "gid": 0, "additionalGids": [7]}, "cwd": "/", "args": ["x"], "env": ["A=1", "AB=2"]},
            "mounts": [{"destination": "/a/b", "type": "tmpfs", "source": "tmpfs"}, {"destination": "/lib/x", "type": "tmpfs"}],
            "linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 1}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
        }))
        .unwrap()
    }

    fn edited(edits: &str) -> Result<Value, Error> {
        let text = format!("{{cdiVersion: 1.0.0, kind: v.com/c, devices: [{{name: a, containerEdits: {edits}}}]}}");
        let file = File::parse(&text).unwrap();
        let mut spec = spec();
        let node = |path: &Path| {
            let node = Node { kind: 'c', major: 10, minor: 200, mode: 0o660, uid: 0, gid: 5 };
            (path == Path::new("/dev/host")).then_some(node)
        };
        file.devices[0].1.apply(&mut spec, &node)?;
        Ok(serde_json::to_value(&spec).unwrap())
    }

    #[test]
    fn every_edit_lands_where_it_belongs() {
        let spec = edited("{env: [A=new, C=3], additionalGids: [0, 7, 44]}").unwrap();
        assert_eq!(spec["process"]["env"], json!(["A=new", "AB=2", "C=3"]));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([7, 44]));

        let spec = edited("{deviceNodes: [{path: /dev/x, hostPath: /dev/host, permissions: rw}]}").unwrap();
        let wanted =
            json!([{"path": "/dev/x", "type": "c", "major": 10, "minor": 200, "fileMode": 0o660, "uid": 1000}]);
        assert_eq!(spec["linux"]["devices"], wanted, "it takes the other's place, and belongs to who runs");
        let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"});
        assert_eq!(spec["linux"]["resources"]["devices"][1], rule);
        let spec = edited("{deviceNodes: [{path: /dev/y, type: b, major: 8, minor: 1, uid: 3, gid: 4}]}").unwrap();
        let wanted = json!({"path": "/dev/y", "type": "b", "major": 8, "minor": 1, "uid": 3, "gid": 4});
        assert_eq!(spec["linux"]["devices"][1], wanted);

        let spec = edited(
            "{mounts: [{hostPath: /h, containerPath: /lib, options: [ro]}, {hostPath: /i, containerPath: /lib/x}]}",
        );
        let spec = spec.unwrap();
        let targets: Vec<_> =
            spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        assert_eq!(targets, ["/lib", "/a/b", "/lib/x"]);
        assert_eq!(spec["mounts"][0]["options"], json!(["ro", "rbind"]));
        assert_eq!(spec["mounts"][2]["source"], "/i", "the container's own mount gives way");

        let hooks = "{hooks: [{hookName: createContainer, path: /h, args: [h, a], env: [E=1], timeout: 3}, {hookName: prestart, path: /p}]}";
        let spec = edited(hooks).unwrap();
        let wanted = json!([{"path": "/h", "args": ["h", "a"], "env": ["E=1"], "timeout": 3}]);
        assert_eq!(spec["hooks"], json!({"createContainer": wanted, "prestart": [{"path": "/p"}]}));
    }

    #[test]
    fn a_device_that_is_not_there_or_is_another_is_told() {
        for (edits, why) in [
            ("{deviceNodes: [{path: /dev/none}]}", "device /dev/none: no device is there"),
            ("{deviceNodes: [{path: /dev/host, type: b}]}", "device /dev/host: its type is 'c', not 'b'"),
        ] {
            assert_eq!(edited(edits).unwrap_err().to_string(), format!("CDI device injection failed: {why}"));
        }
    }
}
