//! SHA-256 in the shapes that the store needs. By aws-lc: on processors without instructions of their own for it, it is
//! twice as fast as anything written in Rust, and hashing is the largest part of loading an image there.

use std::io::{self, Read, Write};

use aws_lc_rs::digest::{Context, SHA256, digest};
use vocab::Digest;

pub fn sha256(bytes: &[u8]) -> Digest {
    from(&digest(&SHA256, bytes))
}

fn from(hash: &aws_lc_rs::digest::Digest) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_ref());
    Digest::from_sha256(bytes)
}

/// Hashes what it is given piece by piece.
pub struct Hasher {
    state: Context,
    bytes: u64,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { state: Context::new(&SHA256), bytes: 0 }
    }
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn finish(self) -> Digest {
        from(&self.state.finish())
    }
}

/// Hashes what passes through to `inner`.
pub struct HashWriter<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> HashWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default() }
    }

    pub fn bytes(&self) -> u64 {
        self.hasher.bytes()
    }

    pub fn finish(self) -> (W, Digest, u64) {
        let bytes = self.hasher.bytes();
        (self.inner, self.hasher.finish(), bytes)
    }
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes what is read through it.
pub struct HashReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> HashReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }

    pub fn finish(self) -> (Digest, u64) {
        let bytes = self.hasher.bytes();
        (self.hasher.finish(), bytes)
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}
