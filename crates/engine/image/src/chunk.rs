//! Pieces of a stream that several threads share without copying: a layer's bytes are read once and then hashed, parsed
//! and written from the same buffer. A pool bounds how many buffers there are, which is what bounds memory and makes a
//! fast reader wait for a slow disk.

use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::sync::{Arc, Condvar, Mutex};

/// Small enough to stay in the processor's second-level cache between the reader and the hasher.
pub const BUFFER_BYTES: usize = 256 << 10;

/// A fixed number of buffers, lent out and taken back.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    free: Vec<Box<[u8]>>,
    /// Buffers that may still be made.
    unmade: usize,
}

impl Pool {
    /// A pool of at most `buffers` buffers of [`BUFFER_BYTES`] each, made when first needed.
    pub fn new(buffers: usize) -> Self {
        let state = State { free: Vec::new(), unmade: buffers.max(1) };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), returned: Condvar::new() }) }
    }

    /// A buffer, as soon as one is free.
    fn take(&self) -> Box<[u8]> {
        let mut state = self.shared.state.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            if let Some(buffer) = state.free.pop() {
                return buffer;
            }
            if state.unmade > 0 {
                state.unmade -= 1;
                return vec![0; BUFFER_BYTES].into_boxed_slice();
            }
            state = self.shared.returned.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Reads one buffer full, or what is left. `None` at the end of the input.
    pub fn read(&self, input: &mut (impl Read + ?Sized)) -> io::Result<Option<Chunk>> {
        let mut lent = Lent { buffer: self.take(), pool: self.shared.clone() };
        let mut filled = 0;
        while filled < lent.buffer.len() {
            match input.read(&mut lent.buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if filled == 0 {
            return Ok(None);
        }
        Ok(Some(Chunk { lent: Arc::new(lent), range: 0..filled }))
    }
}

struct Lent {
    buffer: Box<[u8]>,
    pool: Arc<Shared>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.pool.state.lock().unwrap_or_else(|e| e.into_inner()).free.push(buffer);
        self.pool.returned.notify_one();
    }
}

/// Some bytes of a stream. Cloning and cutting share the buffer.
#[derive(Clone)]
pub struct Chunk {
    lent: Arc<Lent>,
    range: Range<usize>,
}

impl Chunk {
    /// Cuts off the first `n` bytes (at most what there is).
    pub fn split_to(&mut self, n: usize) -> Chunk {
        let middle = self.range.start + n.min(self.range.len());
        let head = Chunk { lent: self.lent.clone(), range: self.range.start..middle };
        self.range.start = middle;
        head
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.lent.buffer[self.range.clone()]
    }
}

/// A stream in pieces. `Ok(None)` is the end, and stays so.
pub trait Source {
    fn next_chunk(&mut self) -> io::Result<Option<Chunk>>;
}

impl<S: Source + ?Sized> Source for &mut S {
    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        (**self).next_chunk()
    }
}

/// Any reader as a [`Source`].
pub struct ReadSource<R> {
    input: R,
    pool: Pool,
}

impl<R: Read> ReadSource<R> {
    pub fn new(input: R, pool: Pool) -> Self {
        Self { input, pool }
    }
}

impl<R: Read> Source for ReadSource<R> {
    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        self.pool.read(&mut self.input)
    }
}

/// Any [`Source`] as a reader.
pub struct SourceReader<S> {
    source: S,
    left: Option<Chunk>,
}

impl<S: Source> SourceReader<S> {
    pub fn new(source: S) -> Self {
        Self { source, left: None }
    }
}

impl<S: Source> Read for SourceReader<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &mut self.left
                && !chunk.is_empty()
            {
                let part = chunk.split_to(out.len());
                out[..part.len()].copy_from_slice(&part);
                return Ok(part.len());
            }
            self.left = self.source.next_chunk()?;
            if self.left.is_none() {
                return Ok(0);
            }
        }
    }
}
