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
}

/// Parses one line without its newline. `None`: damaged (a torn write of another program, an edited file); readers
/// skip it rather than stop.
pub(super) fn parse_record(line: &[u8]) -> Option<LogEntry> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let at: Timestamp = record.time.parse().ok()?;
    let stream = if record.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    Some(LogEntry { stream, at, line: Bytes::from(record.log.into_owned().into_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_as_docker_writes_them() {
        let entry =
            parse_record(br#"{"log":"a \"b\"\u0001\n","stream":"stderr","time":"2026-01-02T03:04:05.123456789Z"}"#);
        let entry = entry.unwrap();
        assert_eq!(entry.line, &b"a \"b\"\x01\n"[..]);
        assert_eq!(entry.stream, Stream::Stderr);
        assert_eq!(entry.at.to_string(), "2026-01-02T03:04:05.123456789Z");
        for damaged in [&b""[..], b"{", b"{\"log\":1}", b"\0\0\0", b"{\"log\":\"x\",\"time\":\"soon\"}"] {
            assert!(parse_record(damaged).is_none());
        }
    }
}
