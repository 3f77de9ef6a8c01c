//! Operators and functions: CEL's own and its extensions for strings, lists, sets, optionals and regular expressions.
//! What Kubernetes adds is in [`crate::kube`].

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::value::{Key, Val};
use crate::{EvalError, kube};

type Made = Result<Val, EvalError>;

/// Functions with the numbers of arguments they take, the value before a dot among them.
const FUNCTIONS: &[(&str, &[usize])] = &[
    ("size", &[1]),
    ("type", &[1]),
    ("dyn", &[1]),
    ("int", &[1]),
    ("uint", &[1]),
    ("double", &[1]),
    ("string", &[1]),
    ("bytes", &[1]),
    ("bool", &[1]),
    ("duration", &[1]),
    ("timestamp", &[1]),
    ("matches", &[2]),
    ("contains", &[2]),
    ("startsWith", &[2]),
    ("endsWith", &[2]),
    ("getFullYear", &[1, 2]),
    ("getMonth", &[1, 2]),
    ("getDayOfYear", &[1, 2]),
    ("getDayOfMonth", &[1, 2]),
    ("getDate", &[1, 2]),
    ("getDayOfWeek", &[1, 2]),
    ("getHours", &[1, 2]),
    ("getMinutes", &[1, 2]),
    ("getSeconds", &[1, 2]),
    ("getMilliseconds", &[1, 2]),
    ("charAt", &[2]),
    ("indexOf", &[2, 3]),
    ("lastIndexOf", &[2, 3]),
    ("lowerAscii", &[1]),
    ("upperAscii", &[1]),
    ("replace", &[3, 4]),
    ("reverse", &[1]),
    ("split", &[2, 3]),
    ("substring", &[2, 3]),
    ("trim", &[1]),
    ("join", &[1, 2]),
    ("find", &[2]),
    ("findAll", &[2, 3]),
    ("isSorted", &[1]),
    ("sum", &[1]),
    ("min", &[1]),
    ("max", &[1]),
    ("distinct", &[1]),
    ("flatten", &[1]),
    ("sort", &[1]),
    ("slice", &[3]),
    ("sets.contains", &[2]),
    ("sets.equivalent", &[2]),
    ("sets.intersects", &[2]),
    ("optional.of", &[1]),
    ("optional.none", &[0]),
    ("optional.ofNonZeroValue", &[1]),
    ("hasValue", &[1]),
    ("value", &[1]),
    ("or", &[2]),
    ("orValue", &[2]),
];

pub fn is_function(name: &str, count: usize) -> bool {
    let known = |table: &[(&str, &[usize])]| table.iter().any(|(own, counts)| *own == name && counts.contains(&count));
    known(FUNCTIONS) || known(kube::FUNCTIONS)
}

pub fn no_overload(name: &str, args: &[Val]) -> EvalError {
    let types: Vec<&str> = args.iter().map(Val::type_name).collect();
    EvalError::NoOverload(format!("{name}({})", types.join(", ")))
}

pub fn failed(text: impl Into<String>) -> EvalError {
    EvalError::Failed(text.into())
}

fn overflow() -> EvalError {
    failed("integer overflow")
}

