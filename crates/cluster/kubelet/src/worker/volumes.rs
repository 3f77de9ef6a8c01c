//! Making a pod's volumes ready on this machine.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cache::Kind;
use jiff::Timestamp;
use resources::quantity::Quantity;
use resources::{Value, meta};

use super::Worker;
use super::references::Unfound;
use crate::actions::{self, End};
use crate::container::Found;
use crate::files;
use crate::pod::{self, Role};
use crate::qos;
use crate::runtime::{ContainerSeen, Runtime, Sandbox};

impl<R: Runtime> Worker<R> {
    /// Makes a volume ready; its path on this machine.
    pub(super) async fn volume(
        &self,
        pod: &Value,
        volume: &Value,
        name: &str,
        sandbox: &Sandbox,
        found: &Found,
    ) -> Result<PathBuf, Unfound> {
        let group = pod["spec"]["securityContext"]["fsGroup"].as_u64().map(|group| group as u32);
        if files::is_made_here(volume) {
            let tokens = self.tokens.iter().map(|(wanted, (token, _))| (wanted.clone(), token.clone())).collect();
            let (node, allocatable) = (&self.doors.node, &self.doors.allocatable);
            let contents = files::contents(pod, volume, found, &tokens, Some(sandbox), node, allocatable)?;
            let path = sandbox.directory.join("volumes").join(name);
            let serial = Timestamp::now().as_nanosecond().unsigned_abs();
            files::put(&path, &contents, group, serial)
                .map_err(|error| format!("write {}: {error}", path.display()))?;
            return Ok(path);
        }
        if volume["emptyDir"].is_object() {
            let empty = &volume["emptyDir"];
            let made = match empty["medium"].as_str() {
                None | Some("") => {
                    let path = self.doors.pod_directory(&self.uid).join("volumes").join(name);
                    shared_directory(&path, group).map(|()| path)
                }
                Some("Memory") => {
                    let path = sandbox.directory.join("volumes").join(name);
                    in_memory(&path, memory_size(pod, empty), group).map(|()| path)
                }
                Some(other) => {
                    Err(format!("emptyDir of medium {other:?} is not supported: Memory and the node's disk are"))
                }
            };
            return made.map_err(Unfound::from);
        }
        if volume["hostPath"].is_object() {
            let path = PathBuf::from(volume["hostPath"]["path"].as_str().unwrap_or_default());
            host_path(&path, volume["hostPath"]["type"].as_str().unwrap_or_default())?;
            return Ok(path);
        }
        let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(claim) => Some(claim.to_owned()),
            None if volume["ephemeral"].is_object() => Some(format!("{}-{name}", meta::name(pod))),
            None => None,
        };
        if let Some(claim) = claim {
            let path = self.claimed(meta::namespace(pod), &claim).await?;
            if let Some(group) = group {
                let always = pod["spec"]["securityContext"]["fsGroupChangePolicy"] != "OnRootMismatch";
                let owned = path.clone();
                // Once a pod: what it writes itself is its own.
                if !self.volumes.contains_key(name) {
                    let given = tokio::task::spawn_blocking(move || give_to_group(&owned, group, always)).await;
                    given.map_err(|error| error.to_string())??;
                }
            }
            return Ok(path);
        }
        let kind = volume.as_object().and_then(|fields| fields.keys().find(|field| *field != "name"));
        Err(format!("volumes of kind {} are not supported", kind.map_or("?", String::as_str)).into())
    }

    /// A pod whose emptyDir has outgrown its limit ends.
    pub(super) async fn outgrown(&self, pod: &Value, seen: &[ContainerSeen]) -> Option<End> {
        if seen.is_empty() || meta::is_terminating(pod) {
            return None;
        }
        for volume in meta::list_at(pod, &["spec", "volumes"]) {
            let empty = &volume["emptyDir"];
            let (Some(name), Some(limit)) = (volume["name"].as_str(), empty["sizeLimit"].as_str()) else { continue };
            let most = Quantity::parse(limit).map_or(0, qos::bytes);
            if most <= 0 || empty["medium"] == "Memory" {
                continue;
            }
            let path = self.doors.pod_directory(&self.uid).join("volumes").join(name);
            let bytes = tokio::task::spawn_blocking(move || tree_bytes(&path)).await.unwrap_or(0);
            if bytes > most.unsigned_abs() {
                let message = format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ");
                self.doors.event(pod, true, "Evicted", &message);
                return Some(End::failed("Evicted", message));
            }
        }
        self.overwritten(pod, seen).await
    }

    /// A container, or all of a pod, that has written more to the node's disk than its limit.
    async fn overwritten(&self, pod: &Value, seen: &[ContainerSeen]) -> Option<End> {
        let limit =
            |container: &Value| qos::amount(&container["resources"], "limits", "ephemeral-storage").map(qos::bytes);
        if !pod::containers(pod).any(|(_, container)| limit(container).is_some()) {
            return None;
        }
        let evicted = |message: String| {
            self.doors.event(pod, true, "Evicted", &message);
            Some(End::failed("Evicted", message))
        };
        let (mut all, mut most, mut limited) = (0, 0, true);
        for (role, container) in pod::containers(pod) {
            let name = pod::name(container);
            let written = match actions::current(seen, name) {
                Some(seen) => self.doors.runtime.written(&seen.id).await.unwrap_or(0),
                None => 0,
            };
            let written = written + self.doors.config.logs.bytes(pod, name);
            all += written;
            match limit(container) {
                Some(limit) if written > limit.unsigned_abs() => {
                    let shown = container["resources"]["limits"]["ephemeral-storage"].as_str().unwrap_or_default();
                    return evicted(format!("Container {name} exceeded its local ephemeral storage limit {shown:?}. "));
                }
                Some(limit) if role == Role::Main || role == Role::Sidecar => most += limit.unsigned_abs(),
                Some(_) => {}
                None => limited = false,
            }
        }
        let directory = self.doors.pod_directory(&self.uid).join("volumes");
        all += tokio::task::spawn_blocking(move || tree_bytes(&directory)).await.unwrap_or(0);
        if limited && most > 0 && all > most {
            return evicted(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {most}. "
            ));
        }
        None
    }

    async fn claimed(&self, namespace: &str, name: &str) -> Result<PathBuf, Unfound> {
        let claim = self.doors.api.get(&Kind::Claim.gvr(), namespace, name).await?;
        if meta::str_at(&claim, &["status", "phase"]) != "Bound" {
            return Err(format!("persistentvolumeclaim {name:?} is not bound yet").into());
        }
        let volume = meta::str_at(&claim, &["spec", "volumeName"]);
        let volume = self.doors.api.get(&Kind::Volume.gvr(), "", volume).await?;
        let doors = &self.doors;
        if let Some(path) = crate::local_path::directory(&doors.config.root, &doors.node.name, &volume) {
            crate::local_path::make(&path)?;
            return Ok(path);
        }
        for kind in ["local", "hostPath"] {
            if let Some(path) = volume["spec"][kind]["path"].as_str() {
                let path = PathBuf::from(path);
                if kind == "hostPath" {
                    host_path(&path, volume["spec"][kind]["type"].as_str().unwrap_or("DirectoryOrCreate"))?;
                }
                return Ok(path);
            }
        }
        Err(format!("volume {} is of a kind that is not supported", meta::name(&volume)).into())
    }
}

