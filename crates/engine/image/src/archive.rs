//! Copying into and out of a tree (`docker cp`): a path inside a root that somebody else may be changing at this moment. Every
//! path is resolved in-root to a descriptor, and everything is done by that descriptor or by one name in it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags, Root, Stat};
use linux::idmap::{self, IdMaps};
use vocab::Digest;

use crate::chunk::{Pool, ReadSource, Source};
use crate::error::{Context, Error, Result};
use crate::layer::{is_whiteout, set_xattrs, times};
use crate::pack::Packer;
use crate::store::read_head;
use crate::tar::path::{XattrRule, parts, xattr_rule};
use crate::tar::{Entry, Kind, Reader, TarError, Time};

const BUFFERS: usize = 16;

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathFacts {
    /// Last component of the path that was asked for; `/` for the root, `.` where the path says "what is in it".
    pub name: String,
    pub size_bytes: u64,
    /// Type and permission bits as the kernel has them (`st_mode`).
    pub mode: u32,
    pub mtime: Time,
    /// For a symbolic link: where it points.
    pub link_target: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Refuse to put a file where a directory is, or the reverse, instead of replacing it.
    pub no_overwrite_dir_non_dir: bool,
    /// Give everything to this user and group instead of the archive's.
    pub owner: Option<(u32, u32)>,
    /// Device nodes cannot be made.
    pub rootless: bool,
}

/// A path as Docker takes it: links above the last component are followed, and the last one too if a slash follows it.
struct Target<'a> {
    path: &'a Path,
    name: String,
    follow: bool,
}

impl<'a> Target<'a> {
    fn new(path: &'a Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let follow = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        let name = match path.file_name() {
            // `cp box:/data/. here` copies what is in the directory: clients put their own name in the place of `.`.
            _ if bytes.ends_with(b"/.") => ".".to_owned(),
            Some(name) => name.to_string_lossy().into_owned(),
            None => "/".to_owned(),
        };
        Self { path, name, follow }
    }

    fn open(&self, root: &Root) -> Result<OwnedFd> {
        let nofollow = if self.follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let path = if self.path == Path::new("") { Path::new("/") } else { self.path };
        root.open_file(path, nofollow, Mode::empty()).context(|| format!("look at {}", self.path.display()))
    }
}

/// Looks at `path` inside `root`.
pub fn stat(root: &Root, path: &Path) -> Result<PathFacts> {
    let target = Target::new(path);
    let fd = target.open(root)?;
    let stat = linux::fs::fstat(&fd).context(|| format!("look at {}", path.display()))?;
    let link_target = match linux::fs::file_type(&stat) {
        FileType::Symlink => Some(linux::fs::readlinkat(&fd, "").context(|| format!("read {}", path.display()))?),
        _ => None,
    };
    Ok(PathFacts {
        name: target.name,
        size_bytes: stat.st_size as u64,
        mode: stat.st_mode,
        mtime: Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        link_target,
    })
}

/// Writes a tar of `path` inside `root`; its members are named from the path's last component on.
pub fn pack(root: &Root, path: &Path, output: &mut (dyn Write + Send)) -> Result<()> {
    pack_as(root, path, None, "", output)
}

/// As [`pack`], and as `docker cp` has it: members of the root itself begin with `/`, which clients replace by a name of
/// their own. With `ids` the archive has the ids inside of that user namespace.
pub fn pack_of(root: &Root, path: &Path, ids: Option<&IdMaps>, output: &mut (dyn Write + Send)) -> Result<()> {
    pack_as(root, path, ids, "/", output)
}

