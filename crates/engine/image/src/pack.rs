//! From directories to a tar: exported trees, committed layers, copied paths. Members come in the order of their names, so
//! that the same tree always gives the same bytes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags, Stat};
use linux::idmap::{self, IdMaps};

use crate::error::{Context, Error, Result};
use crate::layer::is_whiteout;
use crate::model::{Change, ChangeKind};
use crate::tar::path::{XattrRule, xattr_rule};
use crate::tar::{Entry, Extent, FileData, Kind, Time, Writer};
use crate::union::{Child, DEPTH_MAX, Node, Union, is_opaque};

/// Holes are kept when they save at least this much.
const HOLES_BYTES_MIN: u64 = 1 << 20;

/// Packs what it is shown, one thing at a time.
pub(crate) struct Packer<W: Write> {
    writer: Writer<W>,
    /// Where in the archive a file with several names was put first.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    /// Of the user namespace whose ids the archive has.
    ids: Option<IdMaps>,
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { writer: Writer::new(out), links: HashMap::new(), buffer: vec![0; 128 << 10], ids: None }
    }

    pub(crate) fn with_ids(self, ids: Option<IdMaps>) -> Self {
        Self { ids, ..self }
    }

    /// Who has a file, as the archive says it.
    fn owner(&self, stat: &Stat) -> (u32, u32) {
        let Some(ids) = &self.ids else { return (stat.st_uid, stat.st_gid) };
        let seen = |spans, id| idmap::inside(spans, id).unwrap_or(idmap::OVERFLOW);
        (seen(&ids.uid, stat.st_uid), seen(&ids.gid, stat.st_gid))
    }

    pub(crate) fn finish(self) -> Result<W> {
        self.writer.finish().map_err(stream)
    }

    /// A marker of a layer: an empty file.
    fn marker(&mut self, path: Vec<u8>) -> Result<()> {
        let kind = Kind::File(FileData::plain(0));
        let entry = Entry { path, kind, mode: 0, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() };
        self.writer.entry(&entry).map_err(stream)
    }

    /// `name` in `dir`, under `path` in the archive. What vanishes meanwhile is left out; sockets have no place in a tar.
    pub(crate) fn put(&mut self, dir: &OwnedFd, name: &OsStr, path: &[u8], stat: &Stat) -> Result<()> {
        let what = || format!("pack {:?}", String::from_utf8_lossy(path));
        let file_type = linux::fs::file_type(stat);
        if file_type == FileType::Socket {
            return Ok(());
        }
        let flags = match file_type {
            FileType::RegularFile | FileType::Directory => OFlags::RDONLY | OFlags::NONBLOCK,
            _ => OFlags::PATH,
        };
        let fd = match linux::fs::openat(dir, name, flags, Mode::empty()) {
            Err(e) if e.is(Errno::NOENT) => return Ok(()),
            other => other.context(what)?,
        };
        // What is open now counts, not what the name stood for a moment ago.
        let stat = linux::fs::fstat(&fd).context(what)?;
        if linux::fs::file_type(&stat) != file_type {
            return Ok(());
        }
        let id = (stat.st_dev, stat.st_ino);
        let device = || (major(stat.st_rdev), minor(stat.st_rdev));
        let (uid, gid) = self.owner(&stat);
        let mut entry = Entry {
            path: path.to_vec(),
            kind: Kind::Dir,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            // Whole seconds, as in Docker's layers: fractions would cost a block of PAX for each member.
            mtime: Time { secs: stat.st_mtime, nanos: 0 },
            xattrs: Vec::new(),
        };
        if file_type != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&id) {
                entry.kind = Kind::HardLink(first.clone());
                return self.writer.entry(&entry).map_err(stream);
            }
            self.links.insert(id, path.to_vec());
        }
        entry.xattrs = xattrs(&fd).context(what)?;
        entry.kind = match file_type {
            FileType::Directory => Kind::Dir,
            FileType::Symlink => {
                Kind::Symlink(linux::fs::readlinkat(&fd, "").context(what)?.into_os_string().as_bytes().to_vec())
            }
            FileType::CharacterDevice => Kind::Char { major: device().0, minor: device().1 },
            FileType::BlockDevice => Kind::Block { major: device().0, minor: device().1 },
            FileType::Fifo => Kind::Fifo,
            _ => return self.file(fd, entry, &stat),
        };
        self.writer.entry(&entry).map_err(stream)
    }

    fn file(&mut self, fd: OwnedFd, mut entry: Entry, stat: &Stat) -> Result<()> {
        let what = format!("pack {:?}", String::from_utf8_lossy(&entry.path));
        let size = stat.st_size as u64;
        let mut data = FileData::plain(size);
        let holes = size.saturating_sub(stat.st_blocks as u64 * 512) >= HOLES_BYTES_MIN;
        let mut pieces = vec![Extent { offset: 0, len: size }];
        if holes {
            pieces = extents(&fd, size).context(|| &what)?;
            data.stored = pieces.iter().map(|piece| piece.len).sum();
            data.sparse = Some(pieces.clone());
        }
        entry.kind = Kind::File(data);
        self.writer.entry(&entry).map_err(stream)?;
        let mut file = File::from(fd);
        for piece in pieces {
            file.seek(SeekFrom::Start(piece.offset)).context(|| &what)?;
            let mut left = piece.len;
            while left > 0 {
                let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let mut n = match file.read(&mut self.buffer[..want]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    other => other.context(|| &what)?,
                };
                if n == 0 {
                    // It became shorter under us: the rest of what was announced is zeros.
                    self.buffer[..want].fill(0);
                    n = want;
                }
                self.writer.data(&self.buffer[..n]).map_err(stream)?;
                left -= n as u64;
            }
        }
        Ok(())
    }
}

