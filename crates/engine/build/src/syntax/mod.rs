//! Text to syntax: lines, heredocs, words, instructions. Pure; nothing here knows what an instruction does.

mod args;
mod expand;
mod flags;
mod instruction;
mod lines;
pub mod lint;
mod parse;

pub use expand::{Expander, Expansion, Variables};
pub(crate) use flags::nearest;
pub(crate) use instruction::description;
pub use instruction::*;
pub use lines::{Directive, Directives, is_heredoc_word};
pub use parse::{parse, parse_trigger};

/// A mistake in the text, where it is and what is wrong, as BuildKit words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dockerfile parse error on line {line}: {message}")]
pub struct SyntaxError {
    /// 1-based.
    pub line: usize,
    pub message: String,
}

impl SyntaxError {
    pub(crate) fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// Lines of the text, 1-based and inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub first: usize,
    pub last: usize,
}

/// How far a text may go (BL-11): far above any real file, far below what hurts.
pub mod limits {
    /// Bytes of a Dockerfile.
    pub const TEXT_BYTES_MAX: usize = 4 << 20;
    /// Instructions in a file.
    pub const INSTRUCTIONS_MAX: usize = 10_000;
    /// Bytes of one word after its variables were replaced.
    pub const WORD_BYTES_MAX: usize = 1 << 20;
    /// `${a:-${b:-...}}`.
    pub const NESTING_MAX: usize = 64;
}
