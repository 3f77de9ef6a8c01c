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
    fields.dedup_by(|a, b| a.0 == b.0);
    (!fields.is_empty()).then_some(Element::Key(fields))
}

/// Defaults of built-in key fields.
fn implied(key: &str) -> Option<Value> {
    (key == "protocol").then(|| "TCP".into())
}

/// The items of a shared list with their elements; the first of several equal ones counts.
fn items<'a>(list: &'a [Value], kind: &Sharing<'_>, node: Option<&Node>) -> Vec<(Element, &'a Value)> {
    let element = |(index, item): (usize, &'a Value)| match kind {
        Sharing::Keyed(keys) => (element(item, keys, node).unwrap_or(Element::Index(index)), item),
        _ => (Element::Item(item.clone()), item),
    };
    let all: Vec<(Element, &Value)> = list.iter().enumerate().map(element).collect();
    if all.len() < 2 {
        return all;
    }
    let mut seen = std::collections::BTreeSet::new();
    let first: Vec<bool> = all.iter().map(|(element, _)| seen.insert(element)).collect();
    all.into_iter().zip(first).filter_map(|(one, first)| first.then_some(one)).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_declared(node: Option<&Node>, key: &str) -> bool {
    node.and_then(Node::struct_def).is_some_and(|def| def.field(key).is_some())
}

/// Says why an applied configuration cannot be merged: items of a shared list that have no key, or one that another has.
pub fn mergeable(config: &Value, node: Option<&Node>) -> Result<(), String> {
    mergeable_at(config, node, &mut String::new())
}

fn mergeable_at(config: &Value, node: Option<&Node>, path: &mut String) -> Result<(), String> {
    let length = path.len();
    let kind = sharing(config, node);
    match (&kind, config) {
        (Sharing::Fields, Value::Object(map)) => {
            for (key, child) in map {
                *path += &Element::field(key).to_string();
                mergeable_at(child, node.and_then(|node| node.child(key)), path)?;
                path.truncate(length);
            }
        }
        (Sharing::Keyed(_) | Sharing::Set, Value::Array(list)) => {
            let item_node = node.and_then(Node::item);
            let mut seen = std::collections::BTreeSet::new();
            for (index, item) in list.iter().enumerate() {
                let element = match kind {
                    Sharing::Keyed(keys) => {
                        let found = element(item, keys, item_node);
                        let has = |key: &&String| matches!(&found, Some(Element::Key(have)) if have.iter().any(|(name, _)| name == *key));
                        if let Some(key) = keys.iter().find(|key| !has(key)) {
                            return Err(format!(
                                "{path}: element {index}: associative list with keys has an element that omits key field \
                                 {key:?} (and doesn't have default value)"
                            ));
                        }
                        found.unwrap_or(Element::Index(index))
                    }
                    _ => Element::Item(item.clone()),
                };
                if seen.contains(&element) {
                    return Err(format!("{path}: duplicate entries for key {element}"));
                }
                *path += &element.to_string();
                mergeable_at(item, item_node, path)?;
                path.truncate(length);
                seen.insert(element);
            }
        }
        _ => {}
    }
    Ok(())
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

/// What `new` adds to, changes in and takes from `old`, but for the books themselves.
pub fn compare_unbooked(old: &Value, new: &Value, node: Option<&Node>) -> Comparison {
    const METADATA: &str = "metadata";
    let mut out = Comparison::default();
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        diff(old, new, node, &mut out);
        return out;
    };
    fields(old, new, node, METADATA, &mut out);
    let child = node.and_then(|node| node.child(METADATA));
    let mut below = Comparison::default();
    let (modified, added, removed) = match (old.get(METADATA), new.get(METADATA)) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            fields(old, new, child, "managedFields", &mut below);
            (false, false, false)
        }
        (Some(old), Some(new)) => (diff(old, new, child, &mut below), false, false),
        (None, Some(new)) => {
            below.added = whole(new, child);
            (false, true, false)
        }
        (Some(old), None) => {
            below.removed = whole(old, child);
            (false, false, true)
        }
        (None, None) => return out,
    };
    out.added.put(Element::field(METADATA), added, below.added);
    out.modified.put(Element::field(METADATA), modified, below.modified);
    out.removed.put(Element::field(METADATA), removed, below.removed);
    out
}

impl Comparison {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Takes in what is below an element.
    fn put(&mut self, element: &Element, modified: bool, below: Self) {
        let put = |set: &mut Set, member: bool, children: Set| {
            if member || !children.is_empty() {
                set.put(element.clone(), member, children);
            }
        };
        put(&mut self.added, false, below.added);
        put(&mut self.modified, modified, below.modified);
        put(&mut self.removed, false, below.removed);
    }
}

