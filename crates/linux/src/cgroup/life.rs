//! How a group stops: frozen, killed, removed.
//!
//! Where a v2 directory exists (also beside v1 controllers) freezing and killing are one write each and the kernel tells when it is
//! done. On v1 alone a kill is freeze, signal everyone, thaw, again: nobody can fork away while frozen.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::controller::Controller;
use super::error::Error;
use super::group::{Cgroups, Group, open_dir, read_at, read_pids, write_at};
use super::layout::Version;

impl Group {
    /// The processes directly in the group (one id a process, threads not counted), sorted.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let (index, dir) = self.main();
        let mut pids = read_pids(dir).map_err(Error::io("read", self.shown(index, "cgroup.procs")))?;
        pids.sort_unstable();
        Ok(pids)
    }

    /// The processes in the group and every group beneath it, in any hierarchy, sorted.
    pub fn all_pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        for (index, dir) in self.dirs.iter().enumerate() {
            if let Some(dir) = dir {
                collect(dir.as_fd(), &mut pids).map_err(Error::io("read", self.shown(index, "cgroup.procs")))?;
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process of the group where it is, and waits until all have stopped, at most `wait`.
    /// On failure the group is running again.
    pub fn freeze(&self, wait: Duration) -> Result<(), Error> {
        let end = Instant::now() + wait;
        let done = match self.clone_into() {
            Some(dir) => {
                self.v2_write("cgroup.freeze", "1")?;
                wait_event(dir, "frozen 1", end)
            }
            None => {
                self.freezer_write("FROZEN")?;
                self.v1_frozen(end)
            }
        };
        if done {
            return Ok(());
        }
        self.thaw()?;
        Err(Error::Freeze { path: self.shown(self.main().0, ""), state: "frozen", waited_ms: wait.as_millis() as u64 })
    }

    /// Lets a frozen group run. A group that is not frozen stays as it is.
    pub fn thaw(&self) -> Result<(), Error> {
        match self.clone_into() {
            Some(_) => self.v2_write("cgroup.freeze", "0"),
            None => self.freezer_write("THAWED"),
        }
    }

    /// Whether the group was told to freeze and has.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match self.clone_into() {
            Some(dir) => {
                let index = self.layout().unified().unwrap_or(0);
                let text =
                    read_at(dir, "cgroup.events").map_err(Error::io("read", self.shown(index, "cgroup.events")))?;
                Ok(text.lines().any(|l| l == "frozen 1"))
            }
            None if self.version_of(Controller::Freezer).is_none() => Ok(false),
            None => Ok(self.read_file(Controller::Freezer, "freezer.state")?.trim() == "FROZEN"),
        }
    }

    /// SIGKILL for every process of the group and of the groups beneath it, also frozen ones. Does not wait for them to be gone.
    pub fn kill(&self) -> Result<(), Error> {
        let mut at_once = false;
        if self.clone_into().is_some() {
            match self.v2_write("cgroup.kill", "1") {
                Ok(()) => at_once = true,
                // Linux before 5.14 has no such file.
                Err(Error::Write { errno: Errno::NOENT, .. }) => {}
                Err(error) => return Err(error),
            }
            // What is left for below is the dying and whoever was never in the v2 directory.
        }
        let pids = self.all_pids()?;
        if pids.is_empty() {
            return Ok(());
        }
        let freezer = !at_once && self.version_of(Controller::Freezer) == Some(Version::V1);
        // Not being able to freeze (already dying, or no freezer) only means more rounds.
        let _ = if freezer { self.freezer_write("FROZEN") } else { Ok(()) };
        let signalled = self.signal_all();
        if freezer {
            self.freezer_write("THAWED")?;
        }
        signalled
    }

    fn signal_all(&self) -> Result<(), Error> {
        // A fork between listing and signalling can escape one round where nothing freezes; it is in the next listing.
        let mut known: Vec<i32> = Vec::new();
        for _ in 0..100 {
            let pids = self.all_pids()?;
            let new: Vec<i32> = pids.iter().copied().filter(|p| known.binary_search(p).is_err()).collect();
            for pid in &new {
                let Some(target) = Pid::from_raw(*pid) else { continue };
                match kill_process(target, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => {
                        return Err(Error::Io {
                            call: "kill (SIGKILL) a process of",
                            path: self.shown(self.main().0, ""),
                            errno,
                        });
                    }
                }
            }
            if new.is_empty() {
                break;
            }
            known = pids;
        }
        Ok(())
    }

    /// Whether any process is in the group or beneath it.
    pub fn is_populated(&self) -> Result<bool, Error> {
        Ok(!self.all_pids()?.is_empty())
    }

    /// [`Cgroups::remove`] of this group.
    pub fn remove(self, wait: Duration) -> Result<(), Error> {
        let Self { cgroups, paths, dirs, .. } = self;
        drop(dirs);
        cgroups.remove_at(&paths, wait)
    }

    /// The directory whose list of processes speaks for the group: v2's where there is one.
    pub(super) fn main(&self) -> (usize, BorrowedFd<'_>) {
        let with_dir = |i: &usize| self.dirs[*i].is_some();
        let index = self.layout().unified().filter(with_dir).or((0..self.dirs.len()).find(with_dir));
        let index = index.expect("a group has at least one directory");
        (index, self.dirs[index].as_ref().expect("just checked").as_fd())
    }

    fn v2_write(&self, file: &str, value: &str) -> Result<(), Error> {
        let (index, dir) = self.main();
        write_at(dir, file, value.as_bytes()).map_err(|errno| Error::Write {
            path: self.shown(index, file),
            value: value.to_owned(),
            errno,
        })
    }

    fn freezer_write(&self, state: &str) -> Result<(), Error> {
        self.write_file(Controller::Freezer, "freezer.state", state)
    }

    /// v1 announces nothing, so this asks again and again; a process that forks while freezing starts can leave the group in
    /// FREEZING until the state is written once more.
    fn v1_frozen(&self, end: Instant) -> bool {
        let mut pause = Duration::from_micros(10);
        loop {
            match self.read_file(Controller::Freezer, "freezer.state") {
                Ok(text) if text.trim() == "FROZEN" => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
            if pause >= Duration::from_millis(1) {
                let _ = self.freezer_write("FROZEN");
            }
        }
    }
}

