//! The file under redb, so that what has changed in it behind its back is found when it is opened, and never later.
//!
//! redb keeps a checksum of every page in the page above, but looks at them after a crash only: a file that was closed in
//! order is believed. So its header is read as if no commit had taken the trouble that lets redb trust it, and opening walks
//! and checks every page in use. What is read after that is what was written.
//!
//! After a crash redb falls back to the commit before when the newest does not add up, as after a power cut in the middle
//! of it. Was the newest acknowledged, that would lose it silently. So each commit leaves a word, once it is durable, in
//! bytes of the first page that redb does not use; it needs no sync, because it only ever tells what has been one. A store that
//! is found older than that is damaged.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use crate::Revision;

/// redb's flags, and the one of them that says "this commit may be believed".
const FLAGS_AT: u64 = 9;
const TWO_PHASE_COMMIT: u8 = 4;

/// redb's header takes 320 bytes of its page of 4,096.
const WORD_AT: u64 = 2048;
const WORD_MAGIC: [u8; 8] = *b"knarr ok";
const WORD_BYTES: usize = WORD_MAGIC.len() + 8 + 8 + 4;

/// The newest commit that was acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) revision: Revision,
    /// Commits without a row: leases, compactions and their sweeps.
    pub(crate) quiet: u64,
}

impl Acknowledged {
    fn to_bytes(self) -> [u8; WORD_BYTES] {
        let mut out = [0; WORD_BYTES];
        out[..8].copy_from_slice(&WORD_MAGIC);
        out[8..16].copy_from_slice(&self.revision.to_le_bytes());
        out[16..24].copy_from_slice(&self.quiet.to_le_bytes());
        let checksum = crc32fast::hash(&out[..24]);
        out[24..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// `None` for anything else than what was written as a whole: a torn word says nothing.
    fn from_bytes(bytes: &[u8; WORD_BYTES]) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let word = Self { revision: number(8), quiet: number(16) };
        (word.to_bytes() == *bytes).then_some(word)
    }
}

/// The file under redb, of which this process holds the lock, and whatever stands in for one in a test.
#[derive(Debug, Clone)]
pub(crate) struct Medium(Arc<dyn StorageBackend>);

impl Medium {
    pub(crate) fn new(backend: impl StorageBackend) -> Self {
        Self(Arc::new(backend))
    }

    /// Nothing was ever written to it.
    pub(crate) fn is_new(&self) -> io::Result<bool> {
        Ok(self.0.len()? == 0)
    }

    pub(crate) fn acknowledged(&self) -> io::Result<Option<Acknowledged>> {
        let mut bytes = [0; WORD_BYTES];
        if self.0.len()? < WORD_AT + WORD_BYTES as u64 || vocab::weak::without("acknowledged") {
            return Ok(None);
        }
        self.0.read(WORD_AT, &mut bytes)?;
        Ok(Acknowledged::from_bytes(&bytes))
    }

    /// To be called once the commit is durable.
    pub(crate) fn acknowledge(&self, word: Acknowledged) {
        // The commit is safe without it.
        let _ = self.0.write(WORD_AT, &word.to_bytes());
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)?;
        if offset <= FLAGS_AT
            && let Some(flags) = out.get_mut((FLAGS_AT - offset) as usize)
            && !vocab::weak::without("walk")
        {
            *flags &= !TWO_PHASE_COMMIT;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reads_back_as_written_and_no_other_way() {
        let word = Acknowledged { revision: 7, quiet: 1 << 40 };
        let bytes = word.to_bytes();
        assert_eq!(Acknowledged::from_bytes(&bytes), Some(word));
        for at in 0..bytes.len() {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Acknowledged::from_bytes(&changed), None, "{at}");
        }
        assert_eq!(Acknowledged::from_bytes(&[0; WORD_BYTES]), None);
    }
}
