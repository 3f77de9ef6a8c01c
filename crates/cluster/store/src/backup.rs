//! Backup and restore in one file, over any backend: also how a cluster's data moves from one backend to another.
//!
//! The file: the line `knarr store backup 1\n`, the revision it shows (8 bytes), then for each key its length, its value's
//! length (4 bytes each) and where its revision is written plus 1, or 0 (4 bytes), the key and the value without
//! revision; after the last key a length of `u32::MAX`, and the SHA-256 of all before. Numbers are little endian.
//!
//! A restored store counts its own revisions, so clients list anew, as after etcd's own restore. Leases are not kept:
//! what hangs on one is a matter of seconds.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::{Bytes, KeyValue, Op, Put, RangeRequest, Revision, Span, Store, StoreError, Txn, record};

const MAGIC: &[u8] = b"knarr store backup 1\n";
const END: u32 = u32::MAX;
/// Keys read or written by one request; etcd takes at most 128 operations in a transaction.
const PAGE: usize = 100;
/// Bytes of values in one write, below etcd's limit for a request.
const PAGE_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("write the backup")]
    Write(#[source] io::Error),
    #[error("read the backup")]
    Read(#[source] io::Error),
    #[error("not a backup of a store, or of a newer version")]
    NotABackup,
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    #[error("the store holds {0} already: restore into an empty one")]
    NotEmpty(String),
}

/// Writes everything that the store holds at one revision, while it goes on serving. Returns that revision and the
/// number of keys. The caller syncs the file.
pub async fn backup(store: &dyn Store, out: impl Write + Send) -> Result<(Revision, usize), BackupError> {
    let mut out = Hashing { inner: out, hash: Sha256::new() };
    let revision = store.revision().await?;
    out.put(MAGIC)?;
    out.put(&revision.to_le_bytes())?;
    let (mut span, mut count) = (Span::all(), 0);
    loop {
        let request = RangeRequest { span: span.clone(), revision: Some(revision), limit: PAGE, count: false };
        let page = store.range(request).await?;
        for kv in &page.kvs {
            let value = unstamped(kv);
            out.put(&(kv.key.len() as u32).to_le_bytes())?;
            out.put(&(value.len() as u32).to_le_bytes())?;
            out.put(&kv.stamp_at.map_or(0, |at| at + 1).to_le_bytes())?;
            out.put(&kv.key)?;
            out.put(&value)?;
        }
        count += page.kvs.len();
        let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
        span = span.starting_at([&last.key[..], b"\0"].concat());
    }
    out.put(&END.to_le_bytes())?;
    let digest = out.hash.finalize();
    out.inner.write_all(&digest).and_then(|()| out.inner.flush()).map_err(BackupError::Write)?;
    Ok((revision, count))
}

/// Puts a backup into an empty store. The whole file is checked before the first key is written. Returns the number of keys.
pub async fn restore(store: &dyn Store, mut file: impl Read + io::Seek + Send) -> Result<usize, BackupError> {
    let held = store.range(RangeRequest { limit: 1, ..RangeRequest::newest(Span::all()) }).await?;
    if let Some(kv) = held.kvs.first() {
        return Err(BackupError::NotEmpty(format!("{:?}", String::from_utf8_lossy(&kv.key))));
    }
    let mut checked = Reader::open(&mut file)?;
    while checked.next()?.is_some() {}
    checked.finish()?;
    file.rewind().map_err(BackupError::Read)?;

    let mut records = Reader::open(&mut file)?;
    let (mut txn, mut bytes, mut count) = (Txn::new(), 0, 0);
    while let Some(put) = records.next()? {
        if txn.success.len() == PAGE || (bytes + put.value.len() > PAGE_BYTES && bytes > 0) {
            store.txn(std::mem::take(&mut txn)).await?;
            bytes = 0;
        }
        bytes += put.value.len();
        count += 1;
        txn.success.push(Op::Put(put));
    }
    if !txn.success.is_empty() {
        store.txn(txn).await?;
    }
    Ok(count)
}

fn unstamped(kv: &KeyValue) -> Bytes {
    let Some(at) = kv.stamp_at else { return kv.value.clone() };
    let (at, digits) = (at as usize, record::digits(kv.mod_revision));
    [&kv.value[..at], &kv.value[at + digits..]].concat().into()
}

struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.hash.update(bytes);
        self.inner.write_all(bytes).map_err(BackupError::Write)
    }
}

struct Reader<R> {
    file: Hashing<io::BufReader<R>>,
}

impl<R: Read> Reader<R> {
    fn open(file: R) -> Result<Self, BackupError> {
        let mut reader = Self { file: Hashing { inner: io::BufReader::new(file), hash: Sha256::new() } };
        let mut magic = [0; MAGIC.len()];
        match reader.take(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Ok(()) | Err(BackupError::Damaged(_)) => return Err(BackupError::NotABackup),
            Err(error) => return Err(error),
        }
        reader.take(&mut [0; 8])?;
        Ok(reader)
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.file.inner.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::Damaged("it ends too early"),
            _ => BackupError::Read(error),
        })?;
        self.file.hash.update(bytes);
        Ok(())
    }

    fn number(&mut self) -> Result<u32, BackupError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// As many bytes as the file claims, but no memory for more than it really has.
    fn bytes(&mut self, length: u32) -> Result<Bytes, BackupError> {
        let mut bytes = Vec::new();
        let mut left = length as usize;
        while left > 0 {
            let (from, step) = (bytes.len(), left.min(1 << 20));
            bytes.resize(from + step, 0);
            self.take(&mut bytes[from..])?;
            left -= step;
        }
        Ok(bytes.into())
    }

    fn next(&mut self) -> Result<Option<Put>, BackupError> {
        let key_length = self.number()?;
        if key_length == END {
            return Ok(None);
        }
        let value_length = self.number()?;
        let stamp_at = self.number()?.checked_sub(1);
        let (key, value) = (self.bytes(key_length)?, self.bytes(value_length)?);
        Ok(Some(Put { key, value, lease: 0, stamp_at }))
    }

    fn finish(mut self) -> Result<(), BackupError> {
        let (expected, mut digest, mut more) = (self.file.hash.clone().finalize(), [0; 32], [0; 1]);
        self.take(&mut digest)?;
        if digest[..] != expected[..] {
            return Err(BackupError::Damaged("its checksum does not match"));
        }
        match self.file.inner.read(&mut more).map_err(BackupError::Read)? {
            0 => Ok(()),
            _ => Err(BackupError::Damaged("something follows its end")),
        }
    }
}
