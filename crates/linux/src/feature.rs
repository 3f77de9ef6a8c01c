//! What this kernel offers, asked without needing rights and without changing anything.

use rustix::io::Errno;

use crate::Result;

/// Facts for `info` and for plans that depend on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// As `uname -r`.
    pub release: String,
    /// Major and minor version; (0, 0) if the release does not parse.
    pub version: (u32, u32),
    /// As `uname -m`.
    pub machine: String,
    /// openat2, so that in-root paths work at all.
    pub openat2: bool,
    /// mount_setattr, for recursive read-only and idmapped mounts.
    pub mount_setattr: bool,
    /// PIDFD_GET_INFO with exit codes.
    pub pidfd_exit_info: bool,
    pub seccomp: bool,
    pub apparmor: bool,
    pub selinux: bool,
    pub user_namespaces: bool,
    pub time_namespaces: bool,
    pub cgroup_namespaces: bool,
}

pub fn probe() -> Result<Features> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let exists = |path: &str| std::path::Path::new(path).exists();
    Ok(Features {
        version: parse_version(&release),
        release,
        machine: uname.machine().to_string_lossy().into_owned(),
        openat2: crate::fs::Root::open("/")?.open_path("/").is_ok(),
        mount_setattr: !no_such_call(libc::SYS_mount_setattr),
        pidfd_exit_info: parse_version(&uname.release().to_string_lossy()) >= (6, 15),
        seccomp: exists("/proc/sys/kernel/seccomp"),
        apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.first() == Some(&b'Y')),
        selinux: exists("/sys/fs/selinux/enforce"),
        user_namespaces: exists("/proc/self/ns/user"),
        time_namespaces: exists("/proc/self/ns/time"),
        cgroup_namespaces: exists("/proc/self/ns/cgroup"),
    })
}

/// A call with descriptor -1 and nothing else fails at its arguments, unless it is not there at all.
fn no_such_call(number: libc::c_long) -> bool {
    // SAFETY: every argument is invalid or zero, so the call has no effect and reads no memory.
    let ret = unsafe { libc::syscall(number, -1, std::ptr::null::<u8>(), 0, std::ptr::null::<u8>(), 0) };
    crate::sys::check(ret) == Err(Errno::NOSYS)
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_shapes_parse() {
        for (release, version) in [
            ("6.18.44-fc-v595", (6, 18)),
            ("5.4", (5, 4)),
            ("7.2.13+deb13-amd64", (7, 2)),
            ("odd", (0, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(parse_version(release), version, "{release}");
        }
        assert!(probe().unwrap().openat2);
    }
}
