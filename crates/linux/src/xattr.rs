//! Extended attributes of open files, O_PATH ones and symbolic links too.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::{Attempt, Result, fs::proc_fd};

/// The kernel's limit on one value and on the list of names.
const VALUE_MAX: usize = 65536;

/// O_PATH descriptors answer EBADF; the magic link leads to exactly the inode that they stand for, links included.
macro_rules! by_fd {
    ($fd:expr, $direct:expr, |$path:ident| $indirect:expr) => {
        match $direct {
            Err(Errno::BADF) => {
                let $path = proc_fd($fd);
                $indirect
            }
            other => other,
        }
    };
}

/// `None` if there is no such attribute (or the file system has none at all).
pub fn get(fd: impl AsFd, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
    let (fd, name) = (fd.as_fd(), name.as_ref());
    let mut buf = vec![0; 256];
    loop {
        let found = by_fd!(fd, rustix::fs::fgetxattr(fd, name, &mut buf[..]), |path| rustix::fs::getxattr(
            &path,
            name,
            &mut buf[..]
        ));
        match found {
            Ok(len) => {
                buf.truncate(len);
                return Ok(Some(buf));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if buf.len() < VALUE_MAX => buf.resize(VALUE_MAX, 0),
            Err(errno) => {
                return Err(errno).attempt("fgetxattr", format_args!("fd {}, {name:?}", fd.as_raw_fd()));
            }
        }
    }
}

/// Names, in the file system's order; empty where it has no attributes.
pub fn list(fd: impl AsFd) -> Result<Vec<OsString>> {
    let fd = fd.as_fd();
    let mut buf = vec![0; 256];
    let len = loop {
        let found =
            by_fd!(fd, rustix::fs::flistxattr(fd, &mut buf[..]), |path| rustix::fs::listxattr(&path, &mut buf[..]));
        match found {
            Ok(len) => break len,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if buf.len() < VALUE_MAX => buf.resize(VALUE_MAX, 0),
            Err(errno) => return Err(errno).attempt("flistxattr", format_args!("fd {}", fd.as_raw_fd())),
        }
    };
    Ok(buf[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).map(|n| OsString::from_vec(n.to_vec())).collect())
}

/// Creates or replaces.
pub fn set(fd: impl AsFd, name: impl AsRef<OsStr>, value: &[u8]) -> Result<()> {
    let (fd, name) = (fd.as_fd(), name.as_ref());
    by_fd!(fd, rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()), |path| rustix::fs::setxattr(
        &path,
        name,
        value,
        XattrFlags::empty()
    ))
    .attempt("fsetxattr", format_args!("fd {}, {name:?}, {} bytes", fd.as_raw_fd(), value.len()))
}

/// Absent is fine.
pub fn remove(fd: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let (fd, name) = (fd.as_fd(), name.as_ref());
    match by_fd!(fd, rustix::fs::fremovexattr(fd, name), |path| rustix::fs::removexattr(&path, name)) {
        Err(Errno::NODATA) => Ok(()),
        other => other.attempt("fremovexattr", format_args!("fd {}, {name:?}", fd.as_raw_fd())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{OFlags, Root};

    #[test]
    fn attributes_are_kept_on_readable_and_path_descriptors() {
        let path = std::env::temp_dir().join(format!("knarr-xattr-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let root = Root::open(std::env::temp_dir()).unwrap();
        let name = path.file_name().unwrap();
        for flags in [OFlags::RDONLY, OFlags::PATH] {
            let fd = root.open_file(name, flags, rustix::fs::Mode::empty()).unwrap();
            let big = vec![7; 1000];
            if let Err(error) = set(&fd, "user.knarr", &big) {
                assert!(error.is(Errno::OPNOTSUPP), "{error}");
                continue;
            }
            assert_eq!(get(&fd, "user.knarr").unwrap(), Some(big));
            assert!(list(&fd).unwrap().iter().any(|n| n == "user.knarr"));
            remove(&fd, "user.knarr").unwrap();
            remove(&fd, "user.knarr").unwrap();
            assert_eq!(get(&fd, "user.knarr").unwrap(), None);
        }
        std::fs::remove_file(path).unwrap();
    }
}
