//! Files by descriptor. A path that a container or an image can influence is resolved beneath a [`Root`], where `..`, absolute
//! links and races cannot lead outside; a single name is acted on beneath the directory that holds it, never following a link.
//! Plain host paths that only the administrator controls may use `std::fs`.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, ResolveFlags};
pub use rustix::fs::{FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::sys;
use crate::{Attempt, Error, Result};

/// Kernel's limit on links in one resolution; ours when we walk by hand.
const LINKS_MAX: usize = 40;
/// `openat2` answers EAGAIN when a rename raced with `..`; more races than this in a row are an attack.
const RACES_MAX: usize = 128;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A directory that acts as `/` for every path given to it: `..` stops there, absolute links start there, magic links
/// (`/proc/*/fd/*`, `/proc/*/root`) are refused with ELOOP.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Opens a directory of the host (follows links: only for paths that the administrator controls). The descriptor is
    /// O_PATH and close-on-exec.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .attempt("open", format_args!("{path:?}, PATH|DIRECTORY"))?;
        Ok(Self { fd })
    }

    /// Takes a directory descriptor as root.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Opens `path` in-root, following links in-root unless NOFOLLOW is given. CLOEXEC is added.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.resolve(path, flags, mode)
            .attempt("openat2", format_args!("root fd {}, {path:?}, {flags:?}, IN_ROOT", self.fd.as_raw_fd()))
    }

    /// O_PATH descriptor of whatever `path` names, links followed in-root.
    pub fn open_path(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open_file(path, OFlags::PATH, Mode::empty())
    }

    /// O_PATH descriptor of a directory, links followed in-root.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open_file(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// A [`Root`] for a directory in this root.
    pub fn sub(&self, path: impl AsRef<Path>) -> Result<Self> {
        self.open_dir(path).map(Self::from_fd)
    }

    /// The directory that holds the last component of `path`, and that component. Links in the directory part are followed
    /// in-root, the last component is not looked at. Errors with EINVAL if there is no last component (`/`, `..`).
    pub fn parent(&self, path: impl AsRef<Path>) -> Result<(OwnedFd, OsString)> {
        let path = path.as_ref();
        let (dir, name) = split(path).attempt("split", format_args!("{path:?}"))?;
        Ok((self.open_dir(dir)?, name.to_owned()))
    }

    /// Metadata of `path`, last link not followed.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let fd = self.open_file(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        fstat(&fd)
    }

    /// Metadata of what `path` leads to in-root.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        fstat(self.open_path(path)?)
    }

    pub fn readlink(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let fd = self.open_file(&path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        readlinkat(fd, "")
    }

    /// The whole of a regular file of at most `limit` bytes; EFBIG if it is longer, EINVAL if it is not a regular file (a FIFO
    /// or device of an image never blocks the reader).
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let fd = self.open_file(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        read_regular(fd, limit, path)
    }

    /// Makes `path` and what is missing above it as directories, one component at a time, and returns the last one (O_PATH).
    /// Existing links are followed in-root, also when what they name does not exist yet. `mode` is subject to the umask.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        match self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => self.walk(path, Make::Dir(mode), mode),
            other => other,
        }
        .attempt("mkdir_all", format_args!("root fd {}, {path:?}, {:o}", self.fd.as_raw_fd(), mode.bits()))
    }

    /// Makes an empty regular file at `path` if nothing is there, with missing directories above it (0755), and returns what is
    /// there as O_PATH. The usual use is a target for a bind mount.
    pub fn ensure_file(&self, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
        let path = path.as_ref();
        match self.resolve(path, OFlags::PATH, Mode::empty()) {
            Err(Errno::NOENT) => self.walk(path, Make::File(mode), Mode::from_raw_mode(0o755)),
            other => other,
        }
        .attempt("ensure_file", format_args!("root fd {}, {path:?}, {:o}", self.fd.as_raw_fd(), mode.bits()))
    }

    pub fn mkdir(&self, path: impl AsRef<Path>, mode: Mode) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        mkdirat(dir, name, mode)
    }

    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        symlinkat(target, dir, name)
    }

    /// Hard link `new` to `old`; neither last component is followed.
    pub fn link(&self, old: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
        let (old_dir, old_name) = self.parent(old)?;
        let (new_dir, new_name) = self.parent(new)?;
        linkat(old_dir, old_name, new_dir, new_name)
    }

    /// A device, FIFO, socket or empty regular file. `mode` is subject to the umask.
    pub fn mknod(&self, path: impl AsRef<Path>, kind: FileType, mode: Mode, major: u32, minor: u32) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        mknodat(dir, name, kind, mode, major, minor)
    }

    pub fn rename(&self, old: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
        let (old_dir, old_name) = self.parent(old)?;
        let (new_dir, new_name) = self.parent(new)?;
        renameat(old_dir, old_name, new_dir, new_name, RenameFlags::empty())
    }

    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        unlinkat(dir, name)
    }

    pub fn rmdir(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        rmdirat(dir, name)
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> std::result::Result<OwnedFd, Errno> {
        // `openat2` refuses an empty path; here it means the root itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        for _ in 0..RACES_MAX {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, IN_ROOT) {
                Err(Errno::AGAIN | Errno::INTR) => continue,
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Resolves by hand, making what is missing. Every step opens one name beneath a held directory without following links, and
    /// `..` goes back to a directory already visited, so no step can leave the root.
    fn walk(&self, path: &Path, last: Make, dir_mode: Mode) -> std::result::Result<OwnedFd, Errno> {
        let mut todo: VecDeque<OsString> = components(path.as_os_str());
        let mut visited: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        let mut file: Option<OwnedFd> = None;
        while let Some(name) = todo.pop_front() {
            if file.is_some() {
                return Err(Errno::NOTDIR);
            }
            if name == ".." {
                visited.pop();
                continue;
            }
            let cur = visited.last().unwrap_or(&self.fd);
            let found = match rustix::fs::openat(
                cur,
                &name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            ) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    let made = match (&last, todo.is_empty()) {
                        (Make::File(mode), true) => rustix::fs::openat(
                            cur,
                            &name,
                            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC,
                            *mode,
                        )
                        .map(drop),
                        (Make::Dir(mode), true) => rustix::fs::mkdirat(cur, &name, *mode),
                        _ => rustix::fs::mkdirat(cur, &name, dir_mode),
                    };
                    match made {
                        // Somebody else made it in between: look at what it is.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    links += 1;
                    if links > RACES_MAX {
                        return Err(Errno::AGAIN);
                    }
                    todo.push_front(name);
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            match file_type(&rustix::fs::fstat(&found)?) {
                FileType::Directory => visited.push(found),
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
                    if target.as_bytes().first() == Some(&b'/') {
                        visited.clear();
                    }
                    for part in components(OsStr::from_bytes(target.as_bytes())).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                _ => file = Some(found),
            }
        }
        match (file, last) {
            (Some(_), Make::Dir(_)) => Err(Errno::NOTDIR),
            (Some(fd), Make::File(_)) => Ok(fd),
            (None, _) => match visited.pop() {
                Some(fd) => Ok(fd),
                None => rustix::io::fcntl_dupfd_cloexec(&self.fd, 3),
            },
        }
    }
}

enum Make {
    Dir(Mode),
    File(Mode),
}

fn components(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsStr::from_bytes(part).to_owned())
        .collect()
}

/// `a/b/c/` is (`a/b`, `c`). EINVAL where the last component is none (`/`, `.`, `..`).
fn split(path: &Path) -> std::result::Result<(&Path, &OsStr), Errno> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|b| *b != b'/').ok_or(Errno::INVAL)? + 1;
    let bytes = &bytes[..end];
    let (dir, name) = match bytes.iter().rposition(|b| *b == b'/') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&bytes[..0], bytes),
    };
    if name == b"." || name == b".." {
        return Err(Errno::INVAL);
    }
    Ok((Path::new(OsStr::from_bytes(dir)), OsStr::from_bytes(name)))
}

