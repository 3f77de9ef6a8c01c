//! When a CronJob fires: five fields of numbers, names, ranges, steps and lists, or `@daily` and the like, in a time zone. Pure.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _, Zoned};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that does not fire within this many days never does: the 30th of February.
const DAYS_MAX: u32 = 5 * 366;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// `@every 5m`.
    Every(Duration),
    At(Fields),
}

/// One bit a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where only one of them is given, the day is decided by it; where both are, either is enough.
    any_day: bool,
    any_weekday: bool,
}

pub fn parse(text: &str) -> Result<Schedule, String> {
    let text = text.trim();
    if let Some(every) = text.strip_prefix("@every ") {
        let duration = duration(every.trim()).ok_or_else(|| format!("failed to parse duration {text}"))?;
        return Ok(Schedule::Every(duration.max(Duration::from_secs(1))));
    }
    let line = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
        other => other,
    };
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{line}]", fields.len()));
    };
    let (days, any_day) = field(day, 1, 31, &[])?;
    let (mut weekdays, any_weekday) = field(weekday, 0, 7, &DAYS)?;
    if weekdays & 1 << 7 != 0 {
        weekdays = weekdays & !(1 << 7) | 1;
    }
    Ok(Schedule::At(Fields {
        minutes: field(minute, 0, 59, &[])?.0,
        hours: field(hour, 0, 23, &[])?.0,
        days,
        months: field(month, 1, 12, &MONTHS)?.0,
        weekdays,
        any_day,
        any_weekday,
    }))
}

/// The values of a field, and whether it asks for nothing in particular.
fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let failed = |part: &str| format!("failed to parse {part:?}: not a number, name or range within {low}-{high}");
    let number = |text: &str| -> Option<u32> {
        let word = text.to_ascii_lowercase();
        let named = names.iter().position(|name| *name == word).map(|at| at as u32 + low);
        named.or_else(|| text.parse().ok()).filter(|number| (low..=high).contains(number))
    };
    let (mut bits, mut any) = (0, false);
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step: u32 = match step {
            None => 1,
            Some(step) => step.parse().ok().filter(|step| *step > 0).ok_or_else(|| failed(part))?,
        };
        let star = range == "*" || range == "?";
        any |= star && step == 1;
        let (first, last) = match range.split_once('-') {
            _ if star => (low, if names.len() == 7 { 6 } else { high }),
            Some((first, last)) => number(first).zip(number(last)).ok_or_else(|| failed(part))?,
            // `5/10` goes on to the end.
            None => {
                let first = number(range).ok_or_else(|| failed(part))?;
                (first, if part.contains('/') { high.min(if names.len() == 7 { 6 } else { high }) } else { first })
            }
        };
        if first > last {
            return Err(failed(part));
        }
        bits |= (first..=last).step_by(step as usize).fold(0, |bits, at| bits | 1_u64 << at);
    }
    Ok((bits, any))
}

/// A duration as Go writes it: `1h30m`, `90s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| at + digits);
        total += value
            * match &rest[digits..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (total > 0.0 && total < 1e9).then(|| Duration::from_secs(total as u64))
}

impl Schedule {
    /// The first time after `time`.
    pub fn next(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(duration) => {
                let whole = Timestamp::from_second(time.as_second()).ok()?;
                whole.checked_add(SignedDuration::try_from(*duration).ok()?).ok()
            }
            Self::At(fields) => fields.next(time, zone),
        }
    }

    /// The last time after `from` and not after `now`, and how many there were, roughly.
    pub fn latest(&self, from: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<(Timestamp, i64)> {
        let first = self.next(from, zone).filter(|first| *first <= now)?;
        let Some(second) = self.next(first, zone).filter(|second| *second <= now) else { return Some((first, 1)) };
        let between = second.duration_since(first).as_secs().max(1);
        let missed = now.duration_since(first).as_secs() / between + 1;
        // Not every one is looked at: after a year away there may be half a million.
        let near = first.checked_add(SignedDuration::from_secs((missed - 2).max(0) * between)).ok()?;
        let mut latest = first;
        let mut at = self.next(near, zone);
        while let Some(time) = at.filter(|time| *time <= now) {
            latest = latest.max(time);
            at = self.next(time, zone);
        }
        Some((latest.max(second), missed))
    }
}