pub fn binary(sign: &str, a: &Val, b: &Val) -> Made {
    use Val::*;
    let none = || EvalError::NoOverload(format!("{} {sign} {}", a.type_name(), b.type_name()));
    Ok(match sign {
        "==" => a.equals(b).into(),
        "!=" => (!a.equals(b)).into(),
        "<" | "<=" | ">" | ">=" => {
            let order = a.order(b);
            let nan = matches!((a, b), (Double(x), _) | (_, Double(x)) if x.is_nan());
            match (order, nan) {
                (Some(order), _) => match sign {
                    "<" => order == Ordering::Less,
                    "<=" => order != Ordering::Greater,
                    ">" => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                }
                .into(),
                (None, true) => false.into(),
                (None, false) => return Err(none()),
            }
        }
        "in" => match b {
            List(items) => items.iter().any(|item| item.equals(a)).into(),
            Map(map) => a.key().is_some_and(|key| map.contains_key(&key)).into(),
            _ => return Err(none()),
        },
        "+" => match (a, b) {
            (Int(a), Int(b)) => Int(a.checked_add(*b).ok_or_else(overflow)?),
            (Uint(a), Uint(b)) => Uint(a.checked_add(*b).ok_or_else(overflow)?),
            (Double(a), Double(b)) => Double(a + b),
            (Text(a), Text(b)) => format!("{a}{b}").into(),
            (Bytes(a), Bytes(b)) => Bytes([&a[..], &b[..]].concat().into()),
            (List(a), List(b)) => [&a[..], &b[..]].concat().into(),
            (Timestamp(time), Duration(more)) | (Duration(more), Timestamp(time)) => {
                Timestamp(time.checked_add(*more).map_err(|_| failed("timestamp out of range"))?)
            }
            (Duration(a), Duration(b)) => Duration(a.checked_add(*b).ok_or_else(overflow)?),
            _ => return Err(none()),
        },
        "-" => match (a, b) {
            (Int(a), Int(b)) => Int(a.checked_sub(*b).ok_or_else(overflow)?),
            (Uint(a), Uint(b)) => Uint(a.checked_sub(*b).ok_or_else(overflow)?),
            (Double(a), Double(b)) => Double(a - b),
            (Timestamp(a), Timestamp(b)) => Duration(a.duration_since(*b)),
            (Timestamp(time), Duration(less)) => {
                Timestamp(time.checked_sub(*less).map_err(|_| failed("timestamp out of range"))?)
            }
            (Duration(a), Duration(b)) => Duration(a.checked_sub(*b).ok_or_else(overflow)?),
            _ => return Err(none()),
        },
        "*" => match (a, b) {
            (Int(a), Int(b)) => Int(a.checked_mul(*b).ok_or_else(overflow)?),
            (Uint(a), Uint(b)) => Uint(a.checked_mul(*b).ok_or_else(overflow)?),
            (Double(a), Double(b)) => Double(a * b),
            _ => return Err(none()),
        },
        "/" | "%" => match (a, b) {
            (Int(_), Int(0)) | (Uint(_), Uint(0)) => {
                return Err(failed(if sign == "/" { "division by zero" } else { "modulus by zero" }));
            }
            (Int(a), Int(b)) if sign == "/" => Int(a.checked_div(*b).ok_or_else(overflow)?),
            (Int(a), Int(b)) => Int(a.checked_rem(*b).ok_or_else(overflow)?),
            (Uint(a), Uint(b)) if sign == "/" => Uint(a / b),
            (Uint(a), Uint(b)) => Uint(a % b),
            (Double(a), Double(b)) if sign == "/" => Double(a / b),
            _ => return Err(none()),
        },
        _ => return Err(none()),
    })
}

