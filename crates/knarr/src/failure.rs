//! What a command ends with when it does not succeed: docker's words and docker's exit code.

use crate::text::printable;

/// The end of a command. An empty message says nothing and only sets the exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
    /// The HTTP status, if an engine's answer is the cause.
    pub status: Option<u16>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        // An error quotes names that others have chosen.
        Self { message: printable(&message.into()), code: 1, status: None }
    }

    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Ends with this exit code; what there was to say has been said.
    pub fn silent(code: u8) -> Self {
        Self { message: String::new(), code, status: None }
    }

    pub fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }
}

/// An error with its causes, none of them twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text += &format!(": {said}");
        }
        source = cause.source();
    }
    text
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure::new(message)
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        Failure::new(message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Whoever read our output has gone: not a fault worth a word, as every other command does.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Failure::silent(0)
        } else {
            Failure::new(error.to_string())
        }
    }
}
