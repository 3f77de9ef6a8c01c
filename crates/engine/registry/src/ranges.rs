//! Byte ranges of requests and answers. Pure.

/// What a `Range` header asks of a document of known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Whole,
    /// First and last byte, both included.
    Part(u64, u64),
    Unsatisfiable,
}

/// RFC 9110, section 14.2. Several ranges at once and units other than bytes are answered with the whole document.
pub(crate) fn parse_range(header: Option<&str>, length: u64) -> Asked {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Asked::Whole };
    let Some((first, last)) = spec.split_once('-') else { return Asked::Whole };
    let (first, last) = (first.trim(), last.trim());
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        true => Some(text.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Asked::Whole,
        (Some(first), _) if first >= length => Asked::Unsatisfiable,
        (Some(first), Some(last)) => Asked::Part(first, last.min(length - 1)),
        (Some(first), None) if last.is_empty() => Asked::Part(first, length - 1),
        (None, Some(0)) if first.is_empty() => Asked::Unsatisfiable,
        (None, Some(_)) if first.is_empty() && length == 0 => Asked::Unsatisfiable,
        (None, Some(suffix)) if first.is_empty() => Asked::Part(length.saturating_sub(suffix), length - 1),
        _ => Asked::Whole,
    }
}

/// `first-last` of a chunk that is uploaded, also in HTTP's own form `bytes first-last/length`.
pub(crate) fn parse_chunk(header: &str) -> Option<(u64, u64)> {
    let header = header.trim();
    let header = header.strip_prefix("bytes").map_or(header, |rest| rest.trim_start_matches(['=', ' ']));
    let (first, last) = header.split('/').next()?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (first, last) = (digits(first)?, digits(last)?);
    (first <= last).then_some((first, last))
}

/// The first byte and the whole length that a `Content-Range` of an answer tells: `bytes 5-9/10`.
pub(crate) fn parse_content_range(header: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, length) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let length = if length == "*" { None } else { Some(length.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_as_http_says() {
        for (header, length, expected) in [
            ("bytes=0-4", 10, Asked::Part(0, 4)),
            ("bytes=5-", 10, Asked::Part(5, 9)),
            ("bytes=-3", 10, Asked::Part(7, 9)),
            ("bytes=-30", 10, Asked::Part(0, 9)),
            ("bytes=9-100", 10, Asked::Part(9, 9)),
            ("bytes=10-", 10, Asked::Unsatisfiable),
            ("bytes=-0", 10, Asked::Unsatisfiable),
            ("bytes=0-", 0, Asked::Unsatisfiable),
            ("bytes=-1", 0, Asked::Unsatisfiable),
            ("bytes=5-4", 10, Asked::Whole),
            ("bytes=0-1,3-4", 10, Asked::Whole),
            ("lines=0-1", 10, Asked::Whole),
            ("bytes=x-", 10, Asked::Whole),
            ("bytes=-", 10, Asked::Whole),
            ("bytes=0-99999999999999999999999", 10, Asked::Part(0, 9)),
        ] {
            assert_eq!(parse_range(Some(header), length), expected, "{header} of {length}");
        }
        assert_eq!(parse_range(None, 10), Asked::Whole);
    }

    #[test]
    fn chunks_read_in_both_forms() {
        assert_eq!(parse_chunk("0-9"), Some((0, 9)));
        assert_eq!(parse_chunk("bytes 10-19/*"), Some((10, 19)));
        for bad in ["", "9-0", "-9", "9-", "a-b", "+1-2"] {
            assert_eq!(parse_chunk(bad), None, "{bad}");
        }
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, 9, None)));
        assert_eq!(parse_content_range("bytes */10"), None);
    }
}
