//! JSON patch, RFC 6902, with upstream's limits: 10,000 operations, and copies that add at most 3 MiB.

use serde_json::Value;

use super::PatchError;

/// Operations of one patch at most.
pub const OPERATIONS_MAX: usize = 10_000;
/// Bytes that copy operations may add in sum.
const COPIED_BYTES_MAX: usize = 3 << 20;

/// Applies the operations in order; on error `target` is left somewhere in between and is to be thrown away.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(),
        ));
    };
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    let mut copied = 0;
    for operation in operations {
        let word = operation["op"].as_str().unwrap_or_default();
        let path = pointer(operation, "path")?;
        match word {
            "add" => add(target, &path, value_of(operation)?, word)?,
            "remove" => drop(remove(target, &path, word)?),
            "replace" => {
                let place = find(target, &path).ok_or_else(|| missing(word, &path))?;
                *place = value_of(operation)?;
            }
            "move" => {
                let from = pointer(operation, "from")?;
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(PatchError::Inapplicable("move operation does not apply: into its own child".into()));
                }
                let value = remove(target, &from, word)?;
                add(target, &path, value, word)?;
            }
            "copy" => {
                let from = pointer(operation, "from")?;
                let value = find(target, &from).ok_or_else(|| missing(word, &from))?.clone();
                copied += size(&value);
                if copied > COPIED_BYTES_MAX {
                    return Err(PatchError::TooLarge(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding \
                         the limit {COPIED_BYTES_MAX}"
                    )));
                }
                add(target, &path, value, word)?;
            }
            "test" => {
                let found = find(target, &path).map_or(Value::Null, |value| value.clone());
                if found != operation.get("value").cloned().unwrap_or(Value::Null) {
                    let path = text(&path);
                    return Err(PatchError::Inapplicable(format!("testing value {path} failed: test failed")));
                }
            }
            other => return Err(PatchError::Malformed(format!("Unexpected kind: {other}"))),
        }
    }
    Ok(())
}

fn value_of(operation: &Value) -> Result<Value, PatchError> {
    operation
        .get("value")
        .cloned()
        .ok_or_else(|| PatchError::Malformed("add operation does not apply: operation has no value".into()))
}

fn pointer(operation: &Value, key: &str) -> Result<Vec<String>, PatchError> {
    let text = operation[key]
        .as_str()
        .ok_or_else(|| PatchError::Malformed(format!("operation has no {key}: missing value")))?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = text.strip_prefix('/') else {
        return Err(PatchError::Malformed(format!("{key} {text:?} does not begin with '/'")));
    };
    Ok(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

fn text(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

fn missing(word: &str, path: &[String]) -> PatchError {
    let path = text(path);
    PatchError::Inapplicable(format!("{word} operation does not apply: doc is missing path: {path}: missing value"))
}

fn index(part: &str, len: usize) -> Option<usize> {
    // RFC 6901 forbids leading zeros; upstream's library takes negative indexes, which the RFC does not know.
    if part.len() > 1 && part.starts_with('0') || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    part.parse().ok().filter(|index| *index < len)
}

fn find<'a>(target: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(target, |here, part| match here {
        Value::Object(map) => map.get_mut(part),
        Value::Array(items) => index(part, items.len()).and_then(|index| items.get_mut(index)),
        _ => None,
    })
}

fn add(target: &mut Value, path: &[String], value: Value, word: &str) -> Result<(), PatchError> {
    let Some((last, parents)) = path.split_last() else {
        *target = value;
        return Ok(());
    };
    match find(target, parents).ok_or_else(|| missing(word, path))? {
        Value::Object(map) => drop(map.insert(last.clone(), value)),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(last, items.len() + 1).ok_or_else(|| {
                let path = text(path);
                PatchError::Inapplicable(format!(
                    "{word} operation does not apply: doc is missing path: {path}: Unable to access invalid index: \
                     {last}: invalid index referenced"
                ))
            })?;
            items.insert(at, value);
        }
        _ => return Err(missing(word, path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &[String], word: &str) -> Result<Value, PatchError> {
    let Some((last, parents)) = path.split_last() else { return Err(missing(word, path)) };
    let removed = match find(target, parents) {
        Some(Value::Object(map)) => map.remove(last),
        Some(Value::Array(items)) => index(last, items.len()).map(|index| items.remove(index)),
        _ => None,
    };
    removed.ok_or_else(|| {
        let path = text(path);
        PatchError::Inapplicable(format!(
            "{word} operation does not apply: unable to remove nonexistent key: {last}: missing value: {path}"
        ))
    })
}

fn size(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::String(text) => text.len() + 2,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(mut target: Value, patch: Value, expected: Option<Value>) {
        let shown = patch.to_string();
        let outcome = apply(&mut target, &patch);
        match expected {
            Some(expected) => {
                outcome.unwrap_or_else(|error| panic!("{shown}: {error}"));
                assert_eq!(target, expected, "{shown}");
            }
            None => assert!(outcome.is_err(), "{shown} gave {target}"),
        }
    }

    #[test]
    fn operations_follow_the_rfc() {
        let op = |op: &str, path: &str, value: Value| json!([{"op": op, "path": path, "value": value}]);
        check(json!({"a": [1, 2]}), op("add", "/a/1", json!(9)), Some(json!({"a": [1, 9, 2]})));
        check(json!({"a": [1]}), op("add", "/a/-", json!(2)), Some(json!({"a": [1, 2]})));
        check(json!({"a": [1]}), op("add", "/a/2", json!(2)), None);
        check(json!({"a": [1]}), op("add", "/a/01", json!(2)), None);
        check(json!({}), op("add", "/a~1b~0c", json!(1)), Some(json!({"a/b~c": 1})));
        check(json!({}), op("replace", "/a", json!(1)), None);
        check(json!({"a": 1}), op("test", "/a", json!(1)), Some(json!({"a": 1})));
        check(json!({"a": 1}), op("test", "/a", json!(2)), None);
        check(json!({}), op("remove", "/a", json!(null)), None);
        check(json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), Some(json!({"b": 1})));
        check(json!({"a": {}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}]), None);
        check(json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), Some(json!({"a": 1, "b": 1})));
        check(json!({}), json!([{"op": "add", "path": "/a"}]), None);
        check(json!({}), json!([{"op": "jump", "path": "/a"}]), None);
        check(json!({}), json!({"op": "add"}), None);
    }

    #[test]
    fn bombs_are_refused() {
        let copies: Vec<Value> = (0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        let mut target = json!({"a": ["x".repeat(1000)]});
        assert!(matches!(apply(&mut target, &copies.into()), Err(PatchError::TooLarge(_))));
        let many = vec![json!({"op": "test", "path": "", "value": {}}); OPERATIONS_MAX + 1];
        assert!(matches!(apply(&mut json!({}), &many.into()), Err(PatchError::TooLarge(_))));
    }
}
