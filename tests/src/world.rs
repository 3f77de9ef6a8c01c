//! A world of its own: an engine with its root, run directory and socket under one temporary directory.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Answer;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("KNARR_BIN") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let triples = std::fs::read_dir(&target).into_iter().flatten().flatten();
    let found = triples.map(|entry| entry.path().join("debug/knarr")).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no knarr under {}: cargo build -p knarr, or set KNARR_BIN", target.display()))
}

/// Whether this runs as root; says aloud that the test is skipped if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// Whether this runs as root with a docker client; says aloud that the test is skipped if not.
pub fn has_docker() -> bool {
    if !is_root() {
        return false;
    }
    let found = std::process::Command::new("docker").arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: no docker client on the path");
    }
    found
}

/// Waits for a condition, with a deadline.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "still not true after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct World {
    dir: tempfile::TempDir,
    engine: Option<Child>,
    /// Further flags of its engines.
    flags: Vec<String>,
    /// The network namespace of its engines, if it is not this machine's.
    netns: Option<PathBuf>,
}

impl World {
    /// Starts an engine and loads `busybox:latest` into it.
    pub fn start() -> Self {
        let world = Self::empty();
        world.load(&crate::image::busybox());
        world
    }

    /// Like `start`, with more flags of `knarr engine`.
    pub fn start_with(flags: &[&str]) -> Self {
        let mut world = Self::without_engine();
        world.flags = flags.iter().map(|flag| flag.to_string()).collect();
        world.start_engine(&[]);
        world.load(&crate::image::busybox());
        world
    }

    /// Like `start_with`, with the network of a machine of its own.
    pub fn start_on(host: &crate::hosts::Host, flags: &[&str]) -> Self {
        let mut world = Self::without_engine();
        world.netns = Some(host.netns());
        world.flags(flags);
        world.start_engine(&[]);
        world.load(&crate::image::busybox());
        world
    }

    /// Like `start`, with everything beneath `parent`: a small disk, say.
    pub fn start_in(parent: &Path) -> Self {
        let dir =
            tempfile::Builder::new().prefix("knarr-test-").tempdir_in(parent).expect("make a temporary directory");
        let mut world = Self { dir, engine: None, flags: Vec::new(), netns: None };
        world.start_engine(&[]);
        world.load(&crate::image::busybox());
        world
    }

