//! Transactions: compares, then one of two lists of operations at one new revision.

use crate::{Bytes, KeyValue, LeaseId, Revision, Span};

/// What must hold of a key. A key that does not exist has revisions and version 0 and no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    ModRevision(Revision),
    /// Not written after this revision.
    ModUntil(Revision),
    CreateRevision(Revision),
    Version(u64),
    Value(Bytes),
    Exists,
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    /// Byte offset in `value` at which the decimal revision of this write is inserted for every reader.
    pub stamp_at: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put(Put),
    Delete(Delete),
    Get(Span),
}

impl Op {
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put(Put { key: key.into(), value: value.into(), lease: 0, stamp_at: None })
    }

    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete(Delete { span: Span::key(key) })
    }

    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Get(Span::key(key))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    /// Done when every compare holds.
    pub success: Vec<Op>,
    /// Done otherwise.
    pub failure: Vec<Op>,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn when(mut self, key: impl Into<Bytes>, test: Test) -> Self {
        self.compares.push(Compare { key: key.into(), test });
        self
    }

    pub fn then(mut self, op: Op) -> Self {
        self.success.push(op);
        self
    }

    pub fn otherwise(mut self, op: Op) -> Self {
        self.failure.push(op);
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnReply {
    /// Which of the two lists was done.
    pub succeeded: bool,
    /// The revision of the writes; if nothing was written, the store's revision.
    pub revision: Revision,
    /// One reply for each operation done, in order.
    pub replies: Vec<OpReply>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpReply {
    Put {
        /// What is stored now, stamp included.
        now: KeyValue,
        prev: Option<KeyValue>,
    },
    Delete {
        prev: Vec<KeyValue>,
    },
    Get {
        kvs: Vec<KeyValue>,
    },
}
