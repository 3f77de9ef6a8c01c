//! The store: what its callers can do.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use db::Db;
use vocab::{Digest, Reference};

use crate::error::{Error, Result};
use crate::model::*;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Overlay metadata goes to `user.overlay.*`, owners stay as the user namespace has them.
    pub rootless: bool,
    pub limits: Limits,
}

/// Images, layers and snapshots below one folder. Share it in an `Arc`.
pub struct Store {
    root: PathBuf,
    #[allow(dead_code)]
    db: Db,
    #[allow(dead_code)]
    options: Options,
}

fn unbuilt<T>(what: &str) -> Result<T> {
    Err(Error::Unsupported(format!("{what} is not built yet")))
}

/// Images. `name` is a reference (`busybox`, `busybox:1.36`, `host/repo@sha256:...`), an id, or a unique prefix of an id.
impl Store {
    /// Opens the store below `root` (made if missing, mode 0711) and removes what a crash left half done.
    /// The database is the engine's one database; the store keeps its own tables in it.
    pub fn open(root: &Path, db: Db, options: Options) -> Result<Self> {
        Ok(Self { root: root.to_owned(), db, options })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image that `name` stands for.
    pub fn resolve(&self, _name: &str) -> Result<Digest> {
        unbuilt("images")
    }

    /// Newest first.
    pub fn list(&self, _filter: &ListFilter) -> Result<Vec<ImageSummary>> {
        unbuilt("images")
    }

    pub fn inspect(&self, _name: &str) -> Result<ImageFacts> {
        unbuilt("images")
    }

    pub fn history(&self, _name: &str) -> Result<Vec<HistoryEntry>> {
        unbuilt("images")
    }

    /// Lets `target` (`:latest` if it has no tag) stand for the image; returns its id.
    pub fn tag(&self, _name: &str, _target: &Reference) -> Result<Digest> {
        unbuilt("images")
    }

    /// `rmi`: removes the name, and the image with its last name; an image given by id loses all its names if that is one or
    /// `force`. `running` says whether a container runs.
    pub fn remove(
        &self,
        _name: &str,
        _options: RemoveOptions,
        _running: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Removed>> {
        unbuilt("rmi")
    }

    pub fn prune(&self, _filter: &PruneFilter) -> Result<Pruned> {
        unbuilt("image prune")
    }

    /// Loads a docker-archive or an OCI layout, plain, gzip or zstd, from a stream in any order of members. Names move, and
    /// this returns, only after everything is verified and on disk; on an error nothing of it remains.
    pub fn load(
        &self,
        _input: &mut (dyn Read + Send),
        _options: &LoadOptions,
        _progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Loaded>> {
        unbuilt("load")
    }

    /// The same from an OCI layout folder.
    pub fn load_layout(
        &self,
        _folder: &Path,
        _options: &LoadOptions,
        _progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Loaded>> {
        unbuilt("load")
    }

    /// Writes an archive that is a docker-archive and an OCI layout at once. A name with a tag keeps that tag in the archive, a
    /// repository without tag brings all its tags, an id brings none. Names are checked before the first byte.
    pub fn save(&self, _names: &[String], _output: &mut (dyn Write + Send)) -> Result<()> {
        unbuilt("save")
    }

    /// Makes an image of one layer from a tar of a root file system.
    pub fn import(
        &self,
        _input: &mut (dyn Read + Send),
        _options: &ImportOptions,
        _progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Digest> {
        unbuilt("import")
    }

    /// Bytes on disk; images with their shared sizes.
    pub fn usage(&self) -> Result<DiskUsage> {
        unbuilt("disk usage")
    }

    /// Removes every blob, layer and leftover that nothing refers to. Safe at any time.
    pub fn collect(&self) -> Result<Collected> {
        unbuilt("garbage collection")
    }

    /// Compares records with folders and files. `deep` reads and hashes every blob.
    pub fn check(&self, _deep: bool) -> Result<Vec<Finding>> {
        unbuilt("check")
    }
}

/// Snapshots: the root file systems of containers, by the container's id.
impl Store {
    /// Makes the directories of a new container's root. The image cannot be deleted while the snapshot exists.
    pub fn prepare(&self, _container: &str, _image: &Digest) -> Result<Snapshot> {
        unbuilt("snapshots")
    }

    pub fn snapshot(&self, _container: &str) -> Result<Snapshot> {
        unbuilt("snapshots")
    }

    /// Containers that have a snapshot.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        unbuilt("snapshots")
    }

    /// Forgets the snapshot and removes its folders. Nothing may have it mounted. No error if there is none.
    pub fn remove_snapshot(&self, _container: &str) -> Result<()> {
        unbuilt("snapshots")
    }

    /// Bytes in the writable layer, and in all layers below it.
    pub fn snapshot_usage(&self, _container: &str) -> Result<(u64, u64)> {
        unbuilt("snapshots")
    }

    /// The root of a container that does not run, as a detached overlay mount: a directory descriptor that no mount table knows
    /// and that goes away when it is closed. Read-only unless `writable`.
    pub fn mount(&self, _container: &str, _writable: bool) -> Result<OwnedFd> {
        unbuilt("snapshots")
    }

    /// What the container changed, by path. Mount points of the init layer are not told.
    pub fn diff(&self, _container: &str) -> Result<Vec<Change>> {
        unbuilt("diff")
    }

    /// The merged tree as a tar. Volumes are not part of it.
    pub fn export(&self, _container: &str, _output: &mut (dyn Write + Send)) -> Result<()> {
        unbuilt("export")
    }

    /// Makes an image of the container's image and its writable layer; returns its id. Pausing is the caller's step.
    pub fn commit(&self, _container: &str, _options: &CommitOptions) -> Result<Digest> {
        unbuilt("commit")
    }
}
