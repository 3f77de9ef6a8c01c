//! What commands print of objects: the server's tables laid out as kubectl does, JSON, YAML, names, templates. Pure.

use serde_json::{Value, json};

use super::jsonpath::{JsonPath, shown};
use crate::failure::Failure;
use crate::flags::{Flag, Matches, switch, text};
use crate::show;

pub const FLAGS: &[Flag] = &[
    text("output", "Format: wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=HEADING:PATH,...").short('o'),
    switch("no-headers", "Print no heading line"),
    switch("show-labels", "Print all labels in the last column"),
];

/// How a command's answer is printed.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Table {
        wide: bool,
    },
    Json,
    Yaml,
    Name,
    JsonPath(JsonPath),
    /// Heading and path of each column.
    Columns(Vec<(String, JsonPath)>),
}

impl Output {
    pub fn of(matches: &Matches) -> Result<Self, Failure> {
        Self::parse(matches.text("output").unwrap_or_default())
            .map_err(|problem| Failure::new(format!("error: {problem}")))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').unwrap_or((text, ""));
        Ok(match name {
            "" => Output::Table { wide: false },
            "wide" => Output::Table { wide: true },
            "json" => Output::Json,
            "yaml" => Output::Yaml,
            "name" => Output::Name,
            "jsonpath" if !rest.is_empty() => Output::JsonPath(JsonPath::parse(rest)?),
            "custom-columns" if !rest.is_empty() => {
                let columns = rest.split(',').map(|column| {
                    let (heading, path) = column.split_once(':').ok_or_else(|| {
                        format!("unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>")
                    })?;
                    Ok::<_, String>((heading.to_owned(), JsonPath::parse(path)?))
                });
                Output::Columns(columns.collect::<Result<_, _>>()?)
            }
            _ => {
                return Err(format!(
                    "unable to match a printer suitable for the output format {text:?}, allowed formats are: \
                     custom-columns,json,jsonpath,name,wide,yaml"
                ));
            }
        })
    }

    /// Prints objects; `single` is one that was asked for by its name. Not for tables.
    pub fn objects(&self, objects: &[Value], single: bool) -> String {
        let whole = || match (single, objects) {
            (true, [only]) => only.clone(),
            _ => json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}}),
        };
        match self {
            Output::Json => show::indented(&without_managers(whole())) + "\n",
            Output::Yaml => resources::yaml::to_yaml(&without_managers(whole())),
            Output::JsonPath(path) => path.render(&whole()),
            Output::Name => objects.iter().map(|object| name(object) + "\n").collect(),
            Output::Columns(columns) => {
                let heading: Vec<String> = columns.iter().map(|(heading, _)| heading.clone()).collect();
                let row = |object: &Value| {
                    let cells = columns.iter().map(|(_, path)| match path.find(object).as_slice() {
                        [] => "<none>".to_owned(),
                        found => found.iter().map(|value| shown(value)).collect::<Vec<_>>().join(","),
                    });
                    cells.collect::<Vec<_>>().join("\t")
                };
                let lines: Vec<String> = std::iter::once(heading.join("\t")).chain(objects.iter().map(row)).collect();
                align(&lines)
            }
            Output::Table { .. } => String::new(),
        }
    }
}

/// Who set which field is for machines: kubectl hides it as well.
fn without_managers(mut value: Value) -> Value {
    let strip = |object: &mut Value| {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    };
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(strip);
    }
    if value["metadata"].is_object() {
        strip(&mut value);
    }
    value
}

/// `deployment.apps/web`.
pub fn name(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let group =
        object["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if group.is_empty() { format!("{kind}/{name}") } else { format!("{kind}.{group}/{name}") }
}

pub fn align(lines: &[String]) -> String {
    show::align_with(lines, 6, 3)
}

/// What of a server's table is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableStyle<'a> {
    pub wide: bool,
    pub namespaces: bool,
    pub labels: bool,
    /// In front of each name, where several kinds are shown: `pod`.
    pub prefix: Option<&'a str>,
    pub no_headers: bool,
}

/// The lines of a server's table, cells apart by tabs; the first is the heading unless there is none.
pub fn table_lines(table: &Value, style: TableStyle<'_>) -> Vec<String> {
    let columns = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let visible: Vec<usize> =
        (0..columns.len()).filter(|at| style.wide || columns[*at]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let mut lines = Vec::new();
    if !style.no_headers {
        let mut heading: Vec<String> = Vec::new();
        if style.namespaces {
            heading.push("NAMESPACE".into());
        }
        heading.extend(visible.iter().map(|at| columns[*at]["name"].as_str().unwrap_or_default().to_uppercase()));
        if style.labels {
            heading.push("LABELS".into());
        }
        lines.push(heading.join("\t"));
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let metadata = &row["object"]["metadata"];
        let mut cells: Vec<String> = Vec::new();
        if style.namespaces {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for at in &visible {
            let cell = match &row["cells"][*at] {
                Value::Null => "<none>".to_owned(),
                other => shown(other),
            };
            let prefix = style.prefix.filter(|_| *at == 0).map(|prefix| format!("{prefix}/")).unwrap_or_default();
            // A cell is one line: what an object says must not break the table.
            cells.push(format!("{prefix}{}", cell.replace(['\n', '\t', '\r'], " ")));
        }
        if style.labels {
            cells.push(labels(metadata));
        }
        lines.push(cells.join("\t"));
    }
    lines
}

fn labels(metadata: &Value) -> String {
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let words: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if words.is_empty() { "<none>".into() } else { words.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "managedFields": [1]}})
    }

    #[test]
    fn objects_print_in_every_format() {
        let print = |format: &str, objects: &[Value], single| Output::parse(format).unwrap().objects(objects, single);
        let (one, two) = ([pod("a")], [pod("a"), pod("b")]);
        assert_eq!(print("name", &two, false), "pod/a\npod/b\n");
        assert_eq!(print("yaml", &one, true), "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n");
        assert_eq!(print("jsonpath={.metadata.name}", &one, true), "a");
        assert_eq!(print("jsonpath={.items[*].metadata.name}", &two, false), "a b");
        assert_eq!(print("custom-columns=NAME:.metadata.name,X:.spec.x", &one, false), "NAME   X\na      <none>\n");
        assert!(!print("json", &one, true).contains("managedFields"));
        assert!(Output::parse("xml").unwrap_err().contains("unable to match a printer"));
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"}});
        assert_eq!(name(&deployment), "deployment.apps/w");
    }

    #[test]
    fn tables_show_what_the_style_asks_for() {
        let table = json!({"columnDefinitions": [{"name": "Name"}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "d", "labels": {"x": "y"}}}}]});
        let lines = |style: TableStyle<'_>| table_lines(&table, style);
        assert_eq!(lines(TableStyle::default()), ["NAME\tREADY", "a\t1/1"]);
        let all = TableStyle { wide: true, namespaces: true, labels: true, prefix: Some("pod"), no_headers: false };
        assert_eq!(lines(all), ["NAMESPACE\tNAME\tREADY\tIP\tLABELS", "d\tpod/a\t1/1\t10.0.0.1\tx=y"]);
        assert_eq!(align(&lines(TableStyle::default())), "NAME   READY\na      1/1\n");
    }
}
