//! The one transactional database of an engine: `<root>/knarr.db`.
//!
//! What it is for: typed tables, declared by the crates that own the records, with snapshot reads and durable,
//! grouped commits. A [`Db::write`] returns after its changes are on disk; writers that arrive while a commit is on its
//! way to the disk share the next one, so that a hundred concurrent writers pay for a few syncs, not a hundred.
//!
//! What it never does: it does not know what the records mean, and it keeps no state of its own beside the file.
//!
//! ```no_run
//! # use serde::{Serialize, Deserialize};
//! #[derive(Serialize, Deserialize)]
//! struct Boat { sails: u32 }
//! const BOATS: db::Table<String, Boat> = db::Table::new("boats");
//!
//! let db = db::Db::open("/var/lib/knarr/knarr.db".as_ref())?;
//! db.write(|txn| txn.put(&BOATS, &"ormen".to_owned(), &Boat { sails: 1 }))?;
//! let boat = db.read()?.get(&BOATS, &"ormen".to_owned())?;
//! # Ok::<(), db::Error>(())
//! ```

mod backend;
mod commit;
mod error;
mod table;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

pub use backend::Backend;
pub use commit::Write;
pub use error::Error;
pub use table::{Key, Table};

use commit::Queue;

/// redb's page cache: the records of a busy engine are a few MB, and the kernel caches the file as well.
const CACHE_BYTES: usize = 2 << 20;

/// An open database. Cheap to clone; all clones are the same database.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    backend: Backend,
    /// `None` after a failed commit until the file has been opened again: redb refuses everything after an I/O error,
    /// and a full disk must not need a restart.
    open: RwLock<Option<redb::Database>>,
    queue: Mutex<Queue>,
    /// Held by the thread that carries a batch to the disk.
    committing: Mutex<()>,
}

impl Db {
    /// Opens the database at `path`, or makes it. Its folder must exist.
    ///
    /// One process at a time: a second one gets [`Error::InUse`]. After a crash the last committed state is there. Every page that
    /// is in use is read and compared with its checksum: a file that is not as it was written is [`Error::Damaged`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut backend = Backend::open(path)?;
        let open = open_redb(path, &backend)?;
        vocab::crash::point("db.open.made");
        backend.finish(path)?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                backend,
                open: RwLock::new(Some(open)),
                queue: Mutex::new(Queue::default()),
                committing: Mutex::new(()),
            }),
        })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// A consistent view of everything committed so far. Keep it short-lived: pages that it can see are not reused.
    /// Drop it before calling [`Db::write`] on the same thread: a failed commit waits for all views to end.
    pub fn read(&self) -> Result<Read<'_>, Error> {
        let guard = self.inner.guard()?;
        let database = guard.as_ref().expect("guard() hands out open databases only");
        let txn = redb::ReadableDatabase::begin_read(database).map_err(|e| self.inner.error(e))?;
        Ok(Read { db: &self.inner, txn, _open: guard })
    }

    /// Runs `change` and returns its answer once every change it made is on disk.
    ///
    /// All or nothing: when `change` fails, nothing it did remains; when the commit fails (full disk), nothing of any
    /// writer that shared the commit remains, each of them gets the error, and the database stays usable.
    ///
    /// `change` sees all writes acknowledged before and runs alone: no other `change` runs at the same time.
    /// It must not call `write` itself. It may be called from any thread and blocks for one or two commits: one sync
    /// each, two once the file is large.
    pub fn write<T, E: From<Error>>(&self, change: impl FnOnce(&mut Write<'_>) -> Result<T, E>) -> Result<T, E> {
        commit::write(&self.inner, change)
    }

    /// Bytes of the database file on disk.
    pub fn size_bytes(&self) -> Result<u64, Error> {
        self.inner.size_bytes()
    }
}

