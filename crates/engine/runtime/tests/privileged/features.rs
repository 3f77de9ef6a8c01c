//! What a spec asks for is what the program finds.

use serde_json::json;

use super::Test;
use super::bundle::{Bundle, canary};

pub const TESTS: &[Test] = &[
    ("identity_limits_and_rights_are_exact", identity),
    ("the_root_file_system_is_dockers", filesystem),
    ("mount_options_hold", mount_options),
    ("limits_are_set_and_updated", limits),
    ("namespaces_are_joined_by_path", joined),
    ("a_user_namespace_maps_its_root", user_namespace),
    ("an_idmapped_mount_shifts_owners", idmapped),
    ("seccomp_answers_as_the_profile_says", seccomp),
    ("a_seccomp_agent_gets_the_listener", seccomp_agent),
    ("time_offsets_hold", time),
    ("chroot_replaces_pivot_root_when_asked", no_pivot),
    ("a_terminal_is_the_containers_own", terminal),
    ("an_unprivileged_user_runs_a_container", rootless),
    ("an_unprivileged_user_has_several_ids", rootless_ids),
    ("a_mount_made_before_is_changed", remounted),
];

fn identity() {
    let mut b = Bundle::new(
        "id; grep -E '^(Cap|NoNewPrivs|Groups|Umask|Seccomp:)' /proc/self/status; ulimit -n; cat /proc/self/oom_score_adj; env; ls /proc/self/fd | wc -l; hostname",
    );
    b.config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7, 8], "umask": 0o27});
    b.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]);
    b.config["process"]["noNewPrivileges"] = json!(true);
    b.config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=x", "A=2"]);
    let said = b.run().ok();
    for line in [
        "uid=1000(app) gid=1000 groups=7,8\n",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Umask:\t0027",
        "\n99\n",
        "\n100\n",
        "A=2",
        "HOME=/home/app",
        "\nbox\n",
    ] {
        assert!(said.out.contains(line), "{line:?} in {}", said.out);
    }
    assert!(!said.out.contains(canary()) && !said.out.contains("A=1"), "{}", said.out);

    let b = Bundle::new("grep ^Cap /proc/self/status");
    b.run().ok().says("CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000");

    let mut b = Bundle::new("grep ^Cap /proc/self/status");
    let one = json!(["CAP_NET_BIND_SERVICE"]);
    b.config["process"]["user"]["uid"] = json!(1000);
    b.config["process"]["capabilities"] =
        json!({"bounding": one, "permitted": one, "effective": one, "inheritable": one, "ambient": one});
    let all = "0000000000000400";
    b.run().ok().says(&format!("CapInh:\t{all}\nCapPrm:\t{all}\nCapEff:\t{all}\nCapBnd:\t{all}\nCapAmb:\t{all}"));
}

fn filesystem() {
    let b = Bundle::new(
        "cat /proc/interrupts /proc/timer_list /proc/keys; ls /sys/firmware; echo masked-end; \
         echo x > /proc/sys/kernel/domainname; touch /sys/x; \
         ls -l /dev/null /dev/console /dev/ptmx /dev/stdin 2>&1; cat /proc/self/cgroup; ls /sys/fs/cgroup; \
         [ -d /sys/fs/cgroup/memory ] && d=memory/; touch /sys/fs/cgroup/${d}x",
    );
    let said = b.run();
    assert!(said.out.starts_with("masked-end"), "{said:?}");
    assert_eq!(said.err.matches("Read-only file system").count(), 3, "{said:?}");
    for text in ["1,   3", "/dev/ptmx -> pts/ptmx", "/dev/stdin -> /proc/self/fd/0", "memory"] {
        assert!(said.out.contains(text), "{text} in {said:?}");
    }
    assert!(!said.out.contains("knarr-runtime-test"), "the cgroup namespace hides the host's path: {said:?}");

    let mut b = Bundle::new("touch /x; touch /tmp/y");
    b.config["root"]["readonly"] = json!(true);
    b.run().fails("touch: /x: Read-only file system");
}

