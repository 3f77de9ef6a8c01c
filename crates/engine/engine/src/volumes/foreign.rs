//! Volumes whose files are another driver's. What it was asked to mount is on record from before the question until it was
//! asked to take it back, so that a crash of ours leaves it nothing to hold for ever.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::plugins::{Told, Trouble};
use super::{Volumes, locked, plugins};
use crate::core::Inner;
use crate::core::records::{DRIVER_MOUNTS, DriverMount, VolumeRecord};
use crate::decide::mounts::ContainerMount;
use crate::{ContainerId, Error, MountKind, Result, VolumeView};

impl VolumeRecord {
    pub(crate) fn is_local(&self) -> bool {
        is_local(&self.driver)
    }

    pub(crate) fn driver_name(&self) -> &str {
        if self.is_local() { "local" } else { &self.driver }
    }
}

pub(crate) fn is_local(driver: &str) -> bool {
    matches!(driver, "" | "local")
}

fn key(volume: &str, user: ContainerId) -> String {
    format!("{volume}/{user}")
}

impl Volumes {
    /// Where its driver has mounted it.
    pub(super) fn place(&self, name: &str) -> Option<PathBuf> {
        locked(&self.places).get(name)?.values().next().cloned()
    }

    /// The mounts of `user` with the places that drivers have given it.
    pub(crate) fn placed<'m>(&self, user: ContainerId, mounts: &'m [ContainerMount]) -> Cow<'m, [ContainerMount]> {
        let places = locked(&self.places);
        let place = |mount: &ContainerMount| places.get(&mount.volume)?.get(&user);
        if places.is_empty() || !mounts.iter().any(|mount| place(mount).is_some()) {
            return Cow::Borrowed(mounts);
        }
        let mut mounts = mounts.to_vec();
        for mount in &mut mounts {
            if let Some(place) = place(mount) {
                mount.source = place.to_string_lossy().into_owned();
            }
        }
        Cow::Owned(mounts)
    }

    pub(super) fn mount_by_driver(&self, driver: &str, name: &str, user: ContainerId) -> Result<()> {
        let record = |place| DriverMount { volume: name.to_owned(), user, place };
        let write = |mount: DriverMount| self.db.write(|txn| txn.put(&DRIVER_MOUNTS, &key(name, user), &mount));
        write(record(None)).map_err(|error: db::Error| error)?;
        vocab::crash::point("engine.volume.driver.before_mount");
        match self.plugins.mount(driver, name, &user.to_string()) {
            Ok(place) => {
                vocab::crash::point("engine.volume.driver.after_mount");
                write(record(Some(place.clone()))).map_err(|error: db::Error| error)?;
                locked(&self.places).entry(name.to_owned()).or_default().insert(user, place);
                Ok(())
            }
            Err(Trouble::Refused(error)) => {
                self.forget_mount(name, user);
                Err(error)
            }
            // It may have mounted it all the same.
            Err(Trouble::Lost(error)) => {
                self.unmount_by_driver(driver, name, user);
                Err(error)
            }
        }
    }

    /// Asks the driver to take a mount back; one that does not answer is asked again by the next engine.
    pub(super) fn unmount_by_driver(&self, driver: &str, name: &str, user: ContainerId) {
        match self.plugins.unmount(driver, name, &user.to_string()) {
            Ok(()) => self.forget_mount(name, user),
            Err(trouble) => {
                let error = Error::from(trouble);
                tracing::warn!(volume = name, driver, %error, "its driver has not taken the mount back");
            }
        }
        let mut places = locked(&self.places);
        if let Some(users) = places.get_mut(name) {
            users.remove(&user);
            if users.is_empty() {
                places.remove(name);
            }
        }
    }

    fn forget_mount(&self, name: &str, user: ContainerId) {
        let gone = self.db.write(|txn| txn.remove(&DRIVER_MOUNTS, &key(name, user)));
        if let Err(error) = gone.map_err(|error: db::Error| error) {
            tracing::warn!(volume = name, %error, "a mount that is gone stays on record");
        }
    }

    /// A container that runs already.
    pub(super) fn adopt_place(&self, name: &str, user: ContainerId) {
        match self.db.read().and_then(|read| read.get(&DRIVER_MOUNTS, &key(name, user))) {
            Ok(Some(DriverMount { place: Some(place), .. })) => {
                locked(&self.places).entry(name.to_owned()).or_default().insert(user, place);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(volume = name, %error, "where its driver has mounted it is not known"),
        }
    }

    /// Mounts on record that nobody uses: an engine was killed. Drivers may be slow or gone, and nobody waits for them.
    pub(super) fn take_back(self: &Arc<Self>) {
        let mounts = match self.db.read().and_then(|read| read.list(&DRIVER_MOUNTS)) {
            Ok(mounts) => mounts,
            Err(error) => return tracing::warn!(%error, "mounts of volumes' drivers are not taken back"),
        };
        let mounts = mounts.into_iter().map(|(_, mount)| mount);
        let left: Vec<DriverMount> = mounts.filter(|mount| !used_now(self, mount)).collect();
        if left.is_empty() {
            return;
        }
        let volumes = self.clone();
        std::thread::spawn(move || {
            for mount in left {
                match volumes.get(&mount.volume).filter(|record| !record.is_local()) {
                    // Nobody started it again meanwhile.
                    Some(record) if !used_now(&volumes, &mount) => {
                        volumes.unmount_by_driver(&record.driver, &mount.volume, mount.user);
                    }
                    Some(_) => {}
                    None => volumes.forget_mount(&mount.volume, mount.user),
                }
            }
        });
    }

    pub(crate) fn driver_names(&self) -> Vec<String> {
        std::iter::once("local".to_owned()).chain(self.plugins.names()).collect()
    }

    /// What every driver that is there knows, over what is on record; and what those said that did not answer.
    pub(super) fn all_views(&self) -> (Vec<VolumeView>, Vec<String>) {
        let mut views: BTreeMap<String, VolumeView> =
            self.views().into_iter().map(|view| (view.name.clone(), view)).collect();
        let mut warnings = Vec::new();
        let mut drivers = self.plugins.names();
        drivers.extend(views.values().filter(|view| !is_local(&view.driver)).map(|view| view.driver.clone()));
        for driver in drivers {
            let told = match self.plugins.list(&driver) {
                Ok(told) => told,
                Err(trouble) => {
                    warnings.push(Error::from(trouble).to_string());
                    continue;
                }
            };
            let names: std::collections::BTreeSet<&str> = told.iter().map(|told| told.name.as_str()).collect();
            // The driver has the last word on what there is.
            views.retain(|name, view| view.driver != driver || names.contains(name.as_str()));
            let scope = if told.is_empty() { String::new() } else { self.plugins.scope(&driver) };
            for told in told {
                let name = told.name.clone();
                let view = views.remove(&name).unwrap_or_else(|| unknown(&name, &driver));
                // A name belongs to one driver; ours comes first.
                let view = if view.driver == driver { told_of(view, told, &scope) } else { view };
                views.insert(name, view);
            }
        }
        (views.into_values().collect(), warnings)
    }

    /// What a volume's driver says of it.
    pub(super) fn driver_view(&self, name: &str, record: &VolumeRecord) -> Result<VolumeView> {
        let told = self.plugins.get(&record.driver, name)?;
        Ok(told_of(self.view(name, record), told, &self.plugins.scope(&record.driver)))
    }

    /// A volume that no record speaks of: the first driver that knows it.
    pub(super) fn found_by_driver(&self, name: &str) -> Option<VolumeView> {
        if !plugins::is_name(name) {
            return None;
        }
        self.plugins.names().into_iter().find_map(|driver| {
            let told = self.plugins.get(&driver, name).ok()?;
            Some(told_of(unknown(name, &driver), told, &self.plugins.scope(&driver)))
        })
    }

    /// Makes a volume of another driver, unless that has it; whether it was made. Blocking.
    pub(super) fn make_by_driver(&self, driver: &str, name: &str, options: &BTreeMap<String, String>) -> Result<bool> {
        match self.plugins.get(driver, name) {
            Ok(_) => return Ok(false),
            Err(Trouble::Refused(Error::Other { what, kind: kind @ vocab::ErrorKind::NotFound, message })) => {
                return Err(Error::Other { what: format!("create {name}: {what}"), kind, message });
            }
            // Most tell of what they do not have in words of their own.
            Err(Trouble::Refused(_)) => {}
            Err(Trouble::Lost(error)) => return Err(error),
        }
        self.plugins.create(driver, name, options)?;
        Ok(true)
    }
}

