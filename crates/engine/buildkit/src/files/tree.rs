//! Entries of a tree in the order in which they are told: what is allowed, and what differs from an earlier telling. Pure.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::{Result, TransferError};
use crate::wire::fsutil::{Stat, mode};

/// Entries that one tree may have.
pub(crate) const ENTRIES_MAX: usize = 4_000_000;
const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    /// The same file as an earlier entry.
    HardLink,
    Symlink,
    Pipe,
    Block,
    Character,
}

pub(crate) fn kind(stat: &Stat) -> Option<Kind> {
    match stat.mode & mode::KIND {
        0 if stat.linkname.is_empty() => Some(Kind::File),
        0 => Some(Kind::HardLink),
        mode::DIR => Some(Kind::Directory),
        mode::SYMLINK => Some(Kind::Symlink),
        mode::PIPE => Some(Kind::Pipe),
        mode::DEVICE => Some(Kind::Block),
        bits if bits == mode::DEVICE | mode::CHARACTER => Some(Kind::Character),
        _ => None,
    }
}

/// A whole tree as a client told it, checked: every path is clean and lies in a directory that was told before, so that
/// nothing can be put anywhere else.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tree {
    entries: Vec<Stat>,
}

/// Builds a [`Tree`] entry by entry.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    entries: Vec<Stat>,
    kinds: HashMap<String, Kind>,
}

impl Telling {
    pub(crate) fn add(&mut self, stat: Stat) -> Result<()> {
        let invalid = |why: &str| TransferError::Invalid(format!("{:?}: {why}", stat.path));
        if self.entries.len() >= ENTRIES_MAX {
            return Err(TransferError::Invalid(format!("more than {ENTRIES_MAX} files")));
        }
        check_path(&stat.path).map_err(invalid)?;
        let kind = kind(&stat).ok_or_else(|| invalid("a file of an unknown kind"))?;
        if let Some((parent, _)) = stat.path.rsplit_once('/')
            && self.kinds.get(parent) != Some(&Kind::Directory)
        {
            return Err(invalid("its directory was not sent before"));
        }
        if kind == Kind::HardLink && self.kinds.get(&stat.linkname) != Some(&Kind::File) {
            return Err(invalid("a link to something that was not sent before"));
        }
        if kind == Kind::Symlink && (stat.linkname.is_empty() || stat.linkname.len() > PATH_BYTES_MAX) {
            return Err(invalid("a symbolic link without a usable target"));
        }
        if self.kinds.insert(stat.path.clone(), kind).is_some() {
            return Err(invalid("sent twice"));
        }
        self.entries.push(stat);
        Ok(())
    }

    pub(crate) fn finish(self) -> Tree {
        Tree { entries: self.entries }
    }
}

fn check_path(path: &str) -> std::result::Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX {
        return Err("not a usable path");
    }
    let clean = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= NAME_BYTES_MAX && !part.contains('\0');
    if !path.split('/').all(clean) {
        return Err("a path that is not clean");
    }
    Ok(())
}

/// What must be done to make an old tree a new one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Old paths to be removed, with everything below them.
    pub(crate) remove: Vec<String>,
    /// Numbers of new entries to be made or changed, in their order.
    pub(crate) make: Vec<usize>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.make.is_empty()
    }
}

impl Tree {
    pub(crate) fn entries(&self) -> &[Stat] {
        &self.entries
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.entries.iter().filter(|e| kind(e) == Some(Kind::File)).map(|e| e.size.max(0) as u64).sum()
    }