fn pack_as(
    root: &Root,
    path: &Path,
    ids: Option<&IdMaps>,
    name_of_root: &str,
    output: &mut (dyn Write + Send),
) -> Result<()> {
    let target = Target::new(path);
    let fd = target.open(root)?;
    let what = || format!("pack {}", path.display());
    let stat = linux::fs::fstat(&fd).context(what)?;
    let mut packer = Packer::new(std::io::BufWriter::with_capacity(128 << 10, output)).with_ids(ids.cloned());
    if linux::fs::file_type(&stat) == FileType::Directory {
        let dir = linux::fs::reopen(&fd, OFlags::RDONLY | OFlags::DIRECTORY).context(what)?;
        let name = if target.name == "/" { name_of_root.to_owned() } else { target.name }.into_bytes();
        crate::deep::walk(|| packer.tree(&dir, &name, &stat)).context(what)??;
    } else {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let (parent, name) = match root.parent(path) {
            // The link was followed: the file is somewhere else than its name says.
            Ok(_) if target.follow => return Err(Error::invalid(path.display(), "not a directory")),
            Ok(found) => found,
            Err(source) => return Err(Error::Kernel { what: format!("open {}", parent.display()), source }),
        };
        packer.put(&parent, &name, target.name.as_bytes(), &stat)?;
    }
    let stream = |source| Error::Stream { what: "write the archive", source };
    packer.finish()?.flush().map_err(stream)
}

/// Unpacks a tar (plain, gzip, zstd, xz or bzip2) into the directory `path` inside `root`. What is there already is replaced, except
/// that directories are merged.
pub fn unpack(root: &Root, path: &Path, input: &mut (dyn Read + Send), options: &UnpackOptions) -> Result<()> {
    unpack_onto(root, path, input, options, None, None)
}

/// As [`unpack`]; with `ids` the archive's ids are those inside of that user namespace, whose root the caller has to make files as.
pub fn unpack_of(
    root: &Root,
    path: &Path,
    ids: Option<&IdMaps>,
    input: &mut (dyn Read + Send),
    options: &UnpackOptions,
) -> Result<()> {
    unpack_onto(root, path, input, options, ids, None)
}

/// Unpacks a tar over what an earlier one left in `root`, so that nothing else is in it afterwards. A file of which `known`
/// says that it holds the same bytes stays as it is. Returns the bytes of all files.
pub fn renew(
    root: &Root,
    input: &mut (dyn Read + Send),
    options: &UnpackOptions,
    known: &dyn Fn(&Stat) -> Option<Digest>,
) -> Result<u64> {
    let mut over = Over { known, told: HashMap::new(), told_bytes: 0, file_bytes: 0 };
    unpack_onto(root, Path::new("/"), input, options, None, Some(&mut over))?;
    let top = root.open_dir("/").context(|| "look at what was unpacked".to_owned())?;
    let what = || "remove files of an earlier archive".to_owned();
    let told = over.told;
    crate::deep::walk(|| remove_rest(&told, &top, &mut Vec::new())).context(what)??;
    Ok(over.file_bytes)
}

/// Longest file that is compared with what is there before it is written, bytes.
const COMPARED_BYTES_MAX: u64 = 1 << 20;
/// Memory for what an archive has told of, bytes.
const TOLD_BYTES_MAX: usize = 256 << 20;

/// What is unpacked over something.
struct Over<'k> {
    known: &'k dyn Fn(&Stat) -> Option<Digest>,
    /// Paths that the archive has, and whether it says what they are: directories above its members may stand in it or not.
    told: HashMap<Vec<u8>, bool>,
    told_bytes: usize,
    file_bytes: u64,
}

impl Over<'_> {
    fn tell(&mut self, entry: &Entry) -> Result<()> {
        if let Kind::File(data) = &entry.kind {
            self.file_bytes += data.size;
        }
        let parts = parts(&entry.path).map_err(|detail| refuse(entry, &detail))?;
        for above in 1..parts.len() {
            self.note(parts[..above].join(&b'/'), false)?;
        }
        if parts.is_empty() { Ok(()) } else { self.note(parts.join(&b'/'), true) }
    }

    fn note(&mut self, path: Vec<u8>, said: bool) -> Result<()> {
        self.told_bytes += path.len() + 64;
        match self.told.entry(path) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                self.told_bytes -= known.key().len() + 64;
                *known.get_mut() |= said;
            }
            std::collections::hash_map::Entry::Vacant(place) => drop(place.insert(said)),
        }
        if self.told_bytes > TOLD_BYTES_MAX {
            return Err(Error::limit("archive", "too many members"));
        }
        Ok(())
    }
}

