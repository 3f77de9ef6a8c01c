//! Trees as YAML text, laid out and quoted as kubectl does: block style, plain where no reader could take a text for something
//! else, `|` for several lines. Pure.

use serde_json::Value;

pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, false, &mut out);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn pad(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// `inline`: the first line is begun already, behind the dash of a list.
fn write(value: &Value, indent: usize, inline: bool, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 || !inline {
                    pad(out, indent);
                }
                out.push_str(&scalar(key));
                out.push(':');
                nested(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 || !inline {
                    pad(out, indent);
                }
                out.push_str("- ");
                match item {
                    Value::Object(map) if !map.is_empty() => write(item, indent + 2, true, out),
                    Value::Array(inner) if !inner.is_empty() => write(item, indent + 2, true, out),
                    item => leaf(item, indent + 2, out),
                }
            }
        }
        value => leaf(value, indent, out),
    }
}

fn nested(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write(value, indent + 2, false, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write(value, indent, false, out);
        }
        value => {
            out.push(' ');
            leaf(value, indent + 2, out);
        }
    }
}

/// What holds nothing further, and the end of its line. `indent` is that of further lines.
fn leaf(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) if is_block(text) => return block(text, indent, out),
        Value::String(text) => out.push_str(&scalar(text)),
        other => out.push_str(&other.to_string()),
    }
    out.push('\n');
}

/// Several lines that a block can hold: nothing but what prints, and no blank in front, which would be taken for indentation.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && text.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
        // A line that ends in a blank would lose it in an editor.
        && !text.lines().any(|line| line.ends_with([' ', '\t']))
}

fn block(text: &str, indent: usize, out: &mut String) {
    let kept = text.trim_end_matches('\n');
    out.push_str(match text.len() - kept.len() {
        0 => "|-\n",
        1 => "|\n",
        _ => "|+\n",
    });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn scalar(text: &str) -> String {
    if text.chars().any(|c| c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
        || is_not_text(text)
    {
        // JSON's quotes are YAML's double ones.
        return Value::from(text).to_string();
    }
    if is_plain(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

/// Does a reader take the text without quotes as it is? (YAML 1.2, section 7.3.3, and what of 1.1 readers still do.)
fn is_plain(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next().unwrap_or(' ');
    let begins = match first {
        '-' | '?' | ':' => chars.next().is_some_and(|next| next != ' '),
        ',' | '[' | ']' | '{' | '}' | '#' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' | ' ' => false,
        _ => true,
    };
    begins && !text.ends_with([' ', ':']) && !text.contains(": ") && !text.contains(" #") && !text.starts_with("---")
}

/// Would a reader take it for nothing, a truth, a number or a time?
fn is_not_text(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let words = [
        "", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", "-.inf", "+.inf", ".nan", "<<",
        "=",
    ];
    if words.contains(&lower.as_str()) {
        return true;
    }
    let unsigned = lower.strip_prefix(['-', '+']).unwrap_or(&lower);
    let digits = |text: &str, radix: u32| !text.is_empty() && text.chars().all(|c| c.is_digit(radix) || c == '_');
    if unsigned.strip_prefix("0x").is_some_and(|rest| digits(rest, 16))
        || unsigned.strip_prefix("0o").is_some_and(|rest| digits(rest, 8))
        || unsigned.strip_prefix("0b").is_some_and(|rest| digits(rest, 2))
    {
        return true;
    }
    if unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.replace('_', "").parse::<f64>().is_ok()
    {
        return true;
    }
    // Base 60 of YAML 1.1 (`1:30`), and times that begin with a date.
    let sixty = unsigned.contains(':')
        && unsigned
            .split(':')
            .all(|part| digits(part, 10) || part.split_once('.').is_some_and(|(a, b)| digits(a, 10) && digits(b, 10)));
    let bytes = text.as_bytes();
    let date = bytes.len() >= 8
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && text.get(5..).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || "-:.TtZz+ ".contains(c)));
    sixty || date
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_quoted_where_a_reader_would_err() {
        let rows = [
            ("web", "web"),
            ("60e5455a-8be3", "60e5455a-8be3"),
            ("10.0.0.1", "10.0.0.1"),
            ("app.kubernetes.io/name", "app.kubernetes.io/name"),
            ("a b", "a b"),
            ("--flag=1", "--flag=1"),
            ("2026-11-30T07:14:40Z", "\"2026-11-30T07:14:40Z\""),
            ("2026-11-30", "\"2026-11-30\""),
            ("59", "\"59\""),
            ("1.0", "\"1.0\""),
            ("1e3", "\"1e3\""),
            ("0x1f", "\"0x1f\""),
            ("1:30", "\"1:30\""),
            ("yes", "\"yes\""),
            ("", "\"\""),
            ("a: b", "'a: b'"),
            ("it's: x", "'it''s: x'"),
            ("*", "'*'"),
            ("- x", "'- x'"),
            ("x #y", "'x #y'"),
            ("tab\there", "\"tab\\there\""),
        ];
        for (text, wanted) in rows {
            assert_eq!(to_yaml(&json!(text)), format!("{wanted}\n"), "{text:?}");
        }
    }

    #[test]
    fn trees_are_laid_out_as_kubectls() {
        let value = json!({"a": {"b": [1, {"c": "x", "d": []}, [true, [null]], {}], "e": {}}, "script": "one\n\ntwo\n", "tail": "a\nb", "two": "a\n\n"});
        let wanted = "a:\n  b:\n  - 1\n  - c: x\n    d: []\n  - - true\n    - - null\n  - {}\n  e: {}\nscript: |\n  one\n\n  two\ntail: |-\n  a\n  b\ntwo: |+\n  a\n\n";
        assert_eq!(to_yaml(&value), wanted);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let texts = [
            "", " x", "x ", "a\n", "a\n\n", "\na", " a\nb", "a \nb", "a\tb\nc", "~", "!x", "a\u{85}b", "\u{feff}", "é",
            "0b1", "1_000", "key: [", "%x", "---", "a: ", "null\n",
        ];
        for text in texts {
            for value in [json!(text), json!({"k": text}), json!([text, [text], {"k": [text]}]), json!({text: text})] {
                let written = to_yaml(&value);
                let read: Value = serde_saphyr::from_str(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
                assert_eq!(read, value, "{written}");
            }
        }
    }
}
