//! Carries a layer's tar out beneath one directory.
//!
//! Every name is acted on in a directory held open, and that directory was resolved in-root from the layer's own root: no
//! member, link or race leads anywhere else. Metadata is set on the thing just made, never through a link. The applier makes
//! directories, links and devices itself and hands regular files to [`Files`]; directories get their owner, mode, attributes
//! and times at the end, when nothing more is put into them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags, Root};
use serde::{Deserialize, Serialize};

use super::dirs::{Dir, Dirs};
use super::files::{self, Files, Owner, describe};
use super::finish::{Rest, is_whiteout, special_metadata};
use super::recipe::{self, Moved, RecipeWriter};
use crate::chunk::{Chunk, Source};
use crate::error::{Context, Error, Result};
use crate::model::Limits;
use crate::tar::path::{Effect, XattrRule, effect, parts, xattr_rule};
use crate::tar::{Entry, Kind, Reader, TarError};

/// A file of at most this many bytes is handed to its worker whole.
const SMALL_BYTES: u64 = 512 << 10;
/// Paths and attributes of directories wait for the end; this bounds the memory they take.
const DIRS_BYTES_MAX: usize = 48 << 20;
/// What a directory that no member describes gets, as in every other tool.
pub(super) const IMPLICIT_MODE: u32 = 0o755;

#[derive(Debug, Clone)]
pub struct Options {
    /// Keep a recipe, so that the tar can be made again.
    pub recipe: bool,
    pub rootless: bool,
    /// Threads that make files.
    pub workers: usize,
    pub limits: Limits,
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Bytes in regular files.
    pub bytes: u64,
    pub entries: u64,
    /// Directories that no member describes: in the layers below they may have another mode and owner.
    pub implicit_dirs: Vec<Vec<u8>>,
    /// Hard links to files of the layers below: path and target.
    pub foreign_links: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Unpacked {
    /// Whether the directory depends on the layers below it and [`rebase`] is needed.
    pub fn needs_parent(&self) -> bool {
        !self.implicit_dirs.is_empty() || !self.foreign_links.is_empty()
    }
}

/// Unpacks `tar` into `layer/diff`, which this makes, with `layer/recipe` if asked for. `layer` must exist and be empty.
/// On an error what was made so far is left to the caller to remove. Nothing is synced.
pub fn unpack(tar: impl Source, layer: &Path, what: &str, options: &Options) -> Result<Unpacked> {
    let folder = Root::open(layer).context(|| "open a new layer")?;
    linux::fs::mkdirat(&folder, "diff", Mode::from_raw_mode(0o755)).context(|| "make a new layer")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let recipe = match options.recipe {
        true => {
            Some(linux::fs::openat(&folder, "recipe", flags, Mode::from_raw_mode(0o600)).context(|| "make a recipe")?)
        }
        false => None,
    };
    let recipe = RecipeWriter::new(recipe.map(Into::into)).context(|| "make a recipe")?;
    let diff = folder.open_dir("diff").context(|| "open a new layer")?;
    let owner = files::owner(options.rootless).context(|| "ask for the own user and mask")?;
    std::thread::scope(|scope| {
        let mut applier = Applier {
            what,
            limits: &options.limits,
            owner,
            folder: folder.into_fd(),
            dirs: Dirs::new(diff),
            files: Files::start(scope, options.workers, owner),
            hash: RandomState::new(),
            seen: HashSet::new(),
            pending: HashSet::new(),
            marked: HashSet::new(),
            moved: Vec::new(),
            dirs_done_last: Vec::new(),
            dirs_bytes: 0,
            unpacked: Unpacked::default(),
        };
        let mut tar = Reader::with_observer(tar, recipe);
        let result = applier.run(&mut tar);
        // The workers end in any case; the first error is the one to tell.
        let (files, mut rest) = applier.split();
        let result = result.and(files.finish());
        result?;
        rest.note_implicit();
        rest.finish_dirs()?;
        let recipe = tar.into_observer();
        recipe.finish().context(|| "write a recipe")?;
        if !rest.moved.is_empty() {
            recipe::save_moved(&rest.folder, &rest.moved)?;
        }
        Ok(rest.unpacked)
    })
}

struct Applier<'a, 'scope> {
    what: &'a str,
    limits: &'a Limits,
    owner: Owner,
    folder: OwnedFd,
    dirs: Dirs,
    files: Files<'scope>,
    hash: RandomState,
    /// Places (directory and name) where a member has put something.
    seen: HashSet<u64>,
    /// Places whose file may still be in the making.
    pending: HashSet<u64>,
    /// Directories (by inode) that are marked as having whiteouts.
    marked: HashSet<u64>,
    moved: Vec<Moved>,
    dirs_done_last: Vec<Entry>,
    dirs_bytes: usize,
    unpacked: Unpacked,
}

impl<'scope> Applier<'_, 'scope> {
    fn split(self) -> (Files<'scope>, Rest) {
        let Applier { files, owner, folder, dirs, moved, dirs_done_last, unpacked, .. } = self;
        (files, Rest { owner, folder, dirs, moved, dirs_done_last, unpacked })
    }

