//! What the tests of the attack catalogue run inside a container: it tries what must not work and prints what did.
//!
//!   probe profile ERRNO [CAP...]     (outside) Docker's default profile for these capabilities as the OCI spec's JSON, refusing with ERRNO
//!   probe blocked ABI [CAP...]       (outside) the calls of an ABI (x86_64, x86, x32) that this profile does not simply allow
//!   probe calls ABI NAME[=ARG0]...   makes each call with senseless arguments: `NAME ANSWER` (0, an errno, or `signal N`)
//!   probe devices                    makes and opens device nodes of 50 majors: `c 1:3 rw` for each that opens
//!   probe cgroup                     tries to write control files, to make groups, to move up, to mount the hierarchy anew
//!   probe forks N                    forks N children that wait: how many there were
//!   probe cat FILE...                prints files

use std::ffi::CString;
use std::fs;
use std::io::{Error, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux::seccomp::docker::{Target, default_profile};
use linux::seccomp::{Action, Arch, Profile, syscalls};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rest = words.get(2..).unwrap_or_default();
    match (words.first().map(String::as_str), words.get(1)) {
        (Some("profile"), Some(errno)) => {
            let mut profile = resolve(rest);
            profile.default_errno_ret = Some(errno.parse().expect("a number"));
            println!("{}", serde_json::to_string(&profile).expect("a profile is plain"));
        }
        (Some("blocked"), Some(abi)) => {
            let profile = resolve(rest);
            let free = |name: &str| {
                let whole = |r: &&linux::seccomp::Rule| r.action == Action::Allow && r.args.is_empty();
                profile.syscalls.iter().filter(whole).any(|r| r.names.iter().any(|n| n == name))
            };
            for (name, _) in syscalls::all(arch(abi)).filter(|(name, _)| !free(name)) {
                println!("{name}");
            }
        }
        (Some("calls"), Some(abi)) => rest.iter().for_each(|call| one_call(abi, call)),
        (Some("devices"), None) => devices(),
        (Some("cgroup"), None) => cgroup(),
        (Some("forks"), Some(n)) => forks(n.parse().expect("a number")),
        (Some("cat"), Some(_)) => words[1..]
            .iter()
            .for_each(|f| print!("{}", fs::read_to_string(f).unwrap_or_else(|e| format!("{f}: {e}\n")))),
        _ => {
            eprintln!("probe: {words:?} is not known; see the head of its source");
            std::process::exit(2);
        }
    }
}

fn resolve(capabilities: &[String]) -> Profile {
    let target = Target { capabilities, arch: Arch::NATIVE, kernel: (6, 1) };
    default_profile().resolve(&target).expect("our own profile").expect("is a filter")
}

fn arch(abi: &str) -> Arch {
    match abi {
        "x86_64" => Arch::X86_64,
        "x86" => Arch::X86,
        "x32" => Arch::X32,
        other => panic!("no ABI {other:?}"),
    }
}

/// In a child: a filter may end it.
fn one_call(abi: &str, call: &str) {
    let (name, first) = call.split_once('=').unwrap_or((call, "-1"));
    let first = first
        .strip_prefix("0x")
        .map_or_else(|| first.parse::<i64>().expect("a number"), |h| i64::from_str_radix(h, 16).expect("hex"));
    let number = syscalls::number(arch(abi), name).expect("a call of this ABI");
    let status = in_child(|| {
        let answer = if abi == "x86" { enter_as_x86(number, first as u32) } else { enter(number, first) };
        answer.clamp(0, 255) as i32
    });
    match (libc::WIFSIGNALED(status), libc::WTERMSIG(status), libc::WEXITSTATUS(status)) {
        (true, signal, _) => println!("{name} signal {signal}"),
        (_, _, answer) => println!("{name} {answer}"),
    }
}

