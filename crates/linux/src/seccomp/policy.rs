//! A profile resolved for one architecture: for each call number what decides it.
//!
//! Where rules overlap this follows libseccomp as runc drives it: a rule that says what the default says is no rule; a rule without
//! conditions decides its call whatever else there is, the first such rule first; among rules with conditions the first that
//! matches decides.

use super::arch::Arch;
use super::compile::CompileError;
use super::profile::{Action, Condition, Operator, Profile, Rule};
use super::syscalls::{self, Row};

pub(super) const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0x0000_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;
/// Private calls of 32-bit ARM start here; they are as old as the port.
pub(super) const ARM_PRIVATE: u32 = 0x000f_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The kernel cuts larger numbers down to this (MAX_ERRNO).
const ERRNO_MAX: u32 = 4095;

/// What decides one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Return(u32),
    /// In order; the first whose tests all hold decides, else the default.
    First(Vec<(Vec<Test>, u32)>),
}

/// One comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Test {
    pub argument: u32,
    pub operator: Operator,
    /// Of the argument, before comparing.
    pub mask: u64,
    pub value: u64,
    /// Only the low 32 bits are looked at.
    pub narrow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub arch: Arch,
    /// By number, ascending; each once.
    pub calls: Vec<(u32, Decision)>,
    pub default: u32,
    /// Calls above this number are newer than the profile: see [`Policy::of`].
    pub newest: Option<u32>,
}

/// Positions of arguments that the kernel takes as 32-bit integers, for calls whose arguments profiles look at. The kernel drops the
/// upper half of the register, so a filter that compares it would be passed by `socket(0x1_0000_0026, ..)` (the class of
/// CVE-2019-7303): the filter looks at what the kernel looks at.
const NARROW: &[(&str, &[u32])] = &[
    ("fcntl", &[0, 1]),
    ("getsockopt", &[0, 1, 2]),
    ("ioctl", &[0, 1]),
    ("keyctl", &[0]),
    ("kill", &[0, 1]),
    ("open", &[1]),
    ("openat", &[0, 2]),
    ("personality", &[0]),
    ("prctl", &[0]),
    ("quotactl", &[0]),
    ("reboot", &[0, 1, 2]),
    ("sched_setscheduler", &[0, 1]),
    ("seccomp", &[0, 1]),
    ("setns", &[0, 1]),
    ("setpriority", &[0, 1, 2]),
    ("setsockopt", &[0, 1, 2]),
    ("socket", &[0, 1, 2]),
    ("socketpair", &[0, 1, 2]),
    ("syslog", &[0]),
    ("tgkill", &[0, 1, 2]),
    ("umount2", &[1]),
];

/// `socketcall(2)` numbers (linux/net.h). Asked for every name of a profile, so not a list to search.
fn inside_socketcall(name: &str) -> Option<u64> {
    Some(match name.as_bytes() {
        b"socket" => 1,
        b"bind" => 2,
        b"connect" => 3,
        b"listen" => 4,
        b"accept" => 5,
        b"getsockname" => 6,
        b"getpeername" => 7,
        b"socketpair" => 8,
        b"send" => 9,
        b"recv" => 10,
        b"sendto" => 11,
        b"recvfrom" => 12,
        b"shutdown" => 13,
        b"setsockopt" => 14,
        b"getsockopt" => 15,
        b"sendmsg" => 16,
        b"recvmsg" => 17,
        b"accept4" => 18,
        b"recvmmsg" => 19,
        b"sendmmsg" => 20,
        _ => return None,
    })
}

/// `ipc(2)` numbers (linux/ipc.h).
fn inside_ipc(name: &str) -> Option<u64> {
    Some(match name.as_bytes() {
        b"semop" => 1,
        b"semget" => 2,
        b"semctl" => 3,
        b"semtimedop" => 4,
        b"msgsnd" => 11,
        b"msgrcv" => 12,
        b"msgget" => 13,
        b"msgctl" => 14,
        b"shmat" => 21,
        b"shmdt" => 22,
        b"shmget" => 23,
        b"shmctl" => 24,
        _ => return None,
    })
}

/// The names of a profile's rules looked up once for all architectures, rule by rule.
pub(super) struct Names(Vec<Vec<Option<Row>>>);

impl Names {
    pub fn of(profile: &Profile) -> Self {
        Self(profile.syscalls.iter().map(|rule| rule.names.iter().map(|name| syscalls::find(name)).collect()).collect())
    }
}

