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

/// Records as they are made: a buffer that is kept from batch to batch, so that no byte of it is written twice. What lies behind `len` is old.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    len: usize,
}

impl Records {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes room for `more` bytes.
    #[inline]
    fn reserve(&mut self, more: usize) {
        if self.bytes.len() - self.len < more {
            self.bytes.resize((self.len + more).max(self.bytes.len() * 2), 0);
        }
    }

    /// Into room that is there.
    #[inline]
    fn put(&mut self, text: &[u8]) {
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text);
        self.len += text.len();
    }

    /// The first `len` bytes of a block of which all is copied: a copy of known length is a handful of instructions.
    #[inline]
    fn put_block<const N: usize>(&mut self, block: &[u8; N], len: usize) {
        self.bytes[self.len..self.len + N].copy_from_slice(block);
        self.len += len;
    }
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
    out: &mut Records,
) -> usize {
    match driver {
        LogDriver::JsonFile { attrs } => Json::new(stream, time, attrs.as_deref()).records(raw, rest, room, out),
        LogDriver::Cri => Cri::new(stream, time).records(raw, rest, room, out),
    }
}

/// What a record ends with, padded so that it can be copied as a block.
struct Ending {
    block: [u8; Self::BLOCK],
    text: Vec<u8>,
}

impl Ending {
    const BLOCK: usize = 96;

    fn new(text: String) -> Self {
        let mut block = [0; Self::BLOCK];
        let short = text.len().min(Self::BLOCK);
        block[..short].copy_from_slice(&text.as_bytes()[..short]);
        Self { block, text: text.into_bytes() }
    }

    #[inline]
    fn append(&self, out: &mut Records) {
        if self.text.len() <= Self::BLOCK {
            out.put_block(&self.block, self.text.len());
        } else {
            out.put(&self.text);
        }
    }
}

struct Json {
    /// After the text of a piece that ends its line.
    line_end: Ending,
    /// After the text of another.
    piece_end: Ending,
}

/// How the text of a piece ended.
enum Stopped {
    Newline,
    /// At [`PIECE_MAX`].
    Full,
    /// There is no more.
    Empty,
}

impl Json {
    const HEAD: &'static [u8; 8] = b"{\"log\":\"";

    fn new(stream: Stream, time: &str, attrs: Option<&str>) -> Self {
        let attrs = attrs.map_or_else(String::new, |attrs| format!(",\"attrs\":{attrs}"));
        let piece_end = format!("\",\"stream\":\"{}\"{attrs},\"time\":\"{time}\"}}\n", stream.name());
        Self { line_end: Ending::new(format!("\\n{piece_end}")), piece_end: Ending::new(piece_end) }
    }

    fn records(&self, raw: &[u8], rest: Rest, room: usize, out: &mut Records) -> usize {
        let start = out.len;
        let around = Self::HEAD.len() + self.line_end.text.len() + Ending::BLOCK + BLOCK;
        let mut at = 0;
        while at < raw.len() && out.len - start < room {
            let window = &raw[at..raw.len().min(at + PIECE_MAX)];
            // A byte becomes six at most.
            out.reserve(around + window.len() * 6);
            let before = out.len;
            out.put(Self::HEAD);
            match json_text(window, out) {
                (Stopped::Newline, read) => {
                    self.line_end.append(out);
                    at += read;
                }
                (Stopped::Full, read) => {
                    self.piece_end.append(out);
                    at += read;
                }
                (Stopped::Empty, _) if rest == Rest::Keep => {
                    out.len = before;
                    break;
                }
                (Stopped::Empty, read) => {
                    self.piece_end.append(out);
                    at += read;
                }
            }
        }
        at
    }
}

/// Escapes up to the first newline of a window of [`PIECE_MAX`] bytes (or fewer, if there are no more). Returns how many bytes it has read, the
/// newline included.
#[inline]
fn json_text(window: &[u8], out: &mut Records) -> (Stopped, usize) {
    let mut at = 0;
    loop {
        at += plain(&window[at..], out);
        let Some(b) = window.get(at) else {
            return (if at == PIECE_MAX { Stopped::Full } else { Stopped::Empty }, at);
        };
        match *b {
            b'\n' => return (Stopped::Newline, at + 1),
            b'"' => out.put(b"\\\""),
            b'\\' => out.put(b"\\\\"),
            b'\r' => out.put(b"\\r"),
            0x80.. => {
                // A run of everything that is not special ASCII, so that text in other scripts is validated in one go.
                let run = window[at..].iter().position(|b| *b < 0x80 && special(*b)).unwrap_or(window.len() - at);
                escape_unicode(&window[at..at + run], out);
                at += run;
                continue;
            }
            b => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.put(b"\\u00");
                out.put(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
            }
        }
        at += 1;
    }
}

/// Bytes looked at together.
const BLOCK: usize = 16;

