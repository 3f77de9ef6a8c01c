//! This side of a copy: a tree into a tar, and a tar from a container into a tree.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use image::chunk::{Pool, ReadSource};
use image::tar::{Entry, FileData, Kind, Reader, Time, Writer, path};
use linux::fs::{FileType, Mode, OFlags, Root, Timespec, Timestamps};

use super::decide::Landing;

pub(super) struct Here {
    pub is_directory: bool,
}

/// What a local path is, links followed; nothing if it is not there.
pub(super) fn stat(path: &Path) -> Option<Here> {
    fs::metadata(path).ok().map(|data| Here { is_directory: data.is_dir() })
}

/// Writes the tree at `root` as a tar whose first component is `name`.
pub(super) fn pack(root: &Path, name: &str, follow: bool, out: impl Write) -> io::Result<()> {
    let mut writer = Writer::new(io::BufWriter::with_capacity(256 << 10, out));
    let root = if follow { fs::canonicalize(root)? } else { root.to_owned() };
    add(&mut writer, &root, name.as_bytes(), &|_, _| true)?;
    writer.finish()?.flush()
}

/// Writes what is in the folder `root` as a tar, but for what `wanted` (name, whether it is a directory) does not want.
pub(in crate::commands) fn pack_contents(
    root: &Path,
    wanted: &dyn Fn(&str, bool) -> bool,
    out: impl Write,
) -> io::Result<()> {
    let mut writer = Writer::new(io::BufWriter::with_capacity(256 << 10, out));
    for name in names(root)? {
        add(&mut writer, &root.join(&name), name.as_bytes(), wanted)?;
    }
    writer.finish()?.flush()
}

fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