fn mount_options() {
    let mut b = Bundle::new(
        "touch /ro/x; touch /rro/sub/x; touch /half/sub/x && echo half-ok; cat /up/file; stat -c '%a' /up; grep ' /up ' /proc/mounts; cat /one; touch /plain/ok",
    );
    let data = b.dir.join("data");
    std::fs::create_dir_all(data.join("sub")).unwrap();
    std::fs::write(b.dir.join("one"), "single file\n").unwrap();
    std::fs::create_dir_all(b.rootfs().join("up")).unwrap();
    std::fs::write(b.rootfs().join("up/file"), "from the image\n").unwrap();
    let below = data.join("sub");
    linux::mount::mount("tmpfs", &below, Some("tmpfs"), linux::mount::MountFlags::empty(), None).unwrap();
    let source = data.to_str().unwrap().to_owned();
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    for (destination, options) in [
        ("/ro", vec!["rbind", "ro", "rprivate"]),
        ("/half", vec!["rbind", "ro"]),
        ("/rro", vec!["rbind", "rro"]),
        ("/plain", vec!["rbind", "rslave", "nosymfollow"]),
    ] {
        mounts.push(json!({"destination": destination, "type": "bind", "source": source, "options": options}));
    }
    mounts.push(json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid", "size=1m", "lazytime"]}));
    mounts.push(json!({"destination": "/one", "type": "none", "source": b.dir.join("one"), "options": ["bind", "ro"]}));
    let said = b.run();
    linux::mount::unmount(&below).unwrap();
    let said = said.ok();
    for text in ["half-ok", "from the image", "755", "tmpfs /up tmpfs rw,lazytime,nosuid", "single file"] {
        assert!(said.out.contains(text), "{text} in {said:?}");
    }
    for text in ["touch: /ro/x: Read-only", "touch: /rro/sub/x: Read-only"] {
        assert!(said.err.contains(text), "{text} in {said:?}");
    }
    assert!(data.join("ok").exists());
}

fn limits() {
    let mut b = Bundle::new("sleep 100");
    b.config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
    b.config["linux"]["resources"]["pids"] = json!({"limit": 33});
    b.config["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50000, "period": 100000});
    b.start();
    let v1 = std::path::Path::new("/sys/fs/cgroup/memory").is_dir();
    // Controller and file on v1, file on v2, and what they say there.
    let says = |rows: &[(&str, &str, &str, &str, &str)]| {
        for (controller, old, old_value, new, new_value) in rows {
            let (dir, file, value) = if v1 { (*controller, *old, *old_value) } else { ("", *new, *new_value) };
            assert_eq!(b.group_file(dir, file), value, "{file}");
        }
    };
    says(&[
        ("memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
        ("pids", "pids.max", "33", "pids.max", "33"),
        ("cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
        ("cpu", "cpu.shares", "512", "memory.max", "67108864"),
    ]);
    b.call(&["update", "--memory", "128M", "--memory-swap", "128M", "--pids-limit", "44", &b.id]).ok();
    says(&[
        ("memory", "memory.limit_in_bytes", "134217728", "memory.max", "134217728"),
        ("pids", "pids.max", "44", "pids.max", "44"),
    ]);
    let weight = |b: &Bundle| b.group_file("", "cpu.weight");
    let before = if v1 { String::new() } else { weight(&b) };
    std::fs::write(b.dir.join("r.json"), r#"{"cpu": {"shares": 256}}"#).unwrap();
    b.call(&["update", "-r", b.dir.join("r.json").to_str().unwrap(), &b.id]).ok();
    if v1 {
        assert_eq!(b.group_file("cpu", "cpu.shares"), "256");
    } else {
        assert_ne!(weight(&b), before);
    }
    let stats = b.call(&["events", "--stats", &b.id]).ok();
    let stats: serde_json::Value = serde_json::from_str(&stats.out).unwrap();
    assert_eq!((stats["type"].as_str(), stats["data"]["pids"]["limit"].as_u64()), (Some("stats"), Some(44)));
    b.call(&["pause", &b.id]).ok();
    assert_eq!(b.status(), "paused");
    b.call(&["exec", &b.id, "true"]).fails("cannot exec in a paused container");
    b.call(&["resume", &b.id]).ok();
    assert_eq!(b.status(), "running");
}

fn joined() {
    let first = Bundle::new("sleep 100");
    first.start();
    let pid = first.state()["pid"].as_i64().unwrap();
    let mut second = Bundle::new(
        "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/1/ns/pid; ls -d /proc/[0-9]* | head -1; hostname",
    );
    second.config["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "cgroup"},
        {"type": "network", "path": format!("/proc/{pid}/ns/net")},
        {"type": "ipc", "path": format!("/proc/{pid}/ns/ipc")},
        {"type": "pid", "path": format!("/proc/{pid}/ns/pid")},
        {"type": "uts", "path": format!("/proc/{pid}/ns/uts")},
    ]);
    second.config["hostname"] = json!("renamed");
    let said = second.run().ok();
    for kind in ["net", "ipc", "pid"] {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert!(said.out.contains(theirs.to_str().unwrap()), "{kind} in {said:?}");
    }
    assert!(said.out.contains("renamed"), "{said:?}");
    let mut wrong = Bundle::new("true");
    wrong.config["linux"]["namespaces"][1] = json!({"type": "network", "path": format!("/proc/{pid}/ns/uts")});
    wrong.run().fails("UTS namespace");
}

fn user_namespace() {
    let mut b = Bundle::new(
        "id -u; cat /proc/self/uid_map; touch /made && stat -c %u /made; mknod /dev/x c 1 3 2>&1; cat /dev/null && echo null-ok; grep CapEff /proc/self/status",
    );
    b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    b.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    b.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    b.write();
    for path in [b.rootfs(), b.rootfs().join("dev"), b.rootfs().join("bin")] {
        std::os::unix::fs::chown(path, Some(100000), Some(100000)).unwrap();
    }
    let said = b.run().ok();
    for text in ["0     100000      65536", "null-ok", "Operation not permitted", "a80425fb"] {
        assert!(said.out.contains(text), "{text} in {said:?}");
    }
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(b.rootfs().join("made")).unwrap().uid(), 100000);
    // And the same in a running one.
    let mut b2 = Bundle::new("sleep 100");
    b2.config["linux"] = b.config["linux"].clone();
    b2.config["linux"]["cgroupsPath"] = Bundle::new("").config["linux"]["cgroupsPath"].clone();
    b2.start();
    b2.call(&["exec", &b2.id, "id", "-u"]).ok().says("0\n");
    b2.call(&["exec", &b2.id, "cat", "/proc/self/uid_map"]).ok().says("100000");
}

/// The running kernel: major and minor.
fn kernel() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn idmapped() {
    // There /tmp is memory.
    if kernel() < (6, 3) && std::env::var_os("KNARR_GUEST").is_some() {
        println!("skipped: tmpfs of this kernel (before 6.3) takes no id map");
        return;
    }
    let mut b = Bundle::new("stat -c '%u:%g' /data/file");
    let data = b.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "").unwrap();
    b.config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "type": "bind", "source": data, "options": ["bind"],
        "uidMappings": [{"containerID": 0, "hostID": 5000, "size": 100}], "gidMappings": [{"containerID": 0, "hostID": 6000, "size": 100}],
    }));
    b.run().ok().says("5000:6000");
}

