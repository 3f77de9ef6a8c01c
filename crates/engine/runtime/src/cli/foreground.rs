//! A container or exec that this command stays with: signals are passed on, a terminal is relayed, children are reaped, and the exit code is
//! the program's.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use linux::Errno;
use linux::epoll::{Epoll, Interest};
use linux::process::Exit;
use linux::pty::{self, RawMode};
use linux::signal::SignalFd;

use crate::plan::ConsoleSize;

use super::Fatal;

const CHLD: i32 = 17;
const WINCH: i32 = 28;
/// All that can be passed on and mean something to a program.
const FORWARDED: [i32; 12] = [1, 2, 3, 10, 12, 13, 14, 15, 18, 20, CHLD, WINCH];

/// Signals, held back from the moment there could be somebody to pass them to.
pub(super) struct Signals {
    fd: SignalFd,
}

impl Signals {
    pub(super) fn block(subreaper: bool) -> Result<Self, Fatal> {
        if subreaper {
            linux::process::set_subreaper(true)?;
        }
        Ok(Self { fd: SignalFd::new(&FORWARDED)? })
    }
}

/// Of our own terminal, if there is one.
pub(super) fn size() -> Option<ConsoleSize> {
    let size = pty::size(std::io::stdin()).ok()?;
    Some(ConsoleSize { rows: size.rows, cols: size.cols })
}

const SIGNALS: u64 = 0;
const MASTER: u64 = 1;
const STDIN: u64 = 2;

/// Until the process ends. `master` is the terminal to relay.
pub(super) fn wait(signals: Signals, pid: i32, pidfd: &OwnedFd, master: Option<OwnedFd>) -> Result<u8, Fatal> {
    let epoll = Epoll::new()?;
    epoll.add(&signals.fd, SIGNALS, Interest::IN)?;
    let stdin = std::io::stdin();
    let mut raw = None;
    if let Some(master) = &master {
        linux::pipe::set_nonblocking(master, true)?;
        epoll.add(master, MASTER, Interest::IN)?;
        if pty::is_tty(&stdin) {
            raw = RawMode::enter(stdin.as_fd()).ok();
        }
        match epoll.add(&stdin, STDIN, Interest::IN) {
            // A regular file cannot be waited for: it is all there.
            Err(error) if error.is(Errno::PERM) => relay_file(master)?,
            other => other?,
        }
    }
    let mut exit = None;
    let mut ready = Vec::new();
    let mut buf = vec![0; 32 * 1024];
    while exit.is_none() {
        epoll.wait(&mut ready, -1)?;
        for event in std::mem::take(&mut ready) {
            match (event.token, &master) {
                (SIGNALS, _) => {
                    while let Some(signal) = signals.fd.read()? {
                        match signal {
                            CHLD => {
                                while let Ok(Some((ended, how))) = linux::process::wait_any(false) {
                                    if ended == pid {
                                        exit = Some(how);
                                    }
                                }
                            }
                            WINCH => {
                                if let (Some(master), Ok(size)) = (&master, pty::size(&stdin)) {
                                    let _ = pty::set_size(master, size);
                                }
                            }
                            signal => {
                                let _ = linux::pidfd::send_signal(pidfd, signal);
                            }
                        }
                    }
                }
                (MASTER, Some(master)) => match linux::pipe::read(master, &mut buf) {
                    Ok(0) => epoll.delete(master)?,
                    Ok(len) => {
                        let mut out = std::io::stdout();
                        let _ = out.write_all(&buf[..len]).and_then(|()| out.flush());
                    }
                    Err(error) if error.is(Errno::AGAIN) => {}
                    // The last holder of the slave has gone.
                    Err(_) => epoll.delete(master)?,
                },
                (STDIN, Some(master)) => match linux::pipe::read(&stdin, &mut buf) {
                    Ok(0) | Err(_) => {
                        epoll.delete(&stdin)?;
                        let _ = linux::pipe::write(master, &[4]);
                    }
                    Ok(len) => write_all(master, &buf[..len])?,
                },
                _ => {}
            }
        }
    }
    if let Some(master) = &master {
        while let Ok(len) = linux::pipe::read(master, &mut buf) {
            if len == 0 {
                break;
            }
            let mut out = std::io::stdout();
            let _ = out.write_all(&buf[..len]).and_then(|()| out.flush());
        }
    }
    drop(raw);
    Ok(exit.map_or(255, |exit| Exit::shell_code(exit) as u8))
}

fn relay_file(master: &OwnedFd) -> Result<(), Fatal> {
    let mut buf = vec![0; 4096];
    loop {
        match linux::pipe::read(std::io::stdin(), &mut buf)? {
            0 => break,
            len => write_all(master, &buf[..len])?,
        }
    }
    write_all(master, &[4])
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result<(), Fatal> {
    while !bytes.is_empty() {
        match linux::pipe::write(to, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.is(Errno::AGAIN) => {
                linux::epoll::poll_one(to, Interest::OUT, 1000)?;
            }
            // Nobody reads any more.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
