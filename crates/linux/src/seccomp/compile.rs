//! From policies to a classic BPF program.
//!
//! A program first finds its architecture, then the call by a binary search over ranges of numbers with the same answer, then tests
//! arguments where a call needs it. Answers that depend on the number alone use no other instruction than loads of number and
//! architecture, jumps and returns, so that the kernel (since 5.11) proves them constant when the filter is loaded and never
//! runs the program for such calls.
//!
//! Code is made from the end to the beginning: a jump is written when its targets are, so every distance is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vocab::ErrorKind;

use super::arch::{Arch, X32_BIT};
use super::policy::{ARM_PRIVATE, Decision, Names, Policy, RET_KILL_PROCESS, Test};
use super::profile::{Action, Flag, Operator, Profile};

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A program and how to load it. Plain data: it can be made in one process and loaded in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Some call is decided by a listener: loading gives its descriptor.
    pub notifies: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("seccomp rule {rule}: argument index {index} is not 0 to 5")]
    Argument { rule: usize, index: u32 },
    #[error("seccomp: errnoRet {0} is out of range")]
    Errno(u32),
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be the default action: nothing could be sent to the listener")]
    NotifyDefault,
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be used for write: the listener's descriptor is passed on by it")]
    NotifyWrite,
    #[error("seccomp: the profile needs {0} instructions, the kernel takes 4096")]
    TooLong(usize),
    #[error("seccomp: {0:?} has no table of system calls")]
    Native(Arch),
}

impl CompileError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Native(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Invalid,
        }
    }
}

pub(super) const LD_W_ABS: u16 = 0x20;
pub(super) const AND_K: u16 = 0x54;
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ_K: u16 = 0x15;
pub(super) const JGT_K: u16 = 0x25;
pub(super) const JGE_K: u16 = 0x35;
pub(super) const RET_K: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
pub(super) const NR: u32 = 0;
pub(super) const ARCH: u32 = 4;
const ARGS: u32 = 16;

const INSTRUCTIONS_MAX: usize = 4096;

const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
pub(super) const FLAG_NEW_LISTENER: u32 = 8;
const FLAG_TSYNC_ESRCH: u32 = 16;
const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// Pure. `native` is the architecture the filter will be loaded on.
pub fn compile(profile: &Profile, native: Arch) -> Result<Filter, CompileError> {
    if profile.default_action == Action::Notify {
        return Err(CompileError::NotifyDefault);
    }
    if native.audit().is_none() {
        return Err(CompileError::Native(native));
    }
    let mut arches = vec![native];
    for arch in &profile.architectures {
        if arch.audit().is_some() && !arches.contains(arch) {
            arches.push(*arch);
        }
    }
    let names = Names::of(profile);
    let policies = arches.iter().map(|a| Policy::of(profile, &names, *a)).collect::<Result<Vec<_>, _>>()?;
    let instructions = assemble(&policies);
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(CompileError::TooLong(instructions.len()));
    }
    let notifies = profile.syscalls.iter().any(|r| r.action == Action::Notify && !r.names.is_empty());
    Ok(Filter { instructions, flags: flags(profile, notifies), notifies })
}

fn flags(profile: &Profile, notifies: bool) -> u32 {
    let asked = profile.flags.as_deref().unwrap_or(&[Flag::SpecAllow]);
    let mut bits = if notifies { FLAG_NEW_LISTENER } else { 0 };
    for flag in asked {
        bits |= match flag {
            // With a listener the kernel reports a thread that cannot follow by an error, not by its id.
            Flag::Tsync if notifies => FLAG_TSYNC | FLAG_TSYNC_ESRCH,
            Flag::Tsync => FLAG_TSYNC,
            Flag::Log => FLAG_LOG,
            Flag::SpecAllow => FLAG_SPEC_ALLOW,
            // Says how a listener's target waits: the kernel refuses it without a listener.
            Flag::WaitKillableRecv if notifies => FLAG_WAIT_KILLABLE_RECV,
            Flag::WaitKillableRecv => 0,
        };
    }
    bits
}

