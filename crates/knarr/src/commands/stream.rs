//! An attached session: the client's terminal and signals on one side, a container's streams on the other.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use linux::pty::RawMode;
use linux::signal::SignalFd;

use crate::client::http::encode;
use crate::client::terminal::{self, Escape};
use crate::client::{Client, Hijacked, frames, query, signals};
use crate::failure::Failure;

/// What a session joins, and how.
pub(super) struct Session {
    /// One stream instead of two in frames.
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub detach_keys: Vec<u8>,
    /// Where the terminal's size goes: `/containers/ID/resize` or `/exec/ID/resize`.
    pub resize: Option<String>,
    /// Whom signals of the client are sent to.
    pub forward: Option<String>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The other side closed its streams.
    Closed,
    /// The user pressed the detach keys.
    Detached,
}

pub(super) const NO_TERMINAL: &str = "the input device is not a TTY";

/// Refuses a terminal for the container where the client has none to give.
pub(super) fn check_terminal(tty: bool, stdin: bool) -> Result<(), Failure> {
    if tty && stdin && !terminal::is_terminal(io::stdin()) {
        return Err(NO_TERMINAL.into());
    }
    Ok(())
}

/// Takes the signals that the session will treat. To be called while the process has one thread, and before the
/// container can run: a signal that arrives earlier is kept, not lost.
pub(super) fn take_signals(tty: bool, forward: bool) -> Result<Option<SignalFd>, Failure> {
    let names: &[&str] = match (forward, tty) {
        (true, _) => signals::FORWARDED,
        (false, true) => &["WINCH"],
        (false, false) => return Ok(None),
    };
    signals::take(names).map(Some).map_err(|error| Failure::new(error.to_string()))
}

/// Sends the size of the client's terminal to a container or an exec.
pub(super) fn send_size(client: &Client, path: &str) {
    if let Some((rows, columns)) = terminal::size() {
        let size = query(&[("h", &rows.to_string()), ("w", &columns.to_string())]);
        // The process may have ended meanwhile; its exit is what the user wants to see.
        let _ = client.post(&format!("{path}{size}"), None);
    }
}

impl Session {
    /// Handles the client's signals in a thread of its own.
    pub(super) fn treat_signals(&self, client: &Client, taken: Option<SignalFd>) {
        let Some(taken) = taken else { return };
        let settings = client.settings.clone();
        let (resize, forward, tty) = (self.resize.clone(), self.forward.clone(), self.tty);
        signals::each(taken, move |signal| {
            let client = Client::new(settings.clone());
            match (linux::signal::name(signal), &resize, &forward) {
                (Some("WINCH"), Some(path), _) if tty => send_size(&client, path),
                (Some("WINCH"), _, _) => {}
                (name, _, Some(id)) => {
                    let number = signal.to_string();
                    let signal = query(&[("signal", name.unwrap_or(&number))]);
                    // A container that has just ended cannot be signalled, and need not be.
                    let _ = client.post(&format!("/containers/{}/kill{signal}", encode(id)), None);
                }
                _ => {}
            }
        });
    }

    /// Copies until the container's side ends or the user detaches. Call it after `treat_signals`.
    pub(super) fn run(&self, hijacked: Hijacked) -> Result<End, Failure> {
        let raw = match self.tty && self.stdin && terminal::is_terminal(io::stdin()) {
            true => Some(RawMode::enter(io::stdin()).map_err(|error| Failure::new(error.to_string()))?),
            false => None,
        };
        let detached = Arc::new(AtomicBool::new(false));
        if self.stdin {
            self.feed(&hijacked, detached.clone())?;
        }
        let mut from = hijacked.reader()?;
        let mut nothing = io::sink();
        let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
        let out: &mut dyn Write = if self.stdout { &mut stdout } else { &mut nothing };
        let mut nothing = io::sink();
        let err: &mut dyn Write = if self.stderr { &mut stderr } else { &mut nothing };
        let copied = match hijacked.multiplexed.unwrap_or(!self.tty) {
            true => frames::copy(&mut from, &mut { out }, &mut { err }),
            false => copy_plain(&mut from, out),
        };
        drop(raw);
        if detached.load(Ordering::SeqCst) {
            return Ok(End::Detached);
        }
        copied?;
        Ok(End::Closed)
    }

    /// Sends standard input in a thread of its own, which ends with the process.
    fn feed(&self, hijacked: &Hijacked, detached: Arc<AtomicBool>) -> Result<(), Failure> {
        let mut to = hijacked.stream.try_clone()?;
        let keys = if self.tty { self.detach_keys.clone() } else { Vec::new() };
        std::thread::spawn(move || {
            let mut from = Escape::new(io::stdin().lock(), keys);
            let mut buffer = [0; 32 << 10];
            loop {
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        if to.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            // Errors here mean that the other side is gone already.
            if from.detached {
                detached.store(true, Ordering::SeqCst);
                let _ = to.shutdown();
            } else {
                let _ = to.shutdown_write();
            }
        });
        Ok(())
    }
}

fn copy_plain(from: &mut impl Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
