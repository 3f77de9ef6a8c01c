//! A server in this process with the stock kubectl beside it. Skipped aloud where there is no kubectl.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use apiserver::{Config, Server};

/// A server with a kubectl that talks to it.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
    pub server: Option<Server>,
    pub config: Config,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }
}

/// The kubectl to use: `KUBECTL`, or the one in the path.
pub fn kubectl() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let path = PathBuf::from(std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into()));
            let works =
                Command::new(&path).args(["version", "--client"]).output().is_ok_and(|out| out.status.success());
            if !works {
                eprintln!("SKIPPED: there is no kubectl here (set KUBECTL)");
            }
            works.then_some(path)
        })
        .as_ref()
}

impl Cluster {
    /// `None`, said aloud, where there is no kubectl.
    pub fn start(durable: bool) -> Option<Self> {
        Self::start_on(durable, None)
    }

    pub fn start_on(durable: bool, datastore: Option<apiserver::EtcdOptions>) -> Option<Self> {
        kubectl()?;
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = Config {
            root: durable.then(|| dir.path().join("root")),
            kubeconfig: Some(dir.path().join("config")),
            datastore,
            ..Config::default()
        };
        let server = runtime.block_on(Server::start(config.clone())).unwrap();
        Some(Self { dir, runtime, server: Some(server), config })
    }

    pub fn restart(&mut self) {
        self.runtime.block_on(self.server.take().unwrap().stop());
        self.server = Some(self.runtime.block_on(Server::start(self.config.clone())).unwrap());
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(kubectl().unwrap());
        command.env("KUBECONFIG", self.dir.path().join("config")).env("HOME", self.dir.path()).args(words);
        command.current_dir(self.dir.path());
        command
    }

    /// Runs kubectl with this standard input; answers success and what it said (standard output, then error).
    pub fn try_with(&self, words: &[&str], input: &str) -> (bool, String) {
        let mut child =
            self.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("WARNING: version difference")).collect();
        (out.status.success(), lines.join("\n"))
    }

    /// A command that has to succeed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.ok_with(line, "")
    }

    #[track_caller]
    pub fn ok_with(&self, line: &str, input: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (good, said) = self.try_with(&words, input);
        assert!(good, "kubectl {line}: {said}");
        said
    }

    /// A command that has to fail, saying this.
    #[track_caller]
    pub fn fails(&self, line: &str, input: &str, expected: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (good, said) = self.try_with(&words, input);
        assert!(!good && said.contains(expected), "kubectl {line}: {said}\nexpected: {expected}");
    }

    /// One field of an object.
    #[track_caller]
    pub fn field(&self, object: &str, path: &str) -> String {
        self.ok(&format!("get {object} -o jsonpath={{{path}}}"))
    }

    /// Waits until a command says this.
    #[track_caller]
    pub fn eventually(&self, line: &str, expected: &str) {
        self.until(line, |said| said.contains(expected));
    }

    #[track_caller]
    pub fn until(&self, line: &str, holds: impl Fn(&str) -> bool) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let (_, said) = self.try_with(&words, "");
            if holds(&said) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "kubectl {line} never says what is waited for: {said}");
            std::thread::yield_now();
        }
    }
}
