//! Typed tables: a name, a key type and a record type, declared as a constant by the crate that owns the records.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// What a table keeps: any serde type. Records are stored as JSON, because a record outlives the program that wrote
/// it: a field that a newer version added is read with its default, and one that it dropped is ignored.
pub trait Record: Serialize + DeserializeOwned {}
impl<T: Serialize + DeserializeOwned> Record for T {}

/// A key: its bytes decide the order of a listing.
pub trait Key: Sized {
    fn bytes(&self) -> Cow<'_, [u8]>;
    /// `None` when the bytes are not a key of this type, which means that the file is damaged.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Key for String {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(std::str::from_utf8(bytes).ok()?.to_owned())
    }
}

impl Key for vocab::Digest {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(vocab::Digest::from_sha256(bytes.try_into().ok()?))
    }
}

/// Big-endian, so that the order of the bytes is the order of the numbers.
impl Key for u64 {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.to_be_bytes().to_vec())
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// A table's declaration. The name is part of the file: it never changes.
pub struct Table<K, V> {
    name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> Table<K, V> {
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<K: Key, V: Record> Table<K, V> {
    pub(crate) fn key(&self, path: &Path, bytes: &[u8]) -> Result<K, Error> {
        K::from_bytes(bytes).ok_or_else(|| Error::Damaged {
            path: path.to_owned(),
            detail: format!("table {} holds a key that is none: {bytes:02x?}", self.name),
        })
    }

    pub(crate) fn decode(&self, path: &Path, key: &K, value: &[u8]) -> Result<V, Error> {
        serde_json::from_slice(value).map_err(|e| Error::Damaged {
            path: path.to_owned(),
            detail: format!("table {}, record {:?}: {e}", self.name, String::from_utf8_lossy(&key.bytes())),
        })
    }

    pub(crate) fn encode(&self, path: &Path, record: &V) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(record).map_err(|source| Error::Encode { path: path.to_owned(), table: self.name, source })
    }
}
