//! `doctor`: what the database says against what is there. Names what is left over or missing and what to do.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::Inner;
use super::image_mounts::owner_of;
use super::open::{container_groups, names_in};
use crate::{Finding, Result, Status};

impl Inner {
    /// Blocking. Takes milliseconds, unless `deep`: then every blob is read and hashed.
    pub(crate) fn doctor(self: &Arc<Self>, deep: bool) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        let mut add = |area: &str, place: String, problem: String, remedy: &str| {
            found.push(Finding { area: area.into(), place, problem, remedy: remedy.into() });
        };
        let containers = self.registry().all();
        let ids: BTreeSet<String> = containers.iter().map(|c| c.id.to_string()).collect();
        let busy = |c: &super::Container| c.operation.try_lock().is_err();

        for container in &containers {
            let id = container.id.to_string();
            let (state, pidfd) = {
                let live = container.live();
                (live.saved.state.clone(), live.pidfd.clone())
            };
            let runs = matches!(state.status, Status::Running | Status::Paused);
            if runs {
                let alive = pidfd.is_some_and(|fd| !linux::pidfd::has_ended(&*fd).unwrap_or(true));
                // An exit that is just being dealt with is no finding.
                if !alive
                    && !busy(container)
                    && container.live().awaits_exit
                    && !Path::new(&format!("/proc/{}", state.pid)).exists()
                {
                    add(
                        "process",
                        id.clone(),
                        format!("process {} has ended but the record says it runs", state.pid),
                        "restart the engine",
                    );
                }
            }
            if self.images.snapshot(&id).is_err() && !busy(container) {
                add("layer", id.clone(), "the container's root file system is missing".into(), "remove the container");
            }
            for mount in container.record().mounts.iter().filter(|m| !m.volume.is_empty()) {
                if self.volumes.get(&mount.volume).is_none() {
                    add(
                        "volume",
                        mount.volume.clone(),
                        format!("container {id} uses a volume that has no record"),
                        "remove the container",
                    );
                }
            }
        }

        let alive = |name: &str| {
            containers
                .iter()
                .any(|c| c.id.to_string() == name && matches!(c.status(), Status::Running | Status::Paused))
        };
        let starting = |name: &str| containers.iter().any(|c| c.id.to_string() == name && busy(c));
        for hierarchy in &self.cgroups.layout().hierarchies {
            let parent = Path::new(self.facts.cgroup_parent.trim_start_matches('/'));
            for path in container_groups(&hierarchy.mount, parent) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let step = name.parse().is_ok_and(|id| self.steps.holds(id));
                if !alive(&name) && !starting(&name) && !step {
                    let place = hierarchy.mount.join(&path).display().to_string();
                    add(
                        "cgroup",
                        place,
                        "no running container has this cgroup".into(),
                        "rmdir it after its processes have ended",
                    );
                }
            }
        }
        for mount in linux::proc::mountinfo(None).unwrap_or_default() {
            let ours = mount.target.starts_with(&self.config.root) && mount.target != self.config.root;
            let overlay =
                mount.fs_type == "overlay" && mount.super_options.contains(&*self.config.root.to_string_lossy());
            let ours = ours && !mount.target.starts_with(self.volumes.dir());
            let name = mount.target.file_name().and_then(|name| name.to_str()).and_then(owner_of);
            let of_image = mount.target.parent() == Some(&self.image_mounts_dir())
                && containers.iter().any(|c| Some(c.id) == name && (busy(c) || c.status().is_running()));
            if (ours || overlay) && !of_image {
                add(
                    "mount",
                    mount.target.display().to_string(),
                    "a mount of ours is in the host's table".into(),
                    "umount it",
                );
            }
        }
        for name in self.images.snapshots()? {
            // A build's, while it works.
            let building = name.starts_with(&format!("build-{}-", std::process::id()));
            let owner = owner_of(&name).map_or_else(|| name.clone(), |id| id.to_string());
            if !ids.contains(&owner) && !self.is_being_made(&owner) && !building {
                add(
                    "layer",
                    name,
                    "a root file system without a container".into(),
                    "restart the engine: it removes it",
                );
            }
        }
        for name in names_in(&self.containers_dir()) {
            if !ids.contains(&name) {
                let place = self.containers_dir().join(name).display().to_string();
                add("log", place, "a directory without a container".into(), "remove it");
            }
        }
        for name in names_in(self.volumes.dir()) {
            if self.volumes.get(&name).is_none() {
                add(
                    "volume",
                    name,
                    "a volume's directory without a record".into(),
                    "restart the engine: it removes it",
                );
            }
        }
        for volume in self.volumes.views().into_iter().filter(|volume| volume.driver == "local") {
            if !volume.mountpoint.is_dir() {
                add(
                    "volume",
                    volume.name,
                    "the volume's files are missing".into(),
                    "remove it, or restore it from a copy",
                );
            } else if !volume.options.is_empty()
                && self.volumes.is_mounted(&volume.name)
                && !self.volumes.is_in_use(&volume.name)
            {
                let place = volume.mountpoint.display().to_string();
                add("mount", place, "a volume is mounted and no container uses it".into(), "restart the engine");
            }
        }
        let by_id = |id: crate::ContainerId| {
            let container = containers.iter().find(|c| c.id == id);
            let runs = container.is_some_and(|c| busy(c) || matches!(c.status(), Status::Running | Status::Paused));
            runs || self.steps.holds(id)
        };
        found.extend(self.networks.doctor(&by_id)?);
        let mut add = |area: &str, place: String, problem: String, remedy: &str| {
            found.push(Finding { area: area.into(), place, problem, remedy: remedy.into() });
        };
        for finding in self.images.check(deep)? {
            add("blob", self.config.root.display().to_string(), finding.what, &finding.remedy);
        }
        Ok(found)
    }

    /// A container that `create` is just making has a snapshot and no record yet.
    fn is_being_made(&self, name: &str) -> bool {
        name.parse().is_ok_and(|id| self.registry().holds_name(id))
    }
}
