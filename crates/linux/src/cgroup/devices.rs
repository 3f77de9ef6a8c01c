//! Device rules, and what they mean to the v1 `devices` controller.
//!
//! The rules of the OCI spec are a program: all is denied, then each rule in turn allows or denies some kinds of access, so
//! for each of read, write and mknod the last matching rule decides. v2 runs exactly that (`device_bpf`). v1 keeps a list of
//! exceptions to one default, which cannot say everything; what it cannot say is refused, never approximated.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use vocab::ErrorKind;

use super::controller::Controller;
use super::plan::{Tolerance, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Both kinds; major and minor numbers are then ignored, as the kernel does with `a`.
    All,
    Block,
    Char,
}

/// Any of read, write, mknod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Access(u8);

impl Access {
    pub const MKNOD: Self = Self(1);
    pub const READ: Self = Self(2);
    pub const WRITE: Self = Self(4);
    pub const ALL: Self = Self(7);
    pub const NONE: Self = Self(0);

    /// Bits as in the kernel's `BPF_DEVCG_ACC_*`.
    pub const fn bits(self) -> u8 {
        self.0
    }

    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Of letters `r`, `w`, `m` in any order; empty means all (OCI runtime spec: "access" is optional). `None` for another letter.
    pub fn parse(letters: &str) -> Option<Self> {
        if letters.is_empty() {
            return Some(Self::ALL);
        }
        letters.chars().try_fold(Self::NONE, |all, letter| match letter {
            'r' => Some(all.or(Self::READ)),
            'w' => Some(all.or(Self::WRITE)),
            'm' => Some(all.or(Self::MKNOD)),
            _ => None,
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if !self.and(bit).is_empty() {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `linux.resources.devices[]` of the OCI spec. `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow " } else { "deny " })?;
        f.write_str(&entry(self.kind, self.major, self.minor, self.access))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceRuleError {
    #[error("device rule {later:?} takes a part out of {earlier:?}, which the v1 devices controller cannot express")]
    Carves { earlier: String, later: String },
}

impl DeviceRuleError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unsupported
    }
}

/// The answer of the rules to one access, bit by bit: what stays denied. The reference that both compilers are tested against.
#[cfg(test)]
pub(super) fn denied(rules: &[DeviceRule], kind: DeviceKind, major: u32, minor: u32, asked: Access) -> Access {
    let mut granted = Access::NONE;
    for rule in rules {
        let matches = rule.kind == DeviceKind::All
            || rule.kind == kind && rule.major.is_none_or(|m| m == major) && rule.minor.is_none_or(|m| m == minor);
        if matches {
            granted = if rule.allow { granted.or(rule.access) } else { granted.without(rule.access) };
        }
    }
    asked.without(granted)
}

/// The writes that bring a group from whatever it has to exactly these rules: deny all first, so that a failure half way
/// leaves too little rather than too much.
///
/// While they are carried out on a running group an access can be refused that is allowed before and after.
pub fn v1_writes(rules: &[DeviceRule]) -> Result<Vec<Write>, DeviceRuleError> {
    let list = V1List::of(rules)?;
    let write = |file: &'static str, value: String| Write {
        controller: Controller::Devices,
        file: Cow::Borrowed(file),
        value,
        tolerance: Tolerance::None,
    };
    let mut writes = Vec::with_capacity(list.exceptions.len() + 2);
    writes.push(write("devices.deny", "a".into()));
    let file = if list.default_allow {
        writes.push(write("devices.allow", "a".into()));
        "devices.deny"
    } else {
        "devices.allow"
    };
    for e in &list.exceptions {
        writes.push(write(file, entry(e.kind, e.major, e.minor, e.access)));
    }
    Ok(writes)
}

fn entry(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: Access) -> String {
    let letter = match kind {
        DeviceKind::All => 'a',
        DeviceKind::Block => 'b',
        DeviceKind::Char => 'c',
    };
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    format!("{letter} {}:{} {access}", number(major), number(minor))
}

/// The state of a v1 devices group: a default and exceptions from it.
struct V1List {
    default_allow: bool,
    exceptions: Vec<Exception>,
}

#[derive(Clone, Copy)]
struct Exception {
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: Access,
}

impl Exception {
    fn overlaps(&self, other: &Self) -> bool {
        let number = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && number(self.major, other.major)
            && number(self.minor, other.minor)
            && !self.access.and(other.access).is_empty()
    }

    fn covers(&self, other: &Self) -> bool {
        let number = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
        self.kind == other.kind && number(self.major, other.major) && number(self.minor, other.minor)
    }

    fn same_place(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }
}

impl V1List {
    fn of(rules: &[DeviceRule]) -> Result<Self, DeviceRuleError> {
        let mut list = Self { default_allow: false, exceptions: Vec::new() };
        for rule in rules {
            list.apply(rule)?;
        }
        Ok(list)
    }

    fn apply(&mut self, rule: &DeviceRule) -> Result<(), DeviceRuleError> {
        if rule.access.is_empty() {
            return Ok(());
        }
        let kinds: &[DeviceKind] = match rule.kind {
            DeviceKind::All if rule.access == Access::ALL => {
                self.default_allow = rule.allow;
                self.exceptions.clear();
                return Ok(());
            }
            DeviceKind::All => &[DeviceKind::Block, DeviceKind::Char],
            DeviceKind::Block => &[DeviceKind::Block],
            DeviceKind::Char => &[DeviceKind::Char],
        };
        let any = rule.kind == DeviceKind::All;
        for kind in kinds {
            let place = Exception {
                kind: *kind,
                major: rule.major.filter(|_| !any),
                minor: rule.minor.filter(|_| !any),
                access: rule.access,
            };
            if rule.allow == self.default_allow { self.withdraw(place)? } else { self.add(place) }
        }
        Ok(())
    }

    /// The rule says what the default says: exceptions beneath it go.
    fn withdraw(&mut self, rule: Exception) -> Result<(), DeviceRuleError> {
        if let Some(wider) = self.exceptions.iter().find(|e| e.overlaps(&rule) && !rule.covers(e)) {
            let show = |e: &Exception, allow: bool| {
                let word = if allow { "allow" } else { "deny" };
                format!("{word} {}", entry(e.kind, e.major, e.minor, e.access))
            };
            return Err(DeviceRuleError::Carves {
                earlier: show(wider, !self.default_allow),
                later: show(&rule, self.default_allow),
            });
        }
        for e in &mut self.exceptions {
            if rule.covers(e) {
                e.access = e.access.without(rule.access);
            }
        }
        self.exceptions.retain(|e| !e.access.is_empty());
        Ok(())
    }

    fn add(&mut self, rule: Exception) {
        match self.exceptions.iter_mut().find(|e| e.same_place(&rule)) {
            Some(e) => e.access = e.access.or(rule.access),
            None => self.exceptions.push(rule),
        }
    }
}

#[cfg(test)]
pub(in crate::cgroup) mod tests {
    use super::*;

    /// `allow c 1:3 rwm`, `deny a *:* rwm`.
    pub(in crate::cgroup) fn rule(text: &str) -> DeviceRule {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |n: &str| if n == "*" { None } else { Some(n.parse().unwrap()) };
        let (major, minor) = words[2].split_once(':').unwrap();
        let kind = match words[1] {
            "a" => DeviceKind::All,
            "b" => DeviceKind::Block,
            _ => DeviceKind::Char,
        };
        let access = Access::parse(words[3]).unwrap();
        DeviceRule { allow: words[0] == "allow", kind, major: number(major), minor: number(minor), access }
    }

    fn check(rules: &[&str], expected: &[&str]) {
        let rules: Vec<DeviceRule> = rules.iter().map(|r| rule(r)).collect();
        let shown: Vec<String> = match v1_writes(&rules) {
            Ok(writes) => {
                writes.iter().map(|w| format!("{} {}", w.file.strip_prefix("devices.").unwrap(), w.value)).collect()
            }
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn no_rules_deny_everything() {
        check(&[], &["deny a"]);
    }

    #[test]
    fn an_allow_list_starts_from_deny_all() {
        let rules = ["deny a *:* rwm", "allow c *:* m", "allow c 1:3 rwm", "allow c 1:3 r"];
        check(&rules, &["deny a", "allow c *:* m", "allow c 1:3 rwm"]);
    }

    #[test]
    fn a_later_deny_takes_back_what_it_covers() {
        check(&["allow c 1:3 rwm", "allow b 8:0 r", "deny c 1:* w"], &["deny a", "allow c 1:3 rm", "allow b 8:0 r"]);
        check(&["allow c 1:3 rwm", "deny a *:* rwm"], &["deny a"]);
    }

    #[test]
    fn privileged_is_one_allow_of_all() {
        check(&["deny a *:* rwm", "allow a *:* rwm"], &["deny a", "allow a"]);
        check(&["allow a *:* rwm", "deny c 1:3 w"], &["deny a", "allow a", "deny c 1:3 w"]);
    }

    #[test]
    fn all_kinds_with_some_access_become_two_entries() {
        check(&["allow a *:* m"], &["deny a", "allow b *:* m", "allow c *:* m"]);
    }

    #[test]
    fn what_v1_cannot_say_is_refused() {
        let text = "device rule \"deny c 1:3 w\" takes a part out of \"allow c *:* rw\", which the v1 devices controller cannot express";
        check(&["allow c *:* rw", "deny c 1:3 w"], &[text]);
    }
}
