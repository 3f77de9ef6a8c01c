//! Being told when a group runs out of memory or becomes empty.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::controller::Controller;
use super::error::Error;
use super::group::Group;
use super::layout::Version;

/// What a [`Watch`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// Out of memory: v1's eventfd, v2's `memory.events`.
    Memory,
    /// Processes came or all went, frozen or thawed: v2's `cgroup.events`. v1 has no such news.
    Life,
}

/// A descriptor to wait on. Wait for **input** where [`Watch::waits_for_input`] is true (v1's eventfd), else for **priority** events
/// (POLLPRI/EPOLLPRI, v2 files); then [`Watch::read`].
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    input: bool,
    /// v1: `memory.oom_control`, which tells what the eventfd is about.
    state: Option<OwnedFd>,
}

/// Counters since the group was made, and its present state. `None` where this kernel or version does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupEvents {
    /// Times the limit was hit and nothing could be reclaimed.
    pub oom: Option<u64>,
    /// Processes killed for it, in the group and beneath.
    pub oom_kill: Option<u64>,
    pub under_oom: Option<bool>,
    pub populated: Option<bool>,
    pub frozen: Option<bool>,
}

impl Group {
    /// `None` where there is nothing that could be watched (no memory controller; `Life` on v1).
    pub fn watch(&self, kind: WatchKind) -> Result<Option<Watch>, Error> {
        let open = |file: &str, flags: OFlags, controller| -> Result<OwnedFd, Error> {
            let (index, dir) = self.dir_of(controller, file)?;
            openat(dir, file, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(Error::io("open", self.shown(index, file)))
        };
        match kind {
            WatchKind::Life => {
                let Some(dir) = self.clone_into() else { return Ok(None) };
                let index = self.layout().unified().unwrap_or(0);
                let fd = openat(dir, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(Error::io("open", self.shown(index, "cgroup.events")))?;
                prime(&fd);
                Ok(Some(Watch { fd, input: false, state: None }))
            }
            WatchKind::Memory => match self.version_of(Controller::Memory) {
                None => Ok(None),
                Some(Version::V2) => match open("memory.events", OFlags::RDONLY, Controller::Memory) {
                    Ok(fd) => {
                        prime(&fd);
                        Ok(Some(Watch { fd, input: false, state: None }))
                    }
                    // The controller exists but is not handed down to this group.
                    Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
                    Err(error) => Err(error),
                },
                Some(Version::V1) => {
                    let state = open("memory.oom_control", OFlags::RDONLY, Controller::Memory)?;
                    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| Error::Io {
                        call: "eventfd for",
                        path: self.shown(0, "memory.oom_control"),
                        errno,
                    })?;
                    let numbers = |a: BorrowedFd<'_>, b: BorrowedFd<'_>| {
                        use std::os::fd::AsRawFd;
                        format!("{} {}", a.as_raw_fd(), b.as_raw_fd())
                    };
                    self.write_file(Controller::Memory, "cgroup.event_control", &numbers(fd.as_fd(), state.as_fd()))?;
                    Ok(Some(Watch { fd, input: true, state: Some(state) }))
                }
            },
        }
    }

    /// The same facts without waiting.
    pub fn events(&self) -> GroupEvents {
        let mut events = GroupEvents::default();
        if self.clone_into().is_some() {
            events.take(&self.read_v2("cgroup.events").unwrap_or_default());
        }
        let file = match self.version_of(Controller::Memory) {
            Some(Version::V1) => "memory.oom_control",
            Some(Version::V2) => "memory.events",
            None => return events,
        };
        events.take(&self.read_file(Controller::Memory, file).unwrap_or_default());
        events
    }

    fn read_v2(&self, file: &str) -> Option<String> {
        super::group::read_at(self.clone_into()?, file).ok()
    }
}

impl Watch {
    pub fn waits_for_input(&self) -> bool {
        self.input
    }

    /// Takes the news: clears readiness and gives the present counters. On v1 a removed group also wakes the eventfd; then every
    /// field is `None`.
    pub fn read(&self) -> GroupEvents {
        let mut events = GroupEvents::default();
        let mut buffer = [0u8; 1024];
        if self.input {
            let _ = rustix::io::read(&self.fd, &mut buffer[..8]);
        }
        let source = self.state.as_ref().unwrap_or(&self.fd);
        if let Ok(n) = rustix::io::pread(source, &mut buffer, 0) {
            events.take(std::str::from_utf8(&buffer[..n]).unwrap_or_default());
        }
        events
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A kernfs file counts as changed until it was read once.
fn prime(fd: &OwnedFd) {
    let _ = rustix::io::pread(fd, &mut [0u8; 1024], 0);
}

impl GroupEvents {
    /// Lines `key number` of `cgroup.events`, `memory.events` or v1's `memory.oom_control`.
    fn take(&mut self, text: &str) {
        for (key, value) in text.lines().filter_map(|l| l.split_once(' ')) {
            let Ok(n) = value.trim().parse::<u64>() else { continue };
            match key {
                "oom" => self.oom = Some(n),
                "oom_kill" => self.oom_kill = Some(n),
                "under_oom" => self.under_oom = Some(n != 0),
                "populated" => self.populated = Some(n != 0),
                "frozen" => self.frozen = Some(n != 0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_files_of_both_versions_are_read() {
        let mut events = GroupEvents::default();
        events.take("populated 1\nfrozen 0\n");
        events.take("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n");
        let expected = GroupEvents {
            oom: Some(3),
            oom_kill: Some(2),
            under_oom: None,
            populated: Some(true),
            frozen: Some(false),
        };
        assert_eq!(events, expected);
        let mut events = GroupEvents::default();
        events.take("oom_kill_disable 0\nunder_oom 1\noom_kill 4\n");
        assert_eq!(events, GroupEvents { under_oom: Some(true), oom_kill: Some(4), ..GroupEvents::default() });
    }
}
