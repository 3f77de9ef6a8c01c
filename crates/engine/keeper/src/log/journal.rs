//! How far logging has come, in memory shared with the engine: it survives `kill -9` of the keeper, and costs no system call.
//!
//! One batch at a time goes through: [`Journal::intend`] says what is about to be appended; it is appended; the raw bytes leave the
//! container's pipe for the auxiliary pipe (which is shared as well); [`Journal::done`]; the auxiliary pipe is drained. From the intent and
//! from what the auxiliary pipe holds, the next keeper knows at which of these points the last one died.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use linux::shm::SharedWords;

use super::encode::Rest;
use crate::model::Stream;

/// Things held at once. The words of those never used occupy nothing.
pub(crate) const SLOTS_MAX: usize = 1 << 16;
const SLOT_WORDS: usize = 4;
const SLOTS_AT: usize = 16;

/// Says what the words mean.
const LAYOUT: u64 = 0x6b_6e_61_72_72_00_00_01;

mod at {
    pub(super) const LAYOUT: usize = 0;
    pub(super) const PENDING: usize = 1;
    pub(super) const SLOT: usize = 2;
    pub(super) const STREAM: usize = 3;
    pub(super) const REST: usize = 4;
    pub(super) const RAW: usize = 5;
    pub(super) const INODE: usize = 6;
    pub(super) const OFFSET: usize = 7;
    pub(super) const ENCODED: usize = 8;
    pub(super) const SECS: usize = 9;
    pub(super) const NANOS: usize = 10;
}

/// One batch about to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intent {
    pub slot: usize,
    pub stream: Stream,
    pub rest: Rest,
    /// Bytes at the head of the container's pipe that the records stand for.
    pub raw: u64,
    /// The log file, its length before, and how much is appended.
    pub inode: u64,
    pub offset: u64,
    pub encoded: u64,
    /// The time in the records, so that they can be made again.
    pub time: (i64, u32),
}

#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    words: SharedWords,
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Journal {
    pub(crate) fn create() -> linux::Result<Self> {
        let (file, words) = SharedWords::create("knarr-journal", SLOTS_AT + SLOT_WORDS * SLOTS_MAX)?;
        words.store(at::LAYOUT, LAYOUT);
        Ok(Self { file, words })
    }

    /// Takes over what another keeper wrote. EPROTO if its words mean something else.
    pub(crate) fn inherit(file: File) -> linux::Result<Self> {
        let words = SharedWords::map(&file)?;
        if words.len() < SLOTS_AT + SLOT_WORDS * SLOTS_MAX || words.load(at::LAYOUT) != LAYOUT {
            return Err(linux::Error::new("journal", "unknown layout", linux::Errno::PROTO));
        }
        Ok(Self { file, words })
    }

    pub(crate) fn intend(&self, intent: &Intent) {
        let rest = match intent.rest {
            Rest::Keep => 0,
            Rest::Flush => 1,
            Rest::End => 2,
        };
        self.words.store(at::SLOT, intent.slot as u64);
        self.words.store(at::STREAM, (intent.stream == Stream::Stderr).into());
        self.words.store(at::REST, rest);
        self.words.store(at::RAW, intent.raw);
        self.words.store(at::INODE, intent.inode);
        self.words.store(at::OFFSET, intent.offset);
        self.words.store(at::ENCODED, intent.encoded);
        self.words.store(at::SECS, intent.time.0 as u64);
        self.words.store(at::NANOS, intent.time.1.into());
        // Last: from here on the words above count.
        self.words.store(at::PENDING, 1);
    }

    pub(crate) fn done(&self) {
        self.words.store(at::PENDING, 0);
    }

    pub(crate) fn pending(&self) -> Option<Intent> {
        if self.words.load(at::PENDING) == 0 {
            return None;
        }
        Some(Intent {
            slot: self.words.load(at::SLOT) as usize,
            stream: if self.words.load(at::STREAM) == 1 { Stream::Stderr } else { Stream::Stdout },
            rest: match self.words.load(at::REST) {
                0 => Rest::Keep,
                1 => Rest::Flush,
                _ => Rest::End,
            },
            raw: self.words.load(at::RAW),
            inode: self.words.load(at::INODE),
            offset: self.words.load(at::OFFSET),
            encoded: self.words.load(at::ENCODED),
            time: (self.words.load(at::SECS) as i64, self.words.load(at::NANOS) as u32),
        })
    }

    /// Makes a slot fresh for a new owner.
    pub(crate) fn reset_slot(&self, slot: usize) {
        (0..SLOT_WORDS).for_each(|word| self.store_slot(slot, word, 0));
    }

    /// Lines and bytes of this slot that could not be written and are not yet told of in its log.
    pub(crate) fn dropped(&self, slot: usize) -> (u64, u64) {
        (self.load_slot(slot, 0), self.load_slot(slot, 1))
    }

    pub(crate) fn set_dropped(&self, slot: usize, lines: u64, bytes: u64) {
        self.store_slot(slot, 0, lines);
        self.store_slot(slot, 1, bytes);
    }

    /// Bytes at the head of a stream's pipe that subscribers already have.
    pub(crate) fn delivered(&self, slot: usize, stream: Stream) -> usize {
        self.load_slot(slot, 2 + usize::from(stream == Stream::Stderr)) as usize
    }

    pub(crate) fn set_delivered(&self, slot: usize, stream: Stream, bytes: usize) {
        self.store_slot(slot, 2 + usize::from(stream == Stream::Stderr), bytes as u64);
    }

    fn load_slot(&self, slot: usize, word: usize) -> u64 {
        self.words.load(SLOTS_AT + slot * SLOT_WORDS + word)
    }

    fn store_slot(&self, slot: usize, word: usize, value: u64) {
        // A page that was never stored to stays unoccupied as long as nobody stores zeros into it either.
        let at = SLOTS_AT + slot * SLOT_WORDS + word;
        if self.words.load(at) != value {
            self.words.store(at, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_keeper_reads_what_the_last_one_meant() {
        let journal = Journal::create().unwrap();
        assert_eq!(journal.pending(), None);
        let intent = Intent {
            slot: SLOTS_MAX - 1,
            stream: Stream::Stderr,
            rest: Rest::End,
            raw: 5,
            inode: 6,
            offset: 7,
            encoded: 8,
            time: (-9, 10),
        };
        journal.intend(&intent);
        journal.set_dropped(intent.slot, 3, 4);
        let file = std::os::fd::AsFd::as_fd(&journal).try_clone_to_owned().unwrap();
        let next = Journal::inherit(file.into()).unwrap();
        assert_eq!(next.pending(), Some(intent));
        assert_eq!(next.dropped(intent.slot), (3, 4));
        next.done();
        assert_eq!(journal.pending(), None);
    }
}
