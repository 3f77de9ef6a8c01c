//! What a path means. Read from its end, because a repository may be called `a/blobs/b`. Pure.

use vocab::{Digest, DigestError};

use super::error::{Code, Outcome, Refusal};
use crate::names::{Repository, is_tag};
use crate::query;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Catalog,
    Token,
    Tags(Repository),
    Manifest(Repository, Name),
    Blob(Repository, Digest),
    Uploads(Repository),
    Upload(Repository, String),
    Referrers(Repository, Digest),
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Tag(String),
    Digest(Digest),
}

pub(crate) fn parse(path: &str) -> Outcome<Route> {
    let not_found = || Refusal::with(Code::NameUnknown, "no such path").status(http::StatusCode::NOT_FOUND);
    if path == "/token" {
        return Ok(Route::Token);
    }
    let rest = path.strip_prefix("/v2").ok_or_else(not_found)?;
    if rest.is_empty() || rest == "/" {
        return Ok(Route::Base);
    }
    let rest = query::decode(rest.strip_prefix('/').ok_or_else(not_found)?, false).ok_or_else(not_found)?;
    if rest == "_catalog" {
        return Ok(Route::Catalog);
    }
    let parts: Vec<&str> = rest.split('/').collect();
    let repository = |parts: &[&str]| {
        let name = parts.join("/");
        Repository::parse(&name)
            .ok_or_else(|| Refusal::with(Code::NameInvalid, name.chars().take(300).collect::<String>()))
    };
    match parts.as_slice() {
        [name @ .., "tags", "list"] => Ok(Route::Tags(repository(name)?)),
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => Ok(Route::Uploads(repository(name)?)),
        [name @ .., "blobs", "uploads", id] => Ok(Route::Upload(repository(name)?, (*id).to_owned())),
        [name @ .., "blobs", digest] => Ok(Route::Blob(repository(name)?, parse_digest(digest)?)),
        [name @ .., "referrers", digest] => Ok(Route::Referrers(repository(name)?, parse_digest(digest)?)),
        [name @ .., "manifests", reference] => {
            let name = repository(name)?;
            if reference.contains(':') {
                return Ok(Route::Manifest(name, Name::Digest(parse_digest(reference)?)));
            }
            if !is_tag(reference) {
                return Err(Refusal::with(Code::TagInvalid, *reference));
            }
            Ok(Route::Manifest(name, Name::Tag((*reference).to_owned())))
        }
        _ => Err(not_found()),
    }
}

pub(crate) fn parse_digest(text: &str) -> Outcome<Digest> {
    text.parse().map_err(|error: DigestError| Refusal::with(Code::DigestInvalid, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = format!("sha256:{}", "00".repeat(32));
        let parsed: Digest = digest.parse().unwrap();
        let name = |text: &str| Repository::parse(text).unwrap();
        for (path, route) in [
            ("/v2/".to_owned(), Route::Base),
            ("/v2".to_owned(), Route::Base),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            ("/v2/a/b/tags/list".to_owned(), Route::Tags(name("a/b"))),
            ("/v2/tags/tags/list".to_owned(), Route::Tags(name("tags"))),
            ("/v2/a/manifests/latest".to_owned(), Route::Manifest(name("a"), Name::Tag("latest".into()))),
            (format!("/v2/a/manifests/{digest}"), Route::Manifest(name("a"), Name::Digest(parsed))),
            (format!("/v2/a/blobs/b/blobs/{digest}"), Route::Blob(name("a/blobs/b"), parsed)),
            (format!("/v2/a/blobs/{}", digest.replace(':', "%3A")), Route::Blob(name("a"), parsed)),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/x-1".to_owned(), Route::Upload(name("a"), "x-1".into())),
            (format!("/v2/a/referrers/{digest}"), Route::Referrers(name("a"), parsed)),
        ] {
            assert_eq!(parse(&path).unwrap(), route, "{path}");
        }
        for (path, status) in [
            ("/", 404),
            ("/v1/", 404),
            ("/v2/a", 404),
            ("/v2/A/tags/list", 400),
            ("/v2/../tags/list", 400),
            ("/v2/a/%2e%2e/tags/list", 400),
            ("/v2//tags/list", 400),
            ("/v2/a/manifests/.x", 400),
            ("/v2/a/blobs/sha256:xyz", 400),
            ("/v2/a/blobs/md5:00", 400),
            ("/v2/a/%ff/tags/list", 404),
        ] {
            assert_eq!(parse(path).unwrap_err().status, status, "{path}");
        }
    }
}