/// Removes what `told` does not have.
fn remove_rest(told: &HashMap<Vec<u8>, bool>, dir: &OwnedFd, path: &mut Vec<u8>) -> Result<()> {
    let what = |path: &[u8]| format!("tidy {:?}", String::from_utf8_lossy(path));
    for entry in linux::tree::entries(dir).context(|| what(path))? {
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(entry.name.as_bytes());
        match told.get(path.as_slice()) {
            None => linux::tree::remove_all(dir, &entry.name).context(|| what(path))?,
            Some(said) => {
                if let Ok(child) = linux::tree::open_dir(dir, &entry.name) {
                    if !said {
                        linux::fs::fchmod(&child, Mode::from_raw_mode(0o755)).context(|| what(path))?;
                    }
                    remove_rest(told, &child, path)?;
                }
            }
        }
        path.truncate(length);
    }
    Ok(())
}

fn unpack_onto(
    root: &Root,
    path: &Path,
    input: &mut (dyn Read + Send),
    options: &UnpackOptions,
    ids: Option<&IdMaps>,
    mut over: Option<&mut Over<'_>>,
) -> Result<()> {
    let what = || format!("open {}", path.display());
    let fd = root.open_path(if path == Path::new("") { Path::new("/") } else { path }).context(what)?;
    if linux::fs::file_type(&linux::fs::fstat(&fd).context(what)?) != FileType::Directory {
        return Err(Error::invalid(path.display(), "extraction point is not a directory"));
    }
    // Names in the archive are below this directory; links in it lead where they lead inside the whole root.
    let base = Path::new("/").join(path);
    let stream = |source| Error::Stream { what: "read the archive", source };
    let head = read_head(input).map_err(stream)?;
    if head.is_empty() {
        return Ok(());
    }
    let input = crate::inflate::inflate(head, input).map_err(stream)?;
    let input = input.ok_or_else(|| Error::invalid("archive", "neither a tar nor a compressed tar"))?;
    let mut tar = Reader::new(ReadSource::new(input, Pool::new(BUFFERS)));
    let mut dirs: Vec<Entry> = Vec::new();
    let mut dirs_bytes = 0;
    while let Some(mut entry) = tar.next_entry().map_err(tar_error)? {
        if let Some((uid, gid)) = options.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let Some(ids) = ids {
            let (uid, gid) = (idmap::outside(&ids.uid, entry.uid), idmap::outside(&ids.gid, entry.gid));
            let unknown = || refuse(&entry, &format!("{}:{} is outside of the user namespace", entry.uid, entry.gid));
            (entry.uid, entry.gid) = uid.zip(gid).ok_or_else(unknown)?;
        }
        if entry.xattrs.iter().any(|(name, _)| xattr_rule(name) == XattrRule::Refuse) {
            return Err(refuse(&entry, "an attribute of overlay's own"));
        }
        entry.xattrs.retain(|(name, _)| xattr_rule(name) == XattrRule::Set);
        if let Some(over) = &mut over {
            over.tell(&entry)?;
        }
        let is_dir = entry.kind == Kind::Dir;
        if put(root, &base, &entry, &mut tar, options, over.as_deref())? && is_dir {
            dirs_bytes += entry.path.len() + 200;
            if dirs_bytes > 48 << 20 {
                return Err(Error::limit("archive", "too many directories"));
            }
            dirs.push(entry);
        }
    }
    for entry in dirs {
        let what = || format!("unpack {:?}", String::from_utf8_lossy(&entry.path));
        let (dir, name) = place(root, &base, &entry)?.ok_or_else(|| refuse(&entry, "no name"))?;
        match linux::tree::open_dir(&dir, &name) {
            Ok(fd) => metadata(&fd, &entry).context(what)?,
            Err(e) if e.is(Errno::NOTDIR) || e.is(Errno::NOENT) || e.is(Errno::LOOP) => {}
            Err(e) => return Err(e).context(what),
        }
    }
    Ok(())
}

