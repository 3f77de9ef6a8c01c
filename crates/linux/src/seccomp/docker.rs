//! Docker's profile format: an OCI profile whose rules carry conditions on capabilities, architecture and kernel version.
//! `--security-opt seccomp=FILE` takes it, and the default profile is written in it. No kernel call here.

use serde::{Deserialize, Serialize};
use vocab::ErrorKind;

use super::arch::Arch;
pub use super::docker_default::default_profile;
use super::profile::{Action, Condition, Flag, Profile, Rule};

/// The file as Docker reads it (unknown fields are ignored, as Docker does).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DockerProfile {
    pub default_action: Option<Action>,
    pub default_errno_ret: Option<u32>,
    /// Either this or `arch_map`.
    #[serde(deserialize_with = "null_is_empty")]
    pub architectures: Vec<Arch>,
    #[serde(deserialize_with = "null_is_empty")]
    pub arch_map: Vec<ArchMap>,
    pub flags: Option<Vec<Flag>>,
    pub listener_path: Option<String>,
    pub listener_metadata: Option<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub syscalls: Vec<DockerRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchMap {
    pub architecture: Arch,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub sub_architectures: Vec<Arch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DockerRule {
    /// The old form: one name.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub names: Vec<String>,
    pub action: Action,
    #[serde(default)]
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub args: Vec<Condition>,
    /// All must hold.
    #[serde(default)]
    pub includes: Option<When>,
    /// None may hold.
    #[serde(default)]
    pub excludes: Option<When>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct When {
    /// `CAP_*`.
    #[serde(deserialize_with = "null_is_empty")]
    pub caps: Vec<String>,
    /// libseccomp's names: `amd64`, `arm64`, `x86`, `s390x`.
    #[serde(deserialize_with = "null_is_empty")]
    pub arches: Vec<String>,
    /// `major.minor`.
    pub min_kernel: Option<String>,
}

/// What a profile is resolved for.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// The container's bounding set, `CAP_*`.
    pub capabilities: &'a [String],
    pub arch: Arch,
    /// Of the running kernel: major, minor.
    pub kernel: (u32, u32),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("seccomp profile: both 'architectures' and 'archMap' are given, use one")]
    Architectures,
    #[error("seccomp profile: rule {0} gives both 'name' and 'names', use one")]
    Names(usize),
    #[error("seccomp profile: rule {0}: minKernel {1:?} is not <major>.<minor>")]
    Kernel(usize, String),
    #[error("seccomp profile: there are rules but no defaultAction")]
    NoDefault,
}

impl ResolveError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl DockerProfile {
    /// The OCI profile for a container. `None`: the file asks for no filter (neither a default action nor rules).
    pub fn resolve(&self, target: &Target<'_>) -> Result<Option<Profile>, ResolveError> {
        let Some(default_action) = self.default_action else {
            return if self.syscalls.is_empty() { Ok(None) } else { Err(ResolveError::NoDefault) };
        };
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err(ResolveError::Architectures);
        }
        let mut architectures = self.architectures.clone();
        if let Some(entry) = self.arch_map.iter().find(|m| m.architecture == target.arch) {
            architectures.push(entry.architecture);
            architectures.extend(&entry.sub_architectures);
        }
        let mut syscalls = Vec::new();
        for (position, rule) in self.syscalls.iter().enumerate() {
            let names = match &rule.name {
                Some(_) if !rule.names.is_empty() => return Err(ResolveError::Names(position)),
                Some(name) => vec![name.clone()],
                None => rule.names.clone(),
            };
            if rule.applies(position, target)? {
                syscalls.push(Rule { names, action: rule.action, errno_ret: rule.errno_ret, args: rule.args.clone() });
            }
        }
        Ok(Some(Profile {
            default_action,
            default_errno_ret: self.default_errno_ret,
            architectures,
            flags: self.flags.clone(),
            listener_path: self.listener_path.clone(),
            listener_metadata: self.listener_metadata.clone(),
            syscalls,
        }))
    }
}

impl DockerRule {
    fn applies(&self, position: usize, target: &Target<'_>) -> Result<bool, ResolveError> {
        let has = |cap: &String| target.capabilities.contains(cap);
        let here = |arch: &String| arch == docker_name(target.arch);
        let reached =
            |when: &When| when.min_kernel.as_deref().map(|v| kernel_reached(position, v, target.kernel)).transpose();
        if let Some(when) = &self.excludes
            && (when.arches.iter().any(here) || when.caps.iter().any(has) || reached(when)? == Some(true))
        {
            return Ok(false);
        }
        let Some(when) = &self.includes else { return Ok(true) };
        let arch = when.arches.is_empty() || when.arches.iter().any(here);
        Ok(arch && when.caps.iter().all(has) && reached(when)? != Some(false))
    }
}

fn kernel_reached(position: usize, version: &str, kernel: (u32, u32)) -> Result<bool, ResolveError> {
    let parse = || {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    // 0.0 would say nothing.
    match parse().filter(|v| *v != (0, 0)) {
        Some(asked) => Ok(kernel >= asked),
        None => Err(ResolveError::Kernel(position, version.to_owned())),
    }
}

/// The names that `arches` conditions use.
fn docker_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86 => "x86",
        Arch::X86_64 => "amd64",
        Arch::X32 => "x32",
        Arch::Arm => "arm",
        Arch::Aarch64 => "arm64",
        Arch::Mips => "mips",
        Arch::Mipsel => "mipsel",
        Arch::Mips64 => "mips64",
        Arch::Mips64n32 => "mips64n32",
        Arch::Mipsel64 => "mipsel64",
        Arch::Mipsel64n32 => "mips3l64n32",
        Arch::Ppc => "ppc",
        Arch::Ppc64 => "ppc64",
        Arch::Ppc64le => "ppc64le",
        Arch::Riscv64 => "riscv64",
        Arch::S390 => "s390",
        Arch::S390x => "s390x",
        Arch::Loongarch64 => "loongarch64",
        Arch::Parisc => "parisc",
        Arch::Parisc64 => "parisc64",
        Arch::M68k => "m68k",
        Arch::Sh => "sh",
        Arch::Sheb => "sheb",
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}
