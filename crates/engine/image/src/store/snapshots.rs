//! Snapshots: a container's root as folders for one overlay mount. Two of them are the container's own (writable layer and
//! work folder); the init layer, which holds the mount points that every container needs, is made once for each image.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use linux::fs::{FileType, Mode, OFlags, Root};
use linux::mount::{MountAttr, Overlay};
use vocab::Digest;

use super::Store;
use super::records::*;
use super::staging::{Staging, remove_tree};
use crate::error::{Context, Error, Result};
use crate::model::*;
use crate::union::{DEPTH_MAX, Union};

/// Mount points and files that Docker puts under every container.
const INIT_DIRS: [&str; 5] = ["dev", "dev/pts", "dev/shm", "proc", "sys"];
const INIT_FILES: [&str; 5] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Overlay options that keep the writable layer readable without overlay: no renamed directories, no data-less copies.
pub const OVERLAY_OPTIONS: [&str; 2] = ["redirect_dir=off", "metacopy=off"];

impl Store {
    /// Makes the directories of a new container's root. The image's layers stay as long as the snapshot does.
    pub fn prepare(&self, container: &str, image: &Digest) -> Result<Snapshot> {
        let snapshot = self.prepare_files(container, image)?;
        // The image may be gone by now; then so is this.
        let recorded = self.db.write(|txn| self.prepare_record(txn, container, image));
        recorded.or_else(|error| self.remove_files(container).and(Err(error)))?;
        Ok(snapshot)
    }

    /// The files of [`Store::prepare`] alone: call it before a transaction that calls [`Store::prepare_record`], so that the
    /// snapshot's record is committed together with the container's.
    pub fn prepare_files(&self, container: &str, image: &Digest) -> Result<Snapshot> {
        check_id(container)?;
        let layers = self.image_layers(image)?;
        self.make_folders(container, &layers)
    }

    /// The record of [`Store::prepare`] alone.
    pub fn prepare_record(&self, txn: &mut db::Write<'_>, container: &str, image: &Digest) -> Result<()> {
        let layers = txn.get(&IMAGES, image)?.ok_or_else(|| Error::NoSuchImage(image.to_string()))?.layers;
        txn.put(&SNAPSHOTS, &container.to_owned(), &SnapshotRecord { image: *image, layers })?;
        Ok(())
    }

    /// The folders of a snapshot; the container's own are made again if a power cut took them.
    pub fn snapshot(&self, container: &str) -> Result<Snapshot> {
        let record = self.snapshot_record(container)?;
        self.make_folders(container, &record.layers)
    }

    /// Containers that have a snapshot.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        Ok(self.db.read()?.list(&SNAPSHOTS)?.into_iter().map(|(id, _)| id).collect())
    }

    /// The image that the snapshot was made of.
    pub fn snapshot_image(&self, container: &str) -> Result<Digest> {
        Ok(self.snapshot_record(container)?.image)
    }

    /// Forgets the snapshot and removes its folders. Nothing may have it mounted. No error if there is none.
    pub fn remove_snapshot(&self, container: &str) -> Result<()> {
        check_id(container)?;
        let image_stays = self.db.write(|txn| {
            let record = txn.get(&SNAPSHOTS, &container.to_owned())?;
            self.remove_record(txn, container)?;
            let image = record.map(|record| txn.get(&IMAGES, &record.image)).transpose()?;
            Ok::<_, Error>(matches!(image, Some(Some(_))))
        })?;
        // While the image is there, so are its layers: the usual case needs no look at everything else.
        if image_stays { self.remove_folder(container) } else { self.remove_files(container) }
    }

    /// The record of [`Store::remove_snapshot`] alone, for the transaction that removes the container's.
    pub fn remove_record(&self, txn: &mut db::Write<'_>, container: &str) -> Result<()> {
        txn.remove(&SNAPSHOTS, &container.to_owned())?;
        Ok(())
    }

    /// The files of [`Store::remove_snapshot`] alone, after its record is gone. Layers that only this snapshot kept go too.
    pub fn remove_files(&self, container: &str) -> Result<()> {
        check_id(container)?;
        self.remove_folder(container)?;
        let read = self.db.read()?;
        let orphaned = {
            let images: Vec<Digest> = read.list(&IMAGES)?.into_iter().flat_map(|(_, image)| image.layers).collect();
            let snapshots = read.list(&SNAPSHOTS)?.into_iter().flat_map(|(_, snapshot)| snapshot.layers);
            let live: std::collections::HashSet<Digest> = images.into_iter().chain(snapshots).collect();
            read.list(&LAYERS)?.iter().any(|(chain, _)| !live.contains(chain))
        };
        drop(read);
        if orphaned {
            self.collect()?;
        }
        Ok(())
    }

    fn remove_folder(&self, container: &str) -> Result<()> {
        if let Some(trash) = self.to_trash(&self.snapshots_dir().join(container)) {
            remove_tree(&trash);
        }
        Ok(())
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

    fn image_layers(&self, image: &Digest) -> Result<Vec<Digest>> {
        let record = self.db.read()?.get(&IMAGES, image)?;
        Ok(record.ok_or_else(|| Error::NoSuchImage(image.to_string()))?.layers)
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

    fn make_folders(&self, container: &str, layers: &[Digest]) -> Result<Snapshot> {
        let lowers = self.lowers(layers)?;
        let folder = self.snapshots_dir().join(container);
        let init = self.init_layer(&folder, &lowers)?;
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        if !work.exists() {
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
            linux::fs::mkdirat(&here, "work", Mode::from_raw_mode(0o700)).context(what)?;
        }
        let mut all = vec![init];
        all.extend(lowers);
        Ok(Snapshot { lowers: all, upper, work })
    }

    /// The init layer above these layers, made when it is first needed.
    fn init_layer(&self, snapshot: &Path, lowers: &[PathBuf]) -> Result<PathBuf> {
        let home = match lowers.first().and_then(|diff| diff.parent()) {
            Some(layer) => layer.to_owned(),
            // An image without layers has no place of its own.
            None => {
                std::fs::create_dir_all(snapshot).context(|| format!("make {}", snapshot.display()))?;
                snapshot.to_owned()
            }
        };
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
