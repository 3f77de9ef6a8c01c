//! The simple JSON paths of printer columns, scale and selectable fields.

use serde_json::Value;

/// One step of a path: from a value to those below it.
type Step = Box<dyn Fn(&Value) -> Vec<&Value>>;

/// The simple paths that printer columns use: fields, `['quoted']` fields, indexes, and `[?(@.a=="b")]`.
pub fn json_path(object: &Value, path: &str) -> Option<Value> {
    let mut here = vec![object];
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        let step: Step;
        if let Some(inner) = rest.strip_prefix("[?(@.") {
            let (condition, after) = inner.split_once(")]")?;
            let (field, wanted) = condition.split_once("==")?;
            let (field, wanted) = (field.trim().to_owned(), wanted.trim().trim_matches(['"', '\'']).to_owned());
            step = Box::new(move |value| {
                let items = value.as_array().into_iter().flatten();
                items.filter(|item| item[&field].as_str() == Some(&wanted)).collect()
            });
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (inside, after) = inner.split_once(']')?;
            let inside = inside.to_owned();
            step = Box::new(move |value| match (inside.as_str(), inside.parse::<usize>()) {
                ("*", _) => value.as_array().into_iter().flatten().collect(),
                (_, Ok(index)) => value.get(index).into_iter().collect(),
                (name, _) => value.get(name.trim_matches(['"', '\''])).into_iter().collect(),
            });
            rest = after;
        } else {
            let inner = rest.strip_prefix('.').unwrap_or(rest);
            // A dot may be escaped inside a field's name.
            let mut name = String::new();
            let mut used = 0;
            let mut chars = inner.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '.' | '[' => break,
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    c => name.push(c),
                }
                used = at + c.len_utf8();
                if c == '\\' {
                    used += 1;
                }
            }
            if used == 0 {
                return None;
            }
            step = Box::new(move |value| value.get(&name).into_iter().collect());
            rest = &inner[used..];
        }
        here = here.into_iter().flat_map(&step).collect();
    }
    here.first().map(|value| (*value).clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn printer_column_paths_are_followed() {
        let object = json!({"spec": {"a.b": 1, "l": [{"type": "X", "v": "y"}]}});
        assert_eq!(json_path(&object, ".spec.l[0].v"), Some("y".into()));
        assert_eq!(json_path(&object, ".spec.l[?(@.type==\"X\")].v"), Some("y".into()));
        assert_eq!(json_path(&object, r".spec.a\.b"), Some(1.into()));
        assert_eq!(json_path(&object, ".spec['a.b']"), Some(1.into()));
        assert_eq!(json_path(&object, ".status.x"), None);
    }
}
