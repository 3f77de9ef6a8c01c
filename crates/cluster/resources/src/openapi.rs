//! OpenAPI v2 and v3 documents, made from the schemas. They hold names, types and merge rules; descriptions only where
//! a custom resource definition brings them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::facts::{self, long_name};
use crate::schema::{ListType, Node, Shape, StructDef, StructRef};

/// A resource as the documents need it.
#[derive(Debug, Clone)]
pub struct Served<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    pub kind: &'a str,
    pub list_kind: &'a str,
    pub namespaced: bool,
    pub verbs: &'a [String],
    /// Name and verbs.
    pub subresources: Vec<(&'a str, &'a [String])>,
    pub node: &'a Node,
    pub custom: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

/// Collects the types that schemas refer to.
struct Writer {
    dialect: Dialect,
    wanted: Vec<u32>,
    seen: BTreeSet<u32>,
    scalars: BTreeSet<&'static str>,
}

impl Writer {
    fn reference(&self, name: &str) -> String {
        match self.dialect {
            Dialect::V2 => format!("#/definitions/{name}"),
            Dialect::V3 => format!("#/components/schemas/{name}"),
        }
    }

    /// A reference with the other words of its position; v3 wraps it so that they can stand beside it.
    fn refer(&self, name: &str) -> Map<String, Value> {
        let reference = self.reference(name);
        let value = match self.dialect {
            Dialect::V2 => json!({"$ref": reference}),
            Dialect::V3 => json!({"allOf": [{"$ref": reference}], "default": {}}),
        };
        value.as_object().cloned().unwrap_or_default()
    }

    fn node(&mut self, node: &Node) -> Value {
        let mut out = match &node.shape {
            Shape::String => words(&[("type", "string")]),
            Shape::Bytes => words(&[("type", "string"), ("format", "byte")]),
            Shape::Int32 => words(&[("type", "integer"), ("format", "int32")]),
            Shape::Int64 if node.rules.is_some() => words(&[("type", "integer")]),
            Shape::Int64 => words(&[("type", "integer"), ("format", "int64")]),
            Shape::Bool => words(&[("type", "boolean")]),
            Shape::Double if node.rules.is_some() => words(&[("type", "number")]),
            Shape::Double => words(&[("type", "number"), ("format", "double")]),
            Shape::Quantity => self.scalar(QUANTITY),
            Shape::Time => self.scalar(TIME),
            Shape::MicroTime => self.scalar(MICRO_TIME),
            Shape::IntOrString if node.rules.is_some() => {
                let mut out = Map::new();
                out.insert("x-kubernetes-int-or-string".into(), true.into());
                out
            }
            Shape::IntOrString => self.scalar(INT_OR_STRING),
            Shape::Any if node.rules.is_some() => {
                let mut out = Map::new();
                out.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
                out
            }
            Shape::Any => self.scalar(JSON),
            Shape::Raw => words(&[("type", "object")]),
            Shape::List(item) => {
                let mut out = words(&[("type", "array")]);
                out.insert("items".into(), self.node(item));
                out
            }
            Shape::Map(item) => {
                let mut out = words(&[("type", "object")]);
                out.insert("additionalProperties".into(), self.node(item));
                out
            }
            Shape::Struct(StructRef::Builtin(id)) => {
                if self.seen.insert(*id) {
                    self.wanted.push(*id);
                }
                let name = long_name(&facts::facts().struct_def(*id).name);
                self.refer(&name)
            }
            Shape::Struct(StructRef::Inline(def)) => self.fields(def),
        };
        self.merging(node, &mut out);
        self.rules(node, &mut out);
        Value::Object(out)
    }

    fn scalar(&mut self, name: &'static str) -> Map<String, Value> {
        self.scalars.insert(name);
        let mut out = self.refer(name);
        out.remove("default");
        out
    }

    fn merging(&self, node: &Node, out: &mut Map<String, Value>) {
        if matches!(node.shape, Shape::List(_)) {
            let kind = match &node.list {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map(keys) => {
                    out.insert("x-kubernetes-list-map-keys".into(), keys.clone().into());
                    "map"
                }
            };
            out.insert("x-kubernetes-list-type".into(), kind.into());
        } else if node.atomic {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        } else if node.granular {
            out.insert("x-kubernetes-map-type".into(), "granular".into());
        }
        let patch = &node.patch;
        let strategies: Vec<&str> =
            [("merge", patch.merge), ("replace", patch.replace), ("retainKeys", patch.retain_keys)]
                .iter()
                .filter(|(_, set)| *set)
                .map(|(word, _)| *word)
                .collect();
        if !strategies.is_empty() {
            out.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
        }
        if let Some(key) = &patch.merge_key {
            out.insert("x-kubernetes-patch-merge-key".into(), key.as_str().into());
        }
    }

