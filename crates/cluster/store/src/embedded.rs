//! The default backend: one redb file, one writer thread, all state in memory.
//!
//! The writer takes whatever transactions wait, works them out on top of one another, writes their rows in one
//! durable commit, shows them to readers and only then answers. While one commit waits for the disk the next group
//! gathers, so the disk's latency is shared by all writers.
//!
//! The file is etcd's log: a row for each write, keyed by revision. Opening reads it once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use vocab::crash;

use crate::disk::{Disk, Extras, Loaded};
use crate::memory::{Memory, Row, Version};
use crate::stage::{Stage, Staged};
use crate::{
    Answer, LeaseId, Op, RangeReply, RangeRequest, Revision, Span, Store, StoreError, Txn, TxnReply, Watch, WatchBatch,
    WatchRequest,
};

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
    writes: Writes,
}

/// Who commits.
enum Writes {
    Thread {
        requests: Sender<Request>,
        writer: Option<std::thread::JoinHandle<()>>,
    },
    /// Whoever asks, at once.
    Caller(Mutex<Writer>),
}

impl Embedded {
    /// Opens the store in this file, making it if there is none. Fails if another process has it open.
    pub fn open(path: &Path, options: &Options) -> Result<Self, StoreError> {
        Self::open_disk(Disk::open(path, options.cache_bytes)?)
    }

    pub(crate) fn open_disk(mut disk: Disk) -> Result<Self, StoreError> {
        let loaded = disk.load(0)?;
        Self::start(Some(disk), loaded)
    }

    /// A store that lives and dies with this value.
    pub fn ephemeral() -> Self {
        Self::start(None, Loaded::default()).expect("nothing outside is touched")
    }

    /// An ephemeral store without a thread of its own: each transaction is committed before its answer is waited for, and
    /// leases end by the time of tokio's clock. For simulations, which run in one thread.
    pub fn solo() -> Self {
        let (shared, writer) = Self::parts(None, Loaded::default());
        Self { shared, writes: Writes::Caller(Mutex::new(writer)) }
    }

    fn start(disk: Option<Disk>, loaded: Loaded) -> Result<Self, StoreError> {
        let (shared, writer) = Self::parts(disk, loaded);
        let (requests, inbox) = std::sync::mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&inbox))
            .map_err(|cause| StoreError::Open { path: "writer thread".into(), cause: cause.to_string() })?;
        Ok(Self { shared, writes: Writes::Thread { requests, writer: Some(writer) } })
    }

    fn parts(disk: Option<Disk>, loaded: Loaded) -> (Arc<Shared>, Writer) {
        let mut memory = Memory::at(loaded.revision.max(1), loaded.compacted);
        for (key, version) in loaded.rows {
            memory.insert(key, version);
        }
        let sweep = memory.compact_loaded();
        let revision = AtomicU64::new(memory.revision);
        let shared = Arc::new(Shared { memory: RwLock::new(memory), revision, watchers: Mutex::default() });
        let now = Instant::now();
        let leases = loaded.leases.into_iter().map(|(id, ttl)| (id, Lease::new(ttl, now))).collect();
        let writer = Writer { shared: shared.clone(), disk, leases, sweep, full: false };
        (shared, writer)
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
        let request = make(reply);
        let sent = match &self.writes {
            Writes::Thread { requests, .. } => requests.send(request).is_ok(),
            Writes::Caller(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let mut group = vec![request];
                writer.expire(&mut group);
                writer.commit(group);
                true
            }
        };
        Box::pin(async move {
            if !sent {
                return Err(StoreError::Closed);
            }
            answer.await.unwrap_or(Err(StoreError::Closed))
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let Writes::Thread { requests, writer } = &mut self.writes else { return };
        let _ = requests.send(Request::Stop);
        if let Some(writer) = writer.take() {
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
    /// The last commit that added something did not fit.
    full: bool,
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
            // On a full disk each fares on its own: a removal must not fail for what waits beside it.
            group.extend(inbox.try_iter().take(if self.full { 0 } else { GROUP_MAX }));
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
        match &fate {
            Err(StoreError::Full { .. }) => self.full = true,
            Ok(()) if rows.iter().any(|row| row.record.value.is_some()) => self.full = false,
            _ => {}
        }
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
        if disk.is_closed() {
            // An earlier commit failed. It may have reached the disk all the same; what is there counts.
            let after = self.shared.revision.load(Ordering::Acquire);
            let loaded = disk.load(after)?;
            if loaded.revision > after {
                publish_loaded(&self.shared, loaded);
                return Err(StoreError::Write {
                    path: disk.path(),
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
