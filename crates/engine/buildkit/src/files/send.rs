//! A tree of ours to the client: entries first, then the files that it asks for.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use linux::fs::{FileType, Mode, OFlags, Root};
use tokio::sync::mpsc;

use super::{Result, TransferError};
use crate::wire::fsutil::{Kind, Packet, Stat, mode};

const CHUNK_BYTES: usize = 32 << 10;
const DEPTH_MAX: usize = 4096;

/// Sends everything below `root`. Blocking; ends when the client has what it wants.
pub(crate) fn send_tree(
    root: &Root,
    requests: &mut mpsc::Receiver<Packet>,
    packets: &mpsc::Sender<Packet>,
) -> Result<()> {
    let mut walk = Walk { packets, files: HashMap::new(), links: HashMap::new(), next: 0 };
    let top = root.open_dir(".").map_err(at("."))?;
    walk.directory(top.as_fd(), "", 0)?;
    say(packets, Packet::of(Kind::Stat))?;
    loop {
        let packet = requests.blocking_recv().ok_or(TransferError::Gone)?;
        match Kind::try_from(packet.kind) {
            Ok(Kind::Request) => {
                let unknown = || TransferError::Invalid(format!("a request for file number {}", packet.id));
                let path = walk.files.remove(&packet.id).ok_or_else(unknown)?;
                send_file(root, &path, packet.id, packets)?;
            }
            Ok(Kind::Finish) => return say(packets, Packet::of(Kind::Finish)),
            Ok(Kind::Error) => return Err(TransferError::Sender(String::from_utf8_lossy(&packet.data).into_owned())),
            _ => return Err(TransferError::Invalid("a packet out of turn".into())),
        }
    }
}

fn send_file(root: &Root, path: &str, id: u32, packets: &mpsc::Sender<Packet>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd = root.open_file(path, flags, Mode::empty()).map_err(at(path))?;
    let mut file = std::fs::File::from(fd);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count =
            file.read(&mut buffer).map_err(|source| TransferError::Io { what: format!("read {path}"), source })?;
        let data = bytes::Bytes::copy_from_slice(&buffer[..count]);
        say(packets, Packet { id, data, ..Packet::of(Kind::Data) })?;
        // The empty piece was the end.
        if count == 0 {
            return Ok(());
        }
    }
}

fn say(packets: &mpsc::Sender<Packet>, packet: Packet) -> Result<()> {
    packets.blocking_send(packet).map_err(|_| TransferError::Gone)
}

struct Walk<'w> {
    packets: &'w mpsc::Sender<Packet>,
    files: HashMap<u32, String>,
    /// First path of each file that has several.
    links: HashMap<(u64, u64), String>,
    next: u32,
}

impl Walk<'_> {
    fn directory(&mut self, dir: BorrowedFd<'_>, below: &str, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(TransferError::Invalid(format!("directories that nest deeper than {DEPTH_MAX}")));
        }
        let mut entries = linux::tree::entries(dir).map_err(at(below))?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let name = entry.name.to_str().ok_or_else(|| {
                TransferError::Invalid(format!("a name that is not UTF-8 cannot be sent: {:?}", entry.name))
            })?;
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            let facts = linux::fs::lstatat(dir, name).map_err(at(&path))?;
            let kind = linux::fs::file_type(&facts);
            if kind == FileType::Socket {
                continue;
            }
            let mut stat = stat_of(&path, &facts);
            match kind {
                FileType::RegularFile => self.file(dir, name, &facts, &mut stat)?,
                FileType::Symlink => {
                    let target = linux::fs::readlinkat(dir, name).map_err(at(&path))?;
                    stat.linkname = target.to_string_lossy().into_owned();
                }
                _ => {}
            }
            self.next += 1;
            say(self.packets, Packet { stat: Some(stat), ..Packet::of(Kind::Stat) })?;
            if kind == FileType::Directory {
                let child = linux::tree::open_dir(dir, name).map_err(at(&path))?;
                self.directory(child.as_fd(), &path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &str, facts: &linux::fs::Stat, stat: &mut Stat) -> Result<()> {
        if facts.st_nlink > 1 {
            match self.links.get(&(facts.st_dev, facts.st_ino)) {
                Some(first) => {
                    stat.linkname = first.clone();
                    return Ok(());
                }
                None => drop(self.links.insert((facts.st_dev, facts.st_ino), stat.path.clone())),
            }
        }
        stat.size = facts.st_size;
        self.files.insert(self.next, stat.path.clone());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = linux::fs::openat(dir, name, flags, Mode::empty()).map_err(at(&stat.path))?;
        for name in linux::xattr::list(&fd).map_err(at(&stat.path))? {
            let Some(name) = name.to_str().filter(|n| n.starts_with("user.") || *n == "security.capability") else {
                continue;
            };
            if let Some(value) = linux::xattr::get(&fd, name).map_err(at(&stat.path))? {
                stat.xattrs.insert(name.to_owned(), value.into());
            }
        }
        Ok(())
    }
}

/// What an entry is, except where a link leads and what is in a file.
pub(crate) fn stat_of(path: &str, facts: &linux::fs::Stat) -> Stat {
    let (major, minor) = linux::fs::device_numbers(facts);
    let device = matches!(linux::fs::file_type(facts), FileType::BlockDevice | FileType::CharacterDevice);
    Stat {
        path: path.to_owned(),
        mode: mode::of_kernel(facts.st_mode),
        uid: facts.st_uid,
        gid: facts.st_gid,
        mtime: facts.st_mtime * 1_000_000_000 + facts.st_mtime_nsec as i64,
        devmajor: if device { i64::from(major) } else { 0 },
        devminor: if device { i64::from(minor) } else { 0 },
        ..Stat::default()
    }
}

fn at(path: &str) -> impl FnOnce(linux::Error) -> TransferError {
    let path = path.to_owned();
    move |source| TransferError::Kernel { path, source }
}
