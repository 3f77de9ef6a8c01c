//! Custom resource definitions: from a definition to the schema, defaults, checks and columns of its resources.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::decode::fits;
use crate::errors::{FaultKind, FieldError};
use crate::facts;
use crate::kinds::Faults;
use crate::meta;
use crate::names;
use crate::schema::{Field, ListType, Node, Rules, Shape, StructDef, StructRef};

/// One version of a custom resource.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomVersion {
    pub name: String,
    pub served: bool,
    pub storage: bool,
    pub node: Node,
    pub has_status: bool,
    pub scale: Option<Scale>,
    pub columns: Vec<Column>,
    pub selectable: Vec<String>,
    pub deprecated: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Path of the field, without leading dot: `spec.replicas`.
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    pub json_path: String,
}

/// The versions of a definition.
pub fn versions(definition: &Value) -> Vec<CustomVersion> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let path = |value: &Value, key: &str| text(value, key).trim_start_matches('.').to_owned();
    let listed = meta::list_at(definition, &["spec", "versions"]);
    listed
        .iter()
        .map(|version| {
            let schema = &version["schema"]["openAPIV3Schema"];
            let subresources = &version["subresources"];
            CustomVersion {
                name: text(version, "name"),
                served: version["served"] == true,
                storage: version["storage"] == true,
                node: root(schema),
                has_status: subresources.get("status").is_some(),
                scale: subresources.get("scale").map(|scale| Scale {
                    spec_replicas: path(scale, "specReplicasPath"),
                    status_replicas: path(scale, "statusReplicasPath"),
                    label_selector: path(scale, "labelSelectorPath"),
                }),
                columns: meta::list_at(version, &["additionalPrinterColumns"])
                    .iter()
                    .map(|column| Column {
                        name: text(column, "name"),
                        kind: text(column, "type"),
                        format: text(column, "format"),
                        description: text(column, "description"),
                        priority: column["priority"].as_i64().unwrap_or(0),
                        json_path: text(column, "jsonPath"),
                    })
                    .collect(),
                selectable: meta::list_at(version, &["selectableFields"])
                    .iter()
                    .map(|field| path(field, "jsonPath"))
                    .collect(),
                deprecated: (version["deprecated"] == true).then(|| text(version, "deprecationWarning")),
            }
        })
        .collect()
}

/// The schema of whole objects: the definition's, with the metadata that all objects have.
fn root(schema: &Value) -> Node {
    let mut node = to_node(schema);
    if !matches!(node.shape, Shape::Struct(_)) {
        let def = StructDef { open: true, ..StructDef::default() };
        node.shape = Shape::Struct(StructRef::Inline(Arc::new(def)));
    }
    let Shape::Struct(StructRef::Inline(def)) = &mut node.shape else { return node };
    let def = Arc::make_mut(def);
    for name in ["apiVersion", "kind", "metadata"] {
        def.fields.retain(|field| field.name != name);
        let node = match name {
            "metadata" => facts::facts().node("m:apis.meta.v1.ObjectMeta"),
            _ => Node::new(Shape::String),
        };
        def.fields.push(Field { name: name.to_owned(), required: false, node });
    }
    def.fields.sort_by(|a, b| a.name.cmp(&b.name));
    node
}

