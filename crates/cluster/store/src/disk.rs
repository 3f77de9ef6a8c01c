//! The embedded store's file: rows of the log, leases and a few numbers, in redb.
//!
//! A commit is durable when it returns. After one that failed (a full disk, most often) the file is opened again by the
//! next, and what it holds then counts.
//!
//! When the disk is nearly full, whatever adds must leave room for removals, else nobody could make any.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use vocab::crash;

use crate::medium::{Acknowledged, Medium};
use crate::memory::{Row, Version};
use crate::stage::Staged;
use crate::{LeaseId, Revision, StoreError, record};

const LOG: TableDefinition<&[u8], &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");

const COMPACTED: &str = "compacted";
const REVISION: &str = "revision";
/// [`Acknowledged::quiet`].
const QUIET: &str = "quiet";
/// What a write that adds leaves free in the file: some thousand removals.
const HEADROOM_BYTES: usize = 256 << 10;
/// A disk with less room than this beyond the file's own size (by which the file grows) counts as nearly full.
const TIGHT_BYTES: u64 = 16 << 20;

const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 2;

/// What a group commit writes besides the rows.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) compacted: Option<Revision>,
    pub(crate) leases_put: Vec<(LeaseId, u64)>,
    pub(crate) leases_removed: Vec<LeaseId>,
}

#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) rows: Vec<(crate::Bytes, Version)>,
    pub(crate) leases: Vec<(LeaseId, u64)>,
}

/// The file.
pub(crate) struct Disk {
    path: PathBuf,
    cache_bytes: usize,
    medium: Medium,
    /// Of a file that is being made: until it is one, it has another name, so that a power cut leaves none and not a part.
    unfinished: Option<db::Backend>,
    /// `None` before the first load and after a failed commit: redb refuses everything after an I/O error.
    database: Option<Database>,
    /// [`Acknowledged::quiet`] as the file has it.
    quiet: u64,
}

impl Disk {
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let backend = db::Backend::open(path).map_err(|error| open_error(path, &error))?;
        let medium = Medium::new(backend.clone());
        Ok(Self { path: path.to_owned(), cache_bytes, medium, unfinished: Some(backend), database: None, quiet: 0 })
    }

    /// A store on anything that can be written to.
    #[cfg(test)]
    pub(crate) fn on(medium: Medium) -> Self {
        Self { path: "memory".into(), cache_bytes: 1 << 20, medium, unfinished: None, database: None, quiet: 0 }
    }

    pub(crate) fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn is_tight(&self) -> bool {
        let size_bytes = self.medium.len().unwrap_or(0);
        linux::fs::space(&self.path).is_ok_and(|(_, free_bytes)| free_bytes < size_bytes + TIGHT_BYTES)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.database.is_none()
    }

    fn failed(&self, error: &redb::Error) -> StoreError {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let (path, cause) = (self.path(), error.to_string());
        match error {
            redb::Error::Io(source) if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) => {
                StoreError::Full { path, cause }
            }
            _ => StoreError::Write { path, cause },
        }
    }

    /// Opens the file if need be and reads all rows after `after`.
    pub(crate) fn load(&mut self, after: Revision) -> Result<Loaded, StoreError> {
        let path = self.path.clone();
        let open = |cause: &dyn std::fmt::Display| open_error(&path, cause);
        let is_new = self.medium.is_new().map_err(|error| open(&error))?;
        let acknowledged = self.medium.acknowledged().map_err(|error| open(&error))?;
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::builder()
                .set_cache_size(self.cache_bytes)
                .create_with_backend(self.medium.clone())
                .map_err(|error| open(&error))?,
        };
        let loaded = match read(&database, after).map_err(|error| open(&error))? {
            None if is_new => {
                // A new file: its tables, so that readers find them.
                let txn = database.begin_write().map_err(|error| open(&error))?;
                txn.open_table(LOG).map_err(|error| open(&error))?;
                txn.open_table(LEASES).map_err(|error| open(&error))?;
                txn.open_table(META)
                    .and_then(|mut meta| Ok(meta.insert(FORMAT, FORMAT_NOW).map(drop)?))
                    .map_err(|error| open(&error))?;
                txn.commit().map_err(|error| open(&error))?;
                Loaded::default()
            }
            None => return Err(damaged(&path, "it is a database, but no store")),
            Some(raw) => {
                self.quiet = raw.quiet;
                raw.parse(&path)?
            }
        };
        let newest = Acknowledged { revision: loaded.revision, quiet: self.quiet };
        if let Some(known) = acknowledged
            && (newest.revision < known.revision || newest.quiet < known.quiet)
        {
            let cause = format!(
                "it ends at revision {}, but revision {} had been written; its newest commit cannot be read",
                newest.revision, known.revision
            );
            return Err(damaged(&path, cause));
        }
        crash::point("store.open.made");
        if let Some(mut backend) = self.unfinished.take() {
            backend.finish(&path).map_err(|error| open(&error))?;
        }
        self.database = Some(database);
        Ok(loaded)
    }

    pub(crate) fn commit(
        &mut self,
        rows: &[Staged],
        revision: Revision,
        extras: &Extras,
        sweep: &[Row],
    ) -> Result<(), StoreError> {
        let Some(database) = &self.database else { return Err(StoreError::Closed) };
        let adds = !extras.leases_put.is_empty() || rows.iter().any(|row| row.record.value.is_some());
        let headroom = if adds && self.is_tight() { HEADROOM_BYTES } else { 0 };
        let after = Acknowledged { revision, quiet: self.quiet + u64::from(rows.is_empty()) };
        let outcome = write(database, rows, after, extras, sweep, headroom);
        outcome.map_err(|error| {
            let error = self.failed(&error);
            self.database = None;
            error
        })?;
        self.quiet = after.quiet;
        self.medium.acknowledge(after);
        Ok(())
    }
}

