//! Snapshots: a container's root as folders for one overlay mount. Two of them are the container's own (writable layer and
//! work folder); the init layer, which holds the mount points that every container needs, is made once for each image.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use linux::fs::{FileType, Mode, OFlags, Root};
use linux::mount::{AttrChange, MountAttr, Overlay};
use vocab::{Digest, crash};

use super::blobs::HOLDS;
use super::gc::Reach;
use super::held::Claim;
use super::records::*;
use super::staging::{Staging, remove_tree};
use super::{Pins, Store};
use crate::error::{Context, Error, Result};
use crate::model::*;
use crate::union::{DEPTH_MAX, Union};

/// Mount points and files that Docker puts under every container.
const INIT_DIRS: [&str; 5] = ["dev", "dev/pts", "dev/shm", "proc", "sys"];
const INIT_FILES: [&str; 5] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Overlay options that keep the writable layer readable without overlay: no renamed directories, no data-less copies.
pub const OVERLAY_OPTIONS: [&str; 2] = ["redirect_dir=off", "metacopy=off"];

/// A new snapshot's folders, whose record is still to be committed: [`Prepared::record`] in the transaction,
/// [`Prepared::keep`] after it. Dropped before that, the folders go away. Its layers stay as long as this does, even if the
/// image is removed meanwhile.
#[derive(Debug)]
#[must_use = "the folders go away with it unless it is kept"]
pub struct Prepared<'a> {
    store: &'a Store,
    container: String,
    /// `None`: made on layers that are no image's.
    image: Option<Digest>,
    layers: Vec<Digest>,
    folders: Option<Snapshot>,
    // In this order: the folder is gone before the claim on it, and the claim before the layers.
    _claim: Claim<'a>,
    _pins: Pins<'a>,
}

impl Prepared<'_> {
    /// The snapshot's record. Refused if its image has been removed since.
    pub fn record(&self, txn: &mut db::Write<'_>) -> Result<()> {
        if let Some(image) = &self.image
            && txn.get(&IMAGES, image)?.is_none()
        {
            return Err(Error::NoSuchImage(image.to_string()));
        }
        let record = SnapshotRecord { image: self.image, layers: self.layers.clone() };
        Ok(txn.put(&SNAPSHOTS, &self.container, &record)?)
    }

    /// The transaction is committed: from now on the record keeps the snapshot.
    pub fn keep(mut self) -> Snapshot {
        self.folders.take().expect("folders are taken here only, and this takes itself")
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if self.folders.is_none() {
            return;
        }
        // A commit whose failure was told may have reached the disk all the same: then the record keeps them.
        match self.store.db.read().and_then(|read| read.get(&SNAPSHOTS, &self.container)) {
            Ok(None) => self.store.remove_folder(&self.container),
            Ok(Some(_)) => {}
            Err(error) => tracing::warn!(container = self.container, %error, "its folders stay until the next start"),
        }
    }
}

/// A snapshot whose record is being removed: its files are next, with [`Store::remove_files_of`].
#[derive(Debug)]
#[must_use]
pub struct LayersLeft<'a> {
    /// Its image is still there and keeps its layers: the usual case needs no look at everything else.
    of_an_image: bool,
    _claim: Claim<'a>,
}

impl Store {
    /// Makes the directories of a new container's root. The image's layers stay as long as the snapshot does.
    pub fn prepare(&self, container: &str, image: &Digest) -> Result<Snapshot> {
        let prepared = self.prepare_files(container, image)?;
        crash::point("image.snapshot.files");
        self.db.write(|txn| prepared.record(txn))?;
        crash::point("image.snapshot.recorded");
        Ok(prepared.keep())
    }

