//! The table of facts, `facts/kubernetes.facts`, made by `scripts/kube-facts.py`.
//!
//! Lines: `group NAME|- VERSION`; below it `resource PLURAL SINGULAR KIND N|C TYPE|- VERBS SHORT|- CATEGORIES|-`
//! (`*` stands for the eight usual verbs); below that `sub NAME GROUP|- VERSION|- KIND|- VERBS`, the kind that the
//! subresource answers with, in the group of its resource unless named. `type NAME [=atomic] [GROUP/VERSION/KIND]`;
//! below it `FIELD[!] TYPE FLAGS...` where `!` means required, `[T` a list, `{T` a map, `@NAME` another type,
//! `=map:K,..`, `=set`, `=atomic`, `=granular` how lists and maps merge, `~STRATEGY[:KEY]` how a strategic merge patch
//! treats them, `#N` the field's number in protobuf (`#2.1`: field 1 of a message at 2 that JSON writes inline).

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::schema::{Field, ListType, Node, PatchStrategy, Shape, StructDef, StructRef};

const TABLE: &str = include_str!("../../facts/kubernetes.facts");

const PREFIXES: [(&str, &str); 4] = [
    ("m:", "io.k8s.apimachinery.pkg."),
    ("x:", "io.k8s.apiextensions-apiserver.pkg.apis."),
    ("g:", "io.k8s.kube-aggregator.pkg.apis."),
    ("a:", "io.k8s.api."),
];

/// The eight verbs of an ordinary resource, as discovery lists them.
pub const USUAL_VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupVersion {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub resources: Vec<Resource>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    /// Index into [`Facts::types`].
    pub type_id: Option<u32>,
    pub verbs: Vec<&'static str>,
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    /// Empty when the answering kind is in the resource's own group and version.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: Vec<&'static str>,
}

#[derive(Debug)]
pub struct Facts {
    pub groups: Vec<GroupVersion>,
    pub types: Vec<StructDef>,
    by_name: HashMap<&'static str, u32>,
}

impl Facts {
    /// A type by its short name, such as `a:core.v1.Pod`.
    pub fn type_named(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub fn struct_def(&self, id: u32) -> &StructDef {
        &self.types[id as usize]
    }

    pub fn group_version(&self, group: &str, version: &str) -> Option<&GroupVersion> {
        self.groups.iter().find(|gv| gv.group == group && gv.version == version)
    }

    /// The schema of a built-in type, by short name. Panics if the table has no such type: names are ours.
    pub fn node(&self, name: &str) -> Node {
        let id = self.type_named(name).unwrap_or_else(|| panic!("the table of facts has no type {name}"));
        Node::new(Shape::Struct(StructRef::Builtin(id)))
    }
}

/// The table, read once.
pub fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| parse(TABLE))
}

/// The name that OpenAPI documents use for a type of the table: `io.k8s.api.core.v1.Pod` for `a:core.v1.Pod`.
pub fn long_name(short: &str) -> String {
    for (prefix, long) in PREFIXES {
        if let Some(rest) = short.strip_prefix(prefix) {
            return format!("{long}{rest}");
        }
    }
    short.to_owned()
}

fn parse(table: &'static str) -> Facts {
    // Types first by name only, so that fields can refer to types that come later.
    let mut by_name = HashMap::new();
    for line in table.lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            let name = rest.split(' ').next().expect("split yields one at least");
            by_name.insert(name, by_name.len() as u32);
        }
    }
    let mut facts = Facts { groups: Vec::new(), types: Vec::with_capacity(by_name.len()), by_name };
    let mut in_types = false;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match words[..] {
            ["group", group, version] if !line.starts_with(' ') => {
                facts.groups.push(GroupVersion { group: dash(group), version, resources: Vec::new() });
            }
            ["type", name, ref rest @ ..] if !line.starts_with(' ') => {
                in_types = true;
                facts.types.push(parse_type(name, rest));
            }
            ["resource", plural, singular, kind, scope, type_name, verbs, short, categories] if !in_types => {
                let type_id = facts.by_name.get(type_name).copied();
                let group = facts.groups.last_mut().expect("a resource stands below its group");
                group.resources.push(Resource {
                    plural,
                    singular,
                    kind,
                    namespaced: scope == "N",
                    type_id,
                    verbs: verb_list(verbs),
                    short_names: list(short),
                    categories: list(categories),
                    subresources: Vec::new(),
                });
            }
            ["sub", name, group, version, kind, verbs] if !in_types => {
                let resource = facts.groups.last_mut().and_then(|group| group.resources.last_mut());
                resource.expect("a subresource stands below its resource").subresources.push(Subresource {
                    name,
                    group: dash(group),
                    version: dash(version),
                    kind: dash(kind),
                    verbs: verb_list(verbs),
                });
            }
            [field, kind, ref flags @ ..] if in_types => {
                let field = parse_field(&facts.by_name, field, kind, flags);
                facts.types.last_mut().expect("a field stands below its type").fields.push(field);
            }
            _ => panic!("the table of facts has a line that is none: {line:?}"),
        }
    }
    facts
}

