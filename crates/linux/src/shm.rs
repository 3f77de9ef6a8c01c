//! Words of memory shared between processes through a memory file: a store is visible to every mapping at once and survives the death of the
//! process that made it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::SealFlags;

use crate::{Attempt, Result, sys};

/// A shared mapping of a memory file as 64-bit words. Pages that were never stored to occupy nothing.
#[derive(Debug)]
pub struct SharedWords {
    base: NonNull<AtomicU64>,
    words: usize,
}

impl SharedWords {
    /// Makes a memory file of `words` zeros whose length cannot change any more.
    pub fn create(name: &str, words: usize) -> Result<(File, Self)> {
        let file = crate::memfd::create(name)?;
        file.set_len(words as u64 * 8).attempt("ftruncate", format_args!("memfd {name:?}, {words} words"))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&file, seals).attempt("fcntl", format_args!("F_ADD_SEALS, {seals:?}"))?;
        let words = Self::map(&file)?;
        Ok((file, words))
    }

    /// Maps a file that [`SharedWords::create`] made, perhaps in another process. EPERM if its length is not sealed.
    pub fn map(file: impl AsFd) -> Result<Self> {
        let fd = file.as_fd();
        let seals = rustix::fs::fcntl_get_seals(fd).attempt("fcntl", format_args!("F_GET_SEALS"))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(crate::Error::new("mmap", "memory file of changeable length", crate::Errno::PERM));
        }
        let len = crate::fs::fstat(fd)?.st_size as usize & !7;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(sys::last()).attempt("mmap", format_args!("fd {}, {len}", fd.as_raw_fd()));
        }
        let base =
            NonNull::new(base.cast::<AtomicU64>()).ok_or(crate::Errno::FAULT).attempt("mmap", format_args!("null"))?;
        Ok(Self { base, words: len / 8 })
    }

    pub fn len(&self) -> usize {
        self.words
    }

    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.words, "word {at} of {}", self.words);
        // SAFETY: in bounds of a mapping that lives as long as `self`, page-aligned, initialised (zeros), its length sealed so that it cannot be
        // cut off under us, and only ever accessed as atomics, by other processes too.
        unsafe { self.base.add(at).as_ref() }
    }

    /// Panics out of bounds, as indexing does.
    pub fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::SeqCst)
    }

    /// Stores happen in program order for whoever looks after this process has died.
    pub fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::SeqCst);
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_seen_through_another_mapping() {
        let (file, ours) = SharedWords::create("test", 1024).unwrap();
        let theirs = SharedWords::map(&file).unwrap();
        ours.store(1023, 42);
        assert_eq!(theirs.load(1023), 42);
        assert!(SharedWords::map(crate::memfd::create("open").unwrap()).is_err());
    }
}
