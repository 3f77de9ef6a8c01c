//! What can go wrong with images, in Docker's words where Docker has words for it.

use std::fmt::Display;
use std::io;

use vocab::{Digest, ErrorKind, ReferenceError};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("No such image: {0}")]
    NoSuchImage(String),
    #[error("No such snapshot: {0}")]
    NoSuchSnapshot(String),
    #[error("the store has no blob {0}")]
    NoSuchBlob(Digest),
    #[error("No such layer: {0}")]
    NoSuchLayer(Digest),
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// The image is used or tagged in a way that forbids what was asked; `force` may help where the text says so.
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// What was given is wrong: an archive, a manifest, a configuration, an option.
    #[error("{what}: {detail}")]
    Invalid { what: String, detail: String },
    /// A tar that is not well formed or asks for what no layer may do.
    #[error("{what}: {source}")]
    Tar { what: String, source: crate::tar::TarError },
    #[error("{what}: its digest is {actual}, expected {expected}")]
    Digest { what: String, expected: Digest, actual: Digest },
    /// A limit on what comes from outside.
    #[error("{what}: {limit}")]
    Limit { what: String, limit: String },
    #[error("{0}")]
    Unsupported(String),
    /// The stream from the caller broke, or the caller stopped reading.
    #[error("{what}: {source}")]
    Stream { what: &'static str, source: io::Error },
    /// A file operation of ours failed. A full disk is [`ErrorKind::Exhausted`].
    #[error("{what}: {source}")]
    Disk { what: String, source: io::Error },
    #[error("{what}: {source}")]
    Kernel { what: String, source: linux::Error },
    #[error(transparent)]
    Db(#[from] db::Error),
    /// Something that a record speaks of is missing or changed on disk.
    #[error("the image store is damaged: {0}")]
    Damaged(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoSuchImage(_) | Error::NoSuchSnapshot(_) | Error::NoSuchBlob(_) | Error::NoSuchLayer(_) => {
                ErrorKind::NotFound
            }
            Error::Conflict(_) => ErrorKind::Conflict,
            Error::Ambiguous(_)
            | Error::Reference(_)
            | Error::Invalid { .. }
            | Error::Tar { .. }
            | Error::Digest { .. } => ErrorKind::Invalid,
            Error::Limit { .. } => ErrorKind::Exhausted,
            Error::Unsupported(_) => ErrorKind::Unsupported,
            Error::Stream { .. } => ErrorKind::Unavailable,
            Error::Disk { source, .. } => io_kind(source),
            Error::Kernel { source, .. } => source.kind(),
            Error::Db(source) => source.kind(),
            Error::Damaged(_) => ErrorKind::Internal,
        }
    }

    pub(crate) fn invalid(what: impl Display, detail: impl Display) -> Self {
        Error::Invalid { what: what.to_string(), detail: detail.to_string() }
    }

    pub(crate) fn limit(what: impl Display, limit: impl Display) -> Self {
        Error::Limit { what: what.to_string(), limit: limit.to_string() }
    }
}

fn io_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => ErrorKind::Exhausted,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Forbidden,
        _ => ErrorKind::Internal,
    }
}

/// Says what was attempted when a call of ours fails. The text is made on failure only.
pub(crate) trait Context<T> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| Error::Disk { what: what().to_string(), source })
    }
}

impl<T> Context<T> for linux::Result<T> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| Error::Kernel { what: what().to_string(), source })
    }
}
