//! One group in all hierarchies: made, found, given limits, joined.
//!
//! Directories are held open and files are reached by `openat` beneath them. Ending a group (freeze, kill, remove) is in
//! `life`, reading it in `stats` and `events`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::controller::{Controller, ControllerSet};
use super::device_bpf;
use super::error::Error;
use super::layout::{Layout, Version};
use super::plan::{Current, Plan, Tolerance, plan};
use super::resources::Resources;

const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The mounted hierarchies, held open. Made once a process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups {
    inner: Arc<Roots>,
}

#[derive(Debug)]
struct Roots {
    layout: Layout,
    dirs: Vec<OwnedFd>,
}

/// One group: a directory in each hierarchy, held open.
#[derive(Debug)]
pub struct Group {
    pub(super) cgroups: Cgroups,
    /// Beneath each hierarchy's mount point, same order as the layout's hierarchies.
    pub(super) paths: Vec<PathBuf>,
    pub(super) dirs: Vec<Option<OwnedFd>>,
    created: bool,
}

impl Cgroups {
    /// [`Layout::detect`] and [`Cgroups::open`].
    pub fn detect() -> Result<Self, Error> {
        Self::open(Layout::detect()?)
    }

    /// A hierarchy whose mount point is covered by something else (the mount table still lists it) is left out.
    pub fn open(layout: Layout) -> Result<Self, Error> {
        let mut found = Layout { hierarchies: Vec::with_capacity(layout.hierarchies.len()) };
        let mut dirs = Vec::with_capacity(layout.hierarchies.len());
        for hierarchy in layout.hierarchies {
            let mount = &hierarchy.mount;
            let dir = openat(CWD, mount, DIRECTORY, Mode::empty()).map_err(Error::io("open", mount))?;
            let magic = rustix::fs::fstatfs(&dir).map_err(Error::io("statfs", mount))?.f_type as i64;
            let expected = match hierarchy.version {
                Version::V1 => CGROUP_SUPER_MAGIC,
                Version::V2 => CGROUP2_SUPER_MAGIC,
            };
            if magic == expected {
                found.hierarchies.push(hierarchy);
                dirs.push(dir);
            }
        }
        if dirs.is_empty() {
            return Err(Error::NoHierarchy);
        }
        Ok(Self { inner: Arc::new(Roots { layout: found, dirs }) })
    }

    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(super) fn root(&self, index: usize) -> BorrowedFd<'_> {
        self.inner.dirs[index].as_fd()
    }

    pub(super) fn shown(&self, index: usize, path: &Path) -> PathBuf {
        self.layout().hierarchies[index].mount.join(path)
    }

    /// Makes the group in every hierarchy, with all its parents, and makes it usable: v1 cpusets inherit from the parent, v2
    /// controllers are switched on along the way. A group that exists is taken as it is ([`Group::created`] tells).
    ///
    /// `path` as in the OCI spec's `cgroupsPath`: absolute is from each hierarchy's mount point, relative is beneath this process's
    /// own group. On failure nothing that was made stays.
    pub fn create(&self, path: &Path) -> Result<Group, Error> {
        self.create_where(path, |_| false)
    }

    /// [`Self::create`] for a user without root: a hierarchy that refuses with EACCES, EPERM or EROFS is left out. Limits that need
    /// it are refused by [`Group::apply`]. Fails if every hierarchy refuses.
    pub fn create_permitted(&self, path: &Path) -> Result<Group, Error> {
        self.create_where(path, |errno| matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS))
    }

    fn create_where(&self, path: &Path, skip: impl Fn(Errno) -> bool) -> Result<Group, Error> {
        let paths = self.resolve(path)?;
        let mut group = Group { cgroups: self.clone(), paths, dirs: Vec::new(), created: false };
        let mut refused = None;
        for index in 0..self.layout().hierarchies.len() {
            match self.create_in(index, &group.paths[index]) {
                Ok((dir, created)) => {
                    group.dirs.push(Some(dir));
                    group.created |= created;
                }
                Err(error) if error.errno().is_some_and(&skip) => {
                    group.dirs.push(None);
                    refused = Some(error);
                }
                Err(error) => {
                    group.unmake();
                    return Err(error);
                }
            }
            vocab::crash::point("cgroup.create.hierarchy");
        }
        match refused {
            Some(error) if group.dirs.iter().all(Option::is_none) => Err(error),
            _ => Ok(group),
        }
    }

    /// An existing group. A hierarchy that does not have it is left out; it is an error if none has.
    pub fn find(&self, path: &Path) -> Result<Group, Error> {
        let paths = self.resolve(path)?;
        self.find_at(paths)
    }

    /// The group that a process is in, hierarchy by hierarchy.
    pub fn of_process(&self, pid: i32) -> Result<Group, Error> {
        let paths = self.process_paths(&format!("/proc/{pid}/cgroup"))?;
        self.find_at(paths)
    }

    fn find_at(&self, paths: Vec<PathBuf>) -> Result<Group, Error> {
        let mut dirs = Vec::with_capacity(paths.len());
        let mut last = Errno::NOENT;
        for (index, path) in paths.iter().enumerate() {
            match open_dir(self.root(index), path) {
                Ok(dir) => dirs.push(Some(dir)),
                Err(errno @ (Errno::NOENT | Errno::ACCESS)) => {
                    last = errno;
                    dirs.push(None);
                }
                Err(errno) => return Err(Error::io("open", self.shown(index, path))(errno)),
            }
        }
        if dirs.iter().all(Option::is_none) {
            return Err(Error::io("open", self.shown(0, &paths[0]))(last));
        }
        Ok(Group { cgroups: self.clone(), paths, dirs, created: false })
    }

    /// Moves every process of this process's own v2 group into the child `leaf`, so that the group may hand its controllers to
    /// children (v2 allows processes only in leaves, except in the real root). Needed once where an engine runs inside a
    /// container or a delegated unit. Does nothing without a v2 hierarchy.
    pub fn evacuate(&self, leaf: &str) -> Result<(), Error> {
        let Some(index) = self.layout().unified() else { return Ok(()) };
        let own = self.process_paths("/proc/self/cgroup")?.swap_remove(index);
        plain(Path::new(leaf))?;
        let (dir, _) = self.make_dir(index, &own.join(leaf))?;
        let from = open_dir(self.root(index), &own).map_err(Error::io("open", self.shown(index, &own)))?;
        // Processes may fork while they are moved: again until none is left. Each round moves at least one.
        loop {
            let pids =
                read_pids(from.as_fd()).map_err(Error::io("read", self.shown(index, &own).join("cgroup.procs")))?;
            if pids.is_empty() {
                return Ok(());
            }
            let mut moved = false;
            for pid in pids {
                match write_at(dir.as_fd(), "cgroup.procs", pid.to_string().as_bytes()) {
                    Ok(()) => moved = true,
                    // Gone meanwhile.
                    Err(Errno::SRCH) => moved = true,
                    Err(errno) if !moved => {
                        let path = self.shown(index, &own).join(leaf).join("cgroup.procs");
                        return Err(Error::Write { path, value: pid.to_string(), errno });
                    }
                    Err(_) => {}
                }
            }
        }
    }

    pub(super) fn resolve(&self, path: &Path) -> Result<Vec<PathBuf>, Error> {
        let inner = plain(path)?;
        if path.is_absolute() {
            return Ok(vec![inner; self.layout().hierarchies.len()]);
        }
        let own = self.process_paths("/proc/self/cgroup")?;
        Ok(own.into_iter().map(|p| p.join(&inner)).collect())
    }

    /// Where a process is, beneath each mount point.
    fn process_paths(&self, file: &str) -> Result<Vec<PathBuf>, Error> {
        let text = read_path(file)?;
        let mut paths = Vec::new();
        for hierarchy in &self.layout().hierarchies {
            let line = text.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
                let ours = match (hierarchy.version, &hierarchy.name) {
                    (Version::V2, _) => id == "0" && names.is_empty(),
                    (_, Some(name)) => names.strip_prefix("name=") == Some(name),
                    _ => !names.is_empty() && ControllerSet::parse(names) == hierarchy.controllers,
                };
                ours.then_some(path)
            });
            let full = Path::new(line.unwrap_or("/"));
            let beneath = full.strip_prefix(&hierarchy.root).unwrap_or(full.strip_prefix("/").unwrap_or(full));
            // A path that leaves the namespace (`/../x`) is out of reach.
            paths.push(plain(beneath)?);
        }
        Ok(paths)
    }

    fn create_in(&self, index: usize, path: &Path) -> Result<(OwnedFd, bool), Error> {
        let (dir, created) = self.make_dir(index, path)?;
        let hierarchy = &self.layout().hierarchies[index];
        let prepared = match hierarchy.version {
            Version::V2 => self.enable_controllers(index, path, dir.as_fd()),
            Version::V1 if created && hierarchy.controllers.contains(Controller::Cpuset) => {
                self.inherit_cpuset(index, path, dir.as_fd())
            }
            Version::V1 => Ok(()),
        };
        match prepared {
            Ok(()) => Ok((dir, created)),
            Err(error) => {
                if created {
                    let _ = rustix::fs::unlinkat(self.root(index), path, AtFlags::REMOVEDIR);
                }
                Err(error)
            }
        }
    }

    fn make_dir(&self, index: usize, path: &Path) -> Result<(OwnedFd, bool), Error> {
        let root = self.root(index);
        if path.as_os_str().is_empty() {
            let dir = rustix::io::fcntl_dupfd_cloexec(root, 0).map_err(Error::io("dup", self.shown(index, path)))?;
            return Ok((dir, false));
        }
        let mode = Mode::from_raw_mode(0o755);
        // A parent may be removed by its owner between our making it and using it: a few tries, then the error counts.
        for attempt in 0.. {
            let created = match mkdirat(root, path, mode) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(Errno::NOENT) if attempt < 3 => {
                    for parent in parents(path) {
                        match mkdirat(root, parent, mode) {
                            Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
                            Err(errno) => return Err(Error::io("mkdir", self.shown(index, parent))(errno)),
                        }
                    }
                    continue;
                }
                Err(errno) => return Err(Error::io("mkdir", self.shown(index, path))(errno)),
            };
            match open_dir(root, path) {
                Ok(dir) => return Ok((dir, created)),
                Err(Errno::NOENT) if attempt < 3 => {}
                Err(errno) => return Err(Error::io("open", self.shown(index, path))(errno)),
            }
        }
        unreachable!("the loop returns on its fourth round")
    }

    /// v1: a new cpuset is empty and takes no process until it has processors and memory nodes.
    fn inherit_cpuset(&self, index: usize, path: &Path, dir: BorrowedFd<'_>) -> Result<(), Error> {
        let filled = |dir: BorrowedFd<'_>| read_at(dir, "cpuset.mems").is_ok_and(|t| !t.trim().is_empty());
        if filled(dir) {
            return Ok(());
        }
        let mut above =
            rustix::io::fcntl_dupfd_cloexec(self.root(index), 0).map_err(Error::io("dup", self.shown(index, path)))?;
        for step in parents(path).into_iter().chain([path]) {
            let here = open_dir(self.root(index), step).map_err(Error::io("open", self.shown(index, step)))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let shown = || self.shown(index, step).join(file);
                if !read_at(here.as_fd(), file).map_err(Error::io("read", shown()))?.trim().is_empty() {
                    continue;
                }
                let value = read_at(above.as_fd(), file).map_err(Error::io("read", shown()))?;
                let value = value.trim().to_owned();
                write_at(here.as_fd(), file, value.as_bytes()).map_err(|errno| Error::Write {
                    path: shown(),
                    value,
                    errno,
                })?;
            }
            // From here on the kernel copies them into new children itself.
            let _ = write_at(here.as_fd(), "cgroup.clone_children", b"1");
            above = here;
        }
        Ok(())
    }

    /// v2: a controller works in a group when every ancestor hands it down. What cannot be handed down (processes in an
    /// ancestor, not delegated) is left out here and missed by [`Group::apply`] if a limit needs it.
    fn enable_controllers(&self, index: usize, path: &Path, dir: BorrowedFd<'_>) -> Result<(), Error> {
        let offered = self.layout().hierarchies[index].controllers;
        let here = ControllerSet::parse(&read_at(dir, "cgroup.controllers").unwrap_or_default());
        if path.as_os_str().is_empty() || offered.without(here).is_empty() {
            return Ok(());
        }
        for step in [Path::new("")].into_iter().chain(parents(path)) {
            let Ok(parent) = open_dir(self.root(index), step) else { return Ok(()) };
            let read = |file| ControllerSet::parse(&read_at(parent.as_fd(), file).unwrap_or_default());
            let missing = read("cgroup.controllers").without(read("cgroup.subtree_control"));
            if missing.is_empty() {
                continue;
            }
            let all: Vec<String> = missing.iter().map(|c| format!("+{c}")).collect();
            if write_at(parent.as_fd(), "cgroup.subtree_control", all.join(" ").as_bytes()).is_err() {
                for one in all {
                    let _ = write_at(parent.as_fd(), "cgroup.subtree_control", one.as_bytes());
                }
            }
        }
        Ok(())
    }
}

