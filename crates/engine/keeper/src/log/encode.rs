//! Raw output to log records. Pure, one pass over big batches: this is the hot loop of a container that logs a gigabyte.
//!
//! json-file follows Docker to the byte: lines longer than 16 KiB become several records of which only the last has the newline, invalid UTF-8
//! becomes `\ufffd` byte by byte, and `<`, `>`, `&`, U+2028 and U+2029 are escaped. The result depends on the arguments alone, so that a new
//! keeper can write again exactly what the old one was writing.

use crate::model::{LogDriver, Stream};

/// The longest piece of a line in one record, in raw bytes, as Docker's.
pub(crate) const PIECE_MAX: usize = 16 * 1024;

/// What to do with the bytes after the last newline (fewer than [`PIECE_MAX`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Leave them: the line goes on.
    Keep,
    /// Write them as an unfinished piece.
    Flush,
    /// Write them: the stream has ended.
    End,
}

/// Appends records for `raw` to `out` until `raw` is used up or `out` has grown by at least `room` bytes, and returns how many raw bytes they stand
/// for. One record at least is written if there is one.
pub(crate) fn encode(
    driver: &LogDriver,
    stream: Stream,
    time: &str,
    raw: &[u8],
    rest: Rest,
    room: usize,
    out: &mut Vec<u8>,
) -> usize {
    // Most lines cost a few dozen bytes more than they have.
    out.reserve(raw.len() + raw.len() / 2 + 256);
    match driver {
        LogDriver::JsonFile { attrs } => {
            let mut json = Json::new(stream, time, attrs.as_deref());
            pieces(raw, rest, room, out, |piece, out| json.record(piece, out))
        }
        LogDriver::Cri => {
            let cri = Cri::new(stream, time);
            pieces(raw, rest, room, out, |piece, out| cri.record(piece, out))
        }
    }
}

struct Piece<'a> {
    text: &'a [u8],
    /// A newline followed.
    line_end: bool,
    /// Nothing will ever follow.
    last: bool,
}

fn pieces(
    raw: &[u8],
    rest: Rest,
    room: usize,
    out: &mut Vec<u8>,
    mut record: impl FnMut(Piece<'_>, &mut Vec<u8>),
) -> usize {
    let start = out.len();
    let mut at = 0;
    while at < raw.len() && out.len() - start < room {
        let window = &raw[at..raw.len().min(at + PIECE_MAX)];
        match find(window, |b| b == b'\n') {
            Some(end) => {
                record(Piece { text: &window[..end], line_end: true, last: false }, out);
                at += end + 1;
            }
            None if window.len() == PIECE_MAX => {
                record(Piece { text: window, line_end: false, last: false }, out);
                at += PIECE_MAX;
            }
            None if rest == Rest::Keep => break,
            None => {
                record(Piece { text: window, line_end: false, last: rest == Rest::End }, out);
                at = raw.len();
            }
        }
    }
    at
}

/// Index of the first byte that `wanted` likes. Sixteen at a time without a branch, which the compiler turns into vector comparisons.
#[inline]
fn find(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let (chunks, tail) = bytes.as_chunks::<16>();
    for (n, chunk) in chunks.iter().enumerate() {
        if chunk.iter().fold(false, |any, b| any | wanted(*b)) {
            return chunk.iter().position(|b| wanted(*b)).map(|at| n * 16 + at);
        }
    }
    tail.iter().position(|b| wanted(*b)).map(|at| chunks.len() * 16 + at)
}

/// Needs an escape if it is ASCII, a closer look if it is not.
#[inline]
#[expect(clippy::manual_range_contains, reason = "without short circuits, for vector comparisons")]
fn special(b: u8) -> bool {
    (b < 0x20) | (b >= 0x80) | (b == b'"') | (b == b'\\') | (b == b'<') | (b == b'>') | (b == b'&')
}

struct Json {
    /// After the text of a piece that ends its line.
    line_end: Vec<u8>,
    /// After the text of another.
    piece_end: Vec<u8>,
}

impl Json {
    fn new(stream: Stream, time: &str, attrs: Option<&str>) -> Self {
        let attrs = attrs.map_or_else(String::new, |attrs| format!(",\"attrs\":{attrs}"));
        let piece_end = format!("\",\"stream\":\"{}\"{attrs},\"time\":\"{time}\"}}\n", stream.name());
        Self { line_end: format!("\\n{piece_end}").into_bytes(), piece_end: piece_end.into_bytes() }
    }

    #[inline]
    fn record(&mut self, piece: Piece<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"log\":\"");
        escape(piece.text, out);
        out.extend_from_slice(if piece.line_end { &self.line_end } else { &self.piece_end });
    }
}

