//! Entries of a tree in the order in which they are told: what is allowed, and what differs from an earlier telling. Pure.

use std::cmp::Ordering;

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
/// nothing can be put anywhere else. Kept as the bytes that are remembered: a context may have many thousand files.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tree {
    /// Messages, each with its length before it, in the order of their paths.
    bytes: Vec<u8>,
    /// Where each message begins, with its length.
    starts: Vec<u32>,
    /// In its files.
    file_bytes: u64,
    /// Whether files have several paths.
    has_links: bool,
}

/// Builds a [`Tree`] entry by entry.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    tree: Tree,
    /// The directories that lead to the last entry.
    open: Vec<String>,
}

impl Telling {
    pub(crate) fn add(&mut self, stat: &Stat) -> Result<()> {
        let invalid = |why: &str| TransferError::Invalid(format!("{:?}: {why}", stat.path));
        let kind = self.check(stat).map_err(invalid)?;
        if self.tree.starts.len() >= ENTRIES_MAX {
            return Err(TransferError::Invalid(format!("more than {ENTRIES_MAX} files")));
        }
        if kind == Kind::Directory {
            self.open.push(stat.path.clone());
        }
        self.tree.push(stat, kind).ok_or_else(|| TransferError::Invalid("more names than can be kept".into()))
    }

    fn check(&mut self, stat: &Stat) -> std::result::Result<Kind, &'static str> {
        check_path(&stat.path)?;
        let kind = kind(stat).ok_or("a file of an unknown kind")?;
        if let Some(last) = self.tree.len().checked_sub(1)
            && order(self.tree.path(last), &stat.path).is_ge()
        {
            return Err("sent twice or out of order");
        }
        while self.open.last().is_some_and(|dir| !below(&stat.path, dir)) {
            self.open.pop();
        }
        let parent = stat.path.rsplit_once('/').map(|(parent, _)| parent);
        if parent != self.open.last().map(String::as_str) {
            return Err("its directory was not sent before");
        }
        if kind == Kind::HardLink {
            let first = self.tree.find(&stat.linkname).map(|at| self.tree.entry(at));
            if first.as_ref().and_then(self::kind) != Some(Kind::File) {
                return Err("a link to something that was not sent before");
            }
        }
        if kind == Kind::Symlink && (stat.linkname.is_empty() || stat.linkname.len() > PATH_BYTES_MAX) {
            return Err("a symbolic link without a usable target");
        }
        Ok(kind)
    }

    pub(crate) fn finish(mut self) -> Tree {
        self.tree.bytes.shrink_to_fit();
        self.tree.starts.shrink_to_fit();
        self.tree
    }
}

