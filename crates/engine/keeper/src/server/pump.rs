//! From a container's pipe into its log and to its subscribers, exactly once whoever dies when.
//!
//! Bytes stay in the container's own pipe until they are logged and delivered: they are looked at by `tee` and only then consumed. A line
//! that is not finished yet waits there too, so nothing is kept per container. Consuming is one move (`splice`) into the auxiliary pipe, which
//! the engine holds as well; together with the [`Journal`] that tells the next keeper what was done and what was not.

use std::fs::File;
use std::os::fd::OwnedFd;

use linux::epoll::{self, Interest};
use linux::pipe::{self, Splice};
use linux::{Errno, Result};
use vocab::crash;

use crate::log::encode::{PIECE_MAX, Records, Rest, encode};
use crate::log::file::{LogFile, Position};
use crate::log::journal::{Intent, Journal};
use crate::log::recover::{Append, recover};
use crate::log::time::rfc3339_nano;
use crate::model::Stream;

/// Capacity asked for each container's pipe: room for bursts while the keeper is busy.
pub(crate) const PIPE_SIZE: usize = 256 * 1024;
/// And for a pipe that was found full: fewer, larger appends.
const PIPE_SIZE_BUSY: usize = 1 << 20;
/// Of the pipes that a batch passes through. At least as many slots as any pipe that an unprivileged process can make.
const BATCH_PIPE_SIZE: usize = 1 << 20;
/// Raw bytes of one batch.
const BATCH_MAX: usize = 512 * 1024;
/// An unfinished line is logged as such after waiting this long.
pub(crate) const TAIL_WAIT_MS: u64 = 5000;
const PAGE: usize = 4096;

/// What one keeper needs once, for whatever it pumps.
#[derive(Debug)]
pub(crate) struct Plumbing {
    pub journal: Journal,
    pub aux: (OwnedFd, OwnedFd),
    scratch: (OwnedFd, OwnedFd),
    null: File,
    raw: Vec<u8>,
    records: Records,
}

/// A subscriber's pipe.
#[derive(Debug)]
pub(crate) struct SinkEnd {
    pub key: u64,
    pub fd: OwnedFd,
    /// Bytes at the head of the source that it already has.
    pub sent: usize,
}

/// One stream of output.
#[derive(Debug)]
pub(crate) struct Source {
    pub stream: Stream,
    /// Read end of the container's pipe.
    pub fd: OwnedFd,
    pub sinks: Vec<SinkEnd>,
    /// Bytes at the head that were looked at and left: an unfinished line.
    tail: usize,
    tail_since_ms: u64,
    /// Its capacity, as far as it was asked for.
    capacity: usize,
    /// Nothing will be written any more, although somebody may hold a write end: when it is empty, it has ended.
    pub closing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// There may be more at once.
    More,
    /// Nothing to do until the pipe says so; `tail` if an unfinished line waits in it.
    Idle { tail: bool },
    /// A subscriber is full.
    Blocked,
    /// All writers are gone and everything is done.
    Ended,
}

impl Source {
    pub(crate) fn new(stream: Stream, fd: OwnedFd, sinks: Vec<SinkEnd>) -> Self {
        Self { stream, fd, sinks, tail: 0, tail_since_ms: 0, capacity: PIPE_SIZE, closing: false }
    }

    /// A new subscriber gets what comes from now on.
    pub(crate) fn subscribe(&mut self, key: u64, fd: OwnedFd) {
        self.sinks.push(SinkEnd { key, fd, sent: self.tail });
    }

    pub(crate) fn tail_is_old(&self, now_ms: u64) -> bool {
        self.tail > 0 && now_ms.saturating_sub(self.tail_since_ms) >= TAIL_WAIT_MS
    }

    /// A writer that fills its pipe gets a larger one, once.
    fn grow(&mut self, seen: usize) {
        if self.capacity < PIPE_SIZE_BUSY && seen + PAGE > self.capacity {
            self.capacity = PIPE_SIZE_BUSY;
            // Refused to an unprivileged user who has many: the smaller one works as well.
            let _ = pipe::set_size(&self.fd, PIPE_SIZE_BUSY);
        }
    }

