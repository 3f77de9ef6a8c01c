//! One record of a log: of a json-file, or in the format of the container runtime interface.

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
    if line.first() != Some(&b'{') {
        return parse_cri(line);
    }
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let at: Timestamp = record.time.parse().ok()?;
    let stream = if record.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    let attributes = record.attrs.filter(|_| details).map_or_else(Vec::new, |raw| {
        let map: std::collections::BTreeMap<String, String> = serde_json::from_str(raw.get()).unwrap_or_default();
        map.into_iter().collect()
    });
    Some(LogEntry { stream, at, line: Bytes::from(record.log.into_owned().into_bytes()), attributes })
}

/// One line of the interface's format without its newline: `TIME STREAM TAG TEXT`; the first of the tags says whether the line ends there (`F`) or goes on (`P`).
pub fn parse_cri(line: &[u8]) -> Option<LogEntry> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let (time, stream, tags) = (word()?, word()?, word()?);
    let at: Timestamp = time.parse().ok()?;
    let stream = match stream {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let mut text = parts.next()?.to_vec();
    match tags.split(':').next()? {
        "F" => text.push(b'\n'),
        "P" => {}
        _ => return None,
    }
    Some(LogEntry { stream, at, line: text.into(), attributes: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_interface_are_whole_lines_or_pieces() {
        let check = |line: &str| {
            let entry = parse_record(line.as_bytes(), true)?;
            Some(format!("{:?} {:?}", entry.stream, String::from_utf8(entry.line.to_vec()).unwrap()))
        };
        assert_eq!(check("2026-01-02T03:04:05.1Z stdout F a  b").as_deref(), Some("Stdout \"a  b\\n\""));
        assert_eq!(check("2026-01-02T03:04:05.1Z stderr P:x a").as_deref(), Some("Stderr \"a\""));
        assert_eq!(check("2026-01-02T03:04:05.1Z stdout F ").as_deref(), Some("Stdout \"\\n\""));
        assert_eq!(check("2026-01-02T05:04:05.1+02:00 stdout F x").as_deref(), Some("Stdout \"x\\n\""));
        for damaged in [
            "2026-01-02T03:04:05.1Z stdout F",
            "soon stdout F a",
            "2026-01-02T03:04:05.1Z x F a",
            "2026-01-02T03:04:05.1Z stdout Q a",
        ] {
            assert_eq!(check(damaged), None, "{damaged}");
        }
    }

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