fn dash(word: &'static str) -> &'static str {
    if word == "-" { "" } else { word }
}

fn list(word: &'static str) -> Vec<&'static str> {
    if word == "-" { Vec::new() } else { word.split(',').collect() }
}

fn verb_list(word: &'static str) -> Vec<&'static str> {
    if word == "*" { USUAL_VERBS.to_vec() } else { list(word) }
}

fn parse_type(name: &'static str, rest: &[&'static str]) -> StructDef {
    let mut def = StructDef { name: name.to_owned(), ..StructDef::default() };
    for word in rest {
        match *word {
            "=atomic" => def.atomic = true,
            gvk => def.gvk = Some(gvk.to_owned()),
        }
    }
    def
}

fn parse_field(types: &HashMap<&'static str, u32>, name: &str, kind: &str, flags: &[&str]) -> Field {
    let (name, required) = match name.strip_suffix('!') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let mut node = Node::new(parse_shape(types, kind));
    for flag in flags {
        match flag.split_at(1) {
            ("=", "atomic") => {
                node.atomic = true;
                node.list = ListType::Atomic;
            }
            ("=", "set") => node.list = ListType::Set,
            ("=", "granular") => node.granular = true,
            ("=", keys) => {
                let keys = keys.strip_prefix("map:").unwrap_or_else(|| panic!("the facts have a flag {flag:?}"));
                node.list = ListType::Map(keys.split(',').map(str::to_owned).collect());
            }
            ("~", strategy) => {
                let (strategy, key) = strategy.split_once(':').unwrap_or((strategy, ""));
                node.patch = PatchStrategy {
                    merge: strategy.split(',').any(|word| word == "merge"),
                    replace: strategy == "replace",
                    retain_keys: strategy.split(',').any(|word| word == "retainKeys"),
                    merge_key: (!key.is_empty()).then(|| key.to_owned()),
                };
            }
            ("#", tag) => {
                let parsed = tag.split('.').map(str::parse).collect::<Result<_, _>>();
                node.tag = parsed.unwrap_or_else(|_| panic!("the facts have a field number {flag:?}"));
            }
            _ => panic!("the table of facts has a flag that is none: {flag:?}"),
        }
    }
    Field { name: name.to_owned(), required, node }
}

fn parse_shape(types: &HashMap<&'static str, u32>, word: &str) -> Shape {
    if let Some(rest) = word.strip_prefix('[') {
        return Shape::List(Box::new(Node::new(parse_shape(types, rest))));
    }
    if let Some(rest) = word.strip_prefix('{') {
        return Shape::Map(Box::new(Node::new(parse_shape(types, rest))));
    }
    if let Some(name) = word.strip_prefix('@') {
        let id = types.get(name).unwrap_or_else(|| panic!("the table of facts has no type {name}"));
        return Shape::Struct(StructRef::Builtin(*id));
    }
    match word {
        "string" => Shape::String,
        "bytes" => Shape::Bytes,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "bool" => Shape::Bool,
        "double" => Shape::Double,
        "quantity" => Shape::Quantity,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "intorstring" => Shape::IntOrString,
        "any" => Shape::Any,
        "raw" => Shape::Raw,
        _ => panic!("the table of facts has a type that is none: {word:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_what_the_release_serves() {
        let facts = facts();
        let resources: Vec<&Resource> = facts.groups.iter().flat_map(|gv| &gv.resources).collect();
        let subs: usize = resources.iter().map(|resource| resource.subresources.len()).sum();
        assert_eq!((facts.groups.len(), resources.len(), subs), (36, 95, 55));
        let lost: Vec<_> = resources.iter().filter(|resource| resource.type_id.is_none()).map(|r| r.kind).collect();
        assert_eq!(lost, Vec::<&str>::new(), "every resource has a type");
    }

    #[test]
    fn a_field_carries_its_merge_rules() {
        let facts = facts();
        let container = facts.struct_def(facts.type_named("a:core.v1.Container").unwrap());
        let ports = &container.field("ports").unwrap().node;
        assert_eq!(ports.list, ListType::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.patch.merge_key.as_deref(), Some("containerPort"));
        assert!(container.field("name").unwrap().required);
        assert_eq!(long_name("a:core.v1.Pod"), "io.k8s.api.core.v1.Pod");
    }
}
