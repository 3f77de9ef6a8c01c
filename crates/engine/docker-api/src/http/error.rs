//! What a refused request looks like on the wire: a status and `{"message": …}`, as Docker's clients expect it.

use http::StatusCode;
use vocab::ErrorKind;

/// A refusal. The text is what the user reads after `Error response from daemon: `.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400: the request itself is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404 with Docker's text for a path or method that no route answers.
    pub(crate) fn page_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "page not found")
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 501: a route or an option that Docker has and this engine does not.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Joins an error and its causes into one line, as Go's wrapped errors read: `what: why: why`.
    pub(crate) fn of_kind(kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        Self::new(status_of(kind), chain(error))
    }
}

impl From<engine::Error> for ApiError {
    fn from(error: engine::Error) -> Self {
        if let engine::Error::Unauthorized(_) = &error {
            return Self::new(StatusCode::UNAUTHORIZED, chain(&error));
        }
        Self::of_kind(error.kind(), &error)
    }
}

/// Docker's status for each kind of error (its `errdefs` interfaces; 304 has no body).
pub(crate) const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Expired => StatusCode::GONE,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // A full disk is the machine's fault, not the caller's: Docker answers 500 and clients retry on it.
        ErrorKind::Exhausted | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The error's text followed by the texts of its causes, leaving out a cause whose text the one above already carries.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("start container {id}")]
    struct Start {
        id: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn an_error_reads_with_its_causes() {
        let error = Start { id: "web", source: std::io::Error::other("disk on fire") };
        assert_eq!(chain(&error), "start container web: disk on fire");
    }

    #[test]
    fn a_cause_already_told_is_not_told_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("start: {source}")]
        struct Told {
            source: std::io::Error,
        }
        assert_eq!(chain(&Told { source: std::io::Error::other("no") }), "start: no");
    }
}
