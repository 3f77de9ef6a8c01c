//! Capabilities: the five sets of a process, and names for numbers.

use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Attempt, Result, sys};

/// Names in the kernel's order: the index is the number.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Capability(u8);

impl Capability {
    pub const DAC_READ_SEARCH: Self = Self(2);
    pub const SETPCAP: Self = Self(8);
    pub const NET_ADMIN: Self = Self(12);
    pub const SYS_PTRACE: Self = Self(19);
    pub const SYS_ADMIN: Self = Self(21);
    pub const SYS_RESOURCE: Self = Self(24);
    pub const MKNOD: Self = Self(27);

    /// `CAP_NET_RAW` exactly, in any case; without the prefix too if `bare`, as Docker's command line takes it.
    pub fn from_name(name: &str, bare: bool) -> Option<Self> {
        let full = name.to_ascii_uppercase();
        let found = NAMES.iter().position(|known| *known == full || (bare && known[4..] == full));
        found.map(|number| Self(number as u8))
    }

    pub fn from_number(number: u8) -> Option<Self> {
        (number < 64).then_some(Self(number))
    }

    pub fn number(self) -> u8 {
        self.0
    }

    /// `None` for one that is younger than this table.
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(usize::from(self.0)).copied()
    }

    /// Every capability that has a name here.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..NAMES.len() as u8).map(Self)
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct CapSet(pub u64);

impl CapSet {
    pub const EMPTY: Self = Self(0);

    pub fn contains(self, cap: Capability) -> bool {
        self.0 >> cap.0 & 1 == 1
    }

    pub fn insert(&mut self, cap: Capability) {
        self.0 |= 1 << cap.0;
    }

    pub fn remove(&mut self, cap: Capability) {
        self.0 &= !(1 << cap.0);
    }

    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..64).map(Capability).filter(move |cap| self.contains(*cap))
    }
}

impl FromIterator<Capability> for CapSet {
    fn from_iter<I: IntoIterator<Item = Capability>>(caps: I) -> Self {
        let mut set = Self::EMPTY;
        caps.into_iter().for_each(|cap| set.insert(cap));
        set
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The three sets that `capset` changes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sets {
    pub effective: CapSet,
    pub permitted: CapSet,
    pub inheritable: CapSet,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

const VERSION_3: u32 = 0x2008_0522;

/// Of the calling thread.
pub fn get() -> Result<Sets> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 means two data blocks of three words, which `data` has.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    sys::check(ret).attempt("capget", format_args!(""))?;
    let set = |at: usize| CapSet(u64::from(data[0][at]) | u64::from(data[1][at]) << 32);
    Ok(Sets { effective: set(0), permitted: set(1), inheritable: set(2) })
}

/// Of the calling thread. EPERM for more than it has.
pub fn set(sets: &Sets) -> Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| {
        [(sets.effective.0 >> shift) as u32, (sets.permitted.0 >> shift) as u32, (sets.inheritable.0 >> shift) as u32]
    };
    let data = [half(0), half(32)];
    // SAFETY: as in `get`; the kernel only reads `data`.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    sys::check(ret).map(drop).attempt("capset", format_args!("{sets:?}"))
}

/// The bounding set, as far as this kernel knows capabilities.
pub fn bounding() -> CapSet {
    let mut set = CapSet::EMPTY;
    for number in 0..64 {
        // SAFETY: numbers only. EINVAL past the last capability that the kernel knows.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(number), 0u64, 0u64, 0u64) } {
            1 => set.insert(Capability(number)),
            0 => {}
            _ => break,
        }
    }
    set
}

/// Every capability that this kernel knows.
pub fn known() -> CapSet {
    let known = |number: u8| {
        // SAFETY: numbers only. EINVAL past the last capability that the kernel knows.
        unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(number), 0u64, 0u64, 0u64) >= 0 }
    };
    // The numbers have no gaps: one question answers for a current kernel.
    let last = if known(40) && !known(41) { 40 } else { (0..64).take_while(|n| known(*n)).last().unwrap_or(0) };
    CapSet(u64::MAX >> (63 - last))
}

/// Drops everything from the bounding set that is not in `keep`, also capabilities younger than the table here. Needs CAP_SETPCAP.
pub fn limit_bounding(keep: CapSet) -> Result<()> {
    for number in 0..64 {
        let cap = Capability(number);
        if keep.contains(cap) {
            continue;
        }
        // SAFETY: numbers only.
        let ret = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, u64::from(number), 0u64, 0u64, 0u64) };
        match sys::check(ret.into()) {
            Ok(_) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno).attempt("prctl", format_args!("CAPBSET_DROP, {:?}", cap.name())),
        }
    }
    Ok(())
}

/// Replaces the ambient set. Each must be permitted and inheritable.
pub fn set_ambient(set: CapSet) -> Result<()> {
    // SAFETY: numbers only.
    let ret = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0u64, 0u64, 0u64) };
    sys::check(ret.into()).attempt("prctl", format_args!("CAP_AMBIENT_CLEAR_ALL"))?;
    for cap in set.iter() {
        // SAFETY: numbers only.
        let ret = unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(cap.0), 0u64, 0u64)
        };
        sys::check(ret.into()).attempt("prctl", format_args!("CAP_AMBIENT_RAISE, {:?}", cap.name()))?;
    }
    Ok(())
}

/// The ambient set of the calling thread.
pub fn ambient() -> CapSet {
    Capability::all()
        .filter(|cap| {
            // SAFETY: numbers only; -1 (a capability that the kernel does not know) counts as absent.
            let ret = unsafe {
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as u64, u64::from(cap.0), 0u64, 0u64)
            };
            ret == 1
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (name, bare, number) in [
            ("CAP_CHOWN", false, Some(0)),
            ("cap_sys_admin", false, Some(21)),
            ("NET_RAW", true, Some(13)),
            ("NET_RAW", false, None),
            ("CAP_CHECKPOINT_RESTORE", false, Some(40)),
            ("CAP_NOTHING", true, None),
            ("", true, None),
        ] {
            assert_eq!(Capability::from_name(name, bare).map(Capability::number), number, "{name}");
        }
    }

    #[test]
    fn our_own_sets_can_be_read() {
        let sets = get().unwrap();
        assert_eq!(sets.effective.0 & !sets.permitted.0, 0);
        set(&sets).unwrap();
        assert_eq!(sets.permitted.0 & !bounding().0, 0);
    }
}
