//! Points in time as Go's encoder writes them and as Docker's parameters spell them.

use jiff::Timestamp;

use crate::http::error::{ApiError, ApiResult};

/// Go's zero time: what Docker shows for "never".
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with as many digits of the second as are needed (Go's `RFC3339Nano`).
pub(crate) fn nano(at: Timestamp) -> String {
    at.to_string()
}

pub(crate) fn nano_or_never(at: Option<Timestamp>) -> String {
    at.map_or_else(|| NEVER.to_owned(), nano)
}

/// Always nine digits, as `docker logs --timestamps` prints them.
pub(crate) fn fixed_nano(at: Timestamp, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{at:.9}");
}

/// Nanoseconds since 1970. Beyond the years that fit in 64 bits (2262) the edge values stand.
pub(crate) fn unix_nanos(at: Timestamp) -> i64 {
    at.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// A `since` or `until`: seconds since 1970 with an optional fraction, or RFC 3339. Empty and 0 are "not given".
pub(crate) fn parse(name: &str, text: Option<&str>) -> ApiResult<Option<Timestamp>> {
    let Some(text) = text.filter(|text| !text.is_empty() && *text != "0") else { return Ok(None) };
    let invalid = || ApiError::invalid(format!("invalid value for {name:?}: {text:?} is not a time"));
    if text.contains('T') {
        return text.parse().map(Some).map_err(|_| invalid());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    let nanos = if text.starts_with('-') { -nanos } else { nanos };
    Timestamp::new(seconds, nanos).map(Some).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        let at = |seconds, nanos| Timestamp::new(seconds, nanos).unwrap();
        assert_eq!(nano(at(1_700_000_000, 0)), "2023-11-14T22:13:20Z");
        assert_eq!(nano(at(1_700_000_000, 120_000_000)), "2023-11-14T22:13:20.12Z");
        assert_eq!(nano(at(1_700_000_000, 1)), "2023-11-14T22:13:20.000000001Z");
        assert_eq!(nano_or_never(None), "0001-01-01T00:00:00Z");
        let mut out = Vec::new();
        fixed_nano(at(1_700_000_000, 120_000_000), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "2023-11-14T22:13:20.120000000Z");
    }

    #[test]
    fn parameters_are_read() {
        let read = |text| parse("since", Some(text)).unwrap().map(nano);
        assert_eq!(read("1700000000"), Some("2023-11-14T22:13:20Z".into()));
        assert_eq!(read("1700000000.000000001"), Some("2023-11-14T22:13:20.000000001Z".into()));
        assert_eq!(read("2023-11-14T22:13:20.5Z"), Some("2023-11-14T22:13:20.5Z".into()));
        assert_eq!(read("0"), None);
        assert_eq!(parse("since", None), Ok(None));
        for bad in
            ["x", "1e9", "1.x", "1.1234567890", "99999999999999999999", "9223372036854775807", "2023-13-01T00:00:00Z"]
        {
            assert!(parse("since", Some(bad)).is_err(), "{bad}");
        }
    }
}