    fn run<S: Source>(&mut self, tar: &mut Reader<S, RecipeWriter>) -> Result<()> {
        while let Some(entry) = tar.next_entry().map_err(|e| self.tar_error(e))? {
            self.unpacked.entries += 1;
            if self.unpacked.entries > self.limits.layer_entries {
                return Err(Error::limit(self.what, format!("more than {} entries", self.limits.layer_entries)));
            }
            self.files.check()?;
            self.apply(entry, tar)?;
        }
        Ok(())
    }

    fn apply<S: Source>(&mut self, mut entry: Entry, tar: &mut Reader<S, RecipeWriter>) -> Result<()> {
        let path = std::mem::take(&mut entry.path);
        let effect = effect(&path).map_err(|detail| self.refuse(&path, detail))?;
        entry.path = path.clone();
        self.filter_xattrs(&mut entry)?;
        match effect {
            Effect::Ignored => Ok(()),
            Effect::Root if entry.kind == Kind::Dir => self.later(entry),
            Effect::Root => Err(self.refuse(&path, "the root must be a directory")),
            Effect::Opaque { dir } => {
                let dir = self.dir(&dir, &entry)?;
                self.set_opaque(&*dir).context(|| describe(&entry))
            }
            Effect::Whiteout { dir, name } => {
                let dir = self.dir(&dir, &entry)?;
                self.whiteout(&dir, name).context(|| describe(&entry))
            }
            Effect::Put { dir, name } => {
                let dir = self.dir(&dir, &entry)?;
                self.put(&dir, name, entry, tar)
            }
        }
    }

    fn put<S: Source>(
        &mut self,
        dir: &Arc<Dir>,
        name: &[u8],
        entry: Entry,
        tar: &mut Reader<S, RecipeWriter>,
    ) -> Result<()> {
        let place = self.place(dir, name);
        let mut replaces_whiteout = false;
        if !self.seen.insert(place) {
            let keep_dir = entry.kind == Kind::Dir;
            self.barrier()?;
            replaces_whiteout = self.clear(dir, name, keep_dir, tar.observer()).context(|| describe(&entry))?;
        }
        let os_name = OsStr::from_bytes(name);
        let mode = Mode::from_raw_mode(entry.mode);
        match &entry.kind {
            Kind::File(_) => return self.file(dir, name, place, entry, tar),
            Kind::Dir => {
                // Its final mode might forbid what is still to be put into it.
                match linux::fs::mkdirat(dir, os_name, Mode::from_raw_mode(0o700)) {
                    Err(e) if e.is(Errno::EXIST) => {}
                    other => other.context(|| describe(&entry))?,
                }
                if replaces_whiteout {
                    let made = linux::tree::open_dir(dir, os_name).context(|| describe(&entry))?;
                    self.set_opaque(made).context(|| describe(&entry))?;
                }
                return self.later(entry);
            }
            Kind::HardLink(target) => return self.hard_link(dir, name, target, &entry),
            Kind::Symlink(target) => {
                let target = Path::new(OsStr::from_bytes(target));
                linux::fs::symlinkat(target, dir, os_name).context(|| describe(&entry))?;
            }
            Kind::Char { major: 0, minor: 0 } => {
                return Err(self.refuse(&entry.path, "a device 0:0 would be a whiteout"));
            }
            Kind::Char { .. } | Kind::Block { .. } if self.owner.rootless => {
                return Err(Error::Unsupported(format!(
                    "{}: a device node needs root: {:?}",
                    self.what,
                    String::from_utf8_lossy(&entry.path)
                )));
            }
            Kind::Char { major, minor } => {
                linux::fs::mknodat(dir, os_name, FileType::CharacterDevice, mode, *major, *minor)
                    .context(|| describe(&entry))?;
            }
            Kind::Block { major, minor } => {
                linux::fs::mknodat(dir, os_name, FileType::BlockDevice, mode, *major, *minor)
                    .context(|| describe(&entry))?;
            }
            Kind::Fifo => {
                linux::fs::mknodat(dir, os_name, FileType::Fifo, mode, 0, 0).context(|| describe(&entry))?;
            }
        }
        special_metadata(dir, os_name, &entry, self.owner).context(|| describe(&entry))
    }

