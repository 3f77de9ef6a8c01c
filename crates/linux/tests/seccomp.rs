//! Filters in force: each case filters a thread of its own, so no right is needed and nothing outlives the test.

use std::io::Error;
use std::os::fd::AsRawFd;

use linux::seccomp::docker::{Target, default_profile};
use linux::seccomp::{Action, Arch, Condition, Operator, Profile, Rule, compile, load};

/// Filters a new thread and gives what `then` finds there.
fn filtered<T: Send>(profile: &Profile, then: impl FnOnce() -> T + Send) -> T {
    let filter = compile(profile, Arch::NATIVE).unwrap();
    std::thread::scope(|scope| {
        let body = || {
            // SAFETY: PR_SET_NO_NEW_PRIVS takes four plain numbers.
            assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
            assert!(load(&filter).unwrap().is_none());
            then()
        };
        scope.spawn(body).join().unwrap()
    })
}

/// The errno of a raw call with these arguments, 0 if it succeeds.
fn errno(number: i64, args: [u64; 3]) -> i32 {
    // SAFETY: the calls below get numbers and null pointers only; at worst they answer EFAULT.
    match unsafe { libc::syscall(number, args[0], args[1], args[2], 0, 0, 0) } {
        -1 => Error::last_os_error().raw_os_error().unwrap(),
        _ => 0,
    }
}

fn profile(default_action: Action, rules: Vec<Rule>) -> Profile {
    Profile {
        default_action,
        default_errno_ret: None,
        architectures: vec![],
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls: rules,
    }
}

fn rule(name: &str, action: Action, errno_ret: Option<u32>, args: Vec<Condition>) -> Rule {
    Rule { names: vec![name.into()], action, errno_ret, args }
}

fn docker() -> Profile {
    let capabilities: Vec<String> = ["CAP_CHOWN", "CAP_SYS_CHROOT"].map(str::to_owned).to_vec();
    let target = Target { capabilities: &capabilities, arch: Arch::NATIVE, kernel: (6, 1) };
    default_profile().resolve(&target).unwrap().unwrap()
}

#[test]
fn a_filter_answers_with_its_error_numbers() {
    let condition = Condition { index: 0, value: 7, value_two: 0, op: Operator::Eq };
    let rules =
        vec![rule("getsid", Action::Errno, Some(93), vec![condition]), rule("getpgid", Action::Errno, None, vec![])];
    let found = filtered(&profile(Action::Allow, rules), || {
        [errno(libc::SYS_getsid, [7, 0, 0]), errno(libc::SYS_getsid, [0, 0, 0]), errno(libc::SYS_getpgid, [0, 0, 0])]
    });
    assert_eq!(found, [93, 0, libc::EPERM]);
}

#[test]
fn dockers_default_refuses_what_it_should_and_lets_programs_run() {
    let found = filtered(&docker(), || {
        let text = std::fs::read_to_string("/proc/self/comm").map(|t| t.len() > 1).unwrap_or(false);
        let calls = [
            errno(libc::SYS_keyctl, [0, 0, 0]),
            errno(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0]),
            errno(libc::SYS_clone3, [0, 0, 0]),
            errno(libc::SYS_socket, [38, 5, 0]),
            errno(libc::SYS_socket, [0x1_0000_0000 | 38, 5, 0]),
            errno(libc::SYS_io_uring_setup, [1, 0, 0]),
            errno(100_000, [0, 0, 0]),
        ];
        (text, std::thread::spawn(|| 5).join().unwrap(), calls)
    });
    const E: i32 = libc::EPERM;
    assert_eq!(found, (true, 5, [E, E, libc::ENOSYS, E, E, E, libc::ENOSYS]));
}

