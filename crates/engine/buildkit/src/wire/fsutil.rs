//! fsutil's packets: a tree is told entry by entry, files are asked for by number.

use std::collections::HashMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Packet {
    #[prost(enumeration = "Kind", tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub(crate) id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: bytes::Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    Stat = 0,
    Request = 1,
    Data = 2,
    Finish = 3,
    Error = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stat {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    /// As Go's `os.FileMode` has it: see [`mode`].
    #[prost(uint32, tag = "2")]
    pub(crate) mode: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) gid: u32,
    #[prost(int64, tag = "5")]
    pub(crate) size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub(crate) mtime: i64,
    /// A symlink's target; of a regular file: the path of the entry it is the same file as.
    #[prost(string, tag = "7")]
    pub(crate) linkname: String,
    #[prost(int64, tag = "8")]
    pub(crate) devmajor: i64,
    #[prost(int64, tag = "9")]
    pub(crate) devminor: i64,
    #[prost(map = "string, bytes", tag = "10")]
    pub(crate) xattrs: HashMap<String, bytes::Bytes>,
}

impl Packet {
    pub(crate) fn of(kind: Kind) -> Self {
        Self { kind: kind as i32, ..Self::default() }
    }
}

/// The bits of Go's file mode.
pub(crate) mod mode {
    pub(crate) const DIR: u32 = 1 << 31;
    pub(crate) const SYMLINK: u32 = 1 << 27;
    pub(crate) const DEVICE: u32 = 1 << 26;
    pub(crate) const PIPE: u32 = 1 << 25;
    pub(crate) const SOCKET: u32 = 1 << 24;
    pub(crate) const SETUID: u32 = 1 << 23;
    pub(crate) const SETGID: u32 = 1 << 22;
    pub(crate) const CHARACTER: u32 = 1 << 21;
    pub(crate) const STICKY: u32 = 1 << 20;
    pub(crate) const IRREGULAR: u32 = 1 << 19;
    /// Whatever is not a regular file.
    pub(crate) const KIND: u32 = DIR | SYMLINK | DEVICE | PIPE | SOCKET | CHARACTER | IRREGULAR;

    /// Permissions as the kernel has them.
    pub(crate) fn permissions(mode: u32) -> u32 {
        let bit = |go: u32, unix: u32| if mode & go != 0 { unix } else { 0 };
        mode & 0o777 | bit(SETUID, 0o4000) | bit(SETGID, 0o2000) | bit(STICKY, 0o1000)
    }

    /// The other way: a kernel's whole mode.
    pub(crate) fn of_kernel(mode: u32) -> u32 {
        let kind = match mode & 0o170_000 {
            0o040_000 => DIR,
            0o120_000 => SYMLINK,
            0o060_000 => DEVICE,
            0o020_000 => DEVICE | CHARACTER,
            0o010_000 => PIPE,
            0o140_000 => SOCKET,
            _ => 0,
        };
        let bit = |unix: u32, go: u32| if mode & unix != 0 { go } else { 0 };
        kind | mode & 0o777 | bit(0o4000, SETUID) | bit(0o2000, SETGID) | bit(0o1000, STICKY)
    }
}
