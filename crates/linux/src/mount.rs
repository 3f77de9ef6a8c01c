//! Mounts by descriptor: make a detached mount ([`FsContext`], [`clone_tree`], [`Overlay`]), change it ([`set_attr`]), then attach it
//! at a descriptor ([`attach`]). A detached mount is in nobody's mount table and vanishes with its descriptor, so a failure half way
//! leaks nothing. The calls by path at the end are for what has no descriptor form (`pivot_root`, unmounting `.`, old kernels).

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount as rx;

use crate::sys::{self, flags};
use crate::{Attempt, Error, Result};

flags! {
    /// `MOUNT_ATTR_*`. The access-time flags are one field of three bits: to change it, clear [`MountAttr::ATIME_MASK`] and set one.
    pub struct MountAttr: u64 {
        RDONLY = libc::MOUNT_ATTR_RDONLY;
        NOSUID = libc::MOUNT_ATTR_NOSUID;
        NODEV = libc::MOUNT_ATTR_NODEV;
        NOEXEC = libc::MOUNT_ATTR_NOEXEC;
        ATIME_MASK = libc::MOUNT_ATTR__ATIME;
        NOATIME = libc::MOUNT_ATTR_NOATIME;
        STRICTATIME = libc::MOUNT_ATTR_STRICTATIME;
        NODIRATIME = libc::MOUNT_ATTR_NODIRATIME;
        IDMAP = libc::MOUNT_ATTR_IDMAP;
        NOSYMFOLLOW = libc::MOUNT_ATTR_NOSYMFOLLOW;
    }
}

flags! {
    /// `MS_*` for the old [`mount`] call.
    pub struct MountFlags: u64 {
        RDONLY = libc::MS_RDONLY;
        NOSUID = libc::MS_NOSUID;
        NODEV = libc::MS_NODEV;
        NOEXEC = libc::MS_NOEXEC;
        SYNCHRONOUS = libc::MS_SYNCHRONOUS;
        REMOUNT = libc::MS_REMOUNT;
        MANDLOCK = libc::MS_MANDLOCK;
        DIRSYNC = libc::MS_DIRSYNC;
        NOSYMFOLLOW = 256u64;
        NOATIME = libc::MS_NOATIME;
        NODIRATIME = libc::MS_NODIRATIME;
        BIND = libc::MS_BIND;
        MOVE = libc::MS_MOVE;
        REC = libc::MS_REC;
        SILENT = libc::MS_SILENT;
        POSIXACL = libc::MS_POSIXACL;
        UNBINDABLE = libc::MS_UNBINDABLE;
        PRIVATE = libc::MS_PRIVATE;
        SLAVE = libc::MS_SLAVE;
        SHARED = libc::MS_SHARED;
        RELATIME = libc::MS_RELATIME;
        I_VERSION = libc::MS_I_VERSION;
        STRICTATIME = libc::MS_STRICTATIME;
        LAZYTIME = libc::MS_LAZYTIME;
    }
}

/// How mounts below a mount reach, or come from, its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

impl Propagation {
    pub const fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// One change for [`set_attr`].
#[derive(Debug, Clone, Copy, Default)]
pub struct AttrChange<'fd> {
    pub set: MountAttr,
    pub clear: MountAttr,
    pub propagation: Option<Propagation>,
    /// A user namespace whose mapping the mount gets (adds IDMAP). Only once per mount, only while it is detached.
    pub idmap: Option<BorrowedFd<'fd>>,
}

#[repr(C)]
struct RawMountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `mount_setattr` on the mount that `fd` is in (at its root), with everything mounted below it if `recursive`.
pub fn set_attr(fd: impl AsFd, change: &AttrChange<'_>, recursive: bool) -> Result<()> {
    let fd = fd.as_fd();
    let mut attr = RawMountAttr {
        attr_set: change.set.bits(),
        attr_clr: change.clear.bits(),
        propagation: change.propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    if let Some(userns) = change.idmap {
        attr.attr_set |= MountAttr::IDMAP.bits();
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let at = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static NUL-terminated string, `attr` is a valid mount_attr of the size given; the kernel reads both only.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attr,
            size_of::<RawMountAttr>(),
        )
    };
    sys::check(ret).map(drop).attempt(
        "mount_setattr",
        format_args!(
            "fd {}, set {:?}, clear {:?}, propagation {:?}{}{}",
            fd.as_raw_fd(),
            change.set,
            change.clear,
            change.propagation,
            if change.idmap.is_some() { ", idmap" } else { "" },
            if recursive { ", RECURSIVE" } else { "" }
        ),
    )
}