fn to_node(schema: &Value) -> Node {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let kind = schema["type"].as_str().unwrap_or_default();
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties");
    let shape = if schema["x-kubernetes-int-or-string"] == true {
        Shape::IntOrString
    } else {
        match kind {
            "string" => Shape::String,
            "integer" => Shape::Int64,
            "number" => Shape::Double,
            "boolean" => Shape::Bool,
            "array" => Shape::List(Box::new(to_node(&schema["items"]))),
            _ if properties.is_none() && additional.is_some_and(Value::is_object) => {
                Shape::Map(Box::new(to_node(additional.unwrap_or(&Value::Null))))
            }
            _ if properties.is_none() && additional == Some(&Value::Bool(true)) => {
                Shape::Map(Box::new(Node { rules: Some(Arc::default()), ..Node::new(Shape::Any) }))
            }
            "object" => object_shape(schema, properties, additional, open),
            _ if properties.is_some() => object_shape(schema, properties, additional, open),
            _ => Shape::Any,
        }
    };
    let mut node = Node::new(shape);
    node.nullable = schema["nullable"] == true;
    node.default = schema.get("default").cloned();
    node.atomic = schema["x-kubernetes-map-type"] == "atomic";
    node.list = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListType::Set,
        Some("map") => {
            let keys = meta::list_at(schema, &["x-kubernetes-list-map-keys"]);
            ListType::Map(keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => ListType::Atomic,
    };
    node.rules = Some(Arc::new(rules(schema)));
    node
}

fn object_shape(
    schema: &Value,
    properties: Option<&Map<String, Value>>,
    additional: Option<&Value>,
    open: bool,
) -> Shape {
    let required: Vec<&str> = meta::list_at(schema, &["required"]).iter().filter_map(Value::as_str).collect();
    let fields = properties.into_iter().flatten().map(|(name, schema)| Field {
        name: name.clone(),
        required: required.contains(&name.as_str()),
        node: to_node(schema),
    });
    let mut def = StructDef { fields: fields.collect(), open, ..StructDef::default() };
    if schema["x-kubernetes-embedded-resource"] == true {
        for name in ["apiVersion", "kind", "metadata"] {
            if def.field(name).is_none() {
                let shape = if name == "metadata" { Shape::Raw } else { Shape::String };
                def.fields.push(Field { name: name.to_owned(), required: name != "metadata", node: Node::new(shape) });
                def.fields.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
    }
    // A required field without a schema of its own still has to be there.
    for name in required {
        if def.field(name).is_none() {
            let node = Node { rules: Some(Arc::default()), ..Node::new(Shape::Any) };
            def.fields.push(Field { name: name.to_owned(), required: true, node });
            def.fields.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
    match additional {
        Some(Value::Bool(true)) => def.open = true,
        Some(schema @ Value::Object(_)) => def.additional = Some(Box::new(to_node(schema))),
        _ => {}
    }
    Shape::Struct(StructRef::Inline(Arc::new(def)))
}

fn rules(schema: &Value) -> Rules {
    let text = |key: &str| schema[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
    Rules {
        type_name: text("type"),
        format: text("format"),
        enumeration: list("enum"),
        pattern: schema["pattern"].as_str().map(str::to_owned),
        minimum: schema["minimum"].as_f64(),
        maximum: schema["maximum"].as_f64(),
        exclusive_minimum: schema["exclusiveMinimum"] == true,
        exclusive_maximum: schema["exclusiveMaximum"] == true,
        multiple_of: schema["multipleOf"].as_f64(),
        length_min: schema["minLength"].as_u64(),
        length_max: schema["maxLength"].as_u64(),
        items_min: schema["minItems"].as_u64(),
        items_max: schema["maxItems"].as_u64(),
        properties_min: schema["minProperties"].as_u64(),
        properties_max: schema["maxProperties"].as_u64(),
        unique_items: schema["uniqueItems"] == true,
        embedded: schema["x-kubernetes-embedded-resource"] == true,
        description: text("description"),
        all_of: list("allOf"),
        any_of: list("anyOf"),
        one_of: list("oneOf"),
        not: schema.get("not").cloned(),
    }
}

/// Fills in the defaults of the schema.
pub fn default(value: &mut Value, node: &Node) {
    match (&node.shape, value) {
        (Shape::Struct(reference), Value::Object(map)) => {
            let def = reference.def();
            for field in &def.fields {
                if let Some(default) = &field.node.default {
                    let null = map.get(&field.name).is_some_and(Value::is_null) && !field.node.nullable;
                    if null || !map.contains_key(&field.name) {
                        map.insert(field.name.clone(), default.clone());
                    }
                }
                if let Some(child) = map.get_mut(&field.name) {
                    self::default(child, &field.node);
                }
            }
            if let Some(additional) = &def.additional {
                for (_, child) in map.iter_mut().filter(|(key, _)| def.field(key).is_none()) {
                    self::default(child, additional);
                }
            }
        }
        (Shape::Map(item), Value::Object(map)) => map.values_mut().for_each(|child| self::default(child, item)),
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|child| self::default(child, item)),
        _ => {}
    }
}

/// Checks a custom resource against its schema. Metadata is not looked at.
pub fn validate(object: &Value, node: &Node, faults: &mut Faults) {
    let Some(def) = node.struct_def() else { return };
    for field in def.fields.iter().filter(|field| !matches!(field.name.as_str(), "apiVersion" | "kind" | "metadata")) {
        match object.get(&field.name) {
            Some(value) => check(value, &field.node, &field.name, faults),
            None if field.required => faults.required(&field.name, ""),
            None => {}
        }
    }
}

fn check(value: &Value, node: &Node, path: &str, faults: &mut Faults) {
    let Some(rules) = &node.rules else { return };
    if value.is_null() && node.nullable {
        return;
    }
    if !fits(value, &node.shape) {
        let wanted = if matches!(node.shape, Shape::IntOrString) { "integer,string" } else { &rules.type_name };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let detail = format!("{path} in body must be of type {wanted}: \"{found}\"");
        faults.push(FieldError::new(path, FaultKind::TypeInvalid(found.into(), detail)));
        return;
    }
    check_rules(value, rules, path, faults);
    match (&node.shape, value) {
        (Shape::Struct(reference), Value::Object(map)) => {
            let def = reference.def();
            for field in &def.fields {
                let here = format!("{path}.{}", field.name);
                match map.get(&field.name) {
                    Some(child) => check(child, &field.node, &here, faults),
                    None if field.required => faults.required(&here, ""),
                    None => {}
                }
            }
            if let Some(additional) = &def.additional {
                for (key, child) in map.iter().filter(|(key, _)| def.field(key).is_none()) {
                    check(child, additional, &format!("{path}.{key}"), faults);
                }
            }
        }
        (Shape::Map(item), Value::Object(map)) => {
            for (key, child) in map {
                check(child, item, &format!("{path}.{key}"), faults);
            }
        }
        (Shape::List(item), Value::Array(items)) => {
            for (at, child) in items.iter().enumerate() {
                check(child, item, &format!("{path}[{at}]"), faults);
            }
            unique(items, &node.list, path, faults);
        }
        _ => {}
    }
}

fn unique(items: &[Value], list: &ListType, path: &str, faults: &mut Faults) {
    let mut seen: Vec<Value> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let identity = match list {
            ListType::Atomic => return,
            ListType::Set => item.clone(),
            ListType::Map(keys) => {
                keys.iter().map(|key| (key.clone(), item[key].clone())).collect::<Map<_, _>>().into()
            }
        };
        if seen.contains(&identity) {
            faults.push(FieldError::duplicate(format!("{path}[{at}]"), identity.clone()));
        }
        seen.push(identity);
    }
}

fn check_rules(value: &Value, rules: &Rules, path: &str, faults: &mut Faults) {
    let mut bad = |shown: Value, detail: String| faults.invalid(path, shown, format!("{path} in body {detail}"));
    if let Some(number) = value.as_f64() {
        if let Some(least) = rules.minimum {
            let low = if rules.exclusive_minimum { number <= least } else { number < least };
            if low {
                let word = if rules.exclusive_minimum { "greater than" } else { "greater than or equal to" };
                bad(value.clone(), format!("should be {word} {least}"));
            }
        }
        if let Some(most) = rules.maximum {
            let high = if rules.exclusive_maximum { number >= most } else { number > most };
            if high {
                let word = if rules.exclusive_maximum { "less than" } else { "less than or equal to" };
                bad(value.clone(), format!("should be {word} {most}"));
            }
        }
        if let Some(step) = rules.multiple_of
            && (number / step).fract().abs() > f64::EPSILON
        {
            bad(value.clone(), format!("should be a multiple of {step}"));
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if rules.length_min.is_some_and(|least| length < least) {
            bad(text.into(), format!("should be at least {} chars long", rules.length_min.unwrap_or(0)));
        }
        if let Some(pattern) = &rules.pattern {
            let matched = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
            if !matched {
                bad(text.into(), format!("should match '{pattern}'"));
            }
        }
        if rules.format == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
            bad(text.into(), format!("must be of type date-time: {text:?}"));
        }
        if rules.length_max.is_some_and(|most| length > most) {
            faults.push(FieldError::too_long(path, rules.length_max.unwrap_or(0)));
        }
    }
    if let Some(items) = value.as_array() {
        if let Some(least) = rules.items_min
            && (items.len() as u64) < least
        {
            faults.invalid(path, items.len(), format!("{path} in body should have at least {least} items"));
        }
        if let Some(most) = rules.items_max
            && items.len() as u64 > most
        {
            faults.push(FieldError::new(path, FaultKind::TooMany(items.len(), most)));
        }
        if rules.unique_items && items.iter().enumerate().any(|(at, item)| items[..at].contains(item)) {
            faults.invalid(path, value.clone(), format!("{path} in body shouldn't contain duplicates"));
        }
    }
    if let Some(map) = value.as_object() {
        let count = map.len() as u64;
        if rules.properties_min.is_some_and(|least| count < least) {
            let detail =
                format!("{path} in body should have at least {} properties", rules.properties_min.unwrap_or(0));
            faults.invalid(path, count, detail);
        }
        if let Some(most) = rules.properties_max
            && count > most
        {
            faults.push(FieldError::new(path, FaultKind::TooMany(map.len(), most)));
        }
    }
    if !rules.enumeration.is_empty() && !rules.enumeration.contains(value) {
        let supported = rules.enumeration.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned));
        faults.push(FieldError::new(path, FaultKind::Unsupported(value.clone(), supported.collect())));
    }
    let holds = |schema: &Value| {
        let mut inner = Faults::default();
        junctor(value, schema, path, &mut inner);
        inner.0.is_empty()
    };
    for schema in &rules.all_of {
        junctor(value, schema, path, faults);
    }
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(holds) {
        faults.invalid(path, "", format!("{path:?} must validate at least one schema (anyOf)"));
    }
    if !rules.one_of.is_empty() && rules.one_of.iter().filter(|schema| holds(schema)).count() != 1 {
        faults.invalid(path, "", format!("{path:?} must validate one and only one schema (oneOf)"));
    }
    if rules.not.as_ref().is_some_and(holds) {
        faults.invalid(path, "", format!("{path:?} must not validate the schema (not)"));
    }
}

/// A schema inside `allOf` and the like: value rules and required fields, types only where it names them.
fn junctor(value: &Value, schema: &Value, path: &str, faults: &mut Faults) {
    check(value, &to_node(schema), path, faults);
    if let (Value::Object(map), None) = (value, schema.get("properties")) {
        for name in meta::list_at(schema, &["required"]).iter().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                faults.required(&format!("{path}.{name}"), "");
            }
        }
    }
}

