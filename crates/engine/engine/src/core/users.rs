//! Whose ids a container's processes have on the host. Its files on disk have the ids that it sees: the runtime shows them through the
//! container's map, so that an image is there once, and what is committed, exported or copied needs no change.

use std::borrow::Cow;
use std::path::PathBuf;

use linux::idmap::IdMaps;

use super::Inner;
use super::records::ContainerRecord;
use crate::decide::mounts::{ContainerMount, MountIds};
use crate::decide::userns::{Files, Shared, UserRanges, UsersMode, decide_users, user_ranges, users_mode};
use crate::spec::{self, NamespaceMode};
use crate::{ContainerId, Error, HostConfig, MountKind, Result};

impl UserRanges {
    /// By `--userns-remap`: `default`, `USER`, `UID`, each with `:GROUP`, or the range itself, `FIRST+COUNT`.
    ///
    /// # Errors
    /// There is no such user, or it has no ranges.
    pub fn read(remap: Option<&str>) -> Result<Self> {
        // A file that is not there has no lines.
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let files = Files {
            passwd: &text("/etc/passwd"),
            group: &text("/etc/group"),
            subuid: &text("/etc/subuid"),
            subgid: &text("/etc/subgid"),
        };
        user_ranges(remap, &files)
    }
}

impl Inner {
    /// Decides and takes the ids of a new container. Whoever does not make it gives them back.
    pub(crate) fn settle_users(
        &self,
        id: ContainerId,
        host: &HostConfig,
        mounts: &[ContainerMount],
    ) -> Result<Option<IdMaps>> {
        let mut shared = Vec::new();
        for name in shared_names(host)? {
            let other = self.find(name)?;
            shared.push(Shared { name: other.name(), users: other.record().users.clone() });
        }
        let users = self.registry().reserve_ids(id, |used| decide_users(host, &self.config.users, &shared, used))?;
        if users.is_none()
            && let Some(mount) = mounts.iter().find(|mount| mount.ids == MountIds::Container)
        {
            return Err(Error::Invalid(format!(
                "invalid mode: {}: the container of {} has the host's ids; give others (idmap=uids=FILE-HOST-COUNT;gids=...) or a user namespace",
                mount.mode, mount.destination
            )));
        }
        Ok(users)
    }

    /// The user namespace that a container shares with one that runs.
    pub(crate) fn shared_user_namespace(&self, record: &ContainerRecord) -> Result<Option<PathBuf>> {
        let mut path = None;
        for name in shared_names(&record.host)? {
            let other = self.find(name)?;
            let theirs = &other.record().users;
            // The name may be another container's by now.
            if *theirs != record.users && users_mode(&record.host)? != UsersMode::Host {
                return Err(Error::Conflict(format!(
                    "cannot join the namespaces of container {}: it has not the same user namespace",
                    other.name()
                )));
            }
            if record.users.is_some() {
                path = Some(format!("/proc/{}/ns/user", other.state().pid).into());
            }
        }
        Ok(path)
    }

    /// A container with ids of its own owns its volumes: what user 0 has on disk is its root's. What somebody else has mounted in a volume,
    /// and binds, are the host's, unless they were asked for otherwise.
    pub(crate) fn shown_ids<'m>(
        &self,
        record: &ContainerRecord,
        mut mounts: Cow<'m, [ContainerMount]>,
    ) -> Cow<'m, [ContainerMount]> {
        let own = |mount: &ContainerMount| {
            let plain = || self.volumes.get(&mount.volume).is_some_and(|v| v.is_local() && v.options.is_empty());
            mount.kind == MountKind::Volume && mount.ids == MountIds::Host && plain()
        };
        if record.users.is_some() && mounts.iter().any(own) {
            for mount in mounts.to_mut().iter_mut().filter(|mount| own(mount)) {
                mount.ids = MountIds::Container;
            }
        }
        mounts
    }
}

/// Containers whose namespaces are to be joined.
fn shared_names(host: &HostConfig) -> Result<Vec<&str>> {
    let modes = [spec::network_mode(host)?, spec::pid_mode(host)?, spec::ipc_mode(host)?];
    Ok(modes
        .into_iter()
        .filter_map(|mode| match mode {
            NamespaceMode::Container(name) => Some(name),
            _ => None,
        })
        .collect())
}