    /// The files of [`Store::prepare`] alone, so that the snapshot's record is committed together with the container's:
    /// ```no_run
    /// # fn create(store: &image::Store, db: &db::Db, id: &str, image: &vocab::Digest) -> image::Result<()> {
    /// let prepared = store.prepare_files(id, image)?;
    /// db.write(|txn| {
    ///     prepared.record(txn)?;
    ///     // ... the container's own record ...
    ///     Ok::<_, image::Error>(())
    /// })?; // on an error the folders are removed
    /// prepared.keep();
    /// # Ok(()) }
    /// ```
    pub fn prepare_files(&self, container: &str, image: &Digest) -> Result<Prepared<'_>> {
        check_id(container)?;
        let claim = self.claim(container);
        let (layers, pins) = {
            let _lock = self.lock();
            let read = self.db.read()?;
            if read.get(&SNAPSHOTS, &container.to_owned())?.is_some() {
                return Err(Error::Conflict(format!("snapshot {container} exists already")));
            }
            let layers = read.get(&IMAGES, image)?.ok_or_else(|| Error::NoSuchImage(image.to_string()))?.layers;
            let pins = self.pin(layers.iter().copied());
            (layers, pins)
        };
        self.prepare_folders(container, Some(*image), layers, claim, pins)
    }

    /// As [`Store::prepare_files`], on a chain of layers (`None`: on nothing).
    pub fn prepare_files_on(&self, container: &str, top: Option<&Digest>) -> Result<Prepared<'_>> {
        check_id(container)?;
        let claim = self.claim(container);
        let (layers, pins) = {
            let _lock = self.lock();
            if self.db.read()?.get(&SNAPSHOTS, &container.to_owned())?.is_some() {
                return Err(Error::Conflict(format!("snapshot {container} exists already")));
            }
            let layers = self.chain_below(top)?;
            let pins = self.pin(layers.iter().copied());
            (layers, pins)
        };
        self.prepare_folders(container, None, layers, claim, pins)
    }

    fn prepare_folders<'a>(
        &'a self,
        container: &str,
        image: Option<Digest>,
        layers: Vec<Digest>,
        claim: Claim<'a>,
        pins: Pins<'a>,
    ) -> Result<Prepared<'a>> {
        let folders = self.make_folders(container, &layers).inspect_err(|_| self.remove_folder(container))?;
        let container = container.to_owned();
        Ok(Prepared { store: self, container, image, layers, folders: Some(folders), _claim: claim, _pins: pins })
    }

    /// The folders of a snapshot; the container's own are made again if a power cut took them.
    pub fn snapshot(&self, container: &str) -> Result<Snapshot> {
        let record = self.snapshot_record(container)?;
        if let Some(whole) = self.whole_folders(container, &record.layers)? {
            return Ok(whole);
        }
        let _claim = self.claim(container);
        let made = self.make_folders(container, &record.layers);
        // Removed meanwhile: its folder may have been made after that was done.
        if let Err(gone) = self.snapshot_record(container) {
            self.remove_folder(container);
            return Err(gone);
        }
        made
    }

    /// Containers that have a snapshot.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        Ok(self.db.read()?.list(&SNAPSHOTS)?.into_iter().map(|(id, _)| id).collect())
    }

    /// The image that the snapshot was made of, if it was one.
    pub fn snapshot_image(&self, container: &str) -> Result<Option<Digest>> {
        Ok(self.snapshot_record(container)?.image)
    }

    /// Forgets the snapshot and removes its folders. Nothing may have it mounted. No error if there is none.
    pub fn remove_snapshot(&self, container: &str) -> Result<()> {
        let layers = self.db.write(|txn| self.remove_record(txn, container))?;
        crash::point("image.snapshot.forgotten");
        self.remove_files_of(container, layers)
    }

    /// The record of [`Store::remove_snapshot`] alone, for the transaction that removes the container's. Call
    /// [`Store::remove_files_of`] with the answer once that is committed.
    pub fn remove_record(&self, txn: &mut db::Write<'_>, container: &str) -> Result<LayersLeft<'_>> {
        check_id(container)?;
        let claim = self.claim(container);
        let key = container.to_owned();
        let Some(record) = txn.get(&SNAPSHOTS, &key)? else {
            return Ok(LayersLeft { of_an_image: false, _claim: claim });
        };
        txn.remove(&SNAPSHOTS, &key)?;
        let of_an_image = match &record.image {
            Some(image) => txn.get(&IMAGES, image)?.is_some(),
            None => false,
        };
        Ok(LayersLeft { of_an_image, _claim: claim })
    }

    /// The files of [`Store::remove_snapshot`] alone, after its record is gone. Layers that only this snapshot kept go too.
    pub fn remove_files_of(&self, container: &str, layers: LayersLeft<'_>) -> Result<()> {
        check_id(container)?;
        self.remove_folder(container);
        crash::point("image.snapshot.files_gone");
        if !layers.of_an_image && self.has_orphans()? {
            self.collect()?;
        }
        Ok(())
    }

    fn has_orphans(&self) -> Result<bool> {
        let read = self.db.read()?;
        let layers = read.list(&LAYERS)?;
        let (images, snapshots) = (read.list(&IMAGES)?, read.list(&SNAPSHOTS)?);
        let reach = Reach::new(&images, &snapshots, &read.list(&KEPT)?, &read.list(&HOLDS)?, &[], &layers);
        Ok(layers.iter().any(|(chain, _)| !reach.layers.contains(chain)))
    }

    pub(super) fn remove_folder(&self, container: &str) {
        if let Some(trash) = self.to_trash(&self.snapshots_dir().join(container)) {
            crash::point("image.snapshot.trashed");
            // Whoever removes what was written waits until the disk has it back.
            let wrote = std::fs::read_dir(trash.join("upper")).is_ok_and(|mut entries| entries.next().is_some());
            if wrote { remove_tree(&trash) } else { self.discarded.take(trash) }
        }
    }

    /// Removes a small folder on the same file system: it is out of sight when this returns, and its files go soon.
    pub fn discard_folder(&self, folder: &Path) {
        if let Some(trash) = self.to_trash(folder) {
            self.discarded.take(trash);
        }
    }

    /// Waits until the files of what was discarded so far have gone.
    pub fn wait_for_discarded(&self) {
        self.discarded.settle();
    }

    /// Bytes in the writable layer, and in all layers below it.
    pub fn snapshot_usage(&self, container: &str) -> Result<(u64, u64)> {
        let record = self.snapshot_record(container)?;
        let upper = Root::open(self.snapshots_dir().join(container).join("upper")).context(|| "open a snapshot")?;
        let mut inodes = std::collections::HashSet::new();
        let what = || format!("size of snapshot {container}");
        let written = crate::deep::walk(|| tree_bytes(upper.as_fd(), &mut inodes, 0)).context(what)?.context(what)?;
        let read = self.db.read()?;
        let mut below = 0;
        for chain in &record.layers {
            below += read.get(&LAYERS, chain)?.map_or(0, |layer| layer.bytes);
        }
        Ok((written, below))
    }

    /// The root of a container that does not run, as a detached overlay mount: a directory descriptor that no mount table knows
    /// and that goes away when it is closed. Read-only unless `writable`.
    pub fn mount(&self, container: &str, writable: bool) -> Result<OwnedFd> {
        let snapshot = self.snapshot(container)?;
        let open = |path: &PathBuf| Root::open(path).map(Root::into_fd).context(|| "open a snapshot");
        let lowers = snapshot.lowers.iter().map(open).collect::<Result<Vec<_>>>()?;
        let (upper, work) = (open(&snapshot.upper)?, open(&snapshot.work)?);
        let mut overlay = Overlay {
            lowers: lowers.iter().map(AsFd::as_fd).collect(),
            options: OVERLAY_OPTIONS.map(str::to_owned).to_vec(),
            source: Some("overlay".into()),
            ..Overlay::default()
        };
        if self.options.rootless {
            overlay.options.push("userxattr".into());
        }
        let attr = if writable {
            overlay.upper = Some((upper.as_fd(), work.as_fd()));
            MountAttr::default()
        } else {
            overlay.lowers.insert(0, upper.as_fd());
            MountAttr::RDONLY
        };
        overlay.detached(attr).context(|| format!("mount snapshot {container}"))
    }

    /// As [`Store::mount`], read-only, with the ids of a user namespace.
    pub fn mount_for(&self, container: &str, users: BorrowedFd<'_>) -> Result<OwnedFd> {
        let snapshot = self.snapshot(container)?;
        let change = AttrChange { idmap: Some(users), ..Default::default() };
        let mapped = |path: &PathBuf| -> linux::Result<OwnedFd> {
            let tree = linux::mount::clone_tree_at(path, false)?;
            linux::mount::set_attr(&tree, &change, false)?;
            Ok(tree)
        };
        let what = || format!("mount snapshot {container} with other ids");
        let folders = std::iter::once(&snapshot.upper).chain(&snapshot.lowers).map(mapped);
        let folders = folders.collect::<linux::Result<Vec<_>>>().context(what)?;
        let overlay = Overlay {
            lowers: folders.iter().map(AsFd::as_fd).collect(),
            options: OVERLAY_OPTIONS.map(str::to_owned).to_vec(),
            source: Some("overlay".into()),
            ..Overlay::default()
        };
        overlay.detached(MountAttr::RDONLY).context(what)
    }

    /// As [`Store::mount`], read-only and without what is put under every container: the files alone.
    pub fn mount_files(&self, container: &str) -> Result<OwnedFd> {
        let record = self.snapshot_record(container)?;
        let snapshot = self.snapshot(container)?;
        let mut folders = vec![snapshot.upper];
        folders.extend(self.lowers(&record.layers)?);
        let open = |path: &PathBuf| Root::open(path).map(Root::into_fd).context(|| "open a snapshot");
        let mut folders = folders.iter().map(open).collect::<Result<Vec<_>>>()?;
        // An overlay that takes no writes needs two folders.
        if folders.len() == 1 {
            return Ok(folders.remove(0));
        }
        let mut overlay = Overlay {
            lowers: folders.iter().map(AsFd::as_fd).collect(),
            options: OVERLAY_OPTIONS.map(str::to_owned).to_vec(),
            source: Some("overlay".into()),
            ..Overlay::default()
        };
        if self.options.rootless {
            overlay.options.push("userxattr".into());
        }
        overlay.detached(MountAttr::RDONLY).context(|| format!("mount the files of snapshot {container}"))
    }

    /// The container's tree as folders, for walking without a mount. Topmost first; the init layer left out.
    pub(crate) fn union_of(&self, container: &str) -> Result<Union> {
        let record = self.snapshot_record(container)?;
        let mut folders = vec![self.snapshots_dir().join(container).join("upper")];
        folders.extend(self.lowers(&record.layers)?);
        Union::open(&folders)
    }

    pub(crate) fn snapshot_record(&self, container: &str) -> Result<SnapshotRecord> {
        let record = self.db.read()?.get(&SNAPSHOTS, &container.to_owned())?;
        record.ok_or_else(|| Error::NoSuchSnapshot(container.to_owned()))
    }

    /// `diff` folders, topmost first.
    pub(crate) fn lowers(&self, chains: &[Digest]) -> Result<Vec<PathBuf>> {
        let read = self.db.read()?;
        chains
            .iter()
            .rev()
            .map(|chain| match read.get(&LAYERS, chain)? {
                Some(layer) => Ok(self.layers_dir().join(layer.folder).join("diff")),
                None => Err(Error::Damaged(format!("layer {chain} has no record"))),
            })
            .collect()
    }

    /// The folders if nothing is missing.
    fn whole_folders(&self, container: &str, layers: &[Digest]) -> Result<Option<Snapshot>> {
        let mut lowers = self.lowers(layers)?;
        let folder = self.snapshots_dir().join(container);
        let init = self.init_home(&folder, &lowers).join("init");
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        lowers.insert(0, init);
        Ok((work.exists() && upper.exists() && lowers[0].exists()).then_some(Snapshot { lowers, upper, work }))
    }

    fn make_folders(&self, container: &str, layers: &[Digest]) -> Result<Snapshot> {
        let lowers = self.lowers(layers)?;
        let folder = self.snapshots_dir().join(container);
        let init = self.init_layer(&folder, &lowers)?;
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        if !work.exists() || !upper.exists() {
            let what = || format!("make snapshot {container}");
            let all = Root::open(self.snapshots_dir()).context(what)?;
            let here = all.mkdir_all(container, Mode::from_raw_mode(0o711)).context(what)?;
            match linux::fs::mkdirat(&here, "upper", Mode::from_raw_mode(0o755)) {
                Err(e) if e.is(linux::Errno::EXIST) => {}
                other => {
                    other.context(what)?;
                    // The root of the merged tree is this folder: it looks as the image's root does.
                    if let Some(top) = lowers.first() {
                        copy_dir_metadata(top, &upper).context(what)?;
                    }
                }
            }
            // Last, so that its presence says that the rest is complete.
            crash::point("image.snapshot.upper");
            match linux::fs::mkdirat(&here, "work", Mode::from_raw_mode(0o700)) {
                Err(e) if e.is(linux::Errno::EXIST) => {}
                other => other.context(what)?,
            }
        }
        let mut all = vec![init];
        all.extend(lowers);
        Ok(Snapshot { lowers: all, upper, work })
    }

    /// Where the init layer above these layers is: beside the topmost; an image without layers has no place of its own.
    fn init_home(&self, snapshot: &Path, lowers: &[PathBuf]) -> PathBuf {
        lowers.first().and_then(|diff| diff.parent()).unwrap_or(snapshot).to_owned()
    }

    /// The init layer above these layers, made when it is first needed.
    fn init_layer(&self, snapshot: &Path, lowers: &[PathBuf]) -> Result<PathBuf> {
        let home = self.init_home(snapshot, lowers);
        if lowers.is_empty() {
            std::fs::create_dir_all(&home).context(|| format!("make {}", home.display()))?;
        }
        let place = home.join("init");
        if place.exists() {
            return Ok(place);
        }
        let staging = Staging::new(&self.tmp())?;
        let made = staging.folder()?;
        let union = Union::open(lowers)?;
        fill_init(&made, &union, lowers).context(|| "make an init layer")?;
        match std::fs::rename(&made, &place) {
            // Another container of this image was quicker.
            Err(_) if place.exists() => Ok(place),
            other => other.map(|()| place.clone()).context(|| format!("make {}", place.display())),
        }
    }
}

