//! `explain`: what fields an object has, from the server's own schemas.

use serde_json::Value;

use super::super::{Command, Context, out};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, switch};
use crate::kube::{self, Cluster};

pub(crate) static EXPLAIN: Command = Command {
    name: "explain",
    usage: "KIND[.FIELD...] [OPTIONS]",
    about: "Explain the fields of a kind",
    examples: "  knarr explain pods
  knarr explain deploy.spec.strategy
  knarr explain pods.spec.containers --recursive",
    flags: &[kube::FLAGS, &[switch("recursive", "The fields of fields as well")]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let cluster = Cluster::open(context.settings(), matches)?;
    let mut words = matches.arguments[0].split('.');
    let resource = cluster.catalog.named(words.next().unwrap_or_default())?;
    let fields: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let path = match resource.group.as_str() {
        "" => format!("/openapi/v3/api/{}", resource.version),
        group => format!("/openapi/v3/apis/{group}/{}", resource.version),
    };
    let document = cluster.api.get(&path)?;
    let schemas = document["components"]["schemas"].as_object();
    let root = schemas.into_iter().flatten().map(|(_, schema)| schema).find(|schema| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|kind| {
            let text = |field: &str| kind[field].as_str().unwrap_or_default();
            text("kind") == resource.kind && text("version") == resource.version && text("group") == resource.group
        })
    });
    let root =
        root.ok_or_else(|| Failure::new(format!("error: the server publishes no schema of {}", resource.kind)))?;
    let mut text = String::new();
    if !resource.group.is_empty() {
        text.push_str(&format!("GROUP:      {}\n", resource.group));
    }
    text.push_str(&format!("KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version));
    text.push_str(
        &explain(&document, root, &fields, matches.is("recursive"))
            .map_err(|problem| Failure::new(format!("error: {problem}")))?,
    );
    out(&text)?;
    Ok(0)
}

/// Follows references and what merely wraps one.
fn resolve<'a>(document: &'a Value, mut schema: &'a Value) -> &'a Value {
    // A schema that refers to itself must not hold us for ever.
    for _ in 0..16 {
        let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        let Some(name) = reference.and_then(|text| text.rsplit('/').next()) else { break };
        schema = &document["components"]["schemas"][name];
    }
    schema
}

/// The schema of what a field holds, through lists and maps.
fn inner<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let schema = resolve(document, schema);
    match schema["type"].as_str() {
        Some("array") => inner(document, &schema["items"]),
        Some("object") if schema["additionalProperties"].is_object() => {
            inner(document, &schema["additionalProperties"])
        }
        _ => schema,
    }
}

/// `string`, `[]Container`, `map[string]string`.
fn type_name(document: &Value, schema: &Value) -> String {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|text| text.rsplit('/').next()) {
        let resolved = resolve(document, schema);
        return match resolved["properties"].is_object() || resolved["type"].is_null() || resolved["type"] == "object" {
            true => name.rsplit('.').next().unwrap_or(name).to_owned(),
            false => type_name(document, resolved),
        };
    }
    match schema["type"].as_str() {
        Some("array") => format!("[]{}", type_name(document, &schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map[string]{}", type_name(document, &schema["additionalProperties"]))
        }
        Some("object") => "Object".into(),
        Some(other) => other.to_owned(),
        None => "IntOrString".into(),
    }
}

/// Pure.
fn explain(document: &Value, root: &Value, fields: &[&str], recursive: bool) -> Result<String, String> {
    let mut schema = root;
    let mut text = String::new();
    for (at, field) in fields.iter().enumerate() {
        let owner = inner(document, schema);
        schema = &owner["properties"][*field];
        if schema.is_null() {
            return Err(format!("field {field:?} does not exist"));
        }
        if at + 1 == fields.len() {
            text.push_str(&format!("FIELD: {field} <{}>\n\n", type_name(document, schema)));
        }
    }
    let target = inner(document, schema);
    let description = [&schema["description"], &target["description"]].into_iter().find_map(Value::as_str);
    text.push_str("DESCRIPTION:\n");
    wrapped(description.unwrap_or("<empty>"), 4, &mut text);
    if target["properties"].is_object() {
        text.push_str("\nFIELDS:\n");
        list(document, target, 2, recursive, &mut Vec::new(), &mut text);
    }
    Ok(text)
}

fn list(document: &Value, schema: &Value, indent: usize, recursive: bool, path: &mut Vec<String>, text: &mut String) {
    let required = schema["required"].as_array();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let needed = required.is_some_and(|required| required.iter().any(|known| known == name));
        let kind = type_name(document, field);
        text.push_str(&format!("{:indent$}{name}\t<{kind}>{}\n", "", if needed { " -required-" } else { "" }));
        if recursive {
            let target = inner(document, field);
            // Kinds that hold themselves, such as schemas of definitions, are opened once.
            if target["properties"].is_object() && !path.contains(&kind) {
                path.push(kind);
                list(document, target, indent + 2, true, path, text);
                path.pop();
            }
        } else if let Some(description) = field["description"].as_str() {
            wrapped(description, indent + 2, text);
            text.push('\n');
        }
    }
}

fn wrapped(description: &str, indent: usize, text: &mut String) {
    for paragraph in description.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent + line.len() + 1 + word.len() > 80 {
                text.push_str(&format!("{:indent$}{line}\n", ""));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        text.push_str(&format!("{:indent$}{line}\n", ""));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_explained_through_references() {
        let document = json!({"components": {"schemas": {
            "io.x.v1.Pod": {"type": "object", "description": "A pod.", "properties": {
                "spec": {"allOf": [{"$ref": "#/components/schemas/io.x.v1.PodSpec"}], "description": "What is wanted."}}},
            "io.x.v1.PodSpec": {"type": "object", "required": ["containers"], "properties": {
                "containers": {"type": "array", "items": {"$ref": "#/components/schemas/io.x.v1.Container"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "io.x.v1.Container": {"type": "object", "properties": {"name": {"type": "string", "description": "Its name."}}}}}});
        let root = &document["components"]["schemas"]["io.x.v1.Pod"];
        assert_eq!(
            explain(&document, root, &["spec"], false).unwrap(),
            "FIELD: spec <PodSpec>\n\nDESCRIPTION:\n    What is wanted.\n\nFIELDS:\n  containers\t<[]Container> -required-\n  labels\t<map[string]string>\n"
        );
        assert!(
            explain(&document, root, &["spec", "containers"], false)
                .unwrap()
                .ends_with("FIELDS:\n  name\t<string>\n    Its name.\n\n")
        );
        assert!(
            explain(&document, root, &[], true)
                .unwrap()
                .contains("    containers\t<[]Container> -required-\n      name\t<string>\n")
        );
        assert_eq!(explain(&document, root, &["x"], false).unwrap_err(), "field \"x\" does not exist");
    }
}
