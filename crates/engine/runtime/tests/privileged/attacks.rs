//! Attacks that need a race, a crowd or a number: each runs for a bounded time against a build that it must not win against.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use super::bundle::{Bundle, Said};

pub const TESTS: &[Test] = &[
    ("rt_03_nothing_of_the_host_is_open_in_a_process_that_enters", enter_window),
    ("rt_03_nothing_of_the_host_is_open_in_a_container_that_shares_pids", shared_pids_window),
    ("rt_04_mounts_stay_inside_while_targets_are_swapped", swapped_targets),
    ("rt_06_the_console_goes_nowhere_else", console_race),
    ("rt_07_writes_to_proc_go_to_proc", proc_race),
    ("rt_09_sizes_arrive_whole_or_are_refused", sizes),
    ("rt_11_16_34_identity_and_limits_are_exact", exact),
    ("rt_20_session_keyrings_are_not_shared", keyrings),
    ("rt_21_masked_paths_are_empty_and_read_only_paths_refuse", masked),
    ("rt_31_a_number_used_again_is_another_process", reused_pid),
];

/// Rounds end at whichever comes first; a slow machine does fewer.
const TIME: Duration = Duration::from_millis(1500);

/// Exchanges two names as fast as the kernel can, until the file `stop` exists or the parent ends. Its own process: this program clones.
pub struct Flipper(Child);

impl Flipper {
    pub fn start(dir: &std::path::Path, one: &str, other: &str) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--flip").arg(dir).args([one, other]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // From its first word on it hears when to stop.
        let mut word = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        Self(child)
    }

    /// How many exchanges there were.
    pub fn stop(mut self) -> u64 {
        let _ = linux::process::kill(self.0.id() as i32, 15);
        let mut text = String::new();
        std::io::Read::read_to_string(self.0.stdout.as_mut().unwrap(), &mut text).unwrap();
        self.0.wait().unwrap();
        text.trim().parse().unwrap()
    }
}

impl Drop for Flipper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The flipper's own life (`--flip DIR ONE OTHER`).
pub fn flip(words: &[std::ffi::OsString]) {
    use linux::fs::{OFlags, RenameFlags, open_host, renameat};
    let dir = open_host(&words[0], OFlags::PATH | OFlags::DIRECTORY).unwrap();
    let parent = std::os::unix::process::parent_id();
    let signals = linux::signal::SignalFd::new(&[15]).unwrap();
    println!("ready");
    let mut swaps = 0u64;
    loop {
        for _ in 0..1000 {
            if renameat(&dir, &words[1], &dir, &words[2], RenameFlags::EXCHANGE).is_ok() {
                swaps += 1;
            }
        }
        if std::os::unix::process::parent_id() != parent || signals.read().unwrap().is_some() {
            break;
        }
    }
    println!("{swaps}");
}

/// What a scanner in a container prints when some process that it sees has the host's procfs open (where the second process is the
/// kernel's).
const PROC: &str = "grep kthreadd /proc/[0-9]*/fd/*/2/comm";
/// The same for a directory of a cgroup tree. Not for containers that are being set up: those hold their own group's for a moment.
const GROUPS: &str = "ls -d /proc/[0-9]*/fd/*/tasks /proc/[0-9]*/fd/*/cgroup.procs";

fn scanner(looks: &str) -> Bundle {
    let mut b = Bundle::new(&format!("echo scanning; while :; do {looks}; done 2>/dev/null"));
    for set in ["bounding", "effective", "permitted"] {
        b.config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_PTRACE"));
    }
    b.start();
    let end = Instant::now() + Duration::from_secs(60);
    while b.read("out").is_empty() {
        assert!(Instant::now() < end, "the scanner does not run");
        std::thread::yield_now();
    }
    b
}

/// CVE-2016-9962: a container with CAP_SYS_PTRACE looks into whatever enters it, before it has executed its program.
fn enter_window() {
    let b = scanner(&format!("{PROC}; {GROUPS}"));
    let (begin, mut entered) = (Instant::now(), 0);
    while entered < 2000 && begin.elapsed() < TIME {
        b.call(&["exec", &b.id, "true"]).ok();
        entered += 1;
    }
    let out = b.read("out");
    assert_eq!(out, "scanning\n", "after {entered} processes");
}

