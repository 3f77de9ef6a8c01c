//! The spec's seccomp object as a compiled filter. Pure.

use linux::seccomp::{Action, Arch, Condition, Flag, Operator, Profile, Rule, compile};
use oci_spec::runtime::{
    Arch as SpecArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, Spec,
};

use super::error::{Faults, PlanError};
use super::types::{SeccompListener, SeccompPlan};

/// The filter of a container, for a process that enters it later.
///
/// # Errors
/// The profile's faults.
pub fn seccomp_of(spec: &Spec) -> Result<Option<SeccompPlan>, PlanError> {
    let mut faults = Faults::default();
    let plan = seccomp_plan(spec, &mut faults);
    if faults.0.is_empty() { Ok(plan) } else { Err(PlanError { faults: faults.0 }) }
}

pub(super) fn seccomp_plan(spec: &Spec, faults: &mut Faults) -> Option<SeccompPlan> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref())?;
    let listener_path = seccomp.listener_path().clone().filter(|path| !path.as_os_str().is_empty());
    let profile = profile(seccomp, faults);
    let filter = match compile(&profile, Arch::NATIVE) {
        Ok(filter) => filter,
        Err(error) => {
            faults.invalid("linux.seccomp", error.to_string());
            return None;
        }
    };
    if filter.notifies && listener_path.is_none() {
        faults.invalid("linux.seccomp.listenerPath", "is needed by SCMP_ACT_NOTIFY");
    }
    if let Some(path) = listener_path.as_ref().filter(|path| !path.is_absolute()) {
        faults.invalid("linux.seccomp.listenerPath", format!("{} is not an absolute path", path.display()));
    }
    // Docker's "unconfined" and an empty profile are no filter at all.
    if seccomp.default_action() == LinuxSeccompAction::ScmpActAllow
        && seccomp.syscalls().as_ref().is_none_or(Vec::is_empty)
    {
        return None;
    }
    Some(SeccompPlan {
        listener: listener_path
            .filter(|_| filter.notifies)
            .map(|path| SeccompListener { path, metadata: seccomp.listener_metadata().clone().unwrap_or_default() }),
        filter,
    })
}

fn profile(seccomp: &LinuxSeccomp, faults: &mut Faults) -> Profile {
    let action = |action: LinuxSeccompAction| match action {
        LinuxSeccompAction::ScmpActKill => Action::Kill,
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActErrno => Action::Errno,
        LinuxSeccompAction::ScmpActTrace => Action::Trace,
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActNotify => Action::Notify,
    };
    let mut architectures = Vec::new();
    for arch in seccomp.architectures().iter().flatten() {
        match arch_of(*arch) {
            Some(arch) => architectures.push(arch),
            None if *arch == SpecArch::ScmpArchNative => {}
            None => faults.unsupported("linux.seccomp.architectures", format!("{arch} is not known")),
        }
    }
    let flags = seccomp.flags().as_ref().map(|flags| {
        flags
            .iter()
            .map(|flag| match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Flag::Tsync,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => Flag::Log,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Flag::SpecAllow,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => Flag::WaitKillableRecv,
            })
            .collect()
    });
    let mut syscalls = Vec::with_capacity(seccomp.syscalls().as_ref().map_or(0, Vec::len));
    for (n, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        if rule.names().is_empty() {
            faults.invalid(format!("linux.seccomp.syscalls[{n}].names"), "is empty");
        }
        let args = rule
            .args()
            .iter()
            .flatten()
            .map(|arg| Condition {
                index: u32::try_from(arg.index()).unwrap_or(u32::MAX),
                value: arg.value(),
                value_two: arg.value_two().unwrap_or(0),
                op: match arg.op() {
                    LinuxSeccompOperator::ScmpCmpNe => Operator::Ne,
                    LinuxSeccompOperator::ScmpCmpLt => Operator::Lt,
                    LinuxSeccompOperator::ScmpCmpLe => Operator::Le,
                    LinuxSeccompOperator::ScmpCmpEq => Operator::Eq,
                    LinuxSeccompOperator::ScmpCmpGe => Operator::Ge,
                    LinuxSeccompOperator::ScmpCmpGt => Operator::Gt,
                    LinuxSeccompOperator::ScmpCmpMaskedEq => Operator::MaskedEq,
                },
            })
            .collect();
        syscalls.push(Rule {
            names: rule.names().clone(),
            action: action(rule.action()),
            errno_ret: rule.errno_ret(),
            args,
        });
    }
    Profile {
        default_action: action(seccomp.default_action()),
        default_errno_ret: seccomp.default_errno_ret(),
        architectures,
        flags,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

const fn arch_of(arch: SpecArch) -> Option<Arch> {
    Some(match arch {
        SpecArch::ScmpArchX86 => Arch::X86,
        SpecArch::ScmpArchX86_64 => Arch::X86_64,
        SpecArch::ScmpArchX32 => Arch::X32,
        SpecArch::ScmpArchArm => Arch::Arm,
        SpecArch::ScmpArchAarch64 => Arch::Aarch64,
        SpecArch::ScmpArchMips => Arch::Mips,
        SpecArch::ScmpArchMips64 => Arch::Mips64,
        SpecArch::ScmpArchMips64n32 => Arch::Mips64n32,
        SpecArch::ScmpArchMipsel => Arch::Mipsel,
        SpecArch::ScmpArchMipsel64 => Arch::Mipsel64,
        SpecArch::ScmpArchMipsel64n32 => Arch::Mipsel64n32,
        SpecArch::ScmpArchPpc => Arch::Ppc,
        SpecArch::ScmpArchPpc64 => Arch::Ppc64,
        SpecArch::ScmpArchPpc64le => Arch::Ppc64le,
        SpecArch::ScmpArchS390 => Arch::S390,
        SpecArch::ScmpArchS390x => Arch::S390x,
        SpecArch::ScmpArchRiscv64 => Arch::Riscv64,
        _ => return None,
    })
}
