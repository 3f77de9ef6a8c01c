//! Names of repositories and tags, as the distribution specification allows them. Pure.

use std::fmt;

use vocab::Reference;

/// A host that no reference has, so that a repository's name can be checked by the one grammar there is.
const NO_HOST: &str = "r.x";

/// A repository within one registry: `library/busybox`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

impl Repository {
    pub fn parse(text: &str) -> Option<Self> {
        let reference: Reference = format!("{NO_HOST}/{text}").parse().ok()?;
        (reference.path() == text && reference.tag().is_none() && reference.digest().is_none())
            .then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn is_tag(text: &str) -> bool {
    let any: Result<Reference, _> = format!("{NO_HOST}/x").parse();
    any.is_ok_and(|any| any.with_tag(text).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        let long = "a".repeat(240);
        for good in ["a", "library/busybox", "a/b/c", "a__b/c-d.e", "uploads/blobs", "0", &long] {
            assert_eq!(Repository::parse(good).map(|name| name.to_string()), Some(good.to_owned()));
        }
        let too_long = "a".repeat(256);
        for bad in
            ["", "/", "a/", "/a", "A", "a//b", "a:b", "a@b", "../a", "a/..", "_a", "a_", "a b", "a\n", "ä", &too_long]
        {
            assert_eq!(Repository::parse(bad), None, "{bad:?}");
        }
        for (tag, good) in
            [("latest", true), ("A_b.c-1", true), ("", false), (".a", false), ("a/b", false), ("a:b", false)]
        {
            assert_eq!(is_tag(tag), good, "{tag:?}");
        }
        assert!(is_tag(&"a".repeat(128)) && !is_tag(&"a".repeat(129)));
    }
}