/// A file system being configured (`fsopen`). Errors carry what the kernel wrote into the context's log.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    fs_type: String,
}

impl FsContext {
    pub fn open(fs_type: &str) -> Result<Self> {
        let fd = rx::fsopen(fs_type, rx::FsOpenFlags::FSOPEN_CLOEXEC).attempt("fsopen", format_args!("{fs_type:?}"))?;
        Ok(Self { fd, fs_type: fs_type.to_owned() })
    }

    /// The context of an existing mount, to reconfigure its super block.
    pub fn pick(mount: impl AsFd) -> Result<Self> {
        let mount = mount.as_fd();
        let fd = rx::fspick(mount, "", rx::FsPickFlags::FSPICK_EMPTY_PATH | rx::FsPickFlags::FSPICK_CLOEXEC)
            .attempt("fspick", format_args!("fd {}", mount.as_raw_fd()))?;
        Ok(Self { fd, fs_type: "picked".to_owned() })
    }

    pub fn flag(&self, key: &str) -> Result<()> {
        self.check(rx::fsconfig_set_flag(&self.fd, key), format_args!("SET_FLAG {key}"))
    }

    /// The kernel takes at most 256 bytes.
    pub fn string(&self, key: &str, value: impl AsRef<OsStr>) -> Result<()> {
        let value = value.as_ref();
        self.check(rx::fsconfig_set_string(&self.fd, key, value), format_args!("SET_STRING {key}={value:?}"))
    }

    pub fn fd(&self, key: &str, value: impl AsFd) -> Result<()> {
        let value = value.as_fd();
        self.check(rx::fsconfig_set_fd(&self.fd, key, value), format_args!("SET_FD {key}={}", value.as_raw_fd()))
    }

    /// Makes the super block. Then [`FsContext::mount`].
    pub fn create(&self) -> Result<()> {
        self.check(rx::fsconfig_create(&self.fd), format_args!("CMD_CREATE"))
    }

    pub fn reconfigure(&self) -> Result<()> {
        self.check(rx::fsconfig_reconfigure(&self.fd), format_args!("CMD_RECONFIGURE"))
    }

    /// A detached mount of the super block.
    pub fn mount(&self, attr: MountAttr) -> Result<OwnedFd> {
        rx::fsmount(
            &self.fd,
            rx::FsMountFlags::FSMOUNT_CLOEXEC,
            rx::MountAttrFlags::from_bits_retain(attr.bits() as u32),
        )
        .attempt("fsmount", format_args!("{}, {attr:?}", self.fs_type))
    }

    fn check(&self, result: std::result::Result<(), Errno>, what: fmt::Arguments<'_>) -> Result<()> {
        result.map_err(|errno| Error::new("fsconfig", format_args!("{}, {what}{}", self.fs_type, self.log()), errno))
    }

    /// What the kernel has to say, each message from its own `read`; empty if nothing.
    fn log(&self) -> String {
        let mut text = String::new();
        let mut line = [0; 512];
        while let Ok(len) = rustix::io::read(&self.fd, &mut line) {
            if len == 0 || text.len() > 2048 {
                break;
            }
            text.push_str("; kernel: ");
            text.push_str(String::from_utf8_lossy(&line[..len]).trim_end());
        }
        text
    }
}

/// A new file system in one step: `options` are `key=value` or bare flags as in the old option string.
pub fn new_fs(fs_type: &str, source: Option<&OsStr>, options: &[&str], attr: MountAttr) -> Result<OwnedFd> {
    let context = FsContext::open(fs_type)?;
    if let Some(source) = source {
        context.string("source", source)?;
    }
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => context.string(key, value)?,
            None => context.flag(option)?,
        }
    }
    context.create()?;
    context.mount(attr)
}

