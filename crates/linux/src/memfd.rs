//! Anonymous memory files, sealed where nobody may change them any more.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::{Attempt, Error, Result};

/// A growable, sealable, close-on-exec memory file. The name is for `/proc` only.
pub fn create(name: &str) -> Result<File> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know NOEXEC_SEAL.
    match rustix::fs::memfd_create(name, base | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, base),
        other => other,
    }
    .map(File::from)
    .attempt("memfd_create", format_args!("{name:?}"))
}

/// As [`create`], for a program that will be executed.
pub fn create_executable(name: &str) -> Result<File> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, base | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, base),
        other => other,
    }
    .map(File::from)
    .attempt("memfd_create", format_args!("{name:?}, EXEC"))
}

/// Content and length fixed for ever, for every holder.
pub fn seal(fd: impl AsFd) -> Result<()> {
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).attempt("fcntl", format_args!("F_ADD_SEALS, {seals:?}"))
}

/// Fails with EPERM unless content and length are sealed: a receiver checks before it trusts that the bytes will not change under it.
pub fn check_sealed(fd: impl AsFd) -> Result<()> {
    let want = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    let have = rustix::fs::fcntl_get_seals(&fd).attempt("fcntl", format_args!("F_GET_SEALS"))?;
    if have.contains(want) {
        Ok(())
    } else {
        Err(Error::new("memfd", format_args!("not sealed: {have:?}"), Errno::PERM))
    }
}

/// `bytes` in a sealed memory file.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let mut file = create(name)?;
    file.write_all(bytes).attempt("write", format_args!("memfd {name:?}, {} bytes", bytes.len()))?;
    seal(&file)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sealed_file_cannot_be_changed() {
        let fd = sealed("test", b"plan").unwrap();
        check_sealed(&fd).unwrap();
        let mut file = File::from(fd);
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(100).is_err());
        let mut text = String::new();
        // The offset is shared with the writer: readers use offsets of their own.
        assert_eq!(file.read_to_string(&mut text).unwrap(), 0);
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"plan");
        assert!(check_sealed(create("open").unwrap()).unwrap_err().is(Errno::PERM));
    }
}
