//! Our own tar: one strict streaming reader that everything uses (a second reader would see another archive in the same
//! bytes), and one writer.
//!
//! Formats read: ustar, GNU (long names, base-256 numbers, old sparse), PAX (with global headers, sparse 0.0, 0.1 and
//! 1.0), and the plain seventh edition. Formats written: ustar, with PAX records where ustar has no room.
//!
//! What it never does: touch a file system. What an entry's path may be is decided in [`path`], what becomes of an entry
//! in `layer`.

mod header;
pub mod path;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{EntryReader, Observer, Reader};
pub use writer::Writer;

/// Whether these bytes start with a header block whose checksum is right.
pub fn looks_like_header(bytes: &[u8]) -> bool {
    bytes.first_chunk::<{ header::BLOCK }>().is_some_and(|block| matches!(header::parse(block), Ok(Some(_))))
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As in the archive; see [`path::parts`] for what to make of it.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Names such as `user.x` and `security.capability`, in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File(FileData),
    Dir,
    Symlink(Vec<u8>),
    /// To another member, by its path in the archive.
    HardLink(Vec<u8>),
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// What a regular member's payload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileData {
    /// Length of the file.
    pub size: u64,
    /// Bytes of payload that carry data. Equal to `size` unless the file is sparse.
    pub stored: u64,
    /// Where the payload's bytes belong, in order; `None`: all of it from the start.
    pub sparse: Option<Vec<Extent>>,
}

impl FileData {
    pub fn plain(size: u64) -> Self {
        Self { size, stored: size, sparse: None }
    }

    /// Offset in the file and length of each piece of the payload, in its order.
    pub fn pieces(&self) -> Vec<(u64, u64)> {
        match &self.sparse {
            None => vec![(0, self.stored)],
            Some(extents) => extents.iter().map(|extent| (extent.offset, extent.len)).collect(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub len: u64,
}

/// A time as the file system keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub secs: i64,
    pub nanos: u32,
}

/// Why a tar was refused. Offsets are bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    #[error("the tar ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("bad tar header at byte {offset}: {detail}")]
    Header { offset: u64, detail: String },
    #[error("tar entry {path:?}: {detail}")]
    Entry { path: String, detail: String },
    #[error("data after the end of the tar at byte {0}")]
    Trailing(u64),
    /// The stream under the tar failed. Text only: an I/O error can be neither copied nor compared.
    #[error("reading the tar: {0}")]
    Read(String),
}

impl TarError {
    pub(crate) fn entry(path: &[u8], detail: impl Into<String>) -> Self {
        let path = &path[..path.len().min(300)];
        TarError::Entry { path: String::from_utf8_lossy(path).into_owned(), detail: detail.into() }
    }
}