fn seccomp() {
    let mut b = Bundle::new("mkdir /made; echo still-here; grep Seccomp: /proc/self/status");
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    for (nnp, uid) in [(false, 0), (true, 0), (false, 1000), (true, 1000)] {
        b.config["process"]["noNewPrivileges"] = json!(nnp);
        b.config["process"]["user"]["uid"] = json!(uid);
        let said = b.run().ok().says("still-here").says("Seccomp:\t2");
        assert!(said.err.contains("No space left on device"), "{said:?}");
    }
}

fn seccomp_agent() {
    let mut b = Bundle::new("mkdir /made; echo answered");
    let path = b.dir.join("agent.sock");
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
    b.write();
    let listener = linux::socket::listen(&path, linux::socket::Kind::Stream, 0o600).unwrap();
    let child = b
        .command(&["run", "-b", b.dir.to_str().unwrap(), &b.id])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert!(linux::epoll::poll_one(&listener, linux::epoll::Interest::IN, 20_000).unwrap());
    let agent = linux::socket::accept(&listener).unwrap().unwrap();
    assert!(linux::epoll::poll_one(&agent, linux::epoll::Interest::IN, 20_000).unwrap());
    let (mut buf, mut fds) = (vec![0; 65536], Vec::new());
    let got = linux::socket::recv(&agent, &mut buf, &mut fds).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&buf[..got.len]).unwrap();
    assert_eq!(
        (state["metadata"].as_str(), state["state"]["id"].as_str(), fds.len()),
        (Some("for the agent"), Some(b.id.as_str()), 1)
    );
    assert!(state["pid"].as_i64().unwrap() > 1, "{state}");
    // An agent that goes away answers ENOSYS.
    drop((fds, agent, listener));
    let said = super::bundle::Said::of(child.wait_with_output().unwrap()).says("answered");
    assert!(said.err.contains("mkdir"), "{said:?}");
}