/// Fills in what a definition leaves out.
pub fn default_definition(definition: &mut Value) {
    let names = meta::object_at(definition, &["spec", "names"]);
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    let spec = meta::object_at(definition, &["spec"]);
    spec.entry("conversion").or_insert_with(|| serde_json::json!({"strategy": "None"}));
}

/// Checks a definition.
pub fn validate_definition(definition: &Value, faults: &mut Faults) {
    let spec = &definition["spec"];
    let (group, plural) = (meta::str_at(spec, &["group"]), meta::str_at(spec, &["names", "plural"]));
    let wanted = format!("{plural}.{group}");
    if meta::name(definition) != wanted {
        faults.invalid("metadata.name", meta::name(definition), "must be spec.names.plural+\".\"+spec.group");
    }
    if group.is_empty() {
        faults.required("spec.group", "");
    } else if !group.contains('.') {
        faults.invalid("spec.group", group, "should be a domain with at least one dot");
    } else {
        faults.all_invalid("spec.group", group, names::dns_subdomain(group));
    }
    faults.required_one_of(spec, "scope", "spec", &["Cluster", "Namespaced"]);
    for field in ["plural", "kind"] {
        if meta::str_at(spec, &["names", field]).is_empty() {
            faults.required(&format!("spec.names.{field}"), "");
        }
    }
    let listed = meta::list_at(spec, &["versions"]);
    if listed.iter().filter(|version| version["storage"] == true).count() != 1 {
        faults.invalid("spec.versions", Value::Null, "must have exactly one version marked as storage version");
    }
    for (at, version) in listed.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = version["name"].as_str().unwrap_or_default();
        faults.all_invalid(&format!("{path}.name"), name, names::dns_1035_label(name));
        match version["schema"].get("openAPIV3Schema") {
            None => faults.required(&format!("{path}.schema.openAPIV3Schema"), "schemas are required"),
            Some(schema) => structural(schema, &format!("{path}.schema.openAPIV3Schema"), true, faults),
        }
    }
    if spec["conversion"]["strategy"] == "Webhook" && spec["conversion"].get("webhook").is_none() {
        faults.required("spec.conversion.webhook.clientConfig", "required when strategy is set to Webhook");
    }
    if spec["preserveUnknownFields"] == true {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        faults.invalid("spec.preserveUnknownFields", true, detail);
    }
}

