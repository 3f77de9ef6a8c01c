//! A timer that is a descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::{Attempt, Result};

/// Readable once its time has come. Monotonic, non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Timer {
    pub fn new() -> Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)
            .attempt("timerfd_create", format_args!("MONOTONIC"))?;
        Ok(Self { fd })
    }

    /// Fires once after `delay`; zero disarms.
    pub fn arm(&self, delay: Duration) -> Result<()> {
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: delay.as_secs() as i64, tv_nsec: delay.subsec_nanos().into() },
        };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)
            .map(drop)
            .attempt("timerfd_settime", format_args!("{delay:?}"))
    }

    /// Takes note that it fired.
    pub fn acknowledge(&self) {
        let mut count = [0; 8];
        // Nothing to read means that it has not fired, which is as good.
        let _ = rustix::io::read(&self.fd, &mut count);
    }
}
