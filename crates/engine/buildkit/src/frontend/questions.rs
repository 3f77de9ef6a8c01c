//! What is asked of a Dockerfile instead of building it (`--check`, `--call`), answered as a result's metadata.

use std::collections::HashMap;

use build::plan;
use serde_json::json;
use tonic::Status;

use super::Prepared;

/// Documents by name, as a result has them.
pub(crate) type Metadata = HashMap<String, bytes::Bytes>;

const VERSION: &str = "1.0.0";
const DESCRIBE: &str = "frontend.subrequests.describe";
const QUESTIONS: [(&str, &str); 4] = [
    ("frontend.lint", "Lint a Dockerfile"),
    ("frontend.outline", "List all parameters current build target supports"),
    ("frontend.targets", "List all targets current build supports"),
    (DESCRIBE, "List available subrequest types"),
];

/// Which questions there are, if that is the question.
pub(crate) fn describe(question: &str) -> Option<Metadata> {
    if question != DESCRIBE {
        return None;
    }
    let list: Vec<_> = QUESTIONS
        .iter()
        .map(|(name, description)| {
            json!({
                "name": name,
                "version": VERSION,
                "type": "rpc",
                "description": description,
                "metadata": [{ "name": "result.json" }, { "name": "result.txt" }],
            })
        })
        .collect();
    let lines = QUESTIONS.iter().map(|(name, description)| {
        format!("{:24}{VERSION:10}{description}\n", name.strip_prefix("frontend.").unwrap_or(name))
    });
    let text = format!("{:24}{:10}DESCRIPTION\n", "NAME", "VERSION") + &lines.collect::<String>();
    Some(metadata(json!(list).to_string(), text, None))
}

/// The answer to any other question.
pub(crate) fn answer(question: &str, prepared: &Prepared) -> Result<Metadata, Status> {
    let failed = |error: serde_json::Error| Status::internal(error.to_string());
    let (graph, place) = (&prepared.graph, &prepared.place);
    Ok(match question {
        "frontend.lint" => {
            let document = plan::warnings_json(&graph.warnings, &place.filename, &place.text);
            let text = plan::warnings_text(&graph.warnings, &place.filename, &place.text);
            metadata(document.to_string(), text, Some(u8::from(!graph.warnings.is_empty())))
        }
        "frontend.outline" => {
            metadata(serde_json::to_string(&graph.outline).map_err(failed)?, graph.outline.text(), None)
        }
        "frontend.targets" => {
            metadata(serde_json::to_string(&prepared.targets).map_err(failed)?, prepared.targets.text(), None)
        }
        other => return Err(Status::unimplemented(format!("unsupported request {other:?}"))),
    })
}

fn metadata(document: String, text: String, status: Option<u8>) -> Metadata {
    let mut all = Metadata::from([
        ("result.json".to_owned(), document.into()),
        ("result.txt".to_owned(), text.into()),
        ("version".to_owned(), VERSION.into()),
    ]);
    if let Some(status) = status {
        all.insert("result.statuscode".to_owned(), status.to_string().into());
    }
    all
}
