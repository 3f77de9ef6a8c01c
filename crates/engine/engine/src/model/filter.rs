//! Docker's filters: a key with several values is "any of", several keys are "all of".

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, BTreeSet<String>>);

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry(key.into()).or_default().insert(value.into());
    }

    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// Whether `value` is one of the key's values, or the key was not given.
    pub fn allows(&self, key: &str, value: &str) -> bool {
        !self.has(key) || self.values(key).any(|v| v == value)
    }

    /// `label`: every value must hold; `name` asks for presence, `name=value` for equality.
    pub fn allows_labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        })
    }

    /// The first key that is not in `known`.
    pub fn unknown_key<'a>(&'a self, known: &[&str]) -> Option<&'a str> {
        self.0.keys().map(String::as_str).find(|key| !known.contains(key))
    }
}

#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// The newest n, running or not; 0 is no limit.
    pub limit: usize,
    pub size: bool,
    pub filters: Filters,
}
