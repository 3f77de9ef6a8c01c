//! The default backend: one redb file, one writer thread, all state in memory.
//!
//! The writer takes whatever transactions wait, works them out on top of one another, writes their rows in one
//! durable commit, shows them to readers and only then answers. While one commit waits for the disk the next group
//! gathers, so the disk's latency is shared by all writers.
//!
//! The file is etcd's log: a row for each write, keyed by revision. Opening reads it once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{Notify, oneshot};
use vocab::crash;

use crate::memory::{Memory, Row, Version};
use crate::stage::{Stage, Staged};
use crate::{
    Answer, LeaseId, Op, RangeReply, RangeRequest, Revision, Span, Store, StoreError, Txn, TxnReply, Watch, WatchBatch,
    WatchRequest, record,
};

const LOG: TableDefinition<&[u8], &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");

const COMPACTED: &str = "compacted";
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;

/// Transactions of one commit at most; bounds how long the first of a group waits for the others to be worked out.
const GROUP_MAX: usize = 1024;
/// Superfluous rows removed along with one group commit.
const SWEEP_ROWS: usize = 512;
/// How often the writer looks at leases when there is nothing to write.
const LEASE_TICK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of the file that redb may keep in memory. The state is in memory already, so little is enough.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 4 << 20 }
    }
}

enum Request {
    Txn(Txn, oneshot::Sender<Result<TxnReply, StoreError>>),
    Compact(Revision, oneshot::Sender<Result<(), StoreError>>),
    Grant(LeaseId, u64, oneshot::Sender<Result<LeaseId, StoreError>>),
    KeepAlive(LeaseId, oneshot::Sender<Result<u64, StoreError>>),
    Revoke(LeaseId, oneshot::Sender<Result<(), StoreError>>),
    Stop,
}

/// What readers share with the writer.
struct Shared {
    memory: RwLock<Memory>,
    /// `Memory::revision` again, readable without the lock.
    revision: AtomicU64,
    watchers: Mutex<Vec<Weak<Waker>>>,
}

/// A watch that waits for changes of its span.
struct Waker {
    span: Span,
    notify: Notify,
}

impl Shared {
    fn read<T>(&self, f: impl FnOnce(&Memory) -> T) -> T {
        f(&self.memory.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self, rows: &[(crate::Bytes, Version)]) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|weak| {
            let Some(waker) = weak.upgrade() else { return false };
            if rows.iter().any(|(key, _)| waker.span.contains(key)) {
                waker.notify.notify_one();
            }
            true
        });
    }

    fn wake_all(&self) {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for waker in watchers.iter().filter_map(Weak::upgrade) {
            waker.notify.notify_one();
        }
    }
}

/// The embedded store. Dropping it lets the writer finish what it was given and waits for it.
pub struct Embedded {
    shared: Arc<Shared>,
    requests: Sender<Request>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store in this file, making it if there is none. Fails if another process has it open.
    pub fn open(path: &Path, options: &Options) -> Result<Self, StoreError> {
        let mut disk = Disk { path: path.to_owned(), cache_bytes: options.cache_bytes, database: None };
        let loaded = disk.load(0)?;
        Self::start(Some(disk), loaded)
    }

    /// A store that lives and dies with this value.
    pub fn ephemeral() -> Self {
        Self::start(None, Loaded::default()).expect("nothing outside is touched")
    }

