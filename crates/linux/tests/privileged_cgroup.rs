//! Control groups on the running kernel, whichever versions it has. Needs root; `scripts/guest` runs the same file on a kernel with
//! cgroup v2 alone.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use linux::cgroup::{
    Access, Cgroups, Controller, DeviceKind, DeviceRule, Group, Layout, Memory, Resources, ThrottleDevice, Version,
    WatchKind,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const LONG: Duration = Duration::from_secs(20);

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: not root");
    }
    root
}

/// A group of its own for each test, gone afterwards whatever happens.
struct Scratch {
    cgroups: Cgroups,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        Self::with(Cgroups::detect().unwrap())
    }

    fn with(cgroups: Cgroups) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { cgroups, path: format!("/knarr-test-{}-{n}", std::process::id()).into() }
    }

    fn group(&self, name: &str) -> Group {
        self.cgroups.create(&self.path.join(name)).unwrap()
    }

    fn has(&self, controller: Controller) -> bool {
        let has = self.group("has").available().contains(controller);
        if !has {
            println!("SKIPPED: no {controller} controller here");
        }
        has
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Ok(group) = self.cgroups.find(&self.path) {
            let _ = group.kill();
        }
        if let Err(error) = self.cgroups.remove(&self.path, LONG) {
            eprintln!("left behind: {error}");
        }
    }
}

/// A shell that waits for a line before it runs the script, so that it can be put into a group first.
struct Shell(Child);

impl Shell {
    fn start(script: &str) -> Self {
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    fn output(mut self) -> String {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        text
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end, "still waiting: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_group_is_made_in_every_hierarchy_and_leaves_nothing() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let group = scratch.group("a/b/c");
    assert!(group.created());
    let directories: Vec<PathBuf> = group.directories().map(|(_, path)| path).collect();
    assert_eq!(directories.len(), scratch.cgroups.layout().hierarchies.len());
    assert!(directories.iter().all(|d| d.join("cgroup.procs").exists()));
    assert!(!scratch.group("a/b/c").created(), "it is there already");
    assert_eq!(group.pids().unwrap(), []);
    scratch.cgroups.remove(&scratch.path, LONG).unwrap();
    assert!(directories.iter().all(|d| !d.exists()));
    scratch.cgroups.remove(&scratch.path, LONG).unwrap();
}

#[test]
fn paths_that_leave_the_hierarchy_are_refused() {
    if !root() {
        return;
    }
    let cgroups = Cgroups::detect().unwrap();
    let error = cgroups.create("/a/../../etc".as_ref()).unwrap_err().to_string();
    assert_eq!(error, "cgroup path \"/a/../../etc\": only plain names apart by '/' are allowed");
    let error = cgroups.find("/no-such-group".as_ref()).unwrap_err().to_string();
    assert!(error.ends_with("no-such-group: No such file or directory (os error 2)"), "{error}");
    assert!(cgroups.remove("/".as_ref(), LONG).is_err());
}

#[test]
fn a_relative_path_is_beneath_our_own_group() {
    if !root() {
        return;
    }
    let cgroups = Cgroups::detect().unwrap();
    let own = cgroups.of_process(std::process::id() as i32).unwrap();
    let name = format!("knarr-test-relative-{}", std::process::id());
    let group = match cgroups.create(name.as_ref()) {
        Ok(group) => group,
        Err(error) => panic!("{error}"),
    };
    let expected: Vec<PathBuf> = own.directories().map(|(_, d)| d.join(&name)).collect();
    assert_eq!(group.directories().map(|(_, d)| d).collect::<Vec<_>>(), expected);
    group.remove(LONG).unwrap();
}

#[test]
fn a_process_joins_is_seen_is_killed_and_the_group_goes() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let group = scratch.group("x");
    // v2 allows processes in leaves only.
    let (left, right) = (scratch.group("x/left"), scratch.group("x/right"));
    let mut a = Shell::start("sleep 1000");
    let b = Shell::start("exec sleep 1000");
    left.join(a.pid()).unwrap();
    right.join(b.pid()).unwrap();
    assert_eq!((group.pids().unwrap(), left.pids().unwrap()), (vec![], vec![a.pid()]));
    let mut both = [a.pid(), b.pid()];
    both.sort_unstable();
    assert_eq!(group.all_pids().unwrap(), both);
    let again = scratch.cgroups.of_process(a.pid()).unwrap();
    assert_eq!(
        again.directories().map(|(_, d)| d).collect::<Vec<_>>(),
        left.directories().map(|(_, d)| d).collect::<Vec<_>>()
    );
    let busy = scratch.cgroups.remove(&scratch.path.join("x"), Duration::ZERO).unwrap_err().to_string();
    assert!(busy.contains("still has processes"), "{busy}");
    a.go();
    group.kill().unwrap();
    group.remove(LONG).unwrap();
}

#[test]
fn limits_are_what_the_kernel_then_says() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let group = scratch.group("x");
    let mut asked = Resources::default();
    let available = group.available();
    if available.contains(Controller::Memory) {
        asked.memory = Memory { limit: Some(64 << 20), reservation: Some(32 << 20), ..Memory::default() };
    }
    if available.contains(Controller::Cpu) {
        asked.cpu.shares = Some(512);
        asked.cpu.quota = Some(50_000);
        asked.cpu.period = Some(100_000);
    }
    if available.contains(Controller::Pids) {
        asked.pids = Some(77);
    }
    if available.contains(Controller::Cpuset) {
        asked.cpu.cpus = Some("0".into());
    }
    assert_eq!(group.apply(&asked).unwrap(), Vec::<String>::new());
    let read = |c, file: &str| group.read_file(c, file).unwrap().trim().to_owned();
    let v2 = |c| matches!(group.layout().home(c), Some((_, Version::V2)));
    if available.contains(Controller::Memory) {
        assert_eq!(group.memory_stats().limit, Some(64 << 20));
        let file = if v2(Controller::Memory) { "memory.low" } else { "memory.soft_limit_in_bytes" };
        assert_eq!(read(Controller::Memory, file), (32 << 20).to_string());
    }
    if available.contains(Controller::Cpu) {
        match v2(Controller::Cpu) {
            true => {
                assert_eq!(
                    (read(Controller::Cpu, "cpu.weight"), read(Controller::Cpu, "cpu.max")),
                    ("59".into(), "50000 100000".into())
                );
            }
            false => {
                assert_eq!(
                    (read(Controller::Cpu, "cpu.shares"), read(Controller::Cpu, "cpu.cfs_quota_us")),
                    ("512".into(), "50000".into())
                );
            }
        }
    }
    if available.contains(Controller::Pids) {
        assert_eq!(group.pids_stats().limit, Some(77));
    }
    if available.contains(Controller::Cpuset) {
        assert_eq!(read(Controller::Cpuset, "cpuset.cpus"), "0");
    }
}

