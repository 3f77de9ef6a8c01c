//! What can go wrong with a build.

use vocab::ErrorKind;

use crate::copy::CopyError;
use crate::plan::PlanError;
use crate::syntax::Span;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A step failed.
    #[error("{message}")]
    Step { span: Span, name: String, message: String, exit_code: Option<i32>, command: String },
    #[error("{0}")]
    Invalid(String),
    #[error("build cancelled")]
    Cancelled,
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Kernel(#[from] linux::Error),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// The same failure, seen by a step that needed the one that failed.
    #[error("{0}")]
    Shared(std::sync::Arc<BuildError>),
}

pub type Result<T> = std::result::Result<T, BuildError>;

impl BuildError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Plan(_) | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Step { .. } | Self::Cancelled => ErrorKind::Internal,
            Self::Engine(error) => error.kind(),
            Self::Image(error) => error.kind(),
            Self::Db(error) => error.kind(),
            Self::Kernel(_) | Self::Io { .. } => ErrorKind::Internal,
            Self::Shared(error) => error.kind(),
        }
    }

    /// The failure itself, whoever saw it.
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(error) => error.root(),
            other => other,
        }
    }

    /// Where in the text, 1-based lines.
    pub fn span(&self) -> Option<Span> {
        match self.root() {
            Self::Plan(error) => error.line().map(|line| Span { first: line, last: line }),
            Self::Step { span, .. } => Some(*span),
            _ => None,
        }
    }
}

impl From<CopyError> for BuildError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Image(error) => Self::Image(error),
            other => Self::Invalid(other.to_string()),
        }
    }
}

/// The lines of `text` around `span`, with the broken ones marked, as BuildKit shows them.
pub fn excerpt(file: &str, text: &str, span: Span) -> String {
    const AROUND: usize = 2;
    let lines: Vec<&str> = text.lines().collect();
    let first = span.first.saturating_sub(AROUND).max(1);
    let last = (span.last + AROUND).min(lines.len());
    let mut out = format!("{file}:{}\n--------------------\n", span.first);
    for number in first..=last {
        let mark = if (span.first..=span.last).contains(&number) { ">>>" } else { "   " };
        let line = format!("{number:4} | {mark} {}", lines.get(number - 1).copied().unwrap_or_default());
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push_str("--------------------\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broken_lines_are_marked() {
        let text = "FROM a\nRUN b\nRUN false\nRUN c\nRUN d\nRUN e\n";
        expect_test::expect![[r#"
            Dockerfile:3
            --------------------
               1 |     FROM a
               2 |     RUN b
               3 | >>> RUN false
               4 |     RUN c
               5 |     RUN d
            --------------------
        "#]]
        .assert_eq(&excerpt("Dockerfile", text, Span { first: 3, last: 3 }));
    }
}
