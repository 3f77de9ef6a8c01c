//! Objects and field sets: which fields an object has, how two differ, merging one into another, taking fields out.

use serde_json::{Map, Value};

use super::{Element, Set};
use crate::schema::{ListType, Node, Shape};

/// How an object's part is shared between writers.
enum Sharing<'a> {
    /// One owner for the value as a whole.
    Leaf,
    /// A struct or map whose fields have owners; the entries of a map are owned themselves as well.
    Fields,
    Keyed(&'a [String]),
    Set,
}

fn sharing<'a>(value: &Value, node: Option<&'a Node>) -> Sharing<'a> {
    match (value, node) {
        (Value::Object(_), None) => Sharing::Fields,
        (Value::Object(_), Some(node)) if !node.is_atomic() => match &node.shape {
            Shape::Struct(_) | Shape::Map(_) | Shape::Any | Shape::Raw => Sharing::Fields,
            _ => Sharing::Leaf,
        },
        (Value::Array(_), Some(node)) => match &node.list {
            ListType::Atomic => Sharing::Leaf,
            ListType::Set => Sharing::Set,
            ListType::Map(keys) => Sharing::Keyed(keys),
        },
        _ => Sharing::Leaf,
    }
}

/// The element of a list item; `None` when the item lacks all of its key fields.
fn element(item: &Value, keys: &[String], node: Option<&Node>) -> Option<Element> {
    let map = item.as_object()?;
    let mut fields = Vec::with_capacity(keys.len());
    for key in keys {
        let default = || node.and_then(|node| node.child(key)).and_then(|node| node.default.clone());
        let value = map.get(key).cloned().or_else(default).or_else(|| implied(key));
        fields.extend(value.map(|value| (key.clone(), value)));
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    (!fields.is_empty()).then_some(Element::Key(fields))
}

/// Defaults of built-in key fields.
fn implied(key: &str) -> Option<Value> {
    (key == "protocol").then(|| "TCP".into())
}

/// The items of a shared list with their elements; the first of several equal ones counts.
fn items<'a>(list: &'a [Value], kind: &Sharing<'_>, node: Option<&Node>) -> Vec<(Element, &'a Value)> {
    let mut out: Vec<(Element, &Value)> = Vec::with_capacity(list.len());
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in list.iter().enumerate() {
        let element = match kind {
            Sharing::Keyed(keys) => element(item, keys, node).unwrap_or(Element::Index(index)),
            _ => Element::Item(item.clone()),
        };
        if seen.insert(element.clone()) {
            out.push((element, item));
        }
    }
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_declared(node: Option<&Node>, key: &str) -> bool {
    node.and_then(Node::struct_def).is_some_and(|def| def.field(key).is_some())
}

/// The fields that a writer of this object sets.
pub fn to_set(value: &Value, node: Option<&Node>) -> Set {
    below(value, node).1
}

/// Whether the value itself is a leaf, and the set below it.
fn below(value: &Value, node: Option<&Node>) -> (bool, Set) {
    let mut set = Set::default();
    let kind = sharing(value, node);
    match (&kind, value) {
        (Sharing::Leaf, _) => return (true, set),
        (Sharing::Fields, Value::Object(map)) => {
            if map.is_empty() {
                return (true, set);
            }
            for (key, child) in map {
                let (leaf, children) = below(child, node.and_then(|node| node.child(key)));
                set.put(Element::field(key), leaf || !is_declared(node, key), children);
            }
        }
        _ => {
            let entries = list(value);
            if entries.is_empty() {
                return (true, set);
            }
            let item_node = node.and_then(Node::item);
            for (element, item) in items(entries, &kind, item_node) {
                let children = match kind {
                    Sharing::Keyed(_) => below(item, item_node).1,
                    _ => Set::default(),
                };
                set.put(element, true, children);
            }
        }
    }
    (false, set)
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

/// What `new` adds to, changes in and takes from `old`.
pub fn compare(old: &Value, new: &Value, node: Option<&Node>) -> Comparison {
    let mut out = Comparison::default();
    if old != new {
        diff(old, new, node, &mut Vec::new(), &mut out);
    }
    out
}

fn diff(old: &Value, new: &Value, node: Option<&Node>, path: &mut Vec<Element>, out: &mut Comparison) {
    if old == new {
        return;
    }
    let kind = sharing(new, node);
    let same_kind = std::mem::discriminant(old) == std::mem::discriminant(new);
    match &kind {
        Sharing::Fields if same_kind => {
            let (old, new) = (old.as_object().expect("objects"), new.as_object().expect("objects"));
            for (key, value) in new {
                path.push(Element::field(key));
                let child = node.and_then(|node| node.child(key));
                match old.get(key) {
                    Some(before) => diff(before, value, child, path, out),
                    None => whole(value, child, path, &mut out.added),
                }
                path.pop();
            }
            for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
                path.push(Element::field(key));
                whole(value, node.and_then(|node| node.child(key)), path, &mut out.removed);
                path.pop();
            }
        }
        Sharing::Keyed(_) | Sharing::Set if same_kind => {
            let item_node = node.and_then(Node::item);
            let old = items(list(old), &kind, item_node);
            let new = items(list(new), &kind, item_node);
            let index: std::collections::BTreeMap<&Element, &Value> =
                old.iter().map(|(element, item)| (element, *item)).collect();
            let kept: std::collections::BTreeSet<&Element> = new.iter().map(|(element, _)| element).collect();
            for (element, item) in &new {
                path.push(element.clone());
                match index.get(element) {
                    Some(before) => diff(before, item, item_node, path, out),
                    None => whole(item, item_node, path, &mut out.added),
                }
                path.pop();
            }
            for (element, item) in old.iter().filter(|(element, _)| !kept.contains(element)) {
                path.push(element.clone());
                whole(item, item_node, path, &mut out.removed);
                path.pop();
            }
        }
        _ => out.modified.insert(path),
    }
}

/// The path itself and every path below it.
fn whole(value: &Value, node: Option<&Node>, path: &mut Vec<Element>, out: &mut Set) {
    out.insert(path);
    let kind = sharing(value, node);
    match &kind {
        Sharing::Leaf | Sharing::Set => {
            if let Sharing::Set = kind {
                for (element, _) in items(list(value), &kind, None) {
                    path.push(element);
                    out.insert(path);
                    path.pop();
                }
            }
        }
        Sharing::Fields => {
            for (key, child) in value.as_object().into_iter().flatten() {
                path.push(Element::field(key));
                whole(child, node.and_then(|node| node.child(key)), path, out);
                path.pop();
            }
        }
        Sharing::Keyed(_) => {
            let item_node = node.and_then(Node::item);
            for (element, item) in items(list(value), &kind, item_node) {
                path.push(element);
                whole(item, item_node, path, out);
                path.pop();
            }
        }
    }
}

/// What an object becomes when a writer applies `config` to it: what config says wins, what it does not mention stays.
pub fn merge(live: &Value, config: &Value, node: Option<&Node>) -> Value {
    let kind = sharing(config, node);
    match (&kind, live, config) {
        (Sharing::Fields, Value::Object(live), Value::Object(config)) => {
            let mut out = live.clone();
            for (key, value) in config {
                let child = node.and_then(|node| node.child(key));
                let merged = live.get(key).map_or_else(|| value.clone(), |live| merge(live, value, child));
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Sharing::Keyed(_) | Sharing::Set, Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_list(live, config, &kind, node))
        }
        _ => config.clone(),
    }
}

/// Items of config come in its order; items that only the live list has keep their place between them.
fn merge_list(live: &[Value], config: &[Value], kind: &Sharing<'_>, node: Option<&Node>) -> Vec<Value> {
    let item_node = node.and_then(Node::item);
    let live = items(live, kind, item_node);
    let config = items(config, kind, item_node);
    let position = |wanted: &Element| config.iter().position(|(element, _)| element == wanted);
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    let emit = |upto: usize, next: &mut usize, out: &mut Vec<Value>| {
        while *next < upto {
            let (element, item) = &config[*next];
            let before = live.iter().find(|(have, _)| have == element);
            out.push(before.map_or_else(|| (*item).clone(), |(_, before)| merge(before, item, item_node)));
            *next += 1;
        }
    };
    for (element, item) in &live {
        match position(element) {
            None => out.push((*item).clone()),
            Some(at) => emit(at + 1, &mut next, &mut out),
        }
    }
    emit(config.len(), &mut next, &mut out);
    out
}

/// Takes the members of `gone` out of the object, with everything below them.
pub fn remove(value: &mut Value, gone: &Set, node: Option<&Node>) {
    if gone.is_empty() {
        return;
    }
    let kind = sharing(value, node);
    match (kind, value) {
        (Sharing::Fields, Value::Object(map)) => remove_fields(map, gone, node),
        (kind @ (Sharing::Keyed(_) | Sharing::Set), Value::Array(entries)) => {
            let item_node = node.and_then(Node::item);
            let mut index = 0;
            entries.retain_mut(|item| {
                let element = match &kind {
                    Sharing::Keyed(keys) => element(item, keys, item_node).unwrap_or(Element::Index(index)),
                    _ => Element::Item(item.clone()),
                };
                index += 1;
                match gone.child(&element) {
                    Some((true, _)) => false,
                    Some((false, below)) => {
                        remove(item, below, item_node);
                        true
                    }
                    None => true,
                }
            });
        }
        _ => {}
    }
}

fn remove_fields(map: &mut Map<String, Value>, gone: &Set, node: Option<&Node>) {
    for (element, member, below) in gone.children() {
        let Element::Field(name) = element else { continue };
        if member {
            map.remove(name);
        } else if let Some(child) = map.get_mut(name) {
            remove(child, below, node.and_then(|node| node.child(name)));
        }
    }
}