#[test]
fn memory_and_swap_move_up_and_down_together() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    if !scratch.has(Controller::Memory) {
        return;
    }
    let group = scratch.group("x");
    let v2 = matches!(group.layout().home(Controller::Memory), Some((_, Version::V2)));
    for (limit, swap) in
        [(64i64 << 20, 64i64 << 20), (128 << 20, 256 << 20), (32 << 20, 32 << 20), (-1, -1), (48 << 20, 64 << 20)]
    {
        let memory = Memory { limit: Some(limit), swap: Some(swap), ..Memory::default() };
        match group.apply(&Resources { memory, ..Resources::default() }) {
            Ok(_) => {}
            Err(error) if error.to_string().contains("swap.max") => {
                println!("SKIPPED: no swap accounting here ({error})");
                return;
            }
            Err(error) => panic!("{limit} {swap}: {error}"),
        }
        let stats = group.memory_stats();
        let expected_swap = if v2 { swap - limit.max(0) } else { swap };
        assert_eq!(stats.limit, u64::try_from(limit).ok(), "{limit} {swap}");
        if !v2 || group.read_file(Controller::Memory, "memory.swap.max").is_ok() {
            assert_eq!(stats.swap_limit, u64::try_from(expected_swap).ok(), "{limit} {swap}");
        }
    }
}

#[test]
fn a_value_that_the_kernel_refuses_is_named_with_its_file() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    if !scratch.has(Controller::Cpu) {
        return;
    }
    let group = scratch.group("x");
    let mut asked = Resources::default();
    asked.cpu.period = Some(5);
    let error = group.apply(&asked).unwrap_err().to_string();
    assert!(
        error.contains("write \"") && error.contains("cpu.") && error.contains("/x/") && error.contains("Invalid"),
        "{error}"
    );
    asked = Resources::default();
    asked.block_io.read_bps = vec![ThrottleDevice { major: 4095, minor: 77, rate: 1000 }];
    let error = group.apply(&asked).unwrap_err().to_string();
    assert!(error.contains("4095:77") || error.contains("block I/O cannot be limited"), "{error}");
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let group = scratch.group("x");
    if group.clone_into().is_none() && !group.available().contains(Controller::Freezer) {
        println!("SKIPPED: no freezer here");
        return;
    }
    let mut shell = Shell::start("while :; do :; done");
    group.join(shell.pid()).unwrap();
    shell.go();
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", shell.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    wait_until("it runs", || used() > 2);
    group.freeze(LONG).unwrap();
    assert!(group.is_frozen().unwrap());
    let before = used();
    // Longer than several scheduler ticks: time itself is the condition here.
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(used(), before);
    group.thaw().unwrap();
    assert!(!group.is_frozen().unwrap());
    wait_until("it runs again", || used() > before);
    group.freeze(LONG).unwrap();
    group.kill().unwrap();
    let status = shell.0.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    group.remove(LONG).unwrap();
}