impl Group {
    /// Whether [`Cgroups::create`] made at least one directory of it (false: all were there).
    pub fn created(&self) -> bool {
        self.created
    }

    pub fn layout(&self) -> &Layout {
        self.cgroups.layout()
    }

    /// The group's directories as absolute paths, with the hierarchy of each.
    pub fn directories(&self) -> impl Iterator<Item = (&super::Hierarchy, PathBuf)> {
        let with_dir = |i: &usize| self.dirs[*i].is_some();
        (0..self.dirs.len())
            .filter(with_dir)
            .map(|i| (&self.layout().hierarchies[i], self.cgroups.shown(i, &self.paths[i])))
    }

    /// The v2 directory, for `clone3(CLONE_INTO_CGROUP)`; the child then still joins the v1 hierarchies by [`Self::join_self_v1`].
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.dirs[self.layout().unified()?].as_ref().map(OwnedFd::as_fd)
    }

    /// Moves a process (all its threads) into the group, in every hierarchy.
    pub fn join(&self, pid: i32) -> Result<(), Error> {
        self.join_where(&pid.to_string(), |_| true)
    }

    /// Moves the calling process, which must have one thread, into the group. Three system calls a hierarchy, no allocation unless one fails.
    pub fn join_self(&self) -> Result<(), Error> {
        self.join_where("0", |_| true)
    }

    /// [`Self::join_self`] without the v2 hierarchy.
    pub fn join_self_v1(&self) -> Result<(), Error> {
        self.join_where("0", |version| version == Version::V1)
    }

    fn join_where(&self, pid: &str, wanted: impl Fn(Version) -> bool) -> Result<(), Error> {
        for (index, dir) in self.dirs.iter().enumerate() {
            let Some(dir) = dir.as_ref().filter(|_| wanted(self.layout().hierarchies[index].version)) else { continue };
            // The caller as a single thread needs no lock over all process groups; taking that lock waits for a grace period.
            let alone = pid == "0" && self.layout().hierarchies[index].version == Version::V1;
            let file = if alone { "tasks" } else { "cgroup.procs" };
            write_at(dir.as_fd(), file, pid.as_bytes()).map_err(|errno| Error::Write {
                path: self.shown(index, file),
                value: pid.to_owned(),
                errno,
            })?;
        }
        Ok(())
    }

    /// The controllers that can be used in this group.
    pub fn available(&self) -> ControllerSet {
        let mut set = ControllerSet::EMPTY;
        for (index, dir) in self.dirs.iter().enumerate() {
            let Some(dir) = dir else { continue };
            set = set.or(match self.layout().hierarchies[index].version {
                Version::V1 => self.layout().hierarchies[index].controllers,
                Version::V2 => ControllerSet::parse(&read_at(dir.as_fd(), "cgroup.controllers").unwrap_or_default())
                    .with(Controller::Devices)
                    .with(Controller::Freezer)
                    .with(Controller::Cpuacct),
            });
        }
        set
    }

    /// Decides ([`plan`]) and carries out. Gives the warnings. Fails on the first limit that does not hold.
    pub fn apply(&self, resources: &Resources) -> Result<Vec<String>, Error> {
        let plan = plan(self.layout(), self.available(), resources, &self.current(resources))?;
        self.carry_out(&plan)?;
        Ok(plan.warnings)
    }

    /// The facts that [`plan`] needs for these resources; reads no more than they ask for.
    pub fn current(&self, resources: &Resources) -> Current {
        let mut current = Current::default();
        let memory = &resources.memory;
        let home = |c| self.layout().home(c);
        let number = |c, file: &str| self.read_file(c, file).ok().and_then(|t| t.trim().parse::<u64>().ok());
        if memory.limit.is_some() && memory.swap.is_some() && matches!(home(Controller::Memory), Some((_, Version::V1)))
        {
            // The kernel shows "unlimited" as the largest page-aligned number.
            current.memory_limit =
                number(Controller::Memory, "memory.limit_in_bytes").filter(|n| *n < i64::MAX as u64 - 0xffff);
        }
        if memory.check_before_update {
            match home(Controller::Memory) {
                Some((_, Version::V1)) => {
                    current.memory_usage = number(Controller::Memory, "memory.usage_in_bytes").unwrap_or(0);
                    let both = number(Controller::Memory, "memory.memsw.usage_in_bytes").unwrap_or(0);
                    current.swap_usage = both.saturating_sub(current.memory_usage);
                }
                Some((_, Version::V2)) => {
                    current.memory_usage = number(Controller::Memory, "memory.current").unwrap_or(0);
                    current.swap_usage = number(Controller::Memory, "memory.swap.current").unwrap_or(0);
                }
                None => {}
            }
        }
        let io = &resources.block_io;
        if io.weight.is_some() || io.leaf_weight.is_some() || !io.weight_devices.is_empty() {
            let bfq = match home(Controller::Io) {
                Some((_, Version::V2)) => "io.bfq.weight",
                _ => "blkio.bfq.weight",
            };
            current.bfq = self.has_file(Controller::Io, bfq);
            current.cfq = self.has_file(Controller::Io, "blkio.weight");
        }
        if let Some(page) = resources.hugepages.first() {
            let v1 = matches!(home(Controller::Hugetlb), Some((_, Version::V1)));
            let suffix = if v1 { "rsvd.limit_in_bytes" } else { "rsvd.max" };
            current.hugetlb_reserved =
                self.has_file(Controller::Hugetlb, &format!("hugetlb.{}.{suffix}", page.page_size));
        }
        current
    }

    /// Carries a plan out. A v2 device program comes last: the group has no process yet, or keeps the old program until then.
    pub fn carry_out(&self, plan: &Plan) -> Result<(), Error> {
        let mut again = Vec::new();
        for write in &plan.writes {
            match self.write_file(write.controller, &write.file, &write.value) {
                Ok(()) => {}
                Err(error) => match (write.tolerance, error.errno()) {
                    (Tolerance::Missing, Some(Errno::NOENT)) => {}
                    (Tolerance::Retry, Some(Errno::INVAL)) => again.push(write),
                    _ => return Err(error),
                },
            }
        }
        for write in again {
            self.write_file(write.controller, &write.file, &write.value)?;
        }
        if let Some(rules) = &plan.device_program
            && let Some(dir) = self.clone_into()
        {
            device_bpf::attach(dir, &device_bpf::compile(rules))?;
        }
        vocab::crash::point("cgroup.apply.done");
        Ok(())
    }

    /// Writes one file of a controller's directory (of the v2 directory if the controller has no home).
    pub fn write_file(&self, controller: Controller, file: &str, value: &str) -> Result<(), Error> {
        let (index, dir) = self.dir_of(controller, file)?;
        write_at(dir, file, value.as_bytes()).map_err(|errno| Error::Write {
            path: self.shown(index, file),
            value: value.to_owned(),
            errno,
        })
    }

    /// Reads one file of a controller's directory.
    pub fn read_file(&self, controller: Controller, file: &str) -> Result<String, Error> {
        let (index, dir) = self.dir_of(controller, file)?;
        read_at(dir, file).map_err(Error::io("read", self.shown(index, file)))
    }

    pub(super) fn dir_of(&self, controller: Controller, file: &str) -> Result<(usize, BorrowedFd<'_>), Error> {
        let index = self.layout().home(controller).map(|(i, _)| i).or(self.layout().unified()).unwrap_or(0);
        match &self.dirs[index] {
            Some(dir) => Ok((index, dir.as_fd())),
            None => Err(Error::io("open", self.shown(index, file))(Errno::NOENT)),
        }
    }

    pub(super) fn version_of(&self, controller: Controller) -> Option<Version> {
        self.layout().home(controller).filter(|(i, _)| self.dirs[*i].is_some()).map(|(_, v)| v)
    }

    fn has_file(&self, controller: Controller, file: &str) -> bool {
        self.dir_of(controller, file).is_ok_and(|(_, dir)| statat(dir, file, AtFlags::empty()).is_ok())
    }

    pub(super) fn shown(&self, index: usize, file: &str) -> PathBuf {
        self.cgroups.shown(index, &self.paths[index]).join(file)
    }

    /// Takes back what a failed creation made. A directory that was there and is in use stays: it cannot be removed.
    fn unmake(&self) {
        if self.created {
            for (index, _) in self.dirs.iter().enumerate() {
                let _ = rustix::fs::unlinkat(self.cgroups.root(index), &self.paths[index], AtFlags::REMOVEDIR);
            }
        }
    }
}

