//! Manifests: files, folders and standard input as a list of objects.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;
use crate::flags::{Flag, list, switch};

pub const FLAGS: &[Flag] = &[
    list("filename", "File or folder of manifests, YAML or JSON; - is standard input").short('f'),
    switch("recursive", "Look into the folders of a folder as well").short('R'),
];

/// Every object of the named places, in order.
pub fn objects(names: &[String], recursive: bool) -> Result<Vec<Value>, Failure> {
    let mut found = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            read("STDIN", &text, &mut found)?;
            continue;
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(Failure::new(format!("error: the path {} does not exist", crate::text::quoted(name))));
        }
        for file in files(path, recursive)? {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| Failure::new(format!("error: read {}: {error}", file.display())))?;
            read(&file.display().to_string(), &text, &mut found)?;
        }
    }
    match found.is_empty() {
        true => Err("error: no objects passed to apply".into()),
        false => Ok(found),
    }
}

/// The manifests of a folder in the order of their names, or the file itself.
fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error: std::io::Error| Failure::new(format!("error: read {}: {error}", path.display()));
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let is_manifest =
            entry.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if entry.is_dir() {
            if recursive {
                found.extend(files(&entry, true)?);
            }
        } else if is_manifest {
            found.push(entry);
        }
    }
    Ok(found)
}

fn read(place: &str, text: &str, into: &mut Vec<Value>) -> Result<(), Failure> {
    let failed = |problem: String| Failure::new(format!("error: error parsing {place}: {problem}"));
    let documents: Vec<Value> = match text.trim_start().starts_with('{') {
        true => serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| failed(error.to_string()))?,
        false => serde_saphyr::from_multiple(text).map_err(|error| failed(error.to_string()))?,
    };
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let is_list =
            document["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && document["items"].is_array();
        let objects = match is_list {
            true => document["items"].as_array().cloned().unwrap_or_default(),
            false => vec![document],
        };
        for object in objects {
            for field in ["apiVersion", "kind"] {
                if object[field].as_str().unwrap_or_default().is_empty() {
                    return Err(Failure::new(format!("error: unable to decode {place}: object has no {field}")));
                }
            }
            into.push(object);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        read("x.yaml", text, &mut found).map_err(|failure| failure.message)?;
        Ok(found.iter().map(|object| object["kind"].as_str().unwrap_or_default().to_owned()).collect())
    }

    #[test]
    fn documents_lists_and_json_are_objects() {
        assert_eq!(kinds("apiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: B\n").unwrap(), ["A", "B"]);
        assert_eq!(kinds("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: A}]").unwrap(), ["A"]);
        assert_eq!(
            kinds("{\"apiVersion\":\"v1\",\"kind\":\"A\"}\n{\"apiVersion\":\"v1\",\"kind\":\"B\"}").unwrap(),
            ["A", "B"]
        );
        assert_eq!(kinds("kind: A").unwrap_err(), "error: unable to decode x.yaml: object has no apiVersion");
        assert!(kinds("a: [").unwrap_err().starts_with("error: error parsing x.yaml: "));
    }
}