    fn rules(&self, node: &Node, out: &mut Map<String, Value>) {
        if let Some(default) = &node.default {
            out.insert("default".into(), default.clone());
        }
        let Some(rules) = &node.rules else { return };
        if !rules.description.is_empty() {
            out.insert("description".into(), rules.description.as_str().into());
        }
        if !rules.format.is_empty() {
            out.insert("format".into(), rules.format.as_str().into());
        }
        if !rules.enumeration.is_empty() {
            out.insert("enum".into(), rules.enumeration.clone().into());
        }
        if node.nullable && self.dialect == Dialect::V3 {
            out.insert("nullable".into(), true.into());
        }
        if let Some(pattern) = &rules.pattern {
            out.insert("pattern".into(), pattern.as_str().into());
        }
        let numbers = [("minimum", rules.minimum), ("maximum", rules.maximum), ("multipleOf", rules.multiple_of)];
        for (key, value) in numbers {
            if let Some(value) = value {
                let number = if value.fract() == 0.0 { json!(value as i64) } else { json!(value) };
                out.insert(key.into(), number);
            }
        }
        let counts = [
            ("minLength", rules.length_min),
            ("maxLength", rules.length_max),
            ("minItems", rules.items_min),
            ("maxItems", rules.items_max),
            ("minProperties", rules.properties_min),
            ("maxProperties", rules.properties_max),
        ];
        for (key, value) in counts {
            if let Some(value) = value {
                out.insert(key.into(), value.into());
            }
        }
    }

    fn fields(&mut self, def: &StructDef) -> Map<String, Value> {
        let mut out = words(&[("type", "object")]);
        let required: Vec<Value> =
            def.fields.iter().filter(|field| field.required).map(|field| field.name.as_str().into()).collect();
        if !required.is_empty() {
            out.insert("required".into(), required.into());
        }
        let mut properties = Map::new();
        for field in &def.fields {
            properties.insert(field.name.clone(), self.node(&field.node));
        }
        if !properties.is_empty() {
            out.insert("properties".into(), properties.into());
        }
        if def.open {
            out.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
        }
        if def.atomic {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some(additional) = &def.additional {
            out.insert("additionalProperties".into(), self.node(additional));
        }
        out
    }

    /// Writes out every type that was referred to, and those that they refer to.
    fn finish(&mut self, out: &mut Map<String, Value>) {
        while let Some(id) = self.wanted.pop() {
            let def = facts::facts().struct_def(id);
            let mut schema = self.fields(def);
            if let Some(gvk) = &def.gvk {
                schema.insert("x-kubernetes-group-version-kind".into(), json!([gvk_value(gvk)]));
            }
            out.insert(long_name(&def.name), schema.into());
        }
        for name in &self.scalars {
            let schema = match (*name, self.dialect) {
                (INT_OR_STRING, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
                (INT_OR_STRING, Dialect::V3) => {
                    json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
                }
                (QUANTITY, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                (QUANTITY, Dialect::V2) => json!({"type": "string"}),
                (JSON, _) => json!({"description": "Any JSON value."}),
                _ => json!({"type": "string", "format": "date-time"}),
            };
            out.insert((*name).to_owned(), schema);
        }
    }
}

fn words(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
}

fn gvk_value(gvk: &str) -> Value {
    let mut parts = gvk.splitn(3, '/');
    let mut next = || parts.next().unwrap_or_default();
    json!({"group": next(), "version": next(), "kind": next()})
}

/// The name of a kind's schema.
fn kind_name(served: &Served<'_>) -> String {
    match &served.node.shape {
        Shape::Struct(StructRef::Builtin(id)) => long_name(&facts::facts().struct_def(*id).name),
        // com.example.stable.v1.Boat for stable.example.com.
        _ => {
            let reversed: Vec<&str> = served.group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), served.version, served.kind)
        }
    }
}

fn list_name(served: &Served<'_>) -> String {
    let name = kind_name(served);
    let package = name.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", served.list_kind)
}

fn schemas(dialect: Dialect, all: &[Served<'_>]) -> Map<String, Value> {
    let mut out = Map::new();
    let mut writer = Writer { dialect, wanted: Vec::new(), seen: BTreeSet::new(), scalars: BTreeSet::new() };
    for one in all {
        let gvk = |kind: &str| json!([{"group": one.group, "version": one.version, "kind": kind}]);
        match &one.node.shape {
            Shape::Struct(StructRef::Builtin(_)) => drop(writer.node(one.node)),
            _ => {
                let mut schema = writer.node(one.node);
                schema["x-kubernetes-group-version-kind"] = gvk(one.kind);
                out.insert(kind_name(one), schema);
            }
        }
        if one.verbs.iter().any(|verb| verb == "list") {
            let list_meta = facts::facts().node("m:apis.meta.v1.ListMeta");
            let list = json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": writer.node(&list_meta),
                    "items": {"type": "array", "items": {"$ref": writer.reference(&kind_name(one))}},
                },
                "x-kubernetes-group-version-kind": gvk(one.list_kind),
            });
            out.insert(list_name(one), list);
        }
    }
    for name in ["m:apis.meta.v1.Status", "m:apis.meta.v1.DeleteOptions"] {
        writer.node(&facts::facts().node(name));
    }
    writer.finish(&mut out);
    out
}

