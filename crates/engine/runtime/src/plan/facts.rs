//! What the plan needs to know about this machine, gathered once so that planning itself is pure.

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
    /// Number of the kernel's last capability.
    pub last_capability: u8,
    pub apparmor: bool,
    pub selinux: bool,
    /// /sys/fs/resctrl is mounted.
    pub resctrl: bool,
    pub cgroup_version: CgroupVersion,
    /// Our own group on the v2 hierarchy, `/` apart, for relative cgroup paths; empty at the root.
    pub own_cgroup: String,
    pub architecture: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// Controllers on v1 hierarchies, perhaps with an empty v2 beside them.
    V1,
    V2,
    /// Nothing is mounted.
    None,
}

impl HostFacts {
    /// Asks the kernel; a handful of cheap calls.
    pub fn gather() -> linux::Result<Self> {
        let caps = linux::caps::get()?;
        let (euid, egid) = linux::cred::effective_ids();
        let mut facts = Self::typical();
        (facts.euid, facts.egid) = (euid, egid);
        facts.privileged = caps.effective.contains(linux::caps::Capability::SYS_ADMIN);
        Ok(facts)
    }

    /// Bit n is set if the kernel knows capability n.
    pub const fn known_capabilities(&self) -> u64 {
        if self.last_capability >= 63 { u64::MAX } else { (1 << (self.last_capability + 1)) - 1 }
    }

    /// A current kernel seen by root, for tables.
    pub fn typical() -> Self {
        Self {
            euid: 0,
            egid: 0,
            privileged: true,
            initial_user_namespace: true,
            last_capability: 40,
            apparmor: false,
            selinux: false,
            resctrl: false,
            cgroup_version: CgroupVersion::V1,
            own_cgroup: String::new(),
            architecture: "x86_64".into(),
        }
    }
}