    /// Starts an engine without any image.
    pub fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-test-").tempdir().expect("make a temporary directory");
        let mut world = Self { dir, engine: None, flags: Vec::new(), netns: None };
        world.start_engine(&[]);
        world
    }

    /// Only the places: somebody else starts what runs there.
    pub fn without_engine() -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-test-").tempdir().expect("make a temporary directory");
        Self { dir, engine: None, flags: Vec::new(), netns: None }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// What an instance that was killed could not remove itself. The tag is the engine's: a digest of the run directory's path.
    fn remove_cgroups(&self) {
        use std::os::unix::ffi::OsStrExt;
        let run = self.run_dir();
        let hash = run.as_os_str().as_bytes().iter();
        let hash =
            hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        let name = format!("knarr-{:08x}", hash >> 32);
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for parent in hierarchies.map(|entry| entry.path().join(&name)).chain([Path::new("/sys/fs/cgroup").join(&name)])
        {
            // What was killed a moment ago keeps its group for another one. A group with processes that live on is a leak for
            // doctor and the script to tell.
            let deadline = Instant::now() + Duration::from_secs(5);
            while parent.exists() && Instant::now() < deadline {
                for group in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                    // Files of the group refuse.
                    let _ = std::fs::remove_dir(group.path());
                }
                if std::fs::remove_dir(&parent).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("docker.sock")
    }

    /// `unix://...`, for `--host` and `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// What the engines of this world have written to standard error.
    pub fn engine_log(&self) -> String {
        let path = self.dir.path().join("engine.log");
        // A test may have put a device there, which has no end.
        if path.is_file() { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() }
    }

    pub fn engine_pid(&self) -> u32 {
        self.engine.as_ref().expect("an engine runs").id()
    }

    /// Starts a world whose engine (and keeper, which inherits it) has this further environment. No image is loaded.
    pub fn with(environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-test-").tempdir().expect("make a temporary directory");
        let mut world = Self { dir, engine: None, flags: Vec::new(), netns: None };
        world.start_engine(environment);
        world
    }

    /// Further flags of the engines that are started from now on, instead of those before.
    pub fn flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| flag.to_string()).collect();
    }

    /// Whether the engine has ended by itself.
    pub fn engine_ended(&mut self) -> bool {
        self.engine.as_mut().is_none_or(|engine| engine.try_wait().expect("look after the engine").is_some())
    }

    /// Starts the engine with further environment and waits until it answers.
    pub fn start_engine(&mut self, environment: &[(&str, &str)]) {
        let started = self.try_start_engine(environment);
        assert!(started, "the engine ended: {}", self.engine_log());
    }

    /// Like `start_engine`; false if the engine ends before it answers.
    pub fn try_start_engine(&mut self, environment: &[(&str, &str)]) -> bool {
        assert!(self.engine.is_none(), "an engine runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("engine.log"));
        let mut command = Command::new(program());
        if let Some(netns) = &self.netns {
            command = Command::new("nsenter");
            command.arg(format!("--net={}", netns.display())).arg("--").arg(program());
        }
        let engine = self
            .at(command)
            .arg("engine")
            .args(&self.flags)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("open engine.log"))
            .spawn()
            .expect("start the engine");
        self.engine = Some(engine);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.engine.as_mut().expect("just started").try_wait().expect("look after the engine");
            if ended.is_some() {
                self.engine = None;
                return false;
            }
            assert!(Instant::now() < deadline, "the engine does not answer: {}", self.engine_log());
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Ends the engine with a signal and waits for its end. Containers run on.
    pub fn end_engine(&mut self, signal: rustix::process::Signal) {
        let Some(mut engine) = self.engine.take() else { return };
        let pid = rustix::process::Pid::from_child(&engine);
        // It may have ended by itself (a crash point): then there is nobody to signal.
        let _ = rustix::process::kill_process(pid, signal);
        let deadline = Instant::now() + PATIENCE;
        while engine.try_wait().expect("look after the engine").is_none() {
            if Instant::now() > deadline {
                let _ = engine.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Adds where this world is.
    fn at(&self, mut command: Command) -> Command {
        command.arg("--root").arg(self.root()).arg("--run").arg(self.run_dir()).arg("--host").arg(self.host());
        command.env_remove("DOCKER_HOST").env_remove("KNARR_HOST");
        command
    }

    /// `knarr` in this world, to be given arguments.
    pub fn knarr_command(&self) -> Command {
        self.at(Command::new(program()))
    }

    pub fn knarr<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Answer {
        let mut command = self.knarr_command();
        command.args(arguments);
        finish(command, b"")
    }

    /// The stock docker client against this world, to be given arguments.
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.dir.path().join("docker-config"));
        command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_API_VERSION");
        command
    }

    pub fn docker<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Answer {
        self.docker_with(arguments, b"")
    }

    /// With standard input.
    pub fn docker_with<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I, input: &[u8]) -> Answer {
        let mut command = self.docker_command();
        command.args(arguments);
        finish(command, input)
    }

    /// Loads an image through the API, as `docker load` does.
    /// Gives the docker client of this world a plugin; false, and said aloud, where it cannot be had.
    pub fn plugin(&self, name: &str) -> bool {
        let Some(program) = crate::image::client(name) else { return false };
        let plugins = self.dir().join("docker-config/cli-plugins");
        std::fs::create_dir_all(&plugins).expect("a folder for plugins");
        let program = program.canonicalize().expect("it is there");
        std::os::unix::fs::symlink(program, plugins.join(name)).expect("link a plugin");
        true
    }

    pub fn load(&self, image: &crate::image::Image) {
        let archive = image.archive();
        let mut stream = UnixStream::connect(self.socket()).expect("connect to the engine");
        let head = format!(
            "POST /images/load?quiet=1 HTTP/1.1\r\nHost: knarr\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
            archive.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&archive)).expect("send the archive");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("read the answer");
        assert!(
            answer.starts_with("HTTP/1.1 200") && !answer.contains("errorDetail"),
            "load: {answer}\n{}",
            self.engine_log()
        );
    }

    /// One request over the API: status and body.
    pub fn api(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).expect("connect to the engine");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a deadline");
        let body = body.map_or_else(
            || "Content-Length: 0\r\n\r\n".to_owned(),
            |body| format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        );
        // HTTP/1.0: no chunks to decode.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: knarr\r\n{body}");
        stream.write_all(request.as_bytes()).expect("send the request");
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut answer).expect("read the answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        (status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
    }

    /// Removes every container, as the end of a test does.
    fn clear(&self) {
        let (_, list) = self.api("GET", "/containers/json?all=1", None);
        let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
        for container in list.as_array().into_iter().flatten() {
            if let Some(id) = container["Id"].as_str() {
                self.api("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
            }
        }
    }

    /// The keepers of this world's run directory: one, unless something is wrong.
    pub fn keeper_pids(&self) -> Vec<rustix::process::Pid> {
        self.pids_of("keeper")
    }

    /// Processes of this world in a role: `keeper`, `engine` (also one that a command has started in the background).
    pub fn pids_of(&self, role: &str) -> Vec<rustix::process::Pid> {
        let run = self.run_dir();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let is_ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&role.as_bytes()) && words.contains(&run.as_os_str().as_encoded_bytes())
        };
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(is_ours).filter_map(rustix::process::Pid::from_raw).collect()
    }
}

