//! Images as mounts of containers: an image's files, read-only, at a place in a container that has another image.
//!
//! Each one is a snapshot of its own, `<container>.<number>`, which keeps the image in the store as long as the container is
//! there, running or not. While the container runs it is mounted at `<run>/images/<container>.<number>`.

use std::os::fd::AsFd;
use std::path::PathBuf;

use super::open::names_in;
use super::{Container, Inner};
use crate::decide::mounts::ContainerMount;
use crate::volumes::{is_mounted, take_off};
use crate::{ContainerId, Error, MountKind, Result};

fn key(id: ContainerId, number: usize) -> String {
    format!("{id}.{number}")
}

/// Whose a snapshot is: a container's root, or an image that it mounts.
pub(crate) fn owner_of(snapshot: &str) -> Option<ContainerId> {
    snapshot.split_once('.').map_or(snapshot, |(id, _)| id).parse().ok()
}

fn of_images(mounts: &[ContainerMount]) -> impl Iterator<Item = (usize, &ContainerMount)> {
    mounts.iter().enumerate().filter(|(_, mount)| mount.kind == MountKind::Image)
}

impl Inner {
    pub(crate) fn image_mounts_dir(&self) -> PathBuf {
        self.config.run.join("images")
    }

    /// Finds the images and says where they will be.
    pub(crate) fn settle_images(&self, id: ContainerId, mounts: &mut [ContainerMount]) -> Result<()> {
        for (number, mount) in mounts.iter_mut().enumerate().filter(|(_, mount)| mount.kind == MountKind::Image) {
            // Another container's, with `--volumes-from`, is the image that it was there.
            if mount.image.is_none() {
                // Told as a bad request: on "not found" clients pull the container's own image and ask again.
                let refused = |error| Error::Invalid(format!("invalid mount config for type \"image\": {error}"));
                mount.image = Some(self.images.resolve(&mount.image_name).map_err(refused)?);
            }
            mount.source = self.image_mounts_dir().join(key(id, number)).to_string_lossy().into_owned();
        }
        Ok(())
    }

    /// Snapshots of the images, whose records the caller commits.
    pub(crate) fn prepare_images(
        &self,
        id: ContainerId,
        mounts: &[ContainerMount],
    ) -> Result<Vec<image::Prepared<'_>>> {
        let images = of_images(mounts).filter_map(|(number, mount)| Some((number, mount.image.as_ref()?)));
        images.map(|(number, image)| Ok(self.images.prepare_files(&key(id, number), image)?)).collect()
    }

    /// Blocking.
    pub(crate) fn acquire_images(&self, container: &Container) -> Result<()> {
        let record = container.record();
        for (number, mount) in of_images(&record.mounts) {
            let place = PathBuf::from(&mount.source);
            let failed = |error: &dyn std::fmt::Display| {
                Error::internal(format_args!("mount image {} at {}", mount.image_name, place.display()), error)
            };
            std::fs::create_dir_all(&place).map_err(|error| failed(&error))?;
            if is_mounted(&place).map_err(|error| failed(&error))? {
                continue;
            }
            let key = key(container.id, number);
            let tree = match &record.users {
                None => self.images.mount(&key, false)?,
                Some(users) => {
                    let users = linux::clone::user_namespaces(linux::clone::Owner::New(users))?.user;
                    self.images.mount_for(&key, users.as_fd())?
                }
            };
            vocab::crash::point("engine.image_mount.before_attach");
            linux::mount::attach_at(&tree, &place).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// The files of one, whether the container runs or not. Blocking.
    pub(crate) fn open_image(&self, container: &Container, mount: &ContainerMount) -> Result<linux::fs::Root> {
        let record = container.record();
        let number = record.mounts.iter().position(|other| other.destination == mount.destination).unwrap_or_default();
        Ok(linux::fs::Root::from_fd(self.images.mount(&key(container.id, number), false)?))
    }

    /// The container has ended, or was never started. Blocking.
    pub(crate) fn release_images(&self, container: &Container) {
        for (_, mount) in of_images(&container.record().mounts) {
            remove_place(&PathBuf::from(&mount.source));
        }
    }

    /// The container's record is gone. Blocking.
    pub(crate) fn forget_images(&self, container: &Container) {
        for (number, _) in of_images(&container.record().mounts) {
            if let Err(error) = self.images.remove_snapshot(&key(container.id, number)) {
                tracing::warn!(container = %container.id, %error, "an image's mount stays behind until the next start");
            }
        }
    }

    /// At the start of an engine: what no running container has.
    pub(crate) fn tidy_images(&self) {
        for name in names_in(&self.image_mounts_dir()) {
            let user = owner_of(&name).and_then(|id| self.registry().get(id));
            if !user.is_some_and(|container| container.status().is_running()) {
                remove_place(&self.image_mounts_dir().join(name));
            }
        }
    }
}

fn remove_place(place: &std::path::Path) {
    if let Err(error) = take_off(place) {
        tracing::warn!(place = %place.display(), %error, "an image stays mounted");
        return;
    }
    if let Err(error) = std::fs::remove_dir(place)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(place = %place.display(), %error, "an image's mount point stays");
    }
}
