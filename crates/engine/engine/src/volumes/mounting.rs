//! Who uses a volume, and the mounts that come with the first user and go with the last.
//!
//! A mount is made by descriptor and attached on the volume's `_data`. It is in the host's table because containers share
//! it: two users of one tmpfs volume see the same files. The set of users is memory only; after a restart of the engine it
//! follows from the containers that run.

use std::path::Path;

use linux::mount::{AttrChange, FsContext, MountAttr};

use super::options::{self, Mounted};
use super::{Volumes, locked};
use crate::core::records::VolumeRecord;
use crate::{ContainerId, Error, Result};

impl Volumes {
    /// Makes the volume's files reachable at its `_data` for `user`, until [`Volumes::release`]. Blocking.
    pub(crate) fn acquire(&self, name: &str, user: ContainerId) -> Result<()> {
        let record = self.get(name).ok_or_else(|| Error::NoSuchVolume(name.to_owned()))?;
        if !record.is_local() {
            self.mount_by_driver(&record.driver, name, user)?;
            locked(&self.users).entry(name.to_owned()).or_default().insert(user);
            return Ok(());
        }
        let data = self.ensure(name)?;
        let mut users = locked(&self.users);
        if let Some(wanted) = options::parse(name, &record.options)? {
            let failed = |error: linux::Error| Error::Other {
                what: format!("error while mounting volume '{}'", data.display()),
                kind: vocab::ErrorKind::Internal,
                message: format!("failed to mount local volume: mount {}: {error}", wanted.device),
            };
            if !is_mounted(&data).map_err(failed)? {
                vocab::crash::point("engine.volume.before_mount");
                put_on(&wanted, &data).map_err(failed)?;
                vocab::crash::point("engine.volume.after_mount");
            }
        }
        users.entry(name.to_owned()).or_default().insert(user);
        Ok(())
    }

    /// `user` needs it no more. Returns whether it had it. Blocking.
    pub(crate) fn release(&self, name: &str, user: ContainerId) -> bool {
        if let Some(record) = self.get(name).filter(|record| !record.is_local()) {
            let had = locked(&self.users).get_mut(name).is_some_and(|users| users.remove(&user));
            if had {
                self.unmount_by_driver(&record.driver, name, user);
            }
            return had;
        }
        let mut users = locked(&self.users);
        let Some(of_volume) = users.get_mut(name) else { return false };
        let had = of_volume.remove(&user);
        if of_volume.is_empty() {
            users.remove(name);
            if self.get(name).is_some_and(|record| !record.options.is_empty())
                && let Err(error) = take_off(&self.data(name))
            {
                tracing::warn!(volume = name, %error, "stays mounted");
            }
        }
        had
    }

    /// A container that runs already: the mount exists.
    pub(crate) fn adopt(&self, name: &str, user: ContainerId) {
        if self.get(name).is_some_and(|record| !record.is_local()) {
            self.adopt_place(name, user);
        }
        locked(&self.users).entry(name.to_owned()).or_default().insert(user);
    }

    pub(crate) fn is_in_use(&self, name: &str) -> bool {
        locked(&self.users).get(name).is_some_and(|users| !users.is_empty())
    }

    /// Takes off a mount that a crash left without a user.
    pub(super) fn unmount_unused(&self, name: &str) -> Result<()> {
        let users = locked(&self.users);
        let mounted = |record: VolumeRecord| record.is_local() && !record.options.is_empty();
        if !users.contains_key(name) && self.get(name).is_some_and(mounted) {
            take_off(&self.data(name))?;
        }
        Ok(())
    }

    /// Whether something is mounted on its `_data`.
    pub(crate) fn is_mounted(&self, name: &str) -> bool {
        is_mounted(&self.data(name)).unwrap_or(false)
    }
}

/// Whether something is mounted on `data` itself.
pub(crate) fn is_mounted(data: &Path) -> linux::Result<bool> {
    // The mount table has the real path, whatever links lead to the root directory.
    match std::fs::canonicalize(data) {
        Ok(data) => linux::mount::is_mount_point(&data),
        Err(_) => Ok(false),
    }
}

/// Takes off everything that is mounted on `data` itself.
pub(crate) fn take_off(data: &Path) -> linux::Result<()> {
    while is_mounted(data)? {
        match linux::mount::unmount(data) {
            // A process of the host's looks into it: it goes when that one is done.
            Err(error) if error.is(linux::Errno::BUSY) => linux::mount::unmount_lazily(data)?,
            other => other?,
        }
    }
    Ok(())
}

fn put_on(wanted: &Mounted, data: &Path) -> linux::Result<()> {
    let attrs = &wanted.options.attrs;
    let tree = if wanted.is_bind() {
        let tree = linux::mount::clone_tree_at(&wanted.device, wanted.is_recursive())?;
        if !attrs.is_empty() {
            let change = AttrChange {
                set: MountAttr::from_bits(attrs.set),
                clear: MountAttr::from_bits(attrs.clear),
                ..Default::default()
            };
            linux::mount::set_attr(&tree, &change, false)?;
        }
        tree
    } else {
        let context = FsContext::open(&wanted.kind)?;
        if !wanted.device.is_empty() {
            context.string("source", &wanted.device)?;
        }
        for flag in &wanted.options.superblock {
            context.flag(flag)?;
        }
        if wanted.is_read_only() && wanted.kind != "tmpfs" {
            context.flag("ro")?;
        }
        for (key, value) in &wanted.options.data {
            match value {
                Some(value) => context.string(key, resolved(&wanted.kind, key, value))?,
                None => context.flag(key)?,
            }
        }
        context.create()?;
        context.mount(MountAttr::from_bits(attrs.set))?
    };
    linux::mount::attach_at(&tree, data)
}

/// Network file systems take numbers: the kernel does not look names up.
fn resolved(kind: &str, key: &str, value: &str) -> String {
    use std::net::ToSocketAddrs;
    if key != "addr" || !(kind.starts_with("nfs") || kind == "cifs") {
        return value.to_owned();
    }
    let found = (value, 0u16).to_socket_addrs().ok().and_then(|mut all| all.next());
    found.map_or_else(|| value.to_owned(), |address| address.ip().to_string())
}