/// Runs over v1 alone too where both versions are mounted: that is the loop that has to outrun forks.
#[test]
fn a_fork_bomb_is_killed() {
    if !root() {
        return;
    }
    let layout = Layout::detect().unwrap();
    let mut layouts = vec![layout.clone()];
    let v1 = Layout { hierarchies: layout.hierarchies.iter().filter(|h| h.version == Version::V1).cloned().collect() };
    if !v1.hierarchies.is_empty() && v1 != layout {
        layouts.push(v1);
    }
    for layout in layouts {
        let scratch = Scratch::with(Cgroups::open(layout).unwrap());
        if !scratch.has(Controller::Pids) {
            continue;
        }
        let group = scratch.group("x");
        group.apply(&Resources { pids: Some(60), ..Resources::default() }).unwrap();
        // `command eval`: a shell whose fork is refused would end, and the bomb could be over before it is seen.
        let mut bomb = Shell::start("b() { while :; do command eval 'b &'; done; }; b");
        group.join(bomb.pid()).unwrap();
        bomb.go();
        wait_until("it grows", || group.pids_stats().current.is_some_and(|n| n > 30));
        group.kill().unwrap();
        group.remove(LONG).unwrap();
    }
}

#[test]
fn running_out_of_memory_is_announced_and_counted() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    if !scratch.has(Controller::Memory) {
        return;
    }
    let group = scratch.group("x");
    let watch = group.watch(WatchKind::Memory).unwrap().expect("the memory controller tells");
    // Swap would save it.
    let memory = Memory { limit: Some(24 << 20), swap: Some(24 << 20), ..Memory::default() };
    group.apply(&Resources { memory, ..Resources::default() }).unwrap();
    let mut hog = Shell::start("x=0123456789abcdef; while :; do x=$x$x; done");
    group.join(hog.pid()).unwrap();
    assert_eq!(group.events().oom_kill.unwrap_or(0), 0);
    hog.go();
    let flags = if watch.waits_for_input() { PollFlags::IN } else { PollFlags::PRI };
    wait_until("the news", || {
        let fd = watch.as_fd();
        let mut fds = [PollFd::new(&fd, flags)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
        let news = watch.read();
        ready > 0 && (news.oom.unwrap_or(0) > 0 || news.oom_kill.unwrap_or(0) > 0 || watch.waits_for_input())
    });
    wait_until("the kill is counted", || group.events().oom_kill == Some(1));
    let status = hog.0.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(group.memory_stats().oom_kills, Some(1));
}

#[test]
fn an_empty_group_is_announced_on_v2() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let group = scratch.group("x");
    let Some(watch) = group.watch(WatchKind::Life).unwrap() else {
        println!("SKIPPED: no v2 hierarchy here");
        return;
    };
    let mut shell = Shell::start("exit 0");
    group.join(shell.pid()).unwrap();
    assert_eq!(group.events().populated, Some(true));
    shell.go();
    wait_until("it is empty", || {
        let fd = watch.as_fd();
        poll(&mut [PollFd::new(&fd, PollFlags::PRI)], Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
        watch.read().populated == Some(false)
    });
}

fn devices(text: &str) -> Vec<DeviceRule> {
    let rule = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |n: &str| if n == "*" { None } else { Some(n.parse().unwrap()) };
        let (major, minor) = words[2].split_once(':').unwrap();
        let kind = match words[1] {
            "a" => DeviceKind::All,
            "b" => DeviceKind::Block,
            _ => DeviceKind::Char,
        };
        DeviceRule {
            allow: words[0] == "allow",
            kind,
            major: number(major),
            minor: number(minor),
            access: Access::parse(words[3]).unwrap(),
        }
    };
    text.split(',').map(rule).collect()
}

/// What a shell in a group with these rules can open: of null and zero for reading and writing, and make: a null of its own.
fn reach(group: &Group) -> String {
    let node = std::env::temp_dir().join(format!("knarr-test-node-{}", std::process::id()));
    let node = node.display();
    let shell = format!(
        "for d in null zero; do (: < /dev/$d) 2>&- && printf \"$d:r \"; (: > /dev/$d) 2>&- && printf \"$d:w \"; done; \
         mknod {node} c 1 3 2>&- && printf 'mknod:1:3 '; rm -f {node}; mknod {node} b 7 0 2>&- && printf 'mknod:7:0'; rm -f {node}"
    );
    let mut shell = Shell::start(&shell);
    group.join(shell.pid()).unwrap();
    shell.go();
    shell.output().trim().to_owned()
}

