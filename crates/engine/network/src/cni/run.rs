//! One program that reads its input, answers and ends, or is ended.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const OUTPUT_BYTES_MAX: u64 = 1 << 20;
const SIGKILL: i32 = 9;

pub(super) struct Ended {
    pub status: ExitStatus,
    pub said: String,
    pub errors: String,
}

/// Runs it for `patience` at most; then it is killed with whatever it has started.
pub(super) fn run(mut command: Command, input: &[u8], patience: Duration) -> Result<Ended, String> {
    let text = |error: std::io::Error| error.to_string();
    let file = |name: &str| linux::memfd::create(name).map_err(|error| error.to_string());
    // Files, not pipes: a program that neither reads nor ends its output cannot hold us up.
    let (mut stdin, mut stdout, mut stderr) = (file("cni-input")?, file("cni-output")?, file("cni-errors")?);
    stdin.write_all(input).and_then(|()| stdin.seek(SeekFrom::Start(0))).map_err(text)?;
    let share = |file: &File| file.try_clone().map(Stdio::from).map_err(text);
    command.stdin(share(&stdin)?).stdout(share(&stdout)?).stderr(share(&stderr)?).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("exec: {error}"))?;
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    let pidfd = linux::pidfd::open(pid).map_err(|error| error.to_string())?;
    let end = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(text)? {
            break status;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The group is its own, and still is: it has not been waited for.
            let _ = linux::process::kill(-pid, SIGKILL);
            let _ = child.wait();
            return Err(format!("it has not ended after {} s and was killed", patience.as_secs_f64()));
        }
        let millis = left.as_millis().clamp(1, 60_000) as i32;
        let _ = linux::epoll::poll_one(pidfd.as_fd(), linux::epoll::Interest::IN, millis);
    };
    Ok(Ended { status, said: read(&mut stdout), errors: read(&mut stderr) })
}

fn read(file: &mut File) -> String {
    let mut said = Vec::new();
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(OUTPUT_BYTES_MAX).read_to_end(&mut said));
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_is_told_and_says() {
        let ended = run(shell("cat; echo trouble >&2; exit 3"), b"{}", Duration::from_secs(60)).unwrap();
        assert_eq!((ended.status.code(), ended.said.as_str(), ended.errors.as_str()), (Some(3), "{}", "trouble\n"));
        let more = vec![b'x'; 1 << 20];
        assert!(run(shell("exit 0"), &more, Duration::from_secs(60)).unwrap().status.success(), "it need not read");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let why = loop {
            // On a busy machine it may be killed before it has begun.
            let why = run(shell(&script), b"{}", Duration::from_millis(500)).err().unwrap();
            if file.exists() {
                break why;
            }
        };
        assert_eq!(why, "it has not ended after 0.5 s and was killed");
        let pid = std::fs::read_to_string(file).unwrap();
        // Killed at once, and gone when whoever got the orphan has waited for it.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let runs = || stat().is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")));
        let end = Instant::now() + Duration::from_secs(60);
        while runs() {
            assert!(Instant::now() < end, "it still runs: {}", pid.trim());
            std::thread::yield_now();
        }
    }
}
