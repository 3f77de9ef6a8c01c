//! Sets of completion indexes, written as `0-2,5`. Pure.

use std::collections::BTreeSet;

/// Largest set that is read from a text: as many indexes as a job may have.
const MAX: usize = 100_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(BTreeSet<i64>);

impl Indexes {
    /// What cannot be read, and what is not below `end`, is left out.
    pub fn parse(text: &str, end: i64) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.trim().parse::<i64>(), last.trim().parse::<i64>()) else { continue };
            let room = MAX.saturating_sub(set.len());
            set.extend((first.max(0)..=last.min(end - 1)).take(room));
        }
        Self(set)
    }

    pub fn insert(&mut self, index: i64) -> bool {
        self.0.insert(index)
    }

    pub fn contains(&self, index: i64) -> bool {
        self.0.contains(&index)
    }

    pub fn len(&self) -> i64 {
        self.0.len() as i64
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn common(&self, other: &Self) -> i64 {
        self.0.intersection(&other.0).count() as i64
    }
}

impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut runs: Vec<(i64, i64)> = Vec::new();
        for index in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => runs.push((*index, *index)),
            }
        }
        let shown = runs.iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        f.write_str(&shown.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written() {
        for (text, end, shown) in [
            ("0-2,5", 10, "0-2,5"),
            ("3,4", 10, "3,4"),
            ("1-9", 4, "1-3"),
            ("", 5, ""),
            ("x,-3,2-1,7", 9, "7"),
            ("0,1,2", 9, "0-2"),
        ] {
            assert_eq!(Indexes::parse(text, end).to_string(), shown, "{text}");
        }
        assert_eq!(Indexes::parse("0-999999999999", i64::MAX).len(), 100_000, "limited");
        assert_eq!(Indexes::parse("0-4", 9).common(&Indexes::parse("3-6", 9)), 2);
    }
}