fn stream(source: io::Error) -> Error {
    Error::Stream { what: "write the archive", source }
}

fn major(device: u64) -> u32 {
    (((device >> 8) & 0xfff) | ((device >> 32) & !0xfff)) as u32
}

fn minor(device: u64) -> u32 {
    ((device & 0xff) | ((device >> 12) & !0xff)) as u32
}

/// Attributes that belong to the workload.
fn xattrs(fd: &OwnedFd) -> linux::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in linux::xattr::list(fd)? {
        if xattr_rule(name.as_bytes()) == XattrRule::Set
            && let Some(value) = linux::xattr::get(fd, &name)?
        {
            found.push((name.as_bytes().to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}

fn extents(fd: &OwnedFd, size: u64) -> linux::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(start) = linux::fs::seek_data(fd, at)?.filter(|start| *start < size) else { break };
        let end = linux::fs::seek_hole(fd, start)?.unwrap_or(size).min(size);
        if end <= start {
            break;
        }
        extents.push(Extent { offset: start, len: end - start });
        at = end;
    }
    Ok(extents)
}

fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    match path {
        b"" => name.as_bytes().to_vec(),
        b"/" => [path, name.as_bytes()].concat(),
        _ => [path, b"/", name.as_bytes()].concat(),
    }
}

fn too_deep(path: &[u8]) -> Error {
    Error::limit(format!("{:?}…", String::from_utf8_lossy(&path[..path.len().min(100)])), "the tree is too deep")
}

impl<W: Write> Packer<W> {
    /// A directory and all below it, as `name` and `name/...`; mounts below it included.
    pub(crate) fn tree(&mut self, dir: &OwnedFd, name: &[u8], stat: &Stat) -> Result<()> {
        let shown = if name.is_empty() { b"./" } else { name };
        self.dir_entry(dir, shown, stat)?;
        self.tree_below(dir, name, 0)
    }

    fn tree_below(&mut self, dir: &OwnedFd, path: &[u8], depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(too_deep(path));
        }
        let what = || format!("read {:?}", String::from_utf8_lossy(path));
        let mut names: Vec<_> = linux::tree::entries(dir).context(what)?.into_iter().map(|entry| entry.name).collect();
        names.sort();
        for name in names {
            let below = join(path, &name);
            let stat = match linux::fs::lstatat(dir, &name) {
                Err(e) if e.is(Errno::NOENT) => continue,
                other => other.context(what)?,
            };
            self.put(dir, &name, &below, &stat)?;
            if linux::fs::file_type(&stat) == FileType::Directory {
                match linux::tree::open_dir(dir, &name) {
                    Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) => {}
                    child => self.tree_below(&child.context(what)?, &below, depth + 1)?,
                }
            }
        }
        Ok(())
    }
}

/// The merged tree.
pub(crate) fn pack_union<W: Write>(packer: &mut Packer<W>, union: &Union) -> Result<()> {
    pack_node(packer, union.root(), &[], 0)
}

fn pack_node<W: Write>(packer: &mut Packer<W>, node: &Node, path: &[u8], depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(too_deep(path));
    }
    let what = || format!("read {:?}", String::from_utf8_lossy(path));
    for name in node.names().context(what)? {
        let below = join(path, &name);
        match node.child(&name).context(what)? {
            None => {}
            Some(Child::Leaf { stat, at }) => packer.put(node.dir(at), &name, &below, &stat)?,
            Some(Child::Dir { stat, node: child }) => {
                packer.dir_entry(child.dir(0), &below, &stat)?;
                pack_node(packer, &child, &below, depth + 1)?;
            }
        }
    }
    Ok(())
}

