//! Pseudo-terminals: a pair without ever naming `/dev/pts/N`, sizes, and raw mode for clients.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, Winsize};

use crate::{Attempt, Result, sys};

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Size {
    pub rows: u16,
    pub cols: u16,
}

/// (master, slave) of a new pty of the devpts at `/dev/ptmx`, close-on-exec. The slave comes from TIOCGPTPEER, so nothing under `/dev/pts`
/// is ever looked up by name.
pub fn open() -> Result<(OwnedFd, OwnedFd)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .attempt("open", format_args!("/dev/ptmx"))?;
    let slave = peer(&master)?;
    Ok((master, slave))
}

/// Unlocks a master (of any devpts instance) and opens its slave.
pub fn peer(master: impl AsFd) -> Result<OwnedFd> {
    let master = master.as_fd();
    rustix::pty::unlockpt(master).attempt("ioctl", format_args!("fd {}, TIOCSPTLCK", master.as_raw_fd()))?;
    rustix::pty::ioctl_tiocgptpeer(master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .attempt("ioctl", format_args!("fd {}, TIOCGPTPEER", master.as_raw_fd()))
}

/// The number N of `/dev/pts/N` of a master.
pub fn number(master: impl AsFd) -> Result<u32> {
    let master = master.as_fd();
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int.
    let ret = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    sys::check(ret.into()).map(|_| number).attempt("ioctl", format_args!("fd {}, TIOCGPTN", master.as_raw_fd()))
}

/// Makes the terminal the controlling one of the calling session leader.
pub fn set_controlling(tty: impl AsFd) -> Result<()> {
    let tty = tty.as_fd();
    rustix::process::ioctl_tiocsctty(tty).attempt("ioctl", format_args!("fd {}, TIOCSCTTY", tty.as_raw_fd()))
}

pub fn set_size(tty: impl AsFd, size: Size) -> Result<()> {
    let winsize = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&tty, winsize).attempt("ioctl", format_args!("TIOCSWINSZ, {size:?}"))
}

pub fn size(tty: impl AsFd) -> Result<Size> {
    rustix::termios::tcgetwinsize(&tty)
        .map(|w| Size { rows: w.ws_row, cols: w.ws_col })
        .attempt("ioctl", format_args!("TIOCGWINSZ"))
}

pub fn is_tty(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}

/// The client's terminal in raw mode until dropped.
#[derive(Debug)]
pub struct RawMode<Fd: AsFd> {
    tty: Fd,
    before: Termios,
}

impl<Fd: AsFd> RawMode<Fd> {
    pub fn enter(tty: Fd) -> Result<Self> {
        let before = rustix::termios::tcgetattr(&tty).attempt("ioctl", format_args!("TCGETS"))?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&tty, OptionalActions::Drain, &raw)
            .attempt("ioctl", format_args!("TCSETSW, raw"))?;
        Ok(Self { tty, before })
    }
}

impl<Fd: AsFd> Drop for RawMode<Fd> {
    fn drop(&mut self) {
        // The terminal may be gone: then there is nothing to restore.
        let _ = rustix::termios::tcsetattr(&self.tty, OptionalActions::Drain, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_talks_and_has_a_size() {
        let (master, slave) = open().unwrap();
        assert!(is_tty(&slave));
        set_size(&master, Size { rows: 30, cols: 90 }).unwrap();
        assert_eq!(size(&slave).unwrap(), Size { rows: 30, cols: 90 });
        let raw = RawMode::enter(&slave).unwrap();
        crate::pipe::write(&master, b"\x03x").unwrap();
        let mut buf = [0; 8];
        assert_eq!(crate::pipe::read(&slave, &mut buf).unwrap(), 2);
        drop(raw);
        number(&master).unwrap();
    }
}
