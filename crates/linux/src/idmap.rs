//! Ids of a user namespace and what they are outside of it: plain values, no calls.

use serde::{Deserialize, Serialize};

/// What is shown for an id that a namespace does not have (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW: u32 = 65534;

/// One line of `uid_map` or `gid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdSpan {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// The maps of one user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    pub uid: Vec<IdSpan>,
    pub gid: Vec<IdSpan>,
}

impl IdSpan {
    /// Whether the two have an id of the outside in common.
    pub fn shares_outside(&self, other: &Self) -> bool {
        let end = |span: &Self| u64::from(span.outside) + u64::from(span.count);
        u64::from(self.outside) < end(other) && u64::from(other.outside) < end(self)
    }
}

/// The id outside, or `None` for one that the namespace does not have.
pub fn outside(spans: &[IdSpan], inside: u32) -> Option<u32> {
    let span = spans.iter().find(|span| inside.checked_sub(span.inside).is_some_and(|offset| offset < span.count))?;
    span.outside.checked_add(inside - span.inside)
}

/// The id inside, or `None` for one that the namespace does not have.
pub fn inside(spans: &[IdSpan], outside: u32) -> Option<u32> {
    let span = spans.iter().find(|span| outside.checked_sub(span.outside).is_some_and(|offset| offset < span.count))?;
    span.inside.checked_add(outside - span.outside)
}

/// As the kernel takes it in `uid_map`.
pub fn lines(spans: &[IdSpan]) -> String {
    spans.iter().map(|span| format!("{} {} {}\n", span.inside, span.outside, span.count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_through_the_span_that_has_them_and_back() {
        let spans = [
            IdSpan { inside: 0, outside: 100_000, count: 10 },
            IdSpan { inside: 10, outside: 5, count: 1 },
            IdSpan { inside: u32::MAX - 2, outside: 0, count: 3 },
        ];
        let rows = [
            (0, Some(100_000)),
            (9, Some(100_009)),
            (10, Some(5)),
            (11, None),
            (u32::MAX - 2, Some(0)),
            (u32::MAX, Some(2)),
            (u32::MAX - 3, None),
        ];
        for (id, wanted) in rows {
            assert_eq!(outside(&spans, id), wanted, "{id}");
            if let Some(there) = wanted {
                assert_eq!(inside(&spans, there), Some(id), "{there}");
            }
        }
        assert_eq!(inside(&spans, 100_010), None);
        assert_eq!(lines(&spans[..2]), "0 100000 10\n10 5 1\n");
        assert!(spans[0].shares_outside(&IdSpan { inside: 7, outside: 100_009, count: 1 }));
        assert!(!spans[0].shares_outside(&IdSpan { inside: 7, outside: 100_010, count: u32::MAX }));
    }
}