pub fn call(name: &str, args: &[Val]) -> Made {
    use Val::*;
    let none = || no_overload(name, args);
    if let Some(made) = kube::call(name, args) {
        return made;
    }
    Ok(match (name, args) {
        ("size", [Text(text)]) => Int(text.chars().count() as i64),
        ("size", [Bytes(bytes)]) => Int(bytes.len() as i64),
        ("size", [List(items)]) => Int(items.len() as i64),
        ("size", [Map(map)]) => Int(map.len() as i64),
        ("type", [value]) => Type(value.type_name().into()),
        ("dyn", [value]) => value.clone(),
        ("int", [value]) => to_int(value).ok_or_else(none)??,
        ("uint", [value]) => match to_int(value) {
            _ if matches!(value, Uint(_)) => value.clone(),
            Some(Ok(Int(number))) => Uint(u64::try_from(number).map_err(|_| failed("unsigned integer overflow"))?),
            Some(Err(error)) => return Err(error),
            _ => return Err(none()),
        },
        ("double", [Double(value)]) => Double(*value),
        ("double", [Int(value)]) => Double(*value as f64),
        ("double", [Uint(value)]) => Double(*value as f64),
        ("double", [Text(text)]) => Double(text.parse().map_err(|_| failed("type conversion error"))?),
        ("string", [value]) => to_text(value).ok_or_else(none)?.into(),
        ("bytes", [Bytes(bytes)]) => Bytes(bytes.clone()),
        ("bytes", [Text(text)]) => Bytes(text.as_bytes().into()),
        ("bool", [Bool(value)]) => Bool(*value),
        ("bool", [Text(text)]) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Bool(true),
            "false" | "False" | "FALSE" | "f" | "0" => Bool(false),
            _ => return Err(failed("type conversion error from 'string' to 'bool'")),
        },
        ("duration", [Duration(value)]) => Duration(*value),
        ("duration", [Text(text)]) => {
            Duration(parse_duration(text).ok_or_else(|| failed(format!("time: invalid duration {text:?}")))?)
        }
        ("timestamp", [Timestamp(value)]) => Timestamp(*value),
        ("timestamp", [Int(secs)]) => {
            Timestamp(jiff::Timestamp::from_second(*secs).map_err(|_| failed("timestamp out of range"))?)
        }
        ("timestamp", [Text(text)]) => {
            Timestamp(text.parse().map_err(|_| failed(format!("parsing time {text:?}: invalid timestamp")))?)
        }
        ("contains", [Text(text), Text(part)]) => text.contains(&**part).into(),
        ("startsWith", [Text(text), Text(part)]) => text.starts_with(&**part).into(),
        ("endsWith", [Text(text), Text(part)]) => text.ends_with(&**part).into(),
        ("matches", [Text(text), Text(pattern)]) => regex(pattern)?.is_match(text).into(),
        ("find", [Text(text), Text(pattern)]) => {
            regex(pattern)?.find(text).map(|found| found.as_str()).unwrap_or_default().into()
        }
        ("findAll", [Text(text), Text(pattern), rest @ ..]) => {
            let most = match rest {
                [] => usize::MAX,
                [Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => return Err(none()),
            };
            let found = regex(pattern)?;
            found.find_iter(text).take(most).map(|found| found.as_str().into()).collect::<Vec<Val>>().into()
        }
        (part, [Timestamp(time), zone @ ..]) if part.starts_with("get") => {
            let zone = match zone {
                [] => "UTC",
                [Text(zone)] => zone,
                _ => return Err(none()),
            };
            time_part(part, *time, zone)?
        }
        ("getHours", [Duration(time)]) => Int(time.as_hours()),
        ("getMinutes", [Duration(time)]) => Int(time.as_mins()),
        ("getSeconds", [Duration(time)]) => Int(time.as_secs()),
        ("getMilliseconds", [Duration(time)]) => Int(i64::from(time.subsec_millis())),
        ("lowerAscii", [Text(text)]) => text.to_ascii_lowercase().into(),
        ("upperAscii", [Text(text)]) => text.to_ascii_uppercase().into(),
        ("trim", [Text(text)]) => text.trim().into(),
        ("reverse", [Text(text)]) => text.chars().rev().collect::<String>().into(),
        ("reverse", [List(items)]) => items.iter().rev().cloned().collect::<Vec<_>>().into(),
        ("charAt", [Text(text), Int(at)]) => {
            let length = text.chars().count() as i64;
            if !(0..=length).contains(at) {
                return Err(failed(format!("index out of range: {at}")));
            }
            text.chars().nth(*at as usize).map(String::from).unwrap_or_default().into()
        }
        ("substring", [Text(text), Int(from), rest @ ..]) => {
            let length = text.chars().count() as i64;
            let to = match rest {
                [] => length,
                [Int(to)] => *to,
                _ => return Err(none()),
            };
            if *from < 0 || to > length || *from > to {
                return Err(failed(format!("index out of range: {from}")));
            }
            text.chars().skip(*from as usize).take((to - from) as usize).collect::<String>().into()
        }
        ("indexOf" | "lastIndexOf", [Text(text), Text(part), rest @ ..]) => {
            let from = match rest {
                [] => None,
                [Int(from)] => Some(*from),
                _ => return Err(none()),
            };
            Int(find_text(text, part, from, name == "lastIndexOf")?)
        }
        ("indexOf", [List(items), value]) => Int(position(items.iter().position(|item| item.equals(value)))),
        ("lastIndexOf", [List(items), value]) => Int(position(items.iter().rposition(|item| item.equals(value)))),
        ("replace", [Text(text), Text(from), Text(to)]) => text.replace(&**from, to).into(),
        ("replace", [Text(text), Text(from), Text(to), Int(most)]) => match usize::try_from(*most) {
            Ok(most) => text.replacen(&**from, to, most).into(),
            Err(_) => text.replace(&**from, to).into(),
        },
        ("split", [Text(text), Text(by), rest @ ..]) => {
            let most = match rest {
                [] => -1,
                [Int(most)] => *most,
                _ => return Err(none()),
            };
            split(text, by, most).into()
        }
        ("join", [List(items), rest @ ..]) => {
            let by = match rest {
                [] => "",
                [Text(by)] => by,
                _ => return Err(none()),
            };
            let parts: Option<Vec<&str>> = items.iter().map(Val::as_text).collect();
            parts.ok_or_else(none)?.join(by).into()
        }
        ("isSorted", [List(items)]) => {
            items.windows(2).all(|pair| kube::compare(&pair[0], &pair[1]) != Some(Ordering::Greater)).into()
        }
        ("sum", [List(items)]) => {
            let mut items = items.iter();
            match items.next() {
                None => Int(0),
                Some(first) => items.try_fold(first.clone(), |sum, item| binary("+", &sum, item))?,
            }
        }
        ("min" | "max", [List(items)]) => {
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let mut best = items.first().ok_or_else(|| failed(format!("{name} called on empty list")))?;
            for item in items.iter() {
                if kube::compare(item, best).ok_or_else(none)? == wanted {
                    best = item;
                }
            }
            best.clone()
        }
        ("distinct", [List(items)]) => {
            let mut out: Vec<Val> = Vec::new();
            for item in items.iter() {
                if !out.iter().any(|have| have.equals(item)) {
                    out.push(item.clone());
                }
            }
            out.into()
        }
        ("flatten", [List(items)]) => {
            let inner = |item: &Val| match item {
                List(items) => items.to_vec(),
                other => vec![other.clone()],
            };
            items.iter().flat_map(inner).collect::<Vec<_>>().into()
        }
        ("sort", [List(items)]) => {
            let mut items = items.to_vec();
            items.sort_by(|a, b| kube::compare(a, b).unwrap_or(Ordering::Equal));
            items.into()
        }
        ("slice", [List(items), Int(from), Int(to)]) => {
            let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
            let part = range.and_then(|(from, to)| items.get(from..to));
            part.ok_or_else(|| failed("slice out of range"))?.to_vec().into()
        }
        ("sets.contains", [List(a), List(b)]) => within(b, a).into(),
        ("sets.equivalent", [List(a), List(b)]) => (within(a, b) && within(b, a)).into(),
        ("sets.intersects", [List(a), List(b)]) => a.iter().any(|item| b.iter().any(|other| other.equals(item))).into(),
        ("optional.of", [value]) => Optional(Some(value.clone().into())),
        ("optional.none", []) => Optional(None),
        ("optional.ofNonZeroValue", [value]) => match is_zero(value) {
            true => Optional(None),
            false => Optional(Some(value.clone().into())),
        },
        ("hasValue", [Optional(value)]) => value.is_some().into(),
        ("value", [Optional(value)]) => *value.clone().ok_or_else(|| failed("optional.none() dereference"))?,
        ("or", [Optional(None), other @ Optional(_)]) => other.clone(),
        ("or", [one @ Optional(_), Optional(_)]) => one.clone(),
        ("orValue", [Optional(value), other]) => value.as_deref().unwrap_or(other).clone(),
        _ => return Err(none()),
    })
}

