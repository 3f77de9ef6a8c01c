//! The threads that make a layer's regular files. Making a file costs the kernel more than everything else in unpacking, and
//! it scales over directories: each directory belongs to one worker, which also keeps what happens at one path in order.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};

use linux::Errno;
use linux::fs::{Mode, OFlags, Timespec, Timestamps};

use super::dirs::Dir;
use crate::chunk::Chunk;
use crate::error::{Context, Error, Result};
use crate::tar::{Entry, Extent, FileData, Kind, Time};

/// Jobs that wait for one worker. Their data is bounded by the pool of buffers.
const QUEUE: usize = 64;
/// Small files go to their worker together: waking it costs more than making one of them.
const TOGETHER_MAX: usize = 32;
/// Bytes of the archive from the first small file of a batch to the last. The batch holds the buffers that its files lie in, and
/// those are few: nobody may wait for a buffer that waits for company.
const TOGETHER_BYTES_MAX: u64 = 512 << 10;

/// What all makers of files and other things must know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    /// Whom the kernel gives a new file to.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bits that the kernel takes from a new file's mode.
    pub(super) umask: u32,
    pub(super) rootless: bool,
}

/// A file to be made.
struct New {
    dir: Arc<Dir>,
    name: Vec<u8>,
    entry: Entry,
    data: Vec<Chunk>,
}

enum Job {
    /// Files with all their data.
    Whole(Vec<New>),
    /// A file of which [`Job::More`] and [`Job::Done`] follow.
    Begin(Box<New>),
    More(Chunk),
    Done,
    /// Answers when everything before it is done.
    Barrier(SyncSender<()>),
}

/// The applier's side of the workers.
pub(super) struct Files<'scope> {
    queues: Vec<SyncSender<Job>>,
    /// For each worker, files that wait for company.
    gathered: Vec<Vec<New>>,
    /// Where in the archive the oldest of them is.
    gathered_since: u64,
    workers: Vec<ScopedJoinHandle<'scope, ()>>,
    shared: Arc<Shared>,
}

struct Shared {
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl<'scope> Files<'scope> {
    pub(super) fn start<'env>(scope: &'scope Scope<'scope, 'env>, workers: usize, owner: Owner) -> Self {
        let shared = Arc::new(Shared { failed: AtomicBool::new(false), error: Mutex::new(None) });
        let gathered = (0..workers.max(1)).map(|_| Vec::new()).collect();
        let (queues, workers) = (0..workers.max(1))
            .map(|_| {
                let (queue, jobs) = sync_channel(QUEUE);
                let shared = shared.clone();
                (queue, scope.spawn(move || work(&jobs, &shared, owner)))
            })
            .unzip();
        Self { queues, gathered, gathered_since: 0, workers, shared }
    }

    /// Makes a file at a name where nothing is. `at`: how far the archive was read.
    pub(super) fn whole(&mut self, dir: Arc<Dir>, name: &[u8], entry: Entry, data: Vec<Chunk>, at: u64) {
        let worker = dir.inode as usize % self.queues.len();
        if self.gathered.iter().all(Vec::is_empty) {
            self.gathered_since = at;
        }
        self.gathered[worker].push(New { dir, name: name.to_vec(), entry, data });
        if at - self.gathered_since >= TOGETHER_BYTES_MAX {
            self.hand_over_all();
        } else if self.gathered[worker].len() >= TOGETHER_MAX {
            self.hand_over(worker);
        }
    }

    /// Starts a file whose data goes through [`Files::more`] and ends with [`Files::done`].
    pub(super) fn begin(&mut self, dir: Arc<Dir>, name: &[u8], entry: Entry) -> usize {
        let worker = dir.inode as usize % self.queues.len();
        self.hand_over_all();
        self.send(worker, Job::Begin(Box::new(New { dir, name: name.to_vec(), entry, data: Vec::new() })));
        worker
    }

    fn hand_over_all(&mut self) {
        (0..self.queues.len()).for_each(|worker| self.hand_over(worker));
    }

    fn hand_over(&mut self, worker: usize) {
        if !self.gathered[worker].is_empty() {
            let files = std::mem::replace(&mut self.gathered[worker], Vec::with_capacity(TOGETHER_MAX));
            self.send(worker, Job::Whole(files));
        }
    }

    pub(super) fn more(&self, worker: usize, chunk: Chunk) {
        self.send(worker, Job::More(chunk));
    }

    pub(super) fn done(&self, worker: usize) {
        self.send(worker, Job::Done);
    }

    /// Returns when every file handed over so far is complete.
    pub(super) fn barrier(&mut self) -> Result<()> {
        self.hand_over_all();
        let (reply, replies) = sync_channel(self.queues.len());
        for worker in 0..self.queues.len() {
            self.send(worker, Job::Barrier(reply.clone()));
        }
        drop(reply);
        while replies.recv().is_ok() {}
        self.check()
    }

    /// The first error of any worker.
    pub(super) fn check(&self) -> Result<()> {
        if !self.shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let error = self.shared.error.lock().unwrap_or_else(|e| e.into_inner()).take();
        Err(error.unwrap_or_else(|| Error::Damaged("a file worker failed twice".into())))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.hand_over_all();
        drop(self.queues);
        for worker in self.workers {
            worker.join().map_err(|_| Error::Damaged("a file worker panicked".into()))?;
        }
        let mut error = self.shared.error.lock().unwrap_or_else(|e| e.into_inner());
        error.take().map_or(Ok(()), Err)
    }

