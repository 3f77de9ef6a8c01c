//! Unix sockets that carry descriptors and tell who is on the other side.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::{Attempt, Result};

/// The kernel's limit on descriptors in one message (SCM_MAX_FD).
pub const FDS_MAX: usize = 253;
/// `sun_path` holds 108 bytes with its NUL.
const PATH_MAX: usize = 107;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A stream of bytes.
    Stream,
    /// Messages in order, one `recv` for each `send`.
    SeqPacket,
}

impl Kind {
    fn raw(self) -> SocketType {
        match self {
            Self::Stream => SocketType::STREAM,
            Self::SeqPacket => SocketType::SEQPACKET,
        }
    }
}

/// Who made the other end (SO_PEERCRED), as seen from our namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// What one [`recv`] brought besides descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// 0 is the end of a stream.
    pub len: usize,
    /// The message or its descriptors did not fit and the rest is lost.
    pub truncated: bool,
}

/// A connected pair, close-on-exec, blocking.
pub fn pair(kind: Kind) -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, kind.raw(), SocketFlags::CLOEXEC, None)
        .attempt("socketpair", format_args!("UNIX, {kind:?}"))
}

/// Listens at a path of any length with the given permission bits from the first moment on. The path must not exist (EADDRINUSE).
/// Non-blocking, close-on-exec.
pub fn listen(path: impl AsRef<Path>, kind: Kind, mode: u32) -> Result<OwnedFd> {
    let path = path.as_ref();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let run = || {
        let (address, _dir) = address(path)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind.raw(), flags, None)?;
        // bind() makes the node with the permission bits of the socket's inode, less the umask: nobody can connect in between.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, 128)?;
        Ok::<_, Errno>(socket)
    };
    run().attempt("listen", format_args!("{path:?}, {kind:?}, {mode:o}"))
}

/// Blocking, close-on-exec.
pub fn connect(path: impl AsRef<Path>, kind: Kind) -> Result<OwnedFd> {
    let path = path.as_ref();
    let run = || {
        let (address, _dir) = address(path)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind.raw(), SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &address)?;
        Ok::<_, Errno>(socket)
    };
    run().attempt("connect", format_args!("{path:?}, {kind:?}"))
}

/// A path that does not fit into an address is named through a descriptor of its directory, which must live across the call.
fn address(path: &Path) -> std::result::Result<(SocketAddrUnix, Option<OwnedFd>), Errno> {
    if path.as_os_str().len() <= PATH_MAX {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let (dir, name) = (path.parent().ok_or(Errno::INVAL)?, path.file_name().ok_or(Errno::INVAL)?);
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short: PathBuf = crate::fs::proc_fd(dir.as_fd()).join(name);
    Ok((SocketAddrUnix::new(&short)?, Some(dir)))
}

/// The next connection, `None` if there is none now. Non-blocking, close-on-exec.
pub fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>> {
    let fd = listener.as_fd();
    match rustix::net::accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno).attempt("accept4", format_args!("fd {}", fd.as_raw_fd())),
    }
}

pub fn peer(socket: impl AsFd) -> Result<Peer> {
    let fd = socket.as_fd();
    rustix::net::sockopt::socket_peercred(fd)
        .map(|cred| Peer { pid: cred.pid.as_raw_pid(), uid: cred.uid.as_raw(), gid: cred.gid.as_raw() })
        .attempt("getsockopt", format_args!("fd {}, SO_PEERCRED", fd.as_raw_fd()))
}

/// Sends bytes and, with the first of them, descriptors (at most [`FDS_MAX`]). No SIGPIPE. Returns the bytes sent.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let socket = socket.as_fd();
    let run = || {
        if fds.len() > FDS_MAX {
            return Err(Errno::INVAL);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    };
    run().attempt("sendmsg", format_args!("fd {}, {} bytes, {} fds", socket.as_raw_fd(), bytes.len(), fds.len()))
}

/// Receives bytes into `buf` and appends descriptors (close-on-exec) to `fds`. EAGAIN if nothing is there and the socket does not block.
pub fn recv(socket: impl AsFd, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Received> {
    let socket = socket.as_fd();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .attempt("recvmsg", format_args!("fd {}", socket.as_raw_fd()))?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    let truncated = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { len: message.bytes, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_travel_with_the_bytes() {
        let (a, b) = pair(Kind::SeqPacket).unwrap();
        let (read, write) = crate::pipe::pipe().unwrap();
        send(&a, b"take", &[write.as_fd()]).unwrap();
        drop(write);
        let (mut buf, mut fds) = ([0; 16], Vec::new());
        assert_eq!(recv(&b, &mut buf, &mut fds).unwrap(), Received { len: 4, truncated: false });
        crate::pipe::write(&fds[0], b"x").unwrap();
        fds.clear();
        assert_eq!(crate::pipe::read(&read, &mut buf).unwrap(), 1);
        assert_eq!(crate::pipe::read(&read, &mut buf).unwrap(), 0);
        assert_eq!(peer(&a).unwrap().pid, std::process::id() as i32);
        send(&a, b"much too long for it", &[]).unwrap();
        assert!(recv(&b, &mut buf[..4], &mut fds).unwrap().truncated);
    }

    #[test]
    fn a_long_path_can_be_listened_at() {
        let dir = std::env::temp_dir().join(format!("knarr-sock-{}-{}", "x".repeat(120), std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s.sock");
        let listener = listen(&path, Kind::SeqPacket, 0o600).unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let client = connect(&path, Kind::SeqPacket).unwrap();
        let server = accept(&listener).unwrap().unwrap();
        send(&client, b"hi", &[]).unwrap();
        assert_eq!(recv(&server, &mut [0; 8], &mut Vec::new()).unwrap().len, 2);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
