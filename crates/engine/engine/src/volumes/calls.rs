//! Create, list, inspect, remove, prune.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::foreign::{check_same, is_local};
use super::{ANONYMOUS_LABEL, options};
use crate::core::records::{VOLUMES, VolumeRecord};
use crate::core::{Container, Inner};
use crate::decide::mounts::ContainerMount;
use crate::{ContainerId, Error, EventKind, Filters, MountKind, Pruned, Result, VolumeList, VolumeRequest, VolumeView};

impl Inner {
    pub(crate) fn volume_event(&self, name: &str, driver: &str, action: &str, extra: &[(&str, String)]) {
        let driver = if is_local(driver) { "local" } else { driver };
        let mut attributes: BTreeMap<String, String> = [("driver".to_owned(), driver.to_owned())].into();
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.events.emit(EventKind::Volume, action, name.to_owned(), attributes);
    }

    /// One that exists is answered as it is, as Docker does. Blocking.
    pub(crate) fn volume_create(&self, request: VolumeRequest) -> Result<VolumeView> {
        let mut labels = request.labels;
        let anonymous = request.name.is_empty();
        let name = if anonymous {
            labels.entry(ANONYMOUS_LABEL.to_owned()).or_default();
            ContainerId::from_bytes(self.random_bytes()).to_string()
        } else {
            request.name
        };
        options::check_name(&name)?;
        if let Some(known) = self.volumes.get(&name) {
            check_same(&name, &request.driver, &known)?;
        }
        let local = is_local(&request.driver);
        if local {
            options::parse(&name, &request.options)?;
        } else {
            self.volumes.make_by_driver(&request.driver, &name, &request.options)?;
        }
        let alone = self.volumes.change();
        if let Some(record) = self.volumes.get(&name) {
            check_same(&name, &request.driver, &record)?;
            drop(alone);
            return if record.is_local() { Ok(self.volumes.view(&name, &record)) } else { self.volume_view(&name) };
        }
        let driver = if local { String::new() } else { request.driver };
        let record = VolumeRecord {
            created_at: Timestamp::now(),
            anonymous,
            labels,
            options: request.options,
            driver,
            made_for_create: false,
        };
        vocab::crash::point("engine.volume.create.before_files");
        if local {
            self.volumes.ensure(&name)?;
        }
        vocab::crash::point("engine.volume.create.before_commit");
        if let Err(error) = self.db.write(|txn| txn.put(&VOLUMES, &name, &record)) {
            let error: db::Error = error;
            if let Err(left) = self.volumes.remove_files(&name) {
                tracing::warn!(volume = name, error = %left, "the folder of a failed create stays until the next start");
            }
            return Err(error.into());
        }
        vocab::crash::point("engine.volume.create.after_commit");
        self.volumes.learn(name.clone(), record.clone());
        self.volume_event(&name, &record.driver, "create", &[]);
        drop(alone);
        if local { Ok(self.volumes.view(&name, &record)) } else { self.volume_view(&name) }
    }

    /// Filters: `dangling`, `driver`, `label`, `name` (a part of it). By name. Blocking.
    pub(crate) fn volume_list(&self, filters: &Filters) -> Result<VolumeList> {
        if let Some(key) = filters.unknown_key(&["dangling", "driver", "label", "name"]) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        let dangling = match filters.values("dangling").collect::<Vec<_>>()[..] {
            [] => None,
            ["1" | "true" | "True" | "TRUE" | "t" | "T"] => Some(true),
            ["0" | "false" | "False" | "FALSE" | "f" | "F"] => Some(false),
            ref values => return Err(Error::Invalid(format!("invalid filter 'dangling={}'", values.join(",")))),
        };
        let used = self.volumes_in_use();
        let (mut views, warnings) = self.volumes.all_views();
        views.retain_mut(|volume| {
            volume.used_by = used.get(&volume.name).map_or(0, Vec::len);
            (!filters.has("name") || filters.values("name").any(|part| volume.name.contains(part)))
                && filters.allows("driver", &volume.driver)
                && filters.allows_labels("label", &volume.labels)
                && dangling.is_none_or(|dangling| dangling == (volume.used_by == 0))
        });
        Ok(VolumeList { volumes: views, warnings })
    }

    /// Blocking.
    pub(crate) fn volume_view(&self, name: &str) -> Result<VolumeView> {
        match self.volumes.get(name) {
            Some(record) if record.is_local() => Ok(self.volumes.view(name, &record)),
            Some(record) => self.volumes.driver_view(name, &record),
            None => self.volumes.found_by_driver(name).ok_or_else(|| Error::NoSuchVolume(name.to_owned())),
        }
    }

