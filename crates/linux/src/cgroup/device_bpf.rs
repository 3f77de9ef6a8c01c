//! The v2 device program: rules compiled to eBPF, loaded and put in place of the former program in one step.
//!
//! Kinds of access are bits that must all be granted. From the last rule to the first: an allow that matches clears its bits
//! from what is still asked for, and none left is a yes; a deny that matches one of the bits left is a no; bits left at the end
//! are a no. That is exactly "the last matching rule wins", for each bit.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::devices::{Access, DeviceKind, DeviceRule};
use super::error::Error;

/// One eBPF instruction: `code, dst | src << 4, off, imm` (linux/bpf.h `struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// A compiled program, ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProgram {
    pub instructions: Vec<Instruction>,
}

const LDX_W: u8 = 0x61;
const MOV32_X: u8 = 0xbc;
const MOV64_K: u8 = 0xb7;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
// 32-bit comparisons: the 64-bit ones extend the sign of the immediate.
const JNE32_K: u8 = 0x56;
const JSET32_K: u8 = 0x46;
const JA: u8 = 0x05;
const EXIT: u8 = 0x95;

const TYPE: u8 = 2;
const ASKED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

/// Pure. `struct bpf_cgroup_dev_ctx { u32 access_type (kind | access << 16), major, minor }` is in r1.
pub fn compile(rules: &[DeviceRule]) -> DeviceProgram {
    let mut code = vec![
        op(LDX_W, TYPE, 1, 0, 0),
        op(MOV32_X, ASKED, TYPE, 0, 0),
        op(RSH32_K, ASKED, 0, 0, 16),
        op(AND32_K, TYPE, 0, 0, 0xffff),
        op(LDX_W, MAJOR, 1, 4, 0),
        op(LDX_W, MINOR, 1, 8, 0),
    ];
    for rule in rules.iter().rev().filter(|r| !r.access.is_empty()) {
        let any_device = rule.kind == DeviceKind::All;
        let mut tests = Vec::new();
        match rule.kind {
            DeviceKind::All => {}
            DeviceKind::Block => tests.push((TYPE, 1)),
            DeviceKind::Char => tests.push((TYPE, 2)),
        }
        if !any_device {
            tests.extend(rule.major.map(|n| (MAJOR, n as i32)));
            tests.extend(rule.minor.map(|n| (MINOR, n as i32)));
        }
        let bits = i32::from(rule.access.bits());
        let answer = |yes: bool| [op(MOV64_K, 0, 0, 0, i32::from(yes)), op(EXIT, 0, 0, 0, 0)];
        let mut body = Vec::new();
        if rule.access == Access::ALL {
            body.extend(answer(rule.allow));
        } else if rule.allow {
            body.push(op(AND32_K, ASKED, 0, 0, !bits));
            body.push(op(JNE32_K, ASKED, 0, 2, 0));
            body.extend(answer(true));
        } else {
            body.push(op(JSET32_K, ASKED, 0, 1, bits));
            body.push(op(JA, 0, 0, 2, 0));
            body.extend(answer(false));
        }
        let count = tests.len();
        for (i, (register, number)) in tests.into_iter().enumerate() {
            code.push(op(JNE32_K, register, 0, (count - 1 - i + body.len()) as i16, number));
        }
        code.extend(body);
        // Nothing before a rule that decides everything can be reached; the verifier refuses dead code.
        if any_device && rule.access == Access::ALL {
            return DeviceProgram { instructions: code };
        }
    }
    code.extend([op(MOV64_K, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    DeviceProgram { instructions: code }
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;
/// More programs than this on one group are not ours to understand.
const PROGRAMS_MAX: usize = 64;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

fn bpf<T>(command: libc::c_long, name: &'static str, attr: &mut T) -> Result<libc::c_long, Error> {
    // SAFETY: bpf(2) reads (and for a query writes) at most size_of::<T>() bytes at `attr`, which is a live, exclusive `repr(C)` value;
    // the addresses inside it are those of buffers that the callers below keep alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(Error::Bpf { call: name, errno });
    }
    Ok(result)
}

fn load(program: &DeviceProgram) -> Result<OwnedFd, Error> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.instructions.len() as u32,
        insns: program.instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: *b"knarr_devices\0\0\0",
        expected_attach_type: BPF_CGROUP_DEVICE,
        ..LoadAttr::default()
    };
    let fd = bpf(BPF_PROG_LOAD, "bpf(BPF_PROG_LOAD, cgroup device)", &mut attr)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn attached(group: BorrowedFd<'_>) -> Result<Vec<u32>, Error> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut attr = QueryAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        ..QueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, "bpf(BPF_PROG_QUERY, cgroup device)", &mut attr)?;
    Ok(ids[..(attr.prog_cnt as usize).min(PROGRAMS_MAX)].to_vec())
}

/// Puts the program in force for the group. Programs that the group had before are replaced; at no moment is it without one, and
/// those of its ancestors stay in force as well.
pub(super) fn attach(group: BorrowedFd<'_>, program: &DeviceProgram) -> Result<(), Error> {
    let new = load(program)?;
    let by_id = |id: &u32| {
        #[repr(C)]
        struct IdAttr {
            id: u32,
            next_id: u32,
            open_flags: u32,
        }
        let fd = bpf(
            BPF_PROG_GET_FD_BY_ID,
            "bpf(BPF_PROG_GET_FD_BY_ID)",
            &mut IdAttr { id: *id, next_id: 0, open_flags: 0 },
        )?;
        // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
        Ok::<_, Error>(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    };
    let old = attached(group)?.iter().map(by_id).collect::<Result<Vec<_>, _>>()?;
    let base =
        AttachAttr { target_fd: group.as_raw_fd() as u32, attach_type: BPF_CGROUP_DEVICE, ..AttachAttr::default() };
    let (flags, replace) = match old.as_slice() {
        [one] => (BPF_F_ALLOW_MULTI | BPF_F_REPLACE, one.as_raw_fd() as u32),
        _ => (BPF_F_ALLOW_MULTI, 0),
    };
    let mut attr =
        AttachAttr { attach_bpf_fd: new.as_raw_fd() as u32, attach_flags: flags, replace_bpf_fd: replace, ..base };
    bpf(BPF_PROG_ATTACH, "bpf(BPF_PROG_ATTACH, cgroup device)", &mut attr)?;
    if old.len() > 1 {
        for program in old {
            let mut attr = AttachAttr {
                target_fd: group.as_raw_fd() as u32,
                attach_type: BPF_CGROUP_DEVICE,
                attach_bpf_fd: program.as_raw_fd() as u32,
                ..AttachAttr::default()
            };
            bpf(BPF_PROG_DETACH, "bpf(BPF_PROG_DETACH, cgroup device)", &mut attr)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::devices::denied;
    use super::super::devices::tests::rule;
    use super::*;

    /// Runs the few instructions that `compile` emits; anything else is a fault of the compiler.
    fn run(program: &DeviceProgram, kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let context = [kind | u32::from(access) << 16, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        for _ in 0..10_000 {
            let i = program.instructions[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let value = registers[dst] as u32;
            let immediate = i.immediate as u32;
            let mut jump = false;
            match i.code {
                LDX_W => registers[dst] = u64::from(context[i.offset as usize / 4]),
                MOV32_X => registers[dst] = u64::from(registers[src] as u32),
                MOV64_K => registers[dst] = i64::from(i.immediate) as u64,
                AND32_K => registers[dst] = u64::from(value & immediate),
                RSH32_K => registers[dst] = u64::from(value >> immediate),
                JNE32_K => jump = value != immediate,
                JSET32_K => jump = value & immediate != 0,
                JA => jump = true,
                EXIT => return registers[0] != 0,
                other => panic!("instruction {other:#x}"),
            }
            at = (at as i64 + 1 + if jump { i64::from(i.offset) } else { 0 }) as usize;
        }
        panic!("does not end")
    }

    #[test]
    fn the_program_decides_as_the_rules_do() {
        let sets: &[&[&str]] = &[
            &[],
            &["deny a *:* rwm", "allow c *:* m", "allow b *:* m", "allow c 1:3 rwm", "allow c 136:* rwm"],
            &["allow a *:* rwm", "deny c 1:3 w", "deny b 8:* rw"],
            &["allow c *:* rw", "deny c 1:3 w", "allow c 1:3 w", "deny c 1:3 r"],
            &["allow c 1:3 r", "allow c 1:3 w"],
            &["allow a *:* m", "deny c 4294967295:0 m", "allow c 4294967295:* r"],
            &["allow c 1:3 rwm", "deny a *:* rwm"],
        ];
        for set in sets {
            let rules: Vec<DeviceRule> = set.iter().map(|r| rule(r)).collect();
            let program = compile(&rules);
            for (kind, number) in [(DeviceKind::Block, 1), (DeviceKind::Char, 2)] {
                for major in [0, 1, 8, 136, u32::MAX] {
                    for minor in [0, 3, 7] {
                        for access in 1..8 {
                            let asked = Access::parse(&access_letters(access)).unwrap();
                            let expected = denied(&rules, kind, major, minor, asked).is_empty();
                            let got = run(&program, number, access, major, minor);
                            assert_eq!(got, expected, "{set:?}: {kind:?} {major}:{minor} {asked}");
                        }
                    }
                }
            }
        }
    }

    fn access_letters(bits: u8) -> String {
        [(1, 'm'), (2, 'r'), (4, 'w')].iter().filter(|(b, _)| bits & b != 0).map(|(_, c)| *c).collect()
    }
}