fn within(part: &[Val], all: &[Val]) -> bool {
    part.iter().all(|item| all.iter().any(|other| other.equals(item)))
}

fn position(found: Option<usize>) -> i64 {
    found.map_or(-1, |at| at as i64)
}

fn is_zero(value: &Val) -> bool {
    match value {
        Val::Null | Val::Optional(None) => true,
        Val::Bool(value) => !value,
        Val::Int(value) => *value == 0,
        Val::Uint(value) => *value == 0,
        Val::Double(value) => *value == 0.0,
        Val::Text(text) => text.is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::List(items) => items.is_empty(),
        Val::Map(map) => map.is_empty(),
        Val::Duration(time) => time.is_zero(),
        _ => false,
    }
}

/// `None` if the type has no way to an integer.
fn to_int(value: &Val) -> Option<Made> {
    Some(match value {
        Val::Int(_) => Ok(value.clone()),
        Val::Uint(number) => i64::try_from(*number).map(Val::Int).map_err(|_| overflow()),
        Val::Double(number) if number.is_finite() && number.abs() < 9.2e18 => Ok(Val::Int(*number as i64)),
        Val::Double(_) => Err(overflow()),
        Val::Text(text) => {
            text.parse().map(Val::Int).map_err(|_| failed("type conversion error from 'string' to 'int'"))
        }
        Val::Timestamp(time) => Ok(Val::Int(time.as_second())),
        Val::Duration(time) => Ok(Val::Int(time.as_nanos() as i64)),
        _ => return None,
    })
}

