//! Broken input for what this crate parses: seccomp profiles and mount tables.

use std::mem::discriminant;

use linux::cgroup::Layout;
use linux::seccomp::docker::{DockerProfile, Target, default_profile};
use linux::seccomp::{Arch, Filter, Profile, compile};

/// What the kernel checks before it takes a program: jumps go forward and stay inside, the last instruction returns.
fn check(filter: &Filter) {
    const CLASS: u16 = 7;
    const JUMP: u16 = 5;
    const RETURN: u16 = 6;
    let code = &filter.instructions;
    assert!((1..=4096).contains(&code.len()), "{} instructions", code.len());
    assert_eq!(code.last().unwrap().code & CLASS, RETURN);
    for (at, i) in code.iter().enumerate().filter(|(_, i)| i.code & CLASS == JUMP) {
        let always = i.code & 0xf0 == 0;
        let reach = if always { i.k as usize } else { usize::from(i.jt.max(i.jf)) };
        assert!(at + 1 + reach < code.len(), "jump at {at} to {}", at + 1 + reach);
    }
}

const WORDS: [&str; 22] = [
    "\"SCMP_ACT_ALLOW\"",
    "\"SCMP_ACT_ERRNO\"",
    "\"SCMP_ACT_NOTIFY\"",
    "\"SCMP_ACT_TRACE\"",
    "\"SCMP_ACT_KILL_PROCESS\"",
    "\"SCMP_CMP_MASKED_EQ\"",
    "\"SCMP_CMP_NE\"",
    "\"SCMP_CMP_GE\"",
    "\"SCMP_ARCH_X86\"",
    "\"SCMP_ARCH_X32\"",
    "\"SCMP_ARCH_S390X\"",
    "\"SCMP_ARCH_AARCH64\"",
    "\"listenerPath\":\"/l\",",
    "\"errnoRet\":99,",
    "\"args\":[{\"index\":1,\"value\":2,\"op\":\"SCMP_CMP_LT\"}],",
    "\"minKernel\":\"4.8\",",
    "\"caps\":[\"CAP_SYS_ADMIN\"],",
    "\"write\"",
    "\"socketcall\"",
    "\"clone3\"",
    "\"nosuchcall\"",
    "null",
];

#[test]
fn a_profile_compiles_to_a_program_that_the_kernel_takes_or_is_refused() {
    fuzz::Target::new("profile", env!("CARGO_MANIFEST_DIR"))
        .seed(r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"flags":[],"syscalls":[{"names":["read","write","personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"valueTwo":3,"op":"SCMP_CMP_EQ"},{"index":1,"value":4294967296,"op":"SCMP_CMP_GT"}]},{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"},{"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#)
        .words(WORDS)
        .run(|bytes| {
            let Ok(profile) = serde_json::from_slice::<Profile>(bytes) else { return None };
            let compiled = [Arch::X86_64, Arch::Aarch64, Arch::S390x, Arch::Mips].map(|arch| compile(&profile, arch));
            for filter in compiled.iter().flatten() {
                check(filter);
            }
            Some(compiled.map(|made| made.map(|filter| (filter.instructions.len(), filter.flags)).map_err(|e| discriminant(&e))))
        });
}

#[test]
fn dockers_profile_resolves_or_is_refused() {
    let capabilities = vec!["CAP_CHOWN".to_owned(), "CAP_SYS_ADMIN".to_owned()];
    fuzz::Target::new("docker-profile", env!("CARGO_MANIFEST_DIR"))
        .seed(r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"],"minKernel":"5.8"},"excludes":{"arches":["s390x"]}}]}"#)
        .seed(serde_json::to_vec(&default_profile()).unwrap())
        .words(WORDS)
        .run(|bytes| {
            let Ok(profile) = serde_json::from_slice::<DockerProfile>(bytes) else { return None };
            let target = Target { capabilities: &capabilities, arch: Arch::X86_64, kernel: (6, 1) };
            Some(profile.resolve(&target).map(|found| found.map(|profile| profile.syscalls.len())).map_err(|error| discriminant(&error)))
        });
}

#[test]
fn any_mount_table_gives_a_layout() {
    fuzz::Target::new("mountinfo", env!("CARGO_MANIFEST_DIR"))
        .seed("25 20 0:22 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:7 - cgroup cgroup rw,cpu,cpuacct\n26 20 0:23 /a\\040b /sys/fs/cgroup/unified rw - cgroup2 c2 rw\n27 20 0:24 / /sys/fs/cgroup/systemd rw - cgroup c rw,name=systemd\n")
        .words([" - cgroup ", " - cgroup2 ", "\\040", "\\777", "name=", "memory", "devices", "/sys/fs/cgroup"])
        .run(|bytes| {
            let layout = Layout::parse(bytes, true);
            let found: Vec<_> = layout.hierarchies.iter().map(|h| (h.label(), h.root.components().count())).collect();
            assert!(found.len() <= bytes.split(|b| *b == b'\n').count());
            found.len()
        });
}
