//! A BPF interpreter, and the proof that programs decide as rules do.

use super::arch::X32_BIT;
use super::compile::{AND_K, ARCH, JA, JEQ_K, JGE_K, JGT_K, LD_W_ABS, NR, RET_K};
use super::docker::{Target, default_profile};
use super::policy::{Decision, Names, Policy, RET_ALLOW, RET_KILL_PROCESS};
use super::*;

/// A call as the kernel shows it to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: Arch,
    number: u32,
    args: [u64; 6],
}

/// The answer, and whether it depended on nothing but number and architecture.
fn run(filter: &Filter, audit: u32, call: &Call) -> (u32, bool, usize) {
    let mut data = [0u8; 64];
    let big = call.arch.is_big_endian();
    let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    data[..4].copy_from_slice(&word(call.number));
    data[4..8].copy_from_slice(&word(audit));
    for (i, arg) in call.args.iter().enumerate() {
        let bytes = if big { arg.to_be_bytes() } else { arg.to_le_bytes() };
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&bytes);
    }
    let (mut a, mut at, mut constant, mut steps) = (0u32, 0usize, true, 0);
    loop {
        let i = filter.instructions[at];
        at += 1;
        steps += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            LD_W_ABS => {
                constant &= i.k == NR || i.k == ARCH;
                let bytes: [u8; 4] = data[i.k as usize..i.k as usize + 4].try_into().unwrap();
                a = if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
            }
            AND_K => a &= i.k,
            JA => at += i.k as usize,
            JEQ_K => jump(a == i.k),
            JGT_K => jump(a > i.k),
            JGE_K => jump(a >= i.k),
            RET_K => return (i.k, constant, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// The rules themselves, without any program.
fn expected(profile: &Profile, native: Arch, policy: &Policy, call: &Call) -> u32 {
    let named = call.arch == native || profile.architectures.contains(&call.arch);
    if !named || call.arch.audit().is_none() {
        return RET_KILL_PROCESS;
    }
    match policy.get(call.number) {
        Some(Decision::Return(value)) => *value,
        Some(Decision::First(list)) => list
            .iter()
            .find(|(tests, _)| tests.iter().all(|t| t.holds(&call.args)))
            .map_or(policy.default, |(_, value)| *value),
        // ARM's private calls are no newer than the profile.
        None if policy.newest.is_some_and(|n| call.number > n)
            && (call.arch != Arch::Arm || call.number < 0xf_0000) =>
        {
            policy.unknown()
        }
        None => policy.default,
    }
}

fn shown(value: u32) -> String {
    let data = value & 0xffff;
    match value & 0xffff_0000 {
        0x8000_0000 => "kill process".into(),
        0 => "kill thread".into(),
        0x0003_0000 => "trap".into(),
        0x0005_0000 => format!("errno {data}"),
        0x7fc0_0000 => "notify".into(),
        0x7ff0_0000 => format!("trace {data}"),
        0x7ffc_0000 => "log".into(),
        0x7fff_0000 => "allow".into(),
        other => format!("{other:#x}"),
    }
}

fn rule(names: &[&str], action: Action, errno_ret: Option<u32>, args: &[(u32, Operator, u64, u64)]) -> Rule {
    let args = args
        .iter()
        .map(|(index, op, value, value_two)| Condition { index: *index, value: *value, value_two: *value_two, op: *op })
        .collect();
    Rule { names: names.iter().map(|n| (*n).into()).collect(), action, errno_ret, args }
}

fn profile(default_action: Action, architectures: &[Arch], syscalls: Vec<Rule>) -> Profile {
    Profile {
        default_action,
        default_errno_ret: None,
        architectures: architectures.to_vec(),
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

fn answer(profile: &Profile, native: Arch, arch: Arch, name: &str, args: &[u64]) -> String {
    let number = syscalls::number(arch, name).unwrap_or_else(|| panic!("{arch:?} has no {name}"));
    answer_number(profile, native, arch, number, args)
}

fn answer_number(profile: &Profile, native: Arch, arch: Arch, number: u32, args: &[u64]) -> String {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let filter = compile(profile, native).unwrap();
    shown(run(&filter, arch.audit().unwrap(), &Call { arch, number, args: all }).0)
}

/// Rows: call, arguments, answer; on x86_64.
fn check(profile: &Profile, rows: &[(&str, &[u64], &str)]) {
    for (name, args, expected) in rows {
        assert_eq!(answer(profile, Arch::X86_64, Arch::X86_64, name, args), *expected, "{name}{args:x?}");
    }
}

#[test]
fn every_action_has_its_return_value() {
    let rules = vec![
        rule(&["read"], Action::Allow, None, &[]),
        rule(&["write"], Action::Log, None, &[]),
        rule(&["open"], Action::Errno, Some(13), &[]),
        rule(&["close"], Action::Errno, None, &[]),
        rule(&["stat"], Action::Trace, Some(7), &[]),
        rule(&["fstat"], Action::Trap, None, &[]),
        rule(&["lstat"], Action::KillThread, None, &[]),
        rule(&["poll"], Action::Kill, None, &[]),
        rule(&["lseek"], Action::Notify, None, &[]),
        rule(&["no_such_call", "mmap"], Action::Allow, None, &[]),
    ];
    let rows: [(&str, &[u64], &str); 11] = [
        ("read", &[], "allow"),
        ("write", &[], "log"),
        ("open", &[], "errno 13"),
        ("close", &[], "errno 1"),
        ("stat", &[], "trace 7"),
        ("fstat", &[], "trap"),
        ("lstat", &[], "kill thread"),
        ("poll", &[], "kill thread"),
        ("lseek", &[], "notify"),
        ("mmap", &[], "allow"),
        ("mprotect", &[], "errno 38"),
    ];
    check(&profile(Action::KillProcess, &[], rules), &rows);
}

#[test]
fn comparisons_take_all_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    let rows: [(Operator, [bool; 6]); 6] = [
        // Of 5, BIG - 1, BIG, BIG + 1, 0x2_0000_0000, u64::MAX against BIG.
        (Operator::Eq, [false, false, true, false, false, false]),
        (Operator::Ne, [true, true, false, true, true, true]),
        (Operator::Lt, [true, true, false, false, false, false]),
        (Operator::Le, [true, true, true, false, false, false]),
        (Operator::Gt, [false, false, false, true, true, true]),
        (Operator::Ge, [false, false, true, true, true, true]),
    ];
    for (operator, expected) in rows {
        let p = profile(Action::Errno, &[], vec![rule(&["lseek"], Action::Allow, None, &[(1, operator, BIG, 0)])]);
        let values = [5, BIG - 1, BIG, BIG + 1, 0x2_0000_0000, u64::MAX];
        let got = values.map(|v| answer(&p, Arch::X86_64, Arch::X86_64, "lseek", &[0, v]) == "allow");
        assert_eq!(got, expected, "{operator:?}");
    }
}

#[test]
fn conditions_on_different_arguments_are_and_on_one_argument_or() {
    let and = rule(&["lseek"], Action::Allow, None, &[(0, Operator::Eq, 1, 0), (1, Operator::Eq, 2, 0)]);
    let rows: [(&str, &[u64], &str); 3] =
        [("lseek", &[1, 2], "allow"), ("lseek", &[1, 3], "errno 1"), ("lseek", &[0, 2], "errno 1")];
    check(&profile(Action::Errno, &[], vec![and]), &rows);
    let or = rule(
        &["lseek"],
        Action::Allow,
        None,
        &[(0, Operator::Eq, 1, 0), (0, Operator::Eq, 2, 0), (1, Operator::Eq, 9, 0)],
    );
    let rows: [(&str, &[u64], &str); 4] = [
        ("lseek", &[1], "allow"),
        ("lseek", &[2], "allow"),
        ("lseek", &[3, 9], "allow"),
        ("lseek", &[3, 8], "errno 1"),
    ];
    check(&profile(Action::Errno, &[], vec![or]), &rows);
}

#[test]
fn masks_select_bits() {
    let args = [(0, Operator::MaskedEq, 0xff00_0000_0000_00f0, 0x1200_0000_0000_0030)];
    let p = profile(Action::Errno, &[], vec![rule(&["mmap"], Action::Allow, None, &args)]);
    let rows: [(&str, &[u64], &str); 3] = [
        ("mmap", &[0x12ab_0000_0000_053f], "allow"),
        ("mmap", &[0x1200_0000_0000_0040], "errno 1"),
        ("mmap", &[0x30], "errno 1"),
    ];
    check(&p, &rows);
}

#[test]
fn a_rule_without_conditions_decides_wherever_it_stands() {
    let conditional = rule(&["lseek"], Action::Errno, Some(5), &[(0, Operator::Eq, 1, 0)]);
    let whole = rule(&["lseek"], Action::Allow, None, &[]);
    for rules in [vec![conditional.clone(), whole.clone()], vec![whole, conditional]] {
        check(&profile(Action::KillProcess, &[], rules), &[("lseek", &[1], "allow")]);
    }
}

#[test]
fn a_rule_that_says_what_the_default_says_is_no_rule() {
    let rules = vec![
        rule(&["lseek"], Action::Errno, None, &[]),
        rule(&["lseek"], Action::Allow, None, &[(0, Operator::Eq, 1, 0)]),
    ];
    check(&profile(Action::Errno, &[], rules), &[("lseek", &[1], "allow"), ("lseek", &[2], "errno 1")]);
}

#[test]
fn arguments_that_the_kernel_cuts_to_32_bits_are_compared_so() {
    let p = profile(Action::Errno, &[], vec![rule(&["socket"], Action::Allow, None, &[(0, Operator::Gt, 40, 0)])]);
    let rows: [(&str, &[u64], &str); 3] =
        [("socket", &[41], "allow"), ("socket", &[38], "errno 1"), ("socket", &[0x1_0000_0026], "errno 1")];
    check(&p, &rows);
}

#[test]
fn foreign_architectures_are_killed_unless_named() {
    let rules = || vec![rule(&["read", "getpid"], Action::Allow, None, &[])];
    let native = profile(Action::Errno, &[], rules());
    let at = |p: &Profile, arch, name| answer(p, Arch::X86_64, arch, name, &[]);
    assert_eq!(at(&native, Arch::X86, "read"), "kill process");
    assert_eq!(at(&native, Arch::X32, "read"), "kill process");
    assert_eq!(at(&native, Arch::Aarch64, "read"), "kill process");
    let all = profile(Action::Errno, &[Arch::X86, Arch::X32], rules());
    assert_eq!(at(&all, Arch::X86, "read"), "allow");
    assert_eq!(at(&all, Arch::X86, "fork"), "errno 1", "2 is below the newest call named, getpid");
    assert_eq!(at(&all, Arch::X32, "read"), "allow");
    assert_eq!(at(&all, Arch::X32, "execve"), "errno 38", "520 is above it");
    assert_eq!(at(&all, Arch::Aarch64, "read"), "kill process");
    // read is 0 on x86_64 and restart_syscall on x86.
    assert_eq!(answer_number(&all, Arch::X86_64, Arch::X86, 0, &[]), "errno 1");
    assert_eq!(answer_number(&native, Arch::X86_64, Arch::X86_64, u32::MAX, &[]), "errno 1", "a tracer's skip");
}

#[test]
fn calls_newer_than_the_profile_are_missing_not_forbidden() {
    let p = |action| {
        profile(
            action,
            &[],
            vec![rule(&["openat2"], if action == Action::Allow { Action::Errno } else { Action::Allow }, None, &[])],
        )
    };
    let at = |p: &Profile, number| answer_number(p, Arch::X86_64, Arch::X86_64, number, &[]);
    assert_eq!(at(&p(Action::Errno), 436), "errno 1");
    assert_eq!(at(&p(Action::Errno), 438), "errno 38");
    assert_eq!(at(&p(Action::KillProcess), 9999), "errno 38");
    assert_eq!(at(&p(Action::Allow), 9999), "allow");
    assert_eq!(at(&profile(Action::Errno, &[], vec![]), 9999), "errno 1", "a profile that names nothing knows nothing");
}

#[test]
fn multiplexed_calls_follow_only_what_a_filter_can_see() {
    let arches = [Arch::X86];
    let at = |rules: Vec<Rule>, default, name: &str, args: &[u64]| {
        answer(&profile(default, &arches, rules), Arch::X86_64, Arch::X86, name, args)
    };
    let connect = || vec![rule(&["connect", "shmat", "ptrace"], Action::Allow, None, &[])];
    assert_eq!(at(connect(), Action::Errno, "socketcall", &[3]), "allow");
    assert_eq!(at(connect(), Action::Errno, "socketcall", &[1]), "errno 1");
    assert_eq!(at(connect(), Action::Errno, "ipc", &[0x0001_0015]), "allow", "the upper half is a version");
    let some = || vec![rule(&["socket", "ptrace"], Action::Allow, None, &[(0, Operator::Ne, 40, 0)])];
    assert_eq!(at(some(), Action::Errno, "socketcall", &[1]), "errno 1", "the family is out of sight");
    let deny = || vec![rule(&["socket"], Action::Errno, None, &[(0, Operator::Eq, 40, 0)])];
    assert_eq!(at(deny(), Action::Allow, "socketcall", &[1]), "errno 1", "it might be 40");
    assert_eq!(at(deny(), Action::Allow, "socketcall", &[3]), "allow");
}

#[test]
fn impossible_profiles_are_refused() {
    let compile = |p: &Profile| compile(p, Arch::X86_64).unwrap_err().to_string();
    let p = profile(Action::Errno, &[], vec![rule(&["read"], Action::Allow, None, &[(6, Operator::Eq, 0, 0)])]);
    assert_eq!(compile(&p), "seccomp rule 0: argument index 6 is not 0 to 5");
    assert_eq!(
        compile(&profile(Action::Errno, &[], vec![rule(&["read"], Action::Errno, Some(70_000), &[])])),
        "seccomp: errnoRet 70000 is out of range"
    );
    assert!(compile(&profile(Action::Notify, &[], vec![])).contains("cannot be the default action"));
    assert!(
        compile(&profile(Action::Errno, &[], vec![rule(&["write"], Action::Notify, None, &[])])).contains("for write")
    );
    let many = (0..3000).map(|n| (0, Operator::Eq, n, 0)).collect::<Vec<_>>();
    assert!(compile(&profile(Action::Errno, &[], vec![rule(&["lseek"], Action::Allow, None, &many)])).contains("4096"));
}

#[test]
fn flags_are_those_that_the_kernel_accepts_together() {
    let with = |flags: Option<Vec<Flag>>, notify: bool| {
        let action = if notify { Action::Notify } else { Action::Allow };
        let mut p = profile(Action::Errno, &[], vec![rule(&["read"], action, None, &[])]);
        p.flags = flags;
        compile(&p, Arch::X86_64).unwrap().flags
    };
    assert_eq!(with(None, false), 4);
    assert_eq!(with(Some(vec![]), false), 0);
    assert_eq!(with(Some(vec![Flag::Tsync, Flag::Log, Flag::WaitKillableRecv]), false), 1 | 2);
    assert_eq!(with(Some(vec![Flag::Tsync, Flag::WaitKillableRecv]), true), 1 | 8 | 16 | 32);
}

/// xorshift64*: every failure names its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Small numbers, numbers around 2^32, and anything.
    fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next() % 4,
            1 => ((self.next() % 3) << 32) | (self.next() % 4),
            2 => u64::MAX - self.next() % 3,
            _ => self.next(),
        }
    }
}