/// A detached copy of the mount (the tree of mounts if `recursive`) at `fd`: the descriptor form of a bind mount. `fd` may be any file or
/// directory, O_PATH too.
pub fn clone_tree(fd: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    let fd = fd.as_fd();
    let mut flags =
        rx::OpenTreeFlags::OPEN_TREE_CLONE | rx::OpenTreeFlags::OPEN_TREE_CLOEXEC | rx::OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= rx::OpenTreeFlags::AT_RECURSIVE;
    }
    rx::open_tree(fd, "", flags)
        .attempt("open_tree", format_args!("fd {}, CLONE{}", fd.as_raw_fd(), if recursive { "|RECURSIVE" } else { "" }))
}

/// As [`clone_tree`], for a host path (links followed).
pub fn clone_tree_at(path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd> {
    let path = path.as_ref();
    let mut flags = rx::OpenTreeFlags::OPEN_TREE_CLONE | rx::OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= rx::OpenTreeFlags::AT_RECURSIVE;
    }
    rx::open_tree(CWD, path, flags)
        .attempt("open_tree", format_args!("{path:?}, CLONE{}", if recursive { "|RECURSIVE" } else { "" }))
}

/// Attaches a detached mount on what `target` refers to (a directory on a directory, a file on a file).
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    move_mount(mount, target, rx::MoveMountFlags::empty())
}

/// Makes `mount` a member of the peer group of the mount `like` (MOVE_MOUNT_SET_GROUP).
pub fn join_group(like: impl AsFd, mount: impl AsFd) -> Result<()> {
    move_mount(like, mount, rx::MoveMountFlags::MOVE_MOUNT_SET_GROUP)
}

fn move_mount(mount: impl AsFd, target: impl AsFd, flags: rx::MoveMountFlags) -> Result<()> {
    let (mount, target) = (mount.as_fd(), target.as_fd());
    let flags = flags | rx::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | rx::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rx::move_mount(mount, "", target, "", flags)
        .attempt("move_mount", format_args!("fd {}, fd {}, {flags:?}", mount.as_raw_fd(), target.as_raw_fd()))
}

/// Attaches a detached mount at a host path (links followed).
pub fn attach_at(mount: impl AsFd, target: impl AsRef<Path>) -> Result<()> {
    let (mount, target) = (mount.as_fd(), target.as_ref());
    let flags = rx::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | rx::MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rx::move_mount(mount, "", CWD, target, flags)
        .attempt("move_mount", format_args!("fd {}, {target:?}", mount.as_raw_fd()))
}

/// An overlay to be mounted from descriptors. Layers are never named by path, so neither their number nor any character in a path matters.
#[derive(Debug, Default)]
pub struct Overlay<'fd> {
    /// Top first. Directories, O_PATH suffices.
    pub lowers: Vec<BorrowedFd<'fd>>,
    /// Upper and work directory; without them the overlay is read-only (and needs two lowers at least).
    pub upper: Option<(BorrowedFd<'fd>, BorrowedFd<'fd>)>,
    /// Further options, `key=value` or a bare flag: `volatile`, `userxattr`, `xino=off`, `metacopy=on`…
    pub options: Vec<String>,
    /// Shown as the source in the mount table.
    pub source: Option<String>,
}

impl Overlay<'_> {
    /// A detached overlay mount (Linux 6.13 takes layers as descriptors, 6.7 as `lowerdir+` strings; older kernels answer EINVAL or
    /// ENAMETOOLONG: use [`Overlay::mount_at`] there).
    pub fn detached(&self, attr: MountAttr) -> Result<OwnedFd> {
        let context = FsContext::open("overlay")?;
        context.string("source", self.source.as_deref().unwrap_or("overlay"))?;
        for option in &self.options {
            match option.split_once('=') {
                Some((key, value)) => context.string(key, value)?,
                None => context.flag(option)?,
            }
        }
        let mut by_fd = true;
        for lower in &self.lowers {
            layer(&context, "lowerdir+", *lower, &mut by_fd)?;
        }
        if let Some((upper, work)) = self.upper {
            layer(&context, "upperdir", upper, &mut by_fd)?;
            layer(&context, "workdir", work, &mut by_fd)?;
        }
        context.create()?;
        context.mount(attr)
    }

    /// The old way, for kernels without `lowerdir+`: one option string of at most a page, layers named through `/proc/self/fd`.
    /// The mount appears at `target` in the caller's mount namespace.
    pub fn mount_at(&self, target: &Path, flags: MountFlags) -> Result<()> {
        mount(
            self.source.as_deref().unwrap_or("overlay"),
            target,
            Some("overlay"),
            flags,
            Some(self.option_string().as_ref()),
        )
    }

    fn option_string(&self) -> String {
        let fd = |fd: &BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mut text = format!("lowerdir={}", self.lowers.iter().map(fd).collect::<Vec<_>>().join(":"));
        if let Some((upper, work)) = &self.upper {
            text.push_str(&format!(",upperdir={},workdir={}", fd(upper), fd(work)));
        }
        for option in &self.options {
            text.push(',');
            text.push_str(option);
        }
        text
    }
}