/// The directory (in-root, made if missing) and the name of an entry; `None` for the extraction point itself.
fn place(root: &Root, base: &Path, entry: &Entry) -> Result<Option<(OwnedFd, std::ffi::OsString)>> {
    let parts = parts(&entry.path).map_err(|detail| refuse(entry, &detail))?;
    let Some((name, above)) = parts.split_last() else { return Ok(None) };
    let dir = base.join(OsStr::from_bytes(&above.join(&b'/')));
    let fd = root
        .mkdir_all(&dir, Mode::from_raw_mode(0o755))
        .context(|| format!("unpack {:?}", String::from_utf8_lossy(&entry.path)))?;
    Ok(Some((fd, OsStr::from_bytes(name).to_owned())))
}

/// False if nothing was to be done.
fn put<S: Source>(
    root: &Root,
    base: &Path,
    entry: &Entry,
    tar: &mut Reader<S>,
    options: &UnpackOptions,
    over: Option<&Over<'_>>,
) -> Result<bool> {
    let what = || format!("unpack {:?}", String::from_utf8_lossy(&entry.path));
    let Some((dir, name)) = place(root, base, entry)? else { return Ok(false) };
    // The payload, where it had to be read to be compared.
    let mut read = None;
    if let Some(old) = existing(&dir, &name).context(what)? {
        if let (Some(over), Kind::File(data)) = (over, &entry.kind)
            && looks_like(&old, entry, data)
            && let Some(digest) = (over.known)(&old)
        {
            let mut bytes = Vec::with_capacity(data.size as usize);
            while let Some(chunk) = tar.data().map_err(tar_error)? {
                bytes.extend_from_slice(&chunk);
            }
            if crate::hash::sha256(&bytes) == digest {
                return Ok(true);
            }
            read = Some(bytes);
        }
        let (was_dir, is_dir) = (linux::fs::file_type(&old) == FileType::Directory, entry.kind == Kind::Dir);
        let shown = name.to_string_lossy();
        if options.no_overwrite_dir_non_dir && was_dir && !is_dir {
            return Err(refuse(entry, &format!("cannot overwrite directory {shown:?} with non-directory {shown:?}")));
        }
        if options.no_overwrite_dir_non_dir && !was_dir && is_dir {
            return Err(refuse(entry, &format!("cannot overwrite non-directory {shown:?} with directory {shown:?}")));
        }
        if was_dir && is_dir {
            return Ok(true);
        }
        linux::tree::remove_all(&dir, &name).context(what)?;
    }
    let mode = Mode::from_raw_mode(entry.mode);
    match &entry.kind {
        Kind::Dir => linux::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o700)).context(what)?,
        Kind::File(data) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let file = File::from(linux::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o600)).context(what)?);
            let disk = |source| Error::Disk { what: what(), source };
            match read {
                Some(bytes) => (&file).write_all(&bytes).map_err(disk)?,
                None => write(&file, data, tar).map_err(|e| e.unwrap_or_else(disk))?,
            }
            metadata(&file, entry).context(what)?;
        }
        Kind::Symlink(to) => {
            linux::fs::symlinkat(Path::new(OsStr::from_bytes(to)), &dir, &name).context(what)?;
        }
        Kind::HardLink(to) => {
            let other = Entry { path: to.clone(), ..entry.clone() };
            let (other_dir, other_name) = place(root, base, &other)?.ok_or_else(|| refuse(entry, "bad link target"))?;
            linux::fs::linkat(&other_dir, &other_name, &dir, &name).context(what)?;
        }
        Kind::Char { .. } | Kind::Block { .. } if options.rootless => {
            return Err(refuse(entry, "a device node needs root"));
        }
        Kind::Char { major: 0, minor: 0 } => return Err(refuse(entry, "a device 0:0 would be a whiteout")),
        Kind::Char { major, minor } => {
            linux::fs::mknodat(&dir, &name, FileType::CharacterDevice, mode, *major, *minor).context(what)?;
        }
        Kind::Block { major, minor } => {
            linux::fs::mknodat(&dir, &name, FileType::BlockDevice, mode, *major, *minor).context(what)?;
        }
        Kind::Fifo => linux::fs::mknodat(&dir, &name, FileType::Fifo, mode, 0, 0).context(what)?,
    }
    if !matches!(entry.kind, Kind::Dir | Kind::File(_) | Kind::HardLink(_)) {
        linux::fs::chownat(&dir, &name, entry.uid, entry.gid).context(what)?;
        if !matches!(entry.kind, Kind::Symlink(_)) {
            linux::fs::chmodat(&dir, &name, mode).context(what)?;
        }
        linux::fs::utimensat(&dir, &name, &times(entry.mtime)).context(what)?;
    }
    Ok(true)
}

