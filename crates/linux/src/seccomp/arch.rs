//! The architectures a filter can speak of.

use serde::{Deserialize, Serialize};

/// x32 calls come under x86_64's audit number and are told apart by this bit of the call number.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// `SCMP_ARCH_*` of the OCI spec. Those without a table of numbers here are accepted and matched by no rule: their calls end the
/// process, as calls of an architecture that the profile does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Arch {
    #[serde(rename = "SCMP_ARCH_X86")]
    X86,
    #[serde(rename = "SCMP_ARCH_X86_64")]
    X86_64,
    #[serde(rename = "SCMP_ARCH_X32")]
    X32,
    #[serde(rename = "SCMP_ARCH_ARM")]
    Arm,
    #[serde(rename = "SCMP_ARCH_AARCH64")]
    Aarch64,
    #[serde(rename = "SCMP_ARCH_MIPS")]
    Mips,
    #[serde(rename = "SCMP_ARCH_MIPS64")]
    Mips64,
    #[serde(rename = "SCMP_ARCH_MIPS64N32")]
    Mips64n32,
    #[serde(rename = "SCMP_ARCH_MIPSEL")]
    Mipsel,
    #[serde(rename = "SCMP_ARCH_MIPSEL64")]
    Mipsel64,
    #[serde(rename = "SCMP_ARCH_MIPSEL64N32")]
    Mipsel64n32,
    #[serde(rename = "SCMP_ARCH_PPC")]
    Ppc,
    #[serde(rename = "SCMP_ARCH_PPC64")]
    Ppc64,
    #[serde(rename = "SCMP_ARCH_PPC64LE")]
    Ppc64le,
    #[serde(rename = "SCMP_ARCH_S390")]
    S390,
    #[serde(rename = "SCMP_ARCH_S390X")]
    S390x,
    #[serde(rename = "SCMP_ARCH_PARISC")]
    Parisc,
    #[serde(rename = "SCMP_ARCH_PARISC64")]
    Parisc64,
    #[serde(rename = "SCMP_ARCH_RISCV64")]
    Riscv64,
    #[serde(rename = "SCMP_ARCH_LOONGARCH64")]
    Loongarch64,
    #[serde(rename = "SCMP_ARCH_M68K")]
    M68k,
    #[serde(rename = "SCMP_ARCH_SH")]
    Sh,
    #[serde(rename = "SCMP_ARCH_SHEB")]
    Sheb,
}

impl Arch {
    pub const ALL: [Self; 23] = [
        Self::X86,
        Self::X86_64,
        Self::X32,
        Self::Arm,
        Self::Aarch64,
        Self::Mips,
        Self::Mips64,
        Self::Mips64n32,
        Self::Mipsel,
        Self::Mipsel64,
        Self::Mipsel64n32,
        Self::Ppc,
        Self::Ppc64,
        Self::Ppc64le,
        Self::S390,
        Self::S390x,
        Self::Parisc,
        Self::Parisc64,
        Self::Riscv64,
        Self::Loongarch64,
        Self::M68k,
        Self::Sh,
        Self::Sheb,
    ];

    /// What this program was built for.
    pub const NATIVE: Self = if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else if cfg!(target_arch = "riscv64") {
        Self::Riscv64
    } else if cfg!(target_arch = "loongarch64") {
        Self::Loongarch64
    } else if cfg!(target_arch = "s390x") {
        Self::S390x
    } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        Self::Ppc64le
    } else if cfg!(target_arch = "arm") {
        Self::Arm
    } else if cfg!(target_arch = "x86") {
        Self::X86
    } else {
        panic!("no system call table for this architecture")
    };

    /// `AUDIT_ARCH_*` as it appears in `seccomp_data.arch` (linux/audit.h); `None` where there is no table of calls.
    pub fn audit(self) -> Option<u32> {
        Some(match self {
            Self::X86 => 0x4000_0003,
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::Arm => 0x4000_0028,
            Self::Aarch64 => 0xc000_00b7,
            Self::Mips => 0x0000_0008,
            Self::Mipsel => 0x4000_0008,
            Self::Mips64 => 0x8000_0008,
            Self::Mipsel64 => 0xc000_0008,
            Self::Ppc64 => 0x8000_0015,
            Self::Ppc64le => 0xc000_0015,
            Self::S390x => 0x8000_0016,
            Self::Riscv64 => 0xc000_00f3,
            Self::Loongarch64 => 0xc000_0102,
            _ => return None,
        })
    }

    /// Whether arguments are 32 bits wide. x32 is not: its registers carry 64.
    pub fn is_32_bit(self) -> bool {
        matches!(
            self,
            Self::X86
                | Self::Arm
                | Self::Mips
                | Self::Mipsel
                | Self::Ppc
                | Self::S390
                | Self::Parisc
                | Self::M68k
                | Self::Sh
                | Self::Sheb
        )
    }

    pub fn is_big_endian(self) -> bool {
        matches!(
            self,
            Self::Mips
                | Self::Mips64
                | Self::Mips64n32
                | Self::Ppc
                | Self::Ppc64
                | Self::S390
                | Self::S390x
                | Self::Parisc
                | Self::Parisc64
                | Self::M68k
                | Self::Sheb
        )
    }

    /// Calls that carry several others: `socketcall` (first argument is which) and System V `ipc` (low half of the first argument).
    pub(super) fn multiplexes(self) -> bool {
        matches!(self, Self::X86 | Self::S390x | Self::Ppc64 | Self::Ppc64le)
    }
}