fn used_now(volumes: &Volumes, mount: &DriverMount) -> bool {
    locked(&volumes.users).get(&mount.volume).is_some_and(|users| users.contains(&mount.user))
}

fn unknown(name: &str, driver: &str) -> VolumeView {
    VolumeView {
        name: name.to_owned(),
        driver: driver.to_owned(),
        mountpoint: PathBuf::new(),
        created_at: Timestamp::UNIX_EPOCH,
        anonymous: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        size_bytes: None,
        used_by: 0,
        scope: "local".into(),
        status: None,
    }
}

fn told_of(view: VolumeView, told: Told, scope: &str) -> VolumeView {
    let created_at = told.created_at.and_then(|text| text.parse().ok()).unwrap_or(view.created_at);
    let mountpoint = told.mountpoint.filter(|place| !place.as_os_str().is_empty()).unwrap_or(view.mountpoint);
    VolumeView { mountpoint, created_at, scope: scope.to_owned(), status: told.status, ..view }
}

impl Inner {
    /// Makes what `mounts` want of other drivers and nobody has yet. Without the lock of the set of volumes: a driver may
    /// take its time. Blocking.
    pub(super) fn make_foreign(&self, mounts: &mut [ContainerMount]) -> Result<BTreeMap<String, VolumeRecord>> {
        let mut made: BTreeMap<String, VolumeRecord> = BTreeMap::new();
        for mount in mounts.iter_mut().filter(|m| m.kind == MountKind::Volume) {
            if let Some(known) = self.volumes.get(&mount.volume).or_else(|| made.get(&mount.volume).cloned()) {
                check_same(&mount.volume, &mount.driver, &known)?;
                mount.driver = known.driver;
                continue;
            }
            let mut driver = mount.driver.clone();
            // A name that only some driver knows is that driver's.
            if driver.is_empty() && !mount.volume.is_empty() {
                driver = self.volumes.found_by_driver(&mount.volume).map(|view| view.driver).unwrap_or_default();
            }
            if is_local(&driver) {
                continue;
            }
            let mut labels = mount.volume_labels.clone();
            if mount.volume.is_empty() {
                mount.volume = ContainerId::from_bytes(self.random_bytes()).to_string();
                labels.entry(super::ANONYMOUS_LABEL.to_owned()).or_default();
            }
            let new = self.volumes.make_by_driver(&driver, &mount.volume, &mount.volume_options);
            let record = VolumeRecord {
                created_at: Timestamp::now(),
                anonymous: mount.anonymous,
                labels,
                options: mount.volume_options.clone(),
                driver: driver.clone(),
                made_for_create: *new.as_ref().unwrap_or(&false),
            };
            if let Err(error) = new {
                self.unmake_foreign(&made);
                return Err(error);
            }
            mount.driver = driver;
            made.insert(mount.volume.clone(), record);
        }
        Ok(made)
    }

    pub(super) fn unmake_foreign(&self, made: &BTreeMap<String, VolumeRecord>) {
        for (name, record) in made.iter().filter(|(_, record)| record.made_for_create) {
            if let Err(trouble) = self.volumes.plugins.remove(&record.driver, name) {
                tracing::warn!(volume = name, error = %Error::from(trouble), "a volume stays with its driver");
            }
        }
    }
}

/// A name is one driver's.
pub(super) fn check_same(name: &str, driver: &str, known: &VolumeRecord) -> Result<()> {
    if driver.is_empty() || is_local(driver) && known.is_local() || driver == known.driver {
        return Ok(());
    }
    let has = known.driver_name();
    Err(Error::Conflict(format!("create {name}: a volume of this name exists with driver {has}, not {driver}")))
}