    /// What `self` has that `old` has not.
    pub(crate) fn changes(&self, old: &Tree) -> Changes {
        let before: HashMap<&str, &Stat> = old.entries.iter().map(|e| (e.path.as_str(), e)).collect();
        let now: HashMap<&str, &Stat> = self.entries.iter().map(|e| (e.path.as_str(), e)).collect();
        let mut remove: Vec<String> = Vec::new();
        for entry in &old.entries {
            if remove.last().is_some_and(|top| below(&entry.path, top)) {
                continue;
            }
            // What stays of its kind is changed where it is; a file is replaced when its new content comes.
            let stays = now.get(entry.path.as_str()).is_some_and(|new| kind(new) == kind(entry));
            if !stays {
                remove.push(entry.path.clone());
            }
        }
        let removed: HashSet<&str> = remove.iter().map(String::as_str).collect();
        let gone =
            |path: &str| removed.contains(path) || path.match_indices('/').any(|(at, _)| removed.contains(&path[..at]));
        let mut made: HashSet<&str> = HashSet::new();
        let mut make = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let same = before.get(entry.path.as_str()).is_some_and(|old| alike(old, entry)) && !gone(&entry.path);
            // A link to a file that is made anew must be made anew too.
            let loose = kind(entry) == Some(Kind::HardLink) && made.contains(entry.linkname.as_str());
            if !same || loose {
                made.insert(&entry.path);
                make.push(at);
            }
        }
        Changes { remove, make }
    }

    /// The bytes under which a tree is remembered.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * 64);
        for entry in &self.entries {
            // A vector grows.
            entry.encode_length_delimited(&mut bytes).expect("room for a message");
        }
        bytes
    }

    /// Reads them back; nothing if they are not what [`Tree::to_bytes`] wrote.
    pub(crate) fn of_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut telling = Telling::default();
        while !bytes.is_empty() {
            telling.add(Stat::decode_length_delimited(&mut bytes).ok()?).ok()?;
        }
        Some(telling.finish())
    }
}

fn below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether the file behind both need not be asked for again. Owners do not count: everything here is root's.
fn alike(old: &Stat, new: &Stat) -> bool {
    let directory = kind(new) == Some(Kind::Directory);
    old.mode == new.mode
        && old.mtime == new.mtime
        && old.linkname == new.linkname
        && (directory || old.size == new.size)
        && (old.devmajor, old.devminor) == (new.devmajor, new.devminor)
        && old.xattrs == new.xattrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(text: &str) -> Stat {
        let (path, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut stat = Stat { path: path.into(), mode: 0o644, mtime: 1, ..Stat::default() };
        for word in rest.split_whitespace() {
            match word.split_once('=') {
                Some(("to", target)) => (stat.mode, stat.linkname) = (mode::SYMLINK | 0o777, target.into()),
                Some(("same", other)) => stat.linkname = other.into(),
                Some(("at", time)) => stat.mtime = time.parse().expect("a time"),
                _ if word == "dir" => stat.mode = mode::DIR | 0o755,
                _ => panic!("{word}"),
            }
        }
        stat
    }

    fn tree(lines: &[&str]) -> Result<Tree> {
        let mut telling = Telling::default();
        lines.iter().try_for_each(|line| telling.add(stat(line)))?;
        Ok(telling.finish())
    }

    fn check(old: &[&str], new: &[&str], expected: expect_test::Expect) {
        let (old, new) = (tree(old).expect("an old tree"), tree(new).expect("a new tree"));
        let changes = new.changes(&old);
        let mut text: Vec<String> = changes.remove.iter().map(|path| format!("- {path}\n")).collect();
        text.extend(changes.make.iter().map(|at| format!("+ {}\n", new.entries[*at].path)));
        expected.assert_eq(&text.concat());
        assert_eq!(Tree::of_bytes(&new.to_bytes()), Some(new));
    }

    #[test]
    fn only_what_differs_is_made() {
        check(&["a", "d dir", "d/x", "d/y"], &["a", "d dir", "d/x at=2", "d/y"], expect_test::expect!["+ d/x\n"]);
        check(&["a", "b"], &["a", "b"], expect_test::expect![""]);
    }

    #[test]
    fn what_is_gone_is_removed_once_with_all_below_it() {
        check(&["d dir", "d/e dir", "d/e/f", "g"], &["g"], expect_test::expect!["- d\n"]);
    }

    #[test]
    fn another_kind_takes_the_place() {
        check(&["d dir", "d/f"], &["d to=/etc"], expect_test::expect!["- d\n+ d\n"]);
        check(
            &["d to=x", "x dir", "x/f"],
            &["d dir", "d/f", "x dir", "x/f"],
            expect_test::expect!["- d\n+ d\n+ d/f\n"],
        );
    }

    #[test]
    fn links_follow_the_file_that_they_are() {
        check(&["a", "b same=a"], &["a at=2", "b same=a"], expect_test::expect!["+ a\n+ b\n"]);
    }

    #[test]
    fn nothing_is_told_outside_of_the_tree() {
        for lines in [
            &["../a"][..],
            &["/a"],
            &["a/../../b"],
            &["a//b"],
            &["."],
            &[""],
            &["d/a"],
            &["l to=/", "l/etc"],
            &["f", "f/x"],
            &["a", "a"],
            &["a same=b"],
            &["l to=/etc/passwd", "a same=l"],
        ] {
            assert!(tree(lines).is_err(), "{lines:?}");
        }
    }
}
