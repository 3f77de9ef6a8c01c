//! What can go wrong with another registry, in Docker's words where Docker has words for it: tools match on them.

use std::io;

use vocab::{Digest, ErrorKind};

use super::url::Url;
use crate::tls::TlsError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer, or a broken one. Asking again may help.
    #[error("{method} \"{url}\": {detail}")]
    Transport { method: String, url: String, detail: String },
    #[error("{method} \"{url}\": no basic auth credentials")]
    NoCredentials { method: String, url: String },
    #[error("{method} \"{url}\": unauthorized: {detail}")]
    Unauthorized { method: String, url: String, detail: String },
    /// Docker says this for what is not there as well: who may not know is not told.
    #[error("pull access denied for {repository}, repository does not exist or may require 'docker login': {detail}")]
    Denied { repository: String, detail: String },
    #[error("{0}")]
    PushDenied(String),
    #[error("manifest for {reference} not found: manifest unknown: {detail}")]
    NoManifest { reference: String, detail: String },
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform { platform: String },
    #[error("{what}: {status}: {detail}")]
    Refused { what: String, status: u16, detail: String },
    /// What arrived is not what was promised.
    #[error("{what}: {detail}")]
    Content { what: String, detail: String },
    #[error("filesystem layer verification failed for digest {0}")]
    LayerDigest(Digest),
    #[error("tag does not exist: {0}")]
    NoTag(String),
    #[error("An image does not exist locally with the tag: {0}")]
    NoLocal(String),
    #[error("{0}")]
    Invalid(String),
    #[error("canceled")]
    Cancelled,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Image(#[from] image::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Denied { .. } | Error::NoManifest { .. } | Error::NoPlatform { .. } => ErrorKind::NotFound,
            Error::NoTag(_) | Error::NoLocal(_) => ErrorKind::NotFound,
            Error::PushDenied(_) => ErrorKind::Forbidden,
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::Image(error) => error.kind(),
            // Docker answers 500 for a registry that cannot be reached or does not let anybody in.
            _ => ErrorKind::Internal,
        }
    }

    pub(crate) fn transport(method: &http::Method, url: &Url, detail: impl ToString) -> Self {
        Error::Transport { method: go_method(method), url: url.to_string(), detail: detail.to_string() }
    }

    pub(crate) fn content(what: impl ToString, detail: impl ToString) -> Self {
        Error::Content { what: what.to_string(), detail: detail.to_string() }
    }

    /// Whether another endpoint, or the same one later, may do better.
    pub(crate) fn is_transport(&self) -> bool {
        matches!(self, Error::Transport { .. })
    }
}

/// As Go's errors spell it: `Get "https://..."`.
pub(crate) fn go_method(method: &http::Method) -> String {
    let lower = method.as_str().to_ascii_lowercase();
    let mut characters = lower.chars();
    characters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(characters).collect()
}

/// As Go's errors spell what failed while connecting.
pub(crate) fn dial(address: &str, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: connect: {why}")
}