/// The wait status of a child that runs `body` and exits with what it gives.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    let _ = std::io::stdout().flush();
    // SAFETY: this program has one thread, so the child may do what its parent may.
    unsafe {
        match libc::fork() {
            -1 => panic!("fork: {}", Error::last_os_error()),
            0 => {
                let code = body();
                libc::_exit(code)
            }
            child => {
                let mut status = 0;
                let end = Instant::now() + PATIENCE;
                // A call may wait for ever, and may have blocked every signal but this one.
                while libc::waitpid(child, &raw mut status, libc::WNOHANG) == 0 {
                    if Instant::now() > end {
                        libc::kill(child, libc::SIGKILL);
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
                status
            }
        }
    }
}

/// The errno, 0 for success.
fn enter(number: u32, first: i64) -> i64 {
    // SAFETY: arguments are -1, no valid pointer or descriptor; whatever the call does it does to this child.
    match unsafe { libc::syscall(i64::from(number), first, -1i64, -1i64, -1i64, -1i64, -1i64) } {
        -1 => i64::from(Error::last_os_error().raw_os_error().unwrap_or(255)),
        _ => 0,
    }
}

#[cfg(target_arch = "x86_64")]
fn enter_as_x86(number: u32, first: u32) -> i64 {
    let result: i64;
    // SAFETY: as `enter`, by the 32-bit entry, which reads rbx, rcx, rdx, rsi, rdi; rbx is the compiler's own and is put back.
    unsafe {
        std::arch::asm!("xchg rbx, {first:r}", "int 0x80", "xchg rbx, {first:r}", first = inout(reg) u64::from(first) => _,
            inlateout("rax") u64::from(number) => result, in("rcx") 0xffff_ffffu64, in("rdx") 0xffff_ffffu64, in("rsi") 0xffff_ffffu64,
            in("rdi") 0xffff_ffffu64, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    let result = i64::from(result as i32);
    if (-4095..0).contains(&result) { -result } else { 0 }
}

#[cfg(not(target_arch = "x86_64"))]
fn enter_as_x86(_: u32, _: u32) -> i64 {
    panic!("only x86_64 has this entry")
}

fn devices() {
    let node = CString::new("/dev/probe-node").expect("no zero byte");
    let mut made = 0;
    for (letter, kind) in [('c', libc::S_IFCHR), ('b', libc::S_IFBLK)] {
        for major in (1..=48).chain([136, 226]) {
            for minor in [0, 1, 2, 3, 5, 7, 8, 9, 11, 229] {
                // SAFETY: a path that ends in zero and plain numbers.
                unsafe {
                    libc::unlink(node.as_ptr());
                    if libc::mknod(node.as_ptr(), kind | 0o666, libc::makedev(major, minor)) != 0 {
                        continue;
                    }
                }
                made += 1;
                let mut access = String::new();
                // A device that is not there answers ENXIO or ENODEV: the control group let it pass all the same.
                for (flags, name) in [(libc::O_RDONLY, 'r'), (libc::O_WRONLY, 'w')] {
                    // SAFETY: as above; the descriptor is closed at once.
                    let passed = unsafe {
                        let fd = libc::open(node.as_ptr(), flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC);
                        fd >= 0 && libc::close(fd) == 0
                            || fd < 0 && Error::last_os_error().raw_os_error() != Some(libc::EPERM)
                    };
                    access.extend(passed.then_some(name));
                }
                if !access.is_empty() {
                    println!("{letter} {major}:{minor} {access}");
                }
            }
        }
    }
    // SAFETY: as above.
    unsafe { libc::unlink(node.as_ptr()) };
    println!("made {made}");
}

/// Prints a line for each thing that worked.
fn cgroup() {
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    seen += 1;
                    // Opening for writing is enough; what is written could harm.
                    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
                        println!("writable {}", path.display());
                    }
                }
                _ => {}
            }
        }
        let inside = folder.join("probe-group");
        if fs::create_dir(&inside).is_ok() {
            println!("made {}", inside.display());
            let _ = fs::remove_dir(&inside);
        }
        let up = folder.join("../cgroup.procs");
        if fs::OpenOptions::new().write(true).open(&up).is_ok() {
            println!("writable {}", up.display());
        }
    }
    println!("seen {seen}");
    for (what, namespaces) in
        [("mount", 0), ("unshare and mount", libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP)]
    {
        for (kind, options) in [("cgroup2", ""), ("cgroup", "memory"), ("cgroup", "none,name=probe")] {
            let status = in_child(|| mount_anew(namespaces, kind, options));
            if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
                println!("{what}: {kind} {options}");
            }
        }
    }
    let status = in_child(|| {
        let place = c"/sys/fs/cgroup";
        // SAFETY: paths that end in zero, null where mount takes none.
        unsafe {
            libc::mount(
                std::ptr::null(),
                place.as_ptr(),
                std::ptr::null(),
                libc::MS_REMOUNT | libc::MS_BIND,
                std::ptr::null(),
            )
        }
    });
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        println!("remounted /sys/fs/cgroup");
    }
}

fn mount_anew(namespaces: i32, kind: &str, options: &str) -> i32 {
    let place = Path::new("/dev/probe-cgroup");
    let _ = fs::create_dir(place);
    let text = |s: &str| CString::new(s).expect("no zero byte");
    let (kind, options, place) = (text(kind), text(options), text("/dev/probe-cgroup"));
    // SAFETY: strings that end in zero and plain numbers.
    unsafe {
        if namespaces != 0 && libc::unshare(namespaces) != 0 {
            return 1;
        }
        match libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) {
            0 => {
                libc::umount2(place.as_ptr(), libc::MNT_DETACH);
                0
            }
            _ => 1,
        }
    }
}

fn forks(n: usize) {
    let mut children = Vec::new();
    for _ in 0..n {
        // SAFETY: one thread; the child waits for its end.
        match unsafe { libc::fork() } {
            -1 => break,
            0 => loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            },
            child => children.push(child),
        }
    }
    println!("forked {}", children.len());
    for child in children {
        // SAFETY: our own children, not waited for yet.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}
