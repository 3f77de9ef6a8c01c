//! The first command finds no engine and starts one; many first commands start exactly one.

use std::path::PathBuf;
use std::process::{Command, Output};

use blackbox::{World, eventually, is_root, program};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("knarr-auto-").tempdir().expect("make a temporary directory"))
    }

    fn run_dir(&self) -> PathBuf {
        self.0.path().join("run")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.0.path().join("root")).arg("--run").arg(self.run_dir()).args(words);
        command.env_remove("DOCKER_HOST");
        command
    }

    fn knarr(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("run knarr")
    }

    /// Processes of this place: (pid, role).
    fn processes(&self) -> Vec<(i32, String)> {
        let run = self.run_dir();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            if words.contains(&run.as_os_str().as_encoded_bytes()) {
                let role = words.iter().find(|word| matches!(**word, b"engine" | b"keeper"));
                found.push((pid, role.map_or_else(String::new, |role| String::from_utf8_lossy(role).into_owned())));
            }
        }
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for role in ["engine", "keeper"] {
            for (pid, _) in self.processes().into_iter().filter(|(_, known)| known == role) {
                let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
                // Gone meanwhile is fine.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let gone = || self.processes().is_empty();
        if !std::thread::panicking() {
            eventually("engine and keeper have ended", gone);
        }
    }
}

#[test]
fn many_first_commands_start_one_engine() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let running: Vec<_> = (0..8)
        .map(|_| {
            place
                .command(&["ps", "-q"])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("run knarr")
        })
        .collect();
    for child in running {
        let output = child.wait_with_output().expect("wait for knarr");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let engines = place.processes().into_iter().filter(|(_, role)| role == "engine").count();
    assert_eq!(engines, 1);
    // A second engine on the same place is refused and says why.
    let second = place.knarr(&["engine"]);
    assert!(!second.status.success());
    assert!(!second.stderr.is_empty());
}

#[test]
fn an_engine_that_cannot_start_says_why() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    // The root is a file.
    std::fs::write(place.0.path().join("root"), "").expect("write a file");
    let output = place.knarr(&["ps"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no engine answers at") && text.contains("/root"), "{text}");
}

#[test]
fn a_named_host_is_never_started() {
    let place = Place::new();
    let host = format!("unix://{}/nobody.sock", place.0.path().display());
    let output = Command::new(program()).arg("ps").env("DOCKER_HOST", &host).output().expect("run knarr");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text, format!("Cannot connect to the Docker daemon at {host}. Is the docker daemon running?\n"));
}

#[test]
fn doctor_starts_no_engine() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let looked = place.knarr(&["doctor"]);
    let text = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert_eq!((looked.status.code(), text.as_str()), (Some(0), "Nothing found: the records and the machine agree.\n"));
    assert!(place.processes().iter().all(|(_, role)| role != "engine"), "{:?}", place.processes());
    eventually("nothing is held, so no keeper stays", || place.processes().is_empty());
    // Many at once do not get in each other's way, nor in that of an engine.
    let looks: Vec<_> = [&["doctor", "--json"][..], &["doctor", "--deep"], &["ps", "-q"], &["doctor"]]
        .map(|words| place.command(words).stdout(std::process::Stdio::null()).spawn().expect("run knarr"))
        .into();
    for mut look in looks {
        assert!(look.wait().expect("wait for knarr").success());
    }
}

#[test]
fn doctor_leaves_restarts_to_the_next_engine() {
    if !is_root() {
        return;
    }
    let mut world = World::start();
    world.knarr(["run", "-d", "--name", "web", "--restart", "always", "busybox", "sleep", "3600"]).success();
    let pid = world.knarr(["inspect", "-f", "{{.State.Pid}}", "web"]).success().text();
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a process id")).expect("it runs");
    world.end_engine(rustix::process::Signal::TERM);
    // What runs, runs on while somebody looks.
    world.knarr(["doctor"]).success().stdout("Nothing found: the records and the machine agree.\n");
    rustix::process::test_kill_process(pid).expect("it runs still");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("end it");
    eventually("it has ended", || rustix::process::test_kill_process(pid).is_err());
    world.knarr(["doctor"]).success().stdout("Nothing found: the records and the machine agree.\n");
    assert!(std::os::unix::net::UnixStream::connect(world.socket()).is_err(), "no engine was left");
    eventually("nothing is held, so no keeper stays", || world.keeper_pids().is_empty());
    let running = || world.knarr(["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "web"]).success().text();
    eventually("its policy is kept", || running() == "running 1");
}