#[test]
fn devices_are_denied_unless_a_rule_allows_them() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    if !scratch.has(Controller::Devices) {
        return;
    }
    let rows = [
        ("deny a *:* rwm", ""),
        ("deny a *:* rwm,allow c 1:3 rw", "null:r null:w"),
        ("allow c *:* m,allow c 1:5 r", "zero:r mknod:1:3"),
        ("allow a *:* rwm", "null:r null:w zero:r zero:w mknod:1:3 mknod:7:0"),
        ("allow a *:* rwm,deny c 1:3 w", "null:r zero:r zero:w mknod:1:3 mknod:7:0"),
        ("allow c 1:3 rwm,allow c 1:5 rwm,deny c 1:* w", "null:r zero:r mknod:1:3"),
    ];
    let can = {
        let free = scratch.group("free");
        reach(&free)
    };
    if !can.contains("mknod:7:0") {
        println!("SKIPPED: this place cannot make device nodes anyway ({can})");
        return;
    }
    let group = scratch.group("x");
    for (rules, expected) in rows {
        let asked = Resources { devices: Some(devices(rules)), ..Resources::default() };
        match group.apply(&asked) {
            Ok(_) => {}
            // A kernel without CONFIG_CGROUP_BPF: what must not happen is that the group is used without its rules.
            Err(error) if error.errno() == Some(rustix::io::Errno::INVAL) && error.to_string().contains("bpf(") => {
                println!("SKIPPED: no device programs in this kernel ({error})");
                return;
            }
            Err(error) => panic!("{rules}: {error}"),
        }
        // The shell needs what it reads from and writes to: those are pipes, opened before.
        assert_eq!(reach(&group), expected, "{rules}");
    }
}

#[test]
fn statistics_show_what_a_process_used() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let group = scratch.group("x");
    let mut shell = Shell::start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read end");
    group.join(shell.pid()).unwrap();
    shell.go();
    wait_until("time is used", || group.cpu_stats().usage_ns > 1_000_000);
    let stats = group.stats();
    assert!(stats.cpu.usage_ns > 0 && stats.cpu.usage_ns < 60_000_000_000, "{:?}", stats.cpu);
    if group.available().contains(Controller::Memory) {
        assert!(stats.memory.usage.is_some_and(|n| n < 100 << 20), "{:?}", stats.memory);
        assert!(stats.memory.stat.len() > 5);
    }
    if group.available().contains(Controller::Pids) {
        assert_eq!(stats.pids.current, Some(1));
    }
}

/// `cargo test -p linux --release --test privileged_cgroup -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_a_group() {
    if !root() {
        return;
    }
    let time = |what: &str, f: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..200 {
            f();
        }
        println!("{what}: {:.1} us", start.elapsed().as_secs_f64() * 1e6 / 200.0);
    };
    time("detect the layout", &mut || drop(Cgroups::detect().unwrap()));
    let scratch = Scratch::new();
    drop(scratch.group("warm"));
    println!("{} hierarchies", scratch.cgroups.layout().hierarchies.len());
    let path = scratch.path.join("x");
    time("create and remove", &mut || scratch.cgroups.create(&path).unwrap().remove(LONG).unwrap());
    time("bare mkdir and rmdir", &mut || {
        let dirs: Vec<PathBuf> = scratch
            .cgroups
            .layout()
            .hierarchies
            .iter()
            .map(|h| h.mount.join(scratch.path.strip_prefix("/").unwrap()).join("y"))
            .collect();
        dirs.iter().for_each(|d| fs::create_dir(d).unwrap());
        dirs.iter().for_each(|d| fs::remove_dir(d).unwrap());
    });
    let docker = Resources {
        memory: Memory { limit: Some(64 << 20), swap: Some(64 << 20), ..Memory::default() },
        pids: Some(100),
        devices: Some(devices(
            "deny a *:* rwm,allow c *:* m,allow b *:* m,allow c 1:3 rwm,allow c 1:5 rwm,allow c 1:7 rwm,allow c 5:0 rwm,allow c 5:2 rwm,\
             allow c 1:8 rwm,allow c 1:9 rwm,allow c 136:* rwm",
        )),
        ..Resources::default()
    };
    let group = scratch.group("limits");
    time("apply Docker's usual limits", &mut || drop(group.apply(&docker).unwrap()));
    time("statistics", &mut || drop(group.stats()));
    let child = Shell::start("sleep 100");
    let other = scratch.group("other");
    time("join and join back", &mut || {
        group.join(child.pid()).unwrap();
        other.join(child.pid()).unwrap();
    });
}