    fn file<S: Source>(
        &mut self,
        dir: &Arc<Dir>,
        name: &[u8],
        place: u64,
        entry: Entry,
        tar: &mut Reader<S, RecipeWriter>,
    ) -> Result<()> {
        let Kind::File(data) = &entry.kind else { return Ok(()) };
        let stored = data.stored;
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(stored);
        if self.unpacked.bytes > self.limits.layer_bytes && !vocab::weak::without("limits") {
            return Err(Error::limit(self.what, format!("more than {} bytes unpacked", self.limits.layer_bytes)));
        }
        if tar.observer().wanted() {
            let path = dir.join(name);
            for (offset, len) in data.pieces() {
                tar.observer().file(&path, offset, len).context(|| "write a recipe")?;
            }
        }
        self.pending.insert(place);
        let mut chunks: Vec<Chunk> = Vec::new();
        if stored <= SMALL_BYTES {
            while let Some(chunk) = tar.data().map_err(|e| self.tar_error(e))? {
                chunks.push(chunk);
            }
            self.files.whole(dir.clone(), name, entry, chunks, tar.offset());
            return Ok(());
        }
        let worker = self.files.begin(dir.clone(), name, entry);
        while let Some(chunk) = tar.data().map_err(|e| self.tar_error(e))? {
            self.files.more(worker, chunk);
            self.files.check()?;
        }
        self.files.done(worker);
        Ok(())
    }

    fn hard_link(&mut self, dir: &Arc<Dir>, name: &[u8], target: &[u8], entry: &Entry) -> Result<()> {
        let mut target_dir =
            parts(target).map_err(|detail| self.refuse(&entry.path, format!("link target: {detail}")))?;
        let Some(target_name) = target_dir.pop() else {
            return Err(self.refuse(&entry.path, "a hard link to the root"));
        };
        let Some(holder) = self.dirs.get(&target_dir).context(|| describe(entry))? else {
            return self.foreign_link(dir.join(name), target);
        };
        if self.pending.contains(&self.place(&holder, target_name)) {
            self.barrier()?;
        }
        let (target_name, os_name) = (OsStr::from_bytes(target_name), OsStr::from_bytes(name));
        match linux::fs::lstatat(&holder, target_name) {
            Err(e) if e.is(Errno::NOENT) => return self.foreign_link(dir.join(name), target),
            Ok(stat) if is_whiteout(&stat) => return Err(self.refuse(&entry.path, "a hard link to a whiteout")),
            Ok(stat) if linux::fs::file_type(&stat) == FileType::Directory => {
                return Err(self.refuse(&entry.path, "a hard link to a directory"));
            }
            other => other.context(|| describe(entry))?,
        };
        linux::fs::linkat(&holder, target_name, dir, os_name).context(|| describe(entry))
    }

    fn foreign_link(&mut self, path: Vec<u8>, target: &[u8]) -> Result<()> {
        self.remember(path.len() + target.len())?;
        self.unpacked.foreign_links.push((path, target.to_vec()));
        Ok(())
    }