    fn empty(&self) -> Pumped {
        if self.closing { Pumped::Ended } else { Pumped::Idle { tail: false } }
    }

    pub(crate) fn has_tail(&self) -> bool {
        self.tail > 0
    }
}

impl Plumbing {
    pub(crate) fn new() -> Result<Self> {
        let aux = pipe::pipe_nonblocking()?;
        // An unprivileged user may have used up what its pipes may take: smaller ones work as well.
        let _ = pipe::set_size(&aux.1, BATCH_PIPE_SIZE);
        Self::with(Journal::create()?, aux)
    }

    pub(crate) fn with(journal: Journal, aux: (OwnedFd, OwnedFd)) -> Result<Self> {
        let scratch = pipe::pipe_nonblocking()?;
        let _ = pipe::set_size(&scratch.1, BATCH_PIPE_SIZE);
        let null = File::options().write(true).open("/dev/null");
        let null = linux::Attempt::attempt(null, "open", format_args!("/dev/null"))?;
        Ok(Self { journal, aux, scratch, null, raw: Vec::new(), records: Records::default() })
    }

    /// Holds memory worth giving back.
    pub(crate) fn is_big(&self) -> bool {
        self.raw.capacity() + self.records.capacity() > 64 * 1024
    }

    /// Gives back the memory of big batches.
    pub(crate) fn rest(&mut self) {
        self.raw = Vec::new();
        self.records = Records::default();
    }

    /// One batch of one source. `closed` collects the keys of subscribers that are gone.
    pub(crate) fn pump(
        &mut self,
        slot: usize,
        source: &mut Source,
        log: Option<&mut LogFile>,
        now_ms: u64,
        closed: &mut Vec<u64>,
    ) -> Result<Pumped> {
        if log.is_none() && source.sinks.is_empty() {
            return match pipe::splice(&source.fd, &self.null, BATCH_MAX, Splice::NONBLOCK) {
                Ok(0) => Ok(Pumped::Ended),
                Ok(_) => Ok(Pumped::More),
                Err(error) if error.is(Errno::AGAIN) => Ok(source.empty()),
                Err(error) => Err(error),
            };
        }
        let seen = match self.look(&source.fd, BATCH_MAX) {
            Ok(0) => return Ok(Pumped::Ended),
            Ok(seen) => seen,
            Err(error) if error.is(Errno::AGAIN) => return Ok(source.empty()),
            Err(error) => return Err(error),
        };
        source.grow(seen);
        let (limit, blocked) = self.deliver(slot, source, seen, closed);
        let Some(log) = log else {
            self.consume(&source.fd, limit)?;
            advance(source, limit);
            return Ok(if blocked { Pumped::Blocked } else { Pumped::More });
        };
        let mut used = self.write(slot, source, log, limit, Rest::Keep)?;
        let left = seen - used;
        if used == 0 && !blocked {
            let Some(rest) = self.tail_rest(source, left, now_ms)? else {
                if source.tail != left {
                    source.tail = left;
                    source.tail_since_ms = now_ms;
                }
                return Ok(Pumped::Idle { tail: true });
            };
            used = self.write(slot, source, log, limit, rest)?;
        }
        advance(source, used);
        Ok(match blocked {
            true if used == 0 => Pumped::Blocked,
            _ => Pumped::More,
        })
    }

    /// Copies what is at the head of a pipe into `self.raw` and leaves it there. 0 when the writers are gone and it is empty.
    fn look(&mut self, fd: &OwnedFd, max: usize) -> Result<usize> {
        let n = pipe::tee(fd, &self.scratch.1, max, Splice::NONBLOCK)?;
        self.raw.clear();
        while self.raw.len() < n {
            let left = n - self.raw.len();
            if pipe::read_into(&self.scratch.0, &mut self.raw, left)? == 0 {
                break;
            }
        }
        Ok(self.raw.len())
    }

