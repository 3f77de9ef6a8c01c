//! What a volume may be called and what the local driver's options mean. Pure; the words of refusals are Docker's.

use std::collections::BTreeMap;

use runtime::plan::options::{Bind, MountOptions, attr};

use crate::{Error, Result};

/// A file system that a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Empty or `none` for a bind.
    pub(crate) kind: String,
    pub(crate) device: String,
    pub(crate) options: MountOptions,
}

impl Mounted {
    pub(crate) fn is_bind(&self) -> bool {
        self.options.bind.is_some()
    }

    pub(crate) fn is_recursive(&self) -> bool {
        self.options.bind == Some(Bind::Recursive)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.options.attrs.set & attr::RDONLY != 0
    }
}

/// At least two letters, digits, `_`, `.` and `-`, the first a letter or digit, at most 255 bytes.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let tail = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let mut bytes = name.bytes();
    if name.len() == 1 && name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(Error::Invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()) && name.len() >= 2 && bytes.all(tail);
    if good && name.len() <= 255 {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// What the options ask to be mounted; nothing if there are none.
///
/// # Errors
/// `Invalid` for unknown options, for some without the others, and for words that no mount of this kind takes.
pub(crate) fn parse(name: &str, options: &BTreeMap<String, String>) -> Result<Option<Mounted>> {
    let refused = |why: String| Err(Error::Invalid(format!("create {name}: {why}")));
    if let Some(unknown) = options.keys().find(|key| !["type", "o", "device", "size"].contains(&key.as_str())) {
        return refused(format!("invalid option: {unknown:?}"));
    }
    if options.contains_key("size") {
        return refused("quota size requested but no quota support".into());
    }
    if options.is_empty() {
        return Ok(None);
    }
    for needed in ["device", "type"] {
        if !options.contains_key(needed) {
            return refused(format!("missing required option: {needed:?}"));
        }
    }
    if options.values().any(|value| value.contains('\0')) {
        return refused("an option contains a NUL byte".into());
    }
    let text = |key: &str| options.get(key).cloned().unwrap_or_default();
    let words: Vec<String> = text("o").split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect();
    let kind = text("type");
    let parsed = MountOptions::parse(&words);
    if parsed.remount || parsed.idmap.is_some() || parsed.copy_up {
        return refused(format!("invalid mount option in {:?}", text("o")));
    }
    let mounted = Mounted { kind, device: text("device"), options: parsed };
    if mounted.is_bind() {
        if !mounted.device.starts_with('/') {
            return refused(format!("a bind needs an absolute path as its device, not {:?}", mounted.device));
        }
        if let Some((word, _)) = mounted.options.data.first() {
            return refused(format!("a bind takes no option {word:?}"));
        }
    } else if matches!(mounted.kind.as_str(), "" | "none") {
        return refused("type none needs the option bind".into());
    }
    Ok(Some(mounted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Mounted>, String> {
        let options = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse("v", &options).map_err(|e| e.to_string())
    }

    #[test]
    fn options_say_what_is_mounted() {
        assert_eq!(read(&[]), Ok(None));
        let bind = read(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")]).unwrap().unwrap();
        assert!(bind.is_bind() && bind.is_read_only() && !bind.is_recursive());
        let tmpfs = read(&[("type", "tmpfs"), ("o", "size=1m,uid=5,noexec"), ("device", "tmpfs")]).unwrap().unwrap();
        assert!(!tmpfs.is_bind() && !tmpfs.is_read_only());
        assert_eq!(
            tmpfs.options.data,
            [("size".to_owned(), Some("1m".to_owned())), ("uid".to_owned(), Some("5".to_owned()))]
        );
    }

    #[test]
    fn refusals_are_dockers() {
        let rows: [(&[(&str, &str)], &str); 7] = [
            (&[("what", "1")], "create v: invalid option: \"what\""),
            (&[("size", "1g")], "create v: quota size requested but no quota support"),
            (&[("type", "tmpfs")], "create v: missing required option: \"device\""),
            (&[("o", "bind"), ("device", "/x")], "create v: missing required option: \"type\""),
            (
                &[("type", "none"), ("o", "bind"), ("device", "srv")],
                "create v: a bind needs an absolute path as its device, not \"srv\"",
            ),
            (&[("type", "none"), ("o", "bind,size=1"), ("device", "/x")], "create v: a bind takes no option \"size\""),
            (&[("type", "none"), ("o", "ro"), ("device", "/x")], "create v: type none needs the option bind"),
        ];
        for (pairs, wanted) in rows {
            assert_eq!(read(pairs).unwrap_err(), wanted);
        }
    }

    #[test]
    fn names_are_file_names_of_a_kind() {
        for good in ["ab", "a.b-c_d", "0a", &"x".repeat(255)] {
            check_name(good).unwrap();
        }
        for bad in ["", "a", "_a", "-a", "a/b", "a b", "å1", "..", &"x".repeat(256), "a\n"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