/// Only plain names: a path that could leave the hierarchy is refused, not cleaned.
fn plain(path: &Path) -> Result<PathBuf, Error> {
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => inner.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(Error::Path(path.to_owned())),
        }
    }
    Ok(inner)
}

/// `a/b/c` -> `a`, `a/b`.
pub(super) fn parents(path: &Path) -> Vec<&Path> {
    let mut all: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
    all.reverse();
    all
}

pub(super) fn open_dir(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat(root, path, DIRECTORY, Mode::empty())
}

pub(super) fn write_at(dir: BorrowedFd<'_>, file: &str, value: &[u8]) -> Result<(), Errno> {
    let fd = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    // One write: the kernel takes a whole setting or none of it.
    retry_on_intr(|| rustix::io::write(&fd, value)).map(drop)
}

pub(super) fn read_at(dir: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let fd = openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    read_fd(fd)
}

pub(super) fn read_fd(fd: OwnedFd) -> Result<String, Errno> {
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        match retry_on_intr(|| rustix::io::read(&fd, &mut buffer))? {
            0 => return String::from_utf8(text).map_err(|_| Errno::ILSEQ),
            n => text.extend_from_slice(&buffer[..n]),
        }
    }
}

fn read_path(path: &str) -> Result<String, Error> {
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::io("open", path))?;
    read_fd(fd).map_err(Error::io("read", path))
}

/// The processes directly in a directory. Those of a foreign pid namespace show as 0 and are left out.
pub(super) fn read_pids(dir: BorrowedFd<'_>) -> Result<Vec<i32>, Errno> {
    Ok(read_at(dir, "cgroup.procs")?.lines().filter_map(|l| l.parse().ok()).filter(|p| *p != 0).collect())
}