impl Policy {
    /// Where the default action stops a call, a call above the newest one that the profile names answers ENOSYS: the profile cannot
    /// have meant to refuse what did not exist, and libraries fall back only on ENOSYS.
    pub fn of(profile: &Profile, names: &Names, arch: Arch) -> Result<Self, CompileError> {
        let default = return_value(profile.default_action, profile.default_errno_ret)?;
        let mut newest = None;
        let mut found = Vec::with_capacity(512);
        for (position, rule) in profile.syscalls.iter().enumerate() {
            if let Some(bad) = rule.args.iter().find(|c| c.index > 5) {
                return Err(CompileError::Argument { rule: position, index: bad.index });
            }
            let answer = return_value(rule.action, rule.errno_ret)?;
            for (name, row) in rule.names.iter().zip(&names.0[position]) {
                if rule.action == Action::Notify && name == "write" {
                    return Err(CompileError::NotifyWrite);
                }
                if let Some(number) = row.and_then(|row| row.number(arch)) {
                    if !(arch == Arch::Arm && number >= ARM_PRIVATE) {
                        newest = newest.max(Some(number));
                    }
                    if answer != default {
                        found.push(Found { number, alternatives: alternatives(arch, name, &rule.args), answer });
                    }
                }
                if answer != default && arch.multiplexes() {
                    found.extend(multiplexed(arch, name, rule, answer));
                }
            }
        }
        if profile.default_action.lets_through() {
            newest = None;
        }
        // Stable: rules on one call stay in the profile's order.
        found.sort_by_key(|f| f.number);
        let calls =
            found.chunk_by(|a, b| a.number == b.number).map(|same| (same[0].number, Found::decide(same))).collect();
        Ok(Self { arch, calls, default, newest })
    }

    /// The calls with numbers in `from..to`.
    pub fn between(&self, from: u32, to: u32) -> &[(u32, Decision)] {
        let at = |n: u32| self.calls.partition_point(|(number, _)| *number < n);
        &self.calls[at(from)..at(to).max(at(from))]
    }

    #[cfg(test)]
    pub fn get(&self, number: u32) -> Option<&Decision> {
        self.between(number, number + 1).first().map(|(_, decision)| decision)
    }

    pub fn unknown(&self) -> u32 {
        if self.newest.is_some() { RET_ERRNO | ENOSYS } else { self.default }
    }
}

/// One rule's word on one call.
struct Found {
    number: u32,
    /// Of tests that must all hold; none where the rule has no conditions.
    alternatives: Vec<Vec<Test>>,
    answer: u32,
}

impl Found {
    fn decide(same: &[Self]) -> Decision {
        if let Some(whole) = same.iter().find(|f| f.alternatives.is_empty()) {
            return Decision::Return(whole.answer);
        }
        let with_answer = |f: &Self| f.alternatives.iter().map(|tests| (tests.clone(), f.answer)).collect::<Vec<_>>();
        Decision::First(same.iter().flat_map(with_answer).collect())
    }
}

/// The arguments of a call inside `socketcall` or `ipc` are in memory, out of a filter's sight. A rule with conditions is
/// taken as refused there: it lets nothing through, and stops everything it might stop.
fn multiplexed(arch: Arch, name: &str, rule: &Rule, answer: u32) -> Option<Found> {
    if !rule.args.is_empty() && (rule.action.lets_through() || rule.action == Action::Notify) {
        return None;
    }
    let (carrier, mask, value) = match inside_socketcall(name) {
        Some(which) => ("socketcall", u64::MAX, which),
        None => ("ipc", 0xffff, inside_ipc(name)?),
    };
    let test = Test { argument: 0, operator: Operator::Eq, mask, value, narrow: true };
    Some(Found { number: syscalls::number(arch, carrier)?, alternatives: vec![vec![test]], answer })
}

/// The conditions as alternatives of tests that must all hold.
fn alternatives(arch: Arch, name: &str, args: &[Condition]) -> Vec<Vec<Test>> {
    if args.is_empty() {
        return Vec::new();
    }
    let narrow = NARROW.iter().find(|(n, _)| *n == name).map_or(&[][..], |(_, positions)| positions);
    let test = |c: &Condition| Test {
        argument: c.index,
        operator: if c.op == Operator::MaskedEq { Operator::Eq } else { c.op },
        mask: if c.op == Operator::MaskedEq { c.value } else { u64::MAX },
        value: if c.op == Operator::MaskedEq { c.value_two } else { c.value },
        narrow: arch.is_32_bit() || narrow.contains(&c.index),
    };
    let repeated = args.iter().enumerate().any(|(i, c)| args[..i].iter().any(|d| d.index == c.index));
    if repeated { args.iter().map(|c| vec![test(c)]).collect() } else { vec![args.iter().map(test).collect()] }
}

fn return_value(action: Action, errno: Option<u32>) -> Result<u32, CompileError> {
    let number = errno.unwrap_or(EPERM);
    Ok(match action {
        Action::KillProcess => RET_KILL_PROCESS,
        Action::Kill | Action::KillThread => RET_KILL_THREAD,
        Action::Trap => RET_TRAP,
        Action::Errno if number > ERRNO_MAX => return Err(CompileError::Errno(number)),
        Action::Errno => RET_ERRNO | number,
        Action::Trace if number > 0xffff => return Err(CompileError::Errno(number)),
        Action::Trace => RET_TRACE | number,
        Action::Allow => RET_ALLOW,
        Action::Log => RET_LOG,
        Action::Notify => RET_NOTIFY,
    })
}

impl Test {
    /// The meaning, for the tests' reference.
    #[cfg(test)]
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        let cut = |n: u64| if self.narrow { n & 0xffff_ffff } else { n };
        let (argument, value) = (cut(args[self.argument as usize] & self.mask), cut(self.value));
        match self.operator {
            Operator::Ne => argument != value,
            Operator::Lt => argument < value,
            Operator::Le => argument <= value,
            Operator::Eq | Operator::MaskedEq => argument == value,
            Operator::Ge => argument >= value,
            Operator::Gt => argument > value,
        }
    }
}
