//! A bundle made for one test, and what the host looks like around it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub fn is_root() -> bool {
    linux::cred::effective_ids().0 == 0
}

/// In our environment and in nobody's container.
pub fn hide_canary() {
    let _ = canary();
}

pub fn canary() -> &'static str {
    "KNARR_TEST_CANARY=seen"
}

fn busybox() -> PathBuf {
    for path in ["/bin/busybox", "/usr/bin/busybox"] {
        if Path::new(path).exists() {
            return path.into();
        }
    }
    panic!("busybox is missing: apt-get install busybox-static");
}

/// The host as far as a container of this run could have changed it: mounts and cgroups that carry its name. Other tests may run beside.
pub fn host() -> (Vec<String>, BTreeSet<PathBuf>) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = format!("knarr-runtime-t{}-", std::process::id());
    let mounts = mounts.lines().filter(|line| line.contains(&ours)).map(str::to_owned).collect();
    (mounts, groups())
}

fn parent() -> String {
    format!("knarr-runtime-test-{}", std::process::id())
}

fn parents() -> Vec<PathBuf> {
    let found = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    found
        .map(|entry| entry.path().join(parent()))
        .chain([Path::new("/sys/fs/cgroup").join(parent())])
        .filter(|p| p.is_dir())
        .collect()
}

fn groups() -> BTreeSet<PathBuf> {
    let below = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    parents().into_iter().flat_map(below).map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

pub fn remove_parents() {
    for path in parents() {
        let _ = std::fs::remove_dir(path);
    }
}

/// A bundle with busybox as its root file system, and a state directory of its own.
pub struct Bundle {
    pub dir: PathBuf,
    pub id: String,
    pub config: Value,
}

impl Bundle {
    /// With Docker's usual configuration, running a shell line.
    pub fn new(line: &str) -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(format!("knarr-runtime-{id}"));
        let rootfs = dir.join("rootfs");
        for sub in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            std::fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        std::fs::copy(busybox(), rootfs.join("bin/busybox")).unwrap();
        for name in [
            "sh", "true", "cat", "id", "ls", "sleep", "mknod", "mkdir", "echo", "touch", "env", "tty", "stty", "dd",
            "grep", "ulimit", "hostname", "unshare", "mount", "head", "seq", "rm", "date", "stat", "readlink",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name));
        }
        std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
            .unwrap();
        Self { config: docker_config(&["/bin/sh", "-c", line], &format!("/{}/{id}", parent())), dir, id }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn write(&self) {
        std::fs::write(self.dir.join("config.json"), self.config.to_string()).unwrap();
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--runc").arg("--root").arg(self.state_dir()).args(words).current_dir(&self.dir);
        let (name, value) = canary().split_once('=').unwrap();
        command.env(name, value).stdin(Stdio::null());
        command
    }

    /// A command that leaves no process behind that could hold its output open.
    pub fn call(&self, words: &[&str]) -> Said {
        Said::of(self.command(words).output().unwrap())
    }

    /// A command whose container outlives it: output goes to files.
    pub fn call_detached(&self, words: &[&str]) -> Said {
        let out = std::fs::File::create(self.dir.join("out")).unwrap();
        let err = std::fs::File::create(self.dir.join("err")).unwrap();
        let status = self.command(words).stdout(out).stderr(err).status().unwrap();
        Said { code: status.code().unwrap_or(-1), out: self.read("out"), err: self.read("err") }
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// `run` in the foreground.
    pub fn run(&self) -> Said {
        self.write();
        self.call(&["run", "-b", self.dir.to_str().unwrap(), &self.id])
    }

    /// A container that runs until it is told otherwise.
    pub fn start(&self) {
        self.write();
        self.call_detached(&["run", "-d", "-b", self.dir.to_str().unwrap(), &self.id]).ok();
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", &self.id]).ok().out).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn wait_for(&self, status: &str) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.status() != status {
            assert!(std::time::Instant::now() < end, "still {} and not {status}", self.status());
            std::thread::yield_now();
        }
    }

    /// Removes what is on record without asking the runtime: for a container whose processes are gone with their namespace.
    pub fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.state_dir());
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        for group in groups().into_iter().filter(|path| path.ends_with(&self.id)) {
            while std::fs::remove_dir(&group).is_err() && group.exists() && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
        }
    }

    /// Directories of the container's cgroup that exist.
    pub fn group_file(&self, controller: &str, file: &str) -> String {
        let path = Path::new("/sys/fs/cgroup").join(controller).join(parent()).join(&self.id).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text), "expected {text:?} in {self:?}");
        self
    }

    #[track_caller]
    pub fn fails(self, text: &str) -> Self {
        assert_ne!(self.code, 0, "expected a failure: {self:?}");
        assert!(self.err.contains(text), "expected {text:?} in {self:?}");
        self
    }
}

pub const CAPS: [&str; 14] = [
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

fn docker_config(args: &[&str], cgroup: &str) -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
            "args": args,
            "env": ["PATH=/bin:/usr/bin"],
            "cwd": "/",
            "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
            "oomScoreAdj": 100,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
