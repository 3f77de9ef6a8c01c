//! The 512-byte header block.

use super::Time;

pub(crate) const BLOCK: usize = 512;

/// The fields of a header block, numbers decoded.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: Number,
    pub(super) gid: Number,
    pub(super) size: Number,
    pub(super) mtime: Number,
    pub(super) flag: u8,
    pub(super) link: Vec<u8>,
    pub(super) major: Number,
    pub(super) minor: Number,
    pub(super) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Gnu,
}

/// A number field: readable or not. A field that no one looks at (an overridden size, the device of a file) may hold junk.
pub(super) type Number = Result<i64, String>;

/// `Ok(None)` for a block of zeros.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Option<Header>, String> {
    if block.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let expected = number(&block[148..156], "checksum")?;
    // Historic writers summed signed bytes.
    let others = || block[..148].iter().chain(&block[156..]);
    let unsigned: i64 = others().map(|b| i64::from(*b)).sum::<i64>() + 8 * 32;
    let signed: i64 = others().map(|b| i64::from(*b as i8)).sum::<i64>() + 8 * 32;
    if expected != unsigned && expected != signed {
        return Err(format!("checksum {expected} does not match {unsigned}"));
    }
    let format = match &block[257..265] {
        b"ustar  \0" => Format::Gnu,
        magic if magic.starts_with(b"ustar\0") => Format::Ustar,
        _ => Format::V7,
    };
    let mut name = text(&block[..100]);
    if format == Format::Ustar {
        // Schilling's star keeps times in the last bytes of the prefix, and says so at the end of the block.
        let prefix_end = if &block[508..512] == b"tar\0" { 476 } else { 500 };
        let prefix = text(&block[345..prefix_end]);
        if !prefix.is_empty() {
            name = [&prefix[..], b"/", &name].concat();
        }
    }
    let devices = format != Format::V7;
    let device = |range: std::ops::Range<usize>, what| if devices { number(&block[range], what) } else { Ok(0) };
    Ok(Some(Header {
        name,
        mode: number(&block[100..108], "mode").and_then(|n| u32::try_from(n).map_err(|_| format!("mode {n}")))?
            & 0o7777,
        uid: number(&block[108..116], "uid"),
        gid: number(&block[116..124], "gid"),
        size: number(&block[124..136], "size"),
        mtime: number(&block[136..148], "mtime"),
        flag: block[156],
        link: text(&block[157..257]),
        major: device(329..337, "device major"),
        minor: device(337..345, "device minor"),
        format,
    }))
}

/// Up to the first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.iter().take_while(|b| **b != 0).copied().collect()
}

/// Octal digits between blanks, or GNU's base-256: the first bit set, the rest a big-endian two's complement number.
pub(super) fn number(field: &[u8], what: &str) -> Result<i64, String> {
    let invalid = || format!("{what} is no number: {}", String::from_utf8_lossy(field).escape_debug());
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = (value << 8) | i128::from(byte);
            // A longer run of digits would be shifted out unnoticed.
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return Err(format!("{what} is out of range"));
            }
        }
        return i64::try_from(value).map_err(|_| format!("{what} is out of range"));
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let digits: &[u8] = field.trim_ascii_start();
    let len = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(len);
    if !rest.iter().all(blank) {
        return Err(invalid());
    }
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(invalid());
        }
        value = value * 8 + i64::from(digit - b'0');
    }
    Ok(value)
}

/// Seconds with an optional fraction, as PAX writes times: `-1.25` is a quarter of a second before -1.
pub(super) fn decimal_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let secs: i64 = match whole {
        "" | "-" => 0,
        _ if whole.bytes().skip(usize::from(negative)).all(|b| b.is_ascii_digit()) => whole.parse().ok()?,
        _ => return None,
    };
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0u32, |n, b| n * 10 + u32::from(b - b'0'));
    if negative && nanos > 0 {
        return Some(Time { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Time { secs, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77777777)),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\x02\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(8589934592)),
            (b"-000001\0", None),
            (b"0000648\0", None),
            (b"64 4\0\0\0\0", None),
            (b"0x10\0\0\0\0", None),
        ] {
            assert_eq!(number(field, "n").ok(), expected, "{field:?}");
        }
    }

    #[test]
    fn pax_times_have_fractions_and_signs() {
        let time = |secs, nanos| Some(Time { secs, nanos });
        for (text, expected) in [
            ("0", time(0, 0)),
            ("12.5", time(12, 500_000_000)),
            ("1.123456789123", time(1, 123_456_789)),
            ("-1", time(-1, 0)),
            ("-1.25", time(-2, 750_000_000)),
            ("-0.5", time(-1, 500_000_000)),
            (".5", time(0, 500_000_000)),
            ("", None),
            ("1e5", None),
            ("+1", None),
            ("1.2.3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(decimal_time(text.as_bytes()), expected, "{text}");
        }
    }
}
