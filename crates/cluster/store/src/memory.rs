//! The state in memory: for each key its versions since the last compaction, and the log of which key changed at
//! which revision. Pure data; who may change it when is decided in `embedded`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::record::{self, Record};
use crate::{Bytes, Change, Event, KeyValue, LeaseId, RangeReply, RangeRequest, Revision, Span, StoreError};

/// One version of one key.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) mod_revision: Revision,
    /// Position within the transaction; with the revision, the row on disk.
    pub(crate) position: u32,
    pub(crate) create_revision: Revision,
    pub(crate) version: u64,
    pub(crate) lease: LeaseId,
    pub(crate) stamp_at: Option<u32>,
    /// Stamped value; `None` is a delete.
    pub(crate) value: Option<Bytes>,
}

impl Version {
    pub(crate) fn from_record(record: &Record, revision: Revision, position: u32) -> Self {
        Self {
            mod_revision: revision,
            position,
            create_revision: record.create_revision,
            version: record.version,
            lease: record.lease,
            stamp_at: record.stamp_at,
            value: record.value.as_ref().map(|value| record::stamp(value, record.stamp_at, revision)),
        }
    }

    /// The key's public form, unless this version is a delete.
    pub(crate) fn key_value(&self, key: &Bytes) -> Option<KeyValue> {
        Some(KeyValue {
            key: key.clone(),
            value: self.value.clone()?,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
            stamp_at: self.stamp_at,
        })
    }
}

/// A row on disk that compaction has made superfluous.
pub(crate) type Row = (Revision, u32);

#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Versions oldest first. Never empty.
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// What changed, in order; revisions at or below `compacted` are gone.
    log: VecDeque<(Revision, Bytes)>,
    leased: BTreeMap<LeaseId, BTreeSet<Bytes>>,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
}

impl Memory {
    pub(crate) fn at(revision: Revision, compacted: Revision) -> Self {
        Self { revision, compacted, ..Self::default() }
    }

    pub(crate) fn latest(&self, key: &[u8]) -> Option<&Version> {
        self.keys.get(key).and_then(|versions| versions.last()).filter(|version| version.value.is_some())
    }

    /// Live keys of the span in their newest version.
    pub(crate) fn live(&self, span: &Span) -> impl Iterator<Item = (&Bytes, &Version)> {
        self.walk(span).filter_map(|(key, versions)| {
            versions.last().filter(|version| version.value.is_some()).map(|version| (key, version))
        })
    }

