//! What every wrapper returns when the kernel says no.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use vocab::ErrorKind;

/// The kernel's error number, with its named constants (`Errno::NOENT`).
pub use rustix::io::Errno;

pub type Result<T> = std::result::Result<T, Error>;

/// A system call that failed: `mount_setattr(fd 7 "/x", RDONLY): EPERM (Operation not permitted)`.
///
/// It is plain data and serialisable, so that a child can report it to its parent through a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Name of the system call (or of the step, where several calls make one step).
    pub call: Cow<'static, str>,
    /// The arguments that matter, for a human reader.
    pub args: String,
    /// The raw error number, always positive.
    pub errno: i32,
}

impl Error {
    pub fn new(call: impl Into<Cow<'static, str>>, args: impl fmt::Display, errno: Errno) -> Self {
        Self { call: call.into(), args: args.to_string(), errno: errno.raw_os_error() }
    }

    /// The calling thread's last error number, for calls that were not made through this crate.
    pub fn last(call: impl Into<Cow<'static, str>>, args: impl fmt::Display) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Self { call: call.into(), args: args.to_string(), errno }
    }

    pub fn errno(&self) -> Errno {
        Errno::from_raw_os_error(self.errno)
    }

    /// True if this is the given error number.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == errno.raw_os_error()
    }

    pub fn kind(&self) -> ErrorKind {
        match self.errno {
            libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO => ErrorKind::NotFound,
            libc::EEXIST | libc::EBUSY | libc::ENOTEMPTY | libc::ETXTBSY => ErrorKind::Conflict,
            libc::EINVAL
            | libc::ENAMETOOLONG
            | libc::ELOOP
            | libc::ENOTDIR
            | libc::EISDIR
            | libc::EXDEV
            | libc::E2BIG
            | libc::ENOEXEC
            | libc::ERANGE => ErrorKind::Invalid,
            libc::EPERM | libc::EACCES | libc::EROFS => ErrorKind::Forbidden,
            libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EFBIG => {
                ErrorKind::Exhausted
            }
            libc::ENOSYS | libc::EOPNOTSUPP => ErrorKind::Unsupported,
            libc::EAGAIN | libc::ETIMEDOUT | libc::ECONNREFUSED | libc::EPIPE | libc::ECONNRESET => {
                ErrorKind::Unavailable
            }
            _ => ErrorKind::Internal,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}): ", self.call, self.args)?;
        let text = std::io::Error::from_raw_os_error(self.errno).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        match errno_name(self.errno) {
            Some(name) => write!(f, "{name} ({text})"),
            None => write!(f, "errno {} ({text})", self.errno),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::new(std::io::Error::from_raw_os_error(error.errno).kind(), error)
    }
}

/// Turns a bare errno into an [`Error`] that says what was attempted. The arguments are formatted on failure only.
pub trait Attempt<T> {
    fn attempt(self, call: &'static str, args: fmt::Arguments<'_>) -> Result<T>;
}

impl<T> Attempt<T> for std::result::Result<T, Errno> {
    fn attempt(self, call: &'static str, args: fmt::Arguments<'_>) -> Result<T> {
        self.map_err(|errno| Error::new(call, args, errno))
    }
}

impl<T> Attempt<T> for std::io::Result<T> {
    fn attempt(self, call: &'static str, args: fmt::Arguments<'_>) -> Result<T> {
        self.map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            Error { call: call.into(), args: args.to_string(), errno }
        })
    }
}

macro_rules! errno_names {
    ($($name:ident)*) => {
        /// The symbolic name of an error number, `EPERM` for 1.
        pub fn errno_name(errno: i32) -> Option<&'static str> {
            match errno {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

errno_names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK
    ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ENODATA ETIME EPROTO EBADMSG EOVERFLOW EUSERS ENOTSOCK
    EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
    ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY
    EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_call_its_arguments_and_the_errno() {
        let error = Error::new("mount_setattr", "fd 7, RDONLY", Errno::PERM);
        assert_eq!(error.to_string(), "mount_setattr(fd 7, RDONLY): EPERM (Operation not permitted)");
        assert_eq!(error.kind(), ErrorKind::Forbidden);
    }
}
