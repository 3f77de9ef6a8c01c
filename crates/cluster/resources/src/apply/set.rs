//! Sets of field paths.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Element;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    entries: BTreeMap<Element, Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    /// The path that ends here is in the set.
    member: bool,
    children: Set,
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let entry = self.entries.entry(first.clone()).or_default();
        match rest {
            [] => entry.member = true,
            rest => entry.children.insert(rest),
        }
    }

    /// A set of paths made of plain field names, `a.b.c`.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let elements: Vec<Element> = path.split('.').map(Element::field).collect();
            set.insert(&elements);
        }
        set
    }

    /// Adds `element` with everything below it.
    pub(super) fn put(&mut self, element: Element, member: bool, children: Self) {
        if member || !children.is_empty() {
            let entry = self.entries.entry(element).or_default();
            entry.member |= member;
            entry.children = std::mem::take(&mut entry.children).union(children);
        }
    }

    pub fn contains(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.entries.get(last).is_some_and(|entry| entry.member),
            [first, rest @ ..] => self.entries.get(first).is_some_and(|entry| entry.children.contains(rest)),
        }
    }

    pub(super) fn child(&self, element: &Element) -> Option<(bool, &Self)> {
        self.entries.get(element).map(|entry| (entry.member, &entry.children))
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&Element, bool, &Self)> {
        self.entries.iter().map(|(element, entry)| (element, entry.member, &entry.children))
    }

    pub fn union(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        for (element, entry) in other.entries {
            self.put(element, entry.member, entry.children);
        }
        self
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (element, entry) in &self.entries {
            if let Some(theirs) = other.entries.get(element) {
                let children = entry.children.intersection(&theirs.children);
                out.put(element.clone(), entry.member && theirs.member, children);
            }
        }
        out
    }

    /// What is here and not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.subtract(other);
        out
    }

    /// Takes out what is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (element, theirs) in &other.entries {
            if let Some(entry) = self.entries.get_mut(element) {
                entry.member &= !theirs.member;
                entry.children.subtract(&theirs.children);
                self.forget_empty(element);
            }
        }
    }

    fn forget_empty(&mut self, element: &Element) {
        if self.entries.get(element).is_some_and(|entry| !entry.member && entry.children.is_empty()) {
            self.entries.remove(element);
        }
    }

    /// What is here and neither in `other` nor below a member of it.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.subtract_below(other);
        out
    }

    /// Takes out what is in `other` or below a member of it.
    pub fn subtract_below(&mut self, other: &Self) {
        for (element, theirs) in &other.entries {
            if theirs.member {
                self.entries.remove(element);
            } else if let Some(entry) = self.entries.get_mut(element) {
                entry.children.subtract_below(&theirs.children);
                self.forget_empty(element);
            }
        }
    }

    /// What is at or below a member of `other`.
    pub fn recursive_intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (element, entry) in &self.entries {
            match other.entries.get(element) {
                None => {}
                Some(theirs) if theirs.member => out.put(element.clone(), entry.member, entry.children.clone()),
                Some(theirs) => {
                    out.put(element.clone(), false, entry.children.recursive_intersection(&theirs.children));
                }
            }
        }
        out
    }

    /// All paths, in order.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for (element, entry) in &self.entries {
            path.push(element.clone());
            if entry.member {
                out.push(path.clone());
            }
            entry.children.collect(path, out);
            path.pop();
        }
    }

    /// FieldsV1.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (element, entry) in &self.entries {
            let mut value = entry.children.to_value();
            if entry.member && !entry.children.is_empty() {
                value[".".to_owned()] = Value::Object(Map::new());
            }
            out.insert(element.serialized(), value);
        }
        Value::Object(out)
    }

    /// Reads FieldsV1; `None` when it is none.
    pub fn from_value(value: &Value) -> Option<Self> {
        let mut out = Self::default();
        for (key, below) in value.as_object()? {
            if key == "." {
                continue;
            }
            let element = Element::parse(key)?;
            let map = below.as_object()?;
            let member = map.is_empty() || map.contains_key(".");
            out.put(element, member, Self::from_value(below)?);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_v1_reads_back_as_written() {
        let value = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}}, "f:set": {"v:1": {}}}});
        let set = Set::from_value(&value).unwrap();
        assert_eq!(set.to_value(), value);
        assert_eq!(set.paths().len(), 5);
        let shown: String = set.paths()[3].iter().map(Element::to_string).collect();
        assert_eq!(shown, ".spec.containers[name=\"x\"].image");
        assert_eq!(Set::from_value(&json!({"x": {}})), None);
    }

    #[test]
    fn set_algebra_works_on_paths() {
        let a = Set::of_fields(&["a.b", "a.c", "d"]);
        let b = Set::of_fields(&["a.b", "d.e"]);
        assert_eq!(a.intersection(&b), Set::of_fields(&["a.b"]));
        assert_eq!(a.difference(&b), Set::of_fields(&["a.c", "d"]));
        assert_eq!(Set::of_fields(&["d.e.f", "g"]).recursive_difference(&a), Set::of_fields(&["g"]));
        assert_eq!(Set::of_fields(&["d.e.f", "g"]).recursive_intersection(&a), Set::of_fields(&["d.e.f"]));
        assert_eq!(a.clone().union(b).paths().len(), 4);
    }
}