impl Inner {
    /// The open database, opened again first if an earlier failure closed it.
    fn guard(&self) -> Result<RwLockReadGuard<'_, Option<redb::Database>>, Error> {
        loop {
            let guard = self.open.read().expect("no code panics while it holds the database lock");
            if guard.is_some() {
                return Ok(guard);
            }
            drop(guard);
            let mut guard = self.open.write().expect("no code panics while it holds the database lock");
            if guard.is_none() {
                *guard = Some(open_redb(&self.path, &self.backend)?);
            }
        }
    }

    fn size_bytes(&self) -> Result<u64, Error> {
        self.backend.size_bytes().map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    /// Closes the database so that the next user opens the last committed state again.
    fn close(&self) {
        *self.open.write().expect("no code panics while it holds the database lock") = None;
    }

    fn error(&self, source: impl Into<redb::Error>) -> Error {
        Error::from_redb(&self.path, source.into())
    }
}

fn open_redb(path: &Path, backend: &Backend) -> Result<redb::Database, Error> {
    let mut database = redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend.clone())
        .map_err(|e| Error::from_redb(path, e.into()))?;
    // Pages carry checksums that redb reads only after a crash; a byte that has changed on the disk since must not become a record.
    let whole = database.check_integrity().map_err(|e| Error::from_redb(path, e.into()))?;
    if !whole {
        return Err(Error::Damaged { path: path.to_owned(), detail: "its checksums do not match".into() });
    }
    Ok(database)
}

type RawTable = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;
type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), Error>;

/// A consistent view of the database at one commit.
pub struct Read<'a> {
    db: &'a Inner,
    txn: redb::ReadTransaction,
    // Keeps the database from being opened again under this view.
    _open: RwLockReadGuard<'a, Option<redb::Database>>,
}

impl Read<'_> {
    /// The record under `key`.
    pub fn get<K: Key, V: table::Record>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>, Error> {
        let Some(open) = self.table(table.name())? else { return Ok(None) };
        let bytes = open.get(key.bytes().as_ref()).map_err(|e| self.db.error(e))?;
        bytes.map(|bytes| table.decode(&self.db.path, key, bytes.value())).transpose()
    }

    /// Every record, in the order of the keys' bytes.
    pub fn list<K: Key, V: table::Record>(&self, table: &Table<K, V>) -> Result<Vec<(K, V)>, Error> {
        self.list_prefix(table, &[])
    }

    /// The records whose keys' bytes start with `prefix`, in the order of the keys' bytes.
    pub fn list_prefix<K: Key, V: table::Record>(
        &self,
        table: &Table<K, V>,
        prefix: &[u8],
    ) -> Result<Vec<(K, V)>, Error> {
        let mut found = Vec::new();
        self.scan(table.name(), prefix, &mut |key, value| {
            let key = table.key(&self.db.path, key)?;
            let record = table.decode(&self.db.path, &key, value)?;
            found.push((key, record));
            Ok(())
        })?;
        Ok(found)
    }

    /// How many records there are.
    pub fn len<K, V>(&self, table: &Table<K, V>) -> Result<u64, Error> {
        let Some(open) = self.table(table.name())? else { return Ok(0) };
        redb::ReadableTableMetadata::len(&open).map_err(|e| self.db.error(e))
    }

    fn raw(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some(open) = self.table(table)? else { return Ok(None) };
        Ok(open.get(key).map_err(|e| self.db.error(e))?.map(|v| v.value().to_vec()))
    }

    fn scan(&self, table: &str, prefix: &[u8], each: Each<'_>) -> Result<(), Error> {
        let Some(open) = self.table(table)? else { return Ok(()) };
        for entry in open.range::<&[u8]>(prefix..).map_err(|e| self.db.error(e))? {
            let (key, value) = entry.map_err(|e| self.db.error(e))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            each(key.value(), value.value())?;
        }
        Ok(())
    }

    /// A table that nobody has written to yet does not exist, and reads as empty.
    fn table(&self, name: &str) -> Result<Option<RawTable>, Error> {
        match self.txn.open_table(redb::TableDefinition::<&[u8], &[u8]>::new(name)) {
            Ok(table) => Ok(Some(table)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(self.db.error(e)),
        }
    }
}
