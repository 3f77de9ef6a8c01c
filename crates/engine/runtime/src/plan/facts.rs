//! What the plan needs to know about this machine, gathered once so that planning itself is pure.

use linux::caps::Capability;
use linux::cgroup::Layout;
use serde::{Deserialize, Serialize};

/// Facts about the host and about ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub euid: u32,
    pub egid: u32,
    /// CAP_SYS_ADMIN is effective here.
    pub privileged: bool,
    /// We are in the host's first user namespace (its map is the identity).
    pub initial_user_namespace: bool,
    /// Bit n is set if the kernel knows capability n.
    pub known_capabilities: u64,
    pub apparmor: bool,
    pub selinux: bool,
    /// /sys/fs/resctrl is mounted.
    pub resctrl: bool,
    /// No hierarchy at all if cgroups are not mounted.
    pub cgroups: Layout,
    /// Our own group, where relative cgroup paths start; `/` unless asked for with [`HostFacts::find_own_cgroup`].
    pub own_cgroup: String,
}

impl HostFacts {
    /// Asks the kernel; a handful of cheap calls.
    ///
    /// # Errors
    /// A system call that fails on no working Linux.
    pub fn gather() -> linux::Result<Self> {
        let caps = linux::caps::get()?;
        let (euid, egid) = linux::cred::effective_ids();
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let initial = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) || map.is_empty();
        Ok(Self {
            euid,
            egid,
            privileged: caps.effective.contains(Capability::SYS_ADMIN),
            initial_user_namespace: initial,
            known_capabilities: linux::caps::known().0,
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|flag| flag.first() == Some(&b'Y')),
            selinux: std::path::Path::new("/sys/fs/selinux/enforce").exists(),
            resctrl: std::path::Path::new("/sys/fs/resctrl/info").exists(),
            cgroups: crate::launch::cgroups()
                .map_or_else(|_| Layout { hierarchies: Vec::new() }, |cgroups| cgroups.layout().clone()),
            own_cgroup: "/".into(),
        })
    }

    /// Reads our own group: only needed where a spec has no absolute `cgroupsPath`.
    pub fn find_own_cgroup(&mut self) {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path = |wanted: &dyn Fn(&str) -> bool| {
            text.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                wanted(controllers).then(|| path.to_owned())
            })
        };
        let v2 = || path(&str::is_empty);
        let memory = || path(&|list| list.split(',').any(|c| c == "memory"));
        let found = if self.cgroups.is_v2_only() { v2() } else { memory().or_else(v2) };
        self.own_cgroup = found.unwrap_or_else(|| "/".into());
    }

    /// A current kernel seen by root, for tables.
    pub fn typical() -> Self {
        Self {
            euid: 0,
            egid: 0,
            privileged: true,
            initial_user_namespace: true,
            known_capabilities: (1 << 41) - 1,
            apparmor: false,
            selinux: false,
            resctrl: false,
            cgroups: Layout::parse(
                b"1 1 0:1 / /sys/fs/cgroup/memory rw - cgroup c rw,memory\n2 1 0:2 / /sys/fs/cgroup/devices rw - cgroup c rw,devices\n",
                false,
            ),
            own_cgroup: "/".into(),
        }
    }
}
