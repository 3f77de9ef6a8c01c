//! What can go wrong with the database, in words for whoever has to put it right.

use std::io;
use std::path::{Path, PathBuf};

use vocab::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("database {path}: another process has it open")]
    InUse { path: PathBuf },
    #[error("database {path}: the disk is full: {source}")]
    Full { path: PathBuf, source: io::Error },
    #[error("database {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// The file is not what this program wrote. Nothing was changed; the way out is a backup or a fresh root.
    #[error("database {path} is damaged: {detail}; restore it from a backup, or move it away to start empty")]
    Damaged { path: PathBuf, detail: String },
    #[error("database {path}: {detail}")]
    Internal { path: PathBuf, detail: String },
    #[error("database {path}: a record for table {table} cannot be written: {source}")]
    Encode { path: PathBuf, table: &'static str, source: serde_json::Error },
    /// The commit that this writer shared failed for the reason given; its own change was not at fault.
    #[error("{0}")]
    Commit(std::sync::Arc<Error>),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::InUse { .. } => ErrorKind::Conflict,
            Error::Full { .. } => ErrorKind::Exhausted,
            Error::Encode { .. } => ErrorKind::Invalid,
            Error::Commit(cause) => cause.kind(),
            Error::Io { .. } | Error::Damaged { .. } | Error::Internal { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::Full { path: path.to_owned(), source }
            }
            _ => Error::Io { path: path.to_owned(), source },
        }
    }

    pub(crate) fn from_redb(path: &Path, error: redb::Error) -> Self {
        let path_buf = path.to_owned();
        match error {
            // The second: a page that is said to lie behind the file's end.
            redb::Error::Io(source)
                if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Error::Damaged { path: path_buf, detail: source.to_string() }
            }
            redb::Error::Io(source) => Error::io(path, source),
            redb::Error::Corrupted(detail) => Error::Damaged { path: path_buf, detail },
            redb::Error::RepairAborted => Error::Damaged { path: path_buf, detail: "repair was given up".into() },
            redb::Error::UpgradeRequired(version) => Error::Damaged {
                path: path_buf,
                detail: format!("its format {version} is older than this program can read"),
            },
            redb::Error::DatabaseAlreadyOpen => Error::InUse { path: path_buf },
            other => Error::Internal { path: path_buf, detail: other.to_string() },
        }
    }
}