    /// Gives subscribers what they do not have yet. Returns how far all of them are, and whether one is full.
    fn deliver(&mut self, slot: usize, source: &mut Source, seen: usize, closed: &mut Vec<u64>) -> (usize, bool) {
        let mut blocked = false;
        source.sinks.retain_mut(|sink| {
            while sink.sent < seen {
                match pipe::write(&sink.fd, &self.raw[sink.sent..seen]) {
                    Ok(n) => sink.sent += n,
                    Err(error) if error.is(Errno::AGAIN) => {
                        blocked = true;
                        return true;
                    }
                    Err(error) if error.is(Errno::INTR) => {}
                    // EPIPE: the reader is gone.
                    Err(_) => {
                        closed.push(sink.key);
                        return false;
                    }
                }
            }
            true
        });
        let limit = source.sinks.iter().map(|sink| sink.sent).min().unwrap_or(seen).min(seen);
        if !source.sinks.is_empty() {
            self.journal.set_delivered(slot, source.stream, limit);
        }
        (limit, blocked)
    }

    /// Why an unfinished line should be written now, if it should.
    fn tail_rest(&self, source: &Source, left: usize, now_ms: u64) -> Result<Option<Rest>> {
        let hung_up = source.closing || epoll::poll_one(&source.fd, Interest::empty(), 0)?;
        if hung_up && pipe::available(&source.fd)? == left {
            return Ok(Some(Rest::End));
        }
        // A writer that waits for room in a full pipe never gets to write its newline.
        let full = left + PAGE > pipe::size(&source.fd)?;
        Ok((hung_up || full || source.tail_is_old(now_ms)).then_some(Rest::Flush))
    }

    /// Logs up to `limit` bytes of `self.raw` and consumes what was logged (or had to be dropped). Returns how many.
    fn write(&mut self, slot: usize, source: &Source, log: &mut LogFile, limit: usize, rest: Rest) -> Result<usize> {
        let time = linux::process::wall_clock();
        let stamp = rfc3339_nano(time.0, time.1);
        // Without a place to write there is still output to be taken from the container.
        let position = log.position();
        let room = position.as_ref().map_or(usize::MAX, |position| log.room(*position));
        self.records.clear();
        let (driver, raw) = (&log.spec.driver, &self.raw[..limit]);
        let used = encode(driver, source.stream, &stamp, raw, rest, room, &mut self.records);
        if used == 0 {
            return Ok(0);
        }
        match position {
            Ok(position) => {
                let position = self.confess(slot, log, position, &stamp);
                let intent = Intent {
                    slot,
                    stream: source.stream,
                    rest,
                    raw: used as u64,
                    inode: position.inode,
                    offset: position.size,
                    encoded: self.records.bytes().len() as u64,
                    time,
                };
                crash::point("keeper.log.before_intent");
                self.journal.intend(&intent);
                crash::point("keeper.log.intended");
                if log.append(position, self.records.bytes()).is_err() {
                    self.drop_batch(slot, used);
                }
                crash::point("keeper.log.appended");
            }
            Err(_) => self.drop_batch(slot, used),
        }
        self.settle(slot, source, used)?;
        Ok(used)
    }

    /// The batch in `self.raw[..used]` cannot be written: no space, or no file. The container must not wait for ever, so it is counted and let go.
    fn drop_batch(&mut self, slot: usize, used: usize) {
        // Nothing was appended: whoever comes next must not believe it was.
        self.journal.done();
        let lines = find_newlines(&self.raw[..used]);
        let (lines_before, bytes_before) = self.journal.dropped(slot);
        self.journal.set_dropped(slot, lines_before + lines, bytes_before + used as u64);
    }

    /// Says in the log what is missing from it, as soon as that can be written.
    fn confess(&mut self, slot: usize, log: &mut LogFile, position: Position, stamp: &str) -> Position {
        let (lines, bytes) = self.journal.dropped(slot);
        if bytes == 0 {
            return position;
        }
        let text =
            format!("[knarr: {lines} lines, {bytes} bytes of output were dropped: the log could not be written]\n");
        let mut marker = Records::default();
        encode(&log.spec.driver, Stream::Stderr, stamp, text.as_bytes(), Rest::Keep, usize::MAX, &mut marker);
        if log.append(position, marker.bytes()).is_err() {
            return position;
        }
        self.journal.set_dropped(slot, 0, 0);
        Position { size: position.size + marker.bytes().len() as u64, ..position }
    }

