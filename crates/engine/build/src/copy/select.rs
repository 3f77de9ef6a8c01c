//! From patterns to files.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use linux::fs::{FileType, Mode, OFlags, Root};
use regex::Regex;

use super::{At, CopyError, Result};
use crate::ignore::regex_of;

/// Files that one pattern may name.
const MATCHES_MAX: usize = 100_000;

/// One source as found.
#[derive(Debug)]
pub(crate) struct Item {
    /// As the instruction leads to it, links resolved: relative to the root, for messages.
    pub(crate) path: String,
    /// What `--parents` keeps of it: all, or what follows `/./` in the pattern.
    pub(crate) kept: String,
    /// `O_PATH` of what it is; never a link.
    pub(crate) fd: OwnedFd,
    pub(crate) directory: bool,
}

impl Item {
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// What `--exclude` patterns of what is below it start with: with `--parents` they are seen from the root.
    pub(crate) fn below(&self, parents: bool) -> &str {
        if parents { &self.path } else { "" }
    }

    /// Whether `--exclude` means this very file.
    pub(crate) fn excluded(&self, exclude: &crate::Patterns) -> bool {
        !self.directory && (exclude.excludes(self.name()) || exclude.excludes(&self.path))
    }
}

/// What `pattern` names in `root`. Nothing at all is an error unless it has wildcards. With `parents` a part `**` is any number
/// of directories, as with BuildKit; elsewhere it is one `*`.
pub(crate) fn select(root: &Root, pattern: &str, parents: bool) -> Result<Vec<Item>> {
    let pivot = pattern.split_once("/./").map_or(0, |(before, _)| crate::plan::normal_parts(before).len());
    let mut items = named(root, pattern, parents)?;
    for item in &mut items {
        item.kept = item.path.split('/').skip(pivot).collect::<Vec<_>>().join("/");
    }
    Ok(items)
}

fn named(root: &Root, pattern: &str, parents: bool) -> Result<Vec<Item>> {
    let parts: Vec<&str> = crate::plan::normal_parts(pattern);
    let wild = |part: &str| part.contains(['*', '?', '[']);
    if !parts.iter().any(|p| wild(p)) {
        let path = parts.iter().map(|p| unescape(p)).collect::<Vec<_>>().join("/");
        return Ok(vec![item(root, &path, pattern)?]);
    }
    let mut found = vec![String::new()];
    for part in &parts {
        let mut next = Vec::new();
        if !wild(part) {
            found.iter_mut().for_each(|path| push(path, &unescape(part)));
            found.retain(|path| root.lstat(path).is_ok());
            continue;
        }
        if parents && *part == "**" {
            found = with_directories_below(root, found, pattern)?;
            continue;
        }
        let regex = Regex::new(&regex_of(part))
            .map_err(|_| CopyError::Invalid(format!("invalid wildcard pattern {pattern:?}")))?;
        for path in &found {
            let directory = if path.is_empty() { "." } else { path };
            let Ok(dir) = root.open_dir(directory) else { continue };
            let mut names: Vec<String> = linux::tree::entries(dir.as_fd())
                .at(path)?
                .into_iter()
                .filter_map(|e| e.name.into_string().ok())
                .filter(|name| regex.is_match(name))
                .collect();
            names.sort();
            for name in names {
                let mut path = path.clone();
                push(&mut path, &name);
                next.push(path);
            }
            if next.len() > MATCHES_MAX {
                return Err(CopyError::Invalid(format!("{pattern:?} names more than {MATCHES_MAX} files")));
            }
        }
        found = next;
    }
    found.iter().map(|path| item(root, path, path)).collect()
}

/// These directories and all below them; links are not followed.
fn with_directories_below(root: &Root, found: Vec<String>, pattern: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut open: Vec<String> = found.into_iter().rev().collect();
    while let Some(path) = open.pop() {
        let Ok(dir) = root.open_dir(if path.is_empty() { "." } else { path.as_str() }) else { continue };
        let mut below: Vec<String> = linux::tree::entries(dir.as_fd())
            .at(&path)?
            .into_iter()
            .filter(|entry| entry.kind == FileType::Directory)
            .filter_map(|entry| entry.name.into_string().ok())
            .collect();
        below.sort_by(|a, b| b.cmp(a));
        for name in below {
            let mut path = path.clone();
            push(&mut path, &name);
            open.push(path);
        }
        all.push(path);
        if all.len() > MATCHES_MAX {
            return Err(CopyError::Invalid(format!("{pattern:?} leads through more than {MATCHES_MAX} directories")));
        }
    }
    Ok(all)
}

fn push(path: &mut String, part: &str) {
    if !path.is_empty() {
        path.push('/');
    }
    path.push_str(part);
}

fn unescape(part: &str) -> String {
    let mut out = String::new();
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

fn item(root: &Root, path: &str, shown: &str) -> Result<Item> {
    let place = if path.is_empty() { "." } else { path };
    let fd = match vocab::weak::without("copy-root") || vocab::weak::without("mount-source") {
        true => {
            let dir = root.open_dir("/").at(shown)?;
            let outside = linux::fs::proc_fd(dir.as_fd()).join(place);
            std::fs::File::open(outside).map_err(|_| CopyError::NotFound(shown.to_owned()))?.into()
        }
        false => root.open_file(place, OFlags::PATH, Mode::empty()).at(shown)?,
    };
    let stat = linux::fs::fstat(&fd).at(shown)?;
    let directory = linux::fs::file_type(&stat) == FileType::Directory;
    Ok(Item { path: path.to_owned(), kept: String::new(), fd, directory })
}

/// A directory entry's name as text, for patterns.
pub(super) fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