    /// Hides `name` of the layers below. What this layer itself has at that name stays, whatever the order of the members.
    fn whiteout(&mut self, dir: &Arc<Dir>, name: &[u8]) -> linux::Result<()> {
        let place = self.place(dir, name);
        let os_name = OsStr::from_bytes(name);
        if !self.seen.insert(place) {
            if self.pending.contains(&place) {
                // A file: it hides what is below by itself.
                return Ok(());
            }
            match linux::fs::lstatat(dir, os_name) {
                Ok(stat) if linux::fs::file_type(&stat) == FileType::Directory => {
                    return self.set_opaque(linux::tree::open_dir(dir, os_name)?);
                }
                Ok(_) => return Ok(()),
                Err(e) if e.is(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        linux::fs::mknodat(dir, os_name, FileType::CharacterDevice, Mode::from_raw_mode(0o600), 0, 0)?;
        if self.marked.insert(dir.inode) {
            // Where nothing below is merged with the directory, overlay shows its whiteouts as names that cannot be opened, unless it
            // takes the directory for one that was merged once: that is what this attribute, even empty, says.
            let name = if self.owner.rootless { "user.overlay.origin" } else { "trusted.overlay.origin" };
            linux::xattr::set(&**dir, name, b"")?;
        }
        Ok(())
    }

    fn set_opaque(&self, dir: impl AsFd) -> linux::Result<()> {
        if vocab::weak::without("opaque") {
            return Ok(());
        }
        let name = if self.owner.rootless { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        linux::xattr::set(dir, name, b"y")
    }

    /// The directory at `parts`, made if missing. From the deepest part that is there downwards, never by recursion: the
    /// depth is the archive's choice.
    fn dir(&mut self, parts: &[&[u8]], entry: &Entry) -> Result<Arc<Dir>> {
        let mut have = parts.len();
        let mut dir = loop {
            match self.dirs.get(&parts[..have]) {
                // A whiteout that the directory takes the place of, or something that it may not.
                Err(e) if e.is(Errno::NOTDIR) => {}
                other => {
                    if let Some(dir) = other.context(|| describe(entry))? {
                        break dir;
                    }
                }
            }
            have = have.checked_sub(1).ok_or_else(|| Error::Damaged("a layer lost its root".into()))?;
        };
        while have < parts.len() {
            self.implicit_dir(&dir, parts[have], entry)?;
            have += 1;
            dir = self.dirs.get(&parts[..have]).context(|| describe(entry))?.ok_or_else(|| {
                Error::Damaged(format!("{}: a directory just made is not there", String::from_utf8_lossy(&entry.path)))
            })?;
        }
        Ok(dir)
    }

    /// Makes a directory that no member has described so far.
    fn implicit_dir(&mut self, parent: &Arc<Dir>, name: &[u8], entry: &Entry) -> Result<()> {
        let place = self.place(parent, name);
        if self.pending.contains(&place) {
            self.barrier()?;
        }
        let os_name = OsStr::from_bytes(name);
        let mut was_whiteout = false;
        if !self.seen.insert(place) {
            // A whiteout, or a link that leads nowhere.
            match linux::fs::lstatat(parent, os_name) {
                Ok(stat) if is_whiteout(&stat) => {
                    linux::fs::unlinkat(parent, os_name).context(|| describe(entry))?;
                    was_whiteout = true;
                }
                Ok(_) => return Err(self.refuse(&entry.path, "a part of the path is no directory")),
                Err(e) if e.is(Errno::NOENT) => {}
                Err(e) => return Err(e).context(|| describe(entry)),
            }
        }
        linux::fs::mkdirat(parent, os_name, Mode::from_raw_mode(IMPLICIT_MODE)).context(|| describe(entry))?;
        if was_whiteout {
            let made = linux::tree::open_dir(parent, os_name).context(|| describe(entry))?;
            return self.set_opaque(made).context(|| describe(entry));
        }
        let path = parent.join(name);
        self.remember(path.len())?;
        self.unpacked.implicit_dirs.push(path);
        Ok(())
    }

    /// Makes room for a new thing at a name; true if there was a whiteout. What is replaced moves beside the layer while the
    /// recipe may still need it.
    fn clear(&mut self, dir: &Arc<Dir>, name: &[u8], keep_dir: bool, recipe: &RecipeWriter) -> linux::Result<bool> {
        let os_name = OsStr::from_bytes(name);
        let stat = match linux::fs::lstatat(dir, os_name) {
            Err(e) if e.is(Errno::NOENT) => return Ok(false),
            other => other?,
        };
        let kind = linux::fs::file_type(&stat);
        if is_whiteout(&stat) {
            linux::fs::unlinkat(dir, os_name)?;
            return Ok(true);
        }
        if kind == FileType::Directory && keep_dir {
            return Ok(false);
        }
        self.dirs.forget();
        if !recipe.wanted() || !matches!(kind, FileType::Directory | FileType::RegularFile) {
            linux::tree::remove_all(dir, os_name)?;
            return Ok(false);
        }
        if self.moved.is_empty() {
            linux::fs::mkdirat(&self.folder, "moved", Mode::from_raw_mode(0o700))?;
        }
        let number = self.moved.len() as u32;
        let store = linux::tree::open_dir(&self.folder, "moved")?;
        linux::fs::renameat(dir, os_name, store, number.to_string(), linux::fs::RenameFlags::NOREPLACE)?;
        self.moved.push(Moved { path: dir.join(name), before_piece: recipe.pieces(), number });
        Ok(false)
    }

    /// Keeps a directory's metadata for the end.
    fn later(&mut self, entry: Entry) -> Result<()> {
        let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.remember(entry.path.len() + attributes)?;
        self.dirs_done_last.push(entry);
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<()> {
        self.dirs_bytes += bytes + 100;
        if self.dirs_bytes > DIRS_BYTES_MAX {
            return Err(Error::limit(self.what, "too many directories"));
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<()> {
        self.pending.clear();
        self.files.barrier()
    }

    fn place(&self, dir: &Dir, name: &[u8]) -> u64 {
        self.hash.hash_one((dir.inode, name))
    }

    fn filter_xattrs(&self, entry: &mut Entry) -> Result<()> {
        let refused = entry.xattrs.iter().find(|(name, _)| xattr_rule(name) == XattrRule::Refuse);
        if let Some((name, _)) = refused {
            let detail = format!("attribute {} is overlay's own", String::from_utf8_lossy(name));
            return Err(self.refuse(&entry.path, detail));
        }
        entry.xattrs.retain(|(name, _)| xattr_rule(name) == XattrRule::Set);
        Ok(())
    }

    fn refuse(&self, path: &[u8], detail: impl Into<String>) -> Error {
        self.tar_error(TarError::entry(path, detail))
    }

    fn tar_error(&self, source: TarError) -> Error {
        Error::Tar { what: self.what.to_owned(), source }
    }
}
