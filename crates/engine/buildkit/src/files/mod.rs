//! Files over a session: fsutil's protocol in both directions, and the folders at our side that remember what a client sent,
//! so that the next build asks only for what has changed.
//!
//! * `tree` — what a client may tell, and what differs from the last time (pure)
//! * `receive` — carrying that out, by descriptor, in a folder that nobody else changes
//! * `folders` — which folder a client's context is kept in
//! * `send` — the other way: a tree of ours to the client

mod folders;
mod receive;
mod send;
mod transfer;
pub(crate) mod tree;

pub(crate) use folders::{FolderFacts, Folders};
pub(crate) use receive::{Wire, receive};
pub(crate) use send::{send_tree, stat_of};
pub(crate) use transfer::{Wanted, fetch};

/// A transfer that did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error("the client sent {0}")]
    Invalid(String),
    #[error("error from sender: {0}")]
    Sender(String),
    #[error("the client went away")]
    Gone,
    #[error("write {path}: {source}")]
    Kernel { path: String, source: linux::Error },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

pub(crate) type Result<T> = std::result::Result<T, TransferError>;
