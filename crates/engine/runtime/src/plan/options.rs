//! The words of a mount's `options` (runtime-spec 1.2, "Linux mount options", and runc's own), turned into what the
//! descriptor mount API takes. Pure: nothing here looks at the host.

use serde::{Deserialize, Serialize};

/// `MOUNT_ATTR_*` of mount_setattr(2) and fsmount(2).
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME_MASK: u64 = 0x70;
    pub const RELATIME: u64 = 0x0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Attributes to set and to clear with one mount_setattr call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attrs {
    pub set: u64,
    pub clear: u64,
}

impl Attrs {
    pub const fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0
    }

    /// A later word wins over an earlier one, as on mount(8)'s command line.
    fn add(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    fn remove(&mut self, bits: u64) {
        self.set &= !bits;
        self.clear |= bits;
    }

    /// The access-time modes are one field, not bits: the kernel wants the whole mask cleared to change it.
    fn atime(&mut self, mode: u64) {
        self.set = (self.set & !attr::ATIME_MASK) | mode;
        self.clear |= attr::ATIME_MASK;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PropagationKind {
    Private,
    Slave,
    Shared,
    Unbindable,
}

impl PropagationKind {
    /// `MS_*` as mount_setattr's `propagation` field takes it.
    pub const fn bits(self) -> u64 {
        match self {
            Self::Unbindable => 1 << 17,
            Self::Private => 1 << 18,
            Self::Slave => 1 << 19,
            Self::Shared => 1 << 20,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    pub kind: PropagationKind,
    pub recursive: bool,
}

impl Propagation {
    pub fn parse(word: &str) -> Option<Self> {
        let (kind, recursive) = match word {
            "private" => (PropagationKind::Private, false),
            "rprivate" => (PropagationKind::Private, true),
            "slave" => (PropagationKind::Slave, false),
            "rslave" => (PropagationKind::Slave, true),
            "shared" => (PropagationKind::Shared, false),
            "rshared" => (PropagationKind::Shared, true),
            "unbindable" => (PropagationKind::Unbindable, false),
            "runbindable" => (PropagationKind::Unbindable, true),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bind {
    /// The one mount at the source.
    Single,
    /// The source with everything mounted below it.
    Recursive,
}

/// What the words of one mount ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountOptions {
    pub bind: Option<Bind>,
    pub remount: bool,
    /// For the mount itself.
    pub attrs: Attrs,
    /// For the mount and everything mounted below it (`rro`, `rnosuid`, ...).
    pub recursive_attrs: Attrs,
    pub propagation: Vec<Propagation>,
    /// Superblock flags by their fsconfig names: `sync`, `dirsync`, `lazytime`, `mand`, `silent`.
    pub superblock: Vec<String>,
    pub copy_up: bool,
    /// `Some(recursive)` for `idmap` and `ridmap`.
    pub idmap: Option<bool>,
    /// What is left is the file system's own: `key=value` or a bare word.
    pub data: Vec<(String, Option<String>)>,
}

impl MountOptions {
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Self {
        let mut options = Self::default();
        for word in words {
            options.word(word.as_ref());
        }
        options
    }

    pub const fn read_only(&self) -> bool {
        self.attrs.set & attr::RDONLY != 0
    }

    fn word(&mut self, word: &str) {
        if let Some(propagation) = Propagation::parse(word) {
            self.propagation.push(propagation);
            return;
        }
        // Several words in one string ("nosuid,nodev") are what mount(8) would take as one argument.
        if word.contains(',') && !word.contains('=') {
            for part in word.split(',') {
                self.word(part);
            }
            return;
        }
        if apply_attr(&mut self.attrs, word) {
            return;
        }
        match word {
            "" | "defaults" | "async" | "nolazytime" | "nomand" | "loud" | "iversion" | "noiversion" => {
                let undone = match word {
                    "async" => "sync",
                    "nolazytime" => "lazytime",
                    "nomand" => "mand",
                    "loud" => "silent",
                    _ => return,
                };
                self.superblock.retain(|flag| flag != undone);
            }
            "bind" => self.bind = Some(self.bind.unwrap_or(Bind::Single)),
            "rbind" => self.bind = Some(Bind::Recursive),
            "remount" => self.remount = true,
            "sync" | "dirsync" | "lazytime" | "mand" | "silent" => self.superblock.push(word.to_owned()),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            _ => match word.strip_prefix('r') {
                Some(rest) if RECURSIVE.contains(&rest) => {
                    apply_attr(&mut self.recursive_attrs, rest);
                }
                _ => self.data.push(match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                }),
            },
        }
    }
}

/// The words that have a recursive form with an `r` before them.
const RECURSIVE: [&str; 18] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "symfollow",
    "nosymfollow",
];

fn apply_attr(attrs: &mut Attrs, word: &str) -> bool {
    match word {
        "ro" => attrs.add(attr::RDONLY),
        "rw" => attrs.remove(attr::RDONLY),
        "nosuid" => attrs.add(attr::NOSUID),
        "suid" => attrs.remove(attr::NOSUID),
        "nodev" => attrs.add(attr::NODEV),
        "dev" => attrs.remove(attr::NODEV),
        "noexec" => attrs.add(attr::NOEXEC),
        "exec" => attrs.remove(attr::NOEXEC),
        "nodiratime" => attrs.add(attr::NODIRATIME),
        "diratime" => attrs.remove(attr::NODIRATIME),
        "nosymfollow" => attrs.add(attr::NOSYMFOLLOW),
        "symfollow" => attrs.remove(attr::NOSYMFOLLOW),
        "noatime" => attrs.atime(attr::NOATIME),
        "strictatime" => attrs.atime(attr::STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => attrs.atime(attr::RELATIME),
        _ => return false,
    }
    true
}

/// Every option word that `features` reports: runtime-spec 1.2, "mountOptions".
pub const KNOWN: [&str; 59] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[&str], expected: &MountOptions) {
        assert_eq!(&MountOptions::parse(words), expected, "{words:?}");
    }

    #[test]
    fn plain_words_become_attributes() {
        check(
            &["nosuid", "noexec", "nodev", "ro"],
            &MountOptions { attrs: Attrs { set: 0xf, clear: 0 }, ..Default::default() },
        );
    }

    #[test]
    fn the_last_word_wins() {
        check(&["ro", "rw"], &MountOptions { attrs: Attrs { set: 0, clear: 1 }, ..Default::default() });
        check(
            &["noatime", "strictatime"],
            &MountOptions { attrs: Attrs { set: 0x20, clear: 0x70 }, ..Default::default() },
        );
        check(&["sync", "async"], &MountOptions::default());
    }

    #[test]
    fn binds_know_their_depth_and_propagation() {
        check(
            &["rbind", "rprivate", "bind", "rro"],
            &MountOptions {
                bind: Some(Bind::Recursive),
                recursive_attrs: Attrs { set: 1, clear: 0 },
                propagation: vec![Propagation { kind: PropagationKind::Private, recursive: true }],
                ..Default::default()
            },
        );
    }

    #[test]
    fn what_is_not_ours_is_the_file_systems() {
        check(
            &["mode=755", "size=65536k", "newinstance", "tmpcopyup", "dirsync", "ridmap"],
            &MountOptions {
                data: vec![
                    ("mode".into(), Some("755".into())),
                    ("size".into(), Some("65536k".into())),
                    ("newinstance".into(), None),
                ],
                copy_up: true,
                superblock: vec!["dirsync".into()],
                idmap: Some(true),
                ..Default::default()
            },
        );
    }

    #[test]
    fn every_word_we_announce_is_understood() {
        for word in KNOWN {
            assert!(MountOptions::parse(&[word]).data.is_empty(), "{word} fell through to the file system");
        }
    }
}
