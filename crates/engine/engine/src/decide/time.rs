//! Points in time as filters spell them: RFC 3339, seconds since 1970, or a length of time before now.

use jiff::Timestamp;

use crate::{Error, Filters, Result};

/// The `until` filter, if there is one.
pub fn parse_until(filters: &Filters, now: Timestamp) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(text), None) => parse_point(text, now).map(Some),
        (Some(_), Some(_)) => Err(Error::Invalid("more than one until filter specified".into())),
    }
}

fn parse_point(text: &str, now: Timestamp) -> Result<Timestamp> {
    let refused = || Error::Invalid(format!("failed to parse {text:?} as a time"));
    if let Some((secs, nanos)) = text.split_once('.').or(Some((text, "0")))
        && !secs.is_empty()
        && secs.bytes().chain(nanos.bytes()).all(|b| b.is_ascii_digit())
    {
        let secs = secs.parse().map_err(|_| refused())?;
        let nanos: i32 = format!("{nanos:0<9}").get(..9).and_then(|n| n.parse().ok()).ok_or_else(refused)?;
        return Timestamp::new(secs, nanos).map_err(|_| refused());
    }
    if let Some(back) = super::changes::duration(text) {
        return now.checked_sub(back).map_err(|_| refused());
    }
    if let Ok(point) = text.parse::<Timestamp>() {
        return Ok(point);
    }
    // Without a zone: this host's.
    let civil = text.parse::<jiff::civil::DateTime>().or_else(|_| text.parse::<jiff::civil::Date>().map(|d| d.into()));
    let zoned = civil.and_then(|civil| civil.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map(|zoned| zoned.timestamp()).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_read_in_every_spelling() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let rows = [
            ("999", Some(999)),
            ("999.5", Some(999)),
            ("10m", Some(1_000_000 - 600)),
            ("1h30m", Some(1_000_000 - 5400)),
            ("1970-01-01T00:16:39Z", Some(999)),
            ("1970-01-01T01:16:39+01:00", Some(999)),
            ("soon", None),
            ("", None),
            ("99999999999999999999", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(parse_point(text, now).ok().map(|t| t.as_second()), wanted, "{text}");
        }
    }
}
