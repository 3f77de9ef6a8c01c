//! The controllers by name, and small sets of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A resource controller. `Devices` and `Freezer` are v1 controllers whose work v2 does without one (an eBPF program
/// and `cgroup.freeze`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Devices,
    Freezer,
    /// `blkio` on v1, `io` on v2.
    Io,
    Pids,
    Hugetlb,
    Rdma,
    NetCls,
    NetPrio,
    PerfEvent,
    Misc,
    Dmem,
}

impl Controller {
    pub const ALL: [Self; 15] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Memory,
        Self::Devices,
        Self::Freezer,
        Self::Io,
        Self::Pids,
        Self::Hugetlb,
        Self::Rdma,
        Self::NetCls,
        Self::NetPrio,
        Self::PerfEvent,
        Self::Misc,
        Self::Dmem,
    ];

    /// The kernel's name on v1 (`/proc/cgroups`, mount options).
    pub const fn name_v1(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            other => other.name(),
        }
    }

    /// The kernel's name on v2 (`cgroup.controllers`); v1-only controllers have the same name on both.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Io => "io",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
            Self::Rdma => "rdma",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
            Self::PerfEvent => "perf_event",
            Self::Misc => "misc",
            Self::Dmem => "dmem",
        }
    }

    /// From a v1 or v2 name; a controller this build does not know is `None` and left alone.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name || c.name_v1() == name)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of controllers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ControllerSet(u32);

impl ControllerSet {
    pub const EMPTY: Self = Self(0);

    pub const fn with(self, controller: Controller) -> Self {
        Self(self.0 | 1 << controller as u8)
    }

    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub const fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    pub const fn or(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub const fn contains(self, controller: Controller) -> bool {
        self.0 & 1 << controller as u8 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Controller> {
        Controller::ALL.into_iter().filter(move |c| self.contains(*c))
    }

    /// From names apart by white space or commas (`cgroup.controllers`, v1 mount options); unknown names are skipped.
    pub fn parse(names: &str) -> Self {
        names.split([' ', ',', '\n']).filter_map(Controller::from_name).collect()
    }
}

impl FromIterator<Controller> for ControllerSet {
    fn from_iter<I: IntoIterator<Item = Controller>>(controllers: I) -> Self {
        controllers.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for ControllerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Controller::name)).finish()
    }
}