/// The same for containers that share the pid namespace of one with CAP_SYS_PTRACE, while they are set up.
fn shared_pids_window() {
    let b = scanner(PROC);
    let pid = b.state()["pid"].as_i64().unwrap();
    let (begin, mut made) = (Instant::now(), 0);
    while made < 500 && begin.elapsed() < TIME {
        let mut other = Bundle::new("true");
        let namespaces = other.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
        // Writes through procfs while others can see it.
        other.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
        other.run().ok();
        made += 1;
    }
    let out = b.read("out");
    assert_eq!(out, "scanning\n", "after {made} containers");
}

/// CVE-2021-30465 with as many mounts and exchanges as fit in the time: targets are in a directory that somebody else changes.
fn swapped_targets() {
    let mut b = Bundle::new("true");
    let volume = b.rootfs().join("v");
    std::fs::create_dir_all(volume.join("a")).unwrap();
    let outside = b.dir.join("outside");
    std::fs::create_dir(&outside).unwrap();
    // For the host it leads to a directory, in the container to a place that is not there.
    std::os::unix::fs::symlink(&outside, volume.join("b")).unwrap();
    let flipper = Flipper::start(&volume, "a", "b");
    let plain = b.config["mounts"].clone();
    let (begin, mut mounts) = (Instant::now(), 0);
    while mounts < 10_000 && begin.elapsed() < 2 * TIME {
        b.config["mounts"] = plain.clone();
        let list = b.config["mounts"].as_array_mut().unwrap();
        list.extend((0..200).map(|n| json!({"destination": format!("/v/a/x{}", mounts + n), "type": "bind", "source": "/proc/self/ns", "options": ["bind"]})));
        // Mounts that land elsewhere in the container's own root are fine; a link that changes under way may also make one fail.
        let said = b.run();
        assert!(said.code == 0 || said.err.contains("/v/a/x"), "{said:?}");
        mounts += 200;
        let left = std::fs::read_dir(&outside).unwrap().count();
        assert_eq!(left, 0, "after {mounts} mounts");
    }
    let swaps = flipper.stop();
    println!("  {mounts} mounts, {swaps} exchanges");
    assert!(swaps > 0, "no exchange is no race");
}

/// CVE-2025-52565: the image's own /dev has a console that leads elsewhere, and somebody moves it about.
fn console_race() {
    let shared = Bundle::new("");
    let dev = shared.dir.join("dev");
    std::fs::create_dir_all(dev.join("pts")).unwrap();
    let victim = shared.dir.join("victim");
    std::fs::write(&victim, "host").unwrap();
    let before = std::fs::metadata(&victim).unwrap();
    std::os::unix::fs::symlink(&victim, dev.join("console")).unwrap();
    std::fs::write(dev.join("other"), "").unwrap();
    std::fs::write(dev.join("null"), "").unwrap();
    let flipper = Flipper::start(&dev, "console", "other");
    let (begin, mut runs) = (Instant::now(), 0);
    while runs < 200 && begin.elapsed() < TIME {
        let mut b = Bundle::new("tty; echo typed > /dev/console");
        b.config["process"]["terminal"] = json!(true);
        let mounts = b.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !matches!(mount["destination"].as_str(), Some("/dev" | "/dev/mqueue" | "/dev/shm")));
        mounts.insert(0, json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}));
        // Whatever becomes of the container, nothing becomes of the victim.
        let _ = b.run();
        runs += 1;
    }
    assert!(flipper.stop() > 0);
    let after = std::fs::metadata(&victim).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "host");
    assert_eq!((before.uid(), before.mode(), before.mtime_nsec()), (after.uid(), after.mode(), after.mtime_nsec()));
}

/// CVE-2025-52881: /proc of the image is now a directory, now a link to a tree that looks like procfs. What setting up writes (sysctls,
/// the OOM score) arrives in neither.
fn proc_race() {
    let (begin, mut runs, mut swaps, mut ran) = (Instant::now(), 0, 0, 0);
    while runs < 100 && begin.elapsed() < TIME {
        let mut b = Bundle::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj");
        b.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "78"});
        let fake = b.rootfs().join("fake");
        std::fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
        std::fs::create_dir_all(fake.join("self")).unwrap();
        for file in ["sys/net/ipv4/ip_unprivileged_port_start", "self/oom_score_adj"] {
            std::fs::write(fake.join(file), "bait").unwrap();
        }
        std::os::unix::fs::symlink("/fake", b.rootfs().join("link")).unwrap();
        let flipper = Flipper::start(&b.rootfs(), "proc", "link");
        let said = b.run();
        swaps += flipper.stop();
        runs += 1;
        // What the container itself reads depends on which of the two is there by then.
        ran += usize::from(said.out == "78\n100\n");
        for file in ["sys/net/ipv4/ip_unprivileged_port_start", "self/oom_score_adj"] {
            assert_eq!(std::fs::read_to_string(fake.join(file)).unwrap(), "bait");
        }
    }
    println!("  {runs} containers, {ran} with their own /proc, {swaps} exchanges");
    assert!(swaps > 0);
}