/// A name for the calls below: exactly one component. EINVAL otherwise, so that a name from an archive cannot be a path.
fn single(name: &OsStr) -> std::result::Result<&OsStr, Errno> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    Ok(name)
}

macro_rules! at {
    ($dir:expr, $name:expr, $call:literal, |$d:ident, $n:ident| $body:expr) => {{
        let ($d, $n) = ($dir.as_fd(), $name.as_ref());
        single($n).and_then(|$n| $body).attempt($call, format_args!("fd {}, {:?}", $d.as_raw_fd(), $n))
    }};
}

pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub fn fstat(fd: impl AsFd) -> Result<Stat> {
    rustix::fs::fstat(&fd).attempt("fstat", format_args!("fd {}", fd.as_fd().as_raw_fd()))
}

/// Metadata of one name in a directory, link not followed.
pub fn lstatat(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<Stat> {
    at!(dir, name, "newfstatat", |d, n| rustix::fs::statat(d, n, AtFlags::SYMLINK_NOFOLLOW))
}

/// Opens one name in a directory without following a link. CLOEXEC is added.
pub fn openat(dir: impl AsFd, name: impl AsRef<OsStr>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    at!(dir, name, "openat", |d, n| rustix::fs::openat(d, n, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode))
}

pub fn mkdirat(dir: impl AsFd, name: impl AsRef<OsStr>, mode: Mode) -> Result<()> {
    at!(dir, name, "mkdirat", |d, n| rustix::fs::mkdirat(d, n, mode))
}

pub fn unlinkat(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    at!(dir, name, "unlinkat", |d, n| rustix::fs::unlinkat(d, n, AtFlags::empty()))
}

pub fn rmdirat(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    at!(dir, name, "unlinkat", |d, n| rustix::fs::unlinkat(d, n, AtFlags::REMOVEDIR))
}

pub fn mknodat(
    dir: impl AsFd,
    name: impl AsRef<OsStr>,
    kind: FileType,
    mode: Mode,
    major: u32,
    minor: u32,
) -> Result<()> {
    let dev = rustix::fs::makedev(major, minor);
    at!(dir, name, "mknodat", |d, n| rustix::fs::mknodat(d, n, kind, mode, dev))
}

/// `target` is stored as it is, not resolved.
pub fn symlinkat(target: impl AsRef<Path>, dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    at!(dir, name, "symlinkat", |d, n| rustix::fs::symlinkat(target.as_ref(), d, n))
}

pub fn linkat(
    old_dir: impl AsFd,
    old_name: impl AsRef<OsStr>,
    new_dir: impl AsFd,
    new_name: impl AsRef<OsStr>,
) -> Result<()> {
    let (old_dir, old) = (old_dir.as_fd(), old_name.as_ref());
    let (new_dir, new) = (new_dir.as_fd(), new_name.as_ref());
    single(old)
        .and_then(|_| single(new))
        .and_then(|_| rustix::fs::linkat(old_dir, old, new_dir, new, AtFlags::empty()))
        .attempt("linkat", format_args!("fd {}, {old:?}, fd {}, {new:?}", old_dir.as_raw_fd(), new_dir.as_raw_fd()))
}

/// Gives an open (or O_TMPFILE) file a name. Uses `/proc/self/fd`, so it needs no capability.
pub fn link_fd(fd: impl AsFd, dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let from = proc_fd(fd.as_fd());
    at!(dir, name, "linkat", |d, n| rustix::fs::linkat(CWD, &from, d, n, AtFlags::SYMLINK_FOLLOW))
}

pub fn renameat(
    old_dir: impl AsFd,
    old_name: impl AsRef<OsStr>,
    new_dir: impl AsFd,
    new_name: impl AsRef<OsStr>,
    flags: RenameFlags,
) -> Result<()> {
    let (old_dir, old) = (old_dir.as_fd(), old_name.as_ref());
    let (new_dir, new) = (new_dir.as_fd(), new_name.as_ref());
    single(old)
        .and_then(|_| single(new))
        .and_then(|_| rustix::fs::renameat_with(old_dir, old, new_dir, new, flags))
        .attempt(
            "renameat2",
            format_args!("fd {}, {old:?}, fd {}, {new:?}, {flags:?}", old_dir.as_raw_fd(), new_dir.as_raw_fd()),
        )
}

/// The text of a link. An empty name reads the link that `dir` itself is (O_PATH|O_NOFOLLOW).
pub fn readlinkat(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<PathBuf> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    rustix::fs::readlinkat(dir, name, Vec::new())
        .map(|text| PathBuf::from(OsString::from_vec(text.into_bytes())))
        .attempt("readlinkat", format_args!("fd {}, {name:?}", dir.as_raw_fd()))
}

/// Owner and group of one name, link not followed.
pub fn chownat(dir: impl AsFd, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> Result<()> {
    use rustix::fs::{Gid, Uid};
    at!(dir, name, "fchownat", |d, n| rustix::fs::chownat(
        d,
        n,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW
    ))
}

/// Owner and group of an open file (O_PATH too).
pub fn fchown(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    use rustix::fs::{Gid, Uid};
    rustix::fs::chownat(&fd, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
        .attempt("fchownat", format_args!("fd {}, {uid}:{gid}, EMPTY_PATH", fd.as_fd().as_raw_fd()))
}

/// Permission bits of one name, link not followed: a link answers EOPNOTSUPP. Includes set-id and sticky bits.
pub fn chmodat(dir: impl AsFd, name: impl AsRef<OsStr>, mode: Mode) -> Result<()> {
    at!(dir, name, "fchmodat2", |d, n| match fchmodat2(d, n, mode, libc::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::NOSYS) => {
            let fd = rustix::fs::openat(d, n, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            chmod_path_fd(fd.as_fd(), mode)
        }
        other => other,
    })
}

/// Permission bits of an open file (O_PATH too).
pub fn fchmod(fd: impl AsFd, mode: Mode) -> Result<()> {
    let fd = fd.as_fd();
    match rustix::fs::fchmod(fd, mode) {
        Err(Errno::BADF) => match fchmodat2(fd, OsStr::new(""), mode, libc::AT_EMPTY_PATH) {
            Err(Errno::NOSYS) => chmod_path_fd(fd, mode),
            other => other,
        },
        other => other,
    }
    .attempt("fchmod", format_args!("fd {}, {:o}", fd.as_raw_fd(), mode.bits()))
}

fn fchmodat2(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode, flags: i32) -> std::result::Result<(), Errno> {
    let name = sys::c_path(Path::new(name))?;
    // SAFETY: `name` is a NUL-terminated string that lives across the call; the kernel only reads it.
    let ret = unsafe { libc::syscall(libc::SYS_fchmodat2, dir.as_raw_fd(), name.as_ptr(), mode.bits(), flags) };
    sys::check(ret).map(drop)
}

/// Before Linux 6.6: through the magic link, which must not be done to a symbolic link.
fn chmod_path_fd(fd: BorrowedFd<'_>, mode: Mode) -> std::result::Result<(), Errno> {
    if file_type(&rustix::fs::fstat(fd)?) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    rustix::fs::chmodat(CWD, proc_fd(fd), mode, AtFlags::empty())
}

/// Access and modification time of one name, link not followed.
pub fn utimensat(dir: impl AsFd, name: impl AsRef<OsStr>, times: &Timestamps) -> Result<()> {
    at!(dir, name, "utimensat", |d, n| rustix::fs::utimensat(d, n, times, AtFlags::SYMLINK_NOFOLLOW))
}

pub fn futimens(fd: impl AsFd, times: &Timestamps) -> Result<()> {
    rustix::fs::futimens(&fd, times).attempt("futimens", format_args!("fd {}", fd.as_fd().as_raw_fd()))
}

/// Opens a path of the host that only the administrator controls; links are followed. CLOEXEC is added.
pub fn open_host(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    let path = path.as_ref();
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).attempt("open", format_args!("{path:?}, {flags:?}"))
}

/// Opens a regular file of the host to be read. `None`: there is none, or something else has its place: a link leads elsewhere, and a pipe
/// would be waited for.
pub fn open_regular(path: &Path) -> std::io::Result<Option<std::fs::File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        other => std::fs::File::from(other?),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Another descriptor of the same open file, close-on-exec.
pub fn dup(fd: impl AsFd) -> Result<OwnedFd> {
    let fd = fd.as_fd();
    rustix::io::fcntl_dupfd_cloexec(fd, 3).attempt("fcntl", format_args!("fd {}, F_DUPFD_CLOEXEC", fd.as_raw_fd()))
}

/// A readable descriptor of the directory that `dir` (O_PATH, or a detached mount) refers to.
pub fn reopen_dir(dir: impl AsFd) -> Result<OwnedFd> {
    let dir = dir.as_fd();
    rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt("openat", format_args!("fd {}, \".\"", dir.as_raw_fd()))
}

/// Major and minor number of the device that a device node stands for.
pub fn device_numbers(stat: &Stat) -> (u32, u32) {
    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}

/// Bytes of the file system that `path` is on, and how many of them are free for others than root.
pub fn space(path: impl AsRef<Path>) -> Result<(u64, u64)> {
    let path = path.as_ref();
    let stat = rustix::fs::statvfs(path).attempt("statvfs", format_args!("{path:?}"))?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// True if the file lives in a devpts, whatever its name says.
pub fn is_devpts(fd: impl AsFd) -> Result<bool> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    let stat = rustix::fs::fstatfs(&fd).attempt("fstatfs", format_args!("fd {}", fd.as_fd().as_raw_fd()))?;
    Ok(stat.f_type as i64 == DEVPTS_SUPER_MAGIC)
}

/// Whether the caller (by its real ids, as exec will be asked) may execute the regular file at `path`: EACCES if not, EISDIR for a
/// directory. Resolved in the caller's own root.
pub fn check_executable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let run = || {
        if FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode) == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
    };
    run().attempt("access", format_args!("{path:?}, X_OK"))
}

