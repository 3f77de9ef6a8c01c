//! Which version of Docker's API a request speaks. Clients put it first in the path (`/v1.47/…`); a path without
//! one speaks the newest.

use std::fmt;

use super::error::{ApiError, ApiResult};

/// A version `1.NN`. Only the minor number ever moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(pub(crate) u16);

pub(crate) const OLDEST: ApiVersion = ApiVersion(40);
pub(crate) const NEWEST: ApiVersion = ApiVersion(51);

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// Splits a path into the version it asks for and the rest, which starts with `/`.
pub(crate) fn split(path: &str) -> ApiResult<(ApiVersion, &str)> {
    let Some((text, rest)) = path.strip_prefix("/v").and_then(|tail| tail.find('/').map(|at| tail.split_at(at))) else {
        return Ok((NEWEST, path));
    };
    // `/volumes` also starts with `/v`: a version is digits and dots alone.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok((NEWEST, path));
    }
    let numbers = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor): (u16, u16) =
        numbers.ok_or_else(|| ApiError::invalid(format!("invalid API version {text:?}: expected 1.<number>")))?;
    let wanted = (major, minor);
    if wanted < (1, OLDEST.0) {
        let text = format!(
            "client version {text} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
        );
        return Err(ApiError::invalid(text));
    }
    if wanted > (1, NEWEST.0) {
        return Err(ApiError::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    Ok((ApiVersion(minor), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_its_version() {
        for (path, version, rest) in [
            ("/_ping", 51, "/_ping"),
            ("/v1.40/info", 40, "/info"),
            ("/v1.51/containers/x/json", 51, "/containers/x/json"),
            ("/volumes", 51, "/volumes"),
            ("/volumes/x", 51, "/volumes/x"),
            ("/v/x", 51, "/v/x"),
            ("/", 51, "/"),
        ] {
            assert_eq!(split(path), Ok((ApiVersion(version), rest)), "{path}");
        }
    }

    #[test]
    fn versions_outside_the_range_are_refused_with_dockers_text() {
        let text = |path| split(path).unwrap_err().message;
        assert_eq!(
            text("/v1.24/info"),
            "client version 1.24 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version"
        );
        assert_eq!(text("/v1.52/info"), "client version 1.52 is too new. Maximum supported API version is 1.51");
        assert_eq!(text("/v2.0/info"), "client version 2.0 is too new. Maximum supported API version is 1.51");
        assert!(text("/v1/info").contains("invalid API version"));
        assert!(text("/v1.99999999/info").contains("invalid API version"));
    }
}