/// Takes the world down: its containers, its engine, its keeper. In a test that passed so far, `doctor` must find nothing.
impl Drop for World {
    fn drop(&mut self) {
        let passed = !std::thread::panicking();
        let mut unclean = None;
        let own = self.engine.as_mut().is_some_and(|engine| engine.try_wait().is_ok_and(|ended| ended.is_none()));
        if UnixStream::connect(self.socket()).is_err() {
            // The engine died in this test; a command starts the next one, which finds what was left behind.
            self.knarr(["version"]);
        }
        if UnixStream::connect(self.socket()).is_ok() {
            self.clear();
            if passed && own {
                let doctor = self.knarr(["doctor"]);
                if doctor.code != 0 {
                    unclean = Some(doctor);
                }
            }
        }
        self.end_engine(rustix::process::Signal::TERM);
        for pid in self.pids_of("engine") {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.pids_of("engine").is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        for pid in self.pids_of("engine").into_iter().chain(self.keeper_pids()) {
            // Gone meanwhile is fine.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.remove_cgroups();
        if !passed {
            eprintln!("--- engine.log\n{}", self.engine_log());
        }
        if let Some(doctor) = unclean {
            panic!("doctor is not content at the end of the test\n{doctor}");
        }
    }
}

/// Runs a command to its end, with a deadline.
pub fn finish(command: Command, input: &[u8]) -> Answer {
    finish_within(command, input, PATIENCE)
}

/// Like [`finish`], for a program that does much.
pub fn finish_within(mut command: Command, input: &[u8], patience: Duration) -> Answer {
    let line = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A program that does not read all of its input is no error.
        let _ = stdin.write_all(&input);
    });
    let pid = rustix::process::Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("read a program's output");
    // The watchdog may have given up already.
    let _ = done.send(());
    watchdog.join().expect("the watchdog does not panic");
    feeder.join().expect("the feeder does not panic");
    Answer::new(line, output)
}