/// A directory that any user of the pod may write to.
fn shared_directory(path: &Path, group: Option<u32>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("make {}: {error}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(failed)?;
    }
    fs::DirBuilder::new().create(path).map_err(failed)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// How large an emptyDir in memory may grow: what it says, and never more than the pod's own memory.
fn memory_size(pod: &Value, empty: &Value) -> Option<i64> {
    let own = empty["sizeLimit"].as_str().and_then(|text| Quantity::parse(text).ok()).map(qos::bytes);
    let pods = qos::pod_amount(pod, "limits", "memory", qos::bytes);
    own.into_iter().chain(pods).filter(|bytes| *bytes > 0).min()
}

/// A file system of its own in memory; it goes with the sandbox's.
fn in_memory(path: &Path, size: Option<i64>, group: Option<u32>) -> Result<(), String> {
    shared_directory(path, None)?;
    let failed = |error: linux::Error| format!("mount memory on {}: {error}", path.display());
    if linux::mount::is_mount_point(path).map_err(failed)? {
        return Ok(());
    }
    let mut options = if group.is_some() { "mode=2777".to_owned() } else { "mode=0777".to_owned() };
    if let Some(bytes) = size {
        options.push_str(&format!(",size={bytes}"));
    }
    if let Some(group) = group {
        options.push_str(&format!(",gid={group}"));
    }
    let flags = linux::mount::MountFlags::NOSUID | linux::mount::MountFlags::NODEV;
    linux::mount::mount("knarr-memory", path, Some("tmpfs"), flags, Some(options.as_ref())).map_err(failed)
}

/// Gives a volume to the group that the pod's containers are in: all may read and write, and what is made below is the group's.
/// By descriptor: links lead nowhere.
fn give_to_group(root: &Path, group: u32, always: bool) -> Result<(), String> {
    use rustix::fs::{FileType, Mode};
    const SETGID: u32 = 0o2000;
    fn give(directory: &std::os::fd::OwnedFd, group: u32, depth: usize) -> linux::Result<()> {
        for entry in linux::tree::entries(directory)? {
            let stat = linux::fs::lstatat(directory, &entry.name)?;
            linux::fs::chownat(directory, &entry.name, stat.st_uid, group)?;
            match linux::fs::file_type(&stat) {
                FileType::Directory if depth > 0 => {
                    let below = linux::tree::open_dir(directory, &entry.name)?;
                    linux::fs::fchmod(&below, Mode::from_raw_mode(stat.st_mode & 0o7777 | SETGID | 0o770))?;
                    give(&below, group, depth - 1)?;
                }
                FileType::RegularFile => {
                    linux::fs::chmodat(directory, &entry.name, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o660))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
    let failed = |error: linux::Error| format!("give {} to group {group}: {error}", root.display());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let directory = linux::fs::open_host(root, flags).map_err(failed)?;
    let stat = linux::fs::fstat(&directory).map_err(failed)?;
    if !always && stat.st_gid == group && stat.st_mode & (SETGID | 0o060) == SETGID | 0o060 {
        return Ok(());
    }
    give(&directory, group, DEPTH_MAX).map_err(failed)?;
    linux::fs::fchown(&directory, stat.st_uid, group).map_err(failed)?;
    linux::fs::fchmod(&directory, Mode::from_raw_mode(stat.st_mode & 0o7777 | SETGID | 0o770)).map_err(failed)
}

/// Whether what a pod writes to the node's disk is limited.
pub(super) fn is_bounded(pod: &Value) -> bool {
    let volumes = meta::list_at(pod, &["spec", "volumes"]).iter();
    volumes.clone().any(|volume| volume["emptyDir"].get("sizeLimit").is_some())
        || pod::containers(pod)
            .any(|(_, container)| container["resources"]["limits"].get("ephemeral-storage").is_some())
}

/// Directories deeper than this are not counted: nobody else's descriptors are to run out.
const DEPTH_MAX: usize = 64;

/// Bytes that a tree of files takes, by descriptor: links lead nowhere.
fn tree_bytes(root: &Path) -> u64 {
    fn walk(directory: &std::os::fd::OwnedFd, depth: usize) -> u64 {
        let mut bytes = 0;
        for entry in linux::tree::entries(directory).unwrap_or_default() {
            let Ok(stat) = linux::fs::lstatat(directory, &entry.name) else { continue };
            bytes += stat.st_blocks.unsigned_abs() * 512;
            if depth > 0
                && linux::fs::file_type(&stat) == rustix::fs::FileType::Directory
                && let Ok(below) = linux::tree::open_dir(directory, &entry.name)
            {
                bytes += walk(&below, depth - 1);
            }
        }
        bytes
    }
    match linux::fs::open_host(root, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY) {
        Ok(directory) => walk(&directory, DEPTH_MAX),
        Err(_) => 0,
    }
}

/// Checks, or makes, what `hostPath.type` says.
fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let shown = path.display();
    let failed = |error: std::io::Error| format!("make {shown}: {error}");
    let have = fs::metadata(path).ok();
    let is = |wanted: &dyn Fn(&fs::FileType) -> bool| have.as_ref().is_some_and(|meta| wanted(&meta.file_type()));
    let refuse = |what: &str| Err(format!("hostPath type check failed: {shown} is not a {what}"));
    match kind {
        "" => match have {
            Some(_) => Ok(()),
            // Upstream leaves it to the runtime, which makes a directory.
            None => fs::create_dir_all(path).map_err(failed),
        },
        "DirectoryOrCreate" if have.is_none() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)
        }
        "FileOrCreate" if have.is_none() => fs::write(path, "").map_err(failed),
        "Directory" | "DirectoryOrCreate" if is(&fs::FileType::is_dir) => Ok(()),
        "Directory" | "DirectoryOrCreate" => refuse("directory"),
        "File" | "FileOrCreate" if is(&fs::FileType::is_file) => Ok(()),
        "File" | "FileOrCreate" => refuse("file"),
        "Socket" if is(&|kind| kind.is_socket()) => Ok(()),
        "Socket" => refuse("socket file"),
        "CharDevice" if is(&|kind| kind.is_char_device()) => Ok(()),
        "CharDevice" => refuse("character device"),
        "BlockDevice" if is(&|kind| kind.is_block_device()) => Ok(()),
        "BlockDevice" => refuse("block device"),
        other => Err(format!("hostPath type {other:?} is not known")),
    }
}