/// Opens again what a descriptor (typically O_PATH) refers to, through `/proc/self/fd`. CLOEXEC is added.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    let path = proc_fd(fd.as_fd());
    rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).attempt("open", format_args!("{path:?}, {flags:?}"))
}

/// `/proc/self/fd/N`: a path to hand to old interfaces that know no descriptors.
pub fn proc_fd(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Reads a whole regular file of at most `limit` bytes; `what` appears in errors.
pub fn read_regular(fd: OwnedFd, limit: u64, what: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    if file_type(&fstat(&fd)?) != FileType::RegularFile {
        return Err(Error::new("read", format_args!("{what:?}, not a regular file"), Errno::INVAL));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .attempt("read", format_args!("{what:?}"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new("read", format_args!("{what:?}, more than {limit} bytes"), Errno::FBIG));
    }
    Ok(bytes)
}

/// Durable: data, metadata and everything else of the file system that holds `fd`.
pub fn syncfs(fd: impl AsFd) -> Result<()> {
    rustix::fs::syncfs(&fd).attempt("syncfs", format_args!("fd {}", fd.as_fd().as_raw_fd()))
}

/// Tells the file system that what is in this directory does not belong together: directories made in it are placed far from each other
/// (ext4's `T` attribute). An error where it has no such hint.
pub fn spread_directories(dir: impl AsFd) -> Result<()> {
    let dir = dir.as_fd();
    rustix::fs::ioctl_getflags(dir)
        .and_then(|flags| rustix::fs::ioctl_setflags(dir, flags | rustix::fs::IFlags::TOPDIR))
        .attempt("ioctl", format_args!("fd {}, FS_IOC_SETFLAGS, TOPDIR", dir.as_raw_fd()))
}

/// Reserves `len` bytes at `offset` without changing the file's length.
pub fn reserve(fd: impl AsFd, offset: u64, len: u64) -> Result<()> {
    rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::KEEP_SIZE, offset, len)
        .attempt("fallocate", format_args!("fd {}, KEEP_SIZE, {offset}, {len}", fd.as_fd().as_raw_fd()))
}

/// Makes a hole: the range reads as zeros and occupies nothing.
pub fn punch_hole(fd: impl AsFd, offset: u64, len: u64) -> Result<()> {
    use rustix::fs::FallocateFlags;
    rustix::fs::fallocate(&fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
        .attempt("fallocate", format_args!("fd {}, PUNCH_HOLE, {offset}, {len}", fd.as_fd().as_raw_fd()))
}

/// Copies up to `len` bytes inside the kernel (shares blocks where the file system can). Returns bytes copied, 0 at the end.
pub fn copy_file_range(
    from: impl AsFd,
    from_at: Option<&mut u64>,
    to: impl AsFd,
    to_at: Option<&mut u64>,
    len: usize,
) -> Result<usize> {
    rustix::fs::copy_file_range(&from, from_at, &to, to_at, len).attempt(
        "copy_file_range",
        format_args!("fd {}, fd {}, {len}", from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd()),
    )
}

/// Bytes of a file that are in memory already, read without waiting for a disk. `None` where there are none, or where a file
/// system cannot tell: then an ordinary read is needed.
pub fn read_cached(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let mut buffers = [std::io::IoSliceMut::new(buffer)];
    let read = rustix::io::preadv2(fd, &mut buffers, offset, rustix::io::ReadWriteFlags::NOWAIT);
    read.ok().filter(|count| *count > 0)
}

/// Start of the next data at or after `offset`; `None` when only a hole is left.
pub fn seek_data(fd: impl AsFd, offset: u64) -> Result<Option<u64>> {
    seek(fd, rustix::fs::SeekFrom::Data(offset), "SEEK_DATA")
}

/// Start of the next hole at or after `offset` (the end of the file counts as one); `None` past the end.
pub fn seek_hole(fd: impl AsFd, offset: u64) -> Result<Option<u64>> {
    seek(fd, rustix::fs::SeekFrom::Hole(offset), "SEEK_HOLE")
}

fn seek(fd: impl AsFd, to: rustix::fs::SeekFrom, name: &str) -> Result<Option<u64>> {
    match rustix::fs::seek(&fd, to) {
        Err(Errno::NXIO) => Ok(None),
        other => other.map(Some).attempt("lseek", format_args!("fd {}, {name}", fd.as_fd().as_raw_fd())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> (PathBuf, Root) {
        let path = std::env::temp_dir().join(format!("knarr-fs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("root")).unwrap();
        let root = Root::open(path.join("root")).unwrap();
        (path, root)
    }

    #[test]
    fn a_path_never_leaves_its_root() {
        let (path, root) = scratch("escape");
        std::fs::write(path.join("outside"), "secret").unwrap();
        std::os::unix::fs::symlink("../../outside", path.join("root/up")).unwrap();
        std::os::unix::fs::symlink("/outside", path.join("root/abs")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root", path.join("root/magic")).unwrap();
        for bad in ["../outside", "/../outside", "up", "abs", "magic/etc/passwd", "a/../../outside"] {
            let error = root.open_path(bad).unwrap_err();
            assert!(error.is(Errno::NOENT) || error.is(Errno::LOOP), "{bad}: {error}");
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn missing_directories_are_made_through_dangling_links_in_root() {
        let (path, root) = scratch("mkdir");
        std::os::unix::fs::symlink("/run", path.join("root/link")).unwrap();
        std::os::unix::fs::symlink("../../../far/away", path.join("root/rel")).unwrap();
        root.mkdir_all("link/lock/x", Mode::from_raw_mode(0o755)).unwrap();
        root.mkdir_all("rel/y", Mode::from_raw_mode(0o755)).unwrap();
        assert!(path.join("root/run/lock/x").is_dir());
        assert!(path.join("root/far/away/y").is_dir());
        root.ensure_file("link/file", Mode::from_raw_mode(0o644)).unwrap();
        assert!(path.join("root/run/file").is_file());
        assert!(root.mkdir_all("link/file/z", Mode::from_raw_mode(0o755)).unwrap_err().is(Errno::NOTDIR));
        std::os::unix::fs::symlink("loop", path.join("root/loop")).unwrap();
        assert!(root.mkdir_all("loop/z", Mode::from_raw_mode(0o755)).unwrap_err().is(Errno::LOOP));
        assert!(!path.join("run").exists() && !path.join("far").exists());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_name_is_one_component() {
        let (path, root) = scratch("name");
        for bad in ["", ".", "..", "a/b", "/"] {
            assert!(mkdirat(&root, bad, Mode::from_raw_mode(0o755)).unwrap_err().is(Errno::INVAL), "{bad:?}");
        }
        for bad in ["/", "", "..", "a/.."] {
            assert!(root.parent(bad).unwrap_err().is(Errno::INVAL), "{bad:?}");
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn reading_is_bounded_and_never_blocks() {
        let (path, root) = scratch("read");
        std::fs::write(path.join("root/file"), "12345").unwrap();
        assert_eq!(root.read("file", 5).unwrap(), b"12345");
        assert!(root.read("file", 4).unwrap_err().is(Errno::FBIG));
        root.mknod("fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0, 0).unwrap();
        assert!(root.read("fifo", 5).unwrap_err().is(Errno::INVAL));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_link_is_never_changed_through() {
        let (path, root) = scratch("nofollow");
        std::fs::write(path.join("root/file"), "").unwrap();
        root.symlink("file", "link").unwrap();
        assert!(chmodat(&root, "link", Mode::from_raw_mode(0o777)).unwrap_err().is(Errno::OPNOTSUPP));
        chmodat(&root, "file", Mode::from_raw_mode(0o4755)).unwrap();
        assert_eq!(root.stat("link").unwrap().st_mode & 0o7777, 0o4755);
        fchmod(root.open_path("file").unwrap(), Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(root.stat("link").unwrap().st_mode & 0o7777, 0o600);
        std::fs::remove_dir_all(path).unwrap();
    }
}
