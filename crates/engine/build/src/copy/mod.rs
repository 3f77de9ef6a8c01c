//! `COPY` and `ADD`: which files are meant, what they amount to (for the cache), and putting them into a root. Every path is
//! resolved in-root to a descriptor; what lies below is reached by one name at a time, links never followed (BL-08).

mod apply;
mod digests;
mod mode;
mod select;
mod walk;

pub(crate) use apply::{Loose, Target, apply, is_archive, unpack};
pub(crate) use digests::Digests;
pub(crate) use mode::{Chmod, check_chmod};
pub(crate) use select::{Item, select};
pub(crate) use walk::digest;

/// A failed copy, in words for the one who wrote the instruction.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{0}")]
    Invalid(String),
    #[error("{0:?}: not found")]
    NotFound(String),
    #[error("copy {path}: {source}")]
    Kernel { path: String, source: linux::Error },
    #[error("copy {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error(transparent)]
    Image(#[from] image::Error),
}

pub(crate) type Result<T> = std::result::Result<T, CopyError>;

pub(crate) trait At<T> {
    fn at(self, path: &str) -> Result<T>;
}

impl<T> At<T> for linux::Result<T> {
    fn at(self, path: &str) -> Result<T> {
        self.map_err(|source| match source.errno() {
            linux::Errno::NOENT | linux::Errno::NOTDIR => CopyError::NotFound(path.to_owned()),
            _ => CopyError::Kernel { path: path.to_owned(), source },
        })
    }
}
