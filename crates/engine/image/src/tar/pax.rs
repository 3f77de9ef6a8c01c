//! PAX extended header records: `length key=value\n`.

use std::collections::BTreeMap;

/// The records of one extended header. Repeated keys are an error, because readers disagree on which one counts; only the
/// sparse map of format 0.0 repeats its keys by design.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) map: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Values of `GNU.sparse.offset` and `GNU.sparse.numbytes`, alternating.
    pub(super) sparse: Vec<Vec<u8>>,
    /// Names in their order, for extended attributes.
    pub(super) xattrs: Vec<Vec<u8>>,
}

pub(super) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    while !bytes.is_empty() {
        let (key, value, rest) = record(bytes).ok_or_else(|| {
            format!("malformed PAX record {}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).escape_debug())
        })?;
        bytes = rest;
        if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
            let turn: &[u8] = if records.sparse.len() % 2 == 0 { b"GNU.sparse.offset" } else { b"GNU.sparse.numbytes" };
            if key != turn {
                return Err("sparse offsets and lengths do not alternate".into());
            }
            records.sparse.push(value.to_vec());
            continue;
        }
        if key.starts_with(XATTR_PREFIX) {
            records.xattrs.push(key.to_vec());
        }
        if records.map.insert(key.to_vec(), value.to_vec()).is_some() {
            return Err(format!("PAX key {} appears twice", String::from_utf8_lossy(key).escape_debug()));
        }
    }
    Ok(records)
}

/// Key, value and what follows the first record.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let digits = &bytes[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let len: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    if len > bytes.len() || len < space + 4 || bytes[len - 1] != b'\n' {
        return None;
    }
    let body = &bytes[space + 1..len - 1];
    let equals = body.iter().position(|b| *b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return None;
    }
    Some((key, value, &bytes[len..]))
}

/// One record; its length counts its own digits.
pub(super) fn render(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len != body + digits(len) {
        len = body + digits(len);
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(n: usize) -> usize {
    n.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_whatever_their_length() {
        for len in (0..300).chain([991, 9990, 99991]) {
            let value = vec![b'v'; len];
            let mut bytes = Vec::new();
            render(&mut bytes, b"path", &value);
            render(&mut bytes, b"other", b"a=b\nc");
            let records = parse(&bytes).unwrap();
            assert_eq!(records.map[&b"path"[..]], value);
            assert_eq!(records.map[&b"other"[..]], b"a=b\nc");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"9 path=a"[..],
            b"8 path=a\n",
            b"9 patha\n\n",
            b"5 =a\n",
            b"-9 path=a\n",
            b"99999999999999999999999 path=a\n",
            b" path=a\n",
            b"9 path=a\n9 path=b\n",
            b"\0\0\0\0",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
