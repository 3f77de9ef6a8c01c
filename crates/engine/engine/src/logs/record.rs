//! One record of a json-file log.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;

use crate::{LogEntry, Stream};

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(default, borrow)]
    attrs: Option<&'a serde_json::value::RawValue>,
}

/// Parses one line without its newline. `None`: damaged (a torn write of another program, an edited file); readers
/// skip it rather than stop.
pub(super) fn parse_record(line: &[u8], details: bool) -> Option<LogEntry> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let at: Timestamp = record.time.parse().ok()?;
    let stream = if record.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    let attributes = record.attrs.filter(|_| details).map_or_else(Vec::new, |raw| {
        let map: std::collections::BTreeMap<String, String> = serde_json::from_str(raw.get()).unwrap_or_default();
        map.into_iter().collect()
    });
    Some(LogEntry { stream, at, line: Bytes::from(record.log.into_owned().into_bytes()), attributes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_as_docker_writes_them() {
        let entry =
            parse_record(br#"{"log":"a \"b\"\u0001\n","stream":"stderr","attrs":{"b":"2","a":"1"},"time":"2026-01-02T03:04:05.123456789Z"}"#, true);
        let entry = entry.unwrap();
        assert_eq!(entry.line, &b"a \"b\"\x01\n"[..]);
        assert_eq!(entry.stream, Stream::Stderr);
        assert_eq!(entry.attributes, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        assert_eq!(entry.at.to_string(), "2026-01-02T03:04:05.123456789Z");
        for damaged in [&b""[..], b"{", b"{\"log\":1}", b"\0\0\0", b"{\"log\":\"x\",\"time\":\"soon\"}"] {
            assert!(parse_record(damaged, false).is_none());
        }
    }
}
