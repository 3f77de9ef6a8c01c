//! Between our words and etcd's messages. Pure.
//!
//! A stored value begins with where its revision is to be written: one byte 0 (nowhere), or 1 and the offset as four bytes,
//! little endian. The offset must be stored, since every server that reads the value has to stamp it alike.

use super::wire;
use crate::record::stamp;
use crate::{Bytes, Change, Compare, Event, KeyValue, Op, OpReply, Put, Revision, Span, StoreError, Test, Txn};

/// As large as the embedded backend takes; etcd's own limit (1.5 MiB unless configured) comes on top.
const VALUE_BYTES_MAX: usize = 3 << 20;

pub(super) fn bounds(span: &Span) -> (Bytes, Bytes) {
    // etcd's keys are not empty; "\0" as the end means "to the last key".
    let start = if span.start.is_empty() { Bytes::from_static(b"\0") } else { span.start.clone() };
    (start, span.end.clone().unwrap_or(Bytes::from_static(b"\0")))
}

pub(super) fn txn(txn: &Txn) -> Result<wire::TxnRequest, StoreError> {
    Ok(wire::TxnRequest {
        compare: txn.compares.iter().map(compare).collect(),
        success: txn.success.iter().map(request).collect::<Result<_, _>>()?,
        failure: txn.failure.iter().map(request).collect::<Result<_, _>>()?,
    })
}

fn compare(compare: &Compare) -> wire::Compare {
    use wire::Target;
    let (result, target, operand) = match &compare.test {
        Test::ModRevision(revision) => (wire::EQUAL, wire::MOD, Target::ModRevision(*revision as i64)),
        Test::ModUntil(revision) => (wire::LESS, wire::MOD, Target::ModRevision(*revision as i64 + 1)),
        Test::CreateRevision(revision) => (wire::EQUAL, wire::CREATE, Target::CreateRevision(*revision as i64)),
        Test::Version(version) => (wire::EQUAL, wire::VERSION, Target::Version(*version as i64)),
        Test::Value(value) => (wire::EQUAL, wire::VALUE, Target::Value(stored(value, None))),
        Test::Exists => (wire::GREATER, wire::VERSION, Target::Version(0)),
        Test::Absent => (wire::EQUAL, wire::VERSION, Target::Version(0)),
    };
    wire::Compare { result, target, key: compare.key.clone(), operand: Some(operand) }
}

fn request(op: &Op) -> Result<wire::RequestOp, StoreError> {
    let request = match op {
        Op::Put(put) => wire::Request::Put(put_request(put)?),
        Op::Delete(delete) => {
            let (key, range_end) = bounds(&delete.span);
            wire::Request::Delete(wire::DeleteRangeRequest { key, range_end, prev_kv: true })
        }
        Op::Get(span) => {
            let (key, range_end) = bounds(span);
            wire::Request::Range(wire::RangeRequest { key, range_end, ..Default::default() })
        }
    };
    Ok(wire::RequestOp { request: Some(request) })
}

fn put_request(put: &Put) -> Result<wire::PutRequest, StoreError> {
    let (size, key) = (put.value.len(), || String::from_utf8_lossy(&put.key).into_owned());
    if size > VALUE_BYTES_MAX {
        return Err(StoreError::TooLarge { key: key(), size, limit: VALUE_BYTES_MAX });
    }
    if let Some(at) = put.stamp_at.filter(|at| *at as usize > size) {
        return Err(StoreError::BadStamp { key: key(), at, size });
    }
    let value = stored(&put.value, put.stamp_at);
    Ok(wire::PutRequest { key: put.key.clone(), value, lease: put.lease as i64, prev_kv: true })
}

fn stored(value: &Bytes, stamp_at: Option<u32>) -> Bytes {
    let mut out = Vec::with_capacity(value.len() + 5);
    match stamp_at {
        None => out.push(0),
        Some(at) => {
            out.push(1);
            out.extend_from_slice(&at.to_le_bytes());
        }
    }
    out.extend_from_slice(value);
    out.into()
}

