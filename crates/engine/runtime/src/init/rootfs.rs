//! Builds the root file system in the container's own mount namespace: every mount is made detached and attached by descriptor to a
//! place resolved beneath the new root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use linux::Errno;
use linux::fs::{FileType, Mode, OFlags, Root};
use linux::mount::{self, AttrChange, FsContext, MountAttr, Overlay, Propagation as Spread};

use crate::plan::options::Attrs;
use crate::plan::{DeviceNode, MountSource, MountStep, NodeKind, RootfsSource};
use crate::report::{Cause, RefusedKind};

use super::Inherited;
use super::steps::{Child, spread};

/// What covers masked paths: made once, cloned for each.
#[derive(Default)]
pub(super) struct Masks {
    null: Option<OwnedFd>,
    empty_dir: Option<OwnedFd>,
}

const DIR_MODE: u32 = 0o755;

impl Child<'_> {
    pub(super) fn attach_rootfs(&mut self, with: &mut Inherited) -> Result<(), Cause> {
        let tree = match with.rootfs.take() {
            Some(tree) => tree,
            None => rootfs_mount(&self.plan.rootfs)?,
        };
        mount::set_attr(&tree, &AttrChange { propagation: Some(Spread::Private), ..Default::default() }, true)?;
        // Attached over `/`, which needs no directory and no rights on a path. The old root must not spread it to the host.
        let old = Root::open("/")?;
        mount::set_attr(&old, &AttrChange { propagation: Some(Spread::Private), ..Default::default() }, false)?;
        mount::attach(&tree, &old)?;
        self.root = Some(Root::from_fd(tree));
        Ok(())
    }

    pub(super) fn mount(&mut self, step: &MountStep, with: &mut Inherited) -> Result<(), Cause> {
        let tree = match &step.source {
            MountSource::Fs { fstype, source, params } => {
                if matches!(fstype.as_str(), "proc" | "sysfs") {
                    self.refuse_link(&step.destination)?;
                }
                new_fs(fstype, source, params, step.attrs)?
            }
            MountSource::Bind { path, within: None, recursive } => mount::clone_tree_at(path, *recursive)?,
            MountSource::Bind { path, within: Some(within), recursive } => {
                mount::clone_tree(Root::open(path)?.open_path(within)?, *recursive)?
            }
            MountSource::Early { index } => {
                let fd = with
                    .early
                    .get(*index)
                    .ok_or_else(|| Cause::refused(RefusedKind::Internal, "no such early mount"))?;
                linux::fs::dup(fd)?
            }
            MountSource::Cgroup => return self.mount_cgroups(step),
            MountSource::Existing => {
                // An open mount point is the mount on it; anything else has no attributes of its own, which the call says.
                let mounted = self.root()?.open_path(&step.destination)?;
                return change(&mounted, step);
            }
        };
        if !matches!(step.source, MountSource::Fs { .. }) {
            set_attrs(&tree, step.attrs, false)?;
        }
        set_attrs(&tree, step.recursive_attrs, true)?;
        if step.copy_up {
            self.copy_up(&step.destination, &tree)?;
        }
        let target = self.target(&step.destination, &tree)?;
        mount::attach(&tree, &target)?;
        Ok(propagate(&tree, step)?)
    }

    /// What a mount is attached to; made if it is missing.
    fn target(&self, destination: &str, tree: &OwnedFd) -> Result<OwnedFd, Cause> {
        let root = self.root()?;
        if vocab::weak::without("targets")
            && let RootfsSource::Directory(path) = &self.plan.rootfs
        {
            // By path, as if nobody could change it meanwhile.
            let _ = std::fs::create_dir_all(path.join(destination.trim_start_matches('/')));
        }
        let is_dir = linux::fs::file_type(&linux::fs::fstat(tree)?) == FileType::Directory;
        Ok(if is_dir {
            root.mkdir_all(destination, Mode::from_raw_mode(DIR_MODE))?
        } else {
            root.ensure_file(destination, Mode::from_raw_mode(0o644))?
        })
    }

    /// procfs and sysfs go on ordinary directories only: a link in the image would put them somewhere else.
    fn refuse_link(&self, destination: &str) -> Result<(), Cause> {
        match self.root()?.lstat(destination) {
            Ok(_) if vocab::weak::without("links") => Ok(()),
            Ok(stat) if linux::fs::file_type(&stat) == FileType::Directory => Ok(()),
            Ok(_) => Err(Cause::refused(
                RefusedKind::Invalid,
                format!("{destination} of the root file system is not an ordinary directory"),
            )),
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn copy_up(&self, destination: &str, tree: &OwnedFd) -> Result<(), Cause> {
        match self.root()?.open_file(destination, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(from) => Ok(crate::copy::copy_tree(&from, &linux::fs::reopen_dir(tree)?)?),
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// v2: the container's group (or the whole tree without a cgroup namespace). v1: a tmpfs with one directory a hierarchy.
    fn mount_cgroups(&mut self, step: &MountStep) -> Result<(), Cause> {
        let attrs = Attrs { set: step.attrs.set, clear: step.attrs.clear };
        let Some(group) = self.group else {
            // No group of our own (rootless without delegation): what we see ourselves, read-only.
            let tree = mount::clone_tree_at("/sys/fs/cgroup", true)?;
            mount::set_attr(&tree, &AttrChange { set: MountAttr::RDONLY, ..Default::default() }, true)?;
            let target = self.target(&step.destination, &tree)?;
            return Ok(mount::attach(&tree, &target)?);
        };
        if group.layout().is_v2_only() {
            let mounted = &group.layout().hierarchies[0].mount;
            let own = group.directories().next().map(|(_, path)| path);
            let source = if self.plan.cgroup_namespace { own.as_deref().unwrap_or(mounted) } else { mounted };
            let tree = mount::clone_tree_at(source, false)?;
            set_attrs(&tree, attrs, false)?;
            let target = self.target(&step.destination, &tree)?;
            return Ok(mount::attach(&tree, &target)?);
        }
        let flags = MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC;
        let top = mount::new_fs("tmpfs", Some("tmpfs".as_ref()), &["mode=755"], flags)?;
        let target = self.target(&step.destination, &top)?;
        mount::attach(&top, &target)?;
        for (hierarchy, path) in group.directories() {
            if hierarchy.version == linux::cgroup::Version::V2 {
                continue;
            }
            let Some(name) = hierarchy.mount.file_name() else { continue };
            let tree = mount::clone_tree_at(&path, false)?;
            set_attrs(&tree, attrs, false)?;
            linux::fs::mkdirat(&top, name, Mode::from_raw_mode(DIR_MODE))?;
            let dir = linux::fs::openat(&top, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            mount::attach(&tree, &dir)?;
            let label = name.to_string_lossy();
            // `cpu,cpuacct` is also found as `cpu` and as `cpuacct`.
            for part in label.split(',').filter(|part| **part != *label) {
                linux::fs::symlinkat(Path::new(name), &top, part)?;
            }
        }
        if step.attrs.set & MountAttr::RDONLY.bits() != 0 {
            mount::set_attr(&top, &AttrChange { set: MountAttr::RDONLY, ..Default::default() }, false)?;
        }
        Ok(())
    }

    pub(super) fn device(&mut self, node: &DeviceNode) -> Result<(), Cause> {
        let root = self.root()?;
        let path = Path::new(&node.path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Cause::refused(RefusedKind::Invalid, "not the path of a node"));
        };
        let dir = root.mkdir_all(parent, Mode::from_raw_mode(DIR_MODE))?;
        let kind = match node.kind {
            NodeKind::Char => FileType::CharacterDevice,
            NodeKind::Block => FileType::BlockDevice,
            NodeKind::Fifo => FileType::Fifo,
        };
        match linux::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(node.mode), node.major, node.minor) {
            Ok(()) => {
                if (node.uid, node.gid) != (0, 0) {
                    linux::fs::chownat(&dir, name, node.uid, node.gid)?;
                }
                Ok(())
            }
            Err(error) if error.is(Errno::EXIST) => Ok(()),
            // No user namespace may make devices: the host's own node is bound instead.
            Err(error) if error.is(Errno::PERM) => {
                let host = linux::fs::open_host(path, OFlags::PATH).map_err(|_| error.clone())?;
                if !is_device(&host, node)? {
                    return Err(error.into());
                }
                let tree = mount::clone_tree(&host, false)?;
                let target = root.ensure_file(path, Mode::from_raw_mode(0o644))?;
                Ok(mount::attach(&tree, &target)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Result<(), Cause> {
        let path = Path::new(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let dir = self.root()?.mkdir_all(parent, Mode::from_raw_mode(DIR_MODE))?;
        match linux::fs::symlinkat(Path::new(target), &dir, name) {
            Err(error) if error.is(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The terminal multiplexer of the container's own devpts, in place of whatever the image has there.
    pub(super) fn ptmx(&mut self) -> Result<(), Cause> {
        let dir = self.root()?.mkdir_all("/dev", Mode::from_raw_mode(DIR_MODE))?;
        match linux::fs::symlinkat(Path::new("pts/ptmx"), &dir, "ptmx") {
            Err(error) if error.is(Errno::EXIST) => {
                match linux::fs::unlinkat(&dir, "ptmx") {
                    // Bound there by a mount of the spec.
                    Err(error) if error.is(Errno::BUSY) || error.is(Errno::ISDIR) => return Ok(()),
                    other => other?,
                }
                Ok(linux::fs::symlinkat(Path::new("pts/ptmx"), &dir, "ptmx")?)
            }
            other => Ok(other?),
        }
    }

    pub(super) fn seal_mount(&mut self, destination: &str) -> Result<(), Cause> {
        let fd = self.root()?.open_path(destination)?;
        Ok(mount::set_attr(&fd, &AttrChange { set: MountAttr::RDONLY, ..Default::default() }, false)?)
    }

    pub(super) fn seal_root(&mut self) -> Result<(), Cause> {
        Ok(mount::set_attr(self.root()?, &AttrChange { set: MountAttr::RDONLY, ..Default::default() }, false)?)
    }

    /// Nothing to see and nothing to write: the null device over a file, an empty read-only directory over a directory. What is not there
    /// needs no mask.
    pub(super) fn mask(&mut self, path: &str) -> Result<(), Cause> {
        if vocab::weak::without("masks") {
            return Ok(());
        }
        let target = match self.root()?.open_path(path) {
            Ok(target) => target,
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let cover = if linux::fs::file_type(&linux::fs::fstat(&target)?) == FileType::Directory {
            let tree = match &self.masks.empty_dir {
                Some(first) => mount::clone_tree(first, false)?,
                None => {
                    let flags = MountAttr::RDONLY | MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC;
                    mount::new_fs("tmpfs", Some("tmpfs".as_ref()), &["nr_blocks=1", "nr_inodes=1"], flags)?
                }
            };
            mount::attach(&tree, &target)?;
            self.masks.empty_dir.get_or_insert(tree);
            return Ok(());
        } else {
            if self.masks.null.is_none() {
                let null =
                    if vocab::weak::without("null") { self.root()?.open_path("/dev/null")? } else { null_device()? };
                self.masks.null = Some(null);
            }
            let null =
                self.masks.null.as_ref().ok_or_else(|| Cause::refused(RefusedKind::Internal, "no null device"))?;
            mount::clone_tree(null, false)?
        };
        Ok(mount::attach(&cover, &target)?)
    }

    pub(super) fn read_only(&mut self, path: &str) -> Result<(), Cause> {
        if vocab::weak::without("read-only") {
            return Ok(());
        }
        let target = match self.root()?.open_path(path) {
            Ok(target) => target,
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let tree = mount::clone_tree(&target, true)?;
        mount::set_attr(&tree, &AttrChange { set: MountAttr::RDONLY, ..Default::default() }, true)?;
        Ok(mount::attach(&tree, &target)?)
    }

    pub(super) fn pivot_root(&mut self) -> Result<(), Cause> {
        let old = Root::open("/")?;
        let root = self.root()?;
        mount::pivot_root(root)?;
        // What ends in the old tree must not end on the host, whatever propagation the spec asked for.
        mount::set_attr(&old, &AttrChange { propagation: Some(Spread::Slave), ..Default::default() }, true)?;
        mount::unmount_lazily(".")?;
        Ok(linux::process::chdir("/")?)
    }

    pub(super) fn move_root(&mut self) -> Result<(), Cause> {
        linux::process::fchdir(self.root()?)?;
        linux::process::chroot(".")?;
        Ok(linux::process::chdir("/")?)
    }
}

fn propagate(tree: &OwnedFd, step: &MountStep) -> linux::Result<()> {
    for propagation in &step.propagation {
        let change = AttrChange { propagation: Some(spread(propagation.kind)), ..Default::default() };
        mount::set_attr(tree, &change, propagation.recursive)?;
    }
    Ok(())
}

/// `remount`.
fn change(mounted: &OwnedFd, step: &MountStep) -> Result<(), Cause> {
    set_attrs(mounted, step.attrs, false)?;
    set_attrs(mounted, step.recursive_attrs, true)?;
    Ok(propagate(mounted, step)?)
}

/// The host's null device, looked at before it is used: an image cannot supply one, but a broken host could.
fn null_device() -> Result<OwnedFd, Cause> {
    let fd = linux::fs::open_host(Path::new("/dev/null"), OFlags::PATH | OFlags::NOFOLLOW)?;
    let node =
        DeviceNode { path: "/dev/null".into(), kind: NodeKind::Char, major: 1, minor: 3, mode: 0, uid: 0, gid: 0 };
    if is_device(&fd, &node)? {
        Ok(fd)
    } else {
        Err(Cause::refused(RefusedKind::Unsupported, "the host's /dev/null is not the null device (char 1:3)"))
    }
}

fn is_device(fd: impl AsFd, node: &DeviceNode) -> linux::Result<bool> {
    let stat = linux::fs::fstat(fd)?;
    let kind = match linux::fs::file_type(&stat) {
        FileType::CharacterDevice => NodeKind::Char,
        FileType::BlockDevice => NodeKind::Block,
        _ => return Ok(false),
    };
    Ok(kind == node.kind && linux::fs::device_numbers(&stat) == (node.major, node.minor))
}

/// The root of a container as a detached mount.
pub(crate) fn rootfs_mount(source: &RootfsSource) -> Result<OwnedFd, Cause> {
    match source {
        RootfsSource::Directory(path) => Ok(mount::clone_tree_at(path, true)?),
        RootfsSource::Overlay { lowers, upper, work } => {
            let open = |path: &Path| linux::fs::open_host(path, OFlags::PATH | OFlags::DIRECTORY);
            let lowers = lowers.iter().map(|path| open(path)).collect::<linux::Result<Vec<_>>>()?;
            let (upper, work) = (open(upper)?, open(work)?);
            let overlay = Overlay {
                lowers: lowers.iter().map(AsFd::as_fd).collect(),
                upper: Some((upper.as_fd(), work.as_fd())),
                ..Default::default()
            };
            Ok(overlay.detached(MountAttr::empty())?)
        }
    }
}

fn new_fs(fstype: &str, source: &str, params: &[(String, Option<String>)], attrs: Attrs) -> Result<OwnedFd, Cause> {
    let context = FsContext::open(fstype)?;
    if !source.is_empty() {
        context.string("source", source)?;
    }
    for (key, value) in params {
        match value {
            Some(value) => context.string(key, value)?,
            None => context.flag(key)?,
        }
    }
    context.create()?;
    Ok(context.mount(MountAttr::from_bits(attrs.set))?)
}

pub(crate) fn set_attrs(tree: &OwnedFd, attrs: Attrs, recursive: bool) -> Result<(), Cause> {
    if attrs.is_empty() {
        return Ok(());
    }
    let change = AttrChange {
        set: MountAttr::from_bits(attrs.set),
        clear: MountAttr::from_bits(attrs.clear),
        ..Default::default()
    };
    Ok(mount::set_attr(tree, &change, recursive)?)
}