pub fn to_text(value: &Val) -> Option<String> {
    Some(match value {
        Val::Text(text) => text.to_string(),
        Val::Bool(value) => value.to_string(),
        Val::Int(value) => value.to_string(),
        Val::Uint(value) => value.to_string(),
        Val::Double(value) => value.to_string(),
        Val::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok()?,
        Val::Timestamp(time) => time.to_string(),
        Val::Duration(time) => {
            let text = format!("{}.{:09}", time.as_secs().abs(), time.subsec_nanos().abs());
            let sign = if time.is_negative() { "-" } else { "" };
            format!("{sign}{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        other => return kube::to_text(other),
    })
}

/// As Go reads durations: `1h30m`, `-1.5s`, `0`.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut nanos = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
        let (unit, factor) = units.iter().find(|(unit, _)| {
            rest.strip_prefix(unit)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        })?;
        nanos += number * factor;
        rest = &rest[unit.len()..];
    }
    if nanos > i64::MAX as f64 {
        return None;
    }
    Some(SignedDuration::from_nanos(if negative { -(nanos as i64) } else { nanos as i64 }))
}

fn time_part(part: &str, time: Timestamp, zone: &str) -> Made {
    let zoned = match zone.split_once(':') {
        _ if matches!(zone, "UTC" | "") => time.to_zoned(jiff::tz::TimeZone::UTC),
        // An offset such as -05:30.
        Some((hours, minutes)) if hours.trim_start_matches(['+', '-']).bytes().all(|b| b.is_ascii_digit()) => {
            let bad = || failed(format!("unknown time zone {zone:?}"));
            let hours_number: i32 = hours.parse().map_err(|_| bad())?;
            let minutes: i32 = minutes.parse().map_err(|_| bad())?;
            let sign = if hours.starts_with('-') { -1 } else { 1 };
            let offset =
                jiff::tz::Offset::from_seconds(hours_number * 3600 + sign * minutes * 60).map_err(|_| bad())?;
            time.to_zoned(jiff::tz::TimeZone::fixed(offset))
        }
        _ => time.in_tz(zone).map_err(|_| failed(format!("unknown time zone {zone:?}")))?,
    };
    Ok(Val::Int(i64::from(match part {
        "getFullYear" => i32::from(zoned.year()),
        "getMonth" => i32::from(zoned.month()) - 1,
        "getDayOfYear" => i32::from(zoned.day_of_year()) - 1,
        "getDayOfMonth" => i32::from(zoned.day()) - 1,
        "getDate" => i32::from(zoned.day()),
        "getDayOfWeek" => i32::from(zoned.weekday().to_sunday_zero_offset()),
        "getHours" => i32::from(zoned.hour()),
        "getMinutes" => i32::from(zoned.minute()),
        "getSeconds" => i32::from(zoned.second()),
        "getMilliseconds" => i32::from(zoned.millisecond()),
        other => return Err(EvalError::NoOverload(other.to_owned())),
    })))
}

pub fn regex(pattern: &str) -> Result<regex::Regex, EvalError> {
    regex::RegexBuilder::new(pattern)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| failed(format!("error parsing regexp: {error}")))
}

fn find_text(text: &str, part: &str, from: Option<i64>, last: bool) -> Result<i64, EvalError> {
    let chars: Vec<char> = text.chars().collect();
    let wanted: Vec<char> = part.chars().collect();
    if let Some(from) = from
        && !(0..=chars.len() as i64).contains(&from)
    {
        return Err(failed(format!("index out of range: {from}")));
    }
    let at = |start: usize| chars[start..].starts_with(&wanted);
    let end = chars.len();
    Ok(position(match last {
        false => (from.unwrap_or(0) as usize..=end).find(|start| at(*start)),
        true => (0..=from.map_or(end, |from| from as usize)).rev().find(|start| at(*start)),
    }))
}

fn split(text: &str, by: &str, most: i64) -> Vec<Val> {
    if most == 0 {
        return Vec::new();
    }
    if by.is_empty() {
        let chars: Vec<String> = text.chars().map(String::from).collect();
        let keep = if most < 0 { chars.len() } else { (most as usize).min(chars.len()) };
        let mut out: Vec<Val> = chars[..keep.saturating_sub(1)].iter().map(|c| c.as_str().into()).collect();
        if keep > 0 {
            out.push(
                chars[keep - 1..]
                    .iter()
                    .take(if most < 0 { 1 } else { usize::MAX })
                    .cloned()
                    .collect::<String>()
                    .into(),
            );
        }
        return out;
    }
    match most < 0 {
        true => text.split(by).map(Val::from).collect(),
        false => text.splitn(most as usize, by).map(Val::from).collect(),
    }
}

/// A map with keys of text.
pub fn text_map(entries: impl IntoIterator<Item = (String, Val)>) -> Val {
    entries.into_iter().map(|(key, value)| (Key::Text(key.into()), value)).collect::<BTreeMap<_, _>>().into()
}