fn time() {
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        println!("skipped: this kernel has no time namespaces");
        return;
    }
    let mut b = Bundle::new("cat /proc/uptime; readlink /proc/self/ns/time");
    b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    b.config["linux"]["timeOffsets"] =
        json!({"boottime": {"secs": 31_536_000}, "monotonic": {"secs": 86400, "nanosecs": 5}});
    let said = b.run().ok();
    let uptime: f64 = said.out.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 31_536_000.0, "{said:?}");
    assert!(!said.out.contains(std::fs::read_link("/proc/self/ns/time").unwrap().to_str().unwrap()));
}

fn no_pivot() {
    let b = Bundle::new("ls /; cat /etc/passwd");
    b.write();
    b.call(&["run", "--no-pivot", "-b", b.dir.to_str().unwrap(), &b.id]).ok().says("app:x:1000");
}

/// Receives the master as conmon and the shim do.
fn terminal() {
    let mut b = Bundle::new("tty; stty size; ls -l /dev/console; read line; echo got $line; sleep 100");
    b.config["process"]["terminal"] = json!(true);
    b.config["process"]["consoleSize"] = json!({"height": 31, "width": 77});
    b.write();
    let path = b.dir.join("console.sock");
    let listener = linux::socket::listen(&path, linux::socket::Kind::Stream, 0o600).unwrap();
    b.call(&["create", "-b", b.dir.to_str().unwrap(), &b.id]).fails("cannot allocate tty if runc will detach");
    b.call_detached(&["create", "--console-socket", path.to_str().unwrap(), "-b", b.dir.to_str().unwrap(), &b.id]).ok();
    let connection = linux::socket::accept(&listener).unwrap().unwrap();
    let mut fds = Vec::new();
    assert!(linux::epoll::poll_one(&connection, linux::epoll::Interest::IN, 20_000).unwrap());
    linux::socket::recv(&connection, &mut [0; 256], &mut fds).unwrap();
    let master = fds.pop().unwrap();
    b.call(&["start", &b.id]).ok();
    linux::pipe::write(&master, b"hello\n").unwrap();
    let mut text = String::new();
    while !text.contains("got hello") {
        assert!(linux::epoll::poll_one(&master, linux::epoll::Interest::IN, 20_000).unwrap(), "{text}");
        let mut buf = [0; 4096];
        let len = linux::pipe::read(&master, &mut buf).unwrap();
        text.push_str(&String::from_utf8_lossy(&buf[..len]));
    }
    for part in ["/dev/pts/0", "31 77", "136,   0"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // A terminal for exec is another one.
    b.call_detached(&["exec", "-d", "-t", "--console-socket", path.to_str().unwrap(), &b.id, "tty"]).ok();
    let connection = linux::socket::accept(&listener).unwrap().unwrap();
    let mut fds = Vec::new();
    assert!(linux::epoll::poll_one(&connection, linux::epoll::Interest::IN, 20_000).unwrap());
    linux::socket::recv(&connection, &mut [0; 256], &mut fds).unwrap();
    let mut buf = [0; 256];
    assert!(linux::epoll::poll_one(&fds[0], linux::epoll::Interest::IN, 20_000).unwrap());
    let len = linux::pipe::read(&fds[0], &mut buf).unwrap();
    assert!(String::from_utf8_lossy(&buf[..len]).contains("/dev/pts/1"));
}

fn rootless() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let mut b = Bundle::new("id -u; touch /made && echo made; cat /proc/self/uid_map; hostname");
    let config = &mut b.config;
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}, {"type": "user"}]);
    config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": NOBODY, "size": 1}]);
    config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": NOBODY, "size": 1}]);
    config["process"]["user"] = json!({"uid": 0, "gid": 0});
    config["process"]["oomScoreAdj"] = json!(null);
    config["mounts"][2]["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    config["linux"]["resources"] = json!(null);
    config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    b.write();
    let status =
        std::process::Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(&b.dir).status().unwrap();
    assert!(status.success());
    // A copy that the user may execute.
    let program = b.dir.join("runc");
    std::fs::copy("/proc/self/exe", &program).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.arg("--runc").arg("--root").arg(b.dir.join("own-state")).args(words).current_dir(&b.dir);
        command.uid(NOBODY).gid(NOBODY);
        super::bundle::Said::of(command.output().unwrap())
    };
    run(&["run", "-b", b.dir.to_str().unwrap(), "mine"]).ok().says("0\nmade\n").says("65534").says("box");
    // No group was given to this user. Nobody misses it until there is a limit to hold.
    b.config["linux"]["resources"] = json!({"pids": {"limit": 5}});
    std::fs::write(b.dir.join("config.json"), b.config.to_string()).unwrap();
    run(&["run", "-b", b.dir.to_str().unwrap(), "mine"]).fails("cgroup");
    assert!(std::fs::read_dir(b.dir.join("own-state")).unwrap().next().is_none());
}

