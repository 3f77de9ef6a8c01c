//! Device nodes of the host that containers are given.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::spec::{self, HostDevice};
use crate::{DeviceMapping, DeviceRequest, Error, Result};

/// `--device`: a node, or every node below a directory.
pub(crate) fn asked(mappings: &[DeviceMapping]) -> Result<Vec<HostDevice>> {
    let mut devices = Vec::new();
    for mapping in mappings {
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        if !access.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(Error::Invalid(format!("invalid device mode: {access}")));
        }
        let source = Path::new(&mapping.path_on_host);
        let refused = |why: &str| {
            Error::Invalid(format!("error gathering device information while adding custom device {source:?}: {why}"))
        };
        let inside =
            if mapping.path_in_container.is_empty() { &mapping.path_on_host } else { &mapping.path_in_container };
        let facts = std::fs::metadata(source).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => refused("no such file or directory"),
            _ => refused(&e.to_string()),
        })?;
        if facts.is_dir() {
            collect(source, Path::new(inside), access, &mut devices);
            continue;
        }
        devices.push(device(source, &facts, inside, access).ok_or_else(|| refused("not a device node"))?);
    }
    Ok(devices)
}

/// `--privileged`: everything in /dev but what a container has of its own.
pub(crate) fn all() -> Vec<HostDevice> {
    let mut devices = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut devices);
    devices
}

fn collect(dir: &Path, inside: &Path, access: &str, devices: &mut Vec<HostDevice>) {
    const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        // Links are left out: what they point to is listed itself.
        let Ok(facts) = entry.metadata() else { continue };
        let path = inside.join(&name);
        if facts.is_dir() {
            collect(&entry.path(), &path, access, devices);
        } else {
            devices.extend(device(&entry.path(), &facts, &path.to_string_lossy(), access));
        }
    }
}

fn device(source: &Path, facts: &std::fs::Metadata, path: &str, access: &str) -> Option<HostDevice> {
    let kind = match facts.file_type() {
        kind if kind.is_block_device() => 'b',
        kind if kind.is_char_device() => 'c',
        _ => return None,
    };
    let (major, minor) = split(facts.rdev());
    Some(HostDevice {
        source: source.to_owned(),
        path: path.to_owned(),
        kind,
        major,
        minor,
        mode: facts.mode() & 0o7777,
        uid: facts.uid(),
        gid: facts.gid(),
        access: access.to_owned(),
    })
}

/// What devices that are asked for by name bring; the files are read anew each time, as their vendors change them.
pub(crate) fn requested(requests: &[DeviceRequest], directories: &[PathBuf]) -> Result<cdi::Edits> {
    if requests.is_empty() {
        return Ok(cdi::Edits::default());
    }
    let known = cdi::Devices::read(directories);
    let mut names = Vec::new();
    for request in requests {
        names.extend(spec::device_names(request, &|kind| known.has_kind(kind))?);
    }
    known.find(&names).map_err(refused)
}

pub(crate) fn refused(error: cdi::Error) -> Error {
    Error::Start { exit_code: 128, message: error.to_string() }
}

/// A device file as CDI asks after it.
pub(crate) fn node(path: &Path) -> Option<cdi::Node> {
    let facts = std::fs::metadata(path).ok()?;
    if facts.file_type().is_fifo() {
        return Some(cdi::Node {
            kind: 'p',
            major: 0,
            minor: 0,
            mode: facts.mode() & 0o7777,
            uid: facts.uid(),
            gid: facts.gid(),
        });
    }
    let found = device(path, &facts, "", "")?;
    let HostDevice { kind, major, minor, mode, uid, gid, .. } = found;
    Some(cdi::Node { kind, major, minor, mode, uid, gid })
}

/// Linux' `dev_t` as the C library spreads it.
pub(crate) fn split(rdev: u64) -> (i64, i64) {
    let major = (rdev >> 8 & 0xfff) | (rdev >> 32 & !0xfff);
    let minor = (rdev & 0xff) | (rdev >> 12 & !0xff);
    (major as i64, minor as i64)
}

/// For blkio limits.
pub(crate) fn numbers(path: &str) -> Result<(i64, i64)> {
    let refused = |why: &dyn std::fmt::Display| Error::Invalid(format!("cannot limit device {path}: {why}"));
    let facts = std::fs::metadata(path).map_err(|e| refused(&e))?;
    if !facts.file_type().is_block_device() && !facts.file_type().is_char_device() {
        return Err(refused(&"not a device node"));
    }
    Ok(split(facts.rdev()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_described_and_others_are_refused() {
        let mapping = |path: &str, access: &str| DeviceMapping {
            path_on_host: path.into(),
            path_in_container: "/dev/zero2".into(),
            cgroup_permissions: access.into(),
        };
        let devices = asked(&[mapping("/dev/zero", "rw")]).unwrap();
        assert_eq!((devices[0].kind, devices[0].major, devices[0].minor), ('c', 1, 5));
        assert_eq!((devices[0].path.as_str(), devices[0].access.as_str()), ("/dev/zero2", "rw"));
        for (path, access) in [("/dev/none", ""), ("/etc/passwd", ""), ("/dev/zero", "x")] {
            assert!(asked(&[mapping(path, access)]).is_err(), "{path} {access}");
        }
    }
}
