//! A half-open interval of keys.

use bytes::Bytes;
use std::ops::Bound;

/// Keys from `start` up to, not including, `end`; without an end, all keys from `start` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

impl Span {
    /// Exactly this key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = Vec::with_capacity(start.len() + 1);
        end.extend_from_slice(&start);
        end.push(0);
        Self { start, end: Some(end.into()) }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self { start, end: Some(end.into()) };
            }
        }
        Self { start, end: None }
    }

    pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    pub fn all() -> Self {
        Self { start: Bytes::new(), end: None }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// The same span without the keys before `start`, to read on after a page.
    pub fn starting_at(&self, start: impl Into<Bytes>) -> Self {
        let start = start.into();
        Self { start: if start > self.start { start } else { self.start.clone() }, end: self.end.clone() }
    }

    /// No key can lie in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    pub(crate) fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        let end = self.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.start.clone()), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_sibling() {
        let rows: &[(&[u8], &[u8], bool)] = &[
            (b"/a/", b"/a/b", true),
            (b"/a/", b"/a/", true),
            (b"/a/", b"/a0", false),
            (b"/a/", b"/b", false),
            (b"\xff\xff", b"\xff\xff\x01", true),
            (b"\xff\xff", b"\xff\xfe", false),
            (b"", b"x", true),
        ];
        for (prefix, key, inside) in rows {
            assert_eq!(Span::prefix(Bytes::copy_from_slice(prefix)).contains(key), *inside, "{prefix:?} {key:?}");
        }
    }

    #[test]
    fn a_key_span_holds_that_key_only() {
        let span = Span::key("a");
        assert!(span.contains(b"a") && !span.contains(b"a\0") && !span.contains(b"b") && !span.contains(b""));
    }
}