    fn walk(&self, span: &Span) -> impl Iterator<Item = (&Bytes, &Vec<Version>)> {
        let bounds = if span.is_empty() { Span::range(Bytes::new(), Bytes::new()).bounds() } else { span.bounds() };
        self.keys.range(bounds)
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeReply, StoreError> {
        let at = request.revision.unwrap_or(self.revision);
        if at > self.revision {
            return Err(StoreError::Future { asked: at, current: self.revision });
        }
        if at < self.compacted {
            return Err(StoreError::Compacted { asked: at, oldest: self.compacted });
        }
        let mut reply =
            RangeReply { kvs: Vec::new(), more: false, count: request.count.then_some(0), revision: self.revision };
        for (key, versions) in self.walk(&request.span) {
            let Some(kv) = version_at(versions, at).and_then(|version| version.key_value(key)) else { continue };
            if let Some(count) = &mut reply.count {
                *count += 1;
            }
            if request.limit == 0 || reply.kvs.len() < request.limit {
                reply.kvs.push(kv);
                continue;
            }
            reply.more = true;
            if !request.count {
                break;
            }
        }
        Ok(reply)
    }

    /// Adds one row. Rows arrive in the order of revision and position.
    pub(crate) fn insert(&mut self, key: Bytes, version: Version) {
        if let Some(old) = self.latest(&key)
            && old.lease != 0
            && old.lease != version.lease
        {
            let lease = old.lease;
            self.unlease(lease, &key);
        }
        if version.lease != 0 && version.value.is_some() {
            self.leased.entry(version.lease).or_default().insert(key.clone());
        }
        self.revision = self.revision.max(version.mod_revision);
        if version.mod_revision > self.compacted {
            self.log.push_back((version.mod_revision, key.clone()));
        }
        match self.keys.get_mut(&key) {
            Some(versions) => versions.push(version),
            // `vec!` allocates for exactly one: almost all keys have one version for most of their life.
            None => drop(self.keys.insert(key, vec![version])),
        }
    }

    fn unlease(&mut self, lease: LeaseId, key: &Bytes) {
        if let Some(keys) = self.leased.get_mut(&lease) {
            keys.remove(key);
            if keys.is_empty() {
                self.leased.remove(&lease);
            }
        }
    }

    /// Keys attached to a lease.
    pub(crate) fn leased(&self, lease: LeaseId) -> impl Iterator<Item = &Bytes> {
        self.leased.get(&lease).into_iter().flatten()
    }

    /// The changes of the span from `start` on, and the revision up to which they are complete.
    pub(crate) fn events(&self, span: &Span, start: Revision) -> Result<Vec<Event>, StoreError> {
        if start <= self.compacted {
            return Err(StoreError::Compacted { asked: start, oldest: self.compacted });
        }
        let first = self.log.partition_point(|(revision, _)| *revision < start);
        let mut events = Vec::new();
        for (revision, key) in self.log.range(first..) {
            if span.contains(key) {
                if events.is_empty() {
                    // About what one commit of many writers brings.
                    events.reserve((self.log.len() - first).min(16));
                }
                events.extend(self.event(*revision, key));
            }
        }
        Ok(events)
    }

    fn event(&self, revision: Revision, key: &Bytes) -> Option<Event> {
        let versions = self.keys.get(key)?;
        let at = versions.binary_search_by_key(&revision, |version| version.mod_revision).ok()?;
        let before = at.checked_sub(1).and_then(|before| versions[before].key_value(key));
        match versions[at].key_value(key) {
            Some(kv) => Some(Event { change: Change::Put, revision, kv, prev: before }),
            None => before.map(|kv| Event { change: Change::Delete, revision, prev: None, kv }),
        }
    }

    /// Drops what was superseded at or before `revision` and names the rows that can be removed on disk.
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<Vec<Row>, StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, current: self.revision });
        }
        if revision <= self.compacted {
            return Err(StoreError::Compacted { asked: revision, oldest: self.compacted });
        }
        self.compacted = revision;
        let mut rows = Vec::new();
        let end = self.log.partition_point(|(at, _)| *at <= revision);
        let mut touched: Vec<Bytes> = self.log.drain(..end).map(|(_, key)| key).collect();
        touched.sort_unstable();
        touched.dedup();
        for key in touched {
            self.compact_key(&key, revision, &mut rows);
        }
        Ok(rows)
    }

    fn compact_key(&mut self, key: &Bytes, revision: Revision, rows: &mut Vec<Row>) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let newer = versions.partition_point(|version| version.mod_revision <= revision);
        // The newest version at or below the revision stays while it is live: it is the state there.
        let keep_from = match newer.checked_sub(1) {
            Some(last) if versions[last].value.is_some() => last,
            _ => newer,
        };
        rows.extend(versions.drain(..keep_from).map(|version| (version.mod_revision, version.position)));
        if versions.is_empty() {
            self.keys.remove(key);
        } else {
            versions.shrink_to_fit();
        }
    }

    /// After loading: everything at or below the compacted revision that a crash kept on disk although superseded.
    pub(crate) fn compact_loaded(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        let stale: Vec<Bytes> = self
            .keys
            .iter()
            .filter(|(_, versions)| {
                let first = &versions[0];
                first.mod_revision <= self.compacted
                    && (first.value.is_none()
                        || versions.get(1).is_some_and(|second| second.mod_revision <= self.compacted))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in stale {
            self.compact_key(&key, self.compacted, &mut rows);
        }
        rows
    }
}

fn version_at(versions: &[Version], revision: Revision) -> Option<&Version> {
    let newer = versions.partition_point(|version| version.mod_revision <= revision);
    newer.checked_sub(1).map(|at| &versions[at])
}