/// CVE-2021-43784: what is large arrives whole or is refused, and never becomes something else.
fn sizes() {
    // One string of a program may have 128 KiB; all together are limited by the stack.
    for (length, fits) in
        [(1, true), (4_096, true), (65_535, true), (131_000, true), (131_072, false), (1 << 22, false)]
    {
        let mut b = Bundle::new("echo ${#BIG} ${#1}");
        let big = "x".repeat(length);
        b.config["process"]["env"].as_array_mut().unwrap().push(json!(format!("BIG={}", &big[..length.min(131_000)])));
        b.config["process"]["args"] = json!(["/bin/sh", "-c", "echo ${#BIG} ${#1}", "sh", big]);
        let said = b.run();
        if fits {
            said.ok().says(&format!("{length} {length}\n"));
        } else {
            said.fails("argument list too long");
        }
    }
    for count in [1, 200, 340, 341, 5000] {
        let mut b = Bundle::new("cat /proc/self/uid_map");
        b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let maps: Vec<Value> = (0..count).map(|n| json!({"containerID": n, "hostID": 1000 + n, "size": 1})).collect();
        b.config["linux"]["uidMappings"] = json!(maps);
        b.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1000}]);
        // Its root must reach the bundle.
        for part in [b.dir.clone(), b.rootfs()] {
            std::fs::set_permissions(part, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let said = b.run();
        match count {
            1 | 200 => assert_eq!(said.ok().out.lines().count(), count as usize),
            // The kernel also takes no more than a page of text.
            340 => {
                assert!(said.code == 0 && said.out.lines().count() == 340 || said.err.contains("uid_map"), "{said:?}")
            }
            _ => drop(said.fails("linux.uidMappings")),
        }
    }
    let mut b = Bundle::new("true");
    b.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "[ ${#A} = 100000 ] && cat >/dev/null"], "env": [format!("A={}", "y".repeat(100_000))]}]});
    b.config["annotations"] = json!({"big": "z".repeat(500_000)});
    b.run().ok();
}

