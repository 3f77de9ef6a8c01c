//! Finds the engine, and starts one in the background when none answers on this instance's own socket.
//!
//! Two commands at once start one engine: whoever takes the lock looks again before it starts anything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::process::{Command, Stdio};

use super::http::{Host, Stream};
use crate::failure::Failure;
use crate::settings::Settings;

/// What a freshly started engine writes to its standard output once it listens.
pub const READY: &str = "ready\n";

pub fn connect(settings: &Settings) -> Result<Stream, Failure> {
    match Stream::connect(&settings.host) {
        Ok(stream) => Ok(stream),
        Err(error) if settings.own_host && nobody_there(&error) => start_and_connect(settings),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Failure::new(format!(
            "permission denied while trying to connect to the engine's socket at {}: {error}",
            settings.host
        ))),
        Err(error) => Err(Failure::new(match &settings.host {
            Host::Unix(_) if nobody_there(&error) => {
                format!("Cannot connect to the Docker daemon at {}. Is the docker daemon running?", settings.host)
            }
            host => format!("Cannot connect to the Docker daemon at {host}: {error}"),
        })),
    }
}

fn nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// While this is held nobody else starts an engine of this instance.
pub struct Alone(#[expect(dead_code, reason = "its end unlocks it")] File);

/// The right to be this instance's engine for a while; none if one answers, or if it is not for us to start one.
pub fn alone(settings: &Settings) -> Result<Option<Alone>, Failure> {
    match Stream::connect(&settings.host) {
        Err(error) if settings.own_host && nobody_there(&error) => {}
        _ => return Ok(None),
    }
    let lock = lock(settings)?;
    Ok(Stream::connect(&settings.host).is_err().then_some(Alone(lock)))
}

fn attempt(settings: &Settings, what: &str, error: &io::Error) -> Failure {
    Failure::new(format!("no engine answers at {}, and starting one failed: {what}: {error}", settings.host))
}

fn lock(settings: &Settings) -> Result<File, Failure> {
    let attempt = |what: &str, error: io::Error| attempt(settings, what, &error);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&settings.run)
        .map_err(|e| attempt(&format!("create {}", settings.run.display()), e))?;
    let lock_path = settings.run.join("start.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|e| attempt(&format!("open {}", lock_path.display()), e))?;
    lock.lock().map_err(|e| attempt(&format!("lock {}", lock_path.display()), e))?;
    Ok(lock)
}

fn start_and_connect(settings: &Settings) -> Result<Stream, Failure> {
    let _alone = lock(settings)?;
    if let Ok(stream) = Stream::connect(&settings.host) {
        return Ok(stream);
    }
    launch(settings)?;
    Stream::connect(&settings.host).map_err(|e| attempt(settings, "connect", &e))
}

/// Starts the engine and waits until it says that it listens, or ends.
fn launch(settings: &Settings) -> Result<(), Failure> {
    let log_path = settings.run.join("engine.log");
    let failed = |what: String| {
        Failure::new(format!(
            "no engine answers at {}, and starting one failed: {what}\nSee {}, or run it in the foreground: knarr engine --root {} --run {}",
            settings.host,
            log_path.display(),
            settings.root.display(),
            settings.run.display()
        ))
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(|e| failed(format!("open {}: {e}", log_path.display())))?;
    let from = log.metadata().map_or(0, |data| data.len());
    let mut command = Command::new("/proc/self/exe");
    command.arg("--root").arg(&settings.root).arg("--run").arg(&settings.run);
    if settings.debug {
        command.arg("--debug");
    }
    command.args(["engine", "--background"]).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(|e| failed(format!("run /proc/self/exe: {e}")))?;
    let mut said = String::new();
    if let Some(mut output) = child.stdout.take() {
        // The engine closes this pipe after the word, and dying closes it as well: no waiting for a length of time.
        let _ = output.read_to_string(&mut said);
    }
    if said == READY {
        return Ok(());
    }
    let status = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
    let tail = tail_of(&log_path, from);
    Err(failed(if tail.is_empty() { status } else { tail }))
}

/// The last lines that the engine wrote in this attempt.
fn tail_of(path: &std::path::Path, from: u64) -> String {
    use std::io::Seek;
    let mut text = String::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(io::SeekFrom::Start(from)).is_ok()
    {
        let _ = file.take(64 << 10).read_to_string(&mut text);
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