fn fill_init(made: &Path, union: &Union, lowers: &[PathBuf]) -> linux::Result<()> {
    let root = Root::open(made)?;
    let dir_mode = Mode::from_raw_mode(0o755);
    if let Some(top) = lowers.first() {
        copy_dir_metadata(top, made)?;
    }
    // What the image has stays as the image has it; where it has a link in the way, the runtime finds its own place.
    let parent_is_dir = |path: &str| match path.rsplit_once('/') {
        None => Ok(true),
        Some((parent, _)) => Ok(match union.stat(parent.as_bytes())? {
            Some(stat) => linux::fs::file_type(&stat) == FileType::Directory,
            None => true,
        }),
    };
    for path in INIT_DIRS {
        if parent_is_dir(path)? && union.stat(path.as_bytes())?.is_none() {
            make_parents(&root, union, path)?;
            match root.mkdir(path, dir_mode) {
                Err(e) if e.is(linux::Errno::EXIST) => {}
                other => other?,
            }
        }
    }
    for path in INIT_FILES {
        if parent_is_dir(path)? && union.stat(path.as_bytes())?.is_none() {
            make_parents(&root, union, path)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            root.open_file(path, flags, dir_mode)?;
        }
    }
    if parent_is_dir("etc/mtab")? && union.stat(b"etc/mtab")?.is_none() {
        make_parents(&root, union, "etc/mtab")?;
        root.symlink("/proc/mounts", "etc/mtab")?;
    }
    Ok(())
}

