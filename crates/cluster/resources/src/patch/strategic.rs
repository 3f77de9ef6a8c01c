//! Strategic merge patch: a merge patch that knows which lists are sets of named things, with directives
//! (`$patch`, `$retainKeys`, `$deleteFromPrimitiveList/f`, `$setElementOrder/f`).

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Node, Shape};

const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies `patch` to `target`, whose shape is `node`.
pub fn apply(target: &mut Value, patch: &Value, node: &Node) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch must be an object".into()));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let map = target.as_object_mut().expect("made above");
    merge_map(map, patch, Some(node))
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    node: Option<&Node>,
) -> Result<(), PatchError> {
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            let kept = patch.iter().filter(|(key, _)| *key != "$patch");
            *target = kept.map(|(key, value)| (key.clone(), cleaned(value))).collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => {
            return Err(PatchError::Malformed(format!("Unknown patch type found: {other}")));
        }
    }
    if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
        target.retain(|key, _| keep.iter().any(|kept| kept == key));
    }
    for (key, value) in patch {
        if key == "$patch" || key == "$retainKeys" || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (target.get_mut(field), value) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if value.is_null() {
            target.remove(key);
            continue;
        }
        let child = node.and_then(|node| node.child(key));
        let replace = child.is_some_and(|child| child.patch.replace);
        match (target.get_mut(key), value) {
            (Some(Value::Object(here)), Value::Object(patch)) if !replace => merge_map(here, patch, child)?,
            (here, Value::Array(items)) if child.is_some_and(|child| child.patch.merge) => {
                let child = child.expect("checked in the guard");
                let before = match here {
                    Some(Value::Array(before)) => std::mem::take(before),
                    _ => Vec::new(),
                };
                let order = patch.get(&format!("{ORDER}{key}")).and_then(Value::as_array);
                let merged = merge_list(before, items, order, child)?;
                target.insert(key.clone(), Value::Array(merged));
            }
            (None, Value::Object(patch)) => {
                let mut fresh = Map::new();
                merge_map(&mut fresh, patch, child)?;
                if patch.get("$patch").and_then(Value::as_str) != Some("delete") {
                    target.insert(key.clone(), Value::Object(fresh));
                }
            }
            _ => drop(target.insert(key.clone(), cleaned(value))),
        }
    }
    // An order given without a patch of the list itself still sorts what is there.
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER) else { continue };
        if patch.contains_key(field) {
            continue;
        }
        let child = node.and_then(|node| node.child(field));
        if let (Some(Value::Array(items)), Value::Array(order), Some(child)) = (target.get_mut(field), order, child) {
            let before = items.clone();
            let sorted = sort(std::mem::take(items), &before, order, child.patch.merge_key.as_deref());
            *items = sorted;
        }
    }
    Ok(())
}

/// A patch value taken over as it is, without directives and nulls.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
            .map(|(key, value)| (key.clone(), cleaned(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().filter(|item| !is_directive(item)).map(cleaned).collect(),
        other => other.clone(),
    }
}

fn is_directive(item: &Value) -> bool {
    item.get("$patch").is_some_and(|word| word == "delete" || word == "replace")
}

fn merge_list(
    before: Vec<Value>,
    patch: &[Value],
    order: Option<&Vec<Value>>,
    node: &Node,
) -> Result<Vec<Value>, PatchError> {
    let item_node = match &node.shape {
        Shape::List(item) => Some(item.as_ref()),
        _ => None,
    };
    let Some(key) = node.patch.merge_key.as_deref() else {
        let mut merged = before.clone();
        for item in patch {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(match order {
            Some(order) => sort(merged, &before, order, None),
            None => merged,
        });
    };
    if patch.iter().any(|item| item.get("$patch").is_some_and(|word| word == "replace")) {
        return Ok(patch.iter().filter(|item| item.get("$patch").is_none()).map(cleaned).collect());
    }
    let mut merged = before.clone();
    for item in patch {
        let Value::Object(map) = item else {
            return Err(PatchError::Malformed(format!("list of objects has an item that is none: {item}")));
        };
        let Some(name) = map.get(key) else {
            let shown = Value::Object(map.clone());
            return Err(PatchError::Malformed(format!("map: {shown} does not contain declared merge key: {key}")));
        };
        if map.get("$patch").is_some_and(|word| word == "delete") {
            merged.retain(|have| have.get(key) != Some(name));
            continue;
        }
        match merged.iter_mut().find(|have| have.get(key) == Some(name)) {
            Some(Value::Object(have)) => merge_map(have, map, item_node)?,
            _ => {
                let mut fresh = Map::new();
                merge_map(&mut fresh, map, item_node)?;
                merged.push(Value::Object(fresh));
            }
        }
    }
    Ok(match order {
        Some(order) => sort(merged, &before, order, Some(key)),
        None => merged,
    })
}

/// Brings the items that `order` names into its order; items it does not name keep their place relative to the named
/// ones that stood after them before.
fn sort(items: Vec<Value>, before: &[Value], order: &[Value], key: Option<&str>) -> Vec<Value> {
    let name = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or(Value::Null),
        None => item.clone(),
    };
    let wanted: Vec<Value> = order.iter().map(&name).collect();
    let place = |item: &Value| before.iter().position(|have| name(have) == name(item));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| wanted.contains(&name(item)));
    named.sort_by_key(|item| wanted.iter().position(|have| *have == name(item)));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        let here = place(&other);
        while let Some(next) = named.peek() {
            let earlier = match (place(next), here) {
                (Some(next), Some(here)) => next < here,
                (None, Some(_)) => false,
                _ => true,
            };
            if !earlier {
                break;
            }
            out.extend(named.next());
        }
        out.push(other);
    }
    out.extend(named);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::facts;
    use serde_json::json;

    fn check(mut target: Value, patch: Value, expected: Value) {
        apply(&mut target, &patch, &facts().node("a:core.v1.PodSpec")).unwrap();
        assert_eq!(target, expected, "patch {patch}");
    }

    #[test]
    fn lists_of_named_things_merge_by_name() {
        let two = || json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
        check(
            two(),
            json!({"containers": [{"name": "b", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}),
        );
        check(
            two(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "2"}]}),
        );
        check(
            two(),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        );
        check(
            two(),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
                "containers": [{"name": "c", "image": "9"}]}),
            json!({"containers": [{"name": "c", "image": "9"}, {"name": "b", "image": "2"}, {"name": "a", "image": "1"}]}),
        );
        check(
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        );
    }

    #[test]
    fn directives_do_what_they_say() {
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
        );
        check(
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        );
        check(json!({"nodeSelector": {"a": "1"}}), json!({"nodeSelector": null}), json!({}));
        let mut meta = json!({"finalizers": ["a", "b"]});
        let patch = json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]});
        apply(&mut meta, &patch, &facts().node("m:apis.meta.v1.ObjectMeta")).unwrap();
        assert_eq!(meta, json!({"finalizers": ["b", "c"]}));
        let bad = apply(&mut json!({}), &json!({"containers": [{"image": "x"}]}), &facts().node("a:core.v1.PodSpec"));
        assert!(bad.unwrap_err().to_string().contains("does not contain declared merge key: name"));
    }
}
