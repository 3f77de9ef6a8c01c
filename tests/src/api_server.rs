//! `knarr server --no-node` of the built program, with directories of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Answer, eventually, finish, program};

/// A running server; ends with the value.
pub struct ApiServer {
    dir: tempfile::TempDir,
    flags: Vec<String>,
    child: Child,
}

impl ApiServer {
    /// Starts one with these further flags and waits until it is ready.
    pub fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let child = spawn(dir.path(), &flags);
        let server = Self { dir, flags, child };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        eventually("the server is ready", || self.kubeconfig().exists());
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and sees that it does.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        eventually("the server ends", || self.child.try_wait().is_ok_and(|status| status.is_some()));
    }

    /// Starts it again with the same directories and flags, or with others.
    pub fn start_again(&mut self, flags: Option<&[&str]>) {
        if let Some(flags) = flags {
            self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        }
        let _ = std::fs::remove_file(self.kubeconfig());
        self.child = spawn(self.dir.path(), &self.flags);
        self.wait_until_ready();
    }

    pub fn kubectl_with(&self, words: &[&str], input: &str) -> Answer {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path()).args(words);
        finish(command, input.as_bytes())
    }

    pub fn kubectl(&self, line: &str) -> Answer {
        self.kubectl_with(&line.split_whitespace().collect::<Vec<_>>(), "")
    }
}

fn spawn(dir: &Path, flags: &[String]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log");
    let mut command = Command::new(program());
    command.args(["server", "--no-node", "--port", "0", "--root"]).arg(dir.join("root"));
    command.arg("--run").arg(dir.join("run")).arg("--kubeconfig").arg(dir.join("kubeconfig")).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the built program starts")
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
    }
}
