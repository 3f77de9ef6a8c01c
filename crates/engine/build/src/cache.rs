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

/// What an entry is, in BuildKit's words (`type=` of its filters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheKind {
    /// A step's layer.
    Regular,
    /// A file that was downloaded.
    Source,
    /// The folder of a cache mount.
    Mount,
    /// A layer in the form in which it left.
    Packed,
}

impl CacheKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Source => "source.http",
            Self::Mount => "exec.cachemount",
            Self::Packed => "internal",
        }
    }
}

/// One line of `du`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    pub key: String,
    pub record: CacheRecord,
    pub parent: Option<Digest>,
    /// Some image has the layer too: removing the entry frees nothing.
    pub shared: bool,
    /// A build reads it at this moment.
    pub in_use: bool,
    pub kind: CacheKind,
}

/// Which entries a prune looks at; an empty one looks at all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheFilter {
    pub ids: Vec<String>,
    pub parents: Vec<String>,
    pub kinds: Vec<String>,
    /// Texts that the description has to contain.
    pub descriptions: Vec<String>,
    pub in_use: Option<bool>,
    pub shared: Option<bool>,
}

impl CacheFilter {
    fn takes(&self, entry: &CacheEntry) -> bool {
        let any = |wanted: &[String], fits: &dyn Fn(&str) -> bool| wanted.is_empty() || wanted.iter().any(|w| fits(w));
        let parent = entry.parent.map(|parent| parent.hex()).unwrap_or_default();
        any(&self.ids, &|id| !id.is_empty() && entry.key.starts_with(id))
            && any(&self.parents, &|id| !id.is_empty() && parent.starts_with(id.trim_start_matches("sha256:")))
            && any(&self.kinds, &|kind| kind == entry.kind.name())
            && any(&self.descriptions, &|text| entry.record.description.contains(text))
            && self.in_use.is_none_or(|wanted| wanted == entry.in_use)
            && self.shared.is_none_or(|wanted| wanted == entry.shared)
    }
}

/// What a prune removes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Also what images have too.
    pub all: bool,
    /// Stop when this much is left, bytes.
    pub keep_bytes: Option<u64>,
    /// Only what was last used before.
    pub unused_since: Option<Timestamp>,
    pub filter: CacheFilter,
}

impl PrunePolicy {
    /// Of all entries those to remove, least recently used first. Several keys of one layer count its bytes once. What is in
    /// use stays.
    pub(crate) fn unwanted(&self, mut entries: Vec<CacheEntry>) -> Vec<CacheEntry> {
        entries.retain(|entry| self.filter.takes(entry));
        entries.sort_by(|a, b| a.record.last_used_at.cmp(&b.record.last_used_at).then_with(|| a.key.cmp(&b.key)));
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
            let young = self.unused_since.is_some_and(|at| entry.record.last_used_at >= at);
            if entry.in_use || !self.all && entry.shared || young {
                continue;
            }
            left -= bytes(&entry, &mut seen).min(left);
            unwanted.push(entry);
        }
        unwanted
    }
}

/// What the cache may grow to when nobody says anything: the rules that BuildKit has by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What can be had again at little cost (downloads, cache mounts, packed layers) goes when it was unused for so long...
    pub cheap_unused_secs: i64,
    /// ...and is more than this altogether.
    pub cheap_bytes: u64,
    /// Everything goes when it was unused for so long.
    pub unused_secs: i64,
    /// The whole cache.
    pub bytes: u64,
}

/// What the cache keeps without anybody pruning it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// What the disk's size suggests.
    #[default]
    ByDisk,
    /// At most so many bytes.
    Bytes(u64),
    /// Everything.
    All,
}

impl Limits {
    /// The same rules, but at most so many bytes altogether.
    pub fn of_bytes(bytes: u64) -> Self {
        let cheap = bytes.min(Self::CHEAP_BYTES);
        Self { cheap_bytes: cheap, cheap_unused_secs: Self::CHEAP_SECS, unused_secs: Self::UNUSED_SECS, bytes }
    }

    const CHEAP_BYTES: u64 = 512 << 20;
    const CHEAP_SECS: i64 = 48 * 3600;
    const UNUSED_SECS: i64 = 60 * 24 * 3600;

    /// For a disk of this size with this much free: a tenth of it, more while it is rather empty, less when it gets full.
    pub fn of_disk(total: u64, free: u64, used_by_cache: u64) -> Self {
        let (least, most, keep_free) = (total / 10, total / 10 * 8, total / 5);
        let wanted = (used_by_cache + free).saturating_sub(keep_free).clamp(least, most.max(least));
        Self::of_bytes(wanted.max(Self::CHEAP_BYTES))
    }