/// Every position has a type; nothing that a structural schema may not say.
fn structural(schema: &Value, path: &str, root: bool, faults: &mut Faults) {
    let free = schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
    match schema["type"].as_str() {
        None if !free => faults.required(&format!("{path}.type"), "must not be empty for specified object fields"),
        Some(kind) if root && kind != "object" => {
            faults.invalid(&format!("{path}.type"), kind, "must be object at the root")
        }
        _ => {}
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex::Regex::new(pattern)
    {
        faults.invalid(
            &format!("{path}.pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {error}"),
        );
    }
    if schema["type"] == "array" && schema.get("items").is_none() {
        faults.required(&format!("{path}.items"), "must be specified");
    }
    if let Some(items) = schema.get("items") {
        structural(items, &format!("{path}.items"), false, faults);
    }
    if schema["x-kubernetes-list-type"] == "map"
        && schema["x-kubernetes-list-map-keys"].as_array().is_none_or(Vec::is_empty)
    {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        faults.required(&format!("{path}.x-kubernetes-list-map-keys"), detail);
    }
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_some_and(|more| *more != false) {
        faults.forbidden(
            &format!("{path}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        );
    }
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        structural(child, &format!("{path}.properties[{name}]"), false, faults);
    }
    if let Some(child @ Value::Object(_)) = schema.get("additionalProperties") {
        structural(child, &format!("{path}.additionalProperties"), false, faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;
    use serde_json::json;

    fn definition() -> Value {
        json!({"metadata": {"name": "boats.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "required": ["crew"], "properties": {
                    "crew": {"type": "integer", "minimum": 1, "maximum": 9},
                    "name": {"type": "string", "default": "Nora", "pattern": "^[A-Z]"},
                    "kind": {"type": "string", "enum": ["knarr", "skeid"]},
                    "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                    "note": {"type": "string", "nullable": true}}}}}}}]}})
    }

    #[test]
    fn custom_resources_are_pruned_defaulted_and_checked() {
        let mut made = definition();
        default_definition(&mut made);
        let mut faults = Faults::default();
        validate_definition(&made, &mut faults);
        assert_eq!(faults.0, []);
        assert_eq!(made["spec"]["names"]["listKind"], "BoatList");
        let version = versions(&made).remove(0);
        let mut boat = json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "b", "x": 1},
            "spec": {"crew": 0, "kind": "raft", "lost": 1, "extra": {"a": 1}, "tags": {"t": "1"}, "note": null}});
        let unknown = decode::conform(&mut boat, &version.node).unwrap();
        assert_eq!(unknown, ["metadata.x", "spec.lost"]);
        default(&mut boat, &version.node);
        assert_eq!((&boat["spec"]["name"], &boat["spec"]["extra"]["a"]), (&json!("Nora"), &json!(1)));
        let mut faults = Faults::default();
        validate(&boat, &version.node, &mut faults);
        let texts: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.crew: Invalid value: 0: spec.crew in body should be greater than or equal to 1",
                "spec.kind: Unsupported value: \"raft\": supported values: \"knarr\", \"skeid\""
            ]
        );
        let mut faults = Faults::default();
        validate(&json!({"spec": {"crew": "many"}}), &version.node, &mut faults);
        assert_eq!(
            faults.0[0].to_string(),
            "spec.crew: Invalid value: \"string\": spec.crew in body must be of type integer: \"string\""
        );
    }

    #[test]
    fn definitions_that_are_not_structural_are_refused() {
        let mut bad = definition();
        bad["metadata"]["name"] = "ships.example.com".into();
        bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"] = json!({});
        let mut faults = Faults::default();
        validate_definition(&bad, &mut faults);
        assert_eq!(faults.0.len(), 2, "{:?}", faults.0);
    }
}