fn escape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = find(text, special) {
        out.extend_from_slice(&text[..at]);
        text = &text[at..];
        let b = text[0];
        if b >= 0x80 {
            // A run of everything that is not special ASCII, so that text in other scripts is validated in one go.
            let end = find(text, |b| b < 0x80 && special(b)).unwrap_or(text.len());
            escape_unicode(&text[..end], out);
            text = &text[end..];
            continue;
        }
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(b >> 4)]);
                out.push(HEX[usize::from(b & 15)]);
            }
        }
        text = &text[1..];
    }
    out.extend_from_slice(text);
}

fn escape_unicode(run: &[u8], out: &mut Vec<u8>) {
    for chunk in run.utf8_chunks() {
        let mut text = chunk.valid();
        // U+2028 and U+2029 end lines in JavaScript.
        while let Some(at) = text.find(['\u{2028}', '\u{2029}']) {
            out.extend_from_slice(&text.as_bytes()[..at]);
            let last = text.as_bytes()[at + 2];
            out.extend_from_slice(if last == 0xa8 { b"\\u2028" } else { b"\\u2029" });
            text = &text[at + 3..];
        }
        out.extend_from_slice(text.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

struct Cri {
    full: Vec<u8>,
    partial: Vec<u8>,
}

impl Cri {
    fn new(stream: Stream, time: &str) -> Self {
        let name = stream.name();
        Self { full: format!("{time} {name} F ").into_bytes(), partial: format!("{time} {name} P ").into_bytes() }
    }

    #[inline]
    fn record(&self, piece: Piece<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(if piece.line_end || piece.last { &self.full } else { &self.partial });
        out.extend_from_slice(piece.text);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const TIME: &str = "2026-11-21T01:02:03.4Z";

    fn run(driver: &LogDriver, raw: &[u8], rest: Rest, room: usize) -> (String, usize) {
        let mut out = Vec::new();
        let used = encode(driver, Stream::Stdout, TIME, raw, rest, room, &mut out);
        (String::from_utf8(out).unwrap(), used)
    }

    fn check(driver: &LogDriver, raw: &[u8], rest: Rest, expect: Expect) {
        let (text, used) = run(driver, raw, rest, usize::MAX);
        expect.assert_eq(&format!("{text}{used} of {}\n", raw.len()));
    }

    fn json() -> LogDriver {
        LogDriver::JsonFile { attrs: None }
    }

    #[test]
    fn a_line_is_a_record_as_docker_writes_it() {
        check(
            &json(),
            b"hello\n\ntail",
            Rest::Keep,
            expect![[r#"
                {"log":"hello\n","stream":"stdout","time":"2026-11-21T01:02:03.4Z"}
                {"log":"\n","stream":"stdout","time":"2026-11-21T01:02:03.4Z"}
                7 of 11
            "#]],
        );
        check(
            &json(),
            b"tail",
            Rest::Flush,
            expect![[r#"
                {"log":"tail","stream":"stdout","time":"2026-11-21T01:02:03.4Z"}
                4 of 4
            "#]],
        );
        check(
            &LogDriver::JsonFile { attrs: Some(r#"{"a":"b"}"#.into()) },
            b"x\n",
            Rest::Keep,
            expect![[r#"
                {"log":"x\n","stream":"stdout","attrs":{"a":"b"},"time":"2026-11-21T01:02:03.4Z"}
                2 of 2
            "#]],
        );
    }

    #[test]
    fn what_json_or_a_browser_could_misread_is_escaped() {
        check(
            &json(),
            b"tab\t cr\r q\" b\\ <a>&amp; nul\0 esc\x1b[0m del\x7f\n",
            Rest::Keep,
            expect![[r#"
                {"log":"tab\u0009 cr\r q\" b\\ \u003ca\u003e\u0026amp; nul\u0000 esc\u001b[0m del\n","stream":"stdout","time":"2026-11-21T01:02:03.4Z"}
                42 of 42
            "#]],
        );
        check(
            &json(),
            "grün 漢字 🚢 a\u{2028}b\u{2029}\n".as_bytes(),
            Rest::Keep,
            expect![[r#"
                {"log":"grün 漢字 🚢 a\u2028b\u2029\n","stream":"stdout","time":"2026-11-21T01:02:03.4Z"}
                27 of 27
            "#]],
        );
        check(
            &json(),
            b"bad \xff\xfe and cut \xe6\xbc\n",
            Rest::Keep,
            expect![[r#"
                {"log":"bad \ufffd\ufffd and cut \ufffd\ufffd\n","stream":"stdout","time":"2026-11-21T01:02:03.4Z"}
                18 of 18
            "#]],
        );
    }

    #[test]
    fn a_long_line_is_cut_at_16_kib() {
        let raw = [vec![b'x'; PIECE_MAX * 2 + 5], b"\n".to_vec(), vec![b'y'; 10]].concat();
        let (text, used) = run(&json(), &raw, Rest::Keep, usize::MAX);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let lengths: Vec<usize> = lines.iter().map(|line| line["log"].as_str().unwrap().len()).collect();
        assert_eq!((lengths, used), (vec![PIECE_MAX, PIECE_MAX, 6], raw.len() - 10));
    }

    #[test]
    fn the_room_is_exceeded_by_one_record_at_most() {
        let raw = b"0123456789\n".repeat(100);
        let one = run(&json(), &raw, Rest::Keep, 1);
        assert_eq!((one.0.lines().count(), one.1), (1, 11));
        let some = run(&json(), &raw, Rest::Keep, one.0.len() * 10);
        assert_eq!((some.0.lines().count(), some.1), (10, 110));
    }

    #[test]
    fn cri_records_tell_full_from_partial() {
        check(
            &LogDriver::Cri,
            b"one\n\"two\"\nrest",
            Rest::End,
            expect![[r#"
                2026-11-21T01:02:03.4Z stdout F one
                2026-11-21T01:02:03.4Z stdout F "two"
                2026-11-21T01:02:03.4Z stdout F rest
                14 of 14
            "#]],
        );
        check(
            &LogDriver::Cri,
            b"rest",
            Rest::Flush,
            expect![[r#"
                2026-11-21T01:02:03.4Z stdout P rest
                4 of 4
            "#]],
        );
    }

    proptest::proptest! {
        /// However output is cut into batches, the records carry the same text.
        #[test]
        fn records_carry_exactly_the_text(lines in proptest::collection::vec("[ -~\u{e9}\u{4e00}\t\\\\\"]{0,40}", 0..50), cut in 1usize..200) {
            let raw = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            let mut out = Vec::new();
            let mut at = 0;
            while at < raw.len() {
                let end = raw.len().min(at + cut);
                let used = encode(&json(), Stream::Stderr, TIME, &raw.as_bytes()[at..end], Rest::Keep, usize::MAX, &mut out);
                at = if used == 0 {
                    // The line is longer than the cut: give it all.
                    at + encode(&json(), Stream::Stderr, TIME, &raw.as_bytes()[at..], Rest::Keep, 1, &mut out)
                } else {
                    at + used
                };
            }
            let text: String = String::from_utf8(out).unwrap().lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned())
                .collect();
            proptest::prop_assert_eq!(text, raw);
        }
    }
}
