//! Transactions of one group commit, worked out on top of the committed state before anything is written. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::memory::{Memory, Version};
use crate::record::{self, Record};
use crate::{
    Bytes, Compare, Delete, KeyValue, LeaseId, Op, OpReply, Put, Revision, Span, StoreError, Test, Txn, TxnReply,
};

/// Largest value taken, as etcd's default request limit.
pub(crate) const VALUE_BYTES_MAX: usize = 3 << 20;

/// One row to write, in order.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    pub(crate) record: Record,
}

/// A view of the committed state with the transactions so far on top.
pub(crate) struct Stage<'a> {
    memory: &'a Memory,
    leases: &'a dyn Fn(LeaseId) -> bool,
    newest: BTreeMap<Bytes, Version>,
    pub(crate) rows: Vec<Staged>,
    pub(crate) revision: Revision,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(memory: &'a Memory, leases: &'a dyn Fn(LeaseId) -> bool) -> Self {
        Self { memory, leases, newest: BTreeMap::new(), rows: Vec::new(), revision: memory.revision }
    }

    fn get(&self, key: &[u8]) -> Option<&Version> {
        match self.newest.get(key) {
            Some(version) => Some(version).filter(|version| version.value.is_some()),
            None => self.memory.latest(key),
        }
    }

    fn live(&self, span: &Span) -> Vec<KeyValue> {
        let mut found: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        for (key, version) in self.memory.live(span) {
            found.extend(version.key_value(key).map(|kv| (key.clone(), kv)));
        }
        for (key, version) in &self.newest {
            if span.contains(key) {
                match version.key_value(key) {
                    Some(kv) => found.insert(key.clone(), kv),
                    None => found.remove(key),
                };
            }
        }
        found.into_values().collect()
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = self.get(&compare.key);
        match &compare.test {
            Test::ModRevision(want) => found.map_or(0, |version| version.mod_revision) == *want,
            Test::ModUntil(until) => found.map_or(0, |version| version.mod_revision) <= *until,
            Test::CreateRevision(want) => found.map_or(0, |version| version.create_revision) == *want,
            Test::Version(want) => found.map_or(0, |version| version.version) == *want,
            Test::Value(want) => found.is_some_and(|version| version.value.as_ref() == Some(want)),
            Test::Exists => found.is_some(),
            Test::Absent => found.is_none(),
        }
    }

    /// Works out one transaction. On error nothing is staged.
    pub(crate) fn apply(&mut self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let succeeded = vocab::weak::without("compare") || txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        self.check(ops)?;
        let revision = self.revision + 1;
        let before = self.rows.len();
        let mut position = 0;
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            replies.push(match op {
                Op::Get(span) => OpReply::Get { kvs: self.live(span) },
                Op::Put(put) => self.put(put, revision, &mut position),
                Op::Delete(delete) => self.delete(delete, revision, &mut position),
            });
        }
        if self.rows.len() > before {
            self.revision = revision;
        }
        Ok(TxnReply { succeeded, revision: self.revision, replies })
    }

    fn check(&self, ops: &[Op]) -> Result<(), StoreError> {
        let name = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        let mut written: BTreeSet<&Bytes> = BTreeSet::new();
        for op in ops {
            let Op::Put(put) = op else { continue };
            if !written.insert(&put.key) {
                return Err(StoreError::DuplicateKey(name(&put.key)));
            }
            if put.value.len() > VALUE_BYTES_MAX {
                let (key, size) = (name(&put.key), put.value.len());
                return Err(StoreError::TooLarge { key, size, limit: VALUE_BYTES_MAX });
            }
            if let Some(at) = put.stamp_at
                && at as usize > put.value.len()
            {
                return Err(StoreError::BadStamp { key: name(&put.key), at, size: put.value.len() });
            }
            if put.lease != 0 && !(self.leases)(put.lease) {
                return Err(StoreError::LeaseNotFound(put.lease));
            }
        }
        for op in ops {
            let Op::Delete(delete) = op else { continue };
            if let Some(key) = written.iter().find(|key| delete.span.contains(key)) {
                return Err(StoreError::DuplicateKey(name(key)));
            }
        }
        Ok(())
    }

    fn put(&mut self, put: &Put, revision: Revision, position: &mut u32) -> OpReply {
        let prev = self.get(&put.key).and_then(|version| version.key_value(&put.key));
        let version = Version {
            mod_revision: revision,
            position: *position,
            create_revision: prev.as_ref().map_or(revision, |kv| kv.create_revision),
            version: prev.as_ref().map_or(1, |kv| kv.version + 1),
            lease: put.lease,
            stamp_at: put.stamp_at,
            value: Some(record::stamp(&put.value, put.stamp_at, revision)),
        };
        let now = version.key_value(&put.key).expect("a put has a value");
        self.stage(put.key.clone(), version, Some(put.value.clone()), position);
        OpReply::Put { now, prev }
    }

    fn delete(&mut self, delete: &Delete, revision: Revision, position: &mut u32) -> OpReply {
        let prev = self.live(&delete.span);
        for kv in &prev {
            let version = Version {
                mod_revision: revision,
                position: *position,
                create_revision: 0,
                version: 0,
                lease: 0,
                stamp_at: None,
                value: None,
            };
            self.stage(kv.key.clone(), version, None, position);
        }
        OpReply::Delete { prev }
    }

    fn stage(&mut self, key: Bytes, version: Version, plain: Option<Bytes>, position: &mut u32) {
        *position += 1;
        let record = Record {
            key: key.clone(),
            value: plain,
            create_revision: version.create_revision,
            version: version.version,
            lease: version.lease,
            stamp_at: version.stamp_at,
        };
        self.newest.insert(key.clone(), version.clone());
        self.rows.push(Staged { key, version, record });
    }
}