    fn send(&self, worker: usize, job: Job) {
        // A worker lives until its queue is dropped; if it panicked, `finish` says so.
        let _ = self.queues[worker].send(job);
    }
}

fn work(jobs: &Receiver<Job>, shared: &Shared, owner: Owner) {
    let mut open: Option<Open> = None;
    while let Ok(job) = jobs.recv() {
        if let Job::Barrier(reply) = job {
            let _ = reply.send(());
            continue;
        }
        // After a failure anywhere only the queues are emptied.
        if shared.failed.load(Ordering::Acquire) {
            open = None;
            continue;
        }
        if let Err(error) = carry_out(job, &mut open, owner) {
            *shared.error.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
            shared.failed.store(true, Ordering::Release);
        }
    }
}

fn carry_out(job: Job, open: &mut Option<Open>, owner: Owner) -> Result<()> {
    match job {
        Job::Whole(files) => files.into_iter().try_for_each(|new| {
            let mut file = Open::create(&new.dir, &new.name, new.entry)?;
            for chunk in new.data {
                file.write(&chunk)?;
            }
            file.close(owner)
        }),
        Job::Begin(new) => {
            *open = Some(Open::create(&new.dir, &new.name, new.entry)?);
            Ok(())
        }
        Job::More(chunk) => open.as_mut().map_or(Ok(()), |file| file.write(&chunk)),
        Job::Done => open.take().map_or(Ok(()), |file| file.close(owner)),
        Job::Barrier(_) => Ok(()),
    }
}

/// A file that is being written.
struct Open {
    file: File,
    entry: Entry,
    /// Where the next bytes go; for a sparse file the pieces that are left.
    at: u64,
    extents: Option<std::vec::IntoIter<Extent>>,
    left_in_extent: u64,
}

impl Open {
    fn create(dir: &Dir, name: &[u8], mut entry: Entry) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let name = std::ffi::OsStr::from_bytes(name);
        let file = match linux::fs::openat(dir, name, flags, mode) {
            Ok(fd) => File::from(fd),
            Err(source) => return Err(Error::Kernel { what: describe(&entry), source }),
        };
        let extents = match &mut entry.kind {
            Kind::File(FileData { sparse: Some(extents), .. }) => Some(std::mem::take(extents).into_iter()),
            _ => None,
        };
        Ok(Self { file, entry, at: 0, extents, left_in_extent: 0 })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some(extents) = &mut self.extents else {
            self.at += bytes.len() as u64;
            return self.file.write_all(bytes).context(|| describe(&self.entry));
        };
        while !bytes.is_empty() {
            if self.left_in_extent == 0 {
                // The map was checked against the payload's length.
                let Some(extent) = extents.next() else { break };
                (self.at, self.left_in_extent) = (extent.offset, extent.len);
                continue;
            }
            let n = bytes.len().min(usize::try_from(self.left_in_extent).unwrap_or(usize::MAX));
            self.file.write_all_at(&bytes[..n], self.at).context(|| describe(&self.entry))?;
            (self.at, self.left_in_extent) = (self.at + n as u64, self.left_in_extent - n as u64);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn close(self, owner: Owner) -> Result<()> {
        if let (Some(_), Kind::File(data)) = (&self.extents, &self.entry.kind) {
            self.file.set_len(data.size).context(|| describe(&self.entry))?;
        }
        set_metadata(&self.file, &self.entry, owner).context(|| describe(&self.entry))
    }
}

pub(super) fn describe(entry: &Entry) -> String {
    format!("unpack {:?}", String::from_utf8_lossy(&entry.path))
}

/// Owner, mode, attributes and time of a file that was just made, in the order in which the kernel keeps them: a change of
/// owner clears set-id bits and capabilities.
fn set_metadata(file: &File, entry: &Entry, owner: Owner) -> linux::Result<()> {
    let owned = (entry.uid, entry.gid) == (owner.uid, owner.gid);
    if !owned {
        linux::fs::fchown(file, entry.uid, entry.gid)?;
    }
    if entry.mode & owner.umask != 0 || entry.mode & 0o7000 != 0 {
        linux::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    }
    set_xattrs(file, entry)?;
    linux::fs::futimens(file, &times(entry.mtime))
}

/// The attributes were filtered before; a file system that has none of this kind keeps none.
pub(crate) fn set_xattrs(fd: impl AsFd, entry: &Entry) -> linux::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    for (name, value) in &entry.xattrs {
        match linux::xattr::set(&fd, std::ffi::OsStr::from_bytes(name), value) {
            Err(e) if e.is(Errno::OPNOTSUPP) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Access time too: a layer that was never read looks the same wherever it was unpacked.
pub(crate) fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// What the kernel does to files that this process makes.
pub(super) fn owner(rootless: bool) -> io::Result<Owner> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // The fourth number is the one that the file system uses.
    let id = |name| field(name).and_then(|ids| ids.split_whitespace().nth(3)?.parse().ok());
    let umask = field("Umask:").and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    match (id("Uid:"), id("Gid:"), umask) {
        (Some(uid), Some(gid), Some(umask)) => Ok(Owner { uid, gid, umask, rootless }),
        _ => Err(io::Error::other("/proc/self/status has no Uid, Gid or Umask")),
    }
}