const ACTIONS: [Action; 8] = [
    Action::KillProcess,
    Action::KillThread,
    Action::Trap,
    Action::Errno,
    Action::Trace,
    Action::Allow,
    Action::Log,
    Action::Notify,
];
const OPERATORS: [Operator; 7] =
    [Operator::Ne, Operator::Lt, Operator::Le, Operator::Eq, Operator::Ge, Operator::Gt, Operator::MaskedEq];

#[test]
fn programs_decide_as_the_rules_for_random_profiles() {
    let natives: [(Arch, &[Arch]); 5] = [
        (Arch::X86_64, &[Arch::X86, Arch::X32]),
        (Arch::Aarch64, &[Arch::Arm]),
        (Arch::S390x, &[Arch::S390]),
        (Arch::Mips64, &[Arch::Mips]),
        (Arch::Riscv64, &[]),
    ];
    for seed in 1..=400u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (native, subs) = random.of(&natives);
        let names: Vec<(&str, u32)> = syscalls::all(native).collect();
        let mut rules = Vec::new();
        for _ in 0..random.below(40) {
            let names: Vec<&str> =
                (0..1 + random.below(6)).map(|_| random.of(&names).0).filter(|n| *n != "write").collect();
            let args: Vec<_> = (0..random.of(&[0, 0, 1, 1, 2, 4]))
                .map(|_| (random.below(6) as u32, random.of(&OPERATORS), random.value(), random.value()))
                .collect();
            rules.push(rule(&names, random.of(&ACTIONS), Some(random.below(100) as u32), &args));
        }
        let architectures: Vec<Arch> = subs.iter().copied().filter(|_| random.below(2) == 0).collect();
        let default = loop {
            let action = random.of(&ACTIONS);
            if action != Action::Notify {
                break action;
            }
        };
        let profile = profile(default, &architectures, rules);
        let filter = compile(&profile, native).unwrap();
        let arches: Vec<_> = std::iter::once(native)
            .chain(subs.iter().copied())
            .filter_map(|a| {
                Some((
                    a,
                    a.audit()?,
                    Policy::of(&profile, &Names::of(&profile), a).unwrap(),
                    syscalls::all(a).map(|(_, n)| n).collect::<Vec<_>>(),
                ))
            })
            .collect();
        for _ in 0..300 {
            let (arch, audit, policy, numbers) = &arches[random.below(arches.len())];
            let (arch, audit) = (*arch, *audit);
            let number = match random.below(3) {
                0 => random.below(600) as u32 | if arch == Arch::X32 { X32_BIT } else { 0 },
                _ => random.of(numbers),
            };
            let mut args = [0; 6];
            args.fill_with(|| random.value());
            // Half of the time hit a value that some rule asks for.
            if let Some(c) = profile.syscalls.iter().flat_map(|r| &r.args).nth(random.below(20)) {
                args[c.index as usize] = c.value;
            }
            if arch.is_32_bit() {
                args = args.map(|a| a & 0xffff_ffff);
            }
            let call = Call { arch, number, args };
            let (got, constant, _) = run(&filter, audit, &call);
            assert_eq!(shown(got), shown(expected(&profile, native, policy, &call)), "seed {seed} {call:x?}");
            let by_arguments = matches!(policy.get(number), Some(Decision::First(_)));
            assert!(constant || by_arguments, "seed {seed}: {call:x?} looks at arguments without need");
        }
    }
}

