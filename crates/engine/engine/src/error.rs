//! What can go wrong, in Docker's words where Docker has words for it: clients print them and scripts match on them.

use std::fmt::Display;

use vocab::ErrorKind;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `Display` is the whole message for the user; the edge adds nothing but the status that [`Error::kind`] stands for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    #[error("No such image: {0}")]
    NoSuchImage(String),
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    #[error("Could not find the file {path} in container {container}")]
    NoSuchPath { container: String, path: String },
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse { name: String, holder: super::ContainerId },
    /// The container's state forbids it.
    #[error("{0}")]
    Conflict(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The state asked for is the state it has.
    #[error("{0}")]
    NotModified(String),
    #[error("{0}")]
    Unsupported(String),
    /// The workload could not be started. `exit_code` is what the container's record shows: 127 not found, 126 not
    /// executable, 128 anything else in the container's own setup.
    #[error("{message}")]
    Start { exit_code: i32, message: String },
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// A registry did not do what was asked, in the words that it and Docker have for it.
    #[error("{message}")]
    Registry { kind: ErrorKind, message: String },
    /// A registry does not know who asks.
    #[error("{0}")]
    Unauthorized(String),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Kernel(#[from] linux::Error),
    #[error("{what}: {message}")]
    Other { what: String, kind: ErrorKind, message: String },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchContainer(_)
            | Self::NoSuchExec(_)
            | Self::NoSuchImage(_)
            | Self::NoSuchNetwork(_)
            | Self::NoSuchVolume(_)
            | Self::NotFound(_)
            | Self::NoSuchPath { .. } => ErrorKind::NotFound,
            Self::NameInUse { .. } | Self::Conflict(_) => ErrorKind::Conflict,
            Self::AmbiguousPrefix(_) | Self::Invalid(_) => ErrorKind::Invalid,
            Self::NotModified(_) => ErrorKind::NotModified,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Start { exit_code: 126 | 127, .. } => ErrorKind::Invalid,
            Self::Start { .. } => ErrorKind::Internal,
            Self::Forbidden(_) => ErrorKind::Forbidden,
            Self::Network(source) => source.kind(),
            Self::Image(source) => source.kind(),
            Self::Db(source) => source.kind(),
            Self::Kernel(source) => source.kind(),
            Self::Other { kind, .. } | Self::Registry { kind, .. } => *kind,
            Self::Unauthorized(_) => ErrorKind::Forbidden,
        }
    }

    pub(crate) fn internal(what: impl Display, error: impl Display) -> Self {
        Self::Other { what: what.to_string(), kind: ErrorKind::Internal, message: error.to_string() }
    }
}
