//! Custom resource definitions: from a definition to the schema, defaults and columns of its resources. Objects are judged
//! in [`check`] and by the rules of [`expressions`], definitions in [`definition`].

mod check;
mod definition;
mod expressions;
mod names;

pub use check::validate;
pub use definition::{default_definition, prepare_definition, validate_definition};
pub use expressions::Expression;
pub use names::{Names, accept};

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::facts;
use crate::meta;
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
    /// The `clientConfig` of the webhook that converts between versions; `None` if they share their shape.
    pub converter: Option<Value>,
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
                converter: (definition["spec"]["conversion"]["strategy"] == "Webhook")
                    .then(|| definition["spec"]["conversion"]["webhook"]["clientConfig"].clone()),
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
        expressions: expressions::of(schema),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;
    use crate::kinds::Faults;
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
        validate(&boat, None, &version.node, &mut faults);
        let texts: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.crew: Invalid value: 0: spec.crew in body should be greater than or equal to 1",
                "spec.kind: Unsupported value: \"raft\": supported values: \"knarr\", \"skeid\""
            ]
        );
        let mut faults = Faults::default();
        validate(&json!({"spec": {"crew": "many"}}), None, &version.node, &mut faults);
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

    fn ruled(rules: Value) -> CustomVersion {
        let mut made = definition();
        let spec = &mut made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"]["max"] = json!({"type": "integer"});
        spec["properties"]["ratio"] = json!({"type": "number"});
        spec["properties"]["until"] = json!({"type": "string", "format": "date-time"});
        spec["properties"]["has-dash"] = json!({"type": "string"});
        let item = json!({"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "may only grow"}]}}});
        spec["properties"]["items"] = json!({"type": "array", "items": item, "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["id"]});
        spec["x-kubernetes-validations"] = rules;
        let mut faults = Faults::default();
        default_definition(&mut made);
        validate_definition(&made, &mut faults);
        assert_eq!(faults.0, []);
        versions(&made).remove(0)
    }

    fn judged(version: &CustomVersion, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut faults = Faults::default();
        validate(object, old, &version.node, &mut faults);
        faults.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_judge_objects_and_changes() {
        let version = ruled(json!([
            {"rule": "!has(self.max) || self.crew <= self.max", "messageExpression": "'crew ' + string(self.crew) + ' over ' + string(self.max)"},
            {"rule": "self.crew >= oldSelf.crew", "message": "nobody leaves", "reason": "FieldValueForbidden", "fieldPath": ".crew"},
            {"rule": "!has(self.ratio) || self.ratio * 2.0 <= 2.0"},
            {"rule": "!has(self.until) || self.until > timestamp('2020-01-01T00:00:00Z')", "message": "too early"},
            {"rule": "!has(self.has__dash__dash) || self.has__dash__dash.startsWith('x')", "message": "dash"},
        ]));
        let fine = json!({"spec": {"crew": 3, "max": 5, "name": "Nora", "ratio": 1, "until": "2024-01-01T00:00:00Z",
            "has-dash": "x1", "items": [{"id": "a", "n": 1}, {"id": "b", "n": 5}]}});
        assert_eq!(judged(&version, &fine, None), Vec::<String>::new());
        let rows = [
            ("crew", json!(7), "spec: Invalid value: \"object\": crew 7 over 5"),
            (
                "ratio",
                json!(1.5),
                "spec: Invalid value: \"object\": failed rule: !has(self.ratio) || self.ratio * 2.0 <= 2.0",
            ),
            ("until", json!("2019-01-01T00:00:00Z"), "spec: Invalid value: \"object\": too early"),
            ("has-dash", json!("y"), "spec: Invalid value: \"object\": dash"),
        ];
        for (field, value, text) in rows {
            let mut object = fine.clone();
            object["spec"][field] = value;
            assert_eq!(judged(&version, &object, None), [text]);
        }
        let mut less = fine.clone();
        less["spec"]["crew"] = 2.into();
        assert_eq!(judged(&version, &less, Some(&fine)), ["spec.crew: Forbidden: nobody leaves"]);
        let mut swapped = fine.clone();
        swapped["spec"]["items"] = json!([{"id": "b", "n": 4}, {"id": "a", "n": 2}]);
        assert_eq!(
            judged(&version, &swapped, Some(&fine)),
            ["spec.items[0].n: Invalid value: \"integer\": may only grow"]
        );
        // What was wrong before and did not change may stay.
        let mut bad = fine.clone();
        bad["spec"]["has-dash"] = "y".into();
        assert_eq!(judged(&version, &bad, Some(&bad)), Vec::<String>::new());
    }

    #[test]
    fn rules_that_cannot_work_are_refused_with_the_definition() {
        let rows = [
            ("self.crew > ", "Syntax error"),
            ("foo == 1", "undeclared reference to 'foo'"),
            ("self.crewe > 1", "undefined field 'crewe'"),
            ("self.tags.t == '1' && self.extra.a == 1 && self.crew > 0", ""),
        ];
        for (rule, text) in rows {
            let mut made = definition();
            default_definition(&mut made);
            let schema = &mut made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            schema["x-kubernetes-validations"] = json!([{"rule": rule}]);
            let mut faults = Faults::default();
            validate_definition(&made, &mut faults);
            let texts: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
            match text {
                "" => assert_eq!(texts, Vec::<String>::new()),
                text => assert!(texts.len() == 1 && texts[0].contains(text), "{rule}: {texts:?}"),
            }
        }
    }
}