/// Whether the value itself is another one; what differs below it goes into `out`.
fn diff(old: &Value, new: &Value, node: Option<&Node>, out: &mut Comparison) -> bool {
    let kind = sharing(new, node);
    let same_kind = std::mem::discriminant(old) == std::mem::discriminant(new);
    match &kind {
        Sharing::Fields if same_kind => {
            fields(old.as_object().expect("objects"), new.as_object().expect("objects"), node, "", out);
            false
        }
        Sharing::Keyed(_) | Sharing::Set if same_kind => {
            if old == new {
                return false;
            }
            let item_node = node.and_then(Node::item);
            let old = items(list(old), &kind, item_node);
            let new = items(list(new), &kind, item_node);
            let index: std::collections::BTreeMap<&Element, &Value> =
                old.iter().map(|(element, item)| (element, *item)).collect();
            let kept: std::collections::BTreeSet<&Element> = new.iter().map(|(element, _)| element).collect();
            for (element, item) in &new {
                match index.get(element) {
                    Some(before) => {
                        let mut below = Comparison::default();
                        let modified = diff(before, item, item_node, &mut below);
                        out.put(element, modified, below);
                    }
                    None => out.added.put(element.clone(), true, whole(item, item_node)),
                }
            }
            for (element, item) in old.iter().filter(|(element, _)| !kept.contains(element)) {
                out.removed.put(element.clone(), true, whole(item, item_node));
            }
            false
        }
        _ => old != new,
    }
}

/// The fields of two maps, but one.
fn fields(old: &Map<String, Value>, new: &Map<String, Value>, node: Option<&Node>, but: &str, out: &mut Comparison) {
    for (key, value) in new.iter().filter(|(key, _)| *key != but) {
        let child = node.and_then(|node| node.child(key));
        match old.get(key) {
            Some(before) => {
                let mut below = Comparison::default();
                let modified = diff(before, value, child, &mut below);
                if modified || !below.is_empty() {
                    out.put(&Element::field(key), modified, below);
                }
            }
            None => out.added.put(Element::field(key), true, whole(value, child)),
        }
    }
    for (key, value) in old.iter().filter(|(key, _)| *key != but && !new.contains_key(*key)) {
        out.removed.put(Element::field(key), true, whole(value, node.and_then(|node| node.child(key))));
    }
}

/// Every path below a value that is there as a whole.
fn whole(value: &Value, node: Option<&Node>) -> Set {
    let mut out = Set::default();
    let kind = sharing(value, node);
    match &kind {
        Sharing::Leaf => {}
        Sharing::Set => {
            for (element, _) in items(list(value), &kind, None) {
                out.put(element, true, Set::default());
            }
        }
        Sharing::Fields => {
            for (key, child) in value.as_object().into_iter().flatten() {
                out.put(Element::field(key), true, whole(child, node.and_then(|node| node.child(key))));
            }
        }
        Sharing::Keyed(_) => {
            let item_node = node.and_then(Node::item);
            for (element, item) in items(list(value), &kind, item_node) {
                out.put(element, true, whole(item, item_node));
            }
        }
    }
    out
}

/// FieldsV1 of everything that a new object has, less what is in one of `less` or below a member of it: `compare_unbooked` with
/// an object that has empty metadata alone, as what is written of it in the end.
pub(super) fn fields_of_new(new: &Value, node: Option<&Node>, less: [Option<&Set>; 2]) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in new.as_object().into_iter().flatten() {
        let Some(less) = below_field(less, key) else { continue };
        let child = node.and_then(|node| node.child(key));
        // Metadata is always there: who makes an object owns only what is in it.
        let own = key != "metadata" || !value.is_object();
        let fields = below_new(value, child, less, if own { "" } else { "managedFields" });
        put_new(&mut out, || Element::serialized_field(key), own, fields);
    }
    out
}

/// What is in the sets below an element; `None` if one of them has the element itself.
fn below_element<'a>(less: [Option<&'a Set>; 2], element: &Element) -> Option<[Option<&'a Set>; 2]> {
    let mut below = [None, None];
    for (less, below) in less.into_iter().zip(&mut below) {
        match less.and_then(|set| set.child(element)) {
            Some((true, _)) => return None,
            Some((false, children)) => *below = Some(children),
            None => {}
        }
    }
    Some(below)
}

fn below_field<'a>(less: [Option<&'a Set>; 2], name: &str) -> Option<[Option<&'a Set>; 2]> {
    match less {
        // Nearly every field of an object: no element is made only to be looked for in nothing.
        [None, None] => Some(less),
        _ => below_element(less, &Element::field(name)),
    }
}

/// FieldsV1 of what is below a new value, but for one field.
fn below_new(value: &Value, node: Option<&Node>, less: [Option<&Set>; 2], but: &str) -> Map<String, Value> {
    let mut out = Map::new();
    let kind = sharing(value, node);
    match &kind {
        Sharing::Leaf => {}
        Sharing::Fields => {
            for (key, child) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != but) {
                let Some(less) = below_field(less, key) else { continue };
                let fields = below_new(child, node.and_then(|node| node.child(key)), less, "");
                put_new(&mut out, || Element::serialized_field(key), true, fields);
            }
        }
        Sharing::Keyed(_) | Sharing::Set => {
            let item_node = node.and_then(Node::item);
            for (element, item) in items(list(value), &kind, item_node) {
                let Some(less) = below_element(less, &element) else { continue };
                let fields = match kind {
                    // The items of a set have nothing below them that could be owned.
                    Sharing::Set => Map::new(),
                    _ => below_new(item, item_node, less, ""),
                };
                put_new(&mut out, || element.serialized(), true, fields);
            }
        }
    }
    out
}

/// Notes an element with what is below it.
fn put_new(out: &mut Map<String, Value>, name: impl FnOnce() -> String, own: bool, mut fields: Map<String, Value>) {
    if own && !fields.is_empty() {
        fields.insert(".".to_owned(), Value::Object(Map::new()));
    }
    if own || !fields.is_empty() {
        out.insert(name(), Value::Object(fields));
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
