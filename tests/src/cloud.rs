//! A cloud of one node in a world of its own, as the stock kubectl sees it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Answer, World, eventually, finish, is_root};

pub struct Cloud {
    pub world: World,
    pub kubeconfig: PathBuf,
    flags: Vec<String>,
}

impl Cloud {
    /// Nothing where there is no root, no kubectl or no docker. The node is called `node` and is ready; busybox is loaded.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With more flags of `knarr up`.
    pub fn start_with(flags: &[&str]) -> Option<Self> {
        let there = |program: &str| Command::new(program).arg("--help").output().is_ok();
        if !is_root() || !there("kubectl") || !there("docker") {
            eprintln!("SKIPPED: needs root, kubectl and docker");
            return None;
        }
        let mut world = World::empty();
        world.end_engine(rustix::process::Signal::TERM);
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        let cloud = Self { kubeconfig: world.dir().join("kubeconfig"), world, flags };
        cloud.up();
        cloud.kubectl("wait --for=condition=Ready node/node --timeout=120s").success();
        cloud.world.load(&crate::image::busybox());
        Some(cloud)
    }

    /// Starts it, or starts it again.
    pub fn up(&self) {
        self.up_with(&[]).success();
    }

    /// Starts it with further environment.
    pub fn up_with(&self, environment: &[(&str, &str)]) -> Answer {
        let mut command = self.world.knarr_command();
        command.args(["up", "--port", "0", "--node-name", "node", "--kubeconfig"]).arg(&self.kubeconfig);
        command.args(&self.flags).envs(environment.iter().copied());
        finish(command, b"")
    }

    /// Ends its process by a signal and waits for that.
    pub fn end(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.process(), signal).expect("signal it");
        self.ends();
    }

    /// Waits until its process has ended.
    pub fn ends(&self) {
        let pid = self.process();
        eventually("the cloud's process ends", || {
            let process = format!("/proc/{}", pid.as_raw_nonzero());
            let stat = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
            // Its other threads may end after the first one, and hold its files until then.
            let threads = std::fs::read_dir(format!("{process}/task")).map_or(0, Iterator::count);
            stat.is_empty() || stat.contains(") Z ") && threads <= 1
        });
    }

    fn process(&self) -> rustix::process::Pid {
        let text = std::fs::read_to_string(self.world.run_dir().join("cloud.json")).expect("a cloud runs");
        let running: serde_json::Value = serde_json::from_str(&text).expect("what it says of itself");
        running["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)).expect("its pid")
    }

    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.world.dir());
        command
    }

    pub fn kubectl_with(&self, words: &[&str], input: &str) -> Answer {
        let mut command = self.kubectl_command();
        command.args(words);
        finish(command, input.as_bytes())
    }

    /// The words of one line, without quotes.
    pub fn kubectl(&self, line: &str) -> Answer {
        self.kubectl_with(&line.split_whitespace().collect::<Vec<_>>(), "")
    }

    pub fn apply(&self, manifest: &str) {
        self.kubectl_with(&["apply", "-f", "-"], manifest).success();
    }

    /// One value of one object: `value("pod/web", "{.status.phase}")`; empty if there is none.
    pub fn value(&self, object: &str, path: &str) -> String {
        self.kubectl_with(&["get", object, "-o", &format!("jsonpath={path}")], "").text()
    }

    pub fn run_in(&self, pod: &str, script: &str) -> Answer {
        self.kubectl_with(&["exec", pod, "--", "sh", "-c", script], "")
    }

    #[track_caller]
    pub fn wait_for(&self, object: &str, path: &str, wanted: &str) {
        eventually(&format!("{object} {path} is {wanted:?}"), || self.value(object, path) == wanted);
    }

    pub fn path(&self) -> &Path {
        self.world.dir()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.kubectl("get pods,events -A").text());
            eprintln!("{}", self.kubectl("get pods -A -o yaml").text());
            eprintln!("{}", std::fs::read_to_string(self.world.run_dir().join("up.log")).unwrap_or_default());
        }
        // Whatever the test has come to: no pod outlives it.
        let _ = self.world.knarr(["down"]);
    }
}