    /// Containers by volume, running or not.
    pub(crate) fn volumes_in_use(&self) -> BTreeMap<String, Vec<ContainerId>> {
        let mut used: BTreeMap<String, Vec<ContainerId>> = BTreeMap::new();
        for container in self.registry().all() {
            for mount in container.record().mounts.iter().filter(|m| !m.volume.is_empty()) {
                let users = used.entry(mount.volume.clone()).or_default();
                if !users.contains(&container.id) {
                    users.push(container.id);
                }
            }
        }
        used
    }

    /// Blocking.
    pub(crate) fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let alone = self.volumes.change();
        let Some(record) = self.volumes.get(name) else {
            drop(alone);
            return match self.volumes.found_by_driver(name) {
                Some(found) => Ok(self.volumes.plugins.remove(&found.driver, name)?),
                None if force => Ok(()),
                None => Err(Error::NoSuchVolume(name.to_owned())),
            };
        };
        let mut users = self.volumes_in_use().remove(name).unwrap_or_default();
        users.extend(self.volumes.reserved_by(name));
        if !users.is_empty() {
            let users: Vec<String> = users.iter().map(ToString::to_string).collect();
            return Err(Error::Conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        if !record.is_local() {
            let leaving = self.volumes.leave(name)?;
            drop(alone);
            match self.volumes.plugins.remove(&record.driver, name) {
                Ok(()) => {}
                Err(trouble) if force => {
                    let error = Error::from(trouble);
                    tracing::warn!(volume = name, driver = record.driver, %error, "a volume is forgotten that its driver keeps");
                }
                Err(trouble) => return Err(trouble.into()),
            }
            self.db.write(|txn| txn.remove(&VOLUMES, &name.to_owned())).map_err(|e: db::Error| e)?;
            self.volumes.unlearn(name);
            drop(leaving);
            self.volume_event(name, &record.driver, "destroy", &[]);
            return self.volumes.remove_files(name);
        }
        vocab::crash::point("engine.volume.remove.before_commit");
        self.db.write(|txn| txn.remove(&VOLUMES, &name.to_owned())).map_err(|e: db::Error| e)?;
        vocab::crash::point("engine.volume.remove.after_commit");
        let removed = self.volumes.forget(name);
        self.volume_event(name, "", "destroy", &[]);
        removed
    }

    /// Removes what no container refers to: volumes without a name of their own, or with `all` any. Filters: `label`,
    /// `label!`, `all`. Blocking.
    pub(crate) fn volume_prune(&self, filters: &Filters) -> Result<Pruned> {
        if let Some(key) = filters.unknown_key(&["label", "label!", "all"]) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        let all = match filters.values("all").collect::<Vec<_>>()[..] {
            [] | ["0" | "false" | "f"] => false,
            ["1" | "true" | "t"] => true,
            ref values => return Err(Error::Invalid(format!("invalid filter 'all={}'", values.join(",")))),
        };
        let used = self.volumes_in_use();
        let mut pruned = Pruned::default();
        // Other drivers' volumes are theirs to clear away, and one with options (a share, a directory of the host) is more
        // than its files: Docker leaves both.
        let prunable = |volume: &crate::VolumeView| is_local(&volume.driver) && volume.options.is_empty();
        for volume in self.volumes.views().into_iter().filter(prunable) {
            let nameless = volume.anonymous || volume.labels.contains_key(ANONYMOUS_LABEL);
            let excluded = filters.has("label!") && filters.allows_labels("label!", &volume.labels);
            let chosen = (all || nameless) && filters.allows_labels("label", &volume.labels) && !excluded;
            if !chosen || used.contains_key(&volume.name) {
                continue;
            }
            let size = crate::core::info::tree_bytes(&volume.mountpoint);
            match self.volume_remove(&volume.name, false) {
                Ok(()) => {
                    pruned.ids.push(volume.name);
                    pruned.space_reclaimed_bytes += size;
                }
                // Taken or removed by somebody else meanwhile.
                Err(Error::Conflict(_) | Error::NoSuchVolume(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let attributes = [("reclaimed".to_owned(), pruned.space_reclaimed_bytes.to_string())].into();
        self.events.emit(EventKind::Volume, "prune", String::new(), attributes);
        Ok(pruned)
    }

    /// Names anonymous volumes, finds sources, makes directories and lists the volumes whose records the caller is to
    /// commit. They are known from now on, and kept from removal until the caller says `release_reserved`. Blocking.
    pub(crate) fn settle_volumes(
        &self,
        id: ContainerId,
        mounts: &mut [ContainerMount],
    ) -> Result<Vec<(String, VolumeRecord)>> {
        let mut new = Vec::new();
        if !mounts.iter().any(|m| m.kind == MountKind::Volume) {
            return Ok(new);
        }
        let foreign = self.make_foreign(mounts)?;
        let settled = self.settle_known(id, mounts, &foreign, &mut new);
        if let Err(error) = settled {
            self.unmake_foreign(&foreign);
            return Err(error);
        }
        Ok(new)
    }

    fn settle_known(
        &self,
        id: ContainerId,
        mounts: &mut [ContainerMount],
        foreign: &BTreeMap<String, VolumeRecord>,
        new: &mut Vec<(String, VolumeRecord)>,
    ) -> Result<()> {
        let _alone = self.volumes.change();
        for mount in mounts.iter_mut().filter(|m| m.kind == MountKind::Volume) {
            if self.volumes.is_leaving(&mount.volume) {
                return Err(Error::Conflict(format!("volume {} is being removed", mount.volume)));
            }
            if let Some(record) = foreign.get(&mount.volume) {
                if self.volumes.get(&mount.volume).is_none() && !new.iter().any(|(name, _)| *name == mount.volume) {
                    new.push((mount.volume.clone(), record.clone()));
                }
                continue;
            }
            if !is_local(&mount.driver) {
                continue;
            }
            let mut labels = mount.volume_labels.clone();
            if mount.volume.is_empty() {
                mount.volume = ContainerId::from_bytes(self.random_bytes()).to_string();
                labels.entry(ANONYMOUS_LABEL.to_owned()).or_default();
            }
            mount.source = self.volumes.data(&mount.volume).to_string_lossy().into_owned();
            if self.volumes.get(&mount.volume).is_none() && !new.iter().any(|(name, _)| *name == mount.volume) {
                options::parse(&mount.volume, &mount.volume_options)?;
                let record = VolumeRecord {
                    created_at: Timestamp::now(),
                    anonymous: mount.anonymous,
                    labels,
                    options: mount.volume_options.clone(),
                    driver: String::new(),
                    made_for_create: false,
                };
                new.push((mount.volume.clone(), record));
            }
        }
        for (name, _) in new.iter().filter(|(_, record)| record.is_local()) {
            self.volumes.ensure(name)?;
        }
        let names = mounts.iter().filter(|m| m.kind == MountKind::Volume).map(|m| m.volume.clone()).collect();
        self.volumes.reserve(id, names);
        for (name, record) in new.iter() {
            self.volumes.learn(name.clone(), record.clone());
        }
        Ok(())
    }

    /// The end of a create: its container is in the registry, or will never be.
    pub(crate) fn volumes_settled(&self, id: ContainerId, new: &[(String, VolumeRecord)], made: bool) {
        for (name, record) in new {
            if made {
                self.volume_event(name, &record.driver, "create", &[]);
            } else if !record.is_local() && !record.made_for_create {
                // Its driver had it before.
                self.volumes.unlearn(name);
            } else if let Err(error) = self.volumes.forget(name) {
                tracing::warn!(volume = name, %error, "the folder of a failed create stays until the next start");
            }
        }
        self.volumes.release_reserved(id);
    }

    /// Makes the container's volumes reachable and fills new ones. Blocking.
    pub(crate) fn acquire_volumes(&self, container: &Container) -> Result<()> {
        let record = container.record();
        for mount in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            self.volumes.acquire(&mount.volume, container.id)?;
            self.copy_up(container, mount)?;
            let extra = [
                ("container", container.id.to_string()),
                ("destination", mount.destination.clone()),
                ("propagation", mount.propagation.clone()),
                ("read/write", mount.rw.to_string()),
            ];
            self.volume_event(&mount.volume, &mount.driver, "mount", &extra);
        }
        Ok(())
    }

    /// The container has ended, or was never started. Blocking.
    pub(crate) fn release_volumes(&self, container: &Container) {
        let record = container.record();
        for mount in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            if self.volumes.release(&mount.volume, container.id) {
                let extra = [("container", container.id.to_string())];
                self.volume_event(&mount.volume, &mount.driver, "unmount", &extra);
            }
        }
    }

    /// What runs already has its volumes.
    pub(crate) fn adopt_volumes(self: &Arc<Self>, container: &Container) {
        for mount in container.record().mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            self.volumes.adopt(&mount.volume, container.id);
        }
    }
}