    fn start(disk: Option<Disk>, loaded: Loaded) -> Result<Self, StoreError> {
        let mut memory = Memory::at(loaded.revision.max(1), loaded.compacted);
        for (key, version) in loaded.rows {
            memory.insert(key, version);
        }
        let sweep = memory.compact_loaded();
        let revision = AtomicU64::new(memory.revision);
        let shared = Arc::new(Shared { memory: RwLock::new(memory), revision, watchers: Mutex::default() });
        let (requests, inbox) = std::sync::mpsc::channel();
        let now = Instant::now();
        let leases = loaded.leases.into_iter().map(|(id, ttl)| (id, Lease::new(ttl, now))).collect();
        let writer = Writer { shared: shared.clone(), disk, leases, sweep };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&inbox))
            .map_err(|cause| StoreError::Open { path: "writer thread".into(), cause: cause.to_string() })?;
        Ok(Self { shared, requests, writer: Some(writer) })
    }

    /// [`Store::range`] without a future: the answer is in memory.
    pub fn range_now(&self, request: &RangeRequest) -> Result<RangeReply, StoreError> {
        self.shared.read(|memory| memory.range(request))
    }

    fn ask<T: Send + 'static>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Answer<'_, T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(make(reply));
        Box::pin(async move {
            sent.map_err(|_| StoreError::Closed)?;
            answer.await.unwrap_or(Err(StoreError::Closed))
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Stop);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Store for Embedded {
    fn revision(&self) -> Answer<'_, Revision> {
        Box::pin(std::future::ready(Ok(self.shared.revision.load(Ordering::Acquire))))
    }

    fn range(&self, request: RangeRequest) -> Answer<'_, RangeReply> {
        Box::pin(std::future::ready(self.range_now(&request)))
    }

    fn txn(&self, txn: Txn) -> Answer<'_, TxnReply> {
        self.ask(|reply| Request::Txn(txn, reply))
    }

    fn watch(&self, request: WatchRequest) -> Answer<'_, Box<dyn Watch>> {
        let waker = Arc::new(Waker { span: request.span, notify: Notify::new() });
        self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&waker));
        let next = self.shared.read(|memory| match request.start {
            0 => Ok(memory.revision + 1),
            start if start <= memory.compacted => Err(StoreError::Compacted { asked: start, oldest: memory.compacted }),
            start => Ok(start),
        });
        let watch = next.map(|next| Box::new(Cursor { shared: self.shared.clone(), waker, next }) as Box<dyn Watch>);
        Box::pin(std::future::ready(watch))
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        self.ask(|reply| Request::Compact(revision, reply))
    }

    fn lease_grant(&self, id: LeaseId, ttl_secs: u64) -> Answer<'_, LeaseId> {
        self.ask(|reply| Request::Grant(id, ttl_secs, reply))
    }

    fn lease_keep_alive(&self, id: LeaseId) -> Answer<'_, u64> {
        self.ask(|reply| Request::KeepAlive(id, reply))
    }

    fn lease_revoke(&self, id: LeaseId) -> Answer<'_, ()> {
        self.ask(|reply| Request::Revoke(id, reply))
    }
}

struct Cursor {
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    /// The first revision not yet answered.
    next: Revision,
}

impl Cursor {
    fn take(&mut self) -> Result<WatchBatch, StoreError> {
        let batch = self.shared.read(|memory| {
            let through = memory.revision.max(self.next - 1);
            memory.events(&self.waker.span, self.next).map(|events| WatchBatch { events, through })
        })?;
        self.next = batch.through + 1;
        Ok(batch)
    }
}

impl Watch for Cursor {
    fn next(&mut self) -> Answer<'_, WatchBatch> {
        Box::pin(async move {
            loop {
                let batch = self.take()?;
                if !batch.events.is_empty() {
                    return Ok(batch);
                }
                // A notification between `take` and here is kept by `Notify`, so none is missed.
                self.waker.notify.notified().await;
            }
        })
    }

    fn poll(&mut self) -> Answer<'_, WatchBatch> {
        Box::pin(std::future::ready(self.take()))
    }
}

struct Lease {
    ttl_secs: u64,
    ends: Instant,
}

impl Lease {
    fn new(ttl_secs: u64, now: Instant) -> Self {
        Self { ttl_secs, ends: now + Duration::from_secs(ttl_secs) }
    }
}

struct Writer {
    shared: Arc<Shared>,
    disk: Option<Disk>,
    leases: BTreeMap<LeaseId, Lease>,
    /// Rows that compaction has made superfluous, still on disk.
    sweep: Vec<Row>,
}

/// What a group commit writes besides the rows.
#[derive(Default)]
struct Extras {
    compacted: Option<Revision>,
    leases_put: Vec<(LeaseId, u64)>,
    leases_removed: Vec<LeaseId>,
}

/// Sends the answers of a group; called with the fate of the commit.
type Reply = Box<dyn FnOnce(Result<(), StoreError>)>;

