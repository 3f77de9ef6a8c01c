//! Signals of the client as data: taken from a descriptor by a thread, handed to a function.

use linux::epoll::{Interest, poll_one};
use linux::signal::{SignalFd, from_name};

/// Blocks the signals that an attached client treats itself. Call it before any other thread starts, so that none of them is interrupted.
pub fn take(names: &[&str]) -> Result<SignalFd, linux::Error> {
    let numbers: Vec<i32> = names.iter().filter_map(|name| from_name(name)).collect();
    SignalFd::new(&numbers)
}

/// Everything that is worth handing on to a container's process.
pub const FORWARDED: &[&str] = &["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT", "TSTP", "WINCH"];

/// Calls `handle` with the number of every signal that arrives, for as long as the process lives.
pub fn each(signals: SignalFd, mut handle: impl FnMut(i32) + Send + 'static) {
    std::thread::spawn(move || {
        loop {
            match signals.read() {
                Ok(Some(signal)) => handle(signal),
                // Readable again when the next one comes.
                Ok(None) => {
                    if poll_one(&signals, Interest::IN, -1).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
}
