//! How cells say times, selectors, lists and what is missing.

use jiff::Timestamp;
use serde_json::Value;

use crate::meta::{self, at, list_at, str_at};

pub(super) fn name(object: &Value) -> Value {
    meta::name(object).into()
}

pub(super) fn text(object: &Value, path: &[&str]) -> Value {
    str_at(object, path).into()
}

pub(super) fn number(object: &Value, path: &[&str]) -> Value {
    integer(object, path).into()
}

pub(super) fn integer(object: &Value, path: &[&str]) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

pub(super) fn or(text: &str, missing: &str) -> Value {
    (if text.is_empty() { missing } else { text }).into()
}

pub(super) fn or_none(text: &str) -> Value {
    or(text, "<none>")
}

pub(super) fn or_unset(text: &str) -> Value {
    or(text, "<unset>")
}

pub(super) fn terminating_or(object: &Value, phase: &str) -> Value {
    (if meta::is_terminating(object) { "Terminating" } else { phase }).into()
}

/// The condition of this type, if there is one.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list_at(object, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind)
}

pub(super) fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    match meta::get(object, "creationTimestamp") {
        "" => "<unknown>".into(),
        time => since(time, now),
    }
}

pub(super) fn since(time: &str, now: Timestamp) -> Value {
    match time.parse::<Timestamp>() {
        Ok(time) => human((now.as_second() - time.as_second()).max(0)).into(),
        Err(_) => "<invalid>".into(),
    }
}

/// A length of time as kubectl writes it: `5s`, `2m30s`, `3h`, `4d`.
pub fn human(secs: i64) -> String {
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86400);
    let and = |big: i64, unit: char, small: i64, less: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{less}"),
    };
    if secs < 120 {
        format!("{secs}s")
    } else if minutes < 10 {
        and(minutes, 'm', secs % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        and(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        and(days, 'd', hours % 24, 'h')
    } else if days < 730 {
        format!("{days}d")
    } else if days < 2920 {
        and(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

/// Sorted `key=value` pairs, `<none>` where there are none.
pub(super) fn labels(selector: &Value) -> Value {
    let pairs = selector.as_object().into_iter().flatten();
    let mut pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    or_none(&pairs.join(","))
}

/// A label selector object, its requirements sorted by key.
pub(super) fn selector(selector: &Value) -> Value {
    let mut parts: Vec<(&str, String)> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push((key, format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for expression in list_at(selector, &["matchExpressions"]) {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = list_at(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key, text));
    }
    parts.sort_by_key(|(key, _)| *key);
    or_none(&parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(","))
}

/// The first three of a list, and how many more there are.
pub(super) fn some_of(mut texts: Vec<String>, empty: &str) -> Value {
    if texts.is_empty() {
        return empty.into();
    }
    let more = texts.len().saturating_sub(3);
    texts.truncate(3);
    let joined = texts.join(",");
    (if more > 0 { format!("{joined} + {more} more...") } else { joined }).into()
}

/// Addresses of a load balancer, sorted.
pub(super) fn load_balancer(object: &Value) -> String {
    let points = list_at(object, &["status", "loadBalancer", "ingress"]).iter();
    let mut texts: Vec<&str> = points
        .filter_map(|point| point["ip"].as_str().filter(|ip| !ip.is_empty()).or(point["hostname"].as_str()))
        .filter(|text| !text.is_empty())
        .collect();
    texts.sort_unstable();
    texts.dedup();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectls() {
        let rows = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (700, "11m"),
            (10800, "3h"),
            (11000, "3h3m"),
            (100_000, "27h"),
            (200_000, "2d7h"),
            (900_000, "10d"),
            (70_000_000, "2y80d"),
        ];
        for (secs, text) in rows {
            assert_eq!(human(secs), text);
        }
    }
}