impl Writer {
    fn run(mut self, inbox: &Receiver<Request>) {
        loop {
            let mut group = Vec::new();
            match inbox.recv_timeout(if self.sweep.is_empty() { LEASE_TICK } else { Duration::from_millis(5) }) {
                Ok(request) => group.push(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            group.extend(inbox.try_iter().take(GROUP_MAX));
            let stop = group.iter().any(|request| matches!(request, Request::Stop));
            self.expire(&mut group);
            if !group.is_empty() || !self.sweep.is_empty() {
                self.commit(group);
            }
            if stop {
                return;
            }
        }
    }

    fn expire(&self, group: &mut Vec<Request>) {
        let now = Instant::now();
        for (id, _) in self.leases.iter().filter(|(_, lease)| lease.ends <= now) {
            group.push(Request::Revoke(*id, oneshot::channel().0));
        }
    }

    fn commit(&mut self, group: Vec<Request>) {
        let shared = self.shared.clone();
        let mut extras = Extras::default();
        let mut replies: Vec<Reply> = Vec::with_capacity(group.len());
        let memory = shared.memory.read().unwrap_or_else(PoisonError::into_inner);
        let known: std::collections::BTreeSet<LeaseId> = self.leases.keys().copied().collect();
        let granted = std::cell::RefCell::new(known);
        let exists = |id: LeaseId| granted.borrow().contains(&id);
        let mut stage = Stage::new(&memory, &exists);
        for request in group {
            match request {
                Request::Stop => {}
                Request::Txn(txn, reply) => match stage.apply(&txn) {
                    Ok(answer) => replies.push(Box::new(move |fate| drop(reply.send(fate.map(|()| answer))))),
                    Err(error) => drop(reply.send(Err(error))),
                },
                Request::Compact(revision, reply) => {
                    let newest = memory.compacted.max(extras.compacted.unwrap_or(0));
                    if revision > stage.revision {
                        let _ = reply.send(Err(StoreError::Future { asked: revision, current: stage.revision }));
                    } else if revision <= newest {
                        let _ = reply.send(Err(StoreError::Compacted { asked: revision, oldest: newest }));
                    } else {
                        extras.compacted = Some(revision);
                        replies.push(Box::new(move |fate| drop(reply.send(fate))));
                    }
                }
                Request::Grant(id, ttl_secs, reply) => {
                    let mut granted = granted.borrow_mut();
                    let id = if id == 0 { granted.last().map_or(1, |last| last + 1) } else { id };
                    if granted.insert(id) {
                        extras.leases_put.push((id, ttl_secs.max(1)));
                        replies.push(Box::new(move |fate| drop(reply.send(fate.map(|()| id)))));
                    } else {
                        let _ = reply.send(Err(StoreError::LeaseExists(id)));
                    }
                }
                Request::KeepAlive(id, reply) => {
                    // A lease lives in memory with its clock; only its existence is durable.
                    let answer = match self.leases.get_mut(&id) {
                        Some(lease) => {
                            *lease = Lease::new(lease.ttl_secs, Instant::now());
                            Ok(lease.ttl_secs)
                        }
                        None => Err(StoreError::LeaseNotFound(id)),
                    };
                    let _ = reply.send(answer);
                }
                Request::Revoke(id, reply) => {
                    if !granted.borrow_mut().remove(&id) {
                        let _ = reply.send(Err(StoreError::LeaseNotFound(id)));
                        continue;
                    }
                    let delete = |key: &crate::Bytes| Op::delete(key.clone());
                    let txn = Txn { success: memory.leased(id).map(delete).collect(), ..Txn::default() };
                    match stage.apply(&txn) {
                        Ok(_) => {
                            extras.leases_removed.push(id);
                            replies.push(Box::new(move |fate| drop(reply.send(fate))));
                        }
                        Err(error) => drop(reply.send(Err(error))),
                    }
                }
            }
        }
        let (rows, revision) = (std::mem::take(&mut stage.rows), stage.revision);
        drop(memory);
        let fate = self.persist(&rows, revision, &extras);
        if fate.is_ok() {
            self.publish(rows, &extras);
        }
        for reply in replies {
            reply(fate.clone());
        }
    }

    fn persist(&mut self, rows: &[Staged], revision: Revision, extras: &Extras) -> Result<(), StoreError> {
        let sweep_from = self.sweep.len().saturating_sub(SWEEP_ROWS);
        let Some(disk) = &mut self.disk else {
            self.sweep.clear();
            return Ok(());
        };
        let idle = rows.is_empty()
            && extras.compacted.is_none()
            && extras.leases_put.is_empty()
            && extras.leases_removed.is_empty();
        if idle && self.sweep.is_empty() {
            return Ok(());
        }
        if disk.database.is_none() {
            // An earlier commit failed. It may have reached the disk all the same; what is there counts.
            let after = self.shared.revision.load(Ordering::Acquire);
            let loaded = disk.load(after)?;
            if loaded.revision > after {
                publish_loaded(&self.shared, loaded);
                return Err(StoreError::Write {
                    path: disk.path.display().to_string(),
                    cause: "an earlier write that had failed turned out to be durable; ask again".into(),
                });
            }
        }
        crash::point("store.commit.before");
        disk.commit(rows, revision, extras, &self.sweep[sweep_from..])?;
        crash::point("store.commit.after");
        self.sweep.truncate(sweep_from);
        Ok(())
    }

    fn publish(&mut self, rows: Vec<Staged>, extras: &Extras) {
        let now = Instant::now();
        self.leases.extend(extras.leases_put.iter().map(|(id, ttl)| (*id, Lease::new(*ttl, now))));
        for id in &extras.leases_removed {
            self.leases.remove(id);
        }
        let rows: Vec<_> = rows.into_iter().map(|row| (row.key, row.version)).collect();
        {
            let mut memory = self.shared.memory.write().unwrap_or_else(PoisonError::into_inner);
            for (key, version) in &rows {
                memory.insert(key.clone(), version.clone());
            }
            if let Some(revision) = extras.compacted {
                self.sweep.extend(memory.compact(revision).expect("checked when it was staged"));
            }
            self.shared.revision.store(memory.revision, Ordering::Release);
        }
        crash::point("store.publish.after");
        if extras.compacted.is_some() {
            self.shared.wake_all();
        } else if !rows.is_empty() {
            self.shared.wake(&rows);
        }
    }
}

fn publish_loaded(shared: &Shared, loaded: Loaded) {
    {
        let mut memory = shared.memory.write().unwrap_or_else(PoisonError::into_inner);
        for (key, version) in &loaded.rows {
            memory.insert(key.clone(), version.clone());
        }
        shared.revision.store(memory.revision, Ordering::Release);
    }
    shared.wake(&loaded.rows);
}

#[derive(Default)]
struct Loaded {
    revision: Revision,
    compacted: Revision,
    rows: Vec<(crate::Bytes, Version)>,
    leases: Vec<(LeaseId, u64)>,
}

/// The file.
struct Disk {
    path: PathBuf,
    cache_bytes: usize,
    /// `None` before the first load and after a failed commit.
    database: Option<Database>,
}

impl Disk {
    fn failed(&self, cause: &dyn std::fmt::Display) -> StoreError {
        let (path, cause) = (self.path.display().to_string(), cause.to_string());
        // redb passes the system's text on; it has no kind for a full disk.
        if cause.contains("No space left") || cause.contains("os error 28") || cause.contains("os error 122") {
            StoreError::Full { path, cause }
        } else {
            StoreError::Write { path, cause }
        }
    }

    /// Opens the file if need be and reads all rows after `after`.
    fn load(&mut self, after: Revision) -> Result<Loaded, StoreError> {
        let path = self.path.display().to_string();
        let open = |cause: &dyn std::fmt::Display| StoreError::Open { path: path.clone(), cause: cause.to_string() };
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let existed = self.path.exists();
                let database = Database::builder()
                    .set_cache_size(self.cache_bytes)
                    .create(&self.path)
                    .map_err(|error| open(&error))?;
                if !existed {
                    sync_parent(&self.path).map_err(|error| open(&error))?;
                }
                database
            }
        };
        let loaded = read(&database, after).map_err(|error| open(&error))?;
        let loaded = match loaded {
            None => {
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
            Some(raw) => raw.parse(&path)?,
        };
        self.database = Some(database);
        Ok(loaded)
    }

    fn commit(
        &mut self,
        rows: &[Staged],
        revision: Revision,
        extras: &Extras,
        sweep: &[Row],
    ) -> Result<(), StoreError> {
        let Some(database) = &self.database else { return Err(StoreError::Closed) };
        let outcome = write(database, rows, revision, extras, sweep);
        outcome.map_err(|error| {
            let error = self.failed(&error);
            self.database = None;
            error
        })
    }
}

fn write(
    database: &Database,
    rows: &[Staged],
    revision: Revision,
    extras: &Extras,
    sweep: &[Row],
) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut log = txn.open_table(LOG)?;
        for row in rows {
            let key = record::row_key(row.version.mod_revision, row.version.position);
            log.insert(&key[..], &record::encode(&row.record)[..])?;
        }
        for (revision, position) in sweep {
            log.remove(&record::row_key(*revision, *position)[..])?;
        }
        // The newest revision may belong to a row that the sweep removes.
        if extras.compacted.is_some() || !sweep.is_empty() {
            let mut meta = txn.open_table(META)?;
            meta.insert(REVISION, revision)?;
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
    for entry in txn.open_table(LOG)?.range(from..)? {
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
    fn parse(self, path: &str) -> Result<Loaded, StoreError> {
        let damaged = |cause: String| StoreError::Damaged { path: path.to_owned(), cause };
        if self.format != FORMAT_NOW {
            return Err(damaged(format!("format {} is not known; this program writes {FORMAT_NOW}", self.format)));
        }
        let mut loaded =
            Loaded { revision: self.revision, compacted: self.compacted, leases: self.leases, rows: Vec::new() };
        loaded.rows.reserve(self.rows.len());
        for row in self.rows {
            let (revision, position, record) = row.map_err(|key| damaged(format!("row {key:x?} is no record")))?;
            let version = Version::from_record(&record, revision, position);
            loaded.revision = loaded.revision.max(revision);
            loaded.rows.push((record.key, version));
        }
        Ok(loaded)
    }
}

/// Makes the new file's name durable.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}
