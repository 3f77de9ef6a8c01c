//! Resource limits, by number and by the names that OCI configs and Docker use.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Attempt, Result, sys};

const NAMES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Which limit. The numbers are those of x86, arm64 and riscv64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resource(u8);

impl Resource {
    pub const CORE: Self = Self(4);
    pub const NPROC: Self = Self(6);
    pub const NOFILE: Self = Self(7);
    pub const MEMLOCK: Self = Self(8);

    /// `RLIMIT_NOFILE` or, as Docker's command line has it, `nofile`.
    pub fn from_name(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        NAMES.iter().position(|known| *known == upper || known[7..] == upper).map(|number| Self(number as u8))
    }

    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

impl Limit {
    pub const UNLIMITED: u64 = u64::MAX;
}

/// Of the calling process. EPERM: raising a hard limit needs CAP_SYS_RESOURCE. EINVAL: soft above hard.
pub fn set(resource: Resource, limit: Limit) -> Result<()> {
    set_for(0, resource, limit)
}

/// Of another process (0 is the caller).
pub fn set_for(pid: i32, resource: Resource, limit: Limit) -> Result<()> {
    let raw = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: `raw` is a valid rlimit64 that the kernel reads; no old value is asked for.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            u32::from(resource.0),
            &raw const raw,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    sys::check(ret).map(drop).attempt("prlimit64", format_args!("{pid}, {resource:?}, {}:{}", limit.soft, limit.hard))
}

pub fn get(resource: Resource) -> Result<Limit> {
    let mut raw = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new value is given; `raw` is valid for writing.
    let ret = unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, u32::from(resource.0), std::ptr::null::<libc::rlimit64>(), &raw mut raw)
    };
    sys::check(ret).attempt("prlimit64", format_args!("{resource:?}"))?;
    Ok(Limit { soft: raw.rlim_cur, hard: raw.rlim_max })
}

/// Raises the soft limit to the hard one. For a process that holds many descriptors.
pub fn raise_soft(resource: Resource) -> Result<u64> {
    let limit = get(resource)?;
    set(resource, Limit { soft: limit.hard, hard: limit.hard })?;
    Ok(limit.hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_two_spellings() {
        assert_eq!(Resource::from_name("RLIMIT_NOFILE"), Some(Resource::NOFILE));
        assert_eq!(Resource::from_name("nofile"), Some(Resource::NOFILE));
        assert_eq!(Resource::from_name("NOSUCH"), None);
        let limit = get(Resource::NOFILE).unwrap();
        set(Resource::NOFILE, limit).unwrap();
    }
}