fn exact() {
    let said = |b: &Bundle| b.run().ok().out;
    let status = "grep -E '^(Cap|Groups|Uid|Gid|NoNewPrivs)' /proc/self/status; cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; ulimit -c";
    let mut b = Bundle::new(status);
    b.config["process"]["user"] = json!({"uid": 0, "gid": 7, "additionalGids": [7, 5]});
    b.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    let out = said(&b);
    let caps = "00000000a80425fb";
    let none = "0000000000000000";
    for line in [
        format!("CapInh:\t{none}"),
        format!("CapPrm:\t{caps}"),
        format!("CapEff:\t{caps}"),
        format!("CapBnd:\t{caps}"),
        format!("CapAmb:\t{none}"),
        "Uid:\t0\t0\t0\t0".into(),
        "Gid:\t7\t7\t7\t7".into(),
        "Groups:\t5 7".into(),
    ] {
        assert!(out.contains(&line), "{line} in {out}");
    }
    assert!(out.ends_with("100\n100\n200\n0\n"), "{out}");
    // Another user has no capability but what is ambient, and dropping all drops all.
    let mut b = Bundle::new(status);
    b.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let out = said(&b);
    assert!(out.contains(&format!("CapPrm:\t{none}")) && out.contains(&format!("CapBnd:\t{caps}")), "{out}");
    assert!(out.contains("Groups:\t\n") || out.contains("Groups:\t \n"), "{out}");
    let mut b = Bundle::new(status);
    b.config["process"]["capabilities"] = json!({});
    let out = said(&b);
    assert!(out.contains(&format!("CapBnd:\t{none}")) && out.contains(&format!("CapEff:\t{none}")), "{out}");
    // A file that the primary group may not read is not read by being in no group.
    let mut b = Bundle::new("cat /secret");
    std::fs::write(b.rootfs().join("secret"), "secret").unwrap();
    std::fs::set_permissions(b.rootfs().join("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    std::os::unix::fs::chown(b.rootfs().join("secret"), Some(0), Some(1000)).unwrap();
    b.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    b.run().fails("Permission denied");
}

/// Prints the number of the session keyring (`--session`), from inside a container.
fn keyrings() {
    let session = |flags: &[&str]| -> i32 {
        let mut b = Bundle::new("");
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        b.config["process"]["args"] = json!(["/probe", "--session"]);
        b.config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/probe", "type": "bind", "source": program, "options": ["bind", "ro"]}));
        b.write();
        let dir = b.dir.to_str().unwrap().to_owned();
        let words = [&["run"], flags, &["-b", &dir, &b.id]].concat();
        b.call(&words).ok().out.trim().parse().unwrap()
    };
    let Ok(ours) = linux::keyring::session() else {
        println!("skipped: this kernel has no keys");
        return;
    };
    let (one, two) = (session(&[]), session(&[]));
    assert!(one != ours && two != ours && one != two, "{ours} {one} {two}");
    // Without the defence the same probe sees the caller's.
    assert_eq!(session(&["--no-new-keyring"]), ours);
}

fn masked() {
    let mut b = Bundle::new("");
    let masked = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    let read_only = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    b.config["linux"]["maskedPaths"] = json!(masked);
    b.config["linux"]["readonlyPaths"] = json!(read_only);
    let mut script = String::new();
    for path in masked {
        script += &format!(
            "if [ -d {path} ]; then ls -A {path}; touch {path}/x 2>&1; elif [ -e {path} ]; then cat {path}; fi | grep -v 'Read-only\\|No such\\|Permission'; "
        );
    }
    script += "echo end; ";
    for path in read_only {
        script += &format!(
            "if [ -d {path} ]; then f=$(find {path} -type f | head -n1); else f={path}; fi; [ ! -e \"$f\" ] || ( : >> $f ) 2>&1 | grep -c 'Read-only'; "
        );
    }
    std::os::unix::fs::symlink("busybox", b.rootfs().join("bin/find")).unwrap();
    b.config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    let said: Said = b.run();
    let (before, after) = said.out.split_once("end\n").unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(before, "", "{said:?}");
    assert!(after.lines().count() >= 3 && after.lines().all(|line| line == "1"), "{said:?}");
}

/// RT-31: in a pid namespace of its own this test gives the number of a dead container to another process. Nothing reaches that one.
fn reused_pid() {
    let b = Bundle::new("sleep 1000");
    b.write();
    let said = Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--mount-proc"])
        .arg(std::fs::read_link("/proc/self/exe").unwrap())
        .arg("--reuse")
        .arg(&b.dir)
        .arg(&b.id)
        .output()
        .unwrap();
    let said = Said::of(said);
    // Its numbers mean other processes out here.
    b.forget();
    assert!(said.code == 0 && said.out.trim_end().ends_with("untouched"), "{said:?}");
}

/// The life of the first process of that namespace (`--reuse BUNDLE ID`).
pub fn reuse(words: &[std::ffi::OsString]) {
    let (dir, id) = (std::path::PathBuf::from(&words[0]), words[1].to_str().unwrap());
    let call = |arguments: &[&str]| {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--runc").arg("--root").arg(dir.join("state")).args(arguments).current_dir(&dir);
        let out = std::fs::File::create(dir.join("reuse")).unwrap();
        let code = command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).status().unwrap().code();
        (code, std::fs::read_to_string(dir.join("reuse")).unwrap())
    };
    let bundle = dir.to_str().unwrap();
    assert_eq!(call(&["run", "-d", "-b", bundle, id]).0, Some(0));
    let state: Value = serde_json::from_str(&call(&["state", id]).1).unwrap();
    let pid = state["pid"].as_i64().unwrap() as i32;
    let started = linux::proc::stat(pid).unwrap().start_time;
    // We are everybody's parent here: it ends and is reaped, and its number is free.
    linux::process::kill(pid, 9).unwrap();
    linux::process::wait_pid(pid, true).unwrap();
    let mut victim = loop {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        // The kernel tells start times in ticks of 10 ms: a process of the same tick could not be told apart by anybody.
        if child.id() as i32 == pid && linux::proc::stat(pid).unwrap().start_time != started {
            break child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let state: Value = serde_json::from_str(&call(&["state", id]).1).unwrap();
    assert_eq!((state["status"].as_str(), state["pid"].as_i64()), (Some("stopped"), Some(0)), "{state}");
    for attempt in [&["kill", id, "KILL"][..], &["kill", id], &["exec", id, "true"], &["pause", id], &["start", id]] {
        let (code, said) = call(attempt);
        assert_ne!(code, Some(0), "{attempt:?}: {said}");
    }
    assert_eq!(call(&["delete", "--force", id]).0, Some(0));
    assert!(victim.try_wait().unwrap().is_none(), "the victim was hit");
    victim.kill().unwrap();
    victim.wait().unwrap();
    println!("untouched");
}