    /// Consumes what was logged: one move into the auxiliary pipe, then the journal is clear, then the auxiliary pipe is emptied.
    fn settle(&mut self, slot: usize, source: &Source, used: usize) -> Result<()> {
        let moved = self.move_to_aux(&source.fd, used)?;
        crash::point("keeper.log.consumed");
        if !source.sinks.is_empty() {
            let delivered = self.journal.delivered(slot, source.stream);
            self.journal.set_delivered(slot, source.stream, delivered.saturating_sub(moved));
        }
        self.journal.done();
        crash::point("keeper.log.done");
        self.drain_aux()
    }

    /// Moves up to `len` bytes; fewer only if the pipe holds fewer.
    fn move_to_aux(&mut self, fd: &OwnedFd, len: usize) -> Result<usize> {
        let mut moved = 0;
        while moved < len {
            match pipe::splice(fd, &self.aux.1, len - moved, Splice::NONBLOCK) {
                Ok(0) => break,
                Ok(n) => moved += n,
                Err(error) if error.is(Errno::INTR) => {}
                Err(error) if error.is(Errno::AGAIN) => {
                    // The source holds what we looked at, so it is the auxiliary pipe that is full: it has fewer slots than the batch.
                    if pipe::available(fd)? == 0 {
                        break;
                    }
                    self.drain_aux()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }

    fn drain_aux(&mut self) -> Result<()> {
        loop {
            match pipe::splice(&self.aux.0, &self.null, BATCH_PIPE_SIZE, Splice::NONBLOCK) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.is(Errno::AGAIN) => return Ok(()),
                Err(error) if error.is(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Consumes bytes that need no log.
    fn consume(&mut self, fd: &OwnedFd, len: usize) -> Result<()> {
        let mut left = len;
        while left > 0 {
            match pipe::splice(fd, &self.null, left, Splice::NONBLOCK) {
                Ok(0) => break,
                Ok(n) => left -= n,
                Err(error) if error.is(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Finishes what a dead keeper was doing. `find` lends the source and log that the journal names.
    pub(crate) fn recover<'a>(
        &mut self,
        find: impl FnOnce(usize, Stream) -> Option<(&'a Source, &'a mut LogFile)>,
    ) -> Result<()> {
        let in_aux = pipe::available(&self.aux.0)? as u64;
        if let Some(intent) = self.journal.pending()
            && let Some((source, log)) = find(intent.slot, intent.stream)
        {
            let now = log.stat().ok().map(|now| (now.inode, now.size));
            let recovery = recover(&intent, now, in_aux);
            if let Append::From(there) = recovery.append {
                self.finish_append(&intent, there, source, log)?;
            }
            self.move_to_aux(&source.fd, recovery.consume as usize)?;
            let delivered = self.journal.delivered(intent.slot, intent.stream);
            let delivered = delivered.saturating_sub(intent.raw as usize);
            self.journal.set_delivered(intent.slot, intent.stream, delivered);
        }
        self.journal.done();
        self.drain_aux()
    }

    /// The bytes are still in the container's pipe: makes their records again and appends the part that is missing.
    fn finish_append(&mut self, intent: &Intent, there: u64, source: &Source, log: &mut LogFile) -> Result<()> {
        let seen = self.look(&source.fd, intent.raw as usize)?;
        let stamp = rfc3339_nano(intent.time.0, intent.time.1);
        let (driver, raw) = (&log.spec.driver, &self.raw[..seen]);
        self.records.clear();
        encode(driver, intent.stream, &stamp, raw, intent.rest, usize::MAX, &mut self.records);
        let missing = self.records.bytes().get(there as usize..).unwrap_or_default();
        let written = log.stat().and_then(|now| log.append(now, missing));
        if written.is_err() {
            let _ = log.cut(intent.offset);
            self.drop_batch(intent.slot, seen);
        }
        Ok(())
    }
}

/// The first `used` bytes are gone from the pipe.
fn advance(source: &mut Source, used: usize) {
    for sink in &mut source.sinks {
        sink.sent -= used.min(sink.sent);
    }
    if used > 0 {
        source.tail = 0;
    }
}

fn find_newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

const _: () = assert!(PIECE_MAX + PAGE < PIPE_SIZE);
