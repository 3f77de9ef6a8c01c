//! etcd's data model behind one trait: one revision counter, ranges at a revision, compare-and-swap transactions,
//! watches from any kept revision, compaction and leases.
//!
//! [`Store`] is what the API server holds. [`Embedded`] is the default implementation: one file, group commit by one
//! writer thread, and the whole current state (plus what compaction has not yet dropped) in memory, where ranges and
//! watches are served from. Values are [`Bytes`], shared by every reader and never copied.
//!
//! [`Etcd`] is the second backend: a real etcd, which several servers share. One behavioural suite runs on both.
//!
//! What differs from etcd: a value may name one place where its own revision is written ([`Put::stamp_at`]), so that
//! the bytes a reader gets already carry their revision and a list of objects is a concatenation of values.
//!
//! This crate knows nothing about Kubernetes: keys and values are bytes.

mod backup;
#[cfg(test)]
mod defences;
mod disk;
mod embedded;
mod error;
mod etcd;
mod medium;
mod memory;
#[cfg(test)]
mod power;
mod record;
mod span;
mod stage;
mod txn;
mod watch;

pub use backup::{BackupError, backup, restore};
pub use bytes::Bytes;
pub use embedded::{Embedded, Options};
pub use error::StoreError;
pub use etcd::{Credentials, Etcd, EtcdOptions, Tls};
pub use span::Span;
pub use txn::{Compare, Delete, Op, OpReply, Put, Test, Txn, TxnReply};
pub use watch::{Change, Event, Watch, WatchBatch, WatchRequest};

use std::future::Future;
use std::pin::Pin;

/// The store's one counter. 0 means "none"; a new store is at 1; each transaction that writes takes the next one.
pub type Revision = u64;

/// Names a lease. 0 means "no lease".
pub type LeaseId = u64;

/// A boxed answer, so that the trait can be held as `Arc<dyn Store>` by callers that do not care which backend it is.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// One key as it stood at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    /// The value with its revision already written in where the writer asked for that.
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// Number of puts since the key was created; 1 on the first.
    pub version: u64,
    pub lease: LeaseId,
    /// Where in `value` the decimal digits of `mod_revision` begin, if the writer asked for a stamp.
    pub stamp_at: Option<u32>,
}

impl KeyValue {
    /// The value with another revision in the place of its own: what a watcher is shown for the object that a delete
    /// at `revision` removed. Without a stamp the bytes are shared, not copied.
    pub fn restamped(&self, revision: Revision) -> Bytes {
        match self.stamp_at {
            None => self.value.clone(),
            Some(at) => {
                let at = at as usize;
                let end = at + record::digits(self.mod_revision);
                let mut out = Vec::with_capacity(self.value.len() + 2);
                out.extend_from_slice(&self.value[..at]);
                out.extend_from_slice(revision.to_string().as_bytes());
                out.extend_from_slice(&self.value[end..]);
                out.into()
            }
        }
    }
}

/// A question about a span of keys.
#[derive(Debug, Clone)]
pub struct RangeRequest {
    pub span: Span,
    /// `None` asks for the newest state. An older revision is answered as long as it is not compacted.
    pub revision: Option<Revision>,
    /// At most this many keys; 0 is no limit.
    pub limit: usize,
    /// Also count all keys of the span (costs a walk over them when `limit` cuts the answer short).
    pub count: bool,
}

impl RangeRequest {
    pub fn newest(span: Span) -> Self {
        Self { span, revision: None, limit: 0, count: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeReply {
    pub kvs: Vec<KeyValue>,
    /// Keys of the span lie beyond the last one answered.
    pub more: bool,
    /// Number of keys in the whole span, if asked for.
    pub count: Option<usize>,
    /// The store's revision when the answer was made (not the revision asked for).
    pub revision: Revision,
}

/// etcd's model. Every method answers after the store has done what was asked durably.
pub trait Store: Send + Sync {
    /// Whether other processes may write here as well.
    fn is_shared(&self) -> bool {
        false
    }

    /// The newest revision whose writes readers can see.
    fn revision(&self) -> Answer<'_, Revision>;

    fn range(&self, request: RangeRequest) -> Answer<'_, RangeReply>;

    /// Applies one of the two lists of operations, all or nothing, at one new revision.
    fn txn(&self, txn: Txn) -> Answer<'_, TxnReply>;

    /// Begins a watch. Fails with [`StoreError::Compacted`] when the first revision asked for is no longer kept.
    fn watch(&self, request: WatchRequest) -> Answer<'_, Box<dyn Watch>>;

    /// Forgets what was superseded at or before `revision`. Ranges below it and watches from it or below fail afterwards.
    fn compact(&self, revision: Revision) -> Answer<'_, ()>;

    /// Makes a lease whose keys are deleted when nobody has kept it alive for `ttl_secs`. `id` 0 lets the store choose.
    fn lease_grant(&self, id: LeaseId, ttl_secs: u64) -> Answer<'_, LeaseId>;

    /// Starts the lease's time again; answers its time to live in seconds.
    fn lease_keep_alive(&self, id: LeaseId) -> Answer<'_, u64>;

    /// Ends a lease and deletes its keys.
    fn lease_revoke(&self, id: LeaseId) -> Answer<'_, ()>;
}
