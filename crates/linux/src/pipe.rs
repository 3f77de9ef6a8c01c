//! Pipes, and moving bytes between them without copying.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::sys::{self, flags};
use crate::{Attempt, Result};

flags! {
    /// `SPLICE_F_*`.
    pub struct Splice: u32 {
        MOVE = libc::SPLICE_F_MOVE;
        NONBLOCK = libc::SPLICE_F_NONBLOCK;
        MORE = libc::SPLICE_F_MORE;
    }
}

/// (read end, write end), close-on-exec, blocking.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).attempt("pipe2", format_args!("CLOEXEC"))
}

/// (read end, write end), close-on-exec; neither end blocks.
pub fn pipe_nonblocking() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).attempt("pipe2", format_args!("CLOEXEC|NONBLOCK"))
}

/// O_NONBLOCK of the open file description: every holder of a duplicate sees the change.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> Result<()> {
    rustix::io::ioctl_fionbio(&fd, on).attempt("ioctl", format_args!("fd {}, FIONBIO {on}", fd.as_fd().as_raw_fd()))
}

/// Capacity in bytes. EPERM past `/proc/sys/fs/pipe-max-size` without CAP_SYS_RESOURCE; EBUSY below what it holds. Returns what it got.
pub fn set_size(fd: impl AsFd, bytes: usize) -> Result<usize> {
    rustix::pipe::fcntl_setpipe_size(&fd, bytes)
        .attempt("fcntl", format_args!("fd {}, F_SETPIPE_SZ {bytes}", fd.as_fd().as_raw_fd()))
}

pub fn size(fd: impl AsFd) -> Result<usize> {
    rustix::pipe::fcntl_getpipe_size(&fd).attempt("fcntl", format_args!("fd {}, F_GETPIPE_SZ", fd.as_fd().as_raw_fd()))
}

/// Bytes that can be read now.
pub fn available(fd: impl AsFd) -> Result<usize> {
    rustix::io::ioctl_fionread(&fd)
        .map(|n| n as usize)
        .attempt("ioctl", format_args!("fd {}, FIONREAD", fd.as_fd().as_raw_fd()))
}

/// Moves up to `len` bytes; at least one end is a pipe. 0 is the end of input. EAGAIN with NONBLOCK when either end is not ready.
pub fn splice(from: impl AsFd, to: impl AsFd, len: usize, flags: Splice) -> Result<usize> {
    let (from, to) = (from.as_fd(), to.as_fd());
    rustix::pipe::splice(from, None, to, None, len, SpliceFlags::from_bits_retain(flags.bits()))
        .attempt("splice", format_args!("fd {}, fd {}, {len}, {flags:?}", from.as_raw_fd(), to.as_raw_fd()))
}

/// Duplicates up to `len` bytes from one pipe into another without consuming them.
pub fn tee(from: impl AsFd, to: impl AsFd, len: usize, flags: Splice) -> Result<usize> {
    let (from, to) = (from.as_fd(), to.as_fd());
    rustix::pipe::tee(from, to, len, SpliceFlags::from_bits_retain(flags.bits()))
        .attempt("tee", format_args!("fd {}, fd {}, {len}, {flags:?}", from.as_raw_fd(), to.as_raw_fd()))
}

/// Reads at the descriptor's own position. EAGAIN if it does not block and has nothing.
pub fn read(fd: impl AsFd, buf: &mut [u8]) -> Result<usize> {
    let fd = fd.as_fd();
    rustix::io::read(fd, buf).attempt("read", format_args!("fd {}", fd.as_raw_fd()))
}

/// Appends the bytes that are ready (at most `max`) to `buf`'s spare capacity, which is reserved first. Returns how many; 0 is the end of input.
pub fn read_into(fd: impl AsFd, buf: &mut Vec<u8>, max: usize) -> Result<usize> {
    let fd = fd.as_fd();
    buf.reserve(max);
    let spare = &mut buf.spare_capacity_mut()[..max];
    // SAFETY: the kernel writes at most `max` bytes into spare capacity of at least that length.
    let ret = unsafe { libc::read(fd.as_raw_fd(), spare.as_mut_ptr().cast(), max) };
    let n = sys::check(ret as i64).attempt("read", format_args!("fd {}, {max}", fd.as_raw_fd()))?;
    // SAFETY: the kernel has just initialised `n` bytes past the old length.
    unsafe { buf.set_len(buf.len() + n) };
    Ok(n)
}

/// Writes at the descriptor's own position. May write less; EAGAIN, EPIPE and ENOSPC are the caller's to handle.
pub fn write(fd: impl AsFd, bytes: &[u8]) -> Result<usize> {
    let fd = fd.as_fd();
    rustix::io::write(fd, bytes).attempt("write", format_args!("fd {}, {} bytes", fd.as_raw_fd(), bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn tee_leaves_the_bytes_and_splice_takes_them() {
        let (from, to) = pipe_nonblocking().unwrap();
        let (copy_from, copy_to) = pipe_nonblocking().unwrap();
        let (moved_from, moved_to) = pipe_nonblocking().unwrap();
        write(&to, b"hello").unwrap();
        assert_eq!(tee(&from, &copy_to, 100, Splice::NONBLOCK).unwrap(), 5);
        assert_eq!(available(&from).unwrap(), 5);
        assert_eq!(splice(&from, &moved_to, 100, Splice::NONBLOCK).unwrap(), 5);
        assert_eq!(available(&from).unwrap(), 0);
        let mut buf = Vec::new();
        assert_eq!(read_into(&copy_from, &mut buf, 64).unwrap(), 5);
        assert_eq!(read_into(&moved_from, &mut buf, 64).unwrap(), 5);
        assert_eq!(buf, b"hellohello");
        assert!(read(&from, &mut [0; 4]).unwrap_err().is(Errno::AGAIN));
        drop(to);
        assert_eq!(read(&from, &mut [0; 4]).unwrap(), 0);
        assert!(set_size(&copy_to, 1 << 18).unwrap() >= 1 << 18);
    }
}
