//! How a write looks on disk, and how a value gets its revision.
//!
//! Row key: revision (8 bytes, big endian), position in the transaction (4 bytes, big endian), so that the file is a
//! log in order. Row value: CRC-32 of what follows it (4), flags (1), create revision (8), version (8), lease (8), stamp + 1
//! or 0 (4), key length (4), all little endian, then the key and the value without stamp. The checksum is a second look:
//! redb's own are checked when the file is opened (`medium`), and not when it is read later.

use crate::{Bytes, LeaseId, Revision};

const CHECKSUM: usize = 4;
const HEADER: usize = 1 + 8 + 8 + 8 + 4 + 4;
const TOMBSTONE: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    /// `None` is a delete. The value is as the writer gave it, without stamp.
    pub(crate) value: Option<Bytes>,
    pub(crate) create_revision: Revision,
    pub(crate) version: u64,
    pub(crate) lease: LeaseId,
    pub(crate) stamp_at: Option<u32>,
}

pub(crate) fn row_key(revision: Revision, position: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&revision.to_be_bytes());
    out[8..].copy_from_slice(&position.to_be_bytes());
    out
}

pub(crate) fn parse_row_key(bytes: &[u8]) -> Option<(Revision, u32)> {
    let revision = Revision::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    let position = u32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    (bytes.len() == 12).then_some((revision, position))
}

pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let value = record.value.as_deref().unwrap_or_default();
    let mut out = Vec::with_capacity(CHECKSUM + HEADER + record.key.len() + value.len());
    out.extend_from_slice(&[0; CHECKSUM]);
    out.push(if record.value.is_none() { TOMBSTONE } else { 0 });
    out.extend_from_slice(&record.create_revision.to_le_bytes());
    out.extend_from_slice(&record.version.to_le_bytes());
    out.extend_from_slice(&record.lease.to_le_bytes());
    out.extend_from_slice(&record.stamp_at.map_or(0, |at| at + 1).to_le_bytes());
    out.extend_from_slice(&(record.key.len() as u32).to_le_bytes());
    out.extend_from_slice(&record.key);
    out.extend_from_slice(value);
    let checksum = crc32fast::hash(&out[CHECKSUM..]);
    out[..CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// `None` when the bytes are no record, which only a damaged file can bring about.
pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
    let (checksum, bytes) = bytes.split_first_chunk::<CHECKSUM>()?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) && !vocab::weak::without("checksum") {
        return None;
    }
    let header = bytes.get(..HEADER)?;
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let key_end = HEADER.checked_add(u32_at(29) as usize)?;
    let key = Bytes::copy_from_slice(bytes.get(HEADER..key_end)?);
    let value = (header[0] & TOMBSTONE == 0).then(|| Bytes::copy_from_slice(&bytes[key_end..]));
    let stamp_at = u32_at(25).checked_sub(1);
    if let (Some(at), Some(value)) = (stamp_at, &value)
        && at as usize > value.len()
    {
        return None;
    }
    Some(Record { key, value, create_revision: u64_at(1), version: u64_at(9), lease: u64_at(17), stamp_at })
}

/// Number of decimal digits of a revision.
pub(crate) fn digits(revision: Revision) -> usize {
    revision.checked_ilog10().unwrap_or(0) as usize + 1
}

/// The value with the digits of `revision` inserted at `at`.
pub(crate) fn stamp(value: &Bytes, at: Option<u32>, revision: Revision) -> Bytes {
    let Some(at) = at else { return value.clone() };
    let at = at as usize;
    let mut out = Vec::with_capacity(value.len() + digits(revision));
    out.extend_from_slice(&value[..at]);
    out.extend_from_slice(revision.to_string().as_bytes());
    out.extend_from_slice(&value[at..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        for (value, stamp_at) in [(Some("abc"), None), (Some("abc"), Some(3)), (Some(""), Some(0)), (None, None)] {
            let record = Record {
                key: "k".into(),
                value: value.map(Bytes::from),
                create_revision: 7,
                version: 2,
                lease: 9,
                stamp_at,
            };
            assert_eq!(decode(&encode(&record)), Some(record));
        }
    }

    #[test]
    fn cut_records_are_refused() {
        let whole = encode(&Record {
            key: "key".into(),
            value: Some("value".into()),
            create_revision: 1,
            version: 1,
            lease: 0,
            stamp_at: Some(5),
        });
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), None, "{end}");
            let mut changed = whole.clone();
            changed[end] ^= 1;
            assert_eq!(decode(&changed), None, "{end}");
        }
    }

    #[test]
    fn the_stamp_is_inserted_where_asked() {
        assert_eq!(stamp(&"{\"rv\":\"\"}".into(), Some(7), 42), "{\"rv\":\"42\"}");
        assert_eq!((digits(0), digits(9), digits(10), digits(12345)), (1, 1, 2, 5));
    }
}