/// `int 0x80` enters the kernel as x86 whatever the program is: a filter for x86_64 alone must not let it pass.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_old_entry_of_x86_is_filtered_as_x86() {
    fn int80(number: u32, argument: u32) -> i32 {
        let result: i64;
        // SAFETY: a system call by the old entry; rbx is saved by hand because the compiler keeps it for itself.
        unsafe {
            std::arch::asm!("xchg rbx, {argument:r}", "int 0x80", "xchg rbx, {argument:r}", argument = inout(reg) u64::from(argument) => _,
                inlateout("rax") u64::from(number) => result, in("rcx") 0u64, in("rdx") 0u64, in("rsi") 0u64, in("rdi") 0u64,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        -(result as i32)
    }
    let found = filtered(&docker(), || [int80(310, 0x1000_0000), int80(288, 0), int80(435, 0), int80(20, 0).signum()]);
    assert_eq!(found, [libc::EPERM, libc::EPERM, libc::ENOSYS, -1], "unshare, keyctl, clone3, getpid");
    // A profile without x86 ends the process: seen from a child.
    let only_native =
        compile(&profile(Action::Allow, vec![rule("getsid", Action::Errno, None, vec![])]), Arch::NATIVE).unwrap();
    // SAFETY: the child makes system calls only and ends by one of them.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let _ = load(&only_native);
            int80(20, 0);
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    };
    assert_eq!((libc::WIFSIGNALED(status), libc::WTERMSIG(status)), (true, libc::SIGSYS));
}

#[test]
fn a_listener_is_told_and_answers() {
    #[repr(C)]
    #[derive(Default)]
    struct Notice {
        id: u64,
        pid: u32,
        flags: u32,
        number: i32,
        arch: u32,
        pointer: u64,
        args: [u64; 6],
    }
    #[repr(C)]
    struct Answer {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    const RECV: libc::Ioctl = 0xc050_2100u32 as libc::Ioctl;
    const SEND: libc::Ioctl = 0xc018_2101u32 as libc::Ioctl;
    let filter =
        compile(&profile(Action::Allow, vec![rule("getsid", Action::Notify, None, vec![])]), Arch::NATIVE).unwrap();
    assert!(filter.notifies);
    let (sender, receiver) = std::sync::mpsc::channel();
    let asker = std::thread::spawn(move || {
        // SAFETY: plain numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        sender.send(load(&filter).unwrap().expect("a listener")).unwrap();
        // SAFETY: getsid takes a number.
        unsafe { libc::syscall(libc::SYS_getsid, 42) }
    });
    let listener = receiver.recv().unwrap();
    let mut notice = Notice::default();
    // SAFETY: the structures have the layout of `struct seccomp_notif` and `seccomp_notif_resp`, zeroed as the kernel asks.
    unsafe {
        assert_eq!(libc::ioctl(listener.as_raw_fd(), RECV, &raw mut notice), 0, "{}", Error::last_os_error());
        assert_eq!((i64::from(notice.number), notice.args[0]), (libc::SYS_getsid, 42));
        let mut answer = Answer { id: notice.id, value: 777, error: 0, flags: 0 };
        assert_eq!(libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer), 0, "{}", Error::last_os_error());
    }
    assert_eq!(asker.join().unwrap(), 777);
}

#[test]
fn refusal_by_the_kernel_names_the_call() {
    let mut filter = compile(&docker(), Arch::NATIVE).unwrap();
    filter.instructions.clear();
    assert_eq!(
        load(&filter).unwrap_err().to_string().split(':').next(),
        Some("seccomp(SET_MODE_FILTER, flags 0x4, 0 instructions)")
    );
}

/// `cargo test -p linux --release --test seccomp -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_compiling_and_of_a_filtered_call() {
    let time = |what: &str, rounds: u32, f: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            f();
        }
        println!("{what}: {:.3} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    };
    let profile = docker();
    time("resolve Docker's default", 1000, &mut || drop(docker()));
    time("compile it", 1000, &mut || drop(compile(&profile, Arch::NATIVE).unwrap()));
    let filter = compile(&profile, Arch::NATIVE).unwrap();
    println!("{} instructions", filter.instructions.len());
    let calls = || {
        for (what, call) in
            [("getppid", libc::SYS_getppid), ("keyctl (refused)", libc::SYS_keyctl), ("socket", libc::SYS_socket)]
        {
            time(what, 1_000_000, &mut || _ = std::hint::black_box(errno(call, [u64::MAX, 0, 0])));
        }
    };
    println!("without a filter");
    calls();
    println!("with the filter");
    filtered(&profile, calls);
}
