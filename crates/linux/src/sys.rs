//! Raw system calls that `rustix` does not wrap. Each takes plain values and returns the kernel's errno.

use std::ffi::{CString, c_long};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

/// The result of `libc::syscall`: -1 means that errno is set.
pub(crate) fn check(ret: c_long) -> Result<usize, Errno> {
    if ret < 0 { Err(last()) } else { Ok(ret as usize) }
}

/// As [`check`], for a call whose result is a new descriptor.
pub(crate) fn check_fd(ret: c_long) -> Result<OwnedFd, Errno> {
    let raw = check(ret)? as i32;
    // SAFETY: the call succeeded, so `raw` is a descriptor that the kernel has just made for this process and that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

pub(crate) fn last() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// A path as a C string; a NUL byte inside is the caller's bad input.
pub(crate) fn c_path(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

/// A set of named bits: `|`, `contains`, a `Debug` that prints names, and plain-number serde.
macro_rules! flags {
    ($(#[$meta:meta])* pub struct $name:ident: $repr:ty { $($(#[$fmeta:meta])* $flag:ident = $value:expr;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name($repr);

        impl $name {
            $($(#[$fmeta])* pub const $flag: Self = Self($value as $repr);)*

            pub const fn empty() -> Self { Self(0) }
            pub const fn from_bits(bits: $repr) -> Self { Self(bits) }
            pub const fn bits(self) -> $repr { self.0 }
            pub const fn is_empty(self) -> bool { self.0 == 0 }
            /// True if every bit of `other` is set.
            pub const fn contains(self, other: Self) -> bool { self.0 & other.0 == other.0 }
            pub const fn intersects(self, other: Self) -> bool { self.0 & other.0 != 0 }
            pub const fn union(self, other: Self) -> Self { Self(self.0 | other.0) }
            pub const fn without(self, other: Self) -> Self { Self(self.0 & !other.0) }
            pub const fn insert(&mut self, other: Self) { self.0 |= other.0 }
            pub const fn remove(&mut self, other: Self) { self.0 &= !other.0 }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self { Self(self.0 | other.0) }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) { self.0 |= other.0 }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut rest = self.0;
                let mut first = true;
                $(
                    if $value as $repr != 0 && rest & ($value as $repr) == $value as $repr {
                        rest &= !($value as $repr);
                        if !std::mem::replace(&mut first, false) { f.write_str("|")?; }
                        f.write_str(stringify!($flag))?;
                    }
                )*
                if rest != 0 || first {
                    if !first { f.write_str("|")?; }
                    write!(f, "{rest:#x}")?;
                }
                Ok(())
            }
        }
    };
}
pub(crate) use flags;