/// Copies text up to the first byte that needs another form, and returns how long it is. There is room for a block behind it.
#[inline]
fn plain(text: &[u8], out: &mut Records) -> usize {
    let (blocks, tail) = text.as_chunks::<BLOCK>();
    let mut at = 0;
    for block in blocks {
        let found = first_special(block);
        out.put_block(block, found);
        at += found;
        if found < BLOCK {
            return at;
        }
    }
    let found = tail.iter().position(|b| special(*b)).unwrap_or(tail.len());
    out.put(&tail[..found]);
    at + found
}

/// Needs an escape if it is ASCII, a closer look if it is not. A newline is one of them.
#[inline]
fn special(b: u8) -> bool {
    !(0x20..0x80).contains(&b) || matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&')
}

/// Index of the first special byte, or the length.
#[inline]
fn first_special(block: &[u8; BLOCK]) -> usize {
    let (words, _) = block.as_chunks::<8>();
    let (low, high) = (specials(u64::from_le_bytes(words[0])), specials(u64::from_le_bytes(words[1])));
    match (low, high) {
        (0, 0) => BLOCK,
        (0, high) => 8 + high.trailing_zeros() as usize / 8,
        (low, _) => low.trailing_zeros() as usize / 8,
    }
}

/// The uppermost bit of each byte that is special, exact for the lowest of them; 0 if none is.
#[inline]
fn specials(word: u64) -> u64 {
    const fn each(b: u8) -> u64 {
        u64::from_ne_bytes([b; 8])
    }
    // A byte that is less than what is taken from it borrows, which shows in its uppermost bit, unless that was set before. What has it set is
    // special as well. Bytes above one that borrows may show too: only the lowest counts.
    let control = word.wrapping_sub(each(b' '));
    // `"` and `&` differ in one bit, `<` and `>` in another.
    let quotes = ((word & each(!0x04)) ^ each(b'"')).wrapping_sub(each(1));
    let angles = ((word & each(!0x02)) ^ each(b'<')).wrapping_sub(each(1));
    let slashes = (word ^ each(b'\\')).wrapping_sub(each(1));
    (word | control | quotes | angles | slashes) & each(0x80)
}

fn escape_unicode(run: &[u8], out: &mut Records) {
    for chunk in run.utf8_chunks() {
        let mut text = chunk.valid();
        // U+2028 and U+2029 end lines in JavaScript.
        while let Some(at) = text.find(['\u{2028}', '\u{2029}']) {
            out.put(&text.as_bytes()[..at]);
            let last = text.as_bytes()[at + 2];
            out.put(if last == 0xa8 { b"\\u2028" } else { b"\\u2029" });
            text = &text[at + 3..];
        }
        out.put(text.as_bytes());
        for _ in chunk.invalid() {
            out.put(b"\\ufffd");
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

    fn records(&self, raw: &[u8], rest: Rest, room: usize, out: &mut Records) -> usize {
        let start = out.len;
        let mut at = 0;
        while at < raw.len() && out.len - start < room {
            let window = &raw[at..raw.len().min(at + PIECE_MAX)];
            // How long the text is, what of the window is used, and whether the line is whole.
            let (text, used, whole) = match memchr::memchr(b'\n', window) {
                Some(end) => (end, end + 1, true),
                None if window.len() == PIECE_MAX => (PIECE_MAX, PIECE_MAX, false),
                None if rest == Rest::Keep => break,
                None => (window.len(), window.len(), rest == Rest::End),
            };
            out.reserve(self.full.len() + text + 1);
            out.put(if whole { &self.full } else { &self.partial });
            out.put(&window[..text]);
            out.put(b"\n");
            at += used;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const TIME: &str = "2026-11-21T01:02:03.4Z";

    fn run(driver: &LogDriver, raw: &[u8], rest: Rest, room: usize) -> (String, usize) {
        let mut out = Records::default();
        let used = encode(driver, Stream::Stdout, TIME, raw, rest, room, &mut out);
        (String::from_utf8(out.bytes().to_vec()).unwrap(), used)
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

    /// The blocks in which text is copied have no edges: whatever stands wherever, the record says the same.
    #[test]
    fn every_byte_is_escaped_alike_at_every_place() {
        for byte in 0..=255u8 {
            for before in 0..40 {
                let mut raw = vec![b'x'; before];
                raw.extend([byte, b'y', b'\n']);
                let text = run(&json(), &raw, Rest::Keep, usize::MAX).0;
                let read = |line: &str| {
                    serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned()
                };
                let wanted = String::from_utf8_lossy(&raw).into_owned();
                assert_eq!(text.lines().map(read).collect::<String>(), wanted, "{byte} after {before}");
                let bare = text.bytes().any(|b| matches!(b, b'<' | b'>' | b'&') || (b < b' ' && b != b'\n'));
                assert!(!bare, "{byte} after {before}: {text}");
            }
        }
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
            let mut out = Records::default();
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
            let text: String = String::from_utf8(out.bytes().to_vec()).unwrap().lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned())
                .collect();
            proptest::prop_assert_eq!(text, raw);
        }
    }
}