impl Cgroups {
    /// Removes the group and every group beneath it from all hierarchies. Waits at most `wait` for processes that are still
    /// dying. A group that does not exist is success.
    pub fn remove(&self, path: &Path, wait: Duration) -> Result<(), Error> {
        self.remove_at(&self.resolve(path)?, wait)
    }

    pub(super) fn remove_at(&self, paths: &[std::path::PathBuf], wait: Duration) -> Result<(), Error> {
        let end = Instant::now() + wait;
        for (index, path) in paths.iter().enumerate().rev() {
            // The mount point itself is not ours to remove.
            if path.as_os_str().is_empty() {
                return Err(Error::Path(self.shown(index, path)));
            }
            self.remove_in(index, path, end, wait)?;
            vocab::crash::point("cgroup.remove.hierarchy");
        }
        Ok(())
    }

    fn remove_in(&self, index: usize, path: &Path, end: Instant, wait: Duration) -> Result<(), Error> {
        let mut pause = Duration::from_micros(100);
        loop {
            let errno = match remove_tree(self.root(index), path) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(errno) => errno,
            };
            // A hierarchy that takes no change from us says so before it says that the group is not there.
            if matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS)
                && matches!(open_dir(self.root(index), path), Err(Errno::NOENT | Errno::ACCESS))
            {
                return Ok(());
            }
            if errno != Errno::BUSY && errno != Errno::NOTEMPTY {
                return Err(Error::io("rmdir", self.shown(index, path))(errno));
            }
            if Instant::now() >= end {
                let mut pids = Vec::new();
                if let Ok(dir) = open_dir(self.root(index), path) {
                    let _ = collect(dir.as_fd(), &mut pids);
                }
                return Err(Error::Busy { path: self.shown(index, path), waited_ms: wait.as_millis() as u64, pids });
            }
            match self.layout().hierarchies[index].version {
                // The kernel says when the last process has gone; right after that a rmdir can still be early, hence the loop.
                Version::V2 => {
                    if let Ok(dir) = open_dir(self.root(index), path)
                        && !read_at(dir.as_fd(), "cgroup.events").is_ok_and(|t| t.contains("populated 0"))
                    {
                        wait_event(dir.as_fd(), "populated 0", end);
                    } else {
                        std::thread::sleep(pause);
                    }
                }
                // v1 says nothing: ask again, less and less often.
                Version::V1 => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// rmdir, children first where there are any.
fn remove_tree(root: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    match unlinkat(root, path, AtFlags::REMOVEDIR) {
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        done => return done,
    }
    let dir = open_dir(root, path)?;
    for child in children(dir.as_fd())? {
        match remove_tree(dir.as_fd(), Path::new(&child)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    unlinkat(root, path, AtFlags::REMOVEDIR)
}

fn children(dir: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

fn collect(dir: BorrowedFd<'_>, pids: &mut Vec<i32>) -> Result<(), Errno> {
    match read_pids(dir) {
        Ok(here) => pids.extend(here),
        // A threaded group shows its processes only at its root; a directory removed meanwhile has none.
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    for child in children(dir)? {
        match open_dir(dir, Path::new(&child)) {
            Ok(child) => collect(child.as_fd(), pids)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Waits until `cgroup.events` has this line. The kernel wakes pollers at each change.
fn wait_event(dir: BorrowedFd<'_>, line: &str, end: Instant) -> bool {
    use rustix::fs::{Mode, OFlags, openat};
    let Ok(fd): Result<OwnedFd, _> = openat(dir, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    else {
        return false;
    };
    let mut buffer = [0u8; 256];
    loop {
        // A group removed meanwhile reads as an error.
        let Ok(n) = rustix::io::pread(&fd, &mut buffer, 0) else { return false };
        if std::str::from_utf8(&buffer[..n]).is_ok_and(|t| t.lines().any(|l| l == line)) {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::PRI)], Some(&timeout));
    }
}