fn add(
    writer: &mut Writer<impl Write>,
    from: &Path,
    name: &[u8],
    wanted: &dyn Fn(&str, bool) -> bool,
) -> io::Result<()> {
    let data = fs::symlink_metadata(from)?;
    let kind = data.file_type();
    if !wanted(&String::from_utf8_lossy(name), kind.is_dir()) {
        return Ok(());
    }
    let (major, minor) = (rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev()));
    let kind = if kind.is_dir() {
        Kind::Dir
    } else if kind.is_file() {
        Kind::File(FileData::plain(data.len()))
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(from)?.into_os_string().into_vec())
    } else if kind.is_char_device() {
        Kind::Char { major, minor }
    } else if kind.is_block_device() {
        Kind::Block { major, minor }
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        // A socket means nothing without the process behind it.
        return Ok(());
    };
    let entry = Entry {
        path: name.to_vec(),
        mode: data.mode() & 0o7777,
        uid: data.uid(),
        gid: data.gid(),
        mtime: Time { secs: data.mtime(), nanos: data.mtime_nsec() as u32 },
        xattrs: Vec::new(),
        kind,
    };
    writer.entry(&entry)?;
    match entry.kind {
        Kind::File(_) => send_file(writer, from, data.len()),
        Kind::Dir => {
            for below in names(from)? {
                let inside = [name, b"/", below.as_bytes()].concat();
                add(writer, &from.join(&below), &inside, wanted)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Exactly as many bytes as the header promised: a file that changes meanwhile is an error, never a broken archive.
fn send_file(writer: &mut Writer<impl Write>, from: &Path, length: u64) -> io::Result<()> {
    let mut file = fs::File::open(from)?.take(length);
    let mut buffer = vec![0; 256 << 10];
    let mut sent = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        writer.data(&buffer[..count])?;
        sent += count as u64;
    }
    if sent == length {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} became shorter while it was read", from.display())))
    }
}

/// Unpacks an archive from a container beneath `landing.folder`; the first component of every name becomes `landing.name`.
pub(super) fn unpack(archive: impl Read, landing: &Landing, owner: bool) -> Result<(), String> {
    let root = Root::open(&landing.folder).map_err(|error| error.to_string())?;
    let mut reader = Reader::new(ReadSource::new(archive, Pool::new(4)));
    // A directory's mode and time are set last: what is put into it would change the time, and a mode may forbid putting.
    let mut directories: Vec<(PathBuf, Entry)> = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? {
        let Some(name) = renamed(&entry.path, &landing.name)? else { continue };
        let fail = |error: linux::Error| format!("{}: {error}", Path::new(&landing.folder).join(&name).display());
        match &entry.kind {
            Kind::Dir => {
                root.mkdir_all(&name, Mode::from_raw_mode(0o700)).map_err(fail)?;
                directories.push((name.clone(), entry));
                continue;
            }
            Kind::File(data) => {
                if data.sparse.is_some() {
                    return Err(format!("{}: a sparse member, which no engine sends", name.display()));
                }
                replace(&root, &name).map_err(fail)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = root.open_file(&name, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
                let mut file = fs::File::from(file);
                io::copy(&mut reader.reader(), &mut file).map_err(|error| format!("{}: {error}", name.display()))?;
                finish(&file, &entry, owner).map_err(fail)?;
                continue;
            }
            Kind::Symlink(target) => {
                replace(&root, &name).map_err(fail)?;
                root.symlink(Path::new(OsStr::from_bytes(target)), &name).map_err(fail)?;
            }
            Kind::HardLink(target) => {
                let Some(target) = renamed(target, &landing.name)? else { continue };
                replace(&root, &name).map_err(fail)?;
                root.link(&target, &name).map_err(fail)?;
            }
            Kind::Char { major, minor } => {
                node(&root, &name, FileType::CharacterDevice, &entry, *major, *minor).map_err(fail)?
            }
            Kind::Block { major, minor } => {
                node(&root, &name, FileType::BlockDevice, &entry, *major, *minor).map_err(fail)?
            }
            Kind::Fifo => node(&root, &name, FileType::Fifo, &entry, 0, 0).map_err(fail)?,
        }
    }
    for (name, entry) in directories.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = root.open_file(name, flags, Mode::empty()).map_err(|error| error.to_string())?;
        finish(&directory, entry, owner).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The name that an entry gets; nothing for the entry that is the destination folder itself.
fn renamed(name: &[u8], first: &str) -> Result<Option<PathBuf>, String> {
    let parts = path::parts(name)?;
    let Some((_, rest)) = parts.split_first() else { return Ok(None) };
    let mut out = PathBuf::new();
    if first != "." {
        out.push(first);
    }
    out.extend(rest.iter().map(|part| OsStr::from_bytes(part)));
    Ok(if out.as_os_str().is_empty() { None } else { Some(out) })
}

/// Makes room: what is there is removed unless it is a directory, which a file never replaces.
fn replace(root: &Root, name: &Path) -> linux::Result<()> {
    match root.lstat(name) {
        Ok(stat) if linux::fs::file_type(&stat) != FileType::Directory => root.unlink(name),
        _ => Ok(()),
    }
}

fn node(root: &Root, name: &Path, kind: FileType, entry: &Entry, major: u32, minor: u32) -> linux::Result<()> {
    replace(root, name)?;
    root.mknod(name, kind, Mode::from_raw_mode(entry.mode), major, minor)
}

/// Owner (if asked for), mode and time, in that order: a change of owner takes set-id bits away.
fn finish(fd: impl std::os::fd::AsFd, entry: &Entry, owner: bool) -> linux::Result<()> {
    let fd = fd.as_fd();
    if owner {
        linux::fs::fchown(fd, entry.uid, entry.gid)?;
    }
    linux::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    let time = Timespec { tv_sec: entry.mtime.secs, tv_nsec: entry.mtime.nanos.into() };
    linux::fs::futimens(fd, &Timestamps { last_access: time, last_modification: time })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("knarr-cp-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_tree_survives_the_way_there_and_back() {
        let top = tree("round");
        let from = top.join("from");
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/a"), "hello").unwrap();
        std::os::unix::fs::symlink("sub/a", from.join("link")).unwrap();
        let mut tar = Vec::new();
        pack(&from, "other", false, &mut tar).unwrap();
        let landing = Landing { folder: top.to_string_lossy().into_owned(), name: "new".into() };
        unpack(&tar[..], &landing, false).unwrap();
        assert_eq!(fs::read_to_string(top.join("new/link")).unwrap(), "hello");
        let content = Landing { folder: top.to_string_lossy().into_owned(), name: ".".into() };
        unpack(&tar[..], &content, false).unwrap();
        assert_eq!(fs::read_to_string(top.join("sub/a")).unwrap(), "hello");
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn nothing_lands_outside_the_destination() {
        let top = tree("escape");
        let (inside, outside) = (top.join("in"), top.join("out"));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let entry = |path: &str, kind| Entry {
            path: path.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        };
        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry("x/link", Kind::Symlink(outside.as_os_str().as_bytes().to_vec()))).unwrap();
        writer.entry(&entry("x/link/evil", Kind::File(FileData::plain(1)))).unwrap();
        writer.data(b"!").unwrap();
        let tar = writer.finish().unwrap();
        let landing = Landing { folder: inside.to_string_lossy().into_owned(), name: "x".into() };
        // In-root the link leads to a folder that is not there.
        assert!(unpack(&tar[..], &landing, false).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);

        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry("x/../../evil", Kind::Dir)).unwrap();
        let tar = writer.finish().unwrap();
        assert!(unpack(&tar[..], &landing, false).unwrap_err().contains(".."));
        fs::remove_dir_all(&top).unwrap();
    }
}
