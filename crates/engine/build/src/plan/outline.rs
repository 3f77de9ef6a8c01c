//! What a file offers, instead of a build: the arguments, secrets and the like of a target, its targets, and what is wrong with
//! it. As values that serialize to BuildKit's documents, and as the text that buildx prints.

use serde::Serialize;

use crate::syntax::{Dockerfile, Span, Warning, lint};

/// What a target takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outline {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Wanted>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Wanted>,
    #[serde(rename = "cache", skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineArg {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    pub location: Location,
}

/// A secret, or a socket of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wanted {
    pub name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    pub location: Location,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheId {
    #[serde(rename = "ID")]
    pub id: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Location {
    pub ranges: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Range {
    pub start: Position,
    pub end: Position,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    pub line: usize,
}

impl Location {
    pub fn of(span: Span) -> Self {
        let (start, end) = (Position { line: span.first }, Position { line: span.last });
        Self { ranges: vec![Range { start, end }] }
    }
}

impl Outline {
    pub(super) fn arg(&mut self, arg: OutlineArg) {
        match self.args.iter_mut().find(|known| known.name == arg.name) {
            // The first place that describes it, the last value it got.
            Some(known) => {
                known.value = arg.value.or(known.value.take());
                if known.description.is_empty() {
                    known.description = arg.description;
                }
            }
            None => self.args.push(arg),
        }
    }

    pub(super) fn want(list: &mut Vec<Wanted>, name: &str, required: bool, span: Span) {
        match list.iter_mut().find(|known| known.name == name) {
            Some(known) => known.required |= required,
            None => list.push(Wanted { name: name.to_owned(), required, location: Location::of(span) }),
        }
    }

    /// As buildx prints it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if !self.name.is_empty() || !self.description.is_empty() {
            out.push_str(&table(&[
                vec!["TARGET:".into(), self.name.clone()],
                vec!["DESCRIPTION:".into(), self.description.clone()],
            ]));
            out.push('\n');
        }
        let mut section = |rows: Vec<Vec<String>>| {
            if rows.len() > 1 {
                out.push_str(&table(&rows));
                out.push('\n');
            }
        };
        let mut rows = vec![vec!["BUILD ARG".into(), "VALUE".into(), "DESCRIPTION".into()]];
        rows.extend(
            self.args
                .iter()
                .map(|arg| vec![arg.name.clone(), arg.value.clone().unwrap_or_default(), arg.description.clone()]),
        );
        section(rows);
        for (title, list) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            let mut rows = vec![vec![title.to_owned(), "REQUIRED".into()]];
            rows.extend(list.iter().map(|w| vec![w.name.clone(), if w.required { "true" } else { "" }.into()]));
            section(rows);
        }
        out
    }
}

/// One stage as something to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetFacts {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    pub location: Location,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    pub targets: Vec<TargetFacts>,
}

impl Targets {
    pub fn of(file: &Dockerfile) -> Self {
        let last = file.stages.len() - 1;
        let facts = file.stages.iter().enumerate().map(|(at, stage)| TargetFacts {
            name: stage.name.clone().unwrap_or_default(),
            default: at == last,
            description: stage.description.clone(),
            base: stage.base.clone(),
            platform: stage.platform.clone().unwrap_or_default(),
            location: Location::of(stage.span),
        });
        Self { targets: facts.collect() }
    }

    /// As buildx prints it.
    pub fn text(&self) -> String {
        let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
        rows.extend(self.targets.iter().filter(|t| t.default || !t.name.is_empty()).map(|target| {
            let name = match (target.name.as_str(), target.default) {
                ("", _) => "(default)".to_owned(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            };
            vec![name, target.description.clone()]
        }));
        table(&rows)
    }
}

/// The warnings as BuildKit's document, of the file that has this text.
pub fn warnings_json(warnings: &[Warning], file: &str, text: &str) -> serde_json::Value {
    use base64::Engine;
    let list: Vec<_> = warnings
        .iter()
        .map(|warning| {
            let rule = lint::rule_named(warning.rule);
            serde_json::json!({
                "ruleName": warning.rule,
                "description": rule.map(|rule| rule.description),
                "url": rule.map(lint::Rule::url),
                "detail": warning.message,
                "location": Location::of(Span { first: warning.line, last: warning.line }),
            })
        })
        .collect();
    let data = base64::engine::general_purpose::STANDARD.encode(text);
    serde_json::json!({ "warnings": list, "sources": [{ "filename": file, "language": "Dockerfile", "data": data }] })
}

/// The warnings as buildx prints them.
pub fn warnings_text(warnings: &[Warning], file: &str, text: &str) -> String {
    let mut out = match warnings.len() {
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in warnings {
        let url = lint::rule_named(warning.rule).map(lint::Rule::url).filter(|url| !url.is_empty());
        let url = url.map(|url| format!(" - {url}")).unwrap_or_default();
        let span = Span { first: warning.line, last: warning.line };
        out.push_str(&format!("\nWARNING: {}{url}\n{}\n", warning.rule, warning.message));
        out.push_str(&crate::excerpt(file, text, span));
    }
    out
}

/// Columns as wide as their widest cell, four blanks apart.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}    "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