impl<W: Write> Packer<W> {
    /// An open directory; of a merged one, the topmost.
    fn dir_entry(&mut self, dir: &OwnedFd, path: &[u8], stat: &Stat) -> Result<()> {
        let what = || format!("pack {:?}", String::from_utf8_lossy(path));
        let (uid, gid) = self.owner(stat);
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::Dir,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: Time { secs: stat.st_mtime, nanos: 0 },
            xattrs: xattrs(dir).context(what)?,
        };
        self.writer.entry(&entry).map_err(stream)
    }
}

/// A writable layer as a layer's tar: what it hides becomes whiteouts.
pub(crate) fn pack_layer<W: Write>(packer: &mut Packer<W>, upper: &OwnedFd) -> Result<()> {
    pack_upper(packer, upper, &[], 0)
}

fn pack_upper<W: Write>(packer: &mut Packer<W>, dir: &OwnedFd, path: &[u8], depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(too_deep(path));
    }
    let what = || format!("read {:?}", String::from_utf8_lossy(path));
    let mut names: Vec<_> = linux::tree::entries(dir).context(what)?.into_iter().map(|entry| entry.name).collect();
    names.sort();
    for name in names {
        let below = join(path, &name);
        if name.as_bytes().starts_with(b".wh.") {
            let what = format!("commit {:?}", String::from_utf8_lossy(&below));
            return Err(Error::Unsupported(format!("{what}: a name that starts with .wh. would become a whiteout")));
        }
        let stat = match linux::fs::lstatat(dir, &name) {
            Err(e) if e.is(Errno::NOENT) => continue,
            other => other.context(what)?,
        };
        if is_whiteout(&stat) {
            packer.marker(join(path, OsStr::from_bytes(&[b".wh.", name.as_bytes()].concat())))?;
            continue;
        }
        packer.put(dir, &name, &below, &stat)?;
        if linux::fs::file_type(&stat) == FileType::Directory {
            let child = match linux::tree::open_dir(dir, &name) {
                Err(e) if e.is(Errno::NOENT) => continue,
                other => other.context(what)?,
            };
            if is_opaque(&child).context(what)? {
                packer.marker(join(&below, OsStr::new(".wh..wh..opq")))?;
            }
            pack_upper(packer, &child, &below, depth + 1)?;
        }
    }
    Ok(())
}

/// What a writable layer changes of the layers below, in the order of the paths.
pub(crate) fn diff(upper: &OwnedFd, below: &Union) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    diff_dir(upper, Some(below.root()), &[], 0, &mut changes)?;
    changes.sort();
    Ok(changes)
}

fn diff_dir(dir: &OwnedFd, below: Option<&Node>, path: &[u8], depth: usize, changes: &mut Vec<Change>) -> Result<bool> {
    if depth > DEPTH_MAX {
        return Err(too_deep(path));
    }
    let what = || format!("read {:?}", String::from_utf8_lossy(path));
    let opaque = is_opaque(dir).context(what)?;
    let mut names: std::collections::BTreeSet<_> =
        linux::tree::entries(dir).context(what)?.into_iter().map(|entry| entry.name).collect();
    if opaque && let Some(below) = below {
        // A directory that was removed and made again: what is not there again was deleted.
        names.extend(below.names().context(what)?);
    }
    let mut changed = false;
    for name in names {
        let text = join(path, &name);
        let old = match below {
            Some(node) => node.child(&name).context(what)?,
            None => None,
        };
        let new = match linux::fs::lstatat(dir, &name) {
            Err(e) if e.is(Errno::NOENT) => None,
            other => Some(other.context(what)?).filter(|stat| !is_whiteout(stat)),
        };
        let kind = match (&old, &new) {
            (None, None) => continue,
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Deleted,
            (Some(_), Some(_)) => ChangeKind::Changed,
        };
        let mut differs = true;
        if let Some(new) = &new
            && linux::fs::file_type(new) == FileType::Directory
        {
            let child = linux::tree::open_dir(dir, &name).context(what)?;
            let old_node = match &old {
                Some(Child::Dir { node, .. }) => Some(node),
                _ => None,
            };
            let inside = diff_dir(&child, old_node, &text, depth + 1, changes)?;
            if let Some(Child::Dir { stat, .. }) = &old {
                // Overlay copies a directory up for any change below it.
                let same = stat.st_mode == new.st_mode
                    && (stat.st_uid, stat.st_gid) == (new.st_uid, new.st_gid)
                    && (stat.st_mtime, stat.st_mtime_nsec) == (new.st_mtime, new.st_mtime_nsec);
                differs = inside || !same;
            }
        }
        if differs {
            changed = true;
            let path = PathBuf::from(OsStr::from_bytes(&[b"/", &text[..]].concat()));
            changes.push(Change { path, kind });
        }
    }
    Ok(changed)
}
