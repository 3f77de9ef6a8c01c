//! What goes into a volume as a whole and comes out of it: copy-up from an image, export to and import from a tar.
//!
//! A copy into an empty volume is marked by the file `filling` beside `_data` until everything is on disk. Whoever finds the
//! mark empties the volume again: a half-filled volume would look like one that somebody had used.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use linux::fs::Root;

use super::{Volumes, locked};
use crate::core::{Container, Inner, blocking};
use crate::decide::mounts::ContainerMount;
use crate::stream::{Body, ByteSink};
use crate::{ByteStream, ContainerId, Error, Result};

impl Volumes {
    fn mark(&self, name: &str) -> PathBuf {
        self.dir().join(name).join("filling")
    }

    fn is_empty(&self, name: &str) -> Result<bool> {
        let data = Root::open(self.data(name))?;
        Ok(linux::tree::entries(data.as_fd())?.is_empty())
    }

    /// Empties a volume whose first filling was cut short.
    pub(super) fn undo_half_fill(&self, name: &str) -> Result<()> {
        let mark = self.mark(name);
        if !mark.exists() {
            return Ok(());
        }
        let data = Root::open(self.data(name))?;
        for entry in linux::tree::entries(data.as_fd())? {
            linux::tree::remove_all(&data, &entry.name)?;
        }
        self.unmark(name)
    }

    fn unmark(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.mark(name)).map_err(|e| Error::internal(format_args!("fill volume {name}"), e))
    }

    /// Runs `work`, which writes into the empty `_data` of the volume; a crash or an error in it leaves the volume empty.
    fn fill(&self, name: &str, work: impl FnOnce(&Root) -> Result<()>) -> Result<()> {
        // One of another driver has no folder here but for this.
        self.make_folder(name)?;
        std::fs::File::create(self.mark(name))
            .and_then(|file| file.sync_all())
            .map_err(|e| Error::internal(format_args!("fill volume {name}"), e))?;
        let data = Root::open(self.data(name))?;
        vocab::crash::point("engine.volume.fill.begun");
        if let Err(error) = work(&data) {
            self.undo_half_fill(name)?;
            return Err(error);
        }
        // The mark must not be gone before the files are there for good.
        linux::fs::syncfs(linux::fs::reopen_dir(&data)?)?;
        vocab::crash::point("engine.volume.fill.written");
        self.unmark(name)
    }
}

impl Inner {
    /// Fills an empty volume with what the image has at its destination, when a container that wants it is started for the
    /// first time (RT-29: by descriptor, in the root, once). The caller has acquired the volume. Blocking.
    pub(crate) fn copy_up(&self, container: &Container, mount: &ContainerMount) -> Result<()> {
        let volumes = &self.volumes;
        if !mount.copy_up || container.state().started_at.is_some() {
            return Ok(());
        }
        let _alone = locked(&volumes.filling);
        volumes.undo_half_fill(&mount.volume)?;
        if !volumes.is_empty(&mount.volume)? {
            return Ok(());
        }
        let root = Root::from_fd(self.images.mount(&container.id.to_string(), false)?);
        let Ok(from) = root.open_dir(mount.destination.trim_start_matches('/')) else { return Ok(()) };
        if linux::tree::entries(from.as_fd())?.is_empty() {
            // Its owner and mode are all there is to take over.
            let to = Root::open(volumes.data(&mount.volume))?;
            return crate::core::copy_tree(from.as_fd(), to.as_fd());
        }
        volumes.fill(&mount.volume, |to| crate::core::copy_tree(from.as_fd(), to.as_fd()))
    }

    /// The volume's files as a tar.
    pub(crate) async fn volume_export(self: &Arc<Self>, name: &str) -> Result<ByteStream> {
        let (inner, owned) = (self.clone(), name.to_owned());
        let held = blocking(move || Held::new(inner, owned)).await?;
        let (sender, stream) = ByteStream::channel(16);
        tokio::task::spawn_blocking(move || {
            let mut sink = ByteSink::new(sender.clone());
            let packed = held.root().and_then(|root| {
                image::archive::pack(&root, std::path::Path::new("/"), &mut sink)?;
                std::io::Write::flush(&mut sink)
                    .map_err(|source| image::Error::Stream { what: "export", source }.into())
            });
            if let Err(error) = packed {
                drop(sender.blocking_send(Err(error)));
            }
        });
        Ok(stream)
    }

    /// Unpacks a tar (plain, gzip or zstd) into the volume; what is there already is replaced file by file. Into an empty
    /// volume it is all or nothing. Blocking.
    pub(crate) fn volume_import(self: &Arc<Self>, name: &str, mut body: Body) -> Result<()> {
        let held = Held::new(self.clone(), name.to_owned())?;
        let volumes = &self.volumes;
        let _alone = locked(&volumes.filling);
        volumes.undo_half_fill(name)?;
        let options = image::archive::UnpackOptions { no_overwrite_dir_non_dir: false, owner: None, rootless: false };
        let mut unpack = |root: &Root| -> Result<()> {
            Ok(image::archive::unpack(root, std::path::Path::new("/"), &mut body, &options)?)
        };
        if volumes.is_empty(name)? {
            volumes.fill(name, unpack)
        } else {
            let root = held.root()?;
            unpack(&root)?;
            Ok(linux::fs::syncfs(linux::fs::reopen_dir(&root)?)?)
        }
    }
}

/// A volume in use by the engine itself, under an id of its own.
pub(crate) struct Held {
    inner: Arc<Inner>,
    name: String,
    user: ContainerId,
}

impl Held {
    /// Blocking.
    pub(crate) fn new(inner: Arc<Inner>, name: String) -> Result<Self> {
        let user = inner.new_id();
        {
            let _steady = inner.volumes.change();
            if inner.volumes.get(&name).is_none() {
                return Err(Error::NoSuchVolume(name));
            }
            inner.volumes.reserve(user, vec![name.clone()]);
        }
        let held = Self { inner, name, user };
        held.inner.volumes.acquire(&held.name, user)?;
        Ok(held)
    }

    pub(crate) fn root(&self) -> Result<Root> {
        Ok(Root::open(self.inner.volumes.data(&self.name))?)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.volumes.release(&self.name, self.user);
        self.inner.volumes.release_reserved(self.user);
    }
}
