//! Putting into a folder what a client tells and sends. The folder is ours alone while this runs; every path is one that
//! [`Tree`] let through, so its directories are directories that were made here.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use linux::fs::{FileType, Mode, OFlags, Root};
use tokio::sync::mpsc;

use super::tree::{Changes, Kind, Telling, Tree, kind};
use super::{Result, TransferError};
use crate::wire::fsutil::{self, Packet, Stat, mode};

/// Files that are asked for before the first of them has come.
const WINDOW: usize = 128;

/// The two directions of a transfer, as a thread sees them.
pub(crate) struct Wire {
    pub(crate) packets: mpsc::Receiver<Packet>,
    pub(crate) replies: mpsc::UnboundedSender<Packet>,
}

impl Wire {
    fn next(&mut self) -> Result<Packet> {
        let packet = self.packets.blocking_recv().ok_or(TransferError::Gone)?;
        if packet.kind == fsutil::Kind::Error as i32 {
            return Err(TransferError::Sender(String::from_utf8_lossy(&packet.data).into_owned()));
        }
        Ok(packet)
    }

    fn say(&self, packet: Packet) -> Result<()> {
        self.replies.send(packet).map_err(|_| TransferError::Gone)
    }
}

/// Makes `root`, which holds `old`, what the client has. Blocking. `before_change` is called once, before the first change;
/// where there was none, nothing but owners differs from `old`.
pub(crate) fn receive(
    root: &Root,
    old: Tree,
    wire: &mut Wire,
    before_change: impl FnOnce() -> Result<()>,
) -> Result<Tree> {
    let tree = hear(wire)?;
    let changes = tree.changes(&old);
    drop(old);
    if !changes.is_empty() {
        before_change()?;
        Work { root, tree: &tree, open: HashMap::new(), parent: None, touched: BTreeSet::new() }.run(&changes, wire)?;
    }
    wire.say(Packet::of(fsutil::Kind::Finish))?;
    // A client that does not say its last word may not have sent its last file.
    while wire.next()?.kind != fsutil::Kind::Finish as i32 {}
    Ok(tree)
}

/// The whole tree, as the client tells it before it sends anything.
fn hear(wire: &mut Wire) -> Result<Tree> {
    let mut telling = Telling::default();
    loop {
        let packet = wire.next()?;
        match (fsutil::Kind::try_from(packet.kind), packet.stat) {
            (Ok(fsutil::Kind::Stat), Some(stat)) => telling.add(&stat)?,
            (Ok(fsutil::Kind::Stat), None) => return Ok(telling.finish()),
            _ => return Err(TransferError::Invalid("data that nobody asked for".into())),
        }
    }
}

struct Work<'w> {
    root: &'w Root,
    tree: &'w Tree,
    /// Files that were asked for and have not come to their end.
    open: HashMap<u32, (File, Stat)>,
    /// The directory of the last entry: the next one is likely to be in it too.
    parent: Option<(String, OwnedFd)>,
    /// Directories whose times our own doing has changed.
    touched: BTreeSet<String>,
}

