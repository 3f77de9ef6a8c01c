//! A node whose pods run with Debian's containerd, where the lab is set up (`bench/lab setup`): in namespaces of its own, so that nothing
//! of it touches this machine.

use std::path::Path;
use std::process::Command;

const TREE: &str = "/var/tmp/knarr-lab/sid";
const PLUGINS: &str = "/usr/lib/cni";

/// A lab beside others that share its tree.
struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Option<Self> {
        let there = Path::new(TREE).join("usr/bin/containerd").exists() && Path::new(PLUGINS).join("bridge").exists();
        let kubectl = Command::new("sh").args(["-c", "command -v kubectl"]).output().expect("a shell").stdout;
        let kubectl = String::from_utf8_lossy(&kubectl).trim().to_owned();
        if !blackbox::is_root() || !there || kubectl.is_empty() {
            eprintln!("SKIPPED: needs root, kubectl, network plugins in {PLUGINS} and the lab (bench/lab setup)");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("knarr-lab-").tempdir_in("/var/tmp").expect("a directory");
        let lab = Self { directory };
        std::os::unix::fs::symlink(TREE, lab.path("sid")).expect("a link to the tree");
        std::fs::create_dir(lab.path("cni")).expect("a directory");
        for plugin in ["bridge", "host-local", "loopback"] {
            std::fs::copy(Path::new(PLUGINS).join(plugin), lab.path("cni").join(plugin)).expect("copy a plugin");
        }
        std::fs::copy(blackbox::program(), lab.path("knarr")).expect("copy the program");
        std::fs::copy(kubectl, lab.path("kubectl")).expect("copy kubectl");
        Some(lab)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The first process of its namespaces: all others end with it.
        let pid = std::fs::read_to_string(self.path("lab.pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let gone = || !Path::new("/proc").join(pid.as_raw_nonzero().to_string()).exists();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !gone() && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        remove_groups();
    }
}

/// Control groups that containerd's pods and the lab's own engines leave when they are killed.
fn remove_groups() {
    // The kubelet's and the engines' are `knarr-TAG`; their run directories are always the same, so are the tags.
    for run in ["/run/k", "/run/b"] {
        let hash = run
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let name = format!("knarr-{:08x}", hash >> 32);
        let script = format!(
            "for d in /sys/fs/cgroup/{name} /sys/fs/cgroup/*/{name}; do [ -d $d ] && find $d -depth -type d -exec rmdir {{}} +; done"
        );
        let _ = Command::new("sh").args(["-c", &script]).output();
    }
}

#[test]
fn a_deployment_runs_with_containerd() {
    let Some(lab) = Lab::new() else { return };
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut command = Command::new(repository.join("bench/lab"));
    command.env("KNARR_LAB", lab.directory.path()).args(["enter", "bash", "/src/tests/lab/containerd.sh"]);
    blackbox::finish_within(command, b"", std::time::Duration::from_secs(240))
        .success()
        .stdout_has("containerd: all is well\n");
}