fn docker(capabilities: &[&str]) -> Profile {
    let capabilities: Vec<String> = capabilities.iter().map(|c| (*c).to_owned()).collect();
    let target = Target { capabilities: &capabilities, arch: Arch::X86_64, kernel: (6, 18) };
    default_profile().resolve(&target).unwrap().unwrap()
}

const DOCKER_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

#[test]
fn the_default_profile_blocks_what_docker_blocks() {
    let p = docker(&DOCKER_CAPABILITIES);
    let newns = 0x0002_0000u64;
    let rows: [(&str, &[u64], &str); 26] = [
        ("read", &[], "allow"),
        ("chroot", &[], "allow"),
        ("ptrace", &[], "allow"),
        ("clone", &[0x0120_0011], "allow"),
        ("clone", &[newns | 17], "errno 1"),
        ("clone", &[0x1000_0000], "errno 1"),
        ("clone3", &[], "errno 38"),
        ("unshare", &[], "errno 1"),
        ("mount", &[], "errno 1"),
        ("bpf", &[], "errno 1"),
        ("keyctl", &[], "errno 1"),
        ("add_key", &[], "errno 1"),
        ("io_uring_setup", &[], "errno 1"),
        ("userfaultfd", &[], "errno 1"),
        ("kexec_load", &[], "errno 1"),
        ("perf_event_open", &[], "errno 1"),
        ("socket", &[1], "allow"),
        ("socket", &[16], "allow"),
        ("socket", &[38], "errno 1"),
        ("socket", &[39], "allow"),
        ("socket", &[40], "errno 1"),
        ("socket", &[41], "allow"),
        ("socket", &[0x1_0000_0028], "errno 1"),
        ("personality", &[0xffff_ffff], "allow"),
        ("personality", &[0x0004_0000], "errno 1"),
        ("personality", &[0x2_0008], "allow"),
    ];
    check(&p, &rows);
}