/// By descriptor until the kernel refuses that form once, from then on through `/proc/self/fd`.
fn layer(context: &FsContext, key: &str, fd: BorrowedFd<'_>, by_fd: &mut bool) -> Result<()> {
    if *by_fd {
        match context.fd(key, fd) {
            Err(error) if error.is(Errno::INVAL) || error.is(Errno::BADF) => *by_fd = false,
            other => return other,
        }
    }
    context.string(key, crate::fs::proc_fd(fd))
}

/// The old `mount(2)`, for what has no other form: propagation of a path, bind and remount on kernels before 5.2, option strings.
pub fn mount(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    fs_type: Option<&str>,
    flags: MountFlags,
    data: Option<&OsStr>,
) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    let run = || -> std::result::Result<(), Errno> {
        let c_source = sys::c_path(source)?;
        let c_target = sys::c_path(target)?;
        let c_type = fs_type.map(CString::new).transpose().map_err(|_| Errno::INVAL)?;
        let c_data = data.map(|data| sys::c_path(Path::new(data))).transpose()?;
        // SAFETY: every pointer is null where the kernel allows it or a NUL-terminated string that outlives the call.
        let ret = unsafe {
            libc::mount(
                c_source.as_ptr(),
                c_target.as_ptr(),
                c_type.as_ref().map_or(std::ptr::null(), |s| s.as_ptr()),
                flags.bits(),
                c_data.as_ref().map_or(std::ptr::null(), |s| s.as_ptr().cast()),
            )
        };
        sys::check(ret.into()).map(drop)
    };
    run().attempt("mount", format_args!("{source:?}, {target:?}, {fs_type:?}, {flags:?}, {data:?}"))
}

/// Propagation of the mount at `target`, and of all below it if `recursive`.
pub fn set_propagation(target: impl AsRef<Path>, propagation: Propagation, recursive: bool) -> Result<()> {
    let mut flags = MountFlags::from_bits(propagation.bits());
    if recursive {
        flags |= MountFlags::REC;
    }
    mount("", target, None, flags, None)
}

/// Lazy: the mount leaves the table now and the file system ends when its last user does.
pub fn unmount_lazily(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    rx::unmount(target, rx::UnmountFlags::DETACH | rx::UnmountFlags::NOFOLLOW)
        .attempt("umount2", format_args!("{target:?}, DETACH|NOFOLLOW"))
}

/// EBUSY while something uses it. A link is not followed.
pub fn unmount(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    rx::unmount(target, rx::UnmountFlags::NOFOLLOW).attempt("umount2", format_args!("{target:?}, NOFOLLOW"))
}

/// Makes `new_root` the root of this mount namespace and stacks the old root on top of it, to be removed by `unmount_lazily(".")`: the form
/// that needs no directory for the old root. Changes the working directory to the new root.
pub fn pivot_root(new_root: impl AsFd) -> Result<()> {
    let new_root = new_root.as_fd();
    rustix::process::fchdir(new_root).attempt("fchdir", format_args!("fd {}", new_root.as_raw_fd()))?;
    rustix::process::pivot_root(".", ".").attempt("pivot_root", format_args!("fd {} as \".\"", new_root.as_raw_fd()))
}

/// Where a mount is, from [`crate::proc::mountinfo`].
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let path: PathBuf = path.into();
    Ok(crate::proc::mountinfo(None)?.iter().any(|mount| mount.target == path))
}
