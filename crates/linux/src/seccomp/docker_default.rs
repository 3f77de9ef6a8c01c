//! Docker's default profile as data: what a container may call without being asked.
//!
//! Follows the profile of Docker 29.4 (the rules and their conditions, not its text): everything is refused with EPERM but what is named
//! here; clone3 answers ENOSYS without CAP_SYS_ADMIN, because its flags are in memory where no filter sees them and libraries then
//! fall back to clone; sockets of the families AF_ALG (38) and AF_VSOCK (40) are refused.
//!
//! Known gap, shared with Docker: 32-bit x86 code can reach any socket family through `socketcall`, whose arguments no filter sees and
//! without which 32-bit programs have no network.

use super::arch::Arch;
use super::docker::{ArchMap, DockerProfile, DockerRule, When};
use super::profile::{Action, Condition, Operator};

/// Free for everyone.
const FREE: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close
    close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid
    getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64
    ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
    lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at
    nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
    remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
    sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list
    setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Free with a capability, which must be in the bounding set.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Free where the architecture has them.
const WITH_ARCH: &[(&[&str], &str)] = &[
    (&["ppc64le"], "sync_file_range2 swapcontext"),
    (&["arm", "arm64"], "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    (&["amd64", "x32"], "arch_prctl"),
    (&["amd64", "x32", "x86"], "modify_ldt"),
    (&["s390", "s390x"], "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (&["riscv64"], "riscv_flush_icache"),
];

/// PER_LINUX, PER_LINUX32, UNAME26, both, and the question what it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u64 = 0x7e02_0000;

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
const ENOSYS: u32 = 38;

const ARCHES: &[(Arch, &[Arch])] = &[
    (Arch::X86_64, &[Arch::X86, Arch::X32]),
    (Arch::Aarch64, &[Arch::Arm]),
    (Arch::Mips64, &[Arch::Mips, Arch::Mips64n32]),
    (Arch::Mips64n32, &[Arch::Mips, Arch::Mips64]),
    (Arch::Mipsel64, &[Arch::Mipsel, Arch::Mipsel64n32]),
    (Arch::Mipsel64n32, &[Arch::Mipsel, Arch::Mipsel64]),
    (Arch::S390x, &[Arch::S390]),
    (Arch::Riscv64, &[]),
    (Arch::Loongarch64, &[]),
];

/// The default profile in Docker's form; [`DockerProfile::resolve`] makes it one container's.
pub fn default_profile() -> DockerProfile {
    let mut syscalls = vec![
        allow(FREE),
        DockerRule {
            includes: Some(When { min_kernel: Some("4.8".into()), ..When::default() }),
            ..allow("process_vm_readv process_vm_writev ptrace")
        },
    ];
    for (value, op) in [(AF_ALG, Operator::Lt), (AF_ALG + 1, Operator::Eq), (AF_VSOCK, Operator::Gt)] {
        syscalls.push(DockerRule { args: vec![Condition { index: 0, value, value_two: 0, op }], ..allow("socket") });
    }
    for value in PERSONALITIES {
        let args = vec![Condition { index: 0, value, value_two: 0, op: Operator::Eq }];
        syscalls.push(DockerRule { args, ..allow("personality") });
    }
    for (arches, names) in WITH_ARCH {
        syscalls.push(DockerRule { includes: Some(When { arches: owned(arches), ..When::default() }), ..allow(names) });
    }
    for (cap, names) in WITH_CAPABILITY {
        syscalls.push(DockerRule { includes: Some(When { caps: owned(&[cap]), ..When::default() }), ..allow(names) });
    }
    // The order of clone's arguments differs on s390.
    let s390 = owned(&["s390", "s390x"]);
    let admin = owned(&["CAP_SYS_ADMIN"]);
    let no_namespaces = |index| vec![Condition { index, value: NAMESPACES, value_two: 0, op: Operator::MaskedEq }];
    syscalls.push(DockerRule {
        args: no_namespaces(0),
        excludes: Some(When { caps: admin.clone(), arches: s390.clone(), min_kernel: None }),
        ..allow("clone")
    });
    syscalls.push(DockerRule {
        args: no_namespaces(1),
        includes: Some(When { arches: s390, ..When::default() }),
        excludes: Some(When { caps: admin.clone(), ..When::default() }),
        ..allow("clone")
    });
    syscalls.push(DockerRule {
        action: Action::Errno,
        errno_ret: Some(ENOSYS),
        excludes: Some(When { caps: admin, ..When::default() }),
        ..allow("clone3")
    });
    let arch_map =
        ARCHES.iter().map(|(a, subs)| ArchMap { architecture: *a, sub_architectures: subs.to_vec() }).collect();
    DockerProfile {
        default_action: Some(Action::Errno),
        default_errno_ret: Some(1),
        arch_map,
        syscalls,
        ..DockerProfile::default()
    }
}

fn allow(names: &str) -> DockerRule {
    DockerRule {
        name: None,
        names: names.split_whitespace().map(str::to_owned).collect(),
        action: Action::Allow,
        errno_ret: None,
        args: Vec::new(),
        includes: None,
        excludes: None,
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}
