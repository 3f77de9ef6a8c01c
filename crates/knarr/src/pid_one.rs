//! The tiny first process that `--init` puts before a container's program: it forwards signals and reaps what is
//! orphaned. Called as `docker-init -- PROGRAM ARGS`; with `--pause` as the program's only argument and itself as the program it
//! waits, which is all that a pod's first process has to do.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use linux::epoll::{Interest, poll_one};
use linux::signal::SignalFd;

/// Instead of a program: wait for nobody's end, reap everybody.
const WAIT: &str = "--pause";
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIGCONT: i32 = 18;
/// Cannot be caught, or tell of our own faults, or stop us when we touch the terminal.
const NOT_FORWARDED: [i32; 10] = [4, 5, 7, 8, 9, 11, 19, 21, 22, 31];

pub(crate) fn main(words: &[OsString]) -> ExitCode {
    let words = match words.first() {
        Some(first) if first == "--" => &words[1..],
        _ => words,
    };
    let Some((program, args)) = words.split_first() else {
        eprintln!("docker-init: no program given");
        return ExitCode::from(2);
    };
    if args == [WAIT] && std::path::Path::new(program).file_name().is_some_and(|name| name == "docker-init") {
        return match wait() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    match run(program, args) {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            eprintln!("docker-init: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Reaps until it is told to end: the first process of a pod whose containers share one process namespace.
fn wait() -> linux::Result<()> {
    let signals = SignalFd::new(&[SIGINT, SIGTERM, SIGCHLD])?;
    loop {
        poll_one(&signals, Interest::IN, -1)?;
        while let Some(signal) = signals.read()? {
            if signal != SIGCHLD {
                return Ok(());
            }
        }
        while linux::process::wait_any(false)?.is_some() {}
    }
}

fn run(program: &OsString, args: &[OsString]) -> linux::Result<u8> {
    // Signals 21 and 22 stay blocked, so that handing the terminal over does not stop us.
    let all: Vec<i32> = (1..=64).filter(|n| ![9, 19, 32, 33].contains(n)).collect();
    let signals = SignalFd::new(&all)?;
    // A group of its own: what the terminal sends to the foreground must reach the program once, not twice.
    let spawned = Command::new(program).args(args).process_group(0).spawn();
    let child = match spawned {
        Ok(child) => child.id() as i32,
        Err(error) => {
            eprintln!("docker-init: {}: {error}", program.to_string_lossy());
            return Ok(if error.kind() == ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    if let Some(group) = rustix::process::Pid::from_raw(child)
        && rustix::termios::tcsetpgrp(std::io::stdin(), group).is_ok()
    {
        // It may have been stopped for reading before the terminal was its own.
        linux::process::kill(child, SIGCONT)?;
    }
    loop {
        poll_one(&signals, Interest::IN, -1)?;
        while let Some(signal) = signals.read()? {
            if signal != SIGCHLD && !NOT_FORWARDED.contains(&signal) {
                // It may have ended a moment ago; then its end is what we read next.
                let _ = linux::process::kill(child, signal);
            }
        }
        while let Some((pid, exit)) = linux::process::wait_any(false)? {
            if pid == child {
                return Ok(exit.shell_code() as u8);
            }
        }
    }
}
