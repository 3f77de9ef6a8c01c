//! The container's terminal. Its slave comes from the master itself (TIOCGPTPEER): no name under `/dev/pts`, which the image could have
//! prepared, is ever opened.

use std::os::fd::{AsFd, OwnedFd};

use linux::Errno;
use linux::fs::{Mode, OFlags, Root};
use linux::mount;
use linux::pty::{self, Size};

use crate::plan::ConsoleSize;
use crate::report::{Cause, FromChild};

use super::steps::Child;
use super::{Console, Inherited};

impl Child<'_> {
    pub(super) fn console(
        &mut self,
        size: Option<ConsoleSize>,
        on_dev: bool,
        with: &mut Inherited,
    ) -> Result<(), Cause> {
        let slave = terminal(self.root()?, with.console_size.or(size), with)?;
        if on_dev {
            let tree = mount::clone_tree(&slave, false)?;
            let mode = Mode::from_raw_mode(0o600);
            if vocab::weak::without("console") {
                let path =
                    format!("/proc/self/fd/{}/dev/console", std::os::fd::AsRawFd::as_raw_fd(&self.root()?.as_fd()));
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                let _ = linux::fs::open_host(path, flags);
            }
            let target = self.root()?.ensure_file("/dev/console", mode)?;
            mount::attach(&tree, &target)?;
        }
        Ok(())
    }
}

/// A pty of the container's devpts: the master goes to whoever asked, the slave becomes stdio and the controlling terminal.
pub(super) fn terminal(root: &Root, size: Option<ConsoleSize>, with: &mut Inherited) -> Result<OwnedFd, Cause> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = match root.open_file("/dev/pts/ptmx", flags, Mode::empty()) {
        Ok(master) if linux::fs::is_devpts(&master)? => master,
        Ok(_) => return Err(Cause::refused(crate::RefusedKind::Invalid, "/dev/pts of the container is not a devpts")),
        // A container without a devpts of its own has the host's.
        Err(error) if error.is(Errno::NOENT) || error.is(Errno::NOTDIR) => pty::open()?.0,
        Err(error) => return Err(error.into()),
    };
    let slave = pty::peer(&master)?;
    if let Some(ConsoleSize { rows, cols }) = size {
        pty::set_size(&slave, Size { rows, cols })?;
    }
    match std::mem::replace(&mut with.console, Console::None) {
        Console::Socket(socket) => {
            let name = format!("/dev/pts/{}", pty::number(&master)?);
            linux::socket::send(&socket, name.as_bytes(), &[master.as_fd()])?;
        }
        Console::Launcher | Console::None => with.channel.say(&FromChild::Console, Some(master.as_fd()))?,
    }
    for number in 0..3 {
        linux::exec::dup_onto(&slave, number)?;
    }
    pty::set_controlling(&slave)?;
    Ok(slave)
}
