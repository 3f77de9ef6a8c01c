//! What can go wrong, one variant for each thing a caller would do differently.

use crate::{LeaseId, Revision};
use vocab::ErrorKind;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("revision {asked} has been compacted; the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future; the store is at {current}")]
    Future { asked: Revision, current: Revision },
    #[error("transaction writes key {0:?} twice")]
    DuplicateKey(String),
    #[error("lease {0} does not exist")]
    LeaseNotFound(LeaseId),
    #[error("lease {0} exists already")]
    LeaseExists(LeaseId),
    #[error("value of key {key:?} is {size} bytes; the limit is {limit}")]
    TooLarge { key: String, size: usize, limit: usize },
    #[error("value of key {key:?} asks for its revision at byte {at} of {size}")]
    BadStamp { key: String, at: u32, size: usize },
    /// The write was not acknowledged; whether it happened is known only by reading.
    #[error("write to {path}: {cause}")]
    Write { path: String, cause: String },
    #[error("disk full while writing {path}: {cause}")]
    Full { path: String, cause: String },
    #[error("open {path}: {cause}")]
    Open { path: String, cause: String },
    #[error("{path} is damaged: {cause}")]
    Damaged { path: String, cause: String },
    /// The datastore did not answer. A write may have happened; reading tells.
    #[error("datastore {endpoint} does not answer: {cause}")]
    Unreachable { endpoint: String, cause: String },
    #[error("datastore {endpoint} refuses {call}: {cause}")]
    Refused { endpoint: String, call: &'static str, cause: String },
    #[error("the store is shut down")]
    Closed,
}

impl StoreError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Compacted { .. } => ErrorKind::Expired,
            Self::Future { .. } | Self::DuplicateKey(_) | Self::TooLarge { .. } | Self::BadStamp { .. } => {
                ErrorKind::Invalid
            }
            Self::LeaseNotFound(_) => ErrorKind::NotFound,
            Self::LeaseExists(_) => ErrorKind::Conflict,
            Self::Full { .. } => ErrorKind::Exhausted,
            Self::Write { .. } | Self::Unreachable { .. } | Self::Closed => ErrorKind::Unavailable,
            Self::Refused { .. } | Self::Open { .. } | Self::Damaged { .. } => ErrorKind::Internal,
        }
    }
}