    /// The prunes that keep to these limits, in their order.
    pub(crate) fn policies(&self, now: Timestamp) -> [PrunePolicy; 4] {
        let ago = |secs: i64| Timestamp::new(now.as_second() - secs, 0).ok();
        let cheap = CacheFilter {
            kinds: [CacheKind::Source, CacheKind::Mount, CacheKind::Packed].map(|kind| kind.name().into()).into(),
            ..CacheFilter::default()
        };
        [
            PrunePolicy {
                filter: cheap,
                keep_bytes: Some(self.cheap_bytes),
                unused_since: ago(self.cheap_unused_secs),
                all: true,
            },
            PrunePolicy { unused_since: ago(self.unused_secs), ..PrunePolicy::default() },
            PrunePolicy { keep_bytes: Some(self.bytes), ..PrunePolicy::default() },
            PrunePolicy { keep_bytes: Some(self.bytes), all: true, ..PrunePolicy::default() },
        ]
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
        let of_images = self.store.layers_of_images()?;
        for (key, record) in self.db.read()?.list(&CACHE)? {
            let facts = record.top.as_ref().map(|top| self.store.layer(top)).transpose()?.flatten();
            let shared = record.top.is_some_and(|top| of_images.contains(&top));
            let in_use = record.top.is_some_and(|top| self.store.is_leased(&top));
            let parent = facts.and_then(|f| f.parent);
            entries.push(CacheEntry { key, record, parent, shared, in_use, kind: CacheKind::Regular });
        }
        Ok(entries)
    }

    /// Layers in the forms in which they left.
    pub(crate) fn list_packed(&self) -> Result<Vec<CacheEntry>> {
        let at = |secs| Timestamp::new(secs, 0).unwrap_or_default();
        let entry = |packed: image::PackedLayer| CacheEntry {
            record: CacheRecord {
                top: None,
                description: format!("packed layer {}", packed.key),
                created_at: at(packed.made_at),
                last_used_at: at(packed.used_at),
                uses: 1,
                bytes: packed.bytes,
            },
            key: packed.key,
            parent: None,
            shared: false,
            in_use: packed.in_use,
            kind: CacheKind::Packed,
        };
        Ok(self.store.packed_layers()?.into_iter().map(entry).collect())
    }

    pub(crate) fn remove_packed(&self, keys: &[String]) -> Result<Vec<String>> {
        Ok(self.store.forget_packed(keys)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, used_at: i64, bytes: u64) -> CacheEntry {
        let at = Timestamp::new(used_at, 0).unwrap();
        let record = CacheRecord {
            top: None,
            description: format!("RUN {key}"),
            created_at: at,
            last_used_at: at,
            uses: 1,
            bytes,
        };
        CacheEntry { key: key.into(), record, parent: None, shared: false, in_use: false, kind: CacheKind::Regular }
    }

    fn keys(policy: &PrunePolicy, entries: &[CacheEntry]) -> Vec<String> {
        policy.unwanted(entries.to_vec()).into_iter().map(|entry| entry.key).collect()
    }

    #[test]
    fn the_oldest_goes_first_until_enough_is_left() {
        let mut all = [entry("c", 30, 5), entry("a", 10, 5), entry("b", 20, 5), entry("d", 40, 5)];
        let keep = |bytes| PrunePolicy { keep_bytes: Some(bytes), ..PrunePolicy::default() };
        assert_eq!(keys(&keep(10), &all), ["a", "b"]);
        assert_eq!(keys(&keep(20), &all), [""; 0]);
        // What an image has, and what a build reads, stays.
        all[1].shared = true;
        all[2].in_use = true;
        assert_eq!(keys(&PrunePolicy::default(), &all), ["c", "d"]);
        assert_eq!(keys(&PrunePolicy { all: true, ..PrunePolicy::default() }, &all), ["a", "c", "d"]);
        let old = PrunePolicy { unused_since: Timestamp::new(35, 0).ok(), all: true, ..PrunePolicy::default() };
        assert_eq!(keys(&old, &all), ["a", "c"]);
    }

    #[test]
    fn filters_name_what_is_looked_at() {
        let mut all = [entry("aa1", 1, 1), entry("ab2", 2, 1), entry("ba3", 3, 1)];
        all[2].kind = CacheKind::Mount;
        all[1].shared = true;
        let with = |filter: CacheFilter| keys(&PrunePolicy { all: true, filter, ..PrunePolicy::default() }, &all);
        let list = |text: &str| vec![text.to_owned()];
        assert_eq!(with(CacheFilter { ids: list("a"), ..CacheFilter::default() }), ["aa1", "ab2"]);
        assert_eq!(with(CacheFilter { kinds: list("exec.cachemount"), ..CacheFilter::default() }), ["ba3"]);
        assert_eq!(with(CacheFilter { descriptions: list("RUN ab"), ..CacheFilter::default() }), ["ab2"]);
        assert_eq!(with(CacheFilter { shared: Some(true), ..CacheFilter::default() }), ["ab2"]);
        assert_eq!(with(CacheFilter { ids: list(""), ..CacheFilter::default() }), [""; 0]);
    }

    #[test]
    fn a_full_disk_takes_from_the_cache() {
        const G: u64 = 1 << 30;
        // Plenty free: it may grow. Little free: it shrinks, but a tenth of the disk stays its own.
        assert_eq!(Limits::of_disk(100 * G, 90 * G, 5 * G).bytes, 75 * G);
        assert_eq!(Limits::of_disk(100 * G, 10 * G, 30 * G).bytes, 20 * G);
        assert_eq!(Limits::of_disk(100 * G, G, 15 * G).bytes, 10 * G);
        let now = Timestamp::new(100 * 24 * 3600, 0).unwrap();
        let all = [entry("old", 0, 5), entry("new", now.as_second(), 5)];
        let limits = Limits::of_disk(100 * G, 90 * G, 0);
        assert_eq!(keys(&limits.policies(now)[1], &all), ["old"]);
        assert_eq!(keys(&limits.policies(now)[2], &all), [""; 0]);
    }
}
