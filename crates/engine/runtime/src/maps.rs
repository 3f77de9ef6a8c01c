//! Id maps of user namespaces: written by us, or by the set-uid programs that a system without root has for it.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use linux::clone::{CloneArgs, SingleThreaded};
use linux::ns::Namespaces;

use crate::plan::{IdMap, IdMaps};
use crate::report::{Cause, RefusedKind};

fn text(maps: &[IdMap]) -> String {
    maps.iter().map(|map| format!("{} {} {}\n", map.inside, map.outside, map.count)).collect()
}

fn put(pid: i32, file: &str, value: &str) -> Result<(), Cause> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, value).map_err(|error| {
        let errno = linux::Errno::from_raw_os_error(error.raw_os_error().unwrap_or(5));
        Cause::Call(linux::Error::new("write", format_args!("{path}, {value:?}"), errno))
    })
}

/// The kernel takes each map once and whole.
pub(crate) fn write(pid: i32, maps: &IdMaps) -> Result<(), Cause> {
    if maps.deny_setgroups {
        put(pid, "setgroups", "deny")?;
    }
    put(pid, "gid_map", &text(&maps.gid))?;
    put(pid, "uid_map", &text(&maps.uid))
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
pub(crate) fn namespace(token: &SingleThreaded, uid: &[IdMap], gid: &[IdMap]) -> Result<OwnedFd, Cause> {
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
