//! Where a copy lands: cp's rules as a function of what both sides are.

/// The source: its path as it was written, and what it is.
pub(super) struct Side<'a> {
    pub path: &'a str,
    pub is_directory: bool,
}

/// The folder that the archive is unpacked into, and the name that its first component gets there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Landing {
    pub folder: String,
    /// `.` puts the content of a directory into the folder itself.
    pub name: String,
}

/// Decides it. `there` says what the destination is: nothing, a directory (true) or something else.
pub(super) fn land(source: &Side<'_>, destination: &str, there: Option<bool>) -> Result<Landing, String> {
    let slash = destination.ends_with('/') || destination.ends_with("/.");
    let beneath = |name: &str| Landing { folder: destination.to_owned(), name: name.to_owned() };
    let as_named = || {
        let (folder, name) = split(destination);
        Landing { folder, name }
    };
    let content =
        source.is_directory && (source.path.ends_with("/.") || source.path == "." || base(source.path) == "/");
    match (source.is_directory, there) {
        (_, Some(true)) if content => Ok(beneath(".")),
        (_, Some(true)) => Ok(beneath(&base(source.path))),
        (true, Some(false)) => Err(format!("cannot copy a directory to the file {destination:?}")),
        (false, Some(false)) if slash => Err(format!("{destination:?} is not a directory")),
        (false, Some(false)) => Ok(as_named()),
        (false, None) if slash => Err(format!("destination directory {destination:?} does not exist")),
        (_, None) => Ok(as_named()),
    }
}

/// The last component of a path, without regard to slashes and dots at its end. The root is `/`.
pub(super) fn base(path: &str) -> String {
    split(path).1
}

/// The parent and the last component.
fn split(path: &str) -> (String, String) {
    let mut rest = path;
    loop {
        if rest.len() > 1 && (rest.ends_with('/') || rest.ends_with("/.")) {
            rest = &rest[..rest.len() - 1];
        } else {
            break;
        }
    }
    match rest.rsplit_once('/') {
        Some(("", "")) => ("/".into(), "/".into()),
        Some(("", name)) => ("/".into(), name.into()),
        Some((folder, name)) => (folder.into(), name.into()),
        None => (".".into(), rest.into()),
    }
}

/// Standard base64, padded or not.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_land_as_cp_lands_them() {
        let file = |path| Side { path, is_directory: false };
        let folder = |path| Side { path, is_directory: true };
        let at = |folder: &str, name: &str| Ok(Landing { folder: folder.into(), name: name.into() });
        let cases = [
            (file("/etc/passwd"), "/tmp", Some(true), at("/tmp", "passwd")),
            (file("/etc/passwd"), "/tmp/p", None, at("/tmp", "p")),
            (file("/etc/passwd"), "p", Some(false), at(".", "p")),
            (folder("/srv/site"), "/tmp", Some(true), at("/tmp", "site")),
            (folder("/srv/site/"), "/tmp", Some(true), at("/tmp", "site")),
            (folder("/srv/site/."), "/tmp", Some(true), at("/tmp", ".")),
            (folder("/srv/site"), "/tmp/new", None, at("/tmp", "new")),
            (folder("/srv/site/."), "/tmp/new/", None, at("/tmp", "new")),
            (folder("."), "/tmp", Some(true), at("/tmp", ".")),
            (folder("/"), "/tmp", Some(true), at("/tmp", ".")),
        ];
        for (source, destination, there, expected) in cases {
            assert_eq!(land(&source, destination, there), expected, "{} -> {destination}", source.path);
        }
        assert!(land(&file("/a"), "/no/", None).unwrap_err().contains("does not exist"));
        assert!(land(&file("/a"), "/f/", Some(false)).unwrap_err().contains("is not a directory"));
        assert!(land(&folder("/a"), "/f", Some(false)).unwrap_err().contains("cannot copy a directory"));
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        assert_eq!(base64("aGVsbG8=").as_deref(), Some(&b"hello"[..]));
        assert_eq!(base64("aGVsbG8").as_deref(), Some(&b"hello"[..]));
        assert_eq!(base64("a*"), None);
    }
}
