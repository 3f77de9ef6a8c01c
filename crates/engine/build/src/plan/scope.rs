//! Which names have which values at one place of a file.

use std::collections::BTreeMap;

use crate::syntax::Variables;

/// Names that a build may be given without any `ARG` and that reach `RUN` without being part of the cache key.
pub(crate) const PROXIES: [&str; 8] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy"];
pub(crate) const ALL_PROXIES: [&str; 2] = ["ALL_PROXY", "all_proxy"];

/// Arguments in the order of their declaration. A later one of the same name replaces the value.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    list: Vec<(String, Option<String>)>,
}

impl Args {
    pub(super) fn set(&mut self, name: &str, value: Option<String>) {
        match self.list.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.list.push((name.to_owned(), value)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.as_deref())
    }

    /// Whether an `ARG` names it, with or without a value.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.list.iter().any(|(n, _)| n == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
    }
}

/// A stage's names: its environment goes before its arguments.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) env: &'a [String],
    pub(super) args: &'a Args,
}

impl Variables for Scope<'_> {
    fn value(&self, name: &str) -> Option<String> {
        lookup(self.env, name).or_else(|| self.args.get(name)).map(str::to_owned)
    }
}

/// The value of `name` in a list of `NAME=value`.
pub(crate) fn lookup<'e>(env: &'e [String], name: &str) -> Option<&'e str> {
    env.iter().find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// Sets a name in a list of `NAME=value`, keeping its place.
pub(crate) fn assign(env: &mut Vec<String>, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    match env.iter_mut().find(|p| p.split_once('=').is_some_and(|(key, _)| key == name)) {
        Some(old) => *old = pair,
        None => env.push(pair),
    }
}

/// A map as the scope of `FROM` lines.
#[derive(Debug)]
pub(super) struct Globals<'a>(pub(super) &'a BTreeMap<String, String>);

impl Variables for Globals<'_> {
    fn value(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

/// Every name that passes a proxy on.
pub(crate) fn proxy_names() -> Vec<&'static str> {
    PROXIES.into_iter().chain(ALL_PROXIES).collect()
}
