//! A line in the form that its receiver reads. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::options;
use super::subject::Subject;
use crate::{LogConfig, LogEntry, Result, Stream};

/// How a container's lines are written.
#[derive(Debug)]
pub(super) enum Encoder {
    Syslog { form: Syslog, facility: u8, host: String, tag: String },
    Gelf { fixed: serde_json::Map<String, Value> },
    Fluentd { tag: String, fixed: BTreeMap<String, String>, nanos: bool },
    Journald { fixed: Vec<u8> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syslog {
    /// What a local syslogd reads from its socket: no host.
    Unix,
    Rfc3164,
    Rfc5424 {
        micros: bool,
    },
}

/// Identifies the sender to syslog: the engine.
fn pid() -> u32 {
    std::process::id()
}

impl Encoder {
    pub(super) fn new(log: &LogConfig, subject: &Subject) -> Result<Self> {
        let host = crate::core::info::hostname();
        let tag = subject.tag(log);
        let attributes = subject.attributes(log);
        Ok(match log.driver.as_str() {
            "syslog" => {
                let facility = log.options.get("syslog-facility").map_or("daemon", String::as_str);
                let form = match log.options.get("syslog-format").map_or("", String::as_str) {
                    "rfc3164" => Syslog::Rfc3164,
                    "rfc5424" => Syslog::Rfc5424 { micros: false },
                    "rfc5424micro" => Syslog::Rfc5424 { micros: true },
                    _ => Syslog::Unix,
                };
                Self::Syslog { form, facility: options::facility_number(facility).unwrap_or(3), host, tag }
            }
            "gelf" => {
                let mut fixed = serde_json::Map::new();
                fixed.insert("version".into(), json!("1.1"));
                fixed.insert("host".into(), json!(host));
                fixed.insert("_container_id".into(), json!(subject.id));
                fixed.insert("_container_name".into(), json!(subject.name));
                fixed.insert("_image_id".into(), json!(subject.image_id));
                fixed.insert("_image_name".into(), json!(subject.image_name));
                fixed.insert("_command".into(), json!(subject.command));
                fixed.insert("_tag".into(), json!(tag));
                fixed.insert("_created".into(), json!(subject.created.map(|at| at.to_string())));
                // The receiver keeps `_id` for itself.
                let extra = attributes.into_iter().filter(|(name, _)| name != "id");
                fixed.extend(extra.map(|(name, value)| (format!("_{name}"), json!(value))));
                Self::Gelf { fixed }
            }
            "fluentd" => {
                let mut fixed = attributes;
                fixed.insert("container_id".into(), subject.id.clone());
                fixed.insert("container_name".into(), format!("/{}", subject.name));
                let nanos = log.options.get("fluentd-sub-second-precision").and_then(|v| options::parse_bool(v));
                Self::Fluentd { tag, fixed, nanos: nanos == Some(true) }
            }
            _ => {
                let mut fixed = Vec::new();
                let known = [
                    ("CONTAINER_ID", subject.short_id()),
                    ("CONTAINER_ID_FULL", &subject.id),
                    ("CONTAINER_NAME", &subject.name),
                    ("CONTAINER_TAG", &tag),
                    ("IMAGE_NAME", &subject.image_name),
                    ("SYSLOG_IDENTIFIER", &tag),
                ];
                for (name, value) in known {
                    journal_field(&mut fixed, name, value.as_bytes());
                }
                for (name, value) in &attributes {
                    journal_field(&mut fixed, &journal_name(name), value.as_bytes());
                }
                Self::Journald { fixed }
            }
        })
    }

    pub(super) fn encode(&self, entry: &LogEntry) -> Vec<u8> {
        let whole = entry.line.ends_with(b"\n");
        let line = entry.line.strip_suffix(b"\n").unwrap_or(&entry.line);
        let text = || String::from_utf8_lossy(line);
        // As Docker maps them: errors and information.
        let severity = if entry.stream == Stream::Stderr { 3 } else { 6 };
        match self {
            Self::Syslog { form, facility, host, tag } => {
                let priority = u16::from(*facility) * 8 + severity;
                let (pid, text) = (pid(), text());
                let zoned = entry.at.to_zoned(jiff::tz::TimeZone::system());
                let line = match form {
                    Syslog::Unix => {
                        let at = zoned.strftime("%b %e %H:%M:%S");
                        format!("<{priority}>{at} {tag}[{pid}]: {text}\n")
                    }
                    Syslog::Rfc3164 => {
                        let at = zoned.strftime("%b %e %H:%M:%S");
                        format!("<{priority}>{at} {host} {tag}[{pid}]: {text}\n")
                    }
                    Syslog::Rfc5424 { micros } => {
                        let form = if *micros { "%Y-%m-%dT%H:%M:%S.%6f%:z" } else { "%Y-%m-%dT%H:%M:%S%:z" };
                        format!("<{priority}>1 {} {host} {tag} {pid} {tag} - {text}\n", zoned.strftime(form))
                    }
                };
                line.into_bytes()
            }
            Self::Gelf { fixed } => {
                let mut message = fixed.clone();
                message.insert("short_message".into(), json!(text()));
                message.insert("level".into(), json!(severity));
                let millis = entry.at.as_millisecond();
                message.insert("timestamp".into(), json!(millis as f64 / 1000.0));
                if !whole {
                    message.insert("_partial_message".into(), json!("true"));
                }
                serde_json::to_vec(&message).expect("a map is JSON")
            }
            Self::Fluentd { tag, fixed, nanos } => {
                let mut out = Vec::with_capacity(line.len() + 256);
                out.push(0x93);
                msgpack_text(&mut out, tag.as_bytes());
                let secs = entry.at.as_second();
                if *nanos {
                    // Fluentd's EventTime: seconds and nanoseconds, big-endian.
                    out.extend([0xd7, 0x00]);
                    out.extend((secs as u32).to_be_bytes());
                    out.extend((entry.at.subsec_nanosecond() as u32).to_be_bytes());
                } else {
                    out.push(0xd3);
                    out.extend(secs.to_be_bytes());
                }
                let source = if entry.stream == Stream::Stderr { "stderr" } else { "stdout" };
                let own = [("source", source.as_bytes()), ("log", line)];
                let partial: &[(&str, &[u8])] = if whole { &[] } else { &[("partial_message", b"true")] };
                let count = fixed.len() + own.len() + partial.len();
                out.push(0xde);
                out.extend((count as u16).to_be_bytes());
                for (name, value) in fixed {
                    msgpack_text(&mut out, name.as_bytes());
                    msgpack_text(&mut out, value.as_bytes());
                }
                for (name, value) in own.iter().chain(partial) {
                    msgpack_text(&mut out, name.as_bytes());
                    msgpack_text(&mut out, String::from_utf8_lossy(value).as_bytes());
                }
                out
            }
            Self::Journald { fixed } => {
                let mut out = fixed.clone();
                journal_field(&mut out, "PRIORITY", severity.to_string().as_bytes());
                let micros = entry.at.as_microsecond().to_string();
                journal_field(&mut out, "SYSLOG_TIMESTAMP", micros.as_bytes());
                if !whole {
                    journal_field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
                }
                journal_field(&mut out, "MESSAGE", line);
                out
            }
        }
    }
}

/// `NAME=value`, or for a value with a line break the name, the length (64 bits, little-endian) and the bytes.
fn journal_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend((value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend(value);
    out.push(b'\n');
}

/// Capitals, digits and `_`, not beginning with one.
fn journal_name(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    name.trim_start_matches('_').to_owned()
}

fn msgpack_text(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ 0..=31 => out.push(0xa0 | len as u8),
        len @ 32..=0xff => out.extend([0xd9, len as u8]),
        len @ 0x100..=0xffff => {
            out.push(0xda);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0xdb);
            out.extend((len as u32).to_be_bytes());
        }
    }
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str, stream: Stream) -> LogEntry {
        LogEntry {
            stream,
            at: "2026-01-02T03:04:05.123456789Z".parse().unwrap(),
            line: line.to_owned().into(),
            attributes: Vec::new(),
        }
    }