impl Fields {
    fn next(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = 60 * (time.as_second().div_euclid(60) + 1);
        let mut at = Timestamp::from_second(minute).ok()?;
        let mut days = 0;
        // In real time, not by the clock on the wall: an hour that does not exist is not fired in, one that comes twice is.
        loop {
            let local: Zoned = at.to_zoned(zone.clone());
            if !self.is_day(&local) {
                days += 1;
                if days > DAYS_MAX {
                    return None;
                }
                at = local.date().tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp();
            } else if self.hours & 1 << local.hour() == 0 {
                at = at.checked_add((60 - i64::from(local.minute())).minutes()).ok()?;
            } else if self.minutes & 1 << local.minute() == 0 {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                return Some(at);
            }
        }
    }

    fn is_day(&self, local: &Zoned) -> bool {
        let day = self.days & 1 << local.day() != 0;
        let weekday = self.weekdays & 1 << local.weekday().to_sunday_zero_offset() != 0;
        let both = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        self.months & 1 << local.month() != 0 && both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_time() {
        for (line, from, next) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:59Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:16:00Z", "2026-01-01T00:30:00Z"),
            ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("0 9-17/4 * * *", "2026-01-01T10:00:00Z", "2026-01-01T13:00:00Z"),
            ("30 4 1,15 * 5", "2026-01-02T05:00:00Z", "2026-01-09T04:30:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 * jan-mar Mon", "2026-03-30T12:00:00Z", "2027-01-04T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("0 0 */2 * 1", "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("@hourly", "2026-01-01T00:10:00Z", "2026-01-01T01:00:00Z"),
            ("@weekly", "2026-01-01T00:10:00Z", "2026-01-04T00:00:00Z"),
            ("@monthly", "2026-01-01T00:10:00Z", "2026-02-01T00:00:00Z"),
            ("@yearly", "2026-01-01T00:10:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:10:00Z", "2026-01-01T01:40:00Z"),
        ] {
            assert_eq!(parse(line).unwrap().next(at(from), &TimeZone::UTC), Some(at(next)), "{line} after {from}");
        }
        assert_eq!(parse("0 0 30 2 *").unwrap().next(at("2026-01-01T00:00:00Z"), &TimeZone::UTC), None);
    }

    #[test]
    fn clocks_that_change() {
        let zone = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
        let daily = parse("30 2 * * *").unwrap();
        // In spring there is no half past two; in autumn the hour from one comes twice.
        assert_eq!(daily.next(at("2026-03-08T00:00:00Z"), &zone), Some(at("2026-03-09T06:30:00Z")));
        let hourly = parse("0 * * * *").unwrap();
        assert_eq!(hourly.next(at("2026-11-01T05:00:00Z"), &zone), Some(at("2026-11-01T06:00:00Z")));
        assert_eq!(hourly.next(at("2026-11-01T06:00:00Z"), &zone), Some(at("2026-11-01T07:00:00Z")));
    }

    #[test]
    fn the_latest_of_many() {
        let latest = |line: &str, from: &str, now: &str| parse(line).unwrap().latest(at(from), at(now), &TimeZone::UTC);
        assert_eq!(latest("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:59:59Z"), None);
        assert_eq!(
            latest("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            Some((at("2026-01-01T01:00:00Z"), 1))
        );
        assert_eq!(
            latest("* * * * *", "2026-01-01T00:00:00Z", "2026-06-01T00:00:30Z"),
            Some((at("2026-06-01T00:00:00Z"), 217_440))
        );
        // Unevenly: the first two say little about the rest.
        let (time, _) = latest("0 0 1,2 * *", "2025-12-31T23:00:00Z", "2026-01-20T00:00:00Z").unwrap();
        assert_eq!(time, at("2026-01-02T00:00:00Z"));
    }

    #[test]
    fn what_is_no_schedule() {
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "@never",
            "5-1 * * * *",
            "@every x",
            "* * * foo *",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
