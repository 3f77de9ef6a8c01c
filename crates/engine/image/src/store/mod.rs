//! The store: what its callers can do, and the folders and locks that everything shares.

mod blobs;
mod check;
mod collect;
mod commit;
mod discard;
mod gc;
mod held;
mod images;
mod import;
mod ingest;
mod layers;
mod load;
mod names;
mod packed;
mod pull;
mod records;
mod save;
mod snapshots;

pub use snapshots::tree_size;
mod staging;

pub use blobs::{Blob, Distributable, DistributableLayer, HOLDS, Hold};
pub(crate) use ingest::Packing;
pub use layers::{Lease, Sealed};
pub(crate) use load::read_head;
pub use pull::{Part, Pull, PulledManifest};
pub use snapshots::{LayersLeft, Prepared};

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use db::Db;
use vocab::Digest;

use crate::error::{Context, Result};
use crate::model::*;
use held::Held;
pub(crate) use held::Pins;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Overlay metadata goes to `user.overlay.*`, owners stay as the user namespace has them.
    pub rootless: bool,
    pub limits: Limits,
}

/// Images, layers and snapshots below one folder. Share it in an `Arc`.
pub struct Store {
    root: PathBuf,
    db: Db,
    options: Options,
    /// Held while files move into or out of the store together with the records that speak of them. Short.
    files: Mutex<()>,
    held: Held,
    discarded: discard::Discarded,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store below `root` (made if missing) and removes what a crash left half done.
    /// The database is the engine's one database; the store keeps its own tables in it.
    pub fn open(root: &Path, db: Db, options: Options) -> Result<Self> {
        let store = Self {
            root: root.to_owned(),
            db,
            options,
            files: Mutex::new(()),
            held: Held::default(),
            discarded: Default::default(),
        };
        let mode = |mode| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(mode);
            builder
        };
        mode(0o711).create(root).context(|| format!("make {}", root.display()))?;
        // A container's root must be reachable by users that its user namespace maps; what is private is not.
        for (folder, bits) in [
            (store.blobs_dir(), 0o700),
            (store.layers_dir(), 0o711),
            (store.snapshots_dir(), 0o711),
            (store.tmp(), 0o700),
            (store.partial_dir(), 0o700),
        ] {
            mode(bits).create(&folder).context(|| format!("make {}", folder.display()))?;
        }
        // As staged layers: containers and steps of builds come and go, and a file beside one that was just removed is made slowly.
        let _ = fs::File::open(store.snapshots_dir()).map(linux::fs::spread_directories);
        store.recover()?;
        Ok(store)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn snapshots_dir(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn now_secs(&self) -> i64 {
        jiff::Timestamp::now().as_second()
    }
}

/// Images. `name` is a reference (`busybox`, `busybox:1.36`, `host/repo@sha256:...`), an id, or a unique prefix of an id.
impl Store {
    /// Loads a docker-archive or an OCI layout, plain, gzip or zstd, from a stream in any order of members. Names move, and
    /// this returns, only after everything is verified and on disk; on an error nothing of it remains.
    pub fn load(
        &self,
        input: &mut (dyn Read + Send),
        options: &LoadOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Loaded>> {
        self.load_stream(input, options, progress)
    }

    /// The same from an OCI layout folder.
    pub fn load_layout(
        &self,
        folder: &Path,
        options: &LoadOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Loaded>> {
        self.load_folder(folder, options, progress)
    }

    /// Writes an archive that is a docker-archive and an OCI layout at once. A name with a tag keeps that tag in the archive, a
    /// repository without tag brings all its tags, an id brings none. Names are checked before the first byte.
    pub fn save(&self, names: &[String], output: &mut (dyn Write + Send)) -> Result<()> {
        self.save_images(names, output)
    }

    /// Makes an image of one layer from a tar (plain, gzip or zstd) of a root file system.
    pub fn import(
        &self,
        input: &mut (dyn Read + Send),
        options: &ImportOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Digest> {
        self.import_tar(input, options, progress)
    }
}