#[test]
fn of_the_362_calls_of_linux_6_1_on_x86_64_291_are_free() {
    let p = docker(&[]);
    let policy = Policy::of(&p, &Names::of(&p), Arch::X86_64).unwrap();
    let old: Vec<u32> =
        syscalls::all(Arch::X86_64).filter(|(name, n)| *n <= 450 && *name != "uretprobe").map(|(_, n)| n).collect();
    let free = old.iter().filter(|n| policy.get(**n) == Some(&Decision::Return(RET_ALLOW))).count();
    assert_eq!((old.len(), free), (362, 291));
}

#[test]
fn capabilities_unlock_their_calls() {
    let rows = [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_SYS_ADMIN", "setns"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_TIME", "settimeofday"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
    ];
    for (cap, name) in rows {
        let without = answer(&docker(&[]), Arch::X86_64, Arch::X86_64, name, &[]);
        assert!(without.starts_with("errno"), "{name} without {cap}: {without}");
        assert_eq!(answer(&docker(&[cap]), Arch::X86_64, Arch::X86_64, name, &[]), "allow", "{name} with {cap}");
    }
    assert_eq!(answer(&docker(&["CAP_SYS_ADMIN"]), Arch::X86_64, Arch::X86_64, "clone", &[0x1000_0000]), "allow");
}