/// A range of call numbers from `start` on (to the next range's start) with one answer.
#[derive(Clone, Copy, PartialEq)]
struct Range<'a> {
    start: u32,
    answer: Answer<'a>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer<'a> {
    Return(u32),
    /// Arguments decide.
    First(&'a Policy, &'a [(Vec<Test>, u32)]),
}

fn assemble(policies: &[Policy]) -> Vec<Instruction> {
    let mut code = Code { reversed: Vec::new(), returns: BTreeMap::new() };
    let mut blocks = Vec::new();
    let audit = |p: &Policy| p.arch.audit().unwrap_or_default();
    let mut numbers: Vec<u32> = Vec::new();
    for policy in policies {
        if !numbers.contains(&audit(policy)) {
            numbers.push(audit(policy));
        }
    }
    // The native architecture is asked for first, so its block comes first.
    for number in numbers.iter().rev() {
        let group: Vec<&Policy> = policies.iter().filter(|p| audit(p) == *number).collect();
        let ranges = ranges(&group);
        let search = code.search(&ranges);
        code.fall_into(search);
        blocks.push((*number, code.push(LD_W_ABS, 0, 0, NR)));
    }
    let mut next = Target::Return(RET_KILL_PROCESS);
    for (number, block) in blocks {
        next = Target::At(code.branch(JEQ_K, number, Target::At(block), next));
    }
    code.fall_into(next);
    code.push(LD_W_ABS, 0, 0, ARCH);
    code.reversed.reverse();
    code.reversed
}

fn answer_of<'a>(policy: &'a Policy, decision: &'a Decision) -> Answer<'a> {
    match decision {
        Decision::Return(value) => Answer::Return(*value),
        Decision::First(list) => Answer::First(policy, list),
    }
}

/// The whole number space of one audit architecture, x86_64 and x32 together.
fn ranges<'a>(policies: &[&'a Policy]) -> Vec<Range<'a>> {
    let mut all: Vec<Range<'a>> = Vec::new();
    let mut put = |start: u32, answer: Answer<'a>| {
        match all.last() {
            Some(last) if last.start == start => {
                all.pop();
            }
            _ => {}
        }
        if all.last().is_none_or(|last| last.answer != answer) {
            all.push(Range { start, answer });
        }
    };
    let x86 = policies.iter().any(|p| matches!(p.arch, Arch::X86_64 | Arch::X32));
    let mut sorted = policies.to_vec();
    sorted.sort_by_key(|p| p.arch == Arch::X32);
    put(0, Answer::Return(RET_KILL_PROCESS));
    for policy in sorted {
        let first = if policy.arch == Arch::X32 { X32_BIT } else { 0 };
        put(first, Answer::Return(policy.default));
        // ARM's private calls are far from the others and no newer.
        let end = if policy.arch == Arch::Arm { ARM_PRIVATE } else { u32::MAX };
        let private = if policy.arch == Arch::Arm { (ARM_PRIVATE, u32::MAX) } else { (0, 0) };
        for (from, to) in [(0, end), private] {
            if from > 0 {
                put(from, Answer::Return(policy.default));
            }
            for (number, decision) in policy.between(from, to) {
                put(*number, answer_of(policy, decision));
                put(number + 1, Answer::Return(policy.default));
            }
            if let Some(newest) = policy.newest.filter(|_| from == 0) {
                put(newest + 1, Answer::Return(policy.unknown()));
            }
        }
    }
    if x86 {
        // Without x32 in the profile its numbers are a foreign architecture's.
        if !policies.iter().any(|p| p.arch == Arch::X32) {
            put(X32_BIT, Answer::Return(RET_KILL_PROCESS));
        }
        // -1 is how a tracer skips a call, not an x32 number.
        if let Some(policy) = policies.iter().find(|p| p.arch == Arch::X86_64) {
            put(u32::MAX, Answer::Return(policy.default));
        }
    }
    all
}

#[derive(Clone, Copy)]
enum Target {
    /// Counted from the end of the program.
    At(usize),
    Return(u32),
}

struct Code {
    reversed: Vec<Instruction>,
    /// Where each return value was last written.
    returns: BTreeMap<u32, usize>,
}