fn write(
    database: &Database,
    rows: &[Staged],
    after: Acknowledged,
    extras: &Extras,
    sweep: &[Row],
    headroom: usize,
) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    if vocab::weak::without("sync") {
        let _ = txn.set_durability(redb::Durability::None);
    }
    {
        let mut log = txn.open_table(LOG)?;
        for row in rows {
            let key = record::row_key(row.version.mod_revision, row.version.position);
            log.insert(&key[..], &record::encode(&row.record)[..])?;
        }
        if headroom > 0 {
            // Shorter than any row's key, and gone before the commit: only whether there is room for it counts.
            log.insert_reserve(&[][..], headroom)?;
            log.remove(&[][..])?;
        }
        for (revision, position) in sweep {
            log.remove(&record::row_key(*revision, *position)[..])?;
        }
        // The newest revision may belong to a row that the sweep removes.
        if rows.is_empty() || extras.compacted.is_some() || !sweep.is_empty() {
            let mut meta = txn.open_table(META)?;
            meta.insert(REVISION, after.revision)?;
            meta.insert(QUIET, after.quiet)?;
            if let Some(compacted) = extras.compacted {
                meta.insert(COMPACTED, compacted)?;
            }
        }
        if !extras.leases_put.is_empty() || !extras.leases_removed.is_empty() {
            let mut leases = txn.open_table(LEASES)?;
            for (id, ttl_secs) in &extras.leases_put {
                leases.insert(id, ttl_secs)?;
            }
            for id in &extras.leases_removed {
                leases.remove(id)?;
            }
        }
    }
    txn.commit()?;
    Ok(())
}

struct Raw {
    format: u64,
    revision: Revision,
    quiet: u64,
    compacted: Revision,
    leases: Vec<(LeaseId, u64)>,
    rows: Vec<Result<(Revision, u32, record::Record), Vec<u8>>>,
}

fn read(database: &Database, after: Revision) -> Result<Option<Raw>, redb::Error> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let number = |name: &str| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |value| value.value()));
    let mut raw = Raw {
        format: number(FORMAT)?,
        revision: number(REVISION)?,
        quiet: number(QUIET)?,
        compacted: number(COMPACTED)?,
        leases: Vec::new(),
        rows: Vec::new(),
    };
    for entry in txn.open_table(LEASES)?.iter()? {
        let (id, ttl_secs) = entry?;
        raw.leases.push((id.value(), ttl_secs.value()));
    }
    let from = record::row_key(after + 1, 0);
    let from = if after == 0 { &[][..] } else { &from[..] };
    let log = txn.open_table(LOG)?;
    // Also where no row is new.
    let last = log.last()?.and_then(|(key, _)| record::parse_row_key(key.value()));
    raw.revision = raw.revision.max(last.map_or(0, |(revision, _)| revision));
    for entry in log.range(from..)? {
        let (key, value) = entry?;
        let parsed = record::parse_row_key(key.value()).zip(record::decode(value.value()));
        raw.rows.push(match parsed {
            Some(((revision, position), record)) => Ok((revision, position, record)),
            None => Err(key.value().to_vec()),
        });
    }
    Ok(Some(raw))
}

impl Raw {
    fn parse(self, path: &Path) -> Result<Loaded, StoreError> {
        let damaged = |cause: String| damaged(path, cause);
        if self.format != FORMAT_NOW {
            return Err(damaged(format!("format {} is not known; this program writes {FORMAT_NOW}", self.format)));
        }
        let mut loaded =
            Loaded { revision: self.revision, compacted: self.compacted, leases: self.leases, rows: Vec::new() };
        loaded.rows.reserve(self.rows.len());
        for row in self.rows {
            let (revision, position, record) =
                row.map_err(|key| damaged(format!("row {key:x?} is not what was written")))?;
            let version = Version::from_record(&record, revision, position);
            loaded.revision = loaded.revision.max(revision);
            loaded.rows.push((record.key, version));
        }
        Ok(loaded)
    }
}

fn open_error(path: &Path, cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::Open { path: path.display().to_string(), cause: cause.to_string() }
}

fn damaged(path: &Path, cause: impl Into<String>) -> StoreError {
    StoreError::Damaged { path: path.display().to_string(), cause: cause.into() }
}