impl Work<'_> {
    fn run(mut self, changes: &Changes, wire: &mut Wire) -> Result<()> {
        for path in &changes.remove {
            self.touch(path);
            let (dir, name) = self.root.parent(path).at(path)?;
            linux::tree::remove_all(&dir, &name).at(path)?;
        }
        let mut left = changes.make.iter();
        loop {
            while self.open.len() < WINDOW
                && let Some(at) = left.next()
            {
                if let Some(file) = self.make(*at)? {
                    self.open.insert(*at as u32, file);
                    wire.say(Packet { id: *at as u32, ..Packet::of(fsutil::Kind::Request) })?;
                }
            }
            if self.open.is_empty() {
                break;
            }
            self.take(wire.next()?)?;
        }
        self.directories(changes)
    }

    /// Makes an entry; a file whose content must come is returned open.
    fn make(&mut self, at: usize) -> Result<Option<(File, Stat)>> {
        let stat = self.tree.entry(at);
        let path = stat.path.as_str();
        let kind = kind(&stat).expect("checked when it was told");
        self.touch(path);
        let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
        let root = self.root;
        let dir = self.directory(path)?;
        let permissions = Mode::from_raw_mode(mode::permissions(stat.mode));
        if kind == Kind::Directory {
            match linux::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
                Err(error) if error.is(linux::Errno::EXIST) => {}
                made => made.at(path)?,
            }
            linux::fs::chmodat(dir, name, permissions).at(path)?;
            return Ok(None);
        }
        match linux::fs::unlinkat(dir, name) {
            Err(error) if error.is(linux::Errno::NOENT) => {}
            removed => removed.at(path)?,
        }
        let device = (stat.devmajor as u32, stat.devminor as u32);
        match kind {
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = File::from(linux::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).at(path)?);
                if stat.size > 0 {
                    return Ok(Some((file, stat)));
                }
                finish(&file, &stat)?;
            }
            Kind::HardLink => root.link(&stat.linkname, path).at(path)?,
            Kind::Symlink => {
                linux::fs::symlinkat(&stat.linkname, dir, name).at(path)?;
                linux::fs::utimensat(dir, name, &times(&stat)).at(path)?;
            }
            Kind::Pipe => linux::fs::mknodat(dir, name, FileType::Fifo, permissions, 0, 0).at(path)?,
            Kind::Block => {
                linux::fs::mknodat(dir, name, FileType::BlockDevice, permissions, device.0, device.1).at(path)?;
            }
            Kind::Character => {
                linux::fs::mknodat(dir, name, FileType::CharacterDevice, permissions, device.0, device.1).at(path)?;
            }
            Kind::Directory => unreachable!("made above"),
        }
        Ok(None)
    }

    /// A piece of a file, or its end.
    fn take(&mut self, packet: Packet) -> Result<()> {
        if packet.kind != fsutil::Kind::Data as i32 {
            return Err(TransferError::Invalid("something else than the data that was asked for".into()));
        }
        let unasked = || TransferError::Invalid(format!("file number {} that nobody asked for", packet.id));
        if packet.data.is_empty() {
            let (file, stat) = self.open.remove(&packet.id).ok_or_else(unasked)?;
            return finish(&file, &stat);
        }
        let (file, stat) = self.open.get_mut(&packet.id).ok_or_else(unasked)?;
        file.write_all(&packet.data)
            .map_err(|source| TransferError::Io { what: format!("write {}", stat.path), source })
    }

    /// Times of directories, when nothing in them changes any more.
    fn directories(mut self, changes: &Changes) -> Result<()> {
        for at in &changes.make {
            let stat = self.tree.entry(*at);
            if kind(&stat) == Some(Kind::Directory) {
                self.touched.insert(stat.path);
            }
        }
        // Each is set after everything below it: the deeper ones have the greater names.
        for stat in self.touched.iter().rev().filter_map(|path| Some(self.tree.entry(self.tree.find(path)?))) {
            let (dir, name) = self.root.parent(&stat.path).at(&stat.path)?;
            linux::fs::utimensat(&dir, &name, &times(&stat)).at(&stat.path)?;
        }
        Ok(())
    }

    fn touch(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.touched.contains(parent)
        {
            self.touched.insert(parent.to_owned());
        }
    }

    fn directory(&mut self, path: &str) -> Result<&OwnedFd> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let place = if parent.is_empty() { "." } else { parent };
            self.parent = Some((parent.to_owned(), self.root.open_dir(place).at(path)?));
        }
        Ok(&self.parent.as_ref().expect("set above").1)
    }
}

/// A file that has all of its bytes gets the rest of what it is.
fn finish(file: &File, stat: &Stat) -> Result<()> {
    for (name, value) in &stat.xattrs {
        // Others speak of the client's machine: its security modules and overlays.
        if name.starts_with("user.") || name == "security.capability" {
            linux::xattr::set(file.as_fd(), name, value).at(&stat.path)?;
        }
    }
    linux::fs::fchmod(file, Mode::from_raw_mode(mode::permissions(stat.mode))).at(&stat.path)?;
    linux::fs::futimens(file, &times(stat)).at(&stat.path)
}

fn times(stat: &Stat) -> linux::fs::Timestamps {
    let (secs, nanos) = (stat.mtime.div_euclid(1_000_000_000), stat.mtime.rem_euclid(1_000_000_000));
    let time = linux::fs::Timespec { tv_sec: secs, tv_nsec: nanos };
    linux::fs::Timestamps { last_access: time, last_modification: time }
}

trait At<T> {
    fn at(self, path: &str) -> Result<T>;
}

impl<T> At<T> for linux::Result<T> {
    fn at(self, path: &str) -> Result<T> {
        self.map_err(|source| TransferError::Kernel { path: path.to_owned(), source })
    }
}