impl Code {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// From the instruction that is written next; jumps are counted from the one after it.
    fn distance(&self, target: usize) -> usize {
        self.reversed.len() - 1 - target
    }

    /// A place that the jump written next, or one after it, can reach with 8 bits. Returns are written again rather than jumped to.
    fn near(&mut self, target: Target) -> usize {
        // Room for the second target's trampoline between this and the jump.
        const REACH: usize = 250;
        match target {
            Target::At(at) if self.distance(at) <= REACH => at,
            Target::At(at) => {
                let distance = self.distance(at) as u32;
                self.push(JA, 0, 0, distance)
            }
            Target::Return(value) => match self.returns.get(&value) {
                Some(at) if self.distance(*at) <= REACH => *at,
                _ => {
                    let at = self.push(RET_K, 0, 0, value);
                    self.returns.insert(value, at);
                    at
                }
            },
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> usize {
        let (yes, no) = (self.near(yes), self.near(no));
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, jt, jf, k)
    }

    /// Makes `target` what the instruction written next runs into.
    fn fall_into(&mut self, target: Target) {
        match target {
            Target::At(at) if at + 1 == self.reversed.len() => {}
            Target::At(at) => {
                let distance = self.distance(at) as u32;
                self.push(JA, 0, 0, distance);
            }
            Target::Return(value) => {
                let at = self.push(RET_K, 0, 0, value);
                self.returns.insert(value, at);
            }
        }
    }

    fn search(&mut self, ranges: &[Range<'_>]) -> Target {
        match ranges {
            [] => Target::Return(RET_KILL_PROCESS),
            [one] => match one.answer {
                Answer::Return(value) => Target::Return(value),
                Answer::First(policy, list) => self.first(policy, list),
            },
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let yes = self.search(high);
                let no = self.search(low);
                Target::At(self.branch(JGE_K, high[0].start, yes, no))
            }
        }
    }

    fn first(&mut self, policy: &Policy, list: &[(Vec<Test>, u32)]) -> Target {
        let mut next = Target::Return(policy.default);
        for (tests, answer) in list.iter().rev() {
            let mut yes = Target::Return(*answer);
            for test in tests.iter().rev() {
                yes = self.test(policy.arch, test, yes, next);
            }
            next = yes;
        }
        next
    }

    fn test(&mut self, arch: Arch, test: &Test, yes: Target, no: Target) -> Target {
        let (operator, yes, no) = match test.operator {
            Operator::Ne => (JEQ_K, no, yes),
            Operator::Eq | Operator::MaskedEq => (JEQ_K, yes, no),
            Operator::Gt => (JGT_K, yes, no),
            Operator::Le => (JGT_K, no, yes),
            Operator::Ge => (JGE_K, yes, no),
            Operator::Lt => (JGE_K, no, yes),
        };
        let at = ARGS + 8 * test.argument;
        let (low, high) = if arch.is_big_endian() { (at + 4, at) } else { (at, at + 4) };
        let halves = |n: u64| (n as u32, (n >> 32) as u32);
        let ((value_low, value_high), (mask_low, mask_high)) = (halves(test.value), halves(test.mask));
        let compare_low = self.branch(operator, value_low, yes, no);
        let load_low = self.load(low, mask_low, compare_low);
        // An upper half that is masked away is zero: nothing to look at, or never equal.
        if test.narrow || mask_high == 0 && value_high == 0 {
            return Target::At(load_low);
        }
        let equal = self.branch(JEQ_K, value_high, Target::At(load_low), no);
        let compare_high =
            if operator == JEQ_K { equal } else { self.branch(JGT_K, value_high, yes, Target::At(equal)) };
        Target::At(self.load(high, mask_high, compare_high))
    }

    /// Loads a word, masks it, and runs into `then`, which was written last.
    fn load(&mut self, offset: u32, mask: u32, then: usize) -> usize {
        self.fall_into(Target::At(then));
        if mask != u32::MAX {
            self.push(AND_K, 0, 0, mask);
        }
        self.push(LD_W_ABS, 0, 0, offset)
    }
}