/// The order in which trees are told: what is in a directory comes right after it, so a slash is less than anything else.
fn order(a: &str, b: &str) -> Ordering {
    let key = |byte| if byte == b'/' { 0 } else { byte };
    a.bytes().map(key).cmp(b.bytes().map(key))
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
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// The entry of that number.
    pub(crate) fn entry(&self, at: usize) -> Stat {
        Stat::decode_length_delimited(self.message(at)).expect("it was encoded here")
    }

    /// Of the entry of that number.
    pub(crate) fn path(&self, at: usize) -> &str {
        path_of(self.message(at)).expect("it was encoded here")
    }

    fn message(&self, at: usize) -> &[u8] {
        let end = self.starts.get(at + 1).map_or(self.bytes.len(), |next| *next as usize);
        &self.bytes[self.starts[at] as usize..end]
    }

    /// The number of a path's entry.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match order(self.path(middle), path) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Nothing if there is no room for more.
    fn push(&mut self, stat: &Stat, kind: Kind) -> Option<()> {
        self.starts.push(u32::try_from(self.bytes.len()).ok()?);
        stat.encode_length_delimited(&mut self.bytes).expect("a vector grows");
        self.has_links |= kind == Kind::HardLink;
        if kind == Kind::File {
            self.file_bytes += stat.size.max(0) as u64;
        }
        Some(())
    }

    /// What `self` has that `old` has not.
    pub(crate) fn changes(&self, old: &Tree) -> Changes {
        let mut changes = Changes::default();
        let (mut before, mut now) = (0, 0);
        loop {
            let order = match (before < old.len(), now < self.len()) {
                (false, false) => return changes,
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (true, true) => order(old.path(before), self.path(now)),
            };
            match order {
                Ordering::Less => {
                    let path = old.path(before);
                    if !changes.remove.last().is_some_and(|top| below(path, top)) {
                        changes.remove.push(path.to_owned());
                    }
                    before += 1;
                }
                Ordering::Greater => {
                    changes.make.push(now);
                    now += 1;
                }
                Ordering::Equal => {
                    self.compare(now, old, before, &mut changes);
                    (before, now) = (before + 1, now + 1);
                }
            }
        }
    }

    /// Two entries of one path.
    fn compare(&self, now: usize, old: &Tree, before: usize, changes: &mut Changes) {
        if self.message(now) == old.message(before) && !self.has_links {
            return;
        }
        let (new, old) = (self.entry(now), old.entry(before));
        // What stays of its kind is changed where it is; a file is replaced when its new content comes.
        if kind(&new) != kind(&old) {
            changes.remove.push(old.path.clone());
        }
        // A link to a file that is made anew must be made anew too.
        let made = || self.find(&new.linkname).is_some_and(|first| changes.make.binary_search(&first).is_ok());
        if !alike(&old, &new) || (kind(&new) == Some(Kind::HardLink) && made()) {
            changes.make.push(now);
        }
    }

    /// The bytes under which a tree is remembered.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads them back; nothing if they are not what a tree gave.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut telling = Telling::default();
        let mut left = bytes;
        while !left.is_empty() {
            telling.add(&Stat::decode_length_delimited(&mut left).ok()?).ok()?;
        }
        Some(telling.finish())
    }
}

/// A message's first field, which is the path.
fn path_of(mut message: &[u8]) -> Option<&str> {
    prost::decode_length_delimiter(&mut message).ok()?;
    // Field 1, with a length.
    let mut field = message.strip_prefix(&[0x0a])?;
    let length = prost::decode_length_delimiter(&mut field).ok()?;
    std::str::from_utf8(field.get(..length)?).ok()
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
        lines.iter().try_for_each(|line| telling.add(&stat(line)))?;
        Ok(telling.finish())
    }

    fn check(old: &[&str], new: &[&str], expected: expect_test::Expect) {
        let (old, new) = (tree(old).expect("an old tree"), tree(new).expect("a new tree"));
        let changes = new.changes(&old);
        let mut text: Vec<String> = changes.remove.iter().map(|path| format!("- {path}\n")).collect();
        text.extend(changes.make.iter().map(|at| format!("+ {}\n", new.path(*at))));
        expected.assert_eq(&text.concat());
        assert_eq!(Tree::of_bytes(new.as_bytes()), Some(new));
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
    fn what_is_in_a_directory_comes_before_longer_names() {
        let lines = ["a dir", "a/b dir", "a/b/c", "a/z", "a-b dir", "a-b/c", "a.c", "ab"];
        let tree = tree(&lines).expect("a tree");
        for (at, line) in lines.iter().enumerate() {
            let path = line.split(' ').next().unwrap();
            assert_eq!((tree.path(at), tree.find(path)), (path, Some(at)));
            assert_eq!(tree.entry(at), stat(line));
        }
        assert_eq!((tree.find("a/c"), tree.find("b"), tree.find("")), (None, None, None));
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
            &["b", "a"],
            &["a dir", "b", "a/c"],
            &["a-b dir", "a dir"],
            &["a same=b"],
            &["l to=/etc/passwd", "a same=l"],
        ] {
            assert!(tree(lines).is_err(), "{lines:?}");
        }
    }
}
