//! The attack catalogue against `knarr runtime`: devices (RT-12), control groups (RT-13), kernel attack surface (RT-22) and foreign entries of
//! the kernel (RT-23).
//!
//! Each case runs a second time with its defence taken out of the configuration and must find more there: a case that cannot fail
//! proves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use blackbox::{Answer, eventually, finish, is_root, program};
use serde_json::{Value, json};

const CAPABILITIES: [&str; 14] = [
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

/// An answer that no kernel function gives to these calls: who gives it is the filter.
const MARK: i32 = 93;
const ENOSYS: &str = "38";

/// `crates/linux/examples/probe.rs`, which `KNARR_PROBE` names or cargo builds.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        if let Some(path) = std::env::var_os("KNARR_PROBE") {
            return path.into();
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "linux", "--example", "probe", "--message-format=json"]);
        let output =
            build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8(output.stdout).unwrap();
        let lines = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let path = lines.filter_map(|m| m["executable"].as_str().map(str::to_owned)).next_back();
        path.expect("cargo names the executable").into()
    })
}

fn outside(words: &[&str]) -> String {
    let mut command = Command::new(probe());
    command.args(words);
    finish(command, b"").success().text()
}

/// A bundle whose only file is the probe, and the runtime's state beside it. Configured as Docker would.
struct Bundle {
    dir: tempfile::TempDir,
    config: Value,
}

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        for place in ["proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(place)).unwrap();
        }
        fs::copy(probe(), rootfs.join("probe")).unwrap();
        let capabilities = json!({ "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES });
        let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
        let seccomp: Value = {
            let mut words = vec!["profile".to_owned(), MARK.to_string()];
            words.extend(CAPABILITIES.map(str::to_owned));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut profile: Value = serde_json::from_str(&outside(&words)).unwrap();
            profile.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            for rule in profile["syscalls"].as_array_mut().unwrap() {
                rule.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            }
            profile
        };
        let config = json!({
            "ociVersion": "1.2.0",
            "process": {
                "args": ["/probe"], "cwd": "/", "env": ["PATH=/"], "user": { "uid": 0, "gid": 0 },
                "capabilities": capabilities, "noNewPrivileges": false,
            },
            "root": { "path": "rootfs" },
            "hostname": "probe",
            "mounts": [
                mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
                mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
                mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
                mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            ],
            "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }, { "type": "cgroup" }],
                "cgroupsPath": format!("/knarr-test-{}/{}", std::process::id(), dir.path().file_name().unwrap().to_string_lossy().replace('.', "")),
                "resources": {},
                "seccomp": seccomp,
                "maskedPaths": ["/proc/kcore", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        Self { dir, config }
    }

    fn without_seccomp(mut self) -> Self {
        self.config["linux"].as_object_mut().unwrap().remove("seccomp");
        self
    }

    fn runtime(&self, words: &[&str]) -> Answer {
        let mut command = Command::new(program());
        command.arg("runtime").arg("--root").arg(self.dir.path().join("state")).args(words);
        finish(command, b"")
    }

    fn write(&self) {
        fs::write(self.dir.path().join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    /// The lines that the probe prints in a container.
    fn run(&mut self, words: &[&str]) -> Vec<String> {
        let mut args = vec!["/probe"];
        args.extend(words);
        self.config["process"]["args"] = json!(args);
        self.write();
        let answer = self.runtime(&["run", "--bundle", self.dir.path().to_str().unwrap(), "probe"]);
        answer.success().text().lines().map(str::to_owned).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.runtime(&["delete", "--force", "probe"]);
        // The parent of the group is ours too.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(format!("knarr-test-{}", std::process::id())));
        }
        let _ = fs::remove_dir(format!("/sys/fs/cgroup/knarr-test-{}", std::process::id()));
    }
}

fn blocked(abi: &str) -> Vec<String> {
    let mut words = vec!["blocked", abi];
    words.extend(CAPABILITIES);
    outside(&words).lines().map(str::to_owned).collect()
}

/// What the profile says of a blocked call when the probe's arguments (-1) are given.
fn expected(abi: &str, name: &str) -> String {
    let answer = match (name, abi) {
        ("clone3", _) => ENOSYS.to_owned(),
        // Conditional calls that these arguments satisfy: a family above 40 (which is then no family), and the question for the
        // personality. This kernel has no x32 behind the filter.
        ("socket" | "personality", "x32") => ENOSYS.to_owned(),
        ("socket", _) => "22".to_owned(),
        ("personality", _) => "0".to_owned(),
        // A call newer than the newest that the profile names does not exist for it. x32 numbers end with old calls.
        ("open_tree_attr" | "file_getattr" | "file_setattr" | "listns", "x86_64" | "x86") => ENOSYS.to_owned(),
        _ => MARK.to_string(),
    };
    format!("{name} {answer}")
}

fn check_calls(abi: &str, at_least: usize) {
    if !is_root() || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let names = blocked(abi);
    assert!(names.len() >= at_least, "{}", names.len());
    let mut words = vec!["calls", abi];
    words.extend(names.iter().map(String::as_str));
    let got = Bundle::new().run(&words);
    let differing: Vec<(String, &String)> =
        names.iter().map(|n| expected(abi, n)).zip(&got).filter(|(e, g)| e != *g).collect();
    assert!(differing.is_empty() && got.len() == names.len(), "expected, got: {differing:?}");
    let weak = Bundle::new().without_seccomp().run(&words);
    let marked = weak.iter().filter(|line| line.ends_with(&format!(" {MARK}"))).count();
    assert_eq!(marked, 0, "without the filter nothing gives its answer: {weak:?}");
}

#[test]
fn rt_22_calls_outside_the_default_profile_are_refused_by_the_filter() {
    check_calls("x86_64", 71);
    if !is_root() {
        return;
    }
    let conditional =
        ["socket=38", "socket=40", "socket=0x100000026", "personality=0x40000", "clone=0x10000000", "clone=0x20000"];
    let mut words = vec!["calls", "x86_64"];
    words.extend(conditional);
    let expected: Vec<String> =
        conditional.iter().map(|c| format!("{} {MARK}", c.split_once('=').unwrap().0)).collect();
    assert_eq!(Bundle::new().run(&words), expected);
}

#[test]
fn rt_23_the_32_bit_entry_of_the_kernel_is_filtered_alike() {
    check_calls("x86", 71);
}

#[test]
fn rt_23_x32_numbers_are_filtered_alike() {
    check_calls("x32", 60);
}

#[test]
fn rt_23_an_architecture_that_the_profile_does_not_name_is_killed() {
    if !is_root() || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_X86_64"]);
    assert_eq!(bundle.run(&["calls", "x86", "getpid"]), ["getpid signal 31"]);
    assert_eq!(bundle.run(&["calls", "x32", "getpid"]), ["getpid signal 31"]);
    assert_eq!(bundle.run(&["calls", "x86_64", "getpid"]), ["getpid 0"]);
}

#[test]
fn rt_12_devices_are_denied_but_for_the_default_ones() {
    if !is_root() {
        return;
    }
    let open = |bundle: &mut Bundle| -> BTreeSet<String> {
        let lines = bundle.run(&["devices"]);
        let made: usize = lines.iter().find_map(|l| l.strip_prefix("made ")).unwrap().parse().unwrap();
        assert_eq!(made, 1000, "CAP_MKNOD makes any node; opening it is what is denied");
        lines.into_iter().filter(|l| !l.starts_with("made ")).collect()
    };
    let found = open(&mut Bundle::new());
    let default = ["c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:2"];
    let outside: Vec<&String> = found
        .iter()
        .filter(|l| !default.iter().any(|d| l.starts_with(&format!("{d} "))) && !l.starts_with("c 136:"))
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    for device in default {
        assert!(found.contains(&format!("{device} rw")), "{device} is not usable: {found:?}");
    }
    let mut weak = Bundle::new();
    weak.config["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
    let weak = open(&mut weak);
    assert!(weak.len() > 500, "with all devices allowed the case finds them: {}", weak.len());
}

#[test]
fn rt_13_control_groups_cannot_be_written_left_or_mounted_anew() {
    if !is_root() {
        return;
    }
    let worked = |bundle: &mut Bundle| -> (usize, Vec<String>) {
        let lines = bundle.run(&["cgroup"]);
        let seen = lines.iter().find_map(|l| l.strip_prefix("seen ")).unwrap().parse().unwrap();
        (seen, lines.into_iter().filter(|l| !l.starts_with("seen ")).collect())
    };
    let (seen, what) = worked(&mut Bundle::new());
    assert!(seen > 10, "the container sees its own groups: {seen} files");
    assert_eq!(what, Vec::<String>::new());
    // The defences off one by one.
    let mut writable = Bundle::new();
    writable.config["mounts"][4]["options"] = json!(["nosuid", "noexec", "nodev"]);
    let (_, what) = worked(&mut writable);
    assert!(what.iter().any(|l| l.starts_with("writable ")) && what.iter().any(|l| l.starts_with("made ")), "{what:?}");
    let mut unfiltered = Bundle::new().without_seccomp();
    for set in ["bounding", "effective", "permitted"] {
        unfiltered.config["process"]["capabilities"][set].as_array_mut().unwrap().push("CAP_SYS_ADMIN".into());
    }
    let (_, what) = worked(&mut unfiltered);
    assert!(
        what.iter().any(|l| l.starts_with("mount:")) && what.contains(&"remounted /sys/fs/cgroup".to_owned()),
        "{what:?}"
    );
}

/// RT-13: the limit is one for the first process and for whatever is executed later, and both see themselves at the root of their groups.
#[test]
fn rt_13_limits_hold_for_every_process_also_executed_ones() {
    if !is_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let limit = 8;
    bundle.config["linux"]["resources"] = json!({ "pids": { "limit": limit } });
    assert_eq!(bundle.run(&["forks", "50"]), [format!("forked {}", limit - 1)]);
    let mut free = Bundle::new();
    assert_eq!(free.run(&["forks", "50"]), ["forked 50"], "without the limit the case sees it");

    // A first process that stays: it waits for a line that never comes.
    bundle.config["process"]["args"] = json!(["/probe", "cat", "/dev/stdin"]);
    bundle.write();
    let dir = bundle.dir.path().to_str().unwrap().to_owned();
    let mut create = Command::new(program());
    create.args(["runtime", "--root", &format!("{dir}/state"), "create", "--bundle", &dir, "probe"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (input, kept) = std::io::pipe().unwrap();
    create.stdin(input).stdout(writer.try_clone().unwrap()).stderr(writer);
    let status = create.status().unwrap();
    drop(create);
    assert!(status.success(), "{}", {
        drop(kept);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    });
    bundle.runtime(&["start", "probe"]).success();
    // The stage that entered the container before the program counts until its launcher has reaped it, so there may be room for one
    // less at first; there is never room for more.
    eventually("the first process counts too, and nothing else", || {
        let executed = bundle.runtime(&["exec", "probe", "/probe", "forks", "50"]).success().text();
        let forked: usize = executed.trim().strip_prefix("forked ").unwrap().parse().unwrap();
        assert!(forked <= limit - 2, "{executed}");
        forked == limit - 2
    });
    let groups =
        bundle.runtime(&["exec", "probe", "/probe", "cat", "/proc/self/cgroup", "/proc/1/cgroup"]).success().text();
    for line in groups.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap();
        assert!(path == "/" || line.contains("name="), "{groups}");
    }
    drop(kept);
}
