//! The functions of templates: Go's own and those that docker adds.

use std::cmp::Ordering;

use crate::text::printable_json;
use serde_json::Value;

const NAMES: &[&str] = &[
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "len", "slice", "print", "printf", "println",
    "json", "join", "split", "lower", "upper", "title", "pad", "truncate",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// How `{{.}}` prints a value.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        other => inner(other),
    }
}

fn inner(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(inner).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", inner(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

/// JSON as Go's encoder writes it: `<`, `>` and `&` are escaped.
pub(crate) fn go_json(value: &Value) -> String {
    let text = printable_json(value.to_string());
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // These five only ever occur inside strings.
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = |wanted: &str| format!("wrong number of args for {name}: want {wanted} got {}", arguments.len());
    let text = |at: usize| -> Result<&str, String> {
        let value = arguments.get(at).ok_or_else(|| wrong(&format!("at least {}", at + 1)))?;
        value.as_str().ok_or_else(|| format!("wrong type of argument {} for {name}: expected string", at + 1))
    };
    Ok(match name {
        "and" => fold(arguments, |value| !truth(value)).ok_or_else(|| wrong("at least 1"))?,
        "or" => fold(arguments, truth).ok_or_else(|| wrong("at least 1"))?,
        "not" => Value::Bool(!truth(arguments.first().ok_or_else(|| wrong("1"))?)),
        "eq" => {
            let (first, others) = arguments.split_first().ok_or_else(|| wrong("at least 1"))?;
            if others.is_empty() {
                return Err("missing argument for comparison".into());
            }
            Value::Bool(others.iter().any(|other| compare(first, other) == Some(Ordering::Equal)))
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            let [left, right] = arguments else { return Err(wrong("2")) };
            let order = compare(left, right);
            if order.is_none() && name != "ne" {
                return Err("incompatible types for comparison".into());
            }
            Value::Bool(match name {
                "ne" => order != Some(Ordering::Equal),
                "lt" => order == Some(Ordering::Less),
                "le" => order != Some(Ordering::Greater),
                "gt" => order == Some(Ordering::Greater),
                _ => order != Some(Ordering::Less),
            })
        }
        "index" => index(arguments)?,
        "len" => Value::from(match arguments.first().ok_or_else(|| wrong("1"))? {
            Value::String(text) => text.len(),
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            other => return Err(format!("len of type {}", inner(other))),
        }),
        "slice" => slice(arguments)?,
        "print" => Value::String(print(arguments)),
        "println" => Value::String(arguments.iter().map(inner).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::String(printf(text(0)?, &arguments[1..])),
        "json" => Value::String(go_json(arguments.first().ok_or_else(|| wrong("1"))?)),
        "join" => {
            let separator = text(1)?;
            match &arguments[0] {
                Value::Array(items) => Value::String(items.iter().map(inner).collect::<Vec<_>>().join(separator)),
                Value::Null => Value::String(String::new()),
                _ => return Err("wrong type of argument 1 for join: expected a list".into()),
            }
        }
        "split" => Value::Array(text(0)?.split(text(1)?).map(Value::from).collect()),
        "lower" => Value::String(text(0)?.to_lowercase()),
        "upper" => Value::String(text(0)?.to_uppercase()),
        "title" => Value::String(title(text(0)?)),
        "pad" => {
            let count = |at: usize| arguments.get(at).and_then(Value::as_u64).ok_or_else(|| wrong("3"));
            let blank = |n: u64| " ".repeat(n.min(10_000) as usize);
            Value::String(if text(0)?.is_empty() {
                String::new()
            } else {
                format!("{}{}{}", blank(count(1)?), text(0)?, blank(count(2)?))
            })
        }
        "truncate" => {
            let length = arguments.get(1).and_then(Value::as_u64).ok_or_else(|| wrong("2"))? as usize;
            Value::String(text(0)?.chars().take(length).collect())
        }
        other => return Err(format!("function {} not defined", crate::text::quoted(other))),
    })
}

/// The first value at which `stops` holds, else the last.
fn fold(values: &[Value], stops: impl Fn(&Value) -> bool) -> Option<Value> {
    values.iter().find(|value| stops(value)).or(values.last()).cloned()
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ if left == right => Some(Ordering::Equal),
        _ => None,
    }
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let (mut value, keys) = match arguments.split_first() {
        Some((value, keys)) => (value, keys),
        None => return Err("wrong number of args for index: want at least 1 got 0".into()),
    };
    for key in keys {
        value = match (value, key) {
            (Value::Object(map), Value::String(key)) => map.get(key).unwrap_or(&Value::Null),
            (Value::Array(items), Value::Number(at)) => {
                let at = at.as_i64().unwrap_or(-1);
                usize::try_from(at)
                    .ok()
                    .and_then(|at| items.get(at))
                    .ok_or_else(|| format!("error calling index: index out of range: {at}"))?
            }
            (Value::Null, _) => return Err("error calling index: index of untyped nil".into()),
            _ => return Err("error calling index: can't index item with this type".into()),
        };
    }
    // Go answers the zero value of a map's element, which for docker's maps is mostly the empty string.
    Ok(if value.is_null() { Value::String(String::new()) } else { value.clone() })
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let (value, bounds) = arguments.split_first().ok_or("wrong number of args for slice")?;
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        _ => return Err("error calling slice: can't slice item of this type".into()),
    };
    let bound = |at: usize, absent: usize| match bounds.get(at) {
        None => Ok(absent),
        Some(value) => value.as_u64().map(|n| n as usize).ok_or("error calling slice: bad index"),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to || to > length {
        return Err(format!("error calling slice: index out of range: {}", to.max(from)));
    }
    match value {
        Value::String(text) => {
            let part = text.get(from..to).ok_or("error calling slice: inside a character")?;
            Ok(Value::String(part.to_owned()))
        }
        _ => Ok(Value::Array(value.as_array().expect("checked above")[from..to].to_vec())),
    }
}

/// Go's Sprint puts a blank between two operands when neither is a string.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in arguments.iter().enumerate() {
        if at > 0 && !value.is_string() && !arguments[at - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&inner(value));
    }
    out
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let first = start && c.is_alphabetic();
            start = !(c.is_alphanumeric() || c == '\'');
            if first { c.to_uppercase().next().unwrap_or(c) } else { c }
        })
        .collect()
}

fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut left = false;
        let mut zero = false;
        while let Some(flag) = letters.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            left |= flag == '-';
            zero |= flag == '0';
        }
        let digits = |letters: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut text = String::new();
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                text.push(digit);
            }
            text.parse::<usize>().ok()
        };
        let width = digits(&mut letters).unwrap_or(0).min(10_000);
        let precision = letters.next_if_eq(&'.').and_then(|_| digits(&mut letters));
        let Some(verb) = letters.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let body = verb_text(verb, value, precision);
        let missing = width.saturating_sub(body.chars().count());
        match (left, zero && !matches!(verb, 's' | 'q' | 'v')) {
            (true, _) => out.push_str(&(body + &" ".repeat(missing))),
            (false, true) => out.push_str(&("0".repeat(missing) + &body)),
            (false, false) => out.push_str(&(" ".repeat(missing) + &body)),
        }
    }
    out
}

fn verb_text(verb: char, value: &Value, precision: Option<usize>) -> String {
    let unsuitable = || format!("%!{verb}({})", inner(value));
    match (verb, value) {
        ('s', Value::Number(_) | Value::Bool(_)) => unsuitable(),
        ('s' | 'v', _) => {
            let text = inner(value);
            match precision {
                Some(precision) => text.chars().take(precision).collect(),
                None => text,
            }
        }
        ('q', Value::String(text)) => crate::text::quoted(text),
        ('q', Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| verb_text('q', item, None)).collect();
            format!("[{}]", items.join(" "))
        }
        ('d', Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        ('x', Value::Number(number)) if number.is_i64() => format!("{:x}", number.as_i64().unwrap_or(0)),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('t', Value::Bool(yes)) => yes.to_string(),
        ('f', Value::Number(number)) => format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or(0.0)),
        _ => unsuitable(),
    }
}
