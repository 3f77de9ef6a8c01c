//! Docker's own engine beside ours: what a build gives there is what it has to give here.
//!
//! It has folders, a socket, mounts and processes of its own and touches nothing of the machine's network: no bridge, no rules.
//! Steps of builds have no network there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Answer, World};

/// Ends with this.
#[derive(Debug)]
pub struct StockEngine {
    child: Child,
    folder: tempfile::TempDir,
    parent: String,
}

impl StockEngine {
    /// None, and said aloud, where `scripts/clients` could not fetch it.
    pub fn start() -> Option<Self> {
        let programs = crate::image::client("engine")?.canonicalize().expect("it is there");
        let folder = tempfile::Builder::new().prefix("knarr-stock-").tempdir().expect("a folder");
        let parent = folder.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd"]);
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        command.args(["--userland-proxy=false", "--storage-driver=overlay2"]);
        command.args(["-H", &format!("unix://{}", at("docker.sock")), "--pidfile", &at("pid")]);
        command.args(["--data-root", &at("root"), "--exec-root", &at("run"), "--cgroup-parent", &format!("/{parent}")]);
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("unshare is there");
        let engine = Self { child, folder, parent };
        crate::eventually("the stock engine answers", || {
            Path::new(&engine.socket()).exists() && {
                let mut command = engine.command();
                command.args(["version", "--format", "{{.Server.Version}}"]).output().is_ok_and(|o| o.status.success())
            }
        });
        Some(engine)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command
    }

    /// The client of a world, with its plugins, that speaks to this engine instead.
    pub fn docker_command(&self, world: &World) -> Command {
        let mut command = world.docker_command();
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command
    }

    pub fn docker(&self, world: &World, words: &[&str]) -> Answer {
        let mut command = self.docker_command(world);
        command.args(words);
        crate::finish(command, b"")
    }
}

impl Drop for StockEngine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Everything in its pid namespace is gone with it; its cgroups are empty.
        let Ok(all) = std::fs::read_dir("/sys/fs/cgroup") else { return };
        for hierarchy in all.flatten() {
            crate::tree::remove_cgroup(&hierarchy.path().join(&self.parent));
        }
        crate::tree::remove_cgroup(&Path::new("/sys/fs/cgroup").join(&self.parent));
    }
}