/// Query parameters by verb.
fn parameters(verb: &str) -> Vec<(&'static str, &'static str)> {
    let write = [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
    let list = [
        ("allowWatchBookmarks", "boolean"),
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("resourceVersionMatch", "string"),
        ("sendInitialEvents", "boolean"),
        ("timeoutSeconds", "integer"),
        ("watch", "boolean"),
    ];
    let delete = [
        ("dryRun", "string"),
        ("gracePeriodSeconds", "integer"),
        ("orphanDependents", "boolean"),
        ("propagationPolicy", "string"),
    ];
    match verb {
        "post" | "put" => write.to_vec(),
        "patch" => write.into_iter().chain([("force", "boolean")]).collect(),
        "delete" => delete.to_vec(),
        "list" => list.to_vec(),
        "deletecollection" => {
            let mut all: Vec<_> =
                list.iter().filter(|(name, _)| !matches!(*name, "watch" | "allowWatchBookmarks")).copied().collect();
            all.extend(delete);
            all
        }
        _ => Vec::new(),
    }
}

const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn operation(dialect: Dialect, served: &Served<'_>, verb: &str, name: &str, path: &str) -> Value {
    let action = match verb {
        "get" => "get",
        "list" => "list",
        "post" => "post",
        "put" => "put",
        "patch" => "patch",
        "delete" => "delete",
        _ => "deletecollection",
    };
    let reference = |name: &str| match dialect {
        Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    };
    let mut params: Vec<Value> = Vec::new();
    let typed = |name: &str, kind: &str| match dialect {
        Dialect::V2 => json!({"name": name, "in": "query", "type": kind, "uniqueItems": true}),
        Dialect::V3 => json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}}),
    };
    params.extend(parameters(verb).iter().map(|(name, kind)| typed(name, kind)));
    let answer = match verb {
        "list" => list_name(served),
        "deletecollection" | "delete" => long_name("m:apis.meta.v1.Status"),
        _ => kind_name(served),
    };
    let mut out = json!({
        "operationId": format!("{name}{}", id_of(path)),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": served.group, "version": served.version, "kind": served.kind},
        "responses": {"200": match dialect {
            Dialect::V2 => json!({"description": "OK", "schema": reference(&answer)}),
            Dialect::V3 => json!({"description": "OK", "content": {"application/json": {"schema": reference(&answer)}}}),
        }},
    });
    let patches = PATCHES.iter().filter(|kind| !served.custom || !kind.contains("strategic"));
    let body = match verb {
        "post" | "put" => Some(kind_name(served)),
        "patch" => None,
        _ => None,
    };
    match dialect {
        Dialect::V2 => {
            out["consumes"] = match verb {
                "patch" => patches.copied().collect::<Vec<_>>().into(),
                _ => json!(["*/*"]),
            };
            out["produces"] = json!(["application/json", "application/yaml"]);
            out["schemes"] = json!(["https"]);
            if verb == "patch" {
                params.push(json!({"name": "body", "in": "body", "required": true, "schema": {"type": "object"}}));
            }
            if let Some(body) = body {
                params.push(json!({"name": "body", "in": "body", "required": true, "schema": reference(&body)}));
            }
        }
        Dialect::V3 => {
            let content = match verb {
                "patch" => Some(
                    patches
                        .map(|kind| ((*kind).to_owned(), json!({"schema": {"type": "object"}})))
                        .collect::<Map<_, _>>(),
                ),
                _ => body.map(|body| {
                    let mut content = Map::new();
                    content.insert("*/*".into(), json!({"schema": reference(&body)}));
                    content
                }),
            };
            if let Some(content) = content {
                out["requestBody"] = json!({"content": content, "required": true});
            }
        }
    }
    if !params.is_empty() {
        out["parameters"] = params.into();
    }
    out
}