#[test]
fn the_default_profile_is_short_on_the_hot_path() {
    let filter = compile(&docker(&DOCKER_CAPABILITIES), Arch::X86_64).unwrap();
    let mut longest = 0;
    for (name, number) in syscalls::all(Arch::X86_64) {
        let (_, constant, steps) =
            run(&filter, Arch::X86_64.audit().unwrap(), &Call { arch: Arch::X86_64, number, args: [0; 6] });
        if constant {
            longest = longest.max(steps);
        } else {
            assert!(["clone", "personality", "socket"].contains(&name), "{name}");
        }
    }
    assert!(longest <= 14, "{longest} steps");
    assert!(filter.instructions.len() < 700, "{} instructions", filter.instructions.len());
}

#[test]
fn a_profile_in_dockers_form_is_resolved_by_its_conditions() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
        {"architecture":"SCMP_ARCH_RISCV64","subArchitectures":null}],
      "syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":[]},
        {"names":["write"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},"excludes":{"minKernel":"5.0"}},
        {"names":["open"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"5.10"}},
        {"names":["close"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_KILL","CAP_CHOWN"]}},
        {"names":["stat"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64"]},"excludes":{"caps":["CAP_KILL"]}}]}"#;
    let docker: docker::DockerProfile = serde_json::from_str(json).unwrap();
    let names = |caps: &[&str], arch, kernel| {
        let capabilities: Vec<String> = caps.iter().map(|c| (*c).to_owned()).collect();
        let resolved = docker.resolve(&Target { capabilities: &capabilities, arch, kernel }).unwrap().unwrap();
        (resolved.architectures, resolved.syscalls.iter().flat_map(|r| r.names.clone()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(names(&[], Arch::X86_64, (6, 18)), (vec![Arch::X86_64, Arch::X86], "read open stat".into()));
    assert_eq!(names(&["CAP_KILL"], Arch::X86_64, (5, 9)).1, "read");
    assert_eq!(
        names(&["CAP_KILL", "CAP_CHOWN"], Arch::Riscv64, (4, 9)),
        (vec![Arch::Riscv64], "read write close".into())
    );
    assert_eq!(names(&[], Arch::Aarch64, (6, 0)).0, vec![]);
}

#[test]
fn a_file_that_asks_for_nothing_is_no_filter_and_nonsense_is_refused() {
    let target = Target { capabilities: &[], arch: Arch::X86_64, kernel: (6, 18) };
    let resolve = |json: &str| serde_json::from_str::<docker::DockerProfile>(json).unwrap().resolve(&target);
    assert_eq!(resolve("{}"), Ok(None));
    let both = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#;
    assert_eq!(resolve(both), Err(docker::ResolveError::Architectures));
    let kernel = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","includes":{"minKernel":"6"}}]}"#;
    assert_eq!(resolve(kernel), Err(docker::ResolveError::Kernel(0, "6".into())));
    assert!(serde_json::from_str::<docker::DockerProfile>(r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#).is_err());
}

#[test]
fn the_docker_form_reads_back_as_written() {
    let text = serde_json::to_string(&default_profile()).unwrap();
    assert_eq!(serde_json::from_str::<docker::DockerProfile>(&text).unwrap(), default_profile());
    assert_eq!(default_profile().syscalls.len(), 33);
}
