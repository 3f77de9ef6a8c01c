//! What earlier builds made: a record for each step's key, and a keep in the image store for its layer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vocab::Digest;

use crate::error::Result;

const CACHE: db::Table<String, CacheRecord> = db::Table::new("build-cache");
const KEEP_PREFIX: &str = "build/";

/// One step's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// Chain id of the files after the step; `None`: nothing at all.
    pub top: Option<Digest>,
    /// Of the step: its name without numbers.
    pub description: String,
    pub created_at: Timestamp,
    pub last_used_at: Timestamp,
    pub uses: u64,
    /// Bytes of the step's own layer.
    pub bytes: u64,
}

/// One line of `du`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    pub key: String,
    pub record: CacheRecord,
    pub parent: Option<Digest>,
    /// Some image has the layer too: removing the entry frees nothing.
    pub shared: bool,
}

/// What a prune removes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Also what images have too.
    pub all: bool,
    /// Stop when this much is left, bytes.
    pub keep_bytes: Option<u64>,
    /// Only what was last used before.
    pub unused_since: Option<Timestamp>,
}

impl PrunePolicy {
    /// Of all entries those to remove, least recently used first. Several keys of one layer count its bytes once.
    pub(crate) fn unwanted(&self, mut entries: Vec<CacheEntry>) -> Vec<CacheEntry> {
        entries.sort_by_key(|e| e.record.last_used_at);
        let mut seen = std::collections::HashSet::new();
        let bytes = |e: &CacheEntry, seen: &mut std::collections::HashSet<Digest>| match e.record.top {
            Some(top) if !seen.insert(top) => 0,
            _ => e.record.bytes,
        };
        let mut left: u64 = entries.iter().map(|e| bytes(e, &mut seen)).sum();
        seen.clear();
        let mut unwanted = Vec::new();
        for entry in entries {
            if self.keep_bytes.is_some_and(|keep| left <= keep) {
                break;
            }
            if !self.all && entry.shared || self.unused_since.is_some_and(|at| entry.record.last_used_at >= at) {
                continue;
            }
            left -= bytes(&entry, &mut seen).min(left);
            unwanted.push(entry);
        }
        unwanted
    }
}

/// The cache of one engine.
#[derive(Clone)]
pub(crate) struct Cache {
    db: db::Db,
    store: std::sync::Arc<image::Store>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    pub(crate) fn new(engine: &engine::Engine) -> Self {
        Self { db: engine.db().clone(), store: engine.store().clone() }
    }

    /// What a key stands for, with a lease that keeps it while it is used.
    pub(crate) fn find(&self, key: &str) -> Result<Option<(CacheRecord, Option<image::Lease>)>> {
        let Some(record) = self.db.read()?.get(&CACHE, &key.to_owned())? else { return Ok(None) };
        let lease = match &record.top {
            Some(top) => match self.store.lease(top) {
                Ok(lease) => Some(lease),
                // Pruned a moment ago.
                Err(image::Error::NoSuchLayer(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        Ok(Some((record, lease)))
    }

    /// Remembers a result under all of its keys.
    pub(crate) fn put(&self, keys: &[String], record: &CacheRecord) -> Result<()> {
        self.db.write(|txn| {
            for key in keys {
                txn.put(&CACHE, key, record)?;
                if let Some(top) = &record.top {
                    self.store.keep(txn, &format!("{KEEP_PREFIX}{key}"), top)?;
                }
            }
            Ok::<_, crate::BuildError>(())
        })
    }

    /// Notes that these were used, in one commit, once a build is over.
    pub(crate) fn touch(&self, keys: &[String]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        self.db.write(|txn| {
            for key in keys {
                if let Some(mut record) = txn.get(&CACHE, key)? {
                    record.last_used_at = now;
                    record.uses += 1;
                    txn.put(&CACHE, key, &record)?;
                }
            }
            Ok::<_, crate::BuildError>(())
        })
    }

    pub(crate) fn list(&self) -> Result<Vec<CacheEntry>> {
        let mut entries = Vec::new();
        for (key, record) in self.db.read()?.list(&CACHE)? {
            let facts = record.top.as_ref().map(|top| self.store.layer(top)).transpose()?.flatten();
            entries.push(CacheEntry { key, record, parent: facts.and_then(|f| f.parent), shared: false });
        }
        Ok(entries)
    }

    /// Removes entries; returns the keys that were there. The layers go with the next collection, if nothing else has them.
    pub(crate) fn remove(&self, keys: &[String]) -> Result<Vec<String>> {
        let removed = self.db.write(|txn| {
            let mut removed = Vec::new();
            for key in keys {
                if txn.get(&CACHE, key)?.is_some() {
                    txn.remove(&CACHE, key)?;
                    self.store.unkeep(txn, &format!("{KEEP_PREFIX}{key}"))?;
                    removed.push(key.clone());
                }
            }
            Ok::<_, crate::BuildError>(removed)
        })?;
        if !removed.is_empty() {
            self.store.collect()?;
        }
        Ok(removed)
    }
}