/// A path in camel case, so that operation ids differ.
fn id_of(path: &str) -> String {
    let words = path.split(['/', '{', '}', '.', '-']).filter(|word| !word.is_empty());
    words.map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

fn paths(dialect: Dialect, all: &[Served<'_>]) -> Map<String, Value> {
    let mut out: BTreeMap<String, Value> = BTreeMap::new();
    let path_param = |name: &str| match dialect {
        Dialect::V2 => json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true}),
        Dialect::V3 => {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
        }
    };
    for one in all {
        let root = match one.group {
            "" => format!("/api/{}", one.version),
            group => format!("/apis/{group}/{}", one.version),
        };
        let base = match one.namespaced {
            true => format!("{root}/namespaces/{{namespace}}/{}", one.plural),
            false => format!("{root}/{}", one.plural),
        };
        let has = |verb: &str| one.verbs.iter().any(|have| have == verb);
        let mut add = |path: &str, operations: Vec<(&str, &str, &str)>, named: bool| {
            if operations.is_empty() {
                return;
            }
            let mut item = Map::new();
            for (method, verb, name) in operations {
                item.insert(method.to_owned(), operation(dialect, one, verb, name, path));
            }
            let mut params = Vec::new();
            if named {
                params.push(path_param("name"));
            }
            if path.contains("{namespace}") {
                params.push(path_param("namespace"));
            }
            if !params.is_empty() {
                item.insert("parameters".into(), params.into());
            }
            out.insert(path.to_owned(), item.into());
        };
        let pick = |wanted: &[(&'static str, &'static str, &'static str, &'static str)]| -> Vec<(&'static str, &'static str, &'static str)> {
            wanted.iter().filter(|(verb, ..)| has(verb)).map(|(_, method, kind, name)| (*method, *kind, *name)).collect()
        };
        add(
            &base,
            pick(&[
                ("list", "get", "list", "list"),
                ("create", "post", "post", "create"),
                ("deletecollection", "delete", "deletecollection", "deleteCollection"),
            ]),
            false,
        );
        if one.namespaced && has("list") {
            add(&format!("{root}/{}", one.plural), vec![("get", "list", "list")], false);
        }
        add(
            &format!("{base}/{{name}}"),
            pick(&[
                ("get", "get", "get", "read"),
                ("update", "put", "put", "replace"),
                ("patch", "patch", "patch", "patch"),
                ("delete", "delete", "delete", "delete"),
            ]),
            true,
        );
        for (sub, verbs) in &one.subresources {
            let has = |verb: &str| verbs.iter().any(|have| have == verb);
            let wanted = [
                ("get", "get", "get", "read"),
                ("create", "post", "post", "create"),
                ("update", "put", "put", "replace"),
                ("patch", "patch", "patch", "patch"),
            ];
            let operations =
                wanted.iter().filter(|(verb, ..)| has(verb)).map(|(_, method, kind, name)| (*method, *kind, *name));
            add(&format!("{base}/{{name}}/{sub}"), operations.collect(), true);
        }
    }
    out.into_iter().collect()
}

/// The whole document of all resources.
pub fn v2(all: &[Served<'_>]) -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths(Dialect::V2, all),
        "definitions": schemas(Dialect::V2, all),
    })
}

/// The document of one group and version.
pub fn v3(all: &[Served<'_>]) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths(Dialect::V3, all),
        "components": {"schemas": schemas(Dialect::V3, all)},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(group: &str) -> Vec<Value> {
        let facts = facts::facts();
        let gvs = facts.groups.iter().filter(|gv| gv.group == group);
        gvs.map(|gv| {
            let nodes: Vec<(Node, Vec<String>, &facts::Resource)> = gv
                .resources
                .iter()
                .map(|resource| {
                    let node = Node::new(Shape::Struct(StructRef::Builtin(resource.type_id.unwrap())));
                    (node, resource.verbs.iter().map(|&verb| verb.to_owned()).collect(), resource)
                })
                .collect();
            let lists: Vec<String> = nodes.iter().map(|(_, _, resource)| format!("{}List", resource.kind)).collect();
            let served: Vec<Served<'_>> = nodes
                .iter()
                .zip(&lists)
                .map(|((node, verbs, resource), list_kind)| Served {
                    group: gv.group,
                    version: gv.version,
                    plural: resource.plural,
                    kind: resource.kind,
                    list_kind,
                    namespaced: resource.namespaced,
                    verbs,
                    subresources: Vec::new(),
                    node,
                    custom: false,
                })
                .collect();
            v3(&served)
        })
        .collect()
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for group in facts::facts().groups.iter().map(|gv| gv.group).collect::<BTreeSet<_>>() {
            for document in all(group) {
                let text = document.to_string();
                for part in text.split("#/components/schemas/").skip(1) {
                    let name = part.split('"').next().unwrap();
                    assert!(document["components"]["schemas"].get(name).is_some(), "{group}: {name}");
                }
            }
        }
    }
}
