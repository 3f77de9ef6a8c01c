//! Hooks: programs of the host (or, for startContainer, of the container) that read the container's state from their standard input. They
//! get the environment that the hook names and nothing else, `/` as working directory, and no descriptor but the standard three.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::plan::{Hook, Plan};
use crate::report::{Cause, RefusedKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

impl Status {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The container's state as hooks and seccomp agents read it (runtime-spec, "State").
pub(crate) fn state_value(
    version: &str,
    id: &str,
    status: Status,
    pid: i32,
    bundle: &std::path::Path,
    annotations: &[(String, String)],
) -> serde_json::Value {
    let mut state = serde_json::json!({
        "ociVersion": version,
        "id": id,
        "status": status.word(),
        "bundle": bundle.to_string_lossy(),
    });
    if pid > 0 {
        state["pid"] = pid.into();
    }
    if !annotations.is_empty() {
        let map: serde_json::Map<String, serde_json::Value> =
            annotations.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        state["annotations"] = map.into();
    }
    state
}

pub(crate) fn state(plan: &Plan, status: Status, pid: i32) -> String {
    state_value(&plan.oci_version, &plan.id, status, pid, &plan.bundle, &plan.annotations).to_string()
}

/// Runs hooks one after the other; the first that fails ends it.
pub(crate) fn run(hooks: &[Hook], kind: &str, state: &str) -> Result<(), Cause> {
    for (n, hook) in hooks.iter().enumerate() {
        run_one(hook, state).map_err(|why| {
            Cause::refused(RefusedKind::Internal, format!("{kind} hook #{n} ({}): {why}", hook.path.display()))
        })?;
    }
    Ok(())
}

const OUTPUT_MAX: u64 = 4096;

fn run_one(hook: &Hook, state: &str) -> Result<(), String> {
    // Files, not pipes: a hook that neither reads nor ends its output cannot hold us up.
    let mut input = linux::memfd::create("state").map_err(|error| error.to_string())?;
    let mut output = linux::memfd::create("hook-output").map_err(|error| error.to_string())?;
    let text = |error: std::io::Error| error.to_string();
    input.write_all(state.as_bytes()).and_then(|()| input.seek(SeekFrom::Start(0))).map_err(text)?;
    let share = |file: &File| file.try_clone().map(Stdio::from).map_err(text);
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for entry in &hook.env {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    command.current_dir("/").stdin(share(&input)?).stdout(share(&output)?).stderr(share(&output)?);
    let mut child = command.spawn().map_err(|error| format!("exec: {error}"))?;
    let status = match hook.timeout_secs.map(Duration::from_secs) {
        None => child.wait().map_err(text)?,
        Some(timeout) => {
            let end = Instant::now() + timeout;
            let pidfd = linux::pidfd::open(child.id() as i32).map_err(|error| error.to_string())?;
            loop {
                if let Some(status) = child.try_wait().map_err(text)? {
                    break status;
                }
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("timed out after {} s and was killed", timeout.as_secs()));
                }
                let millis = left.as_millis().clamp(1, 60_000) as i32;
                let _ = linux::epoll::poll_one(pidfd.as_fd(), linux::epoll::Interest::IN, millis);
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    let _ = output.seek(SeekFrom::Start(0)).and_then(|_| output.take(OUTPUT_MAX).read_to_end(&mut said));
    Err(format!("{status}: {}", String::from_utf8_lossy(&said).trim_end()))
}