    fn encoder(driver: &str, pairs: &[(&str, &str)]) -> Encoder {
        let subject = Subject { id: "0123456789abcdef".into(), name: "web".into(), ..Default::default() };
        let options = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Encoder::new(&LogConfig { driver: driver.into(), options }, &subject).unwrap()
    }

    #[test]
    fn syslog_lines() {
        let pid = pid();
        let line = |pairs: &[(&str, &str)], stream| {
            String::from_utf8(encoder("syslog", pairs).encode(&entry("hi\n", stream))).unwrap()
        };
        let unix = line(&[], Stream::Stdout);
        assert!(unix.starts_with("<30>Jan  ") && unix.ends_with(&format!(" 0123456789ab[{pid}]: hi\n")), "{unix}");
        let modern =
            line(&[("syslog-format", "rfc5424micro"), ("syslog-facility", "local0"), ("tag", "t")], Stream::Stderr);
        assert!(modern.starts_with("<131>1 2026-01-0") && modern.contains(":05.123456"), "{modern}");
        assert!(modern.ends_with(&format!(" t {pid} t - hi\n")), "{modern}");
    }

    #[test]
    fn gelf_and_journal_messages() {
        let gelf: Value = serde_json::from_slice(&encoder("gelf", &[]).encode(&entry("hi\n", Stream::Stderr))).unwrap();
        assert_eq!((&gelf["short_message"], &gelf["level"]), (&json!("hi"), &json!(3)));
        assert_eq!(gelf["timestamp"], json!(1_767_323_045.123));
        let journal = encoder("journald", &[]).encode(&entry("a\nb", Stream::Stdout));
        let text = String::from_utf8_lossy(&journal).into_owned();
        assert!(text.contains("CONTAINER_NAME=web\n") && text.contains("PRIORITY=6\n"), "{text}");
        assert!(journal.ends_with(b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"), "{text}");
    }

    #[test]
    fn fluentd_messages_are_msgpack() {
        let bytes = encoder("fluentd", &[("tag", "t")]).encode(&entry("hi\n", Stream::Stdout));
        assert_eq!(&bytes[..4], [0x93, 0xa1, b't', 0xd3]);
        assert_eq!(&bytes[12..15], [0xde, 0, 4]);
        assert!(bytes.ends_with(b"\xa3log\xa2hi"));
        let partial = encoder("fluentd", &[]).encode(&entry("hi", Stream::Stdout));
        assert!(partial.ends_with(b"\xafpartial_message\xa4true"));
    }
}
