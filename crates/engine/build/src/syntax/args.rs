//! The shapes of arguments: JSON lists, names with values, blank-separated words.

use super::instruction::KeyValue;

/// `["a", "b"]`, if that is what it is: anything else is a line for the shell.
pub(super) fn json_list(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// `key=value key="a b"`, or the old form `key everything else`.
pub(super) fn key_values(text: &str, instruction: &str, escape: char) -> Result<(Vec<KeyValue>, bool), String> {
    let words = super::lines::raw_words(text, escape);
    let Some(first) = words.first() else {
        return Err(format!("{instruction} requires at least one argument"));
    };
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if words.len() < 2 {
            return Err(format!("{instruction} must have two arguments"));
        }
        return Ok((vec![KeyValue { key: key.to_owned(), value: value.trim_start().to_owned() }], true));
    }
    let mut list = Vec::new();
    for word in &words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"));
        };
        list.push(KeyValue { key: key.to_owned(), value: value.to_owned() });
    }
    if list.iter().any(|pair| pair.key.is_empty()) {
        return Err(format!("{instruction} names can not be blank"));
    }
    Ok((list, false))
}

/// Words as `COPY` has them: JSON, or split at blanks (quotes belong to the word).
pub(super) fn list(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect())
}