pub(super) fn key_value(kv: wire::KeyValue) -> Result<KeyValue, StoreError> {
    let mod_revision = kv.mod_revision as Revision;
    let (value, stamp_at) = shown(&kv.value, mod_revision).ok_or_else(|| StoreError::Damaged {
        path: format!("key {:?}", String::from_utf8_lossy(&kv.key)),
        cause: "its value was not written by this program".into(),
    })?;
    let create_revision = kv.create_revision as Revision;
    Ok(KeyValue {
        key: kv.key,
        value,
        create_revision,
        mod_revision,
        version: kv.version as u64,
        lease: kv.lease as u64,
        stamp_at,
    })
}

fn shown(stored: &Bytes, revision: Revision) -> Option<(Bytes, Option<u32>)> {
    match stored.first()? {
        0 => Some((stored.slice(1..), None)),
        1 => {
            let at = u32::from_le_bytes(stored.get(1..5)?.try_into().ok()?);
            let value = stored.slice(5..);
            ((at as usize) <= value.len()).then(|| (stamp(&value, Some(at), revision), Some(at)))
        }
        _ => None,
    }
}

/// What the operations of `done` gave. etcd does not repeat what was put, so that is worked out from what was before.
pub(super) fn replies(
    done: &[Op],
    response: wire::TxnResponse,
    revision: Revision,
) -> Result<Vec<OpReply>, StoreError> {
    let all = |kvs: Vec<wire::KeyValue>| kvs.into_iter().map(key_value).collect::<Result<Vec<_>, _>>();
    done.iter()
        .zip(response.responses)
        .map(|(op, reply)| match (op, reply.response) {
            (Op::Put(put), Some(wire::Response::Put(reply))) => {
                let prev = reply.prev_kv.map(key_value).transpose()?;
                let now = KeyValue {
                    key: put.key.clone(),
                    value: stamp(&put.value, put.stamp_at, revision),
                    create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
                    mod_revision: revision,
                    version: prev.as_ref().map_or(1, |prev| prev.version + 1),
                    lease: put.lease,
                    stamp_at: put.stamp_at,
                };
                Ok(OpReply::Put { now, prev })
            }
            (Op::Delete(_), Some(wire::Response::Delete(reply))) => Ok(OpReply::Delete { prev: all(reply.prev_kvs)? }),
            (Op::Get(_), Some(wire::Response::Range(reply))) => Ok(OpReply::Get { kvs: all(reply.kvs)? }),
            (op, reply) => Err(StoreError::Damaged {
                path: "answer of the datastore".into(),
                cause: format!("{op:?} was answered by {reply:?}"),
            }),
        })
        .collect()
}

pub(super) fn event(event: wire::Event) -> Result<Event, StoreError> {
    let prev = event.prev_kv.map(key_value).transpose()?;
    let kv = event.kv.unwrap_or_default();
    let revision = kv.mod_revision as Revision;
    if event.kind == 0 {
        return Ok(Event { change: Change::Put, revision, kv: key_value(kv)?, prev });
    }
    // Where compaction has taken what was deleted, only the key can be shown.
    let gone = prev.unwrap_or_else(|| KeyValue {
        key: kv.key,
        value: Bytes::new(),
        create_revision: 0,
        mod_revision: 0,
        version: 0,
        lease: 0,
        stamp_at: None,
    });
    Ok(Event { change: Change::Delete, revision, kv: gone, prev: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_value_is_shown_with_its_revision() {
        let value = Bytes::from_static(b"<>");
        assert_eq!(shown(&stored(&value, None), 42), Some(("<>".into(), None)));
        assert_eq!(shown(&stored(&value, Some(1)), 42), Some(("<42>".into(), Some(1))));
        for foreign in [&b""[..], b"{}", b"\x01\0\0", b"\x01\x03\0\0\0<>"] {
            assert_eq!(shown(&Bytes::from_static(foreign), 42), None, "{foreign:?}");
        }
    }
}
