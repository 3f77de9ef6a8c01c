//! Docker's json-file records. The strings are escaped as dockerd escapes them (Go's encoder: also `<`, `>`, `&`, U+2028
//! and U+2029; each byte that is not UTF-8 becomes U+FFFD), so that a reader cannot tell who wrote the file.

use super::{Stream, records};

pub(super) fn encode(bytes: &[u8], stream: Stream, time: &str, out: &mut Vec<u8>) {
    let tail = format!("\",\"stream\":\"{}\",\"time\":\"{time}\"}}\n", stream.name());
    for record in records(bytes) {
        out.extend_from_slice(b"{\"log\":\"");
        escape(record, out);
        out.extend_from_slice(tail.as_bytes());
    }
}

/// What a byte needs: nothing, an escape, or a look at the character it begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Escape,
    Wide,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' => Class::Escape,
            0x80.. => Class::Wide,
            _ => Class::Plain,
        };
        byte += 1;
    }
    classes
};

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    loop {
        // Runs of plain bytes are copied whole: nearly all of nearly every log.
        let run = rest.iter().position(|&byte| CLASSES[byte as usize] != Class::Plain).unwrap_or(rest.len());
        out.extend_from_slice(&rest[..run]);
        rest = &rest[run..];
        let Some(&byte) = rest.first() else { return };
        let used =
            if CLASSES[byte as usize] == Class::Escape { escape_ascii(byte, out) } else { escape_wide(rest, out) };
        rest = &rest[used..];
    }
}

fn escape_ascii(byte: u8, out: &mut Vec<u8>) -> usize {
    match byte {
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
        }
    }
    1
}

/// One character outside ASCII at the start of `rest`; returns the bytes used.
fn escape_wide(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let chunk = rest[..rest.len().min(4)].utf8_chunks().next();
    let character = chunk.and_then(|chunk| chunk.valid().chars().next());
    match character {
        Some('\u{2028}') => out.extend_from_slice(b"\\u2028"),
        Some('\u{2029}') => out.extend_from_slice(b"\\u2029"),
        Some(character) => out.extend_from_slice(&rest[..character.len_utf8()]),
        None => {
            out.extend_from_slice(b"\\ufffd");
            return 1;
        }
    }
    character.map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Stream};
    use super::escape;
    use proptest::prelude::*;

    fn check(bytes: &[u8], expected: &str) {
        let mut out = Vec::new();
        escape(bytes, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{bytes:?}");
    }

    #[test]
    fn strings_are_escaped_as_docker_escapes_them() {
        check(b"plain\n", r"plain\n");
        check(b"\t\r\"\\", r#"\t\r\"\\"#);
        check(b"<a>&\x1b[0m\0\x7f", "\\u003ca\\u003e\\u0026\\u001b[0m\\u0000\x7f");
        check("æøå €🚢".as_bytes(), "æøå €🚢");
        check("a\u{2028}b\u{2029}".as_bytes(), r"a\u2028b\u2029");
        check(b"\xff\xc3(\xe2\x82", r"\ufffd\ufffd(\ufffd\ufffd");
    }

    #[test]
    fn a_record_is_one_json_line() {
        let mut out = Vec::new();
        Format::JsonFile.encode(b"one\ntwo", Stream::Stdout, "2026-01-02T03:04:05.000000006Z", &mut out);
        expect_test::expect![[r#"
            {"log":"one\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}
            {"log":"two","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}
        "#]]
        .assert_eq(std::str::from_utf8(&out).unwrap());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_json(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = vec![b'"'];
            escape(&bytes, &mut out);
            out.push(b'"');
            let read: String = serde_json::from_slice(&out).unwrap();
            // Go replaces each bad byte, Rust each bad sequence: compare with Go's rule.
            let mut expected = String::new();
            for chunk in bytes.utf8_chunks() {
                expected.push_str(chunk.valid());
                expected.extend(std::iter::repeat_n('\u{fffd}', chunk.invalid().len()));
            }
            prop_assert_eq!(read, expected);
        }
    }
}
