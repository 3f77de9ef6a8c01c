//! Lint rules as a client shows them.

use build::syntax::Warning;

use crate::errors::Place;
use crate::wire::control::VertexWarning;
use crate::wire::pb::{Position, Range};

/// Where a rule is explained: its name in BuildKit's documentation.
fn url(rule: &str) -> String {
    let mut path = String::new();
    for (at, c) in rule.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            path.push('-');
        }
        path.push(c.to_ascii_lowercase());
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{path}/")
}

pub(crate) fn of(warning: &Warning, place: &Place, vertex: &str) -> VertexWarning {
    let at = Some(Position { line: warning.line as i32, character: 0 });
    VertexWarning {
        vertex: vertex.to_owned(),
        level: 1,
        short: format!("{}: {} (line {})", warning.rule, warning.message, warning.line).into_bytes(),
        url: url(warning.rule),
        info: Some(place.info()),
        ranges: vec![Range { start: at, end: at }],
        ..VertexWarning::default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rules_are_explained_by_name() {
        assert_eq!(super::url("FromAsCasing"), "https://docs.docker.com/go/dockerfile/rule/from-as-casing/");
    }
}