/// Directories above a mount point, looking as they do in the image.
fn make_parents(root: &Root, union: &Union, path: &str) -> linux::Result<()> {
    let parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
    for parent in parents {
        match root.mkdir(parent, Mode::from_raw_mode(0o755)) {
            Err(e) if e.is(linux::Errno::EXIST) => continue,
            other => other?,
        }
        if let Some(stat) = union.stat(parent.as_bytes())? {
            let made = root.open_file(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            set_dir_metadata(&made, &stat)?;
        }
    }
    Ok(())
}

fn copy_dir_metadata(from: &Path, to: &Path) -> linux::Result<()> {
    let stat = linux::fs::fstat(Root::open(from)?)?;
    let to = linux::fs::reopen(Root::open(to)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
    set_dir_metadata(&to, &stat)
}

fn set_dir_metadata(dir: &OwnedFd, stat: &linux::fs::Stat) -> linux::Result<()> {
    linux::fs::fchown(dir, stat.st_uid, stat.st_gid)?;
    linux::fs::fchmod(dir, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mtime = crate::tar::Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
    linux::fs::futimens(dir, &crate::layer::times(mtime))
}

/// Bytes of the regular files below `path`, each file once however many names it has; links are not followed.
pub fn tree_size(path: &std::path::Path) -> Result<u64> {
    let what = || format!("size of {}", path.display());
    let dir = Root::open(path).context(what)?;
    crate::deep::walk(|| tree_bytes(dir.as_fd(), &mut std::collections::HashSet::new(), 0)).context(what)?.context(what)
}

fn tree_bytes(
    dir: std::os::fd::BorrowedFd<'_>,
    inodes: &mut std::collections::HashSet<u64>,
    depth: usize,
) -> linux::Result<u64> {
    if depth > DEPTH_MAX {
        return Err(linux::Error::new("size", "a tree deeper than any path", linux::Errno::NAMETOOLONG));
    }
    let mut bytes = 0;
    for entry in linux::tree::entries(dir)? {
        let stat = match linux::fs::lstatat(dir, &entry.name) {
            // A running container removes files while they are counted.
            Err(e) if e.is(linux::Errno::NOENT) => continue,
            other => other?,
        };
        match linux::fs::file_type(&stat) {
            FileType::Directory => match linux::tree::open_dir(dir, &entry.name) {
                Err(e) if e.is(linux::Errno::NOENT) => {}
                child => bytes += tree_bytes(child?.as_fd(), inodes, depth + 1)?,
            },
            FileType::RegularFile if stat.st_nlink == 1 || inodes.insert(stat.st_ino) => bytes += stat.st_size as u64,
            _ => {}
        }
    }
    Ok(bytes)
}

/// A container's id names a folder.
fn check_id(id: &str) -> Result<()> {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && id.len() <= 128 {
        return Ok(());
    }
    Err(Error::invalid("container id", format!("{:?} is none", id.chars().take(200).collect::<String>())))
}