/// Subordinate ids by newuidmap and newgidmap: what the set-uid helpers allow is what the container gets.
fn rootless_ids() {
    const USER: u32 = 4242;
    const FIRST: u32 = 700_000;
    let found = |name: &str| std::process::Command::new(name).output().is_ok();
    if !found("newuidmap") || !found("newgidmap") {
        println!("skipped: newuidmap is missing (package uidmap)");
        return;
    }
    let mut b = Bundle::new("");
    b.config["process"]["args"] = json!([
        "/bin/sh",
        "-c",
        "id; cat /proc/self/uid_map; touch /tmp/mine && busybox chown 1000:1000 /tmp/mine && stat -c %u:%g /tmp/mine"
    ]);
    b.config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [5, 27]});
    b.config["process"]["oomScoreAdj"] = json!(null);
    let linux = &mut b.config["linux"];
    linux["namespaces"] = json!([{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}, {"type": "user"}]);
    let maps = |count: u32| json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": count}]);
    linux["uidMappings"] = maps(65536);
    linux["gidMappings"] = maps(65536);
    linux["resources"] = json!(null);
    linux.as_object_mut().unwrap().remove("cgroupsPath");
    b.write();
    // The user exists only in the mount namespace that the helpers see.
    let etc = b.dir.join("etc");
    std::fs::create_dir(&etc).unwrap();
    let host = std::fs::read_to_string("/etc/passwd").unwrap();
    std::fs::write(etc.join("passwd"), format!("{host}tester:x:{USER}:{USER}::/:/bin/sh\n")).unwrap();
    for name in ["subuid", "subgid"] {
        std::fs::write(etc.join(name), format!("tester:{FIRST}:65536\n")).unwrap();
    }
    let program = b.dir.join("runc");
    std::fs::copy("/proc/self/exe", &program).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let owned = std::process::Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(&b.dir).status();
    assert!(owned.unwrap().success());
    let dir = b.dir.to_str().unwrap();
    let run = || {
        let line = "mount -t overlay -o ro,lowerdir=$1/etc:/etc overlay /etc && cd $1 && exec setpriv --reuid 4242 --regid 4242 --clear-groups $1/runc --runc --root $1/own run -b $1 mine";
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", line, "sh", dir]);
        super::bundle::Said::of(command.stdin(std::process::Stdio::null()).output().unwrap())
    };
    let said = run().ok();
    let maps_seen: Vec<Vec<u32>> = said
        .out
        .lines()
        .filter_map(|line| line.split_whitespace().map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>())
        .collect();
    assert_eq!(maps_seen, [[0, USER, 1], [1, FIRST, 65536]], "{said:?}");
    assert!(
        said.out.starts_with("uid=0(root) gid=0") && said.out.contains("groups=5,27") && said.out.contains("1000:1000"),
        "{said:?}"
    );
    // Seen from outside.
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(b.rootfs().join("tmp/mine")).unwrap();
    assert_eq!((file.uid(), file.gid()), (FIRST + 999, FIRST + 999));
    // One id more than the user was given.
    b.config["linux"]["uidMappings"] = maps(65537);
    b.write();
    run().fails("newuidmap");
}

/// `remount` changes what an earlier entry made, and nothing that was not made by the spec.
fn remounted() {
    let mut b = Bundle::new("grep -E ' /(t|sys) ' /proc/mounts; touch /t/x && echo wrote; touch /sys/x");
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "nosuid"]}));
    mounts
        .push(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "rw", "noexec"]}));
    mounts.push(
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["remount", "ro", "noatime"]}),
    );
    let said = b.run();
    for text in ["tmpfs /t tmpfs rw,nosuid,noexec", "sysfs /sys sysfs ro,nosuid,nodev,noexec,noatime", "wrote"] {
        assert!(said.out.contains(text), "{text} in {said:?}");
    }
    assert!(said.err.contains("Read-only file system"), "{said:?}");
    for (mount, text) in [
        (
            json!({"destination": "/bin", "type": "none", "options": ["remount", "ro"]}),
            "no entry before this one mounts /bin",
        ),
        (
            json!({"destination": "/dev", "type": "tmpfs", "options": ["remount", "size=1k"]}),
            "only attributes of the mount",
        ),
    ] {
        let mut b = Bundle::new("true");
        b.config["mounts"].as_array_mut().unwrap().push(mount);
        b.run().fails(text);
    }
}