/// Whether a file may be what the entry is, as far as can be told without reading either.
fn looks_like(old: &Stat, entry: &Entry, data: &crate::tar::FileData) -> bool {
    linux::fs::file_type(old) == FileType::RegularFile
        && old.st_nlink == 1
        && data.sparse.is_none()
        && data.size <= COMPARED_BYTES_MAX
        && old.st_size as u64 == data.size
        && old.st_mode & 0o7777 == entry.mode & 0o7777
        && (old.st_mtime, old.st_mtime_nsec as u32) == (entry.mtime.secs, entry.mtime.nanos)
        && (old.st_uid, old.st_gid) == (entry.uid, entry.gid)
        && entry.xattrs.is_empty()
}

fn existing(dir: &OwnedFd, name: &OsStr) -> linux::Result<Option<Stat>> {
    match linux::fs::lstatat(dir, name) {
        Ok(stat) if is_whiteout(&stat) => Ok(None),
        Ok(stat) => Ok(Some(stat)),
        Err(e) if e.is(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The payload into the file, holes left where the archive has them. The inner error is the disk's.
fn write<S: Source>(
    file: &File,
    data: &crate::tar::FileData,
    tar: &mut Reader<S>,
) -> std::result::Result<(), std::result::Result<Error, std::io::Error>> {
    use std::os::unix::fs::FileExt;
    let all = [crate::tar::Extent { offset: 0, len: data.stored }];
    let mut extents = data.sparse.as_deref().unwrap_or(&all).iter();
    let (mut at, mut left) = (0, 0);
    while let Some(mut chunk) = tar.data().map_err(|e| Ok(tar_error(e)))? {
        while !chunk.is_empty() {
            if left == 0 {
                let Some(extent) = extents.next() else { break };
                (at, left) = (extent.offset, extent.len);
                continue;
            }
            let part = chunk.split_to(usize::try_from(left).unwrap_or(usize::MAX));
            file.write_all_at(&part, at).map_err(Err)?;
            (at, left) = (at + part.len() as u64, left - part.len() as u64);
        }
    }
    if data.sparse.is_some() { file.set_len(data.size).map_err(Err) } else { Ok(()) }
}

fn metadata(fd: &impl std::os::fd::AsFd, entry: &Entry) -> linux::Result<()> {
    linux::fs::fchown(fd, entry.uid, entry.gid)?;
    linux::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    set_xattrs(fd, entry)?;
    linux::fs::futimens(fd, &times(entry.mtime))
}

fn refuse(entry: &Entry, detail: &str) -> Error {
    tar_error(TarError::entry(&entry.path, detail))
}

fn tar_error(source: TarError) -> Error {
    Error::Tar { what: "archive".into(), source }
}
