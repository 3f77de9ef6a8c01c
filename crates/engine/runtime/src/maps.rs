//! Id maps of user namespaces: written by us, or by the set-uid programs that a system without root has for it.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use linux::clone::{CloneArgs, SingleThreaded};
use linux::idmap::{self, IdSpan};
use linux::ns::Namespaces;

use crate::plan::IdMaps;
use crate::report::{Cause, RefusedKind};

pub(crate) fn write(pid: i32, maps: &IdMaps) -> Result<(), Cause> {
    if maps.deny_setgroups {
        linux::clone::write_map(pid, "setgroups", "deny")?;
    }
    linux::clone::write_map(pid, "gid_map", &idmap::lines(&maps.gid))?;
    Ok(linux::clone::write_map(pid, "uid_map", &idmap::lines(&maps.uid))?)
}

/// `newuidmap PID inside outside count ...`
pub(crate) fn write_by_helpers(pid: i32, maps: &IdMaps) -> Result<(), Cause> {
    for (program, list) in [("newgidmap", &maps.gid), ("newuidmap", &maps.uid)] {
        let mut command = Command::new(program);
        command.arg(pid.to_string());
        for map in list {
            command.args([map.inside, map.outside, map.count].map(|n| n.to_string()));
        }
        let output = command.stdin(Stdio::null()).output().map_err(|error| {
            Cause::refused(RefusedKind::Unsupported, format!("{program} (package uidmap) cannot be run: {error}"))
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Cause::refused(
                RefusedKind::Forbidden,
                format!("{program} {}: {}", output.status, said.trim_end()),
            ));
        }
    }
    Ok(())
}

/// A user namespace that exists only for its maps (idmapped mounts).
pub(crate) fn namespace(token: &SingleThreaded, uid: &[IdSpan], gid: &[IdSpan]) -> Result<OwnedFd, Cause> {
    let (hold, wait) = linux::pipe::pipe().map(|(read, write)| (write, read))?;
    let args = CloneArgs { namespaces: Namespaces::USER, ..Default::default() };
    let theirs = linux::fs::dup(&wait)?;
    let child = linux::clone::spawn(token, &args, move || {
        // Ends when it is killed; the pipe only keeps it from running on if we die first.
        let _ = linux::exec::close_except(&[std::os::fd::AsFd::as_fd(&theirs)]);
        let _ = linux::pipe::read(&theirs, &mut [0]);
        0
    })?;
    let maps =
        IdMaps { uid: uid.to_vec(), gid: gid.to_vec(), writer: crate::plan::MapWriter::Direct, deny_setgroups: false };
    let made = write(child.pid, &maps).and_then(|()| Ok(linux::ns::open(format!("/proc/{}/ns/user", child.pid))?));
    crate::launch::end(child.pid, &child.pidfd);
    drop(hold);
    made
}
